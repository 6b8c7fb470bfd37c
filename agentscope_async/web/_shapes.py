"""What goes over HTTP, as OpenAPI describes it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header
from pydantic import AfterValidator, BaseModel, BeforeValidator, TypeAdapter, WithJsonSchema

from ..message import Msg, Tht
from .streaming import EVENTS_SCHEMA

__all__ = [
    "CARRIES_SESSION",
    "EVENTS",
    "EventId",
    "Health",
    "PROBLEMS",
    "ProblemAnswer",
    "SESSION",
    "SESSION_HEADER",
    "SESSION_ID",
    "Said",
    "SessionId",
]

SESSION = "X-Session-Id"
WEB = ("http://", "https://", "data:")


class ProblemBody(BaseModel):
    """What went wrong."""

    type: str
    message: str
    retry_after_s: int | None = None


class ProblemAnswer(BaseModel):
    """An answer that is an error."""

    error: ProblemBody


class Health(BaseModel):
    """How the service fares."""

    status: str
    turns: int
    max_turns: int


def _as_a_users(value: Any) -> Any:
    return {"role": "user", **value} if isinstance(value, dict) else value


def _harmless(msg: Msg) -> Msg:
    """Refuse what a stranger must not say: the part of the system, or which of our files to read."""
    if isinstance(msg, Tht):
        raise ValueError("a thought is not said to others")
    if msg.role not in ("user", "assistant"):
        raise ValueError(f"the role of a message from outside is user or assistant, not {msg.role}")
    if not all(url.startswith(WEB) for url in _urls(msg.to_dict(), is_msg=True)):
        raise ValueError("a url is http:, https: or data:")
    return msg


def _urls(value: Any, *, is_msg: bool = False) -> list[str]:
    """Return the URLs of a message and all of its parts."""
    if isinstance(value, list):
        return [url for each in value for url in _urls(each)]
    if not isinstance(value, dict):
        return []
    own = value.get("url") if is_msg or "__part" in value else None
    below = [url for key, each in value.items() for url in _urls(each)]
    return [*(own if isinstance(own, list) else [own] if own is not None else []), *below]


_SCHEMA = TypeAdapter(Msg).json_schema()
_SCHEMA["properties"]["role"] = {"enum": ["user", "assistant"], "default": "user"}
_SCHEMA["properties"]["__type"] = {"enum": ["Msg"], "default": "Msg"}
_SCHEMA["examples"] = [{"name": "Ann", "content": "Hello"}]
_SCHEMA["properties"]["url"]["anyOf"][0] = {"type": "string", "pattern": "^(https?://|data:)"}
_SCHEMA["properties"]["url"]["anyOf"][1]["items"] = _SCHEMA["properties"]["url"]["anyOf"][0]
Said = Annotated[Msg, BeforeValidator(_as_a_users), AfterValidator(_harmless), WithJsonSchema(_SCHEMA)]
"""A message from outside."""

# Their patterns are documented here and checked by us, so that errors have our form.
SESSION_ID = WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{32}$"})
_EVENT_ID = WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{32}-[0-9]{1,9}$"})
SESSION_HEADER = Header(alias=SESSION, description="As an earlier answer carried it.")
_EVENT_HEADER = Header(alias="Last-Event-ID", description="Go on after this event.")
SessionId = Annotated[str | None, SESSION_ID, SESSION_HEADER]
EventId = Annotated[str | None, _EVENT_ID, _EVENT_HEADER]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer, "description": description}
    for status, description in {
        400: "the body is not JSON, or an id is none",
        404: "there is no such session",
        409: "the turn was interrupted",
        413: "the message or the conversation is too large",
        415: "the body is not said to be JSON",
        422: "the message is not valid, or the model refuses it",
        429: "the budget is used up",
        500: "the service failed",
        502: "the model failed",
        503: "too much to do; see Retry-After",
        504: "no answer in time",
    }.items()
}
EVENTS = {"text/event-stream": {"itemSchema": EVENTS_SCHEMA}}
CARRIES_SESSION = {SESSION: {"description": "the session's id", "schema": {"type": "string"}}}
