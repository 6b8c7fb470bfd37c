"""A conversation over a websocket, under uvicorn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Header, HTTPException
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agentscope_async import (
    AgentBase,
    ConfigError,
    DialogAgent,
    EchoModel,
    FunctionModel,
    Msg,
    Speech,
    UserAgent,
)
from agentscope_async.web import ask_person, expose, lifespan
from tests.web.serving import said, served

pytestmark = pytest.mark.usefixtures("no_leaks")


def chat(key: str) -> DialogAgent:
    return DialogAgent("Ann", None, EchoModel())


def app_of(target: Any, tmp_path: Path, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path, run_id="web"))
    app.include_router(expose(target, **options))
    return app


class Client:
    """Sends and receives frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self.connection.recv())
        return frame

    async def begin(self, session: str | None = None) -> str:
        await self.send(type="begin", session=session)
        frame = await self.receive()
        assert frame["type"] == "session"
        return str(frame["id"])

    async def until(self, *kinds: str) -> dict[str, Any]:
        while (frame := await self.receive())["type"] not in kinds:
            pass
        return frame

    async def talk(self, text: str) -> str:
        await self.send(type="message", msg=said(text))
        frame = await self.until("message", "error")
        return str(frame["data"].get("content", frame["data"].get("type")))


@asynccontextmanager
async def socket(app: Any, path: str = "/chat/ws", **options: Any) -> AsyncIterator[Client]:
    async with (
        served(app) as origin,
        connect(origin.replace("http", "ws") + path, **options) as connection,
    ):
        yield Client(connection)


async def test_a_conversation_goes_on_over_one_socket_and_the_next(tmp_path: Path) -> None:
    app = app_of(chat, tmp_path)
    async with served(app) as origin:
        url = origin.replace("http", "ws") + "/chat/ws"
        async with connect(url) as connection:
            client = Client(connection)
            session = await client.begin()
            assert await client.talk("one") == "Bob: one"
            assert await client.talk("two") == "Bob: two"
        async with connect(url) as connection:
            client = Client(connection)
            assert await client.begin(session) == session
            assert await client.talk("three") == "Bob: three"


async def test_a_turn_is_heard_piece_by_piece(tmp_path: Path) -> None:
    async with socket(app_of(chat, tmp_path)) as client:
        await client.begin()
        await client.send(type="message", msg=said("one two three"))
        frames = []
        while not frames or frames[-1]["type"] != "message":
            frames.append(await client.receive())
        kinds = [frame["type"] for frame in frames]
        assert kinds == ["speech"] * (len(frames) - 2) + ["usage", "message"]
        assert "".join(f["data"]["text"] for f in frames if f["type"] == "speech") == "Bob: one two three"


async def test_interrupt_ends_the_turn_and_the_conversation_goes_on(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def think(messages: Any) -> str:
        if messages[-1]["content"].endswith("wait"):
            begun.set()
            await asyncio.Event().wait()
        return "done"

    make = {"chat": lambda key: DialogAgent("Ann", None, FunctionModel(think))}
    async with socket(app_of(make, tmp_path)) as client:
        await client.begin()
        await client.send(type="interrupt")
        assert (await client.receive())["data"]["type"] == "idle"
        await client.send(type="message", msg=said("wait"))
        await begun.wait()
        await client.send(type="message", msg=said("and?"))
        assert (await client.receive())["data"]["type"] == "busy"
        await client.send(type="interrupt", reason="enough")
        assert (await client.until("error"))["data"]["type"] == "interrupted"
        assert await client.talk("go") == "done"


async def test_an_interrupt_ends_a_turn_that_has_not_begun(tmp_path: Path) -> None:
    async with socket(app_of(chat, tmp_path)) as client:
        await client.begin()
        message = json.dumps({"type": "message", "msg": said("one two three")})
        for _ in range(20):
            await client.connection.send(message)
            await client.send(type="interrupt")
            assert (await client.until("message", "error"))["data"].get("type") == "interrupted"
        assert await client.talk("go") == "Bob: go"


class Held(AgentBase):
    """Has each turn wait until it is let go on."""

    def __init__(self) -> None:
        super().__init__("Held")
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        self.begun.set()
        await self.go_on.wait()
        return Msg(self.name, f"{x.text} done", "assistant")


async def test_an_interrupt_ends_ones_own_turn_that_waits_and_nobody_elses(tmp_path: Path) -> None:
    held = Held()
    async with served(app_of(held, tmp_path)) as origin:
        url = origin.replace("http", "ws") + "/Held/ws"
        async with connect(url) as one, connect(url) as two:
            ann, bob = Client(one), Client(two)
            await ann.begin()
            await bob.begin()
            await ann.send(type="message", msg=said("first"))
            await held.begun.wait()
            await bob.send(type="message", msg=said("second"))
            await bob.send(type="interrupt")
            assert (await bob.until("message", "error"))["data"].get("type") == "interrupted"
            held.go_on.set()
            assert (await ann.until("message", "error"))["data"].get("content") == "first done"
            assert await bob.talk("third") == "third done"
    assert held.mailbox.statistics().handled == 2


class Curious(AgentBase):
    """Asks the person for their name."""

    def __init__(self, key: str) -> None:
        super().__init__("Curious")

    async def reply(self, x: Any = None) -> Msg:
        person = UserAgent("Person", source=ask_person)
        name = await person(Msg("Curious", "What is your name?", "assistant"))
        return Msg(self.name, f"Hello {name.text}", "assistant")


async def test_an_agent_can_ask_the_person_at_the_other_end(tmp_path: Path) -> None:
    async with socket(app_of({"chat": Curious}, tmp_path)) as client:
        await client.begin()
        await client.send(type="input", id="1", text="early")
        assert (await client.receive())["data"]["type"] == "not_asked"
        await client.send(type="message", msg=said("Hi"))
        question = await client.until("input_request")
        assert question["data"]["prompt"]
        await client.send(type="input", id="wrong", text="Eve")
        assert (await client.receive())["data"]["type"] == "not_asked"
        await client.send(type="input", id=question["data"]["id"], text="Bob")
        assert (await client.until("message"))["data"]["content"] == "Hello Bob"


async def test_work_that_outlives_its_turn_can_ask_nobody(tmp_path: Path) -> None:
    asked: list[asyncio.Task[str]] = []
    told = asyncio.Event()

    class Careless(AgentBase):
        def __init__(self, key: str) -> None:
            super().__init__("Careless")

        async def reply(self, x: Any = None) -> Msg:
            asked.append(asyncio.create_task(ask_person("now?")))
            asked.append(asyncio.create_task(self.ask_late()))
            await asyncio.sleep(0)
            return Msg(self.name, "done", "assistant")

        async def ask_late(self) -> str:
            await told.wait()
            return await ask_person("later?")

    async with socket(app_of({"chat": Careless}, tmp_path)) as client:
        await client.begin()
        assert await client.talk("Hi") == "done"
        told.set()
        for task in asked:
            with pytest.raises(ConfigError, match="is over"):
                await task


async def test_a_person_is_asked_over_a_websocket_only(tmp_path: Path) -> None:
    import httpx

    with pytest.raises(ConfigError, match="nobody does here"):
        await ask_person("?")
    async with served(app_of({"chat": Curious}, tmp_path)) as origin, httpx.AsyncClient() as http:
        answer = await http.post(f"{origin}/chat", json=said("Hi"))
        assert answer.json()["error"]["type"] == "no_person"


async def test_a_client_that_leaves_cancels_its_turn(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def think(messages: Any) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    make = {"chat": lambda key: DialogAgent("Ann", None, FunctionModel(think))}
    async with socket(app_of(make, tmp_path)) as client:
        await client.begin()
        await client.send(type="message", msg=said("Hi"))
        await begun.wait()
        await client.connection.close()
        await ended.wait()


@pytest.mark.parametrize("id", ["0" * 32, "x", "' OR 1=1", 5, {}])
async def test_a_session_that_was_not_issued_ends_the_conversation(id: Any, tmp_path: Path) -> None:
    async with socket(app_of(chat, tmp_path)) as client:
        await client.send(type="begin", session=id)
        assert (await client.receive())["type"] == "error"
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("frame", "type"),
    [
        ("no json", "bad_frame"),
        ("[1]", "bad_frame"),
        (b"\x00", "bad_frame"),
        ('{"type": "shout"}', "bad_frame"),
        ('{"type": ["message"]}', "bad_frame"),
        ('{"type": "begin"}', "bad_frame"),
        ('{"type": "message"}', "bad_message"),
        ('{"type": "message", "msg": {"name": "Bob"}}', "bad_message"),
        ('{"type": "message", "msg": {"name": "Bob", "content": "x", "role": "system"}}', "bad_message"),
        ('{"type": "message", "msg": {"name": "Bob", "content": "x", "url": "/etc/passwd"}}', "bad_message"),
        ('{"type": "input", "id": 5, "text": "x"}', "bad_frame"),
        ('{"type": "interrupt", "reason": 5}', "bad_frame"),
    ],
)
async def test_a_bad_frame_is_told_and_the_conversation_goes_on(
    frame: str | bytes, type: str, tmp_path: Path
) -> None:
    async with socket(app_of(chat, tmp_path)) as client:
        await client.begin()
        await client.connection.send(frame)
        told = await client.receive()
        assert (told["type"], told["data"]["type"]) == ("error", type)
        assert await client.talk("still here") == "Bob: still here"


async def test_a_frame_that_is_too_large_closes_the_socket(tmp_path: Path) -> None:
    async with socket(app_of(chat, tmp_path, max_body_bytes=1000)) as client:
        await client.begin()
        await client.send(type="message", msg=said("x" * 2000))
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_words_that_cannot_be_sent_end_the_turn_and_not_the_conversation(tmp_path: Path) -> None:
    class Garbling(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            if x.text == "garble":
                await self.speak(Speech("text", "\ud800"))
            return Msg(self.name, "fine", "assistant")

    async with socket(app_of(Garbling("chat"), tmp_path)) as client:
        await client.begin()
        assert await client.talk("garble") == "internal"
        assert await client.talk("speak") == "fine"


async def test_too_many_turns_are_told(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def think(messages: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    make = {"chat": lambda key: DialogAgent("Ann", None, FunctionModel(think))}
    app = app_of(make, tmp_path, max_turns=1)
    async with served(app) as origin:
        url = origin.replace("http", "ws") + "/chat/ws"
        async with connect(url) as one, connect(url) as two:
            first, second = Client(one), Client(two)
            await first.begin()
            await second.begin()
            await first.send(type="message", msg=said("Hi"))
            await begun.wait()
            assert await second.talk("Hi") == "overloaded"


def user_of_token(authorization: str = Header("")) -> str:
    if authorization not in ("Bearer a", "Bearer b"):
        raise HTTPException(401)
    return authorization


async def test_who_is_not_let_in_gets_no_socket(tmp_path: Path) -> None:
    app = app_of(chat, tmp_path, auth=user_of_token)
    async with served(app) as origin:
        url = origin.replace("http", "ws") + "/chat/ws"
        with pytest.raises(InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code in (401, 403)
        async with connect(url, additional_headers={"Authorization": "Bearer a"}) as connection:
            client = Client(connection)
            await client.begin()
            assert await client.talk("Hi") == "Bob: Hi"


async def test_a_session_of_another_user_is_refused(tmp_path: Path) -> None:
    app = app_of(chat, tmp_path, auth=user_of_token)
    async with served(app) as origin:
        url = origin.replace("http", "ws") + "/chat/ws"
        async with connect(url, additional_headers={"Authorization": "Bearer a"}) as connection:
            session = await Client(connection).begin()
        async with connect(url, additional_headers={"Authorization": "Bearer b"}) as connection:
            client = Client(connection)
            await client.send(type="begin", session=session)
            assert (await client.receive())["data"]["type"] == "unknown_session"


async def test_a_web_page_of_another_host_gets_no_socket(tmp_path: Path) -> None:
    app = app_of(chat, tmp_path, origins=["https://friend.example"])
    async with served(app) as origin:
        url = origin.replace("http", "ws") + "/chat/ws"
        for other in ("https://evil.example", "http://[::1", ""):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, additional_headers={"Origin": other})
            assert refused.value.response.status_code == 403
        for allowed in ("https://friend.example", origin):
            async with connect(url, origin=allowed) as connection:  # type: ignore[arg-type]
                await Client(connection).begin()
