"""What was sent and is not acknowledged."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from . import encoding
from .events import CannotSend, Outcome
from .frames import TTL_BYTES, Hello, Terms, Welcome

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["FRAMES_PER_MESSAGE", "Outbox"]

FRAMES_PER_MESSAGE = 32
"""Without a bound two busy nodes run in lockstep, each waiting for the other's whole batch."""
FLUSH_AT = 16
"""So many frames are worth a message at once; fewer may wait for the end of the loop's round."""
MESSAGE_BYTES = 128 * 1024


class Outbox:
    """Numbers frames and keeps them, over all links, until the other side has them.

    Attributes:
        sent_n: the last number used.
        written_n: the last number ever written on any link.
        link_n: the last number written on this link, or received over an earlier one.
        peer_rx: the last number acknowledged.
        size: bytes of the frames held.
        is_wanted: somebody found no room.
    """

    __slots__ = (
        "sent_n", "written_n", "link_n", "peer_rx", "size",
        "_settings", "_peer", "_terms", "_queue", "_unacked", "_wanted",
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        self.sent_n = self.written_n = self.link_n = self.peer_rx = self.size = 0
        self._settings = settings
        self._peer = ""
        self._terms: Terms | None = None
        self._queue: deque[_Sent] = deque()  # to be written on this link
        self._unacked: deque[_Sent] = deque()  # written on this link; all before those in _queue
        self._wanted: int | None = None  # bytes somebody found no room for

    def __len__(self) -> int:
        return len(self._queue) + len(self._unacked)

    @property
    def has_unwritten(self) -> bool:
        """Whether frames wait to be written on this link."""
        return bool(self._queue)

    @property
    def is_wanted(self) -> bool:
        return self._wanted is not None

    @property
    def is_flush_due(self) -> bool:
        """So many frames wait that they are worth a message of their own."""
        return len(self._queue) >= FLUSH_AT

    def begin_link(self, greeting: Hello | Welcome, terms: Terms) -> None:
        """Write everything the other side has not got again, in the same order."""
        self._peer, self._terms = greeting.node, terms
        self.acknowledge(greeting.rx)
        self._unacked.extend(self._queue)
        self._queue, self._unacked = self._unacked, deque()
        self.link_n = greeting.rx

    def resume_check(self, rx: int) -> str | None:
        """Say why a link whose other side has received ``rx`` cannot go on from here."""
        if rx > self.written_n:
            return f"{rx} was never sent: {self.written_n} is the last."
        if rx < self.peer_rx:
            return f"{self.peer_rx} was acknowledged before, now {rx}."
        return None

    def acknowledge(self, rx: int) -> None:
        """Forget what the other side has."""
        self.peer_rx = rx
        for held in (self._unacked, self._queue):
            while held and held[0].n <= rx:
                self.size -= len(held.popleft().line)

    def clear(self) -> None:
        """Forget everything."""
        self._wanted = None
        self.size = 0
        self._queue.clear()
        self._unacked.clear()

    # -- what became of it --

    def outcomes(self) -> list[Outcome]:
        """Return what became of the frames whose kind is known."""
        return [
            Outcome(sent.kind, sent.n, sent.id, self.outcome(sent.n), sent.tag)
            for sent in (*self._unacked, *self._queue)
            if sent.kind
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
        terms = self._terms
        assert terms is not None
        size = len(line)
        if size + TTL_BYTES > terms.max_frame:
            self._put_parts(line, kind, id, tag, expires_at, terms)
            return
        settings = self._settings
        held, count = self.size + size, self.sent_n - self.peer_rx + 1
        if self._wanted is not None or count > settings.outbox_frames or held > settings.outbox_bytes:
            self._check_room(1, size)  # the room may do all the same, if the outbox is empty
        self.sent_n += 1
        self.size = held
        self._queue.append(_Sent(self.sent_n, line, expires_at, kind, id, tag))
        if held >= settings.outbox_bytes or count >= settings.outbox_frames:
            self._wanted = 0

    def put_control(self, fields: dict[str, Any]) -> None:
        """Put a frame in that is never refused."""
        line = encoding.encode(fields)
        self.sent_n += 1
        self.size += len(line)
        self._queue.append(_Sent(self.sent_n, line, None, "", 0, None))

    def _put_parts(
        self, line: bytes, kind: str, id: int, tag: Any, expires_at: float | None, terms: Terms
    ) -> None:
        # The time to live is known when the last part is written; the others carry none.
        lines = encoding.encode_parts(self.sent_n + 1, line, terms.max_frame, terms.max_body)
        self._check_room(len(lines), sum(map(len, lines)))
        for part in lines:
            self.sent_n += 1
            self.size += len(part)
            self._queue.append(_Sent(self.sent_n, part, None, "", id, None))
        last = self._queue[-1]
        last.kind, last.tag, last.expires_at = kind, tag, expires_at
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
        return (
            waiting + count <= self._settings.outbox_frames
            and self.size + size <= self._settings.outbox_bytes
        )

    def take_room(self) -> bool:
        """Whether somebody wanted room and there is some: a quarter, or each ack would wake a sender."""
        if self._wanted is None:
            return False
        waiting, settings = self.sent_n - self.peer_rx, self._settings
        if waiting == 0 or (
            waiting <= settings.outbox_frames * 3 // 4 and self.size + self._wanted <= settings.outbox_bytes
        ):
            self._wanted = None
            return True
        return False

    # -- writing --

    def write(self, lines: list[bytes], now: float) -> None:
        """Append what one message may hold besides the ``lines`` there are; it counts as written."""
        assert self._terms is not None
        queue, unacked = self._queue, self._unacked
        room = min(MESSAGE_BYTES, self._terms.max_frame) - sum(map(len, lines)) - len(lines)
        frames_left = FRAMES_PER_MESSAGE - len(lines)
        while queue and frames_left > 0:
            sent = queue[0]
            line = sent.line
            room -= len(line) + TTL_BYTES
            if room < 0 and lines:
                break
            if sent.expires_at is not None:
                line = encoding.with_ttl(line, max(0, round((sent.expires_at - now) * 1000)))
            lines.append(line)
            unacked.append(queue.popleft())
            frames_left -= 1
        if unacked:
            self.link_n = max(self.link_n, unacked[-1].n)
            self.written_n = max(self.written_n, self.link_n)


class _Sent:
    """A numbered frame that is not acknowledged. ``kind`` is "" where nobody asks what became of it."""

    __slots__ = ("n", "line", "expires_at", "kind", "id", "tag")

    def __init__(self, n: int, line: bytes, expires_at: float | None, kind: str, id: int, tag: Any) -> None:
        self.n = n
        self.line = line
        self.expires_at = expires_at
        self.kind = kind
        self.id = id
        self.tag = tag
