"""D1 to D3: messages between processes over loopback, beside raw websockets and raw TCP.

  D1              one agent is asked again and again
  D2-64           64 callers at once, of 64 agents behind one link; D2-1024: 1,024 callers
  D2-64-one       the same of one agent, which has to take one after another; D2-1024-one
  D2-64-64K       64 callers, questions and answers of 64 KiB; D2-1024-64K
  D3              1,024 callers of 1,000 agents in two processes

Clients and servers are processes of their own; a caller asks again when it is answered.
Questions and answers are messages really built, of 100 bytes where nothing else is said. The
raw ways send the same ``Msg`` with orjson, with a correlation id, each at once: the
``websockets`` library with its defaults (but no compression and no pings), a frame for each
message, and a length before each message on an ``asyncio.Protocol``. ``bare`` sends a dict of
name, role and text instead, without id and time, which no agent could use as it is. Other
ways join where they can be imported. CPU is that of client and servers together; D1's is also shown for
the client alone. Ratios are to raw websockets in the same round, medians of the rounds (least
to most). All run on the same kind of event loop, with the garbage collector as it is; what the
imports left is frozen. What is set up before is not counted.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import node_peers
from .common import (
    Cost,
    Measure,
    Series,
    Stopwatch,
    interleave,
    machine_facts,
    print_facts,
    table,
    write_json,
)
from .node_peers import BASELINE, OURS, Ask, Carrier, agent_names
from .processes import Worker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

SERVERS = 2
KIB = 1024

Carriers: TypeAlias = dict[str, type[Carrier]]
Servers: TypeAlias = dict[str, list[Worker]]
Results: TypeAlias = dict[str, dict[str, Series]]
"""Row -> file of the carrier -> what each round took."""


@dataclass(frozen=True, slots=True)
class Trips(Cost):
    """What a number of questions took; ``cpu_s`` is that of the client and the servers."""

    client_cpu_s: float
    p50_us: float
    p99_us: float

    @property
    def client_cpu_us(self) -> float:
        """The client's CPU microseconds per question."""
        return self.client_cpu_s / self.ops * 1e6

    @property
    def speed(self) -> float:
        """Questions answered per second."""
        return self.ops / self.wall_s


@dataclass(frozen=True)
class Row:
    """``in_flight`` callers, each of which asks ``each`` times, of so many agents in so many processes."""

    what: str
    in_flight: int
    each: int
    agents: int = 1
    text_bytes: int = 100
    servers: int = 1

    @property
    def text(self) -> str:
        """What is said."""
        return ("What do you make of this? " * (self.text_bytes // 26 + 1))[: self.text_bytes]

    def size(self, share: float, *, is_smoke: bool) -> tuple[int, int]:
        """Return how many callers ask how often."""
        if is_smoke:
            return min(self.in_flight, 16), 2
        return self.in_flight, max(1, round(self.each * share))


ROWS = {
    "D1": Row("one after another", 1, 4000),
    "D2-64": Row("64 callers, 64 agents", 64, 320, agents=64),
    "D2-64-one": Row("64 callers, one agent", 64, 320),
    "D2-1024": Row("1,024 callers, 64 agents", 1024, 20, agents=64),
    "D2-1024-one": Row("1,024 callers, one agent", 1024, 20),
    "D2-64-64K": Row("64 callers, 64 agents, 64 KiB", 64, 60, agents=64, text_bytes=64 * KIB),
    "D2-1024-64K": Row("1,024 callers, 64 agents, 64 KiB", 1024, 4, agents=64, text_bytes=64 * KIB),
    "D3": Row("1,024 callers, 1,000 agents in 2 processes", 1024, 20, agents=1000, servers=2),
}


@dataclass(frozen=True)
class Gate:
    """What the median ratio of ours to raw websockets must not be above, or below."""

    row: str
    of: Literal["p50_us", "speed", "cpu_us"]
    limit: float

    @property
    def title(self) -> str:
        """The figure in words."""
        words = {"p50_us": "p50", "speed": "throughput", "cpu_us": "CPU"}
        return f"{self.row} {words[self.of]}"

    def ratios(self, results: Results) -> list[float]:
        """Return the ratio of each round; empty where it was not measured."""
        row = results.get(self.row)
        return row[OURS].ratios(row[BASELINE], self.of) if row else []

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio >= self.limit if self.of == "speed" else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.of == 'speed' else '<='} {self.limit:g}"


GATES = (
    Gate("D1", "p50_us", 1.05),
    Gate("D2-64", "speed", 1.6),
    Gate("D2-64", "cpu_us", 0.55),
    Gate("D2-1024", "speed", 1.5),
    Gate("D2-1024", "cpu_us", 0.65),
    Gate("D2-64-64K", "speed", 1.0),
    Gate("D2-1024-64K", "speed", 1.0),
    Gate("D3", "speed", 1.7),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks distributed``."""
    parser.add_argument("--only", metavar="D1,D3", help="these rows only")
    parser.add_argument("--rounds", type=int, default=9, help="rounds to take the median of (default: 9)")
    parser.add_argument("--uvloop", action="store_true", help="run every process on uvloop")
    parser.add_argument("--no-peers", action="store_true", help="leave other ways out, installed or not")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a gate is missed under ``--strict``, else 0."""
    rows = _chosen(args.only)
    carriers, absent = node_peers.find(node_peers.OWN if args.no_peers else node_peers.FILES)
    gc.collect()
    gc.freeze()
    facts = machine_facts()
    if args.uvloop:
        facts["event loop"] = "uvloop"
    print_facts(facts)
    with ExitStack() as stack:
        servers = _started(carriers, stack, absent, on_uvloop=args.uvloop)
        results = {row: _measure(row, carriers, servers, args) for row in rows}
    print(_report_text(results, carriers, absent, is_smoke=args.smoke))
    write_json(args.json, _report(facts, results, absent))
    return int(args.strict and not args.smoke and bool(_missed(results)))


def _chosen(only: str | None) -> list[str]:
    rows = list(ROWS) if only is None else [row.strip() for row in only.split(",")]
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise SystemExit(f"--only: there is no row {', '.join(unknown)}, only {', '.join(ROWS)}")
    return rows


def _started(carriers: Carriers, stack: ExitStack, absent: dict[str, str], *, on_uvloop: bool) -> Servers:
    """Start the processes of every carrier; one whose processes fail is left out, if it is none of ours."""
    servers: Servers = {}
    for file in list(carriers):
        first: dict[str, Any] | None = None
        servers[file] = []
        for number in range(SERVERS):
            job = {"file": file, "number": number, "first": first, "uvloop": on_uvloop}
            try:
                worker = stack.enter_context(Worker("benchmarks.node_peers.worker", job))
            except RuntimeError as error:
                if file in node_peers.OWN:
                    raise
                absent[file] = f"n/a: {error}"
                del carriers[file]
                break
            servers[file].append(worker)
            first = first or worker.said
    return servers


def _measure(row: str, carriers: Carriers, servers: Servers, args: argparse.Namespace) -> dict[str, Series]:
    rounds = 1 if args.smoke else max(1, args.rounds)

    def measure(file: str, *, is_smoke: bool) -> Measure:
        callers, each = ROWS[row].size(carriers[file].share, is_smoke=is_smoke)
        trips = lambda: _ask(carriers[file], ROWS[row], servers[file][: ROWS[row].servers], callers, each)  # noqa: E731
        return _on_uvloop(trips) if args.uvloop else trips

    measures = {file: (measure(file, is_smoke=True), measure(file, is_smoke=args.smoke)) for file in carriers}
    may_fail = [file for file in carriers if file not in node_peers.OWN]
    return interleave(measures, rounds, may_fail=may_fail, note=row)


async def _ask(
    make_carrier: type[Carrier], row: Row, servers: Sequence[Worker], callers: int, each: int
) -> Trips:
    text, took_s = row.text, list[float]()
    clock = time.perf_counter

    async def ask_often(asks: Iterator[Ask]) -> None:
        for ask in itertools.islice(asks, each):
            began_at = clock()
            answer = await ask(text)
            took_s.append(clock() - began_at)
            if answer != text:
                raise AssertionError(f"{make_carrier.name} answered {answer[:100]!r}, not {text[:100]!r}")

    async with make_carrier([worker.said for worker in servers]) as carrier:
        names = agent_names(row.agents)
        asks = [carrier.ask(number % len(servers), name) for number, name in enumerate(names)]
        await asyncio.gather(*(ask(text) for ask in asks))  # opens the connections
        in_turn = itertools.cycle(asks)
        used_s = sum(worker.used().cpu_s for worker in servers)
        with Stopwatch(callers * each) as watch:
            await asyncio.gather(*(ask_often(in_turn) for _ in range(callers)))
        used_s = sum(worker.used().cpu_s for worker in servers) - used_s
    cost = watch.cost
    percentiles = statistics.quantiles(took_s, n=100, method="inclusive")
    p50_us, p99_us = percentiles[49] * 1e6, percentiles[98] * 1e6
    return Trips(cost.ops, cost.cpu_s + used_s, cost.wall_s, cost.cpu_s, p50_us, p99_us)


def _on_uvloop(measure: Measure) -> Measure:
    """Run it on a uvloop in a thread of its own; the loop that waits for the thread does nothing."""
    import uvloop

    async def run_in_thread() -> Cost:
        return await asyncio.to_thread(uvloop.run, measure())

    return run_in_thread


def _report_text(results: Results, carriers: Carriers, absent: Mapping[str, str], *, is_smoke: bool) -> str:
    missed = ", ".join(gate.title for gate in _missed(results)) or "none"
    parts = [_row_table(row, series, carriers) for row, series in results.items()]
    failures = [
        f"{row} {carriers[file].name}: n/a: {series.failure}"
        for row, by_file in results.items()
        for file, series in by_file.items()
        if series.failure
    ]
    return "\n".join(
        [
            "\n\n".join(parts),
            "\nOurs as a multiple of raw websockets",
            _gate_table(results, is_smoke=is_smoke),
            *failures,
            *(f"{file}: {reason}" for file, reason in absent.items()),
            "\nsmoke run: the figures mean nothing" if is_smoke else f"\ngates missed: {missed}",
        ]
    )


def _row_table(row: str, by_file: Mapping[str, Series], carriers: Carriers) -> str:
    headers = ["", "trips/s", "p50 us", "p99 us", "CPU us", "client's", "throughput x", "p50 x", "CPU x"]
    shown, compared = ("speed", "p50_us", "p99_us", "cpu_us", "client_cpu_us"), ("speed", "p50_us", "cpu_us")
    base = by_file[BASELINE]
    rows = []
    for file, series in by_file.items():
        if series.costs:
            figures = [series.median(unit) for unit in shown]
            ratios = [statistics.median(series.ratios(base, unit)) for unit in compared]
            rows.append([carriers[file].name, *figures, *ratios])
    return f"{row}: {ROWS[row].what}\n{table(headers, rows)}"


def _gate_table(results: Results, *, is_smoke: bool) -> str:
    rows: list[list[object]] = []
    for gate in GATES:
        if ratios := gate.ratios(results):
            ratio = statistics.median(ratios)
            verdict = "-" if is_smoke else "ok" if gate.is_met(ratio) else "MISSED"
            rows.append([gate.title, ratio, f"({min(ratios):.2f}-{max(ratios):.2f})", str(gate), verdict])
    return table(["", "ratio", "(rounds)", "gate", ""], rows)


def _missed(results: Results) -> list[Gate]:
    medians = {gate: statistics.median(ratios) for gate in GATES if (ratios := gate.ratios(results))}
    return [gate for gate, ratio in medians.items() if not gate.is_met(ratio)]


def _report(facts: dict[str, Any], results: Results, absent: dict[str, str]) -> dict[str, Any]:
    return {
        "benchmark": "distributed",
        "machine": facts,
        "gates": {gate.title: str(gate) for gate in GATES},
        "ratios": {
            gate.title: statistics.median(ratios) for gate in GATES if (ratios := gate.ratios(results))
        },
        "rounds": {
            row: {file: asdict(series) for file, series in by_file.items()}
            for row, by_file in results.items()
        },
        "not_importable": absent,
    }
