"""JSON values inside a message: checked once, and frozen."""

from __future__ import annotations

import math
from typing import Any

from ..errors import MessageError
from .usage import Usage

__all__ = ["MAX_DEPTH", "MAX_ELEMENTS", "Freezer", "FrozenDict", "FrozenList", "checked_text"]

MAX_DEPTH = 64
"""Containers may nest this deep in ``content`` and extra fields."""
MAX_ELEMENTS = 100_000
"""Values in one field; stops inputs that share sub-trees to grow without bound."""


class FrozenDict(dict[str, Any]):
    """A JSON object inside a message: a dict that refuses changes; ``dict(x)`` is a free copy."""

    __slots__ = ()

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("The content of a message is frozen; change a copy: dict(content) or list(content)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> Any:  # what pickle and deepcopy make of it is free as well
        return dict, (dict(self),)


class FrozenList(list[Any]):
    """A JSON array inside a message: a list that refuses changes; ``list(x)`` is a free copy."""

    __slots__ = ()

    _refuse = FrozenDict._refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __reduce__(self) -> Any:
        return list, (list(self),)


class Freezer:
    """One walk over a value; counts what it sees.

    Raises:
        MessageError: naming the path of the value that no message may hold.
    """

    def __init__(self) -> None:
        self._elements = 0

    def freeze(self, value: Any, field: str, depth: int) -> Any:
        """Return a frozen copy of a JSON value, found at the path ``field``, so many containers deep."""
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise MessageError(field.split(".")[0].split("[")[0], f"holds more than {MAX_ELEMENTS:,} values")
        match value:
            case None | bool():
                return value
            case str():
                return checked_text(value, field)
            case int():
                return _checked_int(value, field)
            case float():
                if not math.isfinite(value):
                    raise MessageError(field, f"{value} has no JSON form; use null or a string")
                return float(value)
            case dict() | list() | tuple() if not isinstance(value, Usage):
                return self._freeze_container(value, field, depth + 1)
        raise MessageError(field, f"{type(value).__name__} is not a JSON value or a content part")

    def _freeze_container(self, value: Any, field: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise MessageError(field[:200], f"is nested deeper than {MAX_DEPTH}, or holds itself")
        if not isinstance(value, dict):
            return FrozenList(self.freeze(item, f"{field}[{i}]", depth) for i, item in enumerate(value))
        frozen = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise MessageError(field, f"key {key!r:.80} is {type(key).__name__}; JSON keys are strings")
            if key == "__part":
                raise MessageError(field, "'__part' is reserved for content parts")
            frozen[checked_text(key, field)] = self.freeze(item, f"{field}.{key[:100]}", depth)
        return FrozenDict(frozen)


def checked_text(value: Any, field: str) -> str:
    """Return ``value`` as a plain string.

    Raises:
        MessageError: it is no string, or holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise MessageError(field, f"must be a string, not {type(value).__name__}")
    text = str.__str__(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MessageError(field, f"has a lone surrogate at position {error.start}") from None
    return text


def _checked_int(value: int, field: str) -> int:
    if not -(2**63) <= value < 2**64:
        raise MessageError(field, "is a whole number beyond 64 bits; send it as a string")
    return int(value)
