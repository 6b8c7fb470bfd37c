"""The load scripts in short: nobody gets an error, and who leaves leaves nothing running."""

from __future__ import annotations

import sys

import pytest

from tests.web.sse_load import run


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.timeout(120)
async def test_clients_that_listen_get_no_errors_and_those_that_leave_leave_nothing() -> None:
    load, _ = await run(clients=30, seconds=6, leaving=20, delay_s=1.0, tell=lambda line: None)
    assert load.turns > 0
    assert load.errors == {}
