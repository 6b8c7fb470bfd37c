from __future__ import annotations

import asyncio
import base64
import struct
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st
from models.wire_driver import WireCase, cases_of, heard, listen, replay_case
from pydantic import BaseModel

from agentscope_async import Runtime
from agentscope_async.errors import (
    AgentScopeWarning,
    BadResponse,
    BudgetExceededError,
    ConfigError,
    ContentFiltered,
    ContextTooLong,
    MessageError,
    ModelError,
    NoRuntimeError,
    PartialStreamError,
    QuotaExhausted,
    RateLimited,
    ServerError,
)
from agentscope_async.message import (
    AudioPart,
    FilePart,
    ImagePart,
    Msg,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from agentscope_async.models._openai_answers import (
    parse_chat_response,
    parse_embedding_response,
    parse_tool_calls,
    parse_usage,
)
from agentscope_async.models._openai_errors import explain
from agentscope_async.models._openai_stream import ChatCollector
from agentscope_async.models._problem import Problem
from agentscope_async.models._sse import ServerEvent
from agentscope_async.models.openai import (
    OpenAIChatWrapper,
    OpenAIDALLEWrapper,
    OpenAIEmbeddingWrapper,
    build_chat_body,
    by_name,
)
from agentscope_async.monitor import Budget

HELLO = [{"role": "user", "content": "Hello!"}]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VARIABLES = (
    "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_ORGANIZATION", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL",
    "AZURE_OPENAI_API_KEY", "OPENAI_API_VERSION",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def chat(model: str = "gpt-4o-mini", **options: Any) -> OpenAIChatWrapper:
    return OpenAIChatWrapper("test", model, "sk-test", **options)


def answer(message: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **facts}


def event(data: Any, name: str = "") -> ServerEvent:
    return ServerEvent(name, data if isinstance(data, bytes) else orjson.dumps(data))


def chunk(index: int = 0, reason: str | None = None, **delta: Any) -> ServerEvent:
    return event({"choices": [{"index": index, "delta": delta, "finish_reason": reason}]})


def call_piece(index: int | None = 0, **piece: Any) -> dict[str, Any]:
    function = {key: piece.pop(key) for key in ("name", "arguments") if key in piece}
    return {"index": index, **piece, "function": function}


# -- against recorded exchanges --

KINDS = {"embedding": OpenAIEmbeddingWrapper, "image": OpenAIDALLEWrapper}


def make(case: WireCase, origin: str, client_args: dict[str, Any]) -> Any:
    kind = KINDS.get(case.kind, OpenAIChatWrapper)
    headers = case.request["headers"]
    client_args["organization"] = headers.get("openai-organization")
    client_args["project"] = headers.get("openai-project")
    if "api-key" in headers:
        client_args |= {"azure_endpoint": origin, "api_version": case.request["query"]["api-version"]}
        return kind("test", case.body["model"], "azure-key", client_args=client_args)
    return kind("test", case.body["model"], "sk-test", base_url=f"{origin}/v1", client_args=client_args)


async def call(model: Any, case: WireCase) -> Any:
    args = case.body
    del args["model"]
    said = args.pop({"embedding": "input", "image": "prompt"}.get(case.kind, "messages"))
    if args.pop("stream", False):
        return await heard(model.stream(said, **args))
    return await model(said, **args)


@pytest.mark.parametrize("case", cases_of("openai"), ids=str)
async def test_f01_f04_f05_recorded_case(case):
    await replay_case(case, make, call)


async def test_error_of_the_context_is_told_by_its_class(replay):
    with pytest.raises(ContextTooLong):
        await chat(base_url=replay.url("openai-error-400-context") + "/v1")(HELLO)


@pytest.mark.parametrize("fault", ["bytes=1", "ping", "crlf", "429x1,rams=1", "503x1,html,rams=1"])
async def test_stream_is_the_same_however_it_arrives(replay, fault):
    url = replay.url("openai-chat-stream-usage", fault) + "/v1"
    response = await heard(chat(base_url=url).stream(HELLO))
    assert (response.text, response.usage) == ("One, two", Usage(9, 3))


@pytest.mark.parametrize("fault", ["trunc@60%", "reset@60%", "fin@60%"])
async def test_wire_m04_cut_stream_gives_the_text_so_far(replay, fault):
    url = replay.url("openai-chat-stream-usage", fault) + "/v1"
    with pytest.raises(PartialStreamError) as caught:
        await listen(chat(base_url=url).stream(HELLO))
    assert (caught.value.type, caught.value.partial_text) == ("truncated", "One,")
    assert len(replay.records) == 1


@pytest.mark.parametrize("fault", ["badjson", "badutf8"])
async def test_wire_m04_garbage_in_a_stream_is_a_bad_response_with_the_text_so_far(replay, fault):
    url = replay.url("openai-chat-stream-usage", fault) + "/v1"
    with pytest.raises(BadResponse) as caught:
        await listen(chat(base_url=url).stream(HELLO))
    assert caught.value.partial_text == "One,"


async def test_image_is_not_asked_for_again_when_its_answer_is_lost(replay):
    model = OpenAIDALLEWrapper(
        "test", "dall-e-3", "sk", base_url=replay.url("openai-image-url", "drop") + "/v1"
    )
    with pytest.raises(ModelError):
        await model("A white cat")
    assert len(replay.records) == 1


# -- configuration --


async def test_f03_key_of_the_environment_is_sent(replay, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("OPENAI_BASE_URL", replay.url("openai-chat-basic") + "/v1/")
    model = OpenAIChatWrapper("test", "gpt-4o-mini")
    assert model.headers["Authorization"] == "Bearer sk-env"
    assert (await model(HELLO)).text == "Hello! How can I assist you today?"


@pytest.mark.parametrize("variable", ["OPENAI_ORG_ID", "OPENAI_ORGANIZATION"])
def test_f03_organization_of_the_environment_is_sent(variable, monkeypatch):
    monkeypatch.setenv(variable, "org-env")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-env")
    headers = chat().headers
    assert (headers["OpenAI-Organization"], headers["OpenAI-Project"]) == ("org-env", "proj-env")


def test_f03_client_args_of_the_sdk_are_taken():
    client_args = {
        "organization": "org-1", "project": "p-1", "timeout": 30, "max_retries": 5, "api_key": "sk-inner",
        "base_url": "http://127.0.0.1:9/v1",
        "default_headers": {"x-team": "blue"}, "default_query": {"a": "b c"},
    }  # fmt: skip
    model = OpenAIChatWrapper("test", "gpt-4o", client_args=client_args)
    assert model.url == "http://127.0.0.1:9/v1/chat/completions?a=b+c"
    assert model.headers["Authorization"] == "Bearer sk-inner"
    assert model.headers["OpenAI-Organization"] == "org-1"
    assert model.headers["x-team"] == "blue"
    assert (model.options.timeout, model.options.max_retries) == (30, 5)
    assert client_args["organization"] == "org-1"


def test_default_headers_replace_ours_in_any_case():
    model = chat(client_args={"default_headers": {"authorization": "Basic xyz"}})
    assert [value for name, value in model.headers.items() if name.lower() == "authorization"] == [
        "Basic xyz"
    ]


def test_openai_without_a_key_is_refused():
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        OpenAIChatWrapper("test", "gpt-4o")


def test_compatible_server_needs_no_key():
    model = OpenAIChatWrapper("test", "llama", base_url="http://127.0.0.1:9/v1")
    assert "Authorization" not in model.headers


def test_e06_missing_model_name_is_the_config_name_with_a_warning():
    with pytest.warns(AgentScopeWarning, match="gpt-4o"):
        model = OpenAIChatWrapper("gpt-4o", api_key="sk")
    assert model.build_request(HELLO, {}, stream=False).json["model"] == "gpt-4o"


async def test_e06_generate_args_are_merged_and_the_call_wins(replay):
    url = replay.url("openai-chat-basic") + "/v1"
    model = chat(base_url=url, generate_args={"temperature": 0.5, "seed": 7, "top_p": 0.9})
    await model(HELLO, temperature=0.1, top_p=None)
    body = replay.records[0]["body"]
    assert {key: value for key, value in body.items() if key != "messages"} == {
        "model": "gpt-4o-mini", "temperature": 0.1, "seed": 7,
    }  # fmt: skip


def test_azure_takes_its_deployment_and_version():
    client_args = {
        "azure_endpoint": "https://x.openai.azure.com/",
        "azure_deployment": "d 1",
        "api_version": "v9",
    }
    model = OpenAIChatWrapper("test", "gpt-4o", "key", client_args=client_args)
    assert model.url == "https://x.openai.azure.com/openai/deployments/d%201/chat/completions?api-version=v9"
    assert model.headers["api-key"] == "key"
    assert "Authorization" not in model.headers


def test_azure_does_not_get_the_key_of_openai(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    client_args = {"azure_endpoint": "https://x.openai.azure.com", "api_version": "v9"}
    with pytest.raises(ConfigError, match="AZURE_OPENAI_API_KEY"):
        OpenAIChatWrapper("test", "gpt-4o", client_args=client_args)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure")
    assert OpenAIChatWrapper("test", "gpt-4o", client_args=client_args).headers["api-key"] == "azure"


def test_azure_needs_a_version(monkeypatch):
    with pytest.raises(ConfigError, match="OPENAI_API_VERSION"):
        chat(client_args={"azure_endpoint": "https://x.openai.azure.com"})
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    assert chat(client_args={"azure_endpoint": "https://x.openai.azure.com"}).url.endswith("=2024-10-21")


def test_by_name_is_a_chat_model():
    model = by_name("gpt-4o", api_key="sk", base_url="http://127.0.0.1:9/v1")
    assert (model.config_name, model.model_name) == ("openai:gpt-4o", "gpt-4o")


def test_max_length_is_that_of_the_table():
    assert chat("gpt-4").max_length == 8_192
    assert chat("some-llama").max_length is None


# -- requests --


@pytest.mark.parametrize("messages", ["Hello!", {"role": "user", "content": "x"}, None, ({"role": "user"},)])
async def test_f01_messages_that_are_no_list_are_refused(messages):
    with pytest.raises(ValueError, match="must be a list"):
        await chat()(messages)


@pytest.mark.parametrize("item", [{"role": "user"}, {"content": "x"}, "Hello!"])
async def test_f01_items_without_role_and_content_are_refused(item):
    with pytest.raises(ValueError, match="role"):
        await chat()([*HELLO, item])


async def test_nan_is_refused():
    with pytest.raises(ConfigError, match="temperature"):
        await chat()(HELLO, temperature=float("nan"))


async def test_stream_true_as_an_argument_says_what_to_call_instead():
    with pytest.raises(ConfigError, match=r"model\.stream"):
        await chat()(HELLO, stream=True)


def test_what_the_caller_gave_is_not_changed():
    messages, args = [dict(HELLO[0])], {"extra_body": {"top_k": 3}, "stop": ["x"]}
    body = build_chat_body("m", messages, args, stream=True)
    chat().limit_output(body, 100)
    assert body["top_k"] == 3
    assert (messages, args) == (HELLO, {"extra_body": {"top_k": 3}, "stop": ["x"]})


def test_own_stream_options_are_kept():
    body = build_chat_body("m", HELLO, {"stream_options": {"include_usage": False}}, stream=True)
    assert body["stream_options"] == {"include_usage": False}


class Person(BaseModel):
    name: str
    age: int = 3


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"type": "text"}, {"type": "text"}),
        ({"type": "json_object"}, {"type": "json_object"}),
        (SCHEMA, {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "description": "d"}},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "description": "d"}},
        ),
    ],
)
def test_response_format_takes_schemas_and_openais_form(wanted, sent):
    assert build_chat_body("m", HELLO, {"response_format": wanted}, stream=False)["response_format"] == sent


def test_response_format_takes_a_pydantic_model_in_strict_form():
    sent = build_chat_body("m", HELLO, {"response_format": Person}, stream=False)["response_format"]
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["required"] == ["name", "age"]


@pytest.mark.parametrize(
    ("args", "limit"),
    [
        ({}, None),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20, "n": 3}, 60),
        ({"max_tokens": "many"}, None),
    ],
)
def test_output_limit_counts_every_answer(args, limit):
    assert chat().output_limit(build_chat_body("m", HELLO, args, stream=False)) == limit


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "max_tokens"), ("llama-3", "max_tokens"), ("gpt-3.5-turbo", "max_tokens"),
        ("o1", "max_completion_tokens"), ("o4-mini", "max_completion_tokens"),
        ("gpt-5", "max_completion_tokens"), ("openai/gpt-5-mini", "max_completion_tokens"),
        ("gpt-10", "max_completion_tokens"), ("ft:o4-mini:org::id", "max_completion_tokens"),
    ],
)  # fmt: skip
def test_limit_output_sets_what_the_model_takes(model, name):
    body: dict[str, Any] = {"n": 2}
    assert chat(model).limit_output(body, 500) == 1_000
    assert body == {"n": 2, name: 500}


def test_limit_output_keeps_a_limit_that_is_there():
    body = {"max_tokens": 7}
    assert chat("gpt-5").limit_output(body, 500) == 7
    assert body == {"max_tokens": 7}


# -- formatting --


def test_f02_format_is_that_of_v002():
    url = "U"
    msgs = [
        Msg("system", "S", role="system"),
        None,
        [Msg("Bob", "Hi", role="assistant", url=url), [Msg("Al", {"a": "é"}, role="user")]],
    ]
    assert chat().format(*msgs) == [
        {"role": "system", "name": "system", "content": "S"},
        {"role": "assistant", "name": "Bob", "content": "Hi"},
        {"role": "user", "name": "Al", "content": '{"a": "é"}'},
    ]


@pytest.mark.parametrize("item", ["text", {"role": "user", "content": "x"}, (1,)])
def test_e09_format_takes_only_messages(item):
    with pytest.raises(TypeError):
        chat().format(Msg("a", "b", role="user"), [item])


@pytest.mark.parametrize("kind", [OpenAIEmbeddingWrapper, OpenAIDALLEWrapper])
def test_f21_format_is_refused_where_there_is_none(kind):
    with pytest.raises(RuntimeError, match="doesn't need to format"):
        kind("test", "m", "sk").format(Msg("a", "b", role="user"))


def test_format_for_one_side_has_roles_and_no_names():
    msgs = [Msg("sys", "S", role="system"), Msg("Bob", "Hi", role="user"), Msg("Al", "Ho", role="assistant")]
    assert chat().format(*msgs, me="Bob") == [
        {"role": "system", "content": "S"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Al: Ho"},
    ]


def test_images_become_parts_of_user_messages_only():
    look = Msg("Al", [TextPart("Look"), ImagePart("a.png")], role="user", url="https://x.org/b.jpg")
    own = Msg("Bob", [TextPart("Mine"), ImagePart("c.png")], role="assistant")
    assert chat().format(look, own, me="Bob") == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Al: Look"},
                {"type": "image_url", "image_url": {"url": "a.png"}},
                {"type": "image_url", "image_url": {"url": "https://x.org/b.jpg"}},
            ],
        },
        {"role": "assistant", "content": "Mine"},
    ]


def test_tool_calls_and_results_become_their_turns():
    asked = Msg("Bob", [TextPart("Wait"), ToolCallPart("c1", "add", {"a": 1}, '{"a":1}')], role="assistant")
    bare = Msg("Bob", [ToolCallPart("c2", "now")], role="assistant")
    told = Msg(
        "Bob",
        [ToolResultPart("c1", "add", {"sum": 2}), ToolResultPart("c2", "now", "noon"), TextPart("and?")],
        role="assistant",
    )
    assert chat().format(asked, bare, told, me="Bob") == [
        {
            "role": "assistant",
            "content": "Wait",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"sum": 2}'},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "user", "content": "and?"},
    ]


def test_image_in_a_tool_result_follows_as_a_user_message():
    result = ToolResultPart("c1", "plot", [TextPart("done"), ImagePart("https://x.org/p.png")])
    tool, image = chat().format(Msg("Bob", [result], role="assistant"), me="Bob")
    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "done"}
    assert image["content"] == [{"type": "image_url", "image_url": {"url": "https://x.org/p.png"}}]


async def test_local_files_become_data(tmp_path):
    picture, sound, paper = tmp_path / "a.png", tmp_path / "b.wav", tmp_path / "c.pdf"
    for path in (picture, sound, paper):
        path.write_bytes(PNG if path is picture else b"x")
    parts = [
        ImagePart(str(picture)),
        AudioPart(str(sound)),
        FilePart(str(paper)),
        ImagePart("https://x.org/y.png"),
    ]
    messages = chat().format(Msg("Al", [TextPart("See"), *parts], role="user"))
    before = orjson.dumps(messages)
    (ready,) = await chat().prepare(messages)
    text, image, audio, file, web = ready["content"]
    assert image["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert audio == {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}}
    assert file["file"] == {"filename": "c.pdf", "file_data": "data:application/pdf;base64,eA=="}
    assert web["image_url"]["url"] == "https://x.org/y.png"
    assert text == {"type": "text", "text": "See"}
    assert orjson.dumps(messages) == before


async def test_messages_of_text_are_passed_on_untouched():
    assert await chat().prepare(HELLO) is HELLO


async def test_missing_file_is_named():
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "none.png"}}]}]
    with pytest.raises(MessageError, match=r"none\.png"):
        await chat()(messages)


# -- answers --


def test_choices_are_put_in_order():
    choices = [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]
    response = parse_chat_response({"choices": choices})
    assert (response.text, response.texts) == ("a", ["a", "b"])


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_is_found_under_either_name(name):
    assert parse_chat_response(answer({"content": "x", name: "hm"})).thinking == "hm"


def test_content_in_parts_is_joined():
    parts = [
        {"type": "thinking", "thinking": []},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    assert parse_chat_response(answer({"content": parts})).text == "ab"


def test_unknown_and_empty_fields_do_no_harm():
    message = {
        "content": "x",
        "tool_calls": [],
        "reasoning_content": "",
        "refusal": "",
        "audio": None,
        "new": 1,
    }
    response = parse_chat_response(answer(message, usage=None, model=None, new={}))
    assert (response.text, response.tool_calls, response.thinking, response.refusal) == ("x", [], None, None)


def test_asked_for_a_tool_and_got_text_is_an_answer():
    body = answer({"content": "I'd rather talk."})
    body["choices"][0]["finish_reason"] = "tool_calls"
    response = parse_chat_response(body)
    assert (response.text, response.tool_calls) == ("I'd rather talk.", [])


@pytest.mark.parametrize("arguments", ["", None, "{}", " "])
def test_wire_m07_empty_arguments_are_no_arguments(arguments):
    (part,) = parse_tool_calls([{"id": "a", "function": {"name": "f", "arguments": arguments}}])
    assert dict(part.arguments) == {}


@pytest.mark.parametrize("arguments", ['{"a": ', "NaN", "[" * 100_000, "[" * 900 + "]" * 900, "\ud800"])
def test_wire_m07_broken_arguments_are_kept_as_sent(arguments):
    (part,) = parse_tool_calls([{"id": "a", "function": {"name": "f", "arguments": arguments}}])
    assert (part.arguments, part.raw) == (None, arguments)


def test_wire_m07_arguments_as_an_object_are_taken():
    (part,) = parse_tool_calls([{"id": "a", "function": {"name": "f", "arguments": {"b": 1}}}])
    assert (dict(part.arguments), part.raw) == ({"b": 1}, '{"b":1}')


def test_wire_m07_every_call_has_an_id_of_its_own():
    calls = [{"id": each, "function": {"name": "f"}} for each in ("call_1", None, "x", "x", "")]
    ids = [part.id for part in parse_tool_calls(calls)]
    assert ids == ["call_1", "call_2", "x", "call_3", "call_4"]
    many = [{"function": {"name": "f"}}] * 1_000
    assert len({part.id for part in parse_tool_calls(many)}) == 1_000


@pytest.mark.parametrize(
    ("sent", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, Usage(3, 4)),
        ({"prompt_tokens": 3, "total_tokens": 7}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"a": 1}}, Usage(3, 4)),
        ({"input_tokens": 3, "output_tokens": 4}, Usage(3, 4)),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": "3", "completion_tokens": 4}, None),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ({"prompt_tokens": 10**12, "completion_tokens": 4}, None),
        ({}, None),
        (None, None),
        ([], None),
        ("many", None),
    ],
)
def test_wire_m08_usage_that_cannot_be_true_is_none(sent, usage):
    assert parse_usage(sent) == usage


@pytest.mark.parametrize(
    ("body", "type"),
    [
        ({}, "bad_response"),
        ([], "bad_response"),
        (None, "bad_response"),
        ("text", "bad_response"),
        ({"choices": []}, "bad_response"),
        ({"choices": None}, "bad_response"),
        ({"error": {"message": "m", "code": "insufficient_quota"}}, "quota"),
        ({"error": {"message": "m", "type": "server_error"}}, "server"),
        ({"error": "m"}, "stream_error"),
    ],
)
def test_wire_m05_answer_without_an_answer_is_a_problem(body, type):
    with pytest.raises(Problem) as caught:
        parse_chat_response(body)
    assert caught.value.type == type


BODIES = [
    b"<html>502</html>",
    b"",
    b"[]",
    b'"\xff"',
    b'{"choices": [',
    b'{"choices": {"a": 1}}',
    b'{"choices": [7]}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": [{"message": {"content": 5}}]}',
    b'{"choices": [{"message": {"content": NaN}}]}',
    b'{"choices": [{"message": {"tool_calls": [{"function": null}]}}]}',
    b'{"choices": [{"message": {"content": null, "tool_calls": [{"function": {"name": 5}}]}}]}',
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_wire_m05_unreadable_answer_is_a_bad_response(body):
    import httpx

    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with pytest.raises(BadResponse) as caught:
        await chat(client_args={"transport": transport})(HELLO)
    assert caught.value.status == 200


# -- streams --


def test_stream_of_several_answers_is_kept_apart():
    collector = ChatCollector(answers=2)
    assert [each.text for each in collector.feed(chunk(1, content="b1"))] == []
    assert [each.text for each in collector.feed(chunk(0, content="a1"))] == ["a1"]
    collector.feed(chunk(0, "stop"))
    assert not collector.is_complete
    collector.feed(chunk(1, "length", content="b2"))
    assert collector.is_complete
    response = collector.response()
    assert (response.texts, response.finish_reason) == (["a1", "b1b2"], "stop")


def test_stream_takes_several_choices_and_calls_in_one_chunk():
    collector = ChatCollector(answers=2)
    pieces = [
        call_piece(1, id="y", name="g", arguments="[1]"),
        call_piece(0, id="x", name="f", arguments="{}"),
    ]
    choices = [
        {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"},
        {"index": 0, "delta": {"tool_calls": pieces}, "finish_reason": "tool_calls"},
    ]
    (first, second) = collector.feed(event({"choices": choices}))
    assert [first.data.id, second.data.id] == ["x", "y"]
    assert collector.response().texts == ["", "b"]


def test_stream_sets_ids_and_names_once_and_appends_arguments():
    collector = ChatCollector()
    for piece in (
        call_piece(0, id="x", name="f", arguments='{"a'),
        call_piece(0, id=None, name=None, arguments='":'),
        call_piece(0, id="other", name="f", arguments=" 1}"),
    ):
        collector.feed(chunk(tool_calls=[piece]))
    (speech,) = collector.feed(chunk(0, "tool_calls"))
    assert (speech.data.id, speech.data.name, dict(speech.data.arguments)) == ("x", "f", {"a": 1})


def test_stream_of_calls_without_index_tells_them_by_their_ids():
    collector = ChatCollector()
    for piece in (
        call_piece(None, id="x", name="f", arguments="{"),
        call_piece(None, arguments="}"),
        call_piece(None, id="y", name="g", arguments="{}"),
    ):
        collector.feed(chunk(tool_calls=[piece]))
    collector.feed(chunk(0, "tool_calls"))
    assert [(call.id, call.raw) for call in collector.response().tool_calls] == [("x", "{}"), ("y", "{}")]


def test_stream_without_an_end_is_not_complete():
    collector = ChatCollector()
    collector.feed(chunk(content="a"))
    assert not collector.is_complete
    collector.feed(event(b"[DONE]"))
    assert collector.is_complete
    assert collector.is_over


def test_stream_of_usage_counts_the_last_one():
    collector = ChatCollector()
    for count in (1, 2, 3):
        usage = {"prompt_tokens": 5, "completion_tokens": count}
        collector.feed(event({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": usage}))
    collector.feed(chunk(0, "stop"))
    assert collector.response().usage == Usage(5, 3)


def test_stream_whose_chunks_carry_an_empty_error_goes_on():
    collector = ChatCollector()
    collector.feed(event({"error": None, "choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}))
    assert collector.response().text == "x"


def test_stream_of_nothing_is_a_bad_response():
    collector = ChatCollector()
    collector.feed(event(b"[DONE]"))
    with pytest.raises(Problem, match="no answer"):
        collector.response()


@pytest.mark.parametrize(
    ("data", "name", "type"),
    [
        ({"error": {"message": "m", "type": "server_error", "code": None}}, "", "server"),
        ({"error": {"message": "m", "type": "BadRequestError", "code": 400}}, "", "bad_request"),
        (
            {"error": {"message": "m"}, "choices": [{"delta": {}, "finish_reason": "error"}]},
            "",
            "stream_error",
        ),
        ({"object": "error", "message": "m", "type": "NotFoundError", "code": 404}, "", "not_found"),
        ({"text": "m", "error_code": 50001}, "", "server"),
        ({"text": "m", "error_code": 42901}, "", "rate_limit"),
        ({"message": "m"}, "error", "stream_error"),
        ({"reason": "m"}, "error", "stream_error"),
        ({"error": "m"}, "error", "stream_error"),
    ],
)
def test_errors_in_a_stream_are_found_in_every_form(data, name, type):
    with pytest.raises(Problem) as caught:
        ChatCollector().feed(event(data, name))
    assert caught.value.type == type


def test_fastchat_error_in_a_stream_says_its_text():
    with pytest.raises(Problem, match="CUDA") as caught:
        ChatCollector().feed(event({"text": "CUDA out of memory", "error_code": 50002}))
    assert caught.value.code == 50002


KEYS = "choices index delta message content tool_calls function name arguments id usage error"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)
EXPECTED = (Problem, TypeError, KeyError, IndexError, AttributeError, ValueError)
"""What the path of a call makes a typed error of."""


@given(st.lists(JSON, max_size=4))
def test_any_json_in_a_stream_is_taken_or_refused(values):
    collector = ChatCollector()
    try:
        for value in values:
            collector.feed(event(value))
        collector.feed(event(b"[DONE]"))
        collector.response()
    except EXPECTED:
        pass


@given(JSON)
def test_any_json_as_an_answer_is_taken_or_refused(value):
    for parse in (parse_chat_response, parse_embedding_response):
        try:
            parse(value)
        except EXPECTED:
            pass


# -- refusals --


@pytest.mark.parametrize(
    ("status", "body", "type", "code"),
    [
        (400, {"error": {"code": "content_policy_violation", "message": "m"}}, "content_filter", None),
        (400, {"error": {"code": "content_filter", "innererror": {"code": "x"}}}, "content_filter", None),
        (400, {"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}, "content_filter", None),
        (429, {"error": {"type": "insufficient_quota", "code": None}}, "quota", None),
        (429, {"error": {"code": "rate_limit_exceeded"}}, "rate_limit", None),
        (400, {"object": "error", "message": "m", "code": 42901}, "rate_limit", 42901),
        (400, {"object": "error", "message": "m", "code": 42902}, "quota", 42902),
        (400, {"object": "error", "message": "m", "code": 42903}, "overloaded", 42903),
        (400, {"object": "error", "message": "m", "code": 50004}, "server", 50004),
        (400, {"object": "error", "message": "m", "code": 50006}, "timeout", 50006),
        (400, {"object": "error", "message": "m", "code": 40301}, "not_found", 40301),
        (401, {"error": {"object": "error", "code": 40102}}, "auth", 40102),
        (
            400,
            {"object": "error", "message": "maximum context length is 9", "code": 400},
            "bad_request",
            None,
        ),
        (400, {"error": {"type": "exceed_context_size_error", "code": 400}}, "bad_request", None),
        (409, {"error": {"message": "m"}}, "conflict", None),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, "bad_request", None),
        (404, {"detail": "Not Found"}, "not_found", None),
        (503, {"error": {"message": "overloaded"}}, "overloaded", None),
        (500, {"error": 7}, "server", None),
        (404, {"error": "model 'x' not found"}, "not_found", None),
        (429, [{"error": {"code": 429, "message": "m"}}], "rate_limit", 429),
        (400, {"error": {"code": ["x"], "message": {"a": 1}, "type": 4}}, "bad_request", None),
        (413, {}, "bad_request", None),
        (502, [], "server", None),
    ],
)
def test_refusals_have_the_type_their_body_says(status, body, type, code):
    problem = explain(status, orjson.dumps(body))
    assert problem.type == type
    assert problem.status == status
    if code is not None:
        assert problem.code == code


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "This model's maximum context length is 2048 tokens.", "code": 400},
        {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}},
        {"object": "error", "message": "m", "code": 40303},
    ],
)
def test_other_servers_context_errors_are_told_by_their_class(body):
    error = explain(400, orjson.dumps(body)).as_error("openai", "m", attempts=1)
    assert isinstance(error, ContextTooLong)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            b"<html><head><title>502</title><style>a{}</style></head><body>Bad\n <b>gateway</b>",
            "502 Bad gateway",
        ),
        (b"upstream connect error", "upstream connect error"),
        (b"", "the server gave no explanation"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 100_000, "x" * 1_024),
    ],
)
def test_refusals_that_are_no_json_are_told_in_plain_text(body, text):
    problem = explain(502, body)
    assert (problem.type, problem.message) == ("server", text)


@given(st.integers(300, 999), st.binary() | JSON.map(orjson.dumps))
def test_explain_never_fails(status, body):
    assert explain(status, body).message


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("429,quota", QuotaExhausted), ("429,ra=500", RateLimited), ("500", ServerError)],
)
async def test_wire_m02_refusals_are_raised_typed(replay, fault, kind):
    url = replay.url("openai-chat-basic", fault) + "/v1"
    with pytest.raises(kind):
        await chat(base_url=url, client_args={"max_retries": 0})(HELLO)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_wire_m02_what_cannot_pass_is_asked_once(replay, status):
    url = replay.url("openai-chat-basic", str(status)) + "/v1"
    with pytest.raises(ModelError):
        await chat(base_url=url)(HELLO)
    assert len(replay.records) == 1


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_wire_m02_what_may_pass_is_asked_again(replay, status):
    url = replay.url("openai-chat-basic", f"{status}x1,rams=1") + "/v1"
    assert (await chat(base_url=url)(HELLO)).text
    assert len(replay.records) == 2


def test_filtered_prompt_of_azure_is_told_by_its_class():
    body = {"error": {"code": "content_filter", "message": "m", "innererror": {"content_filter_result": {}}}}
    error = explain(400, orjson.dumps(body)).as_error("openai", "m", attempts=1)
    assert isinstance(error, ContentFiltered)


# -- embeddings and images --


def test_f05_vectors_are_put_in_the_order_of_the_texts():
    rows = [
        {"index": 1, "embedding": base64.b64encode(struct.pack("<2f", 1.5, -2.0)).decode()},
        {"index": 0, "embedding": [0.5, 1]},
    ]
    assert parse_embedding_response({"data": rows}).embedding == [[0.5, 1], [1.5, -2.0]]


@pytest.mark.parametrize("sent", ["AAA=", "!", {"a": 1}, None, "AACAPgA"])
def test_vector_that_is_none_is_refused(sent):
    with pytest.raises(EXPECTED):
        parse_embedding_response({"data": [{"embedding": sent}]})


def test_no_vectors_are_a_problem():
    with pytest.raises(Problem, match="no 'data'"):
        parse_embedding_response({"object": "list", "data": []})


async def test_fewer_vectors_than_texts_are_a_bad_response(replay):
    model = OpenAIEmbeddingWrapper("e", "m", "sk", base_url=replay.url("openai-embedding-float") + "/v1")
    with pytest.raises(BadResponse, match="1 vectors came for 2 texts"):
        await model(["a", "b"])


@pytest.mark.parametrize("texts", ["", [], None, 5, {"a": 1}])
async def test_embedding_of_nothing_is_refused(texts):
    with pytest.raises(MessageError):
        await OpenAIEmbeddingWrapper("e", "m", "sk")(texts)


async def test_what_cannot_stream_says_so():
    for kind, said in ((OpenAIEmbeddingWrapper, "text"), (OpenAIDALLEWrapper, "a cat")):
        with pytest.raises(ConfigError, match="cannot stream"):
            await listen(kind("e", "m", "sk").stream(said))


async def test_f04_images_saved_locally_are_files_of_the_run(replay, tmp_path):
    url = replay.url("openai-image-b64") + "/v1"
    async with Runtime(save_dir=tmp_path):
        response = await OpenAIDALLEWrapper("i", "gpt-image-1", "sk", base_url=url)("A fox", save_local=True)
    assert len(response.image_urls) == 2
    for path in response.image_urls:
        assert path.startswith(str(tmp_path))
        assert await asyncio.to_thread(Path(path).read_bytes) == PNG
    assert "save_local" not in replay.records[0]["body"]


async def test_f04_save_local_needs_a_place_before_anything_is_paid(replay):
    url = replay.url("openai-image-b64") + "/v1"
    with pytest.raises(NoRuntimeError, match="Runtime"):
        await OpenAIDALLEWrapper("i", "gpt-image-1", "sk", base_url=url)("A fox", save_local=True)
    assert replay.records == []


# -- metrics and budgets --


async def test_f01_chat_counts_its_four_metrics(replay):
    async with Runtime() as runtime:
        await chat(base_url=replay.url("openai-chat-basic") + "/v1")(HELLO)
        await heard(chat(base_url=replay.url("openai-chat-stream-usage") + "/v1").stream(HELLO))
        values = {
            name: await runtime.monitor.get_value(f"gpt-4o-mini.{name}")
            for name in ("call_counter", "prompt_tokens", "completion_tokens", "total_tokens")
        }
    assert values == {
        "call_counter": 2, "prompt_tokens": 28, "completion_tokens": 13, "total_tokens": 41,
    }  # fmt: skip


async def test_f05_embedding_counts_its_three_metrics(replay):
    url = replay.url("openai-embedding-base64-default") + "/v1"
    async with Runtime() as runtime:
        await OpenAIEmbeddingWrapper("e", "emb", "sk", base_url=url)(["alpha", "beta"])
        assert await runtime.monitor.get_value("emb.call_counter") == 1
        assert await runtime.monitor.get_value("emb.prompt_tokens") == 2
        assert await runtime.monitor.get_value("emb.total_tokens") == 2
        assert not await runtime.monitor.exists("emb.completion_tokens")


@pytest.mark.parametrize(
    ("case", "model", "args", "size", "count"),
    [
        ("openai-image-url", "dall-e-3", {}, "1024*1024", 1),
        ("openai-image-url", "dall-e-3", {"size": "1792x1024"}, "1792*1024", 1),
        ("openai-image-b64", "gpt-image-1", {"size": "1536x1024"}, "1536*1024", 2),
    ],
)
async def test_f04_images_are_counted_by_their_size(replay, case, model, args, size, count):
    async with Runtime() as runtime:
        await OpenAIDALLEWrapper("i", model, "sk", base_url=replay.url(case) + "/v1")("A fox", **args)
        assert await runtime.monitor.get_value(f"{model}.call_counter") == 1
        assert await runtime.monitor.get_value(f"{model}.{size}") == count


async def test_budget_refuses_a_call_before_it_is_sent(replay):
    model = chat(base_url=replay.url("openai-chat-basic") + "/v1", budget=Budget(tokens=100))
    with pytest.raises(BudgetExceededError):
        await model(HELLO, max_tokens=100)
    assert replay.records == []


async def test_budget_limits_an_answer_that_has_no_limit(replay):
    budget = Budget(tokens=1_000, max_output_tokens=50)
    await chat("o4-mini", base_url=replay.url("openai-chat-basic") + "/v1", budget=budget)(HELLO)
    assert replay.records[0]["body"]["max_completion_tokens"] == 50
    assert budget.spent.tokens == 29
