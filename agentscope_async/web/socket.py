"""A conversation over a websocket: talk, interrupt, be asked.

Both sides send JSON objects as text, with a ``type``. The client begins::

    {"type": "begin", "session": null}                 # or the id of a session that goes on
    {"type": "message", "msg": {"name": "Ann", "content": "Hello"}}
    {"type": "interrupt", "reason": "enough"}
    {"type": "input", "id": "...", "text": "..."}      # answers an input_request

The service answers ``begin`` with ``{"type": "session", "id": ...}`` (``null`` for a shared agent), and
sends what happens in a turn as ``{"type": "speech" | ..., "data": ...}``, with the types and data of
the events in :mod:`agentscope_async.web.streaming`, and ``input_request``, ``{"id", "prompt"}``. One turn
at a time: ``message`` while one runs is answered with the error ``busy``. What is wrong with a
frame is told in an ``error``, and the conversation goes on; a session that is refused ends it,
with code 1008. To messages in a session that was deleted meanwhile the error is ``unknown_session``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from .._tasks import cancel_all
from .problems import Problem, Refusal, problem_of, refusal_of
from .talk_events import LAST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from starlette.websockets import WebSocket

    from ..message import Msg
    from .talks import Talk

__all__ = ["SocketTalk", "check_origin"]

_POLICY = 1008  # RFC 6455, section 7.4.1
_TOO_BIG = 1009


def check_origin(websocket: WebSocket, allowed: Collection[str]) -> bool:
    """Whether a web page may open this: browsers let any page do so, with the cookies of our users."""
    origin = websocket.headers.get("origin")
    if origin is None or origin in allowed:
        return True  # not from a web page, or from a known one
    try:
        return urlsplit(origin).netloc.lower() == (websocket.headers.get("host") or "").lower()
    except ValueError:
        return False


class SocketTalk:
    """One open websocket."""

    def __init__(
        self,
        websocket: WebSocket,
        *,
        enter: Callable[[str | None], Awaitable[tuple[str | None, Callable[[Msg], Awaitable[Talk]]]]],
        begin: Callable[[Talk], None],
        read_msg: Callable[[Any], Msg],
        max_bytes: int,
    ) -> None:
        """Serve a websocket.

        Args:
            websocket: accepted.
            enter: returns the session for an id, or a new one, and what makes its turns.
            begin: starts a turn.
            read_msg: checks what a client says.
            max_bytes: of a frame.
        """
        self._websocket = websocket
        self._enter = enter
        self._begin = begin
        self._read_msg = read_msg
        self._max_bytes = max_bytes
        self._sending = asyncio.Lock()
        self._talk: Talk | None = None
        self._telling: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Talk until the client leaves; then its turn is cancelled."""
        try:
            make = await self._open()
            while make is not None:
                await self._take(await self._receive(), make)
        except (WebSocketDisconnect, OSError):
            pass  # gone
        finally:
            await self._end()

    async def _open(self) -> Callable[[Msg], Awaitable[Talk]] | None:
        try:
            frame = await self._receive()
            if frame.get("type") != "begin" or not isinstance(frame.get("session"), str | None):
                raise Refusal(400, "bad_frame", 'Begin with {"type": "begin", "session": an id or null}.')
            id, make = await self._enter(frame.get("session"))
        except WebSocketDisconnect:
            raise
        except Exception as error:
            await self._send("error", problem_of(error).to_dict())
            await self._websocket.close(_POLICY)
            return None
        await self._send_text({"type": "session", "id": id})
        return make

    async def _take(self, frame: dict[str, Any], make: Callable[[Msg], Awaitable[Talk]]) -> None:
        try:
            match frame.get("type"):
                case "message":
                    await self._speak(frame.get("msg"), make)
                case "interrupt":
                    self._interrupt(frame.get("reason"))
                case "input":
                    self._answer(frame.get("id"), frame.get("text"))
                case _:
                    raise Refusal(400, "bad_frame", "The type is message, interrupt or input.")
        except Refusal as refusal:
            await self._send("error", refusal.problem.to_dict())

    async def _speak(self, said: Any, make: Callable[[Msg], Awaitable[Talk]]) -> None:
        if self._talk is not None:
            raise Refusal(409, "busy", "A turn is running; wait for its end, or interrupt it.")
        try:
            msg = self._read_msg(said)
        except ValidationError as error:
            raise refusal_of(error.errors(include_url=False, include_input=False)) from error
        talk = await make(msg)
        talk.join()
        self._talk = talk
        self._begin(talk)
        self._telling = asyncio.create_task(self._tell(talk), name="web events")

    def _interrupt(self, reason: Any) -> None:
        if not isinstance(reason, str | None):
            raise Refusal(400, "bad_frame", "A reason is a text.")
        if self._talk is None or not self._talk.interrupt(reason):
            raise Refusal(409, "idle", "No turn is running.")

    def _answer(self, question: Any, text: Any) -> None:
        if not isinstance(question, str) or not isinstance(text, str):
            raise Refusal(400, "bad_frame", "An input has an id and a text.")
        if self._talk is None or not self._talk.answer(question, text):
            raise Refusal(409, "not_asked", "Nobody waits for this input.")

    async def _tell(self, talk: Talk) -> None:
        """Send what happens in a turn; a connection that is lost shows in the loop that reads."""
        async for event in talk.follow():
            if event.kind in LAST:
                self._talk = None  # whoever reads this may speak again
                await talk.leave()
            await self._send(event.kind, event.data)

    async def _end(self) -> None:
        if self._telling is not None:
            await cancel_all([self._telling])
            if not self._telling.cancelled():
                self._telling.exception()  # of a connection that is lost
        if self._talk is not None:
            await self._talk.leave()

    async def _receive(self) -> dict[str, Any]:
        """Return the next frame; what is none is answered here."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1005)
            text = message.get("text")
            if text is not None and len(text.encode()) > self._max_bytes:
                await self._websocket.close(_TOO_BIG)
                raise WebSocketDisconnect(_TOO_BIG)
            try:
                frame = orjson.loads(text if text is not None else b"")
            except orjson.JSONDecodeError:
                frame = None
            if isinstance(frame, dict):
                return frame
            await self._send("error", _NO_JSON.to_dict())

    async def _send(self, kind: str, data: dict[str, Any]) -> None:
        await self._send_text({"type": kind, "data": data})

    async def _send_text(self, frame: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_text(orjson.dumps(frame).decode())


_NO_JSON = Problem(400, "bad_frame", "A frame is a JSON object, as text.")
