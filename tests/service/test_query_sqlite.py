"""query_sqlite on real files: rows, limits, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentscope_async.errors import ConfigError
from agentscope_async.service import Toolkit
from agentscope_async.service.databases import close_databases, query_sqlite
from agentscope_async.service.databases._pool import MAX_CONNECTIONS, lent_count

ENDLESS = "with recursive t(x) as (select 1 union all select x + 1 from t) select x from t"
# One call of a function that goes on for hours: no progress handler is asked, no interrupt is seen.
UNINTERRUPTIBLE = "select instr(zeroblob(9000000) || x'01', zeroblob(4500000) || x'02')"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database as in AgentScope's own test, with three people, and words that are keywords."""
    path = tmp_path / "people.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            create table people(name text, age integer, "create" text, limit_x integer);
            create index by_age on people(age);
            insert into people values ('Ann', 30, 'c', 1), ('Ben', 25, 'c', 2), ('Cid', 40, 'c', 3);
            """
        )
    return path


def rows_of(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select name, age from people order by name").fetchall()


def contents_of(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def children() -> list[int]:
    """The processes that run SQLite for this one."""
    return [pid for pid in _own_children() if "_sqlite_child.py" in _command(pid)]


def _own_children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


async def good(path: Path | str, query: str, **options: Any) -> list[Any]:
    response = await query_sqlite(str(path), query, **options)
    assert response.is_success, response.content
    content: list[Any] = response.content
    return content


async def refused(path: Path | str, query: str, **options: Any) -> str:
    response = await query_sqlite(str(path), query, **options)
    assert response["status"] == -1, f"{query} was answered with {str(response.content)[:200]}"
    text: str = response.content
    return text


async def test_l17_rows_are_a_list_of_tuples(file: Path) -> None:
    rows = await good(file, "select name, age from people order by age")
    assert rows == [("Ben", 25), ("Ann", 30), ("Cid", 40)]


async def test_l17_values_keep_their_types(file: Path) -> None:
    [row] = await good(file, "select null, 2, 2.5, 'ä', x'00ff', 1e999, 9223372036854775807")
    assert row == (None, 2, 2.5, "ä", b"\x00\xff", float("inf"), 2**63 - 1)


@pytest.mark.parametrize(
    "text", ["select name from people order by age;", "select name, limit_x from people"]
)
@pytest.mark.parametrize("count", [0, 1, 2])
async def test_l17_q10_no_more_rows_than_asked_for_whatever_the_text_says(
    file: Path, text: str, count: int
) -> None:
    assert len(await good(file, text, maxcount_results=count)) == count


async def test_l17_an_endless_result_ends_at_the_rows_asked_for(file: Path) -> None:
    assert await good(file, ENDLESS, maxcount_results=3) == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("delete from people where name = 'Ben'", [("Ann", 30), ("Cid", 40)]),
        ("update people set age = age + 1", [("Ann", 31), ("Ben", 26), ("Cid", 41)]),
        (
            "insert into people(name, age) values ('Dan', 1)",
            [("Ann", 30), ("Ben", 25), ("Cid", 40), ("Dan", 1)],
        ),
    ],
)
async def test_l17_an_allowed_change_is_committed(file: Path, query: str, left: list[Any]) -> None:
    assert await good(file, query, allow_change_data=True) == []
    assert rows_of(file) == left


async def test_l17_an_allowed_change_creates_a_missing_file(tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    await good(new, "create table t(a)", allow_change_data=True)
    assert await good(new, "select * from t") == []


async def test_l17_the_positional_order_of_the_past_still_works(file: Path) -> None:
    response = await query_sqlite(str(file), "delete from people returning name", True, 2)
    assert response.content == [("Ann",), ("Ben",)]
    assert rows_of(file) == []


CHANGES = [
    "update people set age = 0",
    "delete from people",
    "insert into people(name) values ('Eve') returning name",
    "replace into people(name) values ('Eve')",
    "drop table people",
    "create table t(a)",
    "create temp table t(a)",
    "create view v as select 1",
    "create virtual table v using fts5(x)",
    "alter table people rename to persons",
    "with old as (select 1) delete from people",
    "/* select */ delete from people",
    "explain delete from people",
    "reindex",
    "analyze",
    "update sqlite_master set sql = ''",
]


async def test_l18_q01_a_change_without_permission_is_an_error_and_changes_nothing(file: Path) -> None:
    before = contents_of(file.parent)
    for query in CHANGES:
        await refused(file, query)
        assert contents_of(file.parent) == before, query


async def test_l18_the_refusal_says_what_is_missing(file: Path) -> None:
    assert "allow_change_data" in await refused(file, "delete from people")


@pytest.mark.parametrize("allow", [False, True])
async def test_q02_q03_no_other_file_is_opened_or_appears(file: Path, allow: bool) -> None:
    other, new = file.with_name("other.db"), file.with_name("new.db")
    other.touch()
    before = contents_of(file.parent)
    for query in [
        f"attach '{other}' as o",
        f"attach '{new}' as o",
        f"attach 'file:{new}?mode=rwc' as o",
        f"vacuum into '{new}'",
    ]:
        await refused(file, query, allow_change_data=allow)
        assert contents_of(file.parent) == before, query


@pytest.mark.parametrize("allow", [False, True])
async def test_q04_settings_extensions_and_second_statements_are_refused(file: Path, allow: bool) -> None:
    before = contents_of(file.parent)
    for query in [
        "pragma writable_schema = on",
        "pragma query_only = 0",
        "pragma journal_mode = wal",
        "pragma user_version = 7",
        "pragma trusted_schema = on",
        "pragma temp_store_directory = '/'",
        "pragma hard_heap_limit = 0",
        "select load_extension('/lib/x86_64-linux-gnu/libc.so.6')",
        "select hex(fts3_tokenizer('simple'))",
        "select 1; delete from people",
        "commit",
        "rollback",
        "detach main",
    ]:
        await refused(file, query, allow_change_data=allow)
        assert contents_of(file.parent) == before, query


async def test_q11_a_harmless_query_is_answered(file: Path) -> None:
    for query in [
        "select 'please update'",
        "select replace('axa', 'x', 'y')",
        'select "create" from people',
        "select 'drop; delete from people' -- use it",
        "pragma table_info(people)",
        "pragma user_version",
        "select name from pragma_table_info('people')",
        "select value from json_each('[1, 2]')",
        "select sql from sqlite_master",
        "explain query plan select * from people",
        "with a as (select 1) select * from a",
        "values (1), (2)",
    ]:
        await good(file, query)


async def test_full_text_and_range_tables_can_be_read_and_written(tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    for kind, columns, value in [
        ("fts5", "a", "('word')"),
        ("fts4", "a", "('word')"),
        ("rtree", "i,a,b", "(1,2,3)"),
    ]:
        await good(file, f"create virtual table {kind}_t using {kind}({columns})", allow_change_data=True)
        await good(file, f"insert into {kind}_t values {value}", allow_change_data=True)
    assert await good(file, "select a from fts5_t where fts5_t match 'word'") == [("word",)]
    assert await good(file, "select a from fts4_t where fts4_t match 'word'") == [("word",)]
    assert await good(file, "select i from rtree_t where a > 1") == [(1,)]
    await refused(file, "delete from rtree_t_node")
    await refused(file, "insert into fts5_t values ('more')")


async def test_a_file_that_another_program_is_writing_to_by_wal_can_be_read(file: Path) -> None:
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("pragma journal_mode = wal")
        writer.execute("insert into people(name) values ('Dan')")
        writer.commit()
        assert await good(file, "select count(*) from people") == [(4,)]


async def test_q10_too_many_rows_are_an_error_that_says_what_to_do(file: Path) -> None:
    assert "maxcount_results" in await refused(file, ENDLESS)
    assert "more than 5 rows" in await refused(file, ENDLESS, max_rows=5)
    assert "more than 5 rows" in await refused(file, ENDLESS, max_rows=5, maxcount_results=6)


@pytest.mark.parametrize("query", ["select zeroblob(60000000)", "select hex(zeroblob(30000000))"])
async def test_q10_a_large_cell_is_an_error_and_the_next_query_is_answered(file: Path, query: str) -> None:
    assert "larger than" in await refused(file, query)
    assert await good(file, "select 1") == [(1,)]


async def test_q10_many_bytes_in_many_rows_are_an_error(file: Path) -> None:
    assert "larger than" in await refused(
        file, f"select hex(zeroblob(1000)) from ({ENDLESS})", max_bytes=100_000
    )


async def test_an_error_after_changes_takes_them_back(file: Path) -> None:
    before = rows_of(file)
    await refused(file, "update people set age = 0 returning *", allow_change_data=True, max_rows=2)
    assert rows_of(file) == before


async def test_r48_a_query_that_needs_more_memory_than_allowed_is_an_error(file: Path) -> None:
    query = "select count(*) from (select zeroblob(60000000) as b from people, people order by b desc)"
    await refused(file, query)
    assert await good(file, "select 1") == [(1,)]


@pytest.mark.parametrize("query", [f"select count(*) from ({ENDLESS})", UNINTERRUPTIBLE])
async def test_r48_a_query_ends_with_its_time_and_so_does_its_process(file: Path, query: str) -> None:
    assert "longer than 0.1 s" in await refused(file, query, timeout_s=0.1)
    assert children() == []


async def test_r48_a_cancelled_query_leaves_no_process(file: Path) -> None:
    query = asyncio.create_task(query_sqlite(str(file), UNINTERRUPTIBLE))
    while not children():
        await asyncio.sleep(0)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert children() == []
    assert lent_count() == 0


async def test_a_cancelled_change_is_rolled_back(file: Path) -> None:
    before = rows_of(file)
    change = f"insert into people(name) select hex(zeroblob(5000)) from ({ENDLESS})"
    query = asyncio.create_task(query_sqlite(str(file), change, True))
    journal = file.with_name(file.name + "-journal")
    while not journal.exists():
        await asyncio.sleep(0.001)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert not journal.exists()
    assert rows_of(file) == before


async def test_a_process_is_kept_for_the_next_query_and_closed_on_demand(file: Path) -> None:
    await good(file, "select 1")
    first = children()
    await good(file, "select 1")
    assert children() == first
    await close_databases()
    assert children() == []


def test_the_processes_end_with_the_loop(file: Path) -> None:
    async def many() -> None:
        await asyncio.gather(*(good(file, "select 1") for _ in range(3)))
        assert len(children()) == 3

    asyncio.run(many())
    assert children() == []


async def test_queries_run_at_the_same_time_and_no_more_than_allowed(file: Path) -> None:
    endless = f"select count(*) from ({ENDLESS})"
    queries = [asyncio.create_task(query_sqlite(str(file), endless)) for _ in range(MAX_CONNECTIONS + 2)]
    while lent_count() < MAX_CONNECTIONS or len(children()) < MAX_CONNECTIONS:
        await asyncio.sleep(0)
    assert lent_count() == len(children()) == MAX_CONNECTIONS
    for query in queries:
        query.cancel()
    await asyncio.gather(*queries, return_exceptions=True)
    assert children() == []


async def test_the_process_dying_is_an_error_and_the_next_query_has_a_new_one(file: Path) -> None:
    await good(file, "select 1")
    query = asyncio.create_task(query_sqlite(str(file), UNINTERRUPTIBLE))
    while not lent_count():
        await asyncio.sleep(0)
    os.kill(children()[0], 9)
    assert not (await query).is_success
    assert await good(file, "select 1") == [(1,)]


@pytest.mark.parametrize(
    "path", ["missing.db", "", ".", "a\0b.db", "people.db?mode=rwc", "file:people.db?mode=rwc", "/dev/zero"]
)
async def test_a_path_that_is_no_database_is_an_error_and_no_file_appears(
    file: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(file.parent)
    await refused(path, "select 1 from people")
    assert list(contents_of(file.parent)) == [file.name]


async def test_a_path_with_a_nul_does_not_create_the_file_named_before_it(tmp_path: Path) -> None:
    await refused(f"{tmp_path}/a\0b.db", "create table t(a)", allow_change_data=True)
    assert contents_of(tmp_path) == {}


async def test_a_path_with_characters_of_urls_is_that_file(tmp_path: Path) -> None:
    file = tmp_path / "100%25 a?b#c&mode=rwc.db"
    await good(file, "create table t(a)", allow_change_data=True)
    assert await good(file, "select count(*) from t") == [(0,)]
    assert list(contents_of(tmp_path)) == [file.name]


async def test_a_query_that_is_none_is_an_error(file: Path) -> None:
    for query in ["selec", "select '\ud800'", "select \0", "select * from nowhere"]:
        assert await refused(file, query)


async def test_a_number_of_rows_that_is_none_is_an_error(file: Path) -> None:
    counts: list[Any] = [-1, True, "3", 2.5]
    for count in counts:
        assert "maxcount_results" in await refused(file, "select 1", maxcount_results=count)


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"max_rows": -1}, {"max_bytes": float("nan")}, {"isolation_level": None}]
)
async def test_nonsense_set_by_the_program_raises(file: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await query_sqlite(str(file), "select 1", **options)


async def test_a_model_sees_only_the_query_and_the_number_of_rows(file: Path) -> None:
    toolkit = Toolkit()
    toolkit.add(query_sqlite, database=str(file))
    [schema] = toolkit.schemas
    properties = schema["function"]["parameters"]["properties"]
    assert sorted(properties) == ["maxcount_results", "query"]
