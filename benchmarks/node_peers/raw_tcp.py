"""No websocket at all: a length of four bytes before each message, over an ``asyncio.Protocol``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Self

from . import Ask, Carrier as CarrierBase
from ._raw import Messages, Pending, answerer

HEAD = 4


class Framed(asyncio.Protocol):
    """Hands each whole message to ``take``, which is given this connection too."""

    def __init__(self, take: Callable[[Framed, bytes], None]) -> None:
        self._take = take
        self._heard = bytearray()
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        heard, start = self._heard, 0
        heard += data
        while len(heard) - start >= HEAD:
            end = start + HEAD + int.from_bytes(heard[start : start + HEAD])
            if len(heard) < end:
                break
            self._take(self, bytes(memoryview(heard)[start + HEAD : end]))
            start = end
        del heard[:start]

    def send(self, message: bytes) -> None:
        self.transport.write(len(message).to_bytes(HEAD) + message)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def drained(self) -> None:
        """Wait while the transport holds more than its high-water mark."""
        await self._room.wait()


class Carrier(CarrierBase):
    """A connection to each server."""

    name: ClassVar = "raw TCP"

    @staticmethod
    @asynccontextmanager
    async def serving(number: int, first: Mapping[str, Any] | None) -> AsyncIterator[dict[str, Any]]:
        loop, answer_to = asyncio.get_running_loop(), answerer(Messages)

        def answer(connection: Framed, question: bytes) -> None:
            connection.send(answer_to(question))

        async with await loop.create_server(lambda: Framed(answer), "127.0.0.1", 0) as server:
            yield {"port": server.sockets[0].getsockname()[1]}

    async def __aenter__(self) -> Self:
        self._pending = [Pending(Messages) for _ in self.servers]
        self._connections = [
            await _connected(each["port"], pending)
            for each, pending in zip(self.servers, self._pending, strict=True)
        ]
        return self

    async def __aexit__(self, *error: Any) -> None:
        for connection in self._connections:
            connection.transport.close()

    def ask(self, server: int, agent: str) -> Ask:
        connection, question = self._connections[server], self._pending[server].question

        async def ask(text: str) -> str:
            asked, answer = question(agent, text)
            await connection.drained()
            connection.send(asked)
            return await answer

        return ask


async def _connected(port: int, pending: Pending) -> Framed:
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: Framed(lambda _, answer: pending.answered(answer)), "127.0.0.1", port
    )
    return protocol
