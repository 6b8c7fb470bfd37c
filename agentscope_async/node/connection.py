"""How the bytes of a session get across: websockets (``ws://``, ``wss://``) and memory (``mem://``).

A :class:`Connection` carries opaque messages both ways, in order, until it closes. It knows
nothing of sessions, acknowledgements or agents: what was sent may be lost when it closes, and
that is for the session to repair. It is driven by callbacks and timers, with no task of its own:
a task hop per message would cost more than the message.

``connect`` opens one; ``listen`` (in ``_listener``) and ``listen_in_memory`` (in ``_memory``)
accept them. The websocket part is loaded when it is first used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .._redact import remember_secret
from ..errors import ConfigError, ConnectFailed

if TYPE_CHECKING:
    import ssl as tls

    from ._door import Authenticate
    from ._listener import Listener

__all__ = [
    "Connection",
    "Limits",
    "OnClose",
    "OnMessage",
    "OnWritable",
    "check_token",
    "OnConnection",
    "connect",
    "listen",
    "new_token",
    "read_token",
]

SUBPROTOCOL = "asa.1"
NO_TOKEN = "it wants a token, and none was given: Runtime(token=...), rt.agent(url, token=...)"

OnMessage = Callable[[bytes], None]
"""Is given each message, whole and in order."""
OnClose = Callable[[int, str], None]
"""Is given the close code and reason, once; nothing follows it."""
OnWritable = Callable[[], None]
"""Is called when a congested connection has room again."""
OnConnection = Callable[["Connection"], None]
"""Is given each connection that a listener let in; calls its ``start``."""

# Close codes of this layer, beside those of RFC 6455 section 7.4.1.
ABNORMAL = 1006  # lost without a word; never on the wire
FLOW_VIOLATION = 4006


class Connection(Protocol):
    """Carries messages both ways until it closes.

    The callbacks given to ``start`` run in the event loop, never from inside ``send`` or
    ``close``. One that raises is a bug of its owner: the error goes to the loop's exception
    handler and the connection closes with 1011.
    """

    @property
    def identity(self) -> str:
        """The name that the dialer proved by its token or certificate; else, and at the dialer, ``""``."""

    @property
    def address(self) -> str:
        """Where the other side is, for logs."""

    @property
    def max_message_bytes(self) -> int:
        """What the limits allow the other side to send at once."""

    @property
    def is_open(self) -> bool:
        """Whether ``send`` still does anything."""

    @property
    def is_congested(self) -> bool:
        """Whether more than ``Limits.high_water_bytes`` wait to be taken by the other side.

        Sending goes on working; who sends more than ``Limits.max_unsent_bytes`` loses the
        connection. Room is told by ``on_writable``.
        """

    def start(self, on_message: OnMessage, on_close: OnClose, on_writable: OnWritable | None = None) -> None:
        """Begin to deliver; to be called once. Until then nothing is read and nothing is lost.

        Reading never pauses afterwards: a connection that is not read cannot tell a slow
        consumer from a dead link, so holding a sender back is for the session's credit.
        """

    def send(self, message: bytes) -> None:
        """Hand over one message; never blocks. Does nothing once the connection is closing."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close after what was sent before; no message is delivered any more.

        The other side's ``on_close`` gets the code and the reason, of which 123 bytes are
        kept; ours gets the same when the other side has answered, after ``close_timeout_s``
        at the latest. Closing again does nothing.

        Raises:
            ValueError: RFC 6455 does not allow to send this code.
        """


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a connection takes from the other side before it gives up."""

    max_message_bytes: int = 1024 * 1024
    """Larger messages close the connection with 1009."""
    high_water_bytes: int = 256 * 1024
    """More than this unsent, and the connection is congested."""
    max_unsent_bytes: int = 16 * 1024 * 1024
    """More than this unsent, and the connection is given up."""
    handshake_timeout_s: float = 5.0
    """From accepting a socket to its being let in: TLS, request and answer together."""
    max_handshake_bytes: int = 4096
    """Size of the whole upgrade request."""
    max_unauthenticated: int = 128
    """Sockets in the handshake; one more, and the oldest is dropped."""
    close_timeout_s: float = 2.0
    """How long the other side may take to answer when the connection closes."""
    fragments_timeout_s: float = 10.0
    """How long a message that comes in fragments may take."""
    max_control_frames_per_s: int = 50
    """Pings and pongs; more close the connection with 4006."""


async def connect(
    url: str,
    *,
    token: str | None = None,
    ssl: tls.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    timeout_s: float = 5.0,
) -> Connection:
    """Open a connection to the node at ``url``: ``ws://host:port``, ``wss://host:port`` or ``mem://name``.

    Sends ``token`` as a bearer token. Follows no redirects and uses no proxy, neither of which
    should see it. ``ssl`` is for ``wss`` only; by default the machine's certificates are
    trusted. Call ``start`` on the result to receive. When cancelled, nothing stays open.

    Raises:
        ConnectFailed: it could not be opened within ``timeout_s`` seconds.
        ConfigError: the URL, the token or a header cannot be used as it is.
    """
    if token is not None:
        check_token(token)
        remember_secret(token)
    scheme, separator, name = url.partition("://")
    if not separator or scheme not in ("ws", "wss", "mem"):
        raise ConfigError(f"The scheme of a node's URL is ws, wss or mem, not {scheme[:20]!r}.")
    if ssl is not None and scheme != "wss":
        raise ConfigError(f"ssl= was given for a {scheme}:// URL, which is not encrypted. Use wss://.")
    limits = limits or Limits()
    try:
        async with asyncio.timeout(timeout_s):
            if scheme == "mem":
                from ._memory import dial_in_memory

                return await dial_in_memory(name, token=token, limits=limits)
            from ._dialer import dial

            return await dial(url, token=token, ssl=ssl, headers=headers or {}, limits=limits)
    except TimeoutError:
        raise ConnectFailed(shown(url), "timeout", f"no answer within {timeout_s:g} s") from None


async def listen(
    host: str,
    port: int,
    *,
    on_connection: OnConnection,
    tokens: str | Mapping[str, str] | None = None,
    authenticate: Authenticate | None = None,
    anonymous: bool = False,
    ssl: tls.SSLContext | None = None,
    path: str = "/",
    allowed_hosts: Iterable[str] | None = None,
    origins: Iterable[str] = (),
    limits: Limits | None = None,
) -> Listener:
    """Accept websockets at ``host`` and ``port`` (0: any free one) until the listener is closed.

    Exactly one of these says who is let in: ``tokens``, one for everybody or a mapping from
    node name to that node's token, which proves the name; ``authenticate``, for instance for
    the certificates of clients, if ``ssl`` demands them; ``anonymous=True``, on loopback only.

    Requests that name another host than ``allowed_hosts`` are refused, since a web page can make
    a browser send them. By default ``host``, ``localhost`` and plain addresses are allowed: a
    page can make its own name mean this machine, but not an address. A request with an
    ``Origin`` comes from a browser and is refused unless ``origins`` has it.

    Raises:
        ConfigError: nobody or everybody would be let in, or a token cannot be used.
        OSError: the address cannot be listened at.
    """
    from ._door import Door, authenticator, is_loopback
    from ._listener import Listener

    check = authenticator(tokens, authenticate, anonymous=anonymous)
    addresses = await addresses_to_bind(host, port)
    if anonymous and not all(map(is_loopback, addresses)):
        raise ConfigError(
            f"Everybody who reaches {host!r} could use this node. "
            f"Give tokens= or authenticate=, or listen at 127.0.0.1."
        )
    door = Door(
        path=path,
        host=host.lower(),
        allowed_hosts=frozenset(map(str.lower, allowed_hosts)) if allowed_hosts is not None else None,
        origins=frozenset(origins),
        authenticate=check,
    )
    listener = Listener(door, on_connection, ssl=ssl, limits=limits or Limits())
    await listener.open(addresses, port)
    return listener


def shown(url: str) -> str:
    """Return ``url`` without credentials, query and fragment, for error messages."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split(r'[?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


SENDABLE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
MAX_REASON_BYTES = 123  # RFC 6455 section 5.5: a control frame holds 125 bytes, of which the code takes 2


def check_code(code: int) -> None:
    """Refuse close codes that RFC 6455 section 7.4 keeps off the wire."""
    if code not in SENDABLE_CODES and not 3000 <= code < 5000:
        raise ValueError(f"Close code {code} cannot be sent. Use 1000, 1001, 1008, 1011 or 4000 to 4999.")


def clipped(reason: str) -> str:
    """Return as much of ``reason`` as a close frame holds."""
    return reason.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")


MIN_TOKEN_BITS = 128
MAX_TOKEN_FILE_BYTES = 4096
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750 section 2.1


def new_token() -> str:
    """Return a new random token of 256 bits, as 43 characters."""
    return secrets.token_urlsafe(32)


def read_token(file: str | Path) -> str:
    """Return the token that ``file`` holds: its only line.

    Raises:
        ConfigError: the file cannot be read, or what it holds is no token of 128 bits or more:
            32 hexadecimal digits, or 22 characters of base64.
    """
    try:
        with Path(file).open("rb") as stream:
            token = stream.read(MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"Cannot read a token from {str(file)!r}: {problem}.") from None
    check_token(token)
    bits_a_character = 4 if re.fullmatch(r"[0-9a-fA-F]+", token) else 6
    # A random token of 128 bits has fewer than 8 different characters once in 10 million times.
    if len(token.rstrip("=")) * bits_a_character < MIN_TOKEN_BITS or len(set(token)) < 8:
        raise ConfigError(
            f"The token in {str(file)!r} is too easy to guess: {MIN_TOKEN_BITS} random bits are needed. "
            f"Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    remember_secret(token)
    return token


def check_token(token: str) -> None:
    """Refuse what cannot be sent as a bearer token.

    Raises:
        ConfigError: it is empty, or holds other characters than RFC 6750 allows.
    """
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ConfigError(
            "A token consists of the characters A-Z a-z 0-9 - . _ ~ + / and = at its end, at least one. "
            "The one given is not shown here; from a file, .strip() its line break."
        )


async def addresses_of(host: str, port: int) -> list[str]:
    """Return the addresses of ``host``, best first; those of this machine to listen at if it is empty.

    Raises:
        OSError: it is unknown.
    """
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=0 if host else socket.AI_PASSIVE
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def addresses_to_bind(host: str, port: int) -> list[str]:
    """Return where to listen. What is checked is bound, not a name that may mean something else by then."""
    addresses = await addresses_of(host, port)
    # Port 0 would be another port at each address.
    return addresses[:1] if port == 0 else addresses
