"""What says when the next call may go: a bucket, a server's own count, the ramp after a refusal.

Plain state; times are seconds of whatever clock the owner uses. Each gate answers two
questions: :meth:`opens_at_s`, from when on a call of that cost may go (the same time however often
it is asked, so a timer set to it fires when the gate is open), and :meth:`take`, the call goes.
"""

from __future__ import annotations

import math

__all__ = ["Allowance", "Bucket", "Ramp"]

NEVER_S = -math.inf

SPREAD_BELOW_CALLS = 10
"""A server's count is spread over the time to its reset once it is down to this many calls."""

MIN_WINDOW_S = 0.5
MAX_WINDOW_S = 8.0
DECREASE = 0.7
FEW_PER_S = 2.0
"""The slowest first pace: a caller or two who waited as long as they were asked to wait no longer."""
PROBE_ABOVE = 1.25
RECOVERY_S = 10.0


class Bucket:
    """Lets ``rate_per_s`` units go each second, evenly, and at most ``capacity`` at once.

    A cost above ``capacity`` goes when the bucket is full and leaves a debt. The state is the
    time at which the bucket will be full again (the generic cell rate algorithm, ITU-T
    I.371, annex A): no rounding piles up and waiting costs nothing.
    """

    __slots__ = ("rate_per_s", "capacity", "_full_at_s")

    def __init__(self, rate_per_s: float, capacity: float) -> None:
        self.rate_per_s = rate_per_s
        self.capacity = capacity
        self._full_at_s = NEVER_S

    def opens_at_s(self, cost: float) -> float:
        return self._full_at_s - max(0.0, self.capacity - cost) / self.rate_per_s

    def take(self, cost: float, now_s: float) -> None:
        self._full_at_s = max(self._full_at_s, now_s) + cost / self.rate_per_s

    def give_back(self, cost: float) -> None:
        self._full_at_s -= cost / self.rate_per_s

    def charge(self, cost: float, now_s: float, max_debt_s: float) -> None:
        """Take ``cost`` that was spent already, but never go further into debt than ``max_debt_s``."""
        owed_until_s = max(self._full_at_s, now_s)
        self._full_at_s = max(owed_until_s, min(owed_until_s + cost / self.rate_per_s, now_s + max_debt_s))


class Allowance:
    """What a server says is left until its reset: counted down, and spread when it gets scarce."""

    __slots__ = ("left", "until_s", "_next_s", "_typical_cost")

    def __init__(self, left: float, until_s: float, typical_cost: float) -> None:
        self.left = left
        self.until_s = until_s
        self._typical_cost = typical_cost
        self._next_s = NEVER_S

    def is_used_up(self) -> bool:
        """Return whether a call of the usual size has to wait for the reset."""
        return self.left < self._typical_cost

    def update(self, left: float, until_s: float) -> None:
        self.left = left
        self.until_s = until_s

    def opens_at_s(self, cost: float) -> float:
        if cost > self.left:
            return self.until_s
        return min(self._next_s, self.until_s)

    def take(self, cost: float, now_s: float) -> None:
        self.left -= cost
        if 0 < cost and self.left <= SPREAD_BELOW_CALLS * cost:
            share = cost / (max(self.left, 0.0) + cost)
            self._next_s = now_s + (self.until_s - now_s) * share

    def give_back(self, cost: float) -> None:
        self.left += cost
        self._next_s = NEVER_S


class Ramp:
    """Lets nobody go for a while after a refusal, then a few, then more with every success.

    The window ``W`` is the length of the hold, within 0.5 to 8 s. Where the limit is known, the first
    pace is 0.7 of it: a call or two came too close together. Else it is half of what
    would send the calls now under way once more within ``W``, and at least two a second.
    While the server's limit is unknown the pace grows by ``1 / W`` a second with each
    success, so it is multiplied by e in ``W``: the calls that were refused together come
    back spread over a little more than ``W``.
    The next refusal shows where the limit is: from then on the pace falls to 0.7 of it and
    grows linearly, back up in 3 s, until it is a quarter above without a refusal; then the
    limit has moved, and growth is exponential again. (As TCP: slow start, then congestion
    avoidance, RFC 5681 section 3.1; 0.7 is CUBIC's factor, RFC 9438 section 4.6.)

    It limits the pace, not how many calls are under way: refused calls are quickly answered, so
    a cap on calls under way would let them all return at once.
    """

    __slots__ = (
        "pace_per_s",
        "held_until_s",
        "tried",
        "_known_per_s",
        "_window_s",
        "_counts_from_s",
        "_last_s",
    )

    def __init__(self, pace_per_s: float, known_per_s: float | None, held_until_s: float, window_s: float):
        self.pace_per_s = pace_per_s
        self._known_per_s = known_per_s
        self.tried = False
        self._last_s = NEVER_S
        self._window_s = window_s
        self.held_until_s = held_until_s
        self._counts_from_s = held_until_s

    @classmethod
    def after_refusal(cls, under_way: int, limit_per_s: float | None, now_s: float, hold_s: float) -> Ramp:
        """Return the ramp for the first refusal, with ``under_way`` calls that may all be refused."""
        window_s = window_of(hold_s)
        if limit_per_s is None:
            pace_per_s = max(under_way / window_s / 2, FEW_PER_S)
        else:
            pace_per_s = limit_per_s * DECREASE
        ramp = cls(pace_per_s, limit_per_s, now_s + hold_s, window_s)
        ramp._counts_from_s = now_s + max(hold_s, window_s)
        return ramp

    def counts(self, now_s: float) -> bool:
        """Return whether a refusal now is news, not one more of those that made this ramp."""
        return self.tried and now_s >= self._counts_from_s

    def decrease(self, now_s: float, hold_s: float) -> None:
        """Slow down after one more refusal of a call that went at this pace."""
        self._known_per_s = self.pace_per_s
        self.tried = False
        self._window_s = window_of(hold_s)
        # Never below one call in a window, or a lone caller would wait longer than it was asked to.
        self.pace_per_s = max(self.pace_per_s * DECREASE, 1 / self._window_s)
        self._counts_from_s = now_s + max(hold_s, self._window_s)

    def hold_until(self, when_s: float) -> None:
        self.held_until_s = max(self.held_until_s, when_s)
        self._counts_from_s = max(self._counts_from_s, when_s)

    def grow(self) -> None:
        """Speed up after a success."""
        known_per_s = self._known_per_s
        if known_per_s is None or not DECREASE * 0.99 <= self.pace_per_s / known_per_s <= PROBE_ABOVE:
            self.pace_per_s += 1 / self._window_s
        else:
            self.pace_per_s += known_per_s / RECOVERY_S / self.pace_per_s

    def is_over(self, now_s: float) -> bool:
        """Return whether a whole window has passed since the hold and the pace holds nobody up."""
        return self.tried and now_s >= self.held_until_s + self._window_s and now_s >= self.opens_at_s()

    def opens_at_s(self, cost: float = 1) -> float:
        return max(self.held_until_s, self._last_s + cost / self.pace_per_s)

    def take(self, cost: float, now_s: float) -> None:
        self._last_s = now_s
        self.tried = True

    def give_back(self, cost: float) -> None:
        self._last_s -= cost / self.pace_per_s


def window_of(hold_s: float) -> float:
    return min(max(hold_s, MIN_WINDOW_S), MAX_WINDOW_S)
