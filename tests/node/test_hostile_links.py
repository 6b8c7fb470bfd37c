"""Strangers and peers that break the rules of links, against a runtime that listens.

The letters F in names are rows of the reliability tables. What a listener or a session alone does
is tested with it; here it is that a runtime goes on and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from node.raw_peer import (
    BINARY,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    TOKEN,
    RawPeer,
    RawSocket,
    attacked,
    greeting,
    msg,
    upgrade,
    ws_frame,
)

WS = "ws://127.0.0.1:0"

STRANGERS: dict[str, tuple[bytes, int]] = {
    "f03 request line of 64 KiB": (b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\n\r\n", 431),
    "f03 1,000 headers": (upgrade(X="\r\n".join(f"X{i}: y" for i in range(1000))), 431),
    "f03 a header of 100 KiB": (upgrade(X="a" * 100_000), 431),
    "f04 plain GET": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 426),
    "f06 origin and a good token": (upgrade(Origin="https://evil.example"), 403),
    "f07 no token": (upgrade(Authorization=None), 401),
    "f07 wrong token": (upgrade(Authorization="Bearer wrong"), 401),
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_stranger_is_refused(name: str) -> None:
    request, status = STRANGERS[name]
    async with attacked(WS) as house, RawSocket.open(house.url) as stranger:
        assert await stranger.status(request) == status


HELLOS: dict[str, tuple[dict[str, Any] | bytes, int]] = {
    "f12 version 0": (greeting(v=[0]), 4004),
    "f12 version 999": (greeting(v=[999]), 4004),
    "f12 version of a text": (greeting(v=["1"]), 4004),
    "f12 version -1": (greeting(v=[-1]), 4004),
    "f12 version true": (greeting(v=[True]), 4004),
    "f12 no version": (greeting(v=None), 4004),
    "f12 version 1e400": (b'{"t":"hello","v":[1e400]}', 4001),
    "f15 a new session that has received something": (greeting(rx=5), 4002),
    "f15 negative": (greeting(rx=-1), 4001),
    "f15 2**63": (greeting(rx=2**63), 4001),
    "f15 a text": (greeting(rx="1"), 4001),
    "no hello": ({"t": "ask", "n": 1, "id": 1, "to": "healthy", "body": msg()}, 4001),
    "name of a path": (greeting(node="../honest"), 4001),
    "5 KiB": (greeting(pad="x" * 5000), 4001),
    "credit 0": (greeting(credit=0), 4001),
    "credit 2**31": (greeting(credit=2**31), 4001),
    "frames of 1 byte": (greeting(max_frame=1), 4001),
    "a heartbeat each microsecond": (greeting(hb=0), 4001),
}


@pytest.mark.parametrize("name", HELLOS)
async def test_a_hello_that_is_none_is_refused_with_its_code(name: str) -> None:
    hello, code = HELLOS[name]
    async with attacked() as house:
        peer = await house.knock()
        peer.send(hello)
        assert await peer.close_code() == code


async def test_f10_a_token_of_one_node_is_no_token_of_another() -> None:
    tokens = {"mallory": "m" * 32, "honest": "h" * 32}
    async with attacked(token=tokens) as house:
        peer = await house.knock(token=tokens["mallory"])
        peer.send(greeting(node="honest"))
        assert await peer.close_code() == 4003


async def test_f14_a_session_nobody_knows_is_new_and_says_so() -> None:
    async with attacked() as house:
        peer = await house.enter(key="0" * 32)
        assert peer.welcome["resumed"] is False


@pytest.mark.parametrize("rx", [99, 0], ids=["f15 more than was sent", "f16 less than was acknowledged"])
async def test_a_resumption_that_claims_what_is_not_so_is_refused(rx: int) -> None:
    async with attacked() as house:
        peer = await house.enter()
        await peer.answer(peer.ask())
        await peer.answer(peer.ask())
        await peer.cut()
        again = await house.knock()
        again.send(peer.hello | {"key": peer.welcome["key"], "rx": rx})
        assert await again.close_code() == 4002


async def test_f18_an_incarnation_that_was_replaced_is_fenced() -> None:
    async with attacked() as house:
        old = await house.enter(inc="1." + "a" * 16)
        await house.enter(inc="2." + "b" * 16)
        assert await old.close_code() == 4008
        again = await house.knock()
        again.send(greeting(inc="1." + "a" * 16))
        assert await again.close_code() == 4008


async def test_a_session_is_not_stolen_without_its_key() -> None:
    async with attacked() as house:
        peer = await house.enter()
        await peer.answer(peer.ask())
        thief = await house.knock()
        thief.send(peer.hello | {"key": "0" * 32})
        assert await thief.close_code() == 4003
        await peer.answer(peer.ask())


async def test_f23_a_message_of_endless_fragments_is_refused_at_its_limit() -> None:
    async with attacked(WS) as house, RawSocket.open(house.url) as peer:
        await peer.enter()
        peer.writer.write(ws_frame(BINARY, b"[" * 60_000))
        for _ in range(20):
            peer.writer.write(ws_frame(CONTINUATION, b"[" * 60_000))
        assert await peer.close_code() == 1009


async def test_f24_compression_is_not_agreed_to_and_not_understood() -> None:
    async with attacked(WS) as house, RawSocket.open(house.url) as peer:
        peer.writer.write(upgrade(Sec_WebSocket_Extensions="permessage-deflate"))
        assert b"deflate" not in await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(ws_frame(FIN | 0x40 | BINARY, b"\x00" * 100))
        assert await peer.close_code() == 1002


@pytest.mark.parametrize("kind", [PING, PONG], ids=["f25 pings", "f25 pongs"])
async def test_a_flood_of_control_frames_closes_the_link(kind: int) -> None:
    async with attacked(WS) as house, RawSocket.open(house.url) as peer:
        await peer.enter()
        peer.writer.write(ws_frame(FIN | kind, b"x") * 5000)
        assert await peer.close_code() in (0, 4006)


async def test_f26_a_peer_that_never_reads_holds_no_more_than_its_limits() -> None:
    async with attacked(WS) as house, RawSocket.open(house.url) as peer:
        await peer.enter()
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]  # its window fills
        for n in range(1, 2001):
            ask = {"t": "ask", "n": n, "id": n, "to": "healthy", "body": msg("x" * 20_000)}
            peer.writer.write(ws_frame(FIN | BINARY, orjson.dumps(ask)))
            if n % 50 == 0:
                await peer.writer.drain()
                await house.still_serves()
        for bridge in house.rt.node._bridges:
            statistics = bridge.link.session.statistics()
            assert statistics.bytes_waiting <= 9 * 2**20
            assert statistics.frames_waiting <= bridge.link.session.settings.outbox_frames + 64


async def test_f31_a_link_that_flaps_a_hundred_times_gets_every_message_once() -> None:
    async with attacked() as house:
        peer = await house.enter()
        key, hello, n, rx = peer.welcome["key"], peer.hello, 0, 0
        for i in range(100):
            frames = [{"t": "ask", "n": n + 1, "id": n + 1, "to": "healthy", "body": msg()}]
            if n:
                frames.insert(0, {"t": "ask", "n": n, "id": n, "to": "healthy", "body": msg()})  # again
            peer.send(*frames)
            n += 1
            while not any(frame["t"] == "rep" and frame["id"] == n for frame in peer.seen):
                await asyncio.sleep(0)
            assert [frame["id"] for frame in peer.seen if frame["t"] == "rep"] == [n], i
            rx = peer.rx
            await peer.cut()
            peer = await house.knock()
            peer.send(hello | {"key": key, "rx": rx})
            peer.rx = rx
            assert (await peer.next("welcome"))["resumed"] is True


async def test_f32_a_thousand_sessions_of_one_node_leave_one() -> None:
    async with attacked() as house:
        for i in range(1000):
            peer = await RawPeer.enter(house.url, inc=f"{i + 1}." + "a" * 16)
            peer.ask("healthy")
            await peer.cut()
        await house.still_serves()
        assert len(house.rt.node._bridges) <= 4


async def test_a_peer_may_leave_at_any_moment() -> None:
    async with attacked(WS) as house:
        whole = upgrade() + ws_frame(FIN | BINARY, orjson.dumps(greeting()))
        for end in range(0, len(whole), 7):
            async with RawSocket.open(house.url) as peer:
                peer.writer.write(whole[:end])
                await asyncio.sleep(0)


async def test_no_close_reason_tells_a_token() -> None:
    async with attacked() as house:
        peer = await house.enter()
        peer.send(b'{"t":"' + TOKEN.encode() * 3)
        await peer.close_code()
        assert TOKEN not in peer.closed.result()[1]
