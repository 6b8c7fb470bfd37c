"""Thousands of random schedules of two nodes, a virtual clock and a network that fails.

A schedule is drawn from its number: what the two applications send, how far each message
gets, when the link is cut (also within a message), falls silent in one direction, is
replaced while it still works, when a node is started again, and when it begins another
session beside the one it has. At the end the network
heals, everything comes to rest, and the history is checked: what one session received is
what the other sent, each thing once, in order, without a gap; every ask and every watch
ended once; and what a lost session reported of its messages is true.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

import pytest

from agentscope_async.node.events import CannotSend, CloseLink, SessionLost, State
from agentscope_async.node.frames import Ask, Cancel, CloseCode, Down, Failure, Reply, Tell, Unwatch, Watch
from agentscope_async.node.reception import Reception
from agentscope_async.node.session import Session
from agentscope_async.node.settings import Settings, new_incarnation

SCHEDULES = 10_800
CHUNKS = 24
STEPS = 40
LIMITS: dict[str, Any] = {
    "max_frame": 16 * 1024,
    "max_body": 64 * 1024,
    "credit": 4,
    "outbox_frames": 12,
    "outbox_bytes": 40 * 1024,
}
AGENTS = ("bob", "carol")


class Wire:
    """One link: a FIFO of messages each way, and in the end a close with its code."""

    def __init__(self) -> None:
        self.to: dict[str, deque[Any]] = {"a": deque(), "b": deque()}
        self.is_cut = False
        self.silent: set[str] = set()  # who hears nothing any more

    def write(self, to: str, item: Any) -> None:
        if not self.is_cut and to not in self.silent:
            self.to[to].append(item)

    def cut(self, draw: random.Random) -> None:
        """Lose an arbitrary end of what is under way; a message may arrive in part."""
        for queue in self.to.values():
            for _ in range(draw.randint(0, len(queue))):
                queue.pop()
            if queue and isinstance(queue[-1], bytes) and draw.random() < 0.2:
                queue[-1] = queue[-1][: draw.randint(0, len(queue[-1]))]
            queue.append((None,))
        self.is_cut = True


class Life:
    """What one session object sent and received, as its application saw it."""

    def __init__(self, session: Session, side: str) -> None:
        self.session = session
        self.side = side
        self.sent: list[str] = []
        self.received: list[str] = []
        self.kinds: dict[str, str] = {}
        self.asks: dict[int, str] = {}
        self.ended: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.watches: dict[int, int] = {}
        self.work: list[tuple[int, str, int]] = []  # asks to answer: id, token, parts still to send
        self.unconsumed: list[str | int] = []
        self.peer_watches: list[int] = []
        self.answers: dict[str, str] = {}  # reply token -> token of its ask
        self.is_dead = False  # its process was killed
        self.lost: str | None = None


class World:
    """Two nodes and the network between them."""

    def __init__(self, number: int) -> None:
        self.draw = random.Random(number)
        self.now = 100.0
        self.token = 0
        self.lives: list[Life] = []
        self.life: dict[str, Life | None] = {"a": None, "b": None}
        self.wire: dict[str, Wire | None] = {"a": None, "b": None}
        self.wires: list[Wire] = []
        self.starts = 0
        self.has_faults = True
        self.dark_until = 0.0
        self.most_sessions = 0  # that b had at a time
        self.boot("a")
        self.boot("b")

    # -- the nodes --

    def boot(self, side: str) -> None:
        self.starts += 1
        settings = Settings(
            side, new_incarnation(self.starts), window_s=self.draw.choice((2.0, 6.0)), **LIMITS
        )
        if side == "a":
            self.a_settings = settings
            self.start_session()
        else:
            self.reception = Reception(settings)
            self.life["b"] = None

    def start_session(self) -> None:
        self.life["a"] = Life(Session.dial(self.a_settings), "a")
        self.lives.append(self.life["a"])

    def restart(self, side: str) -> None:
        """Kill a node and start it again: nobody is told but the other side, by the socket."""
        for life in self.live():
            life.is_dead |= life.side == side
        for wire in self.wires:
            wire.cut(self.draw)
        self.wire[side] = None
        self.boot(side)

    def begin_another_session(self) -> None:
        """Dial as if by another URL. The session that a had gets no link any more, until its window ends."""
        life = self.life["a"]
        assert life is not None
        if life.session.state is State.NEW:
            return
        for wire in self.wires:
            wire.cut(self.draw)
        self.wire["a"] = None
        self.handle(life, life.session.link_down(self.now))
        self.start_session()

    def other(self, side: str) -> str:
        return "b" if side == "a" else "a"

    # -- the network --

    def dial(self) -> None:
        life = self.life["a"]
        assert life is not None
        if life.session.is_over:
            self.start_session()
            life = self.life["a"]
            assert life is not None
        self.wire["a"] = wire = Wire()
        self.wires = [*self.wires[-2:], wire]
        life.session.link_up(self.now)
        self.flush("a")

    def flush(self, side: str) -> None:
        life, wire = self.life[side], self.wire[side]
        if life is None or wire is None:
            return
        while (data := life.session.poll(self.now)) is not None:
            assert len(data) <= LIMITS["max_frame"]
            wire.write(self.other(side), data)

    def deliver(self, wire: Wire, side: str) -> None:
        item = wire.to[side].popleft()
        if isinstance(item, tuple):
            if self.wire[side] is wire:
                self.wire[side] = None
                life = self.life[side]
                if life is not None:
                    self.handle(life, life.session.link_down(self.now, item[0]))
        elif self.wire[side] is wire:
            life = self.life[side]
            assert life is not None
            self.handle(life, life.session.receive(item, self.now))
        elif side == "b" and wire in self.wires and not wire.is_cut and self.is_first(wire):
            self.admit(wire, item)
        self.flush(side)

    def is_first(self, wire: Wire) -> bool:
        return not hasattr(wire, "was_read") and not setattr(wire, "was_read", True)

    def admit(self, wire: Wire, hello: bytes) -> None:
        admission = self.reception.admit(hello, self.now, identity="a")
        for old, events in admission.ended:
            life = next(life for life in self.lives if life.session is old)
            self.handle(life, events)
        if admission.session is None:
            assert admission.refusal is not None
            wire.write("a", (admission.refusal.code,))
            return
        if admission.is_takeover and self.wire["b"] is not None:
            self.wire["b"].write("a", (CloseCode.REPLACED,))
        life = self.life["b"]
        if life is None or life.session is not admission.session:
            if life is not None:
                self.handle(life, life.session.link_down(self.now))
            self.life["b"] = life = self.life_of(admission.session)
        self.wire["b"] = wire
        self.most_sessions = max(self.most_sessions, len(self.reception.sessions))
        self.handle(life, admission.events)

    def life_of(self, session: Session) -> Life:
        for life in self.lives:
            if life.session is session:
                return life
        self.lives.append(Life(session, "b"))
        return self.lives[-1]

    # -- the applications --

    def handle(self, life: Life, events: list[Any]) -> None:
        for event in events:
            match event:
                case Tell():
                    life.received.append(event.body["k"])
                    life.unconsumed.append(event.to)
                case Ask():
                    life.received.append(event.body["k"])
                    life.unconsumed.append(event.to)
                    if event.body["ttl"] is not None:
                        assert event.ttl_ms is not None
                        assert 0 <= event.ttl_ms <= event.body["ttl"]
                    life.work.append((event.id, event.body["k"], self.draw.choice((0, 0, 6))))
                case Reply():
                    self.take_reply(life, event)
                case Cancel():
                    assert event.id in [id for id, _, _ in life.work]
                case Watch():
                    life.peer_watches.append(event.id)
                case Unwatch():
                    life.peer_watches.remove(event.id)
                case Down():
                    life.watches[event.id] += 1
                case SessionLost():
                    self.take_loss(life, event)
                case CloseLink():
                    self.close_wire(life, event)

    def take_reply(self, life: Life, reply: Reply) -> None:
        asked = life.asks[reply.id]
        assert asked not in life.cancelled
        body = reply.body if reply.failure is None else (reply.failure.facts or {})
        assert body["re"] == asked
        life.received.append(body["k"])
        if reply.last:
            life.ended[asked] += 1
        else:
            life.unconsumed.append(reply.id)

    def take_loss(self, life: Life, loss: SessionLost) -> None:
        assert life.lost is None
        life.lost = loss.reason
        for outcome in loss.outcomes:
            assert life.kinds[outcome.tag] == outcome.kind
            assert outcome.tag not in life.outcomes
            life.outcomes[outcome.tag] = outcome.outcome
            if outcome.kind == "ask":
                life.ended[outcome.tag] += 1
        for watch in loss.watches:
            life.watches[watch] += 1

    def close_wire(self, life: Life, close: CloseLink) -> None:
        wire = self.wire[life.side]
        if wire is not None and self.life[life.side] is life:
            self.flush(life.side)
            wire.write(self.other(life.side), (close.code,))
            self.wire[life.side] = None

    def act(self, life: Life) -> None:
        """Let an application do one thing."""
        try:
            match self.draw.choice(("tell", "ask", "work", "work", "consume", "consume", "cancel", "watch")):
                case "tell":
                    self.send(life, "tell")
                case "ask":
                    self.send(life, "ask")
                case "work":
                    self.answer(life)
                case "consume":
                    self.consume(life)
                case "cancel":
                    self.cancel(life)
                case "watch":
                    self.watch(life)
        except CannotSend as refused:
            assert refused.code != "not_asked" or life.session.is_over

    def new_token(self) -> str:
        self.token += 1
        return f"t{self.token}"

    def send(self, life: Life, kind: str) -> None:
        token, session = self.new_token(), life.session
        size = self.draw.choice((0, 0, 0, 100, 3_000, 30_000)) if self.has_faults else 0
        body = {"k": token, "ttl": None, "pad": "x" * size}
        if kind == "tell":
            session.tell(self.draw.choice(AGENTS), body, tag=token)
        else:
            ttl_s = self.draw.choice((None, 1.0, 60.0))
            body["ttl"] = None if ttl_s is None else round(ttl_s * 1000)
            id = session.ask(
                self.draw.choice(AGENTS), body, self.now, ttl_s=ttl_s, wants_parts=True, tag=token
            )
            life.asks[id] = token
        life.sent.append(token)
        life.kinds[token] = kind

    def answer(self, life: Life) -> None:
        if not life.work:
            return
        place = self.draw.randrange(len(life.work))
        id, asked, parts = life.work[place]
        token = self.new_token()
        body = {"k": token, "re": asked}
        if parts:
            life.work[place] = (id, asked, parts - 1)
            try:
                life.session.reply(id, body, last=False)
            except CannotSend:
                return
        else:
            if self.draw.random() < 0.3:
                life.session.fail(id, Failure("agent_error", "no", facts=body), tag=token)
            else:
                life.session.reply(id, body, tag=token)
            del life.work[place]
            life.kinds[token] = "reply"
        life.answers[token] = asked
        life.sent.append(token)

    def consume(self, life: Life) -> None:
        if life.unconsumed:
            life.session.consumed(life.unconsumed.pop(self.draw.randrange(len(life.unconsumed))))

    def cancel(self, life: Life) -> None:
        going = [id for id, token in life.asks.items() if not life.ended[token]]
        if going:
            id = self.draw.choice(going)
            life.session.cancel(id)
            life.cancelled.add(life.asks[id])
            life.ended[life.asks[id]] += 1

    def watch(self, life: Life) -> None:
        going = [id for id, count in life.watches.items() if not count]
        if life.peer_watches:
            life.session.down(life.peer_watches.pop(), "stopped")
        elif going and self.draw.random() < 0.5:
            life.session.unwatch(going[0])
            life.watches[going[0]] += 1
        else:
            life.watches[life.session.watch("bob")] = 0

    # -- the schedule --

    def step(self) -> None:
        draw = self.draw
        for side in ("a", "b"):
            life = self.life[side]
            if life is not None and not life.session.is_over:
                for _ in range(draw.randint(0, 4)):
                    if not life.session.is_over:
                        self.act(life)
                self.flush(side)
        for wire in list(self.wires):
            for side in ("a", "b"):
                for _ in range(draw.randint(0, min(4, len(wire.to[side])))):
                    self.deliver(wire, side)
        if self.has_faults:
            self.fail()
        self.pass_time(draw.choice((0.0, 0.003, 0.02, 0.02, 0.3, 1.0)))
        if self.wire["a"] is None and self.now >= self.dark_until and draw.random() < 0.5:
            self.dial()

    def fail(self) -> None:
        chance = self.draw.random()
        wire = self.wire["a"] or (self.wires[-1] if self.wires else None)
        if wire is None:
            return
        if chance < 0.06:
            wire.cut(self.draw)
            self.dark_until = self.now + self.draw.choice((0, 0, 1, 5, 7))
        elif chance < 0.08:
            wire.silent.add(self.draw.choice("ab"))
        elif chance < 0.10:
            self.dial()  # though the link may work
        elif chance < 0.11:
            self.restart(self.draw.choice("ab"))
        elif chance < 0.12:
            self.begin_another_session()

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on, as fast as the sessions' timers allow."""
        until = self.now + seconds
        while True:
            due = min(
                (t for life in self.live() if (t := life.session.next_timer(self.now)) is not None),
                default=until,
            )
            if due > until:
                break
            self.now = max(self.now, due)
            for life in self.live():
                self.handle(life, life.session.tick(self.now))
                self.flush(life.side)
            if due >= until:
                break
        self.now = until

    def live(self) -> list[Life]:
        """All whose sessions go on, also those that have no link any more."""
        return [life for life in self.lives if not life.session.is_over and not life.is_dead]

    def come_to_rest(self) -> None:
        """Heal the network, finish all work, and let time pass until nothing is left to do."""
        self.has_faults = False
        for wire in self.wires:
            wire.cut(self.draw)
        for _ in range(400):
            for life in self.live():
                life.work = [(id, asked, 0) for id, asked, _ in life.work]
                while life.unconsumed:
                    self.consume(life)
                try:
                    while life.work:
                        self.answer(life)
                except CannotSend:
                    pass
                while life.peer_watches:
                    life.session.down(life.peer_watches.pop(), "stopped")
                self.flush(life.side)
            for wire in list(self.wires):
                for side in ("a", "b"):
                    while wire.to[side]:
                        self.deliver(wire, side)
            self.pass_time(0.05)
            if self.wire["a"] is None:
                self.dial()
            if self.is_at_rest():
                return
        raise AssertionError("the sessions never came to rest")

    def is_at_rest(self) -> bool:
        a, b = self.life["a"], self.life["b"]
        if a is None or b is None or a.session.sid != b.session.sid or len(self.live()) > 2:
            return False
        return all(
            life.session.state is State.OPEN
            and life.session.is_settled
            and not life.work
            and not any(w == 0 for w in life.watches.values())
            for life in (a, b)
        )


def check(world: World) -> None:
    """Compare what was sent, received and reported."""
    everything = Counter(token for life in world.lives for token in life.received)
    assert [token for token, times in everything.items() if times > 1] == []
    for life in world.lives:
        peers = [peer for peer in world.lives if peer.side != life.side and key_of(peer) == key_of(life)]
        for peer in peers:
            check_order(life, peer)
        check_reports(life, everything)
        if life in (world.life["a"], world.life["b"]):
            assert all(token in everything for token in wanted(life, peers)), "something was lost"


def key_of(life: Life) -> tuple[str, str | None]:
    return life.session.sid, life.session.key


def wanted(life: Life, peers: list[Life]) -> list[str]:
    """What the other side should see: not what answers its cancelled asks."""
    cancelled = {token for peer in peers for token in peer.cancelled}
    return [token for token in life.sent if life.answers.get(token) not in cancelled]


def check_order(life: Life, peer: Life) -> None:
    sent = wanted(life, [peer])
    received = [token for token in peer.received if life.answers.get(token) not in peer.cancelled]
    assert received == sent[: len(received)]


def check_reports(life: Life, everything: Counter[str]) -> None:
    for token, outcome in life.outcomes.items():
        assert outcome == "unknown" or token not in everything, "reported as not delivered, but it was"
    if life.is_dead:
        return
    if life.lost is not None:
        for token, kind in life.kinds.items():
            if kind == "tell" and token not in life.outcomes:
                assert token in everything, "nobody was told that it got lost"
    assert [token for token in life.asks.values() if life.ended[token] != 1] == []
    assert [watch for watch, times in life.watches.items() if times != 1] == []


def run(number: int) -> World:
    world = World(number)
    for _ in range(STEPS):
        world.step()
    world.come_to_rest()
    check(world)
    return world


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_lost_doubled_or_turned_round_and_every_ask_ends(chunk: int) -> None:
    for number in range(chunk, SCHEDULES, CHUNKS):
        try:
            run(number)
        except Exception as error:
            raise AssertionError(f"schedule {number} fails: run({number}) repeats it") from error


def test_the_schedules_reach_what_they_are_for() -> None:
    worlds = [run(number) for number in range(300)]
    lives = [life for world in worlds for life in world.lives]
    assert {"window", "restarted", "forgotten"} <= {life.lost for life in lives}
    assert max(world.most_sessions for world in worlds) >= 3
    assert {"unknown", "not_delivered"} <= {outcome for life in lives for outcome in life.outcomes.values()}
    assert max(life.session.statistics().links for life in lives) >= 5
    assert sum(len(life.received) for life in lives) > 5_000
