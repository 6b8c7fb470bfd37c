"""A websocket as a Connection: the Sans-I/O protocol of the websockets package in an asyncio protocol.

That package's own connection class hands each message through a queue and a task, which costs
a fifth of a round trip and half of the throughput. Its protocol class has the part that is hard
to get right (fragments, control frames, broken frames, the closing handshake), and does all of
that here. What remains is the one kind of frame that nodes send each other all the time: binary,
whole, of an allowed size. Those are read and written here without it. It is never in the middle
of a frame meanwhile; with the first frame of another kind it takes over, for good.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import State

from ._ws_protocol import ClientWire, ServerWire
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

try:
    from websockets.speedups import apply_mask
except ImportError:  # the package was installed without its C part
    from websockets.utils import apply_mask

__all__ = ["WebSocket", "half_close"]

BINARY = 0x80 | Opcode.BINARY
"""The first byte of a frame that is a whole binary message (RFC 6455 section 5.2)."""
MASKED = 0x80
MASK_BYTES = 4
OPENING_BYTES = 4096
"""The buffer of a socket in the handshake: strangers may open many."""
BUFFER_BYTES = 512 * 1024
"""The buffer of an open connection: room for several of a session's largest messages, as one that ends
in the midst of the next makes for short reads. What nothing was read into takes no memory."""


class WebSocket(asyncio.BufferedProtocol):
    """One side of a websocket, from the handshake on; how it shakes hands is the subclasses' part.

    ``on_close`` is called when the socket is gone. After it nothing of the connection is left,
    no timer and no transport.

    It reads into a buffer of its own: a selector loop otherwise makes one of 256 KiB for each read,
    which the C library takes from the kernel and gives back each time. That took longer than all
    the rest of a short message.
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
        self._early: list[bytes] = []
        self._buffer = memoryview(bytearray(OPENING_BYTES))
        self._filled = 0  # bytes of an unfinished frame at the buffer's beginning
        self._is_plain = False  # what arrives are whole binary frames; the wire sees none of it
        self._is_server = isinstance(wire, ServerWire)
        self._masked = 0 if self._is_server else MASKED  # RFC 6455 section 5.1: what clients send is
        self._is_writable = False  # the wire's state is OPEN
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
    def max_message_bytes(self) -> int:
        return self._limits.max_message_bytes

    @property
    def is_open(self) -> bool:
        transport = self._transport
        return self._is_writable and transport is not None and not transport.is_closing()

    def start(self, on_message: OnMessage, on_close: OnClose, on_writable: OnWritable | None = None) -> None:
        if self._on_message is not None:
            raise RuntimeError("start() was called before; a connection has one owner.")
        self._on_message, self._on_close, self._on_writable = on_message, on_close, on_writable
        self._loop.call_soon(self._begin)

    def send(self, message: bytes) -> None:
        transport = self._transport
        if transport is None or not self._is_writable or transport.is_closing():
            return
        size = len(message)
        if size < 126:
            head = _HEADS.pack(BINARY, size | self._masked)
        elif size < 65_536:
            head = _WIDER_HEADS.pack(BINARY, 126 | self._masked, size)
        else:
            head = _WIDEST_HEADS.pack(BINARY, 127 | self._masked, size)
        if self._is_server:
            transport.write(head + message)
        else:
            mask = next(_masks)
            transport.write(head + mask + apply_mask(message, mask))
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

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :] if self._filled else self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_plain:
            self._read_plain(self._filled + nbytes)
        elif self._is_opening:
            self._shake(bytes(self._buffer[:nbytes]))
        else:
            self._read(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        if self._is_plain:
            self._leave_plain(0, self._filled)
        self._is_writable = False
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
        self._is_opening = self._is_writable = False
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
        self._is_plain = self._is_writable = True
        self._buffer = _new_buffer()
        self._transport.pause_reading()

    def _begin(self) -> None:
        self._has_begun = True
        early, self._early = self._early, []
        for message in early:
            self._deliver(message)
        if self._outcome is not None:
            assert self._on_close is not None
            self._call(self._on_close, *self._outcome)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # Messages.

    def _read_plain(self, end: int) -> None:
        """Take the whole binary frames that the buffer's first ``end`` bytes hold."""
        buffer, start = self._buffer, 0
        is_server, largest = self._is_server, self._limits.max_message_bytes
        while end - start >= 2:
            first, size = buffer[start], buffer[start + 1]
            body = start + 2
            if is_server:
                size ^= MASKED
                body += MASK_BYTES
            if first != BINARY or size >= MASKED:
                return self._leave_plain(start, end)
            if size >= 126:
                wide = 2 if size == 126 else 8
                if end - start < 2 + wide:
                    break
                size = int.from_bytes(buffer[start + 2 : start + 2 + wide], "big")
                body += wide
            if size > largest:
                return self._leave_plain(start, end)
            after = body + size
            if after > end:
                self._make_room(after - start, start, end)
                return None
            if is_server:
                message = apply_mask(buffer[body:after], bytes(buffer[body - MASK_BYTES : body]))
            else:
                message = bytes(buffer[body:after])
            start = after
            self._deliver(message)
        if start < end or len(buffer) > BUFFER_BYTES:
            self._make_room(0, start, end)
        else:
            self._filled = 0
        return None

    def _make_room(self, size: int, start: int, end: int) -> None:
        """Move an unfinished frame of ``size`` bytes, if it is known, to where the whole fits."""
        self._filled = end - start
        buffer = self._buffer
        if size > len(buffer):
            self._buffer = memoryview(bytearray(size))
        elif start == end and len(buffer) > BUFFER_BYTES:
            self._buffer = _new_buffer()
        elif start == 0:
            return
        self._buffer[: end - start] = buffer[start:end]

    def _leave_plain(self, start: int, end: int) -> None:
        """Let the wire read all that follows."""
        self._is_plain = False
        rest = bytes(self._buffer[start:end])
        self._filled = 0
        if rest:
            self._read(rest)

    def _read(self, data: bytes) -> None:
        wire = self._wire
        wire.receive_data(data)
        for event in wire.events_received():
            self._take(cast("Frame", event))
        if wire.writes:
            self._flush()
        if wire.state is not State.OPEN:
            self._await_the_end()

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
        if self._is_deaf:
            return
        if not self._has_begun:
            self._early.append(message)
            return
        assert self._on_message is not None
        try:
            self._on_message(message)
        except Exception as error:
            self._report(error)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
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
        self._is_writable = False
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


def _new_buffer() -> memoryview:
    """Return what a connection is read into; a forked process has one of its own."""
    if sys.platform == "win32":
        return memoryview(mmap.mmap(-1, BUFFER_BYTES))
    return memoryview(mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


# The beginnings of frames up to 125, 65,535 and more bytes: RFC 6455 section 5.2.
_HEADS, _WIDER_HEADS, _WIDEST_HEADS = Struct("!BB"), Struct("!BBH"), Struct("!BBQ")


def fresh_masks() -> Iterator[bytes]:
    """Yield keys that nobody can foresee (RFC 6455 section 5.3), for one system call in 256."""
    while True:
        random = os.urandom(256 * MASK_BYTES)
        for start in range(0, len(random), MASK_BYTES):
            yield random[start : start + MASK_BYTES]


_masks = fresh_masks()


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
