"""A streamed chat answer in OpenAI's form, gathered into the form of a whole one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ..message import Speech
from ._openai_answers import as_json, parse_chat_response, parse_tool_calls, text_in
from ._openai_errors import error_in, problem_in
from ._problem import Problem

if TYPE_CHECKING:
    from ._sse import ServerEvent
    from .base import ModelResponse

__all__ = ["ChatCollector"]


class ChatCollector:
    """Gathers ``chat.completion.chunk`` events.

    Chunks may hold several choices and tool calls, in any order; only the first choice is
    spoken, the others are in the whole answer. Tool calls are handed out when their
    choice is finished.
    """

    def __init__(self, answers: int = 1) -> None:
        """Take ``answers`` choices for the whole."""
        self.is_complete = False
        self.is_over = False
        self._awaited = answers
        self._choices: dict[int, Choice] = {}
        self._finished = 0
        self._usage: Any = None
        self._first: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """What the first choice has said."""
        return "".join(self._choices[0].content) if 0 in self._choices else ""

    def feed(self, event: ServerEvent) -> list[Speech]:
        """Return what an event adds.

        Raises:
            Problem: it reports an error.
        """
        heard: list[Speech] = []
        if event.data == b"[DONE]":
            self.is_complete = self.is_over = True
            return heard
        if not event.data:
            return heard
        chunk = orjson.loads(event.data)
        if "error" in chunk or "choices" not in chunk or event.event == "error":
            self._check(chunk, event)
        if (usage := chunk.get("usage")) is not None:
            self._usage = usage
        if choices := chunk.get("choices"):
            self._first = self._first or chunk
            for choice in choices:
                self._hear(choice, heard)
        return heard

    def _check(self, chunk: Any, event: ServerEvent) -> None:
        """Raise what the event reports, if it is an error."""
        error = error_in(chunk)
        if error is None and event.event == "error":
            error = chunk
        if error is not None:
            raise problem_in(error, raw=chunk)

    def _hear(self, delta_of: dict[str, Any], heard: list[Speech]) -> None:
        index = delta_of.get("index") or 0
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = Choice()
        if delta := delta_of.get("delta"):
            choice.add(delta, heard if index == 0 else [])
        if (reason := delta_of.get("finish_reason")) and choice.finish_reason is None:
            choice.finish_reason = reason
            self._finished += 1
            self.is_complete = self._finished >= max(self._awaited, len(self._choices))
            if index == 0 and choice.calls:
                heard += [Speech("tool_call", data=call) for call in parse_tool_calls(choice.tool_calls())]

    def response(self) -> ModelResponse:
        """Return the whole answer; its ``raw`` has the form of one that was not streamed."""
        if not self._choices:
            raise Problem("bad_response", "the stream holds no answer")
        body = {key: value for key, value in self._first.items() if key not in ("choices", "usage", "object")}
        body["object"] = "chat.completion"
        body["choices"] = [self._choices[index].whole(index) for index in sorted(self._choices)]
        body["usage"] = self._usage
        return parse_chat_response(body)


class Choice:
    """One of the answers, piece by piece."""

    __slots__ = ("content", "thinking", "refusal", "calls", "finish_reason")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.thinking: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.finish_reason: str | None = None

    def add(self, delta: dict[str, Any], heard: list[Speech]) -> None:
        """Take the next piece and append what it says to ``heard``."""
        if content := delta.get("content"):
            if not isinstance(content, str):
                content = text_in(content) or ""
            self.content.append(content)
            heard.append(Speech("text", content))
            if len(delta) == 1:
                return
        if thinking := delta.get("reasoning_content") or delta.get("reasoning"):
            self.thinking.append(thinking)
            heard.append(Speech("thinking", thinking))
        if refusal := delta.get("refusal"):
            self.refusal.append(refusal)
        for piece in delta.get("tool_calls") or ():
            self._add_call(piece)

    def _add_call(self, piece: dict[str, Any]) -> None:
        """Add to the call of that index; id and name count once, as some servers repeat or null them."""
        index = piece.get("index")
        if index is None:  # whole calls, or more of the last one
            index = len(self.calls) if piece.get("id") or not self.calls else len(self.calls) - 1
        call = self.calls.setdefault(index, {"id": None, "name": None, "arguments": []})
        function = piece.get("function") or {}
        call["id"] = call["id"] or piece.get("id")
        call["name"] = call["name"] or function.get("name")
        if (arguments := function.get("arguments")) is not None:
            call["arguments"].append(arguments if isinstance(arguments, str) else as_json(arguments))

    def tool_calls(self) -> list[dict[str, Any]]:
        """Return the calls in the form of a whole answer, in order of their index."""
        return [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
            }
            for _, call in sorted(self.calls.items())
        ]

    def whole(self, index: int) -> dict[str, Any]:
        """Return the choice in the form of a whole answer."""
        content = "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if not content and (self.calls or self.refusal):
            message["content"] = None
        if self.thinking:
            message["reasoning_content"] = "".join(self.thinking)
        if self.refusal:
            message["refusal"] = "".join(self.refusal)
        if self.calls:
            message["tool_calls"] = self.tool_calls()
        return {"index": index, "message": message, "finish_reason": self.finish_reason}
