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
        self.is_terminal = sys.stdout.isatty()
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._colours: dict[str, str] = {}
        self._has_said = ""  # of the message being spoken

    def hear(self, name: str, said: Speech | Msg) -> None:
        """Show a piece of what ``name`` says or, as the last one, the message it has become."""
        if isinstance(said, Msg):
            self._end(said)
        elif self.is_terminal and said.kind == "text":
            text = said.text if self._has_said else said.text.lstrip()
            if not text:
                return
            if not self._has_said:
                self.label(name)
            self._has_said += text
            self._write(shown(text))

    def label(self, name: str) -> None:
        """Show who speaks next."""
        colour = self._colours.setdefault(name, list(COLOURS)[len(self._colours) % len(COLOURS)])
        self._console.print(Text(f"{visible(name)}:", style=f"bold {colour}"), end=" ")
        sys.stdout.flush()

    def break_off(self) -> None:
        """End a line that was left in the middle."""
        if self._has_said:
            self._has_said = ""
            self._write("\n")

    def note(self, text: str) -> None:
        """Show a line that nobody says."""
        self._console.print(Text(visible(text), style="dim"))

    def _end(self, msg: Msg) -> None:
        if not self._has_said:
            self.label(msg.name)
            self._write(shown(msg.text.strip()))
        self._has_said = ""
        self._write("\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def shown(text: str) -> str:
    """Return a text as it may stand on the screen: further lines of a message are set in."""
    return visible(text).replace("\n", "\n  ")
