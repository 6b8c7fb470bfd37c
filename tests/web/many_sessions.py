"""Many conversations on few live agents, across a restart and a kill -9.

``python -m tests.web.many_sessions 1000 100``: 1,000 sessions of two users, 100 agents in memory.
Every reply that a client has seen must be in its history afterwards, and nothing of anybody else.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

SESSION = "X-Session-Id"
USERS = ("ann", "bob")
LEAVE_S = 20


@dataclass
class Conversation:
    """What one client has said and been answered."""

    number: int
    id: str | None = None
    acknowledged: list[str] = field(default_factory=list)
    sent: int = 0

    @property
    def headers(self) -> dict[str, str]:
        user = {"Authorization": f"Bearer {USERS[self.number % 2]}"}
        return user if self.id is None else {**user, SESSION: self.id}

    async def turn(self, http: httpx.AsyncClient) -> None:
        self.sent += 1
        text = f"session {self.number} turn {self.sent}"
        while True:
            answer = await http.post("/chat", json={"name": "I", "content": text}, headers=self.headers)
            if answer.status_code != 503:
                break
            await asyncio.sleep(float(answer.headers["Retry-After"]))
        answer.raise_for_status()
        assert answer.json()["content"] == f"I: {text}"
        self.id = answer.headers[SESSION]
        self.acknowledged.append(text)

    async def check(self, http: httpx.AsyncClient) -> None:
        """Fail unless all that was acknowledged is there, in order, and nothing foreign is."""
        if self.id is None:
            return
        answer = await http.get("/chat/history", params={"last": 1000}, headers=self.headers)
        answer.raise_for_status()
        said = [each["content"] for each in answer.json() if each["role"] == "user"]
        assert said[: len(self.acknowledged)] == self.acknowledged, f"lost: {self}"
        assert len(said) <= self.sent, f"too much: {said}"
        assert all(text.startswith(f"session {self.number} turn ") for text in said), f"mixed: {said}"
        # What may be there beyond that: the one turn that was under way when the process was killed.
        assert len(said) <= len(self.acknowledged) + 1
        self.acknowledged, self.sent = said, len(said)

    async def check_foreign(self, http: httpx.AsyncClient) -> None:
        """Fail unless the other user is refused."""
        if self.id is None:
            return
        foreign = {**self.headers, "Authorization": f"Bearer {USERS[(self.number + 1) % 2]}"}
        answer = await http.get("/chat/history", headers=foreign)
        assert answer.status_code == 404, answer.text


def _start(store: Path, live: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.web.session_app", str(store), str(live)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@asynccontextmanager
async def service(store: Path, live: int) -> AsyncIterator[tuple[subprocess.Popen[bytes], httpx.AsyncClient]]:
    child = _start(store, live)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        try:
            origin = (await asyncio.to_thread(child.stdout.readline)).decode().strip()
            async with httpx.AsyncClient(base_url=origin, timeout=60) as http:
                yield child, http
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(child.wait, LEAVE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


async def each(
    talks: list[Conversation], work: Callable[[Conversation], Awaitable[None]], at_once: int
) -> None:
    """Run ``work`` for all in random order, so many at a time."""
    waiting = random.sample(talks, len(talks))

    async def run() -> None:
        while waiting:
            await work(waiting.pop())

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(run())


async def run(sessions: int, live: int, store: Path, tell: Callable[[str], object] = print) -> None:
    """Hold all conversations; raises AssertionError when something was lost or mixed up."""
    talks = [Conversation(number) for number in range(sessions)]
    at_once = min(live, 50)
    began = time.monotonic()
    async with service(store, live) as (_, http):
        for _ in range(2):
            await each(talks, lambda talk: talk.turn(http), at_once)
            count = (await http.get("/live")).json()
            assert count <= live, count
            tell(f"{sessions} sessions had a turn; {count} agents are in memory")
    assert len({talk.id for talk in talks}) == sessions
    tell("restarted in order")
    acknowledged = 0
    async with service(store, live) as (child, http):
        await each(talks, lambda talk: talk.check(http), at_once)
        await each(talks, lambda talk: talk.check_foreign(http), at_once)
        tell("every history is whole, and refused to the other user")
        enough = asyncio.Event()

        async def turn(talk: Conversation) -> None:
            nonlocal acknowledged
            try:
                await talk.turn(http)
            except httpx.TransportError:
                assert enough.is_set()  # killed
                return
            acknowledged += 1
            if acknowledged == sessions // 2 and not enough.is_set():
                enough.set()
                child.kill()

        await each(talks, turn, at_once)
    tell(f"killed (SIGKILL) after {acknowledged} more acknowledged turns")
    async with service(store, live) as (_, http):
        await each(talks, lambda talk: talk.check(http), at_once)
        await each(talks, lambda talk: talk.turn(http), at_once)
        await each(talks, lambda talk: talk.check(http), at_once)
        await each(talks, lambda talk: talk.check_foreign(http), at_once)
        count = (await http.get("/live")).json()
    assert count <= live, count
    turns = sum(talk.sent for talk in talks)
    tell(f"0 lost, 0 mixed up: {turns} turns in {time.monotonic() - began:.1f} s; {count} agents in memory")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]), Path(directory) / "agents.db"))
