"""Random histories of a limiter and of a retry budget, each against a plain model.

The limiter's clock stands still but for the rule that moves it; whoever is let in, is let
in before the next rule. The model keeps levels of buckets where the limiter keeps times.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentscope_async.models._limits import Limiter, RetryBudget

NEARLY = 1e-6


class Timer:
    def __init__(self, when_s: float, callback: Callable[[], None]) -> None:
        self.when_s = when_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """A clock that is moved by hand and calls back on the way."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer:
        timer = Timer(when, callback)
        self.timers.append(timer)
        return timer

    def next_timer(self) -> Timer | None:
        self.timers = [timer for timer in self.timers if not timer.cancelled]
        return min(self.timers, key=lambda timer: timer.when_s, default=None)


class LevelBucket:
    """The textbook token bucket: a level that rises with time."""

    def __init__(self, rate_per_s: float, capacity: float) -> None:
        self.rate_per_s = rate_per_s
        self.capacity = capacity
        self.level = capacity
        self.at_s = 0.0

    def rise(self, now_s: float) -> None:
        self.level = min(self.capacity, self.level + (now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s

    def allows(self, cost: float, now_s: float, slack: float) -> bool:
        self.rise(now_s)
        return self.level >= min(cost, self.capacity) + slack * max(1.0, self.capacity)

    def take(self, cost: float, now_s: float) -> None:
        self.rise(now_s)
        self.level -= cost

    def correct(self, more: float, now_s: float) -> None:
        self.rise(now_s)
        deepest = min(self.level, self.capacity - 120 * self.rate_per_s)
        self.level = min(self.capacity, max(self.level - more, deepest))


SECONDS = st.sampled_from([0.001, 0.01, 0.1, 0.3, 0.5, 1.0, 2.5, 7.0, 60.0])
TOKENS = st.sampled_from([0, 1, 50, 180, 1000, 20_000])


class LimiterMachine(RuleBasedStateMachine):
    """Callers come, wait, are cancelled and leave; servers refuse calls and tell what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.waiting: dict[int, tuple[asyncio.Task[None], float]] = {}
        self.in_flight: list[int] = []
        self.entered_at_s: list[float] = []
        self.callers = 0
        self.held_until_s = 0.0
        self.left = math.inf
        self.left_until_s = 0.0
        self.problem = ""

    @initialize(
        max_concurrency=st.sampled_from([1, 2, 5, None]),
        requests_per_min=st.sampled_from([None, 6, 60, 6000]),
        tokens_per_min=st.sampled_from([None, 600, 6000]),
        chance=st.floats(0, 0.99),
    )
    def make(
        self,
        max_concurrency: int | None,
        requests_per_min: float | None,
        tokens_per_min: float | None,
        chance: float,
    ) -> None:
        self.limiter = Limiter(
            max_concurrency=max_concurrency,
            requests_per_min=requests_per_min,
            tokens_per_min=tokens_per_min,
            clock=self.clock,
            random=lambda: chance,
        )
        self.max_concurrency = max_concurrency or math.inf
        self.requests = self.tokens = LevelBucket(1e12, 1e12)
        if requests_per_min:
            rate_per_s = 0.97 * requests_per_min / 60
            self.requests = LevelBucket(rate_per_s, 1 + 0.02 * rate_per_s)
        if tokens_per_min:
            self.tokens = LevelBucket(0.97 * tokens_per_min / 60, 0.03 * tokens_per_min)

    def settle(self) -> None:
        async def rounds() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rounds())
        assert not self.problem, self.problem

    async def call(self, caller: int, tokens: float) -> None:
        if not self.limiter.try_enter(tokens):
            await self.limiter.enter(tokens)
        self.note_entry(caller, tokens)

    def note_entry(self, caller: int, tokens: float) -> None:
        """Check what must hold whenever somebody is let in; the tasks have nobody to raise to."""
        now_s = self.clock.now_s
        first = next(iter(self.waiting))
        if caller != first:
            self.problem = f"caller {caller} overtook {first}"
        if not self.requests.allows(1, now_s, -NEARLY):
            self.problem = f"requests in the bucket: {self.requests.level}"
        if not self.tokens.allows(tokens, now_s, -NEARLY):
            self.problem = f"{tokens} tokens taken, in the bucket: {self.tokens.level}"
        if now_s < self.held_until_s - NEARLY:
            self.problem = f"let in at {now_s}, held until {self.held_until_s}"
        if now_s < self.left_until_s - NEARLY and self.left < 1:
            self.problem = f"let in with {self.left} left until {self.left_until_s}, at {now_s}"
        del self.waiting[caller]
        self.in_flight.append(caller)
        self.entered_at_s.append(now_s)
        self.requests.take(1, now_s)
        self.tokens.take(tokens, now_s)
        self.left -= 1

    @rule(tokens=TOKENS, number=st.integers(1, 4))
    def come(self, tokens: float, number: int) -> None:
        for _ in range(number):
            caller = self.callers
            self.callers += 1
            self.waiting[caller] = (self.loop.create_task(self.call(caller, tokens)), tokens)
        self.settle()

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 100), succeeds=st.booleans())
    def leave(self, which: int, succeeds: bool) -> None:
        self.in_flight.pop(which % len(self.in_flight))
        if succeeds:
            self.limiter.succeed()
        self.limiter.leave()
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        self.cancel_caller(list(self.waiting)[which % len(self.waiting)])
        self.settle()

    @precondition(lambda self: self.waiting and self.in_flight)
    @rule(which=st.integers(0, 100))
    def leave_and_cancel_the_next(self, which: int) -> None:
        self.in_flight.pop(which % len(self.in_flight))
        self.limiter.leave()
        self.cancel_caller(next(iter(self.waiting)))
        self.settle()

    @precondition(lambda self: self.waiting and self.in_flight)
    @rule(which=st.integers(0, 100))
    def cancel_the_next_and_leave(self, which: int) -> None:
        self.cancel_caller(next(iter(self.waiting)))
        self.in_flight.pop(which % len(self.in_flight))
        self.limiter.leave()
        self.settle()

    def cancel_caller(self, caller: int) -> None:
        task, _ = self.waiting.pop(caller)
        task.cancel()

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.advance(self.clock.now_s + seconds)

    def advance(self, until_s: float) -> None:
        while (timer := self.clock.next_timer()) and timer.when_s <= until_s:
            self.clock.now_s = max(self.clock.now_s, timer.when_s)
            self.clock.timers.remove(timer)
            timer.callback()
            self.settle()
        self.clock.now_s = until_s

    @rule(asked_s=st.sampled_from([None, 0, 0.2, 1, 30, 1000]), times=st.integers(1, 3))
    def refuse(self, asked_s: float | None, times: int) -> None:
        now_s = self.clock.now_s
        for _ in range(times):
            self.limiter.back_off(asked_s)
        if asked_s is not None:
            self.held_until_s = max(self.held_until_s, now_s + min(asked_s, 120))
        elif now_s >= self.held_until_s:
            self.held_until_s = now_s + 0.375
        self.settle()

    @rule(remaining=st.sampled_from([-1, 0, 1, 3, 12, 5000]), reset_s=st.sampled_from([0, 0.5, 5, 400, 1e9]))
    def tell(self, remaining: float, reset_s: float) -> None:
        if remaining >= 0 and reset_s <= 400:
            self.left = remaining - max(0, len(self.in_flight) - 1)
            self.left_until_s = self.clock.now_s + min(reset_s, 120)
        self.limiter.learn(remaining_requests=remaining, reset_requests_s=reset_s)
        self.settle()

    @rule(estimated=TOKENS, actual=TOKENS)
    def correct(self, estimated: float, actual: float) -> None:
        self.tokens.correct(actual - estimated, self.clock.now_s)
        self.limiter.correct_tokens(estimated, actual)
        self.settle()

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "limiter"):
            return
        seen = self.limiter.statistics()
        assert seen.in_flight == len(self.in_flight) <= self.max_concurrency
        assert seen.waiting == len(self.waiting)

    @invariant()
    def nobody_waits_who_may_enter(self) -> None:
        if not self.waiting or len(self.in_flight) >= self.max_concurrency:
            return
        timer = self.clock.next_timer()
        assert timer is not None, "nobody will wake the first waiter"
        assert timer.when_s > self.clock.now_s - NEARLY
        if self.limiter.statistics().ramp_pace_per_s is not None or self.clock.now_s < self.left_until_s:
            return  # let in slowly: how slowly is not modelled
        tokens = next(iter(self.waiting.values()))[1]
        may_enter = self.requests.allows(1, self.clock.now_s, NEARLY) and self.tokens.allows(
            tokens, self.clock.now_s, NEARLY
        )
        assert not may_enter, "the first waiter may enter and has not"

    def teardown(self) -> None:
        try:
            if hasattr(self, "limiter"):
                self.everybody_gets_in()
                self.no_window_holds_too_many()
        finally:
            self.loop.run_until_complete(self.cancel_all())
            self.loop.close()

    def everybody_gets_in(self) -> None:
        for _ in range(3 * self.callers + 10):
            while self.in_flight:
                self.in_flight.pop()
                self.limiter.leave()
                self.settle()
            timer = self.clock.next_timer()
            if not self.waiting or timer is None:
                break
            self.advance(timer.when_s)
        assert not self.waiting, "somebody waits for ever"

    def no_window_holds_too_many(self) -> None:
        times_s = self.entered_at_s
        for i, start_s in enumerate(times_s):
            for j in range(i, len(times_s)):
                allowed = self.requests.capacity + self.requests.rate_per_s * (times_s[j] - start_s)
                assert j - i + 1 <= allowed * (1 + NEARLY)

    async def cancel_all(self) -> None:
        tasks: list[asyncio.Task[Any]] = [task for task, _ in self.waiting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RetryBudgetMachine(RuleBasedStateMachine):
    """Calls are made and fail in any order."""

    @initialize(ratio=st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.5, 1.0]), burst=st.integers(0, 12))
    def make(self, ratio: float, burst: int) -> None:
        self.budget = RetryBudget(ratio, burst)
        self.ratio = Fraction(str(ratio))
        self.burst = burst
        self.saved = Fraction(burst)
        self.most = Fraction(max(10 * burst, 1))
        self.history: list[bool] = []  # True: a retry

    @rule(number=st.sampled_from([1, 2, 9, 10, 95, 400]))
    def calls(self, number: int) -> None:
        for _ in range(number):
            self.budget.note_call()
        self.saved = max(self.saved, min(self.most, self.saved + number * self.ratio))
        self.history += [False] * number

    @rule(number=st.integers(1, 30))
    def failures(self, number: int) -> None:
        for _ in range(number):
            allowed = self.saved >= 1
            assert self.budget.may_retry() == allowed
            self.saved -= allowed
            self.history += [True] * allowed

    @invariant()
    def retries_keep_to_the_ratio_in_all_and_in_any_stretch_up_to_now(self) -> None:
        if not hasattr(self, "budget"):
            return
        retries = calls = 0
        for is_retry in reversed(self.history):
            retries += is_retry
            calls += not is_retry
            assert retries <= calls * self.ratio + self.most
        assert retries <= calls * self.ratio + self.burst


TestLimiterAgainstItsModel = LimiterMachine.TestCase
TestLimiterAgainstItsModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRetryBudgetAgainstItsModel = RetryBudgetMachine.TestCase
TestRetryBudgetAgainstItsModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
