"""Cancellation and time limits through chains of processes: nothing goes on that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from node.children import PATIENCE_S, TOKEN, ChildNode, child_node, outcomes, until

from agentscope_async import AskTimeoutError, Runtime


@asynccontextmanager
async def chain(length: int, last: dict[str, Any], **job: Any) -> AsyncIterator[list[ChildNode]]:
    """Run so many nodes, the first first: each asks the next one, whose agent "last" is the end."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(child_node({"last": last}, node="last", **job))]
        for number in range(length - 1):
            next_key = "last" if number == 0 else "relay"
            relay = {"kind": "Relay", "to": f"{nodes[0].url}/{next_key}"}
            node = child_node({"relay": relay}, node=f"relay-{number}")
            nodes.insert(0, await stack.enter_async_context(node))
        yield nodes


def caller() -> Runtime:
    """Return a runtime that is never left if anything it asked for never settles."""
    return Runtime(token=TOKEN, grace=3600.0)


async def turns(nodes: list[ChildNode]) -> list[int]:
    """How many turns are open on each of the nodes."""
    facts = [await node.facts() for node in nodes]
    return [sum(agent["running"] for agent in each["agents"].values()) for each in facts]


async def are(nodes: list[ChildNode], running: int) -> bool:
    return await turns(nodes) == [running] * len(nodes)


async def test_a_cancelled_ask_ends_the_turns_of_three_processes() -> None:
    async with chain(3, {"kind": "Holder"}) as nodes, caller() as runtime:
        asking = asyncio.create_task(runtime.agent(f"{nodes[0].url}/relay")("work"))
        await until(lambda: are(nodes, 1), "every node works")
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        await until(lambda: are(nodes, 0), "no node works any more")
        await nodes[-1].tell({"do": "release", "agent": "last"})
        assert (await runtime.agent(f"{nodes[0].url}/relay")("more")).text == "more"


async def test_a_hundred_asks_cancelled_at_any_moment_leave_no_turn_open_anywhere() -> None:
    async with chain(3, {"kind": "Journal", "delay_s": 0.003}) as nodes, caller() as runtime:
        first = runtime.agent(f"{nodes[0].url}/relay")
        for rounds in range(100):
            asking = asyncio.create_task(first(str(rounds)))
            for _ in range(7 * rounds % 101):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        await until(lambda: are(nodes, 0), "no node works any more")
        assert (await first("1000")).text == "1000"


async def test_leaving_a_stream_early_ends_the_turns_behind_it() -> None:
    async with chain(2, {"kind": "Holder"}) as nodes, caller() as runtime:
        async with runtime.agent(f"{nodes[0].url}/relay").stream("work"):
            await until(lambda: are(nodes, 1), "every node works")
        await until(lambda: are(nodes, 0), "no node works any more")


class TalkingModel:
    """An HTTP server that begins to answer a chat and goes on until the caller hangs up."""

    def __init__(self) -> None:
        self.was_asked = asyncio.Event()
        self.was_left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            event = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
            writer.write(head + b"%x\r\n%s\r\n" % (len(event), event))
            self.was_asked.set()
            while await reader.read(65536):
                pass
            self.was_left.set()
        except ConnectionError:
            self.was_left.set()
        finally:
            writer.close()


@pytest.fixture
async def talking_model() -> AsyncIterator[tuple[TalkingModel, str]]:
    model = TalkingModel()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    yield model, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()
    await server.wait_closed()


async def test_cancelling_closes_the_stream_of_a_model_behind_three_nodes(
    talking_model: tuple[TalkingModel, str],
) -> None:
    model, url = talking_model
    configured = {
        "config_name": "talk", "model_type": "openai_chat", "model_name": "m", "base_url": url,
        "api_key": "sk-not-a-real-key",
    }  # fmt: skip
    talker = {"kind": "DialogAgent", "sys_prompt": "", "model": "talk"}
    async with chain(3, talker, model_configs=configured) as nodes, caller() as runtime:
        heard: asyncio.Event = asyncio.Event()

        async def listen() -> None:
            async with runtime.agent(f"{nodes[0].url}/relay").stream("talk") as stream:
                async for _ in stream:
                    heard.set()

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(PATIENCE_S):
            await model.was_asked.wait()
            listening.cancel()
            await model.was_left.wait()
            await asyncio.wait([listening])


async def test_a_time_limit_frees_every_node_of_a_chain_of_five() -> None:
    async with chain(4, {"kind": "Holder"}) as nodes, caller() as runtime:
        first = runtime.agent(f"{nodes[0].url}/relay", timeout_s=1.0)
        with pytest.raises(AskTimeoutError):
            await first("work")
        await until(lambda: are(nodes, 0), "no node works any more")
        begun = [sum(agent["begun"] for agent in (await node.facts())["agents"].values()) for node in nodes]
        assert begun == [1, 1, 1, 1]
        await nodes[-1].tell({"do": "release", "agent": "last"})
        assert (await first("more")).text == "more"


async def test_the_time_limit_holds_where_the_one_who_set_it_is_frozen() -> None:
    """The remaining time crosses the wire: each node ends its part by its own clock."""
    async with child_node({"last": {"kind": "Holder"}}) as last:
        relay = {"relay": {"kind": "Relay", "to": f"{last.url}/last"}}
        async with child_node(relay, ask_timeout_s=1.0) as middle, caller() as runtime:
            asking = asyncio.create_task(runtime.agent(f"{middle.url}/relay")("work"))
            await until(lambda: are([middle, last], 1), "both work")
            middle.stop()
            await until(lambda: are([last], 0), "the last one has stopped by itself")
            middle.go_on()
            assert isinstance((await outcomes([asking]))[0], AskTimeoutError)


async def test_work_whose_time_is_over_in_the_queue_never_begins() -> None:
    async with child_node({"holder": {"kind": "Holder"}}) as child, caller() as runtime:
        patient = asyncio.create_task(runtime.agent(f"{child.url}/holder")("first"))
        await until(lambda: are([child], 1), "the first turn is open")
        hurried = runtime.agent(f"{child.url}/holder", timeout_s=0.2)
        late = await outcomes([asyncio.create_task(hurried(str(number))) for number in range(20)])
        assert {type(each) for each in late} == {AskTimeoutError}
        await child.tell({"do": "release", "agent": "holder"})
        assert (await outcomes([patient]))[0].text == "first"
        assert (await child.of("holder"))["begun"] == 1


async def test_work_whose_time_was_over_while_another_agent_blocked_the_loop_never_begins() -> None:
    async with child_node({"blocker": {"kind": "Blocker"}, "journal": {"kind": "Journal"}}) as child:
        async with caller() as runtime:
            await runtime.agent(f"{child.url}/journal")("0")
            hurried = [runtime.agent(f"{child.url}/{key}", timeout_s=0.3) for key in ("blocker", "journal")]
            blocking = asyncio.create_task(runtime.agent(f"{child.url}/blocker")("1.0"))
            late = [asyncio.create_task(agent("1")) for agent in hurried for _ in range(5)]
            assert {type(each) for each in await outcomes(late)} == {AskTimeoutError}
            assert (await outcomes([blocking]))[0].text == "blocked"
            agents = (await child.facts())["agents"]
            assert (agents["blocker"]["begun"], agents["journal"]["seen"]) == (1, [0])


async def test_work_whose_time_was_over_on_its_way_never_begins() -> None:
    async with child_node({"journal": {"kind": "Journal"}}) as child, caller() as runtime:
        await runtime.agent(f"{child.url}/journal")("0")
        child.stop()
        hurried = runtime.agent(f"{child.url}/journal", timeout_s=0.3)
        late = await outcomes([asyncio.create_task(hurried(str(number))) for number in range(1, 60)])
        assert {type(each) for each in late} == {AskTimeoutError}
        child.go_on()
        patient = runtime.agent(f"{child.url}/journal")
        await outcomes([asyncio.create_task(patient(str(number))) for number in range(60, 200)])
        assert (await child.of("journal"))["seen"] == [0, *range(60, 200)]


async def test_asks_cancelled_on_their_way_give_back_their_place() -> None:
    """Begun and cancelled in one message, the task of an ask never starts; its place is free all the same."""
    async with child_node({"journal": {"kind": "Journal"}}) as child, caller() as runtime:
        agent = runtime.agent(f"{child.url}/journal")
        await agent("0")
        for _ in range(5):
            asks = [asyncio.create_task(agent("1")) for _ in range(50)]
            await asyncio.sleep(0)
            for ask in asks:
                ask.cancel()
            await asyncio.wait(asks)
        patient = [asyncio.create_task(agent(str(number))) for number in range(2, 102)]
        assert [each.text for each in await outcomes(patient)] == [str(number) for number in range(2, 102)]
