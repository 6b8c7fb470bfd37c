"""A million stateful agents in one process, each answering one message over a 1-second model, all at once.

  agents  each agent counts its turns and remembers question and answer; its model takes a second
  direct  as many coroutines that build the same messages and await the same model: no agent, no memory
  sleep   as many coroutines that each ``await asyncio.sleep(1)``: what a bare gather costs
  tasks   the same in tasks that are awaited one after another, as agents and ``direct`` are here:
          nobody need be told of the end of each, which ``asyncio.gather`` takes 2 us for

Each side runs in a fresh process of its own, once a round, each round beginning with another
side; the figures are medians of the rounds. All have the same garbage-collector settings.
Before each, as much memory as the gate allows is touched and given back: a virtual machine
may have to fetch from its host what is touched for the first time, which took 9 s of CPU for
4 GiB here, and 1.7 s the next time; whoever runs first, or needs most, would pay for it.
``--gc tuned`` moves what the imports left out of the collector's sight (``gc.freeze``)
and raises its thresholds; ``--gc default`` changes nothing. Importing the package
changes nothing either way: this is for the program to decide.

The fake model wakes its callers with one timer for each hundredth of a second, at or after
their second, and keeps a future for each call; ``direct`` shows what that saves against
``sleep``, which has a timer for each coroutine. Time and CPU count from the first agent
made to the last answer checked in; bytes are the growth of the peak resident set.

``--nodes 2`` spreads the agents over as many other processes, asked over loopback from one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentscope_async.agents import AgentBase
from agentscope_async.message import Msg
from agentscope_async.models import EchoModel

from .common import (
    Stopwatch,
    judged,
    machine_facts,
    plot_ratios,
    print_facts,
    progress,
    resident_bytes,
    table,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

MODEL_DELAY_S = 1.0
TUNED_THRESHOLDS = (100_000_000, 50, 1000)
WALL_GATE_S, MEMORY_GATE_GIB, CPU_GATE = 35.0, 3.0, 1.3
GIB = 1024**3
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side took, all agents together; ``peak_bytes`` is the whole process at its largest."""

    side: str
    agents: int
    wall_s: float
    cpu_s: float
    bytes_each: float
    peak_bytes: int
    gc_thresholds: tuple[int, int, int]
    gc_frozen: int


class Counting(AgentBase):
    """Remembers question and answer, asks its model, counts its turns."""

    turns = 0

    async def reply(self, x: Msg | None = None) -> Msg:
        memory, model = self.memory, self.model
        assert x is not None
        assert memory is not None
        assert model is not None
        memory.add(x)
        response = await model(model.format(memory.get_memory()))
        answer = Msg(self.name, response.text, role="assistant")
        memory.add(answer)
        self.turns += 1
        return answer


async def ask_agents(count: int) -> Callable[[], None]:
    """Make the agents, ask all at once; return a check of what they answered and remember."""
    model = EchoModel(delay_s=MODEL_DELAY_S)
    agents = []
    for number in range(count):
        agents.append(Counting(f"agent{number}", model=model))
        if not number % 50_000:
            progress(f"agents: {number:,} of {count:,} made")
    progress(f"agents: {count:,} asked")
    question = _question(0)
    # Not our own gather: it lets the loop run while it starts, so not all would be under way at once.
    answers = await _all(agent(question) for agent in agents)

    def check() -> None:
        for agent, answer in zip(agents, answers, strict=True):
            remembered = agent.memory.size() if agent.memory is not None else 0
            is_right = answer.name == agent.name and answer.text == question.text
            if not is_right or (agent.turns, remembered) != (1, 2):
                raise AssertionError(f"{agent.name}: {answer}, {agent.turns} turns, {remembered} remembered")

    return check


async def call_directly(count: int) -> Callable[[], None]:
    """Build the same messages and await the same model, with nothing around it."""
    model = EchoModel(delay_s=MODEL_DELAY_S)

    async def answer(question: Msg) -> Msg:
        response = await model(model.format(question))
        return Msg("agent", response.text, role="assistant")

    progress(f"direct: {count:,} called")
    answers = await _all(answer(_question(number)) for number in range(count))
    return lambda: _check_count(answers, count)


async def sleep(count: int) -> Callable[[], None]:
    """Gather coroutines that sleep."""
    progress(f"sleep: {count:,} asleep")
    naps = await asyncio.gather(*(_nap() for _ in range(count)))
    return lambda: _check_count(naps, count)


async def sleep_in_tasks(count: int) -> Callable[[], None]:
    """Sleep as often, in tasks that are awaited as those of the agents are."""
    progress(f"tasks: {count:,} asleep")
    naps = await _all(_nap() for _ in range(count))
    return lambda: _check_count(naps, count)


async def _nap() -> None:
    await asyncio.sleep(MODEL_DELAY_S)


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Start all, then wait for one after another."""
    create_task = asyncio.get_running_loop().create_task
    tasks = [create_task(work) for work in works]
    return [await task for task in tasks]


SIDES: dict[str, Callable[[int], Coroutine[Any, Any, Callable[[], None]]]] = {
    "agents": ask_agents,
    "direct": call_directly,
    "sleep": sleep,
    "tasks": sleep_in_tasks,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks million``."""
    parser.add_argument(
        "--agents", type=int, default=1_000_000, metavar="N", help="how many (default: 1000000)"
    )
    parser.add_argument(
        "--gc", choices=("tuned", "default"), default="tuned", help="collector settings (default: tuned)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="rounds to take the median of (default: 5)"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=0,
        metavar="N",
        help="spread the agents over N other processes",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw the CPU ratios; needs matplotlib")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Measure each side in a process of its own; 1 when a gate is missed under ``--strict``, else 0."""
    count = 2_000 if args.smoke else args.agents
    if args.side:
        print(json.dumps(asdict(_measure_here(args.side, count, is_tuned=args.gc == "tuned"))))
        return 0
    if args.nodes:
        from . import million_nodes

        return million_nodes.run(args, count)
    facts = machine_facts()
    print_facts(facts)
    rounds = _rounds(count, args.gc, 1 if args.smoke else args.rounds)
    figures = {side: _median(each) for side, each in rounds.items()}
    print(_table(figures))
    floor = [each.cpu_s for each in rounds["sleep"]]
    ratios = {
        side: statistics.median(mine.cpu_s / base for mine, base in zip(each, floor, strict=True))
        for side, each in rounds.items()
    }
    for base in ("sleep", "tasks"):
        pairs = zip(rounds["agents"], rounds[base], strict=True)
        print(f"agents / {base}, round by round: " + ", ".join(f"{a.cpu_s / b.cpu_s:.2f}" for a, b in pairs))
    gates = _gates(figures["agents"], ratios["agents"])
    is_judged = not args.smoke and count == 1_000_000
    print(f"\n{_gate_table(gates, is_judged=is_judged)}")
    if not is_judged:
        print("the gates are for --agents 1000000")
    write_json(
        args.json,
        {
            "benchmark": "million",
            "machine": facts,
            "rounds": {side: [asdict(one) for one in each] for side, each in rounds.items()},
        },
    )
    bars = {side: {f"{count:,} at once": ratio} for side, ratio in ratios.items()}
    plot_ratios(
        args.plot, "CPU as a multiple of a bare gather of sleeps", bars, {f"{count:,} at once": CPU_GATE}
    )
    return int(args.strict and is_judged and any(value > limit for _, value, limit in gates))


def _rounds(count: int, gc_choice: str, rounds: int) -> dict[str, list[Figures]]:
    sides = list(SIDES)
    figures: dict[str, list[Figures]] = {side: [] for side in sides}
    for turn in range(rounds):
        first = turn % len(sides)
        for side in (*sides[first:], *sides[:first]):
            _touch(int(MEMORY_GATE_GIB * 1024) * count)
            figures[side].append(_in_fresh_process(side, count, gc_choice))
    return figures


def _touch(size: int) -> None:
    """Use so many bytes of memory for a moment, so that the next process uses none for the first time.

    In a process of its own: those started by this one would begin with its peak as theirs.
    """
    progress("fetching memory")
    subprocess.run([sys.executable, "-c", _TOUCH, str(size)], check=True)


_TOUCH = """
import mmap, sys
size = int(sys.argv[1])
with mmap.mmap(-1, size) as memory:
    for place in range(0, size, mmap.PAGESIZE):
        memory[place] = 1
"""


def _median(rounds: list[Figures]) -> Figures:
    """Return the figures of a side, each the median of its rounds."""
    middle = {
        name: statistics.median(getattr(each, name) for each in rounds)
        for name in ("wall_s", "cpu_s", "bytes_each", "peak_bytes")
    }
    return replace(rounds[0], **middle)


def _in_fresh_process(side: str, count: int, gc_choice: str) -> Figures:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "million",
        "--side",
        side,
        "--agents",
        str(count),
        "--gc",
        gc_choice,
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    return Figures(**json.loads(done.stdout))


def _measure_here(side: str, count: int, *, is_tuned: bool) -> Figures:
    gc.collect()
    if is_tuned:
        gc.freeze()
        gc.set_threshold(*TUNED_THRESHOLDS)
    before = resident_bytes()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        with Stopwatch(count) as watch:
            check = runner.run(SIDES[side](count))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        progress(f"{side}: checking")
        check()
        progress("")
    cost = watch.cost
    return Figures(
        side,
        count,
        cost.wall_s,
        cost.cpu_s,
        (peak - before) / count,
        peak,
        gc.get_threshold(),
        gc.get_freeze_count(),
    )


def _table(figures: dict[str, Figures]) -> str:
    headers = [
        "",
        "wall s",
        "CPU s",
        "CPU us each",
        "bytes each",
        "peak GiB",
        "CPU ratio",
        "gc thresholds",
        "frozen",
    ]
    floor = figures["sleep"].cpu_s
    rows = [
        [
            side,
            each.wall_s,
            each.cpu_s,
            each.cpu_s / each.agents * 1e6,
            each.bytes_each,
            each.peak_bytes / GIB,
            each.cpu_s / floor,
            "{}, {}, {}".format(*each.gc_thresholds),
            each.gc_frozen,
        ]
        for side, each in figures.items()
    ]
    return f"{figures['agents'].agents:,} at once\n{table(headers, rows)}"


def _gates(agents: Figures, cpu_ratio: float) -> list[tuple[str, float, float]]:
    return [
        ("wall, s", agents.wall_s, WALL_GATE_S),
        ("peak, GiB", agents.peak_bytes / GIB, MEMORY_GATE_GIB),
        ("CPU, multiple of sleep", cpu_ratio, CPU_GATE),
    ]


def _gate_table(gates: list[tuple[str, float, float]], *, is_judged: bool) -> str:
    rows = [
        [what, value, f"<= {limit}", judged(value, limit, is_smoke=not is_judged)]
        for what, value, limit in gates
    ]
    return table(["gate", "measured", "limit", ""], rows)


def _question(number: int) -> Msg:
    return Msg("user", f"What do you make of number {number}?", role="user")


def _check_count(answers: Sequence[object], count: int) -> None:
    if len(answers) != count:
        raise AssertionError(f"{len(answers)} answers to {count} calls")
