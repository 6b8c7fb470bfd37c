"""A link carries its session over cuts, silence and restarts, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from node.certificates import client_context, server_context
from node.chaos import ChaosProxy
from node.leftovers import nothing_left_behind

from agentscope_async.errors import ConfigError, ConnectFailed
from agentscope_async.node import _inbox as inbox_module, link as link_module
from agentscope_async.node._memory import listen_in_memory
from agentscope_async.node.connection import Connection, Limits, connect, listen
from agentscope_async.node.events import CannotSend, Event, LinkSuspect, LinkUp, SessionLost, State
from agentscope_async.node.frames import Ask, CloseCode, Reply, Tell
from agentscope_async.node.link import Link
from agentscope_async.node.settings import Settings, new_incarnation
from agentscope_async.node.switchboard import Switchboard

TOKENS = {"ann": "the-token-of-ann", "eve": "the-token-of-eve"}


class End:
    """The owner of one end of a link: keeps what it hears, and answers asks with what was asked."""

    link: Link

    def __init__(self) -> None:
        self.tells: list[Any] = []
        self.asks: list[Any] = []
        self.replies: dict[int, Any] = {}
        self.events: list[Event] = []
        self.lost: list[SessionLost] = []
        self.is_answering = self.is_consuming = True
        self._change = asyncio.Event()

    def on_event(self, event: Event) -> None:
        match event:
            case Tell():
                self.tells.append(event.body)
                if self.is_consuming:
                    self.link.session.consumed(event.to)
            case Ask():
                self.asks.append(event.body)
                self.link.session.consumed(event.to)
                if self.is_answering:
                    self.link.session.reply(event.id, event.body)
            case Reply():
                assert event.id not in self.replies
                self.replies[event.id] = event.body
            case _:
                self.events.append(event)
        self.link.flush()
        self._change.set()

    def on_lost(self, event: SessionLost) -> None:
        self.lost.append(event)
        self._change.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until what was heard fulfils the condition."""
        while not condition():
            self._change.clear()
            await self._change.wait()

    def count(self, kind: type) -> int:
        return sum(type(event) is kind for event in self.events)

    async def send(self, send: Callable[[], int]) -> int:
        """Send when the session lets us."""
        while True:
            try:
                number = send()
            except CannotSend:
                self.link.flush()
                self._change.clear()
                await self._change.wait()
            else:
                self.link.flush()
                return number

    async def talk(self, count: int) -> list[int]:
        """Send tells and asks in turn; return the ids of the asks."""
        session, ids = self.link.session, []
        for number in range(count):
            await self.send(lambda number=number: session.tell("bob", number))  # type: ignore[misc]
            now = asyncio.get_running_loop().time()
            ids.append(await self.send(lambda number=number, now=now: session.ask("bob", number, now)))  # type: ignore[misc]
            if number % 7 == 0:
                await asyncio.sleep(0)
        return ids


class Node:
    """A node that listens; the ends of its links are in ``ends``."""

    def __init__(self, scheme: str, **limits: Any) -> None:
        self.scheme = scheme
        self.ends: list[End] = []
        self.connections: list[Connection] = []
        self.board = Switchboard(settings_of("bob", **limits), self._on_link)

    async def __aenter__(self) -> Node:
        if self.scheme == "mem":
            self.listener: Any = await listen_in_memory("bob", on_connection=self._accept, tokens=TOKENS)
        else:
            context = server_context() if self.scheme == "wss" else None
            self.listener = await listen(
                "127.0.0.1", 0, on_connection=self._accept, tokens=TOKENS, ssl=context
            )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.listener.aclose()
        await self.board.aclose()

    def _accept(self, connection: Connection) -> None:
        self.connections.append(connection)
        self.board.accept(connection)

    def _on_link(self, link: Link) -> None:
        end = End()
        end.link = link
        self.ends.append(end)
        link.start(end.on_event, end.on_lost)


def settings_of(node: str, **limits: Any) -> Settings:
    return Settings(node, new_incarnation(), **limits)


async def dial(url: str, settings: Settings | None = None, **options: Any) -> End:
    end, settings = End(), settings or settings_of("ann")
    if url.startswith("wss:"):
        options.setdefault("ssl", client_context())
    early: list[Event] = []
    end.link = await Link.dial(
        url,
        settings,
        token=options.pop("token", TOKENS["ann"]),
        on_event=lambda event: end.on_event(event) if hasattr(end, "link") else early.append(event),
        on_lost=end.on_lost,
        **options,
    )
    end.events[:0] = early
    return end


@asynccontextmanager
async def linked(scheme: str, **limits: Any) -> AsyncIterator[tuple[End, End, Node]]:
    async with nothing_left_behind(), Node(scheme, **limits) as node:
        ann = await dial(node.listener.url, settings_of("ann", **limits))
        yield ann, node.ends[0], node
        await ann.link.aclose()


@pytest.fixture(params=["mem", "ws", "wss"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[End, End, Node]]:
    """The dialing end, the accepting end, and the node of the latter."""
    async with linked(request.param) as ends:
        yield ends


@pytest.fixture
async def proxied() -> AsyncIterator[tuple[End, End, ChaosProxy]]:
    """Both ends of a link through a proxy that misbehaves."""
    # A greeting that the proxy swallows is missed after ``handshake_s``.
    limits = {"heartbeat_s": 0.05, "handshake_s": 1.0}
    async with nothing_left_behind(), Node("ws", **limits) as node:
        async with ChaosProxy(node.listener.port) as proxy:
            ann = await dial(f"ws://127.0.0.1:{proxy.port}", settings_of("ann", **limits))
            yield ann, node.ends[0], proxy
            proxy.heal()
            await ann.link.aclose()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(link_module, "LONGEST_RETRY_S", 0.01)


Pair = tuple[End, End, Node]
Proxied = tuple[End, End, ChaosProxy]


async def settle(end: End, other: End, count: int) -> None:
    await end.until(lambda: len(end.replies) == count)
    await other.until(lambda: len(other.tells) == count)


async def test_tells_and_asks_cross_both_ways_in_order(pair: Pair) -> None:
    ann, bob, _ = pair
    ids, ids_of_bob = await asyncio.gather(ann.talk(300), bob.talk(300))
    await settle(ann, bob, 300)
    await settle(bob, ann, 300)
    assert ann.tells == bob.tells == ann.asks == bob.asks == list(range(300))
    assert [ann.replies[id] for id in ids] == [bob.replies[id] for id in ids_of_bob] == list(range(300))


async def test_frames_of_one_turn_of_the_loop_share_messages(pair: Pair, monkeypatch: Any) -> None:
    ann, bob, _ = pair
    sizes = spy_on_messages(ann, monkeypatch)
    for number in range(10):
        ann.link.session.tell("bob", number)
        ann.link.flush()
    assert sizes == [1, 1, 2, 4]  # as many as are under way already; the rest waits for others
    await bob.until(lambda: len(bob.tells) == 10)
    assert sizes == [1, 1, 2, 4, 2]


async def test_what_arrives_is_acknowledged_though_there_is_nothing_to_say() -> None:
    async with linked("ws", heartbeat_s=600.0) as (ann, bob, _):
        for number in range(3):
            ann.link.session.tell("bob", number)
            ann.link.flush()
            await bob.until(lambda: bob.tells)
            await until(lambda: ann.link.session.is_settled)


async def test_a_lone_frame_is_written_at_once(pair: Pair, monkeypatch: Any) -> None:
    ann, _, _ = pair
    sizes = spy_on_messages(ann, monkeypatch)
    ann.link.session.ask("bob", 1, 0.0)
    ann.link.flush()
    assert sizes == [1]
    await ann.until(lambda: ann.replies)


async def test_many_frames_do_not_wait_for_the_end_of_the_turn(pair: Pair, monkeypatch: Any) -> None:
    ann, bob, _ = pair
    sizes = spy_on_messages(ann, monkeypatch)
    for number in range(100):
        ann.link.session.tell(("bob", "bea")[number % 2], number)
        ann.link.flush()
    assert sizes == [1, 1, 2, 4, 8, 16, 32, 32]
    await bob.until(lambda: len(bob.tells) == 100)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_process_reads_into_a_buffer_of_its_own() -> None:
    async with linked("ws") as (ann, _, _):
        connection: Any = ann.link._connection
        before = bytes(connection._buffer[:8])
        child = os.fork()
        if not child:
            connection._buffer[:8] = bytes(8 * [255])
            os._exit(0)
        os.waitpid(child, 0)  # noqa: ASYNC222  # it ends at once
        assert bytes(connection._buffer[:8]) == before


async def test_one_flush_writes_all_that_waits(pair: Pair, monkeypatch: Any) -> None:
    ann, bob, _ = pair
    sizes = spy_on_messages(ann, monkeypatch)
    for number in range(60):
        ann.link.session.tell("bob", number)
    ann.link.flush()
    assert sizes == [32, 28]
    await bob.until(lambda: len(bob.tells) == 60)


def spy_on_messages(end: End, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which the number of frames of each message is going to be added."""
    connection, sizes = end.link._connection, []
    assert connection is not None
    send = connection.send

    def spy(message: bytes) -> None:
        frames = orjson.loads(message)
        sizes.append(len(frames) if type(frames) is list else 1)
        send(message)

    monkeypatch.setattr(connection, "send", spy)
    return sizes


async def test_a_congested_connection_is_written_to_no_more_until_it_has_room() -> None:
    high_water = 64 * 1024
    async with nothing_left_behind(), Node("mem") as node:
        ann = await dial("mem://bob", limits=Limits(high_water_bytes=high_water))
        connection: Any = ann.link._connection
        most = 0
        for _ in range(64):
            ann.link.session.tell("bob", "x" * 20_000)
            ann.link.flush()
            ann.link._write_soon()
            most = max(most, connection._peer._inbox_bytes)
        assert high_water < most < 2 * high_water + 128 * 1024
        await node.ends[0].until(lambda: len(node.ends[0].tells) == 64)
        await ann.link.aclose()


@pytest.mark.parametrize("is_dialer", [True, False])
async def test_writing_goes_on_as_soon_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, is_dialer: bool
) -> None:
    monkeypatch.setattr(inbox_module, "ACK_AFTER_S", 1_000.0)  # nothing else that arrives makes it go on
    async with linked("mem", heartbeat_s=60.0) as (ann, bob, _):
        sender, taker = (ann, bob) if is_dialer else (bob, ann)
        taker.is_consuming = False
        for _ in range(60):
            sender.link.session.tell("bob", "x" * 20_000)
        sender.link.flush()
        assert sender.link._connection.is_congested  # type: ignore[union-attr]
        await taker.until(lambda: len(taker.tells) == 60)


async def test_a_heartbeat_that_finds_no_room_is_tried_again_a_heartbeat_later() -> None:
    async with nothing_left_behind(), Node("mem", heartbeat_s=60.0) as node:
        ann = await dial(node.listener.url, settings_of("ann", heartbeat_s=0.02))
        link: Any = ann.link
        tick, times = link._tick, []

        def spy() -> None:
            times.append(asyncio.get_running_loop().time())
            tick()

        link._tick = spy
        link._connection.is_congested = True
        link._connection._peer._inbox_bytes = 2**20  # and so it stays
        while len(times) < 2:
            await asyncio.sleep(0)
        assert times[1] - times[0] >= 0.019
        await link.aclose()


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_or_repeated_when_links_are_cut_at_any_byte(
    proxied: Proxied, seed: int
) -> None:
    ann, bob, proxy = proxied
    chance = random.Random(seed)

    async def cut_again_and_again() -> None:
        while True:
            links = ann.link.session.statistics().links
            proxy.cut_after(chance.randrange(1_500), chance.choice(["up", "down"]))
            while ann.link.is_linked:
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                proxy.heal()  # else the next link is cut as well, perhaps before its welcome
            while ann.link.session.statistics().links == links:
                if not ann.link.is_linked and proxy.accepted % 3 == 0:
                    proxy.heal()
                await asyncio.sleep(0)

    saboteur = asyncio.ensure_future(cut_again_and_again())
    ids, ids_of_bob = await asyncio.gather(ann.talk(400), bob.talk(400))
    await asyncio.gather(settle(ann, bob, 400), settle(bob, ann, 400))
    saboteur.cancel()
    assert ann.link.session.statistics().links > 10
    assert ann.tells == bob.tells == ann.asks == bob.asks == list(range(400))
    assert [ann.replies[id] for id in ids] == [bob.replies[id] for id in ids_of_bob] == list(range(400))
    assert not ann.lost
    assert not bob.lost


async def test_a_memory_link_that_is_cut_goes_on_where_it_was(pair: Pair) -> None:
    ann, bob, node = pair
    bob.is_answering = False
    id = ann.link.session.ask("bob", "before", 0.0)
    ann.link.flush()
    await bob.until(lambda: bob.asks)
    cut(ann)
    await ann.until(lambda: ann.count(LinkUp) == 2)
    bob.link.session.reply(id, "after")
    bob.link.flush()
    await ann.until(lambda: ann.replies)
    assert bob.asks == ["before"]
    assert ann.replies == {id: "after"}
    assert ann.events[-1] == LinkUp(resumed=True)
    assert len(node.board.links) == 1


def cut(end: End) -> None:
    connection: Any = end.link._connection
    if hasattr(connection, "cut"):
        connection.cut()
    else:
        connection._transport.abort()


async def test_a_silent_link_is_suspected_and_replaced(proxied: Proxied) -> None:
    ann, bob, proxy = proxied
    proxy.swallow()
    id = ann.link.session.ask("bob", "anybody there?", 0.0)
    ann.link.flush()
    await ann.until(lambda: ann.count(LinkSuspect))
    await bob.until(lambda: bob.count(LinkSuspect))
    proxy.heal()
    await ann.until(lambda: ann.replies)
    assert ann.replies == {id: "anybody there?"}
    assert bob.asks == ["anybody there?"]
    assert not ann.lost


async def test_an_idle_link_stays_up_by_heartbeats_alone() -> None:
    async with linked("ws", heartbeat_s=0.02) as (ann, bob, _):
        for _ in range(10):
            await beat(ann)
        times = [end.link.session.statistics().round_trip_s for end in (ann, bob)]
        assert times != [None, None]  # one side's heartbeats are enough: the other only answers
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert ann.count(LinkUp) == bob.count(LinkUp) == 1
        assert ann.link.session.statistics().frames_sent == 0


async def beat(end: End) -> None:
    """Wait until another heartbeat was written."""
    written_at = end.link.session._written_at
    while end.link.session._written_at == written_at:
        await asyncio.sleep(0)


@pytest.mark.parametrize("scheme", ["mem", "ws"])
async def test_a_peer_that_refuses_to_be_reconnected_is_gone_at_once(scheme: str) -> None:
    async with nothing_left_behind(), Node(scheme) as node:
        ann = await dial(node.listener.url)
        bob = node.ends[0]
        bob.is_answering = False
        seen = ann.link.session.ask("bob", "seen", 0.0, tag="seen")
        ann.link.flush()
        await bob.until(lambda: bob.asks)
        await node.listener.aclose()
        cut(ann)
        await until(lambda: not ann.link.is_linked)
        ann.link.session.tell("bob", "never left", tag="never left")
        ann.link.flush()
        await ann.until(lambda: ann.lost)
        (lost,) = ann.lost
        assert lost.reason == "refused"
        assert [(one.tag, one.outcome) for one in lost.outcomes] == [
            ("seen", "unknown"),
            ("never left", "not_delivered"),
        ]
        assert seen == 1
        await ann.link.aclose()


async def test_a_peer_that_was_started_again_ends_the_session_at_once() -> None:
    async with nothing_left_behind(), Node("ws") as old:
        async with ChaosProxy(old.listener.port) as proxy:
            ann = await dial(f"ws://127.0.0.1:{proxy.port}")
            old.ends[0].is_answering = False
            ann.link.session.ask("bob", "x", 0.0, tag="asked")
            ann.link.flush()
            await old.ends[0].until(lambda: old.ends[0].asks)
            async with Node("ws") as new:
                proxy.target = new.listener.port
                proxy.reset()
                ann.link.session.tell("bob", "y", tag="told")
                await ann.until(lambda: ann.lost)
                assert ann.lost[0].reason == "restarted"
                assert {one.tag: one.outcome for one in ann.lost[0].outcomes}["asked"] == "unknown"
                assert new.ends[0].tells == []
                await ann.link.aclose()


async def test_a_dialer_that_was_started_again_gets_a_new_session(pair: Pair) -> None:
    _, bob, node = pair
    again = await dial(node.listener.url)
    await bob.until(lambda: bob.lost)
    assert bob.lost[0].reason == "restarted"
    assert [end.link for end in node.ends[1:]] == node.board.links
    again.link.session.tell("bob", "hello")
    again.link.flush()
    await node.ends[1].until(lambda: node.ends[1].tells)
    await again.link.aclose()


async def test_an_incarnation_that_was_replaced_is_fenced(pair: Pair) -> None:
    ann, _, node = pair
    again = await dial(node.listener.url)
    await ann.until(lambda: ann.lost)
    assert ann.lost[0].reason == "fenced"
    with pytest.raises(ConnectFailed, match="4008") as caught:
        await dial(node.listener.url, ann.link.session.settings)
    assert caught.value.kind == "rejected"
    await again.link.aclose()


async def test_a_token_names_the_node(pair: Pair) -> None:
    _, _, node = pair
    with pytest.raises(ConnectFailed, match="'eve', not 'ann'") as caught:
        await dial(node.listener.url, token=TOKENS["eve"])
    assert caught.value.kind == "rejected"
    assert len(node.board.links) == 1


async def test_two_nodes_have_a_link_each(pair: Pair) -> None:
    _, _, node = pair
    eve = await dial(node.listener.url, settings_of("eve"), token=TOKENS["eve"])
    assert sorted(link.session.peer for link in node.board.links) == ["ann", "eve"]
    await eve.link.aclose()


async def test_nobody_there_is_told_by_dial() -> None:
    async with nothing_left_behind():
        with pytest.raises(ConnectFailed) as caught:
            await dial("mem://nobody")
        assert caught.value.kind == "refused"


async def test_a_listener_that_never_says_welcome_is_given_up() -> None:
    kept: list[Connection] = []

    def keep(connection: Connection) -> None:
        kept.append(connection)
        connection.start(lambda data: None, lambda code, reason: None)

    async with nothing_left_behind():
        async with await listen_in_memory("mute", on_connection=keep, tokens=TOKENS):
            with pytest.raises(ConnectFailed) as caught:
                await dial("mem://mute", settings_of("ann", handshake_s=0.05))
        assert caught.value.kind == "timeout"


async def test_dialing_can_be_cancelled_before_the_welcome() -> None:
    heard = asyncio.Event()

    def keep(connection: Connection) -> None:
        connection.start(lambda data: heard.set(), lambda code, reason: None)

    async with nothing_left_behind():
        async with await listen_in_memory("mute", on_connection=keep, tokens=TOKENS):
            dialing = asyncio.ensure_future(dial("mem://mute"))
            await heard.wait()
            dialing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialing


async def test_a_caller_that_says_no_hello_is_closed() -> None:
    async with nothing_left_behind(), Node("mem", handshake_s=0.05) as node:
        codes: asyncio.Queue[int] = asyncio.Queue()
        silent = await connect("mem://bob", token=TOKENS["ann"])
        silent.start(lambda data: None, lambda code, reason: codes.put_nowait(code))
        assert await codes.get() == CloseCode.HANDSHAKE_TIMEOUT
        assert node.board.links == []


async def test_a_connection_that_was_lost_on_one_side_only_is_closed_when_the_link_is_back(
    pair: Pair,
) -> None:
    ann, bob, node = pair
    forgotten = ann.link._connection
    assert forgotten is not None
    ann.link.connection_lost(forgotten, 1006, "only we know")
    await bob.until(lambda: bob.count(LinkUp) == 2)
    assert not node.connections[0].is_open
    ann.link.session.tell("bob", "still here")
    ann.link.flush()
    await bob.until(lambda: bob.tells)


async def test_when_a_link_is_closed_its_connection_is(pair: Pair) -> None:
    connection: Any = pair[0].link._connection
    await pair[0].link.aclose()
    assert connection._outcome is not None


@pytest.mark.parametrize("is_dialer", [True, False])
async def test_closing_tells_the_other_side(pair: Pair, is_dialer: bool) -> None:
    closing, other = pair[:2] if is_dialer else (pair[1], pair[0])
    await closing.link.aclose()
    await other.until(lambda: other.lost)
    assert [end.lost[0].reason for end in (closing, other)] == ["closed", "closed"]
    assert closing.link.session.state is other.link.session.state is State.OVER
    assert not closing.link.is_linked
    await closing.link.aclose()


async def test_a_grace_lets_open_asks_be_answered(pair: Pair) -> None:
    ann, bob, _ = pair
    bob.is_answering = False
    id = ann.link.session.ask("bob", "x", 0.0)
    ann.link.flush()
    await bob.until(lambda: bob.asks)
    closing = asyncio.ensure_future(ann.link.aclose(grace_s=30))
    await bob.until(lambda: not bob.link.session.can_send)
    bob.link.session.reply(id, "done")
    bob.link.flush()
    await closing
    assert ann.replies == {id: "done"}
    assert ann.lost[0].outcomes == []


async def test_a_grace_that_ends_tells_what_is_left(pair: Pair) -> None:
    ann, bob, _ = pair
    bob.is_answering = False
    ann.link.session.ask("bob", "x", 0.0, tag="mine")
    ann.link.flush()
    await bob.until(lambda: bob.asks)
    await ann.link.aclose(grace_s=0.01)
    assert [(one.tag, one.outcome) for one in ann.lost[0].outcomes] == [("mine", "unknown")]


async def test_closing_while_the_link_is_being_opened_again_leaves_nothing(proxied: Proxied) -> None:
    ann, bob, proxy = proxied
    proxy.stall()
    proxy.reset()
    while ann.link.is_linked or ann.link._redialing is None:
        await asyncio.sleep(0)
    await ann.link.aclose()
    assert ann.lost[0].reason == "closed"
    await bob.link.aclose()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no owner is told of."""
    while not condition():
        await asyncio.sleep(0)


def listening_to(connections: list[Connection]) -> Callable[[Connection], None]:
    """Return what accepts connections and never says anything."""

    def accept(connection: Connection) -> None:
        connections.append(connection)
        connection.start(lambda data: None, lambda code, reason: connections.remove(connection))

    return accept


async def test_closing_before_the_hello_is_answered_leaves_nothing(proxied: Proxied) -> None:
    ann, bob, proxy = proxied
    silent: list[Connection] = []
    async with await listen("127.0.0.1", 0, on_connection=listening_to(silent), tokens=TOKENS) as listener:
        proxy.target = listener.port
        proxy.reset()
        await until(lambda: silent and ann.link.is_linked)
        assert ann.link.session.state is State.HANDSHAKE
        await ann.link.aclose()
        await until(lambda: not silent)
    assert [lost.reason for lost in ann.lost] == ["closed"]
    assert not ann.link.is_linked
    await bob.link.aclose()


async def test_giving_up_to_dial_before_the_hello_is_answered_leaves_nothing() -> None:
    silent: list[Connection] = []
    async with nothing_left_behind():
        async with await listen(
            "127.0.0.1", 0, on_connection=listening_to(silent), tokens=TOKENS
        ) as listener:
            dialing = asyncio.ensure_future(dial(listener.url))
            await until(lambda: silent)
            dialing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialing
            await until(lambda: not silent)


async def test_closing_the_accepting_end_while_the_dialer_comes_back_ends_both(proxied: Proxied) -> None:
    ann, bob, proxy = proxied
    proxy.stall()
    proxy.reset()
    await until(lambda: not bob.link.is_linked)
    await bob.link.aclose()
    proxy.heal()
    await ann.until(lambda: ann.lost)
    assert (bob.lost[0].reason, ann.lost[0].reason) == ("closed", "forgotten")


async def test_a_session_its_dialer_forgot_leaves_no_link_behind() -> None:
    async with nothing_left_behind(), Node("ws") as node:
        ann = await dial(node.listener.url)
        bob = node.ends[0]
        bob.link.connection_lost(bob.link._connection, 1006, "only it knows")  # type: ignore[arg-type]
        await bob.link.aclose()
        cut(ann)
        await ann.until(lambda: ann.lost)
        await node.ends[1].until(lambda: node.ends[1].lost)
        assert node.ends[1].lost[0].reason == "forgotten"
        assert node.board.links == []


async def test_two_links_between_the_same_nodes_do_not_disturb_each_other() -> None:
    async with nothing_left_behind(), Node("ws") as node:
        settings = settings_of("ann")
        ends = [await dial(node.listener.url, settings) for _ in range(2)]
        for number, end in enumerate(ends):
            end.link.session.tell("bob", number)
            end.link.flush()
        for number, bob in enumerate(node.ends):
            await bob.until(lambda bob=bob: bob.tells)  # type: ignore[misc]
            assert bob.tells == [number]
        cut(ends[0])
        await ends[0].until(lambda: ends[0].count(LinkUp) == 2)
        assert len(node.board.links) == 2
        assert not any(end.lost for end in ends + node.ends)
        for end in ends:
            await end.link.aclose()


async def test_the_certificate_of_a_dialer_can_name_its_node() -> None:
    def authenticate(applicant: Any) -> str | None:
        subject = {key: value for ((key, value),) in applicant.certificate["subject"]}
        return str(subject["commonName"])

    async with nothing_left_behind():
        node = Node("wss")
        async with await listen(
            "127.0.0.1",
            0,
            on_connection=node._accept,
            authenticate=authenticate,
            ssl=server_context(wants_certificates=True),
        ) as listener:
            ann = await dial(listener.url, token=None, ssl=client_context("ann"))
            ann.link.session.tell("bob", "over TLS")
            ann.link.flush()
            await node.ends[0].until(lambda: node.ends[0].tells)
            cut(ann)
            await ann.until(lambda: ann.count(LinkUp) == 2)
            with pytest.raises(ConnectFailed, match="4003"):
                await dial(listener.url, token=None, ssl=client_context("eve"))
            with pytest.raises(ConnectFailed) as caught:
                await dial(listener.url, token=None)
            assert caught.value.kind in ("tls", "closed")
            await ann.link.aclose()
            await node.board.aclose()


async def test_a_switchboard_listens_with_limits_that_fit_its_settings() -> None:
    async with nothing_left_behind():
        ends: list[End] = []

        def on_link(link: Link) -> None:
            end = End()
            end.link = link
            ends.append(end)
            link.start(end.on_event, end.on_lost)

        board = Switchboard(settings_of("bob", max_frame=2**21), on_link)
        async with await board.listen("127.0.0.1", 0, tokens=TOKENS) as ws:
            async with await board.listen_in_memory("bob", tokens=TOKENS) as mem:
                for listener in (ws, mem):
                    ann = await dial(listener.url)
                    ann.link.session.tell("bob", "x" * (3 * 2**19))
                    ann.link.flush()
                    await until(lambda: ends[-1].tells)
                    await ann.link.aclose()
        await board.aclose()


async def test_limits_below_the_frames_of_the_settings_are_refused() -> None:
    board, low = Switchboard(settings_of("bob"), lambda link: None), Limits(max_message_bytes=2**20 - 1)
    with pytest.raises(ConfigError, match=r"max_message_bytes=1048576"):
        await board.listen("127.0.0.1", 0, tokens=TOKENS, limits=low)
    with pytest.raises(ConfigError, match=r"max_message_bytes=1048576"):
        await board.listen_in_memory("bob", tokens=TOKENS, limits=low)


async def test_a_connection_below_the_frames_of_the_settings_is_not_accepted() -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    board, low = Switchboard(settings_of("bob"), lambda link: None), Limits(max_message_bytes=2**20 - 1)
    async with nothing_left_behind():
        async with await listen_in_memory("bob", on_connection=board.accept, tokens=TOKENS, limits=low):
            with pytest.raises(ConnectFailed):
                await dial("mem://bob")
    assert isinstance(problems[0]["exception"], ConfigError)


async def test_an_owner_that_raises_gets_the_events_that_follow(pair: Pair) -> None:
    ann, bob, _ = pair
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    heard: list[Any] = []

    def stumble(event: Event) -> None:
        assert isinstance(event, Tell)
        heard.append(event.body)
        if event.body == 1:
            raise ValueError("stumbled")
        bob.on_event(event)

    bob.link._on_event = stumble
    for number in range(4):
        ann.link.session.tell("bob", number)
    ann.link.flush()
    await bob.until(lambda: len(heard) == 4)
    assert heard == [0, 1, 2, 3]
    assert [str(problem["exception"]) for problem in problems] == ["stumbled"]
    assert bob.link.is_linked


async def test_the_window_ends_a_session_whose_link_does_not_come_back() -> None:
    async with nothing_left_behind(), Node("ws", window_s=0.1) as node:
        async with ChaosProxy(node.listener.port) as proxy:
            ann = await dial(f"ws://127.0.0.1:{proxy.port}", settings_of("ann", window_s=0.1))
            proxy.refuse()
            proxy.reset()
            await ann.until(lambda: ann.lost)
            await node.ends[0].until(lambda: node.ends[0].lost)
            assert ann.lost[0].reason == node.ends[0].lost[0].reason == "window"
            assert node.board.links == []
            await ann.link.aclose()


async def test_a_link_without_an_owner_is_refused_with_the_reason() -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    board = Switchboard(settings_of("bob"), lambda link: None)
    async with nothing_left_behind():
        async with await listen_in_memory("bob", on_connection=board.accept, tokens=TOKENS):
            with pytest.raises(ConnectFailed):
                await dial("mem://bob")
        await board.aclose()
    assert "must call start()" in str(problems[0]["exception"])
    assert board.links == []


async def test_a_closed_switchboard_takes_no_links() -> None:
    async with nothing_left_behind(), Node("mem") as node:
        await node.board.aclose()
        with pytest.raises(ConnectFailed, match="1001"):
            await dial("mem://bob")
