"""The board of the game: rules, text and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentscope_async import AgentBase, Msg

SIZE = 15
COLUMNS = "ABCDEFGHIJKLMNO"
STONES = {"Alice": "o", "Bob": "x"}
EMPTY = "."
IN_A_ROW = 5
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # along a row, a column and both diagonals
CELL_PX, STONE_PX = 40, 16  # between lines; the radius of a stone


class IllegalMove(ValueError):
    """The point is taken, or not on the board."""


class Board(AgentBase):
    """Answers a move (``msg.move``, like "H8") with the position; ``reply.winner`` has won, if not None."""

    def __init__(self, name: str = "Board", *, picture: Path | None = None) -> None:
        super().__init__(name, use_memory=False)
        self.points = [[EMPTY] * SIZE for _ in range(SIZE)]  # from row 1, column A
        self.picture = picture

    async def reply(self, x: Any = None) -> Msg:
        winner = None
        if x is not None:
            winner = x.name if self.put(x.move, STONES[x.name]) else None
        if self.picture is not None:
            draw(self.points, self.picture)
        text = f"\n{self.text()}\n{'Nobody' if winner is None else winner} has five in a row."
        url = None if self.picture is None else str(self.picture)
        return Msg(self.name, text, "user", url=url, winner=winner, is_full=self.is_full())

    def put(self, move: str, stone: str) -> bool:
        """Put a stone and say whether it makes five in a row.

        Raises:
            IllegalMove: there is no such point, or it is taken.
        """
        column, row = COLUMNS.find(move[:1]), move[1:]
        if column < 0 or not row.isdecimal() or not 1 <= int(row) <= SIZE:
            raise IllegalMove(f"{move!r} is not on the board: columns are A to O, rows 1 to {SIZE}.")
        if self.points[int(row) - 1][column] != EMPTY:
            raise IllegalMove(f"{move} is taken.")
        self.points[int(row) - 1][column] = stone
        return self._makes_five(int(row) - 1, column)

    def _makes_five(self, row: int, column: int) -> bool:
        def run(down: int, right: int) -> int:
            """Return how many stones like this one follow in a direction."""
            stone, length = self.points[row][column], 0
            y, x = row + down, column + right
            while 0 <= y < SIZE and 0 <= x < SIZE and self.points[y][x] == stone:
                length, y, x = length + 1, y + down, x + right
            return length

        return any(run(y, x) + run(-y, -x) + 1 >= IN_A_ROW for y, x in DIRECTIONS)

    def is_full(self) -> bool:
        return not self.free()

    def free(self) -> list[str]:
        """Return the free points, like "H8", row by row."""
        return [
            f"{COLUMNS[column]}{number}"
            for number, row in enumerate(self.points, 1)
            for column, stone in enumerate(row)
            if stone == EMPTY
        ]

    def text(self) -> str:
        rows = [f"{number:>2} {' '.join(row)}" for number, row in enumerate(self.points, 1)]
        return "\n".join([f"   {' '.join(COLUMNS)}", *rows])


def draw(points: list[list[str]], path: Path) -> None:
    """Write the position as a picture; o is white and x black."""
    from PIL import Image, ImageDraw

    side = CELL_PX * (SIZE + 1)
    image = Image.new("RGB", (side, side), "#dcb35c")
    pen = ImageDraw.Draw(image)
    for number in range(1, SIZE + 1):
        at = number * CELL_PX
        pen.line((at, CELL_PX, at, side - CELL_PX), fill="black")
        pen.line((CELL_PX, at, side - CELL_PX, at), fill="black")
        pen.text((at - 3, 8), COLUMNS[number - 1], fill="black")
        pen.text((8, at - 6), str(number), fill="black")
    for row, stones in enumerate(points, 1):
        for column, stone in enumerate(stones, 1):
            if stone != EMPTY:
                x, y = column * CELL_PX, row * CELL_PX
                box = (x - STONE_PX, y - STONE_PX, x + STONE_PX, y + STONE_PX)
                pen.ellipse(box, fill="white" if stone == "o" else "black", outline="black")
    image.save(path)
