"""Messages as JSON text, one or a list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from ..errors import MessageError
from .msg import Msg

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["deserialize", "serialize"]


def serialize(messages: Msg | Sequence[Msg]) -> str:
    """Return one message, or a list of them, as JSON text.

    Raises:
        MessageError: something in the list is not a message.
    """
    if isinstance(messages, Msg):
        return orjson.dumps(messages.to_dict()).decode()
    for index, item in enumerate(messages):
        if not isinstance(item, Msg):
            raise MessageError(f"[{index}]", f"{type(item).__name__} is not a message")
    return orjson.dumps({"__type": "List", "__value": [msg.to_dict() for msg in messages]}).decode()


def deserialize(text: str | bytes) -> Msg | list[Msg]:
    """Rebuild what :func:`serialize` wrote, ids included.

    Raises:
        MessageError: not JSON, an unknown kind, or a value no message may hold.
    """
    try:
        wire = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MessageError("", f"not JSON: {error}") from error
    if not isinstance(wire, dict):
        raise MessageError("", f"a message is a JSON object, not {type(wire).__name__}")
    if "__type" not in wire:
        raise MessageError("__type", "is missing")
    if wire["__type"] != "List":
        return Msg.from_dict(wire)
    if not isinstance(wire.get("__value"), list):
        raise MessageError("__value", "must be a list")
    return [Msg.from_dict(item) for item in wire["__value"]]
