"""Bytes each idle agent takes, new and after one message, measured in processes of their own.

``tracemalloc`` counts what Python allocates, to the byte: the agent, its name, its place
in the list and all it holds on to. The growth of the resident set shows what that costs
the machine; it is taken in a second process, because tracing needs memory itself.

``python -m benchmarks.footprint agentscope_async 100000 traced`` is one such process; it prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .common import progress, resident_bytes
from .systems import Agents, DirectCalls, QueueActors

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEMS = {system.name: system for system in (Agents, QueueActors, DirectCalls)}
METERS: dict[str, Callable[[], int]] = {
    "traced": lambda: tracemalloc.get_traced_memory()[0],
    "resident": resident_bytes,
}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes per agent by one meter: idle and new, and idle again after it answered one message."""

    system: str
    meter: str
    idle: float
    answered: float


def measure(count: int) -> list[Footprint]:
    """Return the footprints of all systems by all meters, ``count`` agents each."""
    footprints = []
    for system in SYSTEMS:
        for meter in METERS:
            progress(f"L4 bytes: {system}, {meter}")
            footprints.append(_in_fresh_process(system, count, meter))
    progress("")
    return footprints


def _in_fresh_process(system: str, count: int, meter: str) -> Footprint:
    command = [sys.executable, "-m", __spec__.name, system, str(count), meter]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
    return Footprint(system, meter, **json.loads(done.stdout))


async def _measure_here(name: str, count: int, meter: str) -> dict[str, float]:
    read = METERS[meter]
    async with SYSTEMS[name]() as system:
        (first,) = await system.spawn("echo", ["warm-up"])
        await system.ask(first)(system.request())
        before = _settled(read)
        agents = await system.spawn("echo", [f"agent{number}" for number in range(count)])
        idle = _settled(read)
        for agent in agents:
            await system.ask(agent)(system.request())
        answered = _settled(read)
    return {"idle": (idle - before) / count, "answered": (answered - before) / count}


def _settled(read: Callable[[], int]) -> int:
    gc.collect()
    return read()


def main(system: str, count: str, meter: str) -> None:
    """Print the two figures of one system by one meter."""
    if meter == "traced":
        tracemalloc.start()
    print(json.dumps(asyncio.run(_measure_here(system, int(count), meter))))


if __name__ == "__main__":
    main(*sys.argv[1:])
