"""Thousands of random schedules of everything that can happen to three agents at once.

A schedule is a list of steps, run in one task: most of them start something, one sets the
gate that turns wait at, one lets the event loop run for a few rounds. Nothing depends on
the clock, so a schedule that fails, fails again: it is printed, together with the outcomes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from agentscope_async import Msg, Runtime
from agentscope_async.agents import AgentBase
from agentscope_async.errors import (
    AgentStoppedError,
    CancellationSwallowedError,
    DeadlockError,
    InterruptedTurnError,
    MailboxFullError,
)
from agentscope_async.message import Speech

SCHEDULES = 12_000
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

OTHERS = ("cancel", "cancel", "cancel scope", "take back", "interrupt", "gate", "run", "run", "stop")
DOINGS = SENDS + SENDS + OTHERS


class Schedule(NamedTuple):
    """Options of all mailboxes, what is done, and which agent is stopped at the end, if any."""

    capacity: int
    overflow: str
    steps: list[Step]
    stopped: int | None


def schedule_of(data: bytes) -> Schedule:
    """Read a schedule from bytes, which Hypothesis makes and shrinks much faster than a list of steps."""
    capacity, overflow, stopped = data[:3]
    steps = [
        Step(
            do=DOINGS[do % len(DOINGS)],
            agent=who % AGENTS,
            sender=who // AGENTS % SENDERS,
            plan=PLANS[plan % len(PLANS)],
            other=other % 32,
        )
        for do, who, plan, other in zip(*(data[start::4] for start in range(3, 7)), strict=False)
    ]
    return Schedule(
        (1, 2, 100)[capacity % 3],
        ("wait", "reject", "drop_oldest", "drop_newest")[overflow % 4],
        steps,
        stopped % 8 if stopped % 8 < AGENTS else None,
    )


class Actor(AgentBase):
    """Does what the plan in the message says, remembering it first."""

    def __init__(self, number: int, world: World, **options: Any) -> None:
        super().__init__(f"agent{number}", **options)
        self.world = world
        self.gate = asyncio.Event()
        self.is_busy = False
        self.begun: list[str] = []

    def open_gate(self) -> None:
        """Let all go on that wait at it now."""
        self.gate.set()
        self.gate = asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        assert not self.is_busy, "two turns at once"
        self.is_busy = True
        self.begun.append(x.text)
        try:
            self._remember(x)
            await self._act(x["plan"], x)
        finally:
            self.is_busy = False
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


EXPECTED = (
    AgentStoppedError,
    CancellationSwallowedError,
    MailboxFullError,
    DeadlockError,
    InterruptedTurnError,
    Failure,
)


class World:
    """Three agents, the tasks of their senders, and what became of each message."""

    def __init__(self, capacity: int, overflow: Any) -> None:
        self.agents = [Actor(n, self, capacity=capacity, overflow=overflow) for n in range(AGENTS)]
        self.tasks: list[asyncio.Task[Any]] = []
        self.scopes: list[anyio.CancelScope] = []
        self.replies: list[tuple[int, str, Any]] = []
        self.sent: list[list[str]] = [[] for _ in range(AGENTS)]  # in the order in which they were sent
        self.outcomes: list[dict[str, str]] = [{} for _ in range(AGENTS)]
        self.numbers = itertools.count()

    def take(self, step: Step) -> None:
        agent = self.agents[step.agent]
        match step.do:
            case "ask" | "observe" | "post" | "stream":
                self.start(self.send(step))
            case "scoped ask":
                self.scopes.append(anyio.CancelScope())
                self.start(self.send_in(self.scopes[-1], step))
            case "submit":
                self.submit(step)
            case "cancel" if self.tasks:
                self.tasks[step.other % len(self.tasks)].cancel()
            case "cancel scope" if self.scopes:
                self.scopes[step.other % len(self.scopes)].cancel()
            case "take back" if self.replies:
                self.replies[step.other % len(self.replies)][2].cancel()
            case "interrupt":
                self.start(agent.interrupt("a step"))
            case "stop":
                self.start(agent.stop())
            case "gate":
                agent.open_gate()

    def start(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    def message(self, step: Step) -> Msg:
        # The message of a stream is placed one round of the loop later than others begun with it.
        sender = "stream" if step.do == "stream" else step.sender
        text = f"{sender}:{step.do}:{next(self.numbers)}"
        self.sent[step.agent].append(text)
        return Msg("sender", text, "user", plan=step.plan, other=step.other % AGENTS)

    def submit(self, step: Step) -> None:
        msg = self.message(step)
        try:
            reply = self.agents[step.agent].submit(msg)
        except (AgentStoppedError, MailboxFullError) as error:
            self.note(step.agent, msg.text, type(error).__name__)
        else:
            self.replies.append((step.agent, msg.text, reply))

    async def send_in(self, scope: anyio.CancelScope, step: Step) -> None:
        with scope:
            await self.send(step)

    async def send(self, step: Step) -> None:
        agent, msg = self.agents[step.agent], self.message(step)
        match step.do:
            case "observe":
                work = agent.observe(msg)
            case "post":
                work = agent.post(msg)
            case "stream":
                work = self.stream(agent, msg)
            case _:
                work = agent(msg)
        await self.outcome(step.agent, msg.text, work)

    async def ask_nested(self, number: int, text: str, plan: str) -> None:
        inner = Msg("agent", f"nested:{next(self.numbers)} in {text}", "user", plan=plan)
        self.sent[number].append(inner.text)
        try:
            await self.outcome(number, inner.text, self.agents[number](inner))
        except EXPECTED as error:
            raise Failure from error  # of the outer turn

    async def stream(self, agent: Actor, msg: Msg) -> Msg:
        async with agent.stream(msg) as stream:
            async for _ in stream:
                pass
            return stream.msg

    async def outcome(self, number: int, text: str, work: Any) -> None:
        try:
            result = await work
        except asyncio.CancelledError:
            self.note(number, text, "cancelled")
            raise
        except EXPECTED as error:
            self.note(number, text, type(error).__name__)
            raise
        if isinstance(result, Msg):
            assert result.text == f"re: {text}"
        self.note(number, text, "done")

    def note(self, number: int, text: str, outcome: str) -> None:
        assert text not in self.outcomes[number], f"{text} ended twice"
        self.outcomes[number][text] = outcome

    async def finish(self) -> None:
        """Open the gates until nothing waits any more."""
        while not (
            all(task.done() for task in self.tasks)
            and all(reply.done() for _, _, reply in self.replies)
            and all(agent.mailbox.is_idle for agent in self.agents)
        ):
            for agent in self.agents:
                agent.open_gate()
            await asyncio.sleep(0)
        for task in self.tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, EXPECTED), f"unexpected: {error!r}"
        for number, text, reply in self.replies:
            try:
                assert (await reply).text == f"re: {text}"
            except EXPECTED as error:
                self.note(number, text, type(error).__name__)
            else:
                self.note(number, text, "done")


async def run(schedule: Schedule) -> None:
    tasks_before = asyncio.all_tasks()
    async with Runtime() as rt:
        world = World(schedule.capacity, schedule.overflow)
        for step in schedule.steps:
            if step.do == "run":
                for _ in range(step.other % 6 + 1):
                    await asyncio.sleep(0)
            else:
                world.take(step)
        if schedule.stopped is not None:
            world.start(world.agents[schedule.stopped].stop())
        async with asyncio.timeout(20):
            await world.finish()
            await rt.drain()
    left = asyncio.all_tasks() - tasks_before
    assert not left, f"left behind: {left}"
    for number in range(AGENTS):
        check(world, number, list(rt.dead_letters))


def check(world: World, number: int, dead: list[Any]) -> None:
    buried = Counter(letter.msg.text for letter in dead)
    agent, sent, outcomes = world.agents[number], world.sent[number], world.outcomes[number]
    assert agent.memory is not None
    remembered = [unit.text for unit in agent.memory.get_memory()]  # type: ignore[union-attr]
    found = agent.mailbox.statistics()

    # Each message has one outcome, and those done are remembered, others not.
    assert sorted(outcomes) == sorted(sent)
    for text, outcome in outcomes.items():
        if ":post:" in text and outcome == "done":  # its sender knows only that it was admitted
            assert (text in remembered) + buried[text] == 1, f"{text}: {buried[text]} dead letters"
        elif outcome == "done":
            assert text in remembered
        elif outcome != "cancelled":
            assert text not in remembered, f"{text} is remembered in spite of {outcome}"

    # Once at most, in the order each sender sent.
    assert len(set(agent.begun)) == len(agent.begun)
    assert len(set(remembered)) == len(remembered)
    for order in (agent.begun, remembered):
        for sender in range(SENDERS):
            mine = [text for text in order if text.startswith(f"{sender}:")]
            assert mine == sorted(mine, key=sent.index), f"agent {number} did not keep the order: {mine}"

    # The books: each message is counted once, or else its outcome says why it had no turn.
    assert agent.mailbox.is_idle
    assert found.waiting == 0
    assert found.handled == len(remembered)
    assert sum(1 for text in agent.begun if text not in remembered) <= found.failed
    count = Counter(outcomes.values())
    mine = [letter for letter in dead if letter.agent == agent.name]
    full = count["MailboxFullError"] + sum(letter.reason == "mailbox full" for letter in mine)
    assert full <= found.rejected + found.dropped <= full + count["cancelled"]
    had_no_turn = len(sent) - found.handled - found.failed - found.rejected - found.dropped
    stopped = count["AgentStoppedError"] + sum(letter.reason == "agent stopped" for letter in mine)
    unsure = count["cancelled"] + count["InterruptedTurnError"]  # before its turn, or in it
    assert 0 <= had_no_turn - stopped - count["DeadlockError"] <= unsure


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all schedules, and no log of the many failing posts."""
    logging.disable(logging.CRITICAL)
    try:
        with asyncio.Runner() as runner:
            yield runner
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.timeout(120)
@settings(
    max_examples=SCHEDULES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.binary(min_size=3 + 4 * 4, max_size=3 + 4 * 40))
def test_any_schedule_gives_every_message_one_outcome_and_leaves_nothing_behind(
    loop: asyncio.Runner, data: bytes
) -> None:
    schedule = schedule_of(data)
    try:
        loop.run(run(schedule))
    except BaseException as error:
        error.add_note(f"schedule: {schedule}")
        raise
