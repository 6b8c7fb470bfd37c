"""Hubs, pipelines and fan-outs take remote agents for what they are: agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from node.nodes import Actor, Gate, answer, message, nodes, nothing_goes_on, outcomes, until

from agentscope_async import (
    Msg,
    Runtime,
    SequentialPipeline,
    debate,
    gather,
    msghub,
    quorum,
    race,
    sequentialpipeline,
    vote,
)
from agentscope_async.errors import ConnectFailed
from agentscope_async.pipelines import AgentFailure


@pytest.fixture
async def three() -> AsyncIterator[list[Runtime]]:
    async with nothing_goes_on(), nodes("one", "two", "three") as runtimes:
        yield runtimes


def remembered(agent: Actor) -> list[str]:
    return [each.text for each in agent.memory.get_memory()]


class Counting(Actor):
    """Says how much it remembers, and remembers that."""

    async def reply(self, x: Any = None, **kwargs: Any) -> Msg:
        self.memory.add(x)
        said = answer(self.name, {"size": self.memory.size()})
        self.memory.add(said)
        return said


async def test_d09_a_hub_of_local_and_remote_agents_remembers_as_v0_0_2_does(three: list[Runtime]) -> None:
    one, two, three_ = three
    two.export("b", Counting("b"))
    three_.export("c", Counting("c"))
    a, b, c = Counting("a"), one.agent("mem://two/b"), one.agent("mem://three/c")
    sizes = []
    async with msghub([a, b, c], announcement=[message("first"), message("second")]):
        x: Any = None
        for agent in (a, b, c, a, b, c):
            x = await agent(x)
            sizes.append(x.content["size"])
        x = await sequentialpipeline([a, b, c], x)
        sizes.append(x.content["size"])
    assert sizes == [2, 3, 4, 5, 6, 7, 10]


async def test_what_a_remote_member_says_all_others_hear_in_order(three: list[Runtime]) -> None:
    one, two, three_ = three
    there, far, here = Actor("there"), Actor("far"), Actor("here")
    two.export("a", there)
    three_.export("a", far)
    remote, other = one.agent("mem://two/a"), one.agent("mem://three/a")
    async with msghub([remote, other, here], announcement="welcome") as hub:
        for number in range(20):
            there.act = lambda x, n=number: f"said {n}"
            await remote(message("go"))
        hub.delete(other)
        await hub.broadcast("bye")
    await remote(message("afterwards"))
    said = [f"said {n}" for n in range(20)]
    assert remembered(here) == ["welcome", *said, "bye"]
    await other.state()
    assert remembered(far) == ["welcome", *said]


async def test_hubs_nest_around_remote_agents_and_each_message_is_heard_once(three: list[Runtime]) -> None:
    one, two, _ = three
    there, here = Actor("there"), Actor("here")
    two.export("a", there)
    remote = one.agent("mem://two/a")
    async with msghub([remote, here]), msghub([here, remote], announcement="inner"):
        await here("x")
        await remote("y")
    await remote.state()
    assert remembered(there) == ["inner", "here answers", "y"]
    assert remembered(here) == ["inner", "x", "there answers"]


async def test_a_slow_remote_listener_does_not_hold_up_the_speaker(three: list[Runtime]) -> None:
    one, two, _ = three
    gate = Gate()
    there, here = Actor("there", gate), Actor("here")
    two.export("a", there)
    remote = one.agent("mem://two/a")
    stuck = asyncio.ensure_future(remote("x"))
    await gate.entered.wait()
    async with msghub([remote, here]):
        for number in range(20):
            assert (await here(str(number))).text == "here answers"
    gate.opened.set()
    await stuck
    await until(lambda: len(remembered(there)) == 21)


async def test_a_remote_listener_that_is_gone_gets_dead_letters_and_the_hub_goes_on(
    three: list[Runtime],
) -> None:
    one, two, _ = three
    there, here = Actor("there"), Actor("here")
    two.export("a", there)
    gone, remote = one.agent("mem://nowhere/a"), one.agent("mem://two/a")
    async with msghub([gone, here, remote], announcement="welcome"):
        assert (await here("x")).text == "here answers"
    await remote.state()
    assert remembered(there) == ["welcome", "here answers"]
    await until(lambda: len(one.dead_letters) == 2)
    assert {type(each.error) for each in one.dead_letters} == {ConnectFailed}


async def test_a_message_too_large_for_a_remote_listener_does_not_fail_its_speaker(
    three: list[Runtime],
) -> None:
    one, two, _ = three
    two.export("a", Actor("there"))
    remote = one.agent("mem://two/a")
    await remote.state()
    here, near = Actor("here", lambda x: "x" * 40_000_000), Actor("near")
    async with msghub([remote, here, near]):
        await here("x")
    assert len(remembered(near)) == 1
    await until(lambda: len(one.dead_letters) == 1)


async def test_d08_a_loop_over_remote_local_and_remote_agents_counts_to_six(three: list[Runtime]) -> None:
    def add(x: Any) -> dict[str, int]:
        return {"n": (x.content["n"] if isinstance(x.content, dict) else 0) + 1}

    one, two, three_ = three
    two.export("a", Actor("a", add))
    three_.export("c", Actor("c", add))
    x: Any = message("start")
    for _ in range(2):
        x = await SequentialPipeline([one.agent("mem://two/a"), Actor("b", add), one.agent("mem://three/c")])(
            x
        )
    assert x.content == {"n": 6}


async def test_fan_outs_ask_remote_agents(three: list[Runtime]) -> None:
    one, two, three_ = three
    gate = Gate()
    two.export("a", Actor("a", lambda x: "yes"))
    two.export("stuck", Actor("stuck", gate))
    three_.export("c", Actor("c", lambda x: "yes"))
    a, c, stuck = one.agent("mem://two/a"), one.agent("mem://three/c"), one.agent("mem://two/stuck")
    no = one.agent("mem://two/nobody")
    here = Actor("here", lambda x: "no")
    assert [each.text for each in await gather([a, here, c], "x")] == ["yes", "no", "yes"]
    kept = await gather([a, no], "x", on_error="keep")
    assert isinstance(kept[1], AgentFailure)
    assert kept[1].name == "nobody"
    assert (await race([stuck, a], "x")).text == "yes"
    assert len(await quorum([stuck, no, a, c], "x", k=2)) == 2
    assert (await vote([here, a, c], "x")).text == "yes"
    await until(lambda: gate.begun == gate.ended)
    assert gate.cancelled == gate.begun, "whoever lost is cancelled over there"


async def test_a_debate_can_be_held_between_remote_agents(three: list[Runtime]) -> None:
    one, two, three_ = three
    pro, con, judge = Actor("pro"), Actor("con"), Actor("judge")
    two.export("pro", pro)
    three_.export("con", con)
    result = await debate(
        one.agent("mem://two/pro"), one.agent("mem://three/con"), judge, topic="t", rounds=3
    )
    assert [each.name for each in result.messages if each.name in ("pro", "con")] == ["pro", "con"] * 3
    assert result.verdict.name == "judge"
    await outcomes(one.agent("mem://two/pro").state())
    assert remembered(pro).count("con answers") == 3


async def test_replies_go_through_a_chain_of_remote_agents_without_waiting(three: list[Runtime]) -> None:
    one, two, three_ = three
    gate = Gate()
    two.export("a", Actor("a", gate))
    three_.export("b", Actor("b", lambda x: f"b heard {x.text}"))
    first = one.agent("mem://two/a").submit("x")
    last = one.agent("mem://three/b").submit(first)
    await gate.entered.wait()
    assert not last.done()
    gate.opened.set()
    assert (await last).text == "b heard a answers"
