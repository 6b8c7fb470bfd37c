"""How many calls go to a provider and when: limiter, retry budget, back-off, rate-limit headers.

Knows nothing of HTTP. Everything here belongs to one event loop and one account of one
provider. There is no background task: whoever gives a slot back, or a timer of the
loop, lets the next ones in.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import OrderedDict
from dataclasses import dataclass
from random import random as uniform
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from ..errors import ConfigError
from ._gates import Allowance, Bucket, Ramp
from ._rate_headers import RateHeaders, parse_rate_headers, retry_after
from ._retries import RetryBudget, backoff_s, doubled_s

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Clock",
    "Limiter",
    "LimiterStatistics",
    "RateHeaders",
    "RetryBudget",
    "backoff_s",
    "parse_rate_headers",
    "retry_after",
]

DEFAULT_MAX_CONCURRENCY = 512

MAX_HOLD_S = 120.0
"""No server's word stops calls for longer than this; then one goes and asks again."""

HEADROOM = 0.97
"""Share of a limit that is used, so that requests which overtake each other on the way still keep it."""

CATCH_UP_S = 0.02
"""How much of the time lost to a late timer is made up for."""

TOKEN_BURST = 0.03
"""Share of a minute's tokens that may go at once; with HEADROOM never more than the whole in any minute."""

PLENTY_CALLS = 1000
"""A server's count is not followed while it is enough for this many calls more."""

REOPENING_CALLS = 10
"""So many of those who waited for a reset may go at once; more are spread over a second."""

MAX_REMAINING = 1e12
MAX_RESET_S = 86_400.0
"""Larger figures in headers are not durations or counts (a time of day, perhaps) and are ignored."""


class Clock(Protocol):
    """What the limiter needs of an event loop's clock."""

    def time(self) -> float:
        """Return seconds since some moment; never goes back."""

    def call_at(self, when: float, callback: Callable[[], None], /) -> Any:
        """Call ``callback`` at ``when``; the value returned has ``cancel()``."""


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """A snapshot of a limiter.

    Attributes:
        in_flight: calls let in and not left yet.
        waiting: calls that wait to be let in.
        held_until_s: time of the loop's clock at which the next call may go, if later than now,
            slots aside.
        ramp_pace_per_s: calls a second let in after a 429, growing; None when back at full speed.
    """

    in_flight: int
    waiting: int
    held_until_s: float | None
    ramp_pace_per_s: float | None


class Limiter:
    """Lets calls in, first come first served, as fast as the limits of a provider's account allow.

    Three things hold a call: the number of calls under way, the pace (requests and tokens a
    minute, spread evenly because servers count in windows of unknown place and length), and
    what the server said: its remaining count (:meth:`learn`) and its 429s (:meth:`back_off`).
    The queue is one FIFO: a large call at its head is not overtaken, so nobody starves.

    ::

        slot = limiter.try_enter(tokens) or await limiter.enter(tokens)
        try:
            ...  # one request; then learn(), and succeed() or back_off()
        finally:
            limiter.leave()
    """

    __slots__ = (
        "_in_flight", "_room", "_entered", "_tokens_entered", "_max_concurrency", "_queue",
        "_request_bucket", "_token_bucket", "_request_allowance", "_token_allowance", "_ramp", "_strikes",
        "_request_gates", "_token_gates", "_clock", "_random", "_timer", "_wakes_at_s",
    )  # fmt: skip

    def __init__(
        self,
        *,
        max_concurrency: int | None = DEFAULT_MAX_CONCURRENCY,
        requests_per_min: float | None = None,
        tokens_per_min: float | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = uniform,
    ) -> None:
        """Make a limiter with everything free.

        Args:
            max_concurrency: calls under way at once; None for any number.
            requests_per_min: the account's limit; 97 % of it is used.
            tokens_per_min: the account's limit of tokens, likewise. 3 % of a minute may go at once,
                a call larger than that when nothing else is owed.
            clock: the running event loop unless given.
            random: returns numbers in [0, 1).

        Raises:
            ConfigError: a limit is not a positive number.
        """
        _check_limit("max_concurrency", max_concurrency)
        _check_limit("requests_per_min", requests_per_min)
        _check_limit("tokens_per_min", tokens_per_min)
        self._max_concurrency = sys.maxsize if max_concurrency is None else max_concurrency
        self._in_flight = 0
        self._entered = 0
        self._tokens_entered = 0.0
        self._queue: OrderedDict[asyncio.Future[int], float] = OrderedDict()
        self._request_bucket = _request_bucket(requests_per_min)
        self._token_bucket = _token_bucket(tokens_per_min)
        self._request_allowance: Allowance | None = None
        self._token_allowance: Allowance | None = None
        self._ramp: Ramp | None = None
        self._strikes = 0
        self._clock = clock
        self._random = random
        self._timer: Any = None
        self._wakes_at_s = 0.0
        self._set_gates()

    def try_enter(self, tokens: float = 0) -> int:
        """Take a slot if one may be had now and nobody waits; return its number (from 1), else 0.

        Args:
            tokens: the call's estimated tokens, question and answer.
        """
        if self._in_flight < self._room:
            self._in_flight += 1
            self._tokens_entered += tokens
            self._entered += 1
            return self._entered
        if self._queue or self._in_flight >= self._max_concurrency:
            return 0
        now_s = self._now_s()
        return self._admit(tokens, now_s) if self._opens_at_s(tokens, now_s) <= now_s else 0

    async def enter(self, tokens: float = 0) -> int:
        """Wait for a slot, first come first served; return its number.

        A cancelled caller leaves the queue; one cancelled when it had just been let in
        gives its slot, its request and its tokens to the next.
        """
        if slot := self.try_enter(tokens):
            return slot
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue[waiter] = tokens
        self._room = 0
        if len(self._queue) == 1:
            self._let_in()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._queue.pop(waiter, None)
            else:
                self._give_back(tokens)
            self._let_in()
            raise

    def leave(self) -> None:
        """Give a slot back and let the next caller in."""
        self._in_flight -= 1
        if self._queue:
            self._let_in()

    def succeed(self) -> None:
        """Note that a call was answered: speeds up what :meth:`back_off` slowed down."""
        if self._ramp is not None:
            self._climb(self._ramp)

    def back_off(self, retry_after_s: float | None = None) -> None:
        """Note a 429: let nobody in for a while, then fewer, then more with each success.

        All 429s of a burst count once. They may prolong the hold, which lasts ``retry_after_s``, or
        0.5 s doubled with each burst up to 8 s, less up to a quarter by chance.
        """
        now_s = self._now_s()
        ramp = self._ramp
        is_news = ramp is None or ramp.counts(now_s)
        if is_news:
            self._strikes += 1
        hold_s = self._hold_s(retry_after_s)
        if ramp is None:
            limit_per_s = self._request_bucket.rate_per_s if self._request_bucket else None
            self._ramp = Ramp.after_refusal(self._in_flight, limit_per_s, now_s, hold_s)
            self._set_gates()
        elif is_news:
            ramp.decrease(now_s, hold_s)
            ramp.hold_until(now_s + hold_s)
        elif _is_sane(retry_after_s, math.inf) or now_s >= ramp.held_until_s:
            ramp.hold_until(now_s + hold_s)

    def learn(
        self,
        *,
        remaining_requests: float | None = None,
        reset_requests_s: float | None = None,
        remaining_tokens: float | None = None,
        reset_tokens_s: float | None = None,
        slot: int | None = None,
    ) -> None:
        """Follow what a server says is left; call it before the answered call leaves.

        Calls under way may not be in the server's count yet and are taken off. When nothing is
        left, nobody is let in until the reset, for 120 s at most; the last ten calls are spread
        over that time. Values that are missing, negative or absurd change nothing.

        Args:
            remaining_requests: left until the reset.
            reset_requests_s: seconds until then.
            remaining_tokens: likewise.
            reset_tokens_s: likewise.
            slot: the number the answered call got; only calls let in after it are taken off.
        """
        others = max(0, self._in_flight - 1)
        if slot:
            others = min(others, self._entered - slot)
        tokens_each = self._tokens_entered / self._entered if self._entered else 0.0
        before = (self._request_allowance, self._token_allowance)
        self._request_allowance = self._follow(before[0], remaining_requests, reset_requests_s, others, 1)
        self._token_allowance = self._follow(
            before[1], remaining_tokens, reset_tokens_s, others, max(1, tokens_each)
        )
        if (self._request_allowance, self._token_allowance) != before:
            self._set_gates()
        if self._queue:
            self._let_in()

    def correct_tokens(self, estimated: float, actual: float) -> None:
        """Settle what a call took against what it was let in for.

        An ``actual`` that is no usable number changes nothing. A debt stops later calls for
        120 s at most.
        """
        if self._token_bucket is None or not _is_sane(actual, MAX_REMAINING):
            return
        if actual > estimated:
            self._token_bucket.charge(actual - estimated, self._now_s(), MAX_HOLD_S)
        else:
            self._token_bucket.give_back(estimated - actual)
            self._let_in()

    def statistics(self) -> LimiterStatistics:
        """Return how things stand."""
        now_s = self._now_s() if self._is_gated() else 0.0
        opens_at_s = self._opens_at_s(self._tokens_of_first(), now_s)
        return LimiterStatistics(
            in_flight=self._in_flight,
            waiting=len(self._queue),
            held_until_s=opens_at_s if opens_at_s > now_s else None,
            ramp_pace_per_s=self._ramp.pace_per_s if self._ramp else None,
        )

    def _let_in(self, not_before_s: float = -math.inf) -> None:
        """Let in all who may enter now; set the timer for the first who may not yet.

        Event loops call up to a clock tick early (uvloop: a millisecond); what a timer was set to
        is then the time, or it would be set once more, to nearly nothing.
        """
        now_s = max(self._now_s(), not_before_s)
        while self._queue and self._in_flight < self._max_concurrency:
            waiter, tokens = next(iter(self._queue.items()))
            if not waiter.cancelled():
                opens_at_s = self._opens_at_s(tokens, now_s)
                if opens_at_s > now_s:
                    self._wake_at(opens_at_s)
                    return
                waiter.set_result(self._admit(tokens, now_s))
            self._queue.popitem(last=False)
        self._set_room()

    def _admit(self, tokens: float, now_s: float) -> int:
        for gate in self._request_gates:
            gate.take(1, now_s)
        for gate in self._token_gates:
            gate.take(tokens, now_s)
        self._in_flight += 1
        self._tokens_entered += tokens
        self._entered += 1
        return self._entered

    def _give_back(self, tokens: float) -> None:
        """Undo :meth:`_admit` for a call that was never made."""
        for gate in self._request_gates:
            gate.give_back(1)
        for gate in self._token_gates:
            gate.give_back(tokens)
        self._in_flight -= 1

    def _opens_at_s(self, tokens: float, now_s: float) -> float:
        self._drop_past_allowances(now_s)
        return max(now_s, self._gates_open_at_s(tokens))

    def _gates_open_at_s(self, tokens: float) -> float:
        opens_at_s = -math.inf
        for gate in self._request_gates:
            opens_at_s = max(opens_at_s, gate.opens_at_s(1))
        for gate in self._token_gates:
            opens_at_s = max(opens_at_s, gate.opens_at_s(tokens))
        return opens_at_s

    def _tokens_of_first(self) -> float:
        return next(iter(self._queue.values()), 0)

    def _wake_at(self, when_s: float) -> None:
        if self._timer is not None:
            if self._wakes_at_s == when_s:
                return
            self._timer.cancel()
        assert self._clock is not None, "the time was asked for before"
        self._wakes_at_s = when_s
        self._timer = self._clock.call_at(when_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._let_in(not_before_s=self._wakes_at_s)

    def _climb(self, ramp: Ramp) -> None:
        if not ramp.tried:
            return  # an answer to a call from before the 429
        now_s = self._now_s()
        self._strikes = 0
        if self._is_paced_by(ramp, now_s):
            ramp.grow()
            self._let_in()
        elif ramp.is_over(now_s):
            self._ramp = None
            self._set_gates()
            self._let_in()

    def _is_paced_by(self, ramp: Ramp, now_s: float) -> bool:
        """Return whether the ramp is what holds the next call: growth that nobody uses proves nothing."""
        opens_at_s = ramp.opens_at_s()
        if opens_at_s < self._gates_open_at_s(self._tokens_of_first()):
            return False
        is_timer_late = bool(self._queue) and self._in_flight < self._max_concurrency
        return opens_at_s > now_s or is_timer_late

    def _hold_s(self, retry_after_s: float | None) -> float:
        if _is_sane(retry_after_s, math.inf):
            return min(retry_after_s, MAX_HOLD_S)
        return doubled_s(max(self._strikes - 1, 0)) * (1 - self._random() / 4)

    def _follow(
        self,
        allowance: Allowance | None,
        remaining: float | None,
        reset_s: float | None,
        others: float,
        cost: float,
    ) -> Allowance | None:
        if not (_is_sane(remaining, MAX_REMAINING) and _is_sane(reset_s, MAX_RESET_S)):
            return allowance
        left = remaining - others * cost
        if left >= PLENTY_CALLS * cost:
            return None
        until_s = self._now_s() + min(reset_s, MAX_HOLD_S)
        if allowance is None:
            return Allowance(left, until_s, cost)
        allowance.update(left, until_s)
        return allowance

    def _drop_past_allowances(self, now_s: float) -> None:
        for allowance in (self._request_allowance, self._token_allowance):
            if allowance is not None and allowance.until_s <= now_s:
                self._drop(allowance, now_s)

    def _drop(self, past: Allowance, now_s: float) -> None:
        """Forget a count whose reset has come; those who waited for it go within about a second.

        The new count is not known before the first answers; in one rush they would exceed it.
        """
        held = len(self._queue)
        if (
            past.is_used_up()
            and held > REOPENING_CALLS
            and self._ramp is None
            and self._request_bucket is None
        ):
            self._ramp = Ramp(held, None, held_until_s=now_s, window_s=1.0)
        if past is self._request_allowance:
            self._request_allowance = None
        else:
            self._token_allowance = None
        self._set_gates()

    def _set_gates(self) -> None:
        request_gates = (self._request_bucket, self._request_allowance, self._ramp)
        token_gates = (self._token_bucket, self._token_allowance)
        self._request_gates = [gate for gate in request_gates if gate is not None]
        self._token_gates = [gate for gate in token_gates if gate is not None]
        self._set_room()

    def _is_gated(self) -> bool:
        return bool(self._request_gates or self._token_gates)

    def _set_room(self) -> None:
        # The one number try_enter compares with: 0 sends it the long way round.
        self._room = 0 if self._queue or self._is_gated() else self._max_concurrency

    def _now_s(self) -> float:
        if self._clock is None:
            self._clock = asyncio.get_running_loop()
        return self._clock.time()


def _check_limit(name: str, limit: float | None) -> None:
    if limit is not None and not 0 < limit < math.inf:
        raise ConfigError(f"{name} must be above 0, or None for no limit, got {limit!r}")


def _request_bucket(requests_per_min: float | None) -> Bucket | None:
    if requests_per_min is None:
        return None
    rate_per_s = HEADROOM * requests_per_min / 60
    # 97 % in a second and 2 % at once keep the limit in every window of a second, and of a minute.
    return Bucket(rate_per_s, 1 + CATCH_UP_S * rate_per_s)


def _token_bucket(tokens_per_min: float | None) -> Bucket | None:
    if tokens_per_min is None:
        return None
    return Bucket(HEADROOM * tokens_per_min / 60, TOKEN_BURST * tokens_per_min)


def _is_sane(value: float | None, most: float) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and 0 <= value <= most
