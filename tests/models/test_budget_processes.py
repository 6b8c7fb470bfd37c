"""Processes that spend one budget through their models, killed or not: never too much, nothing left open."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.budget import ALLOWED_CALLS, AT_ONCE, CALLS_EACH, call_in_processes


@pytest.mark.parametrize("at_once", AT_ONCE)
async def test_r39_two_processes_send_what_is_allowed_and_not_more(tmp_path: Path, at_once: int) -> None:
    report = await call_in_processes(tmp_path, at_once)
    assert report.is_sound
    assert 95 <= sum(report.requests) <= ALLOWED_CALLS
    answered, refused = (sum(counts) for counts in zip(*report.callers, strict=True))
    assert answered == report.aftermath.spent == sum(report.requests)
    assert refused == 2 * CALLS_EACH - answered


@pytest.mark.parametrize(("request_number", "at_once"), [(1, 250), (25, 8), (50, 250), (75, 8), (99, 8)])
async def test_r39_when_one_is_killed_nothing_is_overspent_and_nothing_stays_reserved(
    tmp_path: Path, request_number: int, at_once: int
) -> None:
    report = await call_in_processes(tmp_path, at_once, kill_at=request_number)
    assert report.is_sound
    assert len(report.callers) == 1
    # What the dead had said it sends is spent, whether it came or not; the other one has used the rest.
    assert request_number <= sum(report.requests) <= report.aftermath.spent == ALLOWED_CALLS
