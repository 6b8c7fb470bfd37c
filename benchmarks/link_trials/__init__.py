"""What ``python -m benchmarks links`` tries: nodes in processes of their own, and what is done to them."""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from ..processes import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentscope_async.events import Event, LinkChanged
    from agentscope_async.runtime import Runtime

Trial: TypeAlias = Callable[["Scale"], Coroutine[Any, Any, "list[Reading]"]]
T = TypeVar("T")

TOKEN = token_urlsafe(32)
GUARD_S = 60.0
"""So long a trial waits for something that should be there long before."""


@dataclass(frozen=True)
class Scale:
    """How much is done: all, or only enough to see that it works."""

    is_quick: bool

    def __call__(self, full: T, quick: T) -> T:
        """Return one of two numbers."""
        return quick if self.is_quick else full


@dataclass(frozen=True)
class Reading:
    """Values of one kind, and what one of their statistics should not be above."""

    what: str
    unit: str
    values: list[float] = field(repr=False)
    aim: float | None = None
    aim_is_for: Literal["median", "p95", "p99", "most"] = "p99"

    def percentile(self, percent: int) -> float:
        """Return what so many of a hundred values are not above."""
        if len(self.values) == 1:
            return self.values[0]
        return statistics.quantiles(self.values, n=100, method="inclusive")[percent - 1]

    @property
    def judged(self) -> float:
        """The value the aim is for."""
        percents = {"median": 50, "p95": 95, "p99": 99}
        return max(self.values) if self.aim_is_for == "most" else self.percentile(percents[self.aim_is_for])

    @property
    def is_met(self) -> bool:
        """Whether there is no aim, or it was reached; a reading without values has not reached it."""
        return self.aim is None or (bool(self.values) and self.judged <= self.aim)


@contextmanager
def nodes(
    *exports: Mapping[str, tuple[str, Mapping[str, Any]]], stopped: Sequence[str] = ()
) -> Iterator[list[Worker]]:
    """Start a node for each; ``exports`` are its agents: key -> class in ``agents`` and its arguments."""
    with ExitStack() as stack:
        jobs = [{"token": TOKEN, "exports": each, "stopped": stopped} for each in exports]
        workers = [Worker("benchmarks.link_trials.node", job) for job in jobs]
        yield [stack.enter_context(worker) for worker in workers]


class Links:
    """What a runtime says of its links, as it happens; used as ``async with Links(rt) as links:``."""

    def __init__(self, runtime: Runtime) -> None:
        self._events: AsyncIterator[Event] = runtime.events()
        self._changes: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    async def __aenter__(self) -> Links:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._listening.cancel()
        await asyncio.wait([self._listening])

    async def next(self, state: str) -> float:
        """Wait for the next change to ``state``; return when it happened, on the monotonic clock."""
        async with asyncio.timeout(GUARD_S):
            while True:
                seen, at = await self._changes.get()
                if seen == state:
                    return at

    def count(self, state: str) -> int:
        """Take all changes there are; return how many were to ``state``."""
        seen = [self._changes.get_nowait()[0] for _ in range(self._changes.qsize())]
        return seen.count(state)

    async def _listen(self) -> None:
        async for event in self._events:
            if type(event).__name__ == "LinkChanged":
                change: LinkChanged = event  # type: ignore[assignment]
                self._changes.put_nowait((change.state, time.monotonic()))


@asynccontextmanager
async def under_way(asks: Iterable[Coroutine[Any, Any, Any]]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Start all; what has not ended in the end is cancelled, and no outcome is missed."""
    tasks = [asyncio.create_task(ask) for ask in asks]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def chaos_proxy(port: int) -> Any:
    """Return the tests' proxy that misbehaves on purpose, in front of a port."""
    path = Path(__file__).parents[2] / "tests" / "node" / "chaos.py"
    spec = importlib.util.spec_from_file_location("benchmarks_chaos", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(spec.name)
    if module is None:
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.ChaosProxy(port)


def port_of(url: str) -> int:
    """Return the port of ``ws://127.0.0.1:port``."""
    return int(url.rpartition(":")[2])


async def until(is_so: Callable[[], bool], what: str, every_s: float = 0.001) -> None:
    """Wait until ``is_so``.

    Raises:
        TimeoutError: it never was.
    """
    try:
        async with asyncio.timeout(GUARD_S):
            while not is_so():  # noqa: ASYNC110  # other processes tell no event
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise TimeoutError(f"not within {GUARD_S:g} s: {what}") from None
