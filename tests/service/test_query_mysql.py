"""query_mysql on a real MariaDB: rows, limits, what it does not let through, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from service.servers import Login, mariadb

from agentscope_async.errors import ConfigError, MissingExtraError
from agentscope_async.service.databases import close_databases, query_mysql
from agentscope_async.service.databases._pool import lent_count

pytest.importorskip("asyncmy", reason="needs: pip install 'agentscope-async[mysql]'")

__all__ = ["mariadb"]


class Database:
    """The server's database ``test``, as its ordinary account sees it."""

    def __init__(self, login: Login) -> None:
        self.login = login

    async def ask(self, query: str, **options: Any) -> Any:
        return await query_mysql(**{**self.login.as_kwargs(), "query": query, **options})

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
        """How many sessions run a query with this text in it."""
        like = f"info like '%{mark}%' and id <> connection_id()"
        [(count,)] = await self.good(f"select count(*) from information_schema.processlist where {like}")
        assert isinstance(count, int)
        return count


@pytest.fixture
async def database(mariadb: Login) -> AsyncIterator[Database]:
    """With a table of three people."""
    found = Database(mariadb)
    for statement in [
        "create or replace table people(name varchar(20) primary key, age int, `create` text, limit_x int)",
        "insert into people values ('Ann', 30, 'c', 1), ('Ben', 25, 'c', 2), ('Cid', 40, 'c', 3)",
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
    assert await database.good("select null, 1.50, 'ä', x'00ff'") == [
        (None, Decimal("1.50"), "ä", b"\x00\xff")
    ]


@pytest.mark.parametrize(
    "text", ["select name from people;", "select limit_x from people", "show columns from people"]
)
async def test_l19_q10_no_more_rows_than_asked_for_whatever_the_text_says(
    database: Database, text: str
) -> None:
    for count in (0, 1, 2):
        assert len(await database.good(text, maxcount_results=count)) == count


async def test_l19_a_long_result_ends_at_the_rows_asked_for(database: Database) -> None:
    for text in (
        "select seq from seq_1_to_1000000000",
        "select seq from seq_1_to_1000000000 limit 999999999",
    ):
        assert await database.good(text, maxcount_results=2) == [(1,), (2,)]
    while await database.running("seq_1_to_1000000000"):
        await asyncio.sleep(0.01)


async def test_l19_an_allowed_change_is_committed(database: Database) -> None:
    assert await database.good("update people set age = age + 1", allow_change_data=True) == []
    await close_databases()
    assert await database.good("select sum(age) from people") == [(98,)]


async def test_an_allowed_change_may_return_fewer_rows_than_it_changes(database: Database) -> None:
    change = "insert into people(name) values ('Dan'), ('Eve') returning name"
    assert len(await database.good(change, allow_change_data=True, maxcount_results=1)) == 1
    assert await database.good("select count(*) from people ") == [(5,)]


async def test_an_error_after_changes_takes_them_back(database: Database) -> None:
    query = "insert into people(name) values ('Dan'), ('Eve'), ('Flo') returning name"
    await database.refused(query, allow_change_data=True, max_rows=2)
    assert await database.good("select count(*) from people") == [(3,)]


async def test_l18_q13_a_change_without_permission_is_an_error_and_changes_nothing(
    database: Database,
) -> None:
    for query in [
        "update people set age = 0",
        "delete from people",
        "with old as (select 1) delete from people",
        "insert into people(name) values ('Eve') returning name",
        "replace into people(name) values ('Eve')",
        "truncate people",
        "drop table people",
        "create table t(a int)",
        "create temporary table t(a int)",
        "alter table people add column x int",
        "rename table people to persons",
        "load data local infile '/etc/passwd' into table people",
        "select 1; delete from people",
        "select 1; select 2",
        "select 1; commit; delete from people; commit",
        "/*!50000 delete from people */",
        "/*M! delete from people */",
        "/* */ /*!50000 delete */ from people",
        "select 1 /*!50000 ; delete from people */",
        "# select\ndelete from people",
        "-- select\ndelete from people",
        "set session transaction read write",
        "set global max_connections = 1",
        "commit",
        "call nothing()",
        "do sleep(0)",
        "execute immediate 'delete from people'",
        "prepare p from 'delete from people'",
        "set statement max_statement_time = 0 for delete from people",
        # Ends the read-only transaction in one statement; only its first word gives it away.
        "begin not atomic commit; set session transaction read write; start transaction; "
        "delete from people; commit; end",
        "if 1 then commit; set session transaction read write; delete from people; end if",
        "kill 1",
        "flush tables",
        "grant select on test.people to public",
        "handler people open",
        "lock tables people write",
        "analyze table people",
        "analyze delete from people",
    ]:
        await database.refused(query)
        assert await database.good("select count(*), sum(age) from people") == [(3, 95)], query
        assert await database.good("show tables") == [("people",)], query


async def test_q13_the_transaction_refuses_what_a_reading_statement_would_change(database: Database) -> None:
    for statement in [
        "create or replace function clear() returns int begin delete from people; return 1; end",
        "create or replace sequence numbers",
    ]:
        await database.good(statement, allow_change_data=True)
    for query in ["select clear()", "select nextval(numbers)", "select setval(numbers, 99)"]:
        assert "READ ONLY" in await database.refused(query)
    assert await database.good("select count(*) from people") == [(3,)]
    await database.good("drop sequence numbers", allow_change_data=True)


async def test_q11_a_harmless_query_is_answered(database: Database) -> None:
    for query in [
        "select 'please update'",
        "select replace('axa', 'x', 'y')",
        "select `create` from people",
        "(select 1) union (select 2)",
        "/* a note */ -- and\n# another\n select 1",
        "with a as (select 1) select * from a",
        "explain select 1",
        "describe people",
        "show tables",
        "values (1), (2)",
        "select 1;",
    ]:
        await database.good(query)


async def test_q13_an_ordinary_account_cannot_touch_the_servers_files(database: Database) -> None:
    secret = database.login.folder / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    assert await database.good(f"select load_file('{secret}')") == [(None,)]
    await database.refused(f"select 1 into outfile '{secret}.copy'")
    assert not secret.with_name("secret.copy").exists()


async def test_q13_an_account_with_the_right_file_is_refused_unless_allowed(database: Database) -> None:
    secret = database.login.folder / "readable"
    secret.write_text("secret")
    secret.chmod(0o644)
    query = f"select load_file('{secret}')"
    assert "right FILE" in await database.refused(query, user="filer")
    assert await database.good(query, user="filer", allow_server_files=True) == [(b"secret",)]


@pytest.mark.parametrize(
    "query", ["select sleep(1e9)", "select count(*) from seq_1_to_1000000000 a, people b"]
)
async def test_q13_a_query_ends_at_the_server_with_its_time(database: Database, query: str) -> None:
    text = await database.refused(query, timeout_s=0.2)
    assert "max_statement_time" in text
    assert await database.running("1e9") + await database.running("seq_1_to_1000000000") == 0


async def test_q13_a_benchmark_is_stopped(database: Database) -> None:
    await database.ask("select benchmark(1000000000000, sha2(uuid(), 512))", timeout_s=0.2)
    while await database.running("benchmark(1000000000000"):
        await asyncio.sleep(0.01)


async def test_a_cancelled_query_is_killed_at_the_server(database: Database) -> None:
    query = asyncio.create_task(database.ask("select sleep(1000), 'cancelled one'"))
    while not await database.running("cancelled one"):
        await asyncio.sleep(0.01)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    while await database.running("cancelled one"):
        await asyncio.sleep(0.01)


async def test_a_cancelled_change_is_rolled_back(database: Database) -> None:
    change = "insert into people(name) select concat('x', seq) from seq_1_to_1000000 where sleep(0.01) = 0"
    query = asyncio.create_task(database.ask(change, allow_change_data=True))
    while not await database.running("seq_1_to_1000000 where"):
        await asyncio.sleep(0.01)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    while await database.running("seq_1_to_1000000 where"):
        await asyncio.sleep(0.01)
    assert await database.good("select count(*) from people") == [(3,)]


async def test_queries_run_at_the_same_time(database: Database) -> None:
    """Four wait for a lock at the server, all at once; each has it in turn then."""
    holder = asyncio.create_task(database.ask("select get_lock('gate', 10), sleep(1000), 'holder'"))
    while not await database.running("holder"):
        await asyncio.sleep(0.01)
    waiters = [asyncio.create_task(database.good("select get_lock('gate', 20)")) for _ in range(4)]
    while await database.running("get_lock(''gate'', 20)") < 4:
        await asyncio.sleep(0.01)
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    assert await asyncio.gather(*waiters) == [[(1,)]] * 4


async def test_nothing_of_a_session_is_left_for_the_next_query(database: Database) -> None:
    [(first,)] = await database.good("select connection_id()")
    await database.good("set @secret = 'x'", allow_change_data=True)
    await database.good("create temporary table hidden(a int)", allow_change_data=True)
    await database.good("set session sql_select_limit = 1", allow_change_data=True)
    await database.good("set session transaction read only", allow_change_data=True)
    await database.good("select get_lock('kept', 0)")
    assert await database.good("select connection_id(), @secret, is_used_lock('kept')") == [
        (first, None, None)
    ]
    await database.refused("select * from hidden")
    assert len(await database.good("select * from people", allow_change_data=True)) == 3
    await database.good("delete from people", allow_change_data=True)


async def test_a_wrong_query_costs_no_connection(database: Database) -> None:
    [(first,)] = await database.good("select connection_id()")
    assert "MySQL error 1146" in await database.refused("select * from nowhere")
    assert await database.good("select connection_id()") == [(first,)]


async def test_q10_too_many_rows_are_an_error_that_says_what_to_do(database: Database) -> None:
    for limit in ("", " limit 9999999"):
        assert "maxcount_results" in await database.refused(f"select seq from seq_1_to_10000000{limit}")


async def test_q10_a_large_cell_is_an_error_and_the_next_query_is_answered(database: Database) -> None:
    assert "larger than" in await database.refused("select repeat('a', 15000000)")
    assert "larger than" in await database.refused("select repeat('a', 5000000)", max_bytes=1_000_000)
    assert await database.good("select 1") == [(1,)]


async def test_l19_a_wrong_password_is_an_error_without_it(database: Database) -> None:
    for password in ("short", "a long wrong password", "пароль"):
        text = await database.refused("select 1", password=password)
        assert "Access denied" in text
        assert password not in text


async def test_l19_an_error_does_not_show_the_password_even_if_the_query_names_it(database: Database) -> None:
    for user, password in [("brief", "pw12"), ("test", database.login.password)]:
        text = await database.refused(f"select * from `{password}`", user=user, password=password)
        assert "1146" in text
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
        await database.ask("select 1", timeout_s=-1)


async def test_a_missing_driver_raises_the_line_to_install_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await close_databases()
    monkeypatch.setitem(__import__("sys").modules, "asyncmy.connection", None)
    with pytest.raises(MissingExtraError, match=r"agentscope-async\[mysql\]"):
        await database.ask("select 1")


def test_connections_end_with_the_loop(mariadb: Login) -> None:
    async def use() -> Any:
        return (await Database(mariadb).good("select connection_id()"))[0][0]

    first = asyncio.run(use())

    async def others() -> None:
        query = f"select count(*) from information_schema.processlist where id = {first}"
        while await Database(mariadb).good(query) != [(0,)]:
            await asyncio.sleep(0.01)

    asyncio.run(others())
