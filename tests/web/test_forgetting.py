"""Conversations that are deleted, by their clients or because nobody goes on with them, stay deleted."""

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
from fastapi import FastAPI, Header, HTTPException
from websockets.asyncio.client import connect

from agentscope_async import ConfigError, DialogAgent, EchoModel, Msg, Runtime, Speech
from agentscope_async.web import Sessions, expose, lifespan, sessions
from agentscope_async.web.sessions import Desk
from agentscope_async.web.talks import Talk, Talks
from tests.web.serving import client_of, read_events, said, served

pytestmark = pytest.mark.usefixtures("no_leaks")

SESSION = "X-Session-Id"
EXPIRE_S = 1e6


class Gate:
    """Makes agents whose turn about ``"wait"`` speaks, and then waits until it is let go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    def __call__(self, key: str) -> DialogAgent:
        gate = self

        class Gated(DialogAgent):
            async def reply(self, x: Any = None) -> Msg:
                if x.text == "wait":
                    await self.speak(Speech("text", "well "))
                    gate.begun.set()
                    try:
                        await gate.go_on.wait()
                    finally:
                        gate.ended.set()
                return await super().reply(x)

        return Gated("Ann", None, EchoModel())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "c.db"


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


def app_of(target: Any, store: Path, *, expire_after_s: float | None = None, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(save_dir=store.parent))
    kept = Sessions(store=store, expire_after_s=expire_after_s)
    app.include_router(expose({"chat": target}, sessions=kept, **options))
    return app


def user_of_token(authorization: str = Header("")) -> str:
    if not authorization:
        raise HTTPException(401)
    return authorization


def on_store(store: Path, statement: str, *args: Any) -> list[Any]:
    with sqlite3.connect(store) as connection:
        found = connection.execute(statement, args).fetchall()
    connection.close()
    return found


def kinds(store: Path) -> list[str]:
    """Return the kinds of all that is saved."""
    return [kind for (kind,) in on_store(store, "SELECT kind FROM states ORDER BY kind")]


def age(store: Path, seconds: float, kind: str = "%") -> None:
    """Have all that is saved be saved earlier."""
    on_store(store, "UPDATE states SET saved_at = saved_at - ? WHERE kind LIKE ?", seconds, kind)


CONVERSATION = ["chat", "sessions of chat"]


async def begun(http: httpx.AsyncClient, text: str = "one", **headers: str) -> dict[str, str]:
    """Begin a conversation; returns the headers to go on with."""
    answer = await http.post("/chat", json=said(text), headers=headers)
    return {SESSION: answer.headers[SESSION], **headers}


async def is_unknown(http: httpx.AsyncClient, session: dict[str, str]) -> bool:
    """Whether no request finds this session."""
    answers = [
        await http.get("/chat/history", headers=session),
        await http.post("/chat", json=said("x"), headers=session),
        await http.post("/chat/stream", json=said("x"), headers=session),
        await http.delete("/chat/history", headers=session),
    ]
    types = {each.json()["error"]["type"] for each in answers if each.status_code == 404}
    return [each.status_code for each in answers] == [404] * 4 and types == {"unknown_session"}


async def waiting(http: httpx.AsyncClient, turns: int) -> None:
    """Return once so many turns run or wait."""
    while (await http.get("/health")).json()["turns"] != turns:
        await asyncio.sleep(0)


# -- deleted --


async def test_a_deleted_conversation_is_gone_and_no_other(store: Path) -> None:
    async with client_of(app_of(Gate(), store)) as http:
        mine, other = await begun(http), await begun(http)
        deleted = await http.delete("/chat/history", headers=mine)
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert SESSION not in deleted.headers
        assert await is_unknown(http, mine)
        assert kinds(store) == CONVERSATION
        assert len((await http.get("/chat/history", headers=other)).json()) == 2


@pytest.mark.parametrize(("id", "status"), [("0" * 32, 404), ("x", 400), ("' OR 1=1 --", 400), (None, 422)])
async def test_what_is_no_session_cannot_be_deleted(id: str | None, status: int, store: Path) -> None:
    async with client_of(app_of(Gate(), store)) as http:
        await begun(http)
        refused = await http.delete("/chat/history", headers={} if id is None else {SESSION: id})
        assert refused.status_code == status
        assert kinds(store) == CONVERSATION


async def test_nobody_deletes_the_conversation_of_another_user(store: Path) -> None:
    async with client_of(app_of(Gate(), store, auth=user_of_token)) as http:
        session = await begun(http, Authorization="ann")
        stolen = {**session, "Authorization": "bob"}
        assert (await http.delete("/chat/history", headers=stolen)).status_code == 404
        nobody = {SESSION: session[SESSION]}
        assert (await http.delete("/chat/history", headers=nobody)).status_code == 401
        assert len((await http.get("/chat/history", headers=session)).json()) == 2
        assert (await http.delete("/chat/history", headers=session)).status_code == 204


async def test_the_conversation_of_a_shared_agent_cannot_be_deleted(tmp_path: Path) -> None:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path))
    app.include_router(expose(DialogAgent("Ann", None, EchoModel())))
    async with client_of(app) as http:
        assert (await http.delete("/Ann/history")).status_code == 404


async def test_a_deletion_interrupts_the_turn_that_runs_and_those_that_wait(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    begun_turns: asyncio.Queue[Talk] = asyncio.Queue()
    add = Talks.add

    def noted(self: Talks, talk: Talk) -> None:
        add(self, talk)
        begun_turns.put_nowait(talk)

    async with client_of(app_of(gate, store)) as http:
        session = await begun(http)
        monkeypatch.setattr(Talks, "add", noted)
        asking = [asyncio.create_task(http.post("/chat", json=said("wait"), headers=session))]
        await gate.begun.wait()
        asking += [
            asyncio.create_task(http.post(path, json=said("two"), headers=session))
            for path in ("/chat", "/chat/stream")
        ]
        for _ in range(3):  # not only let in
            await begun_turns.get()
        assert (await http.delete("/chat/history", headers=session)).status_code == 204
        assert gate.ended.is_set()
        first, second, streamed = [await each for each in asking]
        assert not gate.go_on.is_set()
        for answer in (first, second):
            assert (answer.status_code, answer.json()["error"]["type"]) == (409, "interrupted")
        assert '"type":"interrupted"' in streamed.text
        assert kinds(store) == []
        assert await is_unknown(http, session)
        await waiting(http, 0)


async def test_a_message_that_was_let_in_before_a_deletion_brings_nothing_back(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in, go_on = asyncio.Event(), asyncio.Event()
    find = Desk.find

    async def slowly(self: Desk, *args: Any, is_message: bool) -> Any:
        found = await find(self, *args, is_message=is_message)
        if is_message:
            let_in.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(Desk, "find", slowly)
    async with client_of(app_of(Gate(), store)) as http:
        session = await begun(http)
        late = asyncio.create_task(http.post("/chat", json=said("two"), headers=session))
        await let_in.wait()
        assert (await http.delete("/chat/history", headers=session)).status_code == 204
        go_on.set()
        refused = await late
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "not_saved")
        assert kinds(store) == []
        assert await is_unknown(http, session)


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_turn_in_another_service_brings_nothing_back(is_first: bool, store: Path) -> None:
    gate = Gate()
    async with client_of(app_of(Gate(), store)) as here, client_of(app_of(gate, store)) as there:
        session = {} if is_first else await begun(there)
        async with there.stream("POST", "/chat/stream", json=said("wait"), headers=session) as answer:
            session = {SESSION: answer.headers[SESSION]}
            await gate.begun.wait()
            assert (await here.delete("/chat/history", headers=session)).status_code == 204
            gate.go_on.set()
            events = [(kind, data) async for kind, _, data in read_events(answer.aiter_lines())]
        assert events[-1][0] == "error"
        assert json.loads(events[-1][1])["type"] == "not_saved"
        assert kinds(store) == []
        assert await is_unknown(there, session)
        assert kinds(store) == []


async def test_a_turn_that_its_client_has_left_ends_with_its_conversation(
    store: Path, talks: list[Talks]
) -> None:
    gate = Gate()
    async with client_of(app_of(gate, store, linger_s=3600)) as http:
        session = await begun(http)
        async with http.stream("POST", "/chat/stream", json=said("wait"), headers=session) as answer:
            await anext(read_events(answer.aiter_lines()))
        async with http.stream("POST", "/chat/stream", json=said("two"), headers=session) as answer:
            pass  # it waits behind the other one
        while len(talks[0]._by_id) < 2 or any(each._followers for each in talks[0]._by_id.values()):
            await asyncio.sleep(0)
        assert (await http.delete("/chat/history", headers=session)).status_code == 204
        assert gate.ended.is_set()
        assert kinds(store) == []
        assert not talks[0]._by_id


async def test_a_turn_that_is_over_cannot_be_followed_again_after_the_deletion(
    store: Path, talks: list[Talks]
) -> None:
    gate = Gate()
    async with client_of(app_of(gate, store, linger_s=3600)) as http:
        async with http.stream("POST", "/chat/stream", json=said("wait")) as answer:
            session = {SESSION: answer.headers[SESSION]}
            _, id, _ = await anext(read_events(answer.aiter_lines()))
        gate.go_on.set()
        while not talks[0]._kept:
            await asyncio.sleep(0)
        assert (await http.delete("/chat/history", headers=session)).status_code == 204
        assert not talks[0]._by_id
        assert not talks[0]._kept
        again = await http.post("/chat/stream", json=said("x"), headers={**session, "Last-Event-ID": id})
        assert again.status_code == 404


class Socket:
    """A websocket of the service, one frame at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def ask(self, **frame: Any) -> None:
        await self._connection.send(json.dumps(frame))

    async def hear(self, kind: str) -> dict[str, Any]:
        """Return the next frame of this type."""
        while True:
            frame: dict[str, Any] = json.loads(await self._connection.recv())
            if frame["type"] == kind:
                return frame


@asynccontextmanager
async def websocket(origin: str, session: str | None) -> AsyncIterator[tuple[Socket, dict[str, str]]]:
    async with connect(origin.replace("http", "ws") + "/chat/ws") as connection:
        socket = Socket(connection)
        await socket.ask(type="begin", session=session)
        yield socket, {SESSION: (await socket.hear("session"))["id"]}


async def test_a_conversation_on_a_websocket_ends_when_it_is_deleted(store: Path) -> None:
    gate = Gate()
    async with (
        served(app_of(gate, store)) as origin,
        httpx.AsyncClient(base_url=origin) as http,
        websocket(origin, None) as (socket, session),
    ):
        await socket.ask(type="message", msg=said("one"))
        await socket.hear("message")
        await socket.ask(type="message", msg=said("wait"))
        await gate.begun.wait()
        assert (await http.delete("/chat/history", headers=session)).status_code == 204
        assert (await socket.hear("error"))["data"]["type"] == "interrupted"
        await socket.ask(type="message", msg=said("two"))
        assert (await socket.hear("error"))["data"]["type"] == "unknown_session"
        assert kinds(store) == []
        await waiting(http, 0)


# -- expired --


@pytest.mark.parametrize("expire_after_s", [0, -1.0])
def test_conversations_are_given_some_time(expire_after_s: float) -> None:
    with pytest.raises(ConfigError, match="expire_after_s"):
        Sessions(expire_after_s=expire_after_s)


async def test_conversations_are_kept_for_ever_unless_said_otherwise(store: Path) -> None:
    async with client_of(app_of(Gate(), store)) as http:
        session = await begun(http)
        age(store, 1e9)
        assert len((await http.get("/chat/history", headers=session)).json()) == 2


async def test_a_conversation_nobody_goes_on_with_is_deleted(store: Path) -> None:
    async with client_of(app_of(Gate(), store)) as http:
        old = await begun(http)
        age(store, EXPIRE_S + 1)
        session = await begun(http)
    async with client_of(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as http:
        assert len((await http.get("/chat/history", headers=session)).json()) == 2
        assert kinds(store) == CONVERSATION
        assert await is_unknown(http, old)


async def test_an_expired_session_is_unknown_before_it_is_looked_for_in_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SWEEP_S", EXPIRE_S)
    async with client_of(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as http:
        session = await begun(http)
        age(store, EXPIRE_S)
        assert await is_unknown(http, session)
        assert kinds(store) == CONVERSATION


async def test_a_message_is_what_keeps_a_conversation_and_a_look_at_it_is_not(store: Path) -> None:
    async with client_of(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as http:
        told, looked_at = await begun(http), await begun(http)
        for _ in range(3):
            age(store, 0.4 * EXPIRE_S)
            assert (await http.post("/chat", json=said("x"), headers=told)).status_code == 200
        assert (await http.get("/chat/history", headers=told)).status_code == 200
        assert (await http.get("/chat/history", headers=looked_at)).status_code == 404
        for _ in range(2):
            age(store, 0.6 * EXPIRE_S)
            history = await http.get("/chat/history", headers=told)
        assert history.status_code == 404


async def test_conversations_that_go_on_are_kept_when_a_service_begins_to_let_others_expire(
    store: Path,
) -> None:
    async with client_of(app_of(Gate(), store)) as http:
        session = await begun(http)
    age(store, 2 * EXPIRE_S, kind="sessions%")  # begun long ago, and gone on with ever since
    async with client_of(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as http:
        assert len((await http.get("/chat/history", headers=session)).json()) == 2
        assert kinds(store) == CONVERSATION


async def test_a_turn_that_begins_late_has_time_to_be_saved(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SWEEP_S", 0.0)
    gate = Gate()
    async with client_of(app_of(gate, store, expire_after_s=EXPIRE_S)) as http:
        session = await begun(http)
        age(store, 0.9 * EXPIRE_S)
        asking = asyncio.create_task(http.post("/chat", json=said("wait"), headers=session))
        await gate.begun.wait()
        age(store, 0.4 * EXPIRE_S)
        await begun(http)  # the store is looked through
        gate.go_on.set()
        assert (await asking).status_code == 200
        assert len((await http.get("/chat/history", headers=session)).json()) == 4


async def test_a_session_that_never_had_a_turn_expires_too(store: Path) -> None:
    async with (
        served(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as origin,
        httpx.AsyncClient(base_url=origin) as http,
    ):
        async with websocket(origin, None) as (_, session):
            assert kinds(store) == ["sessions of chat"]
        age(store, EXPIRE_S)
        assert (await http.get("/chat/history", headers=session)).status_code == 404
    async with client_of(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as http:
        await begun(http)
        assert kinds(store) == CONVERSATION


async def test_agents_that_belong_to_no_session_do_not_expire(store: Path) -> None:
    gate = Gate()
    async with Runtime(save_dir=store.parent) as rt:
        await rt.agents(gate, name="chat", store=store).get("mine")("a")
    age(store, 10 * EXPIRE_S)
    async with client_of(app_of(gate, store, expire_after_s=EXPIRE_S)) as http:
        await begun(http)
        assert kinds(store) == ["chat", *CONVERSATION]


async def test_a_store_that_cannot_be_written_keeps_late_messages_from_being_asked_and_no_others(
    store: Path,
) -> None:
    async with client_of(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as http:
        old = await begun(http)
        age(store, EXPIRE_S)
        session = await begun(http)
        age(store, 0.6 * EXPIRE_S)
    for event in ("UPDATE", "DELETE"):
        on_store(
            store,
            f"CREATE TRIGGER no_{event} BEFORE {event} ON states BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
    async with client_of(app_of(Gate(), store, expire_after_s=EXPIRE_S)) as http:
        assert len((await http.get("/chat/history", headers=session)).json()) == 2
        refused = await http.post("/chat", json=said("two"), headers=session)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "store_failing")
        assert (await http.get("/chat/history", headers=old)).status_code == 404
        assert kinds(store) == sorted(2 * CONVERSATION)
