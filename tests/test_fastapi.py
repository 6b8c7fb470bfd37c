"""Messages and runtimes inside a FastAPI application, as README shows it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from agentscope_async import DialogAgent, EchoModel, Msg, Runtime, current_runtime


@asynccontextmanager
async def lifespan(app: FastAPI) -> Any:
    async with Runtime() as runtime:
        app.state.runtime = runtime
        app.state.ann = DialogAgent("Ann", "You are kind.", EchoModel())
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(message: Msg) -> Msg:
    return await app.state.ann(message)


@app.post("/talk")
async def talk(messages: list[Msg]) -> list[Msg]:
    return [await app.state.ann(message) for message in messages]


@app.get("/runtime")
async def runtime() -> bool:
    return current_runtime() is app.state.runtime


@asynccontextmanager
async def client() -> Any:
    # The lifespan has a task of its own, as in a server: its context variables are not the handlers'.
    begun, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.router.lifespan_context(app):
            begun.set()
            await over.wait()

    life = asyncio.create_task(live())
    await begun.wait()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        yield http
    over.set()
    await life


async def test_a_message_is_a_body_and_an_answer() -> None:
    async with client() as http:
        answer = await http.post("/chat", json={"name": "Bob", "content": "Hi", "role": "user"})
        assert answer.status_code == 200
        assert answer.json()["name"] == "Ann"
        assert answer.json()["content"] == "Bob: Hi"
        several = await http.post("/talk", json=[{"name": "Bob", "content": "Hi", "role": "user"}])
        assert [each["name"] for each in several.json()] == ["Ann"]


async def test_a_bad_body_is_the_clients_mistake() -> None:
    async with client() as http:
        for body in ({"name": "Bob"}, {"name": "Bob", "content": "x", "role": "boss"}, [1], 5):
            assert (await http.post("/chat", json=body)).status_code == 422


async def test_handlers_find_the_runtime_of_the_lifespan() -> None:
    async with client() as http:
        assert (await http.get("/runtime")).json() is True


async def test_many_clients_are_served_one_turn_at_a_time() -> None:
    async with client() as http:
        bodies = [{"name": "Bob", "content": f"Hi {n}", "role": "user"} for n in range(50)]
        answers = await asyncio.gather(*(http.post("/chat", json=body) for body in bodies))
        assert [each.json()["content"] for each in answers] == [f"Bob: Hi {n}" for n in range(50)]
        assert app.state.ann.memory.size() == 100


def test_the_schema_names_the_message() -> None:
    paths = app.openapi()["paths"]
    body = paths["/chat"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "name" in (body.get("properties") or app.openapi()["components"]["schemas"]["Msg"]["properties"])
