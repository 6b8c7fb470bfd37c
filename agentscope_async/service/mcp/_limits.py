"""How large a message may be, so that reading a hostile one does not hold up the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_types import JSONRPCError

__all__ = ["MAX_MESSAGE_BYTES", "is_moderate", "refusal"]

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of one message. A text of this size takes the loop some 20 ms."""

MAX_VALUES = 100_000
MAX_OBJECTS = 5_000
"""In one message. The package checks each object in a list of contents, some 10 microseconds for each."""


def is_moderate(value: Any) -> bool:
    """Whether a JSON value holds no more values and objects than a message may."""
    values = objects = 0
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            objects += 1
            each = list(each.values())
        if isinstance(each, list):
            values += len(each)
            if values > MAX_VALUES or objects > MAX_OBJECTS:
                return False
            waiting += [item for item in each if isinstance(item, (dict, list))]
    return True


def refusal(id: Any) -> JSONRPCError:
    """Return what the request ``id`` is answered with in the place of an immoderate answer.

    Raises:
        ValueError: that is no id.
    """
    from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError

    problem = f"the answer holds more than {MAX_VALUES:,} values or {MAX_OBJECTS:,} objects"
    return JSONRPCError(jsonrpc="2.0", id=id, error=ErrorData(code=INTERNAL_ERROR, message=problem))
