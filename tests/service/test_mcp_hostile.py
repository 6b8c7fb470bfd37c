from __future__ import annotations

from pathlib import Path

import pytest
from service.mcp_servers.mcp_tools import call, hostile, joined, quickstart

from agentscope_async.service import Toolkit
from agentscope_async.service.mcp import MCPServerError, MCPServerGone

pytest.importorskip("mcp")


@pytest.mark.parametrize("mode", ["bad_names", "bad_schemas"])
async def test_tools_that_no_model_can_be_offered_are_left_out(mode: str) -> None:
    async with joined(hostile(mode)) as toolkit:
        assert [tool.name for tool in toolkit.tools] == ["ok"]


async def test_a_tool_that_was_asked_for_by_name_is_not_left_out_in_silence() -> None:
    async with hostile("bad_schemas") as client:
        with pytest.raises(MCPServerError, match="offers 'deep', but its schema is nested more than"):
            await client.join(Toolkit(), only=["deep"])


async def test_descriptions_are_cut_and_shown_without_what_a_person_would_not_see() -> None:
    async with joined(hostile("texts")) as toolkit:
        long, hidden = toolkit.tools
    assert len(long.description) < 2_100
    assert long.description.endswith("[cut: 98000 more characters]")
    assert hidden.description == "Adds.[2J"
    assert hidden.parameters["properties"]["a"]["description"] == "n"


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("many_tools", "more than 256 tools"),
        ("endless_pages", "more than 64 pages"),
        ("twins", "two tools named 'echo'"),
        ("no_object", "no MCP"),
    ],
)
async def test_a_list_without_measure_is_refused(mode: str, problem: str) -> None:
    async with hostile(mode) as client:
        with pytest.raises(MCPServerError, match=problem) as caught:
            await client.join(Toolkit())
    assert caught.value.kind == "protocol"


async def test_a_list_that_never_comes_is_given_up_in_time() -> None:
    async with hostile("list_never") as client:
        client._connect_timeout_s = 0.2  # which a slow machine may need just to start it
        with pytest.raises(MCPServerError, match="did not list its tools"):
            await client.join(Toolkit())


async def test_a_banner_on_stdout_does_no_harm() -> None:
    async with joined(hostile("banner")) as toolkit:
        assert (await call(toolkit, "echo")).is_success


async def test_a_server_that_babbles_on_stdout_is_ended() -> None:
    with pytest.raises(MCPServerGone, match="does not speak MCP"):
        await hostile("babble").__aenter__()


@pytest.mark.parametrize(
    ("name", "problem"), [("no_result", "did not answer within"), ("bad_result", "something that is no MCP")]
)
async def test_an_answer_that_is_no_result_is_an_error_and_the_connection_goes_on(
    name: str, problem: str
) -> None:
    hasty, patient = Toolkit(), Toolkit()
    async with hostile() as client:
        await client.join(hasty, only=[name], dangerous=False, timeout_s=0.5)
        await client.join(patient, only=["echo"], dangerous=False)
        answer, after = await call(hasty, name), await call(patient, "echo")
    assert problem in answer.content
    assert after.is_success


async def test_a_result_of_100_megabytes_is_an_error_and_not_kept() -> None:
    async with joined(hostile()) as toolkit:
        answer, after = await call(toolkit, "huge"), await call(toolkit, "echo")
    assert "sent a message of more than 4,194,304 bytes" in answer.content
    assert after.is_success


async def test_a_result_of_100_000_blocks_is_refused_before_it_is_checked() -> None:
    async with joined(hostile()) as toolkit:
        answer, after = await call(toolkit, "many"), await call(toolkit, "echo")
    assert "more than 100,000 values or 5,000 objects" in answer.content
    assert after.is_success


async def test_a_tool_that_changed_is_refused_until_it_joins_again() -> None:
    toolkit = Toolkit()
    async with hostile() as client:
        await client.join(toolkit, dangerous=False)
        assert (await call(toolkit, "echo")).is_success
        await call(toolkit, "change")
        changed, other = await call(toolkit, "echo"), await call(toolkit, "refuse")
        shown = toolkit.schemas[0]["function"]["description"]
        await client.join(toolkit, dangerous=False)
        again = await call(toolkit, "echo")
    assert changed["kind"] == "changed"
    assert "must join it again" in changed.content
    assert other["kind"] == "refused"  # by the server: this tool is what it was
    assert shown == "A tool."
    assert again.is_success


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_a_change_is_heard_of_where_the_protocol_asks_for_a_subscription(over: str) -> None:
    with quickstart(over) as client:
        async with joined(client) as toolkit:
            await call(toolkit, "change")
            while (answer := await call(toolkit, "add", a=1, b=2)).is_success:
                pass  # the news and the answer come by different streams
    assert answer["kind"] == "changed"


async def test_a_tool_that_is_another_after_a_restart_is_refused(tmp_path: Path) -> None:
    async with joined(hostile("bait", str(tmp_path / "second life"))) as toolkit:
        assert (await call(toolkit, "echo")).is_success
        await call(toolkit, "die")
        changed = await call(toolkit, "echo")
    assert changed["kind"] == "changed"
