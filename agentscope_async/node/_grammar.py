"""What names, paths and secrets look like, and what is said of those that do not."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, TypeGuard

from .frames import MAX_HOPS, NODE, FrameError

__all__ = [
    "bad", "bad_target", "brief", "checked_chain", "is_incarnation", "is_name", "is_path", "is_secret",
    "is_target",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TARGET = re.compile(rf"(?!_){_NAME.pattern}|{NODE}")
_INCARNATION = re.compile(r"[0-9]{1,15}\.[0-9a-f]{16}")
_SECRET = re.compile(r"[0-9a-f]{32}")


@lru_cache(maxsize=4096)
def _is_printable(text: str) -> bool:
    return text.isprintable()


def is_name(value: Any) -> TypeGuard[str]:
    """Whether it is a name of a node, an export key, a reason or an operation."""
    return type(value) is str and _NAME.fullmatch(value) is not None


def is_target(value: Any) -> TypeGuard[str]:
    """Whether it can be addressed: an agent, or the node itself; other names with ``_`` first are its own."""
    return type(value) is str and _TARGET.fullmatch(value) is not None


def is_incarnation(value: Any) -> TypeGuard[str]:
    """Whether it is a start counter, a dot, and 16 hex digits."""
    return type(value) is str and _INCARNATION.fullmatch(value) is not None


def is_secret(value: Any) -> TypeGuard[str]:
    return type(value) is str and _SECRET.fullmatch(value) is not None


def is_path(value: Any, limit: int) -> bool:
    if type(value) is not list or len(value) > limit:
        return False
    for name in value:
        if type(name) is not str or not 0 < len(name) <= 300 or not _is_printable(name):
            return False
    return True


def brief(value: Any) -> str:
    text = ascii(value if isinstance(value, (str, int, float, type(None))) else type(value).__name__)
    return text if len(text) <= 80 else text[:77] + "..."


def bad(field: str, value: Any, expected: str) -> FrameError:
    return FrameError("bad_frame", f"Frame field {field!r} is {brief(value)}, not {expected}.")


def bad_target(value: Any) -> FrameError:
    if is_name(value):
        return FrameError("forbidden", f"{brief(value)} belongs to the node itself and takes no messages.")
    return FrameError("bad_name", f"Frame field 'to' is {brief(value)}, not a name: [A-Za-z0-9_.-]{{1,64}}.")


def checked_chain(chain: Any) -> tuple[str, ...]:
    if type(chain) is list and len(chain) > MAX_HOPS:
        raise FrameError("hop_limit", f"An ask may pass {MAX_HOPS} agents, this one passed {len(chain):,}.")
    if not is_path(chain, MAX_HOPS):
        raise bad("chain", chain, "a list of printable names")
    return tuple(chain)
