"""A toolkit of ours, or with the argument ``agent`` an agent, as an MCP server on stdio."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from agentscope_async.message import Msg
from agentscope_async.service import Tool, Toolkit
from agentscope_async.service.mcp import serve_mcp
from agentscope_async.service.response import ServiceResponse


async def shout(arguments: dict[str, object]) -> ServiceResponse:
    print("a print in a tool")
    child = await asyncio.create_subprocess_exec("sh", "-c", "echo a print in a child; cat")
    await child.wait()  # its input is at its end
    return ServiceResponse.success(str(arguments["text"]).upper())


async def echo_agent(message: Msg) -> Msg:
    return Msg("echo", f"{message.name} said {message.text}", role="assistant")


if __name__ == "__main__":
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    toolkit = Toolkit([Tool("shout", "Say it in capitals.", parameters, shout)])
    asyncio.run(serve_mcp(echo_agent if "agent" in sys.argv else toolkit).over_stdio())
