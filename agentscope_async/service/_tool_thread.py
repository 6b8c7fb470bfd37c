"""A thread for one call of a blocking tool."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["in_own_thread"]

T = TypeVar("T")


async def in_own_thread(function: Callable[[], T], slots: asyncio.Semaphore) -> T:
    """Return what ``function()`` returns, called in a thread of its own, with this task's context.

    A thread cannot be ended. One whose caller has gone keeps its slot until it is done, so that
    functions that hang do not pile up; and it is a daemon, so that it does not keep the program
    from ending. (Threads of a pool would do both.)
    """
    await slots.acquire()
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def finish(result: Any, error: BaseException | None) -> None:
        slots.release()
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
        slots.release()
        raise
    return await answer
