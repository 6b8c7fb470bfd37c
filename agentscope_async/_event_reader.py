"""The events of a runtime that one reader has not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from .logging import get_logger

if TYPE_CHECKING:
    from .events import Event

__all__ = ["EventReader"]

MAX_UNREAD_EVENTS = 10_000


class EventReader:
    """The unread events of one reader."""

    def __init__(self) -> None:
        self._events: deque[Event | None] = deque()
        self._wake = asyncio.Event()
        self._lost = 0

    def put(self, event: Event) -> None:
        """Add an event; the oldest goes when there are too many."""
        if len(self._events) >= MAX_UNREAD_EVENTS:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)
        self._wake.set()

    def close(self) -> None:
        """Say that there will be no more."""
        self._events.append(None)
        self._wake.set()

    async def next(self) -> Event | None:
        """Return the next event, once there is one; None: there will be no more."""
        while not self._events:
            self._wake.clear()
            await self._wake.wait()
        if self._lost:
            get_logger().warning("events_lost", count=self._lost)
            self._lost = 0
        return self._events.popleft()
