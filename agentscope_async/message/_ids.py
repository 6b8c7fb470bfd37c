"""Ids of messages."""

from __future__ import annotations

import itertools
import os
import threading

__all__ = ["ids", "new_id"]


class _Ids:
    """A random prefix for the process and a count: unique, and a tenth of uuid4's cost."""

    def __init__(self) -> None:
        self.reseed()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reseed)

    def reseed(self) -> None:
        """Make ids of this process different from those of any other, its parent included."""
        self._prefix = os.urandom(10).hex()
        self._count = itertools.count()
        self.lock = threading.Lock()  # another thread may have held the old one during the fork

    def new(self) -> str:
        """Return 32 hexadecimal digits that nobody else has."""
        return f"{self._prefix}{next(self._count):012x}"


ids = _Ids()
new_id = ids.new
