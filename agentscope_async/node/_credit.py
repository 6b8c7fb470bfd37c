"""How many frames a target may be sent: absolute counts, so that a grant lost or repeated does no harm."""

from __future__ import annotations

from ._violation import Violation
from .events import CannotSend
from .frames import CloseCode

__all__ = ["Inflow", "Outflow"]

MAX_CREDIT = 65_536


class Outflow:
    """What a target was sent and may be sent."""

    __slots__ = ("used", "upto", "is_blocked")

    def __init__(self, upto: int) -> None:
        self.used = 0
        self.upto = upto
        self.is_blocked = False

    def check(self, target: str | int) -> None:
        """Raise CannotSend if nothing is left."""
        if self.used >= self.upto:
            self.is_blocked = True
            raise CannotSend(
                "no_credit", f"{target!r} was sent {self.used:,} frames and may be sent no more yet.", target
            )

    def charge(self) -> None:
        """Count a frame."""
        self.used += 1
        if self.used == self.upto:
            self.is_blocked = True

    def grant(self, upto: int) -> bool:
        """Take a grant; return whether somebody waits for it."""
        self.upto = max(self.upto, min(upto, self.used + MAX_CREDIT))
        was_blocked, self.is_blocked = self.is_blocked, False
        return was_blocked


class Inflow:
    """What was received for a target, what it has consumed, and what its senders may send."""

    __slots__ = ("used", "consumed", "upto", "_credit", "_worth")

    def __init__(self, credit: int) -> None:
        self.used = 0
        self.consumed = 0
        self.upto = self._credit = credit
        self._worth = (credit + 3) // 4

    def charge(self, target: str) -> None:
        """Count a frame; raise Violation if it was one too many."""
        self.used += 1
        if self.used > self.upto:
            raise Violation(CloseCode.FLOW, f"{target!r} was sent more than its {self.upto:,} frames.")

    def consume(self, count: int) -> bool:
        """Note that frames were taken; return whether that is worth telling the senders."""
        consumed = self.consumed + count
        if consumed > self.used:
            consumed = self.used
        self.consumed = consumed
        upto = consumed + self._credit
        if upto - self.upto < self._worth:
            return False
        self.upto = upto
        return True
