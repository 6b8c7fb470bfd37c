"""Objects in what models write: JSON, JSON in a fence or in a sentence, Python's notation, broken JSON."""

from __future__ import annotations

import ast
import re
from typing import Any

import orjson

from .message import freeze

__all__ = ["read_object"]

MAX_LENIENT = 100_000
"""Characters beyond which an answer that is not JSON is not looked at any further."""

MAX_REPAIR = 4_000
"""The same for json-repair, whose time grows with the square of what it has to repair."""

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


def read_object(text: str) -> dict[str, Any] | None:
    """Return the object a text holds, as plain JSON values, or None.

    Takes JSON, JSON in a fenced block, and an object in Python's notation (single quotes);
    with the package json-repair installed (extra ``json``) also broken JSON.
    """
    text = text.strip()
    fenced = _FENCED.search(text)
    for candidate in (text, fenced.group(1).strip() if fenced else ""):
        found = _read(candidate) if candidate else None
        if found is not None:
            return found
    return None


def _read(text: str) -> dict[str, Any] | None:
    for read in (orjson.loads, _read_python, _repair):
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


def _repair(text: str) -> Any:
    try:
        import json_repair
    except ImportError:
        return None
    return json_repair.loads(text) if len(text) <= MAX_REPAIR and "{" in text else None
