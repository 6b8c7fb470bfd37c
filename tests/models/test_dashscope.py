from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st
from models.scripted import serve
from models.wire_driver import WireCase, cases_of, heard, listen, replay_case
from pydantic import BaseModel
from recorder import Reply

from agentscope_async import Msg, Runtime
from agentscope_async.errors import (
    BadResponse,
    ConfigError,
    MessageError,
    PartialStreamError,
    QuotaExhausted,
    RateLimited,
)
from agentscope_async.message import (
    AudioPart,
    FilePart,
    ImagePart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from agentscope_async.models import ModelRegistry
from agentscope_async.models._dashscope_stream import ChatCollector
from agentscope_async.models._dashscope_wire import explain, parse_chat_response, parse_embedding_response
from agentscope_async.models._problem import Problem
from agentscope_async.models._sse import ServerEvent
from agentscope_async.models.dashscope import (
    DashScopeChatWrapper,
    DashScopeImageSynthesisWrapper,
    DashScopeTextEmbeddingWrapper,
    by_name,
)

HELLO = [{"role": "user", "content": "你是谁"}]
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32

# -- against recorded exchanges --

KINDS = {"embedding": DashScopeTextEmbeddingWrapper, "image": DashScopeImageSynthesisWrapper}


def make(case: WireCase, origin: str, client_args: dict[str, Any]) -> Any:
    client_args["workspace"] = case.request["headers"].get("x-dashscope-workspace")
    kind = KINDS.get(case.kind, DashScopeChatWrapper)
    return kind("test", case.body["model"], "sk-test", base_url=origin, client_args=client_args)


async def call(model: Any, case: WireCase) -> Any:
    wanted, args = case.body["input"], case.body["parameters"]
    if case.kind == "embedding":
        return await model(wanted["texts"], **args)
    if case.kind == "image":
        return await model(wanted.pop("prompt"), **wanted, **args)
    messages = wanted.pop("messages", [])
    if "x-dashscope-sse" not in case.request["headers"]:
        return await model(messages, **wanted, **args)
    args.setdefault("incremental_output", False)
    return await heard(model.stream(messages, **wanted, **args))


@pytest.mark.parametrize("case", cases_of("dashscope"), ids=str)
async def test_f06_f09_f10_recorded_case(case):
    await replay_case(case, make, call)


@pytest.mark.parametrize("fault", ["bytes=1", "ping", "crlf", "503x1,html,rams=1"])
@pytest.mark.parametrize("kind", ["incremental", "cumulative"])
async def test_stream_is_the_same_however_it_arrives(replay, kind, fault):
    model = chat(base_url=replay.url(f"dashscope-chat-stream-{kind}", fault))
    response = await heard(model.stream(HELLO, incremental_output=kind == "incremental"))
    assert response.text == "我是通义千问"


@pytest.mark.parametrize("fault", ["trunc@55%", "trunc@56%", "trunc@57%", "reset@60%", "fin@60%", "noterm"])
async def test_wire_m04_cut_stream_gives_the_text_so_far(replay, fault):
    model = chat(base_url=replay.url("dashscope-chat-stream-incremental", fault))
    with pytest.raises(PartialStreamError) as caught:
        await listen(model.stream(HELLO))
    assert caught.value.type == "truncated"
    assert caught.value.partial_text.startswith("我是通义")
    assert len(replay.records) == 1


@pytest.mark.parametrize("fault", ["badjson", "badutf8"])
async def test_wire_m04_garbage_in_a_stream_is_a_bad_response(replay, fault):
    model = chat(base_url=replay.url("dashscope-chat-stream-incremental", fault))
    with pytest.raises(BadResponse):
        await listen(model.stream(HELLO))


async def test_f06_error_tells_request_id_status_code_and_message(replay):
    with pytest.raises(QuotaExhausted) as caught:
        await chat(base_url=replay.url("dashscope-error-400-arrearage"))(HELLO)
    text = str(caught.value)
    for fact in ("e1f9c7a0-6a3f-9d2b-8c57-0d4f3a1b2c3d", "400", "Arrearage", "in good standing"):
        assert fact in text


async def test_f06_call_is_counted_in_the_metrics(replay):
    model = chat(base_url=replay.url("dashscope-chat-basic"))
    async with Runtime() as rt:
        assert (await model(HELLO)).text == "我是通义千问。"
        names = ("call_counter", "prompt_tokens", "completion_tokens", "total_tokens")
        assert [await rt.monitor.get_value(f"qwen-plus.{name}") for name in names] == [1, 20, 8, 28]


async def test_f06_two_keys_in_one_process_are_kept_apart():
    async with serve(chat_answer("ok"), is_last_repeated=True) as server:
        models = [
            DashScopeChatWrapper("test", "qwen", key, base_url=server.origin) for key in ("sk-a", "sk-b")
        ]
        await asyncio.gather(*(model(HELLO) for model in models for _ in range(3)))
        keys = sorted(request.headers["authorization"] for request in server.requests)
        assert keys == ["Bearer sk-a"] * 3 + ["Bearer sk-b"] * 3


async def test_throttling_is_tried_again(replay):
    model = chat(base_url=replay.url("dashscope-chat-basic", "429x1,rams=1"))
    assert (await model(HELLO)).text == "我是通义千问。"
    assert len(replay.records) == 2


async def test_throttling_inside_a_stream_before_anything_was_said_is_tried_again():
    refusal = (
        b'id:1\nevent:error\n:HTTP_STATUS/429\ndata:{"code":"Throttling.RateQuota","message":"slow"}\n\n'
    )
    answers = [Reply(200, SSE, refusal, "sse"), Reply(200, SSE, sse(event("hi", "stop")), "sse")]
    async with serve(*answers) as server:
        response = await heard(chat(base_url=server.origin).stream(HELLO))
        assert (response.text, len(server.requests)) == ("hi", 2)


async def test_answer_to_a_stream_that_is_no_stream_is_taken_too():
    async with serve(chat_answer("whole")) as server:
        assert (await heard(chat(base_url=server.origin).stream(HELLO))).text == "whole"


async def test_wire_m05_error_under_status_200_is_an_error():
    refusal = {"code": "Throttling", "message": "slow down", "request_id": "r-1"}
    async with serve(refusal) as server:
        model = chat(base_url=server.origin, client_args={"max_retries": 0})
        with pytest.raises(RateLimited) as caught:
            await model(HELLO)
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (200, "Throttling", "r-1")


@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, {"Content-Type": "text/html"}, b"<html>hi</html>"),
        Reply(200, {}, b""),
        Reply(200, {}, b"[]"),
        Reply(200, {}, b'{"output": null}'),
        Reply(200, {}, b'{"output": {"choices": []}}'),
        Reply(200, {}, b'{"output": {"choices": [{"message": {"content": 7}}]}}'),
        Reply(200, {}, b'{"output": {"choices": [null]}}'),
    ],
    ids=str,
)
async def test_wire_m05_answer_in_no_known_form_is_a_bad_response(answer):
    async with serve(answer) as server:
        with pytest.raises(BadResponse) as caught:
            await chat(base_url=server.origin)(HELLO)
    assert caught.value.status == 200


# -- configuration --


@pytest.mark.parametrize(
    "url",
    ["https://dashscope-intl.aliyuncs.com", "https://dashscope-intl.aliyuncs.com/", "https://dashscope-intl.aliyuncs.com/api/v1/"],
)  # fmt: skip
def test_base_url_may_be_the_host_alone(url):
    request = chat(base_url=url).build_request(HELLO, {}, stream=False)
    assert request.url == (
        "https://dashscope-intl.aliyuncs.com/api/v1/services/aigc/text-generation/generation"
    )


def test_base_url_of_the_other_dialect_is_refused():
    with pytest.raises(ConfigError, match="openai_chat"):
        chat(base_url="https://dashscope.aliyuncs.com/compatible-mode/v1")


def test_key_of_the_environment_is_sent_and_none_is_refused(monkeypatch):
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="DASHSCOPE_API_KEY"):
        DashScopeChatWrapper("test", "qwen-plus")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-env")
    request = DashScopeChatWrapper("test", "qwen-plus").build_request(HELLO, {}, stream=False)
    assert request.headers["Authorization"] == "Bearer sk-env"


def test_client_args_are_sent_with_every_request():
    client_args = {"workspace": "ws-1", "default_headers": {"x-team": "blue"}, "default_query": {"a": "b c"}}
    request = chat(client_args=client_args).build_request(HELLO, {}, stream=True)
    assert request.url.endswith("/generation?a=b+c")
    assert request.headers["X-DashScope-WorkSpace"] == "ws-1"
    assert request.headers["x-team"] == "blue"
    assert request.headers["Accept"] == "text/event-stream"
    assert "workspace" in client_args


def test_configuration_of_agentscope_is_taken():
    registry = ModelRegistry()
    registry.read({
        "config_name": "qwen", "model_type": "tongyi_chat", "model_name": "qwen-max", "api_key": "sk",
        "generate_args": {"temperature": 0.5},
    })  # fmt: skip
    with pytest.warns(UserWarning, match="dashscope_chat"):
        model = registry.load("qwen")
    assert isinstance(model, DashScopeChatWrapper)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen-plus", DashScopeChatWrapper),
        ("text-embedding-v3", DashScopeTextEmbeddingWrapper),
        ("wanx-v1", DashScopeImageSynthesisWrapper),
        ("wan2.2-t2i-plus", DashScopeImageSynthesisWrapper),
    ],
)
def test_by_name_is_of_the_kind_of_the_name(name, kind):
    model = by_name(name, api_key="sk")
    assert type(model) is kind
    assert (model.config_name, model.model_name) == (f"dashscope:{name}", name)


# -- chat requests --


def test_arguments_go_under_parameters_and_none_is_not_sent():
    assert parameters(temperature=0.1, top_k=None) == {"temperature": 0.1, "result_format": "message"}


def test_prompt_goes_into_the_input():
    assert body(chat(), [], prompt="hi")["input"] == {"prompt": "hi"}
    assert body(chat(), HELLO, prompt="hi")["input"] == {"prompt": "hi", "messages": HELLO}


@pytest.mark.parametrize(
    "messages", ["hi", None, {"role": "user"}, [{"role": "user"}], [{"content": "hi"}], ["hi"]]
)
def test_messages_of_another_form_are_refused(messages):
    with pytest.raises(MessageError):
        body(chat(), messages)


def test_stream_asks_for_pieces_unless_told_otherwise():
    request = chat().build_request(HELLO, {}, stream=True)
    assert request.headers["X-DashScope-SSE"] == "enable"
    assert request.json["parameters"]["incremental_output"] is True
    request = chat().build_request(HELLO, {"incremental_output": False}, stream=True)
    assert request.json["parameters"]["incremental_output"] is False


def test_stream_as_an_argument_is_refused():
    with pytest.raises(ConfigError, match=r"model\.stream"):
        parameters(stream=True)


class City(BaseModel):
    name: str


def test_response_format_takes_a_pydantic_model_and_a_schema():
    wanted = parameters(response_format=City)["response_format"]
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["name"] == "City"
    assert wanted["json_schema"]["schema"]["required"] == ["name"]
    assert parameters(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}


def test_f08_roles_are_sent_as_they_are():
    messages = turns("system", "user")
    assert body(chat(), messages)["input"]["messages"] == messages


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (["system"], ["user"]),
        (["system", "user"], ["system", "user"]),
        (["user", "user", "system"], ["user", "assistant", "user"]),
        (["user", "user", "user", "user"], ["system", "user", "assistant", "user"]),
    ],
)
def test_f08_legacy_roles_alternate_on_a_copy(given, sent):
    messages = turns(*given)
    found = body(chat(legacy_roles=True), messages)["input"]["messages"]
    assert [item["role"] for item in found] == sent
    assert messages == turns(*given)


def test_media_go_to_the_multimodal_address_with_lists_for_content():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
            {"type": "text", "text": "why?"},
        ]},
    ]  # fmt: skip
    before = json.dumps(messages)
    request = chat("qwen-vl-plus").build_request(messages, {}, stream=False)
    assert request.url.endswith("/aigc/multimodal-generation/generation")
    assert request.json["input"]["messages"] == [
        {"role": "system", "content": [{"text": "Be brief."}]},
        {"role": "user", "content": [
            {"image": "https://example.com/a.png"}, {"audio": "data:audio/mp3;base64,AAAA"}, {"text": "why?"},
        ]},
    ]  # fmt: skip
    assert request.json["parameters"] == {}
    assert json.dumps(messages) == before


def test_texts_alone_stay_at_the_text_address_unless_the_model_sees():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]
    request = chat().build_request(messages, {}, stream=False)
    assert request.url.endswith("/aigc/text-generation/generation")
    assert request.json["input"]["messages"] == [{"role": "user", "content": "ab"}]
    request = chat("qwen-vl-plus", multimodal=True).build_request(HELLO, {}, stream=False)
    assert request.url.endswith("/aigc/multimodal-generation/generation")
    assert request.json["input"]["messages"] == [{"role": "user", "content": [{"text": "你是谁"}]}]


def test_parts_that_say_more_than_text_are_sent_as_they_are():
    parts = [{"text": "long", "cache_control": {"type": "ephemeral"}}]
    assert body(chat(), [{"role": "user", "content": parts}])["input"]["messages"][0]["content"] == parts


def test_uploaded_media_are_announced():
    messages = [{"role": "user", "content": [{"image": "oss://bucket/a.png"}]}]
    request = chat().build_request(messages, {}, stream=False)
    assert request.headers["X-DashScope-OssResourceResolve"] == "enable"


@pytest.mark.parametrize("part", [7, {"type": "image_url"}, {"type": "file", "file": {}}])
def test_part_of_no_known_form_is_refused(part):
    with pytest.raises(MessageError):
        body(chat(), [{"role": "user", "content": [part]}])


async def test_local_file_is_sent_as_data(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    messages = [*HELLO, {"role": "user", "content": [{"image": str(path)}, {"image": "https://x.org/b.png"}]}]
    prepared = await chat().prepare(messages)
    first, second = prepared[1]["content"]
    assert first["image"].startswith("data:image/png;base64,")
    assert second == {"image": "https://x.org/b.png"}
    assert messages[1]["content"][0] == {"image": str(path)}


async def test_messages_of_text_are_not_copied():
    assert await chat().prepare(HELLO) is HELLO


def test_output_limit_counts_every_answer_and_thoughts():
    model = chat()
    sent = body(model, HELLO, max_tokens=100, n=3, thinking_budget=50)
    assert model.limit_output(sent, 4096) == 450
    sent = body(model, HELLO, n=2)
    assert model.output_limit(sent) is None
    assert model.limit_output(sent, 1000) == 2000
    assert sent["parameters"]["max_tokens"] == 1000


# -- format --

SAID = [
    Msg("system", "S", "system"),
    [Msg("Bob", "Hi", "assistant", url="U"), None, [Msg("Al", {"a": "é"}, "user")]],
]


def test_f07_format_is_that_of_agentscope():
    assert chat().format(*SAID) == [
        {"role": "system", "name": "system", "content": "S"},
        {"role": "assistant", "name": "Bob", "content": "Hi"},
        {"role": "user", "name": "Al", "content": '{"a": "é"}'},
    ]


def test_f07_format_for_one_of_them_tells_who_speaks():
    assert chat().format(*SAID, me="Al") == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Bob: Hi"},
        {"role": "assistant", "content": '{"a": "é"}'},
    ]


def test_f07_advanced_format_is_one_message_of_lines():
    system, others = SAID[0], [SAID[1][0], SAID[1][2]]
    assert chat().advanced_format(system, others) == [
        {"role": "system", "content": 'system: S\nBob: Hi\nAl: {"a": "é"}'}
    ]
    with pytest.raises(TypeError):
        chat().advanced_format(system, None)


@pytest.mark.parametrize("item", ["hi", {"role": "user"}, 7])
def test_f07_format_refuses_what_is_no_message(item):
    with pytest.raises(TypeError):
        chat().format(item)


def test_images_and_sounds_of_a_message_become_parts():
    msg = Msg(
        "Al", [TextPart("what?"), ImagePart("a.png"), AudioPart("b.mp3")], "user", url="https://x.org/c.png"
    )
    assert chat().format(msg) == [
        {"role": "user", "name": "Al", "content": [
            {"text": "what?"}, {"image": "a.png"}, {"audio": "b.mp3"}, {"image": "https://x.org/c.png"},
        ]}
    ]  # fmt: skip


def test_file_of_a_message_is_refused():
    with pytest.raises(MessageError):
        chat().format(Msg("Al", [FilePart("a.pdf")], "user"))


def test_tool_calls_and_results_become_turns():
    asked = Msg("Bob", [ToolCallPart("c1", "add", {"a": 1}, '{"a": 1}')], "assistant")
    got = Msg("tools", [ToolResultPart("c1", "add", "2"), ToolResultPart("c2", "add", "3")], "tool")
    function = {"name": "add", "arguments": '{"a": 1}'}
    called, *results = chat().format(asked, got, me="Bob")
    assert called["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert results == [
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "3"},
    ]


@pytest.mark.parametrize("kind", [DashScopeTextEmbeddingWrapper, DashScopeImageSynthesisWrapper])
def test_f21_others_than_chat_refuse_to_format(kind):
    with pytest.raises(RuntimeError, match="doesn't need to format"):
        kind("test", "model", "sk").format(Msg("Al", "hi", "user"))


# -- answers --


def test_usage_without_a_total_adds_up():
    usage = {"input_tokens": 3, "output_tokens": 4}
    assert parse_chat_response(answer("hi", usage=usage)).usage == Usage(3, 4)


@pytest.mark.parametrize("count", [-1, "7", True, 1.5, 10**12, None])
def test_wire_m08_absurd_usage_is_none(count):
    usage = {"input_tokens": count, "output_tokens": 4, "total_tokens": 8}
    assert parse_chat_response(answer("hi", usage=usage)).usage is None


def test_empty_content_of_a_multimodal_answer_is_an_empty_text():
    assert parse_chat_response(answer([])).text == ""
    assert parse_chat_response(answer([{"text": "a"}, {"image": "u"}, {"text": "b"}])).text == "ab"


def test_finish_reason_null_is_none_in_either_spelling():
    assert parse_chat_response(answer("hi", reason="null")).finish_reason is None
    assert parse_chat_response(answer("hi", reason=None)).finish_reason is None


def test_wire_m07_arguments_that_are_no_json_are_kept_as_they_came():
    calls = [
        {"id": "c1", "function": {"name": "f", "arguments": "{broken"}},
        {"id": "", "function": {"name": "g", "arguments": ""}},
        {"function": {"name": "h", "arguments": "[" * 100_000}},
    ]
    found = parse_chat_response(answer("", calls=calls, reason="stop")).tool_calls
    assert [(each.name, each.arguments) for each in found] == [("f", None), ("g", {}), ("h", None)]
    assert found[0].raw == "{broken"
    assert len({each.id for each in found}) == 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "InvalidParameter", "bad_request"),
        (400, "BadRequest.TooLarge", "bad_request"),
        (400, "DataInspectionFailed", "content_filter"),
        (400, "data_inspection_failed", "content_filter"),
        (400, "Arrearage", "quota"),
        (401, "InvalidApiKey", "auth"),
        (403, "AccessDenied.Unpurchased", "permission"),
        (403, "Model.AccessDenied", "permission"),
        (403, "AllocationQuota.FreeTierOnly", "quota"),
        (404, "Model.NotExist", "not_found"),
        (429, "Throttling.AllocationQuota", "rate_limit"),
        (429, "Throttling", "rate_limit"),
        (500, "InternalError", "server"),
        (503, "ServiceUnavailable", "overloaded"),
        (504, "GatewayTimeout", "timeout"),
        (418, "Something.New", "bad_request"),
        (502, "Something.New", "server"),
    ],
)
def test_code_and_status_tell_what_went_wrong(status, code, kind):
    problem = explain(status, orjson.dumps({"code": code, "msg": "words", "request_id": "r"}))
    assert (problem.type, problem.status, problem.code) == (kind, status, code)
    assert (problem.message, problem.request_id) == ("words", "r")


def test_refusal_of_a_stream_may_come_as_an_event():
    problem = explain(
        400, b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"Arrearage","message":"pay"}\n\n'
    )
    assert (problem.type, problem.message) == ("quota", "pay")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html><title>502</title><script>x()</script><h1>Bad  Gateway</h1></html>", "502 Bad Gateway"),
        (b"no route", "no route"),
        (b"", "the server gave no explanation"),
        (b'{"error": {"message": "words", "code": "c"}}', "words"),
    ],
)
def test_refusal_of_a_gateway_is_told_by_its_status(body, message):
    problem = explain(502, body)
    assert (problem.type, problem.message) == ("server", message)


@given(st.integers(300, 599), st.binary() | st.recursive(st.none() | st.text(), st.lists).map(orjson.dumps))
def test_explain_never_fails(status, body):
    assert explain(status, body).type


def test_vectors_are_in_the_order_of_the_texts():
    rows = [{"text_index": 1, "embedding": [2.0]}, {"text_index": 0, "embedding": [1.0]}]
    response = parse_embedding_response({"output": {"embeddings": rows}, "usage": {"total_tokens": -1}})
    assert response.embedding == [[1.0], [2.0]]
    assert response.usage is None


# -- collecting streams --


def test_equal_pieces_are_both_heard_when_pieces_were_asked_for():
    collector = ChatCollector(is_incremental=True)
    events = [event("ha"), event("ha"), event("", "stop")]
    assert [speech.text for each in events for speech in collector.feed(each)] == ["ha", "ha"]
    assert collector.response().text == "haha"


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_pieces_and_texts_so_far_give_the_same_answer(texts, thoughts):
    whole = ChatCollector(is_incremental=False)
    pieces = ChatCollector(is_incremental=True)
    said: dict[Any, list[tuple[str, str]]] = {whole: [], pieces: []}
    steps = [("", thought) for thought in thoughts] + [(text, "") for text in texts]
    for count, (text, thought) in enumerate(steps, 1):
        so_far = ["".join(kind) for kind in zip(*steps[:count], strict=True)]
        reason = "stop" if count == len(steps) else "null"
        said[pieces] += spoken(pieces, event(text, reason, thinking=thought))
        said[whole] += spoken(whole, event(so_far[0], reason, thinking=so_far[1]))
    assert said[pieces] == said[whole]
    first, second = pieces.response(), whole.response()
    assert (first.text, first.thinking) == (second.text, second.thinking) == (
        "".join(texts), "".join(thoughts) or None
    )  # fmt: skip


def test_tool_calls_of_texts_so_far_are_not_repeated():
    collector = ChatCollector(is_incremental=False)
    for arguments, reason in (("", "null"), ('{"a":', "null"), ('{"a":1}', "tool_calls")):
        function = {"name": "f", "arguments": arguments}
        heard_calls = collector.feed(event("", reason, calls=[{"index": 0, "id": "c", "function": function}]))
    assert [speech.data.arguments for speech in heard_calls] == [{"a": 1}]
    assert collector.response().tool_calls == [heard_calls[0].data]


def test_stream_in_text_form_is_complete_with_its_finish_reason():
    collector = ChatCollector(is_incremental=True)
    collector.feed(as_event({"output": {"text": "a", "finish_reason": "null"}}))
    assert not collector.is_complete
    collector.feed(as_event({"output": {"text": "b", "finish_reason": "stop"}}))
    assert collector.is_complete
    assert collector.response().text == "ab"


def test_only_the_first_of_several_answers_is_spoken():
    collector = ChatCollector(is_incremental=True)
    heard_texts = []
    for index, text in ((1, "B"), (0, "A"), (1, "b"), (0, "a")):
        choice = {"index": index, "finish_reason": "stop" if text.islower() else "null"}
        news = as_event({"output": {"choices": [choice | {"message": {"content": text}}]}})
        heard_texts += [speech.text for speech in collector.feed(news)]
    assert heard_texts == ["A", "a"]
    assert collector.is_complete
    assert collector.response().texts == ["Aa", "Bb"]


def test_stream_is_not_complete_while_one_of_its_answers_goes_on():
    collector = ChatCollector(is_incremental=True)
    for index, reason in ((0, "null"), (1, "null"), (0, "stop")):
        choice = {"index": index, "finish_reason": reason, "message": {"content": "x"}}
        collector.feed(as_event({"output": {"choices": [choice]}}))
    assert not collector.is_complete


def test_several_answers_are_in_the_order_of_their_numbers():
    choices = [{"index": index, "message": {"content": str(index)}} for index in (1, 2, 0)]
    assert parse_chat_response({"output": {"choices": choices}}).texts == ["0", "1", "2"]


def test_search_results_of_a_stream_are_in_its_raw_answer():
    collector = ChatCollector(is_incremental=True)
    news = {
        "output": {
            "choices": [{"finish_reason": "stop", "message": {"content": "x"}}],
            "search_info": {"n": 1},
        }
    }
    collector.feed(as_event(news))
    raw = collector.response().raw
    assert raw["output"]["search_info"] == {"n": 1}
    assert raw["output"]["choices"][0]["message"]["content"] == "x"


@pytest.mark.parametrize(
    ("comments", "kind", "status"),
    [
        ((b"HTTP_STATUS/429",), "rate_limit", 429),
        ((b" HTTP_STATUS/500",), "server", 500),
        ((), "stream_error", None),
    ],
)
def test_status_of_an_error_event_is_in_its_comment(comments, kind, status):
    news = ServerEvent("error", b'{"code":"X","message":"m","request_id":"r"}', comments)
    with pytest.raises(Problem) as caught:
        ChatCollector(is_incremental=True).feed(news)
    assert (caught.value.type, caught.value.status, caught.value.request_id) == (kind, status, "r")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "output", "choices", "message", "content", "text", "finish_reason", "tool_calls", "function",
            "arguments", "name", "id", "index", "usage", "code", "reasoning_content",
        ]),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip
READABLE = (Problem, TypeError, KeyError, IndexError, AttributeError, ValueError)


@given(st.lists(st.tuples(st.sampled_from(["result", "error", ""]), JSON), max_size=4), st.booleans())
def test_collector_fails_only_in_ways_that_are_understood(events, is_incremental):
    collector = ChatCollector(is_incremental=is_incremental)
    try:
        for name, news in events:
            collector.feed(ServerEvent(name, orjson.dumps({"output": news})))
        collector.response()
    except READABLE:
        pass


# -- embeddings --


async def test_f10_embedding_of_one_text_is_a_list_of_one_vector(replay):
    model = embedding(base_url=replay.url("dashscope-embedding-single"))
    async with Runtime() as rt:
        response = await model("风急天高猿啸哀")
        assert response.embedding == [[0.25, -0.5, 1.0]]
        assert response.usage == Usage(8, 0)
        names = ("call_counter", "total_tokens")
        assert [await rt.monitor.get_value(f"text-embedding-v1.{name}") for name in names] == [1, 8]
        assert not await rt.monitor.exists("text-embedding-v1.completion_tokens")


async def test_f10_fewer_vectors_than_texts_are_a_bad_response(replay):
    with pytest.raises(BadResponse, match="1 vectors came for 2 texts"):
        await embedding(base_url=replay.url("dashscope-embedding-single"))(["a", "b"])


@pytest.mark.parametrize("texts", ["", [], None, 7])
def test_f10_no_text_is_refused(texts):
    with pytest.raises(MessageError):
        embedding().build_request(texts, {}, stream=False)


# -- helpers --

SSE = {"Content-Type": "text/event-stream"}


def chat(name: str = "qwen-plus", **options: Any) -> DashScopeChatWrapper:
    return DashScopeChatWrapper("test", name, "sk-test", **options)


def embedding(**options: Any) -> DashScopeTextEmbeddingWrapper:
    return DashScopeTextEmbeddingWrapper("test", "text-embedding-v1", "sk-test", **options)


def body(model: Any, messages: Any, **args: Any) -> Any:
    return model.build_request(messages, args, stream=False).json


def parameters(**args: Any) -> Any:
    return body(chat(), HELLO, **args)["parameters"]


def turns(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": str(place)} for place, role in enumerate(roles)]


def answer(content: Any, *, reason: Any = "stop", calls: Any = None, usage: Any = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    return {"output": {"choices": [{"finish_reason": reason, "message": message}]}, "usage": usage}


def chat_answer(text: str) -> dict[str, Any]:
    return answer(text, usage={"input_tokens": 1, "output_tokens": 1})


def as_event(news: dict[str, Any]) -> ServerEvent:
    return ServerEvent("result", orjson.dumps(news), (b"HTTP_STATUS/200",))


def event(text: str, reason: str = "null", *, thinking: str = "", calls: Any = None) -> ServerEvent:
    news = answer(text, reason=reason, calls=calls)
    news["output"]["choices"][0]["message"]["reasoning_content"] = thinking
    return as_event(news)


def sse(*events: ServerEvent) -> bytes:
    return b"".join(b"event:result\n:HTTP_STATUS/200\ndata:" + each.data + b"\n\n" for each in events)


def spoken(collector: ChatCollector, news: ServerEvent) -> list[tuple[str, str]]:
    return [(speech.kind, speech.text) for speech in collector.feed(news)]
