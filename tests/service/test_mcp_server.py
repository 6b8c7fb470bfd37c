from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from service.mcp_servers.mcp_tools import FOLDER, call

from agentscope_async.errors import ConfigError
from agentscope_async.message import ImagePart, Msg, ToolCallPart
from agentscope_async.service import ServiceResponse, Tool, ToolApproval, Toolkit
from agentscope_async.service.mcp import MCPClient, serve_mcp

mcp = pytest.importorskip("mcp")

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLKIT_SERVER = [str(FOLDER / "toolkit_server.py")]
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"accept": "application/json, text/event-stream"}


async def shout(arguments: dict[str, Any]) -> ServiceResponse:
    return ServiceResponse.success(arguments["text"].upper())


async def structured(arguments: dict[str, Any]) -> ServiceResponse:
    response = ServiceResponse.success({"n": 2})
    response["media"] = [
        ImagePart("data:image/png;base64,aGVsbG8=", "image/png"),
        ImagePart("/home/ann/secret.png"),
    ]
    return response


async def failing(arguments: dict[str, Any]) -> ServiceResponse:
    return ServiceResponse.error("no such city")


def toolkit_of(*tools: Tool, **options: Any) -> Toolkit:
    return Toolkit(tools or [Tool("shout", "Say it in capitals.", TEXT, shout)], **options)


class Echo:
    """The least an agent can be."""

    name = "echo"

    async def __call__(self, message: Msg) -> Msg:
        said = f"{message.name} said {message.text} (from {', '.join(message.untrusted)})"
        return Msg(self.name, said, role="assistant")


@asynccontextmanager
async def using(client: MCPClient) -> AsyncIterator[Toolkit]:
    toolkit = Toolkit()
    async with client:
        await client.join(toolkit, dangerous=False)
        yield toolkit


# -- both ways --


async def test_our_toolkit_is_used_by_our_client_over_stdio_whatever_its_tools_print(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with using(MCPClient(sys.executable, TOOLKIT_SERVER)) as toolkit:
        answer = await call(toolkit, "shout", text="hello")
        assert toolkit.tools[0].description == "Say it in capitals."
    assert answer.content == "HELLO"
    assert "mcp_line_is_no_message" not in caplog.text


async def test_our_agent_is_used_by_the_official_client_over_stdio() -> None:
    server = mcp.StdioServerParameters(command=sys.executable, args=[*TOOLKIT_SERVER, "agent"])
    async with mcp.Client(server) as client:
        listed = await client.list_tools()
        result = await client.call_tool("ask", {"message": "hello"})
    assert [tool.name for tool in listed.tools] == ["ask"]
    assert result.content[0].text == "mcp_client said hello"


async def test_a_server_on_stdio_ends_when_its_client_hangs_up() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *TOOLKIT_SERVER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(b"no message\n")
    assert (process.returncode, out) == (0, b"")


async def test_our_toolkit_is_used_by_our_client_over_http() -> None:
    async with (
        serve_mcp(toolkit_of()).over_http() as url,
        using(MCPClient(url=url)) as toolkit,
    ):
        calls = [ToolCallPart(str(i), "shout", {"text": f"hello {i}"}) for i in range(20)]
        outcomes = await toolkit.call_all(calls)
    assert [each.response.content for each in outcomes] == [f"HELLO {i}" for i in range(20)]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_our_toolkit_is_used_by_the_official_client_over_http(mode: str) -> None:
    async with serve_mcp(toolkit_of()).over_http() as url, mcp.Client(url, mode=mode) as client:
        listed = await client.list_tools()
        result = await client.call_tool("shout", {"text": "hello"})
        wrong = await client.call_tool("whisper", {})
    assert listed.tools[0].input_schema == TEXT
    assert (result.is_error, result.content[0].text) == (False, "HELLO")
    assert wrong.is_error
    assert "no tool 'whisper'" in wrong.content[0].text


async def test_our_agent_is_used_by_our_client_over_http() -> None:
    async with (
        serve_mcp(Echo(), description="Says it again.").over_http() as url,
        using(MCPClient(url=url)) as toolkit,
    ):
        answer = await call(toolkit, "ask", message="hello")
        wrong = await call(toolkit, "ask", message=5, root="/")
        description = toolkit.tools[0].description
    assert answer.content == "mcp_client said hello (from an MCP client)"
    assert "a text, and nothing else" in wrong.content
    assert description == "Says it again."


async def test_media_and_objects_cross_and_local_paths_do_not() -> None:
    toolkit = toolkit_of(Tool("structured", "", {"type": "object"}, structured))
    async with serve_mcp(toolkit).over_http() as url, using(MCPClient(url=url)) as joined:
        answer = await call(joined, "structured")
    assert answer["structured"] == {"n": 2}
    assert answer["media"] == [ImagePart("data:image/png;base64,aGVsbG8=", "image/png")]
    assert "secret.png" not in str(answer)


async def test_a_tools_error_is_an_error_at_the_client() -> None:
    toolkit = toolkit_of(Tool("failing", "", {"type": "object"}, failing))
    async with serve_mcp(toolkit).over_http() as url, using(MCPClient(url=url)) as joined:
        answer = await call(joined, "failing")
    assert (answer.is_success, answer.content) == (False, "no such city")


async def test_a_call_the_client_cancels_is_cancelled_here() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(arguments: dict[str, Any]) -> ServiceResponse:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    toolkit = toolkit_of(Tool("wait", "", {"type": "object"}, wait))
    async with serve_mcp(toolkit).over_http() as url, using(MCPClient(url=url)) as joined:
        waiting = asyncio.create_task(call(joined, "wait"))
        await begun.wait()
        waiting.cancel()
        await ended.wait()
        await asyncio.wait([waiting])


# -- rights --


async def test_a_dangerous_tool_is_refused_to_clients_unless_the_approver_knows_who_asks_and_agrees() -> None:
    asked: list[ToolApproval] = []

    def approve(request: ToolApproval) -> bool:
        asked.append(request)
        return request.arguments == {"text": "yes"}

    danger = Tool("shout", "", TEXT, shout, dangerous=True)
    async with (
        serve_mcp(toolkit_of(danger)).over_http() as nobody,
        serve_mcp(toolkit_of(danger, approve=approve)).over_http() as somebody,
        using(MCPClient(url=nobody)) as unapproved,
        using(MCPClient(url=somebody)) as approved,
    ):
        refused = await call(unapproved, "shout", text="yes")
        no, yes = await call(approved, "shout", text="no"), await call(approved, "shout", text="yes")
    assert "nobody is there to approve it" in refused.content
    assert (no.is_success, yes.is_success) == (False, True)
    assert {(each.agent, each.tainted_by) for each in asked} == {("mcp_client", ("an MCP client",))}


async def test_without_its_token_nobody_gets_in() -> None:
    async with serve_mcp(toolkit_of()).over_http(token="s3cret") as url, httpx.AsyncClient() as browser:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            answer = await browser.post(url, json=HELLO, headers={**ACCEPT, **given})
            assert answer.status_code == 401
        async with using(MCPClient(url=url, headers={"Authorization": "Bearer s3cret"})) as toolkit:
            assert (await call(toolkit, "shout", text="hello")).content == "HELLO"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "attacker.example"}, 421),
        ({"origin": "http://attacker.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
    ],
)
async def test_web_pages_are_turned_away(headers: dict[str, str], status: int) -> None:
    async with serve_mcp(toolkit_of()).over_http() as url, httpx.AsyncClient() as browser:
        answer = await browser.post(url, json=HELLO, headers={**ACCEPT, **headers})
    assert answer.status_code == status


async def test_it_is_served_on_loopback_only_and_its_port_is_free_afterwards() -> None:
    async with serve_mcp(toolkit_of()).over_http() as url:
        assert url.startswith("http://127.0.0.1:")
    port = int(url.split(":")[2].split("/")[0])
    async with serve_mcp(toolkit_of()).over_http(port=port) as again:
        assert again == url


async def test_leaving_ends_calls_under_way() -> None:
    begun = asyncio.Event()

    async def wait(arguments: dict[str, Any]) -> ServiceResponse:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    toolkit = toolkit_of(Tool("wait", "", {"type": "object"}, wait))
    serving = serve_mcp(toolkit).over_http()
    async with using(MCPClient(url=await serving.__aenter__())) as joined:
        waiting = asyncio.create_task(call(joined, "wait"))
        await begun.wait()
        await serving.__aexit__(None, None, None)
        answer = await waiting
    assert not answer.is_success


# -- the program's own mistakes --


@pytest.mark.parametrize(
    ("offered", "options"), [(5, {}), (Toolkit(), {"description": "x"})], ids=["a number", "a description"]
)
def test_what_cannot_be_served_is_an_error(offered: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        serve_mcp(offered, **options)


def test_an_empty_token_is_an_error() -> None:
    with pytest.raises(ConfigError, match="empty"):
        serve_mcp(toolkit_of()).app(token="")
