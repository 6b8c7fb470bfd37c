"""The order to stop: SIGTERM or Ctrl-C for a service, the first Ctrl-C for one piece of work."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, Self

from .._tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import FrameType, TracebackType
    from typing import Any

__all__ = ["StopOrder", "ends_before_ctrl_c"]

LAST_S = 0.8
"""After the second order: for what still ends by itself. The process is gone within a second."""


class StopOrder:
    """Waits for SIGINT or SIGTERM inside ``async with``; a second one ends the process.

    The first lets the caller finish what is under way. The second cancels the caller, and if
    that does not end the process, not even its event loop may still turn, so a thread does.
    """

    def __init__(self) -> None:
        self._signals: list[int] = []
        self._given = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        # Not loop.add_signal_handler: it would wait for a loop that something keeps busy.
        self._former = {
            number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Restore the handlers, except after a second order; swallow the cancellation that it was."""
        is_forced = len(self._signals) > 1
        if not is_forced:
            for number, former in self._former.items():
                signal.signal(number, former)
        return is_forced and kind is not None and issubclass(kind, asyncio.CancelledError)

    async def wait(self) -> None:
        """Return once the first order is given."""
        await self._given.wait()

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C; after SIGTERM 0, or 1 if what was under way was not finished."""
        if signal.SIGINT in self._signals:
            return 130
        return 0 if len(self._signals) < 2 else 1

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if len(self._signals) == 1:
            self._loop.call_soon_threadsafe(self._given.set)
        elif len(self._signals) == 2:
            guard = threading.Timer(LAST_S, os._exit, [self.exit_code])
            guard.daemon = True
            guard.start()
            if self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)


async def ends_before_ctrl_c(work: Coroutine[Any, Any, None]) -> bool:
    """Await ``work`` and return True; the first Ctrl-C cancels it, and then this returns False.

    A second one, while that is being honoured, does what Ctrl-C does otherwise.

    Raises:
        Exception: what ``work`` raises.
    """
    loop, working = asyncio.get_running_loop(), asyncio.create_task(work, name="until Ctrl-C")
    is_cut = False

    def take(number: int, frame: FrameType | None) -> None:
        nonlocal is_cut
        is_cut = True
        signal.signal(signal.SIGINT, former)
        loop.call_soon_threadsafe(working.cancel)

    former = signal.signal(signal.SIGINT, take)
    try:
        await working
    except asyncio.CancelledError:
        ourselves = asyncio.current_task()
        if not is_cut or (ourselves is not None and ourselves.cancelling()):
            raise
        return False
    finally:
        signal.signal(signal.SIGINT, former)
        await cancel_all([working])
    return True
