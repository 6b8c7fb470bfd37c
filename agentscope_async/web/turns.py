"""What all routers share: a request's runtime and body, and its turn, answered whole or as a stream."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing, suppress
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
    from .talk_events import TalkEvent
    from .talks import Talk

__all__ = [
    "Encoder",
    "TurnStream",
    "capped",
    "check_is_json",
    "runtime_of",
    "while_connected",
    "whole_reply",
]

PING_S = 15.0
PING = b":\n\n"
"""A comment, which keeps the connection open."""

SEND_S = 30.0
"""A client that takes nothing for so long is as good as gone."""

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
        raise _closing()
    return runtime


def _closing() -> Refusal:
    return Refusal(503, "closing", "The service is closing.", 1)


def check_is_json(request: Request) -> None:
    """Refuse with 415 a body that is not said to be JSON.

    Browsers send others for any web page, with the cookies of our users, without asking us first.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and not re.fullmatch(r"application/(\S+\+)?json", kind):
        raise Refusal(415, "bad_content_type", "Send Content-Type: application/json.")


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


class ClientGone(Refusal):
    """The client has closed its connection; nobody reads this."""

    def __init__(self) -> None:
        super().__init__(499, "gone", "The client has left.")


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Do ``work`` unless the client leaves meanwhile, or has left by then, or the service closes.

    Raises:
        ClientGone: it has left.
        Refusal: the service closes.
    """
    working = asyncio.create_task(work, name="web work")
    await _first_of(working, receive, working.cancel)
    if working.cancelled():
        raise _closing()
    return working.result()


async def whole_reply(talk: Talk, runtime: Runtime, receive: Receive) -> Msg:
    """Have a turn to its end, unless the client leaves before.

    Raises:
        Refusal: there is no reply; it says what the client may know.
    """
    return await _attend(talk, partial(talk.begin, runtime, is_heard=False), receive, talk.result)


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
        with suppress(ClientGone, OSError):  # this is how servers say it has gone
            answer = partial(self._send, scope, receive, _limited(send))
            await _attend(self._talk, self._begin, receive, answer)

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
) -> T:
    """Begin a turn and follow it, until that is done or the client leaves, which ends the turn.

    Raises:
        ClientGone: it has left.
    """
    talk.join()
    try:
        if begin is not None:
            begin()
        following = asyncio.create_task(follow(), name="web answer")
        await _first_of(following, receive, talk.close)
        return following.result()
    finally:
        await talk.leave()


async def _first_of(working: asyncio.Task[Any], receive: Receive, close: Callable[[], object]) -> None:
    """Wait for a task to end, after ``close()`` if the service closes; cancel it if the client leaves.

    Raises:
        ClientGone: it has left.
    """
    gone = asyncio.create_task(_until_gone(receive), name="web client")
    try:
        try:
            await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            if not _is_shutdown(error):
                raise
            close()
            await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        is_gone = gone.done()
    finally:
        await cancel_all([working, gone])
        for each in (working, gone):
            if not each.cancelled():
                each.exception()  # told to whoever asks for the result
    if is_gone:
        raise ClientGone


def _is_shutdown(error: asyncio.CancelledError) -> bool:
    """Whether the server cancels its requests as it ends, and still sends what they answer quickly.

    Others who cancel a request, as middleware does, have an answer of their own. Uvicorn says
    "Task cancelled, timeout graceful shutdown exceeded" (uvicorn/server.py, ``shutdown``).
    """
    return "graceful shutdown" in "".join(map(str, error.args))


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


def _limited(send: Send) -> Send:
    """Send to a client that may cease to read: then this raises TimeoutError, which is an OSError."""

    async def limited(message: Message) -> None:
        async with asyncio.timeout(SEND_S):
            await send(message)

    return limited


async def _send_part(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
