"""Queries of MongoDB, through PyMongo's asynchronous client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._marks import marked
from ..response import ServiceResponse  # noqa: TC001  # toolkits look annotations up
from ._answer import answer, driver, load_driver
from ._limits import MAX_BYTES, MAX_ROWS, TIMEOUT_S, Limits, QueryFailed
from ._pool import MAX_CONNECTIONS, share

__all__ = ["query_mongodb"]


@marked(
    untrusted="database",
    granted=["database", "host", "port", "timeout_s", "max_rows", "max_bytes"],
)
async def query_mongodb(
    database: str,
    collection: str,
    query: dict[str, Any],
    host: str,
    port: int = 27017,
    maxcount_results: int | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
    **kwargs: Any,
) -> ServiceResponse:
    """Find the documents of a MongoDB collection that match a query.

    The content is a list of dicts; MongoDB's own types (``ObjectId``, ...) are texts in
    them, ``Decimal128`` is a ``Decimal``. Only ``find`` is ever called, and operators that
    run JavaScript in the server are refused, so nothing can be changed. A cancelled query's
    connection is closed; the server ends the query by its time limit at the latest.

    Args:
        database: Name of the database.
        collection: Name of the collection.
        query: The filter, in MongoDB's query language; {} matches all documents.
        host: Where the server is.
        port: Port of the server.
        maxcount_results: Return at most so many documents.
        timeout_s: Seconds the query may take.
        max_rows: More documents are an error, unless maxcount_results asks for fewer.
        max_bytes: A larger result, in BSON, is an error.
        kwargs: For ``pymongo.AsyncMongoClient``: ``username``, ``password``, ``tls``, ...

    Raises:
        ConfigError: a limit is nonsense.
        MissingExtraError: the extra ``mongodb`` is not installed.
    """
    limits = Limits(timeout_s, max_rows, max_bytes, maxcount_results)
    server = _MongoDB(host, int(port), kwargs)

    async def documents() -> list[Any]:
        _check(query)
        if limits.rows_to_fetch == 0:
            return []  # for the server, 0 means all
        await load_driver("pymongo", "mongodb")
        async with share(server) as client:
            return await _found(client, database, collection, query, limits)

    return await answer(documents, limits, password=kwargs.get("password"))


_RUN_CODE = frozenset({"$where", "$function", "$accumulator"})
MAX_DEPTH = 100
"""As deep as the server itself reads."""


def _check(query: Any) -> None:
    if not isinstance(query, dict):
        raise QueryFailed(f"query must be an object such as {{'name': 'Ann'}}, not {type(query).__name__}.")
    for key in _keys(query, 0):
        if key in _RUN_CODE:
            raise QueryFailed(f"The operator {key} runs code in the server and is not allowed; use others.")


def _keys(value: Any, depth: int) -> Iterator[Any]:
    if depth > MAX_DEPTH:
        raise QueryFailed(f"The query is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, Mapping):
        yield from value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _keys(item, depth + 1)


@dataclass(frozen=True)
class _MongoDB:
    """One server, for one account.

    A client watches its server with tasks of its own. They would be cancelled before
    anything else when the loop ends, do not always heed that, and hold it up for ten
    seconds then (PyMongo 4.20); so a client lives as long as there are queries for it.
    """

    host: str
    port: int
    options: Mapping[str, Any] = field(repr=False, compare=False)
    options_shown: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options_shown", repr(sorted(self.options.items())))

    async def connect(self) -> Any:
        own = {"maxPoolSize": MAX_CONNECTIONS, "serverMonitoringMode": "poll"}
        options = {**own, "serverSelectionTimeoutMS": round(CONNECT_S * 1000), **self.options}
        return driver("pymongo", "mongodb").AsyncMongoClient(self.host, self.port, **options)

    async def close(self, client: Any) -> None:
        await client.close()


CONNECT_S = 5.0
"""How long a server is looked for; PyMongo goes on trying for half a minute otherwise."""


async def _found(
    client: Any, database: str, collection: str, query: dict[str, Any], limits: Limits
) -> list[dict[str, Any]]:
    errors = driver("pymongo.errors", "mongodb")
    raw_kind = driver("bson.raw_bson", "mongodb").RawBSONDocument
    codec = driver("bson.codec_options", "mongodb").CodecOptions(document_class=raw_kind)
    try:
        source = client[database].get_collection(collection, codec_options=codec)
        found = source.find(query, limit=limits.rows_to_fetch, max_time_ms=round(limits.timeout_s * 1000))
        async with found:
            return limits.checked(await _documents(found, limits))
    except (errors.OperationFailure, errors.InvalidName, errors.InvalidOperation) as error:
        # PyMongo adds the server's whole answer to the text.
        raise QueryFailed(f"MongoDB error: {str(error).partition(', full error:')[0]}") from error


async def _documents(found: Any, limits: Limits) -> list[dict[str, Any]]:
    decode = driver("bson", "mongodb").decode
    documents: list[dict[str, Any]] = []
    left = limits.max_bytes
    async for raw in found:
        left -= len(raw.raw)
        if left < 0:
            raise limits.too_large()
        documents.append(_plain(decode(raw.raw)))
    return documents


def _plain(value: Any) -> Any:
    """Return a value of BSON with none of its own types."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if type(value).__module__.partition(".")[0] != "bson":
        return value
    if isinstance(value, int):  # Int64
        return int(value)
    return value.to_decimal() if hasattr(value, "to_decimal") else str(value)
