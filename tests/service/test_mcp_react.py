"""An agent that uses the tools of an MCP server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from service.mcp_servers.mcp_tools import call, quickstart, quickstart_over_http

from agentscope_async import ModelResponse, ReActAgent, ScriptedModel, ToolCallPart, Usage
from agentscope_async.service import Toolkit
from agentscope_async.service.mcp import MCPClient

pytest.importorskip("mcp")


def wanting(name: str, /, **arguments: Any) -> ModelResponse:
    return ModelResponse(None, tool_calls=[ToolCallPart("1", name, arguments)], usage=Usage(1, 1))


def result_in(prompt: Any) -> str:
    return str(prompt[-1]["content"])


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_an_agent_uses_the_official_quickstart_server(over: str) -> None:
    toolkit = Toolkit()
    with quickstart(over) as client:
        async with client:
            await client.join(toolkit, trusted_tools=["add"])
            model = ScriptedModel([wanting("add", a=20, b=22), "It is 42."])
            agent = ReActAgent("ann", model=model, tools=toolkit, tool_calling="native")
            answer = await agent("What is 20 + 22?")
    assert answer.text == "It is 42."
    assert list(answer.untrusted) == ["add"]
    assert result_in(model.calls[1]) == '<untrusted-content source="add">\n42\n</untrusted-content>'


async def test_an_agent_goes_on_when_its_mcp_server_is_killed_in_a_call() -> None:
    toolkit = Toolkit()
    with quickstart_over_http() as (url, process):
        async with MCPClient(url=url) as client:
            await client.join(toolkit, dangerous=False)
            model = ScriptedModel([wanting("wait", name="ann"), "The server is gone."])
            agent = ReActAgent("ann", model=model, tools=toolkit, tool_calling="native")
            turn = asyncio.create_task(agent("Wait."))
            await call(toolkit, "who_waits", expected=1)
            process.kill()
            answer = await turn
    assert answer.text == "The server is gone."
    assert "MCPServerGone: MCP server '127.0.0.1' is gone" in result_in(model.calls[1])
