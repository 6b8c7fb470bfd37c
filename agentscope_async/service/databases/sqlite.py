"""Queries of SQLite files, each in a child process that can be killed."""

from __future__ import annotations

import asyncio
import base64
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from .._marks import marked
from ..response import ServiceResponse  # noqa: TC001  # toolkits look annotations up
from ._answer import answer
from ._limits import MAX_BYTES, MAX_ROWS, TIMEOUT_S, Limits, QueryFailed, read_only_rule
from ._pool import lend

__all__ = ["query_sqlite"]


@marked(
    untrusted="database",
    dangerous=lambda presets: bool(presets.get("allow_change_data")),
    granted=["database", "allow_change_data", "timeout_s", "max_rows", "max_bytes"],
)
async def query_sqlite(
    database: str,
    query: str,
    allow_change_data: bool = False,
    maxcount_results: int | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
    **kwargs: Any,
) -> ServiceResponse:
    """Run one SQL statement in an SQLite database and return the rows of its result.

    The content is a list of tuples of None, int, float, str and bytes; text that is not
    UTF-8 has its bad bytes replaced. Any failure is an ERROR with SQLite's words. Without
    ``allow_change_data`` the file is opened for reading only, and SQLite's authorizer
    refuses all but reading; with it, a missing file is created and the statement's changes
    are committed when it has succeeded. Other files (ATTACH, VACUUM INTO), extensions and
    settings (PRAGMA) are refused always, as are several statements at once.

    Runs in a child process, kept for the next query, with 512 MB of memory. When the time
    is up, or the caller cancelled, it is ended; a change is rolled back.

    Args:
        database: Path of the database file, or ":memory:".
        query: One SQL statement. Without permission to change data it must be one that reads.
        allow_change_data: Whether the statement may change data.
        maxcount_results: Return at most so many rows; the statement itself needs no LIMIT.
        timeout_s: Seconds the query may take.
        max_rows: More rows are an error, unless maxcount_results asks for fewer.
        max_bytes: A larger result, as JSON, is an error.
        kwargs: ``timeout``: seconds to wait for a lock of somebody else's; 5.

    Raises:
        ConfigError: a limit is nonsense, or another keyword was given.
    """
    limits = Limits(timeout_s, max_rows, max_bytes, maxcount_results)
    busy_s = _busy_s(**kwargs)

    async def rows() -> list[Any]:
        request = {
            **_place(database, allow_change_data),
            "query": query,
            "may_change": allow_change_data,
            "busy_s": busy_s,
            "timeout_s": timeout_s,
            "rows_to_fetch": limits.rows_to_fetch,
            "max_rows": max_rows,
            "too_many": str(limits.too_many()),
            "max_bytes": max_bytes,
            "too_large": str(limits.too_large()),
            "read_only_rule": read_only_rule("Changing the database"),
        }
        async with lend(_Children()) as child:
            return await child.rows(request)

    return await answer(rows, limits)


def _busy_s(timeout: float = 5.0, **others: Any) -> float:
    if others:
        raise ConfigError(
            f"query_sqlite takes no {', '.join(sorted(others))}: it connects in a process of its own. "
            f"Of sqlite3.connect's parameters it knows timeout."
        )
    return float(timeout)


def _place(database: str, may_change: bool) -> dict[str, str | None]:
    """Return a file's path, and the URI under which SQLite opens it, creating it only if it may change it."""
    if database == ":memory:":
        return {"path": None, "uri": "file::memory:"}
    if "\0" in database:  # in a URI it would end the path
        raise QueryFailed("The path of the database holds a NUL character.")
    path = Path(database).absolute()
    return {"path": str(path), "uri": f"{path.as_uri()}?mode={'rwc' if may_change else 'ro'}"}


STOP_S = 0.5
"""How long a change has to be rolled back in; then the next who opens the file does it."""

_PROGRAM = Path(__file__).with_name("_sqlite_child.py")


@dataclass(frozen=True)
class _Children:
    """The processes in which SQLite runs; each opens the database anew for every query."""

    async def connect(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(_PROGRAM),
            stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd="/", env={}, start_new_session=True,
        )  # fmt: skip
        return _Child(process)

    def is_open(self, child: _Child) -> bool:
        return child.process.returncode is None and not child.is_broken

    async def reset(self, child: _Child) -> None:
        """Nothing to do: the database was closed after the answer."""

    async def kill(self, child: _Child) -> None:
        await child.stop()

    async def close(self, child: _Child) -> None:
        await child.stop()

    def drop(self, child: _Child) -> None:
        child.kill()


class _Child:
    """A process, and the frames that go in and out; see ``_sqlite_child.py``."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.is_broken = False
        self._may_be_changing = False

    async def rows(self, request: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows that the process answers with.

        Raises:
            QueryFailed: it answers with an error, or has ended without an answer.
        """
        self._may_be_changing = request["may_change"]
        try:
            rows = await self._asked(request)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.is_broken = True
            text = "The query has needed more memory than it may, or more time to compute; make it simpler."
            raise QueryFailed(text) from error
        self._may_be_changing = False
        return rows

    async def _asked(self, request: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        import orjson

        assert self.process.stdin is not None
        frame = orjson.dumps(request)
        self.process.stdin.write(len(frame).to_bytes(4, "big") + frame)
        await self.process.stdin.drain()
        rows: list[tuple[Any, ...]] = []
        while not isinstance(answer := orjson.loads(await self._frame()), dict):
            rows += map(_row, answer)
        if answer["error"] is not None:
            raise QueryFailed(answer["error"])
        return rows

    async def _frame(self) -> bytes:
        assert self.process.stdout is not None
        size = await self.process.stdout.readexactly(4)
        return await self.process.stdout.readexactly(int.from_bytes(size, "big"))

    async def stop(self) -> None:
        """End the process; a change first has a moment to be rolled back."""
        assert self.process.stdin is not None
        self.is_broken = True
        try:
            if self._may_be_changing:
                self.process.terminate()
                self.process.stdin.close()  # what it waits for next, so it ends
                async with asyncio.timeout(STOP_S):
                    await self.process.wait()
        except (TimeoutError, ProcessLookupError):
            pass
        finally:
            self.kill()
        await self.process.wait()

    def kill(self) -> None:
        """End it at once."""
        self.is_broken = True
        with suppress(ProcessLookupError):
            self.process.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _row(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_value(value) if type(value) is dict else value for value in values)


def _value(tagged: Mapping[str, str]) -> bytes | float:
    return base64.b64decode(tagged["b"]) if "b" in tagged else float(tagged["f"])
