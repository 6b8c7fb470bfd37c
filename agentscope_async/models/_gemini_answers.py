"""What Gemini's answers, streams and refusals say.

Source: ai.google.dev/api/generate-content (GenerateContentResponse), ai.google.dev/api/embeddings,
google.rpc.Status with its ErrorInfo, QuotaFailure and RetryInfo.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import MessageError
from ..message import Speech, ToolCallPart, Usage
from ._problem import Problem, read_refusal, type_of_status
from .base import ModelResponse

if TYPE_CHECKING:
    from ._sse import ServerEvent

__all__ = ["GeminiCollector", "explain", "parse_chat_response", "parse_embedding_response"]

FILTERS = frozenset(
    {
        "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE",
        "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
    }
)  # fmt: skip
"""Reasons to finish that are a refusal."""
FAULTS = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"})
"""Reasons to finish that mean: the model said nothing that can be used."""

MOST_TOKENS = 1_000_000_000
"""A usage beyond this is a fault of the server."""

_TYPES = {
    "FAILED_PRECONDITION": "permission",  # the region is not served, or billing is off
    "UNAUTHENTICATED": "auth",
    "PERMISSION_DENIED": "permission",
    "NOT_FOUND": "not_found",
    "RESOURCE_EXHAUSTED": "rate_limit",
    "ABORTED": "conflict",
    "INTERNAL": "server",
    "UNAVAILABLE": "overloaded",
    "DEADLINE_EXCEEDED": "timeout",
}
_STATUSES = {"INVALID_ARGUMENT": 400, "OUT_OF_RANGE": 400, "UNKNOWN": 500}
"""HTTP statuses of those that say nothing more."""
_TOO_LONG = re.compile(r"token count .*exceeds the maximum", re.I | re.S)


def parse_chat_response(body: Any) -> ModelResponse:
    """Return what an answer says; ``texts`` has one text for each candidate.

    Raises:
        Problem: it is a refusal, an error in disguise, or holds nothing.
    """
    collector = GeminiCollector()
    collector.take(body)
    response = collector.response()
    vars(response)["raw"] = body
    return response


class GeminiCollector:
    """What has been heard of one answer, streamed or whole.

    A stream's events have the form of answers: each adds parts to the candidates it
    names. What is said while it lasts is the first candidate's.
    """

    def __init__(self) -> None:
        self.is_complete = False
        """Every candidate has a reason to have finished, or the prompt was blocked."""
        self.is_over = False
        self._candidates: dict[int, _Candidate] = {}
        self._envelope: dict[str, Any] = {}
        self._usage: Any = None

    @property
    def text(self) -> str:
        """What the first candidate has said so far."""
        first = self._candidates.get(0)
        return "" if first is None else first.text

    def feed(self, event: ServerEvent) -> list[Speech]:
        """Return what an event adds.

        Raises:
            Problem: it reports an error.
        """
        return self.take(orjson.loads(event.data))

    def take(self, body: Any) -> list[Speech]:
        """Return what a parsed event, or a whole answer, adds."""
        error = error_in(body)
        if error is not None:
            raise problem_in(error, status=None, raw=body)
        speeches: list[Speech] = []
        is_changed = False
        for candidate in body.get("candidates") or ():
            index = candidate.get("index") or 0
            mine = self._candidates.get(index)
            if mine is None or candidate.get("finishReason") is not None:
                is_changed = True
                mine = mine or _Candidate()
                self._candidates[index] = mine
            heard = mine.take(candidate)
            if index == 0:
                speeches += heard
        usage = body.get("usageMetadata")
        if usage is not None:
            self._usage = usage  # in streams it is cumulative: the last one counts
        self._envelope |= body
        if is_changed or not self._candidates:
            self.is_complete = self._is_complete()
        return speeches

    def _is_complete(self) -> bool:
        if not self._candidates:
            return self._block_reason() is not None
        return all(each.finish_reason is not None for each in self._candidates.values())

    def response(self) -> ModelResponse:
        """Return the whole answer.

        Raises:
            Problem: the prompt was blocked, or no candidate may be shown.
        """
        indexed = sorted(self._candidates.items())
        good = [candidate for _, candidate in indexed if candidate.problem() is None]
        if not good:
            raise self._nothing()
        first = good[0]
        return ModelResponse(
            first.text,
            [each.text for each in good],
            images_b64=first.images or None,
            raw={**self._envelope, "candidates": [each.wire(index) for index, each in indexed]},
            tool_calls=first.calls,
            thinking="".join(first.thoughts) or None,
            usage=parse_usage(self._usage),
            finish_reason=first.finish_reason,
            model=self._envelope.get("modelVersion") or None,
            request_id=self._envelope.get("responseId") or None,
        )

    def _nothing(self) -> Problem:
        for candidate in self._candidates.values():
            if (problem := candidate.problem()) is not None:
                problem.raw = self._envelope
                return problem
        reason = self._block_reason()
        if reason is None:
            return Problem("bad_response", "the answer has no candidates", raw=self._envelope)
        feedback = self._envelope["promptFeedback"]
        text = feedback.get("blockReasonMessage") or f"the prompt was blocked: {reason}"
        return Problem("content_filter", text, code=reason, raw=self._envelope)

    def _block_reason(self) -> str | None:
        feedback = self._envelope.get("promptFeedback")
        return feedback.get("blockReason") if isinstance(feedback, dict) else None


class _Candidate:
    """One of the answers asked for."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.images: list[str] = []
        self.calls: list[ToolCallPart] = []
        self.finish_reason: str | None = None
        self._finish_message: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def take(self, candidate: dict[str, Any]) -> list[Speech]:
        """Add the parts of this piece and return what they say."""
        speeches: list[Speech] = []
        for part in (candidate.get("content") or {}).get("parts") or ():
            self.parts.append(part)
            if part.get("text"):
                speeches.append(self._said(part))
            elif "functionCall" in part:
                self.calls.append(_tool_call(part, len(self.calls), self.calls))
                speeches.append(Speech("tool_call", data=self.calls[-1]))
            elif "inlineData" in part and part["inlineData"].get("mimeType", "image/").startswith("image/"):
                self.images.append(part["inlineData"]["data"])
        if candidate.get("finishReason") is not None:
            self.finish_reason = candidate["finishReason"]
            self._finish_message = candidate.get("finishMessage")
        return speeches

    def _said(self, part: dict[str, Any]) -> Speech:
        text = part["text"]
        if not isinstance(text, str):
            raise TypeError(f"a text is {type(text).__name__}")
        if part.get("thought") is True:
            self.thoughts.append(text)
            return Speech("thinking", text)
        self.texts.append(text)
        return Speech("text", text)

    def problem(self) -> Problem | None:
        """Return why this cannot be shown as an answer, or None."""
        reason = self.finish_reason
        if reason in FILTERS:
            text = self._finish_message or f"the answer was stopped: {reason}"
            return Problem("content_filter", text, code=reason)
        if reason in FAULTS and not self.calls and not self.texts:
            text = self._finish_message or f"the model's answer cannot be used: {reason}"
            return Problem("bad_response", text, code=reason)
        return None

    def wire(self, index: int) -> dict[str, Any]:
        """Return all of it in the form of one answer."""
        content = {"role": "model", "parts": self.parts}
        return {"content": content, "finishReason": self.finish_reason, "index": index}


def _tool_call(part: dict[str, Any], number: int, others: list[ToolCallPart]) -> ToolCallPart:
    """Return the call; ``raw`` is its arguments, or the whole part if that is signed (see ``_call_part``)."""
    call = part["functionCall"]
    if not isinstance(call["name"], str):
        raise TypeError(f"the name of a tool is {call['name']!r}")
    arguments = call.get("args") or {}
    raw = orjson.dumps(part if "thoughtSignature" in part else arguments).decode()
    taken = {other.id for other in others}
    call_id = call.get("id")
    while not call_id or call_id in taken:
        call_id, number = f"call_{number}", number + 1
    try:
        return ToolCallPart(call_id, call["name"], arguments, raw)
    except MessageError:  # nested beyond reason
        return ToolCallPart(call_id, call["name"], None, raw)


def parse_usage(usage: Any) -> Usage | None:
    """Return the tokens a server reports, or None if it does not, or they cannot be true.

    Thoughts are paid as output, the results of Google's own tools as input.
    """
    if not isinstance(usage, dict):
        return None
    names = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
    if not any(name in usage for name in names):
        return None
    counts = [usage.get(name) or 0 for name in names]  # a count of 0 is left out
    if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts):
        return None
    prompt, tools, candidates, thoughts = counts
    return Usage(prompt + tools, candidates + thoughts)


def parse_embedding_response(body: Any) -> ModelResponse:
    """Return the vectors, in the order of the texts.

    Raises:
        Problem: it is an error in disguise, or holds no vectors.
    """
    error = error_in(body)
    if error is not None:
        raise problem_in(error, status=None, raw=body)
    rows = [body["embedding"]] if "embedding" in body else body.get("embeddings")
    if not rows:
        raise Problem("bad_response", "the answer has no embeddings", raw=body)
    usage = parse_usage(body.get("usageMetadata"))
    return ModelResponse(embedding=[_vector(row["values"]) for row in rows], raw=body, usage=usage)


def _vector(values: Any) -> list[float]:
    if not isinstance(values, list) or not values:
        raise Problem("bad_response", "an embedding is not a list of numbers")
    return values


# -- refusals --


def explain(status: int, body: bytes) -> Problem:
    """Return what an answer with status 300 or above means; takes any bytes."""
    return read_refusal(status, body, error_in, problem_in)


def error_in(body: Any) -> dict[str, Any] | None:
    """Return the error object in a parsed body, or None; stream endpoints may put it in a list of one."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str) and error:
        return {"message": error}
    return error if isinstance(error, dict) else None


def problem_in(error: dict[str, Any], *, status: int | None, raw: Any) -> Problem:
    """Return what an error object says; without ``status`` it came under 200."""
    word, number = error.get("status"), error.get("code")
    details = error.get("details")
    details = [each for each in details if isinstance(each, dict)] if isinstance(details, list) else []
    message = error.get("message")
    text = message if isinstance(message, str) and message else "the server reports an error"
    code = word if isinstance(word, str) and word else number if type(number) is int else None
    type_ = _type(status, word, number, details)
    if type_ == "bad_request" and _TOO_LONG.search(text):
        code = "context_length_exceeded"  # as OpenAI has it: Gemini has no code for it
    return Problem(type_, text, status=status, code=code, retry_after_s=_retry_delay_s(details), raw=raw)


def _type(status: int | None, word: Any, number: Any, details: list[dict[str, Any]]) -> str:
    if any(each.get("reason") == "API_KEY_INVALID" for each in details):
        return "auth"  # it comes as 400 INVALID_ARGUMENT
    if isinstance(word, str) and word in _TYPES:
        type_ = _TYPES[word]
    elif status is not None:
        type_ = type_of_status(status)
    elif type(number) is int and number >= 400:
        type_ = type_of_status(number)
    else:
        known = _STATUSES.get(word) if isinstance(word, str) else None
        type_ = "stream_error" if known is None else type_of_status(known)
    return "quota" if type_ == "rate_limit" and _is_of_the_day(details) else type_


def _is_of_the_day(details: list[dict[str, Any]]) -> bool:
    """Whether the allowance of a day is used up; the RetryInfo that comes with it is of no use."""
    violations = [
        one
        for each in details
        if isinstance(each.get("violations"), list)
        for one in each["violations"]
        if isinstance(one, dict)
    ]
    return any("PerDay" in str(one.get("quotaId")) for one in violations)


def _retry_delay_s(details: list[dict[str, Any]]) -> float | None:
    """Return the seconds of ``"retryDelay": "7.5s"``."""
    for each in details:
        delay = each.get("retryDelay")
        if isinstance(delay, str) and re.fullmatch(r"\d{1,9}(\.\d+)?s", delay):
            return float(delay[:-1])
    return None
