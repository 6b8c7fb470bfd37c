"""A team works until its money is gone, and spends no more than it has.

python examples/budgeted_team/main.py
python examples/budgeted_team/main.py --usd 0.002 --model openai:gpt-4o-mini
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from itertools import count
from typing import Any

from agentscope_async import (
    AgentFailure,
    Budget,
    BudgetExceededError,
    DialogAgent,
    ModelResponse,
    ModelWrapperBase,
    Runtime,
    active_budgets,
    gather,
)

NAMES = ("Ann", "Bob", "Eve", "Joe")
PERSONA = "You are {name}, a writer. Answer with the title of a story, in a few words."
QUESTION = "How could a story about {subject} be called?"
SUBJECTS = ("a lighthouse", "a lost dog", "the first snow", "an old train", "a talking tree")
MAX_TOKENS = 48
HOSTED = ("openai:", "dashscope:", "gemini:", "post_api:")  # charge budgets themselves
# What a call can cost at most is known when its answer can only be so long.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": MAX_TOKENS, "temperature": 0.8, "stop": ["\n"]},
}


class Priced(ModelWrapperBase):
    """A model in this process, as if it cost money: what hosted models do themselves before each call."""

    model_type = "priced"

    def __init__(self, model: ModelWrapperBase) -> None:
        super().__init__(model_name=model.model_name)
        self.model = model

    async def _call(self, messages: Any, args: dict[str, Any]) -> ModelResponse:
        (budget,) = active_budgets()
        # At most: a token for three bytes, and what stands between messages.
        input_tokens = sum(len(each["content"].encode()) // 3 + 8 for each in messages)
        reservation = await budget.reserve(model=self.model_name, input_tokens=input_tokens)
        response = None
        try:
            await reservation.mark_sent()
            response = await self.model(messages, **args)
        finally:
            reservation.settle(None if response is None else response.usage)
        return response


async def work(team: Sequence[Any], budget: Budget) -> int:
    """Ask all at once, a new question each round, until somebody cannot be paid; returns the answers."""
    answers = 0
    for number in count():
        question = QUESTION.format(subject=SUBJECTS[number % len(SUBJECTS)])
        print(f"-- {question}", flush=True)
        refused = False
        for answer in await gather(team, question, on_error="keep"):
            if isinstance(answer, AgentFailure):
                if not isinstance(answer.error, BudgetExceededError):
                    raise answer.error
                refused = True
                print(f"{answer.name} is not asked: it could cost {usd(answer.error.needed)}", flush=True)
            else:
                answers += 1
                print(f"{answer.name}: {answer.text}", flush=True)
        print(f"   spent {usd(budget.spent.usd)}, left {usd(budget.remaining.usd)}", flush=True)
        if refused:
            break
    return answers


def usd(amount: float | None) -> str:
    return "-" if amount is None else f"${amount:.6f}"


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs or SMALL):
        team = [
            DialogAgent(name, PERSONA.format(name=name), options.model, use_memory=False) for name in NAMES
        ]
        if not options.model.startswith(HOSTED):
            for writer in team:
                writer.model = Priced(writer.model)
        price = (options.price_in, options.price_out)
        budget = Budget(
            usd=options.usd, prices={team[0].model.model_name: price}, max_output_tokens=MAX_TOKENS
        )
        with budget:
            answers = await work(team, budget)
        print(f"{answers} answers for {usd(budget.spent.usd)} of {usd(options.usd)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--usd", type=float, default=0.0003, help="what the team has")
    parser.add_argument("--price-in", type=float, default=0.15, help="USD for a million input tokens")
    parser.add_argument("--price-out", type=float, default=0.60, help="USD for a million output tokens")
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
