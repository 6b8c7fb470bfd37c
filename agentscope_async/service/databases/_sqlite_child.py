"""The process in which SQLite runs: a program of its own, with nothing but the standard library.

One function call, ``instr`` on two long texts for instance, can hold SQLite for hours without
a look at its progress handler or at ``interrupt``; only the end of the process ends it.

Reads requests from standard input and writes answers to standard output, each a frame: four
bytes of length, big-endian, and as much JSON. A request is an object; an answer is any number
of frames with lists of rows, and a last one, ``{"error": null}`` or ``{"error": "..."}``. In a row,
bytes are ``{"b": base64}`` and floats that JSON does not know are ``{"f": text}``.
"""

from __future__ import annotations

import base64
import json
import math
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

CHUNK_CHARACTERS = 65_536
MAX_MEMORY_BYTES = 512 * 1024 * 1024
MAX_VALUE_BYTES = 64 * 1024 * 1024
"""Of one text or blob inside of SQLite; what is returned is limited much lower."""

SPARE_CPU_S = 2
"""Seconds of computing beyond the time limit; then nobody is left who could have ended the process."""


def main() -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while size := sys.stdin.buffer.read(4):
        request = json.loads(sys.stdin.buffer.read(int.from_bytes(size, "big")))
        _limit_cpu(request["timeout_s"])
        try:
            problem = None
            for rows in _Query(request).chunks():
                _send("[" + ",".join(rows) + "]")
        except _Refused as error:
            problem = str(error)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
            problem = f"SQLite error: {error}"
        _send(json.dumps({"error": problem}))


class _Refused(Exception):
    """A limit, or what is allowed, has ended the query."""


class _Query:
    """One statement on one database, opened for it and closed after it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._may_change: bool = request["may_change"]
        self._bytes_left: int = request["max_bytes"]
        self._refusal: str | None = None
        self._is_to_stop = False

    def chunks(self) -> Iterator[list[str]]:
        """Yield rows as JSON texts; the changes are committed after the last one."""
        connection = self._opened()
        try:
            signal.signal(signal.SIGTERM, self._stop)
            connection.execute("BEGIN")
            connection.set_authorizer(self._authorize)
            yield from self._rows(connection)
            connection.set_authorizer(None)
            connection.execute("COMMIT" if self._may_change else "ROLLBACK")
        except sqlite3.DatabaseError as error:
            if self._refusal is not None:
                raise _Refused(self._refusal) from error
            raise
        finally:
            connection.close()  # rolls back

    def _opened(self) -> sqlite3.Connection:
        path = self._request["path"]
        if not (self._may_change or path is None or os.path.isfile(path)):
            raise _Refused(f"There is no database file {path!r}.")
        uri, busy_s = self._request["uri"], self._request["busy_s"]
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=busy_s)
        connection.text_factory = lambda text: text.decode(errors="replace")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        # What a hostile file's views and triggers may call; sorting in memory, where it is limited.
        connection.executescript("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY")
        connection.set_progress_handler(lambda: self._is_to_stop, 10_000)
        return connection

    def _stop(self, *_: object) -> None:
        self._is_to_stop = True

    def _rows(self, connection: sqlite3.Connection) -> Iterator[list[str]]:
        cursor = connection.execute(self._request["query"])
        rows, size = [], 0
        for number, row in zip(range(self._request["rows_to_fetch"]), cursor, strict=False):
            if number == self._request["max_rows"]:
                raise _Refused(self._request["too_many"])
            self._weigh(sum(len(value) for value in row if isinstance(value, (str, bytes))))
            text = json.dumps([_plain(value) for value in row], ensure_ascii=False)
            rows.append(text)
            size += len(text)
            self._bytes_left -= self._weigh(len(text) if text.isascii() else len(text.encode()))
            if size > CHUNK_CHARACTERS:
                yield rows
                rows, size = [], 0
        cursor.close()
        yield rows

    def _weigh(self, byte_count: int) -> int:
        if byte_count > self._bytes_left:
            raise _Refused(self._request["too_large"])
        return byte_count

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        """Say whether SQLite may do what the statement needs; it asks while it compiles it."""
        if action in _READING or _is_of_virtual_table(action, first):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION:
            return self._deny(f"{second}()", True) if second in _FUNCTIONS else sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA:
            is_reading = first in _PRAGMAS or (first in _PRAGMAS_WITHOUT_VALUE and second is None)
            return sqlite3.SQLITE_OK if is_reading else self._deny(f"PRAGMA {first}", True)
        if action in _NEVER:
            return self._deny(_NEVER[action], True)
        return sqlite3.SQLITE_OK if self._may_change else self._deny("Changing the database", False)

    def _deny(self, what: str, is_never: bool) -> int:
        rule = f"{what} is not allowed here." if is_never else self._request["read_only_rule"]
        self._refusal = self._refusal or rule
        return sqlite3.SQLITE_DENY


def _is_of_virtual_table(action: int, table: str | None) -> bool:
    """Whether SQLite asks for what it does itself when it opens a virtual table, json_each for instance.

    It declares the table as if in its schema, and R*Tree prepares changes of its own tables. A
    statement that asks for the same gains nothing: the schema is never writable, and a file
    opened for reading is not either.
    """
    if action == sqlite3.SQLITE_UPDATE:
        return table == "sqlite_master"
    is_change = action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE)
    return is_change and table is not None and table.endswith(("_node", "_rowid", "_parent"))


_READING = frozenset({
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_SAVEPOINT,
})  # fmt: skip
# load_extension runs code, fts3_tokenizer takes addresses of code; the others are the shell's, for files.
_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_NEVER = {
    sqlite3.SQLITE_ATTACH: "Another database (ATTACH, VACUUM INTO)",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_TRANSACTION: "A transaction (BEGIN, COMMIT, ROLLBACK), other than the statement itself,",
}
_PRAGMAS = frozenset({
    "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo",
    "foreign_key_list", "function_list", "collation_list", "compile_options",
})  # fmt: skip
_PRAGMAS_WITHOUT_VALUE = frozenset({
    "application_id", "encoding", "freelist_count", "page_count", "page_size", "schema_version",
    "user_version", "data_version",
})  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": str(value)}
    return value


def _limit_cpu(timeout_s: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    end_s = math.ceil(used.ru_utime + used.ru_stime + timeout_s) + SPARE_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (end_s, resource.RLIM_INFINITY))


def _send(text: str) -> None:
    frame = text.encode()
    sys.stdout.buffer.write(len(frame).to_bytes(4, "big") + frame)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
