"""Accepting websockets: the listener, and the side of the handshake that says yes or no.

A socket that was not let in yet costs a few kilobytes, for a few seconds at most.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self, cast

from websockets.typing import Subprotocol

from .._sockets import listening_socket
from ._door import Door, Refusal
from ._ws import WebSocket, half_close
from ._ws_protocol import QUIET, ServerWire
from .connection import SUBPROTOCOL, Limits, OnConnection

if TYPE_CHECKING:
    import socket
    import ssl as tls
    from types import TracebackType

    from websockets.http11 import Request

__all__ = ["Listener"]

ACCEPT_PAUSE_S = 1.0
"""Before accepting again after a failure; asyncio's own servers pause as long."""


class Listener:
    """Accepts connections until it is closed; an async context manager.

    Attributes:
        host, port: the bound address.
        url: the same as a URL.
    """

    host: str
    port: int
    url: str

    def __init__(
        self, door: Door, on_connection: OnConnection, *, ssl: tls.SSLContext | None, limits: Limits
    ) -> None:
        self.door = door
        self.on_connection = on_connection
        self.ssl = ssl
        self.limits = limits
        self._pending: dict[AcceptedWebSocket, None] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()  # under TLS: one that accepts, one for each handshake
        self._server: asyncio.Server | None = None
        self._listening: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def unauthenticated(self) -> int:
        """How many sockets are in the handshake."""
        return len(self._pending)

    async def aclose(self) -> None:
        """Accept nobody any more and drop who is in the handshake; open connections stay their owners'."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._pending):
            connection.drop("the listener was closed")
        if self._tasks:
            await asyncio.wait(self._tasks)
        for listening in self._listening:
            listening.close()
        await asyncio.sleep(0)  # in which the dropped sockets are closed

    async def open(self, addresses: list[str], port: int) -> None:
        """Start to accept."""
        if self.ssl is None:
            self.host, self.port = await self._open_plain(addresses, port)
        else:
            self.host, self.port = self._open_encrypted(addresses, port, self.ssl)
        shown_host = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'ws' if self.ssl is None else 'wss'}://{shown_host}:{self.port}{self.door.path}"

    async def _open_plain(self, addresses: list[str], port: int) -> tuple[str, int]:
        backlog = self.limits.max_unauthenticated
        self._server = await asyncio.get_running_loop().create_server(
            lambda: AcceptedWebSocket(self), addresses, port, backlog=backlog
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def _open_encrypted(self, addresses: list[str], port: int, context: tls.SSLContext) -> tuple[str, int]:
        """Listen without ``create_server``, which tells of nobody before the TLS handshake is done."""
        try:
            for address in addresses:
                listening = listening_socket(address, port, backlog=self.limits.max_unauthenticated)
                listening.setblocking(False)
                self._listening.append(listening)
        except OSError:
            for listening in self._listening:
                listening.close()
            raise
        for listening in self._listening:
            self._own(asyncio.ensure_future(self._accept(listening, context)))
        host, port = self._listening[0].getsockname()[:2]
        return host, port

    async def _accept(self, listening: socket.socket, context: tls.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:  # too many open files, say
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            stranger = AcceptedWebSocket(self)
            task = asyncio.ensure_future(self._secure(stranger, accepted, context))
            task.add_done_callback(partial(self._look_after, stranger, accepted))
            self._own(task)
            stranger.arrive(task)

    async def _secure(
        self, stranger: AcceptedWebSocket, accepted: socket.socket, context: tls.SSLContext
    ) -> None:
        """Shake hands for TLS; ``stranger`` has its transport after that."""
        with suppress(OSError):  # of which ssl.SSLError is one
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: stranger,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self.limits.handshake_timeout_s,
                ssl_shutdown_timeout=self.limits.close_timeout_s,
            )

    def _look_after(
        self, stranger: AcceptedWebSocket, accepted: socket.socket, task: asyncio.Task[None]
    ) -> None:
        """Let go of who did not get through the TLS handshake, even one that was dropped before it began."""
        if not stranger.has_arrived:
            accepted.close()
            stranger.connection_lost(None)

    # Called by the sockets.

    def _admit(self, connection: AcceptedWebSocket) -> None:
        if len(self._pending) >= self.limits.max_unauthenticated:
            next(iter(self._pending)).drop("there are too many unauthenticated sockets")
        self._pending[connection] = None

    def _dismiss(self, connection: AcceptedWebSocket) -> None:
        self._pending.pop(connection, None)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class AcceptedWebSocket(WebSocket):
    """The side that was asked for the connection: at first a stranger's, later a peer's."""

    def __init__(self, listener: Listener) -> None:
        limits = listener.limits
        wire = ServerWire(
            subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=limits.max_message_bytes, logger=QUIET
        )
        super().__init__(wire, limits)
        self._server_wire = wire
        self._listener = listener
        self._head = bytearray()  # of the request
        self._tls_handshake: asyncio.Task[None] | None = None
        self._is_answered = False
        self._handshake_deadline: asyncio.TimerHandle | None = None

    @property
    def has_arrived(self) -> bool:
        """Whether there is a transport: under TLS, after its handshake."""
        return self._transport is not None

    def arrive(self, tls_handshake: asyncio.Task[None] | None = None) -> None:
        """Begin to count, and give it a limited time to be let in."""
        self._tls_handshake = tls_handshake
        seconds = self._limits.handshake_timeout_s
        problem = f"the handshake took more than {seconds:g} s"
        self._handshake_deadline = self._loop.call_later(seconds, self.drop, problem)
        self._listener._admit(self)

    def drop(self, problem: str) -> None:
        """End it at once, without an answer."""
        self._listener._dismiss(self)
        if self._tls_handshake is not None:
            self._tls_handshake.cancel()
        self._abort(problem)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._handshake_deadline is None:
            self.arrive()

    def connection_lost(self, error: Exception | None) -> None:
        self._listener._dismiss(self)
        self._cancel(self._handshake_deadline)
        super().connection_lost(error)

    def _shake(self, data: bytes) -> None:
        """Collect the request; nothing of it is looked at before it is complete."""
        if self._is_answered:
            return  # who was refused may finish speaking
        self._head += data
        end = self._head.find(b"\r\n\r\n") + 4
        size = end if end > 3 else len(self._head)
        if size > self._limits.max_handshake_bytes:
            self._refuse(Refusal(431, f"a request has at most {self._limits.max_handshake_bytes} bytes"))
        elif end > 3 or not self._head[:1].isalpha():  # the latter: TLS, say
            self._answer(bytes(self._head))

    def _answer(self, head: bytes) -> None:
        try:
            self._let_in(head)
        except Refusal as refusal:
            self._refuse(refusal)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "A caller could not be authenticated", "exception": error, "protocol": self}
            )
            self._refuse(Refusal(500, "the caller could not be authenticated"))

    def _let_in(self, head: bytes) -> None:
        assert self._transport is not None
        wire, door = self._server_wire, self._listener.door
        request = self._parsed(head)
        door.check_request(request.path, request.headers)
        response = wire.accept(request)
        if response.status_code != 101:
            header = "Upgrade: websocket" if response.status_code == 426 else None
            raise Refusal(response.status_code, f"a websocket of {SUBPROTOCOL} is needed", header)
        certificate = self._transport.get_extra_info("peercert") or None
        self.identity = door.identify(request.headers, self.address, certificate)
        self._is_answered = True
        wire.send_response(response)
        self._flush()
        self._become_peer()

    def _parsed(self, head: bytes) -> Request:
        method = head.split(b" ", 1)[0]
        if method != b"GET" and method.isalpha() and method.isupper():
            raise Refusal(405, "only GET is understood", "Allow: GET")
        if not head.endswith(b"\r\n\r\n") or head.count(b"\r\n\r\n") > 1:
            raise Refusal(400, "nothing may follow the request before it is answered")
        self._server_wire.receive_data(head)
        events = self._server_wire.events_received()
        if not events:
            raise Refusal(400, "this is no HTTP/1.1 request that is understood here")
        return cast("Request", events[0])

    def _become_peer(self) -> None:
        self._head.clear()
        self._cancel(self._handshake_deadline)
        self._listener._dismiss(self)
        self._set_open()
        self._call(self._listener.on_connection, self)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, then read on until the caller closes: closing first could take the answer from it."""
        assert self._transport is not None
        self._is_answered = True
        self._head.clear()
        self._problem = refusal.text
        self._transport.write(refusal.response)
        half_close(self._transport)
