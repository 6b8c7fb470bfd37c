"""Many works at once, at most so many at a time, none of them left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .._tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from types import TracebackType

__all__ = ["Crowd", "check_limit"]

K = TypeVar("K")
T = TypeVar("T")


class Crowd(Generic[K, T]):
    """Runs keyed works in tasks of their own and hands them back as they end.

    Works are taken from their iterator only when there is room for one more, and only
    while somebody asks for ended ones, so a slow reader slows the crowd down instead of
    filling the memory. Leaving the block cancels what still runs and waits for it.
    """

    __slots__ = ("_works", "_limit", "_running", "_ended", "_wake")

    def __init__(self, works: Iterator[tuple[K, Coroutine[Any, Any, T]]], limit: int | None = None) -> None:
        self._works: Iterator[tuple[K, Coroutine[Any, Any, T]]] | None = works
        self._limit = limit
        self._running: dict[asyncio.Task[T], K] = {}
        self._ended: list[tuple[K, asyncio.Task[T]]] = []
        self._wake: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel_all(list(self._running))

    async def ended(self) -> list[tuple[K, asyncio.Task[T]]]:
        """Return the works that ended since the last call, in that order; wait for one if need be.

        An empty list says that all have been handed back.
        """
        self._fill()
        if not self._ended and self._running:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        ended, self._ended = self._ended, []
        self._fill()
        return ended

    def unread(self) -> list[tuple[K, asyncio.Task[T]]]:
        """Return the works that ended, or were cancelled, and were never handed back."""
        return self._ended

    def _fill(self) -> None:
        while self._works is not None and (self._limit is None or len(self._running) < self._limit):
            work = next(self._works, None)
            if work is None:
                self._works = None
                break
            task = asyncio.create_task(work[1])
            self._running[task] = work[0]
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        self._ended.append((self._running.pop(task), task))
        if not task.cancelled():
            task.exception()  # somebody knows: no complaint about it if nobody asks
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def check_limit(limit: int | None) -> None:
    """Raise ValueError unless so many works can run at once."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, or None for no limit; got {limit}")
