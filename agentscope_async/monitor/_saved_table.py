"""The metrics of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._table import Metric, Rates, Table

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SavedTable"]


class SavedTable:
    """The metrics of a file, as a table in memory that is read again when others have written.

    While a transaction that may write is open nobody else can write, so the copy is exact,
    and a batch costs the same few statements however many calls are in it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.table = Table()
        self._connection = connection
        self._version: int | None = None

    def begin(self) -> None:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._read()
            self._version = version

    def finish(self) -> None:
        table = self.table
        if table.changed:
            self._replace("monitor_metrics", "name, value, quota, unit", table.changed, self._metric_row)
        if table.changed_rates:
            columns = "prefix, usd_per_prompt_token, usd_per_completion_token"
            self._replace("monitor_budgets", columns, table.changed_rates, self._rates_row)

    def discard(self) -> None:
        self._version = None

    def close(self) -> None:
        pass

    def _read(self) -> None:
        for statement in _SCHEMA:
            self._connection.execute(statement)
        rows = self._connection.execute("SELECT name, value, quota, unit FROM monitor_metrics")
        self.table = Table()
        self.table.metrics = {name: Metric(value=v, quota=q, unit=u) for name, v, q, u in rows}
        rows = self._connection.execute("SELECT * FROM monitor_budgets")
        self.table.rates = {prefix: Rates(*rates) for prefix, *rates in rows}

    def _replace(
        self, table: str, columns: str, keys: set[str], row_of: Callable[[str], tuple[Any, ...] | None]
    ) -> None:
        """Make the rows of ``keys`` what the table in memory says. Table and columns are ours, not data."""
        key, *others = columns.split(", ")
        marks = ", ".join("?" * (1 + len(others)))
        updates = ", ".join(f"{column} = excluded.{column}" for column in others)
        rows = {each: row_of(each) for each in keys}
        self._connection.executemany(
            f"DELETE FROM {table} WHERE {key} = ?", [(each,) for each, row in rows.items() if row is None]
        )
        self._connection.executemany(
            f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {updates}",
            [row for row in rows.values() if row is not None],
        )
        keys.clear()

    def _metric_row(self, name: str) -> tuple[Any, ...] | None:
        metric = self.table.metrics.get(name)
        return None if metric is None else (name, metric["value"], metric["quota"], metric["unit"])

    def _rates_row(self, prefix: str) -> tuple[Any, ...] | None:
        rates = self.table.rates.get(prefix)
        return None if rates is None else (prefix, *rates)


# The first table is AgentScope 0.0.2's (utils/monitor.py), so that what reads its files reads ours.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS monitor_metrics (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, value REAL NOT NULL, quota REAL, unit TEXT)""",
    """CREATE TABLE IF NOT EXISTS monitor_budgets (
        prefix TEXT PRIMARY KEY, usd_per_prompt_token REAL NOT NULL,
        usd_per_completion_token REAL NOT NULL)""",
)
