"""The mailbox as its users see it: order, counts, capacity, stopping."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentscope_async import Msg, Runtime, msghub
from agentscope_async._turn import Turn
from agentscope_async.agents import AgentBase
from agentscope_async.errors import (
    AgentStoppedError,
    ConfigError,
    DeadlockError,
    MailboxFullError,
    RuntimeClosedError,
    WrongLoopError,
)

POLICIES = ("wait", "reject", "drop_oldest", "drop_newest")
SENDS = 100_000


class Actor(AgentBase):
    """Does with each message what a function says."""

    def __init__(self, name: str, act: Callable[[Any], Awaitable[Any]] | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.act = act
        self.handled: list[str] = []

    async def reply(self, x: Any = None) -> Msg:
        self._remember(x)
        if self.act is not None:
            await self.act(x)
        self.handled.append(x.text)
        return Msg(self.name, f"re: {x.text}", "assistant")


class Counter(AgentBase):
    """Reads its count, waits, and writes it back: right only if nobody comes between."""

    def __init__(self) -> None:
        super().__init__("counter")
        self.count = 0

    async def reply(self, x: Any = None) -> Msg:
        count = self.count
        await asyncio.sleep(0)
        self.count = count + 1
        return Msg(self.name, f"{x.text} was number {count}", "assistant")


def message(text: object) -> Msg:
    return Msg("sender", str(text), "user")


def held(name: str = "agent", **options: Any) -> tuple[Actor, asyncio.Event]:
    """Return an agent that does not end a turn before the event is set."""
    gate = asyncio.Event()

    async def wait(x: Any) -> None:
        await gate.wait()

    return Actor(name, wait, **options), gate


async def steps(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def start(work: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(work)


async def waiting(agent: AgentBase, count: int) -> None:
    """Return once so many letters wait."""
    async with asyncio.timeout(10):
        while agent.mailbox.statistics().waiting != count:
            await asyncio.sleep(0)


# -- order --


async def test_a_thousand_concurrent_asks_get_their_own_answers_in_order() -> None:
    agent = Counter()
    ended: list[int] = []

    async def ask(number: int) -> str:
        answer = await agent(message(number))
        ended.append(number)
        return answer.text

    answers = await asyncio.gather(*(ask(number) for number in range(1000)))

    assert answers == [f"{number} was number {number}" for number in range(1000)]
    assert ended == list(range(1000))
    assert agent.count == 1000
    assert agent.mailbox.statistics()[:3] == (0, 1000, 0)
    assert agent.mailbox.is_idle


async def test_posts_observes_and_asks_of_twenty_senders_keep_each_senders_order() -> None:
    running = 0

    async def alone(x: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1

    agent = Actor("agent", alone, capacity=50)
    chance = random.Random(7)
    answers: list[tuple[str, str]] = []

    async def sender(number: int) -> None:
        for index in range(100):
            text = f"{number}:{index}"
            match chance.randrange(4):
                case 0:
                    await agent.post(message(text))
                case 1:
                    await agent.observe(message(text))
                case 2:
                    agent.submit(message(text))
                case _:
                    answers.append((text, (await agent(message(text))).text))
            if not chance.randrange(5):
                await asyncio.sleep(0)

    async with Runtime() as rt:
        await asyncio.gather(*(sender(number) for number in range(20)))
        await rt.drain()
        assert rt.dead_letters.total == 0

    assert agent.memory is not None
    seen = [unit.text for unit in agent.memory.get_memory()]  # type: ignore[union-attr]
    for number in range(20):
        mine = [text for text in seen if text.startswith(f"{number}:")]
        assert mine == [f"{number}:{index}" for index in range(100)]
    assert all(answer == f"re: {text}" for text, answer in answers)
    assert agent.mailbox.statistics()[:5] == (0, 2000, 0, 0, 0)


async def test_an_agent_hears_a_hub_in_the_order_of_speaking_among_other_mail() -> None:
    listener, gate = held("listener")
    speaker = Actor("speaker")
    async with Runtime() as rt, msghub([speaker, listener]):
        busy = start(listener(message("first")))
        await steps()
        await speaker(message("a"))
        await listener.post(message("second"))
        await speaker(message("b"))
        gate.set()
        await busy
        await rt.drain()

    assert listener.memory is not None
    texts = [unit.text for unit in listener.memory.get_memory()]  # type: ignore[union-attr]
    assert [text for text in texts if text != "re: first"] == ["first", "re: a", "second", "re: b"]


# -- the queue and cancellation --


async def test_a_waiter_cancelled_just_as_its_turn_came_passes_it_on() -> None:
    agent, gate = held()
    first, second, third = (start(agent(message(number))) for number in (1, 2, 3))
    await waiting(agent, 2)
    gate.set()
    while not first.done():
        await asyncio.sleep(0)
    # The first has just ended and so has opened the turn of the second, which has not run yet.
    assert agent.mailbox.statistics().waiting == 1
    assert agent.handled == ["1"]
    second.cancel()

    async with asyncio.timeout(10):
        assert (await third).text == "re: 3"
    with pytest.raises(asyncio.CancelledError):
        await second
    assert agent.handled == ["1", "3"]
    assert agent.mailbox.is_idle


@pytest.mark.parametrize("is_last", [True, False])
async def test_a_waiter_cancelled_in_the_step_before_its_turn_is_skipped(is_last: bool) -> None:
    agent, gate = held()
    first, second = start(agent(message(1))), start(agent(message(2)))
    third = None if is_last else start(agent(message(3)))
    await steps()
    gate.set()  # the first goes on before the second learns that it is cancelled
    second.cancel()

    async with asyncio.timeout(10):
        assert (await first).text == "re: 1"
        if third is not None:
            assert (await third).text == "re: 3"
    with pytest.raises(asyncio.CancelledError):
        await second
    assert agent.mailbox.is_idle
    assert agent.mailbox.statistics()[:5] == (0, 1 if is_last else 2, 0, 0, 0)


async def test_cancelled_waiters_leave_the_queue() -> None:
    agent, gate = held()
    tasks = [start(agent(message(number))) for number in range(100)]
    await waiting(agent, 99)
    for task in tasks[1::2]:
        task.cancel()
    await waiting(agent, 49)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert agent.handled == [str(number) for number in range(0, 100, 2)]
    assert [isinstance(each, asyncio.CancelledError) for each in results] == [False, True] * 50


# -- capacity --


@pytest.mark.parametrize("policy", POLICIES)
async def test_every_one_of_100_000_sends_is_accounted_for(policy: Any) -> None:
    handled = answered = refused_asks = refused_posts = asks = 0

    class Quick(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            nonlocal handled
            handled += 1
            if not handled % 7:
                await asyncio.sleep(0)
            return x

    agent = Quick("agent", capacity=8, overflow=policy, use_memory=False)
    letter = message("x")

    async def ask() -> None:
        nonlocal answered, refused_asks
        try:
            await agent(letter)
            answered += 1
        except MailboxFullError:
            refused_asks += 1

    chance = random.Random(3)
    async with Runtime() as rt:
        sent = 0
        while sent < SENDS:
            burst = min(chance.randrange(1, 40), SENDS - sent)
            tasks = [start(ask()) for _ in range(burst // 5)]
            asks += len(tasks)
            if burst % 2:
                await asyncio.sleep(0)  # the asks are the older letters, or else the newer ones
            for _ in range(burst - len(tasks)):
                try:
                    await agent.post(letter)
                except MailboxFullError:
                    refused_posts += 1
            sent += burst
            await asyncio.sleep(0)
            if tasks:
                await asyncio.wait(tasks)
        await rt.drain()
        dead = rt.dead_letters.total

    waiting, done, failed, rejected, dropped, _ = agent.mailbox.statistics()
    assert sent == SENDS
    assert (waiting, failed) == (0, 0)
    assert done == handled
    assert SENDS == handled + rejected + dropped
    assert asks == answered + refused_asks
    if policy == "wait":
        assert (rejected, dropped, dead, refused_asks, refused_posts) == (0, 0, 0, 0, 0)
    elif policy == "reject":
        assert (dropped, dead) == (0, 0)
        assert rejected == refused_asks + refused_posts > 1000
    else:
        assert (rejected, refused_posts) == (0, 0)
        assert dropped == refused_asks + dead > 1000
    assert refused_asks > 0 or policy == "wait"


async def test_reject_names_the_capacity_and_the_agent() -> None:
    agent, gate = held("judge", capacity=2, overflow="reject")
    async with Runtime():
        tasks = [start(agent(message(number))) for number in range(3)]
        await waiting(agent, 2)
        for send in (agent(message("ask")), agent.post(message("post")), agent.observe(message("observe"))):
            with pytest.raises(MailboxFullError, match=r"'judge' is full: 2 letters") as caught:
                await send
            assert (caught.value.agent, caught.value.capacity, caught.value.overflow) == (
                "judge",
                2,
                "reject",
            )
        with pytest.raises(MailboxFullError):
            agent.submit(message("submit"))
        gate.set()
        await asyncio.gather(*tasks)
    assert agent.mailbox.statistics()[:5] == (0, 3, 0, 4, 0)


async def test_drop_oldest_tells_an_asker_and_buries_a_post() -> None:
    agent, gate = held(capacity=2, overflow="drop_oldest")
    async with Runtime() as rt:
        running = start(agent(message("running")))
        await steps()
        oldest = start(agent(message("oldest")))
        await waiting(agent, 1)
        await agent.post(message("second"))
        submitted = agent.submit(message("third"))
        with pytest.raises(MailboxFullError):
            await oldest
        await agent.post(message("fourth"))
        await agent.post(message("fifth"))
        with pytest.raises(MailboxFullError):
            await submitted
        gate.set()
        await running
        await rt.drain()
        assert [(each.msg.text, each.reason) for each in rt.dead_letters] == [("second", "mailbox full")]
    assert agent.handled == ["running", "fourth", "fifth"]
    assert agent.mailbox.statistics()[:5] == (0, 3, 0, 0, 3)


async def test_drop_newest_tells_an_asker_and_buries_a_post() -> None:
    agent, gate = held(capacity=1, overflow="drop_newest")
    async with Runtime() as rt:
        running = start(agent(message("running")))
        await steps()
        await agent.post(message("kept"))
        await agent.post(message("dropped"))
        with pytest.raises(MailboxFullError):
            await agent(message("asked"))
        reply = agent.submit(message("submitted"))
        with pytest.raises(MailboxFullError):
            await reply
        gate.set()
        await running
        await rt.drain()
        assert [(each.msg.text, each.reason) for each in rt.dead_letters] == [("dropped", "mailbox full")]
    assert agent.handled == ["running", "kept"]


async def test_a_cancelled_asker_is_not_counted_as_dropped() -> None:
    agent, gate = held(capacity=1, overflow="drop_oldest")
    async with Runtime() as rt:
        running = start(agent(message("running")))
        await steps()
        cancelled = start(agent(message("cancelled")))
        await waiting(agent, 1)
        cancelled.cancel()
        await agent.post(message("kept"))  # before the other task learns of it
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        gate.set()
        await running
        await rt.drain()
    assert agent.handled == ["running", "kept"]
    assert agent.mailbox.statistics()[:5] == (0, 2, 0, 0, 0)


async def test_a_blocked_post_goes_on_when_there_is_room() -> None:
    turns = asyncio.Semaphore(0)

    async def one_turn(x: Any) -> None:
        await turns.acquire()

    agent = Actor("agent", one_turn, capacity=2)
    async with Runtime() as rt:
        for number in range(3):
            await agent.post(message(number))
        third, fourth = start(agent.post(message(3))), start(agent.post(message(4)))
        await steps()
        assert not third.done()
        turns.release()
        await asyncio.wait_for(third, 10)
        await steps()
        assert not fourth.done()
        turns.release()
        await asyncio.wait_for(fourth, 10)
        for _ in range(3):
            turns.release()
        await rt.drain()
    assert agent.handled == ["0", "1", "2", "3", "4"]


async def test_a_cancelled_blocked_post_is_taken_back_and_blocks_nobody() -> None:
    agent, gate = held(capacity=1)
    async with Runtime() as rt:
        for number in range(2):
            await agent.post(message(number))
        third, fourth, fifth = (start(agent.post(message(number))) for number in (2, 3, 4))
        await waiting(agent, 4)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert agent.mailbox.statistics().waiting == 3
        fifth.cancel()
        gate.set()
        async with asyncio.timeout(10):
            await fourth
            await asyncio.wait([fifth])
            await rt.drain()  # what was taken back is not waited for
        assert rt.dead_letters.total == 0
    assert agent.handled[:3] == ["0", "1", "3"]
    assert "2" not in agent.handled


async def test_a_listener_that_gets_room_in_the_very_next_step_does_not_hold_the_speaker() -> None:
    go = asyncio.Event()

    async def wait(x: Any) -> None:
        await go.wait()

    speaker, other = Actor("speaker", wait), Actor("other")
    listeners = [Actor(f"listener{number}", wait, capacity=1) for number in range(2)]
    async with msghub([speaker, other, *listeners]):
        speaking = start(speaker(message("speak")))  # first, so that it wakes before the listeners do
        await steps()
        busy = [start(each(message("busy"))) for each in listeners]
        await steps()
        await other(message("fills the mailboxes"))
        go.set()
        async with asyncio.timeout(10):
            assert (await speaking).text == "re: speak"
            await asyncio.gather(*busy)


async def test_stopping_a_full_listener_does_not_fail_the_speaker() -> None:
    speaker, other = Actor("speaker"), Actor("other")
    listener, gate = held("listener", capacity=1)
    async with msghub([speaker, other, listener]):
        busy = start(listener(message("busy")))
        await steps()
        await other(message("fills the mailbox"))
        speaking = start(speaker(message("speak")))
        await steps()
        assert not speaking.done()
        stopping = start(listener.stop())
        await steps()
        gate.set()
        async with asyncio.timeout(10):
            assert (await speaking).text == "re: speak"
            await asyncio.gather(busy, stopping)


@pytest.mark.parametrize("options", [{"capacity": 0}, {"capacity": 1.5}, {"overflow": "explode"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Actor("agent", **options)


# -- statistics --


async def test_statistics_count_what_happened() -> None:
    async def act(x: Any) -> None:
        if x.text == "bad":
            raise ValueError(x.text)
        if x.text == "wait":
            await gate.wait()

    gate = asyncio.Event()
    agent = Actor("agent", act)
    assert agent.mailbox.statistics() == (0, 0, 0, 0, 0, 0.0)
    running = start(agent(message("wait")))
    await steps()
    queued = [start(agent(message(text))) for text in ("bad", "good", "good")]
    await waiting(agent, 3)
    assert not agent.mailbox.is_idle
    gate.set()
    await asyncio.wait([running, *queued])
    for task in queued[:1]:
        with pytest.raises(ValueError, match="bad"):
            await task

    found = agent.mailbox.statistics()
    assert (found.waiting, found.handled, found.failed, found.rejected, found.dropped) == (0, 3, 1, 0, 0)
    assert found.longest_wait_s > 0
    assert agent.mailbox.is_idle


async def test_a_failing_turn_does_not_leave_the_mailbox_held() -> None:
    async def fail(x: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError(x.text)

    agent = Actor("agent", fail)
    async with Runtime() as rt:
        results = await asyncio.gather(*(agent(message(n)) for n in range(50)), return_exceptions=True)
        for number in range(50):
            await agent.post(message(number))
        await rt.drain()
        assert [(each.reason, type(each.error)) for each in rt.dead_letters] == [("failed", ValueError)] * 50
    assert [str(each) for each in results] == [str(number) for number in range(50)]
    assert agent.mailbox.statistics()[:3] == (0, 0, 100)
    assert agent.memory is not None
    assert agent.memory.size() == 0


# -- stopping --


async def test_stop_ends_the_wait_of_askers_and_buries_posts() -> None:
    agent, gate = held()
    async with Runtime() as rt:
        running = start(agent(message("running")))
        await steps()
        asked, observed = start(agent(message("asked"))), start(agent.observe(message("observed")))
        await steps()
        await agent.post(message("posted"))
        reply = agent.submit(message("submitted"))
        stopping = start(agent.stop())
        for waiter in (asked, observed, reply):
            with pytest.raises(AgentStoppedError):
                await asyncio.wait_for(asyncio.ensure_future(waiter), 10)
        await steps()
        assert not stopping.done()  # the turn that runs is let run
        gate.set()
        assert (await running).text == "re: running"
        await asyncio.wait_for(stopping, 10)
        assert [(each.msg.text, each.reason) for each in rt.dead_letters] == [("posted", "agent stopped")]
        for send in (agent(message(1)), agent.post(message(1)), agent.observe(message(1))):
            with pytest.raises(AgentStoppedError):
                await send
        with pytest.raises(AgentStoppedError):
            agent.submit(message(1))
        await rt.drain()
    assert agent.mailbox.is_stopped
    assert agent.mailbox.is_idle


async def test_stop_tells_a_post_that_waits_for_room() -> None:
    agent, gate = held(capacity=1)
    async with Runtime() as rt:
        for number in range(2):
            await agent.post(message(number))
        blocked = start(agent.post(message("blocked")))
        await waiting(agent, 2)
        stopping = start(agent.stop())
        with pytest.raises(AgentStoppedError):
            await asyncio.wait_for(blocked, 10)
        gate.set()
        await asyncio.wait_for(stopping, 10)
        await rt.drain()
        assert [each.msg.text for each in rt.dead_letters] == ["1"]


async def test_stop_may_be_called_any_number_of_times() -> None:
    idle = Actor("idle")
    for _ in range(3):
        await idle.stop()
    agent, gate = held()
    running = start(agent(message("running")))
    await steps()
    stops = [start(agent.stop()) for _ in range(3)]
    await steps()
    stops[1].cancel()  # one who stops waiting for the end does not end the waiting of others
    await steps()
    assert not stops[0].done()
    gate.set()
    async with asyncio.timeout(10):
        await stops[0]
        await stops[2]
        await running
        await agent.stop()


@pytest.mark.parametrize("how", ["ask", "post"])
async def test_stop_from_its_own_handler_returns_at_once(how: str) -> None:
    async def stop(x: Any) -> None:
        async with asyncio.timeout(10):
            await agent.stop()
            await agent.stop()

    agent = Actor("agent", stop)
    async with Runtime() as rt:
        if how == "ask":
            answer, late = await asyncio.gather(
                agent(message("one")), agent(message("two")), return_exceptions=True
            )
            assert isinstance(answer, Msg)
            assert isinstance(late, AgentStoppedError)
        else:
            await agent.post(message("one"))
            await agent.post(message("two"))
            await rt.drain()
            assert [(each.msg.text, each.reason) for each in rt.dead_letters] == [("two", "agent stopped")]
    assert agent.handled == ["one"]
    assert agent.mailbox.is_idle


async def test_ten_thousand_asks_to_a_stopped_agent_fail_within_a_second() -> None:
    agent = Actor("agent")
    await agent.stop()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for _ in range(10_000):
        with pytest.raises(AgentStoppedError):
            await agent(message("x"))
    assert loop.time() - begin < 2.0  # the context managers of this test take a part
    results = await asyncio.gather(*(agent(message("x")) for _ in range(1000)), return_exceptions=True)
    assert {type(each) for each in results} == {AgentStoppedError}


async def test_a_runtime_that_is_left_answers_for_its_letters() -> None:
    agent, gate = held()
    running = start(agent(message("held by somebody else")))
    await steps()
    async with Runtime(grace=0) as rt:
        await agent.post(message("posted"))
        reply = agent.submit(message("submitted"))
    with pytest.raises(RuntimeClosedError):
        await reply
    assert [(each.msg.text, each.reason) for each in rt.dead_letters] == [("posted", "runtime closed")]
    gate.set()
    assert (await running).text == "re: held by somebody else"
    assert agent.handled == ["held by somebody else"]
    assert agent.mailbox.is_idle


# -- a faulty neighbour --


class BrokenMemory:
    """Stands for a store whose disk is full."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)

    def __getattr__(self, name: str) -> Any:
        def method(*args: Any, **kwargs: Any) -> None:
            if name in self.broken:
                raise OSError(f"{name}: the disk is full")

        return method


@pytest.mark.parametrize("method", ["mark", "rollback"])
async def test_a_memory_that_fails_does_not_leave_the_mailbox_held(method: str) -> None:
    async def act(x: Any) -> None:
        if x.text == "bad":
            raise ValueError("bad")

    memory: Any = BrokenMemory(method)
    agent = Actor("agent", act, memory=memory)
    with pytest.raises((OSError, ValueError)):
        await asyncio.wait_for(agent(message("bad")), 10)
    memory.broken.clear()
    assert (await asyncio.wait_for(agent(message("good")), 10)).text == "re: good"


async def test_a_listener_whose_memory_fails_does_not_fail_the_speaker() -> None:
    memory: Any = BrokenMemory("add")
    speaker, listener = Actor("speaker"), Actor("listener", memory=memory)
    async with msghub([speaker, listener]):
        for text in ("one", "two"):
            assert (await asyncio.wait_for(speaker(message(text)), 10)).text == f"re: {text}"
    assert listener.mailbox.statistics()[:3] == (0, 0, 2)


async def test_an_audience_of_something_else_is_refused_and_holds_nobody() -> None:
    agent = Actor("agent")
    with pytest.raises(TypeError, match="agent"):
        agent.reset_audience([object()])
    assert (await asyncio.wait_for(agent(message("x")), 10)).text == "re: x"


async def test_posting_to_ones_own_full_mailbox_is_refused() -> None:
    async def post_to_self(x: Any) -> None:
        if x.text == "begin":
            for number in range(2):
                await agent.post(message(number))
            with pytest.raises(DeadlockError):
                await agent.post(message("one too many"))

    agent = Actor("agent", post_to_self, capacity=2)
    async with Runtime() as rt:
        await asyncio.wait_for(agent(message("begin")), 10)
        await rt.drain()
    assert agent.handled == ["begin", "0", "1"]


async def test_turns_that_have_ended_are_not_kept() -> None:
    def count_turns() -> int:
        gc.collect()
        return sum(isinstance(each, Turn) for each in gc.get_objects())

    agent = Actor("agent")
    before = count_turns()
    for _ in range(200):
        await agent(message("x"))
    assert count_turns() < before + 10


async def test_an_interrupted_post_is_not_tried_again() -> None:
    begun = asyncio.Event()

    class Slow(AgentBase):
        turns = 0

        async def reply(self, x: Any = None) -> Msg:
            self.turns += 1
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with Runtime(post_attempts=3) as rt, asyncio.timeout(30):
        agent = Slow("slow")
        await agent.post("x")
        await begun.wait()
        await agent.interrupt("enough")
        await rt.drain()
        assert agent.turns == 1
        assert [letter.reason for letter in rt.dead_letters] == ["failed"]


async def test_an_agent_that_is_busy_in_another_threads_loop_says_so() -> None:
    hold, begun = asyncio.Event(), asyncio.Event()
    agent = Actor("agent", lambda x: begun.set() or hold.wait())
    asked = asyncio.create_task(agent(message("x")))
    await begun.wait()

    def elsewhere() -> None:
        asyncio.run(agent(message("y")))

    with pytest.raises(WrongLoopError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(elsewhere)
    hold.set()
    assert (await asked).text == "re: x"
    assert agent.handled == ["x"]
