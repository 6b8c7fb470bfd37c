"""A turn as server-sent events.

Each has an ``id``, which a client that lost its connection shows as ``Last-Event-ID``, an
``event`` and one line of JSON as ``data``::

    speech        {"kind": "text" | "thinking", "text": what to append}
    tool_call     {"__part": "tool_call", "id", "name", "arguments"}
    tool_result   {"__part": "tool_result", "id", "name", "content"}
    usage         {"input_tokens", "output_tokens", "estimated"}
    message       the whole reply, a Msg: the last event of a good turn
    error         {"type", "message", "retry_after_s"}: the last event of a bad one

Lines that begin with a colon keep the connection open while an agent thinks.
Wire format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from .problems import Refusal
from .turns import Encoder

if TYPE_CHECKING:
    from .talk_events import TalkEvent

__all__ = ["EVENTS_SCHEMA", "Events", "read_event_id"]

_EVENT_ID = re.compile(r"([0-9a-f]{32})-([0-9]{1,9})")

KINDS = ("speech", "tool_call", "tool_result", "usage", "message", "error")
EVENTS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "One event; message or error is the last one.",
    "properties": {
        "event": {"type": "string", "enum": list(KINDS)},
        "id": {"type": "string", "pattern": "^[0-9a-f]{32}-[0-9]{1,9}$"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "id", "data"],
}


def read_event_id(text: str) -> tuple[str, int]:
    """Return the turn and the number of an event from its id.

    Raises:
        Refusal: it is none of ours.
    """
    found = _EVENT_ID.fullmatch(text)
    if found is None:
        raise Refusal(400, "bad_event_id", "Last-Event-ID is the id of an event of this service.")
    return found[1], int(found[2])


class Events(Encoder):
    """Sends the events of a turn in this form."""

    def __init__(self, turn: str) -> None:
        """Send those of the turn of this id."""
        self._turn = turn

    def encode(self, event: TalkEvent) -> bytes:
        """Return an event under its id."""
        head = f"event: {event.kind}\nid: {self._turn}-{event.number}\ndata: ".encode()
        return head + orjson.dumps(event.data) + b"\n\n"  # JSON has no bare line ends
