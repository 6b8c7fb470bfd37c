"""The numbers of what arrives: in order, once, acknowledged in time, and joined where it came in parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from ._violation import Violation
from .frames import CloseCode, Part

__all__ = ["ACK_AFTER_S", "Inbox"]

ACK_AFTER_FRAMES = 64
ACK_AFTER_S = 0.020
USELESS_PER_S = 5_000


class Inbox:
    """Counts numbered frames in, over all links.

    Attributes:
        rx: the last number admitted; whoever admits a frame raises it, and sees that ``ack_due_at`` is set.
        told_rx: what of it the other side was told.
        ack_due_at: when to acknowledge at the latest; None: nothing to acknowledge.
        duplicates: how many frames came again.
        is_joining: parts of a frame have arrived, and not all.
    """

    __slots__ = (
        "rx", "told_rx", "ack_due_at", "duplicates", "is_joining",
        "_max_body", "_assembly", "_useless_since", "_useless",
    )  # fmt: skip

    def __init__(self, max_body: int) -> None:
        self.rx = self.told_rx = 0
        self.ack_due_at: float | None = None
        self.duplicates = 0
        self.is_joining = False
        self._max_body = max_body
        self._assembly: _Assembly | None = None
        self._useless_since = 0.0
        self._useless = 0

    def begin_link(self) -> None:
        """Note that the greeting told the other side where we are."""
        self.told_rx = self.rx
        self.ack_due_at = None

    def clear(self) -> None:
        """Forget a frame whose parts were arriving."""
        self._assembly, self.is_joining = None, False

    def take_repeated(self, n: int, now: float) -> None:
        """Count frame ``n``, which is not the next: it was admitted before.

        Raises:
            Violation: it was not, frames are missing before it.
        """
        if n > self.rx:
            raise Violation(CloseCode.SEQUENCE, f"Frame {n} came after {self.rx}.")
        self.duplicates += 1
        self.count_useless(now)

    def count_useless(self, now: float) -> None:
        """Count a frame that changed nothing: an honest peer sends few of them."""
        if now - self._useless_since >= 1:
            self._useless_since, self._useless = now, 0
        self._useless += 1
        if self._useless > USELESS_PER_S:
            raise Violation(CloseCode.FLOW, f"More than {USELESS_PER_S:,} useless frames a second.")

    def is_ack_due(self, now: float) -> bool:
        """Whether to acknowledge now though there is nothing else to say."""
        return self.ack_due_at is not None and (
            now >= self.ack_due_at or self.rx - self.told_rx >= ACK_AFTER_FRAMES
        )

    def write_ack(self, lines: list[bytes]) -> None:
        """Append an acknowledgement, if there is anything to acknowledge."""
        if self.rx != self.told_rx:
            lines.append(b'{"t":"ack","rx":%d}' % self.rx)
        self.told_rx = self.rx
        self.ack_due_at = None

    def refuse_between_parts(self) -> NoReturn:
        """Raise Violation for another frame between the parts of one."""
        raise Violation(CloseCode.BAD_FRAME, "Another frame came between the parts of one.")

    def join(self, part: Part) -> bytes | None:
        """Take a part; return the whole after the last one."""
        if part.index == 0 and self._assembly is None and part.id == part.n:
            self._assembly = _Assembly(part.id, part.of)
            self.is_joining = True
        whole = self._assembly
        if whole is None or (part.id, part.of, part.index) != (whole.id, whole.of, len(whole.pieces)):
            raise Violation(CloseCode.BAD_FRAME, f"Part {part.index} of {part.of} is out of place.")
        whole.size += len(part.data)
        if whole.size > self._max_body:
            raise Violation(CloseCode.FLOW, f"A message in parts exceeds {self._max_body:,} bytes.")
        whole.pieces.append(part.data)
        if len(whole.pieces) < whole.of:
            return None
        self._assembly, self.is_joining = None, False
        return b"".join(whole.pieces)


@dataclass(slots=True)
class _Assembly:
    """A frame whose parts are arriving."""

    id: int
    of: int
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)
