"""A budget shared by processes that call a model: how much of it is used, and what a kill leaves behind.

Two processes make 250 calls each at once, through a wrapper and one budget for 100 calls in a
file. The server, in this process, counts what reaches it: never more than 100. Without
kills all 100 are used. With --kills N, one of the two is killed at a random moment, N times: the
other goes on, and afterwards nothing is reserved, and no less spent than was sent.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .canned import CannedConnection
from .common import machine_facts, print_facts, progress, table, write_json
from .monitor import ALLOWED_CALLS, Aftermath, aftermath_of

if TYPE_CHECKING:
    import argparse

PROCESSES = 2
CALLS_EACH = 250
AT_ONCE = (8, CALLS_EACH)
"""Calls of one process under way: few, so that both get some of the budget, or all."""
THINKING_S = 0.005
"""Between a request and its answer, so that at every moment some are under way."""

CALLER = """
import asyncio, sys
from agentscope_async.errors import BudgetExceededError
from agentscope_async.models import OpenAIChatWrapper
from agentscope_async.monitor import Budget

async def main():
    url, path, calls, at_once, allowed = sys.argv[1:]
    budget = Budget(calls=int(allowed), path=path)
    client_args = {"max_retries": 0, "max_concurrency": int(at_once)}
    model = OpenAIChatWrapper("caller", "m", "sk", base_url=url, client_args=client_args, budget=budget)
    hello = [{"role": "user", "content": "Hello!"}]
    await budget.refresh()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)  # both begin at once
    outcomes = await asyncio.gather(*(model(hello) for _ in range(int(calls))), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if unknown := [error for error in failures if not isinstance(error, BudgetExceededError)]:
        raise unknown[0]
    await budget.aclose()
    print(len(outcomes) - len(failures), len(failures))

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run came to.

    Attributes:
        requests: how many of each process reached the server.
        callers: for each process that was not killed, how many calls were answered and refused.
        aftermath: the budget, opened again when all were gone.
    """

    requests: list[int]
    callers: list[tuple[int, int]]
    aftermath: Aftermath

    @property
    def is_sound(self) -> bool:
        """Nothing is open; all that reached the server is accounted for, within the budget."""
        is_complete = all(sum(counts) == CALLS_EACH for counts in self.callers)
        return is_complete and self.aftermath.is_sound


class Desk:
    """The server's count of requests by caller; ``chosen`` is the caller that made a certain one of them."""

    def __init__(self, chosen_at: int = 0) -> None:
        self.requests = [0] * PROCESSES
        self.chosen: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._chosen_at = chosen_at

    def count(self, request: bytes) -> None:
        """Count one more: ``POST /<caller>/v1/...``."""
        caller = int(request.split(b"/", 2)[1])
        self.requests[caller] += 1
        if sum(self.requests) == self._chosen_at:
            self.chosen.set_result(caller)


class CountedConnection(CannedConnection):
    """Counts a request when it is there, and thinks before it answers."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def _answer(self, request: bytes) -> None:
        self._desk.count(request)
        asyncio.get_running_loop().call_later(THINKING_S, self._give, request)

    def _give(self, request: bytes) -> None:
        if not self._transport.is_closing():
            super()._answer(request)


async def call_in_processes(
    folder: Path, at_once: int = CALLS_EACH, kill_at: int = 0, kill_after_s: float = 0.0
) -> Report:
    """Let two processes spend one budget, each with so many calls under way at once.

    The one that sends request number ``kill_at`` of all is killed then, or so long after; 0: none.

    Raises:
        RuntimeError: a process that was not killed failed.
    """
    desk = Desk(kill_at)
    async with _serving(desk) as origin:
        path = folder / "budget.db"
        callers = [await _caller(f"{origin}/{number}/v1", path, at_once) for number in range(PROCESSES)]
        ends = [asyncio.create_task(caller.communicate(b"go\n")) for caller in callers]
        try:
            if kill_at:
                killed = callers[await desk.chosen]
                await asyncio.sleep(kill_after_s)
                _kill(killed)
            counts = [_counts(caller, await end) for caller, end in zip(callers, ends, strict=True)]
        finally:
            for caller in callers:
                _kill(caller)
            await asyncio.wait(ends)
    aftermath = await asyncio.to_thread(aftermath_of, path, sum(desk.requests))
    return Report(desk.requests, [each for each in counts if each is not None], aftermath)


@asynccontextmanager
async def _serving(desk: Desk) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: CountedConnection(desk), "127.0.0.1", 0, backlog=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def _caller(url: str, path: Path, at_once: int) -> Process:
    """Return a process that is ready to call and waits for a word."""
    arguments = (url, str(path), str(CALLS_EACH), str(at_once), str(ALLOWED_CALLS))
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", CALLER, *arguments, stdin=PIPE, stdout=PIPE
    )
    assert caller.stdout is not None
    await caller.stdout.readline()
    return caller


def _kill(caller: Process) -> None:
    if caller.returncode is None:
        caller.kill()


def _counts(caller: Process, output: tuple[bytes, bytes]) -> tuple[int, int] | None:
    """Return how many calls were answered and refused; None for one that was killed."""
    code = caller.returncode or 0
    if code > 0:
        raise RuntimeError(f"a caller failed with {code}")
    if code < 0:
        return None
    answered, refused = output[0].split()
    return int(answered), int(refused)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kills", type=int, default=0, metavar="N", help="kill one of two processes, N times"
    )


def run(args: argparse.Namespace) -> int:
    facts = machine_facts()
    print_facts(facts)
    kills = min(args.kills, 1) if args.smoke else args.kills
    runs: dict[str, list[Report]] = {}
    with tempfile.TemporaryDirectory() as name:
        for at_once in AT_ONCE:
            runs[f"{at_once} at once"] = [_run(Path(name) / str(at_once), at_once)]
        for number in range(kills):
            progress(f"kills: {number + 1}/{kills}")
            at_once = AT_ONCE[number % len(AT_ONCE)]
            killed = _run(Path(name) / f"kill{number}", at_once, _some_request(), random.uniform(0, 0.01))
            runs.setdefault(f"{at_once} at once, killed", []).append(killed)
    progress("")
    headers = [
        "calls of each process",
        "runs",
        "least sent",
        "most sent",
        "allowed",
        "by the first",
        "unsound",
    ]
    print(table(headers, [_row(each, reports) for each, reports in runs.items()]))
    unsound = [report for reports in runs.values() for report in reports if not report.is_sound]
    print("\n".join(map(str, unsound)))
    figures = {name: [asdict(each) for each in reports] for name, reports in runs.items()}
    write_json(args.json, {"benchmark": "budget", "machine": facts, "runs": figures})
    return int(bool(unsound))


def _some_request() -> int:
    return random.randint(1, ALLOWED_CALLS - 1)


def _run(folder: Path, at_once: int, kill_at: int = 0, kill_after_s: float = 0.0) -> Report:
    folder.mkdir()
    return asyncio.run(call_in_processes(folder, at_once, kill_at, kill_after_s))


def _row(name: str, reports: list[Report]) -> list[object]:
    sent = [sum(each.requests) for each in reports]
    by_first = sum(each.requests[0] for each in reports) / sum(sent)
    unsound = sum(not each.is_sound for each in reports)
    return [name, len(reports), min(sent), max(sent), ALLOWED_CALLS, f"{by_first:.0%}", unsound]
