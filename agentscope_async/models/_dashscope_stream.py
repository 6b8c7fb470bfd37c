"""A streamed chat answer of DashScope's, gathered into the form of a whole one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from ..message import Speech
from ._dashscope_wire import finish_reason_of, parse_chat_response, problem_in, text_in
from ._openai_answers import parse_tool_calls
from ._problem import Problem

if TYPE_CHECKING:
    from ._sse import ServerEvent
    from .base import ModelResponse

__all__ = ["ChatCollector"]

_STATUS = re.compile(rb"HTTP_STATUS/(\d{3})$")


class ChatCollector:
    """Gathers ``result`` events.

    Whether an event holds the next piece or all there is so far cannot be seen in it (two
    equal pieces are a legal answer): it goes by what was asked for. Only the first choice
    is spoken, the others are in the whole answer. Tool calls are handed out when their
    choice is finished.
    """

    def __init__(self, *, is_incremental: bool) -> None:
        self.is_complete = False
        self.is_over = False  # there is no end mark: the server closes the stream
        self._is_incremental = is_incremental
        self._choices: dict[int, Choice] = {}
        self._last: dict[str, Any] = {}
        self._usage: Any = None

    @property
    def text(self) -> str:
        """What the first choice has said."""
        return self._choices[0].text if 0 in self._choices else ""

    def feed(self, event: ServerEvent) -> list[Speech]:
        """Return what an event adds.

        Raises:
            Problem: it reports an error.
        """
        if not event.data:
            return []
        body = orjson.loads(event.data)
        output = body.get("output")
        if event.event == "error" or (body.get("code") and not output):
            raise problem_in(body, _status_in(event))
        if not output:
            return []
        self._last = body
        self._usage = body.get("usage") or self._usage
        choices = output.get("choices")
        if choices is None and "text" in output:
            choices = [{"message": {"content": output["text"]}, "finish_reason": output.get("finish_reason")}]
        heard: list[Speech] = []
        for place, choice in enumerate(choices or ()):
            self._hear(choice.get("index", place), choice, heard)
        self.is_complete = bool(self._choices) and all(each.finish_reason for each in self._choices.values())
        return heard

    def _hear(self, index: int, news: dict[str, Any], heard: list[Speech]) -> None:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = Choice()
        spoken = heard if index == 0 else []
        if message := news.get("message"):
            choice.add(message, spoken, is_incremental=self._is_incremental)
        reason = finish_reason_of(news)
        if reason and choice.finish_reason is None:
            choice.finish_reason = reason
            if choice.calls:
                spoken += [Speech("tool_call", data=each) for each in parse_tool_calls(choice.tool_calls())]

    def response(self) -> ModelResponse:
        """Return the whole answer; its ``raw`` has the form of one that was not streamed."""
        if not self._choices:
            raise Problem("bad_response", "the stream holds no answer")
        output = {name: value for name, value in self._last["output"].items() if name not in _OF_A_CHOICE}
        output["choices"] = [self._choices[index].whole(index) for index in sorted(self._choices)]
        return parse_chat_response({**self._last, "output": output, "usage": self._usage})


_OF_A_CHOICE = ("choices", "text", "finish_reason")


class Choice:
    """One of the answers, event by event."""

    __slots__ = ("_text", "_thinking", "calls", "finish_reason")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.finish_reason: str | None = None

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._text)

    def add(self, message: dict[str, Any], heard: list[Speech], *, is_incremental: bool) -> None:
        """Take an event's message and append what is new in it to ``heard``."""
        for kind, pieces, value in (
            ("thinking", self._thinking, message.get("reasoning_content")),
            ("text", self._text, text_in(message.get("content"))),
        ):
            if value and (news := value if is_incremental else _replace(pieces, value)):
                pieces.append(news)
                heard.append(Speech(kind, news))
        for place, piece in enumerate(message.get("tool_calls") or ()):
            self._add_call(piece.get("index", place), piece, is_incremental)

    def _add_call(self, index: int, piece: dict[str, Any], is_incremental: bool) -> None:
        """Add to the call of that index: id and name come once, later as ``""`` or not at all."""
        call = self.calls.setdefault(index, {"id": None, "name": None, "arguments": ""})
        function = piece.get("function") or {}
        call["id"] = call["id"] or piece.get("id")
        call["name"] = call["name"] or function.get("name")
        if arguments := function.get("arguments"):
            call["arguments"] = call["arguments"] + arguments if is_incremental else arguments

    def tool_calls(self) -> list[dict[str, Any]]:
        """Return the calls in the form of a whole answer, in order of their index."""
        return [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for _, call in sorted(self.calls.items())
        ]

    def whole(self, index: int) -> dict[str, Any]:
        """Return the choice in the form of a whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self._thinking:
            message["reasoning_content"] = "".join(self._thinking)
        if self.calls:
            message["tool_calls"] = self.tool_calls()
        return {"index": index, "finish_reason": self.finish_reason, "message": message}


def _replace(pieces: list[str], whole: str) -> str:
    """Return what ``whole`` has beyond the pieces; if they differ, its beginning replaces them."""
    known = "".join(pieces)
    if not whole.startswith(known):
        pieces[:] = [whole[: len(known)]]
    return whole[len(known) :]


def _status_in(event: ServerEvent) -> int | None:
    """Return the status of an event: it is told in a comment alone, under HTTP 200."""
    for comment in event.comments:
        if found := _STATUS.match(comment.strip()):
            return int(found[1])
    return None
