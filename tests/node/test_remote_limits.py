"""Time limits, cancellation and traces cross nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from node.nodes import LIMIT_S, Actor, Gate, error_of, nodes, nothing_goes_on, outcomes, steps, until

from agentscope_async import Runtime, _context
from agentscope_async.errors import AskTimeoutError, ConfigError


@pytest.fixture
async def five() -> AsyncIterator[list[Runtime]]:
    async with nothing_goes_on(), nodes("n0", "n1", "n2", "n3", "n4") as runtimes:
        yield runtimes


def chained(runtimes: list[Runtime], last: Any) -> list[Actor]:
    """One agent on each node, of which each asks the next, and the last does what is given."""
    agents = [Actor(f"a{n}") for n in range(len(runtimes))]
    for n, (runtime, agent) in enumerate(zip(runtimes, agents, strict=True)):
        runtime.export("a", agent)
        following = runtime.agent(f"mem://n{n + 1}/a")
        agent.act = (lambda x, following=following: following(x)) if n + 1 < len(runtimes) else last
    return agents


async def assert_idle(*agents: Actor) -> None:
    await until(lambda: all(agent.mailbox.is_idle for agent in agents))


async def test_a_time_limit_ends_the_work_on_all_five_nodes(five: list[Runtime]) -> None:
    gate = Gate()
    agents = chained(five, gate)
    async with Runtime() as guest:
        error = await error_of(guest.agent("mem://n0/a", timeout_s=0.1)("x"))
        assert type(error) is AskTimeoutError
        assert isinstance(error, TimeoutError)
        await gate.left.wait()
        await assert_idle(*agents)
        agents[-1].act = None
        assert (await guest.agent("mem://n0/a")("x")).text == "a4 answers"


async def test_the_deadline_of_the_first_is_that_of_the_last(five: list[Runtime]) -> None:
    deadlines: list[Any] = []
    chained(five, lambda x: deadlines.append(_context.deadline.get()))
    loop = asyncio.get_running_loop()
    async with Runtime() as guest:
        before = loop.time()
        await guest.agent("mem://n0/a", timeout_s=1000)("x")
        after = loop.time()
        await guest.agent("mem://n0/a")("x")
    limited, unlimited = deadlines
    assert before + 999 < limited < after + 1001
    assert unlimited is None


async def test_the_runtimes_time_limit_holds_for_remote_agents() -> None:
    gate = Gate()
    async with nothing_goes_on(), nodes("n0") as (host,), Runtime(ask_timeout_s=0.05) as guest:
        host.export("a", Actor("ann", gate))
        remote = guest.agent("mem://n0/a")
        assert type(await error_of(remote("x"))) is AskTimeoutError
        async with asyncio.timeout(LIMIT_S):
            await gate.left.wait()


async def test_a_time_limit_set_later_holds_for_remote_agents_made_before() -> None:
    gate = Gate()
    async with nothing_goes_on(), nodes("n0") as (host,), Runtime() as guest:
        host.export("a", Actor("ann", gate))
        remote = guest.agent("mem://n0/a")
        guest.ask_timeout_s = 0.05
        assert type(await error_of(remote("x"))) is AskTimeoutError


async def test_what_expires_in_the_queue_never_begins(five: list[Runtime]) -> None:
    gate = Gate()
    agent = Actor("ann", gate)
    five[0].export("ann", agent)
    async with Runtime() as guest:
        patient, hasty = guest.agent("mem://n0/ann"), guest.agent("mem://n0/ann", timeout_s=0.05)
        first = asyncio.ensure_future(patient("first"))
        await gate.entered.wait()
        for error in await outcomes(*(hasty(str(n)) for n in range(100))):
            assert type(error) is AskTimeoutError
        gate.opened.set()
        await first
        await patient("last")
        assert agent.texts == ["first", "last"]


async def test_work_that_outlives_its_turn_does_not_keep_its_deadline(five: list[Runtime]) -> None:
    other = five[0].agent("mem://n1/other")
    five[1].export("other", Actor("other"))
    begun: list[asyncio.Task[Any]] = []
    ended = asyncio.Event()

    async def later() -> Any:
        await ended.wait()
        return await other("afterwards")

    async def begin(x: Any) -> str:
        begun.append(asyncio.create_task(later()))
        return "begun"

    five[0].export("a", Actor("a", begin))
    async with Runtime() as guest:
        await guest.agent("mem://n0/a", timeout_s=0.2)("x")
        await asyncio.sleep(0.3)
        ended.set()
        assert (await begun[0]).text == "other answers"


async def test_a_cancelled_ask_ends_the_handlers_over_three_hops(five: list[Runtime]) -> None:
    gate = Gate()
    agents = chained(five[:4], gate)
    async with Runtime() as guest:
        asking = asyncio.ensure_future(guest.agent("mem://n0/a")("x"))
        await gate.entered.wait()
        asking.cancel()
        async with asyncio.timeout(LIMIT_S):
            await gate.left.wait()
        assert gate.cancelled == 1
        await assert_idle(*agents)
        assert [agent.mailbox.statistics().failed for agent in agents] == [1, 1, 1, 1]


async def test_cancelling_one_ask_leaves_the_others_alone(five: list[Runtime]) -> None:
    gate = Gate()
    agent = Actor("ann", gate)
    five[0].export("ann", agent)
    async with Runtime() as guest:
        remote = guest.agent("mem://n0/ann")
        asking = [asyncio.ensure_future(remote(str(n))) for n in range(20)]
        await gate.entered.wait()
        await until(lambda: agent.mailbox.statistics().waiting == 19)
        for each in asking[::2]:
            each.cancel()
        await steps()
        gate.opened.set()
        got = await outcomes(*asking)
        assert [isinstance(each, asyncio.CancelledError) for each in got] == [True, False] * 10
        await assert_idle(agent)
        assert agent.texts == ["0", *(str(n) for n in range(1, 20, 2))]


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_limit_of_nothing_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError):
        Runtime(ask_timeout_s=seconds)


async def test_a_trace_crosses_every_node_with_its_message(five: list[Runtime]) -> None:
    seen: list[Any] = []
    chained(five, lambda x: seen.append((x.text, _context.trace_id.get())))
    async with Runtime() as guest:
        remote = guest.agent("mem://n0/a")
        for trace in ("one", None, "two"):
            _context.trace_id.set(trace)
            await remote(f"{trace}")
            await remote.submit(f"{trace}")
            await remote.post(f"{trace}")
            await until(lambda: len(seen) % 3 == 0)
    assert len(seen) == 9
    assert all(text == str(trace) for text, trace in seen), seen


@pytest.mark.parametrize("kind", ["post", "submit", "ask"])
async def test_messages_that_queue_keep_their_own_traces(five: list[Runtime], kind: str) -> None:
    seen: list[Any] = []
    gate = Gate()

    async def act(x: Any) -> None:
        await gate()
        seen.append((x.text, _context.trace_id.get()))

    five[0].export("ann", Actor("ann", act))
    async with Runtime() as guest:
        remote = guest.agent("mem://n0/ann")
        sent: list[Any] = []
        for trace in ("one", None, "two", None):
            _context.trace_id.set(trace)
            if kind == "post":
                await remote.post(str(trace))
            elif kind == "submit":
                sent.append(remote.submit(str(trace))._wait())
            else:
                sent.append(asyncio.ensure_future(remote(str(trace))))
        _context.trace_id.set(None)
        await gate.entered.wait()
        gate.opened.set()
        await outcomes(*sent)
        await until(lambda: len(seen) == 4)
    assert all(text == str(trace) for text, trace in seen), seen
