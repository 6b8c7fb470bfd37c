"""What is started again when it fails, how soon, and when that ends; agents with a life of their own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentscope_async import (
    AgentBase,
    AgentStoppedError,
    ConfigError,
    Msg,
    NoRuntimeError,
    Runtime,
    current_runtime,
)
from agentscope_async.supervision import RestartPolicy, Restarts, Supervisor

LIMIT_S = 30


class Clock:
    """A time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def longest(low: float, high: float) -> float:
    return high


def counted(clock: Clock, **policy: Any) -> Restarts:
    return Restarts(RestartPolicy(**policy), clock=clock, draw=longest)


# -- how soon, and how often --


def test_delays_double_from_a_tenth_of_a_second():
    clock = Clock()
    restarts = counted(clock)
    assert [restarts.next_delay() for _ in range(5)] == [0.1, 0.2, 0.4, 0.8, 1.6]


def test_a_sixth_failure_within_ten_seconds_is_one_too_many():
    restarts = counted(Clock())
    assert None not in [restarts.next_delay() for _ in range(5)]
    assert restarts.next_delay() is None


def test_delays_end_at_half_a_minute_for_what_fails_slowly():
    clock = Clock()
    restarts = counted(clock)
    delays = []
    for _ in range(12):
        restarts.note_start()
        clock.now += 9.9  # never so long that the past is forgotten
        delays.append(restarts.next_delay())
        clock.now += delays[-1]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]


def test_a_long_run_makes_up_for_the_failures_before():
    clock = Clock()
    restarts = counted(clock)
    for _ in range(4):
        restarts.next_delay()
    restarts.note_start()
    clock.now += 10
    assert restarts.next_delay() == 0.1


def test_failures_further_apart_are_never_given_up_and_never_overflow():
    clock = Clock()
    restarts = counted(clock, within_s=1.0)
    for _ in range(3000):
        assert restarts.next_delay() is not None
        clock.now += 1.0


def test_half_of_each_delay_is_chance():
    delays = [Restarts().next_delay() for _ in range(200)]
    assert all(0.05 <= delay <= 0.1 for delay in delays)
    assert len(set(delays)) > 150


@pytest.mark.parametrize(
    "wrong",
    [{"first_s": 0}, {"first_s": 31}, {"within_s": 0}, {"max_restarts": -1}, {"first_s": math.nan}],
)
def test_a_policy_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        RestartPolicy(**wrong)


class RestartsMachine(RuleBasedStateMachine):
    """Against the rules written down plainly: the times of all failures, and of all starts."""

    @initialize(
        max_restarts=st.integers(0, 6),
        within_s=st.sampled_from([1.0, 10.0]),
        longest_s=st.sampled_from([0.1, 1.0, 30.0]),
    )
    def begin(self, max_restarts: int, within_s: float, longest_s: float) -> None:
        self.clock = Clock()
        policy = {"max_restarts": max_restarts, "within_s": within_s, "longest_s": longest_s}
        self.restarts = counted(self.clock, **policy)
        self.policy = RestartPolicy(**policy)
        self.granted: list[float] = []
        self.row = 0
        self.began_at: float | None = None
        self.gave_up = False

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 1.0, 3.0, 10.0, 11.0, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: not self.gave_up)
    @rule()
    def start(self) -> None:
        self.restarts.note_start()
        self.began_at = self.clock.now

    @precondition(lambda self: not self.gave_up)
    @rule()
    def fail(self) -> None:
        now, policy = self.clock.now, self.policy
        if self.began_at is not None and now - self.began_at >= policy.within_s:
            self.row = 0
        self.began_at = None
        delay_s = self.restarts.next_delay()
        if sum(now - each <= policy.within_s for each in self.granted) >= policy.max_restarts:
            assert delay_s is None
            self.gave_up = True
            return
        assert delay_s == min(policy.longest_s, policy.first_s * 2**self.row)
        self.row += 1
        self.granted.append(now)

    @invariant()
    def never_more_than_allowed(self) -> None:
        for end in getattr(self, "granted", ()):
            count = sum(0 <= end - each <= self.policy.within_s for each in self.granted)
            assert count <= self.policy.max_restarts


RestartsMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestRestartsAgainstTheRules = RestartsMachine.TestCase


# -- keeping something going --


def supervisor(clock: Clock, **options: Any) -> Supervisor:
    return Supervisor("it", counted(clock), sleep=clock.sleep, **options)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, by the names of the events."""
    return [record.getMessage().split("'")[1] for record in caplog.records]


def failing(times: int, begun: list[int]) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        begun.append(len(begun))
        if len(begun) <= times:
            raise ValueError(f"failure {len(begun)}")

    return work


async def test_what_fails_is_started_again_until_it_returns():
    clock, begun = Clock(), list[int]()
    await supervisor(clock).run(failing(3, begun))
    assert (len(begun), clock.slept) == (4, [0.1, 0.2, 0.4])


async def test_what_fails_too_often_is_given_up_and_reported_once(caplog):
    clock, begun, told = Clock(), list[int](), []
    kept = supervisor(clock, on_fatal=told.append)
    await kept.run(failing(100, begun))
    await kept.run(failing(100, begun))  # given up is given up
    assert (len(begun), kept.gave_up) == (6, True)
    assert [str(error) for error in told] == ["failure 6"]
    assert events(caplog) == ["restarting"] * 5 + ["given_up"]


async def test_an_async_on_fatal_is_awaited_and_its_failure_is_only_logged(caplog):
    async def on_fatal(error: Exception) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("also wrong")

    await supervisor(Clock(), on_fatal=on_fatal).run(failing(100, []))
    assert events(caplog)[-1] == "on_fatal_failed"


@pytest.mark.parametrize("leave", [SystemExit, asyncio.CancelledError])
async def test_an_exit_signal_of_its_own_is_a_failure_like_any_other(leave):
    begun = []

    async def work() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise leave

    await supervisor(Clock()).run(work)
    assert len(begun) == 3


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_cancelled_work_is_not_started_again(swallow):
    begun, is_running = [], asyncio.Event()

    async def work() -> None:
        begun.append(1)
        is_running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallow:
                raise ValueError("turned into something else") from None
            raise

    task = asyncio.create_task(supervisor(Clock()).run(work))
    await is_running.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(begun) == 1


async def test_a_time_limit_inside_the_work_is_no_cancellation_of_it():
    begun = []

    async def work() -> None:
        begun.append(1)
        if len(begun) < 3:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

    await supervisor(Clock()).run(work)
    assert len(begun) == 3


async def test_cancelling_the_wait_for_a_restart_ends_it():
    is_waiting = asyncio.Event()

    async def wait(seconds: float) -> None:
        is_waiting.set()
        await asyncio.Event().wait()

    begun: list[int] = []
    task = asyncio.create_task(Supervisor("it", sleep=wait).run(failing(1, begun)))
    await is_waiting.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(begun) == 1


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 2.0, 9.0, 10.0, 60.0]), st.booleans()), max_size=25))
@settings(max_examples=300, deadline=None)
def test_a_supervisor_does_what_the_rules_say_for_any_history(history):
    """``history``: how long each run takes, and whether it fails; after the last one it returns."""
    clock, begun = Clock(), []

    async def work() -> None:
        begun.append(clock.now)
        if len(begun) <= len(history):
            ran_s, fails = history[len(begun) - 1]
            clock.now += ran_s
            if fails:
                raise ValueError

    kept = supervisor(clock)
    asyncio.run(kept.run(work))
    now, granted, row, expected, gave_up = 1000.0, [], 0, [1000.0], False
    for ran_s, fails in history:
        now += ran_s
        if not fails:
            break
        row = 0 if ran_s >= 10 else row
        if sum(now - each <= 10 for each in granted) >= 5:
            gave_up = True
            break
        granted.append(now)
        now += min(30.0, 0.1 * 2**row)
        row += 1
        expected.append(now)
    assert begun == pytest.approx(expected)
    assert kept.gave_up == gave_up


async def test_what_fails_for_ever_but_slowly_is_started_ever_more_rarely():
    clock, begun = Clock(), list[float]()

    async def work() -> None:
        begun.append(clock.now)
        clock.now += 3.0
        if clock.now < 1000 + 3600:
            raise ValueError

    await supervisor(clock).run(work)
    assert len(begun) < 3600 / 33 + 10


# -- agents that act of their own accord --


class Ticker(AgentBase):
    """Does in ``run`` what a function says, and notes how often it began; answers as any agent."""

    def __init__(
        self, act: Callable[[Ticker], Awaitable[None]], name: str = "ticker", **options: Any
    ) -> None:
        super().__init__(name, **options)
        self.act = act
        self.begun = 0
        self.running = asyncio.Event()
        self.heard: list[str] = []

    async def run(self) -> None:
        self.begun += 1
        self.running.set()
        await self.act(self)

    async def reply(self, x: Any = None) -> Msg:
        self.heard.append(x.text)
        return Msg(self.name, x.text, "assistant")


async def forever(agent: Ticker) -> None:
    await asyncio.Event().wait()


async def crash(agent: Ticker) -> None:
    raise ValueError("run is broken")


@pytest.fixture
def soon(monkeypatch):
    """Restarts follow at once; everything else about them stays."""
    monkeypatch.setattr(RestartPolicy.__init__, "__defaults__", (1e-6, 1e-5, 5, 10.0))


async def test_run_goes_on_beside_the_turns_of_its_agent():
    async def act(agent: Ticker) -> None:
        assert (await agent("from run")).text == "from run"
        await agent.post("and posted")

    async with asyncio.timeout(LIMIT_S), Runtime() as rt:
        ticker = Ticker(act)
        await rt.host(ticker)
        await rt.drain()
        assert (await ticker("from outside")).text == "from outside"
    assert ticker.heard == ["from run", "and posted", "from outside"]


async def test_a_run_that_returns_is_not_started_again():
    async def act(agent: Ticker) -> None:
        await asyncio.sleep(0)

    async with asyncio.timeout(LIMIT_S), Runtime() as rt:
        ticker = Ticker(act)
        await rt.host(ticker)
        assert ticker.begun == 1
        await rt.host(ticker)  # which its owner may
        assert ticker.begun == 2


async def test_leaving_the_runtime_cancels_run_first():
    order = []

    async def act(agent: Ticker) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("run ended")

    class Slow(AgentBase):
        async def reply(self, x=None):
            while not order:
                await asyncio.sleep(0)
            order.append("letter handled")
            return Msg(self.name, "", "assistant")

    async with asyncio.timeout(LIMIT_S):
        async with Runtime() as rt:
            ticker = Ticker(act)
            task = rt.host(ticker)
            await ticker.running.wait()
            await Slow("slow").post("work")
        assert task.cancelled()
    assert order == ["run ended", "letter handled"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.usefixtures("soon")
async def test_a_run_that_fails_is_started_again_and_waiting_messages_survive():
    go_on = asyncio.Event()

    async def act(agent: Ticker) -> None:
        if agent.begun < 4:
            raise ValueError
        go_on.set()

    async with asyncio.timeout(LIMIT_S), Runtime() as rt:
        ticker = Ticker(act)
        door = asyncio.Event()

        async def hold(x):
            await door.wait()

        holding = asyncio.create_task(ticker._take_turn(hold, None))
        await asyncio.sleep(0)
        for number in range(10):
            await ticker.post(str(number))
        task = rt.host(ticker)
        await go_on.wait()
        assert ticker.mailbox.statistics().waiting == 10
        door.set()
        await holding
        await task
        await rt.drain()
    assert (ticker.begun, ticker.heard) == (4, [str(number) for number in range(10)])


@pytest.mark.usefixtures("soon")
async def test_a_run_given_up_stops_the_agent_and_buries_what_waits(caplog):
    told: list[Any] = []
    async with asyncio.timeout(LIMIT_S), Runtime() as rt:
        ticker = Ticker(crash)
        watch = rt.watch(ticker)
        door = asyncio.Event()

        async def hold(x):
            await door.wait()

        holding = asyncio.create_task(ticker._take_turn(hold, None))
        await asyncio.sleep(0)
        await ticker.post("waits in vain")
        submitted = ticker.submit("as well")
        await rt.host(ticker, on_fatal=told.append)
        down = await watch
        assert (down.agent, down.reason) == ("ticker", "stopped")
        with pytest.raises(AgentStoppedError):
            await submitted
        assert [(each.agent, each.msg.text) for each in rt.dead_letters] == [("ticker", "waits in vain")]
        door.set()
        await holding
    assert [str(error) for error in told] == ["run is broken"]
    assert events(caplog).count("given_up") == 1
    assert ticker.begun == 6


async def test_stopping_the_agent_ends_its_run():
    async with asyncio.timeout(LIMIT_S), Runtime() as rt:
        ticker = Ticker(forever)
        task = rt.host(ticker)
        await ticker.running.wait()
        await ticker.stop()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(AgentStoppedError):
            rt.host(ticker)


async def test_an_agent_may_stop_itself_from_its_run():
    async def act(agent: Ticker) -> None:
        await agent.stop()

    async with asyncio.timeout(LIMIT_S), Runtime() as rt:
        ticker = Ticker(act)
        await asyncio.wait([rt.host(ticker)])
        assert ticker.mailbox.is_stopped


async def test_run_works_for_the_runtime_that_hosts_it():
    seen = []

    async def act(agent: Ticker) -> None:
        seen.append(current_runtime())

    ticker = Ticker(act)
    async with asyncio.timeout(LIMIT_S), Runtime() as outer, Runtime():
        await outer.host(ticker)
    assert seen == [outer]


async def test_an_agent_hosted_from_within_a_turn_may_ask_whoever_has_it(caplog):
    class Boss(AgentBase):
        async def reply(self, x=None):
            if x.text == "begin":
                self.task = current_runtime().host(Ticker(self.ask))
                await asyncio.sleep(0)
            return Msg(self.name, "ok", "assistant")

        async def ask(self, agent):
            assert (await self("from run")).text == "ok"

    async with asyncio.timeout(LIMIT_S), Runtime():
        boss = Boss("boss")
        await boss("begin")
        await boss.task
    assert events(caplog) == []


async def test_what_cannot_be_hosted_is_refused():
    plain = AgentBase("plain")
    rt = Runtime()
    with pytest.raises(NoRuntimeError):
        rt.host(Ticker(forever))
    async with asyncio.timeout(LIMIT_S), rt:
        with pytest.raises(ConfigError, match=r"async def run\(self\)"):
            rt.host(plain)
        ticker = Ticker(forever)
        rt.host(ticker)
        with pytest.raises(ConfigError, match="hosted already"):
            rt.host(ticker)
