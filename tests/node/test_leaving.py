"""Leaving a runtime leaves nothing behind: no task, timer, thread, socket, process or file."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from node.chaos import ChaosProxy
from node.children import TOKEN, child_node, until, watching_links
from node.leftovers import count_sockets, nothing_left_behind
from node.node_child import Holder, Journal

from agentscope_async import ConnectFailed, NodeDown, Runtime, RuntimeClosedError
from agentscope_async.node.connection import SUBPROTOCOL

REMOTE_AGENTS = 10_000
USED = 1000
MOMENTS = [*range(16), 21, 34, 55, 89, 144, 233, 377]
"""Turns of the event loop; the last ones are after the connection is there."""
HTTP_BEGUN = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
UPGRADE = (
    HTTP_BEGUN
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    + f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
)


@pytest.fixture(autouse=True)
async def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Of any test in this file."""
    monkeypatch.chdir(tmp_path)
    threads, processes = set(threading.enumerate()), set(children())
    async with nothing_left_behind():
        yield
    assert {thread for thread in threading.enumerate() if not is_of_the_tests(thread)} <= threads
    assert os.listdir(tmp_path) == []
    assert set(children()) <= processes


def is_of_the_tests(thread: threading.Thread) -> bool:
    """The loop's own executor, and asyncio's watchers of processes that these tests start."""
    return thread.name.startswith(("asyncio_", "waitpid-"))


def children() -> list[int]:
    """Return the ids of the processes that this one has started and that go on."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


@asynccontextmanager
async def both(**agents: Any) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """Open two runtimes in this process that are linked by a socket."""
    async with Runtime(listen="ws://127.0.0.1:0", token=TOKEN, exports=agents) as there:
        async with Runtime(token=TOKEN) as here:
            yield here, there


async def test_after_asks_letters_and_streams() -> None:
    async with both(journal=Journal("journal")) as (here, there):
        agent = here.agent(f"{there.url}/journal")
        await agent("1")
        await agent.post("2")
        async with agent.stream("3") as stream:
            async for _ in stream:
                pass
        reply = agent.submit("4")
        assert (await reply).text == "4"
        agent.submit("5")


async def test_after_an_error_in_the_block() -> None:
    with pytest.raises(ZeroDivisionError):
        async with both(holder=Holder("holder")) as (here, there):
            agent = here.agent(f"{there.url}/holder")
            asking = asyncio.create_task(agent("1"))
            await agent.post("2")
            await asyncio.sleep(0)
            raise ZeroDivisionError
    with pytest.raises((NodeDown, RuntimeClosedError)):
        await asking


@pytest.mark.parametrize("is_error", [False, True], ids=["normally", "by an error"])
async def test_while_the_other_node_goes_on(is_error: bool) -> None:
    async with Runtime(listen="ws://127.0.0.1:0", token=TOKEN, exports=[Journal("journal")]) as there:
        sockets = count_sockets()
        async with watching_links(there) as links:
            with suppress(EOFError):
                async with Runtime(token=TOKEN) as here:
                    await here.agent(f"{there.url}/journal")("1")
                    if is_error:
                        raise EOFError
            await links.until("lost", "closed")
        while count_sockets() > sockets:
            await asyncio.sleep(0)


async def test_with_asks_in_flight_whose_node_is_left_first() -> None:
    holder = Holder("holder")
    async with Runtime(token=TOKEN) as here:
        async with Runtime(listen="ws://127.0.0.1:0", token=TOKEN, exports=[holder], grace=0.0) as there:
            asks = [asyncio.create_task(here.agent(f"{there.url}/holder")(str(n))) for n in range(100)]
            while not holder.running:
                await asyncio.sleep(0)
        ended = await asyncio.gather(*asks, return_exceptions=True)
        assert {type(each) for each in ended} <= {NodeDown, ConnectFailed}
    assert holder.running == 0


async def test_when_the_address_to_listen_at_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError):
            async with Runtime(listen=f"ws://127.0.0.1:{taken.getsockname()[1]}", token=TOKEN):
                pass


async def test_when_nobody_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with Runtime(token=TOKEN) as runtime:
        agent = runtime.agent(f"ws://127.0.0.1:{port}/nobody")
        with pytest.raises(ConnectFailed):
            await agent("1")
        with pytest.raises(ConnectFailed):
            await agent.post("2")


@pytest.mark.parametrize("how", ["cancelled", "timed out", "left"])
async def test_in_the_middle_of_connecting(how: str) -> None:
    """The other side takes the connection, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with Runtime(token=TOKEN, ask_timeout_s=0.2 if how == "timed out" else None) as runtime:
            agent = runtime.agent(f"ws://127.0.0.1:{mute.getsockname()[1]}/nobody")
            asking = asyncio.create_task(agent("1"))
            mute.setblocking(False)
            arrived, _ = await asyncio.get_running_loop().sock_accept(mute)
            if how == "cancelled":
                asking.cancel()
            if how != "left":
                await asyncio.wait([asking])
        arrived.close()
    with pytest.raises((asyncio.CancelledError, TimeoutError, NodeDown, RuntimeClosedError)):
        await asking


@pytest.mark.parametrize("steps", MOMENTS)
async def test_cancelled_at_any_step_of_the_first_ask(steps: int) -> None:
    async with both(journal=Journal("journal")) as (here, there):
        asking = asyncio.create_task(here.agent(f"{there.url}/journal")("1"))
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert (await here.agent(f"{there.url}/journal")("2")).text == "2"


@pytest.mark.parametrize("steps", MOMENTS)
async def test_left_at_any_step_of_the_first_ask(steps: int) -> None:
    async with Runtime(listen="ws://127.0.0.1:0", token=TOKEN, exports={"holder": Holder("h")}) as there:
        with suppress(EOFError):
            async with Runtime(token=TOKEN) as here:
                asking = asyncio.create_task(here.agent(f"{there.url}/holder")("1"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                raise EOFError  # an error in the block: nothing is waited for
        with pytest.raises((NodeDown, RuntimeClosedError)):
            await asking


@pytest.mark.parametrize("said", [b"", HTTP_BEGUN, UPGRADE], ids=["nothing", "half a request", "no hello"])
async def test_while_strangers_are_in_the_handshake(said: bytes) -> None:
    async with Runtime(listen="ws://127.0.0.1:0", token=TOKEN) as runtime:
        assert runtime.url is not None
        port = int(runtime.url.rpartition(":")[2])
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for reader, writer in strangers:
            writer.write(said)
            if said == UPGRADE:
                assert b"101" in await reader.readuntil(b"\r\n\r\n")
    for reader, writer in strangers:
        with suppress(ConnectionError):
            await reader.read()  # to its end: we were hung up on
        writer.close()


async def test_while_a_link_is_down_and_being_dialed_again() -> None:
    holder = Holder("holder")
    async with Runtime(listen="ws://127.0.0.1:0", token=TOKEN, exports=[holder], grace=0.0) as there:
        assert there.url is not None
        async with ChaosProxy(int(there.url.rpartition(":")[2])) as proxy:
            with suppress(EOFError):
                async with Runtime(token=TOKEN) as here:
                    agent = here.agent(f"ws://127.0.0.1:{proxy.port}/holder")
                    asking = asyncio.create_task(agent("1"))
                    while not holder.running:
                        await asyncio.sleep(0.001)
                    proxy.refuse()
                    proxy.reset()
                    while proxy.accepted < 3:
                        await asyncio.sleep(0.001)
                    raise EOFError
            with pytest.raises(NodeDown):
                await asking


async def test_after_the_other_process_was_killed() -> None:
    async with child_node({"holder": {"kind": "Holder"}}) as child, Runtime(token=TOKEN) as runtime:
        agent = runtime.agent(f"{child.url}/holder")
        asking = asyncio.create_task(agent("1"))

        async def has_begun() -> bool:
            return bool((await child.of("holder"))["begun"])

        await until(has_begun, "the turn began")
        await child.kill()
        with pytest.raises(NodeDown):
            await asking


async def test_ten_thousand_remote_agents_cost_less_than_a_kilobyte_each() -> None:
    async with both(journal=Journal("journal")) as (here, there):
        url = f"{there.url}/journal"
        await here.agent(url)("0")
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            agents = [here.agent(url) for _ in range(REMOTE_AGENTS)]
            gc.collect()
            made = tracemalloc.get_traced_memory()[0]
            unused = (made - before) / REMOTE_AGENTS
            for number, agent in enumerate(agents[:USED]):
                await agent(str(number))
            gc.collect()
            used = unused + (tracemalloc.get_traced_memory()[0] - made) / USED
        finally:
            tracemalloc.stop()
        assert unused <= 1024
        assert used <= 1024
