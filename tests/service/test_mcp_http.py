"""Servers that misbehave over streamable HTTP, in plain asyncio."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from service.mcp_servers.mcp_tools import call

from agentscope_async.service import Toolkit
from agentscope_async.service.mcp import MCPClient

pytest.importorskip("mcp")

JSON = "content-type: application/json"
EVENTS = "content-type: text/event-stream"
OBJECT = {"type": "object", "properties": {}}
Answer = tuple[str, list[str], bytes]
"""Status line, headers, body."""


class Server:
    """Answers calls of ``evil`` as told, of ``echo`` as it should; ``forget`` ends the session."""

    def __init__(self, evil: Callable[[Any], Answer]) -> None:
        self._evil = evil
        self.session = 1
        self.keeps_sessions = False
        """It never answers who wants to end one."""
        self.requests: list[dict[str, str]] = []
        """The headers of each, names in small letters."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                headers = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:-2])
                self.requests.append(headers)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, more, answer = await self._answer(head, headers, json.loads(body) if body else {})
                lines = [f"HTTP/1.1 {status}", f"content-length: {len(answer)}", *more, "", ""]
                writer.write("\r\n".join(lines).encode() + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, headers: dict[str, str], message: dict[str, Any]) -> Answer:
        method, id = message.get("method"), message.get("id")
        match method:
            case _ if head.startswith("DELETE") and self.keeps_sessions:
                await asyncio.Event().wait()
                raise AssertionError
            case _ if not head.startswith("POST"):
                return "405 No", [], b""
            case "initialize":
                info = {"name": "evil", "version": "1"}
                result: dict[str, Any] = {
                    "protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info
                }  # fmt: skip
                return _result(id, result, f"mcp-session-id: {self.session}")
            case "server/discover":
                return "404 No", [], b""
            case _ if headers.get("mcp-session-id") != str(self.session):
                return "404 No", [], b""
            case "tools/list":
                tools = [{"name": name, "inputSchema": OBJECT} for name in ("echo", "evil", "forget")]
                return _result(id, {"tools": tools})
            case "tools/call" if message["params"]["name"] == "evil":
                return self._evil(id)
            case "tools/call":
                self.session += message["params"]["name"] == "forget"
                return _result(id, {"content": [{"type": "text", "text": "done"}]})
            case _:
                return "202 OK", [], b""


def _result(id: Any, result: dict[str, Any], *headers: str) -> Answer:
    return "200 OK", [JSON, *headers], json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode()


def _text(id: Any, text: str) -> bytes:
    return _result(id, {"content": [{"type": "text", "text": text}]})[2]


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    finally:
        listener.close()


@asynccontextmanager
async def joined(evil: Callable[[Any], Answer], **options: Any) -> AsyncIterator[tuple[Toolkit, Server]]:
    server, toolkit = Server(evil), Toolkit()
    async with listening(server) as url, MCPClient(url=url, **options) as client:
        await client.join(toolkit, dangerous=False, timeout_s=5)
        yield toolkit, server


BOMB = 5 * 1024 * 1024
HOSTILE: dict[str, Callable[[Any], Answer]] = {
    "too long": lambda id: ("200 OK", [JSON], _text(id, "x" * BOMB)),
    "many blocks": lambda id: _result(id, {"content": [{"type": "text", "text": ""}] * 100_000}),
    "a long event": lambda id: ("200 OK", [EVENTS], b"data: " + _text(id, "x" * BOMB) + b"\n\n"),
    "a gzip bomb": lambda id: (
        "200 OK",
        [JSON, "content-encoding: gzip"],
        gzip.compress(_text(id, "x" * BOMB)),
    ),
    "no json": lambda id: ("200 OK", [JSON], b"<html>"),
    "html": lambda id: ("200 OK", ["content-type: text/html"], b"<html>"),
    "nothing": lambda id: ("200 OK", [EVENTS], b""),
    "deep json": lambda id: ("200 OK", [JSON], b"[" * 100_000),
    "no result": lambda id: ("200 OK", [JSON], b'{"jsonrpc":"2.0","id":1,"result":"text"}'),
    "an error": lambda id: ("500 No", [], b""),
    "a redirect": lambda id: ("307 There", ["location: http://127.0.0.1:9/mcp"], b""),
}


@pytest.mark.parametrize("evil", HOSTILE.values(), ids=HOSTILE)
async def test_an_answer_that_is_no_result_is_an_error_and_the_connection_goes_on(
    evil: Callable[[Any], Answer],
) -> None:
    async with joined(evil) as (toolkit, _):
        answer, after = await call(toolkit, "evil"), await call(toolkit, "echo")
    assert not answer.is_success
    assert len(answer.content) < 1000
    assert after.content == "done"


async def test_a_redirect_elsewhere_is_not_followed_and_takes_no_key_along() -> None:
    elsewhere = Server(HOSTILE["no json"])
    async with listening(elsewhere) as url:
        redirect: Answer = ("307 There", [f"location: {url}"], b"")
        async with joined(lambda id: redirect, headers={"Authorization": "Bearer s3cret"}) as (
            toolkit,
            server,
        ):
            answer = await call(toolkit, "evil")
    assert "not followed" in answer.content
    assert {each["authorization"] for each in server.requests} == {"bearer s3cret"}
    assert elsewhere.requests == []


async def test_a_server_that_does_not_let_us_go_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentscope_async.service.mcp._connection.ENDING_S", 0.2)
    async with joined(HOSTILE["no json"]) as (toolkit, server):
        server.keeps_sessions = True
        assert (await call(toolkit, "echo")).is_success
    assert server.requests[-1]["mcp-session-id"] == "1"


async def test_a_forgotten_session_is_a_typed_error_and_the_next_call_begins_another() -> None:
    async with joined(HOSTILE["no json"]) as (toolkit, _):
        assert (await call(toolkit, "forget")).is_success
        forgotten, after = await call(toolkit, "echo"), await call(toolkit, "echo")
    assert forgotten.content == "MCPServerGone: MCP server '127.0.0.1' is gone: it has forgotten our session."
    assert after.content == "done"
