"""What a session makes of what arrives: frames are admitted once and in order; see ``session``."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from operator import itemgetter
from typing import Any, NoReturn, TypeAlias

from . import decoding
from ._credit import Inflow
from ._grammar import is_target
from ._inbox import ACK_AFTER_S
from ._lifecycle import Lifecycle
from ._violation import Violation
from .events import CloseLink, CreditGranted, Event, LateReply, PeerDraining, Refused, RoomBack, State
from .frames import (
    MAX_INTEGER,
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
    FrameError,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Part,
    Probe,
    Reply,
    Spawn,
    Tell,
    Unwatch,
    Watch,
    Welcome,
)

__all__ = ["MAX_OPEN_ASKS", "MAX_TARGETS", "MAX_WATCHES", "Receiver"]

FRAMES_AT_ONCE = 256
MAX_TARGETS = 65_536
MAX_WATCHES = 65_536
MAX_OPEN_ASKS = 65_536

_OPEN, _HANDSHAKE, _OVER = State.OPEN, State.HANDSHAKE, State.OVER


class Receiver(Lifecycle):
    """Takes messages of the other node and says what they mean."""

    __slots__ = ()

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
            if len(data) > self.settings.max_frame:
                self._refuse_message(f"{len(data):,} bytes at once, {self.settings.max_frame:,} allowed")
            if self.state is _HANDSHAKE:
                self._take_first(data, now, events)
            else:
                self._take_all(data, now, events)
        except Violation as violation:
            self._give_up_link(violation.code, str(violation), now, events)
        return events

    def _refuse_message(self, problem: str) -> NoReturn:
        raise Violation(CloseCode.BAD_FRAME, f"{problem}.")

    def _take_all(self, data: bytes, now: float, events: list[Event]) -> None:
        try:
            frames = decoding.parse(data)
        except FrameError as error:
            self._refuse_message(str(error))
        if type(frames) is not list:
            self._take(frames, data, now, events)
            return
        if not 0 < len(frames) <= FRAMES_AT_ONCE:
            self._refuse_message(f"{len(frames):,} frames at once, 1 to {FRAMES_AT_ONCE} allowed")
        for fields in frames:
            if self.state is _OPEN:
                self._take(fields, None, now, events)

    def _take(self, fields: Any, line: bytes | None, now: float, events: list[Event]) -> None:
        try:
            if type(fields) is dict:
                if "a" in fields:
                    rx = fields.pop("a")
                    self._take_rx(rx if type(rx) is int and rx >= 0 else decoding.refuse_rx(rx), events)
                if "msg" in fields and self._take_message(fields, now, events):
                    return
            frame = decoding.read(fields, line)
        except FrameError as error:
            self._take_bad(error, now, events)
            return
        admit = _ADMIT.get(type(frame))
        if admit is None:
            _UNNUMBERED[type(frame)](self, frame, now, events)
            return
        inbox = self._inbox
        n: int = frame.n  # type: ignore[union-attr]  # all in _ADMIT are numbered
        if n != inbox.rx + 1:
            inbox.take_repeated(n, now)
            return
        if inbox.is_joining and type(frame) is not Part:
            inbox.refuse_between_parts()
        admit(self, frame, now, events)
        inbox.rx = n
        if inbox.ack_due_at is None:
            inbox.ack_due_at = now + ACK_AFTER_S

    def _take_message(self, fields: dict[str, Any], now: float, events: list[Event]) -> bool:
        """Admit an ask or a reply that is a message and nothing else, as most frames are.

        Returns:
            False if anything about it is out of the ordinary: nothing was done, read it field by field.
        """
        inbox, kind, size = self._inbox, fields.get("t"), len(fields)
        try:
            if kind == "ask" and size == 5:
                n, id, to, texts = _ASK(fields)
                flow = self._inflows.get(to)
                if not (
                    type(n) is type(id) is int
                    and n == inbox.rx + 1
                    and self._last_peer_id < id <= MAX_INTEGER
                    and (is_target(to) if flow is None else flow.used < flow.upto)
                    and len(self._answering) < MAX_OPEN_ASKS
                    and not inbox.is_joining
                    and type(texts) is list
                ):
                    return False
                if flow is None:
                    self._charge_inflow(to)
                else:
                    flow.used += 1
                events.append(Ask(n, id, to, tuple(texts), None, (), None, REPLY, False))
                self._last_peer_id = id
                self._answering[id] = None
            elif kind == "rep" and size == 4:
                n, id, texts = _REPLY(fields)
                if not (
                    type(n) is type(id) is int
                    and n == inbox.rx + 1
                    and id in self._asks
                    and id not in self._streams
                    and id not in self._cancelled
                    and not self._is_ask_wanted
                    and not inbox.is_joining
                    and type(texts) is list
                ):
                    return False
                events.append(Reply(n, id, tuple(texts), None, True))
                del self._asks[id]
            else:
                return False
        except (KeyError, TypeError):  # TypeError: no name at all, but a list
            return False
        inbox.rx = n
        if inbox.ack_due_at is None:
            inbox.ack_due_at = now + ACK_AFTER_S
        return True

    def _take_bad(self, error: FrameError, now: float, events: list[Event]) -> None:
        """Step over a bad frame if its number can be counted; else only a new link can help."""
        if error.number is None or error.kind == "part":
            raise Violation(CloseCode.BAD_FRAME, str(error))
        inbox = self._inbox
        if error.number != inbox.rx + 1:
            inbox.take_repeated(error.number, now)
            return
        if inbox.is_joining:
            inbox.refuse_between_parts()
        self._refuse(error, now, events)
        inbox.rx += 1
        if inbox.ack_due_at is None:
            inbox.ack_due_at = now + ACK_AFTER_S

    def _refuse(self, error: FrameError, now: float, events: list[Event]) -> None:
        self._inbox.count_useless(now)
        if error.target:
            # Its sender counted it, and no owner will see it to consume it.
            self._charge_inflow(error.target)
            self.consumed(error.target)
        id = error.id
        if error.kind == "rep" and id in self._asks:
            failure = Failure("bad_frame", str(error))
            self._admit_reply(Reply(error.number or 0, id or 0, None, failure, True), now, events)
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

    def _take_first(self, data: bytes, now: float, events: list[Event]) -> None:
        try:
            welcome = decoding.decode(data)
        except FrameError as error:
            code = CloseCode.VERSION if error.code == "version" else CloseCode.BAD_FRAME
            raise Violation(code, str(error)) from None
        if not isinstance(welcome, Welcome):
            raise Violation(CloseCode.BAD_FRAME, "The first frame must be a welcome.")
        self._take_welcome(welcome, now, events)

    def _take_welcome(self, welcome: Welcome, now: float, events: list[Event]) -> None:
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
        id = ask.id
        if id <= self._last_peer_id or len(self._answering) >= MAX_OPEN_ASKS:
            self._take_id(id)
        flow = self._inflows.get(ask.to)
        if flow is None or flow.used >= flow.upto:
            self._charge_inflow(ask.to)
        else:
            flow.used += 1
        self._last_peer_id = id
        self._answering[id] = None
        events.append(ask)

    def _admit_spawn(self, spawn: Spawn, now: float, events: list[Event]) -> None:
        self._take_id(spawn.id)
        self._charge_inflow(NODE)
        self._answering[spawn.id] = None
        events.append(spawn)

    def _admit_reply(self, reply: Reply, now: float, events: list[Event]) -> None:
        id = reply.id
        if id not in self._asks:
            self._inbox.count_useless(now)
            events.append(LateReply(reply))
        elif reply.last:
            del self._asks[id]
            self._streams.pop(id, None)
            if id in self._cancelled:
                self._cancelled.remove(id)
            else:
                events.append(reply)
            if self._is_ask_wanted:
                self._is_ask_wanted = False
                events.append(RoomBack())
        elif id not in self._cancelled:
            if id not in self._streams:
                raise Violation(CloseCode.FLOW, f"Nobody asked for parts of reply {id}.")
            self._streams[id].charge(f"ask {id}")
            events.append(reply)

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

    def consumed(self, target: str | int, count: int = 1) -> None:
        """Say that an agent (by name), or the reader of an ask's parts (by id), took ``count`` frames.

        Each Tell and Ask is to be consumed once, whatever became of it; each Spawn as ``NODE``.
        """
        flow = self._inflows.get(target) if isinstance(target, str) else self._streams.get(target)
        if flow is not None and flow.consume(count):
            self._grants.add(target)

    # -- unnumbered frames --

    def _take_rx(self, rx: int, events: list[Event]) -> bool:
        """Take an acknowledgement; return whether it was news."""
        outbox = self._outbox
        if rx > outbox.link_n:
            raise Violation(CloseCode.SEQUENCE, f"{rx} was never sent: {outbox.link_n} is the last.")
        if rx <= outbox.peer_rx:
            return False
        if outbox.acknowledge(rx):
            events.append(RoomBack())
        return True

    def _take_ack(self, ack: Ack, now: float, events: list[Event]) -> None:
        if not self._take_rx(ack.rx, events):
            self._inbox.count_useless(now)

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


_ASK, _REPLY = itemgetter("n", "id", "to", "msg"), itemgetter("n", "id", "msg")

_Taker: TypeAlias = Callable[[Receiver, Any, float, list[Event]], None]

_ADMIT: dict[type, _Taker] = {
    Tell: Receiver._admit_tell, Ask: Receiver._admit_ask, Reply: Receiver._admit_reply,
    Cancel: Receiver._admit_cancel, Watch: Receiver._admit_watch, Unwatch: Receiver._admit_unwatch,
    Down: Receiver._admit_down, Spawn: Receiver._admit_spawn, Part: Receiver._admit_part,
}  # fmt: skip

_UNNUMBERED: dict[type, _Taker] = {
    Ack: Receiver._take_ack, Credit: Receiver._take_credit, Heartbeat: Receiver._take_heartbeat,
    HeartbeatReply: Receiver._take_heartbeat_reply, Probe: Receiver._take_probe, Bye: Receiver._take_bye,
    Hello: Receiver._take_greeting, Welcome: Receiver._take_greeting,
}  # fmt: skip
