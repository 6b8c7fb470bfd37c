"""What keyed agents remember, in an SQLite file."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from .errors import AgentScopeError
from .monitor._store import Store

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

__all__ = ["Record", "Saved", "StateStore"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS states (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    saved_at REAL NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (kind, key)
)
"""
_BY_AGE = "CREATE INDEX IF NOT EXISTS states_by_age ON states (kind, saved_at)"
"""Made where something is to expire; each save costs a little more then."""


class Saved(NamedTuple):
    """A state as it was saved.

    ``version`` grows by one with each save, and begins with a number of its own each time: what
    was deleted and is saved anew has none of its earlier versions.
    """

    version: int
    state: dict[str, Any]


class Record(NamedTuple):
    """A state that another of its key belongs to; in Unix time, when it and either of them was saved last."""

    state: dict[str, Any]
    saved_at: float
    used_at: float


class StateStore:
    """States, each a JSON object, by the kind of agent and its key.

    What :meth:`save` has returned for survives the death of the process, also by ``kill -9``:
    it is in the hands of the operating system then, which needs no fsync for that. Loss of
    power may take the last states, never half of one. Several programs may share the file:
    nobody overwrites what he has not seen, or brings back what another has deleted.

    A state may belong to a record, a state of another kind under the same key: without that it
    is not saved, and the two are deleted together.
    """

    def __init__(self, find_path: Callable[[], Path]) -> None:
        """Keep states in the file at ``find_path()``, which is asked for and made when first used."""
        self._find_path = find_path
        self._store: Store[_Session] | None = None

    async def load(self, kind: str, key: str) -> Saved | None:
        """Return what was saved last, or None.

        Raises:
            AgentScopeError: the file could not be read.
        """
        row = await self._file().run(partial(_Session.load, kind=kind, key=key))
        return None if row is None else Saved(row[0], _read(row[1]))

    async def save(
        self, kind: str, key: str, state: dict[str, Any], *, version: int, record: str | None = None
    ) -> int:
        """Save a state as what comes after ``version``, 0: nothing; return the version it has.

        0: it was not saved, as ``version`` is not the last one, or the record of that kind is gone.

        Raises:
            TypeError: it is not made of JSON values.
            AgentScopeError: the file could not be written.
        """
        content = orjson.dumps(state)
        work = (
            partial(_Session.update, kind=kind, key=key, version=version, content=content)
            if version
            else partial(_Session.insert, kind=kind, key=key, record=record, content=content)
        )
        return await self._file().run(work)

    async def delete(self, kind: str, key: str, *, record: str | None = None) -> bool:
        """Delete a state, and its record; whether there was something.

        Raises:
            AgentScopeError: the file could not be written.
        """
        return await self._file().run(partial(_Session.delete, kinds=(kind, record or kind), key=key))

    async def find_record(self, record: str, key: str, *, kind: str) -> Record | None:
        """Return the record of a key, and when it or the state of ``kind`` was saved last.

        Raises:
            AgentScopeError: the file could not be read.
        """
        row = await self._file().run(partial(_Session.find_record, record=record, key=key, kind=kind))
        return None if row is None else Record(_read(row[0]), *row[1:])

    async def touch(self, record: str, key: str) -> bool:
        """Have a record count as saved now; False: it is gone.

        Raises:
            AgentScopeError: the file could not be written.
        """
        return await self._file().run(partial(_Session.touch, record=record, key=key))

    async def expire(self, record: str, *, kind: str, used_before: float) -> int:
        """Delete the records last used before then, with their states; return how many rows that were.

        Takes as long as there are records last saved before then: touch those in use now and then.

        Raises:
            AgentScopeError: the file could not be written.
        """
        return await self._file().run(
            partial(_Session.expire, record=record, kind=kind, used_before=used_before)
        )

    async def aclose(self) -> None:
        """Close the file; it opens again when it is used again."""
        if self._store is not None:
            await self._store.aclose()

    def _file(self) -> Store[_Session]:
        if self._store is None:
            path = self._find_path()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Conversations are for whoever runs this; SQLite gives its other files the same mode.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise AgentScopeError(f"{path} cannot be made to keep agents' states in: {error}.") from error
            self._store = Store(path, _Session)
        return self._store


class _Session:
    """The open file, on the thread that reads and writes it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute(_SCHEMA)

    def load(self, kind: str, key: str) -> tuple[int, bytes] | None:
        query = "SELECT version, state FROM states WHERE kind = ? AND key = ?"
        row: tuple[int, bytes] | None = self._connection.execute(query, (kind, key)).fetchone()
        return row

    def insert(self, kind: str, key: str, record: str | None, content: bytes) -> int:
        version = time.time_ns() // 1000
        done = self._connection.execute(
            "INSERT INTO states SELECT ?, ?, ?, ?, ? WHERE ? IS NULL "
            "OR EXISTS (SELECT 1 FROM states WHERE kind = ? AND key = ?) ON CONFLICT DO NOTHING",
            (kind, key, version, time.time(), content, record, record, key),
        )
        return version if done.rowcount else 0

    def update(self, kind: str, key: str, version: int, content: bytes) -> int:
        done = self._connection.execute(
            "UPDATE states SET version = version + 1, saved_at = ?, state = ? "
            "WHERE kind = ? AND key = ? AND version = ?",
            (time.time(), content, kind, key, version),
        )
        return version + 1 if done.rowcount else 0

    def delete(self, kinds: tuple[str, str], key: str) -> bool:
        done = self._connection.execute("DELETE FROM states WHERE kind IN (?, ?) AND key = ?", (*kinds, key))
        return done.rowcount > 0

    def find_record(self, record: str, key: str, kind: str) -> tuple[bytes, float, float] | None:
        row: tuple[bytes, float, float] | None = self._connection.execute(
            "SELECT own.state, own.saved_at, MAX(own.saved_at, COALESCE(other.saved_at, 0)) "
            "FROM states AS own LEFT JOIN states AS other ON other.kind = ? AND other.key = own.key "
            "WHERE own.kind = ? AND own.key = ?",
            (kind, record, key),
        ).fetchone()
        return row

    def touch(self, record: str, key: str) -> bool:
        done = self._connection.execute(
            "UPDATE states SET saved_at = ? WHERE kind = ? AND key = ?", (time.time(), record, key)
        )
        return done.rowcount == 1

    def expire(self, record: str, kind: str, used_before: float) -> int:
        self._connection.execute(_BY_AGE)
        done = self._connection.execute(
            "DELETE FROM states WHERE kind IN (:record, :kind) AND key IN ("
            "SELECT own.key FROM states AS own "
            "LEFT JOIN states AS other ON other.kind = :kind AND other.key = own.key "
            "WHERE own.kind = :record AND own.saved_at < :before AND COALESCE(other.saved_at, 0) < :before)",
            {"record": record, "kind": kind, "before": used_before},
        )
        return done.rowcount

    def begin(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def close(self) -> None:
        pass


def _read(content: bytes) -> dict[str, Any]:
    try:
        state = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise AgentScopeError(f"A saved state is no JSON: {error}.") from error
    if not isinstance(state, dict):
        raise AgentScopeError(f"A saved state is an object, this one is a {type(state).__name__}.")
    return state
