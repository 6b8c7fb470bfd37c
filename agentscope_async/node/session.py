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

from collections.abc import Sequence
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NoReturn

from . import encoding
from ._credit import Inflow, Outflow
from ._outbox import FRAMES_PER_MESSAGE, LARGE_BYTES
from ._receiving import MAX_OPEN_ASKS, MAX_TARGETS, MAX_WATCHES, Receiver
from .events import CannotSend, SessionStatistics, State
from .frames import NODE, REPLY, Failure, FrameError

if TYPE_CHECKING:
    from ..message.msg import Texts
    from .settings import Settings

__all__ = ["Session"]

MAX_PROBE_BYTES = 8 * 1024
MAX_TTL_S = 1e9

_OPEN, _OVER = State.OPEN, State.OVER


class Session(Receiver):
    """One side of a session; see the module. Made by :meth:`dial`, or by a ``Reception``.

    How a session comes to its links and ends is in ``_lifecycle``, what it receives in
    ``_receiving``; what it sends is here.
    """

    __slots__ = ()

    @classmethod
    def dial(cls, settings: Settings) -> Session:
        """Return the session of a node that is about to open links to another."""
        return cls(settings, sid=token_hex(16), key=None, is_dialer=True)

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
    def is_worth_writing(self) -> bool:
        """So much waits that ``poll`` should be called now and not at the end of the loop's round.

        As many frames as are under way, or as a message holds, or a large one: the other side is to have
        one part of the work while we have the other. More messages cost more, fewer leave each side idle
        while the other works. For a single frame it is the idea of Nagle's algorithm (RFC 896).
        """
        outbox = self._outbox
        waiting = len(outbox.queue)
        if waiting >= FRAMES_PER_MESSAGE or 0 < waiting >= outbox.link_n - outbox.peer_rx:
            return True
        return waiting > 0 and len(outbox.queue[-1][1]) >= LARGE_BYTES

    @property
    def ack_due_at(self) -> float | None:
        """When what has arrived is to be acknowledged at the latest; None: it is."""
        return self._inbox.ack_due_at

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
        flow, outbox = self._outflow(to), self._outbox
        line = encoding.encode_tell(outbox.sent_n + 1, to, body, sender=sender, op=op)
        outbox.put(line, "tell", 0, tag)
        flow.charge()
        return outbox.sent_n

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
        flow, outbox = self._outflow(to), self._outbox
        if len(self._asks) >= MAX_OPEN_ASKS:
            self._refuse_ask()
        id = self._last_id + 1
        line = encoding.encode_ask(
            outbox.sent_n + 1, id, to, body, chain=chain, sender=sender, op=op, wants_parts=wants_parts
        )
        outbox.put(line, "", id, None, None if ttl_s is None else now + min(ttl_s, MAX_TTL_S))
        flow.charge()
        self._last_id = id
        self._asks[id] = outbox.sent_n, tag
        if wants_parts:
            self._streams[id] = Inflow(self.settings.credit)
        return id

    def ask_message(self, to: str, texts: Texts) -> int:
        """Send a request that is a message and nothing else, as most are; see ``ask``."""
        flow, outbox = self._outflow(to), self._outbox
        if len(self._asks) >= MAX_OPEN_ASKS:
            self._refuse_ask()
        id = self._last_id + 1
        outbox.put(encoding.encode_message(outbox.sent_n + 1, id, to, texts), "", id, None)
        flow.charge()
        self._last_id = id
        self._asks[id] = outbox.sent_n, None
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
        if len(self._asks) >= MAX_OPEN_ASKS:
            self._refuse_ask()
        id = self._last_id + 1
        fields = {"t": "spn", "n": self._outbox.sent_n + 1, "id": id, "kind": kind, "name": name, "cfg": cfg}
        encoding.check_outgoing(fields)
        self._outbox.put(
            encoding.encode(fields), "", id, None, None if ttl_s is None else now + min(ttl_s, MAX_TTL_S)
        )
        flow.charge()
        self._last_id = id
        self._asks[id] = self._outbox.sent_n, tag
        return id

    def reply(self, id: int, body: Any, *, last: bool = True, tag: Any = None) -> None:
        """Answer an ask, once; before that, with ``last`` False, with parts as far as there is credit.

        Raises:
            CannotSend: not now, or ``not_asked``: the ask was answered, or its session is over.
            FrameError: too large, or without a wire form; the ask still waits.
        """
        outbox = self._outbox
        try:
            flow = self._answering[id]
        except KeyError:
            raise CannotSend("not_asked", f"No ask {id} waits for a reply.") from None
        if last:
            outbox.put(encoding.encode_reply(outbox.sent_n + 1, id, body), "reply", id, tag)
            del self._answering[id]
            return
        if flow is None:
            assert self._terms is not None
            flow = self._answering[id] = Outflow(self._terms.credit)
        flow.check(id)
        outbox.put(encoding.encode_reply(outbox.sent_n + 1, id, body, last=False), "", id, None)
        flow.charge()

    def fail(self, id: int, failure: Failure, *, tag: Any = None) -> None:
        """Answer an ask with an error; raises as ``reply``."""
        if id not in self._answering:
            raise CannotSend("not_asked", f"No ask {id} waits for a reply.")
        self._outbox.put(encoding.encode_failure(self._outbox.sent_n + 1, id, failure), "reply", id, tag)
        del self._answering[id]

    def cancel(self, id: int) -> None:
        """Stop waiting for an ask. Never refused; nothing more is heard of it."""
        if id in self._asks and id not in self._cancelled:
            self._cancelled.add(id)
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

    def _outflow(self, to: str) -> Outflow:
        flow = self._outflows.get(to)
        if flow is not None and flow.used < flow.upto and not self._is_peer_draining:
            return flow
        self._check_open()
        if self._is_peer_draining:
            raise CannotSend("draining", f"Node {self.peer!r} takes no new work.")
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

    def _refuse_ask(self) -> NoReturn:
        self._is_ask_wanted = True
        raise CannotSend("too_many_asks", f"{MAX_OPEN_ASKS:,} asks wait for node {self.peer!r} already.")

    # -- writing --

    @property
    def has_more(self) -> bool:
        """Whether ``poll``, which has just returned a message, may have another one."""
        return bool(self._outbox.queue or self._grants or self._probes)

    def poll(self, now: float) -> bytes | None:
        """Return the next message to write, or None. To be called until that.

        One message holds all that waits, up to FRAMES_PER_MESSAGE frames and MESSAGE_BYTES bytes.
        What was returned counts as written: whether it arrived shows when a link is resumed.
        """
        if self.state is not _OPEN or self._greeting is not None:
            return self._poll_unlinked()
        inbox, outbox = self._inbox, self._outbox
        lines: list[bytes] = []
        if self._grants or self._probes or self._hbr is not None or self._is_bye_due:
            self._write_asides(lines)
        if outbox.queue:
            rx = inbox.rx if inbox.ack_due_at is not None else None
            if outbox.write(lines, rx, now) and rx is not None:
                inbox.told_rx = rx
                inbox.ack_due_at = None
        elif lines or (inbox.ack_due_at is not None and inbox.is_ack_due(now)):
            inbox.write_ack(lines)
        elif now >= self._written_at + self.settings.heartbeat_s:
            lines.append(b'{"t":"hb","ts":%d}' % max(0, round(now * 1000)))
        else:
            return None
        self._written_at = now
        return lines[0] if len(lines) == 1 else b"[%b]" % b",".join(lines)

    def _poll_unlinked(self) -> bytes | None:
        if self._greeting is not None:
            greeting, self._greeting = self._greeting, None
            return greeting
        farewell, self._farewell = self._farewell, None
        return farewell

    def _write_asides(self, lines: list[bytes]) -> None:
        """Append what has no number, besides acknowledgements and our own heartbeats."""
        self._write_grants(lines)
        if self._is_bye_due and self._bye is not None:
            lines.append(self._bye)
        self._is_bye_due = False
        if self._probes:
            lines.append(self._probes.popleft())
        if self._hbr is not None:
            lines.append(b'{"t":"hbr","ts":%d}' % self._hbr)
            self._hbr = None

    def _write_grants(self, lines: list[bytes]) -> None:
        while self._grants and len(lines) < FRAMES_PER_MESSAGE:
            target = self._grants.pop()
            if isinstance(target, str):
                lines.append(
                    b'{"t":"crd","to":"%b","upto":%d}' % (target.encode(), self._inflows[target].upto)
                )
            elif (flow := self._streams.get(target)) is not None:
                lines.append(b'{"t":"crd","id":%d,"upto":%d}' % (target, flow.upto))

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
