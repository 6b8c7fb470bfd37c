"""A TCP proxy that misbehaves on purpose: cuts, delays, silences and resets what goes through it."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from types import TracebackType

Direction = Literal["up", "down"]
"""``up`` is from the dialer to the real server."""
BOTH: tuple[Direction, Direction] = ("up", "down")
PIECE_BYTES = 65536


class ChaosProxy:
    """Forwards connections to ``port`` on loopback; an async context manager.

    Faults apply to links that are open and to later ones until ``heal`` is called.

    Attributes:
        port: where to connect.
        target: the port that new links lead to; may be changed.
        accepted: how many links there were.
        ended_at: when each link that is over ended, in seconds of the event loop's clock.
        delay_s: how long each piece is kept before it goes on, in order.
    """

    port: int

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.accepted = 0
        self.ended_at: list[float] = []
        self.target = port
        self._links: set[Link] = set()
        self._cut_after: dict[Direction, int] = {}
        self._gates = {direction: asyncio.Event() for direction in BOTH}
        self._swallowed: set[Direction] = set()
        self._is_refusing = False
        self.heal()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        while self._links:
            self.reset()
            await asyncio.wait([link.task for link in self._links])

    def cut_after(self, count: int, direction: Direction = "up", *, once: bool = False) -> None:
        """Close both sides of each link when ``count`` more bytes have gone through it in ``direction``.

        With ``once`` this is so for links that are open now, not for later ones.
        """
        if not once:
            self._cut_after[direction] = count
        for link in self._links:
            link.left[direction] = count

    def stall(self, *directions: Direction) -> None:
        """Keep back what arrives, as a wire does whose packets are dropped; ``heal`` lets it go on."""
        for direction in directions or BOTH:
            self._gates[direction].clear()

    def swallow(self, *directions: Direction) -> None:
        """Take what arrives and lose it: the sender believes it was received."""
        self._swallowed.update(directions or BOTH)

    def refuse(self) -> None:
        """Reset new links at once."""
        self._is_refusing = True

    def heal(self) -> None:
        """Stop all faults; swallowed bytes stay lost."""
        self.delay_s = 0.0
        self._is_refusing = False
        self._cut_after.clear()
        self._swallowed.clear()
        for gate in self._gates.values():
            gate.set()
        for link in self._links:
            link.left.clear()

    def cut(self) -> None:
        """Close every link with FIN."""
        for link in self._links:
            link.task.cancel()

    def reset(self) -> None:
        """Close every link with RST."""
        for link in self._links:
            link.is_reset = True
            link.task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = Link(task, dict(self._cut_after), [writer], is_reset=self._is_refusing)
        self.accepted += 1
        self._links.add(link)
        try:
            if not self._is_refusing:
                await self._join(link, reader, writer)
        except (OSError, Cut, asyncio.CancelledError):
            pass  # nobody but this proxy cancels this task
        finally:
            self._links.discard(link)
            self.ended_at.append(asyncio.get_running_loop().time())
            link.close()

    async def _join(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        link.writers.append(far_writer)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, "up", reader, far_writer))
                pumps.create_task(self._pump(link, "down", far_reader, writer))
        except* (OSError, Cut) as errors:
            link.is_reset = link.is_reset or errors.subgroup(ConnectionError) is not None

    async def _pump(
        self, link: Link, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await asyncio.sleep(self.delay_s)
            await self._gates[direction].wait()
            if direction in self._swallowed:
                continue
            left = link.left.get(direction, len(piece) + 1)
            writer.write(piece[:left])
            await writer.drain()
            if len(piece) >= left:
                raise Cut
            if direction in link.left:
                link.left[direction] = left - len(piece)
        await self._gates[direction].wait()
        if direction not in self._swallowed:
            with suppress(OSError):
                writer.write_eof()


class Cut(Exception):
    """The link has carried what it should."""


class Link:
    """One connection through the proxy."""

    def __init__(
        self,
        task: asyncio.Task[None],
        left: dict[Direction, int],
        writers: list[asyncio.StreamWriter],
        *,
        is_reset: bool,
    ) -> None:
        self.task = task
        self.left = left
        self.writers = writers
        self.is_reset = is_reset

    def close(self) -> None:
        for writer in self.writers:
            if self.is_reset:
                raw = writer.get_extra_info("socket")
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
