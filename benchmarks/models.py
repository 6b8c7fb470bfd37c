"""M1 and M2: what a model call costs the client, beside raw HTTP, aiohttp, httpx and other packages.

  M1       calls one after another
  M1-64    64 calls in flight
  M1-512   512 calls in flight
  M2       streams of 200 events, read one after another; an op is an event
  M2-drip  the same where each event comes alone, 1 ms after the last

A server in a process of its own gives everybody the same answers over loopback; only the
client's process is measured, all its threads included. Connections are opened before.
The ratios are of CPU inside a round, medians of the rounds (least to most). Every client
runs on the same kind of event loop, with the garbage collector as it is; what the imports
left is frozen. The figures of httpx are those of one AsyncClient with its defaults. Where
sniffio is not installed, all that is built on httpcore 1.0.9 is slower: it looks for it
several times a request (https://github.com/encode/httpcore/pull/1103).
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import importlib
import pstats
import statistics
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import canned
from .common import (
    Cost,
    Measure,
    Series,
    Stopwatch,
    in_short,
    interleave,
    judged,
    machine_facts,
    print_facts,
    run_alone,
    table,
    write_json,
)
from .http_clients import CLIENTS, Httpx, ModelClient, OurBase, OurFast
from .model_peers import PEERS, OpenAI

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterable

BASE, FAST, HTTPX, OPENAI = OurBase.name, OurFast.name, Httpx.name, OpenAI.name
CARRIERS = ("httpx", "httpcore", "sniffio", "aiohttp", "httpx-aiohttp")
OPEN_FILES = 4096

Clients: TypeAlias = dict[str, type[ModelClient]]

Results: TypeAlias = dict[str, dict[str, Series]]
"""Row -> client -> what each round took."""


@dataclass(frozen=True)
class Row:
    """``in_flight`` callers, each of which asks or listens ``each`` times."""

    what: str
    short: str
    each: int
    in_flight: int = 1
    how: Literal["ask", "listen"] = "ask"
    prefix: str = ""

    def size(self, share: float, *, is_smoke: bool) -> tuple[int, int]:
        """Return how many callers call how often."""
        if is_smoke:
            return min(self.in_flight, 16), 1 if self.how == "listen" else 2
        return self.in_flight, max(1, round(self.each * share))


ROWS = {
    "M1": Row("call, one after another", "seq", 2000),
    "M1-64": Row("call, 64 in flight", "64", 64, 64),
    "M1-512": Row("call, 512 in flight", "512", 8, 512),
    "M2": Row("stream event", "stream", 60, how="listen"),
    "M2-drip": Row("stream event that comes alone", "drip", 2, how="listen", prefix="/drip"),
}
ROUNDS_OF = (("M1",), ("M1-64", "M1-512"), ("M2",), ("M2-drip",))
"""Rows of one group are measured in the same rounds, so that one can be compared with the other."""


@dataclass(frozen=True)
class Gate:
    """How much CPU one of ours may take per op, as a multiple of another client's or row's."""

    ours: str
    row: str
    limit: float
    other: str = HTTPX
    other_row: str = ""

    @property
    def title(self) -> str:
        """The two sides."""
        beside = f"its own {self.other_row}" if self.other == self.ours else self.other
        return f"{self.row} {self.ours} / {beside}"

    def ratios(self, results: Results) -> list[float]:
        """Return the ratio of each round; empty where one side was not measured."""
        mine = results.get(self.row, {}).get(self.ours)
        theirs = results.get(self.other_row or self.row, {}).get(self.other)
        return mine.ratios(theirs) if mine and theirs and mine.costs and theirs.costs else []


GATES = (
    Gate(BASE, "M1", 0.8),
    Gate(FAST, "M1", 0.5),
    Gate(BASE, "M1-64", 0.25),
    Gate(FAST, "M1-64", 0.12),
    Gate(FAST, "M1-64", 1 / 7, other=OPENAI),
    Gate(BASE, "M1-512", 1.5, other=BASE, other_row="M1-64"),
    Gate(FAST, "M1-512", 1.5, other=FAST, other_row="M1-64"),
    Gate(BASE, "M2", 1.2),
    Gate(FAST, "M2", 1.2),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks models``."""
    parser.add_argument("--only", metavar="M1,M2", help="these rows only")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default: 5)")
    parser.add_argument("--uvloop", action="store_true", help="run every client on uvloop")
    parser.add_argument("--no-peers", action="store_true", help="leave other packages out, installed or not")
    parser.add_argument(
        "--profile",
        metavar=f"{FAST}-64",
        help=f"profile one client in one row ({', '.join(row.short for row in ROWS.values())}) instead",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a gate is missed under ``--strict``, else 0."""
    rows = _chosen(args.only)
    clients, absent = _importable(CLIENTS if args.no_peers else CLIENTS + PEERS)
    _allow_open_files()
    gc.collect()
    gc.freeze()
    if args.profile:
        return _profile(args.profile, clients, on_uvloop=args.uvloop)
    facts = {**machine_facts(), "packages": _versions(clients)}
    if args.uvloop:
        facts["event loop"] = "uvloop"
    print_facts(facts)
    with canned.serving() as server:
        results = _measure(rows, clients, server, args)
    print(_report_text(results, absent, is_smoke=args.smoke))
    write_json(args.json, _report(facts, results, absent))
    return int(args.strict and not args.smoke and bool(_missed(results)))


def _chosen(only: str | None) -> list[str]:
    rows = list(ROWS) if only is None else [row.strip() for row in only.split(",")]
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise SystemExit(f"--only: there is no row {', '.join(unknown)}, only {', '.join(ROWS)}")
    return rows


def _importable(candidates: Iterable[type[ModelClient]]) -> tuple[Clients, dict[str, str]]:
    """Import what each needs; return those for which all is there, and name -> reason for the others."""
    clients, absent = {}, {}
    for candidate in candidates:
        try:
            for module in candidate.modules:
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("agentscope_async"):
                raise  # ours is always there
            absent[candidate.name] = f"n/a: no module {error.name}: pip install {candidate.pip}"
        except Exception as error:  # whatever an import of somebody else's package may raise
            absent[candidate.name] = f"n/a: {in_short(error)}"
        else:
            clients[candidate.name] = candidate
    return clients, absent


def _versions(clients: Clients) -> str:
    peers = [name for name in clients if clients[name] in PEERS]
    versions = []
    for package in (*CARRIERS, *peers):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    return ", ".join(versions)


def _allow_open_files() -> None:
    """Raise the soft limit on open files where it is below what 512 connections and a server need."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < OPEN_FILES:
        wanted = OPEN_FILES if hard < 0 else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _measure(rows: Collection[str], clients: Clients, server: str, args: argparse.Namespace) -> Results:
    rounds = 1 if args.smoke else max(1, args.rounds)
    results: Results = {row: {} for row in rows}
    for group in ROUNDS_OF:
        cells = {
            f"{row} {name}": (row, name) for name in clients for row in group if row in rows
        }  # a client's rows one after the other
        if cells:
            measures = {
                cell: _warm_up_and_measure(row, clients[name], server, args)
                for cell, (row, name) in cells.items()
            }
            may_fail = [cell for cell, (_, name) in cells.items() if clients[name] in PEERS]
            for cell, series in interleave(measures, rounds, may_fail=may_fail).items():
                row, name = cells[cell]
                results[row][name] = series
    return results


def _warm_up_and_measure(
    row: str, client: type[ModelClient], server: str, args: argparse.Namespace
) -> tuple[Measure, Measure]:
    def measure(*, is_smoke: bool) -> Measure:
        on_loop = _measure_of(ROWS[row], client, server, is_smoke=is_smoke)
        return _on_uvloop(on_loop) if args.uvloop else on_loop

    return measure(is_smoke=True), measure(is_smoke=args.smoke)


def _measure_of(row: Row, make_client: type[ModelClient], server: str, *, is_smoke: bool) -> Measure:
    callers, each = row.size(make_client.share, is_smoke=is_smoke)
    return lambda: _calls(make_client(f"{server}{row.prefix}/v1"), row, callers, each)


async def _calls(client: ModelClient, row: Row, callers: int, each: int) -> Cost:
    expected, ops = (
        (canned.ANSWER_TEXT, 1) if row.how == "ask" else (canned.STREAM_TEXT, canned.STREAM_EVENTS)
    )

    async def call_often() -> None:
        call = getattr(client, row.how)
        for _ in range(each):
            text = await call()
            if text != expected:
                raise AssertionError(f"{client.name} heard {text[:100]!r}, not {expected[:100]!r}")

    async with client:
        await asyncio.gather(*(client.ask() for _ in range(callers)))  # opens the connections
        with Stopwatch(callers * each * ops) as watch:
            await asyncio.gather(*(call_often() for _ in range(callers)))
    return watch.cost


def _on_uvloop(measure: Measure) -> Measure:
    """Run it on a uvloop in a thread of its own; the loop that waits for the thread does nothing."""
    import uvloop

    async def run_in_thread() -> Cost:
        return await asyncio.to_thread(uvloop.run, measure())

    return run_in_thread


def _profile(wanted: str, clients: Clients, *, on_uvloop: bool) -> int:
    """Print where ``client-row`` spends its time, in the size of one round, set-up included."""
    cells = {f"{name}-{row.short}": (name, row) for name in clients for row in ROWS.values()}
    if wanted not in cells:
        raise SystemExit(f"--profile: there is no {wanted!r}, only {', '.join(cells)}")
    name, row = cells[wanted]
    profiler = cProfile.Profile()
    with canned.serving() as server:
        measure = _measure_of(row, clients[name], server, is_smoke=False)
        run_alone(_measure_of(row, clients[name], server, is_smoke=True))
        if on_uvloop:
            import uvloop

            cost = profiler.runcall(uvloop.run, measure())
        else:
            cost = profiler.runcall(run_alone, measure)
    print(f"{wanted}: {cost.ops:,} operations, {cost.cpu_us:.1f} us of CPU each under the profiler")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    return 0


def _report_text(results: Results, absent: dict[str, str], *, is_smoke: bool) -> str:
    missed = ", ".join(gate.title for gate in _missed(results)) or "none"
    failures = [
        f"{row} {name}: n/a: {series.failure}"
        for row, by_client in results.items()
        for name, series in by_client.items()
        if series.failure
    ]
    return "\n".join(
        [
            *(f"{row:<8} {ROWS[row].what}" for row in results),
            "\nCPU microseconds per operation, medians",
            _client_table(results, "cpu_us"),
            "\nCPU as a multiple of httpx's",
            _client_table(results, "cpu_us", beside=HTTPX),
            "\nWall time as a multiple of httpx's",
            _client_table(results, "wall_us", beside=HTTPX),
            "\nGates on CPU",
            _gate_table(results, is_smoke=is_smoke),
            *failures,
            *(f"{name}: {reason}" for name, reason in absent.items()),
            "\nsmoke run: the figures mean nothing" if is_smoke else f"\ngates missed: {missed}",
        ]
    )


def _client_table(results: Results, unit: str, *, beside: str | None = None) -> str:
    names = list(dict.fromkeys(name for by_client in results.values() for name in by_client))
    rows = [
        [name, *(_cell(by_client, name, unit, beside) for by_client in results.values())] for name in names
    ]
    return table(["", *results], rows)


def _cell(by_client: dict[str, Series], name: str, unit: str, beside: str | None) -> object:
    series = by_client[name]
    if series.failure:
        return "n/a"
    return (
        series.median(unit) if beside is None else statistics.median(series.ratios(by_client[beside], unit))
    )


def _gate_table(results: Results, *, is_smoke: bool) -> str:
    rows: list[list[object]] = []
    for gate in GATES:
        if ratios := gate.ratios(results):
            ratio = statistics.median(ratios)
            spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
            verdict = judged(ratio, gate.limit, is_smoke=is_smoke)
            rows.append([gate.title, ratio, spread, f"<= {gate.limit:.3g}", verdict])
        elif gate.row in results:
            rows.append([gate.title, "not measured", "", f"<= {gate.limit:.3g}", ""])
    return table(["", "CPU ratio", "(rounds)", "gate", ""], rows)


def _missed(results: Results) -> list[Gate]:
    return [
        gate for gate in GATES if (ratios := gate.ratios(results)) and statistics.median(ratios) > gate.limit
    ]


def _report(facts: dict[str, Any], results: Results, absent: dict[str, str]) -> dict[str, Any]:
    return {
        "benchmark": "models",
        "machine": facts,
        "gates": {gate.title: gate.limit for gate in GATES},
        "cpu_ratios": {
            gate.title: statistics.median(ratios) for gate in GATES if (ratios := gate.ratios(results))
        },
        "rounds": {
            row: {name: asdict(series) for name, series in by_client.items()}
            for row, by_client in results.items()
        },
        "not_importable": absent,
    }
