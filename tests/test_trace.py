"""What work inherits from whoever asked for it: how long it may take, and what its logs have in common."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from agentscope_async import (
    AgentBase,
    AskTimeoutError,
    Budget,
    ConfigError,
    Msg,
    Runtime,
    _context,
    current_trace_id,
    trace,
)
from agentscope_async.logging import get_logger


class Scribe(AgentBase):
    """Notes the trace and the deadline it works under, then hands its message on."""

    def __init__(self, name: str = "scribe", following: Any = None) -> None:
        super().__init__(name)
        self.following = following
        self.traces: list[str | None] = []
        self.deadlines: list[float | None] = []

    async def reply(self, x: Any = None) -> Msg:
        await asyncio.sleep(0)
        self.traces.append(current_trace_id())
        self.deadlines.append(_context.deadline.get())
        if self.following is not None:
            await self.following(x)
        return Msg(self.name, "done", "assistant")


class Gate(AgentBase):
    """Answers once its door is open."""

    def __init__(self, name: str = "gate") -> None:
        super().__init__(name)
        self.door, self.reached = asyncio.Event(), asyncio.Event()
        self.handled = 0

    async def reply(self, x: Any = None) -> Msg:
        self.reached.set()
        await self.door.wait()
        self.handled += 1
        return Msg(self.name, "through", "assistant")


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="agentscope_async")
    return caplog


# -- traces --


def test_a_trace_holds_inside_its_block_only() -> None:
    assert current_trace_id() is None
    with trace("outer"):
        assert current_trace_id() == "outer"
        with trace("inner"):
            assert current_trace_id() == "inner"
        assert current_trace_id() == "outer"
    assert current_trace_id() is None


@pytest.mark.parametrize("id", ["", "x" * 65, "a\nb", "\x00", "\u202e"])
def test_a_trace_id_is_short_and_printable(id: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64 printable"), trace(id):
        pass
    assert current_trace_id() is None


def test_events_in_the_log_carry_the_trace(log: pytest.LogCaptureFixture) -> None:
    get_logger().warning("before", x=1)
    with trace("t-1"):
        get_logger().warning("inside", x=1)
        get_logger().warning("own", trace="mine")
    get_logger().warning("after", x=1)
    lines = [record.getMessage() for record in log.records]
    assert lines[0] == "event='before' x=1"
    assert lines[1] == "event='inside' x=1 trace='t-1'"
    assert "trace='mine'" in lines[2]
    assert lines[3] == "event='after' x=1"


async def test_asks_streams_posts_and_submissions_belong_to_the_trace_they_were_sent_in() -> None:
    async with Runtime() as rt:
        last = Scribe("last")
        agent = Scribe("agent", last)
        with trace("t-1"):
            await agent("ask")
            async with agent.stream("stream") as stream:
                async for _ in stream:
                    pass
            await agent.post("post")
            reply = agent.submit("submit")
        await reply
        await rt.drain()
        assert agent.traces == ["t-1"] * 4
        assert last.traces == ["t-1"] * 4


async def test_letters_of_several_senders_handled_by_one_task_keep_their_own_traces() -> None:
    async with Runtime() as rt:
        agent = Scribe()
        for id in ("a", None, "b", "a", None):
            if id is None:
                await agent.post("x")
                agent.submit("x")
            else:
                with trace(id):
                    await agent.post("x")
                    agent.submit("x")
        await rt.drain()
        assert agent.traces == ["a", "a", None, None, "b", "b", "a", "a", None, None]


async def test_a_letter_keeps_its_trace_and_its_budget() -> None:
    class Purse(Scribe):
        async def reply(self, x: Any = None) -> Msg:
            budgets.append(_context.charged.get())
            return await super().reply(x)

    budgets: list[Any] = []
    budget = Budget(usd=1)
    async with Runtime() as rt:
        agent = Purse()
        with trace("a"):
            await agent.post("x")
            with budget:
                await agent.post("x")
        with budget:
            await agent.post("x")
        await agent.post("x")
        await rt.drain()
    assert agent.traces == ["a", "a", None, None]
    assert budgets == [(), (budget,), (budget,), ()]


async def test_the_failure_of_a_letter_is_logged_under_its_trace(log: pytest.LogCaptureFixture) -> None:
    class Broken(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            raise ValueError(x.text)

    async with Runtime() as rt:
        agent = Broken("broken")
        with trace("t-1"):
            await agent.post("first")
        await agent.post("second")
        await rt.drain()
    first, second = [record.getMessage() for record in log.records if "post_failed" in record.getMessage()]
    assert "trace='t-1'" in first
    assert "first" in first
    assert "trace" not in second


# -- deadlines --


async def test_a_nested_ask_inherits_the_deadline_of_the_ask_above_it() -> None:
    async with Runtime(ask_timeout_s=1000) as outer:
        inner_agent = Scribe("inner")
        middle = Scribe("middle", inner_agent)
        async with Runtime(ask_timeout_s=5) as short, Runtime(ask_timeout_s=5000):
            with short.use():
                asker = Scribe("asker", middle)
            first = asyncio.get_running_loop().time()
            await asker("x")
            last = asyncio.get_running_loop().time()
        assert outer.is_open
    (deadline,) = asker.deadlines
    assert deadline is not None
    assert first + 5 <= deadline <= last + 5
    assert middle.deadlines == inner_agent.deadlines == [deadline]
    assert _context.deadline.get() is None


async def test_a_nested_ask_may_have_less_time_than_the_one_above_it() -> None:
    async with Runtime(ask_timeout_s=5):
        inner = Scribe("inner")
        async with Runtime(ask_timeout_s=1000):
            await Scribe("outer", inner)("x")
        (deadline,) = inner.deadlines
        assert deadline is not None
        assert deadline <= asyncio.get_running_loop().time() + 5


async def test_without_a_limit_there_is_no_deadline() -> None:
    async with Runtime() as rt:
        agent = Scribe()
        await agent("x")
        await agent.post("x")
        await rt.drain()
    assert agent.deadlines == [None, None]


async def test_letters_do_not_inherit_the_deadline_of_their_sender() -> None:
    class Sender(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            assert _context.deadline.get() is not None
            await receiver.post("x")
            receiver.submit("x")
            return Msg(self.name, "sent", "assistant")

    async with Runtime(ask_timeout_s=1000) as rt:
        receiver = Scribe("receiver")
        await Sender("sender")("go")
        await rt.drain()
    assert receiver.deadlines == [None, None]


async def test_work_that_outlives_its_turn_gets_time_of_its_own() -> None:
    begun: list[asyncio.Task[Msg]] = []
    turn_is_over = asyncio.Event()

    class Starter(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            begun.append(asyncio.create_task(later()))
            return Msg(self.name, "begun", "assistant")

    async def later() -> Msg:
        await turn_is_over.wait()
        return await patient("x")

    async with Runtime(ask_timeout_s=1000):
        patient = Scribe("patient")
        async with Runtime(ask_timeout_s=5):
            await Starter("starter")("go")
        turn_is_over.set()
        await begun[0]
        (deadline,) = patient.deadlines
        assert deadline is not None
        assert deadline > asyncio.get_running_loop().time() + 500


async def test_an_ask_whose_deadline_passed_in_the_queue_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    async with Runtime(ask_timeout_s=1000):
        gate = Gate()
        holding = asyncio.create_task(gate("first"))
        await gate.reached.wait()
        waiting = asyncio.create_task(gate("second"))
        await asyncio.sleep(0)
        gate.door.set()
        await asyncio.sleep(0)  # the first one ends, and the second one's turn is open
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + 2000)
        with pytest.raises(AskTimeoutError):
            await waiting
        monkeypatch.setattr(loop, "time", now)
        await asyncio.wait([holding])
        assert gate.handled == 1
        assert (await gate("third")).text == "through"
