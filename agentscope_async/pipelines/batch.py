"""Many debates: so many at a time, results as they finish, and on again after a stop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sized
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from .._tasks import finish, see_through
from ..agents.base import AgentBase
from ..message import Usage
from ._batch_file import BatchFile
from ._crowd import Crowd, check_limit
from ._operators import name_of
from .debate import DebateResult, Table, check_terms, total_usage
from .fanout import error_of

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
    from types import TracebackType

    from ..message import Msg

__all__ = ["BatchProgress", "DebateSpec", "debates"]

Speaker: TypeAlias = "AgentBase | Callable[[int], Any]"
"""An agent, or a function that makes one from a seed."""


@dataclass(frozen=True, slots=True)
class DebateSpec:
    """One debate to be held: who, about what, how long.

    ``pro``, ``con`` and ``judge`` are agents or, better, factories: an ``AgentBase`` instance
    is used as it is; any other callable is called with the debate's seed, when its turn
    has come, and returns a new agent (or an awaitable of one). With factories thousands of
    debates can be planned while only those being held exist.

    Attributes:
        pro: speaks for the topic.
        con: speaks against it.
        judge: gives a verdict at the end; None: nobody does.
        topic: what it is about.
        rounds: how often each side speaks.
        seed: for the factories; None: the batch's seed plus the debate's place in the batch.
        id: a name of your own for it; None: its place in the batch.

    Raises:
        ValueError: no topic, or ``rounds`` below 1.
    """

    pro: Speaker
    con: Speaker
    judge: Speaker | None = None
    topic: str = ""
    rounds: int = 3
    seed: int | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        check_terms(self.topic, self.rounds)


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        done: debates that ended, failed and resumed ones included.
        failed: how many of them failed.
        total: how many there are; None when the specifications do not say.
        turns: speeches given in them.
        usage: tokens they took.
        cost_usd: what they cost, where their usage says so.
        elapsed_s: seconds since this run of the batch began.
        eta_s: seconds it will probably take from here; None while nothing tells.
    """

    done: int
    failed: int
    total: int | None
    turns: int
    usage: Usage
    cost_usd: float | None
    elapsed_s: float
    eta_s: float | None


def debates(
    specs: Iterable[DebateSpec],
    *,
    limit: int | None = 64,
    resume: str | os.PathLike[str] | None = None,
    on_error: Literal["keep", "raise"] = "keep",
    on_progress: Callable[[BatchProgress], Any] | None = None,
    seed: int | None = None,
) -> DebateBatch:
    """Hold many debates at once; iterate over their results as they finish.

    ::

        async with debates(specs, limit=64, resume="batch.jsonl") as results:
            async for result in results:
                print(result.id, result.error or result.verdict)

    Leaving the block cancels the debates still running and waits for them. A plain ``async
    for result in debates(specs)`` works too; when it is left early, they are cancelled soon
    after, not at once.

    With ``resume`` every debate that ended is written to that file, and synced, before its
    result is handed out: one JSON object a line. When the file exists already, the debates
    that came to their end in it are not held again: their results come first, as they
    were, with ``resumed=True``; then the others, failed ones included. So a batch that was
    stopped, or killed, goes on where it was when the same call is made again.

    Args:
        specs: what to hold; taken from the iterable only as there is room.
        limit: at most so many at a time; None: all of them.
        resume: path of the file to keep results in and to go on from.
        on_error: ``"keep"``: a failed debate is a result with its ``error``; ``"raise"``: the
            first error ends the batch.
        on_progress: called after each debate; a plain or an async function.
        seed: debate number ``i`` gets ``seed + i``, unless it has its own. None is 0, so a
            batch can always be repeated.

    Raises:
        ValueError: ``limit`` is below 1 or ``on_error`` unknown. When iterating: ``resume`` is
            the file of another batch, or one agent sits in two debates at once.
        OSError: when iterating: ``resume`` cannot be read or written.
    """
    check_limit(limit)
    if on_error not in ("keep", "raise"):
        raise ValueError(f"on_error must be 'keep' or 'raise', got {on_error!r}")
    planned = (_Planned.of(spec, index, seed or 0) for index, spec in enumerate(specs))
    tally = _Tally(len(specs) if isinstance(specs, Sized) else None, on_progress)
    file = None if resume is None else BatchFile(resume)
    return DebateBatch(_results(planned, limit, file, tally, raises=on_error == "raise"))


class DebateBatch:
    """The results of :func:`debates` as they finish: an async iterator and an async context manager."""

    def __init__(self, results: AsyncGenerator[DebateResult, None]) -> None:
        self._results = results

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DebateResult:
        return await anext(self._results)

    async def aclose(self) -> None:
        """Cancel the debates still running and wait until they have ended."""
        await self._results.aclose()


@dataclass(frozen=True, slots=True)
class _Planned:
    """A specification with its place in the batch."""

    spec: DebateSpec
    index: int
    id: str
    seed: int

    @classmethod
    def of(cls, spec: DebateSpec, index: int, batch_seed: int) -> Self:
        spec_id = str(index) if spec.id is None else spec.id
        return cls(spec, index, spec_id, batch_seed + index if spec.seed is None else spec.seed)

    @property
    def terms(self) -> dict[str, Any]:
        """What makes this debate the same as one in a file."""
        return {"id": self.id, "topic": self.spec.topic, "rounds": self.spec.rounds, "seed": self.seed}


async def _results(
    planned: Iterator[_Planned], limit: int | None, file: BatchFile | None, tally: _Tally, *, raises: bool
) -> AsyncGenerator[DebateResult, None]:
    tally.begin()
    to_hold = planned
    try:
        if file is not None:
            await see_through(asyncio.to_thread(file.open))
            to_hold = itertools.chain(_left_out(planned, file), planned)
            for index in list(file.finished):
                result = file.take(index)
                await tally.count(result)
                yield result
        async with aclosing(_held(to_hold, limit, file)) as results:
            async for result in results:
                if raises and result.error is not None:
                    raise result.error
                await tally.count(result)
                yield result
    finally:
        if file is not None:
            file.close()


def _left_out(planned: Iterator[_Planned], file: BatchFile) -> list[_Planned]:
    """Check what is in the file against the plan, and return those up to its end that are not finished."""
    left_out = []
    for index in range(file.last + 1):
        each = next(planned, None)
        if each is None:
            raise ValueError(
                f"{file.path} is the file of another batch: it has a debate {file.last}, "
                f"but only {index} are to be held. Give another path."
            )
        file.check(index, each.terms)
        if index not in file.finished:
            left_out.append(each)
    return left_out


async def _held(
    planned: Iterator[_Planned], limit: int | None, file: BatchFile | None
) -> AsyncGenerator[DebateResult, None]:
    """Hold the debates and yield their results, on disk by then if there is a file."""
    seats = _Seats()
    crowd = Crowd(((each, seats.hold(each)) for each in planned), limit)
    try:
        async with crowd:
            while ended := await crowd.ended():
                results = await _keep(ended, file)
                for each, task in ended:
                    error = error_of(each.spec, task)
                    if error is not None:
                        raise error  # of the batch, not of a debate
                for result in results:
                    yield result
    finally:
        # Debates that ended while nobody looked have been paid for: do not hold them again.
        await _keep(crowd.unread(), file)


async def _keep(
    ended: list[tuple[_Planned, asyncio.Task[DebateResult]]], file: BatchFile | None
) -> list[DebateResult]:
    """Return the results among ended tasks, written to the file."""
    whole = [
        (task.result(), each.terms)
        for each, task in ended
        if not task.cancelled() and task.exception() is None
    ]
    if file is not None and whole:
        await see_through(asyncio.to_thread(file.append, whole))
    return [result for result, _ in whole]


class _Seats:
    """Holds debates, and sees to it that nobody sits in two of them."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    async def hold(self, planned: _Planned) -> DebateResult:
        """Return how the debate went; only what is wrong with the whole batch is raised."""
        began_at = time.monotonic()
        error: Exception | None = None
        verdict: Msg | None = None
        said: list[Msg] = []
        try:
            table = await _prepared(planned)
        except Exception as problem:
            error = problem
        else:
            said = table.said
            with self._taken_by(table.seated):
                try:
                    verdict = await table.hold()
                except Exception as problem:
                    error = problem
        return DebateResult(
            said,
            verdict,
            total_usage(said),
            error,
            index=planned.index,
            id=planned.id,
            seed=planned.seed,
            seconds=time.monotonic() - began_at,
        )

    @contextmanager
    def _taken_by(self, agents: list[AgentBase]) -> Iterator[None]:
        for agent in agents:
            if id(agent) in self._taken:
                raise ValueError(
                    f"Agent {agent.name!r} is in two debates at once and would mix them up. Give a function "
                    f"that makes a new agent from a seed, or limit=1."
                )
        seats = {id(agent) for agent in agents}
        self._taken |= seats
        try:
            yield
        finally:
            self._taken -= seats


async def _prepared(planned: _Planned) -> Table:
    spec = planned.spec
    pro = await _agent(spec.pro, planned.seed)
    con = await _agent(spec.con, planned.seed)
    judge = None if spec.judge is None else await _agent(spec.judge, planned.seed)
    return Table(pro, con, judge, spec.topic, spec.rounds)


async def _agent(speaker: Speaker, seed: int) -> AgentBase:
    if isinstance(speaker, AgentBase):
        return speaker
    agent = await finish(speaker(seed))
    if not isinstance(agent, AgentBase):
        raise TypeError(f"{name_of(speaker)}({seed}) must make an agent, but made a {type(agent).__name__}.")
    return agent


class _Tally:
    """Counts results and tells how far the batch is."""

    def __init__(self, total: int | None, on_progress: Callable[[BatchProgress], Any] | None) -> None:
        self._total = total
        self._on_progress = on_progress
        self._done = self._failed = self._resumed = self._turns = 0
        self._usage = Usage()
        self._began_at = 0.0

    def begin(self) -> None:
        self._began_at = time.monotonic()

    async def count(self, result: DebateResult) -> None:
        self._done += 1
        self._failed += result.error is not None
        self._resumed += result.resumed
        self._turns += max(0, len(result.messages) - 1)  # the first one is the announcement
        self._usage += result.usage
        if self._on_progress is not None:
            await finish(self._on_progress(self._progress()))

    def _progress(self) -> BatchProgress:
        elapsed_s = time.monotonic() - self._began_at
        return BatchProgress(
            self._done,
            self._failed,
            self._total,
            self._turns,
            self._usage,
            getattr(self._usage, "cost_usd", None),
            elapsed_s,
            self._eta_s(elapsed_s),
        )

    def _eta_s(self, elapsed_s: float) -> float | None:
        held = self._done - self._resumed
        if self._total is None:
            return None
        left = self._total - self._done
        if left <= 0:
            return 0.0
        return elapsed_s / held * left if held else None
