"""Thousands of random schedules of everything that can happen to three agents at once.

A schedule is a list of steps, run in one task: most of them start something, one sets the
gate that turns wait at, one lets the event loop run for a few rounds. Nothing depends on
the clock, so a schedule that fails, fails again: it is printed, together with the outcomes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from agentscope_async import Msg, Runtime
from agentscope_async.agents import AgentBase
from agentscope_async.errors import (
    AgentStoppedError,
    DeadlockError,
    InterruptedTurnError,
    MailboxFullError,
)
from agentscope_async.message import Speech

EXAMPLES = 400
SCHEDULES_EACH = 26  # so 10,400 in all
AGENTS = 3
SENDERS = 4


class Failure(Exception):
    """Raised by handlers that are told to fail."""


class Step(NamedTuple):
    """One step of a schedule; which numbers count depends on ``do``."""

    do: str
    agent: int = 0
    sender: int = 0
    plan: str = "instant"
    other: int = 0


SENDS = ("ask", "post", "submit", "observe", "stream", "scoped ask")
PLANS = ("instant", "yield", "gate", "fail", "fail late", "nested", "nested gate", "swallow", "slow cleanup")

sends = st.builds(
    Step,
    do=st.sampled_from(SENDS),
    agent=st.integers(0, AGENTS - 1),
    sender=st.integers(0, SENDERS - 1),
    plan=st.sampled_from(PLANS),
    other=st.integers(0, AGENTS - 1),
)
others = st.one_of(
    st.builds(Step, do=st.just("cancel"), other=st.integers(0, 30)),
    st.builds(Step, do=st.just("cancel scope"), other=st.integers(0, 30)),
    st.builds(Step, do=st.just("take back"), other=st.integers(0, 30)),
    st.builds(Step, do=st.just("interrupt"), agent=st.integers(0, AGENTS - 1)),
    st.builds(Step, do=st.just("gate"), agent=st.integers(0, AGENTS - 1)),
    st.builds(Step, do=st.just("run"), other=st.integers(1, 6)),
)
schedules = st.tuples(
    st.sampled_from([1, 2, 100]),
    st.sampled_from(["wait", "reject", "drop_oldest", "drop_newest"]),
    st.lists(
        st.one_of(sends, sends, sends, others, others, st.just(Step("run", other=1))), min_size=1, max_size=24
    ),
    st.sampled_from([None, None, None, 0, 1, 2]),
)


class Actor(AgentBase):
    """Does what the plan in the message says, remembering it first."""

    def __init__(self, number: int, world: World, **options: Any) -> None:
        super().__init__(f"agent{number}", **options)
        self.world = world
        self.gate = asyncio.Event()
        self.is_busy = False
        self.begun: list[str] = []
        self.completed: list[str] = []

    async def reply(self, x: Any = None) -> Msg:
        assert not self.is_busy, "two turns at once"
        self.is_busy = True
        self.begun.append(x.text)
        try:
            self._remember(x)
            await self._act(x["plan"], x)
        finally:
            self.is_busy = False
        self.completed.append(x.text)
        return Msg(self.name, f"re: {x.text}", "assistant")

    async def _act(self, plan: str, x: Any) -> None:
        match plan:
            case "yield":
                await asyncio.sleep(0)
            case "gate":
                await self.speak(Speech("text", "one"))
                await self.gate.wait()
            case "fail":
                raise Failure(x.text)
            case "fail late":
                await self.gate.wait()
                raise Failure(x.text)
            case "nested" | "nested gate":
                inner = "instant" if plan == "nested" else "gate"
                await self.world.ask_nested(x["other"], x.text, inner)
            case "swallow":
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    return
            case "slow cleanup":
                try:
                    await self.gate.wait()
                finally:
                    with anyio.CancelScope(shield=True):
                        await asyncio.sleep(0)


class World:
    """Three agents, the tasks of their senders, and what became of each message."""

    def __init__(self, capacity: int, overflow: Any, runtime: Runtime) -> None:
        self.runtime = runtime
        self.agents = [Actor(n, self, capacity=capacity, overflow=overflow) for n in range(AGENTS)]
        self.tasks: list[asyncio.Task[Any]] = []
        self.scopes: list[anyio.CancelScope] = []
        self.replies: list[tuple[int, str, Any]] = []
        self.sent: list[list[str]] = [[] for _ in range(AGENTS)]
        self.outcomes: list[Counter[str]] = [Counter() for _ in range(AGENTS)]
        self.observed: list[set[str]] = [set() for _ in range(AGENTS)]

    def message(self, step: Step) -> Msg:
        text = f"{step.sender}:{sum(map(len, self.sent))}"
        self.sent[step.agent].append(text)
        return Msg("sender", text, "user", plan=step.plan, other=step.other)

    async def ask_nested(self, number: int, text: str, plan: str) -> None:
        inner = f"n{text}@{number}"
        self.sent[number].append(inner)
        msg = Msg("agent", inner, "user", plan=plan, other=0)
        await self.outcome(number, inner, self.agents[number](msg))

    async def outcome(self, number: int, text: str, work: Any) -> Any:
        """Await it and note, once, what became of this message."""
        counts = self.outcomes[number]
        try:
            result = await work
        except asyncio.CancelledError:
            counts["cancelled"] += 1
            raise
        except (
            AgentStoppedError,
            MailboxFullError,
            DeadlockError,
            InterruptedTurnError,
            Failure,
        ) as error:
            counts[type(error).__name__] += 1
            raise
        if isinstance(result, Msg):
            assert result.text == f"re: {text}", f"{text} got {result.text}"
        counts["done"] += 1
        return result

    def take(self, step: Step) -> None:
        agent = self.agents[step.agent]
        match step.do:
            case "ask":
                msg = self.message(step)
                self.start(self.outcome(step.agent, msg.text, agent(msg)))
            case "scoped ask":
                msg = self.message(step)
                scope = anyio.CancelScope()
                self.scopes.append(scope)
                self.start(self.ask_in(scope, step.agent, msg))
            case "post":
                msg = self.message(step)
                self.start(self.post(step.agent, msg))
            case "observe":
                msg = self.message(step)
                self.observed[step.agent].add(msg.text)
                self.start(self.outcome(step.agent, msg.text, agent.observe(msg)))
            case "stream":
                msg = self.message(step)
                self.start(self.outcome(step.agent, msg.text, self.stream(agent, msg)))
            case "submit":
                msg = self.message(step)
                try:
                    reply = agent.submit(msg)
                except (AgentStoppedError, MailboxFullError) as error:
                    self.outcomes[step.agent][type(error).__name__] += 1
                else:
                    self.replies.append((step.agent, msg.text, reply))
            case "cancel" if self.tasks:
                self.tasks[step.other % len(self.tasks)].cancel()
            case "cancel scope" if self.scopes:
                self.scopes[step.other % len(self.scopes)].cancel()
            case "take back" if self.replies:
                self.replies[step.other % len(self.replies)][2].cancel()
            case "interrupt":
                self.start(agent.interrupt("a step"))
            case "gate":
                agent.gate.set()
                agent.gate = asyncio.Event()

    def start(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def ask_in(self, scope: anyio.CancelScope, number: int, msg: Msg) -> None:
        with scope:
            await self.outcome(number, msg.text, self.agents[number](msg))

    async def post(self, number: int, msg: Msg) -> None:
        counts = self.outcomes[number]
        try:
            await self.agents[number].post(msg)
        except asyncio.CancelledError:
            counts["cancelled"] += 1
            raise
        except (AgentStoppedError, MailboxFullError) as error:
            counts[type(error).__name__] += 1
            raise
        counts["posted"] += 1

    async def stream(self, agent: Actor, msg: Msg) -> Msg:
        async with agent.stream(msg) as stream:
            async for _ in stream:
                pass
            return stream.msg


async def run(schedule: Any) -> None:
    capacity, overflow, steps, stopped = schedule
    tasks_before = asyncio.all_tasks()
    async with Runtime() as rt:
        world = World(capacity, overflow, rt)
        for step in steps:
            if step.do == "run":
                for _ in range(step.other):
                    await asyncio.sleep(0)
            else:
                world.take(step)
        if stopped is not None:
            world.start(world.agents[stopped].stop())
        async with asyncio.timeout(20):
            await finish(world)
            await rt.drain()
    check(world, rt)
    left = asyncio.all_tasks() - tasks_before
    assert not left, f"left behind: {left}"


async def finish(world: World) -> None:
    """Open the gates until nothing waits any more."""
    while not all(task.done() for task in world.tasks) or not all(r.done() for _, _, r in world.replies):
        for agent in world.agents:
            agent.gate.set()
            agent.gate = asyncio.Event()
        await asyncio.sleep(0)
    while not all(agent.mailbox.is_idle for agent in world.agents):
        for agent in world.agents:
            agent.gate.set()
            agent.gate = asyncio.Event()
        await asyncio.sleep(0)
    for task in world.tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = (AgentStoppedError, MailboxFullError, DeadlockError, InterruptedTurnError, Failure)
            assert isinstance(error, expected), f"unexpected: {error!r}"
    for number, text, reply in world.replies:
        try:
            assert (await reply).text == f"re: {text}"
            world.outcomes[number]["done"] += 1
        except Exception as error:
            assert isinstance(
                error, (AgentStoppedError, MailboxFullError, DeadlockError, InterruptedTurnError, Failure)
            ), f"unexpected: {error!r}"
            world.outcomes[number][type(error).__name__] += 1


def check(world: World, rt: Runtime) -> None:
    begun = sum(len(agent.begun) for agent in world.agents)
    for number, agent in enumerate(world.agents):
        counts = world.outcomes[number]
        found = agent.mailbox.statistics()
        sent = world.sent[number]
        assert agent.mailbox.is_idle
        assert found.waiting == 0
        # Every message has an outcome, and exactly one, but those whose task never began.
        not_begun = len(sent) - counts.total()
        assert 0 <= not_begun <= sum(task.cancelled() for task in world.tasks)
        # At most once, one at a time, in the order sent.
        assert len(set(agent.begun)) == len(agent.begun)
        assert set(agent.begun) <= set(sent)
        for sender in range(SENDERS):
            mine = [text for text in agent.begun if text.startswith(f"{sender}:")]
            assert mine == sorted(mine, key=sent.index), f"agent {number} handled {mine}"
        # The books agree with what the handlers saw.
        observed = len(world.observed[number])
        assert len(agent.begun) <= found.handled + found.failed <= len(agent.begun) + observed + INTERRUPTS
        assert found.handled >= counts["done"]
        # A turn that failed or was cancelled is not remembered.
        assert agent.memory is not None
        remembered = [unit.text for unit in agent.memory.get_memory()]  # type: ignore[union-attr]
        assert len(set(remembered)) == len(remembered)
        replied = [text for text in remembered if text not in world.observed[number]]
        assert set(replied) <= set(agent.completed)
        assert len(replied) + len(remembered) - len(replied) == found.handled
    posts = sum(counts["posted"] for counts in world.outcomes)
    assert rt.dead_letters.total <= posts + sum(counts["cancelled"] for counts in world.outcomes)
    assert begun <= sum(map(len, world.sent))


INTERRUPTS = 24  # a turn interrupted before it began is a failed one that no handler saw


@pytest.mark.timeout(120)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(schedules, min_size=SCHEDULES_EACH, max_size=SCHEDULES_EACH))
def test_any_schedule_gives_every_message_one_outcome_and_leaves_nothing_behind(batch: list[Any]) -> None:
    async def run_batch() -> None:
        for schedule in batch:
            try:
                await run(schedule)
            except BaseException as error:
                error.add_note(f"schedule: {schedule}")
                raise

    asyncio.run(run_batch())
