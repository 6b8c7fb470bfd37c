"""Whose errors are whose: of clients, of the application around, of names that clash."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse

from agentscope_async import AgentBase, ConfigError, DialogAgent, EchoModel, Msg, RateLimited, Speech, Tht
from agentscope_async.web import expose, lifespan, openai_api
from tests.web.serving import client_of, said

pytestmark = pytest.mark.usefixtures("no_leaks")

SESSION = "X-Session-Id"


def chat(key: str) -> DialogAgent:
    return DialogAgent("Ann", None, EchoModel())


def app_of(target: Any, tmp_path: Path, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path, run_id="web"))
    app.include_router(expose(target, **options))
    return app


# -- bodies that are not valid --


@pytest.mark.parametrize(
    "body",
    [
        rb'{"name":"B","content":"\ud800"}',
        rb'{"name":"\udfff","content":"x"}',
        rb'{"name":"\udfff"}',
        rb'{"name":"B","content":"x","role":"\ud800"}',
        rb'{"name":"B","content":"x","\ud800":1}',
        b'{"name":"B","content":"x","k":NaN}',
        b'{"name":"B","content":NaN}',
        b'{"name":"B"}',
        b"NaN",
        b"",
    ],
)
async def test_a_body_that_is_not_valid_is_refused_in_our_form(body: bytes, tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        for path in ("/chat", "/chat/stream"):
            answer = await http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 422
            error = answer.json()["error"]
            assert (set(answer.json()), error["type"], error["retry_after_s"]) == (
                {"error"},
                "bad_message",
                None,
            )
            assert error["message"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"name": "\xc3("}'])
async def test_a_body_that_is_no_json_is_refused_in_our_form(body: bytes, tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        answer = await http.post("/chat", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "bad_body")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json", ";;,"])
async def test_a_body_that_is_not_said_to_be_json_is_refused(kind: str | None, tmp_path: Path) -> None:
    # Without asking the service, browsers send such bodies for any web page.
    app = app_of(chat, tmp_path)
    app.include_router(openai_api({"chat": lambda: chat("x")}))
    headers = {} if kind is None else {"Content-Type": kind}
    async with client_of(app) as http:
        for path in ("/chat", "/chat/stream", "/v1/chat/completions"):
            answer = await http.post(path, content=b"{}", headers=headers)
            assert (answer.status_code, "Content-Type: application/json" in answer.text) == (415, True)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/a+json"]
)
async def test_json_has_several_names(kind: str, tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        answer = await http.post("/chat", content=json.dumps(said("x")), headers={"Content-Type": kind})
        assert answer.status_code == 200


async def test_a_refused_message_is_not_repeated(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        answer = await http.post("/chat", json={"name": "B", "url": "secret" * 10_000})
        assert answer.status_code == 422
        assert "secret" not in answer.text
        assert len(answer.content) < 500


def test_the_openapi_names_what_is_refused(tmp_path: Path) -> None:
    schema = app_of(chat, tmp_path).openapi()
    history = [("/chat/history", method) for method in ("get", "delete")]
    for path, method in (("/chat", "post"), ("/chat/stream", "post"), *history):
        refused = schema["paths"][path][method]["responses"]["422"]["content"]["application/json"]
        assert refused["schema"]["$ref"] == "#/components/schemas/ProblemAnswer"


# -- errors of the agents' own --


class Failing(AgentBase):
    def __init__(self, error: Exception) -> None:
        super().__init__("Failing")
        self.error = error

    async def reply(self, x: Any = None) -> Msg:
        raise self.error


def rate_limited(retry_after_s: Any) -> Exception:
    return RateLimited("busy", provider="x", model="m", retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("said_s", "told"),
    [(0.2, "1"), (7.4, "7"), (math.inf, "3600"), (math.nan, "1"), (-5.0, "1"), ("5", "1"), (None, "1")],
)
async def test_a_wait_that_is_none_is_not_told(said_s: Any, told: str, tmp_path: Path) -> None:
    async with client_of(app_of(Failing(rate_limited(said_s)), tmp_path)) as http:
        answer = await http.post("/Failing", json=said("x"))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, told)
        events = (await http.post("/Failing/stream", json=said("x"))).text
        assert f'"retry_after_s":{told}' in events
        assert (await http.get("/health")).json()["turns"] == 0


class Unspeakable(Exception):
    @property
    def retry_after_s(self) -> float:
        raise LookupError("not even that")


async def test_an_error_that_cannot_be_told_ends_the_turn_all_the_same(tmp_path: Path) -> None:
    async with client_of(app_of(Failing(Unspeakable()), tmp_path)) as http:
        answer = await http.post("/Failing", json=said("x"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal")
        assert '"type":"internal"' in (await http.post("/Failing/stream", json=said("x"))).text
        assert (await http.get("/health")).json()["turns"] == 0


class Garbling(AgentBase):
    async def reply(self, x: Any = None) -> Msg:
        await self.speak(Speech("text", "\ud800"))
        return Msg(self.name, "fine", "assistant")


async def test_words_that_cannot_be_sent_are_an_error_of_the_turn(tmp_path: Path) -> None:
    app = app_of(Garbling("Garbling"), tmp_path)
    app.include_router(openai_api({"garbling": lambda: Garbling("Garbling")}))
    async with client_of(app) as http:
        answer = await http.post("/Garbling/stream", json=said("x"))
        assert (answer.status_code, answer.text.count("event: ")) == (200, 1)
        assert '"type":"internal"' in answer.text
        body = {"model": "garbling", "messages": [{"role": "user", "content": "x"}], "stream": True}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 500
        assert (await http.get("/health")).json()["turns"] == 0


# -- what dependencies raise --


class NotIn(Exception):
    pass


async def user_of(authorization: str = Header("")) -> str:
    if authorization == "none":
        raise NotIn
    try:
        return str(int(authorization))
    except ValueError as error:
        raise HTTPException(400, "A tenant is a number.") from error


async def test_what_auth_raises_is_answered_by_the_application(tmp_path: Path) -> None:
    app = app_of(chat, tmp_path, auth=user_of)

    @app.exception_handler(NotIn)
    async def send_to_login(request: Request, error: NotIn) -> JSONResponse:
        return JSONResponse({"login": "/login"}, 401)

    async with client_of(app) as http:
        history = [(method, "/chat/history") for method in ("GET", "DELETE")]
        for method, path in (("POST", "/chat"), ("POST", "/chat/stream"), *history):
            asked: dict[str, Any] = {"json": said("x")} if method == "POST" else {}
            headers = {SESSION: "0" * 32}
            answer = await http.request(method, path, headers={**headers, "Authorization": "none"}, **asked)
            assert (answer.status_code, answer.json()) == (401, {"login": "/login"})
            answer = await http.request(method, path, headers={**headers, "Authorization": "x"}, **asked)
            assert (answer.status_code, answer.json()) == (400, {"detail": "A tenant is a number."})
        assert (await http.post("/chat", json=said("x"), headers={"Authorization": "5"})).status_code == 200


# -- names --


async def test_two_factories_of_one_name_are_found_out_at_the_start(tmp_path: Path) -> None:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path))
    app.include_router(expose(lambda key: chat(key), name="chat"), prefix="/v1")
    app.include_router(expose(lambda key: chat(key), name="chat"), prefix="/v2")
    with pytest.raises(ConfigError, match="Another factory keeps its agents as 'chat'"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_header_that_is_missing_is_named(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        refused = await http.get("/chat/history")
    assert (refused.status_code, refused.json()["error"]["message"]) == (422, "X-Session-Id: Field required")


async def test_two_routers_may_share_a_factory_and_their_operations_differ(tmp_path: Path) -> None:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path))
    for prefix in ("/v1", "/v2"):
        app.include_router(expose(chat), prefix=prefix)
    operations = [each["operationId"] for path in app.openapi()["paths"].values() for each in path.values()]
    assert len(set(operations)) == len(operations) == 10
    async with client_of(app) as http:
        session = {SESSION: (await http.post("/v1/chat", json=said("x"))).headers[SESSION]}
        assert (await http.post("/v2/chat", json=said("y"), headers=session)).status_code == 200


# -- the history --


async def test_the_history_shows_no_thoughts_and_nothing_of_the_systems(tmp_path: Path) -> None:
    class Thinking(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            reply = Msg(self.name, "so", "assistant")
            assert self.memory is not None
            self.memory.add([x, Tht("secret thought"), Msg("system", "secret rule", "system"), reply])
            return reply

    async with client_of(app_of({"chat": lambda key: Thinking("Ann")}, tmp_path)) as http:
        session = {SESSION: (await http.post("/chat", json=said("x"))).headers[SESSION]}
        for params in ({}, {"last": 3}):
            history = await http.get("/chat/history", headers=session, params=params)
            assert [each["content"] for each in history.json()] == ["x", "so"]
