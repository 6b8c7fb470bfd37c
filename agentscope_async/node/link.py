"""The link to another node: drives a session over one connection after the other.

A :class:`Link` owns a session and, most of the time, a connection. It hands what arrives to the
session, the session's events to its owner, and what the session wants written to the connection.
When a connection is lost the dialing side opens another, and the session goes on where it was.

While nothing happens a link has one timer and no task; while it is being opened again, one task.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ConnectFailed
from ._lifecycle import REDIAL_HANDSHAKE_S
from .connection import Limits, connect, shown
from .events import CloseLink, Event, LinkUp, SessionLost
from .frames import CloseCode
from .session import Session

if TYPE_CHECKING:
    import ssl as tls

    from .connection import Connection, OnMessage
    from .settings import Settings

__all__ = ["Link", "OnEvent", "OnLost"]

OnEvent: TypeAlias = Callable[[Event], None]
"""Is given each event of a session in order, but for CloseLink and the last one."""
OnLost: TypeAlias = Callable[[SessionLost], None]
"""Is given the last event, once."""

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
NEVER = float("inf")
OWN: frozenset[type] = frozenset({CloseLink, SessionLost, LinkUp})
"""Events after which the link is not what it was."""
HOPELESS = frozenset({"refused", "unauthorized", "forbidden"})
"""Ways to fail that say the node is gone, or does not want us; others may pass."""


class Link:
    """The link of two nodes; made by :meth:`dial`, or by a ``Switchboard`` for who dials us.

    To send, call a method of ``session`` and then :meth:`flush`. What is sent within one turn of the
    event loop goes in as few messages as possible; a lone frame goes at once. Where the session wants
    to know the time it is that of the event loop.

    Attributes:
        session: where to send.
    """

    def __init__(self, session: Session, *, on_over: Callable[[Link], None] | None = None) -> None:
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._on_event: OnEvent | None = None
        self._on_lost: OnLost | None = None
        self._on_over = on_over
        self._open_connection: Callable[..., Coroutine[Any, Any, Connection]] | None = None  # dialer only
        self._connection: Connection | None = None
        self._closing: set[Connection] = set()  # closed by us; the other side has not answered yet
        self._close_event: tuple[int, str] = (0, "")  # of the last connection
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._writing_soon: asyncio.Handle | None = None
        self._is_handing_over = False
        self._greeted: asyncio.Future[bool] | None = None
        self._redialing: asyncio.Task[None] | None = None
        self._change: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        where = self._connection.address if self._connection is not None else "no connection"
        return f"<Link to {self.session.peer or 'a node'}: {self.session.state.value}, {where}>"

    @classmethod
    async def dial(
        cls,
        url: str,
        settings: Settings,
        *,
        on_event: OnEvent,
        on_lost: OnLost,
        token: str | None = None,
        ssl: tls.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> Link:
        """Open a session with the node at ``url``; see ``connect`` for the rest.

        Events may come before this returns. A connection that is lost later is opened again, first
        within 0.1 s, then at random times up to 2 s apart, until the window of ``settings`` ends. A
        node that refuses to be connected to is gone, and the session lost at once.

        Raises:
            ConnectFailed: there is no such node, it does not want us, or it did not answer in time.
            ConfigError: an argument cannot be used as it is.
        """
        link = cls(Session.dial(settings))
        fitting = replace(limits or Limits(), max_message_bytes=settings.max_frame)
        link._open_connection = partial(
            connect, url, token=token, ssl=ssl, headers=headers, limits=fitting
        )  # fmt: skip
        early: list[SessionLost] = []
        link.start(on_event, early.append)
        try:
            is_welcome = await link._greet(await link._open_connection(timeout_s=settings.handshake_s))
            if not is_welcome or early:
                raise link._explained(shown(url))
        except BaseException:
            link._on_lost = early.append  # the caller has no link that could be lost
            await link.aclose()
            raise
        link._on_lost = on_lost
        link._redial_if_cut()
        return link

    def start(self, on_event: OnEvent, on_lost: OnLost) -> None:
        """Say who gets the events; to be called once, by whom a Switchboard gave the link to.

        Neither is called from inside ``flush``. One that raises is a bug of its owner: the error goes
        to the loop's exception handler, and the events go on.
        """
        if self.has_owner:
            raise RuntimeError("start() was called before; a link has one owner.")
        self._on_event, self._on_lost = on_event, on_lost

    @property
    def has_owner(self) -> bool:
        """Whether ``start`` was called."""
        return self._on_event is not None

    @property
    def is_linked(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    def flush(self) -> None:
        """See that what was queued is written: now, or at the end of this turn of the event loop."""
        if self._connection is None or self._is_handing_over:
            return  # it is written when there is a connection, or when all that arrived is handed over
        session = self.session
        if session.is_worth_writing:
            self._write(self._loop.time())
        elif self._writing_soon is None:
            self._writing_soon = self._loop.call_soon(self._write_soon)

    async def aclose(self, grace_s: float = 0.0, reason: str = "closed") -> None:
        """End the session and leave nothing open; closing again only waits.

        For up to ``grace_s`` seconds the other side is asked for no new work while open asks are
        answered and what was sent is acknowledged. What is left then is told by ``on_lost``. When
        cancelled, the rest is dropped and the connection closes by itself.

        Raises:
            FrameError: ``reason`` is no name.
        """
        try:
            if grace_s > 0 and not self.session.is_over:
                await self._drain(grace_s, reason)
        finally:
            self._deliver(self.session.close(reason), self._loop.time())
        redialing = self._redialing
        if redialing is not None and redialing is not asyncio.current_task():
            await asyncio.wait([redialing])
        while self._closing:
            await self._await_change()

    # Called by the Switchboard and the connection.

    def take_over(self, connection: Connection, events: list[Event], now: float) -> OnMessage:
        """Go on over ``connection``, which is started; return what takes its messages."""
        if self._connection is not None:
            self._close_connection(CloseCode.REPLACED, "Another connection took its place.")
        self._connection = connection
        self._deliver(events, now)
        return self._receive

    def end(self, events: list[Event], now: float) -> None:
        """Take the last events of the session."""
        self._deliver(events, now)

    def connection_lost(self, connection: Connection, code: int, reason: str) -> None:
        """Take the close code of a connection."""
        self._closing.discard(connection)
        if connection is self._connection:
            self._connection = None
            self._close_event = code, reason
            self._tell_greeted(False)
            now = self._loop.time()
            self._deliver(self.session.link_down(now, code), now)
        self._tell_change()

    def write_more(self) -> None:
        """Go on writing: the connection has room again."""
        now = self._loop.time()
        self._write(now)
        self._set_timer(now)

    # Reading and writing.

    def _receive(self, data: bytes) -> None:
        now, session = self._loop.time(), self.session
        is_same = self._hand_over(session.receive(data, now))
        connection = self._connection
        if connection is None or not is_same:
            self._go_on(now)
            return
        if not connection.is_congested:
            message = session.poll(now)
            if message is not None:
                connection.send(message)
                if session.has_more:
                    self._write(now)
        ack_due_at = session.ack_due_at
        if ack_due_at is not None and ack_due_at < self._timer_at:
            self._set_timer(now)  # all else that is due has only moved away
        if self._change is not None:
            self._tell_change()

    def _deliver(self, events: list[Event], now: float) -> None:
        """Hand over events, then write what they led to, and see when the session is to be called next."""
        self._hand_over(events)
        self._go_on(now)

    def _hand_over(self, events: list[Event]) -> bool:
        """Hand over events; return whether the state of the link is as it was."""
        is_same, on_event = True, self._on_event
        self._is_handing_over = True
        for event in events:
            if type(event) in OWN:
                is_same = False
                if not self._take_own(event):
                    continue
            assert on_event is not None
            try:
                on_event(event)
            except Exception as error:
                self._report(error)
        self._is_handing_over = False
        return is_same

    def _take_own(self, event: Event) -> bool:
        """Do what an event asks of the link; return whether the owner is told of it as well."""
        match event:
            case CloseLink():
                self._close_connection(event.code, event.text)
            case SessionLost():
                self._end(event)
            case LinkUp():
                self._tell_greeted(True)
                return True
        return False

    def _go_on(self, now: float) -> None:
        if self._connection is not None:
            self._write(now)
        else:
            self._redial_if_cut()
        self._set_timer(now)
        if self._change is not None:
            self._tell_change()

    def _call(self, callback: Callable[[Any], None], event: Event) -> None:
        try:
            callback(event)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"A callback of {self!r} failed", "exception": error})

    def _write(self, now: float) -> None:
        connection, session = self._connection, self.session
        while connection is not None and not connection.is_congested:
            message = session.poll(now)
            if message is None:
                return
            connection.send(message)
            if not session.has_more:
                return

    def _write_soon(self) -> None:
        self._writing_soon = None
        self._write(self._loop.time())

    def _close_connection(self, code: int, reason: str) -> None:
        connection, self._connection = self._connection, None
        self._close_event = code, reason
        self._tell_greeted(False)
        if connection is None:
            return
        farewell = self.session.poll(self._loop.time()) if self.session.is_over else None
        if farewell is not None:
            connection.send(farewell)
        if connection.is_open:
            connection.close(code, reason)
        self._closing.add(connection)

    # Time.

    def _set_timer(self, now: float) -> None:
        """Have the session called in time; a timer that comes too early is cheaper than one set anew."""
        due = self.session.next_timer(now)
        if due is None:
            self._stop_timer()
            return
        if due <= now and self._connection is not None and self._connection.is_congested:
            due = now + self.session.settings.heartbeat_s  # there is no room for a heartbeat
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, NEVER
        now = self._loop.time()
        self._deliver(self.session.tick(now), now)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, NEVER

    # Opening and ending.

    async def _greet(self, connection: Connection) -> bool:
        """Go on over a connection that we opened; return whether the other side said welcome."""
        self._connection = connection
        connection.start(self._receive, partial(self.connection_lost, connection), self.write_more)
        self._greeted = self._loop.create_future()
        now = self._loop.time()
        self.session.link_up(now)
        self._write(now)
        self._set_timer(now)
        try:
            return await self._greeted
        finally:
            self._greeted = None

    def _redial_if_cut(self) -> None:
        if (
            self._open_connection is not None
            and self._connection is None
            and self._redialing is None
            and self._greeted is None
            and not self.session.is_over
        ):
            self._redialing = asyncio.ensure_future(self._dial_again())
            self._redialing.add_done_callback(self._forget_redialing)

    async def _dial_again(self) -> None:
        assert self._open_connection is not None
        longest_s, timeout_s = FIRST_RETRY_S, 0.0
        while True:
            # Full jitter: many nodes that lost the same one do not come back at the same time.
            # https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
            await asyncio.sleep(random.uniform(0, longest_s))
            longest_s = min(2 * longest_s, LONGEST_RETRY_S)
            # Whoever lost a packet answers the next try; whoever is far away needs a longer one.
            timeout_s = min(timeout_s + REDIAL_HANDSHAKE_S, self.session.settings.handshake_s)
            try:
                connection = await self._open_connection(timeout_s=timeout_s)
            except ConnectFailed as failure:
                if failure.kind in HOPELESS:
                    self._deliver(self.session.lose(failure.kind), self._loop.time())
                    return
                continue
            if await self._greet(connection):
                return

    def _forget_redialing(self, task: asyncio.Task[None]) -> None:
        self._redialing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": f"{self!r} cannot go on", "exception": error})
        self._redial_if_cut()  # it may be lost again already

    def _end(self, event: SessionLost) -> None:
        if self._connection is not None:
            self._close_connection(CloseCode.DRAINING, event.reason)
        self._tell_greeted(False)
        if self._writing_soon is not None:
            self._writing_soon.cancel()
        if self._redialing is not None and self._redialing is not asyncio.current_task(self._loop):
            self._redialing.cancel()
        if self._on_over is not None:
            self._on_over(self)
        assert self._on_lost is not None
        self._call(self._on_lost, event)
        self._tell_change()

    async def _drain(self, grace_s: float, reason: str) -> None:
        self.session.drain(reason, grace_s)
        self._write(self._loop.time())
        try:
            async with asyncio.timeout(grace_s):
                while not (self.session.is_over or self.session.is_settled):
                    await self._await_change()
        except TimeoutError:
            pass  # what is left is told as an outcome

    async def _await_change(self) -> None:
        if self._change is None or self._change.done():
            self._change = self._loop.create_future()
        await asyncio.shield(self._change)  # others may wait for it too

    def _tell_change(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
        self._change = None

    def _tell_greeted(self, is_welcome: bool) -> None:
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(is_welcome)

    def _explained(self, url: str) -> ConnectFailed:
        code, text = self._close_event
        if code == CloseCode.HANDSHAKE_TIMEOUT:
            return ConnectFailed(url, "timeout", "it did not say welcome in time")
        kind = "rejected" if code >= 4000 else "closed"
        return ConnectFailed(url, kind, f"the handshake ended with {code} ({text})")
