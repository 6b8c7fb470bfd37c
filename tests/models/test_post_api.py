from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, strategies as st
from models.scripted import HANG, Scripted, serve
from models.wire_driver import WireCase, cases_of, replay_case
from pydantic import BaseModel
from recorder import Reply

from agentscope_async import Msg, Runtime
from agentscope_async.agents import DialogAgent
from agentscope_async.errors import (
    AuthFailed,
    BadResponse,
    ConfigError,
    ConnectionFailed,
    MessageError,
    ModelError,
    ModelTimeout,
    QuotaExhausted,
    ServerError,
)
from agentscope_async.message import ImagePart, TextPart, Usage
from agentscope_async.models import ModelRegistry
from agentscope_async.models._problem import Problem
from agentscope_async.models.post_api import (
    PostAPIChatWrapper,
    PostAPIDALLEWrapper,
    PostAPIModelWrapperBase,
    parse_any_response,
)

HELLO = [{"role": "user", "content": "hi"}]
FLASK = {
    "response": "Paris.",
    "n_token_response": 12,
    "n_token_prompt": 7,
    "timestamp": "2024-03-29 10:00:00",
}
COMPLETION = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
ENVELOPE = {"code": 200, "data": {"response": COMPLETION}}

# -- against recorded exchanges --

KINDS = {"post_chat": PostAPIChatWrapper, "post_image": PostAPIDALLEWrapper}


def make(case: WireCase, origin: str, client_args: dict[str, Any]) -> Any:
    key, json_args = messages_key(case), case.body
    del json_args[key]
    headers = {name: value for name, value in case.request["headers"].items() if name != "content-type"}
    return KINDS.get(case.kind, PostAPIModelWrapperBase)(
        "test",
        origin + case.request["path"],
        {name: value.replace("<redacted>", "secret-key") for name, value in headers.items()},
        json_args=json_args,
        messages_key=key,
        retry_interval=0.01,
        client_args=client_args,
    )


def messages_key(case: WireCase) -> str:
    return next(name for name in ("inputs", "messages", "prompt") if name in case.body)


async def call(model: Any, case: WireCase) -> Any:
    return await model(case.body[messages_key(case)])


@pytest.mark.parametrize("case", cases_of("post_api"), ids=str)
async def test_f18_f19_f20_recorded_case(case):
    await replay_case(case, make, call)


# -- attempts --


async def test_f18_two_failures_and_then_an_answer_is_an_answer():
    async with serve(Reply(500), Reply(502, {}, b"<html>bad</html>"), FLASK) as server:
        response = await post(server)("Capital of France?")
        assert response.raw == FLASK
        assert [request.json for request in server.requests] == [{"inputs": "Capital of France?"}] * 3


async def test_f18_waits_grow_by_the_retry_interval(monkeypatch):
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    async with serve(Reply(500), Reply(500), FLASK) as server:
        monkeypatch.setattr(asyncio, "sleep", note)
        await post(server, retry_interval=30)("hi")
        monkeypatch.undo()
    assert [wait_s for wait_s in waits if wait_s] == [30, 60]


@pytest.mark.parametrize(("max_retries", "requests"), [(3, 3), (1, 1), (0, 1)])
async def test_f18_max_retries_counts_attempts(max_retries, requests):
    async with serve(*[Reply(500)] * 5) as server:
        with pytest.raises(ServerError) as caught:
            await post(server, max_retries=max_retries)("hi")
        assert (len(server.requests), caught.value.attempts) == (requests, requests)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_request"),
        (401, "auth"),
        (403, "permission"),
        (404, "not_found"),
        (413, "bad_request"),
        (422, "bad_request"),
    ],
)
async def test_f18_refusals_are_not_tried_again(status, kind):
    async with serve(Reply(status, {}, b'{"error": "no such thing"}')) as server:
        with pytest.raises(ModelError, match="no such thing") as caught:
            await post(server)("hi")
        assert (len(server.requests), caught.value.type, caught.value.status) == (1, kind, status)


async def test_f18_hung_server_is_left_after_the_timeout():
    async with serve(HANG) as server:
        with pytest.raises(ModelTimeout):
            await post(server, timeout=0.05, max_retries=1)("hi")


async def test_f18_timeout_of_post_args_wins():
    async with serve(HANG) as server:
        with pytest.raises(ModelTimeout):
            await post(server, timeout=None, post_args={"timeout": (5, 0.05)}, max_retries=1)("hi")


async def test_html_instead_of_json_is_a_bad_response():
    async with serve(Reply(200, {"Content-Type": "text/html"}, b"<html>login</html>")) as server:
        with pytest.raises(BadResponse, match="text/html"):
            await post(server)("hi")


async def test_server_that_is_not_there_is_a_connection_failure():
    with pytest.raises(ConnectionFailed):
        await PostAPIModelWrapperBase("test", "http://127.0.0.1:1/llm/", max_retries=1)("hi")


async def test_images_are_not_asked_for_again_when_their_answer_is_lost(replay):
    url = replay.url("post_api-dalle", "drop") + "/img"
    with pytest.raises(ConnectionFailed):
        await PostAPIDALLEWrapper("test", url, messages_key="prompt")("a cat")
    assert len(replay.records) == 1


# -- requests --


def test_f18_body_is_the_input_and_json_args_and_what_the_call_adds():
    model = PostAPIModelWrapperBase(
        "test", "http://h/llm/", json_args={"a": 1, "b": 1}, generate_args={"c": 1}, messages_key="q"
    )
    request = model.build_request("hi", {"b": 2}, stream=False)
    assert request.json == {"q": "hi", "a": 1, "b": 2}
    assert model.json_args == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://h/llm/", "http://h/llm/?k=1&l=2&l=3"),
        ("http://h/llm", "http://h/llm?k=1&l=2&l=3"),
        ("http://h:8000", "http://h:8000/?k=1&l=2&l=3"),
        ("http://h/llm/?a=b%20c", "http://h/llm/?a=b%20c&k=1&l=2&l=3"),
    ],
)
def test_address_is_used_exactly_with_the_query_added(url, sent):
    model = PostAPIModelWrapperBase("test", url, post_args={"params": {"k": 1}})
    assert model.build_request("hi", {"params": {"l": [2, 3]}}, stream=False).url == sent
    assert (
        PostAPIModelWrapperBase("test", "http://h/llm/").build_request("hi", {}, stream=False).url
        == "http://h/llm/"
    )


def test_later_headers_replace_earlier_ones_in_any_case():
    model = PostAPIModelWrapperBase(
        "test",
        "http://h/",
        {"X-A": "1", "content-type": "application/x"},
        post_args={"headers": {"x-a": "2"}},
    )
    headers = model.build_request("hi", {"headers": {"x-A": "3"}}, stream=False).headers
    assert {name.lower(): value for name, value in headers.items()} == {
        "x-a": "3", "content-type": "application/x", "accept": "application/json",
    }  # fmt: skip
    assert len(headers) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"api_url": ""},
        {"api_url": "http:localhost:8000/llm/"},
        {"post_args": {"verify": False}},
        {"max_retries": -1},
        {"max_retries": True},
        {"retry_interval": -1},
        {"timeout": 0},
        {"timeout": "30"},
        {"json_args": {"temperature": float("nan")}},
        {"client_args": {"timeuot": 3}},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError):
        PostAPIModelWrapperBase("test", **{"api_url": "http://h/llm/", **options})


async def test_arguments_that_cannot_be_sent_are_refused():
    model = PostAPIModelWrapperBase("test", "http://127.0.0.1:1/llm/")
    with pytest.raises(ConfigError):
        await model("hi", temperature=float("inf"))
    with pytest.raises(ConfigError, match=r"asyncio\.timeout"):
        await model("hi", timeout=3)


class City(BaseModel):
    name: str


def test_response_format_is_sent_as_to_openai():
    model = PostAPIChatWrapper("test", "http://h/")
    sent = model.build_request(HELLO, {"response_format": City}, stream=False).json["response_format"]
    assert sent["json_schema"]["name"] == "City"


@pytest.mark.parametrize("alias", ["post_api_dalle", "PostAPIDALLEWrapper"])
def test_configuration_of_agentscope_is_taken(alias, recwarn):
    registry = ModelRegistry()
    config = {
        "config_name": "draw", "model_type": alias, "api_url": "http://h/img", "headers": {"A": "b"},
        "max_length": 4096, "timeout": 30, "json_args": {"n": 1}, "post_args": {}, "max_retries": 3,
        "messages_key": "prompt", "retry_interval": 1,
    }  # fmt: skip
    registry.read(config)
    model = registry.load("draw")
    assert isinstance(model, PostAPIDALLEWrapper)
    assert (model.max_length, model.options.timeout, model.options.max_retries) == (4096, 30, 2)


async def test_keys_are_shown_neither_in_errors_nor_in_records(tmp_path):
    refusal = Reply(401, {}, b'{"error": "secret-of-the-header is not a key"}')
    async with serve(FLASK, refusal) as server, Runtime(save_dir=tmp_path, save_api_invoke=True) as rt:
        model = post(server, headers={"X-Api-Key": "secret-of-the-header"})
        await model("hi")
        with pytest.raises(AuthFailed) as caught:
            await model("hi")
        await rt.invocations.flush()
        (record,) = rt.files.dir_invoke.iterdir()
        assert server.requests[0].headers["x-api-key"] == "secret-of-the-header"
    assert "secret-of-the-header" not in record.read_text("utf-8")
    assert "secret-of-the-header" not in f"{caught.value} {caught.value.raw}"


# -- answers --


@pytest.mark.parametrize(
    ("body", "text", "usage"),
    [
        (FLASK, "Paris.", Usage(7, 5)),
        ({"response": "x", "n_token_response": 3, "n_token_prompt": 7}, "x", None),
        ({"response": "x", "n_token_response": "3", "n_token_prompt": -7}, "x", None),
        ([{"generated_text": "Once upon a time"}], "Once upon a time", None),
        ({"generated_text": "Once"}, "Once", None),
        (COMPLETION, "hello", Usage(3, 1)),
        (ENVELOPE, "hello", Usage(3, 1)),
        ({"choices": [{"text": "more"}]}, "more", None),
        ({"choices": "many"}, None, None),
        ({"response": {"a": 1}}, None, None),
        ([], None, None),
        ("text", None, None),
        (7, None, None),
        (None, None, None),
        ({"error": None, "response": "fine"}, "fine", None),
    ],
    ids=str,
)
def test_f18_answer_is_raw_and_its_text_where_its_form_is_known(body, text, usage):
    response = parse_any_response(body)
    assert (response.raw, response.text, response.usage) == (body, text, usage)


def test_wire_m05_error_under_status_200_is_an_error():
    with pytest.raises(Problem, match="no model"):
        parse_any_response({"error": "no model"})


NAMES = ["response", "data", "choices", "message", "content", "text", "error", "n_token_prompt"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_an_answer_or_a_problem(body):
    try:
        assert parse_any_response(body).raw == body
    except Problem:
        pass


@pytest.mark.parametrize("body", [COMPLETION, ENVELOPE])
async def test_f19_chat_answer_is_read_with_and_without_its_envelope(body):
    async with serve(body) as server:
        response = await PostAPIChatWrapper("test", f"{server.origin}/chat")(HELLO)
    assert (response.text, response.finish_reason, response.usage, response.raw) == (
        "hello",
        "stop",
        Usage(3, 1),
        body,
    )


@pytest.mark.parametrize("body", [FLASK, {"data": {"response": {}}}, {"data": None}, [], {"choices": []}])
async def test_f19_answer_without_choices_is_a_bad_response(body):
    async with serve(body) as server:
        with pytest.raises(BadResponse):
            await PostAPIChatWrapper("test", f"{server.origin}/chat")(HELLO)


async def test_f19_error_in_an_answer_keeps_its_type():
    async with serve({"error": {"message": "pay", "code": "insufficient_quota"}}) as server:
        with pytest.raises(QuotaExhausted, match="pay"):
            await PostAPIChatWrapper("test", f"{server.origin}/chat")(HELLO)


@pytest.mark.parametrize("messages", ["hi", None, [{"role": "user"}]])
def test_f19_messages_of_another_form_are_refused(messages):
    with pytest.raises(MessageError):
        PostAPIChatWrapper("test", "http://h/").build_request(messages, {}, stream=False)


@pytest.mark.parametrize("wrap", [lambda body: {"data": {"response": body}}, lambda body: body])
async def test_f20_images_are_read_with_and_without_their_envelope(wrap):
    body = wrap({"data": [{"url": "https://x.org/1"}, {"b64_json": "AAAA"}, {"url": "https://x.org/2"}]})
    async with serve(body) as server:
        response = await PostAPIDALLEWrapper("test", f"{server.origin}/img")("a cat")
    assert response.image_urls == ["https://x.org/1", "https://x.org/2"]
    assert response.images_b64 == ["AAAA"]
    assert response.raw == body


# -- format, agents, metrics --

SAID = [
    Msg("system", "S", "system"),
    [Msg("Bob", "Hi", "assistant", url="U"), None, Msg("Al", {"a": "é"}, "user")],
]


def test_f19_format_of_chat_is_that_of_openai():
    assert PostAPIChatWrapper("test", "http://h/").format(*SAID) == [
        {"role": "system", "name": "system", "content": "S"},
        {"role": "assistant", "name": "Bob", "content": "Hi"},
        {"role": "user", "name": "Al", "content": '{"a": "é"}'},
    ]


async def test_local_image_of_a_chat_is_sent_as_data(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    async with serve(COMPLETION) as server:
        model = PostAPIChatWrapper("test", f"{server.origin}/chat")
        await model(model.format(Msg("Al", [TextPart("what?"), ImagePart(str(path))], "user")))
        (part,) = [
            part for part in server.requests[0].json["inputs"][0]["content"] if part["type"] == "image_url"
        ]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")


def test_format_of_a_text_service_is_a_dialogue():
    model = PostAPIModelWrapperBase("test", "http://h/")
    assert model.format(*SAID, me="Bob") == 'system: S\nBob: Hi\nAl: {"a": "é"}'
    assert not model.takes_messages


def test_f21_image_service_refuses_to_format():
    with pytest.raises(RuntimeError, match="doesn't need to format"):
        PostAPIDALLEWrapper("test", "http://h/").format(SAID[0])


async def test_flask_service_answers_for_an_agent():
    async with serve(FLASK) as server:
        agent = DialogAgent("guide", "Be brief.", post(server))
        reply = await agent(Msg("user", "Capital of France?", "user"))
        assert reply.text == "Paris."
        assert server.requests[0].json == {"inputs": "system: Be brief.\nuser: Capital of France?"}


async def test_answer_can_be_had_as_a_stream_of_one_piece():
    async with serve(FLASK) as server, post(server).stream("hi") as stream:
        assert [delta.text async for delta in stream] == ["Paris."]
        assert stream.response.raw == FLASK


async def test_tokens_are_counted_where_the_service_tells_them():
    async with serve(FLASK, {"response": "x"}) as server, Runtime() as rt:
        model = post(server)
        await model("hi")
        await model("hi")
        names = ("call_counter", "prompt_tokens", "completion_tokens")
        assert [await rt.monitor.get_value(f"test.{name}") for name in names] == [2, 7, 5]


# -- helpers --


def post(server: Scripted, **options: Any) -> PostAPIModelWrapperBase:
    options.setdefault("retry_interval", 0.001)
    return PostAPIModelWrapperBase("test", f"{server.origin}/llm/", **options)
