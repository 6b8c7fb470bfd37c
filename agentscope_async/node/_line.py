"""What is to be sent to one remote agent, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..errors import MessageError, NodeDown, RuntimeClosedError
from .events import CannotSend
from .frames import NODE, FrameError

if TYPE_CHECKING:
    from ..message.msg import Texts
    from ._waits import Asked
    from .bridge import Bridge
    from .node import Node

__all__ = ["Line", "Locator", "Send"]

Send: TypeAlias = "Callable[[Bridge, str], Any]"
"""Sends something to the agent of this key over a bridge, or raises CannotSend or FrameError."""

PASSING = frozenset({"outbox_full", "too_many_asks", "no_credit", "not_linked", "session_over"})
"""Reasons not to send that end by themselves, or with another session."""


class Locator(Protocol):
    """Knows where an agent is."""

    def find_now(self) -> tuple[Bridge, str] | None:
        """Return the bridge to its node and its key there, if there is a bridge; else ``find`` it."""

    async def find(self) -> tuple[Bridge, str]:
        """Return the bridge to its node, connected, and its key there.

        Raises:
            NodeDown: it cannot be reached.
        """


class Line:
    """What is to be sent to one remote agent, each behind what came before.

    What can be sent at once is sent at once, without a task switch; the rest goes, in order and
    as much as there is room for, when the link tells that there is room again.
    """

    __slots__ = ("locator", "_node", "_bridge", "_key", "_waiting", "_is_paused", "_end")

    def __init__(self, locator: Locator, node: Node) -> None:
        self.locator = locator
        self._node = node
        self._bridge: Bridge | None = None
        self._key = ""
        self._waiting: deque[tuple[Send, asyncio.Future[Any]]] | None = None  # an empty deque takes 760 bytes
        self._is_paused = False  # somebody will call ``resume``
        self._end: Exception | None = None

    @property
    def bridge(self) -> Bridge:
        """What was sent over last."""
        assert self._bridge is not None
        return self._bridge

    def try_now(self, send: Send) -> Any:
        """Send and return what ``send`` did, which must not be None; None: not possible at once.

        Raises:
            MessageError: this can never be sent. NodeDown: not to this node.
        """
        bridge = self._bridge_now() if self._waiting is None else None
        if bridge is None:
            return None
        try:
            return send(bridge, self._key)
        except (CannotSend, FrameError) as problem:
            _raise_unless_passing(bridge, problem)
            return None

    def ask_now(self, texts: Texts, asked: Asked) -> bool | None:
        """Send an ask from outside all turns that is a message and nothing else; else as ``try_now``."""
        bridge = self._bridge_now() if self._waiting is None else None
        if bridge is None:
            return None
        try:
            return bridge.ask_message(self._key, texts, asked)
        except (CannotSend, FrameError) as problem:
            _raise_unless_passing(bridge, problem)
            return None

    def join(self, send: Send) -> asyncio.Future[Any]:
        """Have it sent as soon as it can be; returns the future of what ``send`` did, which may be cancelled.

        The future's error is MessageError if this can never be sent, NodeDown if the node cannot
        be reached (nothing was sent then), RuntimeClosedError if our runtime is being left.
        """
        sent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append((send, sent))
        if not self._is_paused:
            self.resume()
        return sent

    async def reach(self) -> tuple[Bridge, str]:
        """Return the bridge to the agent, connected, and its key, past all that waits here.

        Raises:
            NodeDown: it cannot be reached. RuntimeClosedError: our runtime was left.
        """
        if self._bridge is None or self._bridge.is_over:
            return await self.locator.find()
        return self._bridge, self._key

    def probe(self, path: tuple[str, ...]) -> None:
        """Look whether whoever has the agent's turn waits for us; may get lost."""
        bridge = self._bridge
        if bridge is not None and not bridge.is_over:
            with suppress(CannotSend, FrameError):
                bridge.tell(NODE, {"to": self._key, "path": list(path)}, op="probe")

    def resume(self) -> None:
        """Send what waits, as far as there is room."""
        self._is_paused = False
        while self._waiting is not None:
            send, sent = self._waiting[0]
            if not sent.done() and not self._send_first(send, sent):
                return
            self._waiting.popleft()
            if not self._waiting:
                self._waiting = None

    def _send_first(self, send: Send, sent: asyncio.Future[Any]) -> bool:
        """Send one; False: it waits, and ``resume`` will be called."""
        bridge = self._bridge_now()
        if bridge is None:
            if not self._node.runtime.is_open:
                sent.set_exception(RuntimeClosedError("The runtime of this remote agent was left."))
                return True
            self._is_paused = True
            self._node.start(self._find(), self._give_up)
            return False
        try:
            sent.set_result(send(bridge, self._key))
        except CannotSend as problem:
            if problem.code in PASSING:
                self._is_paused = True
                bridge.when_room(problem.target, self.resume)
                return False
            sent.set_exception(_refusal(bridge, problem))
        except FrameError as problem:
            sent.set_exception(MessageError("body", str(problem)))
        return True

    def end(self, error: Exception) -> None:
        """Send nothing more: whoever wants to gets ``error``."""
        self._bridge, self._end = None, error

    def _bridge_now(self) -> Bridge | None:
        """Return the bridge to send over, if it is known without waiting."""
        if self._bridge is None or self._bridge.is_over:
            found = self.locator.find_now() if self._end is None else None
            if found is None:
                return None
            self._bridge, self._key = found
        return self._bridge

    async def _find(self) -> None:
        try:
            if self._end is not None:
                raise self._end
            self._bridge, self._key = await self.locator.find()
        except Exception as error:
            self._fail(error)
        self.resume()

    def _give_up(self) -> None:
        self._fail(RuntimeClosedError("The runtime was left before this could be sent."))

    def _fail(self, error: Exception) -> None:
        """Tell all who wait: it is the same node for each, and is not to be tried for one after the other."""
        self._is_paused = False
        waiting, self._waiting = self._waiting, None
        for _, sent in waiting or ():
            if not sent.done():
                sent.set_exception(error)
                sent.exception()  # whoever waits may be cancelled at this moment


def _raise_unless_passing(bridge: Bridge, problem: CannotSend | FrameError) -> None:
    """Raise what the caller is to see, unless a later try may do."""
    if isinstance(problem, FrameError):
        raise MessageError("body", str(problem)) from None
    if problem.code not in PASSING:
        raise _refusal(bridge, problem) from None


def _refusal(bridge: Bridge, problem: CannotSend) -> NodeDown:
    return NodeDown(bridge.peer, reason=problem.code, outcome="not_delivered")
