"""Cancelled asks, time limits, circles of waits and errors: how soon everybody concerned knows."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from agentscope_async.errors import (
    AgentNotFound,
    AgentStoppedError,
    AskTimeoutError,
    DeadlockError,
    ForbiddenError,
    InvalidReplyError,
    MailboxFullError,
)
from agentscope_async.message import Msg
from agentscope_async.runtime import Runtime

from ..canned import CannedConnection, stream_pieces
from . import TOKEN, Reading, Scale, nodes, under_way, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Mapping, Sequence

    from ..processes import Worker

DEADLINE_S = 0.5
PIECE_EVERY_S = 0.02
RELAY: dict[str, Any] = {"relay": ("Relay", {"name": "relay"})}


async def cancel(scale: Scale) -> list[Reading]:
    """Cancel an ask that went over 3 nodes, behind the last of which a model streams."""
    gone_ms, closed_ms, back_ms = [], [], []
    streaming = {"stream": ("Streaming", {"name": "stream"})}
    with nodes(RELAY, RELAY, streaming) as workers:
        path = _path(workers, ["relay", "relay", "stream"])
        async with _endless_model() as model, Runtime(token=TOKEN) as runtime:
            round_trip_ms = await _round_trip_ms(runtime, workers[0])
            for _ in range(scale(20, 3)):
                async with under_way([runtime.agent(path[0])(_msg([*path[1:], model.origin]))]) as (ask,):
                    await until(lambda: model.streams == 1, "the model streams")
                    for worker in workers:
                        worker.answer("ended")
                    cancelled_at = time.monotonic()
                    ask.cancel()
                    await asyncio.wait([ask])
                back_ms.append(_ms_since(cancelled_at))
                await until(lambda: model.streams == 0, "the model's stream is closed")
                closed_ms.append((model.closed_at - cancelled_at) * 1e3)
                gone_ms += [(at - cancelled_at) * 1e3 for at in await _ends(workers, len(workers))]
    aim_ms = 50 + round_trip_ms
    return [
        Reading("cancel to each of 3 handlers gone", "ms", gone_ms, aim_ms),
        Reading("cancel to the model's stream closed", "ms", closed_ms, aim_ms),
        Reading("cancel to the caller going on", "ms", back_ms),
        Reading("round trip of a refused ask", "ms", [round_trip_ms]),
    ]


async def deadline(scale: Scale) -> list[Reading]:
    """Let the time limit of an ask run out that waits behind 5 nodes."""
    freed_ms, back_ms = [], []
    holding: dict[str, Any] = {"hold": ("Holding", {"name": "hold"})}
    with nodes(RELAY, RELAY, RELAY, RELAY, holding) as workers:
        path = _path(workers, ["relay", "relay", "relay", "relay", "hold"])
        async with Runtime(token=TOKEN, ask_timeout_s=30) as runtime:
            remote = runtime.agent(path[0], timeout_s=DEADLINE_S)
            with suppress(AskTimeoutError):  # opens the links
                await remote(_msg(path[1:]))
            await _ends(workers, len(workers))
            for _ in range(scale(20, 2)):
                due_at = time.monotonic() + DEADLINE_S
                try:
                    await remote(_msg(path[1:]))
                except AskTimeoutError:
                    back_ms.append(_ms_since(due_at))
                freed_ms += [(at - due_at) * 1e3 for at in await _ends(workers, len(workers))]
    return [
        Reading("time limit to each of 5 handlers gone", "ms", freed_ms, 200.0, "most"),
        Reading("time limit to AskTimeoutError", "ms", back_ms, 200.0, "most"),
    ]


async def deadlock(scale: Scale) -> list[Reading]:
    """Ask A, which asks B on another node, which asks A; and let A and B ask each other at once."""
    circle_ms, crossing_ms, unrefused = [], [], 0
    crossing: dict[str, Any] = {
        "a": ("Relay", {"name": "a"}),
        "slow": ("Relay", {"name": "slow", "pause_s": 0.05}),
    }
    with nodes(crossing, crossing) as workers:
        here, there = (worker.said["url"] for worker in workers)
        async with Runtime(token=TOKEN) as runtime:
            for _ in range(scale(20, 3)):
                began_at = time.monotonic()
                try:
                    await runtime.agent(f"{here}/a")(_msg([f"{there}/a", f"{here}/a", f"{there}/a"]))
                    unrefused += 1
                except DeadlockError:
                    circle_ms.append(_ms_since(began_at))
                began_at = time.monotonic()
                outcomes = await asyncio.wait_for(
                    asyncio.gather(
                        runtime.agent(f"{here}/slow")(_msg([f"{there}/slow", f"{here}/a"])),
                        runtime.agent(f"{there}/slow")(_msg([f"{here}/slow", f"{there}/a"])),
                        return_exceptions=True,
                    ),
                    30,
                )
                unrefused += not any(isinstance(each, DeadlockError) for each in outcomes)
                crossing_ms.append(_ms_since(began_at))
    return [
        Reading("A -> B -> A to DeadlockError", "ms", circle_ms, 1000.0, "most"),
        Reading("crossing asks to both ended", "ms", crossing_ms, 1000.0, "most"),
        Reading("circles that were not refused", "", [float(unrefused)], 0.0, "most"),
    ]


async def errors(scale: Scale) -> list[Reading]:
    """Make each kind of mistake and see how long its error takes, beside an answer."""
    answer_ms, took_ms = [], dict[str, list[float]]()
    exports: dict[str, Any] = {
        "echo": ("Echo", {"name": "echo"}),
        "stopped": ("Echo", {"name": "stopped"}),
        "full": ("Holding", {"name": "full", "capacity": 1, "overflow": "reject"}),
        "misspoken": ("Misspoken", {"name": "misspoken"}),
    }
    with nodes(exports, stopped=["stopped"]) as (node,):
        url = node.said["url"]
        async with Runtime(token=TOKEN) as runtime:
            remotes = {key: runtime.agent(f"{url}/{key}") for key in (*exports, "nobody")}
            await remotes["echo"](_msg("Hello!"))
            async with under_way(remotes["full"](_msg("Wait.")) for _ in range(2)):
                await asyncio.sleep(0.2)
                for _ in range(scale(200, 10)):
                    began_at = time.perf_counter()
                    await remotes["echo"](_msg("Hello!"))
                    answer_ms.append((time.perf_counter() - began_at) * 1e3)
                    for name, kind, mistake in _mistakes(runtime, url, remotes):
                        took_ms.setdefault(name, []).append(await _refusal_ms(kind, mistake))
    round_trip_ms = statistics.median(answer_ms)
    return [
        Reading("an answer", "ms", answer_ms),
        *(
            Reading(f"{name}: its error", "ms", took, 2 * round_trip_ms, "median")
            for name, took in took_ms.items()
        ),
    ]


def _mistakes(
    runtime: Runtime, url: str, remotes: Mapping[str, Any]
) -> list[tuple[str, type[Exception], Coroutine[Any, Any, Any]]]:
    """Return each mistake, the error it should give, and what makes it."""
    return [
        ("unknown agent", AgentNotFound, remotes["nobody"](_msg("Hello!"))),
        ("stopped agent", AgentStoppedError, remotes["stopped"](_msg("Hello!"))),
        ("full mailbox", MailboxFullError, remotes["full"](_msg("Hello!"))),
        ("bad type", InvalidReplyError, remotes["misspoken"](_msg("Hello!"))),
        ("forbidden spawn", ForbiddenError, runtime.spawn(url, "DialogAgent", {"name": "guest"})),
    ]


async def _refusal_ms(kind: type[Exception], mistake: Awaitable[Any]) -> float:
    began_at = time.perf_counter()
    try:
        await mistake
    except kind:
        return (time.perf_counter() - began_at) * 1e3
    raise AssertionError(f"there was no {kind.__name__}")


def _msg(content: Any) -> Msg:
    return Msg("trial", content, role="user")


def _ms_since(at: float) -> float:
    return (time.monotonic() - at) * 1e3


def _path(workers: Sequence[Worker], keys: Sequence[str]) -> list[str]:
    return [f"{worker.said['url']}/{key}" for worker, key in zip(workers, keys, strict=True)]


async def _round_trip_ms(runtime: Runtime, worker: Worker) -> float:
    """Return the median of some round trips: asks of an agent that is not there."""
    nobody = runtime.agent(f"{worker.said['url']}/nobody")
    took_ms = [await _refusal_ms(AgentNotFound, nobody(_msg("Hello!"))) for _ in range(20)]
    return statistics.median(took_ms)


async def _ends(workers: Sequence[Worker], count: int) -> list[float]:
    """Return when the handlers of all nodes ended, once that many have."""
    ends: list[float] = []

    def are_there() -> bool:
        for worker in workers:
            ends.extend(worker.answer("ended"))
        return len(ends) >= count

    await until(are_there, f"{count} handlers gone", every_s=0.005)
    return ends


class _Model:
    """A model's server whose streams have no end."""

    origin: str

    def __init__(self) -> None:
        self.streams = 0
        self.closed_at = 0.0


class _Endless(CannedConnection):
    def __init__(self, model: _Model) -> None:
        super().__init__()
        self._model = model
        self._is_streaming = False

    def _answer(self, request: bytes) -> None:
        head, self._piece, *_ = stream_pieces()
        self._transport.write(head)
        self._is_streaming = True
        self._model.streams += 1
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_streaming:
            self._model.streams -= 1
            self._model.closed_at = time.monotonic()

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._piece)
            asyncio.get_running_loop().call_later(PIECE_EVERY_S, self._go_on)


@asynccontextmanager
async def _endless_model() -> AsyncIterator[_Model]:
    model = _Model()
    server = await asyncio.get_running_loop().create_server(lambda: _Endless(model), "127.0.0.1", 0)
    model.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield model
    finally:
        server.close()
