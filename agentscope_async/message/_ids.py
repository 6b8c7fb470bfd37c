"""Ids of messages."""

from __future__ import annotations

import itertools
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        self.new = itertools.chain.from_iterable(_runs(os.urandom(10).hex())).__next__
        self.lock = threading.Lock()  # another thread may have held the old one during the fork


def _runs(prefix: str) -> Iterator[Iterator[str]]:
    """Yield 256 ids at a time, so that a number is written out once for all of them."""
    for number in itertools.count():
        yield map(f"{prefix}{number:010x}".__add__, _LAST_DIGITS)


_LAST_DIGITS = [f"{number:02x}" for number in range(256)]

ids = _Ids()
