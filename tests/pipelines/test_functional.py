"""Parity rows J01 to J06 and J08, functional forms."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

import agentscope_async
from agentscope_async import (
    AgentBase,
    Msg,
    forlooppipeline,
    ifelsepipeline,
    pipelines,
    placeholder,
    sequentialpipeline,
    switchpipeline,
    whilelooppipeline,
)


class Adder(AgentBase):
    """Adds to the number in a message."""

    def __init__(self, amount):
        super().__init__(f"add {amount}", use_memory=False)
        self.amount = amount

    async def reply(self, x=None):
        return Msg(self.name, x.content + self.amount, "assistant")


def plus(amount):
    async def add(x):
        return x + amount

    return add


def times(factor):
    async def multiply(x):
        return x * factor

    return multiply


async def fail(x):
    raise AssertionError("must not be run")


async def test_J01_sequential_runs_operators_in_order():
    assert await sequentialpipeline([plus(1), plus(2), times(3)], 0) == 9


async def test_J01_an_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="at least one operator"):
        await sequentialpipeline([], 0)


async def test_J01_agents_are_operators():
    out = await sequentialpipeline([Adder(1), Adder(2)], Msg("user", 0, "user"))

    assert (out.name, out.content) == ("add 2", 3)


async def test_J01_one_operator_needs_no_list():
    assert await sequentialpipeline(plus(5), 1) == 6


@given(st.lists(st.tuples(st.booleans(), st.integers(-9, 9)), min_size=1, max_size=12), st.integers())
async def test_J01_sequential_is_function_composition(steps, x):
    expected = x
    for is_sum, number in steps:
        expected = expected + number if is_sum else expected * number

    assert await sequentialpipeline([(plus if s else times)(n) for s, n in steps], x) == expected


@pytest.mark.parametrize(("text", "expected"), [("[A] hello", "if"), ("hello", "else")])
async def test_J02_if_else_branches_by_content_marker(text, expected):
    async def mark_if(x):
        return x.replace(content="if")

    async def mark_else(x):
        return x.replace(content="else")

    out = await ifelsepipeline(lambda x: "[A]" in x.content, mark_if, mark_else, Msg("user", text, "user"))

    assert out.content == expected


@pytest.mark.parametrize(("x", "expected"), [("A", "Aa"), ("B", "Bb"), ("C", "Cc"), ("D", "Dd"), ("E", "E?")])
async def test_J03_switch_picks_the_case_or_the_default(x, expected):
    cases = {letter: plus(letter.lower()) for letter in "ABCD"}

    assert await switchpipeline(lambda x: x, cases, plus("?"), x) == expected


async def test_J04_for_loop_runs_so_many_times():
    assert await forlooppipeline(plus(1), 10, x=0) == 10


async def test_J04_for_loop_breaks_after_a_round():
    assert await forlooppipeline(plus(1), 10, lambda x: x > 5, 0) == 6


async def test_J04_for_loop_of_no_rounds_returns_the_input():
    assert await forlooppipeline(fail, 0, x="as it was") == "as it was"


async def test_J05_while_loop_stops_at_the_rounds():
    assert await whilelooppipeline(plus("token "), lambda i, x: i < 10 and len(x) <= 500, "") == "token " * 10


async def test_J05_while_loop_stops_at_the_tokens():
    out = await whilelooppipeline(plus("x" * 200), lambda i, x: i < 10 and len(x) <= 500, "")

    assert len(out) == 600


async def test_J05_while_loop_never_runs_by_default():
    assert await whilelooppipeline(fail, x=1) == 1


@pytest.mark.parametrize(
    "branch",
    [
        lambda ops, x: ifelsepipeline(lambda _: True, ops, x=x),
        lambda ops, x: ifelsepipeline(lambda _: False, fail, ops, x),
        lambda ops, x: switchpipeline(lambda _: "k", {"k": ops}, x=x),
        lambda ops, x: switchpipeline(lambda _: "?", {"k": fail}, ops, x),
        lambda ops, x: forlooppipeline(ops, 1, x=x),
        lambda ops, x: whilelooppipeline(ops, lambda i, x: i < 1, x),
    ],
)
async def test_J06_lists_in_branches_run_in_sequence(branch):
    assert await branch([plus(1), times(10)], 1) == 20
    assert await branch((plus(1), times(10)), 1) == 20
    with pytest.raises(ValueError, match="at least one operator"):
        await branch([], 1)


async def test_J06_default_branches_return_the_input_itself():
    msg = Msg("user", "hi", "user")

    assert await ifelsepipeline(lambda _: False, fail, x=msg) is msg
    assert await switchpipeline(lambda _: "none", {"k": fail}, x=msg) is msg
    assert await placeholder(msg) is msg
    assert await placeholder() is None


async def test_J08_all_functional_forms_come_from_the_package():
    names = ["sequentialpipeline", "ifelsepipeline", "switchpipeline", "forlooppipeline", "whilelooppipeline"]

    for name in [*names, "placeholder"]:
        assert getattr(agentscope_async, name) is getattr(pipelines, name)
        assert name in pipelines.__all__


async def test_conditions_may_be_async():
    async def is_true(*_):
        return True

    async def first_round(i, x):
        return i < 1

    assert await ifelsepipeline(is_true, plus(1), fail, 0) == 1
    assert await switchpipeline(is_true, {True: plus(1)}, fail, 0) == 1
    assert await forlooppipeline(plus(1), 10, is_true, 0) == 1
    assert await whilelooppipeline(plus(1), first_round, 0) == 1


async def test_a_plain_function_is_no_operator_and_the_error_says_so():
    def add_one(x):
        return x + 1

    with pytest.raises(TypeError, match=r"add_one returned int.*async def"):
        await sequentialpipeline([add_one], 0)


async def test_operators_must_be_callable_or_a_sequence():
    with pytest.raises(TypeError, match="one operator or a sequence"):
        await sequentialpipeline({plus(1)}, 0)


async def test_errors_of_operators_come_as_they_are():
    async def divide(x):
        return 1 / x

    with pytest.raises(ZeroDivisionError):
        await sequentialpipeline([placeholder, divide], 0)
