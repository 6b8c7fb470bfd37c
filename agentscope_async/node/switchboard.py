"""Who dials us: each connection becomes, or goes on as, the link to the node that it comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ConfigError
from .connection import Limits, listen
from .frames import CloseCode
from .link import Link
from .reception import Admission, Reception

if TYPE_CHECKING:
    from ._listener import Listener
    from ._memory import MemoryListener
    from .connection import Connection, OnMessage
    from .session import Session
    from .settings import Settings

__all__ = ["OnLink", "Switchboard"]

OnLink: TypeAlias = Callable[[Link], None]
"""Is given the link of each new session; calls its ``start`` before it returns."""

GOING_AWAY = 1001  # RFC 6455 section 7.4.1


class Switchboard:
    """Turns accepted connections into links, one for each node.

    ``accept`` is what ``listen`` and ``listen_in_memory`` take as ``on_connection``. A node that comes
    back goes on with its session; one that was started again gets a new one, and the old is lost. The
    listener's token, where it names a node, is the proof of the name.

    ``listen`` and ``listen_in_memory`` of a switchboard are those of ``connection`` and ``_memory`` with
    limits that fit the settings.
    """

    def __init__(
        self, settings: Settings, on_link: OnLink, *, max_nodes: int = 1024, reserved: Collection[str] = ()
    ) -> None:
        """Answer as ``settings`` say; see :class:`Reception` for the rest."""
        self._on_link = on_link
        self._reception = Reception(settings, max_nodes=max_nodes, reserved=reserved)
        self._links: dict[Session, Link] = {}
        self._accepted: set[_Arrival] = set()
        self._is_closed = False

    @property
    def links(self) -> list[Link]:
        """Those whose session is not over, with a connection or without."""
        return list(self._links.values())

    async def listen(self, host: str, port: int, *, limits: Limits | None = None, **terms: Any) -> Listener:
        """Accept websockets until the listener is closed; ``terms`` are those of ``connection.listen``.

        Raises:
            ConfigError: as ``connection.listen``, or ``limits`` are below the frames of the settings.
            OSError: the address cannot be listened at.
        """
        return await listen(host, port, on_connection=self.accept, limits=self._fitting(limits), **terms)

    async def listen_in_memory(
        self, name: str, *, limits: Limits | None = None, **terms: Any
    ) -> MemoryListener:
        """Accept connections at ``mem://name``; otherwise as :meth:`listen`."""
        from ._memory import listen_in_memory

        return await listen_in_memory(name, on_connection=self.accept, limits=self._fitting(limits), **terms)

    def _fitting(self, limits: Limits | None) -> Limits:
        max_frame = self._reception.settings.max_frame
        if limits is None:
            return Limits(max_message_bytes=max_frame)
        _check_fit(limits.max_message_bytes, max_frame)
        return limits

    def accept(self, connection: Connection) -> None:
        """Wait for the hello on a new connection, for as long as the settings allow.

        Raises:
            ConfigError: the connection would refuse frames that the settings allow.
        """
        _check_fit(connection.max_message_bytes, self._reception.settings.max_frame)
        if self._is_closed:
            connection.start(lambda data: None, lambda code, reason: None)
            connection.close(GOING_AWAY, "This node takes no new links.")
            return
        self._accepted.add(_Arrival(self, connection, self._reception.settings.handshake_s))

    async def aclose(self, grace_s: float = 0.0, reason: str = "closed") -> None:
        """End all links as ``Link.aclose`` does, at the same time; accept nobody any more."""
        self._is_closed = True
        for arrival in list(self._accepted):
            if arrival.link is None:
                arrival.close(GOING_AWAY, "This node takes no new links.")
        async with asyncio.TaskGroup() as closings:
            for link in self.links:
                closings.create_task(link.aclose(grace_s, reason))
        while self._accepted:
            await next(iter(self._accepted)).gone.wait()

    def _admit(self, arrival: _Arrival, hello: bytes) -> None:
        connection, now = arrival.connection, asyncio.get_running_loop().time()
        admission = self._reception.admit(hello, now, identity=connection.identity)
        for session, events in admission.ended:
            self._links[session].end(events, now)
        if admission.session is None:
            assert admission.refusal is not None
            arrival.close(admission.refusal.code, admission.refusal.text)
            return
        self._connect(arrival, admission, admission.session, now)

    def _connect(self, arrival: _Arrival, admission: Admission, session: Session, now: float) -> None:
        link = self._links.get(session)
        if link is None:
            link = self._links[session] = Link(session, on_over=self._forget)
            try:
                self._on_link(link)
                if not link.has_owner:
                    raise RuntimeError("on_link must call start() of the link it is given.")
            except BaseException:
                del self._links[session]
                session.lose("closed")
                raise
        arrival.link = link
        arrival.take = link.take_over(arrival.connection, admission.events, now)

    def _forget(self, link: Link) -> None:
        del self._links[link.session]


def _check_fit(max_message_bytes: int, max_frame: int) -> None:
    if max_message_bytes < max_frame:
        raise ConfigError(
            f"The listener takes messages of at most {max_message_bytes:,} bytes, and the settings promise "
            f"max_frame={max_frame:,} to other nodes. Give Limits(max_message_bytes={max_frame})."
        )


class _Arrival:
    """An accepted connection; until its hello has come, nobody's."""

    def __init__(self, board: Switchboard, connection: Connection, handshake_s: float) -> None:
        self.connection = connection
        self.link: Link | None = None
        self.gone = asyncio.Event()
        self.take: OnMessage = self._take_hello
        self._board = board
        self._deadline = asyncio.get_running_loop().call_later(
            handshake_s, self.close, CloseCode.HANDSHAKE_TIMEOUT, "Nobody said hello in time."
        )
        connection.start(self._take, self._lose, self._write_more)

    def close(self, code: int, reason: str) -> None:
        self._deadline.cancel()
        self.connection.close(code, reason)

    def _take(self, data: bytes) -> None:
        self.take(data)

    def _take_hello(self, data: bytes) -> None:
        self._deadline.cancel()
        self._board._admit(self, data)

    def _lose(self, code: int, reason: str) -> None:
        self._deadline.cancel()
        self._board._accepted.discard(self)
        self.gone.set()
        if self.link is not None:
            self.link.connection_lost(self.connection, code, reason)

    def _write_more(self) -> None:
        if self.link is not None:
            self.link.write_more()
