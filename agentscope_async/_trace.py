"""What the logs of one piece of work have in common, on every node it reaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ._context import join_trace, trace_id
from .errors import ConfigError

__all__ = ["current_trace_id", "trace"]


def current_trace_id() -> str | None:
    """Return the trace that this code works for, if there is one."""
    return trace_id.get()


@contextmanager
def trace(id: str) -> Iterator[None]:
    """Let everything asked inside, also of agents on other nodes, log ``trace=id``.

    Args:
        id: 1 to 64 printable characters.

    Raises:
        ConfigError: it is none such.
    """
    if not 0 < len(id) <= 64 or not id.isprintable():
        raise ConfigError(f"A trace id is 1 to 64 printable characters, got {id!r:.80}.")
    token = join_trace(id)
    try:
        yield
    finally:
        trace_id.reset(token)
