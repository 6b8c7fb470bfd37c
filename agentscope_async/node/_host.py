"""The serving half of a bridge: what the other node asks of our agents.

Every ask runs in a task of its own, which waits in the agent's mailbox as any other asker does;
so one stuck agent holds up nobody else. Tasks begin in the order their frames arrived, and letters
are placed in the same order, by the event loop's own queue.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import _context
from .._stopping import when_stopped
from .._turn import current_turn
from ..errors import AgentNotFound, AskTimeoutError, ForbiddenError, ReplyExitError
from ..logging import get_logger
from ..message.msg import from_texts
from . import _wire
from ._operations import operate
from ._replies import FETCH
from ._wire import answer_of
from .events import CannotSend, Refused
from .failures import failure_of
from .frames import NODE, REPLY, Ask, Cancel, Failure, FrameError, Probe, Spawn, Unwatch, Watch

if TYPE_CHECKING:
    from ..message import Msg, Speech
    from .bridge import Bridge
    from .exports import Exported

__all__ = ["Host"]

MAX_WAITING = 4096
"""So many results another node may wait for at a time before its further requests wait, too."""


class Host:
    """Serves the agents of this node to another one."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._node = bridge.node
        self._loop = asyncio.get_running_loop()
        self._served: dict[int, asyncio.Task[None]] = {}  # by the id of the ask, until its answer is sent
        self._unwanted: set[int] = set()  # cancelled before their task began
        self._turns: dict[int, Any] = {}  # of asks made from within a turn
        self._watched: dict[int, list[Any]] = {}

    @property
    def bridge(self) -> Bridge:
        """The link that is served."""
        return self._bridge

    # -- asks --

    def serve(self, ask: Ask) -> None:
        """Begin to answer an ask."""
        # Its time began when it arrived, not when the loop comes to its task.
        due = None if ask.ttl_ms is None else self._loop.time() + ask.ttl_ms / 1000
        # A result may be waited for as long as it takes; that is not to hold up other requests.
        is_consumed = ask.to == NODE and ask.op == FETCH and len(self._served) < MAX_WAITING
        if is_consumed:
            self.consume(NODE)
        work = self._serve(ask, due, is_consumed=is_consumed)
        # The name is given so that none is made up for each.
        task = self._loop.create_task(work, name=ask.to, context=self._node.context.copy())
        self._served[ask.id] = task

    def spawn(self, request: Spawn) -> None:
        """Create an agent, and answer with its key."""
        try:
            spawn = self._node.exports.spawn
            exported = self._node.context.copy().run(spawn, request, self._bridge.caller)
        except Exception as error:
            self._answer_soon(request.id, error)
        else:
            self._answer_soon(request.id, {"key": exported.key})
        self.consume(NODE)

    def _answer_soon(self, id: int, outcome: Any) -> None:
        async def answer() -> None:
            try:
                if isinstance(outcome, Exception):
                    await self._fail(id, failure_of(outcome))
                else:
                    await self._reply(id, outcome)
            finally:
                self._served.pop(id, None)
                self._unwanted.discard(id)

        self._served[id] = self._loop.create_task(answer(), context=self._node.context.copy())

    async def _serve(self, ask: Ask, due: float | None, *, is_consumed: bool) -> None:
        id, bridge = ask.id, self._bridge
        if ask.chain:
            self._join_chain(ask)
        try:
            try:
                if self._unwanted and id in self._unwanted:
                    raise asyncio.CancelledError
                if due is not None:
                    result = await self._do_in_time(ask, due)
                elif type(ask.body) is tuple and ask.op == REPLY and not ask.wants_parts and ask.to != NODE:
                    # What _do() does, without a coroutine more for each ask.
                    agent = self._node.exports.find(ask.to, bridge.caller).agent
                    result = answer_of(await agent(from_texts(ask.body)))
                else:
                    result = await self._do(ask)
            finally:
                task = self._served.pop(id)  # an answer on its way is not to be cancelled
                if self._unwanted:
                    self._unwanted.discard(id)
                if ask.chain:
                    self._turns.pop(id).task = None
        except asyncio.CancelledError:
            await self._fail(id, Failure("cancelled", "Whoever asked does not wait any more."))
        except Exception as error:
            await self._fail(id, failure_of(error))
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as signal:  # of a method that is no turn
            if _is_being_closed(task):
                raise
            await self._fail(id, failure_of(ReplyExitError(ask.to, signal)))
        else:
            try:
                bridge.link.session.reply(id, result)
            except (CannotSend, FrameError):
                await self._reply(id, result)
        # Not before the answer is on its way: else one who takes no answers could ask for ever more.
        link = bridge.link
        if not is_consumed:
            link.session.consumed(ask.to)
        link.flush()

    def _join_chain(self, ask: Ask) -> None:
        """Have the task that serves an ask from within a turn known by that turn."""
        turn = self._turns[ask.id] = self._node.waits.begin_serving(ask.chain, self._served[ask.id])
        current_turn.set(turn)

    async def _do_in_time(self, ask: Ask, due: float) -> Any:
        _context.deadline.set(due)
        began_at = self._loop.time()
        if began_at >= due:
            raise AskTimeoutError(ask.to, (ask.ttl_ms or 0) / 1000)
        try:
            async with asyncio.timeout_at(due) as limit:
                return await self._do(ask)
        except TimeoutError:
            if limit.expired():
                raise AskTimeoutError(ask.to, due - began_at) from None
            raise

    async def _do(self, ask: Ask) -> Any:
        if ask.to == NODE:
            return await operate(self._node, ask.op, ask.body, self._bridge)
        exported = self._node.exports.find(ask.to, self._bridge.caller)
        body = _wire.read_body(ask.body, self._bridge)
        if ask.op == REPLY:
            if ask.wants_parts:
                reply = await exported.agent._watched(body.x, body.kwargs, _Listener(self, ask.id))
            else:
                reply = await exported.agent(body.x, **body.kwargs)
            return answer_of(reply)
        operation = _OPERATIONS.get(ask.op)
        if operation is None:
            raise ForbiddenError(f"There is no operation {ask.op!r} on an agent.")
        result = await operation(self, exported, body.x)
        return list(result) if type(result) is tuple else result  # a tuple would be taken for a message

    # -- the end of an ask --

    async def _reply(self, id: int, body: Any) -> None:
        try:
            while not await self._send(partial(self._bridge.link.session.reply, id, body)):
                pass
        except FrameError as error:
            await self._fail(id, Failure(error.code, f"The reply cannot be sent: {error}"))

    async def _fail(self, id: int, failure: Failure) -> None:
        try:
            while not await self._send(partial(self._bridge.link.session.fail, id, failure)):
                pass
        except FrameError as error:
            bare = Failure(failure.code, failure.text[:200], failure.type[:200])
            get_logger().warning("failure_cut", node=self._bridge.peer, problem=str(error))
            while not await self._send(partial(self._bridge.link.session.fail, id, bare)):
                pass

    async def _send(self, send: Any, target: int | None = None) -> bool:
        """Send once there is room; False: there was none, try again. Nobody to send to is as good as sent."""
        try:
            send()
        except CannotSend as problem:
            code = problem.code  # the error itself would keep what was to be sent while we wait
        else:
            self._bridge.link.flush()
            return True
        if code in ("not_asked", "session_over"):
            return True
        await self._bridge.room(target if code == "no_credit" else None)
        return False

    async def hear(self, id: int, part: dict[str, Any]) -> None:
        """Send a piece of an answer, once the other side has room for it."""
        while not await self._send(partial(self._bridge.link.session.reply, id, part, last=False), id):
            pass

    def check_creator(self, exported: Exported, what: str) -> None:
        """Raise ForbiddenError unless the other node created this agent, or started this node."""
        peer = self._bridge.caller
        if exported.creator != peer and not self._node.exports.grant(peer).is_owner:
            raise ForbiddenError(f"Node {peer!r} may not {what} {exported.key!r}: it did not create it.")

    def withdraw(self, exported: Exported) -> None:
        """Export an agent no longer."""
        self._node.exports.remove_if(exported)

    def consume(self, target: str) -> None:
        """Tell the other node that there is room for one more to this agent."""
        if not self._bridge.is_attached:  # a frame right behind the welcome
            self._loop.call_soon(self.consume, target)
            return
        self._bridge.link.session.consumed(target)
        self._bridge.link.flush()

    # -- the rest --

    def cancel(self, cancel: Cancel) -> None:
        """End what is done for an ask."""
        task = self._served.get(cancel.id)
        if task is None:
            return
        if inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_CREATED:  # type: ignore[arg-type]
            self._unwanted.add(cancel.id)  # a task that is cancelled before it begins could not answer
        else:
            task.cancel()

    def watch(self, watch: Watch) -> None:
        """Tell the other node once when an agent is gone."""
        try:
            exported = self._node.exports.find(watch.ref, self._bridge.caller)
        except (AgentNotFound, ForbiddenError):
            self._down(watch.id, "not_found")
            return
        forgets = self._watched[watch.id] = []
        removed = partial(self._down, watch.id, "withdrawn")
        forgets.append(self._node.exports.when_removed(watch.ref, removed))
        forget = when_stopped(exported.agent.mailbox, partial(self._down, watch.id, "stopped"))
        if watch.id in self._watched:
            forgets.append(forget)

    def unwatch(self, unwatch: Unwatch) -> None:
        """Forget a watch."""
        for forget in self._watched.pop(unwatch.id, ()):
            forget()

    def _down(self, id: int, reason: str) -> None:
        for forget in self._watched.pop(id, ()):
            forget()
        self._bridge.link.session.down(id, reason)
        self._bridge.link.flush()

    def probe(self, probe: Probe) -> None:
        """Follow a circle of waits through this node."""
        turn = self._turns.get(probe.id)
        if turn is not None and probe.path:
            self._node.waits.probe_on(turn, probe.path)

    def refuse(self, refused: Refused) -> None:
        """Answer for a frame that could not be read."""
        get_logger().warning("frame_refused", node=self._bridge.peer, kind=refused.kind, code=refused.code)
        if refused.kind in ("ask", "spn") and refused.id is not None:
            failure = Failure(refused.code, refused.text)
            self._node.start(self._fail(refused.id, failure))

    def lose(self) -> None:
        """End all that is done for the other node, which is gone."""
        for task in self._served.values():
            task.cancel()
            self._node.ending.add(task)
            task.add_done_callback(self._node.ending.discard)
        for forgets in self._watched.values():
            for forget in forgets:
                forget()
        self._watched.clear()


def _is_being_closed(task: asyncio.Task[None]) -> bool:
    """The coroutine is being thrown away by its loop or the garbage collector, not run."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


class _Listener:
    """Hears a turn for an asker on another node."""

    __slots__ = ("_host", "_id")

    def __init__(self, host: Host, id: int) -> None:
        self._host = host
        self._id = id

    async def hear(self, content: Msg | Speech | str) -> None:
        """Pass on what is spoken."""
        await self._host.hear(self._id, _wire.speech_part(content))


async def _observe(host: Host, exported: Exported, x: Any) -> None:
    await exported.agent.observe(x)


async def _state(host: Host, exported: Exported, x: Any) -> dict[str, Any]:
    return await exported.agent.state()


async def _load_state(host: Host, exported: Exported, x: Any) -> None:
    host.check_creator(exported, "load the state of")
    await exported.agent.load_state(_wire.read_state(x, host.bridge))


async def _stop(host: Host, exported: Exported, x: Any) -> None:
    host.check_creator(exported, "stop")
    await exported.agent.stop()
    host.withdraw(exported)


_OPERATIONS: dict[str, Callable[[Host, Exported, Any], Awaitable[Any]]] = {
    "observe": _observe,
    "state": _state,
    "load_state": _load_state,
    "stop": _stop,
}
"""What may be done to an agent by ask, beside letting it reply. Nothing is looked up by name elsewhere."""
