"""What a call costs, and where a price comes from."""

from __future__ import annotations

import subprocess
import sys
import warnings
from decimal import Decimal
from typing import Any

import pytest

from agentscope_async.errors import AgentScopeWarning, ConfigError
from agentscope_async.monitor import Budget, cost_of


@pytest.fixture
def no_price_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)


@pytest.mark.usefixtures("no_price_package")
def test_m06_gpt_4_costs_what_it_did_without_any_package() -> None:
    assert cost_of("gpt-4", 50_000, 25_000) == 3.0


@pytest.mark.usefixtures("no_price_package")
def test_a_model_nobody_knows_has_no_cost() -> None:
    assert cost_of("gpt-4-but-mine", 1000, 1000) is None
    assert cost_of("llama3", 1000, 1000) is None


def test_a_table_of_ones_own_wins() -> None:
    assert cost_of("gpt-4", 1_000_000, 2_000_000, {"gpt-4": (1, 2.5)}) == 6.0
    assert cost_of("mine", 1, 1, {"mine": (Decimal("0.1"), 0)}) == 1e-7
    assert cost_of("free", 1, 1, {"free": (0, 0)}) == 0.0


def test_the_package_is_asked_before_the_old_list() -> None:
    pytest.importorskip("genai_prices")
    assert cost_of("gpt-4o-mini", 1_000_000, 1_000_000) == pytest.approx(0.75)
    assert cost_of("gpt-4", 50_000, 25_000) == 3.0
    assert cost_of("gpt-4-but-mine", 1000, 1000) is None


def test_looking_up_a_price_opens_no_connection() -> None:
    pytest.importorskip("genai_prices")
    code = (
        "import sys\n"
        "def forbid(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): raise SystemExit(f'{event} {args}')\n"
        "sys.addaudithook(forbid)\n"
        "from agentscope_async.monitor import cost_of\n"
        "assert cost_of('gpt-4o-mini', 10**6, 0) is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "price",
    [None, 1.0, (1,), (1, 2, 3), (1, -1), (float("nan"), 1), (float("inf"), 1), ("1", 1), (True, 1), "12"],
)
def test_a_price_that_is_none_is_refused(price: Any) -> None:
    with pytest.raises(ConfigError, match="USD per million input tokens"):
        cost_of("m", 1, 1, {"m": price})
    with pytest.raises(ConfigError, match="USD per million input tokens"):
        Budget(usd=1, prices={"m": price})


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "7", None, float("nan"), 10**9])
def test_token_counts_that_are_none_are_refused(tokens: Any) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        cost_of("gpt-4", tokens, 1)
    with pytest.raises(ConfigError, match="whole number"):
        cost_of("gpt-4", 1, tokens)


@pytest.mark.usefixtures("no_price_package")
async def test_a_money_budget_without_prices_says_once_what_to_install() -> None:
    budget = Budget(usd=1)
    with pytest.warns(AgentScopeWarning, match=r"pip install 'agentscope-async\[prices\]'"):
        first = await budget.reserve(model="unheard-of", input_tokens=10**6)
    second = await budget.reserve(model="unheard-of", input_tokens=10**6)
    first.settle(None)
    second.settle(None)
    assert budget.spent.usd == 0
    assert budget.spent.calls == 2


async def test_each_unknown_model_is_warned_of_once() -> None:
    budget = Budget(usd=1, prices={"known": (1, 1)})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for model in ("one", "known", "one", "two", "one", "two"):
            (await budget.reserve(model=model, input_tokens=1)).release()
    assert [("one" in str(each.message), "two" in str(each.message)) for each in caught] == [
        (True, False),
        (False, True),
    ]


async def test_a_budget_without_money_asks_for_no_price() -> None:
    budget = Budget(tokens=10_000)
    (await budget.reserve(model="unheard-of", input_tokens=1)).settle(None)
    assert budget.spent.usd == 0


async def test_where_warnings_are_errors_nothing_is_reserved() -> None:
    budget = Budget(usd=1, calls=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AgentScopeWarning):
            await budget.reserve(model="unheard-of", input_tokens=1)
    assert budget.reserved.calls == 0
