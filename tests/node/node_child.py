"""A node in a process of its own, for tests: ``python node_child.py``, with a job as a line of JSON.

It prints ``{"url": ...}`` once it listens, answers each line of its standard input with a line,
and ends when that input does. SIGTERM has it leave its runtime as a program does that is done;
the last line it prints is then what its agents have seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentscope_async import DialogAgent, Msg, Runtime
from agentscope_async.agents import AgentBase
from agentscope_async.events import LinkChanged

PARTS = 3
"""Pieces in which a Journal speaks, if somebody listens."""


class Counted(AgentBase):
    """Knows how many of its turns began, and how many of those are not over."""

    begun = running = 0

    async def reply(self, x: Any = None) -> Msg:
        self.begun += 1
        self.running += 1
        try:
            return Msg(self.name, await self.work(x), "assistant")
        finally:
            self.running -= 1

    async def work(self, x: Any) -> str:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        return {"begun": self.begun, "running": self.running}


class Journal(Counted):
    """Notes the number each message begins with, and answers with it, after ``delay_s`` seconds."""

    def __init__(self, name: str, delay_s: float = 0.0) -> None:
        super().__init__(name, use_memory=False)
        self.delay_s = delay_s
        self.seen: list[int] = []

    async def work(self, x: Any) -> str:
        number = int(x.text.split()[0])
        self.seen.append(number)
        if self.is_heard:
            for part in range(PARTS):
                await self.speak(f"{number}.{part} ")
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return str(number)

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"seen": self.seen}


class Holder(Counted):
    """Keeps its turn until it is told to release it, or cancelled."""

    def __init__(self, name: str) -> None:
        super().__init__(name, use_memory=False)
        self.released = asyncio.Event()

    async def work(self, x: Any) -> str:
        await self.released.wait()
        return x.text


class Relay(Counted):
    """Asks an agent of another node, and answers what that says."""

    def __init__(self, name: str, to: str) -> None:
        super().__init__(name, use_memory=False)
        self.to = to
        self.next: Any = None

    async def work(self, x: Any) -> str:
        return (await self.next(x)).text


class Blocker(Counted):
    """Stops the whole event loop for as many seconds as the message says, as a handler should not."""

    async def work(self, x: Any) -> str:
        time.sleep(float(x.text))  # noqa: ASYNC251  # that is the point
        return "blocked"


KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Journal, Holder, Relay, Blocker, DialogAgent)}


class Child:
    """Does what the parent wants done."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.wanted = job.pop("agents")
        self.job = job
        self.agents: dict[str, Any] = {}
        self.links: list[tuple[str, str]] = []
        self.is_told_to_end = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.is_told_to_end.set)
        answering = asyncio.create_task(self.answer(loop))
        with suppress(EOFError):
            async with Runtime(**self.job) as self.runtime:
                for key, options in self.wanted.items():
                    self.export(key, **options)
                noting = asyncio.create_task(self.note_links())
                say({"url": self.runtime.url})
                await self.is_told_to_end.wait()
                if answering.done():
                    raise EOFError  # the parent is gone: nothing is to be finished
            await noting
            say(self.facts())
        answering.cancel()
        await asyncio.wait([answering])

    def export(self, key: str, *, kind: str, **options: Any) -> None:
        agent = self.agents[key] = KINDS[kind](name=key, **options)
        if isinstance(agent, Relay):
            agent.next = self.runtime.agent(agent.to)
        self.runtime.export(key, agent)

    async def note_links(self) -> None:
        async for event in self.runtime.events():
            if isinstance(event, LinkChanged):
                self.links.append((event.state, event.reason))

    async def answer(self, loop: asyncio.AbstractEventLoop) -> None:
        reader = asyncio.StreamReader()
        pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        try:
            while line := await reader.readline():
                say(await self.do(json.loads(line)))
        finally:
            pipe.close()
            self.is_told_to_end.set()

    async def do(self, order: dict[str, Any]) -> Any:
        match order:
            case {"do": "facts"}:
                return self.facts()
            case {"do": "release", "agent": key}:
                self.agents[key].released.set()
            case {"do": "turn to", "agent": key, "url": url}:
                self.agents[key].next = self.runtime.agent(url)
        return {}

    def facts(self) -> dict[str, Any]:
        agents = {
            key: agent.facts() if isinstance(agent, Counted) else agent.mailbox.statistics()._asdict()
            for key, agent in self.agents.items()
        }
        tasks = len(asyncio.all_tasks())
        return {"agents": agents, "links": self.links, "resident": resident_bytes(), "tasks": tasks}


def resident_bytes() -> int:
    """How much memory this process has; 0 where the system does not tell."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(Child(json.loads(sys.stdin.readline())).run())
