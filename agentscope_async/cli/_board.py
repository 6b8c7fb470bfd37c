"""How far a number of debates is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..message import Msg

__all__ = ["Board"]

LINES = 10
"""About so many progress lines are printed where there is no bar."""


class Board:
    """Counts debates, turns and tokens, and shows them.

    Turns, tokens and seconds are those of this run; debates that an earlier run finished
    count as done only.

    Attributes:
        done, failed, total: debates.
    """

    def __init__(self, total: int, turns_each: int) -> None:
        self.total = total
        self.done = self.failed = 0
        self._skipped = 0
        self._turns_each = turns_each
        self._turns = self._tokens = 0
        self._open: Counter[int] = Counter()  # turns of each debate under way
        self._began_at = time.monotonic()
        self._ended_at: float | None = None
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._is_terminal = sys.stdout.isatty()
        self._progress: Progress | None = None

    def count(self, index: int, msg: Msg) -> None:
        """Count a message of debate ``index``; announcements are no turns."""
        if msg.role != "assistant":
            return
        self._turns += 1
        self._tokens += msg.usage.output_tokens if msg.usage is not None else 0
        self._open[index] += 1
        self._refresh()

    def skip(self) -> None:
        """Count a debate that an earlier run finished."""
        self.done += 1
        self._skipped += 1
        self._refresh()

    def end(self, index: int, *, has_failed: bool) -> None:
        """Count a debate that ended."""
        self.done += 1
        self.failed += has_failed
        del self._open[index]
        self._ended_at = time.monotonic()
        self._refresh()
        if self._progress is None and self.total > 1 and self._is_worth_a_line():
            self.say(f"{self._debates()} debates, {self.summary()}{self._eta()}")

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        console = self._console if self._progress is None else self._progress.console
        console.print(Text(text))

    def summary(self) -> str:
        """Return turns, tokens, speed and time in a line."""
        return (
            f"{self._turns} turns, {self._tokens} tokens, {self._speed():.1f} tokens/s, "
            f"{self._seconds():.1f} s, {self.failed} errors"
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a progress bar meanwhile, on a terminal."""
        if not self._is_terminal:
            yield
            return
        self._progress = Progress(
            TextColumn("{task.fields[debates]} debates", markup=False),
            BarColumn(bar_width=20, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[turns]} turns", markup=False),
            TextColumn("{task.fields[speed]} tokens/s", markup=False),
            TextColumn("{task.fields[errors]} errors", markup=False),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        try:
            with self._progress as progress:
                progress.add_task("debates", total=self._turns_due(), **self._fields())
                yield
        finally:
            self._progress = None

    def print_table(self) -> None:
        """Print the outcome."""
        table = Table(box=box.ROUNDED if self._is_terminal else None, pad_edge=self._is_terminal)
        row = {
            "debates": self._debates(),
            "turns": str(self._turns),
            "tokens": str(self._tokens),
            "tokens/s": f"{self._speed():.1f}",
            "wall s": f"{self._seconds():.1f}",
            "errors": str(self.failed),
        }
        for heading in row:
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_row(*row.values())
        self._console.print(table)
        if self._skipped:
            self.say(f"{self._skipped} of the debates were held before; the figures are those of this run.")

    def _refresh(self) -> None:
        if self._progress is not None:
            task = self._progress.task_ids[0]
            completed = self._turns_done()
            self._progress.update(task, completed=completed, total=self._turns_due(), **self._fields())

    def _fields(self) -> dict[str, Any]:
        return {
            "debates": self._debates(),
            "turns": str(self._turns),
            "speed": f"{self._speed():.1f}",
            "errors": str(self.failed),
        }

    def _debates(self) -> str:
        return f"{self.done}/{self.total}"

    def _turns_due(self) -> int:
        return (self.total - self._skipped) * self._turns_each

    def _turns_done(self) -> int:
        """Count a debate that failed as if it had been held: nothing more is to come from it."""
        return (self.done - self._skipped) * self._turns_each + self._open.total()

    def _seconds(self) -> float:
        is_over = self.done == self.total and self._ended_at is not None
        return (self._ended_at if is_over and self._ended_at else time.monotonic()) - self._began_at

    def _speed(self) -> float:
        return self._tokens / max(self._seconds(), 1e-9)

    def _eta(self) -> str:
        done = self._turns_done()
        if self.done == self.total or not done:
            return ""
        return f", ETA {self._seconds() / done * (self._turns_due() - done):.0f} s"

    def _is_worth_a_line(self) -> bool:
        return self.done == self.total or self.done % max(1, self.total // LINES) == 0
