import copy
import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections import OrderedDict
from enum import StrEnum

import orjson
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from agentscope_async.errors import AgentScopeWarning, MessageError
from agentscope_async.message import (
    AudioPart,
    ContentPart,
    FilePart,
    ImagePart,
    Msg,
    TextPart,
    ThinkingPart,
    Tht,
    ToolCallPart,
    ToolResultPart,
    Usage,
    VideoPart,
    deserialize,
    msg as msg_module,
    serialize,
)
from agentscope_async.message._frozen import MAX_DEPTH
from agentscope_async.message.msg import ROLES, as_msg, from_texts, texts_of
from agentscope_async.message.parts import PART_TYPES

ALL_PARTS = [
    TextPart("look"),
    ThinkingPart("hm"),
    ImagePart("http://a/b.png", "image/png"),
    AudioPart("data:audio/wav;base64,AA=="),
    VideoPart("/tmp/film.mp4"),
    FilePart("http://a/b.pdf", name="b.pdf"),
    ToolCallPart("call_1", "add", {"a": [1, 2]}, '{"a": [1,2]}'),
    ToolResultPart("call_1", "add", {"sum": 3}),
    ToolResultPart("call_2", "add", "no such tool", failed=True),
]


def say(content="hello", **fields):
    return Msg("Ann", content, "user", **fields)


def round_trip(msg):
    return deserialize(serialize(msg))


def nested(depth, innermost=1):
    for level in range(depth):
        innermost = [innermost] if level % 2 else {"k": innermost}
    return innermost


def plain(value):
    """Content as ordinary lists and dicts, types and signs visible."""
    return repr(orjson.loads(orjson.dumps(value))), orjson.dumps(value)


# -- B01: fields --


def test_B01_attribute_and_item_access_agree():
    msg = say("hi", url="http://a", score=3, _private=4, tags=["x", {"y": None}])
    fields = ["id", "timestamp", "name", "content", "role", "url", "score", "tags"]
    assert set(fields) <= set(msg)
    assert len(msg) == len(list(msg)) == len(dict(msg))
    for key in fields:
        assert getattr(msg, key) == msg[key] == msg.get(key) == dict(msg)[key]
        assert key in msg
    assert (list(msg.keys()), list(msg.values())) == (list(dict(msg)), list(dict(msg).values()))
    assert list(msg.items()) == list(dict(msg).items())
    assert msg.score == 3


def test_B01_a_missing_attribute_and_a_missing_item():
    for msg in (say(), say(score=3)):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = msg.nothing
        with pytest.raises(KeyError, match="nothing"):
            msg["nothing"]
        assert msg.get("nothing") is None
        assert msg.get("nothing", 5) == 5
        assert "nothing" not in msg
        assert not hasattr(msg, "nothing")


def test_B01_several_urls_are_kept_in_order():
    urls = ["http://b", "http://a", "/tmp/c.png"]
    assert say(url=urls).url == urls
    assert say(url=tuple(urls)).url == urls
    assert say().url is None


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_B01_known_roles(role):
    assert Msg("Ann", "hi", role).role == Msg("Ann", "hi", role=role).role == role


@pytest.mark.parametrize("role", ["User", "", "robot", 1, ["user"], {"user": 1}, "\ud800"])
def test_B01_an_unknown_role_is_refused(role):
    with pytest.raises(MessageError, match="use one of system, user, assistant, tool") as refused:
        Msg("Ann", "hi", role)
    assert refused.value.field == "role"


def test_B01_a_huge_wrong_value_is_not_repeated_whole():
    for build in (
        lambda: Msg("Ann", "hi", "x" * 10**6),
        lambda: deserialize(b'{"__type":"%s"}' % (b"x" * 10**6)),
    ):
        with pytest.raises(MessageError) as refused:
            build()
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "key", ["text", "to_dict", "replace", "keys", "_id", "_extra", "__type", "__class__"]
)
def test_B01_an_extra_field_cannot_take_a_name_of_msg(key):
    with pytest.raises(MessageError, match="choose another name") as refused:
        say(**{key: 1})
    assert refused.value.field == key


@pytest.mark.parametrize(
    "key", ["cls", "self", "draft", "kind", "extra", "model", "field name", "é", "_private"]
)
def test_B01_an_extra_field_may_have_any_other_name(key):
    msg = say(**{key: 1})
    assert (msg[key], getattr(msg, key)) == (1, 1)
    assert round_trip(msg) == msg


def test_B01_text_of_every_content():
    assert say("plain").text == "plain"
    assert say(ALL_PARTS).text == "look"
    assert say([TextPart("a"), "b", ImagePart("http://a")]).text == "a\nb"
    assert say([ImagePart("http://a")]).text == ""
    assert say({"a": [1, None, "é"]}).text == '{"a":[1,null,"é"]}'
    assert say([]).text == "[]"
    assert say(3.5).text == "3.5"


def test_B01_replace_makes_a_changed_copy_with_a_new_id():
    msg = say("old", url="http://a", score=3)
    new = msg.replace(content="new", score=4)
    assert (new.content, new.score, new.url, new.name, new.role) == ("new", 4, "http://a", "Ann", "user")
    assert new.id != msg.id
    assert (msg.content, msg.score) == ("old", 3)
    assert msg.replace(id="x" * 32).id == "x" * 32
    with pytest.raises(MessageError):
        msg.replace(content=math.nan)


# -- B02: id and timestamp --


def test_B02_ids_are_different_and_stay():
    msgs = [say() for _ in range(1000)]
    ids = [msg.id for msg in msgs]
    assert len(set(ids)) == 1000
    assert ids == [msg.id for msg in msgs]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_B02_the_timestamp_is_the_local_time_of_creation(monkeypatch):
    monkeypatch.setattr(msg_module, "_now", lambda: 1_700_000_000.9)
    msg = say()
    monkeypatch.setattr(msg_module, "_now", lambda: 1_800_000_000.0)
    assert msg.timestamp == time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_000))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", msg.timestamp)
    assert say(timestamp="long ago").timestamp == "long ago"


@pytest.mark.parametrize("bad", ["", "x" * 201, 5, None, ["a"], "\ud800"])
def test_B02_a_wrong_id_is_refused(bad):
    with pytest.raises(MessageError) as refused:
        say(id=bad)
    assert refused.value.field == "id"


PRINT_IDS = "from agentscope_async.message import Msg\nfor _ in range(200): print(Msg('a', 'b', 'user').id)"


def test_B02_processes_never_share_ids():
    mine = [say().id for _ in range(200)]
    runs = [
        subprocess.run([sys.executable, "-c", PRINT_IDS], capture_output=True, check=True) for _ in range(2)
    ]
    others = [line for run in runs for line in run.stdout.decode().split()]
    assert len({*mine, *others}) == 600


def make_ids(count):
    return [say().id for _ in range(count)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_B02_forks_never_share_ids():
    say().id  # noqa: B018  # the parent's sequence has begun
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        theirs = [each for ids in pool.map(make_ids, [100] * 4, chunksize=1) for each in ids]
    assert len({*theirs, *make_ids(400)}) == 800


def test_B02_two_threads_that_ask_first_get_the_same_id(monkeypatch):
    make, second_asks, answers = msg_module.ids.new, threading.Event(), []
    first_is_inside = threading.Event()

    def slow_id():
        if not first_is_inside.is_set():
            first_is_inside.set()
            second_asks.wait(0.05)  # the other thread gets its id meanwhile, if it can
        return make()

    monkeypatch.setattr(msg_module.ids, "new", slow_id)
    msg = say()

    def ask():
        answers.append(msg.id)
        second_asks.set()

    first = threading.Thread(target=ask)
    first.start()
    first_is_inside.wait()
    second = threading.Thread(target=ask)
    second.start()
    first.join()
    second.join()
    assert answers == [msg.id, msg.id]


# -- B03: missing role, echo --


def test_B03_without_a_role_it_is_assistant_and_warns_at_the_callers_line():
    with pytest.warns(AgentScopeWarning, match="'assistant'") as warned:
        msg = Msg("Ann", "hi")
    assert msg.role == "assistant"
    assert (warned[0].filename, len(warned)) == (__file__, 1)


def test_B03_echo_prints_once_at_creation_and_leaves_no_trace(monkeypatch):
    printed = []
    stand_in = types.SimpleNamespace(chat=printed.append)
    monkeypatch.setitem(sys.modules, "agentscope_async.logging", stand_in)
    msg = say(echo=True)
    assert printed == [msg]
    assert "echo" not in msg
    round_trip(msg)
    msg.replace(content="new")
    say()
    assert printed == [msg]


def test_B03_a_peer_cannot_make_us_print(monkeypatch):
    printed = []
    monkeypatch.setitem(sys.modules, "agentscope_async.logging", types.SimpleNamespace(chat=printed.append))
    Msg.from_dict({**say().to_dict(), "echo": True})
    assert printed == []


# -- B04: to_str --


def test_B04_to_str():
    assert say("hi").to_str() == "Ann: hi"
    assert say([TextPart("a"), ImagePart("http://a")]).to_str() == "Ann: a"
    assert Tht("hm").to_str() == "thought: hm"


def test_B04_repr_is_short():
    assert repr(say("hi")) == "Msg(name='Ann', content='hi', role='user')"
    assert len(repr(say("x" * 10**6))) < 150


# -- B05: round trips --


@pytest.mark.parametrize(
    "msg",
    [
        say("héllo \U0001f600 \x00 \u2028"),
        say(""),
        say(None),
        say(True),
        say([1, 2.5, -0.0, 1e16, 5e-324, 2**64 - 1, -(2**63), True, None, "", [], {}]),
        say({"": 1, "__type": "Msg", "nested": {"a": [{"b": None}]}}),
        say(ALL_PARTS),
        say("x", url=["http://a", "http://b"]),
        say("x", url="http://a", timestamp="2020-01-01 00:00:00", id="0" * 32),
        say("x", usage=Usage(3, 4, estimated=True), score=3, tags=["a", {"b": 1}]),
        say("x", role_name="cook"),
        Msg("", "", "system"),
        Msg("tool", [ToolResultPart("1", "n", None)], "tool"),
        say([ToolResultPart("1", "draw", [TextPart("here"), ImagePart("http://a")])]),
        say("x", attachments=[ImagePart("http://a"), TextPart("b")]),
        say(nested(MAX_DEPTH)),
    ],
    ids=lambda msg: repr(msg)[:60],
)
def test_B05_a_round_trip_is_exact(msg):
    again = round_trip(msg)
    assert again == msg
    assert type(again) is type(msg)
    assert (again.id, again.timestamp, list(again)) == (msg.id, msg.timestamp, list(msg))
    assert again.usage == msg.usage
    assert again.to_dict() == msg.to_dict()
    assert serialize(again) == serialize(msg)
    assert Msg.from_dict(msg.to_dict()) == msg
    assert deserialize(msg.serialize().encode()) == msg


def test_B05_a_list_keeps_its_order_and_kinds():
    msgs = [say("1"), Tht("2"), say(ALL_PARTS)]
    again = round_trip(msgs)
    assert again == msgs
    assert [type(msg) for msg in again] == [Msg, Tht, Msg]
    assert round_trip(tuple(msgs)) == msgs
    assert round_trip([]) == []


def test_B05_the_wire_form_is_plain_and_unshared():
    msg = say({"a": [1]}, tags=["x"], usage=Usage(1, 2))
    wire = msg.to_dict()
    assert wire["__type"] == "Msg"
    assert next(iter(wire)) == "__type"
    wire["content"]["a"].append(2)
    wire["tags"].clear()
    assert (msg.content, msg.tags) == ({"a": [1]}, ["x"])
    assert type(wire["content"]) is dict
    assert wire["usage"] == {"input_tokens": 1, "output_tokens": 2, "estimated": False}


def test_B05_the_parsed_object_does_not_travel_and_a_peer_cannot_plant_one():
    msg = say("{}", parsed=object())
    assert "parsed" not in msg.to_dict()
    assert round_trip(msg).parsed is None
    with pytest.raises(MessageError):
        Msg.from_dict({**say().to_dict(), "parsed": {"is_admin": True}})


@pytest.mark.parametrize(
    "kind", ["Letter", "msg", "PlaceholderMessage", "builtins.object", "", None, 5, ["Msg"], {}]
)
def test_B05_an_unknown_kind_is_named(kind):
    text = orjson.dumps({**say().to_dict(), "__type": kind})
    with pytest.raises(MessageError, match=re.escape(repr(kind))) as refused:
        deserialize(text)
    assert refused.value.field == "__type"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", ""),
        ("{", ""),
        ("[]", ""),
        ("3", ""),
        ("null", ""),
        ('"text"', ""),
        ("{}", "__type"),
        ('{"name": "a", "content": "b"}', "__type"),
        ('{"__type": "Msg"}', "name"),
        ('{"__type": "Msg", "name": "a"}', "content"),
        ('{"__type": "Msg", "name": 5, "content": "b", "role": "user"}', "name"),
        ('{"__type": "Msg", "name": null, "content": "b", "role": "user"}', "name"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "nobody"}', "role"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "url": 5}', "url"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "url": ["a", 5]}', "url[1]"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "timestamp": 5}', "timestamp"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "id": 5}', "id"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "to_dict": 5}', "to_dict"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "__x": 5}', "__x"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "usage": 5}', "usage"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "usage": {"x": 5}}', "usage"),
        ('{"__type": "Msg", "name": "a", "content": "b", "role": "user", "usage": {"self": 5}}', "usage"),
        (
            '{"__type": "Msg", "name": "a", "content": "b", "role": "user", "usage": {"input_tokens": "5"}}',
            "usage",
        ),
        ('{"__type": "List"}', "__value"),
        ('{"__type": "List", "__value": {}}', "__value"),
        ('{"__type": "List", "__value": ["text"]}', ""),
        ('{"__type": "List", "__value": [{"__type": "List", "__value": []}]}', "__type"),
        (b"\xff\xfe", ""),
        ('"\ud800"', ""),
        (None, ""),
        ("[" * 100_000, ""),
        ('{"__type": "Msg", "name": "a", "content": NaN, "role": "user"}', ""),
    ],
)
def test_B05_what_is_no_message_is_refused_and_the_field_named(text, field):
    with pytest.raises(MessageError) as refused:
        deserialize(text)
    assert refused.value.field == field


@pytest.mark.parametrize("bad", [["text"], [say(), None], "text", [{}]])
def test_B05_serialize_refuses_what_is_no_message(bad):
    with pytest.raises(MessageError, match="is not a message"):
        serialize(bad)


def test_B05_a_bare_string_is_a_users_message():
    msg = as_msg("hi")
    assert (msg.name, msg.content, msg.role) == ("user", "hi", "user")
    assert as_msg(msg) is msg
    with pytest.raises(MessageError, match="not int"):
        as_msg(3)


# -- B06: thoughts --


def test_B06_a_thought_has_its_name_and_role_and_a_round_trip_works():
    thought = Tht({"plan": ["a", "b"]})
    assert (thought.name, thought.role) == ("thought", "assistant")
    again = round_trip(thought)
    assert again == thought
    assert type(again) is Tht
    assert isinstance(thought, Msg)
    assert Tht("x", "long ago").timestamp == "long ago"
    assert round_trip(Tht("x", score=3, url="http://a")).score == 3


def test_B06_a_thought_can_be_replaced_but_not_renamed():
    thought = Tht("x", score=3)
    assert type(thought.replace(content="y")) is Tht
    assert thought.replace(content="y").score == 3
    for change in ({"name": "Bob"}, {"role": "user"}):
        with pytest.raises(MessageError, match="thought"):
            thought.replace(**change)
        with pytest.raises(MessageError, match="thought"):
            Tht("x", **change)


def test_B06_a_thought_is_not_equal_to_a_message_of_the_same_fields():
    thought = Tht("x")
    twin = Msg("thought", "x", "assistant", id=thought.id, timestamp=thought.timestamp)
    assert dict(thought) == dict(twin)
    assert thought != twin


# -- what no message may hold --


def cycle_of_lists():
    value = []
    value.append(value)
    return value


def cycle_of_dicts():
    value = {"a": {}}
    value["a"]["b"] = value
    return value


def exploding():
    value = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


def deep_under_long_keys():
    value = 1
    for _ in range(100):
        value = {"k" * 10_000: value}
    return value


class Foreign:
    def __repr__(self) -> str:
        return "<Foreign>"


UNSENDABLE = {
    "nan": math.nan,
    "inf": math.inf,
    "minus inf": -math.inf,
    "surrogate": "a\ud800",
    "surrogate in key": {"\ud800": 1},
    "2**64": 2**64,
    "below -2**63": -(2**63) - 1,
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "set": {1},
    "frozenset": frozenset({1}),
    "object": Foreign(),
    "class": Foreign,
    "function": len,
    "generator": iter([]),
    "complex": 1j,
    "message": say(),
    "usage": Usage(),
    "int key": {1: 2},
    "none key": {None: 2},
    "reserved key": {"__part": "text"},
    "a part in an object": {"a": TextPart("x")},
}
FATHOMLESS = {
    "cycle of lists": cycle_of_lists(),
    "cycle of dicts": cycle_of_dicts(),
    "depth 65": nested(MAX_DEPTH + 1),
    "depth 100": nested(100),
    "depth 100000": nested(100_000),
    "deep under long keys": deep_under_long_keys(),
    "many": [0] * 1_000_001,
}


@pytest.mark.parametrize("bad", UNSENDABLE.values(), ids=UNSENDABLE)
@pytest.mark.parametrize(
    ("path", "build"),
    [
        ("content", lambda bad: say(bad)),
        ("content[1]", lambda bad: say([0, bad])),
        ("content.a[0].b", lambda bad: say({"a": [{"b": bad}]})),
        ("score", lambda bad: say("x", score=bad)),
        ("score.a", lambda bad: say("x", score={"a": bad})),
        ("content", lambda bad: say().replace(content=bad)),
        ("content", lambda bad: Tht(bad)),
        ("arguments", lambda bad: ToolCallPart("1", "n", bad)),
        ("content.a", lambda bad: ToolResultPart("1", "n", {"a": bad})),
    ],
)
def test_what_cannot_be_sent_is_refused_when_built_and_the_path_named(bad, path, build):
    with pytest.raises(MessageError) as refused:
        build(bad)
    assert refused.value.field.startswith(path)
    assert str(refused.value).encode()  # the text of the error can itself be printed


@pytest.mark.parametrize("bad", FATHOMLESS.values(), ids=FATHOMLESS)
def test_cycles_depth_and_masses_are_refused_without_harm(bad):
    for build in (say, Tht, lambda value: say("x", score=value), lambda value: ToolCallPart("1", "n", value)):
        with pytest.raises(MessageError, match=r"nested deeper than 64|more than 100,000") as refused:
            build(bad)
        assert len(str(refused.value)) < 1000


def test_shared_values_that_would_explode_are_refused():
    with pytest.raises(MessageError, match="more than 100,000 values") as refused:
        say(exploding())
    assert refused.value.field == "content"


def test_long_keys_do_not_make_long_errors():
    bad = math.nan
    for _ in range(60):
        bad = {"k" * 10_000: bad}
    with pytest.raises(MessageError) as refused:
        say(bad)
    assert len(str(refused.value)) < 20_000


@pytest.mark.parametrize("name", [None, 5, b"Ann", ["Ann"], "\ud800"])
def test_a_name_is_text(name):
    with pytest.raises(MessageError) as refused:
        Msg(name, "hi", "user")
    assert refused.value.field == "name"


@pytest.mark.parametrize("field", ["url", "timestamp"])
@pytest.mark.parametrize("bad", [5, b"x", "\ud800", {"a": 1}])
def test_url_and_timestamp_are_text(field, bad):
    with pytest.raises(MessageError) as refused:
        say(**{field: bad})
    assert refused.value.field == field


def test_the_name_of_a_field_has_no_surrogates():
    with pytest.raises(MessageError, match="lone surrogate"):
        say(**{"\ud800": 1})


def test_ten_megabytes_of_text_travel():
    for text in ("x" * 10_000_000, "é" * 5_000_000):
        assert round_trip(say(text)).content == text
        assert round_trip(say([TextPart(text)])).text == text


def test_subclasses_of_json_types_become_what_they_are():
    class Colour(StrEnum):
        RED = "red"

    class Count(int):
        pass

    class Name(str):
        __slots__ = ()

    msg = Msg(Name("Ann"), [Colour.RED, Count(3), OrderedDict(a=(1, 2))], "user", colour=Colour.RED)
    assert [type(item) for item in msg.content[:2]] == [str, int]
    assert (type(msg.name), type(msg.colour)) == (str, str)
    assert msg.content == ["red", 3, {"a": [1, 2]}]
    assert round_trip(msg) == msg


# -- content parts --


@pytest.mark.parametrize(
    "part",
    [
        TextPart(5),
        TextPart(None),
        TextPart(Foreign()),
        TextPart("\ud800"),
        ThinkingPart(b"x"),
        ImagePart(None),
        ImagePart("http://a", 5),
        FilePart("http://a", name=["x"]),
        ToolCallPart(5, "n"),
        ToolCallPart("\ud800", "n"),
        ToolCallPart("1", "n", raw=5),
        ToolResultPart("1", None),
        ToolResultPart("1", "n", failed="yes"),
        ToolResultPart("1", "n", failed=[[1]]),
        ContentPart(),
        type("OwnPart", (ContentPart,), {"kind": "own"})(),
    ],
    ids=repr,
)
def test_a_part_with_wrong_fields_is_refused_by_the_message(part):
    with pytest.raises(MessageError) as refused:
        say([TextPart("x"), part])
    assert refused.value.field.startswith("content[1]")


@pytest.mark.parametrize("item", [5, None, {"a": 1}, [TextPart("x")], b"x", "\ud800"])
def test_only_parts_and_texts_stand_in_a_list_of_parts(item):
    with pytest.raises(MessageError) as refused:
        say([TextPart("x"), item])
    assert refused.value.field == "content[1]"


@pytest.mark.parametrize(
    "part",
    [
        {"__part": "hologram", "url": "http://a"},
        {"__part": None},
        {"__part": ["text"]},
        {"__part": "text"},
        {"__part": "text", "text": 5},
        {"__part": "text", "text": None},
        {"__part": "text", "text": "x", "kind": "image"},
        {"__part": "text", "text": "x", "more": 1},
        {"__part": "image", "url": 5},
        {"__part": "image", "url": "http://a", "mime_type": 5},
        {"__part": "tool_call", "id": "1"},
        {"__part": "tool_call", "id": "1", "name": "n", "arguments": {"__part": "text", "text": "x"}},
        {"__part": "tool_result", "id": "1", "name": "n", "failed": "yes"},
        {"__part": "tool_result", "id": "1", "name": "n", "failed": [[1]]},
        {"__part": "tool_result", "id": "1", "name": "n", "content": nested(65)},
        "text",
        5,
        {"text": "x"},
    ],
)
def test_a_wire_part_of_a_wrong_shape_is_refused(part):
    wire = {**say().to_dict(), "content": [{"__part": "text", "text": "x"}, part]}
    with pytest.raises(MessageError):
        Msg.from_dict(wire)


@pytest.mark.parametrize("depth", [2, 100, 1000])
def test_tool_results_do_not_nest(depth):
    wire = {"__part": "text", "text": "x"}
    for _ in range(depth):
        wire = {"__part": "tool_result", "id": "1", "name": "n", "content": [wire]}
    with pytest.raises(MessageError):
        Msg.from_dict({**say().to_dict(), "content": [wire]})
    with pytest.raises(MessageError):
        ToolResultPart("1", "n", [ToolResultPart("1", "n")])


def test_part_arguments_are_copied_and_frozen():
    arguments = {"a": [1]}
    part = ToolCallPart("1", "n", arguments)
    arguments["a"].append(2)
    assert part.arguments == {"a": [1]}
    with pytest.raises(TypeError, match="frozen"):
        part.arguments["a"].append(3)
    with pytest.raises(AttributeError):
        part.name = "other"


# -- frozen --


FREEZE_BREAKERS = {
    "set attribute": lambda msg: setattr(msg, "content", "x"),
    "set extra": lambda msg: setattr(msg, "score", 5),
    "set new": lambda msg: setattr(msg, "novel", 5),
    "set id": lambda msg: setattr(msg, "id", "x"),
    "set class": lambda msg: setattr(msg, "__class__", Tht),
    "delete attribute": lambda msg: delattr(msg, "content"),
    "set item": lambda msg: msg.__setitem__("content", "x"),
    "delete item": lambda msg: msg.__delitem__("content"),
    "content[]": lambda msg: msg.content.__setitem__("list", 1),
    "content del": lambda msg: msg.content.__delitem__("list"),
    "content |=": lambda msg: msg.content.__ior__({"list": 1}),
    "content.update": lambda msg: msg.content.update(list=1),
    "content.pop": lambda msg: msg.content.pop("list"),
    "content.popitem": lambda msg: msg.content.popitem(),
    "content.clear": lambda msg: msg.content.clear(),
    "content.setdefault": lambda msg: msg.content.setdefault("new", 1),
    "list[]": lambda msg: msg.content["list"].__setitem__(0, 9),
    "list del": lambda msg: msg.content["list"].__delitem__(0),
    "list +=": lambda msg: msg.content["list"].__iadd__([9]),
    "list *=": lambda msg: msg.content["list"].__imul__(2),
    "list.append": lambda msg: msg.content["list"].append(9),
    "list.extend": lambda msg: msg.content["list"].extend([9]),
    "list.insert": lambda msg: msg.content["list"].insert(0, 9),
    "list.pop": lambda msg: msg.content["list"].pop(),
    "list.remove": lambda msg: msg.content["list"].remove(2),
    "list.clear": lambda msg: msg.content["list"].clear(),
    "list.sort": lambda msg: msg.content["list"].sort(key=str),
    "list.reverse": lambda msg: msg.content["list"].reverse(),
    "url.append": lambda msg: msg.url.append("x"),
    "extra.append": lambda msg: msg.score.append(1),
    "usage": lambda msg: setattr(msg.usage, "input_tokens", 9),
}


@pytest.mark.parametrize("change", FREEZE_BREAKERS.values(), ids=FREEZE_BREAKERS)
def test_a_message_and_what_it_holds_are_frozen(change):
    msg = say({"list": [2, 1, {"x": [0]}]}, url=["http://a"], score=[1], usage=Usage(1, 2))
    before = msg.serialize()
    with pytest.raises((TypeError, AttributeError)):
        change(msg)
    assert msg.serialize() == before


def test_a_sender_cannot_change_what_was_sent():
    content, tags, urls = {"a": [1, {"b": 2}]}, ["x"], ["http://a"]
    msg = say(content, tags=tags, url=urls)
    content["a"][1]["b"] = 3
    content["new"] = 1
    tags.append("y")
    urls.clear()
    assert (msg.content, msg.tags, msg.url) == ({"a": [1, {"b": 2}]}, ["x"], ["http://a"])


def test_a_list_of_parts_is_frozen_and_not_the_senders():
    parts = [TextPart("a")]
    msg = say(parts)
    parts.append(TextPart("b"))
    assert msg.text == "a"
    with pytest.raises(TypeError, match=r"frozen; change a copy"):
        msg.content.append(TextPart("b"))


def test_copies_of_content_are_free():
    msg = say({"a": [1]}, tags=[[1]])
    for free in (copy.deepcopy(msg.content), pickle.loads(pickle.dumps(msg.content))):
        free["a"].append(2)
        free["b"] = 1
    copy.copy(msg.content)["b"] = 1
    dict(msg.content)["b"] = 1
    copy.copy(msg.tags).append(1)
    copy.deepcopy(msg.tags)[0].append(1)
    assert (msg.content, msg.tags) == ({"a": [1]}, [[1]])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_of_parts_are_parts_and_frozen(how):
    again = how(say(ALL_PARTS).content)
    assert again == ALL_PARTS
    call = how(ALL_PARTS[6])
    with pytest.raises(TypeError, match="frozen"):
        call.arguments["a"] = 1


# -- equality, copies, pickling --


def test_messages_are_equal_by_all_fields_and_hash_by_id():
    msg = say("x", score=3)
    again = round_trip(msg)
    assert (msg == again, hash(msg) == hash(again), len({msg, again})) == (True, True, 1)
    assert msg != say("x", score=3)
    assert hash(msg) != hash(say("x", score=3))
    assert msg != msg.replace(id=msg.id, score=4)
    assert msg != dict(msg)
    assert bool(say(""))


@pytest.mark.parametrize("msg", [say("x", score=[3]), say(ALL_PARTS), Tht("x")], ids=repr)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_everything(msg, protocol):
    again = pickle.loads(pickle.dumps(msg, protocol))
    assert again == msg
    assert type(again) is type(msg)
    with pytest.raises(AttributeError):
        again.name = "x"


def test_a_copy_is_the_message_itself():
    msg = say({"a": [1]})
    assert copy.copy(msg) is msg
    assert copy.deepcopy(msg) is msg
    assert copy.deepcopy([msg])[0] is msg


def test_a_subclass_has_no_room_for_fields():
    with pytest.raises(TypeError, match="__slots__"):
        type("Wide", (Msg,), {})
    with pytest.raises(TypeError, match="__slots__"):
        type("Wide", (Msg,), {"__slots__": ("x",)})


# -- usage --


def test_usage_adds_up():
    total = Usage() + Usage(1, 2) + Usage(3, 4, estimated=True)
    assert (total, total.total_tokens) == (Usage(4, 6, estimated=True), 10)


def test_a_message_without_usage_says_none():
    assert say().usage is None
    assert say(usage=None).usage is None
    assert "usage" not in say(usage=None)
    assert say().parsed is None


@pytest.mark.parametrize(
    "bad", [5, "many", [1], {"input_tokens": 1}, Usage("x"), Usage(2**70), Usage(1, 2, 3)]
)
def test_usage_is_a_usage(bad):
    with pytest.raises(MessageError) as refused:
        say(usage=bad)
    assert refused.value.field == "usage"


# -- pydantic and JSON schema --


class Chat(BaseModel):
    msg: Msg
    more: list[Msg] = []


def test_pydantic_reads_and_writes_the_wire_form():
    msg = say(ALL_PARTS, score=3)
    chat = Chat(msg=msg, more=[Tht("x")])
    assert chat.msg is msg
    again = Chat.model_validate_json(chat.model_dump_json())
    assert again == chat
    assert type(again.more[0]) is Tht
    assert chat.model_dump()["msg"] == msg.to_dict()
    assert Chat.model_validate({"msg": "hi"}).msg.role == "user"


@pytest.mark.parametrize(
    "bad",
    [5, None, [], {}, {"name": "a"}, {"name": "a", "content": "b", "role": "x"}, {"__type": "Nope"}]
    + [
        {"name": "a", "content": "b", "role": "user", key: 1}
        for key in ("to_dict", "__x", "id", "usage", "parsed")
    ],
)
def test_pydantic_reports_a_bad_message_as_a_validation_error(bad):
    with pytest.raises(ValidationError):
        Chat.model_validate({"msg": bad})


def test_pydantic_takes_a_field_named_cls():
    assert (
        Chat.model_validate({"msg": {"name": "a", "content": "b", "role": "user", "cls": 1}}).msg["cls"] == 1
    )


def test_pydantic_gives_the_kind_that_was_asked_for():
    reader = TypeAdapter(Tht)
    assert type(reader.validate_python(Tht("x").to_dict())) is Tht
    for other in (say(), say().to_dict(), "text"):
        with pytest.raises(ValidationError):
            reader.validate_python(other)


def test_the_json_schema_describes_the_wire_form():
    schema = TypeAdapter(Msg).json_schema()
    wire = say(ALL_PARTS, score=3).to_dict()
    assert schema["required"] == ["name", "content"]
    assert set(schema["properties"]) == set(wire) - {"score"}
    assert schema["additionalProperties"] is True
    assert schema["properties"]["role"]["enum"] == ["system", "user", "assistant", "tool"]
    assert schema["properties"]["__type"]["enum"] == ["Msg", "Tht"]
    assert TypeAdapter(Msg).json_schema(mode="serialization") == schema
    assert "properties" in Chat.model_json_schema()["properties"]["msg"]


# -- arbitrary input --


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
keys = texts.filter(lambda key: key != "__part")
contents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)
extra_names = st.sampled_from(["score", "tags", "cls", "x y", "é", "_x"])


@given(
    name=texts,
    content=contents,
    role=st.sampled_from(ROLES),
    url=st.none() | texts | st.lists(texts, max_size=3),
    extra=st.dictionaries(extra_names, contents, max_size=3),
)
def test_any_json_makes_an_exact_round_trip(name, content, role, url, extra):
    msg = Msg(name, content, role, url=url, **extra)
    again = round_trip(msg)
    assert plain(again.content) == plain(content)
    assert {key: plain(again[key]) for key in extra} == {key: plain(value) for key, value in extra.items()}
    assert (again.name, again.role, again.url, again.id) == (msg.name, msg.role, msg.url, msg.id)
    assert again.timestamp == msg.timestamp
    assert again == msg


part_kinds = st.sampled_from([*PART_TYPES, "nope", 5, None])
part_fields = st.sampled_from(
    ["text", "url", "mime_type", "name", "id", "arguments", "raw", "content", "failed", "kind", "self", "x"]
)
wire_keys = st.sampled_from(
    "name content role url id timestamp usage parsed echo score cls self draft kind to_dict "
    "__type __value __part __x _id".split(" ")
) | st.just("")
wild = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts | st.just("__part"), inner, max_size=4)
        | st.builds(
            lambda kind, fields: {**fields, "__part": kind},
            part_kinds,
            st.dictionaries(part_fields, inner, max_size=5),
        )
    ),
    max_leaves=15,
)
usages = st.fixed_dictionaries(
    {}, optional={"input_tokens": scalars, "output_tokens": scalars, "estimated": scalars}
)
likely = st.fixed_dictionaries(
    {"name": texts, "content": wild, "role": st.sampled_from(["user", "tool"])},
    optional={
        "__type": st.sampled_from(["Msg", "Tht", "List", "x"]),
        "id": texts,
        "timestamp": texts,
        "url": texts | st.lists(texts, max_size=2) | scalars,
        "usage": usages,
    },
)


@given(
    wire=wild
    | likely
    | st.dictionaries(wire_keys, wild, max_size=8)
    # mostly right, with some fields overwritten
    | st.builds(lambda good, bad: {**good, **bad}, likely, st.dictionaries(wire_keys, wild, max_size=3))
)
def test_any_wire_object_works_or_raises_a_message_error(wire):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AgentScopeWarning)  # a missing role
        msg = message_or_error(Msg.from_dict, wire)
        if msg is None:
            return
        again = deserialize(serialize(msg))
        assert again == msg
        assert isinstance(msg.text, str)
        assert isinstance(msg.usage, Usage | None)
        assert msg.parsed is None
        assert repr(msg)
        assert pickle.loads(pickle.dumps(msg)) == msg


@given(text=st.text() | st.binary() | wild.map(orjson.dumps))
def test_any_text_works_or_raises_a_message_error(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AgentScopeWarning)
        message_or_error(deserialize, text)


def message_or_error(read, source):
    """What was read, or None where that raised a MessageError which can be shown."""
    try:
        return read(source)
    except MessageError as error:
        str(error).encode()
        return None


# -- in short --


@pytest.mark.parametrize("content", ["hi", "", "ä\n\0", "x" * 100_000])
def test_a_message_of_texts_only_is_the_same_in_short(content):
    msg = Msg("Ann", content, role="user")
    texts = texts_of(msg)
    assert texts == (msg.id, msg.timestamp, "Ann", content, "user")
    assert from_texts(texts) == msg == from_texts(orjson.loads(orjson.dumps(texts)))


@pytest.mark.parametrize(
    "msg",
    [
        Tht("hm"),
        Msg("Ann", ["hi"], role="user"),
        Msg("Ann", [TextPart(text="hi")], role="user"),
        Msg("Ann", None, role="user"),
        Msg("Ann", "hi", role="user", url="https://example.com"),
        Msg("Ann", "hi", role="user", score=1),
        type("Own", (Msg,), {"__slots__": ()})("Ann", "hi", role="user"),
    ],
)
def test_a_message_that_holds_more_than_texts_has_no_short_form(msg):
    assert texts_of(msg) is None


@pytest.mark.parametrize(
    "texts",
    [(), ("a",) * 4, ("a",) * 6, ("", "t", "n", "c", "user"), ("a" * 201, "t", "n", "c", "user"),
     ("a", "t", "n", "c", "boss"), ("a", "t", "n", "c", ["user"]), (1, "t", "n", "c", "user"),
     ("a", 1.0, "n", "c", "user"), ("a", "t", None, "c", "user"), ("a", "t", "n", ["c"], "user")],
)  # fmt: skip
def test_what_is_no_message_in_short_is_refused(texts):
    with pytest.raises(MessageError):
        from_texts(texts)


def test_ids_of_messages_differ_beyond_the_256_of_the_last_digits():
    ids = [Msg("Ann", "hi", role="user").id for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)


INTERRUPTED = """
import signal
from agentscope_async import Msg

class Interrupt(Exception): pass

def interrupt(*_):
    global is_wanted
    if is_wanted:
        is_wanted = False
        raise Interrupt

is_wanted, interrupts = False, 0
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
while interrupts < 3000:
    try:
        is_wanted = True
        while True:
            Msg("Ann", "hi", role="user").id
    except Interrupt:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(Msg("Ann", "hi", role="user").id))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
def test_interrupts_do_not_end_the_making_of_ids():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert done.stdout == "32\n", done.stderr


def test_a_role_too_deep_to_be_shown_is_refused_in_short():
    deep = "user"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(MessageError):
        from_texts(("a", "t", "n", "c", deep))
