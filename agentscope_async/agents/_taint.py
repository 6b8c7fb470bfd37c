"""Which of what an agent has read was written by strangers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..message import Msg

__all__ = ["FIELD", "sources", "tainted"]

FIELD = "untrusted"
"""The field of a message that lists where untrusted content in it, or behind it, came from."""

MAX_SOURCES = 20


def sources(msgs: Iterable[Any]) -> tuple[str, ...]:
    """Return where untrusted content in the messages came from, in order, each source once."""
    found: dict[str, None] = {}
    for msg in msgs:
        if isinstance(msg, Msg) and msg._extra is not None and FIELD in msg._extra:
            named = msg._extra[FIELD]
            names = named if isinstance(named, (list, tuple)) else [named]
            found.update((str(name), None) for name in names)
    return tuple(found)[:MAX_SOURCES]


def tainted(origins: tuple[str, ...]) -> dict[str, Any]:
    """Return the field that says so; nothing when there are none."""
    return {FIELD: list(origins)} if origins else {}
