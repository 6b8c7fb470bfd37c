from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import anyio
import pytest
from service.mcp_servers.mcp_tools import call, hostile, is_running, joined, until_gone

from agentscope_async.message import ToolCallPart
from agentscope_async.service.mcp import MCPClient, MCPServerGone

pytest.importorskip("mcp")


async def test_a_server_that_dies_in_a_call_is_a_typed_error_and_the_next_call_starts_it_anew() -> None:
    async with joined(hostile()) as toolkit:
        hanging = asyncio.create_task(call(toolkit, "hang"))
        died = await call(toolkit, "die")
        hung = await hanging
        after = await call(toolkit, "echo", x=1)
    for answer in (died, hung):
        assert answer["kind"] == "gone"
        assert answer.content == (
            "MCPServerGone: MCP server 'hostile' is gone: it exited with status 3. "
            "It may have done what was asked; that is not known."
        )
    assert json.loads(after.content) == {"x": 1}


async def test_a_server_that_always_dies_is_given_up() -> None:
    async with joined(hostile()) as toolkit:
        answers = [await call(toolkit, "die") for _ in range(5)]
    assert [("status 3" in each.content) for each in answers] == [True, True, True, True, False]
    assert "ended 4 times without an answer between" in answers[-1].content


async def test_calls_that_meet_a_dead_server_share_the_new_connection() -> None:
    async with joined(hostile()) as toolkit:
        await call(toolkit, "die")
        calls = [ToolCallPart(str(i), "meet", {"expected": 5}) for i in range(5)]
        outcomes = await toolkit.call_all(calls)
    assert all(outcome.response.is_success for outcome in outcomes)


async def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(MCPServerGone, match="cannot start '/no/such/program': No such file"):
        await MCPClient("/no/such/program").__aenter__()
    with pytest.raises(MCPServerGone, match="No such file"):
        await hostile(cwd="/no/such/folder").__aenter__()
    with pytest.raises(MCPServerGone, match="exited with status 7"):
        await hostile("exits").__aenter__()


async def test_nobody_at_the_url_is_a_typed_error(unused_tcp_port: int) -> None:
    with pytest.raises(MCPServerGone, match="cannot be talked to"):
        await MCPClient(url=f"http://127.0.0.1:{unused_tcp_port}/mcp").__aenter__()


async def test_a_silent_server_is_given_up_in_time() -> None:
    with pytest.raises(MCPServerGone, match=r"did not shake hands within 0\.5 s"):
        await hostile("silent", connect_timeout_s=0.5).__aenter__()


async def test_the_server_ends_with_all_it_started() -> None:
    async with joined(hostile()) as toolkit:
        pids = json.loads((await call(toolkit, "spawn")).content)
        assert [is_running(pid) for pid in pids] == [True, True, True]
    assert [is_running(pid) for pid in pids] == [False, False, False]


async def test_what_a_server_started_ends_with_it_when_it_dies() -> None:
    async with joined(hostile()) as toolkit:
        pids = json.loads((await call(toolkit, "spawn")).content)
        await call(toolkit, "die")
        for pid in pids:
            await until_gone(pid)


async def test_a_server_that_ignores_all_requests_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentscope_async.service.mcp._stdio.CLOSING_S", 0.2)
    async with joined(hostile("stubborn")) as toolkit:
        pids = json.loads((await call(toolkit, "spawn")).content)
    assert [is_running(pid) for pid in pids] == [False, False, False]


async def test_the_server_ends_when_its_user_is_cancelled() -> None:
    pids: list[int] = []
    started = asyncio.Event()

    async def use() -> None:
        async with joined(hostile()) as toolkit:
            pids.extend(json.loads((await call(toolkit, "spawn")).content))
            started.set()
            await call(toolkit, "hang")

    user = asyncio.create_task(use())
    await started.wait()
    user.cancel()
    await asyncio.wait([user])
    assert user.cancelled()
    assert [is_running(pid) for pid in pids] == [False, False, False]


async def test_a_cancelled_connect_leaves_nothing_behind() -> None:
    tasks = asyncio.all_tasks()
    with anyio.move_on_after(0.3):
        await hostile("silent").__aenter__()
    assert asyncio.all_tasks() == tasks
    assert not any("hostile.py" in command for command in _commands_of_children())


def _commands_of_children() -> list[str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{child}/cmdline").read_text() for child in children]


_USER = """
import asyncio, json, sys
sys.path[:0] = [{tests!r}, {root!r}]
from service.mcp_servers.mcp_tools import call, hostile, joined

async def main():
    async with joined(hostile()) as toolkit:
        print((await call(toolkit, "spawn")).content, flush=True)
        await call(toolkit, "hang")

asyncio.run(main())
"""


async def test_the_server_ends_when_our_process_is_killed() -> None:
    tests = Path(__file__).parents[1]
    source = _USER.format(tests=str(tests), root=str(tests.parent))
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    pids = json.loads(await program.stdout.readline())
    program.kill()
    await program.wait()
    for pid in pids:
        await until_gone(pid)


async def test_what_a_server_writes_to_stderr_goes_to_the_log_and_not_to_the_terminal(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "agentscope_async")
    async with joined(hostile("noisy")) as toolkit:
        await call(toolkit, "echo")
    out, err = capfd.readouterr()
    assert "noise" not in out + err
    assert "noise" in caplog.text
    assert len(caplog.text) < 10 * 1024 * 1024
