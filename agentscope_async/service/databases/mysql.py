"""Queries of MySQL and MariaDB, through asyncmy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._marks import marked
from ..response import ServiceResponse  # noqa: TC001  # toolkits look annotations up
from ._answer import answer, driver, load_driver
from ._limits import MAX_BYTES, MAX_ROWS, TIMEOUT_S, Limits, QueryFailed, read_only_rule
from ._meter import Meter
from ._pool import lend

__all__ = ["query_mysql"]


@marked(
    untrusted="database",
    dangerous=lambda presets: bool(presets.get("allow_change_data")),
    granted=[
        "database", "host", "user", "password", "port", "allow_change_data",
        "allow_server_files", "timeout_s", "max_rows", "max_bytes",
    ],
)  # fmt: skip
async def query_mysql(
    database: str,
    query: str,
    host: str,
    user: str,
    password: str,
    port: int = 3306,
    allow_change_data: bool = False,
    maxcount_results: int | None = None,
    *,
    allow_server_files: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
    **kwargs: Any,
) -> ServiceResponse:
    """Run one SQL statement in a MySQL or MariaDB database and return the rows of its result.

    The content is a list of tuples with the driver's values (``Decimal``, ``datetime``, ...);
    any failure is an ERROR with the server's words. Without ``allow_change_data`` the
    statement runs in a read-only transaction, which is rolled back. That alone does not
    hold: a compound statement could end it, and some statements (``SET GLOBAL``, ``KILL``)
    do not ask. So only statements that begin with SELECT, WITH, SHOW, DESCRIBE, EXPLAIN,
    TABLE or VALUES run. An account with the right FILE is refused then, because SELECT
    reads and writes the server's files with it. What a stored function with a definer's
    rights does beyond changing tables is the server's business. With ``allow_change_data``
    a statement's changes are committed when it has succeeded, and only the account's
    rights limit it.

    A cancelled or too long query is killed at the server, from a second connection.

    Args:
        database: Name of the database.
        query: One SQL statement. Without permission to change data it must be one that reads.
        host: Where the server is.
        user: Name of the account.
        password: Password of the account.
        port: Port of the server.
        allow_change_data: Whether the statement may change data.
        maxcount_results: Return at most so many rows; the statement itself needs no LIMIT.
        allow_server_files: Read also with an account that may touch the server's files.
        timeout_s: Seconds the query may take.
        max_rows: More rows are an error, unless maxcount_results asks for fewer.
        max_bytes: A larger result, as sent by the server, is an error.
        kwargs: For ``asyncmy.connect``: ``ssl``, ``unix_socket``, ...

    Raises:
        ConfigError: a limit is nonsense.
        MissingExtraError: the extra ``mysql`` is not installed.
    """
    limits = Limits(timeout_s, max_rows, max_bytes, maxcount_results)
    server = _MySQL(host, int(port), user, password, database, kwargs)

    async def rows() -> list[Any]:
        if not allow_change_data:
            _check_beginning(query)
        await load_driver("asyncmy.connection", "mysql")
        async with lend(server) as session:
            if session.may_touch_files and not (allow_change_data or allow_server_files):
                raise QueryFailed(_FILE_RULE.format(user))
            return await session.rows(query, limits, allow_change_data)

    return await answer(rows, limits, password=password)


_FILE_RULE = (
    "The account {!r} has the right FILE, with which SELECT reads and writes files of the server, in a "
    "read-only transaction too. Use an account without it, or preset allow_server_files=True."
)

_READERS = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "TABLE", "VALUES"})

# What the server skips before a statement. Not `/*! ... */`, which it runs.
_BEGINNING = re.compile(
    r"(?:[ \t\n\v\f\r(]|--[ \t\n\v\f\r][^\n]*(?:\n|\Z)|\#[^\n]*(?:\n|\Z)|/\*(?!!|M!)(?s:.*?)\*/)*+"
    r"([A-Za-z]*)(?![\w$])"
)


def _check_beginning(query: str) -> None:
    """Refuse all but the kinds of statements that only read, or that a transaction holds to it."""
    found = _BEGINNING.match(query)
    word = found[1].upper() if found else ""
    if word not in _READERS:
        raise QueryFailed(
            read_only_rule(f"A statement that begins with {query.strip()[:20]!r}")
            + " Begin with SELECT, WITH, SHOW, DESCRIBE, EXPLAIN, TABLE or VALUES."
        )


@dataclass(frozen=True)
class _MySQL:
    """One database of a server, for one account."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    options: Mapping[str, Any] = field(repr=False, compare=False)
    options_shown: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options_shown", repr(sorted(self.options.items())))

    async def connect(self) -> _Session:
        connection = await self._connected()
        try:
            session = _Session(connection, Meter(connection._transport))
            await session.look_around()
        except BaseException:
            connection.close()
            raise
        return session

    async def _connected(self) -> Any:
        module = driver("asyncmy.connection", "mysql")
        options = {"local_infile": False, **self.options}
        connection = module.Connection(
            host=self.host, port=self.port, user=self.user, password=self.password.encode(),
            database=self.database, autocommit=True, **options,
        )  # fmt: skip
        connection._client_flag &= ~_MULTI_STATEMENTS  # asyncmy asks for it always, and has no option
        await connection.connect()
        return connection

    def is_open(self, session: _Session) -> bool:
        return not session.connection._stream_broken

    async def reset(self, session: _Session) -> None:
        """Have the server forget everything of the session but who it is; the open transaction too."""
        await session.connection._execute_command(_COM_RESET_CONNECTION, b"")
        await session.connection._read_ok_packet()

    async def kill(self, session: _Session) -> None:
        """A server does not see that nobody waits for a query; another connection has to say it."""
        self.drop(session)
        other = await self._connected()
        try:
            await other.query(f"KILL {session.connection.thread_id()}")
        finally:
            other.close()

    async def close(self, session: _Session) -> None:
        await session.connection.ensure_closed()

    def drop(self, session: _Session) -> None:
        session.connection.close()


_MULTI_STATEMENTS = 1 << 16
_COM_RESET_CONNECTION = 0x1F
"""Both as in the MySQL client/server protocol (dev.mysql.com, Capabilities Flags; Command Phase)."""

_NO_RIGHT = (1045, 1227)
"""ER_ACCESS_DENIED_ERROR, ER_SPECIFIC_ACCESS_DENIED_ERROR."""


class _Session:
    """A connection, and what is known about its account."""

    def __init__(self, connection: Any, meter: Meter) -> None:
        self.connection = connection
        self.may_touch_files = True
        self._meter = meter
        self._is_mariadb = "mariadb" in connection.get_server_info().lower()
        self._errors = driver("asyncmy.errors", "mysql")
        self._cursor_kind = driver("asyncmy.cursors", "mysql").SSCursor  # rows as they come, none buffered

    async def look_around(self) -> None:
        """Find out about the right FILE, which may come with a role: only the server itself knows."""
        try:
            await self.connection.query("SELECT 1 INTO OUTFILE '/dev/null/x'")  # no folder: never a file
        except self._errors.MySQLError as error:
            self.may_touch_files = error.args[0] not in _NO_RIGHT

    async def rows(self, query: str, limits: Limits, may_change: bool) -> list[Any]:
        """Return the rows of a statement, in a transaction of its own.

        Raises:
            QueryFailed: the server, or a limit, has refused it.
        """
        try:
            await self.connection.query(self._settings(limits, may_change))
            await self.connection.query("START TRANSACTION" + ("" if may_change else " READ ONLY"))
            self._meter.start(limits.max_bytes)
            rows = limits.checked(await self._fetched(query, limits, may_change))
            if self._meter.is_over:
                raise limits.too_large()
            if may_change:
                await self.connection.commit()
        except self._errors.MySQLError as error:
            if self._meter.is_over:
                raise limits.too_large() from error
            if self.connection._stream_broken:
                raise
            raise QueryFailed(f"MySQL error {error.args[0]}: {error.args[-1]}") from error
        finally:
            self._meter.start(float("inf"))
        return rows

    def _settings(self, limits: Limits, may_change: bool) -> str:
        limit_ms = max(1, round(limits.timeout_s * 1000))
        time_limit = (
            f"max_statement_time={limit_ms / 1000:.3f}"
            if self._is_mariadb
            else f"max_execution_time={limit_ms}"  # of MySQL; for SELECT only
        )
        # How many rows SELECT gives where it does not say it itself. Not when writing: INSERT ... SELECT.
        row_limit = "" if may_change else f", sql_select_limit={limits.rows_to_fetch}"
        return f"SET SESSION {time_limit}{row_limit}"

    async def _fetched(self, query: str, limits: Limits, may_change: bool) -> list[Any]:
        cursor = self.connection.cursor(self._cursor_kind)
        await cursor.execute(query)
        rows: list[Any] = await cursor.fetchmany(limits.rows_to_fetch)
        has_more = cursor.description is not None and await cursor.fetchone() is not None
        if has_more and not may_change:
            # More than wanted, by a LIMIT in the statement: cheaper to hang up than to read them all.
            self.connection.close()
        else:
            await cursor.close()  # reads the rest
        return rows
