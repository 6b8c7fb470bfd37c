"""The agents of ``million`` spread over other processes, and asked one question each over loopback from here.

A link carries letters to at most 65,536 agents, so the asking process has several runtimes, each
with a link to every node. Not all asks are under way at once: the links carry fewer
in a second than there are, and ``AT_ONCE`` callers are plenty for what they carry. Time
counts from the first agent made to the last answer; every process has the same collector settings.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import statistics
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from agentscope_async.agents import AgentBase
from agentscope_async.message import Msg
from agentscope_async.models import EchoModel
from agentscope_async.runtime import Runtime, current_runtime

from .common import Stopwatch, judged, machine_facts, print_facts, progress, table, write_json
from .million import GIB, MODEL_DELAY_S, TUNED_THRESHOLDS, Counting
from .processes import Worker, ready, told

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from agentscope_async.node.remote import RemoteAgent

WALL_GATE_S = 40.0
AGENTS_PER_LINK = 62_500
AT_ONCE = 36_000
MADE_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round took; CPU seconds and peaks of the asking process, then of each node."""

    agents: int
    wall_s: float
    cpu_s: list[float]
    peak_bytes: list[int]


def run(args: argparse.Namespace, count: int) -> int:
    """Measure in fresh processes, print, write; 1 when the gate is missed under ``--strict``, else 0."""
    facts = machine_facts()
    print_facts(facts)
    rounds = []
    for number in range(1 if args.smoke else max(1, args.rounds)):
        progress(f"{count:,} agents on {args.nodes} nodes, round {number + 1}")
        job = {"role": "asks", "agents": count, "nodes": args.nodes, "is_tuned": args.gc == "tuned"}
        with Worker("benchmarks.million_nodes", job) as asking:
            rounds.append(Figures(**asking.said))
    progress("")
    wall_s = statistics.median(each.wall_s for each in rounds)
    is_judged = not args.smoke and count == 1_000_000
    print(f"{count:,} agents on {args.nodes} nodes, medians of {len(rounds)}\n{_table(rounds, args.nodes)}")
    verdict = judged(wall_s, WALL_GATE_S, is_smoke=not is_judged)
    print(f"\nwall, s: {wall_s:.1f}, gate <= {WALL_GATE_S:g}: {verdict}")
    if not is_judged:
        print("the gate is for --agents 1000000")
    write_json(
        args.json,
        {"benchmark": "million --nodes", "machine": facts, "rounds": [asdict(each) for each in rounds]},
    )
    return int(args.strict and is_judged and wall_s > WALL_GATE_S)


def _table(rounds: list[Figures], nodes: int) -> str:
    rows = [
        [
            f"node {place}" if place else "asking",
            statistics.median(each.wall_s for each in rounds),
            statistics.median(each.cpu_s[place] for each in rounds),
            statistics.median(each.cpu_s[place] / each.agents for each in rounds) * 1e6,
            statistics.median(each.peak_bytes[place] for each in rounds) / GIB,
        ]
        for place in range(nodes + 1)
    ]
    return table(["", "wall s", "CPU s", "CPU us an agent", "peak GiB"], rows)


# -- in the asking process --


async def _ask(count: int, nodes: int, *, is_tuned: bool) -> Figures:
    token = token_urlsafe(32)
    share = -(-count // nodes)
    with ExitStack() as started:
        jobs = [{"role": "node", "token": token, "is_tuned": is_tuned}] * nodes
        workers = [Worker("benchmarks.million_nodes", job) for job in jobs]
        urls = [started.enter_context(worker).said["url"] for worker in workers]
        async with AsyncExitStack() as open_:
            links = -(-share // AGENTS_PER_LINK)
            runtimes = [await open_.enter_async_context(Runtime(token=token)) for _ in range(links)]
            makers = [runtimes[0].agent(f"{url}/maker") for url in urls]
            await asyncio.gather(*(maker(_msg(0)) for maker in makers))  # opens the first links
            used_s = [worker.used().cpu_s for worker in workers]
            with Stopwatch(count) as watch:
                await asyncio.gather(*(maker(_msg(share)) for maker in makers))
                answers = await _answers_of(
                    runtimes[(number // nodes) % links].agent(f"{urls[number % nodes]}/a{number // nodes}")
                    for number in range(count)
                )
            used_s = [worker.used().cpu_s - before for worker, before in zip(workers, used_s, strict=True)]
            _check(answers, sum(worker.answer("answered") for worker in workers), count, nodes)
        peaks = [_peak(), *(worker.answer("peak") for worker in workers)]
    return Figures(count, watch.cost.wall_s, [watch.cost.cpu_s, *used_s], peaks)


async def _answers_of(agents: Iterable[RemoteAgent]) -> list[Any]:
    """Ask each agent once, by as many callers as ask at a time."""
    question, left = _msg("What do you make of this?"), enumerate(agents)
    answers: list[Any] = []

    async def ask() -> None:
        for number, agent in left:
            answers.append(None)
            answers[number] = await agent(question)

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return answers


def _check(answers: list[Any], answered: int, count: int, nodes: int) -> None:
    right = sum(answer.name == f"agent{number // nodes}" for number, answer in enumerate(answers))
    if (len(answers), right, answered) != (count, count, count):
        raise AssertionError(
            f"of {count} agents {answered} have answered once and remember it; "
            f"there are {len(answers)} answers, {right} by whoever was asked"
        )


# -- in each node --


class Maker(AgentBase):
    """Makes and exports as many agents as it is told, and lets the loop run meanwhile."""

    def __init__(self) -> None:
        super().__init__("maker")
        self.made: list[Counting] = []

    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        runtime: Any = current_runtime()
        model = EchoModel(delay_s=MODEL_DELAY_S)
        for number in range(x.content):
            agent = Counting(f"agent{number}", model=model)
            self.made.append(agent)
            runtime.export(f"a{number}", agent)
            if not number % MADE_AT_ONCE:
                await asyncio.sleep(0)
        return Msg(self.name, "made", role="assistant")

    def answered(self) -> int:
        """Return how many agents had one turn and remember what was said in it."""
        return sum(
            agent.turns == 1 and agent.memory is not None and agent.memory.size() == 2 for agent in self.made
        )


async def _serve(token: str) -> None:
    maker = Maker()
    async with Runtime(listen="ws://127.0.0.1:0", token=token, exports={"maker": maker}, grace=0) as runtime:
        ready({"url": runtime.url}, {"answered": maker.answered, "peak": _peak})
        await asyncio.Event().wait()


def _msg(content: Any) -> Msg:
    return Msg("user", content, role="user")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    job = told()
    if job["is_tuned"]:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*TUNED_THRESHOLDS)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        if job["role"] == "node":
            runner.run(_serve(job["token"]))
        else:
            ready(asdict(runner.run(_ask(job["agents"], job["nodes"], is_tuned=job["is_tuned"]))))


if __name__ == "__main__":
    main()
