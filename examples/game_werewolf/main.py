"""Werewolf, played by six agents.

python examples/game_werewolf/main.py
python examples/game_werewolf/main.py --model openai:gpt-4o-mini
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from players import Healing, Player, Proposal, Speech, poison_for, vote_for

from agentscope_async import Msg, Runtime, msghub

ROLES = ("werewolf", "werewolf", "villager", "villager", "seer", "witch")
MAX_ROUNDS = 6
MAX_DISCUSSION_ROUNDS = 3
RULES = """\
You are {name}, a player of the game Werewolf, and secretly a {role}. There are two werewolves, two \
villagers, a seer and a witch. Werewolves kill a player each night and hide among the others by day. The \
others want to find them. The seer can learn each night who one player is; the witch can once heal and once \
poison. Never tell your role. Answer in one short sentence."""


class Game:
    """One game: who is what, who lives, and what has been used.

    Attributes:
        roles: the role of each player, by name.
        alive: who lives, in the order of the table.
        dead: the names of those who do not, first one first.
    """

    def __init__(self, players: Sequence[Player], roles: Sequence[str] = ROLES) -> None:
        self.roles = {player.name: role for player, role in zip(players, roles, strict=True)}
        self.alive = list(players)
        self.dead: list[str] = []
        self.can_heal = True
        self.can_poison = True

    async def play(self, max_rounds: int = MAX_ROUNDS) -> str | None:
        """Play until one side has won; returns "werewolves" or "villagers", None if nobody has."""
        for number in range(1, max_rounds + 1):
            note(f"-- night {number} --")
            victims = await self.night()
            self.bury(victims)
            if winner := self.winner():
                return winner
            note(f"-- day {number} --")
            self.bury(await self.day(victims))
            if winner := self.winner():
                return winner
        return None

    # -- the night --

    async def night(self) -> list[str]:
        """Let wolves, witch and seer act, one after another; returns who does not see the morning."""
        victim = await self.wolves_choose()
        victims = [victim] if victim else []
        for witch in self.living("witch"):
            victims = await self.witch_acts(witch, victims)
        for seer in self.living("seer"):
            await self.seer_looks(seer)
        return victims

    async def wolves_choose(self) -> str | None:
        wolves, names = self.living("werewolf"), self.names()
        opening = f"Werewolves, only you hear this. Alive are {listed(names)}. Discuss whom to kill."
        async with msghub(wolves, announcement=moderator(opening)):
            for _ in range(MAX_DISCUSSION_ROUNDS):
                said = [await ask(wolf, "What do you propose?", Proposal) for wolf in wolves]
                if said[-1].get("agreement") is True:
                    break
        prey = [name for name in names if self.roles[name] != "werewolf"]
        victim = await vote(wolves, "Which player do you kill tonight?", prey)
        await tell(wolves, f"The werewolves choose {victim or 'nobody'}.")
        return victim

    async def witch_acts(self, witch: Player, victims: list[str]) -> list[str]:
        if self.can_heal and victims:
            question = f"Witch, tonight {listed(victims)} is killed. Do you use your healing potion?"
            if (await ask(witch, question, Healing)).get("resurrect") is True:
                self.can_heal = False
                return []  # and no second potion in one night
        if self.can_poison:
            others = [name for name in self.names() if name not in (witch.name, *victims)]
            poisoned = (await ask(witch, "Witch, whom do you poison?", poison_for(others))).get("eliminate")
            if poisoned in others:
                self.can_poison = False
                return [*victims, poisoned]
        return victims

    async def seer_looks(self, seer: Player) -> None:
        others = [name for name in self.names() if name != seer.name]
        chosen = (await ask(seer, "Seer, whose role do you want to know?", vote_for(others))).get("vote")
        if chosen:
            kind = "a werewolf" if self.roles[chosen] == "werewolf" else "no werewolf"
            await tell([seer], f"{chosen} is {kind}.")

    # -- the day --

    async def day(self, victims: list[str]) -> list[str]:
        """Let those who live talk and vote; returns who is voted out."""
        news = f"{listed(victims)} died" if victims else "nobody died"
        opening = f"It is day. Last night {news}. Alive are {listed(self.names())}. Who is a werewolf?"
        print(f"Moderator: {opening}", flush=True)
        async with msghub(self.alive, announcement=moderator(opening)):
            for player in self.alive:
                await ask(player, "What do you say?", Speech)
        out = await vote(self.alive, "Vote for one player to be eliminated.", self.names())
        await tell(self.alive, f"{out or 'Nobody'} has been voted out.")
        return [out] if out else []

    # -- who is what --

    def living(self, role: str) -> list[Player]:
        return [player for player in self.alive if self.roles[player.name] == role]

    def names(self) -> list[str]:
        return [player.name for player in self.alive]

    def bury(self, names: list[str]) -> None:
        self.dead += names
        self.alive = [player for player in self.alive if player.name not in names]

    def winner(self) -> str | None:
        wolves = len(self.living("werewolf"))
        if not wolves:
            return "villagers"
        return "werewolves" if wolves * 2 >= len(self.alive) else None


async def ask(player: Player, question: str, form: Any) -> dict[str, Any]:
    """Ask one player, who alone hears the question; in a hub the others hear the answer."""
    reply = await player(moderator(question), form=form)
    print(f"{player.name}: {reply.text}", flush=True)
    answer: dict[str, Any] = reply.answer
    return answer


async def vote(voters: Sequence[Player], question: str, names: list[str]) -> str | None:
    """Let all vote at once, unseen by each other; most votes win, the first name among equals."""
    form = vote_for(names)
    answers = await asyncio.gather(*(ask(voter, question, form) for voter in voters))
    votes = Counter(answer["vote"] for answer in answers if answer)
    return min(votes, key=lambda name: (-votes[name], name), default=None)


async def tell(players: Sequence[Player], text: str) -> None:
    print(f"Moderator: {text}", flush=True)
    for player in players:
        await player.observe(moderator(text))


def moderator(text: str) -> Msg:
    return Msg("Moderator", text, "user")


def note(text: str) -> None:
    print(f"\n{text}", flush=True)


def listed(names: Sequence[str]) -> str:
    return ", ".join(names)


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs):
        names = [f"Player{number}" for number in range(1, len(ROLES) + 1)]
        game = Game(
            [
                Player(name, RULES.format(name=name, role=role), options.model)
                for name, role in zip(names, ROLES, strict=True)
            ]
        )
        winner = await game.play(options.max_rounds)
        note(f"The {winner} have won." if winner else "Nobody has won.")
        roles = listed([f"{name} ({game.roles[name]})" for name in game.dead])
        print(f"Dead, first one first: {roles or 'nobody'}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-rounds", type=int, default=MAX_ROUNDS)
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
