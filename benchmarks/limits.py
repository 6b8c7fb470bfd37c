"""How well calls keep a provider's limit: 500 tasks before a server that allows 100 calls a second.

  known     the wrapper is told: requests_per_min=6000
  headers   it is not told, but each answer says what is left: x-ratelimit-remaining-requests
  429s      it is not told at all, and finds out by being refused

The server, a process of its own, refuses what is above its limit, counted in a sliding or
fixed window of a second, or by a bucket of 100 calls. A task calls again as soon as it
is answered; a refused call is tried again as the wrapper does it. Figures are shares of all
requests (429s), of what the limit allows (throughput), and answers per task.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import orjson

from . import canned
from .canned import CannedConnection
from .common import judged, machine_facts, print_facts, progress, table, write_json

if TYPE_CHECKING:
    import argparse

TASKS = 500
LIMIT_PER_S = 100
MOST_REFUSED = 0.01
LEAST_THROUGHPUT = 0.95
HELLO = [{"role": "user", "content": "Hello!"}]
MODES = ("known", "headers", "429s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to: requests and refusals as the server counts them, answers as the tasks do."""

    seconds: float
    requests: int
    refused: int
    answers: list[int]  # of each task
    failed_calls: int

    @property
    def refused_share(self) -> float:
        """The share of requests that got a 429."""
        return self.refused / self.requests if self.requests else 0.0

    @property
    def throughput(self) -> float:
        """Answers as a share of what the limit allows."""
        return sum(self.answers) / (self.seconds * LIMIT_PER_S)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measurement (default: 10)")
    parser.add_argument(
        "--window", choices=WINDOWS, default="sliding", help="how the server counts (default: sliding)"
    )


def run(args: argparse.Namespace) -> int:
    facts = machine_facts()
    print_facts(facts)
    seconds = 1.0 if args.smoke else args.seconds
    outcomes = {}
    for mode in MODES:
        progress(f"{mode}, {seconds:g} s")
        with canned.serving("benchmarks.limits", args.window, mode) as origin:
            outcomes[mode] = asyncio.run(_measure(origin, mode, seconds))
    progress("")
    print(f"{TASKS} tasks, {LIMIT_PER_S} calls a second, {args.window}, {seconds:g} s each")
    headers = ["limit", "requests", "429s", "throughput", "least", "most answers of a task", "calls failed"]
    print(table(headers, [_row(mode, outcome) for mode, outcome in outcomes.items()]))
    known = outcomes["known"]
    is_kept = known.refused_share <= MOST_REFUSED and known.throughput >= LEAST_THROUGHPUT
    refused = judged(known.refused_share, MOST_REFUSED, is_smoke=args.smoke)
    throughput = judged(LEAST_THROUGHPUT, known.throughput, is_smoke=args.smoke)
    print(f"\nknown: at most {MOST_REFUSED:.0%} of 429s: {refused}")
    print(f"known: at least {LEAST_THROUGHPUT:.0%} throughput: {throughput}")
    figures = {mode: asdict(outcome) for mode, outcome in outcomes.items()}
    write_json(args.json, {"benchmark": "limits", "machine": facts, "window": args.window, "runs": figures})
    return int(args.strict and not args.smoke and not is_kept)


def _row(mode: str, outcome: Outcome) -> list[object]:
    return [
        mode,
        outcome.requests,
        f"{outcome.refused_share:.2%}",
        f"{outcome.throughput:.1%}",
        min(outcome.answers),
        max(outcome.answers),
        outcome.failed_calls,
    ]


async def _measure(origin: str, mode: str, seconds: float) -> Outcome:
    from agentscope_async.errors import RateLimited
    from agentscope_async.models import OpenAIChatWrapper

    client_args = {"requests_per_min": LIMIT_PER_S * 60} if mode == "known" else {}
    model = OpenAIChatWrapper("limited", "m", "sk", base_url=f"{origin}/v1", client_args=client_args)
    answers = [0] * TASKS
    failed_calls = 0

    async def call_again_and_again(task: int) -> None:
        nonlocal failed_calls
        while True:
            try:
                await model(HELLO)
            except RateLimited:
                failed_calls += 1
            else:
                answers[task] += 1

    began_at = time.perf_counter()
    tasks = [asyncio.create_task(call_again_and_again(number)) for number in range(TASKS)]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    outcome_answers, seconds = list(answers), time.perf_counter() - began_at
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in done:  # they never return: an error that is none of the limit's
        task.result()
    requests, refused = await _figures(origin)
    return Outcome(seconds, requests - 1, refused, outcome_answers, failed_calls)


async def _figures(origin: str) -> tuple[int, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(origin.rpartition(":")[2]))
    writer.write(b"GET /figures HTTP/1.1\r\nHost: localhost\r\n\r\n")
    requests, refused = (await reader.readline()).split()
    writer.close()
    await writer.wait_closed()
    return int(requests), int(refused)


class Window(Protocol):
    """How a server counts; times are seconds of its clock."""

    def admit(self, now_s: float) -> bool:
        """Take one more call, if the limit allows."""

    def remaining(self, now_s: float) -> tuple[int, float]:
        """Return how many more calls would be taken now, and the seconds until all are again."""


class Sliding:
    """At most so many calls within any second."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque()

    def admit(self, now_s: float) -> bool:
        while self._taken and self._taken[0] <= now_s - 1:
            self._taken.popleft()
        is_free = len(self._taken) < LIMIT_PER_S
        if is_free:
            self._taken.append(now_s)
        return is_free

    def remaining(self, now_s: float) -> tuple[int, float]:
        last_s = self._taken[-1] if self._taken else now_s - 1
        return LIMIT_PER_S - len(self._taken), last_s + 1 - now_s


class Fixed:
    """At most so many calls from one full second to the next."""

    def __init__(self) -> None:
        self._second = 0
        self._taken = 0

    def admit(self, now_s: float) -> bool:
        if int(now_s) != self._second:
            self._second, self._taken = int(now_s), 0
        is_free = self._taken < LIMIT_PER_S
        self._taken += is_free
        return is_free

    def remaining(self, now_s: float) -> tuple[int, float]:
        return LIMIT_PER_S - self._taken, self._second + 1 - now_s


class TokenBucket:
    """So many calls saved up at most, as many again in a second."""

    def __init__(self) -> None:
        self._saved = float(LIMIT_PER_S)
        self._seen_s = 0.0

    def admit(self, now_s: float) -> bool:
        self._saved = min(LIMIT_PER_S, self._saved + (now_s - self._seen_s) * LIMIT_PER_S)
        self._seen_s = now_s
        is_free = self._saved >= 1
        self._saved -= is_free
        return is_free

    def remaining(self, now_s: float) -> tuple[int, float]:
        return int(self._saved), (LIMIT_PER_S - self._saved) / LIMIT_PER_S


WINDOWS: dict[str, Callable[[], Window]] = {"sliding": Sliding, "fixed": Fixed, "bucket": TokenBucket}


class LimitedDesk:
    """What all connections of the server share."""

    def __init__(self, window: Window, *, tells_what_is_left: bool) -> None:
        self.requests = self.refused = 0
        self._window = window
        self._tells_what_is_left = tells_what_is_left

    def answer(self) -> bytes:
        """Count a request and return the answer to it."""
        now_s = time.monotonic()
        self.requests += 1
        is_admitted = self._window.admit(now_s)
        self.refused += not is_admitted
        return _http_answer("200 OK", _ANSWER, self._headers(now_s)) if is_admitted else self._refuse(now_s)

    def _refuse(self, now_s: float) -> bytes:
        return _http_answer("429 Too Many Requests", _REFUSAL, self._headers(now_s))

    def _headers(self, now_s: float) -> str:
        if not self._tells_what_is_left:
            return ""
        left, reset_s = self._window.remaining(now_s)
        return (
            f"x-ratelimit-limit-requests: {LIMIT_PER_S}\r\nx-ratelimit-remaining-requests: {left}\r\n"
            f"x-ratelimit-reset-requests: {reset_s * 1000:.0f}ms\r\n"
        )


class LimitedConnection(CannedConnection):
    """Answers or refuses at once; ``GET /figures`` gives the counts on a line."""

    def __init__(self, desk: LimitedDesk) -> None:
        super().__init__()
        self._desk = desk

    def _answer(self, request: bytes) -> None:
        desk = self._desk
        is_question = request.startswith(b"GET /figures")
        self._transport.write(b"%d %d\n" % (desk.requests, desk.refused) if is_question else desk.answer())


def _http_answer(status: str, body: bytes, headers: str) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_ANSWER = orjson.dumps(canned.ANSWER)
_REFUSAL = orjson.dumps({"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}})


def _serve(window: str, mode: str) -> None:
    desk = LimitedDesk(WINDOWS[window](), tells_what_is_left=mode == "headers")
    asyncio.run(canned.serve(lambda: LimitedConnection(desk)))


if __name__ == "__main__":
    _serve(*sys.argv[1:])
