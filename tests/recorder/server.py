"""A small asyncio HTTP/1.1 server that can misbehave as real ones do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic
from typing import Any, Self, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from .faults import EVENT_ENDS, Fault, offset

LINGER_S = 0.02
"""Given to the bytes before a cut to leave: a reset may take along what is still on its way."""


@dataclass
class Request:
    """A request as it came; names of headers are lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: bytes
    received_at: float  # seconds of the monotonic clock

    @property
    def json(self) -> Any:
        """The parsed body, None if there is none, and ``{"<not json>": its beginning}`` if it is not JSON."""
        if not self.raw:
            return None
        try:
            return json.loads(self.raw)
        except ValueError:
            return {"<not json>": self.raw[:2000].decode("utf-8", "replace")}


@dataclass
class Reply:
    """An answer; ``stream`` ("sse" or "ndjson") is sent chunked, event by event."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: str | None = None
    fault: Fault = field(default_factory=Fault)
    record: dict[str, Any] | None = None  # how the sending went is noted there as "sent"


Handler: TypeAlias = Callable[[Request], Awaitable[Reply]]
"""Gives the answer to a request."""


class Recorder:
    """Serve ``handler`` on 127.0.0.1 inside ``async with``, and remember every request."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.port = 0
        self.requests: list[Request] = []
        self.open_connections = self.max_connections = self.total_connections = 0
        self._clients: set[asyncio.Task[Any]] = set()

    @property
    def origin(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        self.open_connections += 1
        self.total_connections += 1
        self.max_connections = max(self.max_connections, self.open_connections)
        try:
            # Cancelled by leaving the server alone; asyncio.streams would log it as an error.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer_all(reader, writer)
        finally:
            self.open_connections -= 1
            self._clients.discard(client)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_open = True
        while is_open and (request := await read_request(reader)):
            self.requests.append(request)
            reply = await self.handler(request)
            sending = Sending(writer, reply)
            try:
                await sending.run()
            finally:
                if reply.record is not None:
                    reply.record["sent"] = sending.sent
            is_open = sending.is_complete and request.headers.get("connection", "").lower() != "close"


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read one request; None where the peer has closed in good order.

    Raises:
        asyncio.IncompleteReadError: the peer closed in the middle of a request.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    fields = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    body = await _read_body(reader, headers)
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(method, unquote(url.path), query, headers, body, monotonic())


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


class Sending:
    """Sends one reply, as its fault wants it.

    Attributes:
        sent: ``status``, ``bytes`` of the body, and ``outcome``: complete, reset, fin, drop,
            client-left, or stopped (the server was left).
    """

    def __init__(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        self._writer = writer
        self._reply = reply
        self._fault = reply.fault
        self._body = reply.fault.spoil(reply.body, reply.stream)
        if self._fault.cut == "trunc":
            self._body = self._body[: offset(self._fault.cut_at, len(self._body))]
        self._is_chunked = bool(reply.stream or self._fault.chunk_bytes)
        self.sent: dict[str, Any] = {"status": reply.status, "bytes": 0, "outcome": "stopped"}

    @property
    def is_complete(self) -> bool:
        """Whether the connection can serve another request."""
        return self.sent["outcome"] == "complete"

    async def run(self) -> None:
        """Send it, or as much as the fault or the peer lets through."""
        try:
            self.sent["outcome"] = await self._send()
        except ConnectionError:
            self.sent["outcome"] = "client-left"

    async def _send(self) -> str:
        if self._fault.hang_s:
            await asyncio.sleep(self._fault.hang_s)
        if self._fault.drop:
            self._reset()
            return "drop"
        await self._write(self._head())
        if not await self._send_body():
            await asyncio.sleep(LINGER_S)
            if self._fault.cut == "reset":
                self._reset()
            return str(self._fault.cut)
        if self._is_chunked:
            await self._write(b"0\r\n\r\n")
        return "complete"

    def _head(self) -> bytes:
        status = self._reply.status
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Status"
        lines = [f"HTTP/1.1 {status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in self._reply.headers.items()]
        lines.append(
            "Transfer-Encoding: chunked" if self._is_chunked else f"Content-Length: {len(self._body)}"
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _send_body(self) -> bool:
        """Send up to the cut; False if there was one."""
        total = len(self._body)
        cut = offset(self._fault.cut_at, total) if self._fault.cut in ("reset", "fin") else None
        stall = offset(self._fault.stall_at, total) if self._fault.stall_at else None
        for piece in self._pieces():
            part = piece if cut is None else piece[: cut - self.sent["bytes"]]
            if part:
                await self._write(b"%x\r\n%s\r\n" % (len(part), part) if self._is_chunked else part)
                self.sent["bytes"] += len(part)
            if cut is not None and self.sent["bytes"] >= cut:
                return False
            if stall is not None and self.sent["bytes"] >= stall:
                stall = None
                await asyncio.sleep(self._fault.stall_s)
            await asyncio.sleep(self._fault.delay_s)  # also for 0: each event leaves by itself
        return True

    def _pieces(self) -> Iterator[bytes]:
        body = self._body
        if size := self._fault.chunk_bytes:
            yield from (body[at : at + size] for at in range(0, len(body), size))
        elif self._reply.stream:
            end = EVENT_ENDS[self._reply.stream]
            if self._reply.stream == "sse" and b"\r\n\r\n" in body:
                end = b"\r\n\r\n"
            *events, rest = body.split(end)
            yield from (event + end for event in events)
            if rest:
                yield rest
        else:
            yield body

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def _reset(self) -> None:
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
