"""What there is one of for each event loop, and what is closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["PerLoop"]

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Makes one thing for each event loop, and closes it when the loop shuts down.

    That is when the loop ends its asynchronous generators, the only notice asyncio gives:
    ``asyncio.run`` and anyio have every loop do it.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]]
        self._by_loop = WeakKeyDictionary()

    def find(self) -> T | None:
        """Return what the running loop has, or None."""
        found = self._by_loop.get(asyncio.get_running_loop())
        return None if found is None else found[0]

    def get(self) -> T:
        """Return what the running loop has, made if need be."""
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            thing = self._make()
            ending = self._until_shutdown(thing)
            found = self._by_loop[loop] = thing, ending
            with suppress(StopIteration):  # it yields at once; from here on the loop knows of it
                ending.__anext__().send(None)
        return found[0]

    async def _until_shutdown(self, thing: T) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self._close(thing)
