"""query_postgresql on a real server: rows, limits, what it refuses, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from service.servers import Login, postgres

from agentscope_async.errors import ConfigError
from agentscope_async.service.databases import close_databases, query_postgresql
from agentscope_async.service.databases._pool import lent_count

pytest.importorskip("asyncpg", reason="needs: pip install 'agentscope-async[postgresql]'")

__all__ = ["postgres"]


class Database:
    """The server's database ``test``, as its ordinary account sees it."""

    def __init__(self, login: Login) -> None:
        self.login = login

    async def ask(self, query: str, **options: Any) -> Any:
        return await query_postgresql(**{**self.login.as_kwargs(), "query": query, **options})

    async def good(self, query: str, **options: Any) -> list[Any]:
        response = await self.ask(query, **options)
        assert response.is_success, response.content
        content: list[Any] = response.content
        return content

    async def refused(self, query: str, **options: Any) -> str:
        response = await self.ask(query, **options)
        assert response["status"] == -1, f"{query} was answered with {str(response.content)[:200]}"
        text: str = response.content
        return text

    async def running(self, mark: str) -> int:
        """How many other sessions run a query with this text in it."""
        where = f"state = 'active' and query like '%{mark}%' and pid <> pg_backend_pid()"
        [(count,)] = await self.good(f"select count(*) from pg_stat_activity where {where}")
        assert isinstance(count, int)
        return count


@pytest.fixture
async def database(postgres: Login) -> AsyncIterator[Database]:
    """With a table of three people."""
    found = Database(postgres)
    for statement in [
        "drop table if exists people",
        'create table people(id serial, name text unique, age int, "create" text, limit_x int)',
        "insert into people(name, age) values ('Ann', 30), ('Ben', 25), ('Cid', 40)",
    ]:
        await found.good(statement, allow_change_data=True)
    yield found
    assert lent_count() == 0


async def test_l19_rows_are_a_list_of_tuples(database: Database) -> None:
    assert await database.good("select name, age from people order by age") == [
        ("Ben", 25),
        ("Ann", 30),
        ("Cid", 40),
    ]
    [row] = await database.good("select null, 1.50, 'ä', '\\x00ff'::bytea, date '2024-02-29', array[1, 2]")
    assert row == (None, Decimal("1.50"), "ä", b"\x00\xff", date(2024, 2, 29), [1, 2])


async def test_l19_q10_no_more_rows_than_asked_for_whatever_the_text_says(database: Database) -> None:
    for text in ("select name from people;", "select limit_x from people", "table people"):
        for count in (0, 1, 2):
            assert len(await database.good(text, maxcount_results=count)) == count


async def test_l19_a_long_result_ends_at_the_rows_asked_for(database: Database) -> None:
    endless = "with recursive t(x) as (select 1 union all select x + 1 from t) select x from t"
    assert await database.good(endless, maxcount_results=2) == [(1,), (2,)]


async def test_l19_an_allowed_change_is_committed(database: Database) -> None:
    change = "update people set age = age + 1 returning name"
    assert len(await database.good(change, allow_change_data=True)) == 3
    await close_databases()
    assert await database.good("select sum(age) from people") == [(98,)]


async def test_an_allowed_change_may_return_fewer_rows_than_it_changes(database: Database) -> None:
    change = "update people set age = 0 returning name"
    assert len(await database.good(change, allow_change_data=True, maxcount_results=1)) == 1
    assert await database.good("select count(*) from people where age = 0") == [(3,)]


async def test_an_error_after_changes_takes_them_back(database: Database) -> None:
    change = "update people set age = 0 returning name"
    await database.refused(change, allow_change_data=True, max_rows=2)
    assert await database.good("select sum(age) from people") == [(95,)]


async def test_l18_a_change_without_permission_is_an_error_and_changes_nothing(database: Database) -> None:
    for query in [
        "update people set age = 0",
        "with gone as (delete from people returning *) select * from gone",
        "insert into people(name) values ('Eve') returning name",
        "truncate people",
        "drop table people",
        "create table t(a int)",
        "create temporary table t(a int)",
        "select * into t from people",
        "alter table people add column x int",
        "select nextval('people_id_seq')",
        "select setval('people_id_seq', 99)",
        "refresh materialized view people",
        "copy people from stdin",
        "copy people to '/tmp/never'",
        "copy people to program 'true'",
        "select 1; delete from people",
        "set transaction read write",
        "select set_config('transaction_read_only', 'off', true)",
        "do $$begin set transaction read write; delete from people; end$$",
        "do $$begin perform set_config('transaction_read_only', 'off', true); delete from people; end$$",
        "do $$begin commit; delete from people; end$$",
        "do $$begin begin delete from people; end; end$$",
        "do $$begin execute 'delete from people'; end$$",
        "select query_to_xml('delete from people', true, true, '')",
        "prepare p as delete from people; execute p",
        "grant select on people to public",
        "vacuum people",
        "select lo_export(1, '/tmp/never')",
        "select pg_read_file('/etc/hostname')",
        "set role postgres",
        "set session authorization postgres",
    ]:
        await database.refused(query)
    assert await database.good("select count(*), sum(age) from people") == [(3, 95)]


async def test_l18_what_a_read_only_transaction_lets_pass_is_rolled_back(database: Database) -> None:
    for query in [
        "commit",
        "rollback",
        "set session characteristics as transaction read write",
        "set default_transaction_read_only = off",
        "select lo_from_bytea(0, 'x')",
        "listen news",
        "select pg_notify('news', 'x')",
        "select set_config('application_name', 'changed', false)",
        "declare c cursor with hold for select * from people",
    ]:
        await database.ask(query)
    assert await database.good("select count(*) from pg_largeobject_metadata") == [(0,)]
    assert await database.good("select count(*) from pg_cursors where is_holdable") == [(0,)]
    [(name,)] = await database.good("select current_setting('application_name')")
    assert name != "changed"
    await database.refused("delete from people")


async def test_q11_a_harmless_query_is_answered(database: Database) -> None:
    for query in [
        "select 'please update'",
        "select replace('axa', 'x', 'y')",
        'select "create" from people',
        "(select 1) union (select 2)",
        "/* a note */ -- and another\n select 1;",
        "explain select 1",
        "show server_version",
        "values (1), (2)",
        "select",
        "copy people to stdout",
    ]:
        await database.good(query)
    assert await database.good("select count(*) from people") == [(3,)]


async def test_an_account_that_reaches_the_servers_files_is_refused_unless_allowed(
    database: Database,
) -> None:
    query = "select length(pg_read_file('PG_VERSION')) > 0"
    assert "ordinary account" in await database.refused(query, user="postgres")
    assert await database.good(query, user="postgres", allow_server_files=True) == [(True,)]


async def test_an_account_that_may_become_such_a_one_is_refused(database: Database) -> None:
    for statement in [
        f"create role half login password '{database.login.password}'",
        "create role reader",
        "grant pg_read_server_files to reader",
        "grant reader to half",
    ]:
        await database.good(statement, user="postgres", allow_change_data=True)
    assert "ordinary account" in await database.refused("select 1", user="half")


async def test_r48_a_query_ends_at_the_server_with_its_time(database: Database) -> None:
    for query in ["select pg_sleep(1000)", "select count(*) from generate_series(1, 10000000000) as endless"]:
        assert "timeout" in await database.refused(query, timeout_s=0.2)
    assert await database.running("pg_sleep") + await database.running("endless") == 0


async def test_r48_a_query_that_lifts_its_own_time_limit_ends_all_the_same(database: Database) -> None:
    query = "do $$begin perform set_config('statement_timeout', '0', false); perform pg_sleep(1000); end$$"
    await database.refused(query, timeout_s=0.2)
    while await database.running("perform pg_sleep"):
        await asyncio.sleep(0.01)


async def test_a_cancelled_query_is_cancelled_at_the_server(database: Database) -> None:
    query = asyncio.create_task(database.ask("select pg_sleep(1000), 'cancelled one'"))
    while not await database.running("cancelled one"):
        await asyncio.sleep(0.01)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    while await database.running("cancelled one"):
        await asyncio.sleep(0.01)


async def test_a_cancelled_change_is_rolled_back(database: Database) -> None:
    source = "generate_series(1, 10000) as i where pg_sleep(0.01) is not null"
    change = f"insert into people(name) select 'x' || i from {source}"
    query = asyncio.create_task(database.ask(change, allow_change_data=True))
    while not await database.running("generate_series(1, 10000) as i"):
        await asyncio.sleep(0.01)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    while await database.running("generate_series(1, 10000) as i"):
        await asyncio.sleep(0.01)
    assert await database.good("select count(*) from people") == [(3,)]


async def test_queries_run_at_the_same_time(database: Database) -> None:
    """Four wait for a lock at the server, all at once; each has it in turn then."""
    holder = asyncio.create_task(database.ask("select pg_advisory_lock(1), pg_sleep(1000), 'holder'"))
    while not await database.running("holder"):
        await asyncio.sleep(0.01)
    waiters = [asyncio.create_task(database.good("select pg_advisory_lock(1), 'waiter'")) for _ in range(4)]
    while await database.running("waiter") < 4:
        await asyncio.sleep(0.01)
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    assert len(await asyncio.gather(*waiters)) == 4


async def test_nothing_of_a_session_is_left_for_the_next_query(database: Database) -> None:
    [(first,)] = await database.good("select pg_backend_pid()")
    await database.good("create temporary table hidden(a int)", allow_change_data=True)
    await database.good("set search_path = nowhere", allow_change_data=True)
    await database.good("select pg_advisory_lock(2)")
    assert await database.good("select pg_backend_pid(), pg_try_advisory_lock(2)") == [(first, True)]
    assert await database.good("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]
    await database.refused("select * from hidden")
    assert len(await database.good("select * from people")) == 3


async def test_a_wrong_query_costs_no_connection(database: Database) -> None:
    [(first,)] = await database.good("select pg_backend_pid()")
    assert "nowhere" in await database.refused("select * from nowhere")
    assert await database.good("select pg_backend_pid()") == [(first,)]


async def test_q10_too_many_rows_are_an_error_that_says_what_to_do(database: Database) -> None:
    assert "maxcount_results" in await database.refused("select * from generate_series(1, 20000)")


async def test_q10_a_large_cell_is_an_error_and_the_next_query_is_answered(database: Database) -> None:
    assert "larger than" in await database.refused("select repeat('a', 20000000)")
    assert "larger than" in await database.refused("select repeat('a', 2000000)", max_bytes=1_000_000)
    assert await database.good("select 1") == [(1,)]


@pytest.mark.parametrize("password", ["short", "a long wrong password"])
async def test_l19_a_wrong_password_is_an_error_without_it(database: Database, password: str) -> None:
    text = await database.refused("select 1", password=password)
    assert "password authentication failed" in text
    assert password not in text


async def test_l19_a_server_that_is_not_there_is_an_error(database: Database) -> None:
    assert "connect" in (await database.refused("select 1", port=1)).lower()


async def test_a_server_that_says_nothing_is_an_error_in_time(database: Database) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "longer than" in await database.refused("select 1", port=port, timeout_s=0.01)


async def test_nonsense_set_by_the_program_raises(database: Database) -> None:
    with pytest.raises(ConfigError):
        await database.ask("select 1", max_bytes=0)


def test_connections_end_with_the_loop(postgres: Login) -> None:
    async def use() -> Any:
        return (await Database(postgres).good("select pg_backend_pid()"))[0][0]

    first = asyncio.run(use())

    async def others() -> None:
        while await Database(postgres).good(f"select count(*) from pg_stat_activity where pid = {first}") != [
            (0,)
        ]:
            await asyncio.sleep(0.01)

    asyncio.run(others())
