"""Blocking work in a thread that can be told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Halt", "in_thread"]

T = TypeVar("T")


class Halt:
    """Tells work in a thread that nobody waits for it any more."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def check(self) -> None:
        """End the work here if it is to end: between two steps that can be undone.

        Raises:
            InterruptedError: nobody waits for it.
        """
        if self.is_set:
            raise InterruptedError("The caller was cancelled.")


async def in_thread(work: Callable[[Halt], T]) -> T:
    """Run ``work`` in a thread and return what it does.

    When cancelled it sets the ``Halt`` and raises only when the work has ended, so that
    nothing goes on behind the caller's back. The work must end by itself: it takes no locks
    and opens nothing that can wait for somebody.
    """
    halt = Halt()
    task = asyncio.create_task(asyncio.to_thread(work, halt))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            halt.is_set = True
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # tells asyncio that it did not go unnoticed
        raise cancelled
    return task.result()
