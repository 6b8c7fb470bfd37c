"""Ids of messages."""

from __future__ import annotations

import itertools
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ids"]


class _Ids:
    """A random prefix for the process and a count: unique, and a twentieth of uuid4's cost.

    Attributes:
        lock: to be held meanwhile.
        new: returns 32 hexadecimal digits that nobody else has.
    """

    new: Callable[[], str]

    def __init__(self) -> None:
        self.reseed()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reseed)

    def reseed(self) -> None:
        """Make ids of this process different from those of any other, its parent included."""
        # Nothing but C: an interrupt in the midst of a generator would end it, and all ids with it.
        self.new = map("".join, itertools.product([os.urandom(10).hex()], *[_DIGITS] * 6)).__next__
        self.lock = threading.Lock()  # another thread may have held the old one during the fork


_DIGITS = [f"{number:02x}" for number in range(256)]

ids = _Ids()
