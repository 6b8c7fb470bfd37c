"""No service makes a blocking call on the event loop's thread."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from blockbuster import BlockingError, blockbuster_ctx
from service.servers import Login, mariadb, mongo, postgres

from agentscope_async.service import query_mongodb, query_mysql, query_postgresql
from agentscope_async.service.databases import close_databases
from benchmarks.services import WORKS, place_of_work

__all__ = ["mariadb", "mongo", "postgres"]

ANSWERED_AT_ONCE = ("os.access", "os.getcwd", "os.path.abspath", "os.readlink", "os.stat")
"""Look-ups of a path or two: of programs, and by the clients of databases when they connect."""


@contextmanager
def no_blocking() -> Iterator[None]:
    with blockbuster_ctx(["agentscope_async"]) as watch:
        for name in ANSWERED_AT_ONCE:
            watch.functions[name].deactivate()
        # Starting a process waits until it has begun, as asyncio's own way to start one does.
        watch.functions["os.read"].can_block_in("subprocess.py", "_execute_child")
        yield


async def test_a_blocking_call_is_noticed():
    with pytest.raises(BlockingError), blockbuster_ctx():
        time.sleep(0)  # noqa: ASYNC251  # what must not happen


@pytest.mark.parametrize("name", [name for name in WORKS if name != "nothing"])
@pytest.mark.timeout(120)
async def test_no_blocking_call_is_made_on_the_loop_by(name):
    if name == "code" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if name == "mcp" and importlib.util.find_spec("mcp") is None:
        pytest.skip("the package mcp is not installed")
    async with place_of_work() as place:
        await WORKS[name](place)  # imports, of which there is one each, may block
        with no_blocking():
            await WORKS[name](place)


async def test_no_blocking_call_is_made_on_the_loop_by_mysql(mariadb: Login):
    await _twice(query_mysql, **mariadb.as_kwargs(), query="select 1")


async def test_no_blocking_call_is_made_on_the_loop_by_postgresql(postgres: Login):
    await _twice(query_postgresql, **postgres.as_kwargs(), query="select 1")


async def test_no_blocking_call_is_made_on_the_loop_by_mongodb(mongo: Login):
    where = {"database": "test", "host": mongo.host, "port": mongo.port}
    await _twice(query_mongodb, **where, collection="none", query={})


async def _twice(service, **arguments):
    assert (await service(**arguments)).is_success
    await close_databases()
    with no_blocking():
        response = await service(**arguments)
        await close_databases()
    assert response.is_success, response.content
