"""Budgets: never more spent and reserved than allowed, whoever asks, in whatever order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from agentscope_async import Usage
from agentscope_async.errors import AgentScopeError, BudgetExceededError, ConfigError
from agentscope_async.monitor import Budget, Remaining, Reservation, Spending, active_budgets
from agentscope_async.monitor._books import Books
from benchmarks.monitor import ALLOWED_CALLS, spend_in_processes

MakeBudget = Callable[..., Budget]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(params=["memory", "file"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeBudget]:
    made: list[Budget] = []

    def make(**options: Any) -> Budget:
        if request.param == "file":
            options.setdefault("path", tmp_path / "budget.db")
        made.append(Budget(**options))
        return made[-1]

    yield make
    for budget in made:
        await budget.aclose()


async def take(budget: Budget, tokens: int = 1) -> Reservation:
    return await budget.reserve(model="m", input_tokens=tokens, output_tokens=0)


async def start(budget: Budget, tokens: int = 1) -> asyncio.Task[Reservation]:
    """Ask for a reservation and return when the budget has looked at it."""
    task = asyncio.ensure_future(take(budget, tokens))
    await asyncio.sleep(0)
    await budget.refresh()
    await asyncio.sleep(0)
    return task


# -- one call --


async def test_a_call_reserves_its_worst_case_and_settles_what_it_took(make: MakeBudget) -> None:
    budget = make(usd=1, tokens=10_000, calls=10, prices={"m": (10, 20)})
    reservation = await budget.reserve(model="m", input_tokens=1000, output_tokens=500)
    assert budget.reserved == Spending(usd=0.02, tokens=1500, calls=1, wall_s=0.0)
    assert budget.remaining == Remaining(usd=0.98, tokens=8500, calls=9, wall_s=None)
    await reservation.mark_sent()
    reservation.settle(Usage(900, 50))
    assert (budget.spent.usd, budget.spent.tokens, budget.spent.calls) == (0.01, 950, 1)
    assert budget.reserved == Spending(usd=0, tokens=0, calls=0, wall_s=0.0)
    await budget.refresh()
    assert (budget.spent.usd, budget.spent.tokens, budget.spent.calls) == (0.01, 950, 1)
    assert budget.reserved == Spending(usd=0, tokens=0, calls=0, wall_s=0.0)


async def test_a_released_call_costs_nothing(make: MakeBudget) -> None:
    budget = make(calls=1)
    for _ in range(3):
        (await take(budget)).release()
    await budget.refresh()
    assert budget.spent.calls == budget.spent.tokens == budget.reserved.calls == 0


async def test_an_answer_may_be_as_long_as_the_budget_says_unless_the_call_says_otherwise(
    make: MakeBudget,
) -> None:
    budget = make(tokens=10_000, max_output_tokens=700)
    (await budget.reserve(model="m", input_tokens=0)).settle(None)
    (await budget.reserve(model="m", input_tokens=0, output_tokens=0)).settle(None)
    assert budget.spent.tokens == 700
    assert budget.spent.calls == 2


async def test_ending_twice_has_no_effect(make: MakeBudget) -> None:
    budget = make(tokens=100)
    first, second = await take(budget, 10), await take(budget, 10)
    first.settle(Usage(5, 0))
    first.settle(Usage(7, 0))
    first.release()
    second.release()
    second.settle(Usage(7, 0))
    await budget.refresh()
    assert (budget.spent.tokens, budget.spent.calls) == (5, 1)
    assert budget.reserved.tokens == 0
    with pytest.raises(AgentScopeError, match="settled or released already"):
        await first.mark_sent()


NO_USAGE = [
    None, Usage(-1, 5), Usage(5, -1), Usage(True, 0), Usage("7", 0), Usage(float("nan"), 0), Usage(1.5, 0),
    Usage(None, 0), Usage(10**12, 0), Usage(2_000_000, 0), {"input_tokens": 5}, "5", b"5",
]  # fmt: skip


@pytest.mark.parametrize("usage", NO_USAGE, ids=repr)
async def test_usage_that_cannot_be_true_counts_as_what_was_reserved(make: MakeBudget, usage: Any) -> None:
    budget = make(tokens=100, usd=1, prices={"m": (1, 1)})
    (await take(budget, 40)).settle(usage)
    await budget.refresh()
    assert (budget.spent.tokens, budget.spent.calls, budget.spent.usd) == (40, 1, 0.00004)


async def test_more_than_was_reserved_is_counted_and_logged(
    make: MakeBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = []

    class Log:
        def warning(self, event: str, **facts: Any) -> None:
            logged.append((event, facts["reserved_tokens"], facts["tokens"]))

    monkeypatch.setattr("agentscope_async.monitor.budget.get_logger", Log)
    budget = make(tokens=100)
    (await take(budget, 40)).settle(Usage(200, 1))
    assert budget.spent.tokens == 201
    assert logged == [("a call took more than it had reserved", 40, 201)]
    with pytest.raises(BudgetExceededError):
        await take(budget)
    assert budget.remaining.tokens == 0


async def test_more_than_was_reserved_is_logged_once_for_each_model_and_budget(
    make: MakeBudget, caplog: pytest.LogCaptureFixture
) -> None:
    for budget in (make(tokens=1000), make(tokens=1000, name="other")):
        for model in ("one", "two", "one"):
            reservation = await budget.reserve(model=model, input_tokens=5, output_tokens=5)
            reservation.settle(Usage(20, 1))
    lines = [record.getMessage() for record in caplog.records]
    assert ["model='one'" in line for line in lines] == [True, False, True, False]
    assert ["budget='other'" in line for line in lines] == [False, False, True, True]


async def test_sums_of_money_are_exact(make: MakeBudget) -> None:
    budget = make(usd=0.3, prices={"m": (0.1, 0)})
    for _ in range(3):
        (await take(budget, 10**6)).settle(None)
    assert budget.spent.usd == 0.3
    assert budget.remaining.usd == 0
    with pytest.raises(BudgetExceededError):
        await take(budget, 1)


async def test_d10_a_refusal_says_what_is_in_the_way(make: MakeBudget) -> None:
    budget = make(name="team", usd=1, prices={"m": (100_00, 0)})
    first = await take(budget, 40)
    first.settle(None)
    await take(budget, 50)
    with pytest.raises(
        BudgetExceededError, match=r"Budget 'team' allows 1 usd: 0.4 spent, 0.5 reserved"
    ) as caught:
        await take(budget, 70)
    error = caught.value
    assert (error.name, error.limit) == ("team", "usd")
    assert (error.allowed, error.spent, error.reserved, error.needed) == (1, 0.4, 0.5, 0.7)


@pytest.mark.parametrize("limit", ["calls", "tokens", "usd"])
async def test_each_limit_holds(make: MakeBudget, limit: str) -> None:
    budget = make(**{limit: 2}, prices={"m": (10_000, 0)})
    tokens = {"calls": 5, "tokens": 1, "usd": 100}[limit]
    for _ in range(2):
        (await take(budget, tokens)).settle(None)
    with pytest.raises(BudgetExceededError) as caught:
        await take(budget, tokens)
    assert caught.value.limit == limit


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "5", True, []], ids=repr)
@pytest.mark.parametrize("limit", ["usd", "tokens", "calls", "wall_s"])
def test_limits_that_are_none_are_refused(limit: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=limit):
        Budget(**{limit: value})


def test_a_budget_needs_a_limit_and_a_name() -> None:
    with pytest.raises(ConfigError, match="needs a limit"):
        Budget()
    with pytest.raises(ConfigError, match="name"):
        Budget(calls=1, name="")
    with pytest.raises(ConfigError, match="whole number"):
        Budget(calls=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most 1,000,000"):
        Budget(usd=10**7)
    with pytest.raises(ConfigError, match="max_output_tokens"):
        Budget(calls=1, max_output_tokens=-1)


def test_tokens_count_where_a_limit_is_in_tokens_or_money() -> None:
    assert Budget(tokens=1).counts_tokens
    assert Budget(usd=1, calls=1).counts_tokens
    assert not Budget(calls=1, wall_s=1).counts_tokens


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "7", None, float("nan")], ids=repr)
async def test_tokens_that_are_none_reserve_nothing(make: MakeBudget, tokens: Any) -> None:
    budget = make(calls=1)
    with pytest.raises(ConfigError, match="input_tokens"):
        await budget.reserve(model="m", input_tokens=tokens)
    assert budget.reserved.calls == 0


# -- waiting --


async def test_who_is_only_in_the_way_of_other_calls_waits_for_them(make: MakeBudget) -> None:
    budget = make(tokens=100)
    first = await take(budget, 100)
    waiting = await start(budget, 30)
    assert not waiting.done()
    first.settle(Usage(70, 0))
    await waiting
    assert (budget.spent.tokens, budget.reserved.tokens) == (70, 30)


async def test_first_come_is_first_served_even_if_a_later_one_would_fit(make: MakeBudget) -> None:
    budget = make(tokens=100)
    first, second = await take(budget, 50), await take(budget, 40)
    large = await start(budget, 60)
    small = await start(budget, 5)
    assert not large.done()
    assert not small.done()
    second.release()
    await budget.refresh()
    assert not large.done()
    assert not small.done()
    first.release()
    await large
    await small


async def test_those_who_wait_are_refused_as_soon_as_they_can_never_go(make: MakeBudget) -> None:
    budget = make(tokens=100)
    first, second = await take(budget, 50), await take(budget, 50)
    small, large = await start(budget, 40), await start(budget, 51)
    first.settle(None)
    with pytest.raises(BudgetExceededError) as caught:
        await large
    assert (caught.value.spent, caught.value.needed) == (50, 51)
    assert not small.done()
    second.release()
    await small


async def test_a_cancelled_waiter_leaves_nothing_and_passes_the_turn_on(make: MakeBudget) -> None:
    budget = make(tokens=100)
    first = await take(budget, 60)
    large, small = await start(budget, 90), await start(budget, 40)
    large.cancel()
    await asyncio.wait([large])
    await small
    assert budget.reserved.tokens == 100
    first.release()
    (await small).release()
    await budget.refresh()
    assert budget.reserved.tokens == 0


async def test_one_cancelled_just_as_its_turn_came_passes_it_on(make: MakeBudget) -> None:
    budget = make(calls=1)
    for _ in range(20):
        first = await take(budget)
        second, third = await start(budget), await start(budget)
        first.release()
        second.cancel()
        await asyncio.wait([second])
        (await third).release()
    await budget.refresh()
    assert budget.reserved.calls == 0


async def test_cancelling_at_any_moment_leaves_nothing_reserved(make: MakeBudget) -> None:
    budget = make(calls=5)
    for rounds in range(30):
        task = asyncio.ensure_future(take(budget))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result().release()
    for _ in range(
        3
    ):  # a withdrawal may take one exchange with the file to be noticed, and one to be written
        await budget.refresh()
    assert budget.reserved.calls == 0
    held = [await take(budget) for _ in range(5)]
    assert budget.reserved.calls == 5
    for each in held:
        each.release()


async def test_d10_500_at_once_share_what_is_allowed_for_100(make: MakeBudget) -> None:
    budget = make(calls=100, tokens=2000)
    most = 0

    async def call(number: int) -> bool:
        nonlocal most
        try:
            reservation = await take(budget, 20)
        except BudgetExceededError:
            return False
        try:
            most = max(most, budget.spent.calls + budget.reserved.calls)
            assert budget.spent.tokens + budget.reserved.tokens <= 2000
            await asyncio.sleep(0)
            await reservation.mark_sent()
        finally:
            reservation.release() if number % 7 == 0 else reservation.settle(Usage(10 + number % 11, 0))
        return number % 7 != 0

    results = await asyncio.gather(*(call(number) for number in range(500)))
    await budget.refresh()
    assert sum(results) == budget.spent.calls
    assert 95 <= budget.spent.calls <= 100
    assert most <= 100
    assert budget.reserved.calls == 0


# -- time --


async def test_after_its_time_nothing_is_reserved_any_more(make: MakeBudget) -> None:
    clock = Clock()
    budget = make(wall_s=60, clock=clock)
    clock.now_s += 1000  # not before the first reserve
    first = await take(budget)
    clock.now_s += 59
    await take(budget)
    assert budget.spent.wall_s == 59
    assert budget.remaining.wall_s == 1
    clock.now_s += 1
    with pytest.raises(BudgetExceededError) as caught:
        await take(budget)
    assert (caught.value.limit, caught.value.allowed, caught.value.spent) == ("wall_s", 60, 60)
    first.settle(None)
    assert budget.spent.calls == 1


async def test_those_who_wait_are_refused_when_the_time_is_over(make: MakeBudget) -> None:
    clock = Clock()
    budget = make(wall_s=60, calls=1, clock=clock)
    first = await take(budget)
    waiting = [await start(budget) for _ in range(3)]
    clock.now_s += 60
    first.release()
    for each in waiting:
        with pytest.raises(BudgetExceededError) as caught:
            await each
        assert caught.value.limit == "wall_s"


async def test_those_who_wait_are_refused_when_the_time_is_over_though_nobody_settles(
    make: MakeBudget,
) -> None:
    budget = make(wall_s=0.2, calls=1)
    await asyncio.create_task(take(budget))
    with pytest.raises(BudgetExceededError) as caught:
        await take(budget)
    assert caught.value.limit == "wall_s"


# -- who is charged --


async def test_budgets_nest_and_end_with_their_block() -> None:
    team, debate = Budget(calls=10), Budget(calls=5)
    assert active_budgets() == ()
    with team:
        async with debate:
            assert active_budgets() == (team, debate)
            with team:
                assert active_budgets() == (team, debate)
            assert active_budgets() == (team, debate)
        assert active_budgets() == (team,)
        with pytest.raises(KeyError), debate:
            raise KeyError
        assert active_budgets() == (team,)
    assert active_budgets() == ()


async def test_tasks_inherit_the_budgets_of_the_place_they_were_started_at() -> None:
    budget, other = Budget(calls=1), Budget(calls=1)

    async def inside() -> tuple[Budget, ...]:
        with other:
            await asyncio.sleep(0)
            return active_budgets()

    with budget:
        both = await asyncio.gather(inside(), inside())
    assert both == [(budget, other), (budget, other)]
    assert active_budgets() == ()


# -- in a file --


def rows(path: Path) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT owner, number, is_sent, tokens FROM reservations").fetchall()
    finally:
        connection.close()


async def test_two_budgets_on_one_path_are_one(tmp_path: Path) -> None:
    one, other = (Budget(calls=3, path=tmp_path / "budget.db") for _ in range(2))
    first, second, third = await take(one), await take(other), await take(one)
    waiting = [await start(other), await start(one)]
    assert [each.done() for each in waiting] == [False, False]
    first.release()
    second.release()
    for each in waiting:
        (await each).settle(None)
    third.settle(None)
    for budget in (one, other, one):  # each writes what it settled, the first one then reads it all
        await budget.refresh()
    assert one.spent.calls == other.spent.calls == 3
    assert rows(tmp_path / "budget.db") == []
    await one.aclose()
    await other.aclose()


async def test_budgets_of_other_names_in_one_file_are_others(tmp_path: Path) -> None:
    one = Budget(calls=1, path=tmp_path / "budget.db", name="one")
    other = Budget(calls=1, path=tmp_path / "budget.db", name="other")
    (await take(one)).settle(None)
    (await take(other)).settle(None)
    with pytest.raises(BudgetExceededError):
        await take(one)
    await one.aclose()
    await other.aclose()


async def test_what_is_marked_as_sent_is_so_in_the_file(tmp_path: Path) -> None:
    budget = Budget(tokens=100, path=tmp_path / "budget.db")
    reservation = await take(budget, 7)
    ((owner, number, is_sent, tokens),) = rows(tmp_path / "budget.db")
    assert (is_sent, tokens) == (0, 7)
    await reservation.mark_sent()
    assert rows(tmp_path / "budget.db") == [(owner, number, 1, 7)]
    reservation.settle(None)
    await budget.aclose()
    assert rows(tmp_path / "budget.db") == []


DYING = """
import asyncio, os, sys
from agentscope_async.monitor import Budget

async def main():
    budget = Budget(tokens=100, path=sys.argv[1])
    sent, unsent = [await budget.reserve(model="m", input_tokens=n, output_tokens=0) for n in (30, 50)]
    await sent.mark_sent()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def dying(tmp_path: Path) -> Any:
    """A process that has sent a call of 30 tokens and not sent one of 50."""
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, str(tmp_path / "budget.db")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate()


async def test_r39_what_the_dead_had_sent_is_spent_and_the_rest_released(
    dying: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    budget = Budget(tokens=100, path=tmp_path / "budget.db")
    await budget.refresh()
    assert (budget.spent.tokens, budget.reserved.tokens) == (0, 80)
    dying.kill()
    dying.wait()
    await budget.refresh()
    assert (budget.spent.tokens, budget.spent.calls, budget.reserved.tokens) == (30, 1, 0)
    await budget.aclose()


async def test_r39_those_who_wait_for_a_process_that_dies_go_on(
    dying: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    budget = Budget(tokens=100, path=tmp_path / "budget.db")
    waiting, hopeless = await start(budget, 70), await start(budget, 71)
    assert not waiting.done()
    dying.kill()
    (await waiting).settle(None)
    with pytest.raises(BudgetExceededError):
        await hopeless
    assert budget.spent.tokens == 100
    await budget.aclose()


def test_r39_a_process_that_stops_in_order_leaves_only_the_file(tmp_path: Path) -> None:
    async def use() -> None:
        async with Budget(calls=1, path=tmp_path / "budget.db") as budget:
            (await take(budget)).settle(None)
        await budget.aclose()

    asyncio.run(use())
    assert [each.name for each in tmp_path.iterdir()] == ["budget.db"]


@pytest.mark.parametrize("processes", [1, 2])
def test_r39_processes_together_use_what_is_allowed_and_not_more(tmp_path: Path, processes: int) -> None:
    aftermath = spend_in_processes(tmp_path, processes, tasks=500 // processes)
    assert aftermath.is_sound
    assert 95 <= aftermath.sent == aftermath.spent <= ALLOWED_CALLS


def test_r39_killed_at_any_moment_it_is_never_overspent_and_nothing_stays_reserved(tmp_path: Path) -> None:
    def kill(number: int) -> Any:
        folder = tmp_path / str(number)
        folder.mkdir()
        return spend_in_processes(folder, tasks=8, kill_after_s=random.uniform(0, 0.08))

    with ThreadPoolExecutor(2) as pool:
        aftermaths = list(pool.map(kill, range(50)))
    assert [each for each in aftermaths if not each.is_sound] == []


async def test_a_settlement_that_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentscope_async.monitor._shared_ledger.RETRY_S", 0.001)
    monkeypatch.setattr("agentscope_async.monitor._store.LOCK_PATIENCE_S", 0.0)
    budget = Budget(calls=2, path=tmp_path / "budget.db")
    first, second = await take(budget), await take(budget)
    other = sqlite3.connect(tmp_path / "budget.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    first.settle(None)
    with pytest.raises(AgentScopeError, match="could not be read or written"):
        await second.mark_sent()
    second.release()
    assert (budget.spent.calls, budget.reserved.calls) == (1, 0)
    with pytest.raises(AgentScopeError, match="could not be read or written"):
        await take(budget)
    other.execute("COMMIT")
    other.close()
    monkeypatch.setattr("agentscope_async.monitor._store.LOCK_PATIENCE_S", 60.0)
    with contextlib.suppress(AgentScopeError):  # of an attempt that had begun before
        await budget.refresh()
    await budget.refresh()
    assert (budget.spent.calls, budget.reserved.calls) == (1, 0)
    assert rows(tmp_path / "budget.db") == []
    await budget.aclose()


async def test_one_cancelled_while_the_file_makes_room_for_it_passes_it_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(calls=1, path=tmp_path / "budget.db")
    await budget.refresh()
    decided, go_on = threading.Event(), threading.Event()

    def exchange(books: Books, asked: Any, exchange: Any = Books.exchange) -> Any:
        result = exchange(books, asked)
        decided.set()
        go_on.wait(30)
        return result

    monkeypatch.setattr(Books, "exchange", exchange)
    task = asyncio.ensure_future(take(budget))
    assert await asyncio.to_thread(decided.wait, 30)
    task.cancel()
    await asyncio.wait([task])
    go_on.set()
    assert task.cancelled()
    (await take(budget)).settle(None)
    await budget.aclose()
    assert rows(tmp_path / "budget.db") == []


def test_a_loop_that_is_gone_disturbs_nobody_in_the_next(make_anywhere: MakeBudget) -> None:
    budget = make_anywhere(calls=1)

    held: list[Reservation] = []

    async def hold() -> None:
        held.append(await take(budget))

    asyncio.run(hold())
    held.pop().release()
    asyncio.run(hold())

    async def give_up() -> None:
        waiting = asyncio.ensure_future(take(budget))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(give_up())
    held.pop().settle(None)
    gc.collect()

    async def look() -> None:
        with pytest.raises(BudgetExceededError):
            await take(budget)
        await budget.refresh()
        assert (budget.spent.calls, budget.reserved.calls) == (1, 0)
        await budget.aclose()

    asyncio.run(look())


@pytest.fixture(params=["memory", "file"])
def make_anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> MakeBudget:
    def make(**options: Any) -> Budget:
        return Budget(path=tmp_path / "budget.db" if request.param == "file" else None, **options)

    return make


# -- against a reference --

TOKENS, CALLS, USD_PICO, WALL_S = 100, 6, 300 * 10**6, 1000.0


@dataclass(eq=False)
class Asked:
    """A call as the reference sees it, and the task that asked for it."""

    tokens: int
    task: asyncio.Task[Reservation]
    state: str = "waiting"


class Reference(RuleBasedStateMachine):
    """A budget in memory beside the plainest description of what it should do.

    A million tokens cost 3 USD, so 100 tokens cost 300 millionths; all three limits bind.
    """

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.budget = Budget(
            tokens=TOKENS, calls=CALLS, usd=USD_PICO / 10**12, wall_s=WALL_S, clock=self.clock,
            prices={"m": (3, 3)},
        )  # fmt: skip
        self.spent = [0, 0]  # tokens, calls
        self.asked: list[Asked] = []
        self.started_at: float | None = None
        self.has_overrun = False

    def teardown(self) -> None:
        for each in self.asked:
            each.task.cancel()
        self.run()
        for each in self.asked:
            if each.task.done() and not each.task.cancelled():
                each.task.exception()
        self.loop.close()

    def run(self) -> None:
        async def rounds() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rounds())

    def in_state(self, state: str) -> list[Asked]:
        return [each for each in self.asked if each.state == state]

    def fits(self, each: Asked, *, beside_reserved: bool) -> bool:
        reserved = self.in_state("reserved") if beside_reserved else []
        tokens = self.spent[0] + sum(other.tokens for other in reserved) + each.tokens
        return tokens <= TOKENS and self.spent[1] + len(reserved) + 1 <= CALLS

    def serve(self) -> None:
        is_over = self.started_at is not None and self.clock.now_s - self.started_at >= WALL_S
        for each in self.in_state("waiting"):
            if is_over or not self.fits(each, beside_reserved=False):
                each.state = "refused"
        for each in self.in_state("waiting"):
            if not self.fits(each, beside_reserved=True):
                break
            each.state = "reserved"

    @rule(target=calls, tokens=st.integers(0, 110))
    def reserve(self, tokens: int) -> Asked:
        if self.started_at is None:
            self.started_at = self.clock.now_s
        task = self.loop.create_task(self.budget.reserve(model="m", input_tokens=tokens, output_tokens=0))
        asked = Asked(tokens, task)
        self.asked.append(asked)
        self.serve()
        self.run()
        return asked

    @rule(target=calls, first=st.integers(0, 60), second=st.integers(0, 60))
    def reserve_two_in_one_round(self, first: int, second: int) -> Asked:
        if self.started_at is None:
            self.started_at = self.clock.now_s
        for tokens in (first, second):
            task = self.loop.create_task(self.budget.reserve(model="m", input_tokens=tokens, output_tokens=0))
            self.asked.append(Asked(tokens, task))
            self.serve()
        self.run()
        return self.asked[-1]

    @rule(call=calls, share=st.floats(0, 1.3))
    def settle(self, call: Asked, share: float) -> None:
        if call.state == "reserved":
            tokens = int(call.tokens * share)
            call.task.result().settle(Usage(tokens, 0))
            self.has_overrun |= tokens > call.tokens
            self.end(call, tokens, 1)

    @rule(call=calls)
    def settle_without_usage(self, call: Asked) -> None:
        if call.state == "reserved":
            call.task.result().settle(None)
            self.end(call, call.tokens, 1)

    @rule(call=calls)
    def release(self, call: Asked) -> None:
        if call.state == "reserved":
            call.task.result().release()
            self.end(call, 0, 0)

    @rule(call=calls)
    def end_again(self, call: Asked) -> None:
        if call.state == "ended":
            call.task.result().settle(Usage(1, 1))
            call.task.result().release()

    @rule(call=calls)
    def cancel(self, call: Asked) -> None:
        if call.state == "waiting":
            call.state = "cancelled"
            call.task.cancel()
            self.serve()
            self.run()

    @rule(call=calls, other=calls, is_settled=st.booleans())
    def end_one_and_cancel_another_before_it_knows(self, call: Asked, other: Asked, is_settled: bool) -> None:
        if call.state != "reserved" or other.state != "waiting":
            return
        call.task.result().settle(None) if is_settled else call.task.result().release()
        other.task.cancel()
        call.state = "ended"
        if is_settled:
            self.spent = [self.spent[0] + call.tokens, self.spent[1] + 1]
        self.serve()
        if other.state in ("waiting", "reserved"):
            other.state = "cancelled"
            self.serve()
        else:
            other.state = "cancelled"
        self.run()

    @precondition(lambda self: self.started_at is not None)
    @rule(seconds=st.sampled_from([1, 10, 999, 1000]))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.now_s += seconds
        self.serve()
        self.loop.run_until_complete(self.budget.refresh())
        self.run()

    def end(self, call: Asked, tokens: int, calls: int) -> None:
        call.state = "ended"
        self.spent = [self.spent[0] + tokens, self.spent[1] + calls]
        self.serve()
        self.run()

    @invariant()
    def everybody_is_where_the_reference_says(self) -> None:
        for each in self.asked:
            assert each.task.done() == (each.state != "waiting"), each
            if each.state in ("reserved", "ended"):
                assert each.task.exception() is None, each
            elif each.state == "refused":
                assert isinstance(each.task.exception(), BudgetExceededError), each

    @invariant()
    def the_sums_are_exact(self) -> None:
        reserved = self.in_state("reserved")
        tokens = sum(each.tokens for each in reserved)
        seen = self.budget.reserved
        assert (seen.tokens, seen.calls, seen.usd) == (tokens, len(reserved), tokens * 3 / 10**6)
        assert (self.budget.spent.tokens, self.budget.spent.calls) == tuple(self.spent)
        assert self.budget.spent.usd == self.spent[0] * 3 / 10**6

    @invariant()
    def no_limit_is_ever_passed_unless_a_call_took_more_than_it_had_reserved(self) -> None:
        if not self.has_overrun:
            spent, reserved = self.budget.spent, self.budget.reserved
            assert spent.tokens + reserved.tokens <= TOKENS
            assert spent.calls + reserved.calls <= CALLS
            assert round((spent.usd + reserved.usd) * 10**12) <= USD_PICO


TestReference = Reference.TestCase
TestReference.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


async def test_a_call_inside_ones_own_open_call_is_refused_rather_than_waiting_for_itself() -> None:
    budget = Budget(calls=1)
    outer = await budget.reserve(model="m", input_tokens=1, output_tokens=1)
    with pytest.raises(BudgetExceededError):
        await budget.reserve(model="m", input_tokens=1, output_tokens=1)
    outer.release()
    (await budget.reserve(model="m", input_tokens=1, output_tokens=1)).release()


async def test_a_call_inside_ones_own_open_call_is_refused_rather_than_queueing_behind_others() -> None:
    budget = Budget(calls=2)
    outer = await budget.reserve(model="m", input_tokens=1, output_tokens=1)
    others = await asyncio.create_task(budget.reserve(model="m", input_tokens=1, output_tokens=1))
    waiting = asyncio.create_task(budget.reserve(model="m", input_tokens=1, output_tokens=1))
    await asyncio.sleep(0)
    with pytest.raises(BudgetExceededError):
        await budget.reserve(model="m", input_tokens=1, output_tokens=1)
    outer.release()
    (await waiting).release()
    others.release()
    assert budget.reserved.calls == 0
