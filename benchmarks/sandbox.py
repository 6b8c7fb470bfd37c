"""How long a run of one line of Python takes: in the sandbox, and as a plain child process.

``execute_python_code("print(6 * 7)")`` with its namespaces, limits and system call filter, beside the same
interpreter started with the code and nothing around it, and with no more than it needs (``-I -S``).
One run after the other, each to its answer; medians over the rounds.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from agentscope_async.service import execute_python_code

from .common import (
    Cost,
    Measure,
    Series,
    Stopwatch,
    interleave,
    judged,
    machine_facts,
    print_facts,
    table,
    write_json,
)

if TYPE_CHECKING:
    import argparse

CODE = "print(6 * 7)"
GATE_MS = 120.0
"""Most milliseconds of a run in the sandbox."""

SANDBOX = "sandbox"
PLAIN = "python -c"
SYSTEMS = {PLAIN: [sys.executable, "-c"], "python -I -S -c": [sys.executable, "-I", "-S", "-c"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--runs`` and ``--rounds``."""
    parser.add_argument("--runs", type=int, default=5, help="runs of each in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when the sandbox takes too long under ``--strict``, else 0."""
    if shutil.which("bwrap") is None:
        print("the sandbox needs bubblewrap: apt-get install bubblewrap")
        return int(args.strict)
    runs, rounds = (1, 2) if args.smoke else (args.runs, args.rounds)
    facts = machine_facts()
    print_facts(facts)
    measures: dict[str, Measure] = {SANDBOX: lambda: sandboxed(runs)}
    for name, command in SYSTEMS.items():
        measures[name] = _plain_measure(command, runs)
    found = interleave({name: (measure, measure) for name, measure in measures.items()}, rounds)
    sandbox_ms = _median_ms(found[SANDBOX])
    verdict = judged(sandbox_ms, GATE_MS, is_smoke=args.smoke)
    print(table(["one run of print(6 * 7)", "ms", "x plain"], [_row(name, found) for name in measures]))
    print(f"\nsandbox within {GATE_MS:g} ms: {verdict}")
    write_json(
        args.json,
        {
            "benchmark": "sandbox",
            "machine": facts,
            "rounds": {name: [asdict(cost) for cost in series.costs] for name, series in found.items()},
        },
    )
    return int(args.strict and verdict == "MISS")


async def sandboxed(runs: int) -> Cost:
    """Run the code in the sandbox."""
    with Stopwatch(runs) as watch:
        for _ in range(runs):
            response = await execute_python_code(CODE)
            if response.content != "42\n":
                raise RuntimeError(str(response.content))
    return watch.cost


def _plain_measure(command: Sequence[str], runs: int) -> Measure:
    async def plain() -> Cost:
        with Stopwatch(runs) as watch:
            for _ in range(runs):
                process = await asyncio.create_subprocess_exec(
                    *command, CODE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
                await process.communicate()
        return watch.cost

    return plain


def _row(name: str, found: dict[str, Series]) -> list[object]:
    ratios = sorted(found[name].ratios(found[PLAIN], "wall_us"))
    return [name, _median_ms(found[name]), ratios[len(ratios) // 2]]


def _median_ms(series: Series) -> float:
    return series.median("wall_us") / 1000
