"""Letters from another node: placed in the mailboxes of ours, in the order they arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import _context
from .._letters import Letter, Mail
from ..agents._mail import POST, Submission, send
from ..errors import ForbiddenError
from ..logging import get_logger
from ..reply import Reply
from . import _wire
from ._grammar import is_secret
from ._operations import hear
from .events import CannotSend
from .failures import failure_of
from .frames import NODE, REPLY, FrameError, Tell

if TYPE_CHECKING:
    from ..agents.base import AgentBase
    from .bridge import Bridge
    from .exports import Exported

__all__ = ["Letters"]


class Letters:
    """Places what another node tells our agents; ``consume`` is called with the key for each that is done."""

    def __init__(self, bridge: Bridge, consume: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._consume = consume
        self._node = bridge.node
        self._loop = asyncio.get_running_loop()
        self._told: dict[tuple[str, str], _Told] = {}

    def take(self, tell: Tell) -> None:
        """Place a letter, after the asks that came before it."""
        self._loop.call_soon(self._place, tell, context=self._node.context.copy())

    def _place(self, tell: Tell) -> None:
        try:
            if tell.to == NODE:
                hear(self._node, tell.op, tell.body, self._bridge)
                self._consume(NODE)
                return
            exported = self._node.exports.find(tell.to, self._bridge.caller)
            body = _wire.read_body(tell.body, self._bridge)
            if tell.op == "submit":
                self._submit(exported, body)
                return
            letter = Mail(exported.agent, body.x, self._told_for(tell, body.trace), self._node.runtime)
            send(exported.agent.mailbox, letter, self._node.runtime)
        except Exception as error:
            self._consume(tell.to)
            self._return(tell, error)

    def _told_for(self, tell: Tell, trace: str | None) -> _Told:
        told = self._told.get((tell.to, tell.op))
        if told is None:
            if tell.op not in (REPLY, "observe"):
                raise ForbiddenError(f"There is no operation {tell.op!r} on an agent.")
            told = _Told(partial(self._consume, tell.to), is_heard_only=tell.op == "observe")
            self._told[tell.to, tell.op] = told
        return told if trace is None else told.traced(trace)

    def _submit(self, exported: Exported, body: _wire.Body) -> None:
        """Let an agent work on a message, and keep the result for whoever asks for it."""
        consume = partial(self._consume, exported.key)
        try:
            reply = self._submitted(exported.agent, body)
        except Exception as error:
            self._node.replies.keep_error(body.reply_id, exported.agent.name, error)
            consume()
            return
        self._node.replies.keep(body.reply_id, reply)
        reply._future.add_done_callback(lambda future: consume())

    def _submitted(self, agent: AgentBase, body: _wire.Body) -> Reply:
        errand = _Submitted(body.kwargs, body.trace)
        letter = Mail(agent, body.x, errand, self._node.runtime)
        errand.reply = Reply(agent.name, agent.mailbox, letter)
        send(agent.mailbox, letter, self._node.runtime)
        return errand.reply

    def _return(self, tell: Tell, error: Exception) -> None:
        """Tell the sender of a letter that it could not be placed; here it is only logged."""
        failure = failure_of(error, with_traceback=False)
        get_logger().warning(
            "letter_returned", node=self._bridge.peer, agent=tell.to, error=failure.text[:200]
        )
        if tell.op == "submit" and isinstance(tell.body, dict) and is_secret(tell.body.get("rid")):
            self._node.replies.keep_error(tell.body["rid"], tell.to, error)
            return
        if tell.to == NODE:
            return
        letter = _wire.spelled_out(tell.body)
        body = {"to": tell.to, "body": letter, "code": failure.code, "text": failure.text[:1000]}
        try:
            self._bridge.tell(NODE, body, op="returned")
        except (CannotSend, FrameError):
            # Only what it was, not the letter: it is another node's, which could fill our memory with such.
            lost = f"a letter from node {self._bridge.peer!r} that could not be returned"
            self._node.bury(tell.to, lost, "not returned", error.with_traceback(None))


class _Told:
    """What a letter from another node asks for: to be handled, and counted as consumed at the end."""

    __slots__ = ("is_heard_only", "_consume", "_trace")

    def __init__(self, consume: Callable[[], None], *, is_heard_only: bool, trace: str | None = None) -> None:
        self._consume = consume
        self.is_heard_only = is_heard_only
        self._trace = trace

    def traced(self, trace: str) -> _Told:
        return _Told(self._consume, is_heard_only=self.is_heard_only, trace=trace)

    async def run(self, letter: Letter) -> Any:
        agent: Any = letter.agent
        act = agent.observe if self.is_heard_only else None
        if self._trace is None:
            return await agent._take_turn(act, letter.msg, None, None, letter)
        token = _context.join_trace(self._trace)  # its task works for the letters of many senders
        try:
            return await agent._take_turn(act, letter.msg, None, None, letter)
        finally:
            _context.trace_id.reset(token)

    def succeed(self, letter: Letter, result: Any) -> None:
        self._consume()

    def fail(self, letter: Letter, error: Exception, attempt: int) -> bool:
        if POST.fail(letter, error, attempt):
            return True
        self._consume()
        return False

    def give_up(self, letter: Letter, error: Exception, reason: str) -> None:
        POST.give_up(letter, error, reason)
        self._consume()


class _Submitted(Submission):
    """What a submission from another node asks for, under the trace it came with."""

    __slots__ = ("_trace",)

    def __init__(self, kwargs: dict[str, Any], trace: str | None) -> None:
        super().__init__(kwargs)
        self._trace = trace

    async def run(self, letter: Letter) -> Any:
        token = _context.join_trace(self._trace)  # its task works for the letters of many senders
        try:
            return await super().run(letter)
        finally:
            _context.trace_id.reset(token)
