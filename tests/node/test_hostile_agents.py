"""What peers that were let in do to agents: bad messages, floods, forged letters, chains and references.

The letters J and L in names are rows of the reliability tables.
"""

from __future__ import annotations

import asyncio
import builtins
import gc
import os
import re
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from node.raw_peer import NUMBERED, RawNode, RawPeer, attacked, msg

import agentscope_async
from agentscope_async import AgentScopeError, ConfigError, Msg, Runtime, Speech
from agentscope_async.agents import AgentBase
from agentscope_async.errors import AskTimeoutError, DeadlockError, MessageError, NodeDown, RemoteError
from agentscope_async.node.exports import Grant

HEX = "0123456789abcdef" * 2


class Echo(AgentBase):
    """Gives back what it is given."""

    async def reply(self, x: Any = None) -> Msg:
        return Msg(self.name, "nothing" if x is None else x.content, "assistant")


class Gate(AgentBase):
    """Answers when it is let."""

    def __init__(self, name: str) -> None:
        super().__init__(name, use_memory=False)
        self.is_entered = asyncio.Event()
        self.may_go = asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        self.is_entered.set()
        await self.may_go.wait()
        return Msg(self.name, "through", "assistant")


class Made(AgentBase):
    """May be created by others; ``made`` has all that are."""

    made: weakref.WeakSet[Made] = weakref.WeakSet()

    def __init__(self, name: str, *, problem: str | None = None, size: int = 1, **options: Any) -> None:
        Made.made.add(self)
        if problem is not None:
            raise PROBLEMS[problem]()
        super().__init__(name, **options)

    async def reply(self, x: Any = None) -> Msg:
        return Msg(self.name, "made", "assistant")


class Unshowable(Exception):
    """Cannot be shown, copied or pickled."""

    def __init__(self, one: Any = None, two: Any = None) -> None:
        super().__init__()
        self.held = open(os.devnull)  # what cannot be pickled
        self.held.close()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise RuntimeError("no copies")


class Odd(Exception):
    """Has a text that is none."""

    def __str__(self) -> Any:
        return 7


def _recursion() -> Exception:
    error = RecursionError("too deep")
    for _ in range(5000):
        error.__cause__, error = None, RecursionError("too deep")
    return error


PROBLEMS: dict[str, Any] = {
    "ValueError": ValueError,
    "10 MiB of text": lambda: ValueError("x" * 10 * 2**20),
    "unshowable": Unshowable,
    "odd text": Odd,
    "two arguments": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "errno": lambda: PermissionError(13, "no", "/etc/shadow"),
    "group": lambda: ExceptionGroup("several", [ValueError("one"), Unshowable()]),
    "lone surrogates": lambda: ValueError("\ud800"),
    "a cause that is itself": lambda: _own_cause(),
    "a million notes": lambda: _noted(),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "TimeoutError": TimeoutError,
    "a name from elsewhere": lambda: type("os.system", (Exception,), {})("id"),
    "a name of ours": lambda: type("NodeDown", (Exception,), {"node": 1, "reason": 2})("forged"),
}


def _own_cause() -> Exception:
    error = ValueError("round")
    error.__context__ = other = ValueError("and round")
    other.__context__ = error
    return error


def _noted() -> Exception:
    error = ValueError("noted")
    error.__notes__ = ["note"] * 1_000_000
    return error


class Raising(AgentBase):
    """Raises what it is told to, wherever it can."""

    async def reply(self, x: Any = None) -> Msg:
        raise PROBLEMS[x.text]()


class RaisingElsewhere(AgentBase):
    """Raises what it is told to outside turns, too."""

    problem = ""

    async def observe(self, x: Any) -> None:
        raise PROBLEMS[self.problem]()

    async def state(self) -> dict[str, Any]:
        raise PROBLEMS[self.problem]()

    async def interrupt(self, reason: str | None = None) -> bool:
        raise PROBLEMS[self.problem]()


# Handlers that fail


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("how", ["ask", "stream", "post", "submit"])
async def test_l01_l02_whatever_a_handler_raises_is_told_and_the_agent_goes_on(name: str, how: str) -> None:
    async with attacked(exports={"raising": Raising("raising"), "echo": Echo("echo")}) as house:
        peer = await house.enter()
        if how in ("ask", "stream"):
            answer = await peer.answer(peer.ask("raising", msg(name), parts=how == "stream"))
            assert len(answer["err"]["text"]) <= 4096
            assert len(answer["err"].get("tb", "")) <= 16_384
        elif how == "submit":
            peer.say("tell", to="raising", op="submit", body=msg(name, rid=HEX))
            assert "err" in await peer.answer(peer.ask("_node", {"id": HEX}, op="fetch"))
        else:
            peer.say("tell", to="raising", body=msg(name))
        assert "err" in await peer.answer(peer.ask("raising", msg("ValueError")))
        assert (await peer.answer(peer.ask("echo")))["body"]["content"] == "hi"


@pytest.mark.parametrize("op", ["observe", "state", "interrupt"])
@pytest.mark.parametrize(
    "name", ["ValueError", "unshowable", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError"]
)
async def test_l02_exit_signals_of_other_methods_end_nothing_but_the_ask(name: str, op: str) -> None:
    agent = RaisingElsewhere("raising")
    agent.problem = name
    async with attacked(exports={"raising": agent}) as house:
        peer = await house.enter()
        to, body = ("_node", {"key": "raising", "x": None}) if op == "interrupt" else ("raising", msg())
        assert "err" in await peer.answer(peer.ask(to, body, op=op))
        peer.say("tell", to="raising", op="observe", body=msg())
        await peer.answer(peer.ask())


async def test_l04_a_handler_that_does_not_let_itself_be_cancelled_holds_up_its_agent_only() -> None:
    entered, may_end = asyncio.Event(), asyncio.Event()

    class Stubborn(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            entered.set()
            while not may_end.is_set():
                try:
                    await may_end.wait()
                except asyncio.CancelledError:
                    pass
            return Msg(self.name, "at last", "assistant")

    async with attacked(exports={"stubborn": Stubborn("stubborn")}) as house:
        peer = await house.enter()
        first = peer.ask("stubborn")
        await entered.wait()
        for _ in range(50):
            peer.say("can", id=first)
        await peer.answer(peer.ask())
        may_end.set()
        assert (await peer.answer(peer.ask("stubborn")))["body"]["content"] == "at last"


async def test_l05_tasks_a_handler_forgot_do_not_keep_a_node_from_ending() -> None:
    forgotten: set[asyncio.Task[Any]] = set()

    class Forgetful(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            for _ in range(1000):
                forgotten.add(asyncio.create_task(asyncio.sleep(3600)))
            return Msg(self.name, "done", "assistant")

    async with attacked(exports={"forgetful": Forgetful("forgetful")}) as house:
        peer = await house.enter()
        await peer.answer(peer.ask("forgetful"))
        await peer.leave()
        for task in forgotten:  # they are the handler's own; a node neither knows nor ends them
            task.cancel()
        await asyncio.wait(forgotten)


async def test_l08_ten_thousand_asks_to_a_stopped_agent_are_answered() -> None:
    agent = Echo("echo")
    async with attacked(exports={"echo": agent}) as house:
        await agent.stop()
        peer = await house.enter()
        for _ in range(10_000 // 50):
            ids = [peer.ask("echo") for _ in range(50)]
            for id in ids:
                assert await peer.error(id) == "agent_stopped"


async def test_l09_an_agent_may_be_stopped_twice_and_by_its_own_handler() -> None:
    class Quitter(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            await self.stop()
            return Msg(self.name, "bye", "assistant")

    async with attacked(exports={"quitter": Quitter("quitter")}, allow=[Made]) as house:
        peer = await house.enter()
        assert (await peer.answer(peer.ask("quitter")))["body"]["content"] == "bye"
        assert await peer.error(peer.ask("quitter")) == "agent_stopped"
        await peer.answer(spawn(peer, "Made", "mine", {"name": "m"}))
        first, second = peer.ask("mine", {"x": None}, op="stop"), peer.ask("mine", {"x": None}, op="stop")
        assert "body" in await peer.answer(first)
        assert await peer.error(second) == "no_such_agent"


# Creating agents


def spawn(peer: RawPeer, kind: Any, name: Any, cfg: Any) -> int:
    frame = peer.numbered("spn", name=name, cfg=cfg)
    peer.send(frame | {"kind": kind})
    return peer.id


@contextmanager
def nothing_imported() -> Iterator[None]:
    before = set(sys.modules)
    yield
    assert set(sys.modules) - before == set()


def tempting_names() -> list[str]:
    own = [
        name
        for module in list(sys.modules)
        if module.startswith("agentscope_async")
        for name in dir(sys.modules[module])
    ]
    names = [
        *dir(builtins),
        *dir(os),
        *dir(agentscope_async),
        *sorted(set(own)),
        "agentscope_async.agents.DialogAgent",
        "os.system",
        "subprocess.Popen",
        "antigravity",
        "this",
        "tests.node.raw_peer",
        "__main__",
        "Made.__init__",
    ]
    is_name = re.compile(
        "[A-Za-z0-9_.-]{1,64}"
    ).fullmatch  # others are no names of anything, and refused as such
    fitting = [name for name in dict.fromkeys(names) if is_name(name) and name != "Made"]
    return fitting[:: max(1, len(fitting) // 400)]


async def test_r27_no_name_but_an_allowed_one_makes_an_instance_or_an_import() -> None:
    names = tempting_names()
    assert len(names) >= 200
    async with attacked(allow=[Made]) as house:
        peer = await house.enter()
        await peer.answer(spawn(peer, "Made", "warm", {"name": "m"}))  # what is imported at first use, is now
        await peer.answer(spawn(peer, "nothing", "warm", {}))
        gc.collect()
        count = sum(isinstance(each, AgentBase) for each in gc.get_objects())
        with nothing_imported():
            for name in names:
                assert await peer.error(spawn(peer, name, "x", {"name": "x"})) == "forbidden", name
        gc.collect()
        assert sum(isinstance(each, AgentBase) for each in gc.get_objects()) == count


async def test_without_allow_nobody_creates_anything() -> None:
    async with attacked() as house:
        peer = await house.enter()
        for kind in ("DialogAgent", "AgentBase", "UserAgent"):
            assert (
                await peer.error(spawn(peer, kind, "x", {"name": "x", "model": "fake:echo"})) == "forbidden"
            )


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({}, "bad_config"),
    "unknown": ({"name": "m", "shell": "id"}, "bad_config"),
    "self": ({"name": "m", "self": 1}, "bad_config"),
    "dunder": ({"name": "m", "__class__": "os.system"}, "bad_config"),
    "no identifier": ({"name": "m", "a b": 1}, "bad_config"),
    "name of a number": ({"name": 7}, "bad_config"),
    "name of 10 kB": ({"name": "x" * 10_000}, "bad_config"),
    "name of control characters": ({"name": "a\x1b[2J"}, "bad_config"),
    "size of a text": ({"name": "m", "size": "1"}, "bad_config"),
    "size of true": ({"name": "m", "size": True}, "bad_config"),
    "use_memory of a text": ({"name": "m", "use_memory": "no"}, "bad_config"),
    "capacity 0": ({"name": "m", "capacity": 0}, "bad_config"),
    "capacity of a text": ({"name": "m", "capacity": "1"}, "bad_config"),
    "overflow unknown": ({"name": "m", "overflow": "explode"}, "bad_config"),
    "overflow of a list": ({"name": "m", "overflow": ["wait"]}, "bad_config"),
    "memory": ({"name": "m", "memory": {"mark": 1}}, "bad_config"),
    "model with an address": (
        {
            "name": "m",
            "model": {"config_name": "x", "model_type": "openai", "base_url": "http://127.0.0.1:9"},
        },
        "bad_config",
    ),
    "model configuration by its old name": (
        {"name": "m", "model_config_name": {"model_type": "openai", "base_url": "http://127.0.0.1:9"}},
        "bad_config",
    ),
    "model unknown": ({"name": "m", "model": "os:system"}, "bad_config"),
    "model of a number": ({"name": "m", "model": 7}, "bad_config"),
    "model of a list": ({"name": "m", "model": ["fake:echo"]}, "bad_config"),
    "two models": ({"name": "m", "model": "fake:echo", "model_config_name": "fake:echo"}, "bad_config"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
async def test_arguments_that_do_not_fit_make_no_agent(name: str) -> None:
    cfg, code = BAD_ARGUMENTS[name]
    async with attacked(allow=[Made]) as house:
        peer = await house.enter()
        assert await peer.error(spawn(peer, "Made", "x", cfg)) == code
        assert await peer.error(peer.ask("x")) == "no_such_agent"


async def test_arguments_of_10_mb_are_taken_or_refused_and_kept_by_nobody() -> None:
    async with attacked(allow=[Made]) as house:
        peer = await house.enter()
        assert (
            await peer.error(spawn(peer, "Made", "x", {"name": "m", "unknown": "x" * 900_000}))
            == "bad_config"
        )


BAD_KEYS = {
    "reserved": ("_node", "bad_config"),
    "taken": ("healthy", "bad_config"),
    "private": ("_made", "forbidden"),
    "empty": ("", "bad_name"),
    "65 characters": ("x" * 65, "bad_name"),
    "NUL": ("a\0", "bad_name"),
    "newline": ("a\n", "bad_name"),
    "right-to-left mark": ("\u202ehtlaeh", "bad_name"),
    "homoglyph of another": ("he\u0430lthy", "bad_name"),
    "path": ("../healthy", "bad_name"),
    "number": (7, "bad_name"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
async def test_a_key_that_is_none_makes_no_agent(name: str) -> None:
    key, code = BAD_KEYS[name]
    async with attacked(allow=[Made]) as house:
        peer = await house.enter()
        Made.made.clear()
        assert await peer.error(spawn(peer, "Made", key, {"name": "m"})) == code
        assert len(Made.made) == 0


@pytest.mark.parametrize("name", PROBLEMS)
async def test_whatever_a_constructor_raises_is_told_and_the_node_goes_on(name: str) -> None:
    async with attacked(allow=[Made]) as house:
        peer = await house.enter()
        assert "err" in await peer.answer(spawn(peer, "Made", "x", {"name": "m", "problem": name}))
        assert await peer.error(peer.ask("x")) == "no_such_agent"
        assert "body" in await peer.answer(spawn(peer, "Made", "x", {"name": "m"}))


async def test_l07_a_constructor_that_fails_a_thousand_times_leaves_nothing() -> None:
    async with attacked(allow=[Made]) as house:
        peer = await house.enter()
        for _ in range(1000):
            assert "err" in await peer.answer(
                spawn(peer, "Made", "x", {"name": "m", "problem": "ValueError"})
            )
        assert len((await house.honest.ps(house.url)).agents) == 1


async def test_no_node_creates_more_agents_than_it_may() -> None:
    tokens = {"mallory": "m" * 32, "honest": "h" * 32}
    grants = {"mallory": Grant(spawn=[Made], agents=["mine"], max_spawned=3), "honest": Grant()}
    async with attacked(token=tokens, allow=grants) as house:
        peer = await house.enter(token=tokens["mallory"])
        codes = [
            (await peer.answer(spawn(peer, "Made", f"m{i}", {"name": "m"}))).get("err", {}).get("code")
            for i in range(5)
        ]
        assert codes == [None, None, None, "forbidden", "forbidden"]
        await peer.answer(peer.ask("m0", {"x": None}, op="stop"))
        assert "body" in await peer.answer(spawn(peer, "Made", "m9", {"name": "m"}))
        assert "body" in await peer.answer(peer.ask("m9"))  # what it has created is its to use
        assert await peer.error(peer.ask("healthy")) == "forbidden"
        assert (await peer.next_down(peer.say("wat", ref="healthy")))["reason"] == "not_found"


async def test_who_may_use_one_agent_hears_of_no_other() -> None:
    tokens = {"mallory": "m" * 32, "honest": "h" * 32}
    grants = {"mallory": Grant(agents=["mine"]), "honest": Grant()}
    async with attacked(exports={"mine": Echo("mine")}, token=tokens, allow=grants) as house:
        peer = await house.enter(token=tokens["mallory"])
        report = (await peer.answer(peer.ask("_node", {}, op="ps")))["body"]
        assert [agent["key"] for agent in report["agents"]] == ["mine"]
        assert report["waits"] == []


async def test_grants_by_name_need_a_token_for_each_name() -> None:
    with pytest.raises(ConfigError, match="token"):
        async with Runtime(listen="mem://open", token="s" * 32, allow={"boss": Grant(is_owner=True)}):
            pass


# What is said to the node itself


async def test_who_does_not_own_a_node_introduces_nobody() -> None:
    async with attacked(exports={"echo": Echo("echo")}) as house, RawNode.listening() as elsewhere:
        peer = await house.enter()
        peer.say("tell", to="_node", op="introduce", body={"node": "elsewhere", "url": elsewhere.url})
        answer = peer.ask("echo", {"x": reference("elsewhere")})
        asked = await peer.next("ask")  # the node from which the reference came is asked, and nobody else
        assert (asked["to"], asked["op"], asked["body"]) == ("_node", "fetch", {"id": HEX, "here": True})
        peer.say("rep", id=asked["id"], body=msg("fetched")["x"])
        assert (await peer.answer(answer))["body"]["content"] == "fetched"
        assert elsewhere.peers == []


async def test_ids_that_nobody_gave_cancel_nothing() -> None:
    gate = Gate("gate")
    async with attacked(exports={"gate": gate}) as house:
        reply = house.honest.agent(f"{house.url}/gate").submit("x")
        await gate.is_entered.wait()
        peer = await house.enter()
        for id in (HEX, "0" * 32, "", None, ["x"], "../" * 10 + "ab"):
            peer.say("tell", to="_node", op="cancel", body={"id": id})
        peer.say("tell", to="_node", op="cancel", body=None)
        for id in range(1, 50):
            peer.send({"t": "can", "n": peer.numbered("can")["n"], "id": id})
        await peer.answer(peer.ask())
        gate.may_go.set()
        assert (await reply).text == "through"


async def test_a_letter_that_was_never_sent_does_not_come_back() -> None:
    async with attacked() as house:
        peer = await house.enter()
        for i in range(2000):
            peer.say(
                "tell",
                to="_node",
                op="returned",
                body={"to": "healthy", "body": msg("forged" * 1000), "code": "mailbox_full", "text": "full"},
            )
            if i % 30 == 29:
                await peer.answer(peer.ask())
        for body in (
            None,
            [],
            {},
            {"to": 1, "body": {}},
            {"to": "x", "body": None},
            {"to": "x", "body": {"x": {"__type": "Msg"}}},
        ):
            peer.say("tell", to="_node", op="returned", body=body)
        await peer.answer(peer.ask())
        assert len(house.rt.dead_letters) == 0


async def test_a_letter_that_comes_back_is_marked_with_its_node_and_comes_back_once() -> None:
    async with RawNode.listening() as node, Runtime(node="us", grace=0) as rt:
        serving = asyncio.create_task(node.greeted())
        await rt.agent(f"{node.url}/box").post("to box")
        peer = await serving
        letter = await peer.next("tell")
        back = {
            "to": "box",
            "body": letter["body"],
            "code": "mailbox_full",
            "text": "full",
            "type": "MailboxFullError",
        }
        for to in ("other", "box", "box", "box"):
            peer.say("tell", to="_node", op="returned", body=back | {"to": to})
        await peer.acknowledged()
        (dead,) = rt.dead_letters
        assert dead.msg.text == "to box"
        assert (
            "mallory" in dead.agent
            or "mallory" in str(dead.error)
            or any("mallory" in n for n in dead.error.__notes__)
        )


async def test_letters_to_nobody_do_not_fill_our_memory_when_they_cannot_be_returned() -> None:
    async with attacked() as house:
        peer = await house.enter(acknowledges=False)

        async def send_large_letters(count: int) -> None:
            for _ in range(count):
                peer.say("tell", to="nobody", body=msg("x" * 500_000))
                for _ in range(3):
                    await asyncio.sleep(0)
                peer.seen.clear()

        tracemalloc.start()
        try:
            await send_large_letters(50)  # fills the outbox
            before = tracemalloc.get_traced_memory()[0]
            await send_large_letters(150)
            assert tracemalloc.get_traced_memory()[0] - before < 4 * 2**20
        finally:
            tracemalloc.stop()


# References to results


def reference(node: str, id: str = HEX, **fields: Any) -> dict[str, Any]:
    return {"__type": "Reply", "name": "someone", "node": node, "id": id} | fields


async def test_j28_no_reference_makes_a_node_dial() -> None:
    async with attacked(exports={"echo": Echo("echo")}) as house, RawNode.listening() as elsewhere:
        peer = await house.enter()
        host, _, port = elsewhere.url.removeprefix("ws://").partition(":")
        tempting = {"url": elsewhere.url, "host": host, "port": int(port), "address": elsewhere.url}
        for node in ("elsewhere", "127.0.0.1", f"{host}.{port}", "localhost"):
            answer = peer.ask("echo", {"x": reference(node, **tempting)})
            asked = await peer.next("ask")
            peer.say(
                "rep", id=asked["id"], err={"code": "reply_expired", "text": "", "type": "ReplyExpiredError"}
            )
            assert await peer.error(answer) == "reply_expired"
        old = msg() | {"x": msg()["x"] | tempting | {"task_id": 1, "__type": "Msg"}}
        await peer.answer(peer.ask("echo", old))
        assert elsewhere.peers == []


async def test_a_reference_to_itself_is_a_deadlock() -> None:
    async with attacked(exports={"echo": Echo("echo"), "other": Echo("other")}) as house:
        peer = await house.enter()
        peer.say("tell", to="echo", op="submit", body={"x": reference("house", "a" * 32), "rid": "a" * 32})
        assert await peer.error(peer.ask("_node", {"id": "a" * 32}, op="fetch")) == "deadlock"
        peer.say("tell", to="echo", op="submit", body={"x": reference("house", "c" * 32), "rid": "b" * 32})
        peer.say("tell", to="other", op="submit", body={"x": reference("house", "b" * 32), "rid": "c" * 32})
        codes = {await peer.error(peer.ask("_node", {"id": id * 32}, op="fetch")) for id in "bc"}
        assert codes == {"deadlock"}
        assert "body" in await peer.answer(peer.ask("echo"))


async def test_a_result_of_our_own_node_can_be_passed_to_our_own_node() -> None:
    agents = [Echo("echo"), Echo("other")]
    async with Runtime(listen="mem://own", exports=agents, grace=0) as rt:
        await rt.agent("mem://own/echo")("connect")
        for text in ("round trip", "again"):
            reply = rt.agent("mem://own/echo").submit(text)
            assert (await rt.agent("mem://own/other")(reply)).text == text


async def test_what_is_fetched_may_be_anything_and_is_a_message_or_an_error() -> None:
    async with attacked(exports={"echo": Echo("echo")}) as house:
        peer = await house.enter()
        for body in (
            None,
            7,
            "hi",
            [],
            {},
            {"__type": "Reply"},
            {"__type": "os.system"},
            [msg()["x"]],
        ):
            answer = peer.ask("echo", {"x": reference("mallory")})
            asked = await peer.next("ask")
            peer.say("rep", id=asked["id"], body=body)
            assert await peer.error(answer) == "bad_payload", body


async def test_who_is_sent_elsewhere_for_a_result_goes_there_once_and_only_where_it_knows_the_way() -> None:
    async with attacked(exports={"echo": Echo("echo")}) as house, RawNode.listening() as elsewhere:
        peer = await house.enter()
        answer = peer.ask("echo", {"x": reference("mallory")})
        first = await peer.next("ask")
        peer.say("rep", id=first["id"], body={**reference("elsewhere"), "url": elsewhere.url})
        second = await peer.next("ask")
        assert second["body"] == {"id": HEX, "here": True}
        peer.say("rep", id=second["id"], body=reference("elsewhere"))
        assert await peer.error(answer) == "bad_payload"
        answer = peer.ask("echo", {"x": reference("mallory")})
        peer.say("rep", id=(await peer.next("ask"))["id"], body=reference("house"))
        assert await peer.error(answer) == "reply_expired"


async def test_a_reference_whose_result_never_comes_ends_with_the_time_limit_of_the_node() -> None:
    async with attacked(exports={"echo": Echo("echo")}, ask_timeout_s=0.05) as house:
        peer = await house.enter()
        assert await peer.error(peer.ask("echo", {"x": reference("mallory")})) == "deadline"
        assert (await house.honest.agent(f"{house.url}/echo")("free?")).text == "free?"


async def test_a_reference_whose_result_never_comes_ends_with_its_link() -> None:
    async with attacked(exports={"echo": Echo("echo")}) as house:
        peer = await house.enter()
        peer.ask("echo", {"x": reference("mallory")})
        peer.say("tell", to="echo", body={"x": reference("mallory")})
        await peer.next("ask")
        await peer.leave()
        assert (await house.honest.agent(f"{house.url}/echo")("free?")).text == "free?"


async def test_fetching_what_nobody_keeps_by_the_thousand_starves_nobody() -> None:
    async with attacked(exports={"echo": Echo("echo")}) as house:
        peer = await house.enter()
        for i in range(4_000):
            peer.ask("_node", {"id": f"{i:032x}"}, op="fetch")
            if i % 100 == 0:
                await asyncio.sleep(0)
        reply = house.honest.agent(f"{house.url}/echo").submit("kept")
        assert (await reply).text == "kept"
        assert (await peer.answer(peer.ask("echo")))["body"]["content"] == "hi"


# Floods


async def test_watches_by_the_ten_thousand_are_forgotten_in_time() -> None:
    async with attacked(exports={"echo": Echo("echo")}, allow=[Made]) as house:
        for ending in ("unwatch", "leave"):
            peer = await house.enter(node=ending)
            ids = [peer.say("wat", ref="echo") for _ in range(20_000)]
            await peer.answer(peer.ask())
            if ending == "unwatch":
                for id in ids:
                    peer.say("unw", id=id)
                await peer.answer(peer.ask())
            await peer.leave()
        peer = await house.enter(node="stop")
        await peer.answer(spawn(peer, "Made", "mine", {"name": "m"}))
        ids = [peer.say("wat", ref="mine") for _ in range(20_000)]
        await peer.answer(peer.ask("mine", {"x": None}, op="stop"))
        await peer.answer(peer.ask())
        assert sum(frame["t"] == "dwn" for frame in peer.seen) == 20_000


async def test_every_watch_of_a_stopped_agent_fires() -> None:
    agent = Echo("echo")
    async with attacked(exports={"echo": agent}) as house:
        peer = await house.enter()
        ids = [peer.say("wat", ref="echo") for _ in range(9)]
        await peer.answer(peer.ask())
        await agent.stop()
        await peer.answer(peer.ask())
        assert sorted(frame["id"] for frame in peer.seen if frame["t"] == "dwn") == ids


async def test_watches_of_nobody_are_answered() -> None:
    async with attacked() as house:
        peer = await house.enter()
        for i in range(5000):
            peer.say("wat", ref=f"nobody-{i}")
        await peer.answer(peer.ask())
        assert sum(frame["t"] == "dwn" and frame["reason"] == "not_found" for frame in peer.seen) == 5000


class Large(AgentBase):
    """Has much to say."""

    async def reply(self, x: Any = None) -> Msg:
        return Msg(self.name, "x" * 500_000, "assistant")


async def test_answers_nobody_takes_are_bounded() -> None:
    async with attacked(exports={"large": Large("large")}) as house:
        peer = await house.enter(acknowledges=False)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            sent = 0
            while sent < 1000 and not peer.closed.done():
                peer.ask("large")
                sent += 1
                for _ in range(5):
                    await asyncio.sleep(0)
                peer.seen.clear()
            assert tracemalloc.get_traced_memory()[0] - before < 32 * 2**20
        finally:
            tracemalloc.stop()


class Speaker(AgentBase):
    """Speaks many pieces."""

    async def reply(self, x: Any = None) -> Msg:
        for i in range(1000):
            await self.speak(Speech("text", f"piece {i}"))
        return Msg(self.name, "spoken", "assistant")


async def test_parts_nobody_grants_credit_for_wait_until_the_link_or_the_ask_ends() -> None:
    async with attacked(exports={"speaker": Speaker("speaker")}) as house:
        peer = await house.enter(credit=4)
        ids = [peer.ask("speaker", parts=True) for _ in range(20)]
        for _ in range(4):
            await peer.next("rep", last=False)
        await peer.answer(peer.ask())
        assert not any(frame["t"] == "rep" for frame in peer.seen)
        for id in ids[:10]:
            peer.say("can", id=id)
            assert await peer.error(id) == "cancelled"
        await peer.leave()
        assert (await house.honest.agent(f"{house.url}/speaker")("free?")).text == "spoken"


async def test_parts_nobody_grants_credit_for_end_with_the_time_limit_of_the_node() -> None:
    async with attacked(exports={"speaker": Speaker("speaker")}, ask_timeout_s=0.05) as house:
        peer = await house.enter(credit=4)
        assert await peer.error(peer.ask("speaker", parts=True)) == "deadline"
        assert (await house.honest.agent(f"{house.url}/speaker")("free?")).text == "spoken"


async def test_more_asks_than_the_credit_of_an_agent_end_the_session() -> None:
    gate = Gate("gate")
    async with attacked(exports={"gate": gate}) as house:
        peer = await house.enter()
        for _ in range(65):
            peer.ask("gate")
        assert await peer.close_code() == 4006
        gate.may_go.set()
        assert (await house.honest.agent(f"{house.url}/gate")("free?")).text == "through"


async def test_letters_to_a_stuck_agent_hold_up_that_agent_only() -> None:
    gate = Gate("gate")
    async with attacked(exports={"gate": gate, "echo": Echo("echo")}) as house:
        peer = await house.enter()
        for _ in range(64):
            peer.say("tell", to="gate", body=msg())
        for _ in range(200):
            await peer.answer(peer.ask("echo"))
        gate.may_go.set()


async def test_names_of_agents_nobody_has_by_the_ten_thousand_cost_little() -> None:
    async with attacked() as house:
        peer = await house.enter()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for i in range(20_000):
                id = peer.ask(f"nobody-{i}")
                if i % 500 == 499:
                    assert await peer.error(id) == "no_such_agent"
                    peer.seen.clear()
            assert tracemalloc.get_traced_memory()[0] - before < 16 * 2**20
        finally:
            tracemalloc.stop()


# Forged chains and probes


class Asking(AgentBase):
    """Asks another agent, when it is asked itself."""

    other: Any = None

    async def reply(self, x: Any = None) -> Any:
        return await self.other(x)


async def test_r24_a_forged_probe_ends_no_ask_of_ours() -> None:
    asking, gate = Asking("asking"), Gate("gate")
    async with (
        attacked(exports={"asking": asking}) as house,
        Runtime(listen="mem://third", exports=[gate], node="third", grace=0),
    ):
        asking.other = house.rt.agent("mem://third/gate")
        waiting = asyncio.create_task(house.honest.agent(f"{house.url}/asking")("x"))
        await gate.is_entered.wait()
        peer = await house.enter()
        for number in range(64):
            label = f"house/asking~{number:x}"
            if number % 4 == 0:
                ask = peer.ask("asking", chain=[label])
            peer.send({"t": "prb", "id": ask, "path": [label]})
            peer.send({"t": "prb", "id": ask, "path": [label, f"mallory/x~{number}"]})
        await peer.answer(peer.ask())
        assert not waiting.done()
        gate.may_go.set()
        assert (await waiting).text == "through"


async def test_a_forged_chain_makes_no_deadlock_of_others() -> None:
    asking, gate, echo = Asking("asking"), Gate("gate"), Echo("echo")
    async with (
        attacked(exports={"asking": asking, "echo": echo}) as house,
        Runtime(listen="mem://third", exports=[gate], node="third", grace=0),
    ):
        asking.other = house.rt.agent("mem://third/gate")
        waiting = asyncio.create_task(house.honest.agent(f"{house.url}/asking")("x"))
        await gate.is_entered.wait()
        peer = await house.enter()
        for number in range(20):
            chain = [f"house/asking~{number:x}"]
            answer = await peer.answer(peer.ask("echo", chain=chain))
            assert answer["body"]["content"] == "hi"
            asked = peer.ask("asking", chain=chain)  # would be a circle, if the chain was true
            peer.say("can", id=asked)
            assert await peer.error(asked) == "cancelled"
        gate.may_go.set()
        assert (await waiting).text == "through"


# Nodes that are dialed, and answer what they like


BAD_ANSWERS: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "a text": "hi",
    "a list": [],
    "an object": {},
    "another type": {"__type": "os.system"},
    "a reference": {"__type": "Reply", "name": "x", "node": "mallory", "id": HEX},
    "no content": {"__type": "Msg", "name": "x"},
    "a role": {"__type": "Msg", "name": "x", "content": "y", "role": "root"},
    "a part": {"__type": "Msg", "name": "x", "content": [{"__part": "exec", "code": "1"}], "role": "user"},
    "a field of Msg's own": {"__type": "Msg", "name": "x", "content": "y", "role": "user", "__class__": "z"},
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_an_answer_that_is_no_message_is_an_error(name: str) -> None:
    async with RawNode.listening() as node, Runtime(grace=0) as rt:
        agent = rt.agent(f"{node.url}/x")
        asking = asyncio.create_task(agent("hi"))
        peer = await node.greeted()
        ask = await peer.next("ask")
        peer.say("rep", id=ask["id"], body=BAD_ANSWERS[name])
        with pytest.raises(MessageError):
            await asking
        spawning = asyncio.create_task(rt.spawn(node.url, "Made", {"name": "m"}))
        request = await peer.next("spn")
        peer.say("rep", id=request["id"], body=BAD_ANSWERS[name])
        with pytest.raises(AgentScopeError):
            await spawning
        reporting = asyncio.create_task(rt.ps(node.url))
        request = await peer.next("ask")
        peer.say("rep", id=request["id"], body=BAD_ANSWERS[name])
        with pytest.raises(AgentScopeError):
            await reporting


BAD_PARTS: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "a list": [],
    "an object": {},
    "unknown kind": {"kind": "exec", "text": "x"},
    "kind of a list": {"kind": ["text"], "text": "x"},
    "no text": {"kind": "text"},
    "text of a number": {"kind": "text", "text": 7},
    "said a number": {"said": 7},
    "said a list": {"said": []},
    "data of an unknown part": {"kind": "tool_call", "text": "", "data": {"__part": "exec"}},
    "data of a text": {"kind": "tool_call", "text": "", "data": "x"},
}


@pytest.mark.parametrize("name", BAD_PARTS)
async def test_a_part_that_is_none_ends_its_stream_with_an_error(name: str) -> None:
    async with RawNode.listening() as node, Runtime(grace=0) as rt:

        async def listen() -> None:
            async with rt.agent(f"{node.url}/x").stream("hi") as stream:
                async for _ in stream:
                    pass

        listening = asyncio.create_task(listen())
        peer = await node.greeted()
        ask = await peer.next("ask")
        peer.say("rep", id=ask["id"], last=False, body=BAD_PARTS[name])
        with pytest.raises(MessageError):
            await listening
        await peer.next("can", id=ask["id"])


FORGED_ERRORS: dict[str, dict[str, Any]] = {
    "os.system": {"code": "agent_error", "type": "os.system", "text": "id"},
    "eval": {"code": "agent_error", "type": "eval", "text": "1/0"},
    "SystemExit": {"code": "agent_error", "type": "SystemExit", "text": "3"},
    "KeyboardInterrupt": {"code": "agent_error", "type": "KeyboardInterrupt", "text": ""},
    "CancelledError": {"code": "agent_error", "type": "CancelledError", "text": ""},
    "a dunder": {"code": "agent_error", "type": "__import__", "text": "os"},
    "facts that are attributes": {
        "code": "deadlock",
        "type": "DeadlockError",
        "text": "x",
        "facts": {
            "__class__": "x",
            "args": 1,
            "__traceback__": 2,
            "chain": 7,
            "with_traceback": 1,
            "add_note": 0,
        },
    },
    "facts of nesting": {
        "code": "node_down",
        "type": "NodeDown",
        "text": "x",
        "facts": {"node": [[]], "reason": {}, "outcome": 1},
    },
    "an unknown code": {"code": "no-such-code", "text": "x"},
    "control characters": {"code": "agent_error", "type": "\x1b[2J", "text": "\x1b[2J\n\u202e", "tb": "\x00"},
}


@pytest.mark.parametrize("name", FORGED_ERRORS)
async def test_a_forged_error_is_an_ordinary_exception(name: str) -> None:
    async with RawNode.listening() as node, Runtime(grace=0) as rt:
        asking = asyncio.create_task(rt.agent(f"{node.url}/x")("hi"))
        peer = await node.greeted()
        ask = await peer.next("ask")
        peer.say("rep", id=ask["id"], err=FORGED_ERRORS[name])
        with pytest.raises(Exception) as caught:
            await asking
        error = caught.value
        assert isinstance(error, AgentScopeError)
        assert type(error) is RemoteError or type(error).__name__ == FORGED_ERRORS[name].get("type")
        assert str(error)
        assert isinstance(error.args, tuple)


async def test_j19_j20_replies_resolve_the_ask_they_belong_to_and_only_once() -> None:
    async with RawNode.listening() as node, Runtime(grace=0) as rt:
        first, second = (asyncio.create_task(rt.agent(f"{node.url}/x")(text)) for text in ("one", "two"))
        peer = await node.greeted()
        asks = [await peer.next("ask"), await peer.next("ask")]
        for id in (asks[0]["id"] + 7, 2**53):
            peer.say("rep", id=id, body=msg("forged")["x"])
        for content in ("first", "second"):
            peer.say("rep", id=asks[0]["id"], body=msg(content)["x"])
        assert (await first).text == "first"
        assert not second.done()
        peer.say("rep", id=asks[1]["id"], err={"code": "agent_error", "text": "no"})
        with pytest.raises(RemoteError):
            await second


@pytest.mark.parametrize("ending", ["bye", "cut frame", "no reply to a resumption", "flow"])
async def test_every_ask_ends_when_its_node_misbehaves(ending: str) -> None:
    async with RawNode.listening() as node, Runtime(grace=0) as rt:
        agent = rt.agent(f"{node.url}/x", timeout_s=0.5)
        asking = [asyncio.create_task(agent("hi")) for _ in range(50)]
        peer = await node.greeted()
        await peer.next("ask")
        if ending == "bye":
            await peer.leave()
        elif ending == "flow":
            for _ in range(70):
                peer.say("tell", to="_node", op="introduce", body={})
            peer.send(*[b'{"t":"ack","rx":0}'] * 200)
            peer.send({"t": "crd", "to": "x", "upto": -1})
        else:
            peer.send(b'{"t":')
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(each, (NodeDown, AskTimeoutError)) for each in outcomes), outcomes


EARLY: dict[str, dict[str, Any]] = {
    "watch": {"t": "wat", "n": 1, "id": 1, "ref": "healthy"},
    "spawn": {"t": "spn", "n": 1, "id": 1, "kind": "Made", "name": "x", "cfg": {}},
    "bad ask": {"t": "ask", "n": 1, "id": 1, "to": "../x", "body": 1},
    "ask": {"t": "ask", "n": 1, "id": 1, "to": "healthy", "body": msg()},
    "letter": {"t": "tell", "n": 1, "to": "nobody", "body": msg()},
    "reply": {"t": "rep", "n": 1, "id": 1, "body": 1},
    "probe": {"t": "prb", "id": 1, "path": ["x"]},
    "cancel": {"t": "can", "n": 1, "id": 1},
    "draining": {"t": "bye", "reason": "x", "drain_ms": 5},
    "farewell": {"t": "bye", "reason": "x", "drain_ms": 0},
    "garbage": {"t": "exec"},
}


@pytest.mark.parametrize("name", EARLY)
async def test_frames_right_behind_the_welcome_are_served(name: str) -> None:
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    async with RawNode.listening() as node, Runtime(exports={"healthy": Echo("healthy")}, grace=0) as rt:
        asking = asyncio.create_task(rt.agent(f"{node.url}/x", timeout_s=0.5)("hi"))
        peer = await node.greeted(EARLY[name])
        if name in ("spawn", "bad ask", "ask"):
            assert "body" not in await peer.answer(1), "who is dialed has no rights here"
        if name == "watch":
            peer.n = 1
            peer.say("unw", id=1)
        await asyncio.wait([asking])
        assert isinstance(asking.exception(), AgentScopeError)
    assert reports == []


def test_numbered_kinds_are_those_of_the_protocol() -> None:
    from agentscope_async.node import decoding

    assert decoding._NUMBERED == NUMBERED


async def test_a_deadlock_over_nodes_is_told_also_when_the_asker_is_hostile() -> None:
    asking = Asking("asking")
    async with attacked(exports={"asking": asking}) as house:
        asking.other = house.rt.agent(f"{house.url}/asking")
        peer = await house.enter()
        assert await peer.error(peer.ask("asking")) == "deadlock"
        with pytest.raises(DeadlockError):
            await asking("x")
