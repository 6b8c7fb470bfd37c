"""The answers: whole, or as a stream of chunks."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import JSONResponse

from .._tasks import cancel_all
from ..message import Msg, Usage
from ..models._messages import text_of
from ..models._openai_messages import _arguments
from .streaming import PING_S, TurnStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Send

    from ._openai_agents import Tally
    from ._openai_errors import Fault
    from .talks import Talk, TalkEvent

__all__ = ["Answer", "ChunkStream"]

_REASONS = {"length": "length", "max_tokens": "length", "content_filter": "content_filter"}
"""Providers' words for why an answer ended, in small letters; all others are a stop."""


@dataclass(frozen=True)
class Answer:
    """One answer being given.

    Attributes:
        model: the name the client asked for.
        tally: what the models behind it took and said last.
        shows_calls: the client gave tools, so calls of them are for it.
        has_usage: the client wants the usage at the end of a stream.
    """

    model: str
    tally: Tally
    shows_calls: bool = False
    has_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, reply: Msg) -> dict[str, Any]:
        """Return the answer of a turn that has ended."""
        message: dict[str, Any] = {"role": "assistant", "content": text_of(reply), "refusal": None}
        if self._is_refusal(reply):
            message.update(content=None, refusal=message["content"])
        if calls := self.calls():
            message.update(content=message["content"] or None, tool_calls=calls)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason(),
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(reply)}

    def opening(self) -> dict[str, Any]:
        """Return the first piece, which says who speaks; whether that is a text is open with tools."""
        return self.chunk({"role": "assistant", "content": None if self.shows_calls else ""})

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """Return a piece of the answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage: dict[str, Any] = {"usage": None} if self.has_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def ending(self, reply: Msg, *, has_spoken: bool) -> list[dict[str, Any]]:
        """Return the last pieces: what was not said yet, why it ended and, if wanted, the usage."""
        said = "refusal" if self._is_refusal(reply) else "content"
        deltas: list[dict[str, Any]] = []
        if not has_spoken and (text := text_of(reply)):
            deltas.append({said: text})
        if calls := self.calls():
            deltas.append({"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]})
        pieces = [*map(self.chunk, deltas), self.chunk({}, self.finish_reason())]
        if self.has_usage:
            last = {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(reply)}
            pieces.append(last)
        return pieces

    def calls(self) -> list[dict[str, Any]]:
        """Return the tools of the client's that its answer asks for."""
        last = self.tally.last
        return [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in (last.tool_calls if self.shows_calls and last is not None else ())
        ]

    def finish_reason(self) -> str:
        """Return why the answer ended."""
        if self.calls():
            return "tool_calls"
        last = self.tally.last
        return _REASONS.get(str(last.finish_reason).lower(), "stop") if last is not None else "stop"

    def _is_refusal(self, reply: Msg) -> bool:
        last = self.tally.last
        return last is not None and last.text is None and last.refusal == text_of(reply) != ""

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _usage(self, reply: Msg) -> dict[str, int]:
        usage = self.tally.usage or reply.usage or Usage()
        return {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }


class ChunkStream(TurnStream):
    """Sends a turn as chunks; a turn that fails before it says anything is an ordinary error."""

    def __init__(
        self, talk: Talk, begin: Callable[[], None], answer: Answer, fault: Callable[[Talk], Fault]
    ) -> None:
        """Send ``talk``; ``fault`` says what its client is told if it failed."""
        super().__init__(talk, begin, after=0, headers={})
        self._answer = answer
        self._fault = fault
        self._has_spoken = False

    async def _send(self, send: Send) -> None:
        has_begun = False
        async with aclosing(_with_pauses(self._talk)) as events:
            async for event in events:
                if not has_begun and event is not None and event.kind == "error":
                    await _send_fault(send, self._fault(self._talk))
                    return
                if not has_begun:
                    has_begun = True
                    await self._open(send)
                if event is None:
                    await _send_part(send, b":\n\n")  # keeps the connection open
                else:
                    await self._pass_on(send, event)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_on(self, send: Send, event: TalkEvent) -> None:
        match event.kind:
            case "speech" if event.data["kind"] == "text" and event.data["text"]:
                self._has_spoken = True
                await _send_part(send, _data(self._answer.chunk({"content": event.data["text"]})))
            case "message":
                await self._close(send)
            case "error":
                await _send_part(send, _data(self._fault(self._talk).body))

    async def _open(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _send_part(send, _data(self._answer.opening()))

    async def _close(self, send: Send) -> None:
        assert self._talk.reply is not None
        pieces = self._answer.ending(self._talk.reply, has_spoken=self._has_spoken)
        await _send_part(send, b"".join(map(_data, pieces)) + b"data: [DONE]\n\n")


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"  # JSON has no bare line ends


async def _send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _send_fault(send: Send, fault: Fault) -> None:
    answer = JSONResponse(fault.body, fault.status, fault.headers)
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


async def _with_pauses(talk: Talk) -> AsyncGenerator[TalkEvent | None, None]:
    """Yield the events of a turn, and None after each PING_S seconds without one."""
    events = talk.follow()
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=PING_S)
            if not done:
                yield None
                continue
            event = coming.result()
            if event is None:
                return
            coming = asyncio.ensure_future(anext(events, None))
            yield event
    finally:
        await cancel_all([coming])
