"""Frames that break the rules, sent to a runtime by a peer that was let in.

The letters J and R in names are rows of the reliability tables. What a session alone does with such
frames is tested with it; here it is what the runtime, its agents and its other peers see.
"""

from __future__ import annotations

import asyncio
import base64
import marshal
import pickle
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st
from node.fuzz_bridge import BridgeTarget
from node.raw_peer import RawPeer, attacked, msg

from agentscope_async import Msg
from agentscope_async.agents import AgentBase
from agentscope_async.errors import MessageError
from agentscope_async.node.exports import Grant

MAX_INTEGER = 2**53


class Listening(AgentBase):
    """Keeps all that it is given."""

    def __init__(self, name: str) -> None:
        super().__init__(name, use_memory=False)
        self.heard: list[Any] = []

    async def reply(self, x: Any = None, **kwargs: Any) -> Msg:
        self.heard.append((x, kwargs))
        return Msg(self.name, "heard", "assistant")


def ask(**changes: Any) -> dict[str, Any]:
    return {"t": "ask", "n": 1, "id": 1, "to": "healthy", "body": msg()} | changes


def ask_line(value: bytes) -> bytes:
    """Return an ask whose message has ``value``, as it is, for its content."""
    return (
        b'{"t":"ask","n":1,"id":1,"to":"healthy","body":{"x":{"__type":"Msg","name":"m","role":"user",'
        b'"content":' + value + b"}}}"
    )


# Frames that cannot be stepped over: the link is closed with a code, and no ask is begun.

CLOSED: dict[str, tuple[list[Any], int]] = {
    "j01 no JSON": ([b"\x00\xff\xfe"], 4001),
    "j01 nothing": ([b""], 4001),
    "j01 a list": ([b"[]"], 4001),
    "j01 a number": ([b"7"], 4001),
    "j01 no type": ([{"n": 1}], 4001),
    "j01 an unknown type": ([{"t": "exec", "n": 1}], 4001),
    "j01 a type that is no text": ([{"t": ["ask"], "n": 1}], 4001),
    "j01 lone surrogate": ([b'{"t":"ask","n":1,"id":1,"to":"healthy","body":"\\ud800"}'], 4001),
    "j01 not UTF-8": ([ask_line(b'"\xff"')], 4001),
    "j01 too many frames": ([[{"t": "hb", "ts": 1}] * 257], 4001),
    "j01 a frame within a frame's list": ([[[{"t": "hb", "ts": 1}]]], 4001),
    "j01 frames by lines": ([b'{"t":"hb","ts":1}\n{"t":"hb","ts":1}'], 4001),
    "j03 byte order mark": ([b"\xef\xbb\xbf" + orjson.dumps(ask())], 4001),
    "j03 trailing garbage": ([orjson.dumps(ask()) + b"x"], 4001),
    "j03 two documents": ([orjson.dumps(ask()) * 2], 4001),
    "j04 100,000 brackets": ([b"[" * 100_000], 4001),
    "j04 100,000 brackets in a body": ([ask_line(b"[" * 100_000 + b"]" * 100_000)], 4001),
    "j04 100,000 objects": ([b'{"a":' * 100_000], 4001),
    "j06 integer of 5,000 digits": ([ask_line(b"5" * 5000)], 4001),
    "j06 1e400": ([ask_line(b"1e400")], 4001),
    "j06 NaN": ([ask_line(b"NaN")], 4001),
    "j06 Infinity": ([ask_line(b"-Infinity")], 4001),
    "j13 500,000 values": ([ask_line(b"[" + b"0," * 500_000 + b"0]")], 4001),
    "j15 no number": ([{"t": "ask", "id": 1, "to": "healthy", "body": msg()}], 4001),
    "j15 number 0": ([ask(n=0)], 4001),
    "j15 negative number": ([ask(n=-1)], 4001),
    "j15 number that is a float": ([ask(n=1.0)], 4001),
    "j15 number that is a text": ([ask(n="1")], 4001),
    "j15 number that is true": ([ask(n=True)], 4001),
    "j15 number beyond 2**53": ([ask(n=MAX_INTEGER + 1)], 4001),
    "j15 one skipped": ([ask(n=2)], 4002),
    "j15 many skipped": ([ask(n=MAX_INTEGER)], 4002),
    "j16 acknowledges what was never sent": ([{"t": "ack", "rx": 1}], 4002),
    "j16 acknowledges a text": ([{"t": "ack", "rx": "1"}], 4001),
    "j16 acknowledges less than nothing": ([{"t": "ack", "rx": -1}], 4001),
    "j16 acknowledgements by the thousand": ([[{"t": "ack", "rx": 0}] * 200] * 30, 4006),
    "j17 negative credit": ([{"t": "crd", "to": "healthy", "upto": -1}], 4001),
    "j17 no credit": ([{"t": "crd", "to": "healthy", "upto": 0}], 4001),
    "j17 credit of 2**60": ([{"t": "crd", "to": "healthy", "upto": 2**60}], 4001),
    "j17 credit by the thousand": ([[{"t": "crd", "to": "healthy", "upto": 99}] * 200] * 30, 4006),
    "j18 more letters than its credit": (
        [[{"t": "tell", "n": n, "to": "stuck", "body": msg()} for n in range(1, 67)]],
        4006,
    ),
    "a second hello": ([{"t": "hello"}], 4001),
    "an id twice": ([ask(), ask(n=2)], 4001),
    "an id that goes back": ([ask(id=5), ask(n=2, id=4)], 4001),
    "a part of a part": ([{"t": "part", "n": 1, "id": 1, "i": 1, "of": 2, "data": "aGk="}], 4001),
    "a part that is no base64": ([{"t": "part", "n": 1, "id": 1, "i": 0, "of": 2, "data": "?"}], 4001),
    "a frame between parts": (
        [{"t": "part", "n": 1, "id": 1, "i": 0, "of": 2, "data": "aGk="}, ask(n=2)],
        4001,
    ),
    "a heartbeat in a part": (
        [
            {"t": "part", "n": 1, "id": 1, "i": 0, "of": 2, "data": base64.b64encode(b'{"t":"hb",').decode()},
            {"t": "part", "n": 2, "id": 1, "i": 1, "of": 2, "data": base64.b64encode(b'"ts":1}').decode()},
        ],
        4001,
    ),
    "a probe of control characters": ([{"t": "prb", "id": 1, "path": ["\x1b"]}], 4001),
    "a farewell": ([{"t": "bye", "reason": "closed", "drain_ms": 0}], 4010),
}


class Stuck(AgentBase):
    """Never ends a turn by itself."""

    async def reply(self, x: Any = None) -> Msg:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("name", CLOSED)
async def test_a_frame_that_cannot_be_counted_closes_the_link_with_its_code(name: str) -> None:
    messages, code = CLOSED[name]
    async with attacked(exports={"stuck": Stuck("stuck")}) as house:
        peer = await house.enter()
        for message in messages:
            peer.send(message)
        assert await peer.close_code() == code


# Asks that are stepped over and answered with an error.

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "j05 nested 300 deep": ({"body": msg(orjson.loads(b"[" * 300 + b"]" * 300))}, "too_deep"),
    "j05 nested 70 deep": ({"body": msg(orjson.loads(b"[" * 70 + b"]" * 70))}, "too_deep"),
    "j05 a message nested 65 deep": ({"body": msg(orjson.loads(b"[" * 65 + b"]" * 65))}, "bad_payload"),
    "j22 chain of 10,000": ({"chain": ["a/b~1"] * 10_000}, "hop_limit"),
    "j22 chain of no texts": ({"chain": [1]}, "bad_frame"),
    "j22 chain of control characters": ({"chain": ["a/\x1b[2J~1"]}, "bad_frame"),
    "j22 chain that is a text": ({"chain": "healthy"}, "bad_frame"),
    "j23 nobody": ({"to": "nobody"}, "no_such_agent"),
    "j23 empty": ({"to": ""}, "bad_name"),
    "j23 10 KiB": ({"to": "x" * 10_240}, "bad_name"),
    "j23 path above": ({"to": "../healthy"}, "bad_name"),
    "j23 slashes": ({"to": "house//healthy"}, "bad_name"),
    "j23 URL": ({"to": "ws://127.0.0.1/healthy"}, "bad_name"),
    "j23 NUL": ({"to": "healthy\0"}, "bad_name"),
    "j23 newline": ({"to": "healthy\n"}, "bad_name"),
    "j23 ANSI escape": ({"to": "\x1b[31mhealthy"}, "bad_name"),
    "j23 right-to-left mark": ({"to": "\u202eyhtlaeh"}, "bad_name"),
    "j23 zero-width joiner": ({"to": "heal\u200dthy"}, "bad_name"),
    "j23 homoglyph": ({"to": "he\u0430lthy"}, "bad_name"),
    "j23 full-width": ({"to": "\uff48ealthy"}, "bad_name"),
    "j23 other case": ({"to": "Healthy"}, "no_such_agent"),
    "j23 a list": ({"to": ["healthy"]}, "bad_name"),
    "j23 null": ({"to": None}, "bad_name"),
    "j24 _supervisor": ({"to": "_supervisor"}, "forbidden"),
    "j24 _bridge": ({"to": "_bridge"}, "forbidden"),
    "j24 __class__": ({"to": "__class__"}, "forbidden"),
    "unknown op of an agent": ({"op": "__init__"}, "forbidden"),
    "private op of an agent": ({"op": "_take_turn"}, "forbidden"),
    "export_config of an agent": ({"op": "export_config"}, "forbidden"),
    "op that is no name": ({"op": "../reply"}, "bad_frame"),
    "op that is a list": ({"op": ["reply"]}, "bad_frame"),
    "unknown op of the node": ({"to": "_node", "op": "reply", "body": {}}, "forbidden"),
    "aclose of the node": ({"to": "_node", "op": "aclose", "body": {}}, "forbidden"),
    "ttl negative": ({"ttl": -1}, "bad_frame"),
    "ttl true": ({"ttl": True}, "bad_frame"),
    "ttl over": ({"ttl": 0}, "deadline"),
    "body that is null": ({"body": None}, "bad_payload"),
    "body that is a list": ({"body": [msg()]}, "bad_payload"),
    "body that is a text": ({"body": "hi"}, "bad_payload"),
    "x that is a number": ({"body": {"x": 7}}, "bad_payload"),
    "x that is a text": ({"body": {"x": "hi"}}, "bad_payload"),
    "x of an unknown type": ({"body": {"x": {"__type": "os.system", "content": "id"}}}, "bad_payload"),
    "x without content": ({"body": {"x": {"__type": "Msg", "name": "m", "role": "user"}}}, "bad_payload"),
    "x of an unknown role": ({"body": msg() | {"x": msg()["x"] | {"role": "root"}}}, "bad_payload"),
    "x of 1 in a list": ({"body": {"x": [msg()["x"], 1]}}, "bad_payload"),
    "x of lists in a list": ({"body": {"x": [[msg()["x"]]]}}, "bad_payload"),
    "a field of x that is Msg's own": ({"body": {"x": msg()["x"] | {"__class__": "x"}}}, "bad_payload"),
    "a field of x that is a method": ({"body": {"x": msg()["x"] | {"to_dict": "x"}}}, "bad_payload"),
    "an unknown part": ({"body": msg([{"__part": "code", "text": "x"}])}, "bad_payload"),
    "kw that is a list": ({"body": msg(kw=[])}, "bad_payload"),
    "kw that is null": ({"body": msg(kw=None)}, "bad_payload"),
    "trace with control characters": ({"body": msg(trace="a\x1b[2Jb")}, "bad_payload"),
    "trace with a newline": ({"body": msg(trace="a\nb")}, "bad_payload"),
    "trace of nothing": ({"body": msg(trace="")}, "bad_payload"),
    "trace of 65 characters": ({"body": msg(trace="x" * 65)}, "bad_payload"),
    "trace that is a number": ({"body": msg(trace=7)}, "bad_payload"),
    "rid of another form": ({"body": msg(rid="../x")}, "bad_payload"),
    "rid that is a number": ({"body": msg(rid=7)}, "bad_payload"),
    "reference without a node": (
        {"body": {"x": {"__type": "Reply", "name": "a", "id": "0" * 32}}},
        "bad_payload",
    ),
    "reference with a URL for a node": (
        {"body": {"x": {"__type": "Reply", "name": "a", "id": "0" * 32, "node": "ws://127.0.0.1:9"}}},
        "bad_payload",
    ),
    "reference with a path for an id": (
        {"body": {"x": {"__type": "Reply", "name": "a", "id": "../" * 10 + "ab", "node": "house"}}},
        "bad_payload",
    ),
    "fetch without an id": ({"to": "_node", "op": "fetch", "body": {}}, "bad_payload"),
    "fetch of a list": ({"to": "_node", "op": "fetch", "body": {"id": ["0" * 32]}}, "bad_payload"),
    "fetch of a path": ({"to": "_node", "op": "fetch", "body": {"id": "../" * 10 + "ab"}}, "bad_payload"),
    "load_state by who did not create it": ({"op": "load_state", "body": msg({"memory": []})}, "forbidden"),
    "stop by who did not create it": ({"op": "stop", "body": {"x": None}}, "forbidden"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_an_ask_that_is_refused_is_answered_and_the_link_goes_on(name: str) -> None:
    changes, code = REFUSED[name]
    async with attacked() as house:
        peer = await house.enter()
        assert await peer.error(peer.ask(**changes)) == code
        assert (await peer.answer(peer.ask()))["body"]["content"] == "fine"


@pytest.mark.parametrize("name", ["kw self", "kw x", "kw no identifier", "kw dunder", "kw parts"])
async def test_keywords_of_a_message_reach_the_keywords_of_reply_only(name: str) -> None:
    key = {
        "kw self": "self",
        "kw x": "x",
        "kw no identifier": "a b\n",
        "kw dunder": "__class__",
        "kw parts": "listener",
    }[name]
    agent = Listening("listening")
    async with attacked(exports={"listening": agent}) as house:
        peer = await house.enter()
        for parts in (False, True):
            answer = await peer.answer(peer.ask("listening", msg(kw={key: 1}), parts=parts))
            if key in ("self", "x"):
                assert answer["err"]["type"] == "TypeError"
            else:
                assert answer["body"]["content"] == "heard"
        await peer.answer(peer.ask("listening"))
    assert all(kwargs in ({}, {key: 1}) for _, kwargs in agent.heard)
    assert agent.name == "listening"


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["x"] * 4,
        ["x"] * 6,
        ["", "2024-01-01 00:00:00", "mallory", "hi", "user"],
        ["x" * 201, "2024-01-01 00:00:00", "mallory", "hi", "user"],
        ["x", "2024-01-01 00:00:00", "mallory", "hi", "admin"],
        ["x", "2024-01-01 00:00:00", "mallory", "hi", ["user"]],
        ["x", 0, "mallory", "hi", "user"],
        ["x", "2024-01-01 00:00:00", None, "hi", "user"],
        ["x", "2024-01-01 00:00:00", "mallory", {"a": [[[[]]]]}, "user"],
        [{}, {}, {}, {}, {}],
    ],
)
async def test_a_message_in_short_that_is_none_is_refused_and_harms_nobody(texts: list[Any]) -> None:
    async with attacked() as house:
        peer = await house.enter()
        assert await peer.error(peer.say("ask", to="healthy", msg=texts)) == "bad_payload"
        assert await peer.error(peer.say("ask", to="healthy", msg=texts, ttl=5000)) == "bad_payload"
        peer.say("tell", to="healthy", msg=texts)
        returned = await peer.next("tell")
        assert (returned["op"], returned["body"]["to"], returned["body"]["code"]) == (
            "returned", "healthy", "bad_payload",
        )  # fmt: skip
        assert (await peer.answer(peer.ask()))["body"]["content"] == "fine"


async def test_keywords_of_10_mb_in_parts_arrive_or_are_refused() -> None:
    agent = Listening("listening")
    async with attacked(exports={"listening": agent}) as house:
        peer = await house.enter()
        send_in_parts(peer, "listening", msg(kw={"big": "x" * 10_000_000}))
        assert (await peer.answer(peer.id))["body"]["content"] == "heard"
        assert len(agent.heard[0][1]["big"]) == 10_000_000
        agent.heard.clear()


def send_in_parts(peer: RawPeer, to: str, body: Any, *, piece: int = 700_000) -> None:
    whole = orjson.dumps({"t": "ask", "n": 1, "id": peer.id + 1, "to": to, "body": body})
    peer.id += 1
    pieces = [whole[at : at + piece] for at in range(0, len(whole), piece)]
    first = peer.n + 1
    for i, data in enumerate(pieces):
        text = base64.b64encode(data).decode()
        peer.say("part", id=first, i=i, of=len(pieces), data=text)


@pytest.mark.parametrize(
    "body",
    [b"[" + b"0," * 1_000_000 + b"0]", b"{" + b",".join(b'"%d":0' % i for i in range(1_000_000)) + b"}"],
    ids=["j13 an array of 1,000,000", "j13 an object of 1,000,000 keys"],
)
async def test_a_million_values_in_parts_are_refused(body: bytes) -> None:
    async with attacked() as house:
        peer = await house.enter()
        whole = b'{"t":"ask","n":1,"id":1,"to":"healthy","body":' + body + b"}"
        pieces = [whole[at : at + 700_000] for at in range(0, len(whole), 700_000)]
        for i, data in enumerate(pieces):
            peer.say("part", id=1, i=i, of=len(pieces), data=base64.b64encode(data).decode())
        # Which ask it was stands in what is not read. Its number is counted, and the link goes on.
        peer.id = 1
        assert (await peer.answer(peer.ask()))["body"]["content"] == "fine"


async def test_j02_an_ask_that_is_cut_off_at_any_byte_closes_the_link() -> None:
    whole = orjson.dumps(ask(ttl=5, chain=["a/b~1"]))
    async with attacked() as house:
        for end in range(len(whole)):
            peer = await house.enter(node=f"mallory-{end}")
            peer.send(whole[:end])
            assert await peer.close_code() == 4001


async def test_j07_a_number_that_json_has_no_form_for_is_refused_where_it_is_sent() -> None:
    async with attacked() as house:
        healthy = house.honest.agent(f"{house.url}/healthy")
        for value in (float("nan"), float("inf"), 2**70):
            with pytest.raises(MessageError):
                await healthy(x=None, some={"deep": [value]})
            with pytest.raises(MessageError):
                await house.honest.spawn(house.url, "DialogAgent", {"name": [value]})


class Judge(AgentBase):
    """Has a state that JSON has no form for, though it is a dict."""

    async def state(self) -> dict[str, Any]:
        return {"memory": [float("nan")], "other": {1, 2}}


async def test_j07_a_result_that_cannot_be_sent_is_an_error_to_who_asked() -> None:
    async with attacked(exports={"judge": Judge("judge")}) as house:
        peer = await house.enter()
        answer = await peer.answer(peer.ask("judge", {"x": None}, op="state"))
        assert answer["err"]["code"] == "bad_payload"


async def test_j09_of_a_field_given_twice_the_one_that_is_checked_is_the_one_that_is_used() -> None:
    secret = Listening("secret")
    only_healthy = {"mallory": Grant(agents=["healthy"]), "honest": Grant()}
    tokens = {"mallory": "m" * 32, "honest": "h" * 32}
    async with attacked("mem://house", exports={"secret": secret}, allow=only_healthy, token=tokens) as house:
        peer = await house.enter(token=tokens["mallory"])
        for id, (first, second) in enumerate((("healthy", "secret"), ("secret", "healthy")), 1):
            peer.send(
                b'{"t":"ask","n":%d,"id":%d,"to":"%b","to":"%b","body":%b}'
                % (id, id, first.encode(), second.encode(), orjson.dumps(msg()))
            )
            answer = await peer.answer(id)
            assert ("err" in answer) == (second == "secret")
    assert secret.heard == []


@pytest.mark.parametrize("name", ["pickle", "marshal", "yaml", "reduce"])
async def test_j12_what_other_formats_would_run_is_a_text_here(name: str) -> None:
    text = {
        "pickle": base64.b64encode(pickle.dumps(print)).decode(),
        "marshal": base64.b64encode(marshal.dumps(compile("1/0", "x", "exec"))).decode(),
        "yaml": "!!python/object/apply:os.system ['id']",
        "reduce": {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["id"]}]},
    }[name]
    agent = Listening("listening")
    async with attacked(exports={"listening": agent}) as house:
        peer = await house.enter()
        assert (await peer.answer(peer.ask("listening", msg(text))))["body"]["content"] == "heard"
    assert agent.heard[0][0].content == text


async def test_j14_many_keys_of_one_length_are_taken() -> None:
    async with attacked() as house:
        peer = await house.enter()
        keys = {f"{i:016x}": i for i in range(30_000)}
        assert (await peer.answer(peer.ask(body=msg(keys))))["body"]["content"] == "fine"


async def test_j15_a_frame_that_comes_twice_is_handled_once() -> None:
    agent = Listening("listening")
    async with attacked(exports={"listening": agent}) as house:
        peer = await house.enter()
        frame = peer.numbered("ask", to="listening", body=msg())
        for _ in range(100):
            peer.send(frame)
        await peer.answer(1)
        await peer.answer(peer.ask())
    assert len(agent.heard) == 1


async def test_j16_an_acknowledgement_that_goes_back_is_nothing() -> None:
    async with attacked() as house:
        peer = await house.enter()
        for _ in range(3):
            await peer.answer(peer.ask())
        peer.send({"t": "ack", "rx": 1}, {"t": "ack", "rx": 0})
        await peer.answer(peer.ask())


async def test_j17_credit_is_clamped_and_for_nobody_it_is_nothing() -> None:
    async with attacked() as house:
        peer = await house.enter()
        for target in ("healthy", "nobody", "_node"):
            peer.send({"t": "crd", "to": target, "upto": MAX_INTEGER})
        peer.send({"t": "crd", "id": 7, "upto": MAX_INTEGER})
        await peer.answer(peer.ask())


REPLIES: dict[str, Any] = {
    "j19 to an ask of somebody else": {"id": 99},
    "j19 to the largest id": {"id": MAX_INTEGER},
}


@pytest.mark.parametrize("name", REPLIES)
async def test_a_reply_that_nobody_waits_for_resolves_nothing(name: str) -> None:
    async with attacked() as house:
        peer = await house.enter()
        honest = asyncio.create_task(asyncio.sleep(0))
        peer.say("rep", **REPLIES[name], body=msg("forged")["x"])
        peer.say("rep", **REPLIES[name], err={"code": "agent_error", "text": "forged"})
        await peer.answer(peer.ask())
        await honest


async def test_j22_a_chain_that_names_the_target_hurts_nobody_else() -> None:
    agent = Listening("listening")
    async with attacked(exports={"listening": agent}) as house:
        peer = await house.enter()
        for chain in (
            ["house/listening~0"],
            ["house/listening~1"] * 32,
            ["house/~", "house/x~-1", "house/x~zz"],
        ):
            answer = await peer.answer(peer.ask("listening", chain=chain))
            assert answer.get("body", {}).get("content") == "heard" or answer["err"]["code"] == "deadlock"
        assert (await house.honest.agent(f"{house.url}/listening")("hi")).text == "heard"


async def test_no_name_from_the_wire_reaches_the_log_unescaped(caplog: pytest.LogCaptureFixture) -> None:
    async with attacked() as house:
        peer = await house.enter()
        for text in ("\x1b[2J", "a\nforged line", "\u202e", "\x00", "%s %(x)s {x!r}"):
            for frame in (
                peer.numbered("tell", to=text, body=1),
                peer.numbered("tell", to="nobody", body=msg(text)),
                peer.numbered("tell", to="healthy", body=msg(), op=text),
                peer.numbered(
                    "tell",
                    to="_node",
                    body={"to": text, "code": text, "text": text, "body": {}},
                    op="returned",
                ),
                peer.numbered("ask", to=text, body=msg(trace=text), chain=[text]),
                peer.numbered("spn", name=text, cfg={text: text}) | {"kind": text},
                peer.numbered("spn", name="x", cfg={text: text}) | {"kind": "DialogAgent"},
            ):
                peer.send(frame)
        await peer.answer(peer.ask())
    logged = caplog.text
    assert "letter_returned" in logged
    assert not any(mark in logged for mark in ("\x1b[2J", "\nforged", "\u202e", "\x00"))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_messages_that_are_nearly_right_are_survived_by_a_runtime(seed: int) -> None:
    asyncio.run(BridgeTarget.attack(seed, 50))


def test_three_thousand_inputs_leave_nothing_behind() -> None:
    asyncio.run(BridgeTarget.attack(1, 500))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        asyncio.run(BridgeTarget.attack(2, 3000))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 32 * 2**20
    assert after - before < 2 * 2**20
