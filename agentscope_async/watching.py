"""Being told when an agent is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import NamedTuple

__all__ = ["Down", "Watch"]


class Down(NamedTuple):
    """An agent is gone.

    Attributes:
        agent: its name.
        reason: ``"stopped"``; of an agent elsewhere also ``"not_found"`` (its node has none such),
            ``"withdrawn"`` (exported no longer) or ``"node_down"``; ``"runtime_closed"``: the
            runtime that watched was left, and nobody knows.
    """

    agent: str
    reason: str


class Watch:
    """Waits until an agent is gone: ``down = await rt.watch(agent)``.

    Gives exactly one Down, also when the agent was gone before; awaiting is allowed any number of times.
    """

    __slots__ = ("agent", "_down", "_forget", "_on_end")

    def __init__(self, agent: str, on_end: Callable[[Watch], None]) -> None:
        self.agent = agent
        self._down: asyncio.Future[Down] = asyncio.get_running_loop().create_future()
        self._forget: Callable[[], None] | None = None
        self._on_end = on_end

    def done(self) -> bool:
        """The agent is gone, or the watch was cancelled."""
        return self._down.done()

    def cancel(self) -> None:
        """Watch no longer; who awaits it is cancelled."""
        if self._down.cancel():
            self._end()

    def fire(self, reason: str) -> None:
        """Tell who waits; the first time counts."""
        if not self._down.done():
            self._down.set_result(Down(self.agent, reason))
            self._end()

    def on_end(self, forget: Callable[[], None]) -> None:
        """Call ``forget`` when the watch has ended, or now if it has."""
        if self._down.done():
            forget()
        else:
            self._forget = forget

    def _end(self) -> None:
        self._on_end(self)
        if self._forget is not None:
            self._forget()

    def __await__(self) -> Generator[None, None, Down]:
        if not self._down.done():
            yield from asyncio.wait([self._down]).__await__()
        return self._down.result()

    def __repr__(self) -> str:
        return f"<Watch of {self.agent!r}, {'done' if self.done() else 'watching'}>"
