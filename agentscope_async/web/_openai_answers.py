"""The answers: whole, or as a stream of chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import orjson

from ..message import Msg, Usage
from ..models._messages import text_of
from ..models._openai_messages import _arguments
from .turns import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from ._openai_agents import Tally
    from ._openai_errors import Fault
    from .talk_events import TalkEvent
    from .talks import Talk

__all__ = ["Answer", "Chunks"]

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

    def ending(self, reply: Msg, *, spoken: str) -> list[dict[str, Any]]:
        """Return the last pieces: the reply unless it was spoken, why it ended and, if wanted, the usage."""
        text = text_of(reply)
        deltas: list[dict[str, Any]] = []
        if not _without_spaces(spoken).endswith(_without_spaces(text)):
            gap = "\n\n" if spoken else ""
            deltas.append({"refusal": text} if self._is_refusal(reply) else {"content": f"{gap}{text}"})
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


class Chunks(Encoder):
    """Sends a turn as chunks; one that fails before it says anything is an ordinary error."""

    begins_at_once = False

    def __init__(self, talk: Talk, answer: Answer, fault: Callable[[], Fault]) -> None:
        """Send ``talk``; ``fault`` says what its client is told if it failed."""
        self._talk = talk
        self._answer = answer
        self._fault = fault
        self._spoken: list[str] = []
        self._is_parted = False

    def refusal(self, first: TalkEvent) -> Response | None:
        """Return the error, if there is nothing else."""
        return self._fault().response() if first.kind == "error" else None

    def opening(self) -> bytes:
        """Return the chunk that says who speaks."""
        return _data(self._answer.opening())

    def encode(self, event: TalkEvent) -> bytes:
        """Return the chunks of an event; none for what OpenAI has no chunks for."""
        match event.kind:
            case "speech" if event.data["kind"] == "text" and event.data["text"]:
                return _data(self._answer.chunk({"content": self._say(event.data["text"])}))
            case "tool_call" | "tool_result":
                self._is_parted = True
            case "message":
                assert self._talk.reply is not None
                pieces = self._answer.ending(self._talk.reply, spoken="".join(self._spoken))
                return b"".join(map(_data, pieces)) + b"data: [DONE]\n\n"
            case "error":
                return _data(self._fault().body)
        return b""

    def _say(self, text: str) -> str:
        """Return a text as it goes on with what was spoken, behind a blank line if tools came between."""
        piece = f"\n\n{text}" if self._is_parted and self._spoken else text
        self._is_parted = False
        self._spoken.append(piece)
        return piece


def _without_spaces(text: str) -> str:
    return "".join(text.split())  # these a provider's pieces may have, and the whole text not


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"  # JSON has no bare line ends
