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

__all__ = ["Saved", "StateStore"]

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


class Saved(NamedTuple):
    """A state as it was saved; ``version`` counts from 1 and grows by one with each save."""

    version: int
    state: dict[str, Any]


class StateStore:
    """States, each a JSON object, by the kind of agent and its key.

    What :meth:`save` has returned for survives the death of the process, also by ``kill -9``:
    it is in the hands of the operating system then, which needs no fsync for that. Loss of
    power may take the last states, never half of one. Several programs may share the file:
    nobody overwrites what he has not seen.
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

    async def save(self, kind: str, key: str, state: dict[str, Any], *, version: int) -> bool:
        """Save a state as what comes after ``version``, 0: nothing. False: that is not the last one.

        Raises:
            TypeError: it is not made of JSON values.
            AgentScopeError: the file could not be written.
        """
        content = orjson.dumps(state)
        return await self._file().run(
            partial(_Session.save, kind=kind, key=key, version=version, content=content)
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

    def save(self, kind: str, key: str, version: int, content: bytes) -> bool:
        if version:
            done = self._connection.execute(
                "UPDATE states SET version = version + 1, saved_at = ?, state = ? "
                "WHERE kind = ? AND key = ? AND version = ?",
                (time.time(), content, kind, key, version),
            )
        else:
            done = self._connection.execute(
                "INSERT INTO states VALUES (?, ?, 1, ?, ?) ON CONFLICT DO NOTHING",
                (kind, key, time.time(), content),
            )
        return done.rowcount == 1

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
