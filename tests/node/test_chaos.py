"""The proxy that misbehaves does so as asked, and a connection through it tells what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from node.chaos import ChaosProxy
from node.leftovers import nothing_left_behind

from agentscope_async.node.connection import Connection, connect, listen

TOKEN = "a-token-for-these-tests-only"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Server:
    """Keeps the streams of whoever connects."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Streams] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.accepted.put_nowait((reader, writer))


@pytest.fixture
async def link() -> AsyncIterator[tuple[ChaosProxy, Streams, Streams]]:
    """A proxy, and both ends of a connection through it."""
    async with nothing_left_behind():
        server = Server()
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        async with ChaosProxy(listener.sockets[0].getsockname()[1]) as proxy:
            near = await asyncio.open_connection("127.0.0.1", proxy.port)
            yield proxy, near, await server.accepted.get()
            near[1].close()
            for writer in server.writers:
                writer.close()
        listener.close()


Link = tuple[ChaosProxy, Streams, Streams]


async def test_a_proxy_without_faults_carries_everything_both_ways(link: Link) -> None:
    _, near, far = link
    data = bytes(range(256)) * 4000
    near[1].write(data)
    far[1].write(data[::-1])
    assert await far[0].readexactly(len(data)) == data
    assert await near[0].readexactly(len(data)) == data[::-1]


async def test_an_end_is_carried_one_way(link: Link) -> None:
    _, near, far = link
    near[1].write(b"last words")
    near[1].write_eof()
    assert await far[0].read() == b"last words"
    far[1].write(b"heard")
    far[1].write_eof()
    assert await near[0].read() == b"heard"


@pytest.mark.parametrize("count", [0, 1, 7, 99_999])
async def test_a_cut_comes_after_exactly_so_many_bytes(link: Link, count: int) -> None:
    proxy, near, far = link
    proxy.cut_after(count)
    near[1].write(b"x" * 100_000)
    assert await far[0].read() == b"x" * count


async def test_a_cut_downwards_lets_the_other_way_through(link: Link) -> None:
    proxy, near, far = link
    proxy.cut_after(3, "down")
    near[1].write(b"upwards")
    assert await far[0].readexactly(7) == b"upwards"
    far[1].write(b"downwards")
    assert await near[0].read() == b"dow"


async def test_a_reset_is_a_reset(link: Link) -> None:
    proxy, near, far = link
    proxy.reset()
    for reader in (near[0], far[0]):
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_what_was_stalled_arrives_after_healing(link: Link) -> None:
    proxy, near, far = link
    proxy.stall("up")
    near[1].write(b"later")
    far[1].write(b"now")
    assert await near[0].readexactly(3) == b"now"
    reading = asyncio.create_task(far[0].readexactly(5))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not reading.done()
    proxy.heal()
    assert await reading == b"later"


async def test_what_was_swallowed_is_lost(link: Link) -> None:
    proxy, near, far = link
    proxy.swallow("up")
    near[1].write(b"lost")
    await near[1].drain()
    far[1].write(b"the other way")
    assert await near[0].readexactly(13) == b"the other way"
    for _ in range(100):
        await asyncio.sleep(0)
    proxy.heal()
    near[1].write(b"found")
    assert await far[0].readexactly(5) == b"found"


async def test_delayed_pieces_stay_in_order(link: Link) -> None:
    proxy, near, far = link
    proxy.delay_s = 0.001
    data = b"".join(b"%d," % number for number in range(20_000))
    near[1].write(data)
    assert await far[0].readexactly(len(data)) == data


async def test_new_links_can_be_refused(link: Link) -> None:
    proxy, _, _ = link
    proxy.refuse()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_f29_a_connection_cut_mid_message_is_1006_on_both_sides(direction: str) -> None:
    async with nothing_left_behind():
        outcomes: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        messages: list[bytes] = []
        accepted: list[Connection] = []

        def welcome(connection: Connection) -> None:
            accepted.append(connection)
            connection.start(messages.append, lambda *outcome: outcomes.put_nowait(outcome))

        async with await listen("127.0.0.1", 0, on_connection=welcome, tokens=TOKEN) as listener:
            async with ChaosProxy(listener.port) as proxy:
                connection = await connect(f"ws://127.0.0.1:{proxy.port}", token=TOKEN)
                connection.start(messages.append, lambda *outcome: outcomes.put_nowait(outcome))
                proxy.cut_after(500, direction)  # type: ignore[arg-type]
                sender = connection if direction == "up" else accepted[0]
                sender.send(b"a" * 100)
                sender.send(b"b" * 1000)
                assert {(await outcomes.get())[0], (await outcomes.get())[0]} == {1006}
    assert messages == [b"a" * 100]
