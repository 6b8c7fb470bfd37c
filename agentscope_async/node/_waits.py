"""Who waits for whom across nodes, so that waits that could never end are found.

An ask sent from within a turn carries its call chain: one label for each agent above it,
``node/name~number``, the number drawn at random. A node that finds a label of its own in the
chain of an ask goes on from the turn that is meant, so that the search for circles among local
waits (``_deadlock``) sees A -> B -> A. Asks that cross, each queued behind the other's turn, are
found by probes along the waits: K. M. Chandy, J. Misra, L. M. Haas, Distributed deadlock
detection, ACM TOCS 1 (1983).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar

from .._deadlock import Blocked
from .._turn import Turn
from ..errors import AskTimeoutError, DeadlockError
from .frames import MAX_HOPS

if TYPE_CHECKING:
    from ._line import Line
    from .bridge import Bridge

__all__ = ["PROBE_EVERY_S", "Asked", "ForeignTurn", "Waits", "in_time"]

T = TypeVar("T")

PROBE_EVERY_S = 0.25
"""An ask from within a turn that takes longer may be part of a circle of waits."""


class Asked:
    """An ask that was sent to another node, or is about to be, and has no answer yet.

    Something a turn can be blocked on; what it waits for in the end is known to other nodes only.

    Attributes:
        agent: the name of the agent asked.
        turn: the turn that asks, None outside all turns.
        label: its own in a call chain, "" outside all turns.
        answer: the body of the reply, or its error.
        parts: pieces of the reply as they come, None at the end; None: nobody listens.
        bridge, id: where it was sent and as what; None and 0 before that.
    """

    __slots__ = ("agent", "turn", "label", "answer", "parts", "bridge", "id")

    holder = None

    def __init__(self, agent: str, turn: Turn | None, *, is_heard: bool) -> None:
        self.agent = agent
        self.turn = turn
        self.label = ""
        self.answer: asyncio.Future[Any] = asyncio.Future()  # half of what the loop's create_future() takes
        self.parts: asyncio.Queue[Any] | None = asyncio.Queue() if is_heard else None
        self.bridge: Bridge | None = None
        self.id = 0

    def resolve(self, body: Any) -> None:
        """Give out the reply."""
        if not self.answer.done():
            self.answer.set_result(body)
        if self.parts is not None:
            self.parts.put_nowait(None)

    def fail(self, error: Exception) -> None:
        """Give out the error."""
        if not self.answer.done():
            self.answer.set_exception(error)
        if self.parts is not None:
            self.parts.put_nowait(None)

    def give_up(self) -> None:
        """Nobody waits any more: cancel what is done for it; an error that came is nobody's to see."""
        if self.bridge is not None:
            self.bridge.give_up(self)
        if not self.answer.done():
            self.answer.cancel()
        elif not self.answer.cancelled():
            self.answer.exception()


class _Elsewhere:
    """An agent of another node, as a name in a chain."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class ForeignTurn(Turn):
    """Stands for a turn on another node in which an ask that we serve was made."""

    __slots__ = ("label",)

    def __init__(self, label: str, parent: Turn | None, task: asyncio.Task[Any]) -> None:
        super().__init__(_Elsewhere(_shown(label)), parent)
        self.label = label
        self.task = task


class Waits:
    """The asks from turns of this node that wait for others."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._asked: dict[str, Asked] = {}
        self._unsent: dict[Asked, tuple[Line, asyncio.Future[Any]]] = {}
        self._probing: asyncio.TimerHandle | None = None

    @contextmanager
    def waiting(self, asked: Asked) -> Iterator[list[str] | None]:
        """While inside, the turn that asks, if there is one, is known to wait; gives the chain to send.

        What it waits for in the end is known to other nodes: a circle is found by them, or by probes.
        """
        if asked.turn is None:
            yield None
            return
        try:
            with Blocked(asked.turn, asked, asked.agent):
                yield self._enter(asked, asked.turn)
        finally:
            self._asked.pop(asked.label, None)

    def _enter(self, asked: Asked, turn: Turn) -> list[str]:
        asked.label = self._label(turn.agent.name, token_hex(8))  # who was not sent it cannot name it
        self._asked[asked.label] = asked
        chain = [asked.label]
        parent = turn.parent
        chain.extend(
            each.label if isinstance(each, ForeignTurn) else self._label(each.agent.name)
            for each in (parent.chain() if parent is not None else ())
        )
        chain.reverse()
        return chain

    def begin_serving(self, chain: tuple[str, ...], task: asyncio.Task[Any]) -> ForeignTurn:
        """Return the turn an ask with this chain was made in, to be that in which it is served."""
        known: Turn | None = None
        place = 0
        for place in range(len(chain), 0, -1):
            asked = self._own(chain[place - 1])
            if asked is not None:
                known = asked.turn
                break
        else:
            place = 0
        for label in chain[place:]:
            known = ForeignTurn(label, known, task)
        if not isinstance(known, ForeignTurn):  # the asker is of this node
            known = ForeignTurn(chain[-1], known, task)
        return known

    def wait_for_room(self, asked: Asked, line: Line, sent: asyncio.Future[Any]) -> None:
        """Probe for an ask of a turn until it can be sent: whom it waits for may wait for us."""
        self._unsent[asked] = line, sent
        sent.add_done_callback(lambda sent: self._unsent.pop(asked, None))
        if self._probing is None:
            self._probing = asyncio.get_running_loop().call_later(PROBE_EVERY_S, self._probe_unsent)

    def _probe_unsent(self) -> None:
        self._probing = None
        for asked, (line, _) in list(self._unsent.items()):
            line.probe((asked.label,))
        if self._unsent:
            self._probing = asyncio.get_running_loop().call_later(PROBE_EVERY_S, self._probe_unsent)

    def close(self) -> None:
        """Probe no more."""
        if self._probing is not None:
            self._probing.cancel()

    def probe_on(self, start: Turn, path: tuple[str, ...], *, is_holder: bool = False) -> None:
        """Follow the waits of a turn; see the module.

        Args:
            start: the turn that serves the ask whose asker probes.
            path: the labels of the asks that were followed so far, the first that of who probes.
            is_holder: there is no such turn yet, and ``start`` is the one it would wait for.
        """
        first = self._own(path[0])
        ends = set(first.turn.chain()) if first is not None and first.turn is not None else set()
        for turn, asked in _reached(start):
            if turn is start and not is_holder:
                continue
            if turn is not None and turn in ends and first is not None:
                if path[0] == max(path):
                    self._break(first, path)
                return
            if asked is not None and asked.label and asked.label not in path and len(path) < MAX_HOPS:
                self._follow(asked, (*path, asked.label))

    def _follow(self, asked: Asked, path: tuple[str, ...]) -> None:
        if asked.bridge is not None:
            asked.bridge.probe(asked, path)
        elif asked in self._unsent:
            self._unsent[asked][0].probe(path)

    def _break(self, asked: Asked, path: tuple[str, ...]) -> None:
        names = [_shown(label) for label in path]
        error = DeadlockError(asked.agent, [*names, names[0]])
        _, sent = self._unsent.get(asked, (None, None))
        if sent is None:
            asked.fail(error)
        elif not sent.done():
            sent.set_exception(error)

    def _label(self, name: str, number: str = "0") -> str:
        shown = name if name.isprintable() else name.encode("unicode_escape").decode()[:200]
        return f"{self._node}/{shown}~{number}"

    def _own(self, label: str) -> Asked | None:
        return self._asked.get(label)


async def in_time(deadline: float | None, agent: str, work: Awaitable[T]) -> T:
    """Await ``work`` until the event loop's clock shows ``deadline``, if there is one.

    Raises:
        AskTimeoutError: it took longer.
    """
    if deadline is None:
        return await work
    left_s = deadline - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(deadline) as limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise AskTimeoutError(agent, left_s) from None
        raise


def _shown(label: str) -> str:
    return label.rpartition("~")[0] or label


def _reached(start: Turn) -> Iterator[tuple[Turn | None, Asked | None]]:
    """Yield the turns that ``start`` waits for in the end, and the asks of other nodes on the way."""
    seen: set[Turn] = set()
    asks: set[Asked] = set()
    stack: list[Turn] = [start]
    while stack:
        turn = stack.pop()
        if turn in seen:
            continue
        seen.add(turn)
        yield turn, None
        for wait in turn.extra.waits if turn.extra is not None else ():
            if isinstance(wait.target, Asked):
                if wait.target not in asks:
                    asks.add(wait.target)  # it is a wait of each turn above it, too, and to be followed once
                    yield None, wait.target
            elif (holder := wait.target.holder) is not None:
                stack.append(holder)
