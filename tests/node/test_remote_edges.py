"""Remote agents in corners: two runtimes, agents made half, no room for what is said on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node.nodes import Actor, Gate, error_of, nodes, nothing_goes_on, until

from agentscope_async import DialogAgent, ForbiddenError, Grant, MessageError, Msg, Runtime
from agentscope_async.node._waits import Asked
from agentscope_async.node.events import CannotSend
from agentscope_async.node.report import NodeReport

TOKEN = "t" * 40
ECHO = {"config_name": "echo of the node", "model_type": "fake_echo"}
SECRET = "/etc/hostname"


async def test_an_agent_made_for_another_node_belongs_to_the_runtime_it_is_made_in() -> None:
    host = Runtime(listen="mem://o", node="o", token=TOKEN, allow=[DialogAgent], model_configs=[ECHO])
    async with nothing_goes_on(), host, Runtime() as inner, Runtime(token=TOKEN) as guest:
        config = {"name": "d", "model": "echo of the node"}
        agent = await guest.spawn("mem://o", "DialogAgent", config, key="d")
        assert (await agent("hello")).text
        assert host.node.exports.find("d", guest.node.name).agent._runtime is host
        assert inner is not host


async def test_no_other_node_has_an_agent_remember_a_file_of_this_machine() -> None:
    host = Runtime(listen="mem://o", token=TOKEN, allow=[DialogAgent])
    async with nothing_goes_on(), host, Runtime(token=TOKEN) as guest:
        agent = await guest.spawn("mem://o", "DialogAgent", {"name": "d", "model": "fake:echo"})
        remembered = Msg("user", "look", "user", url=SECRET).to_dict()
        with pytest.raises(MessageError, match="no file"):
            await agent.load_state({"memory": [remembered]})
        assert (await agent.state())["memory"] == []


async def test_a_node_that_takes_the_name_of_a_child_is_not_trusted_like_one() -> None:
    async with nothing_goes_on(), Runtime(listen="mem://p", node="p", token=TOKEN) as parent:
        parent.node.started["p-child-1"] = "ws://127.0.0.1:1"  # as for one that runs
        parent.export("see", Actor("see"))
        async with Runtime(node="p-child-1", token=TOKEN) as impostor:
            message = Msg("user", "look", "user", url=SECRET)
            assert type(await error_of(impostor.agent("mem://p/see")(message))) is MessageError
            assert await parent.node.bridge_to("p-child-1") is None


async def test_what_waits_for_room_to_say_something_on_the_way_goes_on_when_there_is() -> None:
    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        two.export("a", Actor("a"))
        remote = one.agent("mem://two/a")
        await remote("hello")
        session = next(iter(one.node._bridges)).link.session
        is_first = True

        def introduce(x: Any, bridge: Any) -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                with pytest.raises(CannotSend) as full:
                    while True:
                        session.tell("_node", {"to": "a", "path": ["one/x~1"]}, op="probe")
                raise full.value

        one.node.introduce = introduce  # type: ignore[method-assign]
        await asyncio.wait_for(remote.post(Actor("b").submit("x")), 30)
        assert (await remote("still there")).text


async def test_letters_still_in_the_mailboxes_may_use_remote_agents_when_the_runtime_is_left() -> None:
    gate = Gate()
    async with nothing_goes_on(), Runtime(listen="mem://far", exports=[Actor("far")]) as far:
        async with Runtime() as runtime:
            remote = runtime.agent("mem://far/far")
            await remote("connected")

            async def pass_on(x: Any) -> Any:
                await gate(x)
                return await remote(x)

            near = Actor("near", pass_on)
            for _ in range(3):
                await near.post("x")
            asyncio.get_running_loop().call_later(0.05, gate.opened.set)
        assert list(runtime.dead_letters) == []
        assert near.mailbox.statistics().handled == 3
        await until(lambda: len(far.node._bridges) == 0)


@pytest.mark.parametrize(
    "change", [{"key": "\x1b]0;x\x07"}, {"waiting": "\x1b[2J"}, {"name": 7}, {"more": 1}, {"handled": None}]
)
def test_a_report_that_is_none_is_refused(change: dict[str, Any]) -> None:
    agent = {"key": "k", "name": "n", "kind": "K", "waiting": 0, "handled": 0, "failed": 0, "is_busy": False}
    report = {"node": "n", "agents": [agent], "waits": []}
    assert NodeReport.from_dict(report).to_dict() == report
    agent.update(change)
    with pytest.raises(MessageError, match="cannot be read"):
        NodeReport.from_dict(report)


async def test_who_is_dialed_has_no_rights_by_the_name_it_says() -> None:
    grants = {"owner": Grant(spawn=[DialogAgent], is_owner=True)}
    dialer = Runtime(node="d", token={"owner": TOKEN}, allow=grants, exports={"a": Actor("a")})
    async with nothing_goes_on(), Runtime(listen="mem://x", node="owner") as impostor, dialer:
        await dialer.ps("mem://x")
        bridge = next(iter(impostor.node._bridges))
        asked = Asked("a", None, is_heard=False)
        bridge.ask("a", {"x": None}, asked)
        with pytest.raises(ForbiddenError):
            await asked.answer
        with pytest.raises(ForbiddenError):
            await impostor.node.spawn_at(bridge, "DialogAgent", {"name": "n"}, "n")
        assert not next(iter(dialer.node._bridges)).is_family
