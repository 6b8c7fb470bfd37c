"""One turn of an agent: waiting for it, running it, and passing it on however it ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from .. import _context
from .._turn import Turn, current_turn
from .._work import hand_on, hand_on_inline
from ..errors import AskTimeoutError, CancellationSwallowedError, InvalidReplyError, ReplyExitError
from ..events import TurnEnded, TurnStarted
from ..message import Msg
from ..reply import Reply
from ._mail import announce, incoming, pass_on, start_all
from ._memory import UNMADE, roll_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .base import AgentBase

__all__ = ["ask_in_time", "take_turn"]

_current_task = asyncio.current_task
_get_turn = current_turn.get
_set_turn = current_turn.set
_new_turn = object.__new__

MAX_STREAK = 64
"""So many turns a task may take in a row before the event loop is let run."""


class _Streak:
    """The task that took the last turn, by its id, and how many before that one."""

    __slots__ = ("task", "turns")

    def __init__(self) -> None:
        self.task = 0
        self.turns = 0


_streak = _Streak()


async def take_turn(
    agent: AgentBase,
    act: Callable[[Any], Awaitable[Any]] | None,
    x: Any = None,
    kwargs: dict[str, Any] | None = None,
    listener: Any = None,
    turn: Turn | None = None,
) -> Any:
    """Reply, or ``act``, as one turn in this task: wait for it, run, tell the circles, pass it on.

    With a ``turn`` that is open already (a letter's), its holder does the last two. One
    flat function, because each further frame costs every ask a tenth of its time.
    """
    if x is not None and type(x) is not Msg:
        x = incoming(x)
    mailbox = agent._mailbox
    if mailbox is None:
        mailbox = agent.mailbox
    is_ours = turn is None
    if turn is None:
        task: asyncio.Task[Any] | None = _current_task()
        if task is None:
            raise RuntimeError(f"Agent {agent.name!r} is to be awaited in a task: asyncio.run(main()).")
        if task.cancelling():
            await asyncio.sleep(0)  # one on its way arrives here, and not as if reply() had raised it
        parent = _get_turn()
        if parent is not None and parent.task is None:
            parent = None  # the turn has ended in which this background task was made
        if mailbox._turn is None:
            turn = mailbox._turn = _new_turn(Turn)  # Turn(agent, parent), at a third of its cost
            turn.agent, turn.parent, turn.extra = agent, parent, None
        else:
            turn = await mailbox.wait(agent, parent)
        turn.task = task
    else:
        task = turn.task
        assert task is not None  # whoever opened the turn has set it
    cancels = task.cancelling()
    memory = agent._memory
    mark = began_at = None
    _set_turn(turn)
    try:
        if listener is not None or turn.extra is not None:
            _prepare(turn, listener)
        if memory is not None and memory is not UNMADE:
            mark = memory.mark()
        if _context.attentive:
            began_at = _report_start(agent)
        if x is not None and type(x) is not Msg and isinstance(x, Reply):
            x = await x
        if act is not None:
            result = await act(x)
        else:
            result = await (agent.reply(x, **kwargs) if kwargs else agent.reply(x))
            if type(result) is not Msg and not isinstance(result, Msg):
                raise InvalidReplyError(agent.name, result)
        if turn.extra is not None or task.cancelling() != cancels:
            await _honour_cancellation(turn, task, cancels)
    except BaseException as error:
        if mailbox._turn is not turn:  # its event loop is closed, and the agent went on in another
            turn.task = None
            raise
        reason = _explain(error, turn, task, cancels)
        _end(turn)
        mailbox.failed += 1
        if began_at is not None:
            _report_end(agent, began_at, reason)
        roll_back(agent, memory, mark, reason)
        if is_ours and isinstance(reason, Exception):
            await hand_on_inline(mailbox, turn)
        elif is_ours:
            hand_on(mailbox, turn)
        if reason is error:
            raise
        raise reason from error
    turn.task = None  # as _end() does, without the call
    if turn.parent is not None:
        _set_turn(turn.parent)
    mailbox.handled += 1
    if began_at is not None:
        _report_end(agent, began_at, None)
    # Placed before the turn is passed on, so that listeners hear this reply before the next.
    heard = announce(agent, result) if agent._circles and act is None else None
    if not is_ours:
        if heard:
            start_all(heard, turn)
        return result
    if mailbox._letters is None and not heard:
        mailbox.release(turn)
    else:
        await pass_on(mailbox, turn, heard or [])
    if _streak.task != id(task):
        _streak.task, _streak.turns = id(task), 0
    elif _streak.turns < MAX_STREAK:
        _streak.turns += 1
    else:
        _streak.turns = 0
        await asyncio.sleep(0)  # turns that never wait must not keep the loop from its timers
    return result


async def ask_in_time(agent: AgentBase, x: Any, kwargs: dict[str, Any], listener: Any) -> Msg:
    """Ask under the runtime's time limit."""
    runtime = _context.find_runtime(agent._runtime)
    limit_s = runtime.ask_timeout_s if runtime is not None else None
    asking = agent._take_turn(None, x, kwargs, listener)
    if limit_s is None:
        return cast("Msg", await asking)
    own = due = asyncio.get_running_loop().time() + limit_s
    inherited, turn = _context.deadline.get(), _get_turn()
    if inherited is not None and (turn is None or turn.task is not None):
        due = min(own, inherited)  # else it was for a turn that has ended, and this goes on without it
    token = _context.deadline.set(due)
    try:
        async with asyncio.timeout_at(own) as limit:
            return cast("Msg", await asking)
    except TimeoutError:
        if limit.expired():
            raise AskTimeoutError(agent.name, limit_s) from None
        raise
    finally:
        with suppress(ValueError):  # thrown away by the garbage collector, in whatever context
            _context.deadline.reset(token)


def _end(turn: Turn) -> None:
    turn.task = None
    if turn.parent is not None:  # else: an ended turn in the context is as good as none
        _set_turn(turn.parent)


def _prepare(turn: Turn, listener: Any) -> None:
    """Give a turn its listener, unless it was interrupted before it began."""
    extra = turn.more()
    if extra.interruption is not None:
        raise extra.interruption
    extra.listener = listener


async def _honour_cancellation(turn: Turn, task: asyncio.Task[Any], cancels: int) -> None:
    """Raise what a handler that returned all the same has swallowed."""
    if turn.extra is not None and turn.extra.interruption is not None:
        raise turn.extra.interruption
    if task.cancelling() > cancels:
        # A cancel scope of anyio sends its cancellation again, and knows only that one as its own.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise CancellationSwallowedError(turn.agent.name)


def _explain(error: BaseException, turn: Turn, task: asyncio.Task[Any], cancels: int) -> BaseException:
    """Return what the asker is to see for what ``reply`` raised: mostly just that."""
    interruption = turn.extra.interruption if turn.extra is not None else None
    if interruption is not None:
        if task.cancelling() > cancels:
            task.uncancel()  # the one cancel() that the interruption sent
        # Another one on top of it is the caller's own, and goes first.
        return error if task.cancelling() > cancels else interruption
    if isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError) and task.cancelling() > cancels:
        return error
    if _is_being_closed(task):
        return error
    return ReplyExitError(turn.agent.name, error)


def _is_being_closed(task: asyncio.Task[Any]) -> bool:
    """The coroutine is being thrown away by its loop or the garbage collector, not run."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


def _report_start(agent: AgentBase) -> float | None:
    runtime = _context.find_runtime(agent._runtime)
    if runtime is None or not runtime.is_listened_to:
        return None
    runtime.emit(TurnStarted(agent.name))
    return time.monotonic()


def _report_end(agent: AgentBase, began_at: float, error: BaseException | None) -> None:
    runtime = _context.find_runtime(agent._runtime)
    if runtime is not None:
        runtime.emit(TurnEnded(agent.name, time.monotonic() - began_at, error))
