"""One message to many agents at once.

Each agent is asked in a task of its own, and whatever way a function here ends
(answer, error, cancellation) none of these tasks outlives it. Errors come as the agent
raised them, never in an ExceptionGroup.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from .._tasks import cancel_all
from ..errors import QuorumError, ReplyExitError
from ._crowd import Crowd, check_limit
from ._operators import ask, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from ..agents.base import Operator
    from ..message import Msg

__all__ = ["AgentFailure", "gather", "quorum", "race", "vote"]

STARTED_AT_ONCE = 1000
"""So many tasks are made before the event loop gets a turn (a million would keep it for seconds)."""


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """An agent that failed, in the place of its answer.

    Attributes:
        agent: the agent, or other operator, itself.
        error: what it raised.
    """

    agent: Any
    error: Exception

    @property
    def name(self) -> str:
        """The agent's name; of a function, the function's."""
        return name_of(self.agent)


async def gather(
    agents: Iterable[Operator],
    msg: Any = None,
    limit: int | None = None,
    on_error: Literal["raise", "keep"] = "raise",
) -> list[Any]:
    """Ask all agents the same at once and return their answers, in the order of the agents.

    An agent that is there several times is asked as often, in that order. With ``limit``
    agents are taken from ``agents``, which may be a generator, only as there is room.
    Cancelling the caller cancels all and waits until they have ended.

    Args:
        agents: whom to ask; none gives an empty list.
        msg: what each of them gets.
        limit: at most so many are asked at a time; None: all of them.
        on_error: ``"raise"``: the first error cancels the rest and is raised as it is;
            ``"keep"``: an :class:`AgentFailure` stands in the place of the answer.

    Raises:
        ValueError: ``limit`` is below 1, or ``on_error`` unknown.
        Exception: whatever the first agent to fail raised.
    """
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error must be 'raise' or 'keep', got {on_error!r}")
    check_limit(limit)
    keeps = on_error == "keep"
    if limit is not None:
        return await _gather_some(agents, msg, limit, keeps)
    return await _Everyone(list(agents), keeps).ask(msg)


async def race(agents: Iterable[Operator], msg: Any = None) -> Any:
    """Ask all agents the same and return the first good answer; the others are cancelled.

    Raises:
        ValueError: there are no agents.
        QuorumError: all of them failed; ``.failures`` has one :class:`AgentFailure` for each.
    """
    return (await quorum(agents, msg, 1))[0]


async def quorum(agents: Iterable[Operator], msg: Any = None, k: int = 1) -> list[Any]:
    """Ask all agents the same and return the first ``k`` good answers, in order of arrival.

    The other agents are cancelled then, and have ended when this returns.

    Raises:
        ValueError: ``k`` is below 1 or above the number of agents.
        QuorumError: so many failed that ``k`` good answers can no longer come; raised at
            once, the rest cancelled. ``.good`` and ``.failures`` hold what did come.
    """
    asked = list(agents)
    if not 1 <= k <= len(asked):
        raise ValueError(f"k must be from 1 to the number of agents, which is {len(asked)}; got {k}")
    good: list[Any] = []
    failures: list[AgentFailure] = []
    async with Crowd((agent, ask(agent, msg)) for agent in asked) as crowd:
        while True:
            for agent, task in await crowd.ended():
                error = error_of(agent, task)
                if error is None:
                    good.append(task.result())
                else:
                    failures.append(AgentFailure(agent, error))
                if len(good) == k:
                    return good
                if len(asked) - len(failures) < k:
                    raise _no_quorum(len(asked), k, good, failures)


async def vote(
    agents: Iterable[Operator],
    msg: Any = None,
    key: Callable[[Msg], Hashable] = lambda m: m.text,
    *,
    limit: int | None = None,
) -> Any:
    """Ask all agents the same and return the answer whose ``key`` was given most often.

    Of the answers with that key it is the one of the earliest agent; between keys given
    equally often the earliest agent decides. Agents that fail do not vote.

    Args:
        agents: whom to ask.
        msg: what each of them gets.
        key: what counts as the same answer, hashable; by default the text.
        limit: at most so many are asked at a time; None: all of them.

    Raises:
        ValueError: there are no agents, or ``limit`` is below 1.
        QuorumError: all of them failed.
    """
    answers = await gather(agents, msg, limit, "keep")
    if not answers:
        raise ValueError("A vote needs at least one agent, got none.")
    ballots = [answer for answer in answers if not isinstance(answer, AgentFailure)]
    if not ballots:
        raise _no_quorum(len(answers), 1, [], answers)
    keys = [key(ballot) for ballot in ballots]
    counts = Counter(keys)
    # max() and Counter keep the first of equals, and keys stand in the order of the agents.
    return ballots[keys.index(max(counts, key=counts.__getitem__))]


class _Everyone:
    """All agents at once: one task each, one callback for all of them, one future to wait for."""

    __slots__ = ("_agents", "_keeps", "_tasks", "_unfinished", "_failed", "_wake")

    def __init__(self, agents: Sequence[Operator], keeps: bool) -> None:
        self._agents = agents
        self._keeps = keeps
        self._tasks: list[asyncio.Task[Any]] = []
        self._unfinished = len(agents)
        self._failed: asyncio.Task[Any] | None = None  # the first one, where one is enough
        self._wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(self, msg: Any) -> list[Any]:
        if not self._agents:
            return []
        try:
            await self._start(msg)
            await self._wake
        finally:
            if self._unfinished:
                await cancel_all(self._tasks)
        if self._failed is not None:
            self._raise_failure(self._failed)
        if not self._keeps:
            return [task.result() for task in self._tasks]
        return [_answer(agent, task) for agent, task in zip(self._agents, self._tasks, strict=True)]

    async def _start(self, msg: Any) -> None:
        create_task = asyncio.get_running_loop().create_task
        tasks, end = self._tasks, self._end
        for agent in self._agents:
            task = create_task(ask(agent, msg))
            task.add_done_callback(end)
            tasks.append(task)
            if not len(tasks) % STARTED_AT_ONCE:
                await asyncio.sleep(0)
                if self._failed is not None:
                    return

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._unfinished -= 1
        has_failed = task.cancelled() or task.exception() is not None
        if has_failed and not self._keeps and self._failed is None:
            self._failed = task
        elif self._unfinished:
            return
        if not self._wake.done():
            self._wake.set_result(None)

    def _raise_failure(self, failed: asyncio.Task[Any]) -> NoReturn:
        agent = self._agents[self._tasks.index(failed)]
        self._tasks.clear()  # else the error, through its traceback, would keep all answers alive
        self._failed = None
        error = error_of(agent, failed)
        assert error is not None
        raise error


async def _gather_some(agents: Iterable[Operator], msg: Any, limit: int, keeps: bool) -> list[Any]:
    answers: list[Any] = []
    works = (((place, agent), ask(agent, msg)) for place, agent in enumerate(agents))
    async with Crowd(works, limit) as crowd:
        while ended := await crowd.ended():
            for (place, agent), task in ended:
                answer = _answer(agent, task)
                if isinstance(answer, AgentFailure) and not keeps:
                    raise answer.error
                answers.extend([None] * (place + 1 - len(answers)))  # they are started in order
                answers[place] = answer
    return answers


def _answer(agent: Operator, task: asyncio.Task[Any]) -> Any:
    error = error_of(agent, task)
    return task.result() if error is None else AgentFailure(agent, error)


def error_of(agent: object, task: asyncio.Task[Any]) -> Exception | None:
    """Return what an ended task of ours failed with; None when it did not.

    A CancelledError here is the agent's own doing: nobody else has cancelled the task.
    Handed on as it is, it would look like a cancellation of whoever asked.
    """
    if task.cancelled():
        return ReplyExitError(name_of(agent), asyncio.CancelledError())
    error = task.exception()
    if error is None or isinstance(error, Exception):
        return error
    raise error  # KeyboardInterrupt or SystemExit: the program is to end


def _no_quorum(asked: int, needed: int, good: Sequence[Any], failures: Sequence[AgentFailure]) -> QuorumError:
    last = failures[-1]
    error = QuorumError(
        f"{len(failures)} of {asked} agents failed, so {needed} good answers can no longer come; "
        f"the last one to fail was {last.name!r}, with {type(last.error).__name__}.",
        needed=needed,
        good=good,
        failures=failures,
    )
    error.__cause__ = last.error
    return error
