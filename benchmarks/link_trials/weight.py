"""What links and remote references weigh, and whether one agent's load is another's trouble."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentscope_async.message import Msg
from agentscope_async.runtime import Runtime

from ..common import progress
from . import TOKEN, Reading, Scale, nodes, under_way

if TYPE_CHECKING:
    from ..processes import Worker

MIB = 1024 * 1024
OTHERS = 100


async def slow_consumer(scale: Scale) -> list[Reading]:
    """Post messages of 10 kB as fast as they are taken, to an agent that needs 5 ms for each."""
    seconds = scale(60, 4)
    consumer = {"slow": ("Slow", {"name": "slow", "pause_s": 0.005})}
    producer = {"producer": ("Producing", {"name": "producer"})}
    with nodes(consumer, producer) as workers:
        far, near = workers
        async with Runtime(token=TOKEN) as runtime:
            to = f"{far.said['url']}/slow"
            order = {"to": to, "seconds": seconds, "bytes": 10_000}
            producing = runtime.agent(f"{near.said['url']}/producer")
            await asyncio.gather(runtime.agent(to)(), producing(_msg({**order, "seconds": 0})))
            before = [worker.used().resident for worker in workers]
            async with under_way([producing(_msg(order))]) as (production,):
                grown = await _growth(workers, before, production.done)
                posted = (await production).content
            handled = await _all_handled(runtime.agent(to), posted)
    return [
        Reading("consumer: RSS growth", "MiB", [grown[0]], 20.0, "most"),
        Reading("producer: RSS growth", "MiB", [grown[1]], 20.0, "most"),
        Reading("posted and handled per second", "", [posted / seconds]),
        Reading("lost", "", [float(posted - handled)], 0.0, "most"),
    ]


async def stuck(scale: Scale) -> list[Reading]:
    """Ask 100 agents of a node, with and without one beside them that is stuck, its mailbox full."""
    ratios, alone_ms, beside_ms = [], [], []
    exports: dict[str, Any] = {f"echo{n}": ("Echo", {"name": f"echo{n}"}) for n in range(OTHERS)}
    exports["stuck"] = ("Holding", {"name": "stuck", "capacity": 100})
    each = scale(50, 3)
    with nodes(exports) as (node,):
        url = node.said["url"]
        for _ in range(scale(7, 1)):
            async with Runtime(token=TOKEN, grace=0) as runtime:
                others = [runtime.agent(f"{url}/echo{n}") for n in range(OTHERS)]
                await _ask_often(others, 1)
                alone_ms.append(_p99(await _ask_often(others, each)))
                remote = runtime.agent(f"{url}/stuck")
                async with under_way(remote(_msg("x" * 10_000)) for _ in range(400)):
                    await asyncio.sleep(0.2)
                    beside_ms.append(_p99(await _ask_often(others, each)))
                ratios.append(beside_ms[-1] / alone_ms[-1])
    return [
        Reading("p99 of 100 others beside it / without it", "x", ratios, 2.0, "median"),
        Reading("p99 without", "ms", alone_ms),
        Reading("p99 beside", "ms", beside_ms),
    ]


async def idle(scale: Scale) -> list[Reading]:
    """Measure the CPU of both ends of a link on which nothing happens."""
    seconds = scale(30, 3)
    with nodes({"echo": ("Echo", {"name": "echo"})}) as (node,):
        async with Runtime(token=TOKEN) as runtime:
            await runtime.agent(f"{node.said['url']}/echo")(_msg("Hello!"))
            await asyncio.sleep(0.5)
            here_s, there_s = time.process_time(), node.used().cpu_s
            await asyncio.sleep(seconds)
            here_s, there_s = time.process_time() - here_s, node.used().cpu_s - there_s
    return [
        Reading("CPU of the end that dialled", "%", [here_s / seconds * 100], 0.1, "most"),
        Reading("CPU of the other end", "%", [there_s / seconds * 100], 0.1, "most"),
    ]


async def references(scale: Scale) -> list[Reading]:
    """Hold references to 10,000 agents of another node: new ones, and after one answer each."""
    count = scale(10_000, 500)
    with nodes({f"a{n}": ("Echo", {"name": f"a{n}"}) for n in range(count)}) as (node,):
        async with Runtime(token=TOKEN) as runtime:
            url = node.said["url"]
            await runtime.agent(f"{url}/a0")(_msg("Hello!"))
            gc.collect()
            tracemalloc.start()
            try:
                before = _traced()
                remotes = [runtime.agent(f"{url}/a{n}") for n in range(count)]
                new = (_traced() - before) / count
                for start in range(0, count, 500):
                    await asyncio.gather(*(remote(_msg("Hello!")) for remote in remotes[start : start + 500]))
                await asyncio.sleep(0.1)
                used = (_traced() - before) / count
            finally:
                tracemalloc.stop()
    return [
        Reading("bytes of a new reference", "B", [new], 1024.0, "most"),
        Reading("bytes after one answer", "B", [used], 1024.0, "most"),
    ]


def _msg(content: Any) -> Msg:
    return Msg("trial", content, role="user")


async def _growth(workers: list[Worker], before: list[int], is_over: Callable[[], bool]) -> list[float]:
    """Return the MiB by which each process is larger at most than it was before, until it is over."""
    most = list(before)
    while not is_over():
        await asyncio.sleep(0.5)
        most = [max(high, worker.used().resident) for high, worker in zip(most, workers, strict=True)]
        progress(f"slow-consumer: {[f'{high / MIB:.0f} MiB' for high in most]}")
    progress("")
    return [(high - low) / MIB for high, low in zip(most, before, strict=True)]


async def _all_handled(remote: Any, count: int, patience_s: float = 30.0) -> int:
    """Return how many messages the slow agent has handled, once it is ``count`` or no more come."""
    end, handled = time.monotonic() + patience_s, 0
    while handled < count and time.monotonic() < end:
        await asyncio.sleep(0.2)
        handled = (await remote()).content
    return handled


async def _ask_often(remotes: list[Any], each: int) -> list[float]:
    """Let one caller for each agent ask it so often; return the milliseconds each answer took."""
    took_ms = []

    async def ask(remote: Any) -> None:
        for _ in range(each):
            began_at = time.perf_counter()
            await remote(_msg("Hello!"))
            took_ms.append((time.perf_counter() - began_at) * 1e3)

    await asyncio.gather(*(ask(remote) for remote in remotes))
    return took_ms


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
