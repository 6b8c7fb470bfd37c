"""Who waits on whom, for ``rt.graph()`` and ``ps``: found when somebody looks, so that no ask pays for it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ._deadlock import current_waits
from ._turn import Turn, open_turn
from .agents._turns import take_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["waits_in"]


def waits_in(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[Turn, str]]:
    """Yield each turn that waits, and the name of the agent or reply it waits for.

    Those that wait in a queue or for a reply are listed while they do. An ask of a free agent
    is only a coroutine that awaits another: those turns are read off the tasks of ``loop``.
    """
    for wait in list(current_waits.values()):
        yield wait.turn, wait.name
    turns = [open_turn()]  # the coroutines that run at this moment await nothing
    for task in asyncio.all_tasks(loop):
        turns += _turns_awaited(task.get_coro())
    for turn in turns:
        if turn is not None:
            for asked, asking in pairwise(turn.chain()):
                yield asking, asked.agent.name


def _turns_awaited(coroutine: Any) -> Iterator[Turn | None]:
    """Yield the turns of the coroutine and those it awaits, one in another."""
    while coroutine is not None:
        if isinstance(coroutine, CoroutineType):
            frame = coroutine.cr_frame
            if frame is not None and frame.f_code is take_turn.__code__:
                yield frame.f_locals["turn"]
            coroutine = coroutine.cr_await
        else:  # what an __await__ gave, or an asynchronous generator; else nothing to look into
            coroutine = getattr(coroutine, "gi_yieldfrom", None) or getattr(coroutine, "ag_await", None)
