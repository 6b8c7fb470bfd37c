"""What tests of MCP share."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope_async.message import ToolCallPart
from agentscope_async.service import Toolkit
from agentscope_async.service.mcp import MCPClient

if TYPE_CHECKING:
    from agentscope_async.service import ServiceResponse

FOLDER = Path(__file__).parent
QUICKSTART = str(FOLDER / "quickstart.py")


def hostile(*mode: str, **options: Any) -> MCPClient:
    """A client of the plain Python server that misbehaves on demand."""
    return MCPClient(
        sys.executable, [str(FOLDER / "hostile.py"), *(mode or ["good"])], name="hostile", **options
    )


@asynccontextmanager
async def joined(client: MCPClient, **options: Any) -> AsyncIterator[Toolkit]:
    """A toolkit with the tools of a server, none of which needs an approver."""
    toolkit = Toolkit()
    async with client:
        await client.join(toolkit, dangerous=False, **options)
        yield toolkit


@contextmanager
def quickstart_over_http() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL of the official package's server, and its process."""
    command = [sys.executable, QUICKSTART, "http"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp", process
        finally:
            process.kill()


@contextmanager
def quickstart(over: str) -> Iterator[MCPClient]:
    """A client of the official package's server, over ``stdio`` or ``http``."""
    if over == "stdio":
        yield MCPClient(sys.executable, [QUICKSTART])
        return
    with quickstart_over_http() as (url, _):
        yield MCPClient(url=url)


async def call(toolkit: Toolkit, name: str, /, **arguments: Any) -> ServiceResponse:
    outcome = await toolkit.call(ToolCallPart("1", name, arguments), agent="ann")
    return outcome.response


async def until_gone(pid: int) -> None:
    """Return when no such process runs; its file descriptor tells."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not just its remains."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
