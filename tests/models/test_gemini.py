from __future__ import annotations

import base64
import copy
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, strategies as st
from models.wire_driver import WireCase, cases_of, heard, listen, replay_case
from pydantic import BaseModel

from agentscope_async import errors
from agentscope_async.errors import ConfigError, MessageError
from agentscope_async.message import (
    AudioPart,
    ImagePart,
    Msg,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
    deserialize,
    serialize,
)
from agentscope_async.models._gemini_answers import GeminiCollector, explain, parse_chat_response
from agentscope_async.models._gemini_request import as_contents, build_chat_body
from agentscope_async.models._gemini_schema import gemini_schema
from agentscope_async.models._problem import Problem
from agentscope_async.models._sse import ServerEvent
from agentscope_async.models.gemini import GeminiChatWrapper, GeminiEmbeddingWrapper, GeminiReader, by_name

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1, "$comment": "any"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def chat(**options: Any) -> GeminiChatWrapper:
    return GeminiChatWrapper("test", "gemini-2.5-flash", "a-long-key", **options)


def body_of(contents: Any, **args: Any) -> dict[str, Any]:
    return chat().build_request(contents, args, stream=False).json


def answer(*parts: dict[str, Any], finish: str | None = "STOP", **rest: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], **rest}


# -- against recorded exchanges --


def make(case: WireCase, origin: str, client_args: dict[str, Any]) -> Any:
    path = case.request["path"].removeprefix("/v1beta/")
    name = path.removeprefix("models/").partition(":")[0] if ":" in path else "gemini-2.0-flash"
    kind = GeminiEmbeddingWrapper if case.kind == "embedding" else GeminiChatWrapper
    return kind("test", name, "a-long-key", base_url=origin, client_args=client_args)


async def call(model: Any, case: WireCase) -> Any:
    if case.kind == "models":
        return {"models": [each["name"] for each in await model.list_models(page_size=2)]}
    args = case.body
    if case.kind == "embedding":
        return await model(*_embedding_call(args), **args)
    contents = args.pop("contents")
    if case.kind == "count_tokens":
        return {"total_tokens": await model.count_tokens(contents)}
    args |= args.pop("generationConfig", {})
    if case.kind == "chat_stream":
        return await heard(model.stream(contents, **args))
    return await model(contents, **args)


def _embedding_call(args: dict[str, Any]) -> list[Any]:
    """Take what is embedded out of a body, and leave the arguments."""
    if "content" in args:
        return [args.pop("content")["parts"][0]["text"]]
    requests = args.pop("requests")
    args |= {name: value for name, value in requests[0].items() if name not in ("content", "model")}
    return [[request["content"]["parts"][0]["text"] for request in requests]]


@pytest.mark.parametrize(
    "case", [case for case in cases_of("gemini") if case.name != "gemini-models-list"], ids=str
)
async def test_f11_f13_recorded_case(case):
    await replay_case(case, make, call)


async def test_f13_list_models_reads_all_pages_and_lists_those_that_can_do_it(replay):
    options = {"base_url": replay.url("gemini-models-list", run="chat")}
    models = await chat(**options).list_models(page_size=2)
    assert [model["name"] for model in models] == ["models/gemini-2.0-flash", "models/gemini-2.5-pro"]
    options = {"base_url": replay.url("gemini-models-list", run="embedding")}
    models = await GeminiEmbeddingWrapper("e", "e", "a-long-key", **options).list_models(page_size=2)
    assert [model["name"] for model in models] == ["models/gemini-embedding-001"]
    assert not replay.differences()


@pytest.mark.parametrize("fault", ["", "bytes=1", "bytes=7", "ping"])
async def test_wire_m04_stream_is_the_same_however_it_is_cut(replay, fault):
    model = chat(base_url=replay.url("gemini-chat-stream", fault))
    hearing = await listen(model.stream("Count"))
    assert [delta.text for delta in hearing.deltas] == ["One", ", two", ", three"]
    assert hearing.response.usage == Usage(4, 5)
    assert hearing.response.raw["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize(
    ("fault", "kind"), [("noterm", errors.PartialStreamError), ("badjson", errors.BadResponse)]
)
async def test_wire_m04_stream_without_its_end_is_an_error_with_what_was_heard(replay, fault, kind):
    model = chat(base_url=replay.url("gemini-chat-stream", fault))
    with pytest.raises(kind) as caught:
        await listen(model.stream("Count"))
    assert caught.value.partial_text == ("One, two" if fault == "noterm" else "One")


async def test_wire_m02_wait_of_a_minute_is_in_the_body_and_of_a_day_is_not_waited_for(replay):
    day = chat(base_url=replay.url("gemini-chat-basic", "429,quota", run="day"))
    with pytest.raises(errors.QuotaExhausted) as caught:
        await day("Say hi")
    assert caught.value.attempts == 1
    minute = chat(
        base_url=replay.url("gemini-chat-basic", "429", run="minute"), client_args={"max_retries": 0}
    )
    with pytest.raises(errors.RateLimited) as limited:
        await minute("Say hi")
    assert limited.value.retry_after_s == 1.0


async def test_f11_f12_dialogue_goes_out_as_one_turn_and_comes_back_with_counted_tokens(replay):
    model = GeminiChatWrapper(
        "g", "gemini-2.0-flash", "a-long-key", base_url=replay.url("gemini-chat-agentscope-prompt")
    )
    said = [Msg("system", "You debate.", "system"), Msg("Alice", "tea", "user"), Msg("Bob", "coffee", "user")]
    response = await model(model.format(said))
    assert response.text == "Bob: still coffee"
    assert response.usage == Usage(4, 8)
    assert not replay.differences()


async def test_f11_f13_input_may_be_given_by_the_name_it_has_in_agentscope(replay):
    model = GeminiChatWrapper("g", "gemini-2.0-flash", "a-long-key", base_url=replay.url("gemini-chat-basic"))
    assert (await model(contents="Say hi", parse_func=lambda response: response)).text == "Hi there!"
    model = GeminiChatWrapper(
        "g", "gemini-2.0-flash", "a-long-key", base_url=replay.url("gemini-chat-stream")
    )
    assert (await heard(model.stream(contents="Count"))).text == "One, two, three"
    model = GeminiEmbeddingWrapper(
        "e", "embedding-001", "a-long-key", base_url=replay.url("gemini-legacy-embed")
    )
    assert (await model(content="hi", task_type=None, title="T")).embedding == [[0.5, 0.25]]


async def test_local_image_becomes_data_and_text_only_contents_stay_the_same_object(replay, tmp_path):
    (tmp_path / "dot.png").write_bytes(PNG)
    model = chat()
    told = Msg("Al", [TextPart("What is it?"), ImagePart(str(tmp_path / "dot.png"))], "user")
    for contents in (model.format(told), model.format(told, me="Bob")):
        kept = copy.deepcopy(contents)
        prepared = await model.prepare(contents)
        assert contents == kept
        assert prepared[0]["parts"][1] == {
            "inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}
        }
    text_only = model.format(Msg("Al", "Hi", "user"), me="Bob")
    assert await model.prepare(text_only) is text_only
    assert await model.prepare("Hi") == "Hi"


async def test_files_google_has_are_named_not_loaded():
    model = chat()
    for url in (
        "gs://bucket/a.png",
        "https://generativelanguage.googleapis.com/v1beta/files/1",
        "https://youtu.be/x",
    ):
        contents = [{"role": "user", "parts": [{"fileData": {"fileUri": url}}, "What is it?"]}]
        prepared = await model.prepare(contents)
        assert prepared == [
            {"role": "user", "parts": [{"fileData": {"fileUri": url}}, {"text": "What is it?"}]}
        ]


# -- keys and addresses --


def test_f11_key_comes_from_the_environment_and_without_one_it_is_a_value_error(monkeypatch):
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="GOOGLE_API_KEY"):
        GeminiChatWrapper("g", "gemini-pro")
    monkeypatch.setenv("GEMINI_API_KEY", "second-key")
    request = GeminiChatWrapper("g", "gemini-pro").build_request("Hi", {}, stream=False)
    assert request.headers["x-goog-api-key"] == "second-key"
    monkeypatch.setenv("GOOGLE_API_KEY", "first-key")
    request = GeminiChatWrapper("g", "gemini-pro").build_request("Hi", {}, stream=False)
    assert request.headers["x-goog-api-key"] == "first-key"
    assert "first-key" not in request.url


@pytest.mark.parametrize(
    ("base_url", "client_args", "root"),
    [
        (None, {}, "https://generativelanguage.googleapis.com/v1beta"),
        (None, {"api_version": "v1"}, "https://generativelanguage.googleapis.com/v1"),
        ("http://localhost:1/", {}, "http://localhost:1/v1beta"),
        ("http://localhost:1/v1", {}, "http://localhost:1/v1"),
        ("http://localhost:1/gemini/v1alpha/", {}, "http://localhost:1/gemini/v1alpha"),
        ("http://localhost:1/gemini", {}, "http://localhost:1/gemini/v1beta"),
        ("http://v1.example.com", {}, "http://v1.example.com/v1beta"),
    ],
)
def test_address_gets_a_version_where_it_has_none(base_url, client_args, root):
    model = chat(base_url=base_url, client_args=client_args)
    url = model.build_request("Hi", {}, stream=True).url
    assert url == f"{root}/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


def test_model_name_with_its_place_is_not_given_another():
    model = GeminiChatWrapper("g", "tunedModels/mine", "a-long-key", base_url="http://localhost:1")
    assert model.build_request("Hi", {}, stream=False).url.endswith(
        "/v1beta/tunedModels/mine:generateContent"
    )


def test_unknown_option_and_wrong_version_are_named():
    with pytest.raises(ConfigError, match="api_version"):
        chat(client_args={"api_version": 1})
    with pytest.raises(ConfigError, match="timeot"):
        chat(client_args={"timeot": 1})


def test_default_headers_and_query_go_with_every_request():
    model = chat(client_args={"default_headers": {"X-Goog-Api-Key": "other"}, "default_query": {"a": "b"}})
    request = model.build_request("Hi", {}, stream=True)
    assert request.url.endswith("?alt=sse&a=b")
    assert request.headers == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "X-Goog-Api-Key": "other",
    }


def test_by_name_tells_embeddings_by_their_name():
    assert isinstance(by_name("gemini-2.5-pro", api_key="a-long-key"), GeminiChatWrapper)
    model = by_name("gemini-embedding-001", api_key="a-long-key", base_url="http://localhost:1")
    assert isinstance(model, GeminiEmbeddingWrapper)
    assert model.model_name == "gemini-embedding-001"


# -- format --


def test_f12_format_is_one_user_turn_of_lines():
    msgs = [
        Msg("system", "S", "system"),
        None,
        [Msg("Bob", "Hi", "assistant", url="U"), [Msg("Al", {"a": "é"}, "user")]],
    ]
    assert chat().format(*msgs) == [{"role": "user", "parts": ['system: S\nBob: Hi\nAl: {"a": "é"}']}]
    with pytest.raises(TypeError):
        chat().format("Hi")


def test_format_for_an_agent_tells_its_turns_from_those_of_others():
    msgs = [Msg("system", "S", "system"), Msg("Al", "Hi", "user"), Msg("Bob", "Hello", "assistant")]
    contents = chat().format(msgs, me="Bob")
    assert contents == [
        {"role": "system", "parts": [{"text": "S"}]},
        {"role": "user", "parts": [{"text": "Al: Hi"}]},
        {"role": "model", "parts": [{"text": "Hello"}]},
    ]
    assert body_of(contents) == {
        "contents": contents[1:],
        "systemInstruction": {"parts": [{"text": "S"}]},
    }


def test_format_puts_media_behind_the_text():
    told = Msg(
        "Al", [TextPart("Hear"), AudioPart("data:audio/wav;base64,QUJD")], "user", url="https://a.b/c.png"
    )
    expected = [
        {"inlineData": {"mimeType": "audio/wav", "data": "QUJD"}},
        {"fileData": {"fileUri": "https://a.b/c.png"}},
    ]
    assert chat().format(told)[0]["parts"][1:] == expected
    assert chat().format(told, me="Bob")[0]["parts"][1:] == expected


def test_tool_turns_are_parts_and_a_result_is_an_object():
    msgs = [
        Msg("Bob", [ToolCallPart("call_0", "w", {"city": "Rome"}), ToolCallPart("x1", "w", {})], "assistant"),
        Msg("w", [ToolResultPart("call_0", "w", "20C")], "tool"),
        Msg("w", [ToolResultPart("x1", "w", {"t": 3}), ToolResultPart("x2", "w", "no", failed=True)], "tool"),
    ]
    turns, _ = as_contents(chat().format(msgs, me="Bob"))
    calls = [
        {"functionCall": {"name": "w", "args": {"city": "Rome"}}},
        {"functionCall": {"name": "w", "args": {}, "id": "x1"}},
    ]
    results = [
        {"functionResponse": {"name": "w", "response": {"result": "20C"}}},
        {"functionResponse": {"name": "w", "response": {"t": 3}, "id": "x1"}},
        {"functionResponse": {"name": "w", "response": {"error": "no"}, "id": "x2"}},
    ]
    assert turns == [{"role": "model", "parts": calls}, {"role": "user", "parts": results}]


def test_signature_of_a_thought_goes_back_with_its_call():
    part = {"functionCall": {"name": "w", "args": {"city": "Rome"}}, "thoughtSignature": "c2lnbmVk"}
    response = parse_chat_response(answer(part, {"functionCall": {"name": "w"}}))
    msg = deserialize(serialize(Msg("Bob", list(response.tool_calls), "assistant")))
    parts = chat().format(msg, me="Bob")[0]["parts"]
    assert parts == [part, {"functionCall": {"name": "w", "args": {}}}]
    assert response.tool_calls[0].arguments == {"city": "Rome"}
    assert response.tool_calls[1].raw == "{}"


def test_f21_embedding_refuses_to_format():
    with pytest.raises(RuntimeError, match="doesn't need to format"):
        GeminiEmbeddingWrapper("e", "e", "a-long-key").format(Msg("Al", "Hi", "user"))


# -- requests --


def test_text_bare_parts_and_openai_messages_are_all_contents():
    assert body_of("Hi") == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
    given = [
        {"role": "user", "parts": ["Hi", {"text": "you"}]},
        {"parts": "there"},
        {"role": "developer", "content": "S"},
        {"role": "assistant", "content": "Hello"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}},
            ],
        },
    ]
    kept = copy.deepcopy(given)
    assert body_of(given) == {
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}, {"text": "you"}]},
            {"role": "user", "parts": [{"text": "there"}]},
            {"role": "model", "parts": [{"text": "Hello"}]},
            {
                "role": "user",
                "parts": [{"text": "See"}, {"inlineData": {"mimeType": "image/png", "data": "QQ=="}}],
            },
        ],
        "systemInstruction": {"parts": [{"text": "S"}]},
    }
    assert given == kept


def test_openai_tool_turns_find_the_name_of_their_tool():
    def calling(call_id: str, arguments: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": "w", "arguments": arguments}}

    given = [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [calling("a", '{"x": 1}'), calling("b", "{broken")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "20C"},
        {"role": "tool", "tool_call_id": "b", "content": '{"t": 3}'},
    ]
    assert body_of(given)["contents"] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "w", "args": {"x": 1}, "id": "a"}},
                {"functionCall": {"name": "w", "args": {}, "id": "b"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "w", "response": {"result": "20C"}, "id": "a"}},
                {"functionResponse": {"name": "w", "response": {"t": 3}, "id": "b"}},
            ],
        },
    ]
    with pytest.raises(MessageError, match="'name'"):
        body_of([{"role": "tool", "tool_call_id": "c", "content": "?"}])


def test_system_alone_is_said_by_the_user_as_a_call_needs_contents():
    body = body_of([{"role": "system", "content": "Begin."}])
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Begin."}]}]}


@pytest.mark.parametrize(
    "contents",
    [
        None, 5, [5], [{"role": "user"}], [{"role": 1, "parts": []}], [{"parts": 5}], [{"parts": [5]}],
        [{"role": "user", "content": [{"type": "hologram"}]}], [{"role": "user", "content": 5}],
        [{"role": "assistant", "tool_calls": [{}]}], [{"role": "tool", "name": "w"}],
    ],
)  # fmt: skip
def test_contents_of_no_known_form_are_refused(contents):
    with pytest.raises(MessageError):
        body_of(contents)


def test_options_take_either_spelling_and_win_over_generation_config():
    body = body_of(
        "Hi",
        temperature=0.2,
        topP=0.9,
        max_tokens=5,
        n=2,
        stop="END",
        seed=None,
        thinking_config={"thinking_budget": 0},
        generation_config={"top_k": 3, "temperature": 1, "stop_sequences": ["x"]},
        safety_settings=[{"category": "C", "threshold": "T"}],
        system_instruction="S",
        cached_content="c/1",
        stream=False,
    )
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "systemInstruction": {"parts": [{"text": "S"}]},
        "safetySettings": [{"category": "C", "threshold": "T"}],
        "cachedContent": "c/1",
        "generationConfig": {
            "topK": 3,
            "temperature": 0.2,
            "topP": 0.9,
            "maxOutputTokens": 5,
            "candidateCount": 2,
            "stopSequences": ["END"],
            "thinkingConfig": {"thinking_budget": 0},
        },
    }


def test_options_of_the_wrapper_hold_unless_the_call_says_otherwise():
    model = chat(
        generation_config={"temperature": 1},
        system_instruction="S",
        tools=[{"googleSearch": {}}],
        generate_args={"max_tokens": 5},
    )
    body = model.build_request("Hi", {**model.generate_args, "system_instruction": "T"}, stream=False).json
    assert body["generationConfig"] == {"temperature": 1, "maxOutputTokens": 5}
    assert body["systemInstruction"] == {"parts": [{"text": "T"}]}
    assert body["tools"] == [{"googleSearch": {}}]


async def test_stream_is_asked_for_by_its_method_and_nan_is_refused():
    with pytest.raises(ConfigError, match=r"model\.stream"):
        await chat()("Hi", stream=True)
    with pytest.raises(ConfigError, match="temperature"):
        await chat()("Hi", temperature=float("nan"))


def test_functions_of_openai_become_declarations_and_native_tools_stay():
    ping = {
        "type": "function",
        "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}},
    }
    native = {"codeExecution": {}}
    kept = copy.deepcopy(WEATHER)
    body = body_of("Hi", tools=[WEATHER, native, ping])
    declared = {
        "name": "get_weather",
        "description": "Weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1}},
            "required": ["city"],
        },
    }
    assert body["tools"] == [{"functionDeclarations": [declared, {"name": "ping"}]}, native]
    assert kept == WEATHER
    with pytest.raises(ConfigError, match="tools"):
        body_of("Hi", tools=[print])


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "w"}}, {"mode": "ANY", "allowedFunctionNames": ["w"]}),
        ({"functionCallingConfig": {"mode": "VALIDATED"}}, {"mode": "VALIDATED"}),
    ],
)
def test_tool_choice_takes_both_forms(choice, config):
    assert body_of("Hi", tool_choice=choice)["toolConfig"] == {"functionCallingConfig": config}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tool_choice", "maybe"),
        ("tool_choice", {"type": "function", "function": {}}),
        ("tool_choice", 5),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "function", "function": {"parameters": {}}}]),
        ("tools", {"type": "function"}),
        ("generation_config", [1]),
    ],
)
def test_arguments_of_no_known_form_are_refused(name, value):
    with pytest.raises(ConfigError, match=name.partition("_")[0].rstrip("s")):
        body_of("Hi", **{name: value})


class Address(BaseModel):
    street: str
    zip: str | None = None


class Person(BaseModel):
    name: str
    home: Address
    others: list[Address] = []


def test_pydantic_model_becomes_a_schema_gemini_knows():
    address = {
        "type": "object",
        "title": "Address",
        "properties": {
            "street": {"type": "string", "title": "Street"},
            "zip": {"type": "string", "title": "Zip", "nullable": True},
        },
        "required": ["street", "zip"],
    }
    config = body_of("Hi", response_format=Person)["generationConfig"]
    assert config == {
        "responseMimeType": "application/json",
        "responseSchema": {
            "type": "object",
            "title": "Person",
            "properties": {
                "name": {"type": "string", "title": "Name"},
                "home": address,
                "others": {"type": "array", "title": "Others", "items": address},
            },
            "required": ["name", "home", "others"],
        },
    }
    assert body_of("Hi", response_format={"type": "json_object"})["generationConfig"] == {
        "responseMimeType": "application/json"
    }
    assert "generationConfig" not in body_of("Hi", response_format={"type": "text"})


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"const": "a"}, {"enum": ["a"], "type": "string"}),
        ({"enum": ["a", None]}, {"enum": ["a"], "type": "string", "nullable": True}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "integer"}),
        ({"type": "string", "format": "uri"}, {"type": "string"}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        (
            {"oneOf": [{"type": "string"}, {"type": "integer", "exclusiveMinimum": 0}]},
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        ),
        (
            {"allOf": [{"type": "object", "properties": {"a": True}, "required": ["a"]}], "required": ["b"]},
            {"type": "object", "properties": {"a": {}}, "required": ["a", "b"]},
        ),
        ({"properties": {"format": {"type": "string"}}}, {"properties": {"format": {"type": "string"}}}),
    ],
)
def test_schema_is_said_in_geminis_words(schema, wanted):
    kept = copy.deepcopy(schema)
    assert gemini_schema(schema) == wanted
    assert schema == kept


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "response_json_schema"),
        ({"$ref": "#/$defs/a"}, "does not define"),
    ],
)
def test_schema_that_cannot_be_said_is_refused_with_a_way_out(schema, words):
    with pytest.raises(ConfigError, match=words):
        gemini_schema(schema)


def test_output_limit_counts_all_candidates_and_is_set_where_missing():
    body = body_of("Hi", n=2)
    assert chat().output_limit(body) is None
    assert chat().limit_output(body, 100) == 200
    assert body["generationConfig"]["maxOutputTokens"] == 100
    assert chat().limit_output(body_of("Hi", max_tokens=7), 100) == 7


def test_embedding_of_a_text_and_of_several():
    model = GeminiEmbeddingWrapper("e", "embedding-001", "a-long-key")
    one = model.build_request("hi", {"task_type": "retrieval_document", "title": "T"}, stream=False)
    assert one.url.endswith("/models/embedding-001:embedContent")
    assert one.json == {
        "content": {"parts": [{"text": "hi"}]},
        "taskType": "RETRIEVAL_DOCUMENT",
        "title": "T",
    }
    many = model.build_request(["a", "b"], {"dimensions": 3}, stream=False)
    assert many.json["requests"][1] == {
        "model": "models/embedding-001",
        "content": {"parts": [{"text": "b"}]},
        "outputDimensionality": 3,
    }
    for wrong in ([], None, [5]):
        with pytest.raises(MessageError):
            model.build_request(wrong, {}, stream=False)
    with pytest.raises(ConfigError, match="cannot stream"):
        model.stream("a")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"embeddings": [{"values": [1]}]}, "1 vectors came for 2 texts"),
        ({"embeddings": []}, "no embeddings"),
        ({}, "no embeddings"),
        ({"embeddings": [{"values": []}, {"values": [1]}]}, "list of numbers"),
    ],
)
async def test_wire_m05_embedding_without_its_vectors_is_a_bad_response(reply, words):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=reply))
    model = GeminiEmbeddingWrapper("e", "e", "a-long-key", client_args={"transport": transport})
    with pytest.raises(errors.BadResponse, match=words):
        await model(["a", "b"])


@pytest.mark.parametrize("reply", [[], 5, None, {"totalTokens": "3"}])
async def test_wire_m05_count_of_tokens_in_no_known_form_is_a_bad_response(reply):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=orjson.dumps(reply)))
    with pytest.raises(errors.BadResponse):
        await chat(client_args={"transport": transport}).count_tokens("Hi")


# -- answers --


def test_candidate_that_was_stopped_does_not_hide_the_others():
    body = answer({"text": "good"})
    body["candidates"].insert(0, {"index": 1, "finishReason": "SAFETY"})
    assert parse_chat_response(body).texts == ["good"]


@pytest.mark.parametrize(
    "reason",
    ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE", "IMAGE_SAFETY"],
)
@pytest.mark.parametrize("content", [{}, {"content": {}}, {"content": {"parts": [{"text": "Half"}]}}])
def test_answer_stopped_by_a_filter_is_never_a_text(reason, content):
    with pytest.raises(Problem) as caught:
        parse_chat_response({"candidates": [{"finishReason": reason, **content}]})
    assert (caught.value.type, caught.value.code) == ("content_filter", reason)
    assert not caught.value.is_retryable


async def test_stream_stopped_by_a_filter_tells_what_was_heard(replay):
    lines = [answer({"text": "Half"}, finish=None), {"candidates": [{"finishReason": "SAFETY"}]}]
    content = b"".join(b"data: " + orjson.dumps(line) + b"\r\n\r\n" for line in lines)
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=content))
    with pytest.raises(errors.ContentFiltered) as caught:
        await listen(chat(client_args={"transport": transport}).stream("Hi"))
    assert caught.value.partial_text == "Half"
    assert caught.value.code == "SAFETY"


def test_wire_m07_call_the_model_could_not_write_is_a_bad_response():
    with pytest.raises(Problem) as caught:
        parse_chat_response({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]})
    assert (caught.value.type, caught.value.code) == ("bad_response", "MALFORMED_FUNCTION_CALL")


def test_wire_m07_ids_of_calls_are_made_up_and_never_twice_the_same():
    parts = [
        {"functionCall": {"name": "w", "args": {}, **each}}
        for each in ({}, {"id": "call_2"}, {}, {"id": "call_2"})
    ]
    ids = [call.id for call in parse_chat_response(answer(*parts)).tool_calls]
    assert len(set(ids)) == 4
    assert ids[:2] == ["call_0", "call_2"]
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    call = parse_chat_response(answer({"functionCall": {"name": "w", "args": deep}})).tool_calls[0]
    assert call.arguments is None
    assert orjson.loads(call.raw or "") == deep
    many = [{"functionCall": {"name": "w"}}] * 1000
    assert len({call.id for call in parse_chat_response(answer(*many)).tool_calls}) == 1000


@pytest.mark.parametrize(
    "body",
    [
        {}, {"candidates": []}, {"candidates": None}, {"promptFeedback": {}}, {"promptFeedback": None},
    ],
)  # fmt: skip
def test_wire_m05_answer_without_candidates_is_a_bad_response(body):
    with pytest.raises(Problem) as caught:
        parse_chat_response(body)
    assert caught.value.type == "bad_response"


def test_wire_m05_null_optional_unknown_and_missing_fields_do_no_harm():
    body = answer({"text": "Hi", "new": 1}, {"executableCode": {"code": "1"}}, finish="BRAND_NEW")
    body |= {"promptFeedback": None, "usageMetadata": None, "modelVersion": None, "what": [1]}
    response = parse_chat_response(body)
    assert (response.text, response.finish_reason, response.usage, response.model) == (
        "Hi", "BRAND_NEW", None, None,
    )  # fmt: skip
    response = parse_chat_response({"candidates": [{"content": None, "finishReason": None}]})
    assert (response.text, response.texts, response.finish_reason) == ("", [""], None)


@pytest.mark.parametrize("body", [None, 5, "x", [], [1, 2], {"candidates": 5}, {"candidates": [5]}])
def test_wire_m05_wrong_types_raise_what_the_shared_path_takes_for_a_bad_response(body):
    with pytest.raises((Problem, TypeError, KeyError, IndexError, AttributeError, ValueError)):
        parse_chat_response(body)


def test_wire_m05_error_under_200_keeps_its_kind():
    for body in ({"error": {"code": 503, "status": "UNAVAILABLE", "message": "busy"}},):
        for each in (body, [body]):
            with pytest.raises(Problem) as caught:
                parse_chat_response(each)
            assert (caught.value.type, caught.value.code) == ("overloaded", "UNAVAILABLE")


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"promptTokenCount": 3, "candidatesTokenCount": 1, "thoughtsTokenCount": 20}, Usage(3, 21)),
        ({"promptTokenCount": 3, "toolUsePromptTokenCount": 4}, Usage(7, 0)),
        ({"promptTokenCount": 3, "candidatesTokenCount": None}, Usage(3, 0)),
        ({"promptTokenCount": -1}, None),
        ({"promptTokenCount": "3"}, None),
        ({"promptTokenCount": 10**30}, None),
        ({"promptTokenCount": 3, "candidatesTokenCount": True}, None),
        ({"trafficType": "ON_DEMAND"}, None),
        ([], None),
    ],
)
def test_wire_m08_usage_that_cannot_be_true_is_no_usage(usage, counted):
    assert parse_chat_response(answer({"text": "Hi"}, usageMetadata=usage)).usage == counted


def test_images_in_an_answer_are_given():
    part = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    assert parse_chat_response(answer({"text": "Here"}, part)).images_b64 == ["QUJD"]


# -- streams --


def events(*bodies: Any) -> list[ServerEvent]:
    return [ServerEvent("", orjson.dumps(body)) for body in bodies]


def collected(*bodies: Any) -> tuple[GeminiCollector, list[tuple[str, str]]]:
    collector = GeminiCollector()
    heard = [speech for event in events(*bodies) for speech in collector.feed(event)]
    return collector, [(speech.kind, speech.text) for speech in heard]


def test_stream_thinks_speaks_and_calls():
    collector, said = collected(
        answer({"text": "Hm", "thought": True}, finish=None, responseId="r"),
        answer({"text": "Let me see."}, {"functionCall": {"name": "w", "args": {"a": 1}}}, finish=None),
        answer({"text": "", "thoughtSignature": "cw=="}, usageMetadata={"promptTokenCount": 1}),
    )
    assert said == [("thinking", "Hm"), ("text", "Let me see."), ("tool_call", "")]
    assert collector.is_complete
    response = collector.response()
    assert (response.text, response.thinking, response.request_id) == ("Let me see.", "Hm", "r")
    assert response.tool_calls[0].arguments == {"a": 1}
    assert response.usage == Usage(1, 0)
    assert response.raw["candidates"][0]["content"]["parts"][-1] == {"text": "", "thoughtSignature": "cw=="}


def test_stream_of_two_candidates_speaks_with_the_first_and_ends_with_both():
    def piece(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        content = {"parts": [{"text": text}]}
        return {"candidates": [{"index": index, "content": content, "finishReason": finish}]}

    collector, said = collected(piece(0, "A"), piece(1, "B"), piece(0, "a", "STOP"))
    assert said == [("text", "A"), ("text", "a")]
    assert not collector.is_complete
    collector.feed(events(piece(1, "b", "STOP"))[0])
    assert collector.is_complete
    assert collector.response().texts == ["Aa", "Bb"]


def test_stream_is_not_complete_while_a_later_candidate_speaks():
    second = {"candidates": [{"index": 1, "content": {"parts": [{"text": "B"}]}}]}
    collector, _ = collected(answer({"text": "A"}), second)
    assert not collector.is_complete


def test_prompt_blocked_in_a_stream_is_a_refusal():
    collector, said = collected({"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "No."}})
    assert not said
    assert collector.is_complete
    with pytest.raises(Problem, match=r"No\.") as caught:
        collector.response()
    assert (caught.value.type, caught.value.code) == ("content_filter", "OTHER")


ARRAY = b'[{"n": 1}\r\n,\r\n{"n": "]"}]'
SSE = b'data: {"n": 1}\r\n\r\ndata: {"n": "]"}\r\n\r\n'


@pytest.mark.parametrize("body", [ARRAY, SSE, b" \r\n" + ARRAY, b"\r\n" + SSE])
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_reader_takes_events_and_arrays_in_any_pieces(body, size):
    reader = GeminiReader()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    read = [event for piece in pieces for event in reader.feed(piece)] + reader.close()
    assert [orjson.loads(event.data) for event in read] == [{"n": 1}, {"n": "]"}]


def test_reader_of_nothing_gives_nothing():
    assert GeminiReader().close() == []


async def test_bare_error_in_mid_stream_ends_it_with_its_kind():
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    first = b"data: " + orjson.dumps(answer({"text": "Half"}, finish=None)) + b"\r\n\r\n"
    content = first + orjson.dumps(error, option=orjson.OPT_INDENT_2)
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=content))
    with pytest.raises(errors.PartialStreamError, match="overloaded") as caught:
        await listen(chat(client_args={"transport": transport}).stream("Hi"))
    assert (caught.value.type, caught.value.partial_text, caught.value.code) == (
        "stream_error", "Half", "UNAVAILABLE",
    )  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["candidates", "content", "parts", "text", "functionCall", "name", "args", "finishReason",
             "index", "error", "usageMetadata", "promptFeedback", "blockReason", "status",
             "details", "thought"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(JSON, max_size=4))
def test_wire_m05_collector_never_fails_otherwise_than_the_shared_path_knows(bodies):
    collector = GeminiCollector()
    try:
        for event in events(*bodies):
            collector.feed(event)
        collector.response()
    except (Problem, TypeError, KeyError, IndexError, AttributeError, ValueError):
        pass


# -- refusals --


def refusal(status: int, word: str, *details: Any, message: str = "no") -> Problem:
    error = {"code": status, "status": word, "message": message, "details": list(details)}
    return explain(status, orjson.dumps({"error": error}))


@pytest.mark.parametrize(
    ("status", "word", "kind"),
    [
        (400, "INVALID_ARGUMENT", "bad_request"),
        (400, "FAILED_PRECONDITION", "permission"),
        (401, "UNAUTHENTICATED", "auth"),
        (403, "PERMISSION_DENIED", "permission"),
        (404, "NOT_FOUND", "not_found"),
        (409, "ABORTED", "conflict"),
        (429, "RESOURCE_EXHAUSTED", "rate_limit"),
        (500, "INTERNAL", "server"),
        (503, "UNAVAILABLE", "overloaded"),
        (504, "DEADLINE_EXCEEDED", "timeout"),
        (418, "SOMETHING_NEW", "bad_request"),
    ],
)
def test_wire_m02_status_and_word_tell_the_kind(status, word, kind):
    problem = refusal(status, word)
    assert (problem.type, problem.code, problem.status, problem.message) == (kind, word, status, "no")


def test_refused_key_is_told_by_its_details():
    assert refusal(400, "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}).type == "auth"


def test_wire_m02_allowance_of_a_day_is_a_quota_whatever_the_delay_says():
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
    day = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}
    assert refusal(429, "RESOURCE_EXHAUSTED", day, delay).type == "quota"
    problem = refusal(429, "RESOURCE_EXHAUSTED", {"violations": [{"quotaId": "PerMinute"}]}, delay)
    assert (problem.type, problem.retry_after_s) == ("rate_limit", 34.07)


def test_prompt_that_is_too_long_is_known_as_such():
    text = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    error = refusal(400, "INVALID_ARGUMENT", message=text).as_error("gemini", "m", attempts=1)
    assert isinstance(error, errors.ContextTooLong)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the server gave no explanation"),
        (b"<html><title>502</title>\n<body>Bad  gateway</body></html>", "502 Bad gateway"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'[{"error": {"message": "in a list"}}]', "in a list"),
        (b'{"error": "mere text"}', "mere text"),
        (b'{"error": {}}', "the server reports an error"),
        (b'{"error": {"details": 5, "message": 5, "code": [], "status": {}}}', "the server reports an error"),
        (b'{"error": {"details": [{"violations": [5, {"quotaId": 5}], "retryDelay": "soon"}]}}',
         "the server reports an error"),
    ],
)  # fmt: skip
def test_wire_m05_refusal_of_any_bytes_has_a_text(body, text):
    problem = explain(502, body)
    assert (problem.type, problem.message) == ("server", text)


@given(st.integers(300, 599), JSON)
def test_wire_m05_explaining_never_fails(status, body):
    assert explain(status, orjson.dumps({"error": body})).message


def test_build_is_pure_and_body_is_json():
    body = build_chat_body("Hi", {"temperature": 0})
    assert orjson.loads(orjson.dumps(body)) == body
