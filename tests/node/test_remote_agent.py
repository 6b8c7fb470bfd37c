"""A remote agent does all that a local one does, and fails as a local one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from node.nodes import (
    LIMIT_S,
    TOKEN,
    Actor,
    Gate,
    answer,
    dead,
    error_of,
    message,
    nodes,
    nothing_goes_on,
    outcomes,
    until,
)

from agentscope_async import Msg, Runtime, Speech, Tht
from agentscope_async.agents import AgentBase
from agentscope_async.errors import (
    AgentError,
    AgentNotFound,
    AgentStoppedError,
    BudgetExceededError,
    ConfigError,
    ConnectFailed,
    DeadlockError,
    ForbiddenError,
    InterruptedTurnError,
    InvalidReplyError,
    MailboxFullError,
    MessageError,
    NodeDown,
    NoRuntimeError,
    RateLimited,
    RemoteError,
    ReplyExitError,
    RuntimeClosedError,
)
from agentscope_async.message import ImagePart, TextPart, ToolCallPart, ToolResultPart

if TYPE_CHECKING:
    from agentscope_async.node.remote import RemoteAgent


class Pair:
    """A runtime that has agents, and one that uses them."""

    def __init__(self, host: Runtime, guest: Runtime) -> None:
        self.host = host
        self.guest = guest

    def share(self, agent: Any, key: str = "a") -> RemoteAgent:
        self.host.export(key, agent)
        return self.agent(key)

    def agent(self, key: str, **options: Any) -> RemoteAgent:
        return self.guest.agent(f"{self.host.url}/{key}", **options)


@pytest.fixture(params=["mem://host", "ws://127.0.0.1:0"], ids=["mem", "ws"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with nothing_goes_on(), asyncio.timeout(LIMIT_S):
        async with Runtime(listen=request.param, node="host") as host, Runtime(node="guest") as guest:
            yield Pair(host, guest)


@pytest.fixture
async def near() -> AsyncIterator[Pair]:
    async with nothing_goes_on(), nodes("host", "guest") as (host, guest):
        yield Pair(host, guest)


# -- calls --


async def test_an_ask_brings_the_reply_of_the_agent(pair: Pair) -> None:
    remote = pair.share(Actor("ann", lambda x: f"you said {x.text}"), "a.nn-1_")
    reply = await remote(Msg("me", "hello", "user"))
    assert (reply.name, reply.content, reply.role) == ("ann", "you said hello", "assistant")
    assert remote.name == "a.nn-1_"
    assert remote.url == f"{pair.host.url}/a.nn-1_"


async def test_a_remote_agent_can_be_given_a_name_of_its_own(pair: Pair) -> None:
    pair.share(Actor("ann"))
    remote = pair.agent("a", name="somebody else")
    assert remote.name == "somebody else"
    assert (await remote("x")).name == "ann"


@pytest.mark.parametrize(
    "x",
    [
        Msg("me", "hello", "user", url=["http://a/1.png", "http://a/2.png"], mood={"is": ["good", 1, None]}),
        Msg("me", {"a": [1, 2.5, None, True]}, "user"),
        Msg("me", "\U0001f600 ñ \u2028 \x00 \"'\\", "user"),
        Msg("me", "", "user"),
        Tht("what if"),
        Msg("me", [TextPart("look"), ImagePart("data:image/png;base64," + "aGVsbG8=" * 400_000)], "user"),
    ],
    ids=["fields", "object", "unicode", "empty", "thought", "an image of 3 MB"],
)
async def test_a_message_arrives_as_it_was_sent(pair: Pair, x: Msg) -> None:
    agent = Actor("ann", lambda x: x)
    reply = await pair.share(agent)(x)
    (arrived,) = agent.got
    assert type(arrived) is type(x)
    assert arrived.to_dict() == x.to_dict()
    assert arrived.id == x.id
    assert reply.to_dict() == x.to_dict()


async def test_nothing_a_text_and_a_list_arrive_as_they_do_locally(pair: Pair) -> None:
    agent = Actor("ann")
    agent.memory = None
    remote = pair.share(agent)
    for x in (None, "text", ["one", Msg("me", "two", "user")]):
        await agent(x)
        await remote(x)
    for here, there in zip(agent.got[::2], agent.got[1::2], strict=True):
        if here is None:
            assert there is None
        elif isinstance(here, Msg):
            assert (there.name, there.content, there.role) == (here.name, here.content, here.role)
        else:
            assert [each.text for each in there] == ["one", "two"]


async def test_keywords_reach_reply(pair: Pair) -> None:
    said: list[Any] = []
    remote = pair.share(Actor("ann", lambda x, **kwargs: said.append(kwargs)))
    await remote("x", mood="good", times=3, more={"a": [None]})
    await remote("x")
    async with remote.stream("x", mood="heard") as stream:
        assert [part.text async for part in stream] == ["ann answers"]
    await remote.submit("x", mood="submitted")
    assert said == [
        {"mood": "good", "times": 3, "more": {"a": [None]}}, {}, {"mood": "heard"}, {"mood": "submitted"},
    ]  # fmt: skip


async def test_whatever_can_be_awaited_with_a_message_can_be_exported(near: Pair) -> None:
    async def shout(x: Any) -> Msg:
        return answer("shouter", x.text.upper())

    assert (await near.share(shout)("hey")).text == "HEY"


async def test_a_posted_message_is_handled_and_its_answer_dropped(pair: Pair) -> None:
    agent = Actor("ann")
    remote = pair.share(agent)
    assert await remote.post("hello") is None  # type: ignore[func-returns-value]
    await until(lambda: agent.mailbox.statistics().handled)
    assert agent.texts == ["hello"]


async def test_what_is_observed_is_remembered_without_a_reply(pair: Pair) -> None:
    agent = Actor("ann")
    remote = pair.share(agent)
    await remote.observe("one")
    await remote.observe([message("two"), message("three")])
    assert agent.got == []
    assert [each.text for each in agent.memory.get_memory()] == ["one", "two", "three"]


async def test_an_observe_of_the_agents_own_is_what_runs(near: Pair) -> None:
    class Keen(Actor):
        async def observe(self, x: Any) -> None:
            self.got.append(f"heard {x.text}")

    agent = Keen("ann")
    await near.share(agent).observe("this")
    assert agent.got == ["heard this"]


async def test_an_interrupt_ends_the_turn_and_tells_its_asker_why(pair: Pair) -> None:
    gate = Gate()
    agent = Actor("ann", gate)
    remote = pair.share(agent)
    asking = asyncio.ensure_future(remote("long"))
    await gate.entered.wait()
    assert await remote.interrupt("too long") is True
    error = await error_of(asking)
    assert type(error) is InterruptedTurnError
    assert error.reason == "too long"
    assert gate.cancelled == 1
    assert await remote.interrupt() is False
    agent.act = None
    assert (await remote("again")).text == "ann answers"


class Teller(Actor):
    """Says of its state what it likes."""

    told: Any = None

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.told
        return state


async def test_a_state_that_is_none_is_told_as_such_or_refused(pair: Pair) -> None:
    agent = Teller("ann")
    remote = pair.share(agent)
    for told in (("x", object()), ("\ud800",), {"x": object()}):
        agent.told = told
        assert type(await error_of(remote.state())) is MessageError
    agent.told = ("i", "t", "n", "c", "user")
    assert await remote.state() == list(agent.told)


async def test_the_state_of_an_agent_can_be_read(pair: Pair) -> None:
    remote = pair.share(Actor("ann"))
    x = message("remember me")
    await remote(x)
    assert await remote.state() == {"memory": [x.to_dict()]}


async def test_what_is_stopped_elsewhere_answers_all_who_wait(near: Pair) -> None:
    gate = Gate()
    agent = Actor("ann", gate)
    remote = near.share(agent)
    asking = [asyncio.ensure_future(remote(str(n))) for n in range(3)]
    await gate.entered.wait()
    await until(lambda: agent.mailbox.statistics().waiting == 2)
    agent.mailbox.stop()
    gate.opened.set()
    first, *others = await outcomes(*asking)
    assert first.text == "ann answers"
    assert [type(each) for each in others] == [AgentStoppedError] * 2
    assert type(await error_of(remote("late"))) is AgentStoppedError
    assert type(await error_of(remote.observe("late"))) is AgentStoppedError
    assert type(await error_of(remote.submit("late"))) is AgentStoppedError


async def test_to_dist_of_a_remote_agent_is_the_agent_itself(near: Pair) -> None:
    remote = near.share(Actor("ann"))
    assert remote.to_dist() is remote
    assert remote.to_dist("localhost", 1, max_pool_size=3) is remote


async def test_what_an_agent_says_about_itself_shows_where_it_is(near: Pair) -> None:
    assert repr(near.share(Actor("ann"))) == "<RemoteAgent 'a' at mem://host/a>"


@pytest.mark.parametrize(
    "url", ["", "a", "mem://host", "ws://127.0.0.1:1/", "ws://h:1/a b", "ws://h:1/" + "a" * 65]
)
async def test_what_is_no_url_of_an_agent_is_refused_at_once(near: Pair, url: str) -> None:
    with pytest.raises(ConfigError, match="no URL of an agent"):
        near.guest.agent(url)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
async def test_a_time_limit_must_be_above_nothing(near: Pair, timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        near.agent("a", timeout_s=timeout_s)


# -- streams --


async def test_a_stream_is_heard_piece_by_piece_as_it_is_spoken(pair: Pair) -> None:
    heard = asyncio.Event()
    pieces = [
        Speech("thinking", "hm"),
        Speech("tool_call", "", ToolCallPart("1", "add", {"a": 1})),
        Speech("tool_result", "3", ToolResultPart("1", "add", "3")),
        Speech("text", "three"),
    ]
    agent = Actor("ann")

    async def speak(x: Any) -> str:
        await agent.speak(pieces[0])
        await heard.wait()  # the first one is heard before the others are spoken
        for piece in pieces[1:]:
            await agent.speak(piece)
        return "three"

    agent.act = speak
    got = []
    async with pair.share(agent).stream("1 + 2?") as stream:
        with pytest.raises(RuntimeError, match="not ended"):
            stream.msg  # noqa: B018  # the property raises
        async for piece in stream:
            got.append(piece)
            heard.set()
    assert got == pieces
    assert stream.msg.text == "three"


async def test_a_turn_that_says_nothing_aloud_is_heard_as_its_reply(near: Pair) -> None:
    async with near.share(Actor("ann")).stream("x") as stream:
        assert [piece async for piece in stream] == [Speech("text", "ann answers")]


async def test_a_whole_message_that_is_spoken_is_heard_once(near: Pair) -> None:
    agent = Actor("ann")

    async def speak(x: Any) -> Msg:
        await agent.speak("aside")
        said = answer("ann", "all of it")
        await agent.speak(said)
        return said

    agent.act = speak
    async with near.share(agent).stream("x") as stream:
        assert [piece.text async for piece in stream] == ["aside", "all of it"]


async def test_leaving_a_stream_early_ends_the_turn_over_there(pair: Pair) -> None:
    gate = Gate()
    agent = Actor("ann")

    async def speak(x: Any) -> None:
        await agent.speak(Speech("text", "begins"))
        await gate(x)

    agent.act = speak
    remote = pair.share(agent)
    async with remote.stream("x") as stream:
        async for piece in stream:
            assert piece.text == "begins"
            break
    await gate.left.wait()
    assert gate.cancelled == 1
    agent.act = None
    assert (await remote("again")).text == "ann answers"


async def test_a_slow_reader_of_a_stream_misses_nothing(pair: Pair) -> None:
    agent = Actor("ann")

    async def speak(x: Any) -> str:
        for number in range(1000):
            await agent.speak(Speech("text", f"{number} "))
        return "".join(f"{number} " for number in range(1000))

    agent.act = speak
    remote = pair.share(agent)
    got = []
    async with remote.stream("count") as stream:
        async for piece in stream:
            got.append(piece.text)
            if len(got) % 100 == 0:
                await remote.interrupt() if len(got) > 1000 else await asyncio.sleep(0)
    assert got == [f"{number} " for number in range(1000)]
    assert stream.msg.text == "".join(got)


async def test_an_error_comes_after_the_pieces_that_came_before_it(pair: Pair) -> None:
    agent = Actor("ann")

    async def speak(x: Any) -> None:
        await agent.speak(Speech("text", "so far"))
        raise ValueError("no further")

    agent.act = speak
    got = []
    with pytest.raises(ValueError, match="no further"):
        async with pair.share(agent).stream("x") as stream:
            async for piece in stream:
                got += [piece.text]
    assert got == ["so far"]


# -- errors --


class OwnError(Exception):
    """One that only the program over there knows."""


class FaultyError(Exception):
    """One that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raising(error: BaseException) -> Any:
    def act(x: Any) -> None:
        raise error

    return act


KEPT = [
    ValueError("bad value"),
    KeyError("gone"),
    ZeroDivisionError("by zero"),
    TimeoutError("too slow"),
    FileNotFoundError(2, "No such file"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    StopAsyncIteration("over"),
    NotImplementedError("later"),
    AssertionError("never"),
    RecursionError("deep"),
    MemoryError("full"),
    ConfigError("bad setting"),
    MessageError("content", "is not good"),
    BudgetExceededError("b", limit="usd", allowed=1.0, spent=0.5, reserved=0.25, needed=2.0),
    RateLimited("slow down", provider="openai", model="m", status=429, retry_after_s=3.5),
    DeadlockError("b", ["a", "b", "a"]),
    InterruptedTurnError("b", "why not"),
    MailboxFullError("b", 3, "reject"),
]


@pytest.mark.parametrize("error", KEPT, ids=[type(each).__name__ for each in KEPT])
async def test_an_error_of_ours_or_of_python_keeps_its_type(near: Pair, error: Exception) -> None:
    agent = Actor("ann", raising(error))
    remote = near.share(agent)
    raised = await error_of(remote("x"))
    assert type(raised) is type(error)
    agent.act = None
    assert (await remote("x")).text == "ann answers"


@pytest.mark.parametrize("error", [each for each in KEPT if type(each).__module__ != "builtins"], ids=type)
async def test_an_error_of_ours_keeps_its_attributes(near: Pair, error: Exception) -> None:
    raised = await error_of(near.share(Actor("ann", raising(error)))("x"))
    assert (
        vars(raised).items()
        >= {key: value for key, value in vars(error).items() if key != "__notes__"}.items()
    )
    assert str(raised) == str(error)


async def test_any_other_error_becomes_a_remote_error_that_names_it(pair: Pair) -> None:
    agent = Actor("ann", raising(OwnError("it broke")))
    remote = pair.share(agent)
    error = await error_of(remote("x"))
    assert type(error) is RemoteError
    assert isinstance(error, AgentError)
    assert error.type == "OwnError"
    assert error.agent == "a"
    assert error.node == "host"
    assert "it broke" in str(error)
    agent.act = None
    assert (await remote("x")).text == "ann answers"


async def test_an_error_carries_the_traceback_from_over_there(pair: Pair) -> None:
    for raised in (ValueError("bad"), OwnError("own")):
        error = await error_of(pair.share(Actor("ann", raising(raised)), type(raised).__name__)("x"))
        (note,) = (each for each in error.__notes__ if "Traceback" in each)
        assert "'host'" in note or " host" in note
        assert "raise error" in note


async def test_an_error_that_cannot_be_shown_is_still_told(near: Pair) -> None:
    agent = Actor("ann", raising(FaultyError()))
    remote = near.share(agent)
    error = await error_of(remote("x"))
    assert type(error) is RemoteError
    assert error.type == "FaultyError"
    agent.act = None
    await remote("x")


async def test_an_error_with_a_huge_text_is_told_in_short(near: Pair) -> None:
    error = await error_of(near.share(Actor("ann", raising(ValueError("x" * 10_000_000))))("x"))
    assert type(error) is ValueError
    assert 1000 < len(str(error)) < 10_000


async def test_errors_of_a_task_group_over_there_are_told_by_name(near: Pair) -> None:
    raised = ExceptionGroup("two", [ValueError("first"), KeyError("second")])
    error = await error_of(near.share(Actor("ann", raising(raised)))("x"))
    assert type(error) is RemoteError
    assert error.type == "ExceptionGroup"
    assert "first" in str(error)


@pytest.mark.parametrize(
    "signal", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
)
async def test_a_handler_that_exits_ends_its_turn_only(near: Pair, signal: BaseException) -> None:
    agent = Actor("ann", raising(signal))
    remote = near.share(agent)
    assert type(await error_of(remote("x"))) is ReplyExitError
    agent.act = None
    assert (await remote("x")).text == "ann answers"


async def test_a_reply_that_is_no_message_is_an_error(near: Pair) -> None:
    class Mute(AgentBase):
        async def reply(self, x: Any = None) -> Any:
            return None

    error = await error_of(near.share(Mute("ann"))("x"))
    assert type(error) is InvalidReplyError


async def test_a_failed_turn_leaves_the_memory_as_it_was(pair: Pair) -> None:
    agent = Actor("ann")
    remote = pair.share(agent)
    await remote("good")
    agent.act = raising(ValueError("bad"))
    await error_of(remote("bad"))
    gate = agent.act = Gate()
    asking = asyncio.ensure_future(remote("cancelled"))
    await gate.entered.wait()
    asking.cancel()
    await gate.left.wait()
    agent.act = None
    assert len((await remote.state())["memory"]) == 1


async def test_an_agent_that_is_not_there_is_named(pair: Pair) -> None:
    remote = pair.agent("nobody")
    for work in (remote("x"), remote.observe("x"), remote.state(), remote.interrupt(), remote.submit("x")):
        error = await error_of(work)
        assert type(error) is AgentNotFound
        assert isinstance(error, LookupError)
        assert error.agent == "nobody"
    pair.host.export("nobody", Actor("ann"))
    assert (await remote("x")).text == "ann answers"
    pair.host.withdraw("nobody")
    assert type(await error_of(remote("x"))) is AgentNotFound
    with pytest.raises(AgentNotFound):
        pair.host.withdraw("nobody")


async def test_a_post_that_nobody_can_take_is_a_dead_letter_of_the_sender(pair: Pair) -> None:
    await pair.agent("nobody").post("hello")
    await until(lambda: len(pair.guest.dead_letters))
    assert dead(pair.guest) == [("hello", "not delivered")]
    letter = pair.guest.dead_letters[0]
    assert letter.agent == "nobody"
    assert type(letter.error) is AgentNotFound
    assert dead(pair.host) == []


async def test_a_post_that_fails_is_a_dead_letter_where_it_was_handled(pair: Pair) -> None:
    remote = pair.share(Actor("ann", raising(ValueError("bad"))))
    await remote.post("hello")
    await until(lambda: len(pair.host.dead_letters))
    assert dead(pair.host) == [("hello", "failed")]
    assert dead(pair.guest) == []


async def filled(pair: Pair, overflow: str) -> tuple[Actor, Gate, RemoteAgent, list[asyncio.Task[Any]]]:
    """An agent whose only place is taken, and the asks that did so."""
    gate = Gate()
    agent = Actor("ann", gate, capacity=1, overflow=overflow)
    remote = pair.share(agent)
    asking = [asyncio.ensure_future(remote("running"))]
    await gate.entered.wait()
    asking.append(asyncio.ensure_future(remote("waiting")))
    await until(lambda: agent.mailbox.statistics().waiting == 1)
    return agent, gate, remote, asking


async def test_a_full_mailbox_rejects_with_its_capacity(pair: Pair) -> None:
    agent, gate, remote, asking = await filled(pair, "reject")
    error = await error_of(remote("too much"))
    assert type(error) is MailboxFullError
    assert (error.capacity, error.overflow) == (1, "reject")
    assert type(await error_of(remote.submit("too much"))) is MailboxFullError
    await remote.post("too much, too")
    await until(lambda: len(pair.guest.dead_letters))
    assert dead(pair.guest) == [("too much, too", "not delivered")]
    assert type(pair.guest.dead_letters[0].error) is MailboxFullError
    gate.opened.set()
    assert [each.text for each in await outcomes(*asking)] == ["ann answers"] * 2
    assert agent.texts == ["running", "waiting"]


async def test_a_full_mailbox_that_drops_the_newest_tells_its_asker(near: Pair) -> None:
    agent, gate, remote, asking = await filled(near, "drop_newest")
    assert type(await error_of(remote("too much"))) is MailboxFullError
    await remote.post("dropped")
    await until(lambda: len(near.host.dead_letters))
    assert dead(near.host) == [("dropped", "mailbox full")]
    gate.opened.set()
    await outcomes(*asking)
    assert agent.texts == ["running", "waiting"]


async def test_a_full_mailbox_that_drops_the_oldest_tells_its_asker(near: Pair) -> None:
    agent, gate, remote, asking = await filled(near, "drop_oldest")
    newest = asyncio.ensure_future(remote("newest"))
    assert type(await error_of(asking[1])) is MailboxFullError
    gate.opened.set()
    await outcomes(asking[0], newest)
    assert agent.texts == ["running", "newest"]


async def test_a_bad_message_is_refused_before_it_is_sent(pair: Pair) -> None:
    agent = Actor("ann")
    remote = pair.share(agent)
    for kwargs in ({"score": float("nan")}, {"thing": object()}, {"text": "\ud800"}):
        assert type(await error_of(remote("x", **kwargs))) is MessageError
    with pytest.raises(MessageError):
        remote.submit("x", score=float("nan"))
    for x in (object(), 3, b"bytes", [object()]):
        here = type(await error_of(agent(x)))
        assert type(await error_of(remote(x))) is here
    assert agent.got == []
    assert (await remote("x")).text == "ann answers"


async def test_a_message_above_the_limit_is_refused_with_its_size(pair: Pair) -> None:
    agent = Actor("ann")
    remote = pair.share(agent)
    huge = message("x" * 40_000_000)
    for work in (remote(huge), remote.post(huge), remote.observe(huge), remote.submit(huge)):
        error = await error_of(work)
        assert type(error) is MessageError
        assert "40,000," in str(error)
    assert agent.got == []
    assert (await remote("x")).text == "ann answers"


async def test_a_reply_above_the_limit_is_an_error_and_no_end(pair: Pair) -> None:
    agent = Actor("ann", lambda x: "x" * 40_000_000)
    remote = pair.share(agent)
    assert type(await error_of(remote("x"))) is MessageError
    agent.act = None
    assert (await remote("x")).text == "ann answers"


@pytest.mark.parametrize(
    "op",
    ["fly", "__init__", "export_config", "load_from_config", "memory", "_take_turn", "reply_", "ps", "fetch"],
)
async def test_an_operation_that_is_none_is_refused(near: Pair, op: str) -> None:
    remote = near.share(Actor("ann"))
    assert type(await error_of(remote._ask(None, None, None, op))) is ForbiddenError
    await remote._tell(message("told"), op)
    await until(lambda: len(near.guest.dead_letters))
    assert type(near.guest.dead_letters[0].error) is ForbiddenError
    assert (await remote("x")).text == "ann answers"


# -- ends --


async def test_a_node_that_is_not_there_is_an_error_at_once_for_every_call(near: Pair) -> None:
    for url in ("mem://nowhere/a", "ws://127.0.0.1:9/a"):
        remote = near.guest.agent(url)
        for work in (
            remote("x"), remote.post("x"), remote.observe("x"),
            remote.state(), remote.stop(), remote.submit("x"),
        ):  # fmt: skip
            error = await error_of(work)
            assert type(error) is ConnectFailed
            assert error.kind == "refused"
            assert error.outcome == "not_delivered"
    assert type(await error_of(near.guest.ps("mem://nowhere"))) is ConnectFailed
    assert type(await error_of(near.guest.spawn("mem://nowhere", "DialogAgent", {}))) is ConnectFailed
    assert len(near.guest.dead_letters) == 0


async def test_asks_under_way_when_the_own_runtime_is_left_end_with_node_down(near: Pair) -> None:
    gate, other = Gate(), Gate()
    near.host.export("a", Actor("ann", gate))
    near.host.export("b", Actor("bob", other))
    async with Runtime(grace=0) as leaving:
        remote = leaving.agent("mem://host/a")
        asking = [asyncio.ensure_future(remote(str(n))) for n in range(100)]
        reply = leaving.agent("mem://host/b").submit("later")
        waiting = asyncio.ensure_future(reply._wait())
        await gate.entered.wait()
        await other.entered.wait()
    for error in await outcomes(*asking, waiting):
        assert isinstance(error, (NodeDown, RuntimeClosedError)), repr(error)
    assert {type(each) for each in await outcomes(*asking[:60], waiting)} == {NodeDown}
    await gate.left.wait()
    assert gate.begun == gate.cancelled, "no ask goes on for a node that has left"
    assert other.cancelled == 0, "what was submitted does: its result may have been passed on"
    other.opened.set()


@pytest.mark.parametrize("was_used", [True, False], ids=["used before", "never used"])
async def test_a_remote_agent_does_nothing_after_its_runtime(near: Pair, was_used: bool) -> None:
    near.host.export("a", Actor("ann"))
    async with Runtime() as left:
        remote = left.agent("mem://host/a")
        if was_used:
            await remote("x")
    for work in (remote("x"), remote.post("x"), remote.observe("x"), remote.submit("x"), remote.state()):
        assert type(await error_of(work)) is RuntimeClosedError
    with pytest.raises(RuntimeClosedError):
        async with remote.stream("x") as stream:
            async for _ in stream:
                pass
    with pytest.raises((NoRuntimeError, RuntimeClosedError)):
        left.agent("mem://host/a")


async def test_a_node_that_closes_takes_its_asks_with_it_and_says_what_became_of_them(near: Pair) -> None:
    gate = Gate()
    async with Runtime(listen="mem://closing", node="closing", exports={"a": Actor("ann", gate)}, grace=0):
        remote = near.guest.agent("mem://closing/a")
        asking = asyncio.ensure_future(remote("x"))
        await gate.entered.wait()
        waiting = [asyncio.ensure_future(remote(str(n))) for n in range(80)]  # more than may be sent at once
        await until(lambda: len(near.guest.node._bridges) == 1)
    error = await error_of(asking)
    assert type(error) is NodeDown
    assert (error.node, error.reason, error.outcome) == ("closing", "closed", "unknown")
    for each in await outcomes(*waiting):
        assert isinstance(each, NodeDown)
        assert each.outcome in ("unknown", "not_delivered")
    assert {each.outcome for each in await outcomes(*waiting[70:])} == {"not_delivered"}, (
        "they were never sent"
    )
    assert type(await error_of(remote("x"))) is ConnectFailed


@pytest.mark.parametrize("scheme", ["mem", "ws"])
async def test_a_node_that_is_started_again_is_reached_by_the_same_remote_agent(
    near: Pair, scheme: str
) -> None:
    listen = "mem://again" if scheme == "mem" else "ws://127.0.0.1:0"
    first = Actor("ann", lambda x: "the first")
    async with Runtime(listen=listen, node="again", exports={"a": first}) as host:
        listen = host.url or ""
        remote = near.guest.agent(f"{listen}/a")
        assert (await remote("x")).text == "the first"
    assert type(await error_of(remote("x"))) is ConnectFailed
    async with Runtime(listen=listen, node="again", exports={"a": Actor("ann", lambda x: "the second")}):
        assert (await remote("x")).text == "the second"


async def test_two_runtimes_in_one_process_share_nothing(near: Pair) -> None:
    async with nodes("one", "two") as (one, two):
        one.export("a", Actor("ann", lambda x: "one"))
        two.export("a", Actor("ann", lambda x: "two"))
        assert (await near.guest.agent("mem://one/a")("x")).text == "one"
        assert (await near.guest.agent("mem://two/a")("x")).text == "two"
        one.withdraw("a")
        assert type(await error_of(near.guest.agent("mem://one/a")("x"))) is AgentNotFound
        assert (await near.guest.agent("mem://two/a")("x")).text == "two"
        await near.guest.agent("mem://one/a").post("lost")
        await until(lambda: len(near.guest.dead_letters))
        assert len(one.dead_letters) == len(two.dead_letters) == 0
        assert one.node.name != two.node.name
        assert one.node._bridges.isdisjoint(two.node._bridges)


async def test_asks_of_many_at_once_use_one_connection(near: Pair) -> None:
    for number in range(10):
        near.host.export(f"a{number}", Actor(f"a{number}"))
    remotes = [near.agent(f"a{number}") for number in range(10)]
    got = await outcomes(*(remote("x") for remote in remotes * 10))
    assert [each.text for each in got] == [f"a{number} answers" for number in range(10)] * 10
    assert len(near.guest.node._bridges) == 1


async def test_remote_agents_are_listed_with_their_figures(pair: Pair) -> None:
    gate = Gate()
    agent = Actor("ann", raising(ValueError("bad")))
    remote = pair.share(agent, "the-key")
    await error_of(remote("x"))
    agent.act = None
    await remote("x")
    agent.act = gate
    asking = [asyncio.ensure_future(remote("x")) for _ in range(3)]
    await gate.entered.wait()
    await until(lambda: agent.mailbox.statistics().waiting == 2)
    report = await pair.guest.ps(pair.host.url or "")
    (listed,) = report.agents
    assert report.node == "host"
    assert (listed.key, listed.name, listed.kind) == ("the-key", "ann", "Actor")
    assert (listed.waiting, listed.handled, listed.failed, listed.is_busy) == (2, 1, 1, True)
    gate.opened.set()
    await outcomes(*asking)


async def test_who_waits_for_whom_over_there_is_told(pair: Pair) -> None:
    gate = Gate()
    with pair.host.use():
        asking = Actor("ann", Actor("bob", gate))
    remote = pair.share(asking, "ann")
    pending = asyncio.ensure_future(remote("x"))
    await gate.entered.wait()
    assert ("ann", "bob") in (await pair.guest.ps(pair.host.url or "")).waits
    gate.opened.set()
    await outcomes(pending)
    assert (await pair.guest.ps(pair.host.url or "")).waits == []


async def test_two_exported_agents_of_one_name_are_refused_rather_than_one_lost() -> None:
    with pytest.raises(ConfigError, match="ann"):
        Runtime(listen="mem://host", exports=[Actor("ann"), Actor("ann")])


@pytest.mark.parametrize("key", ["", "_node", "a b", "a/b", "ä", "a" * 65, "a\n"])
async def test_a_key_that_is_none_is_refused(near: Pair, key: str) -> None:
    with pytest.raises(ConfigError, match="exported under"):
        near.host.export(key, Actor("ann"))


async def test_a_key_is_given_once(near: Pair) -> None:
    near.host.export("a", Actor("ann"))
    with pytest.raises(ConfigError, match="already"):
        near.host.export("a", Actor("bob"))


async def test_a_token_opens_the_node_and_a_wrong_one_does_not() -> None:
    async with nothing_goes_on(), Runtime(listen="ws://127.0.0.1:0", token=TOKEN) as host:
        host.export("a", Actor("ann"))
        async with Runtime() as guest, Runtime(token=TOKEN) as knowing:
            assert (await knowing.agent(f"{host.url}/a")("x")).text == "ann answers"
            assert (await guest.agent(f"{host.url}/a", token=TOKEN)("x")).text == "ann answers"
            for token in (None, "b" + TOKEN[1:]):
                error = await error_of(guest.agent(f"{host.url}/a", token=token)("x"))
                assert type(error) is ConnectFailed
                assert error.kind == "unauthorized"
                assert error.status == 401
