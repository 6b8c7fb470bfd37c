"""What a frame may hold, read and written."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from agentscope_async import Msg
from agentscope_async.node import encoding, frames
from agentscope_async.node.decoding import decode
from agentscope_async.node.frames import (
    Ack,
    Ask,
    Bye,
    Cancel,
    Credit,
    Down,
    Failure,
    FrameError,
    Heartbeat,
    HeartbeatReply,
    Part,
    Probe,
    Reply,
    Spawn,
    Tell,
    Unwatch,
    Watch,
)

TERMS = {"max_frame": 2**20, "max_body": 2**25, "credit": 64, "hb": 1000}
WHO = {"node": "a", "inc": "1.00000000000000aa"}
GOOD: dict[str, dict[str, Any]] = {
    "tell": {"n": 1, "to": "bob", "body": "hi"},
    "ask": {
        "n": 1,
        "id": 1,
        "to": "bob",
        "body": "hi",
        "ttl": 5,
        "chain": ["x/y"],
        "from": "al",
        "parts": True,
    },
    "rep": {"n": 1, "id": 1, "body": None},
    "can": {"n": 1, "id": 1},
    "wat": {"n": 1, "id": 1, "ref": "bob"},
    "unw": {"n": 1, "id": 1},
    "dwn": {"n": 1, "id": 1, "reason": "stopped"},
    "spn": {"n": 1, "id": 1, "kind": "DialogAgent", "name": "bob", "cfg": {}, "ttl": 5},
    "part": {"n": 1, "id": 1, "i": 0, "of": 2, "data": "aGk="},
    "ack": {"rx": 0},
    "crd": {"to": "bob", "upto": 65},
    "hb": {"ts": 1},
    "hbr": {"ts": 1},
    "prb": {"id": 1, "path": ["x/y"]},
    "bye": {"reason": "stopping", "drain_ms": 0},
    "hello": {"v": [1], **WHO, "sid": "0" * 32, "key": None, "rx": 0, **TERMS},
    "welcome": {"v": 1, **WHO, "key": "0" * 32, "rx": 0, "resumed": False, **TERMS},
}


def frame(kind: str, /, **changes: Any) -> bytes:
    fields = {"t": kind, **GOOD[kind], **changes}
    return orjson.dumps({key: value for key, value in fields.items() if value is not ...})


def refusal(line: bytes) -> FrameError:
    with pytest.raises(FrameError) as caught:
        decode(line)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tell", Tell(1, "bob", "hi", None, "reply")),
        ("ask", Ask(1, 1, "bob", "hi", 5, ("x/y",), "al", "reply", True)),
        ("rep", Reply(1, 1, None, None, True)),
        ("can", Cancel(1, 1)),
        ("wat", Watch(1, 1, "bob")),
        ("unw", Unwatch(1, 1)),
        ("dwn", Down(1, 1, "stopped")),
        ("spn", Spawn(1, 1, "DialogAgent", "bob", {}, 5)),
        ("part", Part(1, 1, 0, 2, b"hi", None)),
        ("ack", Ack(0)),
        ("crd", Credit("bob", 65)),
        ("hb", Heartbeat(1)),
        ("hbr", HeartbeatReply(1)),
        ("prb", Probe(1, ("x/y",))),
        ("bye", Bye("stopping", 0)),
    ],
)
def test_each_type_is_read(kind: str, expected: object) -> None:
    assert decode(frame(kind)) == expected


@pytest.mark.parametrize("kind", GOOD)
def test_fields_nobody_knows_are_ignored(kind: str) -> None:
    assert decode(frame(kind, whatever=[1])) == decode(frame(kind))


WRONG: dict[str, list[Any]] = {
    "n": [0, -1, 2**53 + 1, 2**63, 1.0, "1", True, None, [1], ...],
    "id": [0, -1, 2**53 + 1, 1.5, "1", True, None, {}],
    "to": ["", "a" * 65, "../x", "node//x", "a\0", "a\n", "\x1b[1m", "\u202eb", "b\u043eb", 1, None, [], ...],
    "ref": ["", "a b", 1, None],
    "ttl": [-1, 1.5, "1", True, 2**60],
    "chain": ["a", [1], [""], ["a\n"], ["a" * 301], {}, 1],
    "path": ["a", [1], [""], ["x"] * 33, None],
    "from": ["", "a b", 1, []],
    "op": ["", "a b", 1, []],
    "parts": [1, "true", None],
    "last": [1, "false"],
    "reason": ["", "a b", 1, None, ...],
    "kind": ["os.system", "a b"][1:],
    "cfg": [[], "x", None, ...],
    "i": [-1, 2, "0", True, ...],
    "of": [1, 0, 1025, "2"],
    "data": ["%%%", "a", 1, None],
    "rx": [-1, 2**53 + 1, "1", 1.0, True, ...],
    "upto": [0, -1, 2**60, "1", True, ...],
    "ts": [-1, "1", 1.0, ...],
    "drain_ms": [-1, "1", ...],
    "v": [0, 999, "1", [0], [True], [], ["1"], None, ...],
    "inc": ["", "1", "1.xyz", 1, None],
    "sid": ["", "0" * 31, "z" * 32, 1, None],
    "resumed": [1, None, ...],
    "max_frame": [0, 100, 2**40, "1", ...],
    "credit": [0, 65_537, "1", ...],
    "hb": [0, 10**9, ...],
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(kind, field, value) for kind in GOOD for field in GOOD[kind] for value in WRONG.get(field, [])],
)
def test_a_field_of_the_wrong_kind_is_refused(kind: str, field: str, value: Any) -> None:
    error = refusal(frame(kind, **{field: value}))
    assert error.code in {"bad_frame", "bad_name", "version", "forbidden"}
    assert len(str(error)) < 250
    assert str(error).isprintable()


@pytest.mark.parametrize("value", [2**64, 10**400, 2**53 + 1])
def test_a_number_is_never_rounded(value: int) -> None:
    error = refusal(frame("can").replace(b'"id":1', b'"id":%d' % value))
    assert error.code in {"bad_frame", "bad_json"}


def test_a_frame_cut_at_any_byte_is_refused() -> None:
    line = frame("ask", body={"name": "ä", "content": [1, {"x": "\\u0041"}]})
    assert {refusal(line[:cut]).code for cut in range(len(line))} == {"bad_json"}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\xef\xbb\xbf" + frame("can"), frame("can") + b"x", frame("can") * 2, b"null", b"[]", b"1",
        b'"ask"', b"{}", b'{"t":1}', b'{"t":[]}', b'{"t":"msg"}', b'{"t":"Ask"}',
        b"\xff\xfe", b"{'t':'ack'}", b"NaN",
        b'{"t":"ack","rx":NaN}', b'{"t":"ack","rx":1e400}', b'{"t":"tell","n":1,"to":"b","body":"\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_no_frame_is_refused(line: bytes) -> None:
    assert refusal(line).code in {"bad_json", "unknown_type", "bad_frame"}


def test_a_hundred_thousand_brackets_are_refused() -> None:
    assert refusal(b"[" * 100_000).code == "bad_json"
    assert refusal(b'{"t":"ack","rx":' + b"[" * 900 + b"]" * 900 + b"}").code == "too_deep"


TEXTS = ("0" * 32, "2024-01-01 00:00:00", "al", "hi", "user")


@pytest.mark.parametrize("kind", ["tell", "ask", "rep"])
def test_a_message_of_texts_only_travels_as_those(kind: str) -> None:
    line = {
        "tell": lambda: encoding.encode_tell(1, "bob", TEXTS, op="observe"),
        "ask": lambda: encoding.encode_ask(1, 1, "bob", TEXTS, chain=["a/x"], op="observe", wants_parts=True),
        "rep": lambda: encoding.encode_reply(1, 1, TEXTS),
    }[kind]()
    assert orjson.loads(line)["msg"] == list(TEXTS)
    assert decode(line).body == TEXTS  # type: ignore[union-attr]
    assert refusal(frame(kind, msg=list(TEXTS))).code == "bad_frame"  # beside a body


@pytest.mark.parametrize("bad", [None, "hi", 1, {"name": "al"}])
@pytest.mark.parametrize("kind", ["tell", "ask", "rep"])
def test_the_texts_of_a_message_are_a_list(kind: str, bad: Any) -> None:
    assert refusal(frame(kind, body=..., msg=bad)).code == "bad_frame"


def test_an_error_has_no_message_besides() -> None:
    assert refusal(frame("rep", body=..., msg=list(TEXTS), err={"code": "x"})).code == "bad_frame"


def test_an_ask_that_is_only_a_message_is_written_in_one_way() -> None:
    assert encoding.encode_message(1, 2, "bob", TEXTS) == encoding.encode_ask(1, 2, "bob", TEXTS)


def test_the_deepest_message_crosses_and_one_deeper_frame_does_not() -> None:
    deep: Any = "x"
    for _ in range(64):
        deep = [deep]
    body = Msg("a", deep, role="user").to_dict()
    assert decode(encoding.encode_tell(1, "bob", [body])).body == [body]  # type: ignore[union-attr]
    for _ in range(5):
        body = [body]
    with pytest.raises(FrameError, match="deeper than"):
        encoding.encode_tell(1, "bob", body)
    assert refusal(orjson.dumps({"t": "tell", "n": 1, "to": "bob", "body": body})).code == "too_deep"


@pytest.mark.parametrize("brackets", ["[]", "{}", "{[]}"])
def test_a_long_frame_may_be_as_deep_as_a_short_one_and_no_deeper(brackets: str) -> None:
    for depth, is_fine in ((60, True), (80, False)):
        body: Any = {"text": "[{" * 1000}
        for level in range(depth):
            body = {"x": body} if brackets[level % 2 * (len(brackets) - 2)] == "{" else [body]
        if is_fine:
            assert decode(encoding.encode_tell(1, "bob", body)).body == body  # type: ignore[union-attr]
            continue
        with pytest.raises(FrameError, match="deeper than"):
            encoding.encode_tell(1, "bob", body)
        assert refusal(frame("tell", body=body)).code == "too_deep"


@pytest.mark.parametrize("size", [1, 5_000])
@pytest.mark.parametrize(("left_s", "rx"), [(None, None), (1.5, None), (None, 7), (1.5, 7), (-1.0, 2**53)])
def test_what_is_known_when_a_frame_is_written_is_added_to_it(
    size: int, left_s: float | None, rx: int | None
) -> None:
    line = encoding.encode_ask(1, 1, "bob", "x" * size)
    whole = encoding.with_tail(line, left_s, rx)
    tail = {"ttl": None if left_s is None else 1500 if left_s > 0 else 0, "a": rx}
    assert orjson.loads(whole) == orjson.loads(line) | {k: v for k, v in tail.items() if v is not None}
    assert len(whole) < len(line) + frames.TAIL_BYTES


def test_a_million_values_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    line = orjson.dumps({"t": "tell", "n": 1, "to": "bob", "body": [0] * 1_000_000})
    monkeypatch.setattr(orjson, "loads", lambda text: pytest.fail("was read"))
    assert refusal(line).code == "too_many_elements"


def test_the_number_of_values_is_exact_and_what_a_text_holds_does_not_count() -> None:
    for body in ([[]] * 100_101, [0] * 100_101, {str(i): 0 for i in range(100_101)}):
        with pytest.raises(FrameError, match="more than"):
            encoding.encode_tell(1, "bob", body)
        line = orjson.dumps({"t": "tell", "n": 1, "to": "bob", "body": body})
        assert refusal(line).code == "too_many_elements"
    line = encoding.encode_tell(1, "bob", ["[,{" * 200_000, '"' * 100_000, "\\" * 99_999])
    assert isinstance(decode(line), Tell)
    assert refusal(line[:-1]).code == "bad_json"


def test_a_text_left_open_costs_no_more_than_a_closed_one() -> None:
    assert refusal(b'{"t":"' + b'\\"' * 1_000_000 + b"," * 300_000).code == "bad_json"


def test_the_largest_message_crosses() -> None:
    body = Msg("a", [1] * 99_990, role="user").to_dict()
    assert decode(encoding.encode_tell(1, "bob", body)).body == body  # type: ignore[union-attr]


def test_of_a_field_given_twice_the_same_one_is_checked_and_used() -> None:
    line = b'{"t":"tell","n":1,"to":"bob","to":"../x","body":1}'
    assert refusal(line).code == "bad_name"
    assert decode(line.replace(b'"bob","to":"../x"', b'"../x","to":"bob"')) == Tell(
        1, "bob", 1, None, "reply"
    )


def test_an_ask_may_pass_32_agents() -> None:
    assert isinstance(decode(frame("ask", chain=["x"] * 32)), Ask)
    assert refusal(frame("ask", chain=["x"] * 10_000)).code == "hop_limit"
    with pytest.raises(FrameError, match="may pass 32"):
        encoding.encode_ask(1, 1, "bob", "hi", chain=["x"] * 33)


@pytest.mark.parametrize(("kind", "field"), [("tell", "to"), ("ask", "to"), ("wat", "ref"), ("spn", "name")])
def test_what_belongs_to_the_node_itself_takes_no_messages(kind: str, field: str) -> None:
    assert refusal(frame(kind, **{field: "_supervisor"})).code == "forbidden"


def test_a_refused_frame_says_which_it_was_if_that_can_be_read() -> None:
    error = refusal(frame("ask", to="../x", n=7, id=9))
    assert (error.number, error.kind, error.id) == (7, "ask", 9)
    error = refusal(frame("ask", n="7", id=9))
    assert (error.number, error.kind, error.id) == (None, "ask", 9)
    assert refusal(frame("ack", rx=-1)).number is None


def test_a_reply_has_a_body_or_an_error_and_an_error_is_the_last() -> None:
    err = {"code": "agent_error", "text": "no", "type": "ValueError", "tb": "line 1", "facts": {"x": 1}}
    reply = decode(frame("rep", body=..., err=err))
    assert reply == Reply(1, 1, None, Failure("agent_error", "no", "ValueError", "line 1", {"x": 1}), True)
    assert refusal(frame("rep", err=err)).code == "bad_frame"
    assert refusal(frame("rep", body=...)).code == "bad_frame"
    assert refusal(frame("rep", body=..., err=err, last=False)).code == "bad_frame"
    for wrong in (
        "x",
        [],
        {},
        {"code": "a b"},
        {**err, "text": "x" * 4097},
        {**err, "facts": []},
        {**err, "tb": 1},
    ):
        assert refusal(frame("rep", body=..., err=wrong)).code == "bad_frame"


def test_texts_of_errors_are_cut_and_made_sendable() -> None:
    line = encoding.encode_failure(
        1, 2, Failure("agent_error", "x" * 10_000_000, "T" * 999, "\ud800" * 99_999)
    )
    assert len(line) < 25_000
    failure = decode(line).failure  # type: ignore[union-attr]
    assert failure is not None
    assert failure.text == "x" * 4096
    assert failure.traceback == "?" * 16_384


@pytest.mark.parametrize("body", [object(), {1, 2}, b"x", {1: 2}, "\ud800", 2**70])
def test_what_has_no_wire_form_is_refused(body: object) -> None:
    with pytest.raises(FrameError) as caught:
        encoding.encode_tell(1, "bob", body)
    assert caught.value.code == "bad_payload"


@pytest.mark.parametrize("bad", [{"to": "../x"}, {"sender": "a b"}, {"op": ""}])
def test_names_are_checked_before_they_are_sent(bad: dict[str, str]) -> None:
    with pytest.raises(FrameError):
        encoding.encode_ask(1, 1, **{"to": "bob", "body": 1, **bad})  # type: ignore[arg-type]


def test_the_time_to_live_is_added_when_the_frame_is_written() -> None:
    ask = decode(encoding.with_tail(encoding.encode_ask(1, 1, "bob", "hi"), 1e9, None))
    assert isinstance(ask, Ask)
    assert ask.ttl_ms == 10**12


def test_parts_put_together_are_the_frame_again() -> None:
    line = encoding.encode_tell(5, "bob", "ä" * 100_000)
    parts = encoding.encode_parts(5, line, 16_384, 2**20)
    assert all(len(part) <= 16_384 - frames.TAIL_BYTES for part in parts)
    pieces = [decode(part) for part in parts]
    assert [piece.n for piece in pieces] == list(range(5, 5 + len(parts)))  # type: ignore[union-attr]
    assert b"".join(piece.data for piece in pieces) == line  # type: ignore[union-attr]


def test_too_large_a_frame_is_refused_with_its_size_and_the_limit() -> None:
    line = encoding.encode_tell(5, "bob", "x" * 100_000)
    with pytest.raises(FrameError, match=f"{len(line):,} bytes and .* at most 65,536") as caught:
        encoding.encode_parts(5, line, 16_384, 65_536)
    assert caught.value.code == "too_large"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_what_is_sent_is_what_arrives(body: Any) -> None:
    try:
        line = encoding.encode_ask(1, 2, "bob", body)
    except FrameError:
        return
    assert b"\n" not in line
    ask = decode(line)
    assert isinstance(ask, Ask)
    assert repr(ask.body) == repr(orjson.loads(orjson.dumps(body)))


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(sorted(GOOD)), st.dictionaries(st.sampled_from(sorted(WRONG)), json_values, max_size=4)
)
def test_any_fields_are_read_or_refused(kind: str, changes: dict[str, Any]) -> None:
    try:
        decode(frame(kind, **changes))
    except FrameError as error:
        assert error.code


@pytest.mark.parametrize("msg", [0, ["i", "t", "n", "c", "user"]])
@pytest.mark.parametrize("kind", ["spn", "tell", "ask", "rep"])
def test_a_message_in_a_frame_excuses_nothing_else_in_it(kind: str, msg: Any) -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"x": deep}
    changes: dict[str, Any] = {"body": ..., "msg": msg}
    assert refusal(frame(kind, **changes, cfg=deep)).code == "too_deep"
    assert refusal(frame(kind, **changes, cfg={"x": [0] * 100_101})).code == "too_many_elements"


def test_what_stands_for_the_texts_of_a_message_may_be_no_deeper() -> None:
    deep = orjson.loads(b"[" * 200 + b"]" * 200)
    assert refusal(frame("rep", body=..., msg=["i", "t", "n", "c", deep])).code == "too_deep"


def test_texts_that_cannot_be_sent_are_refused() -> None:
    texts: Any = ("i", "t", "n", "\ud800", "user")
    with pytest.raises(FrameError, match="cannot be sent"):
        encoding.encode_reply(1, 1, texts)
    with pytest.raises(FrameError, match="cannot be sent"):
        encoding.encode_message(1, 1, "bob", texts)
    with pytest.raises(FrameError, match="cannot be sent"):
        encoding.encode_tell(1, "bob", texts)
