"""A peer that speaks the wire by hand, and the house it tries to break into."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any, Self

import orjson
from node.leftovers import nothing_left_behind

from agentscope_async import Msg, Runtime
from agentscope_async.agents import AgentBase
from agentscope_async.node.connection import Connection, Limits, connect

TOKEN = "a-token-of-the-tests-of-hostile-peers"
NUMBERED = frozenset({"tell", "ask", "rep", "can", "wat", "unw", "dwn", "spn", "part"})
SHORT_FORM = ("id", "timestamp", "name", "content", "role")
NEVER_SILENT_MS = 600_000
"""The heartbeat that raw peers announce, so that none has to be sent within a test."""


def greeting(kind: str = "hello", **changes: Any) -> dict[str, Any]:
    """Return a first frame that would be taken as it is; ``changes`` of None leave a field out."""
    fields: dict[str, Any] = {
        "t": kind, "v": [1] if kind == "hello" else 1, "node": "mallory", "inc": f"1.{token_hex(8)}",
        "sid": token_hex(16), "key": None, "rx": 0, "max_frame": 2**20, "max_body": 2**25, "credit": 64,
        "hb": NEVER_SILENT_MS,
    }  # fmt: skip
    return fields | changes


def msg(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    """Return the body of an ask with one message."""
    return {"x": {"__type": "Msg", "name": "mallory", "content": content, "role": "user"}, **fields}


class RawPeer:
    """One link of another node: sends what it is told to, whatever the rules are.

    Attributes:
        n: the number of the last frame it sent.
        seen: every frame that came and was not asked for by ``next``, in order.
        closed: the close code and reason, once the link is closed.
    """

    def __init__(self, connection: Connection, *, acknowledges: bool = True) -> None:
        self.n = 0
        self.id = 0
        self.rx = 0
        self.seen: list[dict[str, Any]] = []
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._acknowledges = acknowledges
        self._arrival = asyncio.Event()
        self._connection = connection
        connection.start(self._take, self._lose)

    @classmethod
    async def knock(cls, url: str, token: str | None = TOKEN, **options: Any) -> Self:
        """Open a connection and say nothing yet."""
        limits = Limits(max_message_bytes=2**25, max_unsent_bytes=2**28)
        return cls(await connect(url, token=token, limits=limits), **options)

    @classmethod
    async def enter(
        cls, url: str, token: str | None = TOKEN, *, acknowledges: bool = True, **hello: Any
    ) -> Self:
        """Open a link and be welcomed."""
        peer = await cls.knock(url, token, acknowledges=acknowledges)
        peer.hello = greeting(**hello)
        peer.send(peer.hello)
        peer.welcome = await peer.next("welcome")
        return peer

    hello: dict[str, Any]
    welcome: dict[str, Any]

    def send(self, *frames: dict[str, Any] | bytes) -> None:
        """Send these as one message, as they are."""
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in frames]
        self._connection.send(lines[0] if len(lines) == 1 else b"[%b]" % b",".join(lines))

    def numbered(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next numbered frame of this kind, with an id where it takes one."""
        self.n += 1
        frame = {"t": kind, "n": self.n}
        if kind in ("ask", "spn", "wat"):
            self.id += 1
            frame["id"] = self.id
        return frame | fields

    def say(self, kind: str, **fields: Any) -> int:
        """Send a numbered frame; returns its id."""
        self.send(self.numbered(kind, **fields))
        return self.id

    def ask(self, to: Any = "healthy", body: Any = ..., **fields: Any) -> int:
        return self.say("ask", to=to, body=msg() if body is ... else body, **fields)

    async def next(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the first frame of this kind, with these fields, that has come or comes."""
        while True:
            for frame in self.seen:
                if frame["t"] == kind and fields.items() <= frame.items():
                    self.seen.remove(frame)
                    return frame
            if self.closed.done():
                raise AssertionError(f"the link was closed with {self.closed.result()}")
            self._arrival.clear()
            await self._arrival.wait()

    async def answer(self, id: int) -> dict[str, Any]:
        """Return the last reply to an ask or a spawn."""
        while "err" not in (reply := await self.next("rep", id=id)) and reply.get("last") is False:
            pass
        return reply

    async def error(self, id: int) -> str:
        """Return the code of the error an ask was answered with."""
        return str((await self.answer(id))["err"]["code"])

    async def next_down(self, id: int) -> dict[str, Any]:
        """Return what a watch is answered with."""
        return await self.next("dwn", id=id)

    async def acknowledged(self) -> None:
        """Wait until all that was sent has arrived."""
        while (await self.next("ack"))["rx"] < self.n:
            pass

    async def close_code(self) -> int:
        """Return what the other side closes the link with."""
        return (await asyncio.shield(self.closed))[0]

    async def leave(self) -> None:
        """Close the link as a node that ends does, if it is still open."""
        if not self.closed.done():
            self.send({"t": "bye", "reason": "closed", "drain_ms": 0})
            self._connection.close(1000)
            await asyncio.wait([self.closed])

    async def cut(self) -> None:
        """Close the link without a word, as if it was to be opened again."""
        self._connection.close(1001)
        await asyncio.wait([self.closed])

    def _take(self, data: bytes) -> None:
        is_new = False
        message = orjson.loads(data)
        for frame in message if type(message) is list else [message]:
            if "msg" in frame:  # the short form of what goes in the body otherwise
                x = {"__type": "Msg", **dict(zip(SHORT_FORM, frame["msg"], strict=True)), "url": None}
                frame["body"] = x if frame["t"] == "rep" else {"x": x}
            self.seen.append(frame)
            if frame["t"] in NUMBERED:
                self.rx = frame["n"]
                is_new = True
        if is_new and self._acknowledges:
            self.send({"t": "ack", "rx": self.rx})
        self._arrival.set()

    def _lose(self, code: int, reason: str) -> None:
        self.closed.set_result((code, reason))
        self._arrival.set()


class RawNode:
    """Listens as a node does, and lets a test say what is answered: for those who dial."""

    def __init__(self) -> None:
        self.links: asyncio.Queue[RawPeer] = asyncio.Queue()
        self.peers: list[RawPeer] = []

    @classmethod
    @asynccontextmanager
    async def listening(cls) -> AsyncIterator[Self]:
        from agentscope_async.node.connection import listen

        self = cls()
        listener = await listen("127.0.0.1", 0, on_connection=self._take, anonymous=True)
        self.url = listener.url.rstrip("/")
        try:
            yield self
        finally:
            for peer in self.peers:
                await peer.leave()
            await listener.aclose()

    url: str

    def _take(self, connection: Connection) -> None:
        peer = RawPeer(connection)
        self.peers.append(peer)
        self.links.put_nowait(peer)

    async def greeted(self, *with_it: dict[str, Any] | bytes, **changes: Any) -> RawPeer:
        """Welcome who dials next; ``with_it`` goes in the same message."""
        peer = await self.links.get()
        hello = await peer.next("hello")
        peer.welcome = greeting("welcome", **{"key": token_hex(16), "resumed": False, **changes})
        peer.hello = hello
        peer.send(peer.welcome)
        if with_it:
            peer.send(*with_it)
        return peer


class Healthy(AgentBase):
    """Answers everybody at once."""

    async def reply(self, x: Any = None, **kwargs: Any) -> Msg:
        return Msg(self.name, "fine", "assistant")


class House:
    """A runtime that listens and is attacked, and an honest one that uses it all the while.

    Attributes:
        rt: the one that is attacked.
        honest: the other one.
        answered: how often its agent answered the honest one during the attack.
    """

    rt: Runtime
    honest: Runtime

    def __init__(self, *, is_open_to_others: bool) -> None:
        self.is_open_to_others = is_open_to_others
        self.answered = 0
        self.reports: list[dict[str, Any]] = []
        self.peers: list[RawPeer] = []

    @property
    def url(self) -> str:
        assert self.rt.url is not None
        return self.rt.url

    async def enter(self, **options: Any) -> RawPeer:
        """Return a hostile peer that was let in."""
        peer = await RawPeer.enter(self.url, **options)
        self.peers.append(peer)
        return peer

    async def knock(self, **options: Any) -> RawPeer:
        """Return a hostile peer that has not said hello."""
        peer = await RawPeer.knock(self.url, **options)
        self.peers.append(peer)
        return peer

    async def still_serves(self) -> None:
        """See that who is honest gets an answer, over the link it has and over a new one."""
        assert (await self.honest.agent(f"{self.url}/healthy")("well?")).text == "fine"
        if self.is_open_to_others:
            async with Runtime(token=TOKEN) as other:
                assert (await other.agent(f"{self.url}/healthy")("well?")).text == "fine"
        self.answered += 1

    async def _ping(self) -> None:
        healthy = self.honest.agent(f"{self.url}/healthy")
        while True:
            assert (await healthy("well?")).text == "fine"
            self.answered += 1
            await asyncio.sleep(0.005)


@asynccontextmanager
async def attacked(listen: str = "mem://house", **options: Any) -> AsyncIterator[House]:
    """Attack a runtime inside; afterwards see that it still serves others and left nothing behind.

    ``healthy`` is exported beside ``options["exports"]``. What the event loop's exception handler is
    told of is a failure.
    """
    house = House(is_open_to_others=not isinstance(options.get("token"), dict))
    exports = {"healthy": Healthy("healthy"), **options.pop("exports", {})}
    token = options.setdefault("token", TOKEN)
    options.setdefault("grace", 0)  # a peer that answers nothing would be waited for
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: house.reports.append(context))
    async with nothing_left_behind():
        async with (
            Runtime(listen=listen, node="house", exports=exports, **options) as house.rt,
            Runtime(
                token=token if isinstance(token, str) else token["honest"], node="honest"
            ) as house.honest,
        ):
            pinging = asyncio.create_task(house._ping())
            try:
                yield house
                await house.still_serves()
            finally:
                if pinging.done():
                    pinging.result()
                pinging.cancel()
                await asyncio.wait([pinging])
                for peer in house.peers:
                    await peer.leave()
    assert house.reports == []


# What no library sends: websockets by hand (RFC 6455 section 5.2).

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, FIN = 0, 1, 2, 8, 9, 10, 0x80
HEADERS = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "asa.1",
    "Authorization": f"Bearer {TOKEN}",
}


def upgrade(**changes: str | None) -> bytes:
    """Return a request to be let in; ``_`` in a name of ``changes`` is a dash, None leaves a header out."""
    headers = HEADERS | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1")


def ws_frame(first: int, data: bytes = b"") -> bytes:
    """Return a frame of a client; a mask of zeros changes nothing."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + data


class RawSocket:
    """A TCP connection to a listener, for what is below or beside the protocol of nodes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        port = int(url.rpartition(":")[2])
        self = cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**25))
        try:
            yield self
        finally:
            self.writer.transport.abort()
            try:
                await self.writer.wait_closed()
            except ConnectionError:
                pass

    async def status(self, request: bytes) -> int:
        """Send a request; return the status of the answer, 0 for none."""
        self.writer.write(request)
        answer = await self.rest()
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    async def enter(self) -> None:
        """Be let in as a websocket, and welcomed as a node."""
        self.writer.write(upgrade())
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.writer.write(ws_frame(FIN | BINARY, orjson.dumps(greeting())))
        assert b'"welcome"' in await self.read_message()

    async def read_message(self) -> bytes:
        head = await self.reader.readexactly(2)
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Return all that comes until the other side closes."""
        received = b""
        try:
            while piece := await self.reader.read(65536):
                received += piece
        except ConnectionError:
            pass
        return received

    async def close_code(self) -> int:
        """Return the code of the last close frame; 0 when the connection ends without one."""
        data = await self.rest()
        at = data.rfind(bytes([FIN | CLOSE]))
        return int(struct.unpack_from("!H", data, at + 2)[0]) if at >= 0 else 0
