"""Connections within one event loop: ``mem://name``, and pairs for tests.

They behave as websockets do: messages arrive in order and in a later turn of the loop, too large
ones close the connection, and what nobody takes is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from ..errors import ConfigError, ConnectFailed
from ._door import Applicant, Authenticate, authenticator
from .connection import (
    ABNORMAL,
    NO_TOKEN,
    Connection,
    Limits,
    OnClose,
    OnConnection,
    OnMessage,
    OnWritable,
    check_code,
    clipped,
)

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MemoryConnection", "MemoryListener", "dial_in_memory", "listen_in_memory", "memory_pair"]


def memory_pair(limits: Limits | None = None) -> tuple[MemoryConnection, MemoryConnection]:
    """Return the two ends of a new connection."""
    one, other = MemoryConnection(limits or Limits()), MemoryConnection(limits or Limits())
    one._peer, other._peer = other, one
    return one, other


class MemoryConnection:
    """One end of a connection within an event loop."""

    _peer: MemoryConnection

    def __init__(self, limits: Limits) -> None:
        self.identity = ""
        self.address = "memory"
        self.is_open = True
        self.is_congested = False
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[bytes | tuple[int, str]] = deque()  # messages, then perhaps the code and reason
        self._inbox_bytes = 0
        self._is_taking = False  # a call of `_take_all` is on its way
        self._is_deaf = False
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._on_writable: OnWritable | None = None
        self._outcome: tuple[int, str] | None = None
        self._is_over = False
        self._close_deadline: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'open' if self.is_open else 'closed'}>"

    @property
    def max_message_bytes(self) -> int:
        return self._limits.max_message_bytes

    def start(self, on_message: OnMessage, on_close: OnClose, on_writable: OnWritable | None = None) -> None:
        if self._on_message is not None:
            raise RuntimeError("start() was called before; a connection has one owner.")
        self._on_message, self._on_close, self._on_writable = on_message, on_close, on_writable
        self._wake()

    def send(self, message: bytes) -> None:
        if not self.is_open:
            return
        peer = self._peer
        peer._inbox.append(message)
        peer._inbox_bytes += len(message)
        peer._wake()
        unsent_bytes = peer._inbox_bytes
        self.is_congested = unsent_bytes > self._limits.high_water_bytes
        if unsent_bytes > self._limits.max_unsent_bytes:
            self.cut(f"{unsent_bytes} bytes were not taken by the other side")

    def close(self, code: int = 1000, reason: str = "") -> None:
        check_code(code)
        self._is_deaf = True
        self._say_goodbye(code, clipped(reason))

    def cut(self, problem: str = "the connection was cut") -> None:
        """End it as a broken cable does: what is under way is lost, both sides are told 1006."""
        for end in (self, self._peer):
            if end._outcome is None:
                end._inbox.clear()
                end._set_over(ABNORMAL, problem)

    def _say_goodbye(self, code: int, reason: str) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._peer._inbox.append((code, reason))
        self._peer._wake()
        seconds = self._limits.close_timeout_s
        self._close_deadline = self._loop.call_later(seconds, self._set_over, code, reason)

    def _wake(self) -> None:
        if not self._is_taking and (self._on_message is not None or self._is_deaf):
            self._is_taking = True
            self._loop.call_soon(self._take_all)

    def _take_all(self) -> None:
        """Take what is there now: what its handling brings comes in a later turn of the loop."""
        self._is_taking = False
        for _ in range(len(self._inbox)):
            if self._inbox:  # the owner may have cut it
                self._take(self._inbox.popleft())
        self._give_room()
        if self._outcome is not None and self._on_close is not None and not self._is_over:
            self._is_over = True
            self._call(self._on_close, *self._outcome)
        elif self._inbox:
            self._wake()

    def _take(self, item: bytes | tuple[int, str]) -> None:
        if isinstance(item, tuple):
            if self._peer._outcome is None:
                self._peer._set_over(*item)
            self._set_over(*item)
            return
        self._inbox_bytes -= len(item)
        if self._is_deaf or self._outcome is not None:
            return
        if len(item) > self._limits.max_message_bytes:
            self.close(1009, f"a message has at most {self._limits.max_message_bytes} bytes")
            return
        assert self._on_message is not None
        self._call(self._on_message, item)

    def _give_room(self) -> None:
        sender = self._peer
        if sender.is_congested and self._inbox_bytes <= sender._limits.high_water_bytes // 4:
            sender.is_congested = False
            if sender.is_open and sender._on_writable is not None:
                sender._call(sender._on_writable)

    def _set_over(self, code: int, reason: str) -> None:
        self.is_open = False
        if self._outcome is not None:
            return
        self._outcome = code, reason
        if self._close_deadline is not None:
            self._close_deadline.cancel()
        self._wake()

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": f"A callback of {self!r} failed", "exception": error}
            )
            self.close(1011)


class MemoryListener:
    """Accepts connections at ``mem://name`` until it is closed; an async context manager."""

    def __init__(
        self, name: str, on_connection: OnConnection, authenticate: Authenticate, limits: Limits
    ) -> None:
        self.url = f"mem://{name}"
        self._name = name
        self._on_connection = on_connection
        self._authenticate = authenticate
        self._limits = limits

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Accept nobody any more; open connections stay their owners'."""
        listeners = listeners_of_this_loop()
        if listeners.get(self._name) is self:
            del listeners[self._name]

    def accept(self, token: str | None, limits: Limits) -> MemoryConnection:
        """Return the dialer's end of a new connection."""
        identity = self._authenticate(Applicant("memory", token))
        if identity is None:
            problem = NO_TOKEN if token is None else "it does not accept this token"
            raise ConnectFailed(self.url, "unauthorized", problem, status=401)
        ours, theirs = memory_pair(self._limits)
        ours.identity, theirs._limits = identity, limits
        ours._call(self._on_connection, ours)
        return theirs


async def listen_in_memory(
    name: str,
    *,
    on_connection: OnConnection,
    tokens: str | Mapping[str, str] | None = None,
    authenticate: Authenticate | None = None,
    anonymous: bool = False,
    limits: Limits | None = None,
) -> MemoryListener:
    """Accept connections at ``mem://name`` within this event loop; otherwise as ``listen`` does.

    Raises:
        ConfigError: the name is taken, or it was not said who is let in.
    """
    check = authenticator(tokens, authenticate, anonymous=anonymous)
    listeners = listeners_of_this_loop()
    if name in listeners:
        raise ConfigError(f"Somebody listens at mem://{name} already.")
    listeners[name] = listener = MemoryListener(name, on_connection, check, limits or Limits())
    return listener


async def dial_in_memory(name: str, *, token: str | None, limits: Limits) -> Connection:
    """Open a connection to the listener of that name."""
    await asyncio.sleep(0)  # as for any other connection, others may run
    listener = listeners_of_this_loop().get(name)
    if listener is None:
        raise ConnectFailed(f"mem://{name}", "refused", "nobody listens there")
    return listener.accept(token, limits)


_listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, MemoryListener]] = WeakKeyDictionary()


def listeners_of_this_loop() -> dict[str, MemoryListener]:
    """Return the listeners by name; loops see nothing of each other."""
    return _listeners.setdefault(asyncio.get_running_loop(), {})
