"""A websocket as a Connection: the Sans-I/O protocol of the websockets package in an asyncio.Protocol.

That package's own connection class hands each message through a queue and a task, which costs
a fifth of a round trip and half of the throughput. Its protocol class has the part that is hard
to get right (framing, masking, fragments, control frames, the closing handshake), and does all
of that here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as WireProtocol, State
from websockets.server import ServerProtocol

from .connection import (
    ABNORMAL,
    FLOW_VIOLATION,
    Limits,
    OnClose,
    OnMessage,
    OnWritable,
    check_code,
    clipped,
)

__all__ = ["QUIET", "ClientWire", "ServerWire", "WebSocket", "half_close"]

# The websockets package logs the headers of a handshake at DEBUG, the token among them. Nobody's
# configuration reaches a logger outside the tree.
QUIET = logging.Logger("agentscope_async.node.wire", logging.ERROR)
QUIET.parent = logging.getLogger("agentscope_async")


class Wire(WireProtocol):
    """The websockets package's protocol, which fails when there are too many pings and pongs.

    Each ping is answered at once, so a flood of them would keep the loop busy and fill the
    write buffer of a peer that does not read. They are counted here, where each is seen before
    the next is parsed: one read can hold 40,000.
    """

    clock: Callable[[], float]
    max_control_frames_per_s = 0
    _control_frames = 0
    _second = 0.0

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            now = self.clock()
            if now - self._second >= 1.0:
                self._second, self._control_frames = now, 0
            self._control_frames += 1
            if self._control_frames > self.max_control_frames_per_s:
                self.fail(FLOW_VIOLATION, "too many pings and pongs")
                return  # to a parser that finds its input discarded
        super().recv_frame(frame)

    def fail(self, code: int, reason: str = "") -> None:
        super().fail(code, clipped(reason))


class ServerWire(Wire, ServerProtocol):
    """The accepting side."""


class ClientWire(Wire, ClientProtocol):
    """The dialing side."""


class WebSocket(asyncio.Protocol):
    """One side of a websocket, from the handshake on; how it shakes hands is the subclasses' part.

    ``on_close`` is called when the socket is gone. After it nothing of the connection is left,
    no timer and no transport.
    """

    def __init__(self, wire: ServerWire | ClientWire, limits: Limits) -> None:
        self.identity = ""
        self.address = "unknown"
        self.is_congested = False
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._wire = wire
        wire.clock = self._loop.time
        wire.max_control_frames_per_s = limits.max_control_frames_per_s
        self._transport: asyncio.Transport | None = None
        self._is_opening = True
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._on_writable: OnWritable | None = None
        self._has_begun = False  # there is an owner, and it has had the early frames
        self._early: list[Frame] = []
        self._is_deaf = False  # the owner gets no more messages
        self._fragments: bytearray | None = None
        self._fragments_are_text = False
        self._fragments_deadline: asyncio.TimerHandle | None = None
        self._close_deadline: asyncio.TimerHandle | None = None
        self._problem = ""  # why it ended, for when no close frame tells
        self._outcome: tuple[int, str] | None = None  # set when the socket is gone

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {self._wire.state.name}>"

    @property
    def is_open(self) -> bool:
        transport = self._transport
        return self._wire.state is State.OPEN and transport is not None and not transport.is_closing()

    def start(self, on_message: OnMessage, on_close: OnClose, on_writable: OnWritable | None = None) -> None:
        if self._on_message is not None:
            raise RuntimeError("start() was called before; a connection has one owner.")
        self._on_message, self._on_close, self._on_writable = on_message, on_close, on_writable
        self._loop.call_soon(self._begin)

    def send(self, message: bytes) -> None:
        transport = self._transport
        if self._wire.state is not State.OPEN or transport is None or transport.is_closing():
            return
        self._wire.send_binary(message)
        for piece in self._wire.data_to_send():
            transport.write(piece)
        if self.is_congested:
            self._check_unsent(transport.get_write_buffer_size())

    def close(self, code: int = 1000, reason: str = "") -> None:
        check_code(code)
        self._is_deaf = True
        if self.is_open:
            self._wire.send_close(code, clipped(reason))
            self._flush()
            self._await_the_end()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.high_water_bytes)
        self.address = shown_address(transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        if self._is_opening:
            self._shake(data)
            return
        wire = self._wire
        wire.receive_data(data)
        self._take_frames()
        if wire.writes:
            self._flush()
        if wire.state is not State.OPEN:
            self._await_the_end()

    def eof_received(self) -> None:
        self._wire.receive_eof()
        self._flush()

    def pause_writing(self) -> None:
        self.is_congested = True

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._on_writable is not None and self.is_open:
            self._call(self._on_writable)

    def connection_lost(self, error: Exception | None) -> None:
        if self._outcome is not None:
            return
        self._is_opening = False
        self._wire.receive_eof()
        self._cancel(self._close_deadline, self._fragments_deadline)
        self._problem = self._problem or str(error or "") or "the connection was cut"
        self._outcome = self._find_outcome()
        if self._has_begun:
            assert self._on_close is not None
            self._call(self._on_close, *self._outcome)

    # Opening.

    def _shake(self, data: bytes) -> None:
        """Take what arrives before the connection is open."""
        raise NotImplementedError

    def _set_open(self) -> None:
        """Read nothing more until there is an owner."""
        assert self._transport is not None
        self._is_opening = False
        self._transport.pause_reading()

    def _begin(self) -> None:
        self._has_begun = True
        early, self._early = self._early, []
        for frame in early:
            self._take(frame)
        if self._outcome is not None:
            assert self._on_close is not None
            self._call(self._on_close, *self._outcome)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # Messages.

    def _take_frames(self) -> None:
        for event in self._wire.events_received():
            frame = cast("Frame", event)
            if self._is_deaf:
                continue
            if self._has_begun:
                self._take(frame)
            else:
                self._early.append(frame)

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY and frame.fin:
            self._deliver(bytes(frame.data))
        elif frame.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            self._take_part(frame)
        # Control frames were answered by the wire.

    def _take_part(self, frame: Frame) -> None:
        """Take a fragment, or text: other implementations may send them, ours does not."""
        if self._fragments is None:
            # Not a list: fragments may be empty, and endless.
            self._fragments = bytearray()
            self._fragments_are_text = frame.opcode is Opcode.TEXT
        self._fragments += frame.data
        if frame.fin:
            self._take_whole(bytes(self._fragments))
        elif self._fragments_deadline is None:
            self._fragments_deadline = self._loop.call_later(
                self._limits.fragments_timeout_s, self._give_up_fragments
            )

    def _take_whole(self, message: bytes) -> None:
        self._fragments = None
        self._cancel(self._fragments_deadline)
        self._fragments_deadline = None
        if self._fragments_are_text and not is_utf8(message):
            self._fail(1007, "the text is not UTF-8")
        else:
            self._deliver(message)

    def _give_up_fragments(self) -> None:
        self._fail(FLOW_VIOLATION, f"message unfinished after {self._limits.fragments_timeout_s:g} s")

    def _deliver(self, message: bytes) -> None:
        if not self._is_deaf:
            assert self._on_message is not None
            self._call(self._on_message, message)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": f"A callback of {self!r} failed", "exception": error, "protocol": self}
            )
            self._fail(1011, "")

    # The end.

    def _check_unsent(self, unsent_bytes: int) -> None:
        if unsent_bytes > self._limits.max_unsent_bytes:
            self._abort(f"{unsent_bytes} bytes were not taken by the other side")

    def _fail(self, code: int, reason: str) -> None:
        self._is_deaf = True
        if self.is_open:
            self._wire.fail(code, reason)
            self._flush()
            self._await_the_end()

    def _await_the_end(self) -> None:
        """Give the other side a little time to say its part of the closing handshake."""
        if self._transport is None or self._outcome is not None:
            return
        if isinstance(self._wire, ServerWire) and self._wire.close_rcvd is not None:
            self._transport.close()  # all is said, and the server goes first: RFC 6455 section 7.1.1
        elif not self._has_begun and not self._transport.is_closing():
            self._transport.resume_reading()  # for the answer
        if self._close_deadline is None:
            seconds = self._limits.close_timeout_s
            problem = f"closing took more than {seconds:g} s"
            self._close_deadline = self._loop.call_later(seconds, self._abort, problem)

    def _abort(self, problem: str) -> None:
        self._problem = self._problem or problem
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        transport = self._transport
        for data in self._wire.data_to_send():
            if transport is None or transport.is_closing():
                return
            if data:
                transport.write(data)
            else:
                half_close(transport)

    def _cancel(self, *timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()

    def _find_outcome(self) -> tuple[int, str]:
        """Return the code and reason of whoever closed first; 1006 if nobody did."""
        wire = self._wire
        first = wire.close_rcvd if wire.close_rcvd_then_sent else wire.close_sent
        return (int(first.code), first.reason) if first is not None else (ABNORMAL, self._problem)


def half_close(transport: asyncio.Transport) -> None:
    """Say that nothing more follows; under TLS, where that cannot be said, close after what was written."""
    if transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()


def is_utf8(data: bytes) -> bool:
    """Whether ``data`` is text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def shown_address(name: Any) -> str:
    """Return a socket's address as one text."""
    if isinstance(name, tuple) and len(name) >= 2:
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return str(name or "unknown")
