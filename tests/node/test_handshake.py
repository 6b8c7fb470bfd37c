"""A stranger at the door, and a peer that speaks no proper websocket: raw sockets against a listener.

The letters F and R in names are rows of the reliability tables.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import struct
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme
from node.leftovers import nothing_left_behind

from agentscope_async.node.connection import Connection, Limits, connect, listen

TOKEN = "a-token-for-these-tests-only"
LIMITS = Limits(close_timeout_s=0.2, fragments_timeout_s=0.05, max_message_bytes=10_000)
HEADERS = {
    "Host": "127.0.0.1:12010",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "asa.1",
    "Authorization": f"Bearer {TOKEN}",
}

# Opcodes and bits of RFC 6455 section 5.2.
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80


class House:
    """A listener, and everything that its connections heard."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closes: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self.connections: list[Connection] = []
        self.reports: list[dict[str, Any]] = []
        self.listener: Any = None

    async def open(self, **terms: Any) -> None:
        terms = {"tokens": TOKEN, "limits": LIMITS} | terms
        self.listener = await listen("127.0.0.1", 0, on_connection=self.welcome, **terms)

    def welcome(self, connection: Connection) -> None:
        self.connections.append(connection)
        connection.start(self.messages.append, lambda code, reason: self.closes.put_nowait((code, reason)))

    async def answer_to(self, data: bytes) -> bytes:
        """Send ``data`` and return all that comes back until the socket is closed."""
        reader, writer = await self.knock()
        writer.write(data)
        answer = await heard(reader)
        writer.close()
        return answer

    async def knock(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.port)

    async def enter(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a raw socket that was let in."""
        reader, writer = await self.knock()
        writer.write(request())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return reader, writer

    async def still_serves(self) -> None:
        """See that an honest peer gets in and is heard."""
        before = len(self.messages)
        connection = await connect(self.listener.url, token=TOKEN)
        closed = asyncio.Event()
        connection.start(print, lambda code, reason: closed.set())
        connection.send(b"honest")
        connection.close()
        await closed.wait()
        assert self.messages[before:] == [b"honest"]
        assert (await self.closes.get())[0] == 1000


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with nothing_left_behind():
        house = House()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: house.reports.append(context))
        yield house
        for connection in house.connections:
            connection.close()
        await house.listener.aclose()
    assert house.reports == []


def request(line: str = "GET / HTTP/1.1", **changes: str | None) -> bytes:
    headers = HEADERS | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1")


async def heard(reader: asyncio.StreamReader) -> bytes:
    received = b""
    try:
        while piece := await reader.read(65536):
            received += piece
    except ConnectionError:
        pass
    return received


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def frame(first: int, data: bytes = b"", *, is_masked: bool = True, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    mask_bit = 0x80 if is_masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask_bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, size)
    return head + (bytes(4) if is_masked else b"") + data  # a mask of zeros changes nothing


def close_code_in(data: bytes) -> int:
    """Return the code of the close frame that ``data`` ends with."""
    at = data.rindex(bytes([FIN | CLOSE]))
    return int(struct.unpack_from("!H", data, at + 2)[0])


# The door

REFUSED = {
    "F04 plain GET": (request(Upgrade=None, Connection=None), 426),
    "F04 no version": (request(Sec_WebSocket_Version=None), 400),
    "old version": (request(Sec_WebSocket_Version="8"), 400),
    "bad key": (request(Sec_WebSocket_Key="x"), 400),
    "two keys": (request(Sec_WebSocket_Key="x\r\nSec-WebSocket-Key: y"), 400),
    "F06 origin and a good token": (request(Origin="https://evil.example"), 403),
    "F06 null origin": (request(Origin="null"), 403),
    "F06 empty origin": (request(Origin=""), 403),
    "F06 own origin": (request(Origin="http://127.0.0.1:12010"), 403),
    "F06 two origins": (request(Origin="https://good.example\r\nOrigin: https://evil.example"), 403),
    "R32 rebound name": (request(Host="evil.example:12010"), 421),
    "R32 name that begins well": (request(Host="localhost.evil.example"), 421),
    "R32 name like an address": (request(Host="127.0.0.1.evil.example"), 421),
    "R32 number as a name": (request(Host="2130706433"), 421),
    "no host": (request(Host=None), 400),
    "two hosts": (request(Host="127.0.0.1\r\nHost: evil.example"), 400),
    "host with credentials": (request(Host="user@127.0.0.1"), 400),
    "wrong path": (request("GET /admin HTTP/1.1"), 404),
    "path above": (request("GET /../ HTTP/1.1"), 404),
    "absolute URL": (request("GET http://evil.example/ HTTP/1.1"), 404),
    **{
        f"R32 {method}": (request(f"{method} / HTTP/1.1"), 405)
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "BREW")
    },
    "no token": (request(Authorization=None), 401),
    "wrong token": (request(Authorization="Bearer wrong"), 401),
    "empty token": (request(Authorization="Bearer "), 401),
    "no scheme": (request(Authorization=TOKEN), 401),
    "basic": (request(Authorization=f"Basic {TOKEN}"), 401),
    "two tokens": (request(Authorization=f"Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}"), 401),
    "token of other characters": (request(Authorization="Bearer \xff\xfe"), 401),
    "token in the query": (request(f"GET /?token={TOKEN} HTTP/1.1", Authorization=None), 401),
    "no subprotocol": (request(Sec_WebSocket_Protocol=None), 400),
    "other subprotocol": (request(Sec_WebSocket_Protocol="chat, asa.2"), 400),
    "HTTP 1.0": (request("GET / HTTP/1.0"), (400, 505)),
    "HTTP 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 405)),
    "F03 long request line": (request("GET /" + "a" * 65536 + " HTTP/1.1"), 431),
    "F03 many headers": (request(X="\r\n".join(f"X{n}: y" for n in range(1000))), 431),
    "F03 one long header": (request(X="a" * 100_000), 431),
    "F03 endless header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 5000, 431),
    "a body": (request(Content_Length="4") + b"body", 400),
    "a chunked body": (request(Transfer_Encoding="chunked"), 400),
    "frames before the answer": (request() + frame(FIN | BINARY, b"early"), 400),
    "two requests": (request() + request(), 400),
    "header without colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
    "folded header": (request(X="a\r\n b"), 400),
    "NUL in a header": (request(X="a\0b"), 400),
    "no path": (b"GET\r\n\r\n", 400),
    "garbage": (bytes(range(128, 256)) * 4, 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_bad_request_is_refused_before_anything_is_opened(house: House, name: str) -> None:
    data, status = REFUSED[name]
    await house.open()
    answer = await house.answer_to(data)
    assert status_of(answer) in (status if isinstance(status, tuple) else (status,))
    assert TOKEN.encode() not in answer
    assert b"Traceback" not in answer
    assert b"websockets" not in answer.replace(b"websocket of", b""), "tells what it runs on"
    assert house.connections == []
    await house.still_serves()


async def test_405_401_and_426_say_what_would_do(house: House) -> None:
    await house.open()
    assert b"\r\nAllow: GET\r\n" in await house.answer_to(request("POST / HTTP/1.1"))
    assert b"\r\nWWW-Authenticate: Bearer\r\n" in await house.answer_to(request(Authorization=None))
    assert b"\r\nUpgrade: websocket\r\n" in await house.answer_to(request(Upgrade=None))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:80", "localhost.", "[::1]:9", "192.0.2.7"]
)
async def test_addresses_and_localhost_are_good_hosts(house: House, host: str) -> None:
    await house.open()
    reader, writer = await house.knock()
    writer.write(request(Host=host))
    assert status_of(await reader.readuntil(b"\r\n\r\n")) == 101
    writer.close()


async def test_r32_allowed_hosts_replace_the_default(house: House) -> None:
    await house.open(allowed_hosts=["Node.Example"])
    assert status_of(await house.answer_to(request(Host="127.0.0.1"))) == 421
    reader, writer = await house.knock()
    writer.write(request(Host="node.example:12010"))
    assert status_of(await reader.readuntil(b"\r\n\r\n")) == 101
    writer.close()


async def test_f06_a_listed_origin_is_let_in_with_a_token_only(house: House) -> None:
    await house.open(origins=["https://studio.example"])
    listed = {"Origin": "https://studio.example"}
    assert status_of(await house.answer_to(request(**listed, Authorization=None))) == 401
    reader, writer = await house.knock()
    writer.write(request(**listed))
    assert status_of(await reader.readuntil(b"\r\n\r\n")) == 101
    writer.close()


async def test_f24_compression_is_never_agreed_to(house: House) -> None:
    await house.open()
    reader, writer = await house.knock()
    writer.write(request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert status_of(head) == 101
    assert b"deflate" not in head
    writer.write(frame(FIN | 0x40 | BINARY, b"\0" * 100))  # says it is compressed
    assert close_code_in(await heard(reader)) == 1002
    writer.close()
    assert (await house.closes.get())[0] == 1002
    assert house.messages == []


async def test_a_request_may_come_byte_by_byte(house: House) -> None:
    await house.open()
    reader, writer = await house.knock()
    for byte in request():
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert status_of(await reader.readuntil(b"\r\n\r\n")) == 101
    writer.close()


async def test_a_failing_authenticate_is_a_500_that_tells_nothing(house: House) -> None:
    def authenticate(applicant: Any) -> str | None:
        raise LookupError("the database of secrets is down")

    await house.open(tokens=None, authenticate=authenticate)
    answer = await house.answer_to(request())
    assert status_of(answer) == 500
    assert b"secrets" not in answer
    (report,) = house.reports
    assert isinstance(report["exception"], LookupError)
    house.reports.clear()


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET / HTTP/1.1\r\nHost: 127"])
async def test_r31_who_does_not_finish_the_handshake_is_dropped(house: House, beginning: bytes) -> None:
    await house.open(limits=Limits(handshake_timeout_s=0.05))
    assert await house.answer_to(beginning) == b""
    assert house.listener.unauthenticated == 0
    assert house.connections == []


async def test_r31_a_refused_caller_that_stays_is_dropped(house: House) -> None:
    await house.open(limits=Limits(handshake_timeout_s=0.05))
    reader, writer = await house.knock()
    writer.write(request(Authorization=None))
    assert status_of(await heard(reader)) == 401
    while house.listener.unauthenticated:
        writer.write(b"and another thing")
        await asyncio.sleep(0.001)
    writer.close()


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["ws", "wss"])
async def test_r31_the_oldest_stranger_makes_room_for_a_new_one(house: House, is_encrypted: bool) -> None:
    context = None
    if is_encrypted:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    await house.open(limits=Limits(max_unauthenticated=3), ssl=context)
    strangers = [await house.knock()]
    while house.listener.unauthenticated < 1:
        await asyncio.sleep(0)
    strangers += [await house.knock() for _ in range(3)]
    assert await heard(strangers[0][0]) == b""
    assert house.listener.unauthenticated == 3
    for reader, writer in strangers:
        writer.close()
        await heard(reader)


async def test_r31_an_honest_peer_gets_in_among_500_attackers(house: House) -> None:
    await house.open(limits=Limits())
    attackers = [await house.knock() for _ in range(300)]
    await house.still_serves()
    attackers += [await house.knock() for _ in range(200)]
    for _, writer in attackers:
        writer.write(b"GET / HTTP/1.1\r\nX: ")
    await house.still_serves()
    assert house.listener.unauthenticated <= 128
    for _, writer in attackers:
        writer.transport.abort()
    while house.listener.unauthenticated:
        await asyncio.sleep(0)


async def test_f03_a_stranger_costs_little_memory(house: House) -> None:
    await house.open()
    tracemalloc.start()
    try:
        for _ in range(20):
            await house.answer_to(b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


async def test_a_stranger_may_leave_or_reset_at_any_moment(house: House) -> None:
    await house.open()
    whole = request()
    for length in range(0, len(whole), 7):
        _, writer = await house.knock()
        writer.write(whole[:length])
        reset(writer) if length % 2 else writer.close()
    while house.listener.unauthenticated:
        await asyncio.sleep(0)
    await house.still_serves()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# Peers

BAD_FRAMES = {
    "not masked": (frame(FIN | BINARY, b"x", is_masked=False), 1002),
    "reserved bit": (frame(FIN | 0x20 | BINARY, b"x"), 1002),
    "unknown opcode": (frame(FIN | 3, b"x"), 1002),
    "unknown control opcode": (frame(FIN | 11, b"x"), 1002),
    "long ping": (frame(FIN | PING, b"x" * 126), 1002),
    "fragmented ping": (frame(PING, b"x"), 1002),
    "continuation of nothing": (frame(FIN | CONTINUATION, b"x"), 1002),
    "message within a message": (frame(BINARY, b"x") + frame(FIN | BINARY, b"y"), 1002),
    "close frame of one byte": (frame(FIN | CLOSE, b"x"), 1002),
    "close with 1005": (frame(FIN | CLOSE, struct.pack("!H", 1005)), 1002),
    "close with 0": (frame(FIN | CLOSE, struct.pack("!H", 0)), 1002),
    "close reason that is no text": (frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
    "text that is no text": (frame(FIN | TEXT, b"\xff\xff"), 1007),
    "text cut within a character": (frame(TEXT, b"\xc3") + frame(FIN | CONTINUATION, b"x"), 1007),
    "too large": (frame(FIN | BINARY, b"x" * 10_001), 1009),
    "announced as 2^62 bytes": (frame(FIN | BINARY, length=2**62), 1009),
    "F23 too large in fragments": (frame(BINARY, b"x" * 6000) + frame(CONTINUATION, b"x" * 6000), 1009),
    "F25 ping flood": (frame(FIN | PING) * 20_000, 4006),
    "F25 pong flood": (frame(FIN | PONG, b"x" * 100) * 2_000, 4006),
    "HTTP again": (request(), 1002),
    "zeros": (bytes(1000), 1002),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_a_peer_that_breaks_the_rules_is_told_a_code(house: House, name: str) -> None:
    data, code = BAD_FRAMES[name]
    await house.open()
    reader, writer = await house.enter()
    writer.write(frame(FIN | BINARY, b"good") + data + frame(FIN | BINARY, b"too late"))
    assert close_code_in(await heard(reader)) == code
    writer.close()
    assert (await house.closes.get())[0] == code
    assert house.messages == [b"good"]
    assert house.closes.empty()
    await house.still_serves()


@pytest.mark.parametrize("data", [frame(BINARY, b"x"), frame(BINARY) + frame(CONTINUATION) * 20_000])
async def test_f23_a_message_that_is_never_finished_is_given_up(house: House, data: bytes) -> None:
    await house.open()
    reader, writer = await house.enter()
    writer.write(data)
    assert close_code_in(await heard(reader)) == 4006
    writer.close()
    assert (await house.closes.get())[0] == 4006
    assert house.messages == []


async def test_f25_a_flood_of_pings_brings_few_pongs(house: House) -> None:
    await house.open()
    reader, writer = await house.enter()
    writer.write(frame(FIN | PING, b"x" * 125) * 2_000)
    answer = await heard(reader)
    assert answer.count(bytes([FIN | PONG, 125])) <= LIMITS.max_control_frames_per_s
    writer.close()


async def test_a_ping_is_answered(house: House) -> None:
    await house.open()
    reader, writer = await house.enter()
    writer.write(frame(FIN | PING, b"are you there"))
    assert await reader.readexactly(15) == bytes([FIN | PONG, 13]) + b"are you there"
    writer.close()


async def test_text_and_fragments_of_other_implementations_are_understood(house: House) -> None:
    await house.open()
    reader, writer = await house.enter()
    writer.write(frame(FIN | TEXT, "né".encode()))
    writer.write(frame(TEXT, b"\xc3") + frame(FIN | PING) + frame(FIN | CONTINUATION, b"\xa9"))
    writer.write(frame(BINARY, b"a") + frame(CONTINUATION, b"b") + frame(FIN | CONTINUATION, b"c"))
    writer.write(frame(FIN | CLOSE, struct.pack("!H", 4010) + b"draining"))
    await heard(reader)
    writer.close()
    assert await house.closes.get() == (4010, "draining")
    assert house.messages == ["né".encode(), "é".encode(), b"abc"]


@pytest.mark.parametrize("seed", range(8))
async def test_frames_of_all_kinds_and_sizes_may_be_cut_anywhere(house: House, seed: int) -> None:
    draw = random.Random(seed)
    await house.open(limits=Limits(max_message_bytes=500_000, fragments_timeout_s=30))
    reader, writer = await house.enter()
    sent, data = [], b""
    for number in range(60):
        message = b"%d," % number * draw.choice((0, 1, 40, 42, 100, 5_000, 22_000, 60_000))
        sent.append(message)
        if seed % 2 and number > 30 and draw.random() < 0.3:  # until then all are plain
            middle = draw.randint(0, len(message))
            data += frame(BINARY, message[:middle]) + frame(FIN | PING, b"?")
            data += frame(FIN | CONTINUATION, message[middle:])
        else:
            data += frame(FIN | BINARY, message)
    data += frame(FIN | CLOSE)
    while data:
        cut = draw.choice((1, 3, 7, 100, 5_000, 100_000, 400_000))
        writer.write(data[:cut])
        data = data[cut:]
        await asyncio.sleep(0)
    await heard(reader)
    writer.close()
    assert await house.closes.get() == (1005, "")
    assert house.messages == sent


async def test_a_buffer_that_grew_for_a_large_message_shrinks_again(house: House) -> None:
    await house.open(limits=Limits())
    connection = await connect(house.listener.url, token=TOKEN)
    connection.start(lambda data: None, lambda code, reason: None)
    before = len(connection._buffer)  # type: ignore[attr-defined]
    for size in (900_000, 1):
        connection.send(b"x" * size)
    while len(house.messages) < 2:
        await asyncio.sleep(0)
    assert len(house.connections[0]._buffer) == before  # type: ignore[attr-defined]
    connection.close()
    assert (await house.closes.get())[0] == 1000


async def test_frames_may_come_byte_by_byte(house: House) -> None:
    await house.open()
    reader, writer = await house.enter()
    for byte in frame(FIN | BINARY, b"x" * 200) + frame(FIN | CLOSE):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    await heard(reader)
    writer.close()
    assert await house.closes.get() == (1005, "")
    assert house.messages == [b"x" * 200]


@pytest.mark.parametrize("is_reset", [False, True], ids=["FIN", "RST"])
async def test_a_cut_at_any_byte_is_told_once_as_1006(house: House, is_reset: bool) -> None:
    await house.open()
    data = frame(FIN | BINARY, b"whole") + frame(FIN | BINARY, b"y" * 130)
    first = len(frame(FIN | BINARY, b"whole"))
    for length in [*range(0, len(data), 5), len(data)]:
        house.messages.clear()
        _, writer = await house.enter()
        writer.write(data[:length])
        await asyncio.sleep(0)
        reset(writer) if is_reset else writer.close()
        code, reason = await house.closes.get()
        assert code == 1006
        assert reason
        if not is_reset:
            expected = [b"whole"] * (length >= first) + [b"y" * 130] * (length == len(data))
            assert house.messages == expected
    assert house.closes.empty()
    await house.still_serves()


async def test_a_peer_that_never_answers_a_close_is_cut_off(house: House) -> None:
    await house.open(limits=Limits(close_timeout_s=0.02))
    reader, writer = await house.enter()
    house.connections[0].close(4010, "draining")
    assert await house.closes.get() == (4010, "draining")
    writer.close()
    await heard(reader)


async def test_a_peer_that_keeps_talking_after_a_close_is_not_heard(house: House) -> None:
    await house.open()
    reader, writer = await house.enter()
    house.connections[0].close(4010)
    writer.write(frame(FIN | BINARY, b"but") * 100)
    await reader.readexactly(4)
    writer.write(frame(FIN | CLOSE, struct.pack("!H", 4010)))
    await heard(reader)
    writer.close()
    assert await house.closes.get() == (4010, "")
    assert house.messages == []


async def test_r30_random_bytes_never_break_anything(house: House) -> None:
    await house.open()
    for size in range(1, 200, 3):
        reader, writer = await house.enter()
        writer.write(os.urandom(size))
        writer.write_eof()
        await heard(reader)
        writer.close()
        assert (await house.closes.get())[0] in (1002, 1005, 1006, 1007, 1009, 4006, *range(3000, 5000))
    await house.still_serves()
