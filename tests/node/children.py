"""Nodes in processes of their own, and what tests with them share."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope_async.events import LinkChanged

if TYPE_CHECKING:
    from agentscope_async import Runtime

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-these-tests-only-and-no-others"
PATIENCE_S = 45.0
"""No test depends on this: what should happen and does not is told before pytest ends the test."""
LONGEST_LINE = 64 * 1024 * 1024


class ChildNode:
    """``node_child.py``, running; see there.

    Attributes:
        url: where it listens.
        process: the process.
    """

    url: str

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._asking = asyncio.Lock()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def facts(self) -> dict[str, Any]:
        """What its agents have seen, its links, its memory."""
        return await self.tell({"do": "facts"})

    async def of(self, key: str) -> dict[str, Any]:
        """What one of its agents has seen."""
        return (await self.facts())["agents"][key]

    async def tell(self, order: dict[str, Any]) -> dict[str, Any]:
        """Have something done, by a way that is not the link."""
        async with self._asking, asyncio.timeout(PATIENCE_S):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            return await self.heard()

    async def heard(self) -> dict[str, Any]:
        """Return the next line it prints."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, f"the child ended with code {await self.process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.process.kill()
        await self.process.wait()

    def stop(self) -> None:
        """Freeze it; ``go_on`` ends that."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Tell it to finish what is under way and end."""
        self.process.terminate()


@asynccontextmanager
async def child_node(
    agents: dict[str, dict[str, Any]], *, node: str = "child", listen: str = "ws://127.0.0.1:0", **job: Any
) -> AsyncIterator[ChildNode]:
    """Run a node with ``agents`` in a process of its own, until the block is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("node_child.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    child = ChildNode(process)
    try:
        async with asyncio.timeout(PATIENCE_S):
            job = {"agents": agents, "node": node, "listen": listen, "token": TOKEN, **job}
            child.url = (await child.tell(job))["url"]
        yield child
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


class LinkWatch:
    """What a runtime tells of its links, as it happens."""

    def __init__(self) -> None:
        self.changes: list[LinkChanged] = []
        self.at: list[float] = []  # times of the event loop, one for each change
        self._news = asyncio.Condition()

    def count(self, state: str, reason: str | None = None) -> int:
        return sum(each.state == state and reason in (None, each.reason) for each in self.changes)

    async def until(self, state: str, reason: str | None = None, *, times: int = 1) -> None:
        """Wait until a link was in a state so many times."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: self.count(state, reason) >= times)

    async def read(self, runtime: Runtime) -> None:
        async for event in runtime.events():
            if isinstance(event, LinkChanged):
                self.changes.append(event)
                self.at.append(asyncio.get_running_loop().time())
                async with self._news:
                    self._news.notify_all()


@asynccontextmanager
async def watching_links(runtime: Runtime) -> AsyncIterator[LinkWatch]:
    """Note what happens to the links of a runtime inside the block."""
    watch = LinkWatch()
    reading = asyncio.create_task(watch.read(runtime))
    await asyncio.sleep(0)  # in which the reading begins
    try:
        yield watch
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something holds that only asking can tell."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"still not so: {what}") from None


async def outcomes(asks: list[asyncio.Task[Any]]) -> list[Any]:
    """Return the results and errors of asks, all of which must end."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*asks, return_exceptions=True)
