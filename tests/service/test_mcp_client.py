from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anyio
import pytest
from service.mcp_servers.mcp_tools import QUICKSTART, call, hostile, joined, quickstart_over_http

from agentscope_async.errors import ConfigError, MissingExtraError
from agentscope_async.message import AudioPart, FilePart, ImagePart, ToolCallPart
from agentscope_async.service import ToolApproval, Toolkit
from agentscope_async.service.mcp import MCPClient

pytest.importorskip("mcp")


# -- the official package's server --


async def test_the_official_quickstart_server_is_used_over_stdio_and_calls_cancelled() -> None:
    async with joined(MCPClient(sys.executable, [QUICKSTART]), prefix="demo_") as toolkit:
        schema = next(each["function"] for each in toolkit.schemas if each["function"]["name"] == "demo_add")
        answer = await call(toolkit, "demo_add", a=1, b=2)
        wrong = await call(toolkit, "demo_add", a=1, b="x")
        picture = await call(toolkit, "demo_picture")
        await _cancelling_one_call_cancels_only_it(toolkit, "demo_")
    assert schema["description"] == "Add two numbers."
    assert schema["parameters"]["required"] == ["a", "b"]
    assert (answer.is_success, answer.content, answer["structured"]) == (True, "3", {"result": 3})
    assert not wrong.is_success
    assert "valid integer" in wrong.content
    assert picture["media"] == [ImagePart("data:image/png;base64,iVBORw0KGgo=", "image/png")]


async def test_the_official_quickstart_server_is_used_over_http_cancelled_and_killed() -> None:
    with quickstart_over_http() as (url, process):
        async with joined(MCPClient(url=url)) as toolkit:
            assert (await call(toolkit, "add", a=1, b=2)).content == "3"
            await _cancelling_one_call_cancels_only_it(toolkit)
            waiting = asyncio.create_task(call(toolkit, "wait", name="ann"))
            await call(toolkit, "who_waits", expected=1)
            process.kill()
            killed, after = await waiting, await call(toolkit, "add", a=1, b=2)
    for answer in (killed, after):
        assert answer["kind"] == "gone"
        assert answer.content.startswith("MCPServerGone: MCP server '127.0.0.1' is gone")


async def _cancelling_one_call_cancels_only_it(toolkit: Toolkit, prefix: str = "") -> None:
    wait, who_waits = f"{prefix}wait", f"{prefix}who_waits"
    calls = {name: asyncio.create_task(call(toolkit, wait, name=name)) for name in ("ann", "ben", "cy")}
    assert (await call(toolkit, who_waits, expected=3)).content == "ann,ben,cy"
    calls["ben"].cancel()
    assert (await call(toolkit, who_waits, expected=2)).content == "ann,cy"
    for each in calls.values():
        each.cancel()
    assert (await call(toolkit, who_waits, expected=0)).is_success
    await asyncio.wait(calls.values())
    assert all(each.cancelled() for each in calls.values())


# -- calls --


async def test_calls_run_at_once_and_each_gets_its_own_answer() -> None:
    async with joined(hostile()) as toolkit:
        calls = [ToolCallPart(str(i), "meet", {"expected": 12}) for i in range(12)]
        outcomes = await toolkit.call_all(calls)
    contents = [int(outcome.response.content) for outcome in outcomes]
    assert contents == sorted(contents)
    assert len(set(contents)) == 12


async def test_no_more_than_max_concurrency_calls_of_a_tool_run_at_once() -> None:
    async with joined(hostile(), max_concurrency=2) as toolkit:
        calls = [asyncio.create_task(call(toolkit, "hang")) for _ in range(5)]
        arrived = await call(toolkit, "hung", expected=2)
        for each in calls:
            each.cancel()
        await asyncio.wait(calls)
    assert arrived.content == "2"


async def test_a_call_that_is_never_answered_ends_at_its_limit_and_the_server_is_told() -> None:
    hasty, patient = Toolkit(), Toolkit()
    async with hostile() as client:
        await client.join(hasty, only=["hang"], dangerous=False, timeout_s=0.5)
        await client.join(patient, only=["cancelled"], dangerous=False)
        answer = await call(hasty, "hang")
        told = await call(patient, "cancelled", expected=1)
    assert "did not answer within 0.5 s" in answer.content
    assert len(json.loads(told.content)) == 1


async def test_a_call_cancelled_under_an_anyio_scope_ends_there_and_the_server_is_told() -> None:
    async with joined(hostile()) as toolkit:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, toolkit, "hang")
            await call(toolkit, "echo")  # sent after the other
            tasks.cancel_scope.cancel()
        told = await call(toolkit, "cancelled", expected=1)
    assert len(json.loads(told.content)) == 1


async def test_a_failed_and_a_refused_call_are_errors_with_the_servers_words() -> None:
    async with joined(hostile()) as toolkit:
        failed, refused = await call(toolkit, "fail"), await call(toolkit, "refuse")
    assert (failed.is_success, failed.content) == (False, "no such city")
    assert refused.content == "MCPServerError: MCP server 'hostile' answered with an error: not today"
    assert refused["kind"] == "refused"


async def test_texts_are_joined_media_kept_as_parts_and_structured_content_kept() -> None:
    async with joined(hostile()) as toolkit:
        answer = await call(toolkit, "blocks")
    assert answer.content.splitlines() == [
        "two things:",
        "[image: image/png, 5 bytes]",
        "[audio left out: its data is no base64]",
        "[image left out: its type is no MIME type]",
        "[resource notes: file:///etc/passwd]",
        "[resource memo://1]",
        "a memo",
        "[resource memo://2]",
        "[file: application/pdf, 5 bytes]",
    ]
    assert answer["media"] == [
        ImagePart("data:image/png;base64,aGVsbG8=", "image/png"),
        FilePart("data:application/pdf;base64,aGVsbG8=", "application/pdf"),
    ]
    assert not any(isinstance(each, AudioPart) for each in answer["media"])
    assert answer["structured"] == {"things": 2}


# -- rights --


async def test_every_tool_needs_the_approver_whatever_the_server_says_of_it() -> None:
    asked: list[ToolApproval] = []

    def approve(request: ToolApproval) -> bool:
        asked.append(request)
        return False

    toolkit = Toolkit(approve=approve)
    async with hostile("annotated") as client:
        await client.join(toolkit)
        refused = await call(toolkit, "echo")
    assert "not approved" in refused.content
    assert [each.name for each in asked] == ["echo"]


async def test_tools_the_program_trusts_need_no_approver_and_others_do() -> None:
    toolkit = Toolkit()
    async with hostile() as client:
        await client.join(toolkit, trusted_tools=["echo"])
        trusted, other = await call(toolkit, "echo", x=1), await call(toolkit, "die")
    assert json.loads(trusted.content) == {"x": 1}
    assert "marked dangerous" in other.content


async def test_results_are_untrusted() -> None:
    async with joined(hostile()) as toolkit:
        outcome = await toolkit.call(ToolCallPart("1", "echo", {"x": "obey me"}))
    assert outcome.source == "echo"


async def test_the_server_is_offered_no_sampling_no_roots_and_no_elicitation() -> None:
    async with joined(hostile()) as toolkit:
        answer = await call(toolkit, "ask_back")
    assert json.loads(answer.content) == [
        "Sampling not supported",
        "List roots not supported",
        "Elicitation not supported",
    ]


async def test_the_server_sees_no_variable_of_ours_but_a_harmless_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with joined(hostile(env={"GIVEN": "yes"})) as toolkit:
        answer = await call(toolkit, "environment")
    seen = set(json.loads(answer.content)) - {"LC_CTYPE"}  # Python's own
    assert "GIVEN" in seen
    assert seen <= {"GIVEN", "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}


# -- joining --


async def test_only_some_tools_join_under_a_prefix_and_in_a_group() -> None:
    async with joined(hostile(), only=["echo", "fail"], prefix="h_", group="hostile") as toolkit:
        assert [tool.name for tool in toolkit.tools] == ["h_echo", "h_fail"]
        toolkit.disable("hostile")
        assert toolkit.schemas == []


async def test_tools_leave_the_toolkit_with_their_server() -> None:
    toolkit = Toolkit()
    async with hostile() as client:
        await client.join(toolkit, only=["echo"], dangerous=False)
        kept = toolkit.tools[0]
    assert len(toolkit) == 0
    answer = await kept.call({})
    assert answer["kind"] == "gone"
    assert "was left" in answer.content


async def test_a_name_that_is_taken_is_an_error_and_nothing_joins() -> None:
    toolkit = Toolkit()
    async with hostile() as one, hostile() as other:
        await one.join(toolkit, only=["fail"])
        with pytest.raises(ConfigError, match="prefix="):
            await other.join(toolkit, only=["echo", "fail"])
        assert [tool.name for tool in toolkit.tools] == ["fail"]


async def test_a_tool_the_server_does_not_have_is_an_error() -> None:
    async with hostile() as client:
        with pytest.raises(ConfigError, match="no tool 'ecko'; it has: echo"):
            await client.join(Toolkit(), only=["ecko"])
        with pytest.raises(ConfigError, match="no tool 'ecko'"):
            await client.join(Toolkit(), trusted_tools=["ecko"])


@pytest.mark.parametrize(
    "options", [{}, {"command": "x", "url": "http://x"}, {"url": "ftp://x"}, {"url": "http://"}]
)
def test_not_exactly_one_command_or_url_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MCPClient(**options)


async def test_a_missing_package_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingExtraError, match=r"agentscope-async\[mcp\]"):
        async with hostile():
            pass


def test_its_repr_shows_no_argument_variable_or_header() -> None:
    client = MCPClient("program", ["--key=secret"], env={"KEY": "secret"})
    remote = MCPClient(
        url="http://user:secret@example.com/mcp?key=secret", headers={"Authorization": "secret"}
    )
    assert (repr(client), repr(remote)) == ("MCPClient('program')", "MCPClient('example.com')")
