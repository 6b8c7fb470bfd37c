"""What a connection promises, over memory, plain websockets and TLS alike."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from node.certificates import client_context, server_context
from node.leftovers import nothing_left_behind
from websockets.utils import accept_key

from agentscope_async.errors import ConfigError, ConnectFailed
from agentscope_async.node._memory import listen_in_memory, memory_pair
from agentscope_async.node.connection import (
    Connection,
    Limits,
    connect,
    listen,
    new_token,
    read_token,
)

TOKEN = "a-token-for-these-tests-only"
KINDS = ["mem", "ws", "wss"]


class Owner:
    """Keeps what a connection tells."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.messages: list[bytes] = []
        self.closes: list[tuple[int, str]] = []
        self.drains = 0
        self._news = asyncio.Event()

    def start(self) -> Owner:
        self.connection.start(self.on_message, self.on_close, self.on_writable)
        return self

    def on_message(self, message: bytes) -> None:
        assert not self.closes, "a message after the end"
        self.messages.append(message)
        self._news.set()

    def on_close(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))
        self._news.set()

    def on_writable(self) -> None:
        self.drains += 1
        self._news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def heard(self, count: int) -> list[bytes]:
        await self.until(lambda: len(self.messages) >= count)
        return self.messages

    async def closed(self) -> tuple[int, str]:
        await self.until(lambda: self.closes)
        return self.closes[0]


class Place:
    """Somewhere to listen, and to dial."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.accepted: asyncio.Queue[Connection] = asyncio.Queue()
        self.connections: list[Connection] = []
        self.listener: Any = None

    async def listen(self, limits: Limits | None = None, **terms: Any) -> None:
        if "authenticate" not in terms:
            terms.setdefault("tokens", TOKEN)
        terms.setdefault("on_connection", self.welcome)
        if self.kind == "mem":
            self.listener = await listen_in_memory("place", limits=limits, **terms)
        else:
            context = server_context() if self.kind == "wss" else None
            self.listener = await listen("127.0.0.1", 0, limits=limits, ssl=context, **terms)

    def welcome(self, connection: Connection) -> None:
        self.connections.append(connection)
        self.accepted.put_nowait(connection)

    async def dial(self, token: str | None = TOKEN, **options: Any) -> Connection:
        if self.kind == "wss":
            options.setdefault("ssl", client_context())
        connection = await connect(self.listener.url, token=token, **options)
        self.connections.append(connection)
        return connection

    async def pair(self, ours: Limits | None = None, theirs: Limits | None = None) -> tuple[Owner, Owner]:
        """Return the dialer and the acceptor of a new connection, both started."""
        await self.listen(theirs)
        dialer = Owner(await self.dial(limits=ours)).start()
        return dialer, Owner(await self.accepted.get()).start()


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with place_of(request.param) as place:
        yield place


@pytest.fixture(params=["ws", "wss"])
async def net(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with place_of(request.param) as place:
        yield place


@pytest.fixture
async def ws() -> AsyncIterator[Place]:
    async with place_of("ws") as place:
        yield place


@pytest.fixture
async def wss() -> AsyncIterator[Place]:
    async with place_of("wss") as place:
        yield place


@asynccontextmanager
async def place_of(kind: str) -> AsyncIterator[Place]:
    """Afterwards closes what the test left open."""
    async with nothing_left_behind():
        place = Place(kind)
        yield place
        for connection in place.connections:
            connection.close()
        if place.listener is not None:
            await place.listener.aclose()


# Messages


async def test_messages_arrive_whole_and_in_order_both_ways(place: Place) -> None:
    dialer, acceptor = await place.pair()
    sent = [b"%d" % number * (number % 50) for number in range(500)]
    for message in sent:
        dialer.connection.send(message)
        acceptor.connection.send(message)
    assert await acceptor.heard(500) == sent
    assert await dialer.heard(500) == sent
    assert all(type(message) is bytes for message in acceptor.messages + dialer.messages)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1024 * 1024])
async def test_a_message_of_any_allowed_size_arrives(place: Place, size: int) -> None:
    dialer, acceptor = await place.pair()
    message = bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)
    dialer.connection.send(message)
    acceptor.connection.send(message)
    assert await acceptor.heard(1) == [message]
    assert await dialer.heard(1) == [message]


async def test_a_message_is_delivered_in_a_later_turn_of_the_loop(place: Place) -> None:
    dialer, acceptor = await place.pair()
    acceptor.connection.send(b"x")
    assert dialer.messages == []
    await dialer.heard(1)


async def test_what_came_before_start_is_kept(place: Place) -> None:
    await place.listen(on_connection=lambda connection: Greeter(connection))
    connection = await place.dial()
    for _ in range(20):
        await asyncio.sleep(0)
    owner = Owner(connection).start()
    assert await owner.heard(2) == [b"hello", b"again"]
    assert await owner.closed() == (4010, "draining")


class Greeter:
    def __init__(self, connection: Connection) -> None:
        owner = Owner(connection).start()
        for message in (b"hello", b"again"):
            owner.connection.send(message)
        owner.connection.close(4010, "draining")


async def test_a_connection_has_one_owner(place: Place) -> None:
    dialer, _ = await place.pair()
    with pytest.raises(RuntimeError, match="one owner"):
        dialer.start()


async def test_a_message_over_the_receivers_limit_closes_with_1009(place: Place) -> None:
    dialer, acceptor = await place.pair(theirs=Limits(max_message_bytes=1000))
    dialer.connection.send(b"a" * 1000)
    dialer.connection.send(b"b" * 1001)
    dialer.connection.send(b"c")
    assert (await acceptor.closed())[0] == 1009
    assert (await dialer.closed())[0] == 1009
    assert acceptor.messages == [b"a" * 1000]


# Closing


@pytest.mark.parametrize("closer", ["dialer", "acceptor"])
async def test_both_sides_are_told_the_code_and_reason_once(place: Place, closer: str) -> None:
    dialer, acceptor = await place.pair()
    side = dialer if closer == "dialer" else acceptor
    side.connection.close(4008, "fenced")
    side.connection.close(4001, "again")
    assert not side.connection.is_open
    assert side.closes == [], "told from inside close()"
    assert await dialer.closed() == await acceptor.closed() == (4008, "fenced")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(dialer.closes) == len(acceptor.closes) == 1


async def test_what_was_sent_before_closing_arrives(place: Place) -> None:
    dialer, acceptor = await place.pair()
    for number in range(100):
        dialer.connection.send(b"%d" % number)
    dialer.connection.close(4010)
    dialer.connection.send(b"too late")
    assert await acceptor.closed() == (4010, "")
    assert acceptor.messages == [b"%d" % number for number in range(100)]


async def test_no_message_is_delivered_after_close(place: Place) -> None:
    dialer, acceptor = await place.pair()
    acceptor.connection.send(b"on its way")
    dialer.connection.close()
    await dialer.closed()
    assert dialer.messages == []


async def test_the_rest_of_a_read_is_not_delivered_to_an_owner_that_closed_meanwhile(place: Place) -> None:
    await place.listen()
    connection = await place.dial()
    heard: list[bytes] = []
    closed = asyncio.get_running_loop().create_future()

    def take(message: bytes) -> None:
        heard.append(message)
        connection.close()

    connection.start(take, lambda code, reason: closed.set_result(code))
    acceptor = Owner(await place.accepted.get()).start()
    for _ in range(10):
        acceptor.connection.send(b"x")
    assert await closed == 1000
    assert heard == [b"x"]


async def test_both_sides_may_close_at_once(place: Place) -> None:
    dialer, acceptor = await place.pair()
    dialer.connection.close(4001)
    acceptor.connection.close(4002)
    assert (await dialer.closed())[0] in (4001, 4002)
    assert (await acceptor.closed())[0] in (4001, 4002)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 5000])
async def test_a_code_that_may_not_be_sent_is_refused(place: Place, code: int) -> None:
    dialer, _ = await place.pair()
    with pytest.raises(ValueError, match=str(code)):
        dialer.connection.close(code)
    assert dialer.connection.is_open


async def test_a_long_reason_is_cut_between_characters(place: Place) -> None:
    dialer, acceptor = await place.pair()
    dialer.connection.close(4001, "é" * 100)
    assert await acceptor.closed() == (4001, "é" * 61)


async def test_a_connection_can_be_closed_before_it_has_an_owner(place: Place) -> None:
    await place.listen()
    connection = await place.dial(limits=Limits(close_timeout_s=3600))
    acceptor = Owner(await place.accepted.get()).start()
    connection.close(4003, "nobody home")
    assert await acceptor.closed() == (4003, "nobody home")
    assert await Owner(connection).start().closed() == (4003, "nobody home")


async def test_a_failing_callback_closes_with_1011_and_is_reported(place: Place) -> None:
    await place.listen()
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    connection = await place.dial()
    closes: list[int] = []
    connection.start(lambda message: {}[message], lambda code, reason: closes.append(code))
    acceptor = Owner(await place.accepted.get()).start()
    acceptor.connection.send(b"x")
    acceptor.connection.send(b"y")
    assert (await acceptor.closed())[0] == 1011
    assert [type(report["exception"]) for report in reports] == [KeyError]


async def test_a_failing_on_connection_closes_with_1011_and_is_reported(place: Place) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    limits = Limits(close_timeout_s=3600)
    await place.listen(limits, on_connection=lambda connection: {}["nobody"])
    owner = Owner(await place.dial()).start()
    assert (await owner.closed())[0] == 1011
    assert len(reports) == 1


# Congestion


async def test_a_congested_connection_says_so_and_says_when_there_is_room(place: Place) -> None:
    await place.listen()
    dialer = Owner(await place.dial(limits=Limits(high_water_bytes=1000))).start()
    connection = dialer.connection
    assert not connection.is_congested
    piece = b"x" * 500_000
    sent = 0
    while not connection.is_congested:
        connection.send(piece)
        sent += 1
    acceptor = Owner(await place.accepted.get()).start()
    assert await acceptor.heard(sent) == [piece] * sent
    await dialer.until(lambda: dialer.drains)
    assert not connection.is_congested


async def test_who_sends_far_more_than_is_taken_loses_the_connection(place: Place) -> None:
    await place.listen()
    limits = Limits(high_water_bytes=1000, max_unsent_bytes=2_000_000)
    dialer = Owner(await place.dial(limits=limits)).start()
    while dialer.connection.is_open:
        dialer.connection.send(b"x" * 500_000)
    code, reason = await dialer.closed()
    assert code == 1006
    assert "not taken" in reason
    dialer.connection.send(b"nothing happens")
    acceptor = Owner(await place.accepted.get()).start()
    assert (await acceptor.closed())[0] == 1006


async def test_a_connection_without_an_owner_takes_nothing_in(place: Place) -> None:
    await place.listen()
    limits = Limits(max_unsent_bytes=2_000_000)
    dialer = Owner(await place.dial(limits=limits)).start()
    for _ in range(1000):  # 50 MB, where the sockets hold a few
        dialer.connection.send(b"x" * 50_000)
        await asyncio.sleep(0)
    assert not dialer.connection.is_open


async def test_closing_does_not_wait_for_ever_for_who_does_not_read(place: Place) -> None:
    await place.listen()
    limits = Limits(high_water_bytes=1000, max_unsent_bytes=2**30, close_timeout_s=0.01)
    dialer = Owner(await place.dial(limits=limits)).start()
    while not dialer.connection.is_congested:
        dialer.connection.send(b"x" * 500_000)
    dialer.connection.close(4001, "enough")
    assert await dialer.closed() == (4001, "enough")
    await place.listener.aclose()
    acceptor = Owner(await place.accepted.get()).start()
    await acceptor.closed()


# Opening


async def test_a_token_proves_a_name(place: Place) -> None:
    await place.listen(tokens={"judge": "token-of-the-judge", "pro": "token-of-pro"})
    await place.dial("token-of-pro")
    assert (await place.accepted.get()).identity == "pro"


async def test_a_token_for_everybody_proves_no_name(place: Place) -> None:
    await place.listen()
    await place.dial()
    connection = await place.accepted.get()
    assert connection.identity == ""


@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper()])
async def test_a_wrong_or_missing_token_is_unauthorized(place: Place, token: str | None) -> None:
    await place.listen()
    problem = "wants a token, and none was given" if token is None else "does not accept this token"
    with pytest.raises(ConnectFailed, match=problem) as caught:
        await place.dial(token)
    assert caught.value.kind == "unauthorized"
    assert caught.value.status == 401
    assert place.accepted.empty()


async def test_nobody_listens(place: Place) -> None:
    await place.listen()
    await place.listener.aclose()
    with pytest.raises(ConnectFailed) as caught:
        await place.dial()
    assert caught.value.kind == "refused"
    assert isinstance(caught.value, ConnectionError)


async def test_an_open_connection_outlives_its_listener(place: Place) -> None:
    dialer, acceptor = await place.pair()
    await place.listener.aclose()
    dialer.connection.send(b"still here")
    assert await acceptor.heard(1) == [b"still here"]


async def test_authenticate_decides(place: Place) -> None:
    seen = []

    def authenticate(applicant: Any) -> str | None:
        seen.append(applicant)
        return "guest" if applicant.token == "open-sesame" else None

    await place.listen(authenticate=authenticate)
    await place.dial("open-sesame")
    assert (await place.accepted.get()).identity == "guest"
    with pytest.raises(ConnectFailed):
        await place.dial("open-barley")
    assert "open" not in repr(seen)


async def test_r26_the_name_in_a_clients_certificate_can_be_its_identity(wss: Place) -> None:

    def authenticate(applicant: Any) -> str | None:
        subject = {key: value for ((key, value),) in applicant.certificate["subject"]}
        return str(subject["commonName"])

    wss.listener = await listen(
        "127.0.0.1",
        0,
        on_connection=wss.welcome,
        authenticate=authenticate,
        ssl=server_context(wants_certificates=True),
    )
    await wss.dial(None, ssl=client_context("node-a"))
    assert (await wss.accepted.get()).identity == "node-a"
    with pytest.raises(ConnectFailed) as caught:
        await wss.dial(None)
    assert caught.value.kind in ("tls", "closed")


async def test_a_certificate_that_is_not_trusted_is_a_tls_failure(wss: Place) -> None:
    await wss.listen()
    with pytest.raises(ConnectFailed, match=r"certificate|self") as caught:
        await wss.dial(ssl=ssl.create_default_context())
    assert caught.value.kind == "tls"


async def test_tls_to_a_plain_listener_is_a_tls_failure(ws: Place) -> None:
    await ws.listen()
    with pytest.raises(ConnectFailed) as caught:
        await connect(ws.listener.url.replace("ws:", "wss:"), token=TOKEN, ssl=client_context())
    assert caught.value.kind in ("tls", "closed")


async def test_a_cancelled_connect_leaves_nothing(net: Place) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    scheme = net.kind
    context = client_context() if scheme == "wss" else None
    task = asyncio.create_task(
        connect(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", token=TOKEN, ssl=context)
    )
    silent.setblocking(False)
    accepted, _ = await asyncio.get_running_loop().sock_accept(silent)
    accepted.setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(accepted, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(accepted, 10000):
            pass
        raise ConnectionError
    accepted.close()
    silent.close()


async def test_silence_is_a_timeout(net: Place) -> None:
    context = client_context() if net.kind == "wss" else None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ConnectFailed, match=r"within 0\.05 s") as caught:
            await connect(
                f"{net.kind}://127.0.0.1:{silent.getsockname()[1]}", token=TOKEN, ssl=context, timeout_s=0.05
            )
    assert caught.value.kind == "timeout"


ANSWERS = {
    b"HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n": ("rejected", 301),
    b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno": ("rejected", 500),
    b"HTTP/1.1 421 Misdirected\r\nContent-Length: 0\r\n\r\n": ("forbidden", 421),
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n": ("not_a_node", None),
    b"SSH-2.0-OpenSSH_9.2p1\r\n": ("not_a_node", None),
    b"\xff" * 20000: ("not_a_node", None),
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n": ("not_a_node", None),
    b"": ("closed", None),
}


@pytest.mark.parametrize("answer", ANSWERS, ids=[str(answer[:30]) for answer in ANSWERS])
async def test_an_answer_that_is_no_acceptance_is_typed(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed) as caught:
            await connect(f"ws://127.0.0.1:{port}", token=TOKEN)
    assert (caught.value.kind, caught.value.status) == ANSWERS[answer]


@pytest.mark.parametrize("cuts", [[], [1], [150], [-1], [-7], [-8], [-9], [-10, -3], [20, -12]])
async def test_frames_may_follow_the_answer_at_once(cuts: list[int]) -> None:
    frames = b"\x82\x05hello" + b"\x82\x01!"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", request)
        assert key is not None
        accepted = accept_key(key[1].decode()).encode()
        data = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: asa.1\r\nSec-WebSocket-Accept: " + accepted + b"\r\n\r\n" + frames
        )
        places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
        for start, end in itertools.pairwise(places):
            writer.write(data[start:end])
            for _ in range(3):  # turns of the loop, in which the piece is read
                await asyncio.sleep(0)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        owner = Owner(await connect(f"ws://127.0.0.1:{port}", token=TOKEN)).start()
        assert await owner.heard(2) == [b"hello", b"!"]
        assert owner.connection._is_plain  # type: ignore[attr-defined]  # nothing went the slow way
        owner.connection.close()
        owner.connection._transport.abort()  # type: ignore[attr-defined]
        await owner.until(lambda: owner.closes)


async def test_a_server_that_chooses_no_subprotocol_is_no_node() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def handle(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed, match=r"asa\.1"):
            await connect(f"ws://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "127.0.0.1:80",
        "ws://",
        "ws://host:99999",
        "ws://host:port",
        "ws://user:hunter2hunter2@host",
        "ws://host/#hunter2hunter2",
        "",
    ],
)
async def test_an_unusable_url_is_a_config_error_that_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await connect(url, token=TOKEN)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["Authorization", "host", "Origin", "Sec-WebSocket-Protocol", "Upgrade"])
async def test_headers_of_the_handshake_cannot_be_replaced(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        await connect("ws://127.0.0.1:1", headers={name: "x"})


async def test_headers_are_sent_and_a_malformed_one_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        await connect("ws://127.0.0.1:1", headers={"X-Key": "hunter2\r\nX: y"})
    assert "hunter2" not in str(caught.value)


async def test_ssl_is_not_silently_ignored() -> None:
    with pytest.raises(ConfigError, match="wss"):
        await connect("ws://127.0.0.1:1", ssl=client_context())


async def test_small_messages_are_not_held_back_by_nagles_algorithm(net: Place) -> None:
    dialer, acceptor = await net.pair()
    for owner in (dialer, acceptor):
        raw = owner.connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


# Listening


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
async def test_r26_nobody_is_anonymous_off_loopback(host: str) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        await listen(host, 0, on_connection=print, anonymous=True)


async def test_r26_who_is_let_in_must_be_said_also_on_loopback() -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        await listen("127.0.0.1", 0, on_connection=print)
    with pytest.raises(ConfigError, match="exactly one"):
        await listen("127.0.0.1", 0, on_connection=print, anonymous=True, tokens=TOKEN)
    with pytest.raises(ConfigError, match="exactly one"):
        await listen_in_memory("x", on_connection=print)


async def test_anonymous_callers_are_let_in_on_loopback_if_that_is_said(ws: Place) -> None:
    ws.listener = await listen("localhost", 0, on_connection=ws.welcome, anonymous=True)
    await ws.dial(None)


@pytest.mark.parametrize("tokens", ["", "with space", "naïve-token", "x\r\ny", {}, {"a": TOKEN, "b": TOKEN}])
async def test_unusable_tokens_are_refused(tokens: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        await listen("127.0.0.1", 0, on_connection=print, tokens=tokens)
    assert TOKEN not in str(caught.value)


async def test_a_name_in_memory_is_taken_once_and_free_again_when_closed() -> None:
    first = await listen_in_memory("taken", on_connection=print, tokens=TOKEN)
    with pytest.raises(ConfigError, match="taken"):
        await listen_in_memory("taken", on_connection=print, tokens=TOKEN)
    await first.aclose()
    async with await listen_in_memory("taken", on_connection=print, tokens=TOKEN) as second:
        await first.aclose()
        assert (await connect(second.url, token=TOKEN)).is_open


async def test_a_pair_in_memory_can_be_cut() -> None:
    one, other = memory_pair()
    first, second = Owner(one).start(), Owner(other).start()
    one.send(b"lost")
    one.cut()
    assert (await first.closed())[0] == (await second.closed())[0] == 1006
    assert second.messages == []


# Tokens


def test_a_new_token_can_be_read_back(tmp_path: Path) -> None:
    token = new_token()
    (tmp_path / "token").write_text(f"{token}\n")
    assert read_token(tmp_path / "token") == token


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short", b"0123456789abcdef" * 1, b"a" * 64, b"abcdefgh" * 2 + b"abcde", b"two words " * 9,
     b"\xff\xfe" * 30, b"\n".join([b"a0B1c2D3e4F5g6H7i8J9k0L1m2N3o4P5q6R7s8T9u0V"] * 2)],
)  # fmt: skip
def test_a_token_file_below_128_bits_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_token(file)
    shown = content.decode(errors="ignore").strip()
    assert not shown or shown not in str(caught.value).replace(str(file), "")


def test_a_token_file_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "token")


async def test_r33_no_log_repr_or_error_shows_a_token(
    net: Place, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = "canary-" + new_token()
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "websockets"):
        await net.listen(tokens=canary)
        connection = await net.dial(canary)
        accepted = await net.accepted.get()
        with pytest.raises(ConnectFailed) as caught:
            await net.dial(canary + "-wrong")
        seen = [repr(connection), repr(accepted), repr(net.listener), str(vars(net.listener))]
        seen += [repr(caught.value), str(vars(caught.value)), str(vars(connection))]
    asyncio.get_running_loop().set_debug(False)
    assert canary not in "".join([*seen, caplog.text, *capfd.readouterr()])
