"""Servers that mean harm and users who are careless: a typed error, soon, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gzip
import pickle
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from models.scripted import serve
from recorder import Reply

from agentscope_async import AgentStoppedError, DialogAgent, errors
from agentscope_async.errors import BadRequest, BadResponse, ConfigError, MessageError, ModelError
from agentscope_async.models import ModelRegistry
from agentscope_async.models._fetch import fetch
from agentscope_async.models._http import Carrier
from agentscope_async.models._http_pools import in_use
from agentscope_async.models._request import HttpFailure, HttpRequest
from agentscope_async.models.gemini import GeminiChatWrapper
from agentscope_async.models.openai import OpenAIChatWrapper

HELLO = [{"role": "user", "content": "Hello!"}]
MESSAGE = {"role": "assistant", "content": "Hi."}
ANSWER = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]}
WORDS = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


@pytest.fixture(params=["httpx", "aiohttp"])
def http(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
async def _all_connections_given_back() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield
    assert in_use() == 0


def model_at(origin: str, **client_args: Any) -> OpenAIChatWrapper:
    return OpenAIChatWrapper("c", "m", "sk-0123456789", base_url=f"{origin}/v1", client_args=client_args)


# -- answers that are too much --


async def test_an_answer_above_the_limit_is_given_up_and_not_asked_for_again(http: str):
    async with serve(Reply(200, {}, b" " * 200_000), is_last_repeated=True) as server:
        model = model_at(server.origin, http=http, max_answer_bytes=100_000)
        with pytest.raises(BadResponse, match="larger than 100000 bytes"):
            await model(HELLO)
        assert len(server.requests) == 1


async def test_a_refusal_above_the_limit_is_given_up(http: str):
    async with serve(Reply(400, {}, b" " * 200_000)) as server:
        with pytest.raises(BadResponse, match="larger than 100000 bytes"):
            await model_at(server.origin, http=http, max_answer_bytes=100_000)(HELLO)


async def test_a_stream_without_an_end_is_given_up_with_what_was_heard(http: str):
    async with serve(Reply(200, {}, WORDS * 3_000, "sse")) as server:
        model = model_at(server.origin, http=http, max_answer_bytes=100_000)
        with pytest.raises(BadResponse, match="larger than 100000 bytes") as caught:
            async with model.stream(HELLO) as stream:
                async for _ in stream:
                    pass
        assert caught.value.partial_text.startswith("HiHi")


async def test_a_packed_answer_is_measured_unpacked(http: str):
    packed = gzip.compress(b" " * 5_000_000)
    async with serve(Reply(200, {"Content-Encoding": "gzip"}, packed)) as server:
        assert len(packed) < 100_000
        with pytest.raises(BadResponse, match="larger than 100000 bytes"):
            await model_at(server.origin, http=http, max_answer_bytes=100_000)(HELLO)


async def test_an_answer_packed_twice_is_not_unpacked(http: str):
    packed = gzip.compress(gzip.compress(b" " * 1000))
    async with serve(Reply(200, {"Content-Encoding": "gzip, gzip"}, packed)) as server:
        with pytest.raises(BadResponse, match="packed more than once"):
            await model_at(server.origin, http=http)(HELLO)


async def test_an_error_keeps_the_beginning_of_a_long_explanation():
    body = orjson.dumps({"error": {"message": "x" * 2_000_000}})
    async with serve(Reply(400, {}, body)) as server:
        with pytest.raises(BadRequest) as caught:
            await model_at(server.origin)(HELLO)
    assert len(str(caught.value)) < 5_000
    assert len(caught.value.raw) <= 1024


async def test_an_error_keeps_the_beginning_of_a_large_answer():
    async with serve([{"a": number} for number in range(50_000)]) as server:
        with pytest.raises(BadResponse) as caught:
            await model_at(server.origin)(HELLO)
    assert caught.value.raw.startswith('[{"a":0}')
    assert len(caught.value.raw) <= 1024


# -- arguments nobody can send --


def cycle() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "argument",
    [cycle(), {"a": cycle()}, 10**400, {1, 2}, b"x", "\ud800", object()],
    ids=lambda each: type(each).__name__,
)
async def test_an_argument_json_has_no_form_for_is_a_bad_request(argument: Any):
    with pytest.raises(BadRequest, match="cannot be written as JSON"):
        await model_at("http://127.0.0.1:1")(HELLO, extra=argument)


async def test_an_extra_body_that_is_no_object_is_refused():
    with pytest.raises(ConfigError, match="object of names and values"):
        await model_at("http://127.0.0.1:1")(HELLO, extra_body=5)


async def test_a_model_name_cannot_lead_to_another_place_of_the_server():
    model = GeminiChatWrapper("g", "models/../../admin", "key-0123456789", base_url="http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="leads elsewhere"):
        await model("Hello!")


# -- configurations nobody meant --

WRONG = [5, "x", [1], {"a": 1}, -1, 1.5, float("nan")]
KEYS = {
    "openai_chat": ("client_args", "generate_args", "base_url", "api_key"),
    "dashscope_chat": ("client_args", "generate_args", "base_url"),
    "gemini_chat": ("client_args", "generate_args", "base_url"),
    "ollama_chat": ("client_args", "generate_args", "base_url", "options"),
    "post_api": ("headers", "json_args", "post_args", "messages_key", "api_url", "generate_args"),
    "fallback": ("models",),
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in KEYS.items() for key in keys])
@pytest.mark.filterwarnings("ignore::agentscope_async.AgentScopeWarning")
async def test_a_value_of_the_wrong_kind_is_a_configuration_error(kind: str, key: str):
    own = {"fallback": {}, "post_api": {"api_url": "http://127.0.0.1:1/", "max_retries": 1}}
    usual = {"model_name": "m", "api_key": "key-0123456789", "base_url": "http://127.0.0.1:1"}
    for value in WRONG:
        registry = ModelRegistry()
        registry.read({"config_name": "c", "model_type": kind, **own.get(kind, usual), key: value})
        try:
            registry.load("c")
        except ConfigError:
            continue  # refused; what is not must be what the argument takes


@pytest.mark.parametrize(
    "name",
    ["max_concurrency", "max_answer_bytes", "max_retries", "timeout", "max_retry_after_s", "verify", "proxy",
     "default_headers", "default_query", "http"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["x", [1], b"x", object()], ids=["text", "list", "bytes", "object"])
def test_an_option_of_the_wrong_kind_is_refused_where_it_is_given(name: str, value: Any):
    with pytest.raises(ConfigError):
        model_at("http://127.0.0.1:1", **{name: value})


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://h:99999/",
        "http://a..b/",
        "http://h/\ud800",
        "http://h:x/",
        "http://h/v1#part",
        "http://h/v1?key=1",
        5,
        b"http://h",
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: Any):
    with pytest.raises(ConfigError):
        OpenAIChatWrapper("c", "m", "sk-0123456789", base_url=url)


@pytest.mark.parametrize("name", [5, ["m"], b"m", "\ud800"], ids=repr)
def test_a_model_name_that_is_no_text_is_refused(name: Any):
    with pytest.raises(ConfigError, match="model_name must be a text"):
        OpenAIChatWrapper("c", name, "sk-0123456789")


def test_models_that_fall_back_on_each_other_are_refused_with_their_path():
    registry = ModelRegistry()
    registry.read([
        {"config_name": "a", "model_type": "fallback", "models": ["b"]},
        {"config_name": "b", "model_type": "fallback", "models": ["a"]},
    ])  # fmt: skip
    with pytest.raises(ConfigError, match="a -> b -> a"):
        registry.load("a")


# -- user and password in an address --


async def test_user_and_password_in_an_address_are_sent_in_place_of_the_key(http: str):
    async with serve(ANSWER) as server:
        origin = server.origin.replace("://", "://user:pass%40word@")
        assert (await model_at(origin, http=http)(HELLO)).text == "Hi."
    sent = server.requests[0].headers
    assert sent["authorization"] == f"Basic {b64encode(b'user:pass@word').decode()}"
    assert sent["host"] == server.origin.removeprefix("http://")


async def test_two_servers_on_ports_that_begin_alike_do_not_share_connections(http: str):
    carrier = Carrier(http=http)
    async with serve(ANSWER, is_last_repeated=True) as server:
        neighbour = f"{server.origin[:-1]}{9 - int(server.origin[-1])}"
        for origin in (server.origin, neighbour):
            with contextlib.suppress(HttpFailure):  # whoever the neighbour is, if anybody
                await (await carrier.send(HttpRequest("GET", origin, {}))).read()
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "location",
    ["ftp://h/x", "file:///etc/passwd", "http://[::1", "http://h:99999/", "http://a..b/", "data:,x"],
)
async def test_a_redirection_out_of_the_web_is_a_failed_fetch(location: str):
    async with serve(Reply(302, {"Location": location})) as server:
        with pytest.raises(ConnectionError, match="no http address"):
            await fetch(f"{server.origin}/image.png", allow_private=True)


# -- copies --


async def test_an_agent_that_has_spoken_can_be_copied_with_its_model():
    async with serve(ANSWER, is_last_repeated=True) as server:
        agent = DialogAgent("a", "Be brief.", model_at(server.origin))
        await agent("Hello!")
        twin = copy.deepcopy(agent)
        assert (await twin("Hello!")).text == "Hi."


async def test_a_copied_wrapper_has_arguments_of_its_own():
    model = model_at("http://127.0.0.1:1")
    model.generate_args["stop"] = ["a"]
    copy.deepcopy(model).generate_args["stop"].append("b")
    assert model.generate_args == {"stop": ["a"]}


def test_a_wrapper_is_not_pickled_as_its_key_would_be():
    with pytest.raises(TypeError, match="holds a key"):
        pickle.dumps(model_at("http://127.0.0.1:1"))


ERRORS = [
    ModelError("text", provider="p", model="m", status=400, raw={"a": 1}),
    errors.ConnectionFailed("text", provider="p", model="m"),
    errors.ModelTimeout("text", provider="p", model="m"),
    errors.PartialStreamError("text", type="stream_error", provider="p", model="m", partial_text="Hi"),
    errors.BudgetExceededError("b", limit="usd", allowed=1, spent=1, reserved=0, needed=1),
    errors.QuotaExceededError("n"),
    errors.MissingExtraError("p", "text"),
    MessageError("content", "is wrong"),
    AgentStoppedError("a"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: type(each).__name__)
def test_an_error_survives_copying_and_pickling(error: Exception):
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
