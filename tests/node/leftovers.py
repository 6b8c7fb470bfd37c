"""Sees that a test leaves nothing open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Afterwards wait until no socket, timer or task is left of what was done inside."""
    sockets = count_sockets()
    yield
    while count_sockets() > sockets or has_timers():
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def count_sockets() -> int:
    """How many sockets this process has open; 0 where the system does not tell."""
    count = 0
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            count += str(link.readlink()).startswith("socket:")
    return count


def has_timers() -> bool:
    """Whether anything is still to happen in this loop."""
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return any(not timer.cancelled() for timer in timers)
