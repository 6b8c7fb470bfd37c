"""What a service keeps, and when it takes no more: turns, those that are over, agents not saved."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect

from agentscope_async import AgentBase, DialogAgent, EchoModel, Msg, Speech, keyed_unsaved
from agentscope_async.web import Sessions, expose, lifespan, openai_api, turns
from agentscope_async.web.sessions import Desk
from agentscope_async.web.talks import Talks
from tests.web.serving import client_of, read_events, said, served

pytestmark = pytest.mark.usefixtures("no_leaks")

SESSION = "X-Session-Id"


def app_of(target: Any, tmp_path: Path, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path, run_id="web"))
    app.include_router(expose(target, **options))
    return app


@pytest.fixture
def talks(monkeypatch: pytest.MonkeyPatch) -> list[Talks]:
    """The turns of each router that a test makes."""
    made: list[Talks] = []

    class Noted(Talks):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr("agentscope_async.web.talks.Talks", Noted)
    return made


# -- turns at once --


class Crowd:
    """Makes agents whose turns wait until they are let go on, and counts them."""

    def __init__(self) -> None:
        self.running = self.peak = 0
        self.go_on = asyncio.Event()

    def __call__(self, key: str) -> AgentBase:
        crowd = self

        class Member(AgentBase):
            async def reply(self, x: Any = None) -> Msg:
                crowd.running += 1
                crowd.peak = max(crowd.peak, crowd.running)
                try:
                    await crowd.go_on.wait()
                finally:
                    crowd.running -= 1
                return Msg(self.name, "done", "assistant")

        return Member("Member")


async def test_no_more_turns_run_than_may_when_many_clients_come_at_once(tmp_path: Path) -> None:
    crowd = Crowd()
    async with client_of(app_of({"crowd": crowd}, tmp_path, max_turns=2)) as http:
        asking = [
            asyncio.create_task(http.post(path, json=said("x"))) for path in ("/crowd", "/crowd/stream") * 20
        ]
        waiting: set[asyncio.Task[httpx.Response]] = set(asking)
        refused = 0
        while refused < 38 and crowd.peak <= 2:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused += sum(task.result().status_code == 503 for task in done)
        while crowd.running < 2:
            await asyncio.sleep(0)
        health = (await http.get("/health")).json()
        crowd.go_on.set()
        await asyncio.gather(*asking)
        assert (crowd.peak, refused, health["turns"]) == (2, 38, 2)
        assert (await http.get("/health")).json()["turns"] == 0


async def test_a_turn_that_is_being_entered_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entering, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(self: Desk, agents: Any, user: str | None) -> Any:
        entering.set()
        await go_on.wait()
        raise LookupError("no session today")

    monkeypatch.setattr(Desk, "begin", slowly)
    async with client_of(app_of({"crowd": Crowd()}, tmp_path, max_turns=1)) as http:
        for path in ("/crowd", "/crowd/stream"):
            first = asyncio.create_task(http.post(path, json=said("x")))
            await entering.wait()
            assert (await http.get("/health")).json()["turns"] == 1
            assert (await http.post(path, json=said("x"))).status_code == 503
            go_on.set()
            assert (await first).status_code == 500
            assert (await http.get("/health")).json()["turns"] == 0  # given back
            entering.clear()
            go_on.clear()


class Leaving:
    """A request that can be sent, and broken off, over a connection of its own."""

    def __init__(self, origin: str, path: str, body: Any) -> None:
        self._port = int(origin.rsplit(":", 1)[1])
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    async def __aenter__(self) -> asyncio.StreamReader:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._request)
        return reader

    async def __aexit__(self, *args: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()


HELLO = {"model": "slow", "messages": [{"role": "user", "content": "x"}]}
REQUESTS = [
    ("/slow", said("x")),
    ("/slow/stream", said("x")),
    ("/v1/chat/completions", HELLO),
    ("/v1/chat/completions", {**HELLO, "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_a_client_that_leaves_while_its_agent_is_made_gives_back_its_place(
    path: str, body: Any, tmp_path: Path, talks: list[Talks]
) -> None:
    making, ended = asyncio.Event(), asyncio.Event()

    async def make(*key: str) -> AgentBase:
        making.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    app = app_of({"slow": make}, tmp_path)
    app.include_router(openai_api({"slow": lambda: make()}))
    async with served(app) as origin:
        async with Leaving(origin, path, body):
            await making.wait()
        await ended.wait()
        while any(each.running for each in talks):
            await asyncio.sleep(0)


@pytest.mark.parametrize(("path", "body"), REQUESTS[:2])
async def test_no_turn_begins_for_a_client_that_left_while_its_session_was_looked_for(
    path: str, body: Any, tmp_path: Path, talks: list[Talks], monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, is_left = asyncio.Event(), asyncio.Event()
    real = Desk.begin

    async def slowly(self: Desk, agents: Any, user: str | None) -> Any:
        session = await real(self, agents, user)
        looking.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_left.set()
        return session

    monkeypatch.setattr(Desk, "begin", slowly)
    asked = []

    def make(key: str) -> AgentBase:
        asked.append(key)
        return DialogAgent("Ann", None, EchoModel())

    async with served(app_of({"slow": make}, tmp_path, linger_s=3600)) as origin:
        async with Leaving(origin, path, body):
            await looking.wait()
        await is_left.wait()
        while talks[0].running:
            await asyncio.sleep(0)
        assert (asked, talks[0]._by_id) == ([], {})


# -- turns that are over --


class Held(AgentBase):
    """Speaks, then waits until it is let go on."""

    def __init__(self) -> None:
        super().__init__("Held")
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        await self.speak(Speech("text", "well "))
        self.begun.set()
        await self.go_on.wait()
        return Msg(self.name, "done", "assistant")


async def nothing_runs(http: httpx.AsyncClient) -> None:
    while (await http.get("/health")).json()["turns"]:
        await asyncio.sleep(0)


async def test_a_turn_nobody_can_come_back_to_is_not_kept(tmp_path: Path, talks: list[Talks]) -> None:
    held = Held()
    async with (
        served(app_of(held, tmp_path, linger_s=3600)) as origin,
        httpx.AsyncClient(base_url=origin) as http,
    ):
        asking = asyncio.create_task(http.post("/Held", json=said("x")))
        await held.begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        held.go_on.set()
        await nothing_runs(http)
        assert held.mailbox.statistics().handled == 1
        assert (len(talks[0]._by_id), len(talks[0]._kept)) == (0, 0)

        held.begun.clear()
        held.go_on.clear()
        async with connect(origin.replace("http", "ws") + "/Held/ws") as socket:
            await socket.send(json.dumps({"type": "begin", "session": None}))
            await socket.send(json.dumps({"type": "message", "msg": said("x")}))
            await held.begun.wait()
        held.go_on.set()
        await nothing_runs(http)
        assert held.mailbox.statistics().handled == 2
        assert (len(talks[0]._by_id), len(talks[0]._kept)) == (0, 0)


async def test_of_streamed_turns_that_are_over_only_the_latest_are_kept(
    tmp_path: Path, talks: list[Talks]
) -> None:
    held = Held()
    ids = []
    async with client_of(app_of(held, tmp_path, linger_s=3600, max_turns=2)) as http:
        for _ in range(4):
            async with http.stream("POST", "/Held/stream", json=said("x")) as answer:
                _, id, _ = await anext(read_events(answer.aiter_lines()))
                ids.append(id)
            held.go_on.set()
            await nothing_runs(http)
            held.go_on.clear()
        assert len(talks[0]._by_id) == 2
        found = [
            (await http.post("/Held/stream", json=said("x"), headers={"Last-Event-ID": id})).status_code
            for id in ids
        ]
        assert found == [410, 410, 200, 200]
        assert len(talks[0]._by_id) == 2


# -- clients that do not read --


class Chatty(AgentBase):
    """Says more than fits between it and a client that does not read, and then no more."""

    def __init__(self) -> None:
        super().__init__("Chatty")
        self.ended = asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        for _ in range(20_000):
            await self.speak(Speech("text", "word " * 200))
        self.ended.set()
        return Msg(self.name, "done", "assistant")


@asynccontextmanager
async def not_reading(origin: str) -> AsyncIterator[None]:
    async with Leaving(origin, "/Chatty/stream", said("x")) as reader:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        yield


async def test_a_turn_has_its_place_until_its_client_has_all_of_it(
    tmp_path: Path, talks: list[Talks]
) -> None:
    chatty = Chatty()
    async with client_of(app_of(chatty, tmp_path, max_turns=1)) as http:
        async with not_reading(str(http.base_url).rstrip("/")):
            await chatty.ended.wait()
            (talk,) = talks[0]._by_id.values()
            while not talk.is_over:
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            assert (await http.post("/Chatty", json=said("x"))).status_code == 503
        await nothing_runs(http)
        assert (await http.post("/Chatty", json=said("x"))).status_code == 200


async def test_a_client_that_takes_nothing_for_long_is_gone(
    tmp_path: Path, talks: list[Talks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SEND_S", 0.1)
    chatty = Chatty()
    async with served(app_of(chatty, tmp_path)) as origin, not_reading(origin):
        await chatty.ended.wait()
        while talks[0].running:
            await asyncio.sleep(0)
        assert talks[0]._by_id == {}


async def test_nothing_is_kept_of_what_was_heard_where_nobody_can_come_back(
    tmp_path: Path, talks: list[Talks]
) -> None:
    held = Held()
    async with (
        client_of(app_of(held, tmp_path)) as http,
        http.stream("POST", "/Held/stream", json=said("x")) as answer,
    ):
        await anext(read_events(answer.aiter_lines()))
        (talk,) = talks[0]._by_id.values()
        assert talk._events.take(0) == []
        held.go_on.set()


@pytest.mark.parametrize("linger_s", [0, 60])
async def test_words_are_joined_while_a_client_is_behind(linger_s: int, tmp_path: Path) -> None:
    class Fast(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            for number in range(20_000):
                await self.speak(Speech("thinking" if number // 5000 == 1 else "text", f"{number} "))
            return Msg(self.name, "done", "assistant")

    async with (
        client_of(app_of(Fast("Fast"), tmp_path, linger_s=linger_s)) as http,
        http.stream("POST", "/Fast/stream", json=said("x")) as answer,
    ):
        events = [each async for each in read_events(answer.aiter_lines())]
    words = [json.loads(data) for kind, _, data in events if kind == "speech"]
    assert "".join(each["text"] for each in words) == "".join(f"{number} " for number in range(20_000))
    thoughts = "".join(each["text"] for each in words if each["kind"] == "thinking")
    assert thoughts.split() == [str(number) for number in range(5000, 10_000)]
    assert 256 <= len(words) < 2000
    assert [int(id.split("-")[1]) for _, id, _ in events] == list(range(1, len(events) + 1))


# -- agents that cannot be saved --


def chat(key: str) -> DialogAgent:
    return DialogAgent("Ann", None, EchoModel())


def fill_disk(store: Path) -> None:
    """Let every save fail."""
    with sqlite3.connect(store) as connection:
        for event in ("INSERT", "UPDATE"):
            connection.execute(
                f"CREATE TRIGGER no_{event} BEFORE {event} ON states BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
    connection.close()


async def test_a_new_session_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "c.db"
    async with client_of(app_of(chat, tmp_path, sessions=Sessions(store=store))) as http:
        assert (await http.post("/chat", json=said("x"))).status_code == 200
        fill_disk(store)
        for path in ("/chat", "/chat/stream"):
            refused = await http.post(path, json=said("x"))
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["error"]["type"] == "store_failing"


async def test_turns_are_refused_while_too_many_agents_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_unsaved, "MAX_UNSAVED", 3)
    store = tmp_path / "c.db"
    asked: list[str] = []

    class Counting(DialogAgent):
        async def reply(self, x: Any = None) -> Msg:
            asked.append(x.text)
            return await super().reply(x)

    make = {"chat": lambda key: Counting("Ann", None, EchoModel())}
    async with client_of(app_of(make, tmp_path, sessions=Sessions(store=store, live=1))) as http:
        first = [(await http.post("/chat", json=said("x"))).headers[SESSION] for _ in range(5)]
        fill_disk(store)
        asked.clear()
        answers = [await http.post("/chat", json=said(id), headers={SESSION: id}) for id in first]
        types = [answer.json()["error"]["type"] for answer in answers]
        assert [answer.status_code for answer in answers] == [503] * 5
        assert types == ["not_saved"] * 3 + ["store_failing"] * 2
        assert asked == first[:3]


async def test_a_first_answer_that_fails_carries_the_session_it_began(tmp_path: Path) -> None:
    class Failing(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            raise LookupError("lost")

    async with client_of(app_of({"chat": lambda key: Failing("Failing")}, tmp_path)) as http:
        failed = await http.post("/chat", json=said("x"))
        assert failed.status_code == 500
        session = {SESSION: failed.headers[SESSION]}
        assert (await http.get("/chat/history", headers=session)).status_code == 200
