"""Many clients that hear their agents, and many that leave while they do.

``python -m tests.web.sse_load --clients 500 --seconds 300``: each client streams turn after turn from an
agent over a fake model that takes five seconds for an answer, ten turns to a session; counts
errors, and measures the memory of the service once a second. Then 200 others stream from an agent
over a model server, and leave at random moments: turns and model calls still open are counted
at the service and at the model server. Linux only (memory is read from /proc).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.web.fake_model import FakeModel, fake_model
from tests.web.serving import read_events, said

SESSION = "X-Session-Id"
TURNS_A_SESSION = 10
TEXT = "one two three four five six seven eight"
WORDS = len(f"Bob: {TEXT}".split())
STAY_S = 3.0
LEAVE_S = 20


@dataclass
class Load:
    """What a run has come to.

    Attributes:
        turns: good ones.
        errors: of clients, by what they were.
        rss_mb: memory of the service, once a second.
    """

    turns: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    rss_mb: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)

    @property
    def growth_mb(self) -> float:
        """Memory in the last quarter of the run, less that in the second one: medians."""
        quarter = max(1, len(self.rss_mb) // 4)
        return statistics.median(self.rss_mb[-quarter:]) - statistics.median(
            self.rss_mb[quarter : 2 * quarter] or self.rss_mb
        )


def _start(*args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.web.load_app", *args]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@asynccontextmanager
async def service(store: Path, model: FakeModel, delay_s: float) -> AsyncIterator[tuple[str, int]]:
    """Run the service; gives its origin and process id."""
    child = _start(str(store), model.url, str(delay_s))
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        try:
            yield (await asyncio.to_thread(child.stdout.readline)).decode().strip(), child.pid
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(child.wait, LEAVE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def client_of(origin: str) -> httpx.AsyncClient:
    # Shorter than the 5 s after which uvicorn closes an idle connection, just as it may be used again.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=1)
    return httpx.AsyncClient(base_url=origin, timeout=60, limits=limits, trust_env=False)


async def exchange(host: str, port: int, session: str) -> bytes:
    """Return the whole answer to one turn, on a connection of its own.

    Written by hand: 500 clients of a library would need more CPU than the service they press.
    """
    body = json.dumps(said(TEXT))
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(
            f"POST /echo/stream HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{f'{SESSION}: {session}' if session else 'X-None: x'}\r\n\r\n{body}".encode()
        )
        return await reader.read()
    finally:
        writer.close()


def _header_of(answer: bytes) -> str | None:
    found = re.search(rb"(?i)\r\nx-session-id: ([0-9a-f]{32})\r\n", answer)
    return None if found is None else found[1].decode()


async def hear(origin: str, load: Load, until: float) -> None:
    """Stream turn after turn, and check each."""
    await asyncio.sleep(random.uniform(0, 2))  # not all at once
    session = ""
    number = 0
    host, _, port = origin.rpartition("/")[2].partition(":")
    while time.monotonic() < until:
        if number % TURNS_A_SESSION == 0:
            session = ""
        number += 1
        began = time.monotonic()
        try:
            answer = await exchange(host, int(port), session)
        except OSError as error:
            load.errors[type(error).__name__] += 1
            continue
        status, session_id = answer[9:12], _header_of(answer)
        if status != b"200" or session_id is None or (session and session_id != session):
            load.errors[f"status {status!r}, session {session_id!r}"] += 1
            continue
        session = session_id
        count = answer.count
        if (
            count(b"event: speech") != WORDS
            or count(b"event: message") != 1
            or not answer.endswith(b"0\r\n\r\n")
        ):
            load.errors[f"not whole: {answer[-80:]!r}"] += 1
            continue
        load.turns += 1
        load.latency_s.append(time.monotonic() - began)


async def press(origin: str, pid: int, clients: int, seconds: float) -> Load:
    """Have so many clients listen for so long."""
    load = Load()
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(hear(origin, load, until))
        while time.monotonic() < until:
            await asyncio.sleep(1)
            load.rss_mb.append(rss_mb(pid))
    return load


async def leave(origin: str, model: FakeModel, clients: int) -> float:
    """Have clients leave at random moments; returns seconds until nothing of them was left."""
    heard = 0

    async def listen(http: httpx.AsyncClient) -> None:
        nonlocal heard
        async with http.stream("POST", "/remote/stream", json=said("Hi")) as answer:
            async for _ in read_events(answer.aiter_lines()):
                heard += 1

    async def stay(http: httpx.AsyncClient) -> None:
        try:
            async with asyncio.timeout(random.uniform(0, STAY_S)):
                await listen(http)
        except TimeoutError:
            pass

    async with client_of(origin) as http:
        await asyncio.gather(*(stay(http) for _ in range(clients)))
        left_at = time.monotonic()
        while (await http.get("/health")).json()["turns"] or model.open_calls:
            await asyncio.sleep(0.01)
        assert heard
        return time.monotonic() - left_at


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process: /proc/PID/status, VmRSS, in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"Process {pid} has no VmRSS.")


async def run(
    clients: int, seconds: float, leaving: int, delay_s: float, tell: Callable[[str], object] = print
) -> tuple[Load, float]:
    """Do both; returns the load, and how long what the leaving left took to end."""
    with tempfile.TemporaryDirectory() as directory:
        async with (
            fake_model() as model,
            service(Path(directory) / "agents.db", model, delay_s) as (origin, pid),
        ):
            load = await press(origin, pid, clients, seconds)
            rate = load.turns / seconds
            tell(
                f"{clients} clients, {seconds:g} s: {load.turns} turns ({rate:.0f}/s), errors: {load.errors}"
            )
            if load.latency_s:
                cuts = statistics.quantiles(load.latency_s, n=100)
                tell(f"a turn of {delay_s:g} s took {cuts[49]:.2f} s (median), {cuts[98]:.2f} s (99 %)")
            first, last = load.rss_mb[0], load.rss_mb[-1]
            tell(f"RSS {first:.0f} MB at first, {last:.0f} MB at last, {load.growth_mb:+.1f} MB since warm")
            over_s = await leave(origin, model, leaving)
            tell(f"{leaving} left: 0 turns and 0 of {model.calls} model calls open after {over_s:.2f} s")
    return load, over_s


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--leaving", type=int, default=200)
    parser.add_argument("--delay-s", type=float, default=5.0)
    options = parser.parse_args()
    load, over_s = asyncio.run(run(options.clients, options.seconds, options.leaving, options.delay_s))
    is_good = not load.errors and load.growth_mb < 10 and over_s <= 1
    print("good" if is_good else "NOT GOOD")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
