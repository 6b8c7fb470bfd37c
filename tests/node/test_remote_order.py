"""What one sender sends to one agent of another node is handled in that order, and holds up no other."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from node.nodes import LIMIT_S, Actor, Gate, error_of, nodes, nothing_goes_on, outcomes, steps, until

from agentscope_async import Msg, Runtime
from agentscope_async.errors import ConnectFailed, InterruptedTurnError, RuntimeClosedError

if TYPE_CHECKING:
    from agentscope_async.node.remote import RemoteAgent

CREDIT = 64
"""So many frames may be under way to one agent."""


class Clerk(Actor):
    """Writes down whatever it replies to or observes."""

    async def observe(self, x: Any) -> None:
        self.got.append(x)


def start(kind: str, remote: RemoteAgent, x: Any) -> asyncio.Future[Any]:
    """Send as one does who goes on without waiting."""
    if kind == "submit":
        return asyncio.ensure_future(remote.submit(x)._wait())
    work = {"ask": remote, "post": remote.post, "observe": remote.observe}[kind](x)
    return asyncio.ensure_future(work)


KINDS = ("ask", "post", "observe", "submit")


@pytest.mark.parametrize("listen", ["mem://host", "ws://127.0.0.1:0"], ids=["mem", "ws"])
@pytest.mark.parametrize("state", ["open", "connecting", "stuck"])
@pytest.mark.parametrize("seed", range(3))
async def test_what_one_sender_sends_is_handled_in_its_order(listen: str, state: str, seed: int) -> None:
    choices = random.Random(seed).choices(KINDS, k=300)
    gate = Gate()
    clerk = Clerk("clerk")
    async with nothing_goes_on(), Runtime(listen=listen, exports={"c": clerk}) as host, Runtime() as guest:
        remote = guest.agent(f"{host.url}/c")
        if state == "open":
            await remote.state()
        if state == "stuck":
            clerk.act = lambda x: gate() if x.text == "stuck" else None
            first = asyncio.ensure_future(remote("stuck"))
            await gate.entered.wait()
        sent = []
        for number, kind in enumerate(choices):
            sent.append(start(kind, remote, str(number)))
            await asyncio.sleep(0)  # an ask is sent when its task first runs
        if state == "stuck":
            await steps()
            assert clerk.texts == ["stuck"]
            gate.opened.set()
            await first
            clerk.got.pop(0)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*sent)
        await until(lambda: len(clerk.got) == len(choices))
        assert clerk.texts == [str(number) for number in range(len(choices))]


async def test_fifty_senders_and_twenty_agents_keep_all_their_orders() -> None:
    senders, agents, each = 50, 20, 8
    clerks = {f"c{number}": Clerk(f"c{number}") for number in range(agents)}
    async with nothing_goes_on(), nodes("host", exports=clerks) as (host,), Runtime() as guest:

        async def send(sender: int) -> None:
            pick = random.Random(sender)
            remotes = [guest.agent(f"{host.url}/{key}") for key in clerks]
            under_way = []
            for number in range(each):
                for remote in pick.sample(remotes, agents):
                    under_way.append(start(pick.choice(KINDS), remote, Msg(str(sender), number, "user")))
                    await asyncio.sleep(0)
            await asyncio.gather(*under_way)

        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(send(sender) for sender in range(senders)))
        await until(lambda: sum(len(clerk.got) for clerk in clerks.values()) == senders * agents * each)
        for clerk in clerks.values():
            heard = defaultdict(list)
            for msg in clerk.got:
                heard[msg.name].append(msg.content)
            assert heard == {str(sender): list(range(each)) for sender in range(senders)}


async def test_an_agent_handles_one_message_at_a_time_whoever_sends() -> None:
    inside = most = 0

    async def act(x: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await steps(3)
        inside -= 1

    async with nodes("host", "one", "two") as (host, one, two):
        agent = Actor("ann", act)
        host.export("a", agent)
        remotes = [each.agent("mem://host/a") for each in (one, two)]
        await outcomes(*(remote("x") for remote in remotes * 20), *(agent("x") for _ in range(10)))
    assert most == 1
    assert len(agent.got) == 50


async def test_a_stuck_agent_holds_up_no_other_of_its_node() -> None:
    gate = Gate()
    async with nodes("host", "guest") as (host, guest):
        host.export("stuck", Actor("stuck", gate))
        host.export("a", Actor("ann"))
        stuck, remote = guest.agent("mem://host/stuck"), guest.agent("mem://host/a")
        waiting = [asyncio.ensure_future(stuck(str(n))) for n in range(3 * CREDIT)]
        waiting += [asyncio.ensure_future(stuck.submit(str(n))._wait()) for n in range(3 * CREDIT)]
        await gate.entered.wait()
        await steps()
        for number in range(100):
            assert (await remote(str(number))).text == "ann answers"
            assert (await remote.submit(str(number))).text == "ann answers"
        assert [each.key for each in (await guest.ps("mem://host")).agents] == ["stuck", "a"]
        gate.opened.set()
        assert {each.text for each in await outcomes(*waiting)} == {"stuck answers"}


async def test_posts_to_a_stuck_agent_are_held_back_in_the_end() -> None:
    gate = Gate()
    async with nodes("host", "guest") as (host, guest):
        agent = Actor("ann", gate)
        host.export("a", agent)
        remote = guest.agent("mem://host/a")
        taken = []

        async def send() -> None:
            for number in range(2 * CREDIT):
                await remote.post(str(number))
                taken.append(number)

        sending = asyncio.ensure_future(send())
        await gate.entered.wait()
        await steps(100)
        assert len(taken) == CREDIT
        gate.opened.set()
        await sending
        await until(lambda: len(agent.got) == 2 * CREDIT)
        assert agent.texts == [str(number) for number in range(2 * CREDIT)]


async def test_a_message_whose_sender_gave_up_before_it_was_sent_is_never_handled() -> None:
    gate = Gate()
    async with nodes("host", "guest") as (host, guest):
        agent = Actor("ann", gate)
        host.export("a", agent)
        remote = guest.agent("mem://host/a")
        waiting = [asyncio.ensure_future(remote(str(n))) for n in range(CREDIT)]
        await gate.entered.wait()
        await steps()
        late = [start(kind, remote, f"late {kind}") for kind in ("ask", "post", "observe")]
        reply = remote.submit("late submit")
        last = asyncio.ensure_future(remote("last"))
        await steps()
        for each in late:
            each.cancel()
        assert reply.cancel() is True
        await steps()
        gate.opened.set()
        await outcomes(*waiting)
        assert (await last).text == "ann answers"
        assert type(await error_of(reply)) is InterruptedTurnError
        assert agent.texts == [*(str(n) for n in range(CREDIT)), "last"]


async def test_a_stuck_turn_can_be_interrupted_past_all_that_wait_to_be_sent() -> None:
    gate = Gate()
    async with nodes("host", "guest") as (host, guest):
        agent = Actor("ann", gate)
        host.export("a", agent)
        remote = guest.agent("mem://host/a")
        waiting = [asyncio.ensure_future(remote(str(n))) for n in range(2 * CREDIT)]
        await gate.entered.wait()
        await steps()
        async with asyncio.timeout(LIMIT_S):
            assert await remote.interrupt("enough") is True
        assert type(await error_of(waiting[0])) is InterruptedTurnError
        gate.opened.set()
        assert {each.text for each in await outcomes(*waiting[1:])} == {"ann answers"}


async def test_a_submission_can_be_taken_back_past_all_that_wait_to_be_sent() -> None:
    gate = Gate()
    async with nodes("host", "guest") as (host, guest):
        agent = Actor("ann", gate)
        host.export("a", agent)
        remote = guest.agent("mem://host/a")
        replies = [remote.submit(str(n)) for n in range(2 * CREDIT)]
        await gate.entered.wait()
        for each in (replies[1], replies[0]):
            assert each.cancel("not needed") is True
        async with asyncio.timeout(LIMIT_S):
            await gate.left.wait()
        gate.opened.set()
        await outcomes(*replies[2:])
        assert agent.texts == ["0", *(str(n) for n in range(2, 2 * CREDIT))]


async def test_a_reply_can_be_read_past_all_that_wait_to_be_sent() -> None:
    may_go_on = asyncio.Semaphore(0)
    async with nodes("host", "guest") as (host, guest):
        host.export("a", Actor("ann", lambda x: may_go_on.acquire()))
        remote = guest.agent("mem://host/a")
        replies = [remote.submit(str(n)) for n in range(3 * CREDIT)]
        for reply in replies:
            may_go_on.release()  # its turn ends, and no other before this one is read
            async with asyncio.timeout(LIMIT_S):
                await reply


async def test_many_who_wait_for_results_keep_nobody_from_reading_another() -> None:
    gate = Gate()
    async with nodes("host", "guest") as (host, guest):
        for number in range(4):
            host.export(f"s{number}", Actor("stuck", gate))
        host.export("a", Actor("ann"))
        stuck = [guest.agent(f"mem://host/s{number}") for number in range(4)]
        waiting = [asyncio.ensure_future(each.submit("x")._wait()) for each in stuck for _ in range(40)]
        await until(lambda: gate.begun == 4)
        await steps()
        async with asyncio.timeout(LIMIT_S):
            assert (await guest.agent("mem://host/a").submit("x")).text == "ann answers"
        gate.opened.set()
        await outcomes(*waiting)


async def test_nothing_waits_for_ever_for_a_connection_nobody_began() -> None:
    async with nothing_goes_on(), nodes("host") as (host,):
        host.export("a", Actor("ann"))
        for rounds in range(6):
            async with Runtime(grace=0) as leaving:
                remote = leaving.agent("mem://host/a")
                asking = [asyncio.ensure_future(remote(str(n))) for n in range(3)]
                reply = remote.submit("x")
                await steps(rounds)
            for each in await outcomes(*asking, reply):
                assert isinstance(each, (Msg, RuntimeClosedError, ConnectionError)), repr(each)


async def test_all_that_waited_for_a_connection_learn_that_there_is_none() -> None:
    async with nothing_goes_on(), Runtime() as guest:
        remote = guest.agent("mem://nowhere/a")
        errors = await outcomes(*(start(kind, remote, "x") for kind in KINDS * 5))
        assert {type(each) for each in errors} == {ConnectFailed}
