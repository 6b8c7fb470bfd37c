"""Nodes in real processes that are killed, frozen, cut off, started again and told to end."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from node.chaos import ChaosProxy, Direction
from node.children import PATIENCE_S, TOKEN, ChildNode, child_node, outcomes, until, watching_links

from agentscope_async import ConnectFailed, NodeDown, Runtime

if TYPE_CHECKING:
    from agentscope_async.node.remote import RemoteAgent

JOURNAL = {"journal": {"kind": "Journal"}}
HOLDERS = {f"holder-{number}": {"kind": "Holder"} for number in range(10)}
MISSED_S = 3.5
"""Seconds of silence after which a link is certainly suspected."""


def ask_all(agents: list[RemoteAgent], asks: int) -> list[asyncio.Task[Any]]:
    """Begin so many asks of each agent, as numbers."""
    return [asyncio.create_task(agent(str(number))) for number in range(asks) for agent in agents]


async def begun(child: ChildNode) -> int:
    """How many turns of its agents have begun, and how many asks wait for theirs."""
    return sum(agent["begun"] for agent in (await child.facts())["agents"].values())


def reasons(results: list[Any]) -> Counter[tuple[str, str]]:
    """Count NodeDowns by reason and outcome; anything else is a failure of the test."""
    assert all(isinstance(each, NodeDown) for each in results), Counter(map(repr, results)).most_common(3)
    return Counter((each.reason, each.outcome) for each in results)


# -- killed --


async def test_every_ask_in_flight_ends_with_node_down_when_its_node_is_killed() -> None:
    async with child_node(HOLDERS) as child, Runtime(token=TOKEN) as runtime:
        asks = ask_all([runtime.agent(f"{child.url}/{key}") for key in HOLDERS], 50)
        await until(lambda: holds_all(runtime, child, 500), "500 asks are over there")
        await child.kill()
        assert reasons(await outcomes(asks)) == {("refused", "unknown"): 500}


async def holds_all(runtime: Runtime, child: ChildNode, count: int) -> bool:
    report = await runtime.ps(child.url)
    return sum(agent.waiting + agent.is_busy for agent in report.agents) == count


async def test_asks_that_wait_for_room_end_as_well_when_the_node_is_killed() -> None:
    async with child_node(HOLDERS) as child, Runtime(token=TOKEN) as runtime:
        asks = ask_all([runtime.agent(f"{child.url}/holder-0")], 500)  # most are not even sent
        await until(lambda: holds_all(runtime, child, 64), "as many asks as one agent may be sent are there")
        await child.kill()
        expected = {("refused", "unknown"): 64, ("refused", "not_delivered"): 436}
        assert reasons(await outcomes(asks)) == expected


async def test_a_killed_node_is_down_at_once_for_whoever_asks_later() -> None:
    async with child_node(JOURNAL) as child, Runtime(token=TOKEN) as runtime:
        agent = runtime.agent(f"{child.url}/journal")
        await agent("0")
        await child.kill()
        with pytest.raises(NodeDown, match=r"refused|nobody listens"):
            await agent("1")
        for _ in range(3):
            with pytest.raises(ConnectFailed) as failed:
                await agent("2")
            assert (failed.value.reason, failed.value.outcome) == ("refused", "not_delivered")


async def test_a_stream_ends_with_node_down_when_its_node_is_killed() -> None:
    async with child_node({"journal": {"kind": "Journal", "delay_s": 3600.0}}) as child:
        async with Runtime(token=TOKEN) as runtime:
            heard = []
            with pytest.raises(NodeDown) as down:
                async with runtime.agent(f"{child.url}/journal").stream("0") as stream:
                    async for part in stream:
                        heard.append(part.text)
                        if len(heard) == 3:
                            await child.kill()
            assert heard == ["0.0 ", "0.1 ", "0.2 "]
            assert down.value.outcome == "unknown"


async def test_letters_to_a_killed_node_are_dead_letters_that_say_whether_they_arrived() -> None:
    async with child_node(HOLDERS) as child, Runtime(token=TOKEN) as runtime:
        agent = runtime.agent(f"{child.url}/holder-0")
        for number in range(10):
            await agent.post(str(number))
        await until(lambda: holds_all(runtime, child, 10), "the letters are there")
        child.stop()  # what is sent now is not acknowledged
        for number in range(10, 20):
            await agent.post(str(number))
        async with watching_links(runtime) as links:
            await child.kill()
            await links.until("lost")
        buried = {letter.msg.text: letter.reason for letter in runtime.dead_letters}
        assert all(buried[str(number)] == "unknown" for number in range(10, 20))


# -- started again --


async def test_a_node_started_again_at_its_address_is_reached_by_the_same_remote_agent() -> None:
    async with Runtime(token=TOKEN) as runtime:
        async with child_node(JOURNAL) as child:
            agent = runtime.agent(f"{child.url}/journal")
            assert (await agent("1")).text == "1"
            await child.kill()
            with pytest.raises(NodeDown):
                await agent("2")
        async with child_node(JOURNAL, listen=child.url) as again:
            assert again.url == child.url
            assert (await agent("3")).text == "3"
            assert (await again.of("journal"))["seen"] == [3]


async def test_what_was_meant_for_the_old_run_of_a_node_never_reaches_the_new_one() -> None:
    async with child_node({**HOLDERS, **JOURNAL}) as child, ChaosProxy(child.port) as proxy:
        async with Runtime(token=TOKEN) as runtime:
            base = f"ws://127.0.0.1:{proxy.port}"
            holder, journal = runtime.agent(f"{base}/holder-0"), runtime.agent(f"{base}/journal")
            asks = ask_all([holder], 20)
            await until(lambda: is_begun(child, "holder-0"), "the first ask is there")
            proxy.refuse()
            await child.kill()
            late = [asyncio.create_task(journal(str(number))) for number in range(5)]
            await asyncio.sleep(0)
            async with child_node({**HOLDERS, **JOURNAL}) as again, watching_links(runtime) as links:
                proxy.target = again.port
                proxy.heal()
                await links.until("lost")
                assert {reason for reason, _ in reasons(await outcomes(asks + late))} == {"restarted"}
                assert (await journal("7")).text == "7"
                assert (await again.of("journal"))["seen"] == [7]
                assert (await again.of("holder-0"))["begun"] == 0


async def is_begun(child: ChildNode, key: str, count: int = 1) -> bool:
    return bool((await child.of(key))["begun"] == count)


# -- silent --


async def test_a_frozen_node_is_suspected_and_loses_nothing_when_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "agentscope_async")
    async with child_node(JOURNAL) as child, Runtime(token=TOKEN) as runtime:
        async with watching_links(runtime) as links:
            agent = runtime.agent(f"{child.url}/journal")
            await agent("0")
            child.stop()
            asks = [asyncio.create_task(agent(str(number))) for number in range(1, 200)]
            await links.until("suspect")
            child.go_on()
            answers = [each.text for each in await outcomes(asks)]
            assert answers == [str(number) for number in range(1, 200)]
            assert links.count("lost") == 0
        assert (await child.of("journal"))["seen"] == list(range(200))
    logged = {record.getMessage().split()[0]: record.levelname for record in caplog.records}
    assert logged == {"event='link_suspect'": "INFO"}


@pytest.mark.parametrize("directions", [("up", "down"), ("up",), ("down",)], ids="-".join)
async def test_f28_f29_a_link_that_drops_everything_in_silence_is_suspected_and_loses_nothing(
    directions: tuple[Direction, ...],
) -> None:
    async with child_node(JOURNAL) as child, ChaosProxy(child.port) as proxy:
        async with Runtime(token=TOKEN) as runtime, watching_links(runtime) as links:
            agent = runtime.agent(f"ws://127.0.0.1:{proxy.port}/journal")
            await agent("0")
            proxy.swallow(*directions)
            asks = [asyncio.create_task(agent(str(number))) for number in range(1, 60)]
            await until(lambda: is_suspected(links, child), "one side suspects the link")
            proxy.heal()
            answers = [each.text for each in await outcomes(asks)]
            assert answers == [str(number) for number in range(1, 60)]
            assert links.count("lost") == 0
        assert (await child.of("journal"))["seen"] == list(range(60))


async def is_suspected(links: Any, child: ChildNode) -> bool:
    there = (await child.facts())["links"]
    return links.count("suspect") > 0 or any(state == "suspect" for state, _ in there)


@asynccontextmanager
async def busy_processors() -> AsyncIterator[None]:
    """Have twice as many processes calculate as there are processors."""
    program = "while True: pass"
    burning = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program) for _ in range(2 * processors())
    ]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            await process.wait()


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def test_no_link_is_suspected_only_because_the_machine_is_busy() -> None:
    async with child_node(JOURNAL) as child, Runtime(token=TOKEN) as runtime:
        async with watching_links(runtime) as links, busy_processors():
            agent = runtime.agent(f"{child.url}/journal")
            await agent("0")
            await asyncio.sleep(2 * MISSED_S)  # idle: only heartbeats keep it from being suspected
            assert [change.state for change in links.changes] == ["up"]
        assert (await child.facts())["links"] == [["up", "new"]]


async def test_our_own_blocked_loop_does_not_make_us_suspect_others() -> None:
    async with child_node(JOURNAL) as child, Runtime(token=TOKEN) as runtime:
        async with watching_links(runtime) as links:
            agent = runtime.agent(f"{child.url}/journal")
            await agent("0")
            asking = asyncio.create_task(agent("1"))
            await asyncio.sleep(0)
            time.sleep(MISSED_S)  # noqa: ASYNC251  # that is the point
            assert (await asking).text == "1"
            assert (links.count("suspect"), links.count("lost")) == (0, 0)
        assert (await child.of("journal"))["seen"] == [0, 1]


async def test_l03_a_handler_that_blocks_its_node_is_waited_for() -> None:
    async with child_node({"blocker": {"kind": "Blocker"}, **JOURNAL}) as child:
        async with Runtime(token=TOKEN) as runtime, watching_links(runtime) as links:
            asks = [
                asyncio.create_task(runtime.agent(f"{child.url}/blocker")(str(MISSED_S))),
                *ask_all([runtime.agent(f"{child.url}/journal")], 50),
            ]
            assert [each.text for each in await outcomes(asks)] == ["blocked", *map(str, range(50))]
            assert links.count("lost") == 0
        assert (await child.of("journal"))["seen"] == list(range(50))


async def test_within_the_window_asks_wait_and_after_it_they_end_with_node_down() -> None:
    async with child_node({**HOLDERS, **JOURNAL}, resume_s=0.5) as child, ChaosProxy(child.port) as proxy:
        async with Runtime(token=TOKEN, resume_s=0.5) as runtime, watching_links(runtime) as links:
            base = f"ws://127.0.0.1:{proxy.port}"
            asks = ask_all([runtime.agent(f"{base}/holder-0"), runtime.agent(f"{base}/holder-1")], 5)
            await until(lambda: is_begun(child, "holder-1"), "the asks are there")
            proxy.cut()
            await links.until("up", "resumed")
            assert not any(ask.done() for ask in asks)
            proxy.refuse()
            proxy.cut()
            assert reasons(await outcomes(asks)) == {("window", "unknown"): 10}
            proxy.heal()
            assert (await runtime.agent(f"{base}/journal")("1")).text == "1"
            await until(lambda: is_free(child), "what was done for us is ended over there")


async def is_free(child: ChildNode) -> bool:
    return all(agent["running"] == 0 for agent in (await child.facts())["agents"].values())


# -- told to end --


@pytest.mark.parametrize("after", [1, 40, 150])
async def test_l13_a_node_told_to_end_under_load_leaves_no_ask_without_an_outcome(after: int) -> None:
    agents = {f"journal-{number}": {"kind": "Journal", "delay_s": 0.002} for number in range(4)}
    async with child_node(agents) as child, Runtime(token=TOKEN) as runtime:
        askers = [Asker(runtime.agent(f"{child.url}/{key}"), first) for key in agents for first in range(8)]
        asking = [asyncio.create_task(asker.run()) for asker in askers]
        while sum(len(asker.answered) for asker in askers) < after:
            await asyncio.sleep(0)
        child.terminate()
        async with asyncio.timeout(PATIENCE_S):
            last_words = await child.heard()
            assert await child.process.wait() == 0
            await asyncio.gather(*asking)
        for asker in askers:
            seen = set(last_words["agents"][asker.agent.name]["seen"])
            assert set(asker.answered) <= seen
            assert asker.down is not None
            assert asker.down.outcome == "not_delivered"
            assert asker.last not in seen


class Asker:
    """Asks one thing after the other until the node is down."""

    def __init__(self, agent: RemoteAgent, first: int) -> None:
        self.agent = agent
        self.last = first
        self.answered: list[int] = []
        self.down: NodeDown | None = None

    async def run(self) -> None:
        while True:
            self.last += 1000
            try:
                answer = await self.agent(str(self.last))
            except NodeDown as down:
                self.down = down
                return
            assert answer.text == str(self.last)
            self.answered.append(self.last)


async def test_a_node_told_to_end_waits_for_a_turn_that_needs_longer_and_takes_no_other() -> None:
    async with child_node({**HOLDERS, **JOURNAL}) as child, Runtime(token=TOKEN) as runtime:
        holder, journal = runtime.agent(f"{child.url}/holder-0"), runtime.agent(f"{child.url}/journal")
        asking = asyncio.create_task(holder("kept"))
        await until(lambda: is_begun(child, "holder-0"), "the turn began")
        child.terminate()
        with pytest.raises(NodeDown) as down:
            for number in itertools.count():
                await journal(str(number))
        assert down.value.outcome == "not_delivered"
        assert not asking.done()
        await child.tell({"do": "release", "agent": "holder-0"})
        assert (await outcomes([asking]))[0].text == "kept"
        assert await child.process.wait() == 0
