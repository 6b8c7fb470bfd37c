"""What AgentScope v0.0.2 could do between processes, row by row; rows are proven elsewhere in more depth."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node.nodes import Actor, Gate, error_of, message, nodes, nothing_goes_on, outcomes, until

from agentscope_async import Msg, Runtime
from agentscope_async.errors import ConnectFailed, ForbiddenError, ReplyExpiredError
from agentscope_async.node._replies import Replies


async def test_b08_a_reply_that_is_not_there_yet_can_be_sent_and_is_resolved_elsewhere() -> None:
    async with nothing_goes_on(), nodes("one", "two", "three") as (one, two, three):
        gate = Gate()
        two.export("a", Actor("ann", gate))
        three.export("b", Actor("bob", lambda x: f"got {x.text}"))
        reply = one.agent("mem://two/a").submit("x")
        asking = asyncio.ensure_future(one.agent("mem://three/b")(reply))
        await gate.entered.wait()
        assert not reply.done()
        gate.opened.set()
        assert (await asking).text == "got ann answers"


async def test_b09_awaiting_a_failed_reply_raises_the_error_from_over_there() -> None:
    def fail(x: Any) -> None:
        raise ValueError("over there")

    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        two.export("a", Actor("ann", fail))
        with pytest.raises(ValueError, match="over there"):
            await one.agent("mem://two/a").submit("x")


async def test_d06_a_submission_returns_before_the_reply_is_there() -> None:
    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        gate = Gate()
        two.export("a", Actor("ann", gate))
        reply = one.agent("mem://two/a").submit("x")
        await gate.entered.wait()
        assert not reply.done()
        gate.opened.set()
        assert (await reply).text == "ann answers"


async def test_d07_submissions_run_at_the_same_time_and_chain_without_waiting() -> None:
    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        together = asyncio.Barrier(3)
        for key in "abc":
            two.export(key, Actor(key, lambda x: together.wait()))
        remotes = [one.agent(f"mem://two/{key}") for key in "abc"]
        await outcomes(*(remote.submit("x") for remote in remotes))  # passes only if all three run at once
        for key in "abc":
            two.node.exports.find(key, "one").agent.act = lambda x, key=key: f"{x.text}{key}"
        x: Any = message("")
        for remote in remotes:
            x = remote.submit(x)
        assert (await x).text == "abc"


async def test_d10_what_is_observed_second_is_handled_second() -> None:
    class Clerk(Actor):
        async def observe(self, x: Any) -> None:
            self.got.append(x)

    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        clerk = Clerk("clerk")
        two.export("c", clerk)
        remote = one.agent("mem://two/c")
        first, second = remote.submit("1"), asyncio.ensure_future(remote.observe("2"))
        await asyncio.sleep(0)
        third = remote.submit("3")
        await outcomes(first, second, third)
        assert clerk.texts == ["1", "2", "3"]


async def test_d12_a_result_beyond_what_is_kept_raises_instead_of_hanging() -> None:
    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        two.node.replies = Replies(limit=2, ttl_s=1800)
        two.export("a", Actor("ann"))
        replies = [one.agent("mem://two/a").submit(str(n)) for n in range(5)]
        await until(lambda: two.node.exports.find("a", "one").agent.mailbox.statistics().handled == 5)
        await until(lambda: len(two.node.replies) == 2)
        got = await outcomes(*replies)
        assert sum(type(each) is ReplyExpiredError for each in got) == 3
        assert sum(isinstance(each, Msg) for each in got) == 2


async def test_d13_an_error_is_reported_the_agent_goes_on_and_a_dead_peer_is_an_error() -> None:
    def fail_once(x: Any) -> str:
        if x.text == "bad":
            raise KeyError("bad")
        return "good"

    async with nothing_goes_on(), Runtime() as guest:
        async with Runtime(listen="ws://127.0.0.1:0", exports={"a": Actor("ann", fail_once)}) as host:
            remote = guest.agent(f"{host.url}/a")
            assert type(await error_of(remote("bad"))) is KeyError
            assert (await remote("x")).text == "good"
        assert type(await error_of(remote("x"))) is ConnectFailed


async def test_d14_a_hundred_pending_waits_keep_no_new_call_from_being_served() -> None:
    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        gate = Gate()
        two.export("stuck", Actor("stuck", gate))
        two.export("a", Actor("ann"))
        waiting = [
            asyncio.ensure_future(one.agent("mem://two/stuck").submit("x")._wait()) for _ in range(100)
        ]
        await gate.entered.wait()
        assert (await one.agent("mem://two/a")("x")).text == "ann answers"
        assert (await one.agent("mem://two/a").submit("x")).text == "ann answers"
        gate.opened.set()
        await outcomes(*waiting)


async def test_d15_only_what_is_meant_for_others_can_be_called_from_outside() -> None:
    async with nothing_goes_on(), nodes("one", "two") as (one, two):
        two.export("a", Actor("ann"))
        remote = one.agent("mem://two/a")
        for op in ("__del__", "export_config", "load_memory", "_take_turn", "reset_audience"):
            assert type(await error_of(remote._ask(None, None, None, op))) is ForbiddenError
