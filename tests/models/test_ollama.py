from __future__ import annotations

import asyncio
import base64
import copy
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, strategies as st
from models.wire_driver import WireCase, cases_of, heard, listen, replay_case

from agentscope_async import Runtime, errors
from agentscope_async.errors import AgentScopeWarning, ConfigError, MessageError
from agentscope_async.message import AudioPart, ImagePart, Msg, TextPart, ToolCallPart, ToolResultPart, Usage
from agentscope_async.models import ModelRegistry
from agentscope_async.models._ollama_answers import OllamaCollector, explain, parse_chat_response
from agentscope_async.models._ollama_request import address_of
from agentscope_async.models._problem import Problem
from agentscope_async.models._sse import ServerEvent
from agentscope_async.models.ollama import (
    OllamaChatWrapper,
    OllamaEmbeddingWrapper,
    OllamaGenerationWrapper,
    by_name,
)

PNG_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HELLO = [{"role": "user", "content": "Hello!"}]


def chat(**options: Any) -> OllamaChatWrapper:
    return OllamaChatWrapper("test", "llama3.2", **options)


def body_of(messages: Any, model: OllamaChatWrapper | None = None, **args: Any) -> dict[str, Any]:
    return (model or chat(keep_alive=None)).build_request(messages, args, stream=False).json


def answering(reply: Any, status: int = 200) -> dict[str, Any]:
    """Return ``client_args`` for a server that always gives this answer: bytes, or JSON."""
    content = reply if isinstance(reply, bytes) else orjson.dumps(reply)
    return {
        "transport": httpx.MockTransport(lambda request: httpx.Response(status, content=content)),
        "max_retries": 0,
    }


# -- against recorded exchanges --

KINDS = {
    "embedding": OllamaEmbeddingWrapper,
    "generate": OllamaGenerationWrapper,
    "generate_stream": OllamaGenerationWrapper,
}


def make(case: WireCase, origin: str, client_args: dict[str, Any]) -> Any:
    kind = KINDS.get(case.kind, OllamaChatWrapper)
    name = "llama3.2" if case.body is None else case.body["model"]
    options = {"legacy": True} if case.name == "ollama-embeddings-legacy" else {}
    return kind("test", name, keep_alive=None, base_url=origin, client_args=client_args, **options)


async def call(model: Any, case: WireCase) -> Any:
    if case.kind == "models":
        return {"models": await model.list_models()}
    if case.kind == "pull":
        return {"statuses": [progress["status"] async for progress in model.pull()]}
    args = case.body
    del args["model"]
    given = args.pop(next(name for name in ("messages", "prompt", "input") if name in args))
    if args.pop("stream", False):
        return await heard(model.stream(given, **args))
    return await model(given, **args)


@pytest.mark.parametrize("case", cases_of("ollama"), ids=str)
async def test_f14_f15_f16_f17_recorded_case(case):
    await replay_case(case, make, call)


@pytest.mark.parametrize("fault", ["", "bytes=1", "crlf"])
async def test_wire_m04_stream_is_the_same_however_it_is_cut(replay, fault):
    model = chat(base_url=replay.url("ollama-chat-stream", fault))
    hearing = await listen(model.stream(HELLO))
    assert [delta.text for delta in hearing.deltas] == ["The", " sky", "!"]
    assert hearing.response.raw["message"]["content"] == "The sky!"
    assert hearing.response.usage == Usage(12, 3)


@pytest.mark.parametrize(
    ("fault", "kind"), [("noterm", errors.PartialStreamError), ("badjson", errors.BadResponse)]
)
async def test_wire_m04_stream_without_its_end_is_an_error_with_what_was_heard(replay, fault, kind):
    model = chat(base_url=replay.url("ollama-chat-stream", fault))
    with pytest.raises(kind) as caught:
        await listen(model.stream(HELLO))
    assert caught.value.partial_text == ("The sky!" if fault == "noterm" else "The sky")


async def test_f14_call_counts_its_tokens(replay):
    model = chat(base_url=replay.url("ollama-chat-basic"))
    async with Runtime() as runtime:
        response = await model(HELLO)
        assert response.text == "Rayleigh scattering."
        names = ("call_counter", "prompt_tokens", "completion_tokens", "total_tokens")
        counted = {name: await runtime.monitor.get_value(f"llama3.2.{name}") for name in names}
    assert counted == {"call_counter": 1, "prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


async def test_f16_f17_input_may_be_given_by_the_name_it_has_in_agentscope(replay):
    model = OllamaGenerationWrapper("g", "llama3.2", base_url=replay.url("ollama-generate-basic"))
    assert (await model(prompt="Why?")).text == "Because."
    model = OllamaEmbeddingWrapper("e", "e", base_url=replay.url("ollama-embeddings-legacy"))
    assert (await model(prompt="hello")).embedding == [[0.5, 0.25, -0.75]]
    model = chat(base_url=replay.url("ollama-chat-basic"))
    assert (await model(messages=HELLO)).text == "Rayleigh scattering."
    model = chat(base_url=replay.url("ollama-chat-stream"))
    assert (await heard(model.stream(messages=HELLO))).text == "The sky!"


def test_configurations_of_agentscope_make_the_wrappers():
    models = ModelRegistry()
    config = {"model_name": "llama2", "options": {"temperature": 0.5, "seed": 123}, "keep_alive": "5m"}
    kinds = ["ollama_chat", "ollama_generate", "ollama_embedding"]
    models.read([{"config_name": kind, "model_type": kind, **config} for kind in kinds])
    for kind in kinds:
        model = models.load(kind)
        assert (model.model_type, model.keep_alive) == (kind, "5m")
        assert model.model_options == config["options"]


# -- addresses and keys --


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:1234", "http://box:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("[::]:1234", "http://[::1]:1234"),
        ("http://box", "http://box"),
        ("https://ollama.com", "https://ollama.com"),
        ("http://box:1234/", "http://box:1234"),
        (" https://box/ollama/ ", "https://box/ollama"),
    ],
)
def test_server_is_named_as_ollama_host_names_it(monkeypatch, host, url):
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert chat().base_url == url
    monkeypatch.delenv("OLLAMA_HOST")
    assert chat(host=host).base_url == url
    assert chat(client_args={"host": host}).base_url == url


def test_address_given_wins_over_the_environment_and_nonsense_is_refused(monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "elsewhere:1")
    assert chat(base_url="http://here:2").base_url == "http://here:2"
    for wrong in ("ftp://box", "http:localhost:80", "box:port", "::1"):
        with pytest.raises(ConfigError):
            address_of(wrong)


def test_no_key_is_needed_and_one_goes_as_bearer(monkeypatch):
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    assert "Authorization" not in chat().build_request(HELLO, {}, stream=False).headers
    headers = chat(api_key="a-long-key").build_request(HELLO, {}, stream=False).headers
    assert headers["Authorization"] == "Bearer a-long-key"


def test_by_name_takes_the_tag_as_a_part_of_the_name():
    model = by_name("qwen2.5:7b", base_url="http://box:1")
    assert (model.model_name, model.base_url) == ("qwen2.5:7b", "http://box:1")


def test_default_headers_and_query_go_with_every_request():
    model = chat(client_args={"default_headers": {"accept": "x"}, "default_query": {"a": "b"}})
    request = model.build_request(HELLO, {}, stream=True)
    assert request.url.endswith("/api/chat?a=b")
    assert request.headers == {"Content-Type": "application/json", "accept": "x"}


# -- requests --


def test_f14_options_of_a_call_win_one_by_one():
    model = chat(options={"temperature": 1, "num_ctx": 512}, keep_alive="9m")
    assert body_of(HELLO, model, options={"temperature": 0}, keep_alive=0) == {
        "model": "llama3.2",
        "messages": HELLO,
        "stream": False,
        "options": {"temperature": 0, "num_ctx": 512},
        "keep_alive": 0,
    }
    assert model.model_options == {"temperature": 1, "num_ctx": 512}
    assert body_of(HELLO, model)["keep_alive"] == "9m"


def test_f14_options_of_a_call_are_taken_where_none_are_configured():
    assert body_of(HELLO, options={"seed": 1})["options"] == {"seed": 1}
    assert "options" not in body_of(HELLO)


def test_sampling_arguments_go_under_options_and_others_beside_them():
    model = chat(options={"top_p": 0.5}, generate_args={"options": {"top_k": 1}, "temperature": 1})
    args = {"max_tokens": 5, "stop": "END", "think": "high", "logprobs": True, "options": {"mirostat_new": 1}}
    body = body_of(HELLO, model, **{**model.generate_args, **args})
    assert body["options"] == {
        "top_p": 0.5, "top_k": 1, "temperature": 1, "num_predict": 5, "stop": ["END"], "mirostat_new": 1,
    }  # fmt: skip
    assert (body["think"], body["logprobs"]) == ("high", True)


@pytest.mark.parametrize("think", [False, True, "low"])
def test_thinking_is_asked_for_off_on_or_by_level_and_left_to_the_server(think):
    assert body_of(HELLO, think=think)["think"] == think
    assert "think" not in body_of(HELLO, think=None)


def test_response_format_is_the_schema_itself():
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    assert body_of(HELLO, response_format=schema)["format"] == schema
    assert body_of(HELLO, format=schema)["format"] == schema
    assert body_of(HELLO, response_format={"type": "json_object"})["format"] == "json"
    assert body_of(HELLO, format="json")["format"] == "json"
    assert "format" not in body_of(HELLO, response_format={"type": "text"})


async def test_stream_is_always_said_and_asked_for_by_its_method():
    assert chat().build_request(HELLO, {}, stream=True).json["stream"] is True
    assert chat().build_request(HELLO, {"stream": False}, stream=False).json["stream"] is False
    with pytest.raises(ConfigError, match=r"model\.stream"):
        await chat()(HELLO, stream=True)
    with pytest.raises(ConfigError, match="temperature"):
        await chat()(HELLO, options={"temperature": float("inf")})
    with pytest.raises(ConfigError, match="temperature"):
        chat(options={"temperature": float("nan")})


def test_openai_messages_are_changed_in_copies():
    given = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG_BASE64}"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "w", "arguments": '{"x": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "20C"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "w", "arguments": "{broken"}}]},
    ]
    kept = copy.deepcopy(given)
    messages = body_of(given)["messages"]
    assert messages[0] == {"role": "user", "content": "See", "images": [PNG_BASE64]}
    assert messages[1]["tool_calls"][0]["function"] == {"name": "w", "arguments": {"x": 1}}
    assert "content" not in messages[1]
    assert messages[2] == {"role": "tool", "tool_call_id": "a", "content": "20C", "tool_name": "w"}
    assert messages[3]["tool_calls"][0]["function"]["arguments"] == {}
    assert given == kept


@pytest.mark.parametrize(
    "messages",
    [
        "Hi", None, [5], [{"role": "user"}], [{"role": "user", "content": [{"type": "input_audio"}]}],
        [{"role": "user", "content": [5]}], [{"role": "assistant", "tool_calls": [{}]}],
    ],
)  # fmt: skip
def test_messages_of_no_known_form_are_refused(messages):
    with pytest.raises(MessageError):
        body_of(messages)


def test_output_limit_is_num_predict_and_negative_is_none():
    model = chat()
    assert model.output_limit(body_of(HELLO, max_tokens=5)) == 5
    assert model.output_limit(body_of(HELLO, options={"num_predict": -1})) is None
    body = body_of(HELLO)
    assert model.limit_output(body, 100) == 100
    assert body["options"] == {"num_predict": 100}
    assert model.limit_output(body_of(HELLO, max_tokens=5), 100) == 5


async def test_images_are_read_and_text_only_messages_stay_the_same_object(tmp_path):
    path = tmp_path / "dot.png"
    path.write_bytes(base64.b64decode(PNG_BASE64))
    given = [
        {
            "role": "user",
            "content": "compare",
            "images": [str(path), f"data:image/png;base64,{PNG_BASE64}", PNG_BASE64],
        },
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": path.as_uri()}}]},
    ]
    kept = copy.deepcopy(given)
    prepared = await chat().prepare(given)
    assert prepared[0]["images"] == [PNG_BASE64] * 3
    assert prepared[1] == {"role": "user", "content": "", "images": [PNG_BASE64]}
    assert given == kept
    assert await chat().prepare(HELLO) is HELLO
    with pytest.raises(MessageError, match="cannot be read"):
        await chat().prepare([{"role": "user", "content": "?", "images": [str(tmp_path / "none.png")]}])


def test_generation_takes_a_prompt_and_bare_images():
    model = OllamaGenerationWrapper("g", "llama3.2", {"seed": 1}, None)
    args = {"system": "s", "images": ["data:image/png;base64,QUJD"], "context": [1], "temperature": 0}
    assert model.build_request("Why?", args, stream=True).json == {
        "model": "llama3.2",
        "prompt": "Why?",
        "system": "s",
        "images": ["QUJD"],
        "context": [1],
        "options": {"seed": 1, "temperature": 0},
        "stream": True,
    }
    assert not model.takes_messages
    with pytest.raises(MessageError, match="prompt"):
        model.build_request(HELLO, {}, stream=False)


def test_f17_embedding_takes_texts_and_a_legacy_server_one():
    model = OllamaEmbeddingWrapper("e", "all-minilm")
    request = model.build_request(["a", "b"], {"truncate": False, "num_ctx": 9}, stream=False)
    assert request.json == {
        "model": "all-minilm", "input": ["a", "b"], "truncate": False, "options": {"num_ctx": 9},
        "keep_alive": "5m",
    }  # fmt: skip
    for wrong in ("", [], None, {"a": 1}):
        with pytest.raises(MessageError):
            model.build_request(wrong, {}, stream=False)
    with pytest.raises(ConfigError, match="cannot stream"):
        model.stream("a")
    with pytest.raises(MessageError, match="one text"):
        OllamaEmbeddingWrapper("e", "all-minilm", legacy=True).build_request(["a"], {}, stream=False)


# -- format --


def test_f15_format_takes_every_url_for_an_image():
    msgs = [
        Msg("system", "S", "system"),
        None,
        [Msg("Bob", "Hi", "assistant", url="U"), Msg("Al", {"a": "é"}, "user")],
        Msg("Al", "Look", "user", url=["a.png", "V"]),
    ]
    assert chat().format(*msgs) == [
        {"role": "system", "content": "S"},
        {"role": "assistant", "content": "Hi", "images": ["U"]},
        {"role": "user", "content": '{"a": "é"}'},
        {"role": "user", "content": "Look", "images": ["a.png", "V"]},
    ]
    with pytest.raises(TypeError):
        chat().format("Hi")


@pytest.mark.parametrize("content", [5, None, ["a"], True])
def test_format_takes_any_content_beside_a_url(content):
    assert chat().format(Msg("Al", content, "user", url="U"))[0]["images"] == ["U"]


def test_format_for_an_agent_tells_its_turns_and_tools():
    msgs = [
        Msg("Al", [TextPart("Look"), ImagePart("a.png")], "user", url="https://a.b/c.jpg"),
        Msg("Bob", [TextPart("Hm"), ToolCallPart("c1", "w", {"x": [1]})], "assistant"),
        Msg(
            "w",
            [ToolResultPart("c1", "w", {"t": 3}), ToolResultPart("c2", "w", [TextPart("a"), TextPart("b")])],
            "tool",
        ),
    ]
    assert chat().format(msgs, me="Bob") == [
        {"role": "user", "content": "Al: Look", "images": ["a.png", "https://a.b/c.jpg"]},
        {
            "role": "assistant",
            "content": "Hm",
            "tool_calls": [{"id": "c1", "function": {"name": "w", "arguments": {"x": [1]}}}],
        },
        {"role": "tool", "content": '{"t":3}', "tool_name": "w", "tool_call_id": "c1"},
        {"role": "tool", "content": "a\nb", "tool_name": "w", "tool_call_id": "c2"},
    ]  # fmt: skip
    with pytest.raises(MessageError, match="images only"):
        chat().format(Msg("Al", [AudioPart("a.wav")], "user"))


def test_f16_generation_formats_one_text():
    model = OllamaGenerationWrapper("g", "llama3.2")
    msgs = [Msg("system", "S", "system"), [Msg("Bob", "Hi", "assistant"), Msg("Al", {"a": "é"}, "user")]]
    assert model.format(*msgs) == 'system: S\nBob: Hi\nAl: {"a": "é"}'
    assert model.format(*msgs, me="Bob") == 'system: S\nBob: Hi\nAl: {"a": "é"}\nBob:'


def test_f21_embedding_refuses_to_format():
    with pytest.raises(RuntimeError, match="doesn't need to format"):
        OllamaEmbeddingWrapper("e", "e").format(Msg("Al", "Hi", "user"))


# -- answers --


def said(content: Any = "Hi", **rest: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content}, "done": True, **rest}


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"prompt_eval_count": 3, "eval_count": 2}, Usage(3, 2)),
        ({"eval_count": 2}, Usage(0, 2)),
        ({"prompt_eval_count": 3}, Usage(3, 0)),
        ({}, None),
        ({"prompt_eval_count": -1, "eval_count": 2}, None),
        ({"prompt_eval_count": "3"}, None),
        ({"eval_count": 10**30}, None),
        ({"eval_count": 1.5}, None),
        ({"eval_count": None, "prompt_eval_count": None}, None),
    ],
)
def test_wire_m08_counts_of_zero_are_left_out_and_absurd_ones_are_none(counts, usage):
    assert parse_chat_response(said(**counts)).usage == usage


def test_wire_m07_arguments_may_come_as_text_and_ids_are_made_up():
    calls = [
        {"function": {"name": "w", "arguments": {"x": 1}}},
        {"id": "call_2", "function": {"name": "w", "arguments": '{"x": 2}'}},
        {"id": "call_2", "function": {"name": "w", "arguments": "{broken"}},
        {"function": {"name": "w"}},
    ]
    body = said("")
    body["message"]["tool_calls"] = calls
    found = parse_chat_response(body).tool_calls
    assert [call.arguments for call in found] == [{"x": 1}, {"x": 2}, None, {}]
    assert [call.raw for call in found] == ['{"x":1}', '{"x": 2}', "{broken", "{}"]
    assert len({call.id for call in found}) == 4


def test_wire_m05_null_optional_and_unknown_fields_do_no_harm():
    body = said(None, done_reason=None, new=[1])
    body["message"] |= {"thinking": None, "tool_calls": None}
    response = parse_chat_response(body)
    assert (response.text, response.thinking, response.finish_reason) == ("", None, None)


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>hi</html>", b"", b"[]", b"5", {"done": True}, {"message": 5}, said(5),
        {"message": {"content": "x", "tool_calls": [{"function": {"name": 5}}]}},
    ],
)  # fmt: skip
async def test_wire_m05_answer_in_no_known_form_is_a_bad_response(reply):
    with pytest.raises(errors.BadResponse):
        await chat(client_args=answering(reply))(HELLO)


async def test_wire_m05_error_under_200_is_the_servers():
    with pytest.raises(errors.ServerError, match="runner died"):
        await chat(client_args=answering({"error": "runner died"}))(HELLO)
    with pytest.raises(errors.ServerError, match="runner died"):
        await listen(chat(client_args=answering({"error": "runner died"})).stream(HELLO))


@pytest.mark.parametrize(
    "reply",
    [{}, {"embeddings": []}, {"embeddings": [[1.0]]}, {"embeddings": [[], []]}, {"embeddings": [5, 5]}],
)
async def test_wire_m05_embedding_without_its_vectors_is_a_bad_response(reply):
    with pytest.raises(errors.BadResponse):
        await OllamaEmbeddingWrapper("e", "e", client_args=answering(reply))(["a", "b"])


async def test_model_is_loaded_by_an_empty_prompt(replay):
    reply = {"model": "m", "response": "", "done": True, "done_reason": "load"}
    response = await OllamaGenerationWrapper("g", "m", client_args=answering(reply))("")
    assert (response.text, response.finish_reason) == ("", "load")
    assert response.usage is not None
    assert response.usage.estimated


# -- streams --


def test_stream_thinks_speaks_and_calls():
    collector = OllamaCollector()
    lines = [
        {"message": {"thinking": "Hm"}, "done": False},
        {"message": {"content": "Let me see."}, "done": False},
        {
            "message": {"content": "", "tool_calls": [{"function": {"name": "w", "arguments": {}}}]},
            "done": False,
        },
    ]
    speeches = [each for line in lines for each in collector.take(line)]
    assert [(each.kind, each.text) for each in speeches] == [
        ("thinking", "Hm"),
        ("text", "Let me see."),
        ("tool_call", ""),
    ]
    assert not collector.is_complete
    assert [each.text for each in collector.take(said(" Rome?", done_reason="stop"))] == [" Rome?"]
    assert collector.is_complete
    assert collector.is_over
    response = collector.response()
    assert (response.text, response.thinking, len(response.tool_calls)) == ("Let me see. Rome?", "Hm", 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["message", "content", "response", "thinking", "tool_calls", "function", "name", "arguments",
             "error", "done", "done_reason", "eval_count", "model"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(JSON, max_size=4), st.booleans())
def test_wire_m05_collector_never_fails_otherwise_than_the_shared_path_knows(bodies, is_chat):
    collector = OllamaCollector(is_chat=is_chat)
    try:
        for body in bodies:
            collector.feed(ServerEvent("", orjson.dumps(body)))
        collector.response()
    except (Problem, TypeError, KeyError, IndexError, AttributeError, ValueError):
        pass


# -- refusals --


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, b"404 page not found", "not_found", "404 page not found"),
        (401, b'{"error": "unauthorized", "signin_url": "https://ollama.com"}', "auth", "unauthorized"),
        (400, b'{"error": {"message": "nested"}}', "bad_request", "nested"),
        (500, b"", "server", "the server gave no explanation"),
        (502, b"<html><body>Bad  gateway</body></html>", "server", "Bad gateway"),
        (503, b'{"error": "server busy"}', "overloaded", "server busy"),
    ],
)
def test_wire_m02_status_tells_the_kind_and_the_body_the_text(status, body, kind, text):
    problem = explain(status, body)
    assert (problem.type, problem.message, problem.status) == (kind, text, status)


def test_prompt_that_is_too_long_is_known_as_such():
    problem = explain(400, b'{"error": "the input length exceeds the context length"}')
    assert isinstance(problem.as_error("ollama", "m", attempts=1), errors.ContextTooLong)


@given(st.integers(300, 599), JSON)
def test_wire_m05_explaining_never_fails(status, body):
    assert explain(status, orjson.dumps(body)).message


# -- the server's models --


@pytest.mark.parametrize("reply", [[], {"models": [{}]}, {"models": [5]}])
async def test_wire_m05_models_in_no_known_form_are_a_bad_response(reply):
    with pytest.raises(errors.BadResponse):
        await chat(client_args=answering(reply)).list_models()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b'{"status": "pulling"}\n{"error": "pull model manifest: file does not exist"}\n', errors.NotFound),
        (b'{"error": "disk full"}', errors.ServerError),
        (b'{"status": "pulling manifest"}\n', errors.ConnectionFailed),
        (b"nonsense", errors.BadResponse),
        (b"[]\n", errors.BadResponse),
    ],
)  # fmt: skip
async def test_pull_that_fails_says_why(reply, kind):
    with pytest.raises(kind):
        async for _ in chat(client_args=answering(reply)).pull("llama3.2"):
            pass


async def test_pull_that_is_refused_is_typed():
    with pytest.raises(errors.BadRequest, match="invalid model name"):
        async for _ in chat(client_args=answering({"error": "invalid model name"}, 400)).pull("??"):
            pass


async def test_pull_tells_how_far_it_is(replay):
    model = chat(base_url=replay.url("ollama-pull-progress", "bytes=9"))
    progresses = [progress async for progress in model.pull()]
    assert progresses[1]["completed"] == 241970
    assert progresses[-1] == {"status": "success"}


async def test_pull_left_half_way_lets_the_server_know():
    is_left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        line = b'{"status": "pulling manifest"}\n'
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(line), line))
        while await reader.read(1000):
            pass
        is_left.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        pull = chat(host=f"127.0.0.1:{port}").pull()
        assert (await anext(pull))["status"] == "pulling manifest"
        await pull.aclose()
        await is_left.wait()


def test_an_image_that_a_prompt_cannot_hold_is_not_lost_silently():
    with pytest.warns(AgentScopeWarning, match="the image of 'Ann' is left out"):
        text = OllamaGenerationWrapper("g", "m").format(Msg("Ann", "What is it?", "user", url="a.png"))
    assert text == "Ann: What is it?"
