"""Places for calls: so many at once in each event loop, also where a call is a thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["Slots"]

T = TypeVar("T")


class Slots:
    """So many places for calls at once, in each event loop that uses them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._in_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @property
    def here(self) -> asyncio.Semaphore:
        """The places in the running loop: ``async with slots.here``."""
        loop = asyncio.get_running_loop()
        if loop not in self._in_loop:
            self._in_loop[loop] = asyncio.Semaphore(self._count)
        return self._in_loop[loop]

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Return what ``function()`` returns, called in a thread of its own, with this task's context.

        A thread cannot be ended. One whose caller has gone keeps its place until it is done, so
        that functions that hang do not pile up; and it is a daemon, so that it does not keep the
        program from ending. (Threads of a pool would do both.)
        """
        place = self.here
        await place.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            place.release()
            if answer.done():
                return  # nobody waits any more
            if error is None:
                answer.set_result(result)
            elif isinstance(error, Exception) and not isinstance(error, StopIteration):
                answer.set_exception(error)
            else:  # what no future can hold, or what would end the event loop
                answer.set_exception(RuntimeError(f"the function raised {type(error).__name__}"))

        def work() -> None:
            result, problem = None, None
            try:
                result = context.run(function)
            except BaseException as error:
                problem = error
            with suppress(RuntimeError):  # the loop has ended without us
                loop.call_soon_threadsafe(finish, result, problem)

        context = contextvars.copy_context()
        try:
            threading.Thread(target=work, name="tool", daemon=True).start()
        except RuntimeError:
            place.release()
            raise
        return await answer
