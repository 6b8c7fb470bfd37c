"""What file services do with what the program granted, and how their work becomes a response."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from ._rooted import Root
from ._threads import Halt, in_thread
from .response import ServiceResponse

__all__ = ["answer", "check_positive", "checked_root"]

FAILURES = (
    OSError, ValueError, TypeError, AttributeError, NotImplementedError, RecursionError, MemoryError,
)  # fmt: skip
"""What files, paths and contents that are not what they should be raise; RecursionError is JSON's."""


async def answer(root: str | os.PathLike[str] | None, work: Callable[[Root, Halt], Any]) -> ServiceResponse:
    """Do ``work`` beneath the root, in a thread, and return what came of it.

    When cancelled the work is told to stop, and has when this raises.

    Raises:
        ConfigError: ``root`` is no path.
    """
    top = checked_root(root)

    def beneath(halt: Halt) -> Any:
        with Root(top) as base:
            return work(base, halt)

    try:
        return ServiceResponse.success(await in_thread(beneath))
    except FAILURES as error:
        return ServiceResponse.error(error)


def checked_root(root: str | os.PathLike[str] | None) -> str:
    """Return the directory that may be used: by default the working directory.

    Raises:
        ConfigError: ``root`` is no path.
    """
    top = "." if root is None else os.fspath(root)
    if not isinstance(top, str) or not top or "\0" in top:
        raise ConfigError("root= is the path of a directory, as a text or a Path that is not empty.")
    return top


def check_positive(**limits: int) -> None:
    """Refuse limits that are none.

    Raises:
        ConfigError: one is not a whole number from 1.
    """
    for name, limit in limits.items():
        if type(limit) is not int or limit < 1:
            raise ConfigError(f"{name}= is a whole number from 1, not {limit!r}.")
