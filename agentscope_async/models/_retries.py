"""How many failed calls are made again, and after how long."""

from __future__ import annotations

from random import random as uniform
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RetryBudget", "backoff_s", "doubled_s"]

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0
MAX_DOUBLINGS = 4
"""As the openai SDK waits (openai 3.54, ``_base_client.py``): 0.5 s doubled up to 8 s."""


class RetryBudget:
    """Allows retries for ``ratio`` of the calls, and ``burst`` more.

    That holds for its whole life. At most ``10 * burst`` retries (but at least one) are saved up, so
    that a long good time does not pay for a flood: in any stretch of calls there are at most
    ``ratio`` of them and ``10 * burst``. By default 1,000 calls failing together have 100 retries.
    """

    __slots__ = ("_price", "_saved", "_most")

    def __init__(self, ratio: float = 0.1, burst: int = 10) -> None:
        """Start with ``burst`` retries saved up.

        Raises:
            ConfigError: ``ratio`` is not within (0, 1], or ``burst`` is negative.
        """
        if not 0 < ratio <= 1:
            raise ConfigError(f"ratio of a retry budget must be above 0 and at most 1, got {ratio!r}")
        if not burst >= 0:
            raise ConfigError(f"burst of a retry budget must not be negative, got {burst!r}")
        # Counted in calls, a whole number each, not in tenths of a retry, which do not add up exactly.
        self._price = 1 / ratio
        self._saved = burst * self._price
        self._most = max(10 * burst, 1) * self._price

    def note_call(self) -> None:
        """Count a call; its retries are not calls."""
        if self._saved < self._most:
            self._saved += 1

    def may_retry(self) -> bool:
        """Take one retry if there is one."""
        if self._saved < self._price:
            return False
        self._saved -= self._price
        return True


def backoff_s(attempt: int, random: Callable[[], float] = uniform, at_least_s: float | None = None) -> float:
    """Return how long to wait before a call is made once more.

    The window is 0.5 s doubled with each attempt up to 8 s; the wait is drawn evenly from its last
    nine tenths. (openai's SDK draws from the last quarter, which brings calls that failed
    together back together; from the whole window, some would come back at once.) With a
    server's number the wait is that and what was drawn.

    Args:
        attempt: retries made before this one, from 0.
        random: returns numbers in [0, 1).
        at_least_s: what the server asked for, seconds.
    """
    return (at_least_s or 0.0) + doubled_s(attempt) * (0.1 + 0.9 * random())


def doubled_s(times: int) -> float:
    """Return the first window doubled ``times`` times, up to the longest: 0.5, 1, 2, 4, 8, 8, ... seconds."""
    return min(FIRST_BACKOFF_S * 2.0 ** min(times, MAX_DOUBLINGS), MAX_BACKOFF_S)
