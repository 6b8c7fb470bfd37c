"""What a service says about itself to the toolkits it is added to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

__all__ = ["Danger", "Marks", "marked", "marks_of"]

Danger: TypeAlias = bool | Callable[[Mapping[str, Any]], bool]
"""Whether a tool can do harm; a function is given the presets it is added with."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known about a function that may become a tool.

    Attributes:
        untrusted: what it returns was written by strangers; the parameter that names where
            it comes from, or True where none does.
        dangerous: it can destroy or change things outside of the conversation.
        granted: parameters that give rights; only the program sets them, never a model.
        ends_itself: it has a time limit of its own and says what there was until then.
    """

    untrusted: str | bool = False
    dangerous: Danger = False
    granted: frozenset[str] = frozenset()
    ends_itself: bool = False


_UNMARKED = Marks()


def marked(
    *,
    untrusted: str | bool = False,
    dangerous: Danger = False,
    granted: Collection[str] = (),
    ends_itself: bool = False,
) -> Callable[[Function], Function]:
    """Mark a service; see :class:`Marks`. The function itself stays what it is."""
    marks = Marks(untrusted, dangerous, frozenset(granted), ends_itself)

    def mark(function: Function) -> Function:
        function.__tool_marks__ = marks  # type: ignore[attr-defined]  # an attribute of our own
        return function

    return mark


def marks_of(function: Callable[..., Any]) -> Marks:
    """Return a function's marks, also through ``functools.partial`` and bound methods."""
    inner = function.func if isinstance(function, functools.partial) else function
    found: Marks = getattr(inner, "__tool_marks__", _UNMARKED)
    return found
