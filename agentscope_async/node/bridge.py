"""The bridge between the mailboxes of two nodes: what goes over one link, both ways.

This half asks, tells and watches agents of the other node. What the other node asks of ours is
served by the other half, ``_host`` and ``_letters``. Both are driven by the events of the link's session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import NodeDown
from ..events import LinkChanged
from ..logging import get_logger
from ._host import Host
from ._letters import Letters
from ._replies import RemoteReply
from ._waits import PROBE_EVERY_S, Asked
from ._wire import names_file
from .events import (
    CreditGranted,
    Event,
    LateReply,
    LinkSuspect,
    LinkUp,
    PeerDraining,
    Refused,
    RoomBack,
    SessionLost,
)
from .exports import STRANGER
from .failures import error_of
from .frames import NODE, REPLY, Ask, Cancel, Down, Probe, Reply, Spawn, Tell, Unwatch, Watch

if TYPE_CHECKING:
    from ..message.msg import Texts
    from .link import Link
    from .node import Node

__all__ = ["Bridge"]

PROBES_AT_A_TIME = 512


class Bridge:
    """One link, and what is under way on it.

    Attributes:
        link: the link.
        asks: what was asked of the other node, by the id of its frame.
        is_attached: the link is there: events may come before it.
        peer: the other node's name, "" before there is a link.
        caller: whose rights the other node has here: those of its name, unless that was only said, as by
            one that we dialed and that has proven nothing to us.
        is_to_child: the other node is a process that we started, at the address and with the secret it has.
    """

    link: Link

    def __init__(self, node: Node, *, is_dialed: bool) -> None:
        """Make a bridge; ``attach`` gives it its link, which may have told it of events before."""
        self.peer = ""
        self.caller = STRANGER
        self._is_dialed = is_dialed
        self.node = node
        self.asks: dict[int, Asked] = {}
        self._host = Host(self)
        self._letters = Letters(self, self._host.consume)
        self._loop = asyncio.get_running_loop()
        self._room: dict[str | int | None, list[Callable[[], None]]] = {}
        self._watches: dict[int, Callable[[str], None]] = {}
        self._told: dict[str, int] = {}  # letters that may come back, by key
        self._probing: asyncio.TimerHandle | None = None
        self._probed = 0  # up to which ask, in the last round of probes
        self.is_over = False
        self.over_reason = ""
        self.is_to_child = False
        self.is_attached = False

    def attach(self, link: Link) -> None:
        """Take a link that is, or is about to be, up."""
        self.link = link
        self.peer = link.session.peer
        if not self._is_dialed:
            self.caller = self.peer
        self.is_attached = True
        self.node.emit(LinkChanged("", self.peer, "up", "new"))

    @property
    def is_family(self) -> bool:
        """The other node was started by this one, or this one by it: both are on one machine, and trusted."""
        return self.is_to_child or self.node.exports.grant(self.caller).is_owner

    # -- what others do with it --

    def ask(
        self,
        key: str,
        body: Any,
        asked: Asked,
        *,
        op: str = REPLY,
        chain: list[str] | None = None,
        deadline: float | None = None,
    ) -> bool:
        """Send a request; ``asked`` gets the answer. Returns True.

        Raises:
            CannotSend: not now. FrameError: not ever.
        """
        now = self._loop.time()
        ttl_s = None if deadline is None else max(0.0, deadline - now)
        asked.id = self.link.session.ask(
            key, body, now, ttl_s=ttl_s, chain=chain or (), op=op, wants_parts=asked.parts is not None
        )
        self._await_answer(asked)
        return True

    def ask_message(self, key: str, texts: Texts, asked: Asked) -> bool:
        """Do as ``ask`` does for a message and nothing else, by somebody in no turn: most asks are such."""
        asked.id = id = self.link.session.ask_message(key, texts)
        asked.bridge = self
        self.asks[id] = asked
        self.link.flush()
        return True

    def spawn(self, kind: str, key: str, config: dict[str, Any], asked: Asked) -> bool:
        """Ask for an agent to be created; raises as ``ask``."""
        asked.id = self.link.session.spawn(kind, key, config, self._loop.time(), tag=asked)
        self._await_answer(asked)
        return True

    def _await_answer(self, asked: Asked) -> None:
        asked.bridge = self
        self.asks[asked.id] = asked
        self.link.flush()
        if asked.label and self._probing is None:
            self._probing = self._loop.call_later(PROBE_EVERY_S, self._probe_all)

    def give_up(self, asked: Asked) -> None:
        """Wait no longer for an answer; what the other node does for it is cancelled."""
        if self.asks.pop(asked.id, None) is not None:
            self.link.session.cancel(asked.id)
            self.link.flush()

    def tell(self, key: str, body: Any, *, op: str = REPLY, tag: Any = None) -> bool:
        """Send a letter; ``tag`` is ``(agent, message, op)`` for the dead letter it may become. Returns True.

        Raises:
            CannotSend: not now. FrameError: not ever.
        """
        self.link.session.tell(key, body, op=op, tag=tag)
        self.link.flush()
        if key != NODE:
            self._told[key] = self._told.get(key, 0) + 1
        return True

    def take_back(self, key: str) -> bool:
        """Count a letter that came back; False: none was sent there that could."""
        count = self._told.get(key, 0)
        if count > 1:
            self._told[key] = count - 1
        else:
            self._told.pop(key, None)
        return count > 0

    def watch(self, key: str, fire: Callable[[str], None]) -> int:
        """Have ``fire`` called once, with the reason, when an agent there is gone; raises as ``tell``."""
        id = self.link.session.watch(key)
        self._watches[id] = fire
        self.link.flush()
        return id

    def unwatch(self, id: int) -> None:
        """Take a watch back."""
        if self._watches.pop(id, None) is not None:
            self.link.session.unwatch(id)
            self.link.flush()

    def consumed(self, asked: Asked) -> None:
        """Say that a piece of an answer was heard, so that more may come."""
        self.link.session.consumed(asked.id)
        self.link.flush()

    def probe(self, asked: Asked, path: tuple[str, ...]) -> None:
        """Follow an ask for a circle of waits."""
        self.link.session.probe(asked.id, path)
        self.link.flush()

    def when_room(self, target: str | int | None, resume: Callable[[], None]) -> None:
        """Call ``resume`` once there may be room to send: to an agent or a listener, or (None) at all."""
        if self.is_over:
            self._loop.call_soon(resume)
        else:
            self._room.setdefault(target, []).append(resume)

    async def room(self, target: str | int | None) -> None:
        """Wait until there may be room to send; see ``when_room``."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self.when_room(target, lambda: None if waiter.done() else waiter.set_result(None))
        await waiter

    def lose(self, reason: str) -> None:
        """End the session: the other node is known to be gone."""
        self.link.end(self.link.session.lose(reason), self._loop.time())

    # -- what the link tells --

    def on_event(self, event: Event) -> None:
        """Take an event of the session."""
        kind = type(event)
        if kind is Ask:
            self._host.serve(event)  # type: ignore[arg-type]
        elif kind is Reply:
            self._take_reply(event)  # type: ignore[arg-type]
        elif kind is Tell:
            self._letters.take(event)  # type: ignore[arg-type]
        elif self.is_attached:
            _TAKERS[kind](self, event)
        else:  # it came right behind the welcome, before whoever dialed could attach the link
            self._loop.call_soon(self._take_late, event)

    def _take_late(self, event: Event) -> None:
        if self.is_attached:
            _TAKERS[type(event)](self, event)

    def on_lost(self, lost: SessionLost) -> None:
        """Answer everybody: the session is over."""
        reason = lost.reason
        if reason == "refused" and self.is_to_child:
            reason = "exited"  # a child of ours; that its process has ended is about to be told
        self.is_over, self.over_reason = True, reason
        if self._probing is not None:
            self._probing.cancel()
        self._host.lose()
        for outcome in lost.outcomes:
            if outcome.kind == "ask":
                asked = self.asks.pop(outcome.id, None)
                if asked is not None:
                    asked.fail(NodeDown(self.peer, reason=reason, outcome=outcome.outcome))
            elif outcome.kind == "tell" and outcome.tag is not None:
                self._tell_fate(outcome.tag, NodeDown(self.peer, reason=reason, outcome=outcome.outcome))
        for asked in self.asks.values():
            asked.fail(NodeDown(self.peer, reason=reason, outcome="unknown"))
        self.asks.clear()
        watches, self._watches = self._watches, {}
        for fire in watches.values():
            fire("node_down")
        for target in list(self._room):
            self._wake(target)
        self.node.forget(self)
        self.node.emit(LinkChanged("", self.peer, "lost", reason))

    def _tell_fate(self, tag: Any, error: NodeDown) -> None:
        """Say what became of a letter: to whoever submitted it, or as a dead letter."""
        if isinstance(tag, RemoteReply):
            tag.resolve(error)
        else:
            agent, msg, op = tag
            reason = error.outcome.replace("_", " ")
            self.node.bury(agent, msg, reason, error, is_heard_only=op == "observe")

    def _take_reply(self, reply: Reply) -> None:
        if not reply.last:
            asked = self.asks.get(reply.id)
            if asked is not None and asked.parts is not None:
                asked.parts.put_nowait(reply.body or {})  # None is for the end
            return
        asked = self.asks.pop(reply.id, None)
        if asked is None:
            return
        if reply.failure is None:
            asked.resolve(reply.body)
        else:
            failure = reply.failure
            if failure.facts is not None and not self.is_family and names_file(failure.facts):
                failure.facts = None
            asked.fail(error_of(failure, agent=asked.agent, node=self.peer))

    def _take_down(self, down: Down) -> None:
        fire = self._watches.pop(down.id, None)
        if fire is not None:
            fire(down.reason)

    def _wake_all(self, event: RoomBack | LinkUp) -> None:
        self._wake(None)
        if type(event) is LinkUp and event.resumed:
            self.node.emit(LinkChanged("", self.peer, "up", "resumed"))

    def _wake_target(self, granted: CreditGranted) -> None:
        self._wake(granted.target)

    def _wake(self, target: str | int | None) -> None:
        waiting = self._room.pop(target, [])
        for place, resume in enumerate(waiting, 1):
            resume()
            again = self._room.get(target)
            if again is not None:  # it has to wait again, so there is nothing for those behind it
                again.extend(waiting[place:])
                return

    def _note_suspect(self, suspect: LinkSuspect) -> None:
        # Mostly a busy machine: the link is opened again, and nothing is lost. What is lost ends in NodeDown.
        get_logger().info("link_suspect", node=self.peer, silent_s=round(suspect.silent_s, 1))
        self.node.emit(LinkChanged("", self.peer, "suspect", ""))

    def _note_draining(self, draining: PeerDraining) -> None:
        for target in list(self._room):  # who waits to send new work learns that it will not be taken
            self._wake(target)

    def _note_late(self, late: LateReply) -> None:
        get_logger().debug("late_reply", node=self.peer, id=late.reply.id)

    def _probe_all(self) -> None:
        self._probing = None
        asking = [asked for asked in self.asks.values() if asked.label]
        # So many at a time that there is room for those that others send on; the rest next time.
        begin = self._probed if self._probed < len(asking) else 0
        for asked in asking[begin : begin + PROBES_AT_A_TIME]:
            self.probe(asked, (asked.label,))
        self._probed = begin + PROBES_AT_A_TIME
        if asking and not self.is_over:
            self._probing = self._loop.call_later(PROBE_EVERY_S, self._probe_all)


_TAKERS: dict[type, Callable[[Bridge, Any], None]] = {
    Cancel: lambda bridge, event: bridge._host.cancel(event),
    Watch: lambda bridge, event: bridge._host.watch(event),
    Unwatch: lambda bridge, event: bridge._host.unwatch(event),
    Spawn: lambda bridge, event: bridge._host.spawn(event),
    Probe: lambda bridge, event: bridge._host.probe(event),
    Refused: lambda bridge, event: bridge._host.refuse(event),
    Down: Bridge._take_down,
    RoomBack: Bridge._wake_all,
    LinkUp: Bridge._wake_all,
    CreditGranted: Bridge._wake_target,
    LinkSuspect: Bridge._note_suspect,
    PeerDraining: Bridge._note_draining,
    LateReply: Bridge._note_late,
}
