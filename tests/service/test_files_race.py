"""File services against somebody who swaps directories for links meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from service.link_race import race

from agentscope_async.service import _kernel

ROUNDS = 250
"""In each of two ways; ``python -m tests.service.link_race 10000`` plays more."""


@pytest.mark.parametrize("way", ["openat2", "one name at a time"])
async def test_whoever_swaps_directories_for_links_gets_nothing_outside_touched(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "openat2":
        monkeypatch.setattr(_kernel, "has_openat2", lambda: False)
        monkeypatch.setattr(_kernel, "rename_new", lambda *names: False)
    elif not _kernel.has_openat2():
        pytest.skip("this kernel has no openat2, or does not allow it")
    outcome = await race(ROUNDS, tmp_path)
    assert outcome.escapes == []
    assert outcome.swaps > ROUNDS  # there was a race
    assert 0 < outcome.done < outcome.calls
