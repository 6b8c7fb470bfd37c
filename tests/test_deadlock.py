"""Waits that could never end are refused with their path; all others are left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest

from agentscope_async import Msg, Runtime, msghub
from agentscope_async.agents import AgentBase
from agentscope_async.errors import DeadlockError
from agentscope_async.message import Speech

LIMIT_S = 30


class Actor(AgentBase):
    """Does with each message what a function says."""

    def __init__(self, name: str, act: Callable[[Any], Awaitable[Any]] | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.act = act

    async def reply(self, x: Any = None) -> Msg:
        result = await self.act(x) if self.act is not None else None
        return result if isinstance(result, Msg) else Msg(self.name, f"{self.name} answers", "assistant")


class Listener(Actor):
    """Does with what it hears what a second function says."""

    def __init__(
        self, name: str, hear: Callable[[Any], Awaitable[Any]] | None = None, **options: Any
    ) -> None:
        super().__init__(name, **options)
        self.hear = hear
        self.heard: list[str] = []

    async def observe(self, x: Any) -> None:
        self.heard.append(x.text)
        if self.hear is not None:
            await self.hear(x)


def message(text: object = "x") -> Msg:
    return Msg("caller", str(text), "user")


def start(work: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)


async def steps(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def outcomes(*works: Any) -> list[Any]:
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*works, return_exceptions=True)


async def assert_usable(*agents: Actor) -> None:
    for agent in agents:
        agent.act = None
        async with asyncio.timeout(LIMIT_S):
            assert (await agent(message())).text == f"{agent.name} answers"
        assert agent.mailbox.is_idle


def asking(agent: AgentBase) -> Callable[[Any], Awaitable[Any]]:
    return lambda x: agent(message())


async def ask_for_error(agent: AgentBase) -> DeadlockError:
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(DeadlockError) as caught:
            await agent(message())
    return caught.value


# -- circles --


async def test_an_agent_that_asks_itself_is_told() -> None:
    a = Actor("a")
    a.act = asking(a)
    assert (await ask_for_error(a)).chain == ("a", "a")
    await assert_usable(a)


async def test_the_message_names_the_path() -> None:
    a, b = Actor("a"), Actor("b")
    a.act, b.act = asking(b), asking(a)
    error = await ask_for_error(a)
    assert error.chain == ("a", "b", "a")
    assert "a -> b -> a" in str(error)
    assert "'a'" in str(error)
    assert isinstance(error, RuntimeError)
    await assert_usable(a, b)


@pytest.mark.parametrize("size", range(2, 51))
async def test_a_ring_is_refused_with_all_its_names(size: int) -> None:
    ring = [Actor(f"agent{number}") for number in range(size)]
    for number, agent in enumerate(ring):
        agent.act = asking(ring[(number + 1) % size])
    error = await ask_for_error(ring[0])
    assert error.chain == (*(agent.name for agent in ring), "agent0")
    await assert_usable(*ring)


async def test_a_ring_below_the_first_caller_names_only_the_ring() -> None:
    a, b, c = Actor("a"), Actor("b"), Actor("c")
    a.act, b.act, c.act = asking(b), asking(c), asking(b)
    assert (await ask_for_error(a)).chain == ("b", "c", "b")
    await assert_usable(a, b, c)


async def test_agents_of_the_same_name_are_different_agents() -> None:
    twins = [Actor("twin") for _ in range(10)]
    for agent, following in pairwise(twins):
        agent.act = asking(following)
    async with asyncio.timeout(LIMIT_S):
        assert (await twins[0](message())).text == "twin answers"
    twins[-1].act = asking(twins[0])
    assert (await ask_for_error(twins[0])).chain == ("twin",) * 11
    await assert_usable(*twins)


# -- crossing --


def crossing(kind: str, meet: asyncio.Barrier, other: Actor) -> Callable[[Any], Awaitable[Any]]:
    """Make a handler that waits for its counterpart and then, somehow, for the other agent."""

    async def act(x: Any) -> None:
        if x.text == "inner":
            return
        await meet.wait()
        match kind:
            case "ask":
                await other(message("inner"))
            case "reply":
                await other.submit(message("inner"))
            case "gather":
                await asyncio.gather(other(message("inner")), asyncio.sleep(0))
            case "stream":
                async with other.stream(message("inner")) as stream:
                    async for _ in stream:
                        pass
            case "state":
                await other.state()
            case "observe":
                await other.observe(message("inner"))
            case "deep":
                await Actor("between", lambda x: other(message("inner")))(message())
            case "task":
                await asyncio.create_task(other(message("inner")))
            case "post to a full mailbox":
                await other.post(message("inner"))
                await other.post(message("inner"))

    return act


CROSSINGS = (
    "ask",
    "reply",
    "gather",
    "stream",
    "state",
    "observe",
    "deep",
    "task",
    "post to a full mailbox",
)


@pytest.mark.parametrize("kind", CROSSINGS)
async def test_of_two_that_cross_one_is_refused_and_the_other_served(kind: str) -> None:
    meet = asyncio.Barrier(2)
    a, b = Actor("a", capacity=1), Actor("b", capacity=1)
    a.act, b.act = crossing(kind, meet, b), crossing(kind, meet, a)
    async with Runtime(grace=0) as rt:
        results = await outcomes(a(message()), b(message()))
        refused = [each for each in results if isinstance(each, DeadlockError)]
        assert len(refused) == 1, results
        assert [type(each) for each in results if each not in refused] == [Msg]
        assert refused[0].chain[0] == refused[0].chain[-1]
        assert {"a", "b"} <= set(refused[0].chain)
        async with asyncio.timeout(LIMIT_S):
            await rt.drain()
        await assert_usable(a, b)


async def test_three_that_cross_in_a_ring_are_refused_once() -> None:
    meet = asyncio.Barrier(3)
    agents = [Actor(name) for name in "abc"]
    for number, agent in enumerate(agents):
        agent.act = crossing("ask", meet, agents[(number + 1) % 3])
    results = await outcomes(*(agent(message()) for agent in agents))
    assert sum(isinstance(each, DeadlockError) for each in results) == 1, results
    await assert_usable(*agents)


async def test_a_reply_passed_as_a_message_closes_a_circle() -> None:
    a, b = Actor("a"), Actor("b")
    async with Runtime():

        async def submit_to_self_and_ask(x: Any) -> Any:
            if x.text == "begin":
                later = a.submit(message("later"))  # comes after this turn
                return await b(later)  # which b waits for
            return None

        a.act = submit_to_self_and_ask
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(DeadlockError) as caught:
                await a(message("begin"))
        assert set(caught.value.chain) == {"a", "b"}
        await assert_usable(a, b)


async def test_awaiting_ones_own_later_turn_is_refused() -> None:
    a = Actor("a")

    async def act(x: Any) -> Any:
        return await a.submit(message("later")) if x.text == "begin" else None

    a.act = act
    async with Runtime(), asyncio.timeout(LIMIT_S):
        with pytest.raises(DeadlockError, match="a -> a"):
            await a(message("begin"))
        await assert_usable(a)


async def test_a_reply_that_others_work_on_is_waited_for() -> None:
    a, b, c = Actor("a"), Actor("b"), Actor("c")
    gate = asyncio.Event()
    c.act = lambda x: gate.wait()
    async with Runtime(), asyncio.timeout(LIMIT_S):
        first = c.submit(message())
        second = b.submit(first)
        a.act = lambda x: second
        third = start(a(message()))
        await steps()
        gate.set()
        assert (await third).text == "b answers"


async def test_a_circle_through_gather_ends_the_reply_that_gathers() -> None:
    a, b, c = Actor("a"), Actor("b"), Actor("c")
    a.act = lambda x: asyncio.gather(b(message()), c(message()))
    c.act = asking(a)
    assert (await ask_for_error(a)).chain == ("a", "c", "a")
    await steps()
    await assert_usable(a, b, c)


async def test_a_circle_through_a_stream_is_refused() -> None:
    a, b = Actor("a"), Actor("b")

    async def stream_b(x: Any) -> None:
        async with b.stream(message()) as stream:
            async for _ in stream:
                pass

    a.act, b.act = stream_b, asking(a)
    assert (await ask_for_error(a)).chain == ("a", "b", "a")
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(DeadlockError):
            await stream_b(None)
    await assert_usable(a, b)


async def test_asking_the_one_who_is_streamed_does_not_hang() -> None:
    speaker, reader = Actor("speaker"), Actor("reader")

    async def speak(x: Any) -> None:
        if x.text == "long":
            for number in range(200):
                await speaker.speak(Speech("text", str(number)))

    async def ask_while_reading(x: Any) -> None:
        async with speaker.stream(message("long")) as stream:
            async for _ in stream:
                await speaker(message("short"))
                break

    speaker.act = speak
    reader.act = ask_while_reading
    async with asyncio.timeout(LIMIT_S):
        await reader(message())
        await ask_while_reading(None)
    await assert_usable(speaker, reader)


async def test_posting_to_the_full_mailbox_of_one_who_waits_for_us_is_refused() -> None:
    a, b = Actor("a", capacity=1), Actor("b")

    async def post_back(x: Any) -> None:
        await a.post(message("room for this"))
        await a.post(message("and not for this"))

    a.act = lambda x: b(message()) if x.text == "begin" else asyncio.sleep(0)
    b.act = post_back
    async with Runtime() as rt, asyncio.timeout(LIMIT_S):
        with pytest.raises(DeadlockError, match="a -> b -> a"):
            await a(message("begin"))
        await rt.drain()
        assert rt.dead_letters.total == 0
        await assert_usable(a, b)


async def test_a_handler_may_catch_the_error_and_go_on() -> None:
    a, b = Actor("a"), Actor("b")

    async def try_a(x: Any) -> Msg:
        with pytest.raises(DeadlockError):
            await a(message())
        return Msg("b", "without a, then", "assistant")

    a.act, b.act = asking(b), try_a
    async with asyncio.timeout(LIMIT_S):
        assert (await a(message())).text == "without a, then"


# -- no circles --


async def test_a_hundred_thousand_nested_calls_without_a_circle_are_served() -> None:
    # Ten layers: each agent asks some of the layer below, at once or one after another,
    # under many callers at a time, so that they meet in every order.
    layers = [[Actor(f"agent{depth}.{number}") for number in range(4)] for depth in range(10)]
    calls = 0

    def below(depth: int, number: int) -> Callable[[Any], Awaitable[Any]]:
        first, second = layers[depth + 1][number], layers[depth + 1][(number + 1) % 4]

        async def act(x: Any) -> None:
            nonlocal calls
            calls += 2
            if (number + depth) % 2:
                await asyncio.gather(first(x), second(x))
            else:
                await first(x)
                await second(x)

        return act

    for depth, layer in enumerate(layers[:-1]):
        for number, agent in enumerate(layer):
            agent.act = below(depth, number)
    callers = 100
    results = await outcomes(*(layers[0][number % 4](message(number)) for number in range(callers)))
    assert {type(each) for each in results} == {Msg}, results
    assert calls + callers == callers * (2**10 - 1) > 100_000
    assert all(agent.mailbox.is_idle for layer in layers for agent in layer)


async def test_a_background_task_that_outlives_its_turn_is_not_accused() -> None:
    a, b = Actor("a"), Actor("b")
    gate = asyncio.Event()
    background: list[asyncio.Task[Any]] = []

    async def later() -> Any:
        await gate.wait()
        return await a(message("from the background"))

    async def begin(x: Any) -> None:
        if x.text == "begin":
            background.append(start(later()))

    a.act = begin
    b.act = asking(a)
    async with asyncio.timeout(LIMIT_S):
        await a(message("begin"))
        hold = asyncio.Event()
        a.act = lambda x: hold.wait()
        running = start(a(message("busy")))
        await steps()
        gate.set()  # now it asks, from a context in which a turn of the agent was open
        await steps()
        crossing = start(b(message()))
        await steps()
        hold.set()
        assert (await background[0]).text == "a answers"
        await asyncio.gather(running, crossing)


async def test_a_background_task_blocked_over_a_retry_is_left_alone() -> None:
    busy, a = Actor("busy"), Actor("a")
    hold = asyncio.Event()
    busy.act = lambda x: hold.wait()
    background: list[asyncio.Task[Any]] = []

    async def fail_once(x: Any) -> None:
        if not background:
            background.append(start(busy(message())))
            await steps()
            raise ValueError("once")

    a.act = fail_once
    async with Runtime(post_attempts=2) as rt, asyncio.timeout(LIMIT_S):
        first = start(busy(message()))
        await steps()
        await a.post(message())
        await rt.drain()
        hold.set()
        await first
        assert (await background[0]).text == "busy answers"
        assert rt.dead_letters.total == 0


async def test_many_waiting_for_one_are_all_served() -> None:
    shared = Actor("shared", lambda x: asyncio.sleep(0))
    callers = [Actor(f"caller{number}", asking(shared)) for number in range(300)]
    results = await outcomes(*(caller(message()) for caller in callers))
    assert {type(each) for each in results} == {Msg}, results


# -- hubs that call back --


@asynccontextmanager
async def runtime_or_none(is_open: bool) -> AsyncIterator[Runtime | None]:
    async with Runtime() if is_open else nullcontext() as rt, asyncio.timeout(LIMIT_S):
        yield rt


with_and_without_runtime = pytest.mark.parametrize("has_runtime", [False, True])


@with_and_without_runtime
async def test_a_listener_may_call_the_speaker_back(has_runtime: bool) -> None:
    speaker, listener = Actor("speaker"), Listener("listener")
    answers: list[str] = []

    async def call_back(x: Any) -> None:
        if len(listener.heard) < 3:
            answers.append((await speaker(message("and then?"))).text)

    listener.hear = call_back
    async with runtime_or_none(has_runtime) as rt, msghub([speaker, listener]):
        await speaker(message())
        await steps(50)
        if rt is not None:
            await rt.drain()
        await speaker(message())
        await steps(50)
        assert answers == ["speaker answers"] * 2
        assert listener.heard == ["speaker answers"] * 4  # each reply reached it
        await assert_usable(speaker)


@with_and_without_runtime
async def test_a_posted_speaker_may_be_called_back(has_runtime: bool) -> None:
    speaker, listener = Actor("speaker"), Listener("listener")
    listener.hear = lambda x: speaker(message()) if len(listener.heard) < 2 else asyncio.sleep(0)
    async with Runtime() as rt, asyncio.timeout(LIMIT_S), msghub([speaker, listener]):
        await (speaker.post(message()) if has_runtime else speaker(message()))
        await rt.drain()
        await steps(50)
        assert listener.heard == ["speaker answers"] * 2
        assert rt.dead_letters.total == 0


@with_and_without_runtime
async def test_two_listeners_who_ask_each_other_do_not_hang(has_runtime: bool) -> None:
    speaker, one, two = Actor("speaker"), Listener("one"), Listener("two")
    one.hear = lambda x: two(message()) if x.text == "speaker answers" else asyncio.sleep(0)
    two.hear = lambda x: one(message()) if x.text == "speaker answers" else asyncio.sleep(0)
    async with runtime_or_none(has_runtime), msghub([speaker, one, two]):
        assert (await speaker(message())).text == "speaker answers"
        await steps(50)
    await assert_usable(speaker, one, two)


@with_and_without_runtime
async def test_a_listener_whose_letter_is_run_by_another_asker_may_ask_that_one(has_runtime: bool) -> None:
    asker, speaker, listener = Actor("asker"), Actor("speaker"), Listener("listener")
    hold = asyncio.Event()
    asker.act = lambda x: listener(message()) if x.text == "begin" else asyncio.sleep(0)
    listener.act = lambda x: hold.wait()
    listener.hear = asking(asker)
    async with runtime_or_none(has_runtime), msghub([speaker, listener]):
        asked = start(asker(message("begin")))
        await steps()
        await speaker(message())  # queued for the listener; whoever ends the turn before sees to it
        hold.set()
        assert (await asked).text == "listener answers"
        await steps(50)
        assert listener.heard == ["speaker answers"]
    listener.hear = None
    await assert_usable(asker, speaker, listener)


@with_and_without_runtime
async def test_a_listener_is_not_accused_of_a_wait_of_the_speakers_caller(has_runtime: bool) -> None:
    moderator, speaker, listener = Actor("moderator"), Actor("speaker"), Listener("listener")
    hold, end = asyncio.Event(), asyncio.Event()
    answers: list[Msg] = []

    async def moderate(x: Any) -> None:
        if x.text == "begin":
            await speaker(message())
            await end.wait()

    async def call_back(x: Any) -> None:
        answers.append(await moderator(message()))

    moderator.act = moderate
    listener.act = lambda x: hold.wait()
    listener.hear = call_back
    async with runtime_or_none(has_runtime), msghub([speaker, listener]):
        busy = start(listener(message()))
        await steps()
        moderating = start(moderator(message("begin")))
        await steps()
        hold.set()  # the listener hears it now, in the task of the one who kept it busy
        await steps()
        end.set()
        await asyncio.gather(busy, moderating)
        await steps(50)
        assert [each.text for each in answers] == ["moderator answers"]


@with_and_without_runtime
async def test_a_speaker_that_hears_others_and_asks_a_listener_does_not_hang(has_runtime: bool) -> None:
    speaker, listener, third = Listener("speaker"), Listener("listener"), Actor("third")
    hold = asyncio.Event()

    async def ask_listener(x: Any) -> None:
        if x.text == "third answers":
            await listener(message())

    speaker.act = lambda x: hold.wait()
    speaker.hear = ask_listener
    async with runtime_or_none(has_runtime), msghub([speaker, listener, third]):
        speaking = start(speaker(message()))
        await steps()
        await third(message())  # queued for the speaker, whose turn it is
        hold.set()
        assert (await speaking).text == "speaker answers"
        await steps(50)
    await assert_usable(speaker, listener, third)


@with_and_without_runtime
async def test_a_cancelled_asker_does_not_keep_listeners_from_hearing(has_runtime: bool) -> None:
    speaker, listener, third = Listener("speaker"), Listener("listener"), Actor("third")
    hold, never = asyncio.Event(), asyncio.Event()
    speaker.act = lambda x: hold.wait()
    speaker.hear = lambda x: never.wait()
    listener.hear = lambda x: never.wait()
    async with runtime_or_none(has_runtime), msghub([speaker, listener, third]):
        speaking = start(speaker(message()))
        await steps()
        telling = start(third(message()))
        await steps()
        hold.set()
        await steps()
        for task in (speaking, telling):
            task.cancel()
        never.set()
        await asyncio.wait([speaking, telling])
        await assert_usable(speaker, listener, third)


async def test_a_cancelled_asker_of_a_listener_while_a_runtime_is_left_keeps_nobody() -> None:
    speaker, listener, held = Actor("speaker"), Listener("listener"), Actor("held")
    never, hold = asyncio.Event(), asyncio.Event()
    listener.act = lambda x: never.wait()
    held.act = lambda x: hold.wait()

    async def leave() -> None:
        async with Runtime():
            await held.post(message())

    async with asyncio.timeout(LIMIT_S), msghub([speaker, listener]):
        busy = start(listener(message()))
        await steps()
        await speaker(message())  # queued for the listener
        leaving = start(leave())
        await steps()
        busy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await busy
        hold.set()
        await leaving
        await assert_usable(listener)


# -- from inside one's own turn --


async def test_observing_reading_and_stopping_oneself_does_not_hang() -> None:
    async def act(x: Any) -> None:
        await agent.observe(message("remembered"))
        state = await agent.state()
        assert len(state["memory"]) == 1
        await agent.load_state(state)
        await agent.stop()

    agent = Actor("agent", act)
    async with asyncio.timeout(LIMIT_S):
        assert (await agent(message())).text == "agent answers"
    assert agent.memory is not None
    assert agent.memory.size() == 1
    assert agent.mailbox.is_idle


async def test_stopping_a_caller_from_below_does_not_hang() -> None:
    a, b = Actor("a"), Actor("b")
    a.act = asking(b)
    b.act = lambda x: a.stop()
    async with asyncio.timeout(LIMIT_S):
        assert (await a(message())).text == "b answers"
    assert a.mailbox.is_stopped
    assert a.mailbox.is_idle
    await assert_usable(b)


async def test_the_state_of_a_caller_is_refused_from_below() -> None:
    a, b = Actor("a"), Actor("b")
    a.act = asking(b)
    b.act = lambda x: a.state()
    assert (await ask_for_error(a)).chain == ("a", "b", "a")
    await assert_usable(a, b)


async def test_who_waits_on_whom_is_shown_and_forgotten() -> None:
    a, b = Actor("a"), Actor("b")
    hold = asyncio.Event()
    b.act = lambda x: hold.wait()
    a.act = asking(b)
    async with Runtime() as rt, asyncio.timeout(LIMIT_S):
        busy = start(b(message()))
        await steps()
        waiting = start(a(message()))
        await steps()
        assert rt.graph() == [("a", "b")]
        hold.set()
        await asyncio.gather(busy, waiting)
        assert rt.graph() == []
