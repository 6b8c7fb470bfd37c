"""The reply to a ``submit`` stays where it was made until somebody awaits it, on whichever node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from node.nodes import (
    LIMIT_S,
    Actor,
    Gate,
    answer,
    dead,
    error_of,
    message,
    nodes,
    nothing_goes_on,
    outcomes,
    steps,
    until,
)

from agentscope_async import Msg, Runtime
from agentscope_async.errors import (
    AgentNotFound,
    AskTimeoutError,
    InterruptedTurnError,
    MessageError,
    NodeDown,
    ReplyExpiredError,
)
from agentscope_async.node import _replies as replies_module
from agentscope_async.node._replies import Replies
from agentscope_async.node.session import Session

if TYPE_CHECKING:
    from agentscope_async.node.remote import RemoteAgent

BIG = "x" * 200_000


@pytest.fixture
async def three() -> AsyncIterator[list[Runtime]]:
    """Three nodes, of which the last two do not know each other."""
    async with nothing_goes_on(), nodes("one", "two", "three") as runtimes:
        yield runtimes


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many bytes each node received."""
    counted: Counter[str] = Counter()
    receive = Session.receive

    def count(self: Session, data: bytes, now: float) -> Any:
        counted[self.settings.node] += len(data)
        return receive(self, data, now)

    monkeypatch.setattr(Session, "receive", count)
    return counted


async def connected(*runtimes: Runtime) -> None:
    """Let the last node have used the others, so that it has links to them."""
    *others, last = runtimes
    for other in others:
        await last.ps(other.url or "")


async def used(*agents: RemoteAgent) -> tuple[RemoteAgent, ...]:
    """Let these agents be connected, so that what is submitted to them is sent at once."""
    for agent in agents:
        await agent.observe([])
    return agents


# -- submit and await --


async def test_submit_returns_at_once_and_the_reply_is_had_later(three: list[Runtime]) -> None:
    one, two, _ = three
    gate = Gate()
    two.export("a", Actor("ann", gate))
    reply = one.agent("mem://two/a").submit("x")
    assert reply.done() is False
    await gate.entered.wait()
    assert reply.done() is False
    gate.opened.set()
    assert (await reply).text == "ann answers"
    assert reply.done() is True
    assert repr(reply) == "<Reply of 'a', done>"


async def test_a_reply_may_be_awaited_any_number_of_times_and_by_several(three: list[Runtime]) -> None:
    one, two, _ = three
    agent = Actor("ann")
    two.export("a", agent)
    reply = one.agent("mem://two/a").submit("x")
    first, *others = await outcomes(*(reply._wait() for _ in range(5)))
    assert first.text == "ann answers"
    assert {each.id for each in others} == {first.id}
    assert await reply is await reply
    assert len(agent.got) == 1


async def test_the_error_of_a_reply_is_raised_as_often_as_it_is_awaited(three: list[Runtime]) -> None:
    def fail(x: Any) -> None:
        raise ValueError("no answer")

    one, two, _ = three
    two.export("a", Actor("ann", fail))
    reply = one.agent("mem://two/a").submit("x")
    for _ in range(3):
        error = await error_of(reply)
        assert type(error) is ValueError
        assert str(error) == "no answer"


async def test_150_submissions_are_read_back_afterwards_in_any_order(three: list[Runtime]) -> None:
    one, two, _ = three
    two.export("a", Actor("ann", lambda x: f"re {x.text}"))
    remote = one.agent("mem://two/a")
    replies = [remote.submit(str(n)) for n in range(150)]
    await until(lambda: two.node.exports.find("a", "one").agent.mailbox.statistics().handled == 150)
    for number in (*range(149, -1, -2), *range(0, 150, 2)):
        async with asyncio.timeout(LIMIT_S):
            assert (await replies[number]).text == f"re {number}"


async def test_waiting_for_a_reply_can_be_given_up_without_losing_it(three: list[Runtime]) -> None:
    one, two, _ = three
    gate = Gate()
    two.export("a", Actor("ann", gate))
    reply = one.agent("mem://two/a").submit("x")
    waiting = asyncio.ensure_future(reply._wait())
    await gate.entered.wait()
    await steps()
    waiting.cancel()
    await steps()
    gate.opened.set()
    assert (await reply).text == "ann answers"
    assert gate.cancelled == 0


async def test_a_time_limit_while_awaiting_leaves_the_reply_to_be_had(three: list[Runtime]) -> None:
    one, two, _ = three
    gate = Gate()
    two.export("a", Actor("ann", gate))
    reply = one.agent("mem://two/a", timeout_s=0.05).submit("x")
    await gate.entered.wait()
    assert type(await error_of(reply)) is AskTimeoutError
    gate.opened.set()
    assert (await reply).text == "ann answers"


# -- taking back --


async def test_a_cancelled_reply_ends_its_turn_over_there(three: list[Runtime]) -> None:
    one, two, _ = three
    gate = Gate()
    agent = Actor("ann", gate)
    two.export("a", agent)
    reply = one.agent("mem://two/a").submit("x")
    waiting = asyncio.ensure_future(reply._wait())
    await gate.entered.wait()
    assert reply.cancel("changed my mind") is True
    assert reply.cancel() is False
    for each in (waiting, reply):
        error = await error_of(each)
        assert type(error) is InterruptedTurnError
    assert error.reason == "changed my mind"
    await gate.left.wait()
    assert gate.cancelled == 1
    agent.act = None
    assert (await one.agent("mem://two/a")("x")).text == "ann answers"


async def test_a_reply_cancelled_in_the_queue_is_never_handled(three: list[Runtime]) -> None:
    one, two, _ = three
    gate = Gate()
    agent = Actor("ann", gate)
    two.export("a", agent)
    remote = one.agent("mem://two/a")
    first, second, third = (remote.submit(str(n)) for n in range(3))
    await until(lambda: agent.mailbox.statistics().waiting == 2)
    second.cancel()
    await until(lambda: agent.mailbox.statistics().waiting == 1)
    gate.opened.set()
    await first
    await third
    assert agent.texts == ["0", "2"]


async def test_a_reply_that_was_read_can_not_be_cancelled(three: list[Runtime]) -> None:
    one, two, _ = three
    two.export("a", Actor("ann"))
    reply = one.agent("mem://two/a").submit("x")
    await reply
    assert reply.cancel() is False
    assert (await reply).text == "ann answers"


# -- passing on --


@pytest.mark.parametrize("call", ["ask", "submit", "post", "observe", "stream"])
async def test_a_reply_passed_as_a_message_is_awaited_by_who_gets_it(three: list[Runtime], call: str) -> None:
    one, two, three_ = three
    gate = Gate()
    two.export("a", Actor("ann", gate))
    bob = Actor("bob", lambda x: f"got {x.text}")
    three_.export("b", bob)
    ann, remote = one.agent("mem://two/a"), one.agent("mem://three/b")
    reply = ann.submit("x")
    if call == "stream":

        async def listen() -> Msg:
            async with remote.stream(reply) as stream:
                async for _ in stream:
                    pass
            return stream.msg

        work: Any = listen()
    else:
        work = {"ask": remote, "submit": remote.submit, "post": remote.post, "observe": remote.observe}[call](
            reply
        )
    sent = asyncio.ensure_future(work) if call != "submit" else work
    await gate.entered.wait()
    await steps()
    assert bob.got == []
    gate.opened.set()
    result = await sent
    if call in ("ask", "submit", "stream"):
        assert result.text == "got ann answers"
    await until(lambda: bob.mailbox.statistics().handled)
    assert [each.text for each in bob.memory.get_memory()] == ["ann answers"]


async def test_a_value_goes_from_its_producer_to_its_consumer_and_not_through_the_asker(
    three: list[Runtime], received: Counter[str]
) -> None:
    one, two, three_ = three
    two.export("a", Actor("ann", lambda x: BIG))
    three_.export("b", Actor("bob", lambda x: str(len(x.text))))
    await connected(two, three_)
    ann, bob = await used(one.agent("mem://two/a"), one.agent("mem://three/b"))
    got = await bob(ann.submit("x"))
    assert got.text == str(len(BIG))
    assert received["three"] > len(BIG)
    assert received["one"] < 5000
    assert received["two"] < 5000


async def test_a_value_goes_straight_also_when_its_home_was_not_reached_before(
    three: list[Runtime], received: Counter[str]
) -> None:
    one, two, three_ = three
    two.export("a", Actor("ann", lambda x: BIG))
    three_.export("b", Actor("bob", lambda x: str(len(x.text))))
    await connected(two, three_)
    got = await one.agent("mem://three/b")(one.agent("mem://two/a").submit("x"))
    assert got.text == str(len(BIG))
    assert received["three"] > len(BIG)
    assert received["one"] < 5000


async def test_a_value_whose_home_is_not_known_comes_through_the_sender(
    three: list[Runtime], received: Counter[str]
) -> None:
    one, two, three_ = three
    two.export("a", Actor("ann", lambda x: BIG))
    three_.export("b", Actor("bob", lambda x: str(len(x.text))))
    got = await one.agent("mem://three/b")(one.agent("mem://two/a").submit("x"))
    assert got.text == str(len(BIG))
    assert received["one"] > len(BIG)
    assert {bridge.peer for bridge in three_.node._bridges} == {"one"}, "nobody dials where a message says"


async def test_a_home_given_as_a_peer_is_dialed_by_its_name(received: Counter[str]) -> None:
    async with nodes("one", "two") as (one, two):
        two.export("a", Actor("ann", lambda x: BIG))
        bob = Actor("bob", lambda x: str(len(x.text)))
        async with Runtime(
            listen="mem://three", node="three", exports={"b": bob}, peers={"two": "mem://two"}
        ):
            ann, bob = await used(one.agent("mem://two/a"), one.agent("mem://three/b"))
            got = await bob(ann.submit("x"))
    assert got.text == str(len(BIG))
    assert received["one"] < 5000


async def test_a_reply_of_a_local_agent_can_be_passed_to_a_remote_one_and_back(three: list[Runtime]) -> None:
    one, two, _ = three
    gate = Gate()
    two.export("a", Actor("ann", lambda x: f"ann got: {x.text}"))
    here = Actor("here", gate)
    there = one.agent("mem://two/a")
    asking = asyncio.ensure_future(there(here.submit("x")))
    await gate.entered.wait()
    await steps()
    gate.opened.set()
    assert (await asking).text == "ann got: here answers"
    here.act = lambda x: f"here got: {x.text}"
    with one.use():
        assert (await here(there.submit("y"))).text == "here got: ann got: y"


async def test_a_reply_can_be_passed_back_to_the_node_that_made_it(
    three: list[Runtime], received: Counter[str]
) -> None:
    one, two, _ = three
    two.export("a", Actor("ann", lambda x: BIG))
    two.export("b", Actor("bob", lambda x: str(len(x.text))))
    ann, bob = await used(one.agent("mem://two/a"), one.agent("mem://two/b"))
    got = await bob(ann.submit("x"))
    assert got.text == str(len(BIG))
    assert received["one"] < 5000


async def test_a_chain_of_submissions_flows_without_anybody_waiting_between(three: list[Runtime]) -> None:
    one, two, three_ = three
    two.export("a", Actor("a", lambda x: f"{x.text} two"))
    three_.export("a", Actor("a", lambda x: f"{x.text} three"))
    x: Any = "start"
    for runtime in [two, three_, two, three_, two]:
        x = one.agent(f"{runtime.url}/a").submit(x)
    assert (await x).text == "start two three two three two"


async def test_a_reply_passed_on_through_several_nodes_is_still_had(three: list[Runtime]) -> None:
    one, two, three_ = three
    two.export("a", Actor("ann", lambda x: "the value"))
    three_.export("c", Actor("carl", lambda x: f"got {x.text}"))

    class Relay(Actor):
        """Submits what it got, and passes the reply on."""

        async def reply(self, x: Any = None) -> Msg:
            return await three_.agent("mem://one/d")(three_.agent("mem://three/c").submit(x))

    three_.export("r", Relay("relay"))
    one.export("d", Actor("dora", lambda x: f"dora {x.text}"))
    assert (
        await one.agent("mem://three/r")(one.agent("mem://two/a").submit("x"))
    ).text == "dora got the value"


async def test_one_reply_can_be_passed_to_many_and_awaited_as_well(three: list[Runtime]) -> None:
    one, two, three_ = three
    ann = Actor("ann", lambda x: "once")
    two.export("a", ann)
    for number in range(10):
        three_.export(f"b{number}", Actor(f"b{number}", lambda x: x.text))
    reply = one.agent("mem://two/a").submit("x")
    got = await outcomes(*(one.agent(f"mem://three/b{n}")(reply) for n in range(10)), reply)
    assert [each.text for each in got] == ["once"] * 11
    assert len(ann.got) == 1


async def test_a_failed_reply_hands_its_error_to_whoever_it_was_passed_to(three: list[Runtime]) -> None:
    def fail(x: Any) -> None:
        raise ZeroDivisionError("by zero")

    one, two, three_ = three
    two.export("a", Actor("ann", fail))
    bob = Actor("bob")
    three_.export("b", bob)
    remote = one.agent("mem://three/b")
    reply = one.agent("mem://two/a").submit("x")
    for work in (
        remote(reply),
        remote.submit(reply),
        remote.observe(reply),
        remote(one.agent("mem://two/no").submit("x")),
    ):
        error = await error_of(work)
        assert type(error) in (ZeroDivisionError, AgentNotFound)
    await remote.post(reply)
    await until(lambda: len(three_.dead_letters))
    assert type(three_.dead_letters[0].error) is ZeroDivisionError
    assert bob.got == []
    assert (await remote("x")).text == "bob answers"


async def test_a_cancelled_reply_fails_whoever_waits_for_it_elsewhere(three: list[Runtime]) -> None:
    one, two, three_ = three
    gate = Gate()
    two.export("a", Actor("ann", gate))
    three_.export("b", Actor("bob"))
    reply = one.agent("mem://two/a").submit("x")
    asking = asyncio.ensure_future(one.agent("mem://three/b")(reply))
    await gate.entered.wait()
    await steps(50)
    reply.cancel("not needed")
    assert type(await error_of(asking)) is InterruptedTurnError


async def test_a_node_that_is_gone_fails_whoever_waits_for_its_results(three: list[Runtime]) -> None:
    one, _, three_ = three
    gate = Gate()
    three_.export("b", Actor("bob"))
    async with Runtime(listen="mem://going", node="going", grace=0, exports={"a": Actor("ann", gate)}):
        reply = one.agent("mem://going/a").submit("x")
        read = one.agent("mem://going/a").submit("y")
        asking = asyncio.ensure_future(one.agent("mem://three/b")(reply))
        waiting = asyncio.ensure_future(reply._wait())
        await gate.entered.wait()
        await steps(50)
    for work in (asking, waiting, reply, read):
        assert isinstance(await error_of(work), NodeDown)
    three_.node.exports.find("b", "one").agent.act = None
    assert (await one.agent("mem://three/b")("x")).text == "bob answers"


async def test_a_list_that_holds_a_reply_is_refused_and_says_so(three: list[Runtime]) -> None:
    one, two, _ = three
    two.export("a", Actor("ann"))
    remote = one.agent("mem://two/a")
    here, there = Actor("here"), remote.submit("x")
    with one.use():
        expected = type(await error_of(here([there])))
    assert type(await error_of(remote([there]))) is expected
    await there


# -- keeping --


async def test_results_that_nobody_reads_are_kept_up_to_a_limit_and_then_expire() -> None:
    async with nodes("one", "two") as (one, two):
        two.node.replies = Replies(limit=5, ttl_s=1000)
        agent = Actor("ann", lambda x: x.text)
        two.export("a", agent)
        remote = one.agent("mem://two/a")
        replies = [remote.submit(str(n)) for n in range(20)]
        await until(lambda: agent.mailbox.statistics().handled == 20)
        await until(lambda: len(two.node.replies) == 5)
        got = await outcomes(*replies)
        assert [type(each) for each in got[:15]] == [ReplyExpiredError] * 15
        assert [each.text for each in got[15:]] == ["15", "16", "17", "18", "19"]
        assert isinstance(got[0], LookupError)
        assert type(await error_of(remote(replies[0]))) is ReplyExpiredError, "passed on it is as gone"
        assert (await remote("x")).text == "x"


async def test_results_expire_after_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(replies_module, "monotonic", lambda: now)
    async with nodes("one", "two") as (one, two):
        two.node.replies = Replies(limit=1000, ttl_s=60)
        agent = Actor("ann")
        two.export("a", agent)
        remote = one.agent("mem://two/a")
        old, new = remote.submit("old"), None
        await until(lambda: len(two.node.replies._done) == 1)
        now += 59
        new = remote.submit("new")
        await until(lambda: len(two.node.replies._done) == 2)
        now += 2
        assert type(await error_of(old)) is ReplyExpiredError
        assert (await new).text == "ann answers"


async def test_a_result_that_is_not_there_yet_does_not_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(replies_module, "monotonic", lambda: now)
    gate = Gate()
    async with nodes("one", "two") as (one, two):
        two.node.replies = Replies(limit=1, ttl_s=60)
        two.export("a", Actor("ann", gate))
        reply = one.agent("mem://two/a").submit("x")
        await gate.entered.wait()
        now += 10_000
        gate.opened.set()
        assert (await reply).text == "ann answers"


async def test_a_result_nobody_knows_is_expired_and_not_waited_for_for_ever(
    three: list[Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies_module, "EXPECT_S", 0.01)
    one, _two, _ = three
    bridge = await one.node.bridge_at(one.node.address("mem://two", None, None))
    assert type(await error_of(one.node.fetch(bridge, "0" * 32, "nobody"))) is ReplyExpiredError
    assert type(await error_of(one.node.fetch(bridge, "no id", "nobody"))) is MessageError


async def test_results_that_failed_and_were_never_read_are_no_noise(
    three: list[Runtime], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(x: Any) -> None:
        raise ValueError("unread")

    one, two, _ = three
    agent = Actor("ann", fail)
    two.export("a", agent)
    remote = one.agent("mem://two/a")
    for _ in range(5):
        remote.submit("x")
    await until(lambda: agent.mailbox.statistics().failed == 5)
    two.node.replies._kept.clear()
    two.node.replies._done.clear()
    assert "never retrieved" not in caplog.text
    assert dead(two) == [], "whoever submitted is to be told, and nobody else"


async def test_keywords_go_with_a_submission_that_is_passed_a_reply(three: list[Runtime]) -> None:
    one, two, _ = three
    two.export("a", Actor("ann", lambda x, **kwargs: answer("ann", {"x": x.text, **kwargs})))
    remote = one.agent("mem://two/a")
    first = remote.submit(message("one"), mood="good")
    second = await remote.submit(first, mood="better")
    assert second.content["mood"] == "better"
