"""The fixture ``no_leaks``, as a test-suite of a user's would use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import asyncio
from agentscope_async import AgentBase, Msg, Runtime

kept = []

class Slow(AgentBase):
    async def reply(self, x=None):
        await asyncio.Event().wait()

class Quick(AgentBase):
    async def reply(self, x=None):
        return Msg(self.name, "yes", "assistant")
"""
CLEAN = """
async def test_it(no_leaks):
    async with Runtime() as rt:
        agent = Quick("agent")
        await agent("x")
        await agent.post("x")
        await rt.drain()
"""
LEAKS = {
    "an open turn of agent 'agent'": """
async def test_it(no_leaks):
    kept.append(asyncio.create_task(Slow("agent")("x")))
    await asyncio.sleep(0)
""",
    "an unfinished task": """
async def test_it(no_leaks):
    kept.append(asyncio.create_task(asyncio.Event().wait()))
""",
    "an open runtime": """
async def test_it(no_leaks):
    kept.append(Runtime())
    await kept[-1].__aenter__()
""",
}


def outcome_of(test: str, folder: Path) -> str:
    (folder / "test_user.py").write_text(HEAD + test)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    plugin = [] if is_installed() else ["-p", "agentscope_async.testing"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60).stdout


def is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(entry.value == "agentscope_async.testing" for entry in entry_points(group="pytest11"))


def test_a_clean_test_passes(tmp_path: Path) -> None:
    assert "1 passed" in outcome_of(CLEAN, tmp_path)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_fails_the_test_and_is_named(leak: str, tmp_path: Path) -> None:
    said = outcome_of(LEAKS[leak], tmp_path)
    assert "1 failed" in said
    assert leak in said


@pytest.mark.parametrize("leak", LEAKS)
def test_without_the_fixture_nothing_is_looked_for(leak: str, tmp_path: Path) -> None:
    assert "1 passed" in outcome_of(LEAKS[leak].replace("no_leaks", ""), tmp_path)
