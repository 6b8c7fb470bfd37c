"""Gomoku, played by two agents.

python examples/game_gomoku/main.py
python examples/game_gomoku/main.py --picture board.png --model openai:gpt-4o-mini
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any, Literal

from board import SIZE, STONES, Board, IllegalMove
from pydantic import BaseModel, Field, create_model

from agentscope_async import BadResponse, DialogAgent, ModelResponse, Msg, Runtime, msghub

MAX_MOVES = 10
MAX_ATTEMPTS = 3
NEWEST = 4  # messages: a player needs the position, and hardly what was said before
RULES = """\
You are {name} and play Gomoku on a board of 15 x 15 points, columns A to O, rows 1 to 15. Your stones are \
{stone}. Five of them in a row, a column or a diagonal win. Think, then name a free point near the others."""
# Lively: else the bundled model fills a column from its first point.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 200, "temperature": 0.9},
}


class Move(BaseModel):
    """What a player answers."""

    thought: str = Field(max_length=80)
    move: str = Field(pattern="^[A-O]([1-9]|1[0-5])$", description="a free point, like H8")


def move_to_one_of(points: list[str]) -> type[BaseModel]:
    """Return the form of a move to one of these: a model that is held to it names no other."""
    one: Any = Literal[tuple(points)]
    return create_model("Move", __base__=Move, move=(one, Field(description="a free point")))


class Player(DialogAgent):
    """Remembers its thought with its move, and shows only the move.

    It is shown the position as it is now (``x.position``, with ``x.free`` points) and remembers no
    older one: they take most of the time to read, and mislead.
    """

    async def reply(self, x: Any = None) -> Msg:
        assert self.memory is not None
        self.memory.add(x.replace(position=None, free=None))
        system = Msg("system", f"{self.sys_prompt}\n{x.position}", "system")
        prompt = self.model.format(system, self.memory.get_memory()[-NEWEST:], me=self.name)
        form = move_to_one_of(x.free)
        try:
            response = await self.model(prompt, parse_func=read_move, response_format=form)
        except BadResponse:  # three times nothing to be read as a move; the board will refuse it
            return Msg(self.name, "I put a stone on no point.", "assistant", move="")
        self.memory.add(Msg(self.name, response.text, "assistant"))
        return Msg(self.name, f"I put a stone on {response.raw.move}.", "assistant", move=response.raw.move)


def read_move(response: ModelResponse) -> ModelResponse:
    return ModelResponse(response.text, raw=Move.model_validate_json(response.text or ""))


async def play(alice: Player, bob: Player, board: Board, max_moves: int = MAX_MOVES) -> str | None:
    """Play until somebody has won, the board is full or the moves are over; returns the winner's name."""
    async with msghub([alice, bob], announcement="The game begins."):
        for number in range(max_moves):
            player = (alice, bob)[number % 2]
            print(f"Move {number + 1} of {max_moves}: {player.name} thinks ...", flush=True)
            position = await put_stone(player, board)
            if position is None:
                say(Msg("Host", f"{player.name} has named no free point and loses the turn.", "user"))
            elif position.winner is not None:
                return str(position.winner)
            elif position.is_full:
                return None
    return None


async def put_stone(player: Player, board: Board) -> Msg | None:
    """Ask the player until a move is legal, three times at most; returns the position then."""
    question = Msg("Host", f"It is your turn, {player.name}.", "user")
    for _ in range(MAX_ATTEMPTS):
        move = await player(question.replace(position=board.text(), free=board.free()))
        say(move)
        try:
            position = await board(move)
        except IllegalMove as error:
            question = Msg("Host", f"{error} Name another point.", "user")
            say(question)
            continue
        say(position)
        return position
    return None


def say(msg: Msg) -> None:
    print(f"{msg.name}: {msg.text}", flush=True)


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs or SMALL):
        alice, bob = (
            Player(name, RULES.format(name=name, stone=stone), options.model)
            for name, stone in STONES.items()
        )
        winner = await play(alice, bob, Board(picture=options.picture), options.max_moves)
        print(f"{winner} has won." if winner else "Nobody has won.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-moves", type=int, default=MAX_MOVES, help=f"up to {SIZE * SIZE}")
    parser.add_argument("--picture", metavar="FILE.png", type=Path, help="where to draw the board")
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    options = parser.parse_args()
    if options.picture and importlib.util.find_spec("PIL") is None:
        sys.exit("A picture needs Pillow: pip install pillow")
    try:
        asyncio.run(main(options))
    except KeyboardInterrupt:
        sys.exit(130)
