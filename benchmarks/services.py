"""Is the event loop held up while services work? A heartbeat beside each of them, and beside nothing.

A task sleeps for 5 ms again and again and notes by how much it woke late, while one service
after the other is called on work that takes a while. The first row is the heartbeat on its own.
Servers and pages are on loopback; services whose program or package is absent are named.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import sqlite3
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from agentscope_async.models import FunctionModel
from agentscope_async.service import (
    KnowledgeBase,
    MCPClient,
    ServiceResponse,
    Toolkit,
    digest_webpage,
    execute_python_code,
    extract_archive,
    list_directory_content,
    load_web,
    query_sqlite,
    read_text_file,
    retrieve_from_list,
    searxng_search,
    summarization,
    write_text_file,
)

from .common import in_short, machine_facts, print_facts, progress, table, write_json

if TYPE_CHECKING:
    import argparse

BEAT_S = 0.005
QUIET_S = 1.0


@dataclass(frozen=True)
class Place:
    """Where the work is: a folder of files, and a web server with a page and a search."""

    folder: Path
    url: str


Work: TypeAlias = Callable[[Place], Awaitable[Any]]


@dataclass
class Lag:
    """How late the heartbeat was beside one service, in seconds."""

    service: str
    seconds: float
    beats: int
    p50_s: float = 0.0
    p99_s: float = 0.0
    longest_s: float = 0.0
    failure: str | None = None


async def nothing(place: Place) -> None:
    """The heartbeat alone."""
    await asyncio.sleep(QUIET_S)


async def files(place: Place) -> None:
    """Write and read 8 MB of text."""
    text = "All work and no play makes Jack a dull boy.\n" * 180_000
    await _done(write_text_file("big.txt", text, overwrite=True, root=place.folder))
    await _done(read_text_file("big.txt", root=place.folder))


async def directory(place: Place) -> None:
    """List 3,000 entries."""
    await _done(list_directory_content("many", root=place.folder))


async def archive(place: Place) -> None:
    """Unpack 500 files."""
    await _done(extract_archive("many.zip", f"unpacked-{time.monotonic_ns()}", root=place.folder))


async def code(place: Place) -> None:
    """Run a program in the sandbox."""
    await _done(execute_python_code("print(sum(range(10**6)))"))


async def sqlite(place: Place) -> None:
    """Count a million rows, and fetch 10,000."""
    await _done(query_sqlite(str(place.folder / "rows.db"), "select count(*) from n a, n b where a.x < b.x"))
    await _done(query_sqlite(str(place.folder / "rows.db"), "select x from n limit 1000"))


async def page(place: Place) -> None:
    """Load 1 MB of HTML and take its text."""
    await _done(load_web(f"{place.url}/page.html", timeout=60, allow_private=True))


async def digest(place: Place) -> None:
    """Digest a text of 50 kB."""
    model = FunctionModel(lambda messages, **args: "A summary.")
    found = await digest_webpage("A short text about bees. " * 2000, model)
    assert found.is_success, found.content


async def search(place: Place) -> None:
    """Ask a search engine."""
    await _done(searxng_search("bees", base_url=place.url))


async def summary(place: Place) -> None:
    """Summarize 400 kB in pieces."""
    model = FunctionModel(lambda messages, **args: "A summary.")
    await _done(summarization(model, "A text about bees. " * 20_000, max_return_token=100))


async def retrieval(place: Place) -> None:
    """Score 20,000 items of a list."""
    await _done(retrieve_from_list(500, list(range(20_000)), lambda a, b: -abs(a - b), 5))


async def knowledge(place: Place) -> None:
    """Index 200 Markdown files and ask."""
    where = place.folder / f"docs-{time.monotonic_ns()}.kb"
    async with KnowledgeBase(where, _letters, model_name="letters") as base:
        await base.add(place.folder / "docs")
        await base.query("bees", top_k=5)


async def mcp(place: Place) -> None:
    """Start an MCP server on pipes and call its tool 20 times."""
    async with MCPClient(sys.executable, [str(place.folder / "server.py")]) as client:
        toolkit = Toolkit()
        await client.join(toolkit, dangerous=False)
        from agentscope_async import ToolCallPart

        for index in range(20):
            outcome = await toolkit.call(ToolCallPart(str(index), "add_up", {"a": index, "b": 1}))
            assert outcome.response.is_success, outcome.text


WORKS: dict[str, Work] = {
    each.__name__: each
    for each in (
        nothing, files, directory, archive, code, sqlite, page, digest, search, summary, retrieval,
        knowledge, mcp,
    )
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks services``."""
    parser.add_argument("--only", metavar="files,code", help="these services only")
    parser.add_argument("--repeats", type=int, default=5, help="calls of each service (5)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a service could not be called under ``--strict``, else 0."""
    facts = machine_facts()
    print_facts(facts)
    chosen = args.only.split(",") if args.only else list(WORKS)
    lags = asyncio.run(_measure(chosen, 1 if args.smoke else args.repeats))
    progress("")
    rows = [
        [each.service, WORKS[each.service].__doc__, 1000 * each.p50_s, 1000 * each.p99_s,
         1000 * each.longest_s, each.beats]
        for each in lags if each.failure is None
    ]  # fmt: skip
    print(table(["beside", "which does this", "p50 ms late", "p99", "longest", "beats"], rows))
    for each in lags:
        if each.failure:
            print(f"{each.service}: {each.failure}")
    write_json(
        args.json,
        {"benchmark": "services", "machine": facts, "lags": [asdict(each) for each in lags]},
    )
    return int(args.strict and any(each.failure for each in lags))


async def _measure(chosen: list[str], repeats: int) -> list[Lag]:
    lags = []
    async with place_of_work() as place:
        for name in chosen:
            progress(name)
            try:
                await WORKS[name](place)  # what is loaded once is loaded now
                lags.append(await _beside(name, place, repeats))
            except Exception as error:
                lags.append(Lag(name, 0.0, 0, failure=in_short(error)))
    return lags


async def _beside(name: str, place: Place, repeats: int) -> Lag:
    late: list[float] = []
    gc.collect()
    heart = asyncio.create_task(_beat(late))
    began = time.perf_counter()
    try:
        for _ in range(repeats):
            await WORKS[name](place)
    finally:
        heart.cancel()
    seconds = time.perf_counter() - began
    late = sorted(late) or [0.0]
    p99 = late[min(len(late) - 1, int(len(late) * 0.99))]
    return Lag(name, seconds, len(late), statistics.median(late), p99, late[-1])


async def _beat(late: list[float]) -> None:
    clock = time.perf_counter
    while True:
        due = clock() + BEAT_S
        await asyncio.sleep(BEAT_S)
        late.append(clock() - due)


async def _done(call: Awaitable[ServiceResponse]) -> None:
    response = await call
    if not response.is_success:
        raise RuntimeError(str(response.content))


async def _letters(text: str) -> list[float]:
    """Return how often each letter occurs: a vector that costs next to nothing."""
    low = text.lower()
    return [low.count(chr(code)) + 0.01 for code in range(ord("a"), ord("z") + 1)]


SERVER = '''
from mcp.server.mcpserver import MCPServer

server = MCPServer("sums")


@server.tool()
def add_up(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


server.run()
'''


@contextlib.asynccontextmanager
async def place_of_work() -> AsyncIterator[Place]:
    """Make the files, start the web server, and take both away afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await asyncio.to_thread(_fill, folder)
        server = await asyncio.start_server(_serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield Place(folder, f"http://127.0.0.1:{port}")


def _fill(folder: Path) -> None:
    (folder / "many").mkdir()
    for index in range(3000):
        (folder / "many" / f"{index}.txt").touch()
    (folder / "docs").mkdir()
    for index in range(200):
        text = f"# Bees {index}\n\nBees make honey.\n\n## Where\n\n" + "In a hive of wood, they say. " * 40
        (folder / "docs" / f"{index}.md").write_text(text)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index in range(500):
            archive.writestr(f"{index}.txt", f"text {index}\n" * 50)
    (folder / "many.zip").write_bytes(packed.getvalue())
    with contextlib.closing(sqlite3.connect(folder / "rows.db")) as connection, connection:
        connection.execute("create table n (x)")
        connection.executemany("insert into n values (?)", ((index,) for index in range(1500)))
    (folder / "server.py").write_text(SERVER)


PAGE = b"<html><body>" + b"<p>Bees <b>make</b> honey in a <a href='http://x/'>hive</a>.</p>" * 16_000
FOUND = b'{"results": [{"title": "Bees", "url": "http://x/", "content": "Honey."}]}'


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    kind, body = ("text/html", PAGE) if b"page.html" in request else ("application/json", FOUND)
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    writer.close()
