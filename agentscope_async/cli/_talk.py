"""Talk on the screen: piece by piece on a terminal, a line for each message elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from ..logging import COLOURS, visible
from ..message import Msg, Speech

__all__ = ["Talk", "shown"]


class Talk:
    """Shows who says what. Texts are data: no markup, no control characters."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._colours: dict[str, str] = {}
        self._speaker: str | None = None  # whose line is not ended yet
        self._has_spoken = False

    def begin(self, name: str) -> None:
        """Show who speaks next, on a terminal before there is anything to show of it."""
        if self._is_terminal and self._speaker is None:
            self.label(name)
            self._speaker = name

    def hear(self, name: str, said: Speech | Msg) -> None:
        """Show a piece of what ``name`` says or, as the last one, the message it has become."""
        if isinstance(said, Msg):
            self._end(said)
        elif self._is_terminal and said.kind == "text":
            text = said.text if self._has_spoken else said.text.lstrip()
            if text:
                self.begin(name)
                self._has_spoken = True
                self._write(shown(text))

    def label(self, name: str) -> None:
        """Print a name in its colour."""
        colour = self._colours.setdefault(name, list(COLOURS)[len(self._colours) % len(COLOURS)])
        self._console.print(Text(f"{visible(name)}:", style=f"bold {colour}"), end=" ")
        sys.stdout.flush()

    def break_off(self) -> None:
        """End a line that was left in the middle."""
        if self._speaker is not None:
            self._write("\n")
        self._speaker, self._has_spoken = None, False

    def note(self, text: str) -> None:
        """Show a line that nobody says."""
        self._console.print(Text(visible(text), style="dim"))

    def _end(self, msg: Msg) -> None:
        if self._speaker is None:
            self.label(msg.name)
        if not self._has_spoken:
            self._write(shown(msg.text.strip()))
        self._write("\n")
        self._speaker, self._has_spoken = None, False

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def shown(text: str) -> str:
    """Return a text as it may stand on the screen: further lines of a message are set in."""
    return visible(text).replace("\n", "\n  ")
