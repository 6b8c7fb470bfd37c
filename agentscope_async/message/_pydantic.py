"""How pydantic, and so FastAPI, reads, writes and describes messages."""

from __future__ import annotations

from typing import Any

from ..errors import MessageError
from .msg import MSG_TYPES, ROLES, Msg, as_msg

__all__ = ["core_schema_of", "json_schema"]


def core_schema_of(kind: type[Msg]) -> Any:
    """Return the schema by which pydantic reads messages of a kind, or their wire form, and writes that."""
    from pydantic_core import core_schema

    def read(value: Any) -> Msg:
        msg = as_msg(value) if isinstance(value, (Msg, str)) else Msg.from_dict(value)
        if not isinstance(msg, kind):
            raise MessageError("__type", f"expected {kind.__name__}, got {type(msg).__name__}")
        return msg

    return core_schema.no_info_plain_validator_function(
        read, serialization=core_schema.plain_serializer_function_ser_schema(lambda msg: msg.to_dict())
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the wire form."""
    text = {"type": "string"}
    return {
        "title": "Msg",
        "type": "object",
        "properties": {
            "__type": {"enum": sorted(MSG_TYPES), "default": "Msg"},
            "id": {**text, "pattern": "^[0-9a-f]{32}$"},
            "timestamp": text,
            "name": text,
            "content": {"description": "a string, any JSON value, or a list of content parts"},
            "url": {"anyOf": [text, {"type": "array", "items": text}, {"type": "null"}]},
            "role": {"enum": list(ROLES), "default": "assistant"},
        },
        "required": ["name", "content"],
        "additionalProperties": True,
    }
