"""What the benchmarks share: timing, interleaving, medians, machine facts, tables and files."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

Measure: TypeAlias = Callable[[], Coroutine[Any, Any, "Cost"]]
"""Sets one system up, runs a workload on it and returns what the workload alone took."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a number of operations took: seconds of this process's CPU and of the clock on the wall."""

    ops: int
    cpu_s: float
    wall_s: float

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per operation."""
        return self.cpu_s / self.ops * 1e6

    @property
    def wall_us(self) -> float:
        """Wall microseconds per operation."""
        return self.wall_s / self.ops * 1e6


class Stopwatch:
    """``with Stopwatch(ops) as watch: ...`` and then ``watch.cost``; used again, it adds up."""

    def __init__(self, ops: int) -> None:
        self.cost = Cost(ops, 0.0, 0.0)

    def __enter__(self) -> Self:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        cpu_s = time.process_time() - self._cpu
        wall_s = time.perf_counter() - self._wall
        self.cost = Cost(self.cost.ops, self.cost.cpu_s + cpu_s, self.cost.wall_s + wall_s)


@dataclass(frozen=True, slots=True)
class Series:
    """The costs of one system in each round, or the reason why there are none."""

    costs: tuple[Cost, ...] = ()
    failure: str | None = None

    def median(self, unit: str = "cpu_us") -> float:
        """Return the median over the rounds of ``cpu_us`` or ``wall_us``."""
        return float(statistics.median(getattr(cost, unit) for cost in self.costs))

    def ratios(self, other: Series, unit: str = "cpu_us") -> list[float]:
        """Return this system's cost as a multiple of the other's, round by round."""
        pairs = zip(self.costs, other.costs, strict=True)
        return [getattr(mine, unit) / getattr(theirs, unit) for mine, theirs in pairs]


def interleave(
    measures: Mapping[str, tuple[Measure, Measure]],
    rounds: int,
    *,
    may_fail: Collection[str] = (),
    note: str = "",
) -> dict[str, Series]:
    """Measure every system once a round, after one warm-up; each round starts with the next one.

    ``measures`` holds a warm-up and the thing itself. Every measurement has an event loop
    of its own and starts from a collected heap; the garbage collector runs on as it is
    set. A system in ``may_fail`` that raises is left out from then on and its reason
    kept; any other error ends the benchmark.
    """
    names = list(measures)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    failures: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name in _rotated(names, turn):
            if name in failures:
                continue
            progress(f"{note} round {turn}/{rounds}: {name}")
            warm_up, measure = measures[name]
            try:
                cost = run_alone(measure if turn else warm_up)
            except Exception as error:  # a peer that breaks is a line in the table, not the end
                if name not in may_fail:
                    raise
                failures[name] = in_short(error)
            else:
                if turn:
                    costs[name].append(cost)
    progress("")
    return {
        name: Series(() if name in failures else tuple(costs[name]), failures.get(name)) for name in names
    }


def run_alone(measure: Measure) -> Cost:
    """Run one measurement on a fresh standard event loop, whatever policy some import has set."""
    gc.collect()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(measure())


def progress(text: str) -> None:
    """Show ``text`` in place on a terminal; an empty one clears the line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def in_short(error: Exception) -> str:
    """Return an error on one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def resident_bytes() -> int:
    """Return the resident set of this process now.

    Raises:
        OSError: this system has no ``/proc``.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine_facts() -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg() if hasattr(os, "getloadavg") else (float("nan"),) * 3
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": usable,
        "load average": [round(each, 2) for each in load],
        "gc thresholds": list(gc.get_threshold()),
        "gc frozen objects": gc.get_freeze_count(),
        "event loop": "asyncio.SelectorEventLoop",
    }


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print the facts, one a line, and a warning when the machine is busy."""
    for key, value in facts.items():
        print(f"{key + ':':<19}{value}")
    if facts["load average"][0] > 0.5:
        print("note: other work is running on this machine; trust the ratios, not the microseconds")
    print()


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned plain text; numbers are given three significant digits."""
    cells = [[str(header) for header in headers], *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    is_text = [not any(_is_number(row[column]) for row in cells[1:]) for column in range(len(headers))]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_text, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def judged(value: float, limit: float, *, is_smoke: bool = False) -> str:
    """Return ``pass`` or ``MISS`` for a figure that must not be above ``limit``; ``-`` in a smoke run."""
    if is_smoke:
        return "-"
    return "pass" if value <= limit else "MISS"


def write_json(path: str | None, report: Mapping[str, Any]) -> None:
    """Write ``report`` to ``path``, if one was given."""
    if path:
        Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"figures: {path}")


def plot_ratios(
    path: str | None, title: str, bars: Mapping[str, Mapping[str, float]], gates: Mapping[str, float]
) -> None:
    """Draw ``bars`` (system -> group -> ratio) on a log scale, a line for each group's gate.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    if not path:
        return
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = list(dict.fromkeys(group for values in bars.values() for group in values))
    figure, axes = plt.subplots(figsize=(max(7.0, 3.0 + 1.3 * len(groups)), 4.5), layout="constrained")
    width = 0.8 / len(bars)
    for index, (system, values) in enumerate(bars.items()):
        places = [place - 0.4 + width * (index + 0.5) for place in range(len(groups))]
        heights = [values.get(group, float("nan")) for group in groups]
        drawn = axes.bar(places, heights, width, label=system)
        axes.bar_label(drawn, [_shown(height) if height == height else "" for height in heights], fontsize=7)
    for place, group in enumerate(groups):
        if group in gates:
            label = None if place else "gate"
            axes.plot([place - 0.42, place + 0.42], [gates[group]] * 2, "k--", linewidth=1, label=label)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_title(title)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"plot: {path}")


def _rotated(names: list[str], by: int) -> list[str]:
    start = by % len(names)
    return names[start:] + names[:start]


def _shown(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell >= 100 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit()
