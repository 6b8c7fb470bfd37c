"""Whoever watches an agent hears once that it is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from agentscope_async import (
    AgentBase,
    Down,
    Msg,
    Runtime,
    RuntimeClosedError,
    Watch,
    runtime as runtime_module,
)
from agentscope_async._stopping import told_when_stopped, when_stopped
from agentscope_async.mailbox import Mailbox


class Parrot(AgentBase):
    """Answers with what it was told."""

    async def reply(self, x: Any = None) -> Msg:
        return Msg(self.name, x.text, "assistant")


class Stubborn(AgentBase):
    """Goes on whatever happens, until it is let go."""

    def __init__(self, name: str = "stubborn") -> None:
        super().__init__(name)
        self.reached, self.let_go = asyncio.Event(), asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        self.reached.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue
        return Msg(self.name, "at last", "assistant")


@pytest.fixture(autouse=True)
async def nothing_is_left():
    async with asyncio.timeout(30):
        yield
    assert not told_when_stopped


# -- the mailbox's part --


def test_who_wants_to_know_is_told_once_when_an_agent_is_stopped() -> None:
    mailbox, told = Mailbox(), []
    when_stopped(mailbox, lambda: told.append("a"))
    assert told == []
    mailbox.stop()
    mailbox.stop()
    assert told == ["a"]


def test_who_asks_about_a_stopped_agent_is_told_at_once() -> None:
    mailbox, told = Mailbox(), []
    mailbox.stop()
    forget = when_stopped(mailbox, lambda: told.append("a"))
    assert told == ["a"]
    forget()


def test_who_was_forgotten_is_not_told() -> None:
    mailbox, told = Mailbox(), []
    forget = when_stopped(mailbox, lambda: told.append("a"))
    when_stopped(mailbox, lambda: told.append("b"))
    forget()
    forget()
    mailbox.stop()
    assert told == ["b"]


def test_the_same_function_may_ask_twice_and_take_back_one() -> None:
    mailbox, told = Mailbox(), []

    def tell() -> None:
        told.append("a")

    when_stopped(mailbox, tell)
    forget = when_stopped(mailbox, tell)
    forget()
    forget()
    mailbox.stop()
    assert told == ["a"]


def test_all_are_told_though_each_takes_itself_back() -> None:
    mailbox, told, forgets = Mailbox(), [], []

    def tell(number: int) -> None:
        told.append(number)
        forgets[number]()

    forgets += [when_stopped(mailbox, lambda number=number: tell(number)) for number in range(5)]
    mailbox.stop()
    assert told == [0, 1, 2, 3, 4]


def test_who_is_told_first_can_take_back_another() -> None:
    mailbox, told, forgets = Mailbox(), [], []
    when_stopped(mailbox, lambda: forgets[0]())
    forgets.append(when_stopped(mailbox, lambda: told.append("b")))
    when_stopped(mailbox, lambda: told.append("c"))
    mailbox.stop()
    assert told == ["c"]


async def test_one_that_fails_keeps_neither_the_others_nor_the_letters_from_their_answer(caplog) -> None:
    told = []
    async with Runtime():
        agent = Stubborn()

        def fail() -> None:
            raise RuntimeError("no")

        when_stopped(agent.mailbox, fail)
        when_stopped(agent.mailbox, lambda: told.append("b"))
        first = agent.submit("x")
        await agent.reached.wait()
        second = agent.submit("y")
        agent.mailbox.stop()
        agent.let_go.set()
        await first
        with pytest.raises(Exception, match="is stopped"):
            await second
    assert told == ["b"]
    assert "RuntimeError" in caplog.text


# -- rt.watch --


async def test_a_watch_gives_a_down_when_its_agent_is_stopped() -> None:
    async with Runtime() as rt:
        agent = Parrot("ann")
        watch = rt.watch(agent)
        assert isinstance(watch, Watch)
        assert (await agent("still there")).text == "still there"
        assert not watch.done()
        await agent.stop()
        assert await watch == Down("ann", "stopped")
        assert watch.done()


async def test_a_watch_can_be_awaited_by_many_and_again() -> None:
    async with Runtime() as rt:
        agent = Parrot("ann")
        watch = rt.watch(agent)

        async def wait() -> Down:
            return await watch

        waiting = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        await agent.stop()
        downs = [await each for each in waiting]
        assert downs == [Down("ann", "stopped")] * 3
        assert await watch is downs[0]


async def test_each_of_several_watches_of_an_agent_gives_its_own_down() -> None:
    async with Runtime() as one, Runtime() as two:
        agent = Parrot("ann")
        watches = [one.watch(agent), two.watch(agent), one.watch(agent), two.watch(agent)]
        await agent.stop()
        assert [await each for each in watches] == [Down("ann", "stopped")] * 4


async def test_watching_a_stopped_agent_gives_a_down_at_once() -> None:
    async with Runtime() as rt:
        agent = Parrot("ann")
        await agent.stop()
        watch = rt.watch(agent)
        assert watch.done()
        assert await watch == Down("ann", "stopped")


async def test_giving_up_waiting_leaves_the_watch_as_it_is() -> None:
    async with Runtime() as rt:
        agent = Parrot("ann")
        watch = rt.watch(agent)

        async def wait() -> Down:
            return await watch

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not watch.done()
        await agent.stop()
        assert (await watch).reason == "stopped"


async def test_a_cancelled_watch_gives_no_down() -> None:
    async with Runtime() as rt:
        agent = Parrot("ann")
        watch, other = rt.watch(agent), rt.watch(agent)
        watch.cancel()
        watch.cancel()
        await agent.stop()
        assert watch.done()
        assert await other == Down("ann", "stopped")
        with pytest.raises(asyncio.CancelledError):
            await watch


async def test_cancelling_after_the_down_changes_nothing() -> None:
    async with Runtime() as rt:
        agent = Parrot("ann")
        watch = rt.watch(agent)
        await agent.stop()
        watch.cancel()
        assert await watch == Down("ann", "stopped")


async def test_of_several_reasons_the_first_one_counts() -> None:
    async with Runtime() as rt:
        watch = rt.watch(Parrot("ann"))
        watch.fire("withdrawn")
        watch.fire("node_down")
        forgotten = []
        watch.on_end(lambda: forgotten.append(True))
        assert forgotten
    assert await watch == Down("ann", "withdrawn")


async def test_a_watch_that_is_open_when_its_runtime_is_left_says_so() -> None:
    async with Runtime() as outer:
        agent = Parrot("ann")
        kept = outer.watch(agent)
        async with Runtime() as rt:
            watch, stopped_in_time = rt.watch(agent), rt.watch(Parrot("bob"))
        assert await watch == Down("ann", "runtime_closed")
        assert await stopped_in_time == Down("bob", "runtime_closed")
        assert not kept.done()
        await agent.stop()
        assert await kept == Down("ann", "stopped")
        assert await watch == Down("ann", "runtime_closed")


async def test_a_runtime_that_is_closed_watches_nothing() -> None:
    async with Runtime() as rt:
        agent = Parrot("ann")
    with pytest.raises(RuntimeClosedError):
        rt.watch(agent)
    with pytest.raises(RuntimeClosedError):
        Runtime().watch(agent)


async def test_only_agents_can_be_watched() -> None:
    async with Runtime() as rt:
        for thing in ("ann", 42, None, lambda x: x):
            with pytest.raises(TypeError, match="watch"):
                rt.watch(thing)


async def test_an_agent_that_was_abandoned_because_it_does_not_end_is_gone(monkeypatch) -> None:
    monkeypatch.setattr(runtime_module, "KILL_WAIT_S", 0.01)
    async with Runtime() as outer:
        async with Runtime(grace=0):
            agent = Stubborn()
            watch = outer.watch(agent)
            await agent.post("x")
            await agent.reached.wait()
        assert await watch == Down("stubborn", "stopped")
        agent.let_go.set()


async def test_a_watch_of_an_agent_that_stops_itself_gives_a_down() -> None:
    class Leaver(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            await self.stop()
            return Msg(self.name, "bye", "assistant")

    async with Runtime() as rt:
        agent = Leaver("ann")
        watch = rt.watch(agent)
        assert (await agent("go")).text == "bye"
        assert await watch == Down("ann", "stopped")


async def test_agents_nobody_watches_leave_no_trace() -> None:
    async with Runtime() as rt:
        agents = [Parrot(f"a{n}") for n in range(100)]
        for agent in agents:
            await agent("x")
        assert not told_when_stopped
        watches = [rt.watch(agent) for agent in agents]
        assert len(told_when_stopped) == 100
        for watch in watches:
            watch.cancel()
        assert not told_when_stopped


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["watch", "cancel", "stop", "ask", "await"]), st.integers(0, 2), st.integers(0, 9)
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_every_watch_ends_exactly_once_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(live(steps))


async def live(steps: list[tuple[str, int, int]]) -> None:
    watches: list[Watch] = []
    expected: list[str | None] = []  # None: open
    agent_of: list[int] = []
    heard: dict[int, list[Down]] = {}
    waiting: list[asyncio.Task[None]] = []

    async def hear(number: int) -> None:
        down = await watches[number]
        heard.setdefault(number, []).append(down)

    async with Runtime() as rt:
        agents = [Parrot(f"a{n}") for n in range(3)]
        stopped = [False] * 3
        for what, which, number in steps:
            if what == "watch":
                watches.append(rt.watch(agents[which]))
                agent_of.append(which)
                expected.append("stopped" if stopped[which] else None)
            elif what == "stop":
                await agents[which].stop()
                stopped[which] = True
                expected = [
                    "stopped" if each is None and agent == which else each
                    for each, agent in zip(expected, agent_of, strict=True)
                ]
            elif what == "ask" and not stopped[which]:
                await agents[which]("x")
            elif watches:
                number %= len(watches)
                if what == "await":
                    waiting.append(asyncio.create_task(hear(number)))
                    await asyncio.sleep(0)
                elif what == "cancel":
                    watches[number].cancel()
                    expected[number] = expected[number] or "cancelled"
            assert [watch.done() for watch in watches] == [each is not None for each in expected]
    if waiting:
        await asyncio.wait(waiting)
    for number, (watch, end) in enumerate(zip(watches, expected, strict=True)):
        assert watch.done()
        if end == "cancelled":
            assert number not in heard
            continue
        down = Down(f"a{agent_of[number]}", end or "runtime_closed")
        assert await watch == down
        assert all(each == down for each in heard.get(number, ()))
    assert not told_when_stopped
