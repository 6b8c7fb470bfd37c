"""What one query may cost, and what is said when it would cost more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError

__all__ = ["MAX_BYTES", "MAX_ROWS", "TIMEOUT_S", "Limits", "QueryFailed", "read_only_rule"]

TIMEOUT_S = 30.0
MAX_ROWS = 10_000
MAX_BYTES = 10_000_000


class QueryFailed(Exception):
    """The database, or one of its limits here, has refused the query; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one query.

    Attributes:
        timeout_s: seconds from the call to the answer, waiting for a connection included.
        max_rows: more rows are an error, unless ``maxcount`` asks for fewer.
        max_bytes: a larger result is an error.
        maxcount: rows wanted; what comes after them is never fetched. None: all.
    """

    timeout_s: float
    max_rows: int
    max_bytes: int
    maxcount: int | None = None

    def __post_init__(self) -> None:
        """Check what the program has set.

        Raises:
            ConfigError: a limit is none.
        """
        limits = {"timeout_s": self.timeout_s, "max_rows": self.max_rows, "max_bytes": self.max_bytes}
        for name, value in limits.items():
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value!r}")

    def check_maxcount(self) -> None:
        """Refuse a ``maxcount_results`` that is no number of rows; a model may have written it.

        Raises:
            QueryFailed: it is none.
        """
        count = self.maxcount
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise QueryFailed(f"maxcount_results must be a number of rows, 0 or more, got {count!r}.")

    @property
    def rows_to_fetch(self) -> int:
        """As many as are wanted; one more than allowed, where only that shows that there are more."""
        if self.maxcount is not None and self.maxcount <= self.max_rows:
            return self.maxcount
        return self.max_rows + 1

    def checked(self, rows: list[Any]) -> list[Any]:
        """Return the rows of a result.

        Raises:
            QueryFailed: they are more than ``max_rows``.
        """
        if len(rows) > self.max_rows:
            raise self.too_many()
        return rows

    def too_many(self) -> QueryFailed:
        """Return the error of a result with too many rows."""
        return QueryFailed(
            f"The result has more than {self.max_rows} rows. Narrow the query, count or group in it, "
            f"or set maxcount_results to {self.max_rows} or less."
        )

    def too_large(self) -> QueryFailed:
        """Return the error of a result that is too large."""
        return QueryFailed(
            f"The result is larger than {self.max_bytes} bytes. "
            f"Select fewer columns or rows, or shorten long values in the query."
        )


def read_only_rule(what: str) -> str:
    """Return the text for something that only reading is allowed beside."""
    return f"{what} is not allowed: this database may only be read here (allow_change_data is not set)."
