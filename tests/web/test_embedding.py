"""Agents behind FastAPI, over TCP under uvicorn: asked, streamed, left, resumed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Header, HTTPException

from agentscope_async import (
    AgentBase,
    AskTimeoutError,
    BudgetExceededError,
    ConfigError,
    DialogAgent,
    EchoModel,
    FunctionModel,
    MailboxFullError,
    Msg,
    RateLimited,
    ReActAgent,
    ScriptedModel,
    ServerError,
    Speech,
)
from agentscope_async.message import ToolCallPart
from agentscope_async.models.base import ModelResponse
from agentscope_async.web import Sessions, expose, lifespan, turns
from tests.web import serving
from tests.web.serving import client_of, read_events, said, served

pytestmark = pytest.mark.usefixtures("no_leaks")

SESSION = "X-Session-Id"


def chat(key: str) -> DialogAgent:
    return DialogAgent("Ann", None, EchoModel())


def app_of(target: Any, tmp_path: Path, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path, run_id="web"))
    app.include_router(expose(target, **options))
    return app


class Held(AgentBase):
    """Speaks a word, then waits until it is let go on; says when it was cancelled."""

    def __init__(self) -> None:
        super().__init__("Held")
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        try:
            await self.speak(Speech("text", "first "))
            self.begun.set()
            await self.go_on.wait()
            await self.speak(Speech("text", "second"))
            return Msg(self.name, "first second", "assistant")
        finally:
            self.ended.set()


class Failing(AgentBase):
    def __init__(self, error: Exception) -> None:
        super().__init__("Failing")
        self.error = error

    async def reply(self, x: Any = None) -> Msg:
        raise self.error


def user_of_token(authorization: str = Header("")) -> str:
    users = {"Bearer a": "ann", "Bearer b": "bob"}
    if authorization not in users:
        raise HTTPException(401, "Who are you?", {"WWW-Authenticate": "Bearer"})
    return users[authorization]


# -- asked --


async def test_a_message_goes_in_and_the_reply_comes_out(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        answer = await http.post("/chat", json=said("Hi"))
        assert answer.status_code == 200
        reply = Msg.from_dict(answer.json())
        assert (reply.name, reply.text, reply.role) == ("Ann", "Bob: Hi", "assistant")


async def test_a_session_goes_on_and_a_client_without_one_gets_a_new_one(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        first = await http.post("/chat", json=said("one"))
        session = {SESSION: first.headers[SESSION]}
        second = await http.post("/chat", json=said("two"), headers=session)
        assert second.headers[SESSION] == first.headers[SESSION]
        other = await http.post("/chat", json=said("three"))
        assert other.headers[SESSION] != first.headers[SESSION]
        history = (await http.get("/chat/history", headers=session)).json()
        assert [each["content"] for each in history] == ["one", "Bob: one", "two", "Bob: two"]
        latest = (await http.get("/chat/history", params={"last": 1}, headers=session)).json()
        assert [each["content"] for each in latest] == ["Bob: two"]


async def test_an_agent_given_itself_has_one_conversation_and_shows_it_to_nobody(tmp_path: Path) -> None:
    agent = DialogAgent("Ann", None, EchoModel())
    async with client_of(app_of(agent, tmp_path)) as http:
        answers = [await http.post("/Ann", json=said(n)) for n in ("one", "two")]
        assert all(SESSION not in each.headers for each in answers)
        assert agent.memory is not None
        assert agent.memory.size() == 4
        assert (await http.get("/Ann/history")).status_code == 404


async def test_several_agents_have_addresses_and_conversations_of_their_own(tmp_path: Path) -> None:
    targets = {"ann": chat, "bob": lambda key: DialogAgent("Bob", None, EchoModel())}
    async with client_of(app_of(targets, tmp_path)) as http:
        ann = await http.post("/ann", json=said("x"))
        assert ann.json()["name"] == "Ann"
        assert (await http.post("/bob", json=said("x"))).json()["name"] == "Bob"
        elsewhere = await http.post("/bob", json=said("x"), headers={SESSION: ann.headers[SESSION]})
        assert elsewhere.status_code == 404


async def test_a_router_can_have_a_prefix(tmp_path: Path) -> None:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path))
    app.include_router(expose(chat), prefix="/agents", tags=["agents"])
    async with client_of(app) as http:
        assert (await http.post("/agents/chat", json=said("x"))).status_code == 200
        assert (await http.get("/agents/health")).json()["status"] == "ok"


# -- what is refused --


@pytest.mark.parametrize(
    ("id", "status"),
    [
        ("0" * 32, 404),
        ("", 400),
        ("x", 400),
        ("../../etc/passwd", 400),
        ("' OR 1=1 --", 400),
        ("A" * 32, 400),
        ("0" * 33, 400),
        ("0" * 5000, 400),
    ],
)
async def test_a_session_id_the_service_did_not_issue_is_refused(
    id: str, status: int, tmp_path: Path
) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        for answer in (
            await http.post("/chat", json=said("x"), headers={SESSION: id}),
            await http.post("/chat/stream", json=said("x"), headers={SESSION: id}),
            await http.get("/chat/history", headers={SESSION: id}),
        ):
            assert answer.status_code == status
            assert answer.json()["error"]["type"] == {404: "unknown_session", 400: "bad_session"}[status]
            assert SESSION not in answer.headers


async def test_a_session_is_of_use_to_its_user_only(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path, auth=user_of_token)) as http:
        ann, bob = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
        session = (await http.post("/chat", json=said("secret"), headers=ann)).headers[SESSION]
        for answer in (
            await http.get("/chat/history", headers={**bob, SESSION: session}),
            await http.post("/chat", json=said("x"), headers={**bob, SESSION: session}),
            await http.post("/chat/stream", json=said("x"), headers={**bob, SESSION: session}),
        ):
            assert answer.status_code == 404
            assert "secret" not in answer.text
        mine = await http.get("/chat/history", headers={**ann, SESSION: session})
        assert [each["content"] for each in mine.json()] == ["secret", "Bob: secret"]


async def test_who_is_not_let_in_gets_nowhere(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path, auth=user_of_token)) as http:
        for answer in (
            await http.post("/chat", json=said("x")),
            await http.post("/chat/stream", json=said("x")),
            await http.get("/chat/history", headers={SESSION: "0" * 32}),
        ):
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Bob"},
        {**said("x"), "role": "system"},
        {**said("x"), "role": "tool"},
        {**said("x"), "role": "boss"},
        {"__type": "Tht", "content": "x"},
        {"__type": "Tht", "content": "x", "name": "thought", "role": "assistant"},
        {**said("x"), "url": "/etc/passwd"},
        {**said("x"), "url": ["https://example.org/a.png", "file:///etc/passwd"]},
        said([{"__part": "text", "text": "look"}, {"__part": "image", "url": "/etc/passwd"}]),
        said({"deep": [{"__part": "file", "url": "file:///etc/passwd"}]}),
        [said("x")],
        5,
    ],
)
async def test_a_message_no_stranger_may_send_is_refused(body: Any, tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        for path in ("/chat", "/chat/stream"):
            assert (await http.post(path, json=body)).status_code == 422
        assert not (tmp_path / "web" / "agents.db").exists()


async def test_a_large_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 1000

    async with client_of(app_of(chat, tmp_path, max_body_bytes=5000)) as http:
        assert (await http.post("/chat", json=said("x" * 4000))).status_code == 200
        declared = await http.post("/chat", json=said("x" * 6000))
        assert (declared.status_code, declared.json()["error"]["type"]) == (413, "too_large")
        undeclared = await http.post("/chat", content=chunks(), headers={"Content-Type": "application/json"})
        assert (undeclared.status_code, undeclared.json()["error"]["type"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        (RateLimited("m", provider="openai", model="m", retry_after_s=7.2), 503, "overloaded"),
        (ServerError("key sk-123", provider="openai", model="m"), 502, "model_failed"),
        (MailboxFullError("a", 3, "reject"), 503, "overloaded"),
        (
            BudgetExceededError("b", limit="usd", allowed=1, spent=1, reserved=0, needed=1),
            429,
            "budget",
        ),
        (AskTimeoutError("a", 3), 504, "timeout"),
        (KeyError("internal secret"), 500, "internal"),
    ],
)
async def test_what_an_agent_raises_is_told_without_internals(
    error: Exception, status: int, type: str, tmp_path: Path
) -> None:
    async with client_of(app_of(Failing(error), tmp_path)) as http:
        answer = await http.post("/Failing", json=said("x"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, type)
        assert "secret" not in answer.text
        assert "sk-123" not in answer.text
        streamed = await http.post("/Failing/stream", json=said("x"))
        assert streamed.status_code == 200
        assert f'"type":"{type}"' in streamed.text.split("event: error")[1]
        if isinstance(error, RateLimited):
            assert answer.headers["Retry-After"] == "7"


async def test_more_turns_than_may_run_are_refused_with_when_to_come_back(tmp_path: Path) -> None:
    held = Held()
    async with client_of(
        app_of({"held": held, "chat": chat}, tmp_path, max_turns=1, retry_after_s=3)
    ) as http:
        asking = asyncio.create_task(http.post("/held", json=said("x")))
        await held.begun.wait()
        for path in ("/chat", "/chat/stream", "/held"):
            refused = await http.post(path, json=said("x"))
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "3")
            assert refused.json()["error"] == {
                "type": "overloaded",
                "message": "Too many turns are running; try again soon.",
                "retry_after_s": 3,
            }
        assert (await http.get("/health")).json() == {"status": "ok", "turns": 1, "max_turns": 1}
        held.go_on.set()
        assert (await asking).status_code == 200
        assert (await http.post("/chat", json=said("x"))).status_code == 200


async def test_without_a_runtime_the_service_says_it_is_not_there(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(expose(chat))
    async with client_of(app) as http:
        assert (await http.get("/health")).status_code == 503
        assert (await http.post("/chat", json=said("x"))).status_code == 500


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (chat, {"name": "a/b"}),
        (chat, {"name": "health"}),
        (chat, {"name": ".."}),
        ({"a b": chat}, {}),
        (5, {"name": "five"}),
        (chat, {"linger_s": -1}),
        (chat, {"max_turns": 0}),
        (DialogAgent("Ann", None, EchoModel()), {"sessions": Sessions()}),
        (object(), {}),
    ],
)
def test_what_cannot_be_exposed_is_refused(target: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        expose(target, **options)


async def test_a_dependency_that_gives_no_user_id_is_told_to(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path, auth=lambda: 5)) as http:
        assert (await http.post("/chat", json=said("x"))).status_code == 500


# -- streamed --


async def test_a_stream_speaks_then_counts_then_gives_the_whole_message(tmp_path: Path) -> None:
    async with client_of(app_of(chat, tmp_path)) as http:
        async with http.stream("POST", "/chat/stream", json=said("one two three")) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            events = [each async for each in read_events(answer.aiter_lines())]
            session = answer.headers[SESSION]
        kinds = [kind for kind, _, _ in events]
        assert kinds[-2:] == ["usage", "message"]
        pieces = [json.loads(data) for kind, _, data in events if kind == "speech"]
        assert len(pieces) >= 3
        assert "".join(each["text"] for each in pieces) == "Bob: one two three"
        assert Msg.from_dict(json.loads(events[-1][2])).text == "Bob: one two three"
        assert json.loads(events[-2][2])["output_tokens"] > 0
        turn = events[0][1].partition("-")[0]
        assert [id for _, id, _ in events] == [f"{turn}-{n}" for n in range(1, len(events) + 1)]
        history = await http.get("/chat/history", headers={SESSION: session})
        assert len(history.json()) == 2


async def test_comments_keep_a_stream_open_while_the_agent_thinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PING_S", 0.01)
    held = Held()
    async with (
        client_of(app_of(held, tmp_path)) as http,
        http.stream("POST", "/Held/stream", json=said("x")) as answer,
    ):
        lines = answer.aiter_lines()
        while await anext(lines) != ":":
            pass
        held.go_on.set()
        assert [kind async for kind, _, _ in read_events(lines)][-1] == "message"


async def test_tool_calls_and_their_results_are_events(tmp_path: Path) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    call = ModelResponse(tool_calls=(ToolCallPart("c1", "add", {"a": 2, "b": 3}),), finish_reason="stop")
    model = ScriptedModel([call, "It is 5."])
    agent = ReActAgent("Calc", "Add.", model, tools=[add], tool_calling="native")
    async with (
        client_of(app_of(agent, tmp_path)) as http,
        http.stream("POST", "/Calc/stream", json=said("2+3")) as answer,
    ):
        events = [(kind, json.loads(data)) async for kind, _, data in read_events(answer.aiter_lines())]
    by_kind = dict(events)
    assert by_kind["tool_call"]["arguments"] == {"a": 2, "b": 3}
    assert by_kind["tool_result"]["name"] == "add"
    assert by_kind["message"]["content"] == "It is 5."


# -- left --


async def test_a_client_that_leaves_cancels_its_turn(tmp_path: Path) -> None:
    for path in ("/Held", "/Held/stream"):
        held = Held()
        async with client_of(app_of(held, tmp_path)) as http:
            asking = asyncio.create_task(http.post(path, json=said("x")))
            await held.begun.wait()
            asking.cancel()
            await asyncio.wait([asking])
            await held.ended.wait()
            assert not held.go_on.is_set()
            while (await http.get("/health")).json()["turns"]:
                await asyncio.sleep(0)


async def test_a_client_that_leaves_while_its_turn_waits_takes_its_message_back(tmp_path: Path) -> None:
    held = Held()
    async with client_of(app_of(held, tmp_path)) as http:
        first = asyncio.create_task(http.post("/Held", json=said("x")))
        await held.begun.wait()
        second = asyncio.create_task(http.post("/Held", json=said("y")))
        while (await http.get("/health")).json()["turns"] < 2:
            await asyncio.sleep(0)
        second.cancel()
        while (await http.get("/health")).json()["turns"] == 2:
            await asyncio.sleep(0)
        held.go_on.set()
        assert (await first).status_code == 200
        assert held.mailbox.statistics().handled == 1


async def test_a_client_that_comes_back_gets_what_it_missed(tmp_path: Path) -> None:
    held = Held()
    async with client_of(app_of(held, tmp_path, linger_s=60)) as http:
        async with http.stream("POST", "/Held/stream", json=said("x")) as answer:
            kind, id, data = await anext(read_events(answer.aiter_lines()))
            assert (kind, json.loads(data)["text"]) == ("speech", "first ")
        held.go_on.set()
        await held.ended.wait()
        async with http.stream(
            "POST", "/Held/stream", json=said("x"), headers={"Last-Event-ID": id}
        ) as answer:
            assert answer.status_code == 200
            rest = [(kind, json.loads(data)) async for kind, _, data in read_events(answer.aiter_lines())]
        assert [kind for kind, _ in rest] == ["speech", "message"]
        assert rest[0][1]["text"] == "second"
        # How much of an answer has arrived nobody knows, so it can be had again, too.
        again = await http.post("/Held/stream", json=said("x"), headers={"Last-Event-ID": id})
        assert (again.status_code, again.text.count("event: ")) == (200, 2)
        assert held.mailbox.statistics().handled == 1
        for number, status in ((3, 200), (4, 400)):
            last = f"{id[:-1]}{number}"
            answer = await http.post("/Held/stream", json=said("x"), headers={"Last-Event-ID": last})
            assert (answer.status_code, "event: " in answer.text) == (status, False)


async def test_without_time_to_come_back_nobody_does(tmp_path: Path) -> None:
    held = Held()
    async with (
        client_of(app_of(held, tmp_path)) as http,
        http.stream("POST", "/Held/stream", json=said("x")) as answer,
    ):
        _, id, _ = await anext(read_events(answer.aiter_lines()))
        for each in (id, f"{'0' * 32}-1"):
            gone = await http.post("/Held/stream", json=said("x"), headers={"Last-Event-ID": each})
            assert (gone.status_code, gone.json()["error"]["type"]) == (410, "turn_gone")
        held.go_on.set()


@pytest.mark.parametrize("path", ["/Held", "/Held/stream"])
async def test_a_service_that_closes_says_so_to_those_who_wait(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SHUTDOWN_S", 0)
    held = Held()
    async with httpx.AsyncClient() as http:
        async with served(app_of(held, tmp_path, linger_s=60)) as origin:
            asking = asyncio.create_task(http.post(f"{origin}{path}", json=said("x")))
            await held.begun.wait()
        answer = await asking
        assert held.ended.is_set()
        if path == "/Held":
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json()["error"]["type"] == "closing"
        else:
            events = answer.text.split("\n\n")
            assert events[1].startswith("event: error\n")
            assert '"type":"closing"' in events[1]
            assert events[2:] == [""]


async def test_a_turn_whose_client_stays_away_ends_after_its_time(tmp_path: Path) -> None:
    held = Held()
    async with client_of(app_of(held, tmp_path, linger_s=0.05)) as http:
        async with http.stream("POST", "/Held/stream", json=said("x")):
            await held.begun.wait()
        await held.ended.wait()
        assert not held.go_on.is_set()


async def test_an_asker_who_leaves_finds_the_reply_in_the_history(tmp_path: Path) -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def think(messages: Any) -> str:
        if len(messages) > 1:
            begun.set()
            await go_on.wait()
            done.set()
        return "so"

    def make(key: str) -> DialogAgent:
        return DialogAgent("Ann", None, FunctionModel(think))

    async with client_of(app_of({"ann": make}, tmp_path, linger_s=60)) as http:
        session = {SESSION: (await http.post("/ann", json=said("one"))).headers[SESSION]}
        asking = asyncio.create_task(http.post("/ann", json=said("two"), headers=session))
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        go_on.set()
        await done.wait()
        while (await http.get("/health")).json()["turns"]:
            await asyncio.sleep(0)
        history = (await http.get("/ann/history", headers=session)).json()
        assert [each["content"] for each in history] == ["one", "so", "two", "so"]


async def test_a_turn_of_a_shared_agent_can_be_resumed_by_its_user_only(tmp_path: Path) -> None:
    held = Held()
    async with client_of(app_of(held, tmp_path, linger_s=60, auth=user_of_token)) as http:
        ann, bob = ({"Authorization": f"Bearer {each}"} for each in "ab")
        async with http.stream("POST", "/Held/stream", json=said("x"), headers=ann) as answer:
            _, id, _ = await anext(read_events(answer.aiter_lines()))
        held.go_on.set()
        for who, status in ((bob, 410), (ann, 200)):
            headers = {**who, "Last-Event-ID": id}
            assert (await http.post("/Held/stream", json=said("x"), headers=headers)).status_code == status


async def test_a_turn_can_be_resumed_by_its_own_session_only(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def think(messages: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    def make(key: str) -> Any:
        return Spoken("Ann", None, FunctionModel(think))

    class Spoken(DialogAgent):
        async def reply(self, x: Any = None) -> Msg:
            await self.speak(Speech("text", "hm "))
            return await super().reply(x)

    async with client_of(app_of({"ann": make}, tmp_path, linger_s=60)) as http:
        async with http.stream("POST", "/ann/stream", json=said("one")) as answer:
            session = answer.headers[SESSION]
            _, id, _ = await anext(read_events(answer.aiter_lines()))
        async with http.stream("POST", "/ann/stream", json=said("other")) as answer:
            other = answer.headers[SESSION]
        resume = {"Last-Event-ID": id}
        for headers, status in (
            ({**resume}, 400),
            ({**resume, SESSION: other}, 410),
            ({**resume, SESSION: "0" * 32}, 404),
            ({"Last-Event-ID": "nonsense", SESSION: session}, 400),
            ({"Last-Event-ID": f"{'0' * 32}-1", SESSION: session}, 410),
        ):
            assert (await http.post("/ann/stream", json=said("one"), headers=headers)).status_code == status


# -- described --


def test_the_openapi_has_real_schemas(tmp_path: Path) -> None:
    schema = app_of(chat, tmp_path).openapi()
    ask = schema["paths"]["/chat"]["post"]
    body = ask["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) >= {"name", "content", "role", "url"}
    assert body["properties"]["role"]["enum"] == ["user", "assistant"]
    reply = ask["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(reply["properties"]) >= {"name", "content", "role"}
    assert SESSION in ask["responses"]["200"]["headers"]
    problem = ask["responses"]["503"]["content"]["application/json"]["schema"]["$ref"]
    assert problem == "#/components/schemas/ProblemAnswer"
    stream = schema["paths"]["/chat/stream"]["post"]["responses"]["200"]["content"]
    assert list(stream) == ["text/event-stream"]
    items = schema["paths"]["/chat/history"]["get"]["responses"]["200"]["content"]["application/json"]
    assert items["schema"]["type"] == "array"
    names = {each["name"] for each in ask["parameters"]}
    assert names == {SESSION}


def test_without_fastapi_the_error_names_what_to_install() -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from agentscope_async.web import expose\n"
        "from agentscope_async import MissingExtraError\n"
        "try: expose(lambda key: None, name='x')\n"
        "except MissingExtraError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'agentscope-async[web]'" in run.stdout


def test_importing_the_package_loads_no_web_framework() -> None:
    code = (
        "import sys, agentscope_async.web, agentscope_async.web.embedding as e; "
        "print([m for m in ('fastapi', 'starlette', 'pydantic', 'uvicorn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
