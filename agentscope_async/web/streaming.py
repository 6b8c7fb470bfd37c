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

import asyncio
import re
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from .._tasks import cancel_all
from .problems import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from .talks import Talk, TalkEvent

__all__ = ["EVENTS_SCHEMA", "TurnStream", "read_event_id", "until_gone"]

PING_S = 15.0
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


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class TurnStream(Response):
    """Sends the events of a turn after a number, as they come; ends the turn when its client leaves."""

    media_type = "text/event-stream"

    def __init__(
        self, talk: Talk, begin: Callable[[], None] | None, *, after: int, headers: dict[str, str]
    ) -> None:
        """Send ``talk``; ``begin`` starts it once there is somebody who will see to its end."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})
        del self.headers["content-length"]  # nobody knows
        self._talk = talk
        self._begin = begin
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        talk = self._talk
        talk.join()
        sending = gone = None
        try:
            if self._begin is not None:
                self._begin()
            sending = asyncio.create_task(self._send(send), name="web events")
            gone = asyncio.create_task(until_gone(receive), name="web client")
            await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all([each for each in (sending, gone) if each is not None])
            has_sent = sending is not None and not sending.cancelled() and sending.exception() is None
            await talk.leave(has_heard_all=has_sent)
        error = None if sending.cancelled() else sending.exception()
        if error is not None and not isinstance(error, OSError):  # that is how servers say it has gone
            raise error

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        events = self._talk.follow(self._after)
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                done, _ = await asyncio.wait([coming], timeout=PING_S)
                if not done:
                    await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
                    continue
                event = coming.result()
                if event is None:
                    break
                coming = asyncio.ensure_future(anext(events, None))
                chunk = _encode(self._talk.id, event)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await cancel_all([coming])
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encode(turn: str, event: TalkEvent) -> bytes:
    head = f"event: {event.kind}\nid: {turn}-{event.number}\ndata: ".encode()
    return head + orjson.dumps(event.data) + b"\n\n"  # JSON has no bare line ends
