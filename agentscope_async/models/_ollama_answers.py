"""What ollama's answers, streams and refusals say.

Source: github.com/ollama/ollama, docs/api.md and api/types.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import MessageError
from ..message import Speech, ToolCallPart, Usage
from ._problem import Problem, head, plain_text, type_of_status
from .base import ModelResponse

if TYPE_CHECKING:
    from ._sse import ServerEvent

__all__ = [
    "OllamaCollector",
    "error_in",
    "explain",
    "parse_chat_response",
    "parse_embedding_response",
    "parse_generate_response",
]

MOST_TOKENS = 1_000_000_000
"""A usage beyond this is a fault of the server."""

_TOO_LONG = re.compile(r"exceeds (?:the )?(?:maximum )?context|context (?:length|window|size)", re.I)


def parse_chat_response(body: Any) -> ModelResponse:
    """Return what an answer of /api/chat says.

    Raises:
        Problem: it is an error in disguise.
    """
    return _parsed(body, OllamaCollector())


def parse_generate_response(body: Any) -> ModelResponse:
    """Return what an answer of /api/generate says.

    Raises:
        Problem: it is an error in disguise.
    """
    return _parsed(body, OllamaCollector(is_chat=False))


def _parsed(body: Any, collector: OllamaCollector) -> ModelResponse:
    collector.take(body)
    response = collector.response()
    vars(response)["raw"] = body
    return response


class OllamaCollector:
    """What has been heard of one answer, streamed or whole: a line has the form of an answer."""

    def __init__(self, *, is_chat: bool = True) -> None:
        """Read answers of /api/chat, or else of /api/generate."""
        self.is_complete = False
        self.is_over = False
        self._is_chat = is_chat
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCallPart] = []
        self._last: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """What has been said so far."""
        return "".join(self._texts)

    def feed(self, event: ServerEvent) -> list[Speech]:
        """Return what a line adds.

        Raises:
            Problem: it reports an error.
        """
        return self.take(orjson.loads(event.data))

    def take(self, line: Any) -> list[Speech]:
        """Return what a parsed line, or a whole answer, adds."""
        message = error_in(line)
        if message is not None:
            raise Problem("stream_error", message, raw=line)
        said = line["message"] if self._is_chat else line
        speeches = self._heard(said, "content" if self._is_chat else "response")
        if line.get("done") is True:
            self.is_complete = self.is_over = True
        self._last = line
        return speeches

    def _heard(self, said: dict[str, Any], name: str) -> list[Speech]:
        speeches: list[Speech] = []
        for kind, key, heard in (("thinking", "thinking", self._thoughts), ("text", name, self._texts)):
            text = said.get(key)
            if text:
                if not isinstance(text, str):
                    raise TypeError(f"{key} is {type(text).__name__}")
                heard.append(text)
                speeches.append(Speech(kind, text))
        for call in said.get("tool_calls") or ():
            self._calls.append(_tool_call(call, self._calls))
            speeches.append(Speech("tool_call", data=self._calls[-1]))
        return speeches

    def response(self) -> ModelResponse:
        """Return the whole answer."""
        text, last = self.text, self._last
        return ModelResponse(
            text,
            [text],
            raw=self._raw(text),
            tool_calls=self._calls,
            thinking="".join(self._thoughts) or None,
            usage=parse_usage(last),
            finish_reason=last.get("done_reason") or None,
            model=last.get("model") or None,
        )

    def _raw(self, text: str) -> dict[str, Any]:
        """Return a stream's last line with the whole text in it."""
        if self._is_chat:
            return {**self._last, "message": {**self._last.get("message", {}), "content": text}}
        return {**self._last, "response": text}


def _tool_call(call: dict[str, Any], others: list[ToolCallPart]) -> ToolCallPart:
    """Return the call; older servers give no ids."""
    function = call["function"]
    if not isinstance(function["name"], str):
        raise TypeError(f"the name of a tool is {function['name']!r}")
    taken = {other.id for other in others}
    call_id, number = call.get("id"), len(others)
    while not call_id or call_id in taken:
        call_id, number = f"call_{number}", number + 1
    arguments = function.get("arguments")
    raw = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    try:
        return ToolCallPart(call_id, function["name"], orjson.loads(raw), raw)
    except (orjson.JSONDecodeError, MessageError):
        return ToolCallPart(call_id, function["name"], None, raw)


def parse_usage(body: dict[str, Any]) -> Usage | None:
    """Return the tokens a server reports, or None if it does not, or they cannot be true.

    A count of zero is left out: that of a prompt that was in the cache, say.
    """
    if body.get("prompt_eval_count") is None and body.get("eval_count") is None:
        return None
    counts = [body.get(name) or 0 for name in ("prompt_eval_count", "eval_count")]
    if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts):
        return None
    return Usage(counts[0], counts[1])


def parse_embedding_response(body: Any) -> ModelResponse:
    """Return the vectors of /api/embed, or the one of /api/embeddings.

    Raises:
        Problem: it is an error in disguise, or holds no vectors.
    """
    message = error_in(body)
    if message is not None:
        raise Problem("server", message, raw=body)
    vectors = [body["embedding"]] if "embedding" in body else body.get("embeddings")
    if not vectors or not all(isinstance(vector, list) and vector for vector in vectors):
        raise Problem("bad_response", "the answer has no embeddings", raw=body)
    return ModelResponse(
        embedding=vectors, raw=body, usage=parse_usage(body), model=body.get("model") or None
    )


def explain(status: int, body: bytes) -> Problem:
    """Return what an answer with status 300 or above means; takes any bytes."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    text = error_in(parsed) or plain_text(body) or "the server gave no explanation"
    type_ = type_of_status(status)
    code = "context_length_exceeded" if type_ == "bad_request" and _TOO_LONG.search(text) else None
    return Problem(type_, text, status=status, code=code, raw=parsed or head(body) or None)


def error_in(body: Any) -> str | None:
    """Return the error a body or a line reports, or None."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message") or orjson.dumps(error).decode()
    if not error:
        return None
    return error if isinstance(error, str) else str(error)
