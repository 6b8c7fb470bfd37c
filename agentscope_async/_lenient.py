"""Objects in what models write: JSON, JSON in a fence or in a sentence, Python's notation, broken JSON."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import orjson

from .message.parts import freeze

__all__ = ["is_whole_object", "read_object"]

MAX_LENIENT = 100_000
"""Characters beyond which an answer that is not JSON is not looked at any further."""

MAX_REPAIR = 4_000
"""The same for json-repair, whose time grows with the square of what it has to repair."""

MAX_TRIES = 20
"""So many braces may be tried as the beginning of the object."""

_FENCED = re.compile(r"```(?:json)?\s*(\{.*?\})\s*```", re.DOTALL | re.IGNORECASE)
_DECODER = json.JSONDecoder(strict=False)
"""Takes line breaks inside of strings."""


def read_object(text: str, *, may_repair: bool = True, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """Return the object a text holds, as plain JSON values, or None.

    Takes JSON, JSON in a fenced block, and an object in Python's notation (single quotes); with
    ``keys`` also the first object in a sentence that has one of them.

    Args:
        text: what a model wrote.
        may_repair: also broken JSON, by json-repair where it is installed (extra ``json``). It ends
            somehow what was cut off in the middle, so not for what is to be acted upon.
        keys: what an object in a sentence has to have at least one of.
    """
    text = text.strip()
    try:
        value = orjson.loads(text)
    except ValueError:
        fenced = _FENCED.search(text)
    else:
        return _read(text, [orjson.loads]) if isinstance(value, dict) else None
    for candidate in (text, fenced[1] if fenced else ""):
        found = _read(candidate, [orjson.loads, _read_python]) if candidate else None
        if found is not None:
            return found
    found = _read(text, [lambda text: _first_with(text, keys)]) if keys else None
    return found or (_read(text, [_repair]) if may_repair else None)


def is_whole_object(text: str) -> bool:
    """Whether a text is meant to be an object and nothing else: not one that quotes one."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    return fenced is not None or (text.startswith("{") and text.endswith("}"))


def _read(text: str, readers: list[Callable[[str], Any]]) -> dict[str, Any] | None:
    for read in readers:
        try:
            value = orjson.loads(orjson.dumps(read(text)))
            freeze(value, "answer")  # what no message may hold is no answer either
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _read_python(text: str) -> Any:
    return ast.literal_eval(text) if len(text) <= MAX_LENIENT else None


def _first_with(text: str, keys: Collection[str]) -> Any:
    """Return the first object in a text that is JSON and has one of the keys."""
    start = -1
    for _ in range(MAX_TRIES if len(text) <= MAX_LENIENT else 0):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        with suppress(ValueError, RecursionError):
            value, _ = _DECODER.raw_decode(text, start)
            if any(key in value for key in keys):
                return value
    return None


def _repair(text: str) -> Any:
    try:
        import json_repair
    except ImportError:
        return None
    return json_repair.loads(text) if len(text) <= MAX_REPAIR and "{" in text else None
