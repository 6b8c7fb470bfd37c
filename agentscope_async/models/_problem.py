"""What went wrong with one request, before it is known whose: from an answer to a typed error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from .. import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._http_answer import HttpAnswer

__all__ = ["Problem", "head", "plain_text", "read_refusal", "request_id_of", "type_of_status", "unreadable"]

CLASSES: dict[str, type[errors.ModelError]] = {
    each.type: each
    for each in (
        errors.AuthFailed,
        errors.BadRequest,
        errors.BadResponse,
        errors.Conflict,
        errors.ConnectionFailed,
        errors.ContentFiltered,
        errors.ModelTimeout,
        errors.NotFound,
        errors.Overloaded,
        errors.PermissionDenied,
        errors.QuotaExhausted,
        errors.RateLimited,
        errors.ServerError,
    )
}
"""Error classes by ``type``; the two types of PartialStreamError are made where text was handed out."""

_BY_STATUS = {
    400: "bad_request",
    401: "auth",
    402: "quota",
    403: "permission",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    413: "bad_request",
    422: "bad_request",
    425: "conflict",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
_CONTEXT_CODES = ("context_length_exceeded", "string_above_max_length", 40303)
_REQUEST_IDS = ("x-request-id", "request-id", "x-dashscope-request-id", "x-ms-request-id")
MESSAGE_CHARACTERS = 4096
"""So much of what a server says of a failure is in the text of the error."""
MAX_RAW_BYTES = 100_000
HEAD_CHARACTERS = 1024
"""So much of an answer that cannot be read is kept on the error."""


def type_of_status(status: int) -> str:
    """Return the error type an HTTP status stands for when the body says nothing better."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return "server"
    return "bad_request" if status >= 400 else "bad_response"


class Problem(Exception):
    """An answer that is not what was asked for; the shared path makes a ModelError of it.

    Provider modules raise it from ``parse_response`` and from a stream's ``feed``, and
    return it from ``explain``. ``type`` is one of the types of errors.py, or
    ``"stream_error"`` for an error event that says nothing better.
    """

    def __init__(
        self,
        type: str,
        message: str,
        *,
        status: int | None = None,
        code: str | int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
        raw: Any = None,
    ) -> None:
        from .._redact import redact_text

        # Redacted here already: a traceback of the ModelError shows this error, too.
        self.message = redact_text(message[:MESSAGE_CHARACTERS])
        super().__init__(self.message)
        self.type = type
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.retryable = retryable
        self.raw = raw

    @property
    def is_retryable(self) -> bool:
        """The same request may succeed later."""
        if self.retryable is not None:
            return self.retryable
        kind = CLASSES.get(self.type)
        return kind is None or kind.retryable

    def as_error(self, provider: str, model: str, *, attempts: int) -> errors.ModelError:
        """Return the ModelError for this problem.

        A ``stream_error`` here is one that came before anything was handed out: a
        failure of the server.
        """
        if self.type == "truncated":
            return self.as_partial(provider, model, attempts=attempts, text="")
        kind = CLASSES.get(self.type, errors.ServerError)
        if kind is errors.BadRequest and self.code in _CONTEXT_CODES:
            kind = errors.ContextTooLong
        error = kind(self._text(provider, model), **self._facts(provider, model, attempts))
        if self.retryable is not None:
            error.retryable = self.retryable
        return error

    def as_partial(self, provider: str, model: str, *, attempts: int, text: str) -> errors.ModelError:
        """Return the error for a problem that came after ``text`` was handed out: never retried.

        A refusal keeps its class (ContentFiltered, say); what could have been retried
        becomes a PartialStreamError.
        """
        facts = self._facts(provider, model, attempts)
        facts["partial_text"] = text
        kind = CLASSES.get(self.type)
        if kind is not None and not kind.retryable:
            error = kind(self._text(provider, model), **facts)
        else:
            is_cut = self.type in ("truncated", "connection", "timeout") and self.code is None
            error = errors.PartialStreamError(
                self._text(provider, model), type="truncated" if is_cut else "stream_error", **facts
            )
        error.retryable = False
        return error

    def _text(self, provider: str, model: str) -> str:
        from .._redact import redact_text

        known = dict.fromkeys(str(each) for each in (self.status, self.code) if each is not None)
        facts = f" ({', '.join(known)})" if known else ""
        wait = "" if self.retry_after_s is None else f"; it may be asked again in {self.retry_after_s:g} s"
        call = f" [request {self.request_id}]" if self.request_id else ""
        return redact_text(f"{provider} model {model!r} failed{facts}: {self.message}{wait}{call}")

    def _facts(self, provider: str, model: str, attempts: int) -> dict[str, Any]:
        from .._redact import redact

        return {
            "provider": provider,
            "model": model,
            "status": self.status,
            "code": redact(self.code),
            "request_id": redact(self.request_id),
            "attempts": attempts,
            "retry_after_s": self.retry_after_s,
            "raw": redact(_kept(self.raw)),
        }


def _kept(raw: Any) -> Any:
    """Return an answer, or the beginning of its text where searching all of it would take long."""
    try:
        text = orjson.dumps(raw)
    except TypeError:  # nested deeper than JSON is written, or no JSON
        return raw
    return raw if len(text) <= MAX_RAW_BYTES else head(text)


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """Return the provider's id of a call, from its answer's headers (names in lower case)."""
    for name in _REQUEST_IDS:
        if name in headers:
            return headers[name]
    return None


def head(body: bytes) -> str:
    """Return the beginning of a body as text, for errors."""
    return body[: HEAD_CHARACTERS * 4].decode("utf-8", "replace")[:HEAD_CHARACTERS]


_HIDDEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.I | re.S)
_TAG = re.compile(r"<[^>]*>")


def plain_text(body: bytes) -> str:
    """Return the beginning of a body as one line of text, without HTML."""
    text = head(body)
    if "<" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    return " ".join(text.split())


def unreadable(error: Exception, answer: HttpAnswer, raw: Any) -> Problem:
    """Return what it is when an answer cannot be understood."""
    if isinstance(error, orjson.JSONDecodeError):
        kind = answer.headers.get("content-type", "no content type")
        text = f"the answer is not JSON but {kind}: {error}"
    else:
        text = f"the answer is not in the provider's form: {type(error).__name__}: {error}"
    return Problem(
        "bad_response", text, status=answer.status, request_id=request_id_of(answer.headers), raw=raw
    )


def read_refusal(
    status: int,
    body: bytes,
    error_in: Callable[[Any], dict[str, Any] | None],
    problem_in: Callable[..., Problem],
) -> Problem:
    """Return what a refusal means, where a provider says how it writes errors in JSON.

    Args:
        status: the HTTP status.
        body: any bytes; what is not the provider's JSON (a gateway's page, say) is told by the status.
        error_in: finds the error object in a parsed body.
        problem_in: reads it; called with ``status=`` and ``raw=``.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    error = error_in(parsed)
    if error is None:
        text = plain_text(body) or "the server gave no explanation"
        return Problem(type_of_status(status), text, status=status, raw=parsed or head(body) or None)
    return problem_in(error, status=status, raw=parsed)
