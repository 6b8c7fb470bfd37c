"""L1 to L6: messages inside one process, beside asyncio.Queue actors and direct calls.

  L1   one agent is asked again and again
  L2   1,000-way gather: one ask each of 1,000 agents at once
  L2b  1,000 asks of one agent at once, none of which has to wait
  L2c  the same of an agent that gives way to the loop before it answers: all but one have to queue
  L3   200,000 messages posted to one agent and handled; mailboxes of 1,000 on both sides
  L4   100,000 idle agents: making them, and the bytes each takes, new and after one message
  L5   50 agents in a hub, 200 answers heard and remembered by 49 others; an op is a delivery
  L6   200 debates of 3 rounds (pro, con, judge) at once over a 20 ms model; an op is a turn

Every request and every reply is a message really built, of the same type on all three
sides; L5 has real memories on all sides, the other rows none on any. The ratio is our
CPU to the queue actor's in the same round, the median of the rounds (least to most).
What is set up before and taken down after is not counted. Other frameworks join where
they can be imported, with message types of their own. The garbage collector keeps its
thresholds; only what the imports left is frozen, so that a framework which happens to be
installed does not make every collection slower for all sides.
"""

from __future__ import annotations

import gc
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from . import footprint, peers
from .common import (
    Measure,
    Series,
    interleave,
    judged,
    machine_facts,
    plot_ratios,
    print_facts,
    table,
    write_json,
)
from .peers import Peer
from .systems import Agents, DirectCalls, QueueActors
from .workloads import WORKLOADS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from .footprint import Footprint

OURS, QUEUE, DIRECT = Agents.name, QueueActors.name, DirectCalls.name
BYTES_GATE = 450

Results: TypeAlias = dict[str, dict[str, Series]]
"""Row -> system -> what each round took."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks local``."""
    parser.add_argument("--only", metavar="L1,L3", help="these rows only")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default: 5)")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the ratios; needs matplotlib")
    parser.add_argument(
        "--no-peers", action="store_true", help="leave other frameworks out, installed or not"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a gate is missed under ``--strict``, else 0."""
    rows = _chosen(args.only)
    others, absent = ([], {}) if args.no_peers else peers.find("Adapter")
    gc.collect()
    gc.freeze()
    facts = machine_facts()
    print_facts(facts)
    rounds = 1 if args.smoke else max(1, args.rounds)
    results = {row: _measure(row, rounds, others, is_smoke=args.smoke) for row in rows}
    print(_own_table(results, is_smoke=args.smoke))
    footprints = footprint.measure(1_000 if args.smoke else 100_000) if "L4" in rows else []
    if footprints:
        print(f"\n{_bytes_table(footprints, is_smoke=args.smoke)}")
    if others:
        print(f"\n{_peer_table(results, others)}")
    if absent:
        print("\n" + "\n".join(f"{name}: {reason}" for name, reason in absent.items()))
    missed = [] if args.smoke else _missed(results, footprints)
    print(
        "\nsmoke run: the figures mean nothing"
        if args.smoke
        else f"\ngates missed: {', '.join(missed) or 'none'}"
    )
    write_json(args.json, _report(facts, results, footprints, absent))
    plot_ratios(args.plot, "CPU as a multiple of an asyncio.Queue actor's (lower is better)", *_bars(results))
    return int(args.strict and bool(missed))


def _chosen(only: str | None) -> list[str]:
    rows = list(WORKLOADS) if only is None else [row.strip() for row in only.split(",")]
    unknown = [row for row in rows if row not in WORKLOADS]
    if unknown:
        raise SystemExit(f"--only: there is no row {', '.join(unknown)}, only {', '.join(WORKLOADS)}")
    return rows


def _measure(row: str, rounds: int, others: list[type[Peer]], *, is_smoke: bool) -> dict[str, Series]:
    workload = WORKLOADS[row]
    first, *rest = workload.smoke_size if is_smoke else workload.size

    def measure(system: Any, *size: int) -> Measure:
        return lambda: workload.run(system(workload.model_delay_s), *size)

    able = [peer for peer in others if row in peer.rows]
    systems: list[Any] = [Agents, QueueActors, DirectCalls, *able]
    measures = {}
    for system in systems:
        share = system.share if issubclass(system, Peer) else 1.0
        warm_up = measure(system, *workload.smoke_size)
        measures[system.name] = warm_up, measure(system, max(1, round(first * share)), *rest)
    return interleave(measures, rounds, may_fail=[peer.name for peer in able], note=row)


def _own_table(results: Results, *, is_smoke: bool) -> str:
    headers = ["", "", "ours us", "queue us", "direct us", "CPU ratio", "(rounds)", "wall ratio", "gate", ""]
    rows = []
    for row, series in results.items():
        ours, queue = series[OURS], series[QUEUE]
        ratios = ours.ratios(queue)
        gate = WORKLOADS[row].gate
        rows.append(
            [
                row,
                WORKLOADS[row].what,
                *(series[side].median() for side in (OURS, QUEUE, DIRECT)),
                statistics.median(ratios),
                f"({min(ratios):.2f}-{max(ratios):.2f})",
                statistics.median(ours.ratios(queue, "wall_us")),
                "" if gate is None else f"<= {gate}",
                "" if gate is None else judged(statistics.median(ratios), gate, is_smoke=is_smoke),
            ]
        )
    return "CPU microseconds per operation, medians\n" + table(headers, rows)


def _bytes_table(footprints: Iterable[Footprint], *, is_smoke: bool) -> str:
    rows = [
        [
            each.system,
            each.meter,
            each.idle,
            each.answered,
            f"<= {BYTES_GATE}" if _is_gated(each) else "",
            judged(each.idle, BYTES_GATE, is_smoke=is_smoke) if _is_gated(each) else "",
        ]
        for each in footprints
    ]
    headers = ["", "measured as", "idle, new", "after one message", "gate", ""]
    return "Bytes per agent, its name and its place in a list included\n" + table(headers, rows)


def _is_gated(each: Footprint) -> bool:
    return each.system == OURS and each.meter == "traced"


def _peer_table(results: Results, others: list[type[Peer]]) -> str:
    rows: list[list[object]] = []
    for name in (OURS, DIRECT, *(peer.name for peer in others)):
        measured = {row: series[name] for row, series in results.items() if name in series}
        rows.append([name, *(_peer_cell(measured.get(row), results[row]) for row in results)])
    text = "CPU per operation as a multiple of the queue actor's\n" + table(["", *results], rows)
    failures = [
        f"{peer.name} {row}: n/a: {series[peer.name].failure}"
        for peer in others
        for row, series in results.items()
        if peer.name in series and series[peer.name].failure
    ]
    return "\n".join([text, *failures])


def _peer_cell(series: Series | None, row: dict[str, Series]) -> object:
    if series is None:
        return ""
    return "n/a" if series.failure else statistics.median(series.ratios(row[QUEUE]))


def _missed(results: Results, footprints: Iterable[Footprint]) -> list[str]:
    missed = [row for row, ratio in _bars(results)[0][OURS].items() if ratio > (WORKLOADS[row].gate or ratio)]
    return missed + ["L4 bytes" for each in footprints if _is_gated(each) and each.idle > BYTES_GATE]


def _bars(results: Results) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return system -> row -> median ratio to the queue actor, and row -> gate."""
    bars: dict[str, dict[str, float]] = {}
    for row, by_system in results.items():
        for name, series in by_system.items():
            if name != QUEUE and series.costs:
                bars.setdefault(name, {})[row] = statistics.median(series.ratios(by_system[QUEUE]))
    return bars, {row: gate for row in results if (gate := WORKLOADS[row].gate) is not None}


def _report(
    facts: dict[str, Any], results: Results, footprints: Iterable[Footprint], absent: dict[str, str]
) -> dict[str, Any]:
    bars, gates = _bars(results)
    return {
        "benchmark": "local",
        "machine": facts,
        "gates": {**gates, "L4 bytes": BYTES_GATE},
        "cpu_ratio_to_queue": bars,
        "rounds": {
            row: {name: asdict(series) for name, series in by_system.items()}
            for row, by_system in results.items()
        },
        "bytes_per_agent": [asdict(each) for each in footprints],
        "not_importable": absent,
    }
