"""Between processes a slow agent slows down who sends to it, and nobody else; memory stays flat.

By hand, for a minute: ``python -m tests.node.test_backpressure [seconds]``.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from node.children import PATIENCE_S, TOKEN, ChildNode, child_node, outcomes, until
from node.node_child import resident_bytes

from agentscope_async import Runtime
from agentscope_async.node.settings import Settings

MESSAGE_BYTES = 10_000
TURN_S = 0.002
MIB = 1024 * 1024
CREDIT = Settings("x", "0." + "0" * 16).credit


@dataclass
class Flow:
    """What a fast sender and a slow agent came to."""

    sent: int
    seen: list[int]
    most_ahead: int
    grown_here: int
    grown_there: int


async def pour(messages: int) -> Flow:
    """Send as fast as the link lets us to an agent that is slow."""
    async with child_node({"slow": {"kind": "Journal", "delay_s": TURN_S}}) as child:
        async with Runtime(token=TOKEN) as runtime:
            agent = runtime.agent(f"{child.url}/slow")
            filling = "x" * MESSAGE_BYTES
            await post(agent, range(200), filling)  # what is made once is made by now
            before, before_there, most_ahead = resident_bytes(), (await child.facts())["resident"], 0
            grown = grown_there = 0
            for first in range(200, messages, 200):
                await post(agent, range(first, first + 200), filling)
                facts = await child.facts()
                most_ahead = max(most_ahead, first + 200 - len(facts["agents"]["slow"]["seen"]))
                grown = max(grown, resident_bytes() - before)
                grown_there = max(grown_there, facts["resident"] - before_there)
            await until(lambda: has_seen(child, messages), "everything sent was handled")
            seen = (await child.of("slow"))["seen"]
            assert not list(runtime.dead_letters)
    return Flow(messages, seen, most_ahead, grown, grown_there)


async def post(agent: Any, numbers: range, filling: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for number in numbers:
            await agent.post(f"{number} {filling}")


async def has_seen(child: ChildNode, count: int) -> bool:
    return len((await child.of("slow"))["seen"]) >= count


async def test_a_fast_sender_is_held_back_by_a_slow_agent_and_nothing_is_lost() -> None:
    flow = await pour(4000)
    assert flow.seen == list(range(flow.sent))
    assert flow.most_ahead <= CREDIT + 1  # as many as one agent may be sent, and the one in hand
    # 40 MB went through. Bounds of the memory are generous: the figures are printed by hand.
    assert flow.grown_here < 20 * MIB
    assert flow.grown_there < 20 * MIB


async def test_one_stuck_agent_holds_up_nobody_else_on_the_link() -> None:
    busy = {f"journal-{number}": {"kind": "Journal"} for number in range(100)}
    async with child_node({"stuck": {"kind": "Holder"}, **busy}) as child, Runtime(token=TOKEN) as runtime:
        stuck = runtime.agent(f"{child.url}/stuck")
        letters = [asyncio.create_task(stuck.post(str(number))) for number in range(3 * CREDIT)]
        asks = [asyncio.create_task(stuck(str(number))) for number in range(CREDIT)]
        while sum(letter.done() for letter in letters) < CREDIT:
            await asyncio.sleep(0)
        others = [
            asyncio.create_task(runtime.agent(f"{child.url}/{key}")(str(number)))
            for number in range(20)
            for key in busy
        ]
        answers = [each.text for each in await outcomes(others)]
        assert answers == [str(number) for number in range(20) for _ in busy]
        assert sum(letter.done() for letter in letters) == CREDIT
        assert not any(ask.done() for ask in asks)
        assert (await child.of("stuck"))["begun"] == 1
        await child.tell({"do": "release", "agent": "stuck"})
        assert [each.text for each in await outcomes(asks)] == [str(number) for number in range(CREDIT)]
        await outcomes(letters)
        assert (await child.of("stuck"))["begun"] == 4 * CREDIT


async def main(seconds: float) -> None:
    flow = await pour(round(seconds / TURN_S / 200) * 200)
    lost = len(set(range(flow.sent)) - set(flow.seen))
    print(
        f"{flow.sent:,} messages of {MESSAGE_BYTES:,} bytes: lost {lost}, "
        f"at most {flow.most_ahead} ahead; resident set grew by {flow.grown_here / MIB:.1f} MiB here, "
        f"{flow.grown_there / MIB:.1f} MiB there"
    )


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
