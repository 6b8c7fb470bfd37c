"""Opening a websocket: the side of the handshake that asks."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl as tls
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from ..errors import ConfigError, ConnectFailed
from ._ws import WebSocket
from ._ws_protocol import QUIET, ClientWire
from .connection import NO_TOKEN, SUBPROTOCOL, Limits, addresses_of, shown

if TYPE_CHECKING:
    from websockets.http11 import Request

__all__ = ["dial"]


class DialedWebSocket(WebSocket):
    """The side that asked for the connection."""

    def __init__(self, wire: ClientWire, limits: Limits, request: Request, url: str) -> None:
        super().__init__(wire, limits)
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._client_wire = wire
        self._seam = b""  # the last bytes of the answer so far
        self._request = request
        self._shows_token = "Authorization" in request.headers
        self._url = url

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._client_wire.send_request(self._request)
        del self._request  # it holds the token
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.opened.done():
            kind = "tls" if isinstance(error, tls.SSLError) else "closed"
            problem = f"the other side ended it during the handshake ({self._problem})"
            self.opened.set_exception(ConnectFailed(self._url, kind, problem))

    def _shake(self, data: bytes) -> None:
        wire = self._client_wire
        end = self._end_of_answer(data)
        wire.receive_data(data[:end])
        if wire.state is not State.OPEN and end < len(data):
            wire.receive_data(data[end:])  # a refusal may have a body
        if wire.handshake_exc is None and wire.state is State.CONNECTING:
            return  # the answer is not complete yet
        failure = self._find_failure(wire)
        if failure is not None:
            self._is_opening = False
            self._abort("the answer was refused")
            if not self.opened.done():
                self.opened.set_exception(failure)
            return
        self._set_open()
        wire.events.clear()  # of the answer
        self._buffer[: len(data) - end] = data[end:]
        self.buffer_updated(len(data) - end)
        if not self.opened.done():
            self.opened.set_result(None)

    def _end_of_answer(self, data: bytes) -> int:
        """Return where the answer ends in ``data``; what follows are frames already."""
        seen = self._seam + data
        at = seen.find(HEAD_END)
        end = len(data) if at < 0 else at + len(HEAD_END) - len(self._seam)
        self._seam = seen[1 - len(HEAD_END) :]
        return end

    def _find_failure(self, wire: ClientWire) -> ConnectFailed | None:
        error = wire.handshake_exc
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status == 401 and not self._shows_token:
                return ConnectFailed(self._url, "unauthorized", NO_TOKEN, status=status)
            kind, problem = REFUSALS.get(status, ("rejected", f"it answered with HTTP status {status}"))
            return ConnectFailed(self._url, kind, problem, status=status)
        if error is not None:
            return ConnectFailed(self._url, "not_a_node", f"what answers there is no node ({error})")
        if wire.subprotocol != SUBPROTOCOL:
            return ConnectFailed(self._url, "not_a_node", f"what answers there does not speak {SUBPROTOCOL}")
        return None


HEAD_END = b"\r\n\r\n"

REFUSALS = {
    401: ("unauthorized", "it does not accept this token (HTTP status 401)"),
    403: ("forbidden", "it refuses this caller (HTTP status 403)"),
    421: ("forbidden", "it does not go by this host name; add it to its allowed_hosts (HTTP status 421)"),
}

ADDRESS_TIMEOUT_S = 2.0
"""How long one of several addresses of a host may take before the next is tried."""


async def dial(
    url: str,
    *,
    token: str | None,
    ssl: tls.SSLContext | None,
    headers: Mapping[str, str],
    limits: Limits,
) -> WebSocket:
    """Open a websocket; the caller sets the time limit."""
    uri = parsed(url)
    wire = ClientWire(
        uri, subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=limits.max_message_bytes, logger=QUIET
    )
    request = upgrade_request(wire, token, headers)
    connection = DialedWebSocket(wire, limits, request, shown(url))
    if uri.secure and ssl is None:
        ssl = await asyncio.to_thread(tls.create_default_context)  # it reads files
    try:
        await reach(connection, uri, ssl, limits)
        await connection.opened
    except BaseException as error:  # perhaps cancelled just as it was opened
        if not connection.opened.cancel() and not connection.opened.cancelled():
            connection.opened.exception()  # told by what is raised here
        connection._abort("given up")
        if isinstance(error, OSError):
            raise explained(error, shown(url)) from error
        raise
    return connection


def parsed(url: str) -> WebSocketURI:
    """Return the parts of a websocket URL, and refuse what would leak or be ignored."""
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError):
        raise ConfigError(f"Not a usable URL: {shown(url)!r}. It should look like ws://host:12010.") from None
    if uri.user_info is not None:
        raise ConfigError(f"The URL of {shown(url)} holds credentials. Give them as token=.")
    return uri


HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.1
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
RESERVED_HEADERS = ("authorization", "host", "origin", "connection", "upgrade")


def upgrade_request(wire: ClientWire, token: str | None, headers: Mapping[str, str]) -> Request:
    """Return the request that opens the connection."""
    request = wire.connect()
    if token is not None:
        request.headers["Authorization"] = f"Bearer {token}"
    for name, value in headers.items():
        if name.lower() in RESERVED_HEADERS or name.lower().startswith("sec-"):
            raise ConfigError(f"The header {name!r} is set by connect() itself.")
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"The header {name!r} has a name or a value that HTTP does not allow.")
        request.headers[name] = value
    return request


async def reach(
    connection: WebSocket, uri: WebSocketURI, context: tls.SSLContext | None, limits: Limits
) -> None:
    """Connect to the first address of the host that lets us."""
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    if uri.secure:
        options = {
            "ssl": context,
            "server_hostname": uri.host,
            "ssl_shutdown_timeout": limits.close_timeout_s,
        }
    addresses = await addresses_of(uri.host, uri.port)
    # Not asyncio's own loop over addresses: it says "Multiple exceptions" where all have refused.
    for address in addresses[:-1]:
        try:
            async with asyncio.timeout(ADDRESS_TIMEOUT_S):
                await loop.create_connection(lambda: connection, address, uri.port, **options)
                return
        except tls.SSLError:
            raise
        except OSError:
            continue
    await loop.create_connection(lambda: connection, addresses[-1], uri.port, **options)


def explained(error: OSError, url: str) -> ConnectFailed | TimeoutError:
    """Return what to raise for ``error``; a time limit is for the caller to name."""
    if isinstance(error, (ConnectFailed, TimeoutError)):
        return error
    if isinstance(error, tls.SSLError):
        problem = getattr(error, "verify_message", "") or error.reason or "the handshake failed"
        return ConnectFailed(url, "tls", f"TLS: {problem}")
    if isinstance(error, ConnectionRefusedError):
        return ConnectFailed(url, "refused", "nobody listens there")
    if isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        return ConnectFailed(url, "closed", "the other side ended it during the handshake")
    name = errno.errorcode.get(error.errno or 0, "") if not isinstance(error, socket.gaierror) else "DNS"
    return ConnectFailed(url, "unreachable", f"{name} {error.strerror or error}".strip())
