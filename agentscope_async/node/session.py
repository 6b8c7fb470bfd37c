"""The conversation of two nodes, across any number of links: bytes in, events out, bytes out.

A session numbers what it sends, keeps it until the other side has it, and sends it again
after a link was lost; so each frame is admitted once and in order, or its sender is told
what became of it. It opens no socket, starts no task and reads no clock: whoever owns the
socket calls :meth:`Session.receive` with each message, :meth:`Session.tick` when
:meth:`Session.next_timer` says so, acts on the events, and writes what
:meth:`Session.poll` returns until that is None. All times are seconds of one monotonic
clock. Nothing here is a coroutine, so nothing can be cancelled half-way.

What either side holds is bounded: the outbox by frames and bytes, what waits for agents
by credit (absolute counts, so that a grant lost or repeated does no harm), replies by the
asks they answer. Beyond its limits are only cancels and downs: one for each ask and watch.

The shape follows the ``protocol.py`` of the websockets package (https://sans-io.readthedocs.io).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hmac import compare_digest
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeAlias

from . import decoding, encoding
from ._credit import Inflow, Outflow
from ._inbox import Inbox
from ._outbox import FRAMES_PER_MESSAGE, Outbox
from ._violation import FATAL, FATAL_IN_HANDSHAKE, Violation
from .events import (
    CannotSend,
    CloseLink,
    CreditGranted,
    Event,
    LateReply,
    LinkSuspect,
    LinkUp,
    Outcome,
    PeerDraining,
    Refused,
    RoomBack,
    SessionLost,
    SessionStatistics,
    State,
)
from .frames import (
    NODE,
    REPLY,
    Ack,
    Ask,
    Bye,
    Cancel,
    CloseCode,
    Credit,
    Down,
    Failure,
    Frame,
    FrameError,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Part,
    Probe,
    Reply,
    Spawn,
    Tell,
    Terms,
    Unwatch,
    Watch,
    Welcome,
)

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["Session"]

LINES_PER_MESSAGE = 256
MISSED_HEARTBEATS = 3
STRIKES = 3
"""So many links in a row may be given up for a bad frame without any progress between them."""
MAX_TARGETS = 65_536
MAX_WATCHES = 65_536
MAX_OPEN_ASKS = 65_536
MAX_PROBE_BYTES = 8 * 1024
MAX_TTL_S = 1e9

_OPEN, _HANDSHAKE, _OVER = State.OPEN, State.HANDSHAKE, State.OVER


class Session:
    """One side of a session; see the module. Made by :meth:`dial`, or by a :class:`Reception`."""

    __slots__ = (
        "settings", "is_dialer", "sid", "key", "peer", "peer_inc", "state", "is_confirmed",
        "_terms", "_window_ends_at", "_handshake_ends_at", "_greeting", "_farewell", "_outbox", "_inbox",
        "_last_id", "_last_peer_id", "_asks", "_answering", "_watches", "_watched",
        "_outflows", "_inflows", "_grants", "_is_peer_draining", "_bye", "_is_bye_due", "_probes",
        "_is_ask_wanted", "_hbr", "_heard_at", "_written_at", "_ticked_at", "_strikes",
        "_strike_progress", "_links", "_round_trip_s",
    )  # fmt: skip

    def __init__(self, settings: Settings, *, sid: str, key: str | None, is_dialer: bool) -> None:
        self.settings = settings
        self.is_dialer = is_dialer
        self.sid = sid
        self.key = key
        self.peer = self.peer_inc = ""
        self.state = State.NEW
        self.is_confirmed = False  # something arrived since the welcome, so the other side has the key
        self._terms: Terms | None = None
        self._window_ends_at: float | None = None
        self._handshake_ends_at = 0.0
        self._greeting: bytes | None = None
        self._farewell: bytes | None = None
        self._outbox = Outbox(settings)
        self._inbox = Inbox(settings.max_body)
        self._last_id = 0
        self._last_peer_id = 0
        self._asks: dict[int, _OpenAsk] = {}
        self._answering: dict[int, Outflow | None] = {}
        self._watches: dict[int, Any] = {}
        self._watched: set[int] = set()
        self._outflows: dict[str, Outflow] = {}
        self._inflows: dict[str, Inflow] = {}
        self._grants: set[str | int] = set()
        self._is_peer_draining = self._is_bye_due = self._is_ask_wanted = False
        self._bye: bytes | None = None
        self._probes: deque[bytes] = deque(maxlen=256)
        self._hbr: int | None = None
        self._heard_at = self._written_at = self._ticked_at = 0.0
        self._strikes = 0
        self._strike_progress = (-1, -1)
        self._links = 0
        self._round_trip_s: float | None = None

    @classmethod
    def dial(cls, settings: Settings) -> Session:
        """Return the session of a node that is about to open links to another."""
        return cls(settings, sid=token_hex(16), key=None, is_dialer=True)

    # -- the link --

    def link_up(self, now: float) -> None:
        """Begin on a new link (dialer only): the hello is the next thing ``poll`` gives."""
        if self.state is _OVER:
            return
        if self.state is _OPEN:
            self._suspend(now)
        self.state = _HANDSHAKE
        self._handshake_ends_at = now + self.settings.handshake_s
        if self._window_ends_at is None:
            self._window_ends_at = now + self.settings.window_s
        own = self.settings
        hello = Hello(own.node, own.inc, self.sid, self.key, self._inbox.rx, own.terms)
        self._greeting = encoding.encode_hello(hello)

    def link_down(self, now: float, code: int | None = None) -> list[Event]:
        """Note that the link is gone, closed by the other side with ``code`` if it said one."""
        events: list[Event] = []
        if self.state is _OVER:
            return events
        fatal = FATAL_IN_HANDSHAKE if self.state is _HANDSHAKE else FATAL
        if code in fatal:
            reason = "closed" if code == CloseCode.DRAINING else CloseCode(code).name.lower()
            self._lose(reason, events)
        elif self.state is not State.NEW:
            self._suspend(now)
            if code in (CloseCode.BAD_FRAME, CloseCode.SEQUENCE):
                self._count_strike(CloseCode(code), events)
        return events

    def resume_check(self, rx: int) -> str | None:
        """Say why a link whose other side has received ``rx`` cannot go on with this session."""
        return self._outbox.resume_check(rx)

    def take_link(self, hello: Hello, now: float, *, resumed: bool) -> list[Event]:
        """Go on over the link this hello came by (acceptor only; called by the Reception)."""
        own = self.settings
        self._suspend(now)
        assert self.key is not None
        welcome = Welcome(own.node, own.inc, self.key, self._inbox.rx, resumed, own.terms)
        self._greeting = encoding.encode_welcome(welcome)
        events: list[Event] = []
        self._open(hello, resumed, now, events)
        return events

    def _open(self, greeting: Hello | Welcome, resumed: bool, now: float, events: list[Event]) -> None:
        self.peer, self.peer_inc = greeting.node, greeting.inc
        if self._terms is None:
            self._terms = greeting.terms
        self._outbox.begin_link(greeting, self._terms)
        self._inbox.begin_link()
        # Grants may have been lost with the last link, and without them no frame would bring new ones.
        self._grants.update(self._inflows)
        self._grants.update(id for id, ask in self._asks.items() if ask.parts is not None)
        self._heard_at = self._written_at = self._ticked_at = now
        self._window_ends_at = None
        self.state = _OPEN
        self._links += 1
        self._is_bye_due = self._bye is not None
        events.append(LinkUp(resumed))
        if self._outbox.take_room():
            events.append(RoomBack())

    def _suspend(self, now: float) -> None:
        self.state = State.SUSPENDED
        self._greeting = None
        self._hbr = None
        if self._window_ends_at is None:
            self._window_ends_at = now + self.settings.window_s

    def _give_up_link(self, code: CloseCode, text: str, now: float, events: list[Event]) -> None:
        was_in_handshake = self.state is _HANDSHAKE
        self._suspend(now)
        events.append(CloseLink(code, text))
        if code in (FATAL_IN_HANDSHAKE if was_in_handshake else FATAL):
            self._lose(code.name.lower(), events)
        else:
            self._count_strike(code, events)

    def _count_strike(self, code: CloseCode, events: list[Event]) -> None:
        """Lose the session when its links keep failing at the same frame: writing it again is no cure."""
        progress = self._inbox.rx, self._outbox.peer_rx
        self._strikes = self._strikes + 1 if self._strike_progress == progress else 1
        self._strike_progress = progress
        if self._strikes >= STRIKES:
            self._lose(code.name.lower(), events)

    # -- the end --

    @property
    def is_over(self) -> bool:
        """Nothing is sent or received any more."""
        return self.state is _OVER

    @property
    def is_settled(self) -> bool:
        """All that was sent is acknowledged, and no ask is open on either side."""
        return not (len(self._outbox) or self._asks or self._answering)

    def drain(self, reason: str, grace_s: float) -> None:
        """Ask the other side for no more new work, over this and all later links; replies go on.

        Raises:
            FrameError: ``reason`` is no name.
        """
        self._bye = encoding.encode_bye(reason, max(1, round(grace_s * 1000)))
        self._is_bye_due = True

    def close(self, reason: str) -> list[Event]:
        """End the session now. What is not written yet will not be, but for a word of farewell.

        Raises:
            FrameError: ``reason`` is no name; the session goes on.
        """
        events: list[Event] = []
        if self.state is _OVER:
            return events
        farewell, was_open = encoding.encode_bye(reason, 0), self.state is _OPEN
        self._lose(reason, events)
        if was_open:
            self._farewell = farewell
            events.insert(0, CloseLink(CloseCode.DRAINING, reason))
        return events

    def lose(self, reason: str) -> list[Event]:
        """End the session because the other node is known to be gone, or has another one."""
        events: list[Event] = []
        if self.state is not _OVER:
            self._lose(reason, events)
        return events

    def _lose(self, reason: str, events: list[Event]) -> None:
        outcomes = self._outbox.outcomes()
        outcomes += [
            Outcome("ask", ask.n, id, self._outbox.outcome(ask.n), ask.tag)
            for id, ask in self._asks.items()
            if not ask.is_cancelled
        ]
        outcomes.sort(key=lambda outcome: outcome.n)
        events.append(SessionLost(reason, outcomes, list(self._watches)))
        self.state = _OVER
        self._greeting = None
        self._inbox.clear()
        for held in (
            self._outbox, self._asks, self._answering, self._watches, self._watched,
            self._outflows, self._inflows, self._grants, self._probes,
        ):  # fmt: skip
            held.clear()

    # -- sending --

    @property
    def can_send(self) -> bool:
        """The outbox has room, and the other side takes new work."""
        return (
            self._terms is not None
            and not self._outbox.is_wanted
            and not self._is_peer_draining
            and self.state is not _OVER
        )

    @property
    def is_flush_due(self) -> bool:
        """So much waits that ``poll`` should be called now and not at the end of the loop's round."""
        return self._outbox.is_flush_due

    @property
    def is_lone(self) -> bool:
        """The frame queued last is all that is under way: there is nothing for it to wait for.

        The idea of Nagle's algorithm (RFC 896): only while something is unacknowledged do more
        frames pay for the wait.
        """
        return len(self._outbox) == 1 and len(self._asks) <= 1 and not self._answering

    def credit(self, target: str | int) -> int:
        """Return how many frames may still be sent to an agent, or as parts of the reply to an ask."""
        if self._terms is None:
            return 0
        flow = self._outflows.get(target) if isinstance(target, str) else self._answering.get(target)
        return self._terms.credit if flow is None else flow.upto - flow.used

    def tell(self, to: str, body: Any, *, sender: str | None = None, op: str = REPLY, tag: Any = None) -> int:
        """Send a letter; return its number, which an Outcome may come back to.

        Raises:
            CannotSend: not now. The letter was not taken.
            FrameError: not ever: it is too large, or has no wire form.
        """
        flow = self._outflow(to)
        line = encoding.encode_tell(self._outbox.sent_n + 1, to, body, sender=sender, op=op)
        self._outbox.put(line, "tell", 0, tag)
        flow.charge()
        return self._outbox.sent_n

    def ask(
        self,
        to: str,
        body: Any,
        now: float,
        *,
        ttl_s: float | None = None,
        chain: Sequence[str] = (),
        sender: str | None = None,
        op: str = REPLY,
        wants_parts: bool = False,
        tag: Any = None,
    ) -> int:
        """Send a request; return its id. One last Reply or one Outcome follows, unless it is cancelled.

        The time it has left is reckoned when it is written, so time in the outbox counts.

        Raises:
            CannotSend: not now. The request was not taken.
            FrameError: not ever: it is too large, or has no wire form.
        """
        flow = self._outflow(to)
        self._check_open_asks()
        id = self._last_id + 1
        line = encoding.encode_ask(
            self._outbox.sent_n + 1, id, to, body, chain=chain, sender=sender, op=op, wants_parts=wants_parts
        )
        self._outbox.put(line, "", id, None, _expiry(ttl_s, now))
        flow.charge()
        self._last_id = id
        self._asks[id] = _OpenAsk(self._outbox.sent_n, tag)
        if wants_parts:
            self._asks[id].parts = Inflow(self.settings.credit)
        return id

    def spawn(
        self,
        kind: str,
        name: str,
        cfg: dict[str, Any],
        now: float,
        *,
        ttl_s: float | None = None,
        tag: Any = None,
    ) -> int:
        """Ask the other node to create an agent; return the id its reply will have. Raises as ``ask``."""
        flow = self._outflow(NODE)
        self._check_open_asks()
        id = self._last_id + 1
        fields = {"t": "spn", "n": self._outbox.sent_n + 1, "id": id, "kind": kind, "name": name, "cfg": cfg}
        encoding.check_outgoing(fields)
        self._outbox.put(encoding.encode(fields), "", id, None, _expiry(ttl_s, now))
        flow.charge()
        self._last_id = id
        self._asks[id] = _OpenAsk(self._outbox.sent_n, tag)
        return id

    def reply(self, id: int, body: Any, *, last: bool = True, tag: Any = None) -> None:
        """Answer an ask, once; before that, with ``last`` False, with parts as far as there is credit.

        Raises:
            CannotSend: not now, or ``not_asked``: the ask was answered, or its session is over.
            FrameError: too large, or without a wire form; the ask still waits.
        """
        flow = self._check_answer(id)
        if last:
            self._outbox.put(encoding.encode_reply(self._outbox.sent_n + 1, id, body), "reply", id, tag)
            del self._answering[id]
            return
        if flow is None:
            assert self._terms is not None
            flow = self._answering[id] = Outflow(self._terms.credit)
        flow.check(id)
        self._outbox.put(encoding.encode_reply(self._outbox.sent_n + 1, id, body, last=False), "", id, None)
        flow.charge()

    def fail(self, id: int, failure: Failure, *, tag: Any = None) -> None:
        """Answer an ask with an error; raises as ``reply``."""
        self._check_answer(id)
        self._outbox.put(encoding.encode_failure(self._outbox.sent_n + 1, id, failure), "reply", id, tag)
        del self._answering[id]

    def cancel(self, id: int) -> None:
        """Stop waiting for an ask. Never refused; nothing more is heard of it."""
        ask = self._asks.get(id)
        if ask is not None and not ask.is_cancelled:
            ask.is_cancelled = True
            self._outbox.put_control({"t": "can", "n": self._outbox.sent_n + 1, "id": id})

    def watch(self, ref: str) -> int:
        """Ask to be told when the agent ``ref`` is gone; return the id that one Down, or the loss, will have.

        Raises:
            CannotSend: not now.
            FrameError: ``ref`` is no name of an agent.
        """
        self._check_open()
        if len(self._watches) >= MAX_WATCHES:
            raise CannotSend("too_many_targets", f"{MAX_WATCHES:,} watches are set already.")
        id = self._last_id + 1
        fields = {"t": "wat", "n": self._outbox.sent_n + 1, "id": id, "ref": ref}
        encoding.check_outgoing(fields)
        self._outbox.put(encoding.encode(fields), "", id, None)
        self._last_id = id
        self._watches[id] = ref
        return id

    def unwatch(self, id: int) -> None:
        """Take a watch back. Never refused; no Down of it comes any more."""
        if self._watches.pop(id, None) is not None:
            self._outbox.put_control({"t": "unw", "n": self._outbox.sent_n + 1, "id": id})

    def down(self, id: int, reason: str) -> None:
        """Tell the other side, once, that what its watch ``id`` looks at is gone. Never refused."""
        if id in self._watched:
            fields = {"t": "dwn", "n": self._outbox.sent_n + 1, "id": id, "reason": reason}
            encoding.check_outgoing(fields)
            self._watched.remove(id)
            self._outbox.put_control(fields)

    def probe(self, id: int, path: Sequence[str]) -> None:
        """Follow our ask ``id`` for a circle of waits. May get lost: ask again while in doubt."""
        if self.state is _OPEN:
            fields = {"t": "prb", "id": id, "path": list(path)}
            encoding.check_outgoing(fields)
            line = encoding.encode(fields)
            if len(line) > MAX_PROBE_BYTES:
                raise FrameError(
                    "too_large", f"A probe takes {len(line):,} bytes, {MAX_PROBE_BYTES:,} allowed."
                )
            self._probes.append(line)

    def consumed(self, target: str | int, count: int = 1) -> None:
        """Say that an agent (by name), or the reader of an ask's parts (by id), took ``count`` frames.

        Each Tell and Ask is to be consumed once, whatever became of it; each Spawn as ``NODE``.
        """
        if isinstance(target, str):
            flow = self._inflows.get(target)
        else:
            ask = self._asks.get(target)
            flow = None if ask is None else ask.parts
        if flow is None:
            return
        if flow.consume(count, self.settings.credit):
            self._grants.add(target)

    def _outflow(self, to: str) -> Outflow:
        self._check_open()
        if self._is_peer_draining:
            raise CannotSend("draining", f"Node {self.peer!r} takes no new work.")
        flow = self._outflows.get(to)
        if flow is None:
            return self._new_outflow(to)
        flow.check(to)
        return flow

    def _new_outflow(self, to: str) -> Outflow:
        if to != NODE:
            encoding.check_target(to)
        if len(self._outflows) >= MAX_TARGETS:
            raise CannotSend("too_many_targets", f"{MAX_TARGETS:,} agents were written to already.")
        assert self._terms is not None
        flow = self._outflows[to] = Outflow(self._terms.credit)
        return flow

    def _check_open(self) -> None:
        if self._terms is None:
            raise CannotSend("not_linked", "This session had no link yet.")
        if self.state is _OVER:
            raise CannotSend("session_over", f"The session with node {self.peer!r} is over.")

    def _check_open_asks(self) -> None:
        if len(self._asks) >= MAX_OPEN_ASKS:
            self._is_ask_wanted = True
            raise CannotSend("too_many_asks", f"{MAX_OPEN_ASKS:,} asks wait for node {self.peer!r} already.")

    def _check_answer(self, id: int) -> Outflow | None:
        if id not in self._answering:
            raise CannotSend("not_asked", f"No ask {id} waits for a reply.")
        return self._answering[id]

    # -- writing --

    @property
    def has_more(self) -> bool:
        """Whether ``poll``, which has just returned a message, may have another one."""
        return self._outbox.has_unwritten or bool(self._grants or self._probes)

    def poll(self, now: float) -> bytes | None:
        """Return the next message to write, or None. To be called until that.

        One message holds all that waits, up to FRAMES_PER_MESSAGE frames and MESSAGE_BYTES bytes.
        What was returned counts as written: whether it arrived shows when a link is resumed.
        """
        if self._greeting is not None:
            greeting, self._greeting = self._greeting, None
            return greeting
        if self.state is not _OPEN:
            farewell, self._farewell = self._farewell, None
            return farewell
        lines = self._write_unnumbered(now)
        if self._outbox.has_unwritten:
            self._outbox.write(lines, now)
        if not lines:
            return None
        self._written_at = now
        return lines[0] if len(lines) == 1 else b"\n".join(lines)

    def _write_unnumbered(self, now: float) -> list[bytes]:
        lines: list[bytes] = []
        ack = self._inbox.take_ack(now, is_writing=self._outbox.has_unwritten or bool(self._grants))
        if ack is not None:
            lines.append(ack)
        if self._grants:
            self._write_grants(lines)
        if self._is_bye_due and self._bye is not None:
            lines.append(self._bye)
            self._is_bye_due = False
        if self._probes:
            lines.append(self._probes.popleft())
        if self._hbr is not None:
            lines.append(b'{"t":"hbr","ts":%d}' % self._hbr)
            self._hbr = None
        if (
            not lines
            and not self._outbox.has_unwritten
            and now >= self._written_at + self.settings.heartbeat_s
        ):
            lines.append(b'{"t":"hb","ts":%d}' % max(0, round(now * 1000)))
        return lines

    def _write_grants(self, lines: list[bytes]) -> None:
        while self._grants and len(lines) < FRAMES_PER_MESSAGE:
            target = self._grants.pop()
            if isinstance(target, str):
                lines.append(
                    b'{"t":"crd","to":"%b","upto":%d}' % (target.encode(), self._inflows[target].upto)
                )
            elif (ask := self._asks.get(target)) is not None and ask.parts is not None:
                lines.append(b'{"t":"crd","id":%d,"upto":%d}' % (target, ask.parts.upto))

    # -- time --

    def next_timer(self, now: float) -> float | None:
        """Return when to call ``tick`` and then ``poll``, at the latest; None: no need."""
        if self.state is _OPEN:
            assert self._terms is not None
            due = min(
                self._written_at + self.settings.heartbeat_s,
                self._heard_at + MISSED_HEARTBEATS * self._terms.heartbeat_ms / 1000,
            )
            ack_due_at = self._inbox.ack_due_at
            return due if ack_due_at is None else min(due, ack_due_at)
        if self.state is _OVER or self._window_ends_at is None:
            return None
        if self.state is _HANDSHAKE:
            return min(self._handshake_ends_at, self._window_ends_at)
        return self._window_ends_at

    def tick(self, now: float) -> list[Event]:
        """Do what is due."""
        events: list[Event] = []
        if self.state is _OPEN:
            self._look_for_silence(now, events)
        elif self.state is not _OVER and self._window_ends_at is not None:
            if now >= self._window_ends_at:
                self._lose("window", events)
            elif self.state is _HANDSHAKE and now >= self._handshake_ends_at:
                self._suspend(now)
                events.append(CloseLink(CloseCode.HANDSHAKE_TIMEOUT, "Nobody said welcome in time."))
        self._ticked_at = now
        return events

    def _look_for_silence(self, now: float, events: list[Event]) -> None:
        assert self._terms is not None
        interval_s = self._terms.heartbeat_ms / 1000
        silent_s = now - self._heard_at
        if now < self._heard_at + MISSED_HEARTBEATS * interval_s:
            return
        if now - self._ticked_at > 1.5 * self.settings.heartbeat_s:
            # It was this process that did not run: what was sent meanwhile may still be in the socket.
            self._heard_at = now - (MISSED_HEARTBEATS - 1) * interval_s
            return
        events.append(LinkSuspect(silent_s))
        events.append(CloseLink(CloseCode.HANDSHAKE_TIMEOUT, f"Nothing was heard for {silent_s:.1f} s."))
        self._suspend(now)

    # -- receiving --

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take one message from the link, and return what it means, in order.

        Raises nothing: whatever breaks the rules becomes a CloseLink with its code. What
        comes after that from the same link is ignored.
        """
        events: list[Event] = []
        if self.state is not _OPEN and self.state is not _HANDSHAKE:
            return events
        self._heard_at = now
        self.is_confirmed = True
        try:
            self._take(data, now, events)
        except Violation as violation:
            self._give_up_link(violation.code, str(violation), now, events)
        return events

    def _take(self, data: bytes, now: float, events: list[Event]) -> None:
        if len(data) > self.settings.max_frame:
            raise Violation(
                CloseCode.BAD_FRAME, f"{len(data):,} bytes at once, {self.settings.max_frame:,} allowed."
            )
        lines = data.split(b"\n", LINES_PER_MESSAGE)
        if len(lines) > LINES_PER_MESSAGE:
            raise Violation(CloseCode.BAD_FRAME, f"More than {LINES_PER_MESSAGE} frames in a message.")
        for line in lines:
            if self.state is _OVER:
                return
            try:
                frame = decoding.decode(line)
            except FrameError as error:
                self._take_bad(error, now, events)
                continue
            if self.state is not _OPEN:
                self._take_welcome(frame, now, events)
                continue
            kind = type(frame)
            admit = _ADMIT.get(kind)
            if admit is None:
                _UNNUMBERED[kind](self, frame, now, events)
            elif self._inbox.is_next(frame.n, now):  # type: ignore[union-attr]  # all in _ADMIT are numbered
                self._inbox.check_place(kind is Part)
                admit(self, frame, now, events)
                self._inbox.count_received(now)

    def _take_bad(self, error: FrameError, now: float, events: list[Event]) -> None:
        """Step over a bad frame if its number can be counted; else only a new link can help."""
        if self.state is not _OPEN and error.code == "version":
            raise Violation(CloseCode.VERSION, str(error))
        if self.state is not _OPEN or error.number is None or error.kind == "part":
            raise Violation(CloseCode.BAD_FRAME, str(error))
        self._inbox.check_place(False)
        if self._inbox.is_next(error.number, now):
            self._refuse(error, now, events)
            self._inbox.count_received(now)

    def _refuse(self, error: FrameError, now: float, events: list[Event]) -> None:
        self._inbox.count_useless(now)
        id = error.id
        if error.kind == "rep" and id in self._asks:
            failure = Failure("bad_frame", str(error))
            self._end_ask(Reply(error.number or 0, id, None, failure, True), events)
            return
        if error.kind == "dwn" and self._watches.pop(id or 0, None) is not None:
            events.append(Down(error.number or 0, id or 0, "bad_frame"))
            return
        if error.kind in ("ask", "spn") and id is not None:
            if id > self._last_peer_id and len(self._answering) < MAX_OPEN_ASKS:
                self._last_peer_id = id
                self._answering[id] = None
            else:
                id = None
        events.append(Refused(error.kind, id, error.code, str(error)))

    def _take_welcome(self, welcome: Frame, now: float, events: list[Event]) -> None:
        if not isinstance(welcome, Welcome):
            raise Violation(CloseCode.BAD_FRAME, "The first frame must be a welcome.")
        if self.peer_inc and (welcome.node, welcome.inc) != (self.peer, self.peer_inc):
            events.append(CloseLink(CloseCode.REPLACED, "The node was started again."))
            self._lose("restarted", events)
            return
        if self.key is not None and not welcome.resumed:
            events.append(CloseLink(CloseCode.REPLACED, "The session was forgotten."))
            self._lose("forgotten", events)
            return
        if self.key is not None and not compare_digest(self.key, welcome.key):
            raise Violation(CloseCode.IDENTITY, "The key is not that of this session.")
        problem = self.resume_check(welcome.rx)
        if problem is not None:
            raise Violation(CloseCode.SEQUENCE, problem)
        was_linked = self.key is not None
        self.key = welcome.key
        self._open(welcome, was_linked, now, events)

    # -- admitting numbered frames --

    def _admit_tell(self, tell: Tell, now: float, events: list[Event]) -> None:
        self._charge_inflow(tell.to)
        events.append(tell)

    def _admit_ask(self, ask: Ask, now: float, events: list[Event]) -> None:
        self._take_id(ask.id)
        self._charge_inflow(ask.to)
        self._answering[ask.id] = None
        events.append(ask)

    def _admit_spawn(self, spawn: Spawn, now: float, events: list[Event]) -> None:
        self._take_id(spawn.id)
        self._charge_inflow(NODE)
        self._answering[spawn.id] = None
        events.append(spawn)

    def _admit_reply(self, reply: Reply, now: float, events: list[Event]) -> None:
        ask = self._asks.get(reply.id)
        if ask is None:
            self._inbox.count_useless(now)
            events.append(LateReply(reply))
        elif reply.last:
            self._end_ask(reply, events)
        elif not ask.is_cancelled:
            if ask.parts is None:
                raise Violation(CloseCode.FLOW, f"Nobody asked for parts of reply {reply.id}.")
            ask.parts.charge(f"ask {reply.id}")
            events.append(reply)

    def _end_ask(self, reply: Reply, events: list[Event]) -> None:
        if not self._asks.pop(reply.id).is_cancelled:
            events.append(reply)
        if self._is_ask_wanted:
            self._is_ask_wanted = False
            events.append(RoomBack())

    def _admit_cancel(self, cancel: Cancel, now: float, events: list[Event]) -> None:
        if cancel.id in self._answering:
            events.append(cancel)
        else:
            self._inbox.count_useless(now)

    def _admit_watch(self, watch: Watch, now: float, events: list[Event]) -> None:
        self._take_id(watch.id)
        if len(self._watched) >= MAX_WATCHES:
            raise Violation(CloseCode.FLOW, f"More than {MAX_WATCHES:,} watches.")
        self._watched.add(watch.id)
        events.append(watch)

    def _admit_unwatch(self, unwatch: Unwatch, now: float, events: list[Event]) -> None:
        if unwatch.id in self._watched:
            self._watched.remove(unwatch.id)
            events.append(unwatch)
        else:
            self._inbox.count_useless(now)

    def _admit_down(self, down: Down, now: float, events: list[Event]) -> None:
        if self._watches.pop(down.id, None) is not None:
            events.append(down)
        else:
            self._inbox.count_useless(now)

    def _admit_part(self, part: Part, now: float, events: list[Event]) -> None:
        line = self._inbox.join(part)
        if line is not None:
            self._admit_whole(line, part, now, events)

    def _admit_whole(self, line: bytes, last: Part, now: float, events: list[Event]) -> None:
        try:
            frame = decoding.decode(line)
        except FrameError as error:
            error.number = last.n
            self._refuse(error, now, events)
            return
        if not isinstance(frame, (Tell, Ask, Reply, Spawn)):
            raise Violation(CloseCode.BAD_FRAME, f"A {type(frame).__name__} does not come in parts.")
        frame.n = last.n
        if isinstance(frame, (Ask, Spawn)):
            frame.ttl_ms = last.ttl_ms
        _ADMIT[type(frame)](self, frame, now, events)

    def _take_id(self, id: int) -> None:
        if id <= self._last_peer_id:
            raise Violation(CloseCode.BAD_FRAME, f"Id {id} was used before.")
        if len(self._answering) >= MAX_OPEN_ASKS:
            raise Violation(CloseCode.FLOW, f"More than {MAX_OPEN_ASKS:,} asks wait for their replies.")
        self._last_peer_id = id

    def _charge_inflow(self, target: str) -> None:
        flow = self._inflows.get(target)
        if flow is None:
            if len(self._inflows) >= MAX_TARGETS:
                raise Violation(CloseCode.FLOW, f"More than {MAX_TARGETS:,} agents were written to.")
            flow = self._inflows[target] = Inflow(self.settings.credit)
        flow.charge(target)

    # -- unnumbered frames --

    def _take_ack(self, ack: Ack, now: float, events: list[Event]) -> None:
        outbox = self._outbox
        if ack.rx > outbox.link_n:
            raise Violation(CloseCode.SEQUENCE, f"{ack.rx} was never sent: {outbox.link_n} is the last.")
        if ack.rx <= outbox.peer_rx:
            self._inbox.count_useless(now)
            return
        outbox.acknowledge(ack.rx)
        if outbox.take_room():
            events.append(RoomBack())

    def _take_credit(self, credit: Credit, now: float, events: list[Event]) -> None:
        target = credit.target
        if isinstance(target, str):
            flow = self._outflows.get(target)
        else:
            flow = self._answering.get(target)
        if flow is None or credit.upto <= flow.upto:
            self._inbox.count_useless(now)
            return
        if flow.grant(credit.upto):
            events.append(CreditGranted(target))

    def _take_heartbeat(self, heartbeat: Heartbeat, now: float, events: list[Event]) -> None:
        self._inbox.count_useless(now)
        self._hbr = heartbeat.ts

    def _take_heartbeat_reply(self, reply: HeartbeatReply, now: float, events: list[Event]) -> None:
        self._inbox.count_useless(now)
        self._round_trip_s = max(0.0, now - reply.ts / 1000)

    def _take_probe(self, probe: Probe, now: float, events: list[Event]) -> None:
        self._inbox.count_useless(now)
        if probe.id in self._answering:
            events.append(probe)

    def _take_bye(self, bye: Bye, now: float, events: list[Event]) -> None:
        if bye.drain_ms == 0:
            events.append(CloseLink(CloseCode.DRAINING, bye.reason))
            self._lose("closed", events)
            return
        self._inbox.count_useless(now)
        if not self._is_peer_draining:
            self._is_peer_draining = True
            events.append(PeerDraining(bye.reason, bye.drain_ms))

    def _take_greeting(self, greeting: Hello | Welcome, now: float, events: list[Event]) -> None:
        raise Violation(CloseCode.BAD_FRAME, "A link is greeted once.")

    def statistics(self) -> SessionStatistics:
        """Return the counters as they are now."""
        return SessionStatistics(
            state=self.state,
            frames_sent=self._outbox.sent_n,
            frames_received=self._inbox.rx,
            frames_waiting=len(self._outbox),
            bytes_waiting=self._outbox.size,
            duplicates=self._inbox.duplicates,
            links=self._links,
            asks_open=len(self._asks),
            asks_to_answer=len(self._answering),
            round_trip_s=self._round_trip_s,
        )


_Taker: TypeAlias = Callable[[Session, Any, float, list[Event]], None]

_ADMIT: dict[type, _Taker] = {
    Tell: Session._admit_tell, Ask: Session._admit_ask, Reply: Session._admit_reply,
    Cancel: Session._admit_cancel, Watch: Session._admit_watch, Unwatch: Session._admit_unwatch,
    Down: Session._admit_down, Spawn: Session._admit_spawn, Part: Session._admit_part,
}  # fmt: skip

_UNNUMBERED: dict[type, _Taker] = {
    Ack: Session._take_ack, Credit: Session._take_credit, Heartbeat: Session._take_heartbeat,
    HeartbeatReply: Session._take_heartbeat_reply, Probe: Session._take_probe, Bye: Session._take_bye,
    Hello: Session._take_greeting, Welcome: Session._take_greeting,
}  # fmt: skip


class _OpenAsk:
    """An ask of ours that has no reply yet. ``n`` is the number of its (last) frame."""

    __slots__ = ("n", "tag", "is_cancelled", "parts")

    def __init__(self, n: int, tag: Any) -> None:
        self.n = n
        self.tag = tag
        self.is_cancelled = False
        self.parts: Inflow | None = None


def _expiry(ttl_s: float | None, now: float) -> float | None:
    if ttl_s is None:
        return None
    return now + (ttl_s if ttl_s <= MAX_TTL_S else MAX_TTL_S)
