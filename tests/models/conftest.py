"""Shared by the tests of model wrappers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from recorder import ReplayServer

WIRE = Path(__file__).parent.parent / "fixtures" / "wire"


@pytest.fixture
async def replay() -> AsyncIterator[ReplayServer]:
    """A provider on 127.0.0.1 that answers from all cases of ``tests/fixtures/wire``."""
    async with ReplayServer.from_dirs(WIRE) as server:
        yield server
