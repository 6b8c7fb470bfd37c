"""Conversations outlive their agents in memory, the server, and its being killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.web.many_sessions import run


@pytest.mark.timeout(180)
async def test_100_sessions_on_10_agents_survive_a_restart_and_a_kill(tmp_path: Path) -> None:
    told: list[str] = []
    await run(100, 10, tmp_path / "agents.db", told.append)
    assert told[-1].startswith("0 lost, 0 mixed up")
