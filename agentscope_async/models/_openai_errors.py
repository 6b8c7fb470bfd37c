"""What refusals of OpenAI and of the servers that speak its dialect mean."""

from __future__ import annotations

import json
import re
from typing import Any

from ._problem import Problem, read_refusal, type_of_status

__all__ = ["error_in", "explain", "problem_in"]

# platform.openai.com/docs/guides/error-codes; learn.microsoft.com/azure/ai-services/openai,
# "content filtering". These say more than the status they come with.
_TYPES_BY_NAME = {
    "insufficient_quota": "quota",
    "billing_hard_limit_reached": "quota",
    "billing_not_active": "quota",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
    "moderation_blocked": "content_filter",
    "ResponsibleAIPolicyViolation": "content_filter",
    "invalid_api_key": "auth",
    "model_not_found": "not_found",
    "rate_limit_exceeded": "rate_limit",
    "unsupported_country_region_territory": "permission",
}
# These are only asked where no status tells: under 200, in an answer or a stream.
_TYPES_WITHOUT_STATUS = {
    "authentication_error": "auth",
    "invalid_request_error": "bad_request",
    "BadRequestError": "bad_request",
    "NotFoundError": "not_found",
    "context_length_exceeded": "bad_request",
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limit",
    "requests": "rate_limit",
    "tokens": "rate_limit",
    "server_error": "server",
    "InternalServerError": "server",
}
# FastChat 0.2.36, fastchat/constants.py, ErrorCode; its status is always 400.
_TYPES_BY_NUMBER = {
    40101: "auth",
    40102: "auth",
    40103: "permission",
    40301: "not_found",
    40302: "bad_request",
    40303: "bad_request",
    42901: "rate_limit",
    42902: "quota",
    42903: "overloaded",
    50006: "timeout",
}
_TOO_LONG = re.compile(r"maximum context length|context size|context window|context length exceeded", re.I)


def explain(status: int, body: bytes) -> Problem:
    """Return what an answer with status 300 or above means; takes any bytes."""
    return read_refusal(status, body, error_in, problem_in)


def error_in(body: Any) -> dict[str, Any] | None:
    """Return the error object in a parsed body, or None.

    OpenAI nests it under ``error``, older vLLM and FastChat send it flat, FastAPI's own
    errors are a ``detail``, and some gateways give a mere text or a list of one.
    """
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        return None
    for name in ("error", "detail"):
        inner = body.get(name)
        if isinstance(inner, dict):
            return inner
        if inner:
            return {"message": inner if isinstance(inner, str) else json.dumps(inner)}
    is_flat = "error_code" in body or body.get("object") == "error"
    is_flat = is_flat or ("message" in body and "choices" not in body and "data" not in body)
    return body if is_flat else None


def problem_in(error: dict[str, Any], *, status: int | None = None, raw: Any = None) -> Problem:
    """Return what an error object says; without ``status`` it came under 200."""
    code = error.get("code", error.get("error_code"))
    if isinstance(code, bool) or not isinstance(code, (str, int)) or code == "":
        code = None
    kind = error.get("type") if isinstance(error.get("type"), str) else None
    message = error.get("message") or error.get("text")
    text = message if isinstance(message, str) else kind or "the server reports an error"
    type = _type(status, code, kind, error.get("innererror"))
    if type == "bad_request" and code != 40303 and _is_too_long(kind, text):
        code = "context_length_exceeded"  # servers that count for themselves put 400 or nothing here
    return Problem(type, text, status=status, code=code, raw=error if raw is None else raw)


def _type(status: int | None, code: str | int | None, kind: str | None, inner: Any) -> str:
    names = [name for name in (code, kind) if isinstance(name, str)]
    if isinstance(inner, dict) and isinstance(inner.get("code"), str):
        names.append(inner["code"])
    for name in names:
        if name in _TYPES_BY_NAME:
            return _TYPES_BY_NAME[name]
    if isinstance(code, int) and code >= 10_000:
        return _TYPES_BY_NUMBER.get(code) or type_of_status(code // 100)
    if status is not None:
        return type_of_status(status)
    if isinstance(code, int) and code >= 400:
        return type_of_status(code)
    return next(
        (_TYPES_WITHOUT_STATUS[name] for name in names if name in _TYPES_WITHOUT_STATUS), "stream_error"
    )


def _is_too_long(kind: str | None, text: str) -> bool:
    return kind == "exceed_context_size_error" or _TOO_LONG.search(text) is not None
