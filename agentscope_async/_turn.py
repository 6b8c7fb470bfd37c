"""Turns: who may run, on whose behalf, and what that waits for."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from .errors import InterruptedTurnError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._deadlock import Wait

__all__ = ["Named", "Turn", "TurnExtra", "current_turn", "open_turn"]


class Named(Protocol):
    """Whoever owns a mailbox."""

    name: str


class Turn:
    """The right to run: one message being handled by one agent.

    ``parent`` is the turn in which the message was sent, if its sender waits for this
    one; the open turns from here up through the parents are the call chain. ``task`` is
    what runs the turn, None before it starts and after it ends. Background work that
    outlives its turn inherits one that has ended, and so is not in any chain.
    """

    __slots__ = ("agent", "parent", "task", "extra")

    def __init__(self, agent: Named, parent: Turn | None) -> None:
        self.agent = agent
        self.parent = parent
        self.task: asyncio.Task[Any] | None = None
        self.extra: TurnExtra | None = None

    def more(self) -> TurnExtra:
        """Return what few turns need, made on first use."""
        if self.extra is None:
            self.extra = TurnExtra()
        return self.extra

    def chain(self) -> Iterator[Turn]:
        """Yield the open turns from this one up to the first."""
        turn: Turn | None = self
        while turn is not None and turn.task is not None:
            yield turn
            turn = turn.parent

    def interrupt(self, reason: str | None) -> None:
        """End this turn, which is open, with InterruptedTurnError; once is enough."""
        extra = self.more()
        if extra.interruption is None:
            extra.interruption = InterruptedTurnError(self.agent.name, reason)
            if self.task is None:
                return  # it is about to begin, and will not
            if self.task is asyncio.current_task():
                raise extra.interruption  # a handler that ends its own turn
            self.task.cancel()


class TurnExtra:
    """Of a turn: what it waits for, who listens, and whether it was interrupted."""

    __slots__ = ("waits", "listener", "interruption")

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.listener: Any = None
        self.interruption: InterruptedTurnError | None = None


current_turn: ContextVar[Turn | None] = ContextVar("agentscope_async.turn", default=None)
"""The turn this code runs in; one that has ended (``task`` is None) is as good as none."""


def open_turn() -> Turn | None:
    """Return the turn this code runs in, if it runs in one."""
    turn = current_turn.get()
    return turn if turn is not None and turn.task is not None else None
