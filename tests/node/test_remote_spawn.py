"""Agents are created on another node only of classes it allows, and belong to whoever created them."""

from __future__ import annotations

from typing import Any

import pytest
from node.nodes import TOKEN, Actor, error_of, nodes, nothing_goes_on

from agentscope_async import Runtime
from agentscope_async.errors import AgentNotFound, AgentStoppedError, ConfigError, ForbiddenError
from agentscope_async.node.exports import Grant

ANN, BOB = "the-token-of-ann-" + "a" * 24, "the-token-of-bob-" + "b" * 24


class Parrot(Actor):
    """One that other nodes may create."""

    def __init__(self, name: str, phrase: str = "hello", times: int = 1) -> None:
        super().__init__(name, lambda x: self.phrase * self.times)
        self.phrase = phrase
        self.times = times


class Broken(Actor):
    """One that cannot be made."""

    def __init__(self, name: str) -> None:
        raise RuntimeError("not today")


def hosting(**options: Any) -> Runtime:
    return Runtime(
        listen="mem://host", node="host", **{"token": TOKEN, "allow": [Parrot, "DialogAgent"], **options}
    )


def guest(name: str = "guest", token: str = TOKEN) -> Runtime:
    return Runtime(node=name, token=token)


async def test_an_agent_of_an_allowed_class_is_created_and_used() -> None:
    async with nothing_goes_on(), hosting(), guest() as rt:
        polly = await rt.spawn("mem://host", "Parrot", {"name": "polly", "phrase": "hi", "times": 2}, key="p")
        assert polly.name == "polly"
        assert polly.url == "mem://host/p"
        assert (await polly("x")).text == "hihi"
        dan = await rt.spawn(
            "mem://host", "DialogAgent", {"name": "dan", "sys_prompt": "s", "model": "fake:echo"}
        )
        assert "hello" in (await dan("hello")).text
        assert [each.kind for each in (await rt.ps("mem://host")).agents] == ["Parrot", "DialogAgent"]


async def test_an_argument_that_the_class_does_not_take_is_refused_with_the_nearest_it_does() -> None:
    async with hosting(), guest() as rt:
        error = await error_of(rt.spawn("mem://host", "Parrot", {"nam": "polly"}))
    assert type(error) is ConfigError
    assert "Parrot takes no 'nam'; did you mean 'name'? known: name, " in str(error)


@pytest.mark.parametrize(
    "kind", ["UserAgent", "AgentBase", "Actor", "Broken", "os.system", "builtins", "parrot"]
)
async def test_any_other_class_is_refused(kind: str) -> None:
    async with hosting() as host, guest() as rt:
        error = await error_of(rt.spawn("mem://host", kind, {"name": "x"}))
        assert type(error) is ForbiddenError
        assert list(host.node.exports) == []


@pytest.mark.parametrize(
    "config",
    [
        {"name": 3},
        {"name": "p", "times": "many"},
        {"name": "p", "wings": 2},
        {"name": ""},
        {},
        {"phrase": "x"},
    ],
)
async def test_arguments_that_do_not_fit_are_refused(config: dict[str, Any]) -> None:
    async with hosting() as host, guest() as rt:
        assert type(await error_of(rt.spawn("mem://host", "Parrot", config))) is ConfigError
        assert list(host.node.exports) == []
        assert (await (await rt.spawn("mem://host", "Parrot", {"name": "p"}))("x")).text == "hello"


async def test_a_model_that_calls_an_address_of_the_guest_is_refused() -> None:
    async with hosting(), guest() as rt:
        model = {"model_type": "openai_chat", "model_name": "m", "base_url": "http://127.0.0.1:1"}
        error = await error_of(
            rt.spawn("mem://host", "DialogAgent", {"name": "d", "sys_prompt": "s", "model": model})
        )
        assert type(error) is ConfigError


async def test_a_constructor_that_fails_is_an_error_and_nothing_is_left() -> None:
    async with hosting(allow=[Broken, Parrot]) as host, guest() as rt:
        error = await error_of(rt.spawn("mem://host", "Broken", {"name": "b"}, key="k"))
        assert type(error) is RuntimeError
        assert list(host.node.exports) == []
        await rt.spawn("mem://host", "Parrot", {"name": "p"}, key="k")


async def test_a_key_is_taken_once() -> None:
    async with hosting(), guest() as rt:
        await rt.spawn("mem://host", "Parrot", {"name": "p"}, key="k")
        assert type(await error_of(rt.spawn("mem://host", "Parrot", {"name": "p"}, key="k"))) is ConfigError
        for key in ("_node", "a b", ""):
            error = await error_of(rt.spawn("mem://host", "Parrot", {"name": "p"}, key=key)) if key else None
            assert error is None or type(error) is ConfigError


async def test_whoever_created_an_agent_may_load_its_state_and_stop_it() -> None:
    async with nothing_goes_on(), hosting(), guest() as rt:
        polly = await rt.spawn("mem://host", "Parrot", {"name": "polly"})
        await polly("x")
        state = await polly.state()
        other = await rt.spawn("mem://host", "Parrot", {"name": "other"})
        await other.load_state(state)
        assert await other.state() == state
        await polly.stop()
        assert type(await error_of(polly("x"))) is AgentStoppedError
        again = rt.agent(polly.url or "")
        assert type(await error_of(again("x"))) is AgentNotFound, "who did not stop it does not know"
        assert (await other("x")).text == "hello"


async def test_nobody_else_may_and_the_agent_goes_on() -> None:
    async with nothing_goes_on(), hosting(exports={"own": Actor("own")}), guest("a") as a, guest("b") as b:
        await a.spawn("mem://host", "Parrot", {"name": "polly"}, key="p")
        for remote in (b.agent("mem://host/p"), b.agent("mem://host/own"), a.agent("mem://host/own")):
            for work in (remote.stop(), remote.load_state({"memory": []})):
                assert type(await error_of(work)) is ForbiddenError
            assert (await remote("x")).text in ("hello", "own answers")


async def test_each_node_may_do_what_its_grant_says() -> None:
    grants = {"ann": Grant(spawn=[Parrot], agents=["a"], max_spawned=2), "bob": Grant(agents=["b"])}
    exports = {"a": Actor("a"), "b": Actor("b")}
    tokens = {"ann": ANN, "bob": BOB}
    async with nothing_goes_on(), hosting(token=tokens, allow=grants, exports=exports):
        async with guest("ann", ANN) as ann, guest("bob", BOB) as bob:
            assert (await ann.agent("mem://host/a")("x")).text == "a answers"
            assert (await bob.agent("mem://host/b")("x")).text == "b answers"
            for remote in (
                ann.agent("mem://host/b"),
                bob.agent("mem://host/a"),
                bob.agent("mem://host/none"),
            ):
                assert type(await error_of(remote("x"))) is ForbiddenError
            assert type(await error_of(bob.spawn("mem://host", "Parrot", {"name": "p"}))) is ForbiddenError
            spawned = [await ann.spawn("mem://host", "Parrot", {"name": "p"}) for _ in range(2)]
            assert type(await error_of(ann.spawn("mem://host", "Parrot", {"name": "p"}))) is ForbiddenError
            assert (await spawned[0]("x")).text == "hello"
            assert type(await error_of(bob.agent(spawned[0].url or "")("x"))) is ForbiddenError
            await spawned[0].stop()
            await ann.spawn("mem://host", "Parrot", {"name": "p"})


async def test_a_node_that_lets_others_create_agents_needs_a_token() -> None:
    with pytest.raises(ConfigError, match="token"):
        Runtime(listen="mem://host", allow=["DialogAgent"])


@pytest.mark.parametrize("allowed", ["Nobody", "os", str, 3])
async def test_what_is_no_class_of_agents_cannot_be_allowed(allowed: Any) -> None:
    with pytest.raises(ConfigError, match="no class of agents"):
        Runtime(listen="mem://host", token=TOKEN, allow=[allowed])


async def test_without_allow_nothing_can_be_created() -> None:
    async with nodes("host", "guest") as (_, rt):
        assert type(await error_of(rt.spawn("mem://host", "DialogAgent", {"name": "d"}))) is ForbiddenError
