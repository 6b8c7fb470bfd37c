"""What was sent and is not acknowledged."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import encoding
from .events import CannotSend, Outcome
from .frames import TAIL_BYTES, Hello, Terms, Welcome

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["FRAMES_PER_MESSAGE", "LARGE_BYTES", "Outbox"]

FRAMES_PER_MESSAGE = 32
"""Without a bound two busy nodes run in lockstep, each waiting for the other's whole batch."""
MESSAGE_BYTES = 128 * 1024
LARGE_BYTES = 16 * 1024
"""A frame of this size is worth a message of its own: what others beside it would save is little."""

_Sent: TypeAlias = tuple[int, bytes, float | None, str, int, Any]
"""A frame that is not acknowledged: its number, the frame, when it expires, and for its Outcome
the kind ("" where nobody asks what became of it), the id and the tag."""


class Outbox:
    """Numbers frames and keeps them, over all links, until the other side has them.

    Attributes:
        sent_n: the last number used.
        written_n: the last number ever written on any link.
        link_n: the last number written on this link, or received over an earlier one.
        peer_rx: the last number acknowledged.
        size: bytes of the frames held.
        queue: the frames to be written on this link, oldest first; changed here only.
    """

    __slots__ = (
        "sent_n", "written_n", "link_n", "peer_rx", "size", "queue",
        "_frames", "_bytes", "_peer", "_terms", "_largest", "_message_bytes", "_unacked", "_wanted",
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        self.sent_n = self.written_n = self.link_n = self.peer_rx = self.size = 0
        self.queue: deque[_Sent] = deque()
        self._frames, self._bytes = settings.outbox_frames, settings.outbox_bytes
        self._peer = ""
        self._terms: Terms | None = None
        self._largest = self._message_bytes = 0  # bytes of a frame as it is put in, and of a message
        self._unacked: deque[_Sent] = deque()  # written on this link; all before those in the queue
        self._wanted: int | None = None  # bytes somebody found no room for

    def __len__(self) -> int:
        return len(self.queue) + len(self._unacked)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody found no room."""
        return self._wanted is not None

    def begin_link(self, greeting: Hello | Welcome, terms: Terms) -> bool:
        """Write everything the other side has not got again, in the same order.

        Returns:
            Whether there is the room somebody wanted.
        """
        self._peer, self._terms = greeting.node, terms
        self._largest = terms.max_frame - TAIL_BYTES
        self._message_bytes = min(MESSAGE_BYTES, terms.max_frame)
        self._unacked.extend(self.queue)
        has_room = self.acknowledge(greeting.rx)
        self.queue, self._unacked = self._unacked, deque()
        self.link_n = greeting.rx
        return has_room

    def resume_check(self, rx: int) -> str | None:
        """Say why a link whose other side has received ``rx`` cannot go on from here."""
        if rx > self.written_n:
            return f"{rx} was never sent: {self.written_n} is the last."
        if rx < self.peer_rx:
            return f"{self.peer_rx} was acknowledged before, now {rx}."
        return None

    def acknowledge(self, rx: int) -> bool:
        """Forget what the other side has; return whether that is the room somebody wanted."""
        self.peer_rx = rx
        held, size = self._unacked, self.size
        while held and held[0][0] <= rx:
            size -= len(held.popleft()[1])
        self.size = size
        return self._wanted is not None and self._take_room(self._wanted)

    def clear(self) -> None:
        """Forget everything."""
        self._wanted = None
        self.size = 0
        self.queue.clear()
        self._unacked.clear()

    # -- what became of it --

    def outcomes(self) -> list[Outcome]:
        """Return what became of the frames whose kind is known."""
        return [
            Outcome(kind, n, id, self.outcome(n), tag)
            for n, _, _, kind, id, tag in (*self._unacked, *self.queue)
            if kind
        ]

    def outcome(self, n: int) -> Literal["not_delivered", "unknown"]:
        """Return what became of frame ``n``, if it is not acknowledged."""
        return "not_delivered" if n > self.written_n else "unknown"

    # -- putting --

    def put(self, line: bytes, kind: str, id: int, tag: Any, expires_at: float | None = None) -> None:
        """Put a frame in, in parts if need be; ``kind`` is that of its Outcome.

        Its number is used from here on.

        Raises:
            CannotSend: there is no room.
            FrameError: it is too large.
        """
        size = len(line)
        if size > self._largest:
            self._put_parts(line, kind, id, tag, expires_at)
            return
        n = self.sent_n + 1
        held, count = self.size + size, n - self.peer_rx
        if self._wanted is not None or count > self._frames or held > self._bytes:
            self._check_room(1, size)  # the room may do all the same, if the outbox is empty
        self.sent_n = n
        self.size = held
        self.queue.append((n, line, expires_at, kind, id, tag))
        if held >= self._bytes or count >= self._frames:
            self._wanted = 0

    def put_control(self, fields: dict[str, Any]) -> None:
        """Put a frame in that is never refused."""
        line = encoding.encode(fields)
        self.sent_n += 1
        self.size += len(line)
        self.queue.append((self.sent_n, line, None, "", 0, None))

    def _put_parts(self, line: bytes, kind: str, id: int, tag: Any, expires_at: float | None) -> None:
        # The time to live is known when the last part is written; the others carry none.
        terms = self._terms
        assert terms is not None
        *others, last = encoding.encode_parts(self.sent_n + 1, line, terms.max_frame, terms.max_body)
        size = sum(map(len, others)) + len(last)
        self._check_room(len(others) + 1, size)
        for n, part in enumerate(others, self.sent_n + 1):
            self.queue.append((n, part, None, "", id, None))
        self.sent_n += len(others) + 1
        self.size += size
        self.queue.append((self.sent_n, last, expires_at, kind, id, tag))
        if not self._fits(1, 0):
            self._wanted = 0

    def _check_room(self, count: int, size: int) -> None:
        if self._wanted is not None or not self._fits(count, size):
            self._wanted = max(size, self._wanted or 0)
            raise CannotSend(
                "outbox_full",
                f"{self.sent_n - self.peer_rx:,} frames ({self.size:,} bytes) wait for node "
                f"{self._peer!r} to acknowledge them.",
            )

    def _fits(self, count: int, size: int) -> bool:
        waiting = self.sent_n - self.peer_rx
        if waiting == 0:
            return True
        return waiting + count <= self._frames and self.size + size <= self._bytes

    def _take_room(self, wanted: int) -> bool:
        """Whether there is room for ``wanted`` bytes: a quarter, or each ack would wake a sender."""
        waiting = self.sent_n - self.peer_rx
        if waiting == 0 or (waiting <= self._frames * 3 // 4 and self.size + wanted <= self._bytes):
            self._wanted = None
            return True
        return False

    # -- writing --

    def write(self, lines: list[bytes], rx: int | None, now: float) -> bool:
        """Append what one message may hold besides the ``lines`` there are; it counts as written.

        Args:
            lines: of the message so far.
            rx: what to acknowledge by the way.
            now: the time.

        Returns:
            Whether there was room for a frame; the first takes ``rx`` along.
        """
        queue, unacked = self.queue, self._unacked
        if len(queue) == 1 and not lines:
            n, line, expires_at, *_ = sent = queue.popleft()
            left_s = None if expires_at is None else expires_at - now
            lines.append(encoding.with_tail(line, left_s, rx))
            unacked.append(sent)
            self._count_written(n)
            return True
        room = self._message_bytes - sum(map(len, lines)) - len(lines)
        n = 0
        for _ in range(min(len(queue), FRAMES_PER_MESSAGE - len(lines))):
            sent = queue.popleft()
            line, expires_at = sent[1], sent[2]
            room -= len(line) + TAIL_BYTES
            if room < 0 and lines:
                queue.appendleft(sent)
                break
            if expires_at is not None or rx is not None:
                left_s = None if expires_at is None else expires_at - now
                line = encoding.with_tail(line, left_s, rx)
                rx = None
            lines.append(line)
            unacked.append(sent)
            n = sent[0]
        if n:
            self._count_written(n)
        return n > 0

    def _count_written(self, n: int) -> None:
        self.link_n = n
        if n > self.written_n:
            self.written_n = n
