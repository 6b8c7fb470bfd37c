"""The life of a session: greeting, resuming, silence, the end; see ``session``."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from . import encoding
from ._inbox import Inbox
from ._outbox import Outbox
from ._violation import FATAL, FATAL_IN_HANDSHAKE
from .events import CloseLink, Event, LinkSuspect, LinkUp, Outcome, RoomBack, SessionLost, State
from .frames import CloseCode, Hello, Terms, Welcome

if TYPE_CHECKING:
    from ._credit import Inflow, Outflow
    from .settings import Settings

__all__ = ["REDIAL_HANDSHAKE_S", "Lifecycle"]

MISSED_HEARTBEATS = 3
STRIKES = 3
"""So many links in a row may be given up for a bad frame without any progress between them."""
REDIAL_HANDSHAKE_S = 2.0
"""How long a link may take to go on with a session: a greeting that got lost is not waited for in vain."""

_OPEN, _HANDSHAKE, _OVER = State.OPEN, State.HANDSHAKE, State.OVER


class Lifecycle:
    """What a session is, and how it comes to a link, loses it and ends."""

    __slots__ = (
        "settings", "is_dialer", "sid", "key", "peer", "peer_inc", "state", "is_confirmed",
        "_terms", "_window_ends_at", "_handshake_ends_at", "_greeting", "_farewell", "_outbox", "_inbox",
        "_last_id", "_last_peer_id", "_asks", "_cancelled", "_streams", "_answering", "_watches", "_watched",
        "_outflows", "_inflows", "_grants", "_is_peer_draining", "_bye", "_is_bye_due", "_probes",
        "_is_ask_wanted", "_hbr", "_heard_at", "_written_at", "_ticked_at", "_strikes",
        "_strike_progress", "_links", "_round_trip_s", "_acked_rx", "_acked_at",
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
        self._asks: dict[int, tuple[int, Any]] = {}  # ours without a reply yet: number of its last frame, tag
        self._cancelled: set[int] = set()  # those of them nobody waits for
        self._streams: dict[int, Inflow] = {}  # those of them that may be answered in parts
        self._answering: dict[int, Outflow | None] = {}
        self._watches: dict[int, Any] = {}
        self._watched: set[int] = set()
        self._outflows: dict[str, Outflow] = {}
        self._inflows: dict[str, Inflow] = {}
        self._grants: set[str | int] = set()
        self._is_peer_draining = self._is_bye_due = self._is_ask_wanted = False
        self._bye: bytes | None = None
        self._probes: deque[bytes] = deque(maxlen=2048)
        self._hbr: int | None = None
        self._heard_at = self._written_at = self._ticked_at = self._acked_at = 0.0
        self._acked_rx = 0
        self._strikes = 0
        self._strike_progress = (-1, -1)
        self._links = 0
        self._round_trip_s: float | None = None

    # -- the link --

    def link_up(self, now: float) -> None:
        """Begin on a new link (dialer only): the hello is the next thing ``poll`` gives."""
        if self.state is _OVER:
            return
        if self.state is _OPEN:
            self._suspend(now)
        self.state = _HANDSHAKE
        seconds = self.settings.handshake_s
        self._handshake_ends_at = now + (seconds if self.key is None else min(seconds, REDIAL_HANDSHAKE_S))
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
        elif code == CloseCode.REPLACED and not self.is_dialer:
            self._lose(
                "forgotten", events
            )  # the dialer wanted its old session, and will not come back to this
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
        has_room = self._outbox.begin_link(greeting, self._terms)
        self._inbox.begin_link()
        # Grants may have been lost with the last link, and without them no frame would bring new ones.
        self._grants.update(self._inflows)
        self._grants.update(self._streams)
        self._heard_at = self._written_at = self._ticked_at = self._acked_at = now
        self._window_ends_at = None
        self.state = _OPEN
        self._links += 1
        self._is_bye_due = self._bye is not None
        events.append(LinkUp(resumed))
        if has_room:
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
            if self.state is _OPEN:
                self._look_for_acks(now, events)
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

    def _look_for_acks(self, now: float, events: list[Event]) -> None:
        """Give up a link whose other side is there but takes nothing, or next to nothing."""
        outbox = self._outbox
        if outbox.link_n == outbox.peer_rx or outbox.peer_rx != self._acked_rx:
            self._acked_rx, self._acked_at = outbox.peer_rx, now
        elif now - self._acked_at > self.settings.window_s:
            events.append(LinkSuspect(now - self._acked_at))
            text = f"Nothing was acknowledged for {now - self._acked_at:.1f} s."
            events.append(CloseLink(CloseCode.HANDSHAKE_TIMEOUT, text))
            self._suspend(now)
            self._acked_at = now

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
            Outcome("ask", n, id, self._outbox.outcome(n), tag)
            for id, (n, tag) in self._asks.items()
            if id not in self._cancelled
        ]
        outcomes.sort(key=lambda outcome: outcome.n)
        events.append(SessionLost(reason, outcomes, list(self._watches)))
        self.state = _OVER
        self._greeting = None
        self._inbox.clear()
        for held in (
            self._outbox, self._asks, self._cancelled, self._streams, self._answering, self._watches,
            self._watched, self._outflows, self._inflows, self._grants, self._probes,
        ):  # fmt: skip
            held.clear()
