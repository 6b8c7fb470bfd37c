"""What is in the body of an ask or a tell: a message, and what goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _context
from ..errors import MessageError
from ..message import ContentPart, Msg, Speech
from ..message.msg import TEXTS, Texts, from_texts, texts_of
from ..models._media import is_local
from ..reply import Reply
from ._grammar import is_secret
from ._replies import reference_of, referred

if TYPE_CHECKING:
    from .bridge import Bridge
    from .node import Node

__all__ = [
    "Body", "answer_of", "body_of", "fields_of", "read_body", "read_msg", "read_speech",
    "read_state", "speech_part", "spelled_out",
]  # fmt: skip


class Body(NamedTuple):
    """A message (None, a Msg, a list of them, a Reply), keywords for ``reply``, a trace, a result's id."""

    x: Any
    kwargs: dict[str, Any]
    trace: str | None
    reply_id: str


def body_of(x: Any, kwargs: dict[str, Any] | None, node: Node) -> dict[str, Any] | Texts:
    """Return the body for a message as ``agents._mail.incoming`` gives it: its texts if that is all.

    Raises:
        MessageError: something in it has no wire form.
    """
    if not kwargs and isinstance(x, Msg) and _context.trace_id.get() is None:
        texts = texts_of(x)
        if texts is not None:
            return texts
    return fields_of(x, kwargs, node)


def fields_of(x: Any, kwargs: dict[str, Any] | None, node: Node) -> dict[str, Any]:
    """Return the body as an object, to which more can be added; raises as ``body_of``."""
    body: dict[str, Any] = {"x": x.to_dict() if isinstance(x, Msg) else _plain(x, node)}
    if kwargs:
        body["kw"] = Msg("keywords", kwargs, "user").to_dict()["content"]  # checks that all of it is JSON
    trace = _context.trace_id.get()
    if trace is not None:
        body["trace"] = trace
    return body


def answer_of(msg: Msg) -> dict[str, Any] | Texts:
    """Return the body of a reply."""
    return texts_of(msg) or msg.to_dict()


def spelled_out(body: Any) -> Any:
    """Return a body that came as the texts of a message as the object it stands for."""
    if type(body) is not tuple:
        return body
    return {"x": {"__type": "Msg", **dict(zip(TEXTS, body, strict=False))}}


def _plain(x: Any, node: Node) -> Any:
    if x is None:
        return None
    if isinstance(x, Reply):
        return reference_of(x, node)
    return [each.to_dict() for each in x]


def read_body(body: Any, bridge: Bridge) -> Body:
    """Return what :func:`body_of` was given; sets the trace of the code it is called by.

    Raises:
        MessageError: the body is none.
    """
    if type(body) is tuple:
        return Body(from_texts(body), {}, None, "")
    if type(body) is not dict:
        raise MessageError("body", f"is a JSON object with the message as 'x', not {type(body).__name__}")
    kwargs, trace, reply_id = body.get("kw", {}), body.get("trace"), body.get("rid", "")
    if type(kwargs) is not dict:
        raise MessageError("kw", "is an object of keywords")
    if trace is not None:
        if type(trace) is not str or not 0 < len(trace) <= 64 or not trace.isprintable():
            raise MessageError("trace", "is a text of 1 to 64 printable characters")
        _context.join_trace(trace)
    if reply_id != "" and not is_secret(reply_id):
        raise MessageError("rid", "is 32 hex digits")
    return Body(_read(body.get("x"), bridge), kwargs, trace, reply_id)


def _read(x: Any, bridge: Bridge) -> Any:
    if x is None:
        return None
    if type(x) is list:
        return [read_msg(each, bridge) for each in x]
    if type(x) is dict and x.get("__type") == "Reply":
        return referred(x, bridge)
    return read_msg(x, bridge)


def read_msg(wire: Any, bridge: Bridge) -> Msg:
    """Return a message that came over a bridge.

    A path in it would be one of this machine: a model that is shown the message would read that
    file. Only a node that we started, or that started us, is on this machine and may name one.

    Raises:
        MessageError: it is none, or names a file.
    """
    if type(wire) is tuple:
        return from_texts(wire)
    msg = Msg.from_dict(wire)
    if (msg.url is not None or type(msg.content) is not str) and not bridge.is_family:
        if any(map(is_local, _urls_in(msg))):
            raise MessageError("url", "of a message from another node is http, https or data, no file")
    return msg


def _urls_in(msg: Msg) -> Iterator[str]:
    yield from [msg.url] if isinstance(msg.url, str) else msg.url or ()
    yield from _urls_of(msg.content)


def _urls_of(parts: Any) -> Iterator[str]:
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, ContentPart):
            url = getattr(part, "url", None)
            if isinstance(url, str):
                yield url
            yield from _urls_of(getattr(part, "content", None))


def names_file(value: Any) -> bool:
    """Whether a value from another node holds, somewhere, a message with a path of this machine."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            urls = value.get("url")
            urls = urls if isinstance(urls, list) else [urls]
            if any(isinstance(url, str) and is_local(url) for url in urls):
                return True
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return False


def read_state(x: Any, bridge: Bridge) -> dict[str, Any]:
    """Return the state that is the content of a message."""
    if not isinstance(x, Msg) or not isinstance(x.content, dict):
        raise MessageError("x", "is a message with the state as its content")
    state: dict[str, Any] = x.to_dict()["content"]
    if not bridge.is_family and names_file(state):
        raise MessageError("url", "of what another node gives to remember is http, https or data, no file")
    return state


def speech_part(content: Msg | Speech | str) -> dict[str, Any]:
    """Return a spoken piece as part of a reply."""
    if isinstance(content, Speech):
        data = content.data
        return {
            "kind": content.kind,
            "text": content.text,
            "data": data.to_dict() if isinstance(data, ContentPart) else None,
        }
    return {"said": content if isinstance(content, str) else content.to_dict()}


def read_speech(part: Any, bridge: Bridge) -> Msg | Speech | str:
    """Return what :func:`speech_part` was given.

    Raises:
        MessageError: it is none.
    """
    if type(part) is not dict:
        raise MessageError("part", "is an object")
    if "said" in part:
        said = part["said"]
        return said if type(said) is str else read_msg(said, bridge)
    kind, text = part.get("kind"), part.get("text")
    if kind not in ("text", "thinking", "tool_call", "tool_result") or type(text) is not str:
        raise MessageError("part", "has an unknown kind, or no text")
    data = part.get("data")
    if data is not None:
        data = read_msg({"name": "speech", "content": [data], "role": "assistant"}, bridge).content[0]
        if not isinstance(data, ContentPart):
            raise MessageError("part", "has data that is no content part")
    return Speech(kind, text, data)
