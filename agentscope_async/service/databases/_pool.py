"""Connections to databases, kept per event loop and server, and lent to one query at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..._per_loop import PerLoop
from ._limits import QueryFailed

__all__ = [
    "IDLE_S",
    "KILL_S",
    "MAX_CONNECTIONS",
    "Client",
    "Server",
    "close_databases",
    "lend",
    "lent_count",
    "share",
]

MAX_CONNECTIONS = 8
"""To one server, or child processes for SQLite; further queries wait, within their time limit."""

IDLE_S = 30.0
"""Connections idle for longer are closed."""

KILL_S = 2.0
"""How long a server is asked to end a query that nobody waits for any more."""

C = TypeVar("C")


class Client(Hashable, Protocol[C]):
    """How to reach a database whose driver keeps connections itself; equal ones share them."""

    async def connect(self) -> C:
        """Open a connection, or make a client."""

    async def close(self, connection: C, /) -> None:
        """Take leave."""


class Server(Client[C], Protocol[C]):
    """How to reach a database; equal ones share their connections."""

    def is_open(self, connection: C, /) -> bool:
        """Whether it can be used for another query."""

    async def reset(self, connection: C, /) -> None:
        """Undo what a query has left: its transaction, settings, temporary tables, locks."""

    async def kill(self, connection: C, /) -> None:
        """End what the server is still doing for it."""

    def drop(self, connection: C, /) -> None:
        """Close it at once, without waiting for anybody; a closed one: no effect."""


@asynccontextmanager
async def lend(server: Server[C]) -> AsyncIterator[C]:
    """Lend a connection of the running loop's pool.

    Afterwards it is reset and kept. When the block fails otherwise than by
    :exc:`QueryFailed`, or is cancelled, its query is killed at the server and the
    connection closed before this returns.
    """
    async with _loops.get().get(server).lend() as connection:
        yield connection


@asynccontextmanager
async def share(client: Client[C]) -> AsyncIterator[C]:
    """Give a connection that all queries use which run at the same time in this loop.

    The last of them closes it before this returns: for drivers with tasks of their own,
    which must not be left to the end of the loop.
    """
    pools = _loops.get()
    shared = await pools.get_shared(client)
    shared.user_count += 1
    try:
        yield shared.connection
    finally:
        shared.user_count -= 1
        if not shared.user_count:
            pools.forget(client)
            await _closed(client, shared.connection)


async def close_databases() -> None:
    """Close the running loop's database connections that no query is using; later queries open new ones."""
    pools = _loops.find()
    if pools is not None:
        await pools.close_free()


def lent_count() -> int:
    """Return how many connections of the running loop belong to a query right now."""
    pools = _loops.find()
    return 0 if pools is None else pools.lent_count()


class _Pool(Generic[C]):
    """The connections to one server, the one used last on top."""

    def __init__(self, server: Server[C]) -> None:
        self._server = server
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._free: deque[tuple[float, C]] = deque()
        self._sweeping: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.lent = 0

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[C]:
        async with self._slots:
            self.lent += 1
            try:
                async with self._opened() as connection:
                    yield connection
            finally:
                self.lent -= 1

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[C]:
        connection = self._take()
        if connection is None:
            connection = await self._server.connect()
        is_kept = False
        try:
            try:
                yield connection
            except QueryFailed:  # said by the database: the connection is as good as before
                is_kept = await self._is_reset(connection)
                raise
            is_kept = await self._is_reset(connection)
        finally:
            if is_kept:
                self._give_back(connection)
            else:
                await self._end(connection)

    def _take(self) -> C | None:
        while self._free:
            _, connection = self._free.pop()
            if self._server.is_open(connection):
                return connection
            self._server.drop(connection)
        return None

    async def _is_reset(self, connection: C) -> bool:
        """Reset it; False where that cannot be done: the answer is in hand all the same."""
        if not self._server.is_open(connection):
            return False
        with suppress(Exception):
            await self._server.reset(connection)
            return True
        return False

    async def _end(self, connection: C) -> None:
        from anyio import move_on_after

        try:
            # Where this fails, the server ends the query by the time limit it was given.
            with move_on_after(KILL_S, shield=True), suppress(Exception):
                await self._server.kill(connection)
        finally:
            self._server.drop(connection)

    def _give_back(self, connection: C) -> None:
        self._free.append((self._loop.time(), connection))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        while self._free and self._free[0][0] <= self._loop.time() - IDLE_S:
            self._server.drop(self._free.popleft()[1])
        if self._free:
            self._sweeping = self._loop.call_at(self._free[0][0] + IDLE_S, self._sweep)

    async def close_free(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        while self._free:
            _, connection = self._free.pop()
            try:
                await _closed(self._server, connection)
            finally:
                self._server.drop(connection)


@dataclass
class _Shared(Generic[C]):
    """A client, and how many queries are using it."""

    connection: C
    user_count: int = 0


class _LoopPools:
    """All pools of one event loop."""

    def __init__(self) -> None:
        self._shared: dict[Client[Any], _Shared[Any]] = {}
        self._pools: dict[Server[Any], _Pool[Any]] = {}

    def get(self, server: Server[C]) -> _Pool[C]:
        pool = self._pools.get(server)
        if pool is None:
            pool = self._pools[server] = _Pool(server)
        return pool

    async def get_shared(self, client: Client[C]) -> _Shared[C]:
        shared = self._shared.get(client)
        if shared is None:
            # Making one does not wait for the server, so no second one can be made meanwhile.
            shared = self._shared[client] = _Shared(await client.connect())
        return shared

    def forget(self, client: Client[Any]) -> None:
        del self._shared[client]

    def lent_count(self) -> int:
        lent = sum(pool.lent for pool in self._pools.values())
        return lent + sum(shared.user_count for shared in self._shared.values())

    async def close_free(self) -> None:
        for server, pool in list(self._pools.items()):
            if not pool.lent:
                del self._pools[server]
            await pool.close_free()


async def _closed(client: Client[C], connection: C) -> None:
    from anyio import move_on_after

    with move_on_after(KILL_S, shield=True), suppress(Exception):  # it is thrown away
        await client.close(connection)


_loops = PerLoop(_LoopPools, _LoopPools.close_free)
