"""What agents in child processes spend counts in the budget of their parent's runtime."""

from __future__ import annotations

import os

import pytest
from models.scripted import serve

from agentscope_async import Budget, BudgetExceededError, ConfigError, DialogAgent, Runtime

pytestmark = pytest.mark.skipif(os.name != "posix", reason="child processes need POSIX")

ANSWER = {
    "id": "1",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def config(server):
    return {
        "config_name": "m",
        "model_type": "openai_chat",
        "model_name": "m",
        "api_key": "k",
        "base_url": f"{server.origin}/v1",
    }


async def test_r39_a_child_spends_from_the_budget_of_its_parent(tmp_path):
    budget = Budget(calls=3, usd=1, prices={"m": (1.0, 1.0)}, path=tmp_path / "team.db", name="team")
    async with serve(ANSWER, is_last_repeated=True) as server:
        async with Runtime(model_configs=config(server), budget=budget):
            here = DialogAgent("Here", model="m")
            there = DialogAgent("There", model="m").to_dist()
            assert [(await agent("Hi")).text for agent in (there, here, there)] == ["Hi."] * 3
            for agent in (there, here):
                with pytest.raises(BudgetExceededError, match="'team' allows 3 calls"):
                    await agent("Hi")
        await budget.refresh()
        assert (budget.spent.calls, budget.spent.tokens, budget.spent.usd) == (3, 15, 15e-6)
        assert len(server.requests) == 3


async def test_r39_a_budget_in_memory_says_that_it_cannot_go_along():
    async with Runtime(budget=Budget(calls=3)):
        with pytest.raises(ConfigError, match=r"in memory.*path="):
            DialogAgent("There", model="fake:echo").to_dist()
