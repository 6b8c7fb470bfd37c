"""What went wrong, as OpenAI's clients are told.

Source: platform.openai.com/docs/guides/error-codes; the official client makes its exceptions of
the status, and retries 408, 409, 429 and all from 500 unless ``x-should-retry`` says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from .problems import Problem, Refusal, problem_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.responses import Response

__all__ = ["BadParameter", "Fault", "UnknownModel", "fault_of", "fault_of_http", "fault_of_validation"]

MAX_CHARACTERS = 200
"""Of what a client sent and is told about."""

_AS_OPENAI_HAS_IT = {
    "budget": (429, "insufficient_quota", "insufficient_quota"),
    "too_long": (400, "invalid_request_error", "context_length_exceeded"),
    "filtered": (400, "invalid_request_error", "content_filter"),
    "interrupted": (500, "server_error", "interrupted"),
    "cancelled": (500, "server_error", "cancelled"),
}


class Fault:
    """An answer that is an error, in OpenAI's form."""

    def __init__(self, problem: Problem, *, param: str | None = None) -> None:
        type = "server_error" if problem.status >= 500 else "invalid_request_error"
        status, type, code = _AS_OPENAI_HAS_IT.get(problem.type, (problem.status, type, problem.type))
        self.status = status
        self.headers = dict(problem.headers)
        if problem.type == "budget":
            self.headers["x-should-retry"] = "false"
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        self.body: dict[str, Any] = {
            "error": {"message": problem.message, "type": type, "param": param, "code": code}
        }

    def response(self) -> Response:
        """Return it as the answer to a request."""
        return JSONResponse(self.body, self.status, self.headers)


class BadParameter(Refusal):
    """A parameter is not what it may be here."""

    def __init__(self, param: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(400, code, message)
        self.param: str | None = param


class UnknownModel(BadParameter):
    """The client asked for a model that is not there."""

    def __init__(self, name: str) -> None:
        super().__init__("model", f"The model {_clean(name)!r} does not exist.", "model_not_found")
        self.problem = Problem(404, self.problem.type, self.problem.message)


def fault_of(error: BaseException) -> Fault:
    """Return what a client is told of what went wrong."""
    return Fault(problem_of(error), param=getattr(error, "param", None))


def fault_of_http(status: int, detail: object, headers: Mapping[str, str] | None) -> Fault:
    """Return what a client is told of an HTTPException of the application."""
    code = {401: "invalid_api_key", 403: "permission_denied", 429: "rate_limit_exceeded"}.get(
        status, "refused"
    )
    fault = Fault(Problem(status, code, _clean(str(detail), 1000)))
    fault.headers.update(headers or {})
    return fault


def fault_of_validation(errors: Sequence[Any]) -> Fault:
    """Return what a client is told of a body that is not valid: its first fault."""
    first: dict[str, Any] = errors[0] if errors else {"type": "", "loc": (), "msg": "not valid"}
    if first["type"] == "json_invalid":
        return Fault(Problem(400, "invalid_json", "The body is not JSON."))
    param = _clean(".".join(str(each) for each in first["loc"][1:]))
    code, text = "invalid_value", f"{param}: {_clean(first['msg'], 1000)}."
    if first["type"] == "extra_forbidden":
        code, text = "unknown_parameter", f"Unknown parameter: {param!r}."
    elif first["type"] == "missing":
        code, text = "missing_required_parameter", f"Missing required parameter: {param!r}."
    return Fault(Problem(400, code, text), param=param or None)


def _clean(text: str, characters: int = MAX_CHARACTERS) -> str:
    """Return what can be written as UTF-8 of a text, and not too much."""
    return text[:characters].encode("utf-8", "replace").decode()
