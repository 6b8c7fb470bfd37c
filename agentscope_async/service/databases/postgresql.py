"""Queries of PostgreSQL, through asyncpg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._marks import marked
from ..response import ServiceResponse  # noqa: TC001  # toolkits look annotations up
from ._answer import answer, driver, load_driver
from ._limits import MAX_BYTES, MAX_ROWS, TIMEOUT_S, Limits, QueryFailed
from ._meter import Meter
from ._pool import KILL_S, lend

__all__ = ["query_postgresql"]


@marked(
    untrusted="database",
    dangerous=lambda presets: bool(presets.get("allow_change_data")),
    granted=[
        "database", "host", "user", "password", "port", "allow_change_data",
        "allow_server_files", "timeout_s", "max_rows", "max_bytes",
    ],
)  # fmt: skip
async def query_postgresql(
    database: str,
    query: str,
    host: str,
    user: str,
    password: str,
    port: int = 5432,
    allow_change_data: bool = False,
    maxcount_results: int | None = None,
    *,
    allow_server_files: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
    **kwargs: Any,
) -> ServiceResponse:
    """Run one SQL statement in a PostgreSQL database and return the rows of its result.

    The content is a list of tuples with the driver's values (``Decimal``, ``datetime``,
    ``UUID``, ...); any failure is an ERROR with the server's words. Without
    ``allow_change_data`` the statement runs in a read-only transaction that has begun to
    read, so that it cannot be made writable any more, and that is rolled back. An account
    that is, or may become, a superuser or one that reaches the server's files and programs
    is refused then: COPY does so in a read-only transaction too. What it does not hold back:
    an extension that connects to elsewhere (dblink), and ending other sessions of the same
    account. With ``allow_change_data`` a statement's changes are committed when it has
    succeeded, and only the account's rights limit it.

    A cancelled or too long query is cancelled at the server.

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
        kwargs: For ``asyncpg.connect``: ``ssl``, ``server_settings``, ...

    Raises:
        ConfigError: a limit is nonsense.
        MissingExtraError: the extra ``postgresql`` is not installed.
    """
    limits = Limits(timeout_s, max_rows, max_bytes, maxcount_results)
    server = _PostgreSQL(host, int(port), user, password, database, kwargs)

    async def rows() -> list[Any]:
        await load_driver("asyncpg", "postgresql")
        async with lend(server) as session:
            if session.may_touch_files and not (allow_change_data or allow_server_files):
                raise QueryFailed(_FILE_RULE.format(user))
            return await session.rows(query, limits, allow_change_data)

    return await answer(rows, limits, password=password)


_FILE_RULE = (
    "The account {!r} can reach files and programs of the server (a superuser, or a member of "
    "pg_read_server_files, pg_write_server_files or pg_execute_server_program), in a read-only transaction "
    "too. Use an ordinary account, or preset allow_server_files=True."
)

_MAY_TOUCH_FILES = """
select exists(
  select from pg_catalog.pg_roles
  where (rolsuper or rolname in
      ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'))
    and pg_catalog.pg_has_role(session_user, oid, 'member'))
"""

CHUNK_ROWS = 500


@dataclass(frozen=True)
class _PostgreSQL:
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
        # Without kept statements: they would outlive DISCARD ALL on this side only.
        options = {"statement_cache_size": 0, **self.options}
        connection = await driver("asyncpg", "postgresql").connect(
            host=self.host, port=self.port, user=self.user, password=self.password,
            database=self.database, **options,
        )  # fmt: skip
        try:
            may_touch_files = await connection.fetchval(_MAY_TOUCH_FILES)
        except BaseException:
            connection.terminate()
            raise
        return _Session(connection, Meter(connection._transport), may_touch_files)

    def is_open(self, session: _Session) -> bool:
        return not session.connection.is_closed()

    async def reset(self, session: _Session) -> None:
        if session.transaction is not None:
            await session.transaction.rollback()
            session.transaction = None
        await session.connection.execute("DISCARD ALL")

    async def kill(self, session: _Session) -> None:
        """Wait for asyncpg, which has sent a cancel request when its call was cancelled."""
        await session.connection.close(timeout=KILL_S)

    async def close(self, session: _Session) -> None:
        await session.connection.close(timeout=KILL_S)

    def drop(self, session: _Session) -> None:
        session.connection.terminate()


@dataclass
class _Session:
    """A connection, and what is known about its account.

    Attributes:
        transaction: what is still to be rolled back.
    """

    connection: Any
    meter: Meter
    may_touch_files: bool
    transaction: Any = None

    async def rows(self, query: str, limits: Limits, may_change: bool) -> list[Any]:
        """Return the rows of a statement, in a transaction of its own.

        Raises:
            QueryFailed: the server, or a limit, has refused it.
        """
        errors = driver("asyncpg", "postgresql")
        self.transaction = self.connection.transaction(readonly=not may_change)
        await self.transaction.start()
        try:
            await self._settle(limits)
            self.meter.start(limits.max_bytes)
            rows = limits.checked(await self._fetched(query, limits))
            if self.meter.is_over:
                raise limits.too_large()
            if may_change:
                transaction, self.transaction = self.transaction, None
                await transaction.commit()
        except (errors.PostgresError, errors.InterfaceError, OSError) as error:
            if self.meter.is_over:
                raise limits.too_large() from error
            if self.connection.is_closed():
                raise
            raise QueryFailed(f"PostgreSQL error: {error}") from error
        finally:
            self.meter.start(float("inf"))
        return rows

    async def _settle(self, limits: Limits) -> None:
        """Limit the time, by a query: after its first one a transaction cannot become writable.

        (PostgreSQL, ``check_transaction_read_only``: "must be set before any query".)
        """
        limit_ms = max(1, round(limits.timeout_s * 1000))
        await self.connection.execute(f"select set_config('statement_timeout', '{limit_ms}', true)")

    async def _fetched(self, query: str, limits: Limits) -> list[tuple[Any, ...]]:
        """Fetch through a portal of the extended protocol: one statement, and no row more than wanted."""
        cursor = await self.connection.cursor(query)
        rows: list[tuple[Any, ...]] = []
        while (wanted := min(limits.rows_to_fetch - len(rows), CHUNK_ROWS)) > 0:
            chunk = await cursor.fetch(wanted)
            rows += map(tuple, chunk)
            if len(chunk) < wanted:
                break
        return rows
