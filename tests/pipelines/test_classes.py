"""Parity rows J01 to J07, pipelines as objects."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from agentscope_async import (
    AgentBase,
    ForLoopPipeline,
    IfElsePipeline,
    Msg,
    PipelineBase,
    SequentialPipeline,
    SwitchPipeline,
    WhileLoopPipeline,
    placeholder,
    whilelooppipeline,
)


async def add_one(x):
    return x + 1


async def add_two(x):
    return x + 2


async def triple(x):
    return x * 3


async def test_J01_sequential():
    pipeline = SequentialPipeline([add_one, add_two, triple])

    assert await pipeline(0) == 9
    assert await pipeline(1) == 12


async def test_J01_an_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="at least one operator"):
        await SequentialPipeline([])(0)


async def test_J02_if_else():
    pipeline = IfElsePipeline(lambda x: x > 0, add_one, triple)

    assert [await pipeline(1), await pipeline(-1)] == [2, -3]


async def test_J03_switch():
    pipeline = SwitchPipeline(lambda x: x, {1: add_one, 2: add_two}, triple)

    assert [await pipeline(x) for x in (1, 2, 3)] == [2, 4, 9]


async def test_J04_for_loop_with_break():
    assert await ForLoopPipeline(add_one, 10)(0) == 10
    assert await ForLoopPipeline(add_one, 10, lambda x: x > 5)(0) == 6


async def test_J05_while_loop():
    assert await WhileLoopPipeline(add_one, lambda i, x: i < 10)(0) == 10
    assert await WhileLoopPipeline(add_one)(0) == 0


async def test_J06_lists_in_branches_and_the_default_branch():
    assert await IfElsePipeline(bool, [add_one, triple])(1) == 6
    assert await IfElsePipeline(bool, [add_one, triple])(0) == 0
    assert await SwitchPipeline(bool, {True: [add_one, triple]})(0) == 0


async def test_J07_pipelines_nest():
    twice = ForLoopPipeline(SequentialPipeline([add_one, triple]), 2)
    branch = IfElsePipeline(lambda x: x > 10, [twice, WhileLoopPipeline(add_two, lambda i, _: i < 2)])
    pipeline = SequentialPipeline([twice, branch, SwitchPipeline(bool, {True: add_one})])

    assert await pipeline(0) == 125  # twice: 12; above ten, so twice again and +4: 124; +1
    assert await pipeline(-1) == 4  # twice: 3; left alone; +1


@given(st.recursive(st.integers(-5, 5), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=20))
async def test_J07_any_nesting_of_sequences_runs_from_left_to_right(tree):
    heard = []

    def build(node):
        if isinstance(node, list):
            return SequentialPipeline([build(each) for each in node])

        async def note(x):
            heard.append(node)
            return x + node

        return note

    def leaves(node):
        return [leaf for each in node for leaf in leaves(each)] if isinstance(node, list) else [node]

    assert await build(tree)(0) == sum(leaves(tree))
    assert heard == leaves(tree)


def test_participants_list_the_operators_as_given():
    branch = [add_one, add_two]

    assert SequentialPipeline((add_one, add_two)).participants == [add_one, add_two]
    assert SequentialPipeline(add_one).participants == [add_one]
    assert IfElsePipeline(bool, branch).participants == [branch, placeholder]
    assert SwitchPipeline(bool, {True: branch, False: triple}).participants == [branch, triple, placeholder]
    assert ForLoopPipeline(branch, 3).participants == [branch]
    assert WhileLoopPipeline(add_one).participants == [add_one]


async def test_a_pipeline_of_ones_own_is_an_operator():
    class Negate(PipelineBase):
        async def __call__(self, x=None):
            return -x

    assert await SequentialPipeline([add_one, Negate()])(1) == -2
    with pytest.raises(TypeError, match="abstract"):
        PipelineBase()


async def test_agents_in_pipelines_keep_their_memory():
    class Counter(AgentBase):
        async def reply(self, x=None):
            self.memory.add(x)
            return Msg(self.name, self.memory.size(), "assistant")

    counter = Counter("counter")

    out = await whilelooppipeline(
        SequentialPipeline([counter]), lambda i, _: i < 3, Msg("user", "go", "user")
    )

    assert out.content == 3
