"""Parity rows C09 and C10."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import orjson
import pytest
from hypothesis import given, strategies as st

from agentscope_async import BadResponse, DictDialogAgent, ModelResponse, Msg, ScriptedModel
from agentscope_async.agents.dict_dialog import default_response, parse_dict


def agent_for(*answers, **options):
    return DictDialogAgent("d", "Answer with an object.", ScriptedModel(answers, loop=True), **options)


async def reply_to(text, **options):
    async with asyncio.timeout(30):
        return await agent_for(text, **options)("hi")


# -- C09 --


async def test_C09_keys_become_fields_and_speak_the_content():
    msg = await reply_to('{"speak": "I vote", "agreement": true, "votes": [1, {"a": null}]}')
    assert (msg.name, msg.content, msg.role) == ("d", "I vote", "assistant")
    assert msg.agreement is True
    assert msg["votes"] == [1, {"a": None}]


async def test_C09_the_object_is_remembered_as_json_under_the_same_id():
    agent = agent_for('{"speak": "a", "n": 1}')
    msg = await agent("hi")
    [_, remembered] = agent.memory.get_memory()
    assert orjson.loads(remembered.content) == {"speak": "a", "n": 1}
    assert (remembered.id, remembered.name) == (msg.id, "d")


@pytest.mark.parametrize(
    "text",
    [
        "{'speak': 'it is', 'ok': True, 'none': None}",
        '```json\n{"speak": "it is", "ok": true, "none": null}\n```',
        "Here it is:\n```\n{'speak': 'it is', 'ok': True, 'none': None}\n```\nDone.",
        '\n  {"speak": "it is", "ok": true, "none": null}  \n',
    ],
)
async def test_C09_lenient_parse(text):
    msg = await reply_to(text)
    assert (msg.content, msg.ok, msg.none) == ("it is", True, None)


@pytest.mark.parametrize(
    "text", ["it's fine", 'say "yes"', "both ' and \"", "back\\slash \\d", "{braces} </tags>"]
)
async def test_C09_an_apostrophe_does_not_break_a_single_quoted_object(text):
    msg = await reply_to(repr({"speak": text}))
    assert msg.content == text
    assert (await reply_to(json.dumps({"speak": text}))).content == text


@pytest.mark.parametrize(
    "key",
    [
        "name", "content", "role", "timestamp", "url", "id", "echo", "usage", "parsed", "text", "keys", "get",
        "replace", "__type", "__class__", "self", "cls", "raw", "_id", "_extra", "", "a b", "é",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["x", 7, None, ["y"], {"z": 1}])
async def test_C09_reserved_keys_do_not_crash_it_or_forge_the_message(key, value):
    agent = agent_for({"speak": "said", key: value})
    msg = await agent(Msg("Ann", "hi", "user"))
    assert (msg.name, msg.content, msg.role) == ("d", "said", "assistant")
    assert isinstance(msg.id, str)
    assert isinstance(msg.timestamp, str)
    assert msg.url is None
    everything = msg.raw if "raw" in msg and key != "raw" else msg
    assert everything[key] == value
    assert agent.memory.size() == 2


async def test_C09_an_object_without_speak_is_the_content():
    msg = await reply_to('{"vote": "Ann"}')
    assert msg.content == {"vote": "Ann"}


async def test_C09_what_is_spoken_may_be_any_value():
    for value in (None, 3, ["a", 1], {"deep": {"er": []}}):
        assert (await reply_to({"speak": value})).content == value


async def test_C09_broken_json_is_mended_where_the_extra_is_installed():
    pytest.importorskip("json_repair")
    msg = await reply_to('{"speak": "almost", "n": 1,')
    assert (msg.content, msg.n) == ("almost", 1)


async def test_C09_works_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "json_repair", None)
    assert (await reply_to("{'speak': 'x'}")).content == "x"
    assert (await reply_to('{"speak": "almost"')).content == '{"speak": "almost"'


@pytest.mark.parametrize(
    "text",
    [
        '{"speak": "x", "a": {"__part": "image"}}',
        '{"speak": "x", "a": [{"__part": 1}]}',
        '{"speak": "x", "a": ' + "[" * 100 + "]" * 100 + "}",
        '{"speak": "x", "a": [' + "1," * 120_000 + "1]}",
        '{"speak": "x", "a": 1e999}',
        '{"speak": "x", "a": ' + "9" * 400 + "}",
        '{"speak": "x", "a": NaN}',
        '{"speak": "\\ud800"}',
        "{'speak': '\\ud800'}",
        "{'speak': b'bytes', 'a': {1, 2}, 3: 4}",
        "{'speak': 1j}",
        "{" * 3000,
        "(" * 3000,
        "-" * 3000 + "1",
        "[" * 100_000,
        "\x00",
        "{'a': __import__('os').system('exit 1')}",
    ],
)
async def test_C09_hostile_answers_do_not_crash_it(text):
    agent = agent_for(text)
    async with asyncio.timeout(30):
        msg = await agent("hi")
    assert (msg.name, msg.role) == ("d", "assistant")
    assert agent.memory.size() == 2


@given(st.text(max_size=200) | st.text("{}[]\"':, \\`\n0123truefalsnabc-", max_size=60))
def test_C09_no_text_crashes_it(text):
    agent = agent_for(text)
    msg = asyncio.run(_ask(agent))
    assert msg.name == "d"
    assert agent.memory.size() == 2


free_keys = st.text(max_size=8).filter(lambda key: key != "__part")  # see the hostile answers
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
json_values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(free_keys, inner, max_size=3),
    max_leaves=8,
)
json_keys = st.sampled_from(["speak", "name", "role", "content", "id", "url", "raw", "usage"]) | free_keys


@given(st.dictionaries(json_keys, json_values, max_size=5))
def test_C09_every_object_arrives_whole(value):
    agent = agent_for(value)
    msg = asyncio.run(_ask(agent))
    wanted = orjson.loads(orjson.dumps(value))
    assert msg.content == (wanted["speak"] if "speak" in wanted else wanted)
    assert orjson.loads(agent.memory.get_memory()[-1].content) == wanted


@given(json_values.filter(lambda value: not isinstance(value, dict)))
def test_C09_values_that_are_no_objects_are_spoken_as_text(value):
    text = orjson.dumps(value).decode()
    msg = asyncio.run(_ask(agent_for(text)))
    assert msg.content == text


@pytest.mark.parametrize(
    "text",
    [
        "```" + "\n" * 40_000 + "x",
        "{" * 50_000,
        "[{" * 30_000,
        '{"' * 30_000,
        "{(" * 20_000,
        '{"a": "' + "'" * 50_000,
    ],
)
def test_C09_no_text_keeps_the_processor_for_long(text):
    began_at = time.process_time()
    with pytest.raises(BadResponse):
        parse_dict(ModelResponse(text, model="m"))
    assert time.process_time() - began_at < 5  # minutes where the work grows with the square


# -- C10 --


async def test_C10_plain_text_is_spoken_after_the_retries():
    agent = agent_for("just text")
    msg = await agent("hi")
    assert msg.content == "just text"
    assert len(agent.model.calls) == 3
    assert orjson.loads(agent.memory.get_memory()[-1].content) == {"speak": "just text"}


async def test_C10_the_retries_end_with_the_first_object():
    agent = agent_for("nothing", '{"speak": "something"}', "never asked")
    assert (await agent("hi")).content == "something"
    assert len(agent.model.calls) == 2


@pytest.mark.parametrize("max_retries", [1, 2, 5])
async def test_C10_max_retries_is_how_often_it_is_asked(max_retries):
    agent = agent_for("nothing", max_retries=max_retries)
    await agent("hi")
    assert len(agent.model.calls) == max_retries


async def test_C10_without_a_fault_handler_it_is_an_error():
    agent = agent_for("nothing", fault_handler=None)
    with pytest.raises(BadResponse) as caught:
        await agent("hi")
    assert caught.value.raw == "nothing"
    assert agent.memory.size() == 0


async def test_C10_functions_of_ones_own_may_be_async():
    async def parse(response):
        await asyncio.sleep(0)
        raise ValueError("never good enough")

    async def mend(response):
        await asyncio.sleep(0)
        return ModelResponse(raw={"speak": f"mended {response.text}"})

    agent = agent_for("text", parse_func=parse, fault_handler=mend, max_retries=2)
    assert (await agent("hi")).content == "mended text"
    assert len(agent.model.calls) == 2


async def test_C10_a_failing_model_is_not_a_fault_of_the_answer():
    agent = agent_for(ConnectionError("down"))
    with pytest.raises(ConnectionError, match="down"):
        await agent("hi")
    assert len(agent.model.calls) == 1


def test_C10_the_default_functions_can_be_used_alone():
    assert parse_dict(ModelResponse("{'a': 1}")).raw == {"a": 1}
    assert default_response(ModelResponse("text")).raw == {"speak": "text"}
    assert default_response(ModelResponse()).raw == {"speak": ""}
    with pytest.raises(BadResponse, match="holds no object"):
        parse_dict(ModelResponse("[1]", model="m"))


async def _ask(agent):
    async with asyncio.timeout(30):
        return await agent("hi")
