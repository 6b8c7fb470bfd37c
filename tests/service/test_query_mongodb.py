"""query_mongodb on a server that speaks MongoDB's protocol: documents, limits, what it refuses."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from service.servers import Login, mongo

from agentscope_async.errors import ConfigError
from agentscope_async.service.databases import query_mongodb
from agentscope_async.service.databases._pool import lent_count
from agentscope_async.service.databases.mongodb import _plain

pymongo = pytest.importorskip("pymongo", reason="needs: pip install 'agentscope-async[mongodb]'")

__all__ = ["mongo"]


class Database:
    """The server's collection ``people`` in the database ``test``."""

    def __init__(self, login: Login) -> None:
        self.login = login

    async def ask(self, query: Any, **options: Any) -> Any:
        place = {"database": "test", "collection": "people", "host": self.login.host, "port": self.login.port}
        return await query_mongodb(**{**place, "query": query, **options})

    async def good(self, query: Any, **options: Any) -> list[Any]:
        response = await self.ask(query, **options)
        assert response.is_success, response.content
        content: list[Any] = response.content
        return content

    async def refused(self, query: Any, **options: Any) -> str:
        response = await self.ask(query, **options)
        assert response["status"] == -1, f"{query} was answered with {str(response.content)[:200]}"
        text: str = response.content
        return text


@pytest.fixture
async def database(mongo: Login) -> AsyncIterator[Database]:
    """With three people."""
    people = [("Ann", 30), ("Ben", 25), ("Cid", 40)]
    async with pymongo.AsyncMongoClient(mongo.host, mongo.port) as client:
        await client.test.people.drop()
        await client.test.people.insert_many([{"name": name, "age": age} for name, age in people])
    yield Database(mongo)
    assert lent_count() == 0


async def test_l20_documents_that_match_are_a_list_of_dicts(database: Database) -> None:
    documents = await database.good({"age": {"$gt": 28}})
    assert sorted((document["name"], document["age"]) for document in documents) == [("Ann", 30), ("Cid", 40)]


async def test_l20_documents_can_be_written_as_json(database: Database) -> None:
    assert all(len(document["_id"]) == 24 for document in json.loads(json.dumps(await database.good({}))))


async def test_l20_no_more_documents_than_asked_for(database: Database) -> None:
    assert [len(await database.good({}, maxcount_results=count)) for count in (0, 1, 2, 9)] == [0, 1, 2, 3]


async def test_l20_the_positional_order_of_the_past_still_works(database: Database) -> None:
    response = await query_mongodb("test", "people", {}, database.login.host, database.login.port, 2)
    assert len(response.content) == 2


async def test_types_of_mongodb_become_plain_values(database: Database) -> None:
    bson = pytest.importorskip("bson")
    now = datetime(2024, 2, 29, 12)
    values = {"count": bson.Int64(2**40), "at": now, "raw": b"\x00"}
    async with pymongo.AsyncMongoClient(database.login.host, database.login.port) as client:
        await client.test.odd.drop()
        await client.test.odd.insert_one({"inner": [values]})
    [document] = await database.good({}, collection="odd")
    [inner] = document["inner"]
    assert inner == {"count": 2**40, "at": now, "raw": b"\x00"}
    assert type(inner["count"]) is int
    assert type(document["_id"]) is str


def test_types_that_this_server_cannot_keep_become_plain_values() -> None:
    bson = pytest.importorskip("bson")
    odd = [bson.Decimal128("1.50"), bson.Regex("a+"), bson.MinKey(), bson.Timestamp(1, 2), bson.Code("f()")]
    price, *others = _plain(odd)
    assert price == Decimal("1.50")
    assert all(type(other) is str for other in others)


@pytest.mark.parametrize("operator", ["$where", "$function", "$accumulator"])
async def test_l18_operators_that_run_code_are_refused_at_any_depth(
    database: Database, operator: str
) -> None:
    for query in [
        {operator: "sleep(1000)"},
        {"$or": [{"a": 1}, {"$and": [{operator: "1"}]}]},
        {"$expr": {"$eq": [1, {operator: {"body": "function() {}", "args": [], "lang": "js"}}]}},
    ]:
        assert operator in await database.refused(query)


@pytest.mark.parametrize("query", ["{}", [], None, {"a": {"$nonsense": 1}}, {"a": {1}}])
async def test_l20_a_query_that_is_none_is_an_error(database: Database, query: Any) -> None:
    assert await database.refused(query)


async def test_a_query_nested_too_deep_is_an_error(database: Database) -> None:
    query: dict[str, Any] = {}
    for _ in range(5_000):
        query = {"a": query}
    assert "nested" in await database.refused(query)


async def test_q10_too_many_documents_or_bytes_are_an_error(database: Database) -> None:
    assert "more than 2 rows" in await database.refused({}, max_rows=2)
    assert "larger than" in await database.refused({}, max_bytes=100)


@pytest.fixture
def unclosed_sockets() -> Iterator[None]:
    """PyMongo leaves a socket to the garbage collector when it is stopped while connecting."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("unclosed_sockets")
async def test_l20_a_server_that_is_not_there_is_an_error(database: Database) -> None:
    text = await database.refused({}, port=1, serverSelectionTimeoutMS=100)
    assert "ServerSelectionTimeoutError" in text


@pytest.mark.usefixtures("unclosed_sockets")
async def test_a_server_that_says_nothing_is_an_error_in_time(database: Database) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "longer than" in await database.refused({}, port=port, timeout_s=0.01)


async def test_an_error_does_not_show_the_password(database: Database) -> None:
    for password in ("short", "a long wrong password"):
        assert password not in await database.refused(
            {"a": {"$nonsense": 1}}, username="u", password=password
        )


async def test_nonsense_set_by_the_program_raises(database: Database) -> None:
    with pytest.raises(ConfigError):
        await database.ask({}, max_rows=0)


async def test_queries_run_at_the_same_time_over_one_client(database: Database) -> None:
    found = await asyncio.gather(*(database.good({"age": 25}) for _ in range(20)))
    assert all(len(documents) == 1 for documents in found)


@pytest.mark.usefixtures("unclosed_sockets")
async def test_a_cancelled_query_leaves_nothing_behind(database: Database) -> None:
    query = asyncio.create_task(database.ask({}))
    while not lent_count():
        await asyncio.sleep(0)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(await database.good({})) == 3


async def test_no_task_of_the_driver_is_left_between_queries(database: Database) -> None:
    await asyncio.gather(*(database.good({}) for _ in range(3)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
