"""Limiter, retry budget, back-off and rate-limit headers; time is virtual and nothing sleeps."""

from __future__ import annotations

import asyncio
import functools
import math
import random
import selectors
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any, NamedTuple, ParamSpec, Protocol

import pytest
from hypothesis import given, strategies as st

from agentscope_async.errors import ConfigError
from agentscope_async.models._limits import (
    Limiter,
    RetryBudget,
    backoff_s,
    parse_rate_headers,
    retry_after,
)

P = ParamSpec("P")


class VirtualSelector(selectors.DefaultSelector):
    """Does not wait: the time it was to wait has passed."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits and no timer is set"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while all tasks wait, and then at once."""

    def __init__(self) -> None:
        self.clock = VirtualSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now_s


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in a loop of its own whose time is virtual."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let every task run as far as it can without time passing."""
    for _ in range(5):
        await asyncio.sleep(0)


class Entries:
    """Callers of one limiter, and when each was let in, in seconds since this was made."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.started_s = now_s()
        self.order: list[int] = []
        self.times_s: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, number: int = 1, tokens: float = 0, *, leave: bool = True) -> None:
        for _ in range(number):
            self.tasks.append(asyncio.create_task(self.enter(len(self.tasks), tokens, leave)))

    async def enter(self, caller: int, tokens: float, leave: bool) -> None:
        if not self.limiter.try_enter(tokens):
            await self.limiter.enter(tokens)
        self.order.append(caller)
        self.times_s.append(now_s() - self.started_s)
        if leave:
            self.limiter.leave()

    async def all_in(self) -> list[float]:
        await asyncio.gather(*self.tasks)
        return self.times_s


def test_slots_need_no_event_loop_while_nothing_limits() -> None:
    limiter = Limiter(max_concurrency=2)
    assert limiter.try_enter(100)
    assert limiter.try_enter(100)
    assert not limiter.try_enter(100)
    assert limiter.statistics().in_flight == 2
    limiter.leave()
    assert limiter.try_enter(100)


def test_any_number_of_calls_go_at_once_without_a_maximum() -> None:
    limiter = Limiter(max_concurrency=None)
    assert all(limiter.try_enter() for _ in range(2000))


def test_slots_are_numbered_in_the_order_given() -> None:
    limiter = Limiter()
    assert [limiter.try_enter() for _ in range(3)] == [1, 2, 3]


@virtual_time
async def test_waiters_enter_first_come_first_served() -> None:
    limiter = Limiter(max_concurrency=1)
    limiter.try_enter()
    entries = Entries(limiter)
    entries.start(5)
    await settle()
    assert limiter.statistics().waiting == 5
    limiter.leave()
    await entries.all_in()
    assert entries.order == [0, 1, 2, 3, 4]


@virtual_time
async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    limiter = Limiter(max_concurrency=1, tokens_per_min=100_000)
    limiter.try_enter(3000)
    entries = Entries(limiter)
    entries.start(tokens=3000)
    await settle()
    limiter.leave()
    assert not limiter.try_enter(0)  # a slot is free, and this call needs no tokens
    await entries.all_in()


@virtual_time
async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    limiter = Limiter(max_concurrency=1)
    limiter.try_enter()
    entries = Entries(limiter)
    entries.start(3)
    await settle()
    entries.tasks[1].cancel()
    await settle()
    assert limiter.statistics().waiting == 2
    limiter.leave()
    await settle()
    assert entries.order == [0, 2]
    assert limiter.statistics().in_flight == 0


@virtual_time
async def test_a_slot_given_back_while_the_first_waiter_is_being_cancelled_goes_to_the_next() -> None:
    limiter = Limiter(max_concurrency=1)
    limiter.try_enter()
    entries = Entries(limiter)
    entries.start(2)
    await settle()
    entries.tasks[0].cancel()
    limiter.leave()
    await settle()
    assert entries.order == [1]


@virtual_time
async def test_a_waiter_cancelled_when_just_let_in_passes_its_place_on() -> None:
    limiter = Limiter(max_concurrency=1)
    limiter.try_enter()
    entries = Entries(limiter)
    entries.start(2, leave=False)
    await settle()
    limiter.leave()
    entries.tasks[0].cancel()
    await settle()
    assert entries.order == [1]
    assert limiter.statistics().in_flight == 1


@virtual_time
async def test_a_waiter_cancelled_when_just_let_in_passes_its_share_of_the_pace_on() -> None:
    limiter = Limiter(max_concurrency=1, requests_per_min=60)
    entries = Entries(limiter)
    limiter.try_enter()
    entries.start(2)
    await asyncio.sleep(10)
    limiter.leave()
    entries.tasks[0].cancel()
    await settle()
    assert entries.order == [1]
    assert entries.times_s == [10]


@virtual_time
async def test_a_waiter_cancelled_when_just_let_in_leaves_the_last_call_of_a_count_to_the_next() -> None:
    limiter = Limiter(max_concurrency=1)
    limiter.try_enter()
    limiter.learn(remaining_requests=1, reset_requests_s=60)
    entries = Entries(limiter)
    entries.start(2)
    await settle()
    limiter.leave()
    entries.tasks[0].cancel()
    await settle()
    assert entries.order == [1]


@virtual_time
async def test_when_a_large_call_at_the_head_is_cancelled_the_next_goes_at_once() -> None:
    limiter = Limiter(tokens_per_min=100_000)
    limiter.try_enter(1000)
    entries = Entries(limiter)
    entries.start(tokens=50_000)
    entries.start(tokens=10)
    await settle()
    assert entries.order == []
    entries.tasks[0].cancel()
    await settle()
    assert entries.order == [1]


class HandClock:
    """A clock whose time and timers are moved by hand: timers may come early or late."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[[], None], /) -> asyncio.Future[None]:
        self.calls.append((when, callback))
        return asyncio.get_running_loop().create_future()


async def test_a_timer_that_comes_early_is_not_set_again_to_nearly_nothing() -> None:
    clock = HandClock()
    limiter = Limiter(requests_per_min=60, clock=clock)
    limiter.try_enter()
    waiter = asyncio.create_task(limiter.enter())
    await settle()
    when_s, callback = clock.calls.pop()
    clock.now_s = when_s - 0.0005
    callback()
    assert await waiter
    assert clock.calls == []


class Server(Protocol):
    def accepts(self, time_s: float) -> bool: ...


class SlidingWindow:
    """Accepts at most ``limit`` requests in the second before each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.accepted: deque[float] = deque()

    def accepts(self, time_s: float) -> bool:
        while self.accepted and self.accepted[0] <= time_s - 1:
            self.accepted.popleft()
        if len(self.accepted) == self.limit:
            return False
        self.accepted.append(time_s)
        return True


class FixedWindow:
    """Accepts at most ``limit`` requests in each second of its own clock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.window = -1
        self.accepted = 0

    def accepts(self, time_s: float) -> bool:
        window = math.floor(time_s + 0.37)
        if window != self.window:
            self.window, self.accepted = window, 0
        self.accepted += 1
        return self.accepted <= self.limit


class TokenBucket:
    """Refills ``limit`` a second and holds as many."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = float(limit)
        self.at_s = -math.inf

    def accepts(self, time_s: float) -> bool:
        self.left = min(self.limit, self.left + self.limit * (time_s - self.at_s))
        self.at_s = time_s
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Outcome(NamedTuple):
    accepted_per_s: float
    refused_share: float
    fewest: int
    most: int


async def agents_call(
    server: Server,
    limiter: Limiter,
    seed: int,
    *,
    agents: int = 500,
    warm_up_s: float = 0,
    seconds: float = 30,
) -> Outcome:
    """Let agents call a server without pause; each way takes 0 to 30 ms."""
    chance = random.Random(seed)
    counts_from_s = now_s() + warm_up_s
    ends_s = counts_from_s + seconds
    accepted: Counter[int] = Counter()
    refused = 0

    async def agent(me: int) -> None:
        nonlocal refused
        failures = 0
        while True:
            limiter.try_enter() or await limiter.enter()
            await asyncio.sleep(chance.uniform(0, 0.03))
            arrived_s = now_s()
            good = server.accepts(arrived_s)
            if arrived_s >= counts_from_s:
                accepted[me] += good
                refused += not good
            await asyncio.sleep(chance.uniform(0, 0.03))
            if good:
                failures = 0
                limiter.succeed()
            else:
                failures += 1
                limiter.back_off()
            limiter.leave()
            if not good:
                await asyncio.sleep(backoff_s(failures - 1, chance.random))

    tasks = [asyncio.create_task(agent(me)) for me in range(agents)]
    await asyncio.sleep(ends_s - now_s())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    good = accepted.total()
    of_each = [accepted[me] for me in range(agents)]
    return Outcome(good / seconds, refused / (good + refused), min(of_each), max(of_each))


SERVERS = [SlidingWindow, FixedWindow, TokenBucket]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", SERVERS)
@virtual_time
async def test_r38_agents_use_95_percent_of_a_limit_they_know_and_are_hardly_ever_refused(
    kind: type[SlidingWindow], seed: int
) -> None:
    outcome = await agents_call(kind(100), Limiter(requests_per_min=6000), seed)
    assert outcome.refused_share <= 0.01
    assert outcome.accepted_per_s >= 95
    assert outcome.fewest >= outcome.most - 2, "somebody starves"


@pytest.mark.parametrize("kind", SERVERS)
@virtual_time
async def test_agents_who_do_not_know_the_limit_find_it(kind: type[SlidingWindow]) -> None:
    chance = random.Random(1)
    outcome = await agents_call(kind(100), Limiter(random=chance.random), 1, warm_up_s=10)
    assert outcome.refused_share <= 0.03
    assert outcome.accepted_per_s >= 70


@virtual_time
async def test_a_limit_set_ten_times_too_high_is_corrected_by_the_server() -> None:
    chance = random.Random(1)
    limiter = Limiter(requests_per_min=60_000, random=chance.random)
    outcome = await agents_call(SlidingWindow(100), limiter, 1, warm_up_s=10)
    assert outcome.refused_share <= 0.03
    assert outcome.accepted_per_s >= 70


@virtual_time
async def test_requests_are_spread_evenly() -> None:
    entries = Entries(Limiter(requests_per_min=60))
    entries.start(4)
    assert await entries.all_in() == pytest.approx([0, *(n / 0.97 - 0.02 for n in (1, 2, 3))])


@virtual_time
async def test_a_minute_of_silence_buys_no_burst() -> None:
    limiter = Limiter(requests_per_min=600)
    await asyncio.sleep(60)
    entries = Entries(limiter)
    entries.start(20)
    times_s = await entries.all_in()
    assert sum(time_s < 1 for time_s in times_s) <= 10


@virtual_time
async def test_tokens_stay_within_the_limit_in_every_minute() -> None:
    limiter = Limiter(tokens_per_min=100_000)
    entries = Entries(limiter)
    entries.start(400, tokens=1000)
    times_s = await entries.all_in()
    for start_s in times_s:
        assert sum(start_s <= time_s < start_s + 60 for time_s in times_s) <= 100


@virtual_time
async def test_a_call_larger_than_a_minute_goes_when_nothing_is_owed_and_the_next_waits_for_it() -> None:
    entries = Entries(Limiter(tokens_per_min=1000))
    entries.start(tokens=9700)
    entries.start(tokens=0)
    first_s, second_s = await entries.all_in()
    assert first_s == 0
    assert second_s == pytest.approx(600, rel=0.01)


@virtual_time
async def test_tokens_not_used_after_all_go_to_the_next() -> None:
    limiter = Limiter(tokens_per_min=1000)
    entries = Entries(limiter)
    entries.start(2, tokens=970)
    await asyncio.sleep(5)
    limiter.correct_tokens(970, 0)
    assert await entries.all_in() == [0, 5]


@virtual_time
async def test_tokens_used_beyond_the_estimate_are_waited_for() -> None:
    limiter = Limiter(tokens_per_min=1000)
    limiter.try_enter(0)
    limiter.correct_tokens(0, 30 + 970)
    entries = Entries(limiter)
    entries.start(tokens=30)
    assert await entries.all_in() == pytest.approx([1000 / (0.97 * 1000 / 60)])


@pytest.mark.parametrize("actual", [-5, math.nan, math.inf, 1e30, "12", None])
@virtual_time
async def test_a_token_count_that_makes_no_sense_is_not_believed(actual: Any) -> None:
    limiter = Limiter(tokens_per_min=1000)
    limiter.correct_tokens(0, actual)
    assert limiter.try_enter(30)
    assert not limiter.try_enter(30)


@virtual_time
async def test_a_huge_token_count_stops_calls_for_two_minutes_at_most() -> None:
    limiter = Limiter(tokens_per_min=1000)
    limiter.correct_tokens(0, 1_000_000_000)
    entries = Entries(limiter)
    entries.start(tokens=30)
    assert await entries.all_in() == pytest.approx([120])


@pytest.mark.parametrize("limit", ["max_concurrency", "requests_per_min", "tokens_per_min"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_limit_that_lets_nobody_in_is_refused(limit: str, value: float) -> None:
    with pytest.raises(ConfigError, match=limit):
        Limiter(**{limit: value})  # type: ignore[arg-type]


@virtual_time
async def test_when_nothing_is_left_calls_wait_for_the_reset() -> None:
    limiter = Limiter()
    limiter.learn(remaining_requests=0, reset_requests_s=7)
    entries = Entries(limiter)
    entries.start()
    await settle()
    assert limiter.statistics().held_until_s == entries.started_s + 7
    assert await entries.all_in() == [7]
    assert limiter.try_enter()


@virtual_time
async def test_a_call_with_more_tokens_than_are_left_waits_for_the_reset() -> None:
    limiter = Limiter()
    limiter.learn(remaining_tokens=500, reset_tokens_s=7)
    assert limiter.try_enter(100)
    entries = Entries(limiter)
    entries.start(tokens=401)
    assert await entries.all_in() == [7]


@virtual_time
async def test_no_reset_is_waited_for_longer_than_two_minutes() -> None:
    limiter = Limiter()
    limiter.learn(remaining_requests=0, reset_requests_s=3600, remaining_tokens=0, reset_tokens_s=3600)
    entries = Entries(limiter)
    entries.start(tokens=5)
    assert await entries.all_in() == [120]


@virtual_time
async def test_the_last_few_calls_are_spread_until_the_reset() -> None:
    limiter = Limiter()
    limiter.learn(remaining_requests=4, reset_requests_s=60)
    entries = Entries(limiter)
    entries.start(5)
    assert await entries.all_in() == pytest.approx([0, 15, 30, 45, 60])


@virtual_time
async def test_news_about_the_last_few_calls_does_not_let_them_go_sooner() -> None:
    limiter = Limiter()
    limiter.learn(remaining_requests=4, reset_requests_s=60)
    entries = Entries(limiter)
    entries.start(2)
    await settle()
    limiter.learn(remaining_requests=3, reset_requests_s=60)
    assert await entries.all_in() == pytest.approx([0, 15])


@virtual_time
async def test_calls_under_way_are_taken_off_what_is_left() -> None:
    limiter = Limiter()
    for _ in range(21):
        limiter.try_enter()
    limiter.learn(remaining_requests=20, reset_requests_s=5)
    assert not limiter.try_enter()


@virtual_time
async def test_with_its_slot_only_calls_let_in_after_the_answered_one_are_taken_off() -> None:
    limiter = Limiter()
    slots = [limiter.try_enter() for _ in range(21)]
    limiter.learn(remaining_requests=20, reset_requests_s=5, slot=slots[-1])
    assert limiter.try_enter()


@virtual_time
async def test_new_room_lets_waiters_in_at_once() -> None:
    limiter = Limiter()
    limiter.learn(remaining_requests=0, reset_requests_s=60)
    entries = Entries(limiter)
    entries.start(3)
    await asyncio.sleep(1)
    limiter.learn(remaining_requests=5000, reset_requests_s=60)
    assert await entries.all_in() == [1, 1, 1]


@virtual_time
async def test_a_reset_told_anew_may_be_sooner() -> None:
    limiter = Limiter()
    limiter.learn(remaining_requests=0, reset_requests_s=60)
    entries = Entries(limiter)
    entries.start()
    await settle()
    limiter.learn(remaining_requests=0, reset_requests_s=5)
    assert await entries.all_in() == [5]


@virtual_time
async def test_those_who_waited_for_a_reset_do_not_all_go_in_the_same_moment() -> None:
    limiter = Limiter()
    limiter.learn(remaining_requests=0, reset_requests_s=60)
    entries = Entries(limiter)
    entries.start(500)
    times_s = await entries.all_in()
    assert min(times_s) == 60
    assert max(times_s) == pytest.approx(61, abs=0.05)


@pytest.mark.parametrize(
    "news",
    [
        {},
        {"remaining_requests": 0},
        {"reset_requests_s": 5},
        {"remaining_requests": -1, "reset_requests_s": 5},
        {"remaining_requests": math.nan, "reset_requests_s": 5},
        {"remaining_requests": 0, "reset_requests_s": -5},
        {"remaining_requests": 0, "reset_requests_s": math.inf},
        {"remaining_requests": 0, "reset_requests_s": 1_700_000_000},
        {"remaining_requests": "0", "reset_requests_s": "5"},
        {"remaining_tokens": None, "reset_tokens_s": None},
        {"remaining_requests": 100_000, "reset_requests_s": 5, "remaining_tokens": 1e7, "reset_tokens_s": 5},
    ],
)
@virtual_time
async def test_plenty_and_nonsense_hold_nobody(news: dict[str, Any]) -> None:
    limiter = Limiter()
    limiter.learn(**news)
    assert all(limiter.try_enter(10) for _ in range(100))


@virtual_time
async def test_nobody_is_let_in_for_as_long_as_the_server_asks() -> None:
    limiter = Limiter()
    limiter.back_off(3.5)
    entries = Entries(limiter)
    entries.start()
    assert await entries.all_in() == [3.5]


@virtual_time
async def test_an_hour_asked_for_holds_for_two_minutes() -> None:
    limiter = Limiter()
    limiter.back_off(3600)
    entries = Entries(limiter)
    entries.start()
    assert await entries.all_in() == [120]


@pytest.mark.parametrize("nonsense", [None, -1, math.nan])
@pytest.mark.parametrize(
    ("chance", "holds_s"), [(0.0, [0.5, 1, 2, 4, 8, 8]), (0.8, [0.4, 0.8, 1.6, 3.2, 6.4, 6.4])]
)
@virtual_time
async def test_without_the_servers_word_the_hold_doubles_while_429s_go_on(
    nonsense: float | None, chance: float, holds_s: list[float]
) -> None:
    limiter = Limiter(random=lambda: chance)
    held_s = []
    for _ in range(6):
        refused_s = now_s()
        limiter.back_off(nonsense)
        await limiter.enter()
        held_s.append(now_s() - refused_s)
        await asyncio.sleep(0.5)
        limiter.leave()
    assert held_s == pytest.approx(holds_s)


@virtual_time
async def test_a_thousand_429s_of_one_burst_slow_down_once() -> None:
    once, often = Limiter(max_concurrency=None), Limiter(max_concurrency=None)
    for limiter in (once, often):
        for _ in range(1000):
            limiter.try_enter()
    once.back_off(1)
    for _ in range(1000):
        often.back_off(1)
        await asyncio.sleep(0.0001)
    assert often.statistics().ramp_pace_per_s == once.statistics().ramp_pace_per_s == 500


@virtual_time
async def test_a_429_at_a_known_pace_slows_down_to_seven_tenths_of_it() -> None:
    limiter = Limiter(requests_per_min=6000, max_concurrency=None)
    entries = Entries(limiter)
    entries.start(1000, leave=False)
    await entries.all_in()
    limiter.back_off(1)
    assert limiter.statistics().ramp_pace_per_s == pytest.approx(0.7 * 97)


@virtual_time
async def test_a_429_at_a_known_pace_slows_down_no_further_when_few_calls_are_under_way() -> None:
    limiter = Limiter(requests_per_min=6000)
    limiter.try_enter()
    limiter.back_off(1)
    assert limiter.statistics().ramp_pace_per_s == pytest.approx(0.7 * 97)


@virtual_time
async def test_a_straggler_of_the_burst_is_no_news_just_after_the_hold() -> None:
    limiter = Limiter()
    for _ in range(100):
        limiter.try_enter()
    limiter.back_off(0.1)
    before = limiter.statistics().ramp_pace_per_s
    await limiter.enter()
    limiter.back_off(0.1)
    assert limiter.statistics().ramp_pace_per_s == before


@virtual_time
async def test_a_waiter_cancelled_when_just_let_in_after_a_429_passes_its_turn_on() -> None:
    limiter = Limiter(max_concurrency=1)
    limiter.try_enter()
    limiter.back_off(1)
    entries = Entries(limiter)
    entries.start(2)
    await asyncio.sleep(5)
    limiter.leave()
    entries.tasks[0].cancel()
    await settle()
    assert entries.times_s == [5]


async def test_a_late_timer_does_not_pass_for_a_pace_that_holds_nobody_up() -> None:
    clock = HandClock()
    limiter = Limiter(clock=clock)
    limiter.try_enter()
    limiter.back_off(1)
    waiters = [asyncio.create_task(limiter.enter()) for _ in range(3)]
    await settle()
    clock.now_s, callback = clock.calls.pop()
    callback()
    clock.now_s += 60
    limiter.succeed()
    assert limiter.statistics().ramp_pace_per_s is not None
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)


@virtual_time
async def test_a_later_429_of_a_burst_can_prolong_the_hold() -> None:
    limiter = Limiter()
    limiter.back_off(1)
    limiter.back_off(5)
    limiter.back_off(2)
    entries = Entries(limiter)
    entries.start()
    assert await entries.all_in() == [5]


@virtual_time
async def test_an_answer_to_a_call_from_before_the_429_does_not_speed_up() -> None:
    limiter = Limiter()
    for _ in range(100):
        limiter.try_enter()
    limiter.back_off(1)
    before = limiter.statistics().ramp_pace_per_s
    limiter.succeed()
    assert limiter.statistics().ramp_pace_per_s == before


@virtual_time
async def test_full_speed_comes_back_when_the_server_recovers() -> None:
    limiter = Limiter(max_concurrency=50)
    refused_until_s = now_s() + 5

    async def agent() -> None:
        while now_s() < refused_until_s + 30:
            limiter.try_enter() or await limiter.enter()
            await asyncio.sleep(0.1)
            if now_s() < refused_until_s:
                limiter.back_off()
            else:
                limiter.succeed()
            limiter.leave()

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(agent())
    assert limiter.statistics().ramp_pace_per_s is None
    assert all(limiter.try_enter() for _ in range(50))


@virtual_time
async def test_what_else_holds_the_queue_does_not_keep_the_slow_down_alive() -> None:
    limiter = Limiter(requests_per_min=600)

    async def agent() -> None:
        while True:
            limiter.try_enter() or await limiter.enter()
            await asyncio.sleep(0.1)
            limiter.succeed()
            limiter.leave()

    agents = [asyncio.create_task(agent()) for _ in range(50)]
    await asyncio.sleep(10)
    limiter.back_off(1)
    await asyncio.sleep(30)
    assert limiter.statistics().waiting > 0
    assert limiter.statistics().ramp_pace_per_s is None
    for each in agents:
        each.cancel()
    await asyncio.gather(*agents, return_exceptions=True)


@virtual_time
async def test_one_quick_success_does_not_open_the_door_to_all() -> None:
    limiter = Limiter()
    for _ in range(100):
        limiter.try_enter()
    limiter.back_off(1)
    for seconds, is_slow in [(0.1, True), (1.0, False)]:
        await limiter.enter()
        await asyncio.sleep(seconds)
        limiter.succeed()
        assert (limiter.statistics().ramp_pace_per_s is not None) == is_slow


@virtual_time
async def test_one_agent_alone_is_back_at_full_speed_after_its_third_success() -> None:
    limiter = Limiter()
    limiter.back_off(1)
    for _ in range(3):
        await limiter.enter()
        await asyncio.sleep(0.6)
        limiter.succeed()
        limiter.leave()
    assert limiter.statistics().ramp_pace_per_s is None


@pytest.mark.parametrize("asked_s", [None, 0, 0.5, 2, 20])
@pytest.mark.parametrize("seed", [1, 2])
@virtual_time
async def test_wire_m09_a_thousand_calls_refused_together_come_back_spread_out(
    asked_s: float | None, seed: int
) -> None:
    chance = random.Random(seed)
    limiter = Limiter(max_concurrency=None, random=chance.random)
    retried_s: list[float] = []

    async def call() -> None:
        limiter.try_enter()
        await asyncio.sleep(chance.uniform(0, 0.06))
        limiter.back_off(asked_s)
        limiter.leave()
        await asyncio.sleep(backoff_s(0, chance.random, asked_s))
        limiter.try_enter() or await limiter.enter()
        retried_s.append(now_s())
        await asyncio.sleep(chance.uniform(0, 0.06))
        limiter.succeed()
        limiter.leave()

    start_s = now_s()
    async with asyncio.TaskGroup() as group:
        for _ in range(1000):
            group.create_task(call())
    window_s = max(0.5, min(asked_s or 0.5, 8))
    assert min(retried_s) - start_s >= (asked_s or 0)
    spread_s = max(retried_s) - min(retried_s)
    assert spread_s >= 0.8 * window_s
    tenths = Counter(int(10 * (time_s - min(retried_s)) / spread_s) for time_s in retried_s)
    assert max(tenths.values()) <= 250, "a herd"


@pytest.mark.parametrize("together", [1, 7, 1000, 10_000])
def test_r35_ten_thousand_failing_calls_make_at_most_11010_attempts(together: int) -> None:
    budget = RetryBudget()
    attempts = 0
    for _ in range(10_000 // together):
        for _ in range(together):
            budget.note_call()
            attempts += 1
        for _ in range(together):
            while budget.may_retry():
                attempts += 1
    assert attempts <= 11_010
    if together == 1:
        assert attempts == 11_010


def test_wire_m09_a_thousand_calls_failing_together_have_a_hundred_retries() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.note_call()
    assert sum(budget.may_retry() for _ in range(1000)) == 100


def test_a_long_good_time_does_not_pay_for_a_flood_of_retries() -> None:
    budget = RetryBudget(burst=5)
    for _ in range(1_000_000):
        budget.note_call()
    assert sum(budget.may_retry() for _ in range(1000)) == 50


@pytest.mark.parametrize("wrong", [{"ratio": 0}, {"ratio": 1.5}, {"ratio": math.nan}, {"burst": -1}])
def test_a_retry_budget_that_cannot_be_kept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RetryBudget(**wrong)


def test_back_off_windows_double_up_to_eight_seconds() -> None:
    assert [backoff_s(attempt, lambda: 1.0) for attempt in range(7)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert backoff_s(100_000, lambda: 1.0) == 8


@given(attempt=st.integers(0, 50), chance=st.floats(0, 1, exclude_max=True), asked_s=st.floats(0, 1e6))
def test_back_off_never_waits_less_than_the_server_asked(attempt: int, chance: float, asked_s: float) -> None:
    assert backoff_s(attempt, lambda: chance, asked_s) >= asked_s


def test_wire_m09_back_off_fills_nine_tenths_of_its_window() -> None:
    chance = random.Random(1)
    waits_s = [backoff_s(2, chance.random) for _ in range(1000)]
    assert max(waits_s) - min(waits_s) >= 0.8 * 2
    assert min(waits_s) >= 0.2


NOON_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "250", "retry-after": "20"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "20"}, 20),
        ({"retry-after": formatdate(NOON_S + 30, usegmt=True)}, 30),
        ({"retry-after": formatdate(NOON_S - 30, usegmt=True)}, 0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 -0000"}, 10),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "1_000"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Tue, 99 Nov 2023 99:99:99 GMT"}, None),
        ({"retry-after": "9" * 100_000}, None),
        ({"retry-after": f"Tue, 14 Nov {10**20} 22:13:30 GMT"}, None),
    ],
)
def test_r34_retry_after_is_read_in_every_form_and_nonsense_is_not(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, NOON_S) == seconds


def test_a_date_without_a_zone_is_not_read_as_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            assert retry_after({"retry-after": "Tue, 14 Nov 2023 22:13:30 -0000"}, NOON_S) == 10
        finally:
            patched.undo()
            time.tzset()


@given(st.text() | st.from_regex(r"\A[0-9a-zA-Z:, +-]{1,40}\Z"))
def test_retry_after_never_fails_and_is_never_negative(text: str) -> None:
    seconds = retry_after({"retry-after": text}, NOON_S)
    assert seconds is None or 0 <= seconds < math.inf


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("2d", 172_800),
        ("8.64s", 8.64),
        ("250µs", 0.00025),
        ("12", 12),
        ("0.5", 0.5),
    ],
)
def test_resets_are_read_as_durations_or_seconds(text: str, seconds: float) -> None:
    headers = {"x-ratelimit-reset-requests": text, "x-ratelimit-reset-tokens": text}
    assert parse_rate_headers(headers) == {
        "reset_requests_s": pytest.approx(seconds),
        "reset_tokens_s": pytest.approx(seconds),
    }


def test_remaining_counts_are_read() -> None:
    headers = {"x-ratelimit-remaining-requests": "59", "x-ratelimit-remaining-tokens": "149984"}
    assert parse_rate_headers(headers) == {"remaining_requests": 59, "remaining_tokens": 149_984}


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "1x", "s", "1 s", "tomorrow", "1e9", "9" * 500, "1s" * 99]
)
def test_rate_headers_that_make_no_sense_are_left_out(text: str) -> None:
    names = ("remaining-requests", "reset-requests", "remaining-tokens", "reset-tokens")
    assert parse_rate_headers({f"x-ratelimit-{name}": text for name in names}) == {}


@virtual_time
async def test_what_headers_say_can_be_learned_as_it_is() -> None:
    limiter = Limiter()
    limiter.learn(
        **parse_rate_headers({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"})
    )
    entries = Entries(limiter)
    entries.start()
    assert await entries.all_in() == [62]
