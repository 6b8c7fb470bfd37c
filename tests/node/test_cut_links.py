"""What goes through a link that is cut again and again arrives once, in order.

By hand, with ten times as many messages and cuts: ``python -m tests.node.test_cut_links [seed]``.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from node.chaos import BOTH, ChaosProxy, Direction
from node.children import PATIENCE_S, TOKEN, ChildNode, LinkWatch, child_node, watching_links
from node.node_child import PARTS

from agentscope_async import Runtime

SENDERS = 5
STREAMED = 4
"""One ask in so many is heard while it is being answered."""


@dataclass
class Plan:
    """How much is sent, and how often the link is cut meanwhile."""

    tells: int
    asks: int
    cuts: int
    seed: int


@dataclass
class Outcome:
    """What became of it."""

    sent: dict[str, int] = field(default_factory=dict)
    seen: dict[str, list[int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    unfinished: int = 0
    resumes_s: list[float] = field(default_factory=list)
    cuts: int = 0

    @property
    def lost(self) -> int:
        return sum(len(set(range(count)) - set(self.seen[key])) for key, count in self.sent.items())

    @property
    def duplicated(self) -> int:
        return sum(len(seen) - len(set(seen)) for seen in self.seen.values())

    @property
    def out_of_order(self) -> int:
        pairs = (pair for seen in self.seen.values() for pair in itertools.pairwise(seen))
        return sum(earlier >= later for earlier, later in pairs)


class Sender:
    """Numbers what it sends to one agent: its number is its place in the order of sending."""

    def __init__(self, agent: Any, outcome: Outcome) -> None:
        self.agent = agent
        self.outcome = outcome
        self.numbers = itertools.count()
        self.asks: list[asyncio.Task[None]] = []

    async def send(self, tells: int, asks: int, chance: random.Random) -> None:
        """Send letters and begin asks, mixed."""
        kinds = ["tell"] * tells + ["ask"] * asks
        chance.shuffle(kinds)
        for kind in kinds:
            if kind == "ask":
                self.asks.append(asyncio.create_task(self.ask(is_heard=chance.randrange(STREAMED) == 0)))
                for _ in range(2):
                    await asyncio.sleep(0)  # in which it takes its number and, listening in a task, is sent
            else:
                await self.agent.post(self.message(chance))

    def message(self, chance: random.Random | None = None) -> str:
        filling = "" if chance is None else "x" * chance.choice((0, 10, 100, 3000))
        return f"{next(self.numbers)} {filling}"

    async def ask(self, *, is_heard: bool) -> None:
        message = self.message()
        number = message.strip()
        heard: list[str] = []
        try:
            if is_heard:
                async with self.agent.stream(message) as stream:
                    heard.extend([part.text async for part in stream])
                answer = stream.msg.text
            else:
                answer = (await self.agent(message)).text
        except Exception as error:
            self.outcome.wrong.append(f"{self.agent.name} {number}: {error!r}")
            return
        if answer != number or (is_heard and "".join(heard) != spoken(number)):
            self.outcome.wrong.append(f"{self.agent.name} {number}: {answer!r} {heard!r}")


def spoken(number: str) -> str:
    return "".join(f"{number}.{part} " for part in range(PARTS))


async def run(plan: Plan) -> Outcome:
    """Send everything, and cut the link ``plan.cuts`` times while it is on its way."""
    outcome, chance = Outcome(), random.Random(plan.seed)
    keys = [f"journal-{number}" for number in range(SENDERS)]
    async with child_node({key: {"kind": "Journal"} for key in keys}) as child:
        async with ChaosProxy(child.port) as proxy, Runtime(token=TOKEN) as runtime:
            senders = [Sender(runtime.agent(f"ws://127.0.0.1:{proxy.port}/{key}"), outcome) for key in keys]
            await senders[0].ask(is_heard=False)  # connects
            async with watching_links(runtime) as links:
                for tells, asks in shares(plan):
                    await interrupted(proxy, links, senders, tells, asks, chance)
                await settle(senders, child, outcome)
                outcome.cuts = links.count("up", "resumed")
                outcome.resumes_s = resume_times(proxy, links)
                assert links.count("lost") == 0
    return outcome


def shares(plan: Plan) -> list[tuple[int, int]]:
    """Return how many letters and asks each sender sends between two cuts."""
    parts = plan.cuts * SENDERS
    return [(-(-plan.tells // parts), -(-plan.asks // parts))] * plan.cuts


async def interrupted(
    proxy: ChaosProxy, links: LinkWatch, senders: list[Sender], tells: int, asks: int, chance: random.Random
) -> None:
    """Have everybody send, cut the link meanwhile in one of several ways, and see it resumed."""
    resumed, ended = links.count("up", "resumed"), len(proxy.ended_at)
    async with asyncio.TaskGroup() as sending:
        for sender in senders:
            sending.create_task(sender.send(tells, asks, chance))
        direction: Direction = chance.choice(BOTH)
        match chance.randrange(5):
            case 0:
                proxy.cut()
            case 1:
                proxy.reset()
            case 2:  # and again while it is being resumed: in the middle of the handshake
                accepted = proxy.accepted
                proxy.cut_after(chance.randrange(700), direction)
                while proxy.accepted < accepted + 3 and links.count("up", "resumed") == resumed:
                    await asyncio.sleep(0.001)
                proxy.heal()
            case _:  # mid-frame: so much is sent for certain
                proxy.cut_after(chance.randrange(20_000 if direction == "up" else 1000), direction, once=True)
    if len(proxy.ended_at) == ended:
        proxy.cut()
    await links.until("up", "resumed", times=resumed + 1)


async def settle(senders: list[Sender], child: ChildNode, outcome: Outcome) -> None:
    """Wait until all asks have ended and all letters were handled."""
    _, unfinished = await asyncio.wait([ask for each in senders for ask in each.asks], timeout=PATIENCE_S)
    outcome.unfinished = len(unfinished)
    for sender in senders:
        await sender.ask(is_heard=False)  # behind all its letters
    agents = (await child.facts())["agents"]
    outcome.seen = {key: agent["seen"] for key, agent in agents.items()}
    outcome.sent = {sender.agent.name: next(sender.numbers) for sender in senders}


def resume_times(proxy: ChaosProxy, links: LinkWatch) -> list[float]:
    """Return how long after its last cut each link was resumed, in seconds, shortest first."""
    resumed = [at for at, change in zip(links.at, links.changes, strict=True) if change.reason == "resumed"]
    return sorted(at - max(cut for cut in proxy.ended_at if cut <= at) for at in resumed)


async def test_nothing_is_lost_doubled_or_overtaken_while_the_link_is_cut_again_and_again() -> None:
    outcome = await run(Plan(tells=2000, asks=500, cuts=25, seed=1))
    assert sum(outcome.sent.values()) >= 2500
    assert outcome.cuts >= 25
    assert (outcome.wrong, outcome.unfinished) == ([], 0)
    assert (outcome.lost, outcome.duplicated, outcome.out_of_order) == (0, 0, 0)


async def main(seed: int) -> None:
    outcome = await run(Plan(tells=20_000, asks=5000, cuts=200, seed=seed))
    times = outcome.resumes_s
    print(
        f"{sum(outcome.sent.values()):,} letters and asks over {outcome.cuts} cuts (seed {seed}): "
        f"lost {outcome.lost}, duplicated {outcome.duplicated}, out of order {outcome.out_of_order}, "
        f"unfinished {outcome.unfinished}, wrong {len(outcome.wrong)}"
    )
    p95 = statistics.quantiles(times, n=20)[-1]
    print(f"resumed after p50 {statistics.median(times):.3f} s, p95 {p95:.3f} s, longest {times[-1]:.3f} s")
    for problem in outcome.wrong[:10]:
        print(problem)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
