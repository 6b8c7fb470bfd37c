"""What happens in a turn, one after the other, and where that is kept until it was heard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["LAST", "EventLog", "TalkEvent"]

LAST = ("message", "error")
"""The kinds of events that end a turn."""
BACKLOG = 256
"""While a turn is so many events ahead of who follows it, its next words are joined ..."""
JOINED_CHARACTERS = 4096
"""... up to so many, as an event takes fifty times the memory of a short word."""


@dataclass(frozen=True, slots=True)
class TalkEvent:
    """Something that happened in a turn.

    Attributes:
        number: counted from 1 within the turn.
        kind: ``"speech"``, ``"tool_call"``, ``"tool_result"``, ``"input_request"``, ``"usage"``,
            and at the end ``"message"`` or ``"error"``.
        data: of that kind, as JSON values.
    """

    number: int
    kind: str
    data: dict[str, Any]


class EventLog:
    """The events of a turn: all of them, or those that who follows it has still to hear.

    Attributes:
        count: how many there were so far.
        grown: set once there are more; another one then.
    """

    def __init__(self, *, keeps_all: bool) -> None:
        self.count = 0
        self.grown = asyncio.Event()
        self._keeps_all = keeps_all
        self._events: list[TalkEvent] = []
        self._heard = 0

    def add(self, kind: str, data: dict[str, Any]) -> None:
        """Note an event; words may be joined to those before.

        Raises:
            TypeError: it cannot be sent as JSON.
        """
        orjson.dumps(data)  # here it fails the turn, and not each of those who follow it
        if self._joins(kind, data):
            last = self._events[-1]
            joined = {**data, "text": last.data["text"] + data["text"]}
            self._events[-1] = TalkEvent(last.number, kind, joined)
        else:
            self.count += 1
            self._events.append(TalkEvent(self.count, kind, data))
        self._wake()

    def _wake(self) -> None:
        grown, self.grown = self.grown, asyncio.Event()
        grown.set()

    def take(self, after: int) -> list[TalkEvent]:
        """Return the events after that number; those nobody can come back for are let go of."""
        if self._keeps_all:
            return self._events[after:]
        events, self._events = self._events, []
        return events

    def hear(self, event: TalkEvent) -> None:
        """Note that somebody has this event."""
        self._heard = max(self._heard, event.number)

    def _joins(self, kind: str, data: dict[str, Any]) -> bool:
        if self.count - self._heard < BACKLOG or kind != "speech" or not self._events:
            return False
        last = self._events[-1]
        is_alike = last.kind == kind and last.data["kind"] == data["kind"]
        return is_alike and len(last.data["text"]) + len(data["text"]) <= JOINED_CHARACTERS
