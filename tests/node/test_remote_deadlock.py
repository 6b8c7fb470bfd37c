"""Waits that go round through several nodes are refused with their path; all others are left alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from node.nodes import LIMIT_S, Actor, Gate, error_of, nodes, nothing_goes_on, outcomes, steps

from agentscope_async.errors import DeadlockError

if TYPE_CHECKING:
    from agentscope_async import Runtime
    from agentscope_async.node.remote import RemoteAgent


@pytest.fixture
async def ring() -> AsyncIterator[list[Runtime]]:
    async with nothing_goes_on(), nodes("n0", "n1", "n2", "n3", "n4", "n5") as runtimes:
        yield runtimes


def place(runtime: Runtime, key: str) -> Actor:
    """An agent of this name, on this node."""
    agent = Actor(key)
    runtime.export(key, agent)
    return agent


def seen_from(runtime: Runtime, other: Runtime, key: str) -> RemoteAgent:
    return runtime.agent(f"{other.url}/{key}")


def asking(agent: Any) -> Any:
    return lambda x: agent(x)


async def assert_usable(*agents: Actor) -> None:
    for agent in agents:
        agent.act = None
        async with asyncio.timeout(LIMIT_S):
            assert (await agent("x")).text == f"{agent.name} answers"
        assert agent.mailbox.is_idle


@pytest.mark.parametrize("size", range(1, 7))
async def test_a_ring_of_asks_over_nodes_is_refused_with_its_path(ring: list[Runtime], size: int) -> None:
    agents = [place(ring[n], f"a{n}") for n in range(size)]
    for n, agent in enumerate(agents):
        following = (n + 1) % size
        agent.act = asking(seen_from(ring[n], ring[following], f"a{following}"))
    error = await error_of(agents[0]("x"))
    assert type(error) is DeadlockError
    expected = (
        [f"a{n}" for n in range(size)] if size > 1 else ["a0", "a0"]
    )  # it is asked from elsewhere: itself
    assert [name.rpartition("/")[2] for name in error.chain[:-1]] == expected
    assert error.chain[0].rpartition("/")[2] == error.chain[-1].rpartition("/")[2]
    await assert_usable(*agents)


@pytest.mark.parametrize("size", range(2, 7))
async def test_asks_that_cross_in_a_ring_are_found_and_at_most_one_is_refused(
    ring: list[Runtime], size: int
) -> None:
    agents = [place(ring[n], f"a{n}") for n in range(size)]
    everyone = asyncio.Barrier(size)

    def crossing(remote: RemoteAgent) -> Any:
        async def act(x: Any) -> Any:
            if x.text != "first":
                return "answered"
            await everyone.wait()
            try:
                return (await remote("second")).text
            except DeadlockError as error:
                return ("refused", *error.chain)

        return act

    for n, agent in enumerate(agents):
        following = (n + 1) % size
        agent.act = crossing(seen_from(ring[n], ring[following], f"a{following}"))
    got = [each.content for each in await outcomes(*(agent("first") for agent in agents))]
    refused = [each for each in got if each != "answered"]
    assert len(refused) == 1, got
    assert len(refused[0]) == size + 2
    await assert_usable(*agents)


async def test_a_circle_that_begins_with_a_remote_caller_is_refused(ring: list[Runtime]) -> None:
    one, two, outside = ring[:3]
    a, b = place(one, "a"), place(two, "b")
    a.act, b.act = asking(seen_from(one, two, "b")), asking(seen_from(two, one, "a"))
    error = await error_of(seen_from(outside, one, "a")("x"))
    assert type(error) is DeadlockError
    await assert_usable(a, b)


@pytest.mark.parametrize("how", ["submit", "stream", "observe", "state"])
async def test_a_circle_is_refused_however_it_is_closed(ring: list[Runtime], how: str) -> None:
    one, two = ring[:2]
    a, b = place(one, "a"), place(two, "b")
    there, back = seen_from(one, two, "b"), seen_from(two, one, "a")

    async def act(x: Any) -> Any:
        if how == "submit":
            return (await there.submit(x)).text
        if how == "stream":
            async with there.stream(x) as stream:
                async for _ in stream:
                    pass
            return stream.msg.text
        return (await there(x)).text

    a.act = act
    b.act = {"observe": lambda x: back.observe(x), "state": lambda x: back.state()}.get(how, asking(back))
    assert type(await error_of(a("x"))) is DeadlockError
    await assert_usable(a, b)


async def test_a_circle_through_a_local_agent_between_is_refused(ring: list[Runtime]) -> None:
    one, two = ring[:2]
    a, between, b = place(one, "a"), place(one, "between"), place(two, "b")
    a.act = asking(between)
    between.act = asking(seen_from(one, two, "b"))
    b.act = asking(seen_from(two, one, "a"))
    error = await error_of(a("x"))
    assert type(error) is DeadlockError
    assert [name.rpartition("/")[2] for name in error.chain] == ["a", "between", "b", "a"]
    await assert_usable(a, between, b)


async def test_a_circle_through_an_ask_that_is_not_sent_yet_is_refused(ring: list[Runtime]) -> None:
    one, two = ring[:2]
    a, b = place(one, "a"), place(two, "b")
    remote = seen_from(one, two, "b")
    b_is_on = asyncio.Event()
    a_is_on = asyncio.Event()

    async def ask_back(x: Any) -> Any:
        b_is_on.set()
        await a_is_on.wait()
        return (await seen_from(two, one, "a")("back")).text if x.text == "first" else None

    async def ask_there(x: Any) -> Any:
        if x.text == "back":
            return None
        a_is_on.set()
        return (await remote("from a")).text

    a.act, b.act = ask_there, ask_back
    waiting = [asyncio.ensure_future(remote("first"))]
    await b_is_on.wait()
    waiting += [asyncio.ensure_future(remote(str(n))) for n in range(70)]  # no room for the ask of a
    await steps()
    asked = asyncio.ensure_future(a("x"))
    await asyncio.wait([asked, *waiting], timeout=2, return_when=asyncio.FIRST_COMPLETED)
    found = any(each.done() for each in (asked, *waiting))
    for each in (asked, *waiting):
        each.cancel()
    assert found
    assert DeadlockError in {type(each) for each in await outcomes(asked, *waiting)}


async def test_ten_thousand_acyclic_calls_raise_no_false_alarm(ring: list[Runtime]) -> None:
    size = 12
    agents = [place(ring[n % 6], f"a{n}") for n in range(size)]
    calls = 0

    def further(n: int) -> Any:
        remotes = [seen_from(ring[n % 6], ring[other % 6], f"a{other}") for other in range(n + 1, size)]
        pick = random.Random(n)

        async def act(x: Any) -> None:
            nonlocal calls
            calls += 1
            if remotes and pick.random() < 0.6:
                await asyncio.gather(*(each("x") for each in pick.sample(remotes, min(2, len(remotes)))))

        return act

    for n, agent in enumerate(agents):
        agent.act = further(n)
    while calls < 10_000:
        got = await outcomes(*(agent("x") for agent in agents[:6] for _ in range(20)))
        assert {type(each).__name__ for each in got} == {"Msg"}


async def test_what_only_looks_like_a_circle_is_left_alone(ring: list[Runtime]) -> None:
    one, two = ring[:2]
    a, b, c = place(one, "a"), place(two, "b"), place(one, "c")
    to_a, to_b = seen_from(two, one, "a"), seen_from(one, two, "b")

    b.act = lambda x: to_a.post("news")  # a letter back is no wait
    a.act = lambda x: to_b(x) if x.text == "x" else None
    await error_free(a("x"))

    twin = Actor("a")  # another agent of the same name
    one.export("twin", twin)
    b.act = asking(seen_from(two, one, "twin"))
    await error_free(a("x"))

    b.act = None
    c.act = asking(to_b)
    a.act = lambda x: asyncio.gather(to_b(x), c(x)) if x.text == "x" else None  # both ask the same
    got = await outcomes(one.agent("mem://n1/b")("x"), c("x"))
    assert {type(each).__name__ for each in got} == {"Msg"}


async def error_free(work: Any) -> Any:
    (got,) = await outcomes(work)
    assert not isinstance(got, BaseException), repr(got)
    return got


async def test_work_left_behind_by_a_turn_may_ask_that_agent_again(ring: list[Runtime]) -> None:
    one, two = ring[:2]
    a, b = place(one, "a"), place(two, "b")
    left: list[asyncio.Task[Any]] = []
    gate = Gate()

    async def later() -> Any:
        await gate()
        return await seen_from(two, one, "a")("again")

    async def leave(x: Any) -> None:
        left.append(asyncio.ensure_future(later()))

    b.act = leave
    a.act = lambda x: seen_from(one, two, "b")(x) if x.text == "x" else None
    await error_free(a("x"))
    gate.opened.set()
    assert (await error_free(left[0])).text == "a answers"


async def test_a_long_wait_that_is_no_circle_is_probed_and_left_alone(
    ring: list[Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentscope_async.node import _waits, bridge

    monkeypatch.setattr(bridge, "PROBE_EVERY_S", 0.001)
    probes = 0
    probe_on = _waits.Waits.probe_on

    def count(self: Any, *args: Any) -> None:
        nonlocal probes
        probes += 1
        probe_on(self, *args)

    monkeypatch.setattr(_waits.Waits, "probe_on", count)
    one, two, three = ring[:3]
    a, b, c = place(one, "a"), place(two, "b"), place(three, "c")
    gate = Gate()
    a.act, b.act, c.act = asking(seen_from(one, two, "b")), asking(seen_from(two, three, "c")), gate
    waiting = [asyncio.ensure_future(agent("x")) for agent in (a, b, c, a, b, c)]
    async with asyncio.timeout(LIMIT_S):
        while probes < 100:
            await asyncio.sleep(0)
    gate.opened.set()
    assert {type(each).__name__ for each in await outcomes(*waiting)} == {"Msg"}
