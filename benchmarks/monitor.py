"""Metrics and budgets: what they cost the event loop, and what a kill leaves behind.

lag       how late a task that sleeps 1 ms wakes up, alone and beside others: 64 tasks
          that await adds to a file, then counts without a wait, as many as asked for
          each millisecond
adds      awaited adds a second from 64 tasks, and how many shared a commit
budget    reserve, mark as sent and settle: in memory; in a file, one by one and 500 at once
--kills   processes that spend from one budget are killed at random moments; afterwards
          nothing may be reserved, and no more spent than allowed, nor less than was sent
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope_async import Usage
from agentscope_async.monitor import Budget, Monitor

from .common import Stopwatch, machine_facts, print_facts, progress, table, write_json

if TYPE_CHECKING:
    import argparse

TASKS = 64
LAG_AIM_MS = 5.0
ALLOWED_CALLS = 100

SPENDER = """
import asyncio, os, sys
from agentscope_async.monitor import Budget
from agentscope_async.errors import BudgetExceededError

async def spend(budget, sent, gate):
    while True:
        try:
            reservation = await budget.reserve(model="m", input_tokens=10, output_tokens=0)
        except BudgetExceededError:
            return
        await reservation.mark_sent()
        os.write(sent, b".")
        await gate.wait()
        reservation.settle(None)

async def main():
    path, sent_path, tasks, allowed = sys.argv[1:]
    sent = os.open(sent_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    budget = Budget(calls=int(allowed), path=path)
    gate = asyncio.Event()
    async with budget:
        print("open", flush=True)
        tasks = [asyncio.create_task(spend(budget, sent, gate)) for _ in range(int(tasks))]
        # Settled a few at a time, so that there is always something reserved, sent and settled.
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.002)
            gate.set()
            gate.clear()
    await budget.aclose()

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a budget for 100 calls looks like after its spenders have gone."""

    sent: int
    spent: int
    reserved: int
    open_rows: int
    left_files: int

    @property
    def is_sound(self) -> bool:
        """Nothing is open, and what was sent is accounted for, within the budget."""
        is_closed = self.reserved == self.open_rows == self.left_files == 0
        return is_closed and self.sent <= self.spent <= ALLOWED_CALLS


def spend_in_processes(
    folder: Path, processes: int = 1, tasks: int = 250, kill_after_s: float | None = None
) -> Aftermath:
    """Let the tasks of some processes spend from one budget, and kill the processes if asked to."""
    path, sent = folder / "budget.db", folder / "sent"
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        SPENDER,
        str(path),
        str(sent),
        str(tasks),
        str(ALLOWED_CALLS),
    ]
    spenders = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    for spender in spenders:
        assert spender.stdout is not None
        spender.stdout.readline()
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        for spender in spenders:
            spender.kill()
    for spender in spenders:
        spender.communicate()
        if kill_after_s is None and spender.returncode:
            raise RuntimeError(f"a spender failed with {spender.returncode}")
    return aftermath_of(path, sent.stat().st_size if sent.exists() else 0)


def aftermath_of(path: Path, sent: int) -> Aftermath:
    """Open a budget that its spenders have left and return what is in it; not for an event loop."""
    spent, reserved = asyncio.run(_figures(path))
    connection = sqlite3.connect(path)
    (open_rows,) = connection.execute("SELECT count(*) FROM reservations").fetchone()
    connection.close()
    owners = path.with_name(path.name + ".owners")
    left = len(list(owners.iterdir())) if owners.exists() else 0
    return Aftermath(sent, spent, reserved, open_rows, left)


async def _figures(path: Path) -> tuple[int, int]:
    budget = Budget(calls=ALLOWED_CALLS, path=path)
    await budget.refresh()
    figures = budget.spent.calls, budget.reserved.calls
    await budget.aclose()
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3.0, help="for each lag measurement (default: 3)")
    parser.add_argument("--counts-per-ms", type=int, default=512, help="counts a millisecond (default: 512)")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill N processes, two at a time")


def run(args: argparse.Namespace) -> int:
    facts = machine_facts()
    print_facts(facts)
    seconds = 0.05 if args.smoke else args.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lags = _lags(folder, seconds, 8 if args.smoke else args.counts_per_ms)
        costs = _costs(folder, is_smoke=args.smoke)
        kills = _kills(folder, min(args.kills, 1) if args.smoke else args.kills)
    print("\nMilliseconds late, of a task that sleeps 1 ms\n" + _lag_table(lags))
    print("\n" + table(["", "each us", "a second", "commits"], costs))
    unsound = [each for each in kills if not each.is_sound]
    if kills:
        sent = [each.sent for each in kills]
        print(f"\n{len(kills)} kills, after {min(sent)} to {max(sent)} calls sent: {len(unsound)} unsound")
        print("\n".join(map(str, unsound)))
    report = {"machine": facts, "lag_ms": lags, "costs": costs, "kills": [asdict(each) for each in kills]}
    write_json(args.json, {"benchmark": "monitor", **report})
    is_late = any(figures["p99"] > LAG_AIM_MS for figures in lags.values())
    return int(bool(unsound) or (args.strict and not args.smoke and is_late))


def _lags(folder: Path, seconds: float, counts_per_ms: int) -> dict[str, dict[str, float]]:
    async def alone(monitor: Monitor) -> None:
        await asyncio.Event().wait()

    async def adds(monitor: Monitor) -> None:
        await asyncio.gather(*(_add_forever(monitor) for _ in range(TASKS)))

    async def counts(monitor: Monitor) -> None:
        values = {"prompt_tokens": 900}
        achieved, started_at = 0, time.perf_counter()
        while True:
            due = int((time.perf_counter() - started_at) * 1000) * counts_per_ms
            # At most one millisecond's worth at a time: where that takes longer, the loop is simply full.
            for _ in range(min(due - achieved, counts_per_ms)):
                monitor.count(values, "model")
                achieved += 1
            await asyncio.sleep(0)

    loads = {"alone": alone, f"{TASKS} tasks await adds": adds, f"{counts_per_ms} counts a ms": counts}
    lags = {}
    for name, load in loads.items():
        progress(f"lag: {name}")
        lags[name] = asyncio.run(_lag_beside(load, folder / "lag.db", seconds))
    progress("")
    return lags


async def _add_forever(monitor: Monitor) -> None:
    while True:
        await monitor.add("n", 1)


async def _lag_beside(
    load: Callable[[Monitor], Awaitable[None]], path: Path, seconds: float
) -> dict[str, float]:
    monitor = Monitor(path)
    await monitor.register("n")
    busy = asyncio.ensure_future(load(monitor))
    late_ms = []
    end_at = time.perf_counter() + seconds
    while time.perf_counter() < end_at and not busy.done():
        asleep_at = time.perf_counter()
        await asyncio.sleep(0.001)
        late_ms.append((time.perf_counter() - asleep_at - 0.001) * 1000)
    busy.cancel()
    await asyncio.wait([busy])
    await monitor.aclose()
    late_ms.sort()
    return {"p50": late_ms[len(late_ms) // 2], "p99": late_ms[len(late_ms) * 99 // 100], "max": late_ms[-1]}


def _lag_table(lags: dict[str, dict[str, float]]) -> str:
    rows = [
        [name, each["p50"], each["p99"], each["max"], f"p99 <= {LAG_AIM_MS:g}"] for name, each in lags.items()
    ]
    return table(["", "p50", "p99", "max", "aim"], rows)


def _costs(folder: Path, *, is_smoke: bool) -> list[list[Any]]:
    rows = []
    adds = 5 if is_smoke else 500
    commits = _Commits()
    with commits:
        cost = asyncio.run(_time_adds(Monitor(folder / "adds.db"), adds))
    rows.append([f"awaited add, {TASKS} tasks, file", cost.wall_us, 1e6 / cost.wall_us, commits.number])
    cost = asyncio.run(_time_adds(Monitor(), adds))
    rows.append([f"awaited add, {TASKS} tasks, memory", cost.wall_us, 1e6 / cost.wall_us, None])
    cost = _time_counts(Monitor(), 100 if is_smoke else 100_000)
    rows.append(["count of 3 metrics", cost.wall_us, 1e6 / cost.wall_us, None])
    for name, path, tasks, each in (
        ("budget call, memory", None, 1, 20_000),
        ("budget call, file, one by one", folder / "one.db", 1, 500),
        ("budget call, file, 500 at once", folder / "many.db", 500, 5),
    ):
        commits = _Commits()
        with commits:
            cost = asyncio.run(_time_budget(path, tasks, 2 if is_smoke else each))
        rows.append([name, cost.wall_us, 1e6 / cost.wall_us, commits.number or None])
    return rows


class _Commits:
    """While inside, counts the commits of all connections opened."""

    def __enter__(self) -> None:
        self.number = 0
        counts = self

        class Counting(sqlite3.Connection):
            def commit(self) -> None:
                counts.number += self.in_transaction
                super().commit()

        self._connect = sqlite3.connect
        sqlite3.connect = lambda *args, **options: self._connect(*args, factory=Counting, **options)  # type: ignore[assignment]

    def __exit__(self, *error: object) -> None:
        sqlite3.connect = self._connect


async def _time_adds(monitor: Monitor, each: int) -> Any:
    await monitor.register("n")

    async def add() -> None:
        for _ in range(each):
            await monitor.add("n", 1)

    watch = Stopwatch(TASKS * each)
    with watch:
        await asyncio.gather(*(add() for _ in range(TASKS)))
    assert await monitor.get_value("n") == TASKS * each
    await monitor.aclose()
    return watch.cost


def _time_counts(monitor: Monitor, number: int) -> Any:
    values = {"call_counter": 1, "prompt_tokens": 900, "completion_tokens": 80}
    watch = Stopwatch(number)
    with watch:
        for _ in range(number):
            monitor.count(values, "model")
    return watch.cost


async def _time_budget(path: Path | None, tasks: int, each: int) -> Any:
    budget = Budget(usd=1000, calls=10**9, prices={"m": (0.15, 0.6)}, path=path)
    usage = Usage(900, 80)

    async def call() -> None:
        for _ in range(each):
            reservation = await budget.reserve(model="m", input_tokens=1000, output_tokens=500)
            await reservation.mark_sent()
            reservation.settle(usage)

    await budget.refresh()
    watch = Stopwatch(tasks * each)
    with watch:
        await asyncio.gather(*(call() for _ in range(tasks)))
    await budget.refresh()
    assert budget.spent.calls == tasks * each
    await budget.aclose()
    return watch.cost


def _kills(folder: Path, number: int) -> list[Aftermath]:
    def kill(index: int) -> Aftermath:
        progress(f"kills: {index + 1}/{number}")
        home = folder / f"kill{index}"
        home.mkdir()
        return spend_in_processes(home, tasks=8, kill_after_s=random.uniform(0, 0.08))

    with ThreadPoolExecutor(2) as pool:
        aftermaths = list(pool.map(kill, range(number)))
    progress("")
    return aftermaths
