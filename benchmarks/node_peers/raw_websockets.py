"""The baseline: the ``websockets`` library as it is, one binary frame for each message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from . import Ask, Carrier as CarrierBase
from ._raw import Form, Messages, Pending, answerer

OPTIONS: dict[str, Any] = {"compression": None, "ping_interval": None}


class Carrier(CarrierBase):
    """A connection to each server, and a task that reads it."""

    name: ClassVar = "raw websockets"
    form: ClassVar[type[Form]] = Messages

    @classmethod
    @asynccontextmanager
    async def serving(cls, number: int, first: Mapping[str, Any] | None) -> AsyncIterator[dict[str, Any]]:
        answer_to = answerer(cls.form)

        async def converse(connection: ServerConnection) -> None:
            async for question in connection:
                await connection.send(answer_to(question))  # type: ignore[arg-type]  # bytes, as sent

        async with serve(converse, "127.0.0.1", 0, **OPTIONS) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            yield {"url": f"ws://127.0.0.1:{port}"}

    async def __aenter__(self) -> Self:
        self._connections = [await connect(each["url"], proxy=None, **OPTIONS) for each in self.servers]
        self._pending = [Pending(self.form) for _ in self.servers]
        self._readers = [
            asyncio.create_task(_read(connection, pending))
            for connection, pending in zip(self._connections, self._pending, strict=True)
        ]
        return self

    async def __aexit__(self, *error: Any) -> None:
        for connection in self._connections:
            await connection.close()
        for reader in self._readers:
            with suppress(Exception):
                await reader

    def ask(self, server: int, agent: str) -> Ask:
        send, question = self._connections[server].send, self._pending[server].question

        async def ask(text: str) -> str:
            asked, answer = question(agent, text)
            await send(asked)
            return await answer

        return ask


async def _read(connection: ClientConnection, pending: Pending) -> None:
    async for answer in connection:
        pending.answered(answer)  # type: ignore[arg-type]
