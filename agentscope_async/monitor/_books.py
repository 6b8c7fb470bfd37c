"""The books of a budget in a SQLite file, for several processes at once: the side of the file.

Every claim is a row with its owner until it is settled. An owner is one open ledger; it
holds a lock on a file of its own for as long as it lives, which the operating system drops
with the process, so a process id used again deceives nobody. Claims of the dead are closed
by the living: what was never sent is released, what was sent counts as reserved.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..logging import get_logger
from ._ledger import Amounts, Claim, Limits, Line, Totals

if TYPE_CHECKING:
    import asyncio
    import sqlite3

__all__ = ["Asked", "Books", "Decided"]


@dataclass(slots=True)
class Asked:
    """What one transaction is to do, in this order."""

    sent: list[tuple[Claim, asyncio.Future[None]]] = field(default_factory=list)
    closed: list[tuple[Claim, Amounts]] = field(default_factory=list)
    synced: list[asyncio.Future[None]] = field(default_factory=list)
    waiting: list[Claim] = field(default_factory=list)


@dataclass(slots=True)
class Decided:
    """What came of it."""

    totals: Totals
    unknown: set[int]
    granted: list[Claim]
    refused: list[tuple[Claim, str]]


class Books:
    """The open file. All of it runs on the writing thread, inside a transaction that may write."""

    def __init__(self, path: Path, limits: Limits, connection: sqlite3.Connection) -> None:
        self._owners = path.with_name(path.name + ".owners")
        self._limits = limits
        self._name = limits.name
        self._sql = connection
        self._owner: _Owner | None = None
        self._is_ready = False

    def begin(self) -> None:
        if self._is_ready:
            return
        for statement in _SCHEMA:
            self._sql.execute(statement)
        self._sql.execute("INSERT OR IGNORE INTO budgets (name) VALUES (?)", (self._name,))
        if self._owner is None:
            self._owner = _Owner(self._owners)
        self._recover()

    def finish(self) -> None:
        self._is_ready = True

    def discard(self) -> None:
        self._is_ready = False  # the tables may have gone with the transaction

    def close(self) -> None:
        if self._owner is not None:
            self._owner.leave()

    def exchange(self, asked: Asked) -> Decided:
        """Do all that was asked for. The number of statements does not depend on how much that is."""
        unknown = self._mark_sent({claim.number for claim, _ in asked.sent})
        self._close_claims(asked.closed)
        if asked.synced:
            self._recover()
        totals = self._totals(is_used=bool(asked.waiting))
        granted, refused = self._admit(asked.waiting, totals)
        if len(granted) + len(refused) < len(asked.waiting) and self._recover():
            totals = self._totals()
            granted, refused = self._admit(asked.waiting, totals)
        self._insert(granted)
        for claim in granted:
            totals = totals._replace(reserved=totals.reserved.plus(claim.needed))
        return Decided(totals, unknown, granted, refused)

    def _admit(self, waiting: list[Claim], totals: Totals) -> tuple[list[Claim], list[tuple[Claim, str]]]:
        line = Line()
        for claim in waiting:
            line.append(claim)
        return line.admit(totals, self._limits)

    def _mark_sent(self, numbers: set[int]) -> set[int]:
        """Mark them and return those that are not there."""
        if not numbers:
            return set()
        found = self._found(numbers)
        self._sql.execute(
            "UPDATE reservations SET is_sent = 1 "
            "WHERE owner = ? AND number IN (SELECT value FROM json_each(?))",
            (self._owner_name, json.dumps(list(found))),
        )
        return numbers - found

    def _close_claims(self, closed: list[tuple[Claim, Amounts]]) -> None:
        """Book what is spent. Claims that are gone were booked by whoever took us for dead."""
        if not closed:
            return
        found = self._found(claim.number for claim, _ in closed)
        spent = Amounts()
        for claim, actual in closed:
            if claim.number in found:
                spent = spent.plus(actual)
        self._sql.execute(
            "DELETE FROM reservations WHERE owner = ? AND number IN (SELECT value FROM json_each(?))",
            (self._owner_name, json.dumps(list(found))),
        )
        self._sql.execute(
            "UPDATE budgets SET usd_pico = usd_pico + ?, tokens = tokens + ?, calls = calls + ? "
            "WHERE name = ?",
            (*spent, self._name),
        )

    def _found(self, numbers: Iterable[int]) -> set[int]:
        rows = self._sql.execute(
            "SELECT number FROM reservations WHERE owner = ? AND number IN (SELECT value FROM json_each(?))",
            (self._owner_name, json.dumps(list(numbers))),
        )
        return {number for (number,) in rows}

    def _totals(self, *, is_used: bool = False) -> Totals:
        if is_used:
            self._sql.execute(
                "UPDATE budgets SET started_at = ? WHERE name = ? AND started_at IS NULL",
                (self._limits.clock(), self._name),
            )
        spent = self._sql.execute(
            "SELECT usd_pico, tokens, calls, started_at FROM budgets WHERE name = ?", (self._name,)
        ).fetchone()
        reserved = self._sql.execute(
            "SELECT coalesce(sum(usd_pico), 0), coalesce(sum(tokens), 0), coalesce(sum(calls), 0) "
            "FROM reservations WHERE budget = ?",
            (self._name,),
        ).fetchone()
        return Totals(Amounts(*spent[:3]), Amounts(*reserved), spent[3])

    def _insert(self, granted: list[Claim]) -> None:
        if not granted:
            return
        rows = json.dumps([[claim.number, *claim.needed] for claim in granted])
        self._sql.execute(
            "INSERT INTO reservations (owner, budget, number, usd_pico, tokens, calls) "
            "SELECT ?, ?, json_extract(value, '$[0]'), json_extract(value, '$[1]'), "
            "json_extract(value, '$[2]'), json_extract(value, '$[3]') FROM json_each(?)",
            (self._owner_name, self._name, rows),
        )

    def _recover(self) -> bool:
        """Close the claims of owners that are no more, in all budgets of the file; False: there were none."""
        owners = {owner for (owner,) in self._sql.execute("SELECT DISTINCT owner FROM reservations")}
        if self._is_ready and owners <= {self._owner_name}:
            return False
        dead = json.dumps(list(owners - _living(self._owners)))
        if dead == "[]":
            return False
        self._sql.execute(
            "UPDATE budgets SET (usd_pico, tokens, calls) = ("
            "SELECT budgets.usd_pico + coalesce(sum(r.usd_pico), 0), "
            "budgets.tokens + coalesce(sum(r.tokens), 0), budgets.calls + coalesce(sum(r.calls), 0) "
            "FROM reservations AS r WHERE r.budget = budgets.name AND r.is_sent "
            "AND r.owner IN (SELECT value FROM json_each(?)))",
            (dead,),
        )
        closed = self._sql.execute(
            "DELETE FROM reservations WHERE owner IN (SELECT value FROM json_each(?))", (dead,)
        )
        get_logger().info("closed reservations of processes that ended without it", count=closed.rowcount)
        return True

    @property
    def _owner_name(self) -> str:
        return "" if self._owner is None else self._owner.name


_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS budgets (
        name TEXT PRIMARY KEY, usd_pico INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,
        calls INTEGER NOT NULL DEFAULT 0, started_at REAL)""",
    """CREATE TABLE IF NOT EXISTS reservations (
        owner TEXT NOT NULL, number INTEGER NOT NULL, budget TEXT NOT NULL,
        is_sent INTEGER NOT NULL DEFAULT 0, usd_pico INTEGER NOT NULL, tokens INTEGER NOT NULL,
        calls INTEGER NOT NULL, PRIMARY KEY (owner, number)) WITHOUT ROWID""",
)


class _Owner:
    """A locked file that says its owner lives. Made inside a transaction, where nobody else looks."""

    def __init__(self, directory: Path) -> None:
        self.name = secrets.token_hex(8)
        self._path = directory / self.name
        while True:
            directory.mkdir(exist_ok=True)
            try:
                self._file = self._path.open("xb")
                break
            except FileNotFoundError:  # the last owner has just left and taken the directory along
                continue
        _lock(self._file)

    def leave(self) -> None:
        """Take the file away, and the directory with the last one."""
        self._file.close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()


def _living(directory: Path) -> set[str]:
    """Return the names of the owners that live, and clear away the files of the others."""
    living = set()
    for path in directory.iterdir():
        try:
            with path.open("r+b") as file:
                is_dead = _lock(file)
        except FileNotFoundError:  # has just left
            continue
        if is_dead:
            path.unlink(missing_ok=True)
        else:
            living.add(path.name)
    return living


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> bool:
        """Lock an open file until it is closed; False when somebody else has it."""
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: IO[bytes]) -> bool:
        """Lock an open file until it is closed; False when somebody else has it.

        ``flock`` belongs to the open file, not to the process as ``lockf`` does, so two
        budgets on one path in one process see each other as well.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
