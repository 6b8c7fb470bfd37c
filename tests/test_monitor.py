"""Named metrics, in memory and in a file that several processes write."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import sqlite3
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentscope_async import Runtime, _context
from agentscope_async.errors import AgentScopeError, AgentScopeWarning, ConfigError, QuotaExceededError
from agentscope_async.monitor import Monitor, MonitorFactory, get_full_name

GPT_4_FOR_3_USD = {"prompt_tokens": 50_000, "completion_tokens": 25_000, "total_tokens": 75_000}
NO_NUMBERS = [None, {}, "1", True, float("nan"), float("inf"), 10**400, 1j]


@pytest.fixture(params=["memory", "file"])
async def monitor(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Monitor]:
    monitor = Monitor(None if request.param == "memory" else tmp_path / "monitor.db")
    yield monitor
    await monitor.aclose()


def read(path: Path) -> dict[str, float]:
    """What another process would see."""
    code = (
        "import json, sqlite3, sys\n"
        "connection = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
        "print(json.dumps(dict(connection.execute('SELECT name, value FROM monitor_metrics'))))\n"
        "connection.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


# -- what AgentScope 0.0.2's tests ask for --


async def test_m01_register_exists_and_remove(monitor: Monitor) -> None:
    assert await monitor.register("token_num", metric_unit="token", quota=1000)
    assert not await monitor.register("token_num", metric_unit="other", quota=2000)
    assert await monitor.exists("token_num")
    assert not await monitor.exists("communication")
    assert await monitor.get_metric("token_num") == {"value": 0, "unit": "token", "quota": 1000}
    assert await monitor.remove("token_num")
    assert not await monitor.exists("token_num")
    assert not await monitor.remove("cost")


async def test_m02_add_sums_up_and_stops_at_the_quota(monitor: Monitor) -> None:
    await monitor.register("token_num", quota=100)
    assert await monitor.add("token_num", 10)
    assert not await monitor.add("communication", 20)
    with pytest.raises(QuotaExceededError, match=r"Metric \[token_num\] exceeds quota") as caught:
        await monitor.add("token_num", 91)
    assert caught.value.name == "token_num"
    assert await monitor.get_value("token_num") == 10
    assert await monitor.add("token_num", 90)
    assert await monitor.get_value("token_num") == 100


async def test_m03_a_quota_is_raised_and_lowered_at_any_value(monitor: Monitor) -> None:
    await monitor.register("n", quota=100)
    await monitor.add("n", 50)
    assert await monitor.set_quota("n", 20)
    with pytest.raises(QuotaExceededError):
        await monitor.add("n", 1)
    assert await monitor.add("n", -10)
    assert await monitor.set_quota("n", 30)
    with pytest.raises(QuotaExceededError):
        await monitor.add("n", 1)
    assert await monitor.set_quota("n", None)
    assert await monitor.add("n", 1000)
    assert await monitor.get_metric("n") == {"value": 1040, "quota": None, "unit": None}
    assert not await monitor.set_quota("unknown", 1)


async def test_m03_clear_resets_to_zero_also_above_the_quota(monitor: Monitor) -> None:
    await monitor.register("n", quota=100)
    await monitor.add("n", 50)
    await monitor.set_quota("n", 20)
    assert await monitor.clear("n")
    assert await monitor.get_metric("n") == {"value": 0, "quota": 20, "unit": None}
    assert not await monitor.clear("unknown")


async def test_m04_update_adds_to_all_or_to_none(monitor: Monitor) -> None:
    await monitor.register("a.calls", quota=10)
    await monitor.register("a.tokens", quota=100)
    await monitor.update({"calls": 1, "tokens": 60}, prefix="a")
    with pytest.raises(QuotaExceededError) as caught:
        await monitor.update({"calls": 1, "new": 1, "tokens": 60}, prefix="a")
    assert caught.value.name == "a.tokens"
    assert await monitor.get_value("a.calls") == 1
    assert await monitor.get_value("a.tokens") == 60
    assert not await monitor.exists("a.new")


async def test_m04_update_keeps_what_it_does_not_know_yet(monitor: Monitor) -> None:
    await monitor.update({"new": 2})
    await monitor.update({"new": 3})
    assert await monitor.get_metrics() == {"new": {"value": 5, "quota": None, "unit": None}}


async def test_m05_unknown_metrics_are_none_and_filters_filter(monitor: Monitor) -> None:
    for name, quota in (("agentA.token_num", 200), ("agentB.token_num", 100), ("agentA.communication", 500)):
        await monitor.register(name, metric_unit="KB", quota=quota)
    await monitor.add("agentA.token_num", 10)
    assert await monitor.get_unit("agentA.token_num") == "KB"
    assert await monitor.get_quota("agentA.token_num") == 200
    assert await monitor.get_value("token_num") is None
    assert await monitor.get_unit("token_num") is None
    assert await monitor.get_quota("token_num") is None
    assert await monitor.get_metric("token_num") is None
    assert await monitor.get_metrics("cost") == {}
    assert set(await monitor.get_metrics("communication")) == {"agentA.communication"}
    assert set(await monitor.get_metrics(r"A.tok")) == {"agentA.token_num"}
    assert set(await monitor.get_metrics(prefix="agentA")) == {"agentA.token_num", "agentA.communication"}
    assert await monitor.get_metrics(prefix="agent") == {}
    with pytest.raises(ConfigError, match="regular expression"):
        await monitor.get_metrics("(")


async def test_m06_a_budget_refuses_what_would_cost_too_much(monitor: Monitor) -> None:
    assert await monitor.register_budget("gpt-4", 5, prefix="agent_A.gpt-4")
    assert not await monitor.register_budget("gpt-4", 50, prefix="agent_A.gpt-4")
    assert await monitor.register_budget("gpt-4", 15, prefix="agent_B.gpt-4")
    await monitor.update(GPT_4_FOR_3_USD, prefix="agent_A.gpt-4")
    assert await monitor.get_metric("agent_A.gpt-4.cost") == {"value": 3.0, "quota": 5.0, "unit": "USD"}
    before = await monitor.get_metrics()
    with pytest.raises(QuotaExceededError) as caught:
        await monitor.update({**GPT_4_FOR_3_USD, "call_counter": 1}, "agent_A.gpt-4")
    assert caught.value.name == "agent_A.gpt-4.cost"
    assert await monitor.get_metrics() == before
    await monitor.update(GPT_4_FOR_3_USD, prefix="agent_B.gpt-4")
    assert await monitor.get_value("agent_B.gpt-4.cost") == 3.0


async def test_m06_an_unknown_model_gets_a_warning_and_no_budget(monitor: Monitor) -> None:
    with pytest.warns(AgentScopeWarning, match="unheard-of"):
        assert not await monitor.register_budget("unheard-of", 5, prefix="p")
    assert await monitor.get_metrics() == {}


async def test_m06_tokens_added_one_by_one_and_counted_cost_too(monitor: Monitor) -> None:
    await monitor.register_budget("gpt-4", 3)
    for _ in range(30):
        await monitor.add("prompt_tokens", 3_332)
        await monitor.add("prompt_tokens", 1)
    monitor.count({"prompt_tokens": 20, "completion_tokens": -5})
    assert await monitor.get_value("cost") == 3.0
    with pytest.raises(QuotaExceededError):
        await monitor.add("completion_tokens", 1)
    monitor.count({"completion_tokens": 50_000})
    assert await monitor.get_value("cost") == 6.0


async def test_m06_a_budget_ends_with_its_cost(monitor: Monitor) -> None:
    await monitor.register_budget("gpt-4", 1, "p")
    assert await monitor.remove("p.cost")
    await monitor.update(GPT_4_FOR_3_USD, "p")
    assert not await monitor.exists("p.cost")
    assert await monitor.register_budget("gpt-4", 5, "p")


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(_context, "process_services", None)  # those of a test that called init()
    MonitorFactory.flush()
    yield MonitorFactory
    MonitorFactory.flush()


def test_m07_two_gets_are_the_same_monitor(factory: type[MonitorFactory], tmp_path: Path) -> None:
    first = factory.get_monitor(db_path=tmp_path / "one.db")
    assert factory.get_monitor("sqlite", db_path=tmp_path / "two.db") is first
    assert first.path == tmp_path / "one.db"
    with pytest.raises(ConfigError, match="'redis'"):
        factory.get_monitor("redis")
    assert list(tmp_path.iterdir()) == []


def test_m07_another_process_reads_what_was_added(tmp_path: Path) -> None:
    async def use() -> None:
        monitor = Monitor(tmp_path / "monitor.db")
        await monitor.register("n")
        await monitor.add("n", 3.25)
        assert read(tmp_path / "monitor.db") == {"n": 3.25}
        await monitor.aclose()

    asyncio.run(use())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["monitor.db"]


async def test_m07_a_later_monitor_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    first = Monitor(tmp_path / "monitor.db")
    await first.register_budget("gpt-4", 5, "p")
    await first.update(GPT_4_FOR_3_USD, "p")
    await first.aclose()
    second = Monitor(tmp_path / "monitor.db")
    with pytest.raises(QuotaExceededError):
        await second.update(GPT_4_FOR_3_USD, "p")
    assert await second.get_value("p.cost") == 3.0
    await second.aclose()


# -- many at once --

WRITER = """
import asyncio, sys
from agentscope_async.monitor import Monitor

async def write(monitor, number):
    await monitor.register("sum", "token")
    for _ in range(100):
        await monitor.add("sum", 1)
        await monitor.update({"pair_a": 1, "pair_b": 1})
        monitor.count({"counted": 1})

async def main():
    monitor = Monitor(sys.argv[1])
    await asyncio.gather(*(write(monitor, number) for number in range(4)))
    await monitor.aclose()

asyncio.run(main())
"""


def test_m08_eight_writers_in_two_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "monitor.db"
    command = [sys.executable, "-W", "error", "-c", WRITER, str(path)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert read(path) == dict.fromkeys(("sum", "pair_a", "pair_b", "counted"), 800)


async def test_m08_quotas_hold_between_two_monitors_of_one_file(tmp_path: Path) -> None:
    one, other = Monitor(tmp_path / "monitor.db"), Monitor(tmp_path / "monitor.db")
    await one.register("n", quota=100)
    adds = [monitor.add("n", 1) for monitor in (one, other) for _ in range(80)]
    results = await asyncio.gather(*adds, return_exceptions=True)
    assert results.count(True) == 100
    assert sum(isinstance(result, QuotaExceededError) for result in results) == 60
    assert await one.get_value("n") == await other.get_value("n") == 100
    await one.aclose()
    await other.aclose()


async def test_a_file_locked_by_somebody_else_is_waited_for_and_the_waiting_share_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = []
    locked_out = threading.Event()

    class Counting(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            try:
                return super().execute(*args)
            except sqlite3.OperationalError:
                locked_out.set()
                raise

        def commit(self) -> None:
            commits.append(self.in_transaction)
            super().commit()

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, factory=Counting, **options)
    )
    monitor = Monitor(tmp_path / "monitor.db")
    await monitor.register("n")
    commits.clear()
    other = connect(tmp_path / "monitor.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    adds = asyncio.gather(*(monitor.add("n", 1) for _ in range(500)))
    # By now all are handed in; the thread may have begun with the first few.
    assert await asyncio.to_thread(locked_out.wait, 30)
    other.execute("COMMIT")
    other.close()
    assert await adds == [True] * 500
    assert await monitor.get_value("n") == 500
    assert len(commits) <= 4
    await monitor.aclose()


async def test_sqlite_is_never_called_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = set()

    class Watching(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            users.add(threading.get_ident())
            return super().execute(*args)

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, factory=Watching, **options)
    )
    monitor = Monitor(tmp_path / "monitor.db")
    monitor.count({"n": 1})
    await monitor.add("n", 1)
    await monitor.flush()
    await monitor.aclose()
    assert len(users) == 1
    assert threading.get_ident() not in users


ADDER = """
import asyncio, sys
from agentscope_async.monitor import Monitor

async def main():
    monitor = Monitor(sys.argv[1])
    async def add(name):
        for number in range(1, 10**9):
            await monitor.update({name: 1, "sum": 1})
            print(name, number, flush=True)
    await asyncio.gather(*(add(f"w{number}") for number in range(8)))

asyncio.run(main())
"""


def test_d01_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "monitor.db"
    acknowledged: dict[str, int] = {}
    for run in range(4):
        before = read(path) if run else {}
        adder = subprocess.Popen([sys.executable, "-c", ADDER, str(path)], stdout=subprocess.PIPE, text=True)
        assert adder.stdout is not None
        for _ in range(random.randrange(1, 2000)):
            adder.stdout.readline()
        adder.kill()
        rest = adder.stdout.read()
        adder.wait()
        adder.stdout.close()
        for name, number in re.findall(r"^(w\d) (\d+)$", rest, re.MULTILINE):
            acknowledged[name] = int(before.get(name, 0)) + int(number)
        values = read(path)
        assert values.pop("sum") == sum(values.values())
        assert all(values[name] >= least for name, least in acknowledged.items())
        assert sqlite_is_whole(path)


def sqlite_is_whole(path: Path) -> bool:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()


# -- counting --


async def test_counts_are_seen_by_what_is_awaited_after_them(monitor: Monitor) -> None:
    await monitor.register("n", "old unit")
    monitor.count({"n": 1, "new": 2.5}, unit="token")
    monitor.count({"n": 1}, prefix="p")
    assert await monitor.get_metrics() == {
        "n": {"value": 1, "quota": None, "unit": "old unit"},
        "new": {"value": 2.5, "quota": None, "unit": "token"},
        "p.n": {"value": 1, "quota": None, "unit": None},
    }


async def test_counting_goes_above_a_quota_and_adding_then_does_not(monitor: Monitor) -> None:
    await monitor.register("n", quota=10)
    monitor.count({"n": 11})
    with pytest.raises(QuotaExceededError):
        await monitor.add("n", 1)
    monitor.count({"n": 1})
    assert await monitor.get_value("n") == 12


async def test_flush_brings_counts_into_the_file(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "monitor.db")
    for _ in range(1000):
        monitor.count({"n": 1})
    await monitor.flush()
    assert read(tmp_path / "monitor.db") == {"n": 1000}
    await monitor.aclose()


async def test_counts_that_cannot_be_written_are_kept_until_they_can(tmp_path: Path) -> None:
    path = tmp_path / "later" / "monitor.db"
    monitor = Monitor(path)
    monitor.count({"n": 1})
    for _ in range(2):
        with pytest.raises(AgentScopeError, match="could not be read or written"):
            await monitor.flush()
    monitor.count({"n": 1})
    path.parent.mkdir()
    await monitor.flush()
    assert read(path) == {"n": 2}
    await monitor.aclose()


async def test_counts_whose_commit_failed_are_written_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [sqlite3.DatabaseError("disk I/O error")]

    class Failing(sqlite3.Connection):
        def commit(self) -> None:
            if failures:
                raise failures.pop()
            super().commit()

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, factory=Failing, **options)
    )
    monitor = Monitor(tmp_path / "monitor.db")
    monitor.count({"n": 1})
    with pytest.raises(AgentScopeError, match="disk I/O error"):
        await monitor.flush()
    assert await monitor.get_value("n") is None
    monitor.count({"n": 1})
    assert await monitor.get_value("n") == 2
    await monitor.aclose()


def test_counting_needs_no_event_loop_and_leaves_a_program_that_just_ends_in_peace(tmp_path: Path) -> None:
    code = (
        "import sys, asyncio\n"
        "from agentscope_async.monitor import Monitor\n"
        "monitor = Monitor(sys.argv[1])\n"
        "asyncio.run(monitor.register('n'))\n"  # that loop dies without aclose
        "monitor.count({'n': 7})\n"
    )
    path = tmp_path / "monitor.db"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert read(path) == {"n": 7}


# -- misuse and lifetime --


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
async def test_what_is_no_number_is_refused_and_changes_nothing(monitor: Monitor, value: Any) -> None:
    await monitor.register("n", quota=5)
    before = await monitor.get_metrics()
    for attempt in (
        lambda: monitor.add("n", value),
        lambda: monitor.update({"n": 1, "m": value}),
        lambda: monitor.register("new", quota=value if value is not None else "none"),
        lambda: monitor.set_quota("n", value if value is not None else []),
        lambda: monitor.register_budget("gpt-4", value, "p"),
    ):
        with pytest.raises(ConfigError):
            await attempt()
    with pytest.raises(ConfigError):
        monitor.count({"n": 1, "m": value})
    assert await monitor.get_metrics() == before


@pytest.mark.parametrize("name", [None, "", 7, b"n"], ids=repr)
async def test_what_is_no_name_is_refused(monitor: Monitor, name: Any) -> None:
    for attempt in (monitor.register, monitor.exists, monitor.remove, monitor.clear, monitor.get_value):
        with pytest.raises(ConfigError, match="name"):
            await attempt(name)
    with pytest.raises(ConfigError):
        await monitor.add(name, 1)
    with pytest.raises(ConfigError):
        await monitor.update({name: 1})
    with pytest.raises(ConfigError):
        await monitor.update(name)
    with pytest.raises(ConfigError):
        await monitor.register("n", metric_unit=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x'; DROP TABLE monitor_metrics; --", 'a"b', "名", "a.b.c", "%", "?"])
async def test_names_are_data(monitor: Monitor, name: str) -> None:
    assert await monitor.register(name, metric_unit=name)
    assert await monitor.register_budget("gpt-4", 1, prefix=name)
    await monitor.update({name: 2})
    await monitor.aclose()
    assert (await monitor.get_metric(name)) == {"value": 2, "quota": None, "unit": name}
    assert len(await monitor.get_metrics(prefix=name)) == 3


async def test_a_sum_too_large_for_a_number_is_refused(monitor: Monitor) -> None:
    await monitor.update({"n": 1.7e308})
    with pytest.raises(ConfigError, match="cannot hold"):
        await monitor.add("n", 1.7e308)
    monitor.count({"n": 1.7e308, "other": 1})
    assert await monitor.get_value("n") == 1.7e308
    assert await monitor.get_value("other") == 1


async def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "monitor.db"
    path.write_bytes(b"no database " * 500)
    monitor = Monitor(path)
    with pytest.raises(AgentScopeError, match=r"monitor\.db could not be read or written"):
        await monitor.register("n")
    await monitor.aclose()


def test_closing_an_unused_monitor_makes_no_file(tmp_path: Path) -> None:
    asyncio.run(Monitor(tmp_path / "monitor.db").aclose())
    asyncio.run(Monitor(tmp_path / "monitor.db").flush())
    assert list(tmp_path.iterdir()) == []


async def test_a_closed_monitor_opens_again(monitor: Monitor) -> None:
    await monitor.register("n")
    await monitor.aclose()
    await monitor.aclose()
    assert await monitor.add("n", 1)
    assert await monitor.get_value("n") == 1


def test_one_monitor_serves_one_event_loop_after_the_other(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "monitor.db")
    for number in range(3):
        asyncio.run(monitor.update({"n": 1}))
        assert asyncio.run(monitor.get_value("n")) == number + 1
    asyncio.run(monitor.aclose())


def test_a_loop_that_is_closed_too_early_does_not_disturb_the_next(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "monitor.db")
    asyncio.run(monitor.register("n"))
    other = sqlite3.connect(tmp_path / "monitor.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def leave() -> None:
        task = asyncio.ensure_future(monitor.add("n", 1))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    other.execute("COMMIT")
    other.close()
    assert asyncio.run(monitor.add("n", 1))
    asyncio.run(monitor.aclose())


async def test_a_forgotten_monitor_takes_its_thread_along(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "monitor.db")
    await monitor.register("n")
    (thread,) = (each for each in threading.enumerate() if "monitor.db" in each.name)
    monitor.count({"n": 1})
    await monitor.flush()
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()


async def test_close_ends_the_thread(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "monitor.db")
    await monitor.register("n")
    (thread,) = (each for each in threading.enumerate() if "monitor.db" in each.name)
    await monitor.aclose()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()


def test_full_names() -> None:
    assert get_full_name("n") == "n"
    assert get_full_name("n", "p") == "p.n"
    assert get_full_name("n", "") == "n"


def test_the_monitor_is_light_to_import_and_touches_no_file(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from agentscope_async.monitor import Monitor, Budget\n"
        "Monitor('m.db'); Budget(calls=1, path='b.db')\n"
        "heavy = {'pydantic', 'structlog', 'httpx', 'anyio', 'genai_prices', 'tenacity', 'websockets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


async def test_an_awaited_change_that_is_cancelled_is_made_whole_or_not_at_all(monitor: Monitor) -> None:
    updates = [asyncio.ensure_future(monitor.update({"a": 1, "b": 1})) for _ in range(50)]
    await asyncio.sleep(0)
    for update in updates[::2]:
        update.cancel()
    await asyncio.wait(updates)
    metrics = await monitor.get_metrics()
    assert metrics["a"] == metrics["b"]
    assert metrics["a"]["value"] >= 25


async def test_m07_under_a_runtime_the_factory_gives_its_monitor(factory: type[MonitorFactory]) -> None:
    async with Runtime() as runtime:
        assert factory.get_monitor() is runtime.monitor
        assert factory.get_monitor() is factory.get_monitor()
