"""Agents of other nodes, called exactly like local ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from .. import _context
from .._turn import current_turn, open_turn
from ..agents._mail import Member, announce, deliver, incoming
from ..agents.stream import AgentStream
from ..errors import AgentStoppedError, ConfigError, InterruptedTurnError, NodeDown, RuntimeClosedError
from ..logging import brief, get_logger
from ..message import Msg
from ..message.msg import from_texts, texts_of
from ._line import Line, Locator, Send
from ._replies import RemoteReply
from ._waits import Asked, in_time
from ._wire import body_of, fields_of, read_msg, read_speech
from .frames import REPLY
from .launched import Launched

if TYPE_CHECKING:
    from .._letters import Letter
    from ..reply import Reply
    from ._addresses import Address
    from .bridge import Bridge
    from .node import Node

__all__ = ["ByUrl", "RemoteAgent"]

_deadline, _trace = _context.deadline.get, _context.trace_id.get


class ByUrl:
    """Finds an agent by the URL of its node and its key there."""

    __slots__ = ("_node", "_address", "key")

    def __init__(self, node: Node, address: Address, key: str) -> None:
        self._node = node
        self._address = address
        self.key = key

    @property
    def url(self) -> str:
        """The URL of the agent."""
        return f"{self._address.url}/{self.key}"

    def find_now(self) -> tuple[Bridge, str] | None:
        """Return the bridge to the node, if there is one, and the key."""
        bridge = self._node.open_bridge(self._address)
        return None if bridge is None else (bridge, self.key)

    async def find(self) -> tuple[Bridge, str]:
        """Return the bridge to the node, connecting if need be, and the key."""
        return await self._node.bridge_at(self._address), self.key


class RemoteAgent(Member):
    """An agent on another node: await it with a message, get a message.

    Made by ``rt.agent(url)``, ``rt.spawn(...)`` and ``agent.to_dist(...)``. It connects when first
    used. What one sender sends to it is handled in that order; a cancelled or timed-out ask is
    cancelled over there, too. Every ask ends: with the reply, with what the agent raised, or with
    NodeDown when its node is gone, AgentNotFound, ForbiddenError.
    """

    __slots__ = ("name", "_node", "_line", "_limit_s", "_circles", "_mailbox", "__weakref__")

    _observes_plainly = False

    def __init__(self, name: str, node: Node, locator: Locator, *, timeout_s: float | None = None) -> None:
        """Refer to an agent.

        Args:
            name: what it is called in chains, logs and errors.
            node: this process's own.
            locator: knows where the agent is.
            timeout_s: seconds an ask may take; None: no limit of its own.

        Raises:
            ConfigError: the time limit is not above 0.
        """
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"timeout_s must be above 0 or None, got {timeout_s!r}")
        self.name = name
        self._node = node
        self._line = Line(locator, node)
        self._limit_s = timeout_s
        self._circles = ()
        self._mailbox: _Outgoing | None = None

    @property
    def url(self) -> str | None:
        """Where the agent is, once that is known."""
        return getattr(self._line.locator, "url", None)

    @property
    def locator(self) -> Locator:
        """What knows where the agent is."""
        return self._line.locator

    def connect_soon(self) -> None:
        """Find the agent now, starting its process if need be, and not when it is first used."""
        self._line.join(lambda bridge, key: True).add_done_callback(_note_failure)

    @property
    def mailbox(self) -> Any:
        """What a hub puts its letters into."""
        if self._mailbox is None:
            self._mailbox = _Outgoing(self)
        return self._mailbox

    def __repr__(self) -> str:
        return f"<RemoteAgent {self.name!r} at {self.url or 'a node not started yet'}>"

    # -- what callers use --

    def __call__(self, x: Any = None, **kwargs: Any) -> Coroutine[Any, Any, Msg]:
        """Ask: one turn of the agent over there, and its reply; see ``AgentBase.__call__``.

        Raises:
            NodeDown: the node cannot be reached, or was lost; ``outcome`` says whether the message
                may have been handled.
            AgentNotFound: it has no such agent.
            ForbiddenError: its node does not let us.
            RemoteError: the agent raised something that is neither ours nor Python's own.
            MessageError: the message cannot be sent: it has no wire form, or is too large.
        """
        return self._watched(x, kwargs, None)

    def stream(self, x: Any = None, **kwargs: Any) -> AgentStream:
        """Ask, and hear the answer while it is being given; see ``AgentBase.stream``."""
        return AgentStream(self, x, kwargs)

    def submit(self, x: Any = None, **kwargs: Any) -> Reply:
        """Ask now, wait later: the result stays on the other node until it is awaited, here or elsewhere.

        Passed as a message to an agent of a third node, it goes there from where it was made.
        """
        id = token_hex(16)
        taken: asyncio.Future[Bridge] = asyncio.get_running_loop().create_future()
        reply = RemoteReply(
            self.name, id, partial(self._fetch, id, taken), partial(self._take_back, id, taken)
        )
        reply.placed = taken
        body = {**fields_of(incoming(x), kwargs, self._node), "rid": id}

        def send(bridge: Bridge, key: str) -> bool:
            if taken.cancelled():
                return False
            self._node.introduce(x, bridge)
            bridge.tell(key, body, op="submit", tag=reply)
            reply.home = bridge.peer
            taken.set_result(bridge)
            return True

        def fail(error: Exception) -> None:
            reply.resolve(error)
            if not taken.done():
                taken.set_exception(error)
                taken.exception()  # the reply tells it

        self._send_soon(send, fail)
        return reply

    async def post(self, x: Any = None) -> None:
        """Tell: send the message and go on; returns when the link has taken it: at once unless it is full.

        A message that could not be delivered comes back as a dead letter of our runtime.

        Raises:
            NodeDown: the node cannot be reached; nothing was sent.
        """
        await self._tell(incoming(x), REPLY)

    async def observe(self, x: Any) -> None:
        """Have the agent remember a message, or several, without replying; see ``AgentBase.observe``."""
        await self._ask(incoming(x), None, None, "observe")

    async def interrupt(self, reason: str | None = None) -> bool:
        """End the running turn over there; returns whether there was one."""
        x = None if reason is None else Msg("user", reason, "user").to_dict()
        bridge, key = await self._line.reach()
        body = {"key": key, "x": x}
        return bool(await self._node.ask(bridge, self.name, "interrupt", body, self._deadline()))

    async def state(self) -> dict[str, Any]:
        """Return what the agent remembers; see ``AgentBase.state``."""
        state: dict[str, Any] = await self._ask(None, None, None, "state")
        return state

    async def load_state(self, state: dict[str, Any]) -> None:
        """Have the agent remember this instead; only for whoever created it.

        Raises:
            ForbiddenError: it was created by another node.
        """
        await self._ask(Msg("state", state, "user"), None, None, "load_state")

    async def stop(self) -> None:
        """Stop the agent, which is then no longer there; only for whoever created it.

        A child process ends with its last agent.

        Raises:
            ForbiddenError: it was created by another node.
        """
        launched = self.locator if isinstance(self.locator, Launched) else None
        try:
            if launched is None or launched.is_made:
                await self._ask(None, None, None, "stop")
            self._line.end(AgentStoppedError(self.name))
        finally:
            if launched is not None:
                launched.leave()

    def to_dist(self, *args: Any, **options: Any) -> RemoteAgent:
        """Return itself: it is distributed."""
        return self

    # -- one ask --

    async def _watched(self, x: Any, kwargs: dict[str, Any] | None, listener: Any) -> Msg:
        """Ask, and tell those who share a hub with this agent what it said."""
        if type(x) is not Msg:
            x = incoming(x)
        asked = self._ask_message(x) if not kwargs and listener is None and type(x) is Msg else None
        if asked is None:
            answer = await self._ask(x, kwargs, listener, REPLY)
        else:
            try:  # not in a coroutine of its own: each further one costs every ask
                answer = await asked.answer
            except BaseException:
                asked.give_up()
                raise
        reply = from_texts(answer) if type(answer) is tuple else read_msg(answer, self._line.bridge)
        if self._circles:
            heard = announce(self, reply)
            if heard:
                await deliver(heard)
        return reply

    def _ask_message(self, x: Msg) -> Asked | None:
        """Send a message at once; None: it is more than texts, or in a turn, or in time, or has no room."""
        turn = current_turn.get()
        if (turn is not None and turn.task is not None) or self._limit_s is not None:
            return None
        if self._node.runtime.ask_timeout_s is not None:
            return None
        texts = texts_of(x) if _deadline() is None and _trace() is None else None
        if texts is None:
            return None
        asked = Asked(self.name, None, is_heard=False)
        return asked if self._line.ask_now(texts, asked) else None

    async def _ask(self, x: Any, kwargs: dict[str, Any] | None, listener: Any, op: str) -> Any:
        """Ask within the time there is."""
        deadline = self._deadline()
        return await in_time(deadline, self.name, self._ask_in_turn(x, kwargs, listener, op, deadline))

    def _deadline(self) -> float | None:
        inherited = _deadline()
        if inherited is not None and (turn := current_turn.get()) is not None and turn.task is None:
            inherited = None  # it was for a turn that has ended, and this goes on without it
        seconds, common_s = self._limit_s, self._node.runtime.ask_timeout_s
        if seconds is None or (common_s is not None and common_s < seconds):
            seconds = common_s
        if seconds is None:
            return inherited
        own = asyncio.get_running_loop().time() + seconds
        return own if inherited is None else min(own, inherited)

    async def _ask_in_turn(
        self, x: Any, kwargs: dict[str, Any] | None, listener: Any, op: str, deadline: float | None
    ) -> Any:
        turn = open_turn()
        asked = Asked(self.name, turn, is_heard=listener is not None)
        body = body_of(x, kwargs, self._node)

        def send(bridge: Bridge, key: str) -> bool:
            if type(x) is not Msg:
                self._node.introduce(x, bridge)
            return bridge.ask(key, body, asked, op=op, chain=chain, deadline=deadline)

        if turn is None:  # the context manager below costs as much as the rest of this function
            chain = None
            return await self._send_and_wait(send, asked, listener)
        with self._node.waits.waiting(asked) as chain:
            return await self._send_and_wait(send, asked, listener)

    async def _send_and_wait(self, send: Send, asked: Asked, listener: Any) -> Any:
        try:
            if self._line.try_now(send) is None:
                await self._wait_to_send(send, asked)
            if asked.parts is not None:
                await _hear(asked, listener)
            return await asked.answer
        except BaseException:
            asked.give_up()
            raise

    # -- letters --

    async def _tell(self, x: Any, op: str) -> None:
        send = self._telling(x, op)
        if self._line.try_now(send) is None:
            waiting = Asked(self.name, open_turn(), is_heard=False)
            with self._node.waits.waiting(waiting):
                await self._wait_to_send(send, waiting)

    async def _wait_to_send(self, send: Send, asked: Asked) -> None:
        sent = self._line.join(send)
        if asked.turn is not None and not sent.done():
            self._node.waits.wait_for_room(asked, self._line, sent)
        await sent

    def _telling(self, x: Any, op: str) -> Send:
        body = body_of(x, None, self._node)
        tag = (self, x, op)

        def send(bridge: Bridge, key: str) -> bool:
            self._node.introduce(x, bridge)
            return bridge.tell(key, body, op=op, tag=tag)

        return send

    def _send_soon(self, send: Send, fail: Callable[[Exception], None]) -> None:
        """Send now, or when what came before it was sent."""
        try:
            if self._line.try_now(send) is not None:
                return
        except Exception as error:
            fail(error)
            return

        def tell(sent: asyncio.Future[Any]) -> None:
            error = sent.exception()
            if isinstance(error, Exception):
                fail(error)

        self._line.join(send).add_done_callback(tell)

    def _take_back(self, id: str, taken: asyncio.Future[Bridge]) -> None:
        """Cancel a submission: it will not be sent, or its node is told."""
        if not taken.cancel() and taken.exception() is None:
            self._node.take_back(taken.result(), id)

    async def _fetch(self, id: str, taken: asyncio.Future[Bridge]) -> Msg:
        """Return the result of a submission; it need not wait for what was sent after that."""
        deadline = self._deadline()
        return await in_time(deadline, self.name, self._fetch_placed(id, taken, deadline))

    async def _fetch_placed(self, id: str, taken: asyncio.Future[Bridge], deadline: float | None) -> Msg:
        if not taken.done():
            await asyncio.wait([taken])
        if taken.cancelled():
            raise InterruptedTurnError(self.name, None)
        bridge = taken.result()
        if bridge.is_over and bridge.over_reason in ("exited", "restarted", "refused", "closed"):
            raise NodeDown(bridge.peer, reason=bridge.over_reason, outcome="unknown")  # its results are gone
        if bridge.is_over:
            bridge, _ = await self._line.reach()
        return await self._node.fetch(bridge, id, self.name, deadline)

    def _watch(self, watch: Any) -> None:
        """Have a watch fire once the agent is gone; see ``rt.watch``."""
        self._node.watch(self._line, watch)


class _Outgoing:
    """Stands for the mailbox of an agent that is elsewhere, so that a hub can put letters into it."""

    __slots__ = ("_agent", "_open")

    turn = None
    _turn = None

    def __init__(self, agent: RemoteAgent) -> None:
        self._agent = agent
        self._open: dict[int, asyncio.Future[None]] = {}

    def place(self, letter: Letter) -> bool:
        """Send what is to be heard, at once or when there is room."""
        agent, msg = self._agent, letter.msg
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        send = agent._telling(msg, "observe")

        def note_sent(bridge: Bridge, key: str) -> bool:
            send(bridge, key)
            if not sent.done():
                sent.set_result(None)
            return True

        def fail(error: Exception) -> None:
            agent._node.bury(agent, msg, "not delivered", error, is_heard_only=True)
            if not sent.done():
                sent.set_result(None)

        agent._send_soon(note_sent, fail)
        if not sent.done():
            self._open[id(letter)] = sent
            sent.add_done_callback(lambda _: self._open.pop(id(letter), None))
        return False

    def is_over_capacity(self) -> bool:
        """A letter waits for room on the link."""
        return bool(self._open)

    def holds(self, letter: Letter) -> bool:
        """This letter does."""
        return id(letter) in self._open

    async def admission(self, letter: Letter, sender: Any) -> None:
        """Wait until a letter was sent."""
        await asyncio.wait([self._open[id(letter)]])


def _note_failure(connected: asyncio.Future[Any]) -> None:
    error = None if connected.cancelled() else connected.exception()
    if error is not None and not isinstance(error, RuntimeClosedError):
        get_logger().warning("not_connected", error=brief(error))  # whoever uses it will be told, too


async def _hear(asked: Asked, listener: Any) -> None:
    """Hand pieces of an answer to whoever listens, until its end."""
    assert asked.parts is not None
    while (part := await asked.parts.get()) is not None:
        assert asked.bridge is not None
        await listener.hear(read_speech(part, asked.bridge))
        asked.bridge.consumed(asked)
