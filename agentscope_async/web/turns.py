"""What all routers share: a request's runtime and body, and its turn, answered whole or as a stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from .._tasks import cancel_all
from ..errors import NoRuntimeError
from ..runtime import Runtime, current_runtime
from .problems import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping

    from starlette.requests import HTTPConnection, Request
    from starlette.types import Message, Receive, Scope, Send

    from ..message import Msg
    from .talks import Talk, TalkEvent

__all__ = ["Encoder", "TurnStream", "capped", "runtime_of", "whole_reply"]

PING_S = 15.0
PING = b":\n\n"
"""A comment, which keeps the connection open."""

T = TypeVar("T")


def runtime_of(connection: HTTPConnection) -> Runtime:
    """Return the open runtime of the application.

    Raises:
        NoRuntimeError: it has none.
        Refusal: it is being left.
    """
    runtime = getattr(connection.app.state, "runtime", None) or current_runtime()
    if not isinstance(runtime, Runtime):
        raise NoRuntimeError("What is served here: FastAPI(lifespan=lifespan()) has one. It")
    if not runtime.is_open:
        raise Refusal(503, "closing", "The service is closing.", 1)
    return runtime


def capped(request: Request, max_bytes: int) -> Receive:
    """Receive a body, up to so many bytes; what is larger is refused with 413."""
    too_large = Refusal(413, "too_large", f"A body has {max_bytes} bytes at most.")
    declared = request.headers.get("content-length", "")
    received = 0

    async def receive() -> Message:
        nonlocal received
        if declared.isascii() and declared.isdigit() and int(declared) > max_bytes:
            raise too_large
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return receive


async def whole_reply(talk: Talk, runtime: Runtime, receive: Receive) -> Msg:
    """Have a turn to its end, unless the client leaves before.

    Raises:
        Refusal: there is no reply; it says what the client may know.
    """
    begin = partial(talk.begin, runtime, is_heard=False)
    hearing = await _attend(talk, begin, receive, talk.result)
    if hearing.cancelled():
        raise Refusal(499, "gone", "The client has left.")  # nobody reads this
    return hearing.result()


class Encoder:
    """What a turn is sent as: its events one by one, in a stream that begins at once."""

    begins_at_once = True
    """If not: with the first event, or after PING_S without one."""

    def refusal(self, first: TalkEvent) -> Response | None:
        """Return what is answered instead of a stream that would begin with this event, if anything is."""
        return None

    def opening(self) -> bytes:
        """Return what comes before the first event."""
        return b""

    def encode(self, event: TalkEvent) -> bytes:
        """Return an event as it is sent; nothing is sent of some."""
        raise NotImplementedError


class TurnStream(Response):
    """Sends the events of a turn after a number, as they come; ends the turn when its client leaves."""

    media_type = "text/event-stream"

    def __init__(
        self,
        talk: Talk,
        encoder: Encoder,
        *,
        begin: Callable[[], None] | None,
        after: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send ``talk``; ``begin`` starts it once there is somebody who will see to its end."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]  # nobody knows
        self._talk = talk
        self._encoder = encoder
        self._begin = begin
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        sending = await _attend(self._talk, self._begin, receive, partial(self._send, scope, receive, send))
        error = None if sending.cancelled() else sending.exception()
        if error is not None and not isinstance(error, OSError):  # that is how servers say it has gone
            raise error

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoder = self._encoder
        has_begun = encoder.begins_at_once
        if has_begun:
            await self._open(send, encoder.opening())
        async with aclosing(_with_pauses(self._talk.follow(self._after))) as events:
            async for event in events:
                if not has_begun:
                    refusal = None if event is None else encoder.refusal(event)
                    if refusal is not None:
                        await refusal(scope, receive, send)
                        return
                    await self._open(send, encoder.opening())
                    has_begun = True
                await _send_part(send, PING if event is None else encoder.encode(event))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _open(self, send: Send, opening: bytes) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _send_part(send, opening)


async def _attend(
    talk: Talk,
    begin: Callable[[], None] | None,
    receive: Receive,
    follow: Callable[[], Coroutine[Any, Any, T]],
) -> asyncio.Task[T]:
    """Begin a turn and follow it, until that is done or the client leaves, which ends the turn.

    The task that is returned has ended; it is cancelled if the client has left.
    """
    talk.join()
    following = gone = None
    try:
        if begin is not None:
            begin()
        following = asyncio.create_task(follow(), name="web answer")
        gone = asyncio.create_task(_until_gone(receive), name="web client")
        await asyncio.wait([following, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all([each for each in (following, gone) if each is not None])
        has_heard_all = following is not None and not following.cancelled() and following.exception() is None
        await talk.leave(has_heard_all=has_heard_all)
    return following


async def _until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _with_pauses(events: AsyncGenerator[TalkEvent, None]) -> AsyncGenerator[TalkEvent | None, None]:
    """Yield the events of a turn, and None after each PING_S seconds without one."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=PING_S)
            if not done:
                yield None
            elif (event := coming.result()) is None:
                return
            else:
                coming = asyncio.ensure_future(anext(events, None))
                yield event
    finally:
        await cancel_all([coming])


async def _send_part(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
