"""What an object was made with, as JSON values: for agents and model wrappers alike."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Collection, Iterable
from typing import Any

from .errors import ConfigError

__all__ = ["json_copy", "misfit", "nearest", "parameters"]

MAX_DEPTH = 64
"""Containers deeper than this, a cycle for instance, are refused."""


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return what the constructor takes, by name; also through ``**kwargs`` to the classes above.

    Those of the class itself come first. ``*args`` and ``**kwargs`` are not among them.
    """
    found: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        if "__init__" not in each.__dict__ or each is object:
            continue
        own = list(inspect.signature(each.__dict__["__init__"]).parameters.values())[1:]
        for one in own:
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                found.setdefault(one.name, one)
        if not any(one.kind is one.VAR_KEYWORD for one in own):
            break
    return found


def nearest(name: str, known: Collection[str]) -> str:
    """Return the question whether the known name most like this one was meant, and a space; or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def misfit(kind: str, given: Iterable[str], known: Collection[str]) -> str:
    """Return what is wrong with the first argument that a class does not take; "" if there is none."""
    for name in given:
        if name not in known:
            hint = nearest(str(name), known)
            if not hint and "generate_args" in known:
                hint = "arguments of calls belong in generate_args; "
            return f"{kind} takes no {name!r}; {hint}known: {', '.join(known)}."
    return ""


def json_copy(value: Any, name: str, remedy: str) -> Any:
    """Return a copy of a JSON value; tuples become lists.

    Args:
        value: what ``name`` was set to.
        name: for the error.
        remedy: what to do if it is none; a sentence.

    Raises:
        ConfigError: JSON has no form for it, or not one that is read back as the same.
    """
    return _copy(value, name, remedy, 0)


def _copy(value: Any, name: str, remedy: str, depth: int) -> Any:
    match value:
        case None | bool():
            return value
        case str() if _is_text(value):
            return str.__str__(value)  # of a member of an enum, too: its text
        case int() if -(2**63) <= value < 2**64:  # what orjson writes
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case list() | tuple() if depth < MAX_DEPTH:
            return [_copy(item, f"{name}[{index}]", remedy, depth + 1) for index, item in enumerate(value)]
        case dict() if depth < MAX_DEPTH and all(isinstance(key, str) and _is_text(key) for key in value):
            return {
                str.__str__(key): _copy(item, f"{name}[{key!r}]", remedy, depth + 1)
                for key, item in value.items()
            }
    raise ConfigError(f"{name} is no JSON value but {type(value).__name__}. {remedy}")


def _is_text(text: str) -> bool:
    """Whether this can be written as UTF-8: halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
