"""A builder decides who should talk about a question, and they do.

python examples/conversation_self_organizing/main.py
python examples/conversation_self_organizing/main.py --question "How do I learn to swim?" --max-rounds 1
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from pydantic import BaseModel, Field

from agentscope_async import BadResponse, DialogAgent, Msg, Runtime, sequentialpipeline

QUESTION = "What can a family do on a rainy Sunday?"
BUILDER = """\
You are asked a question. Do not answer it. Describe a scene in which people talk about it, and the people. \
For example, for the question "How can I cook a good soup?":
{"scenario": "Friends meet in a kitchen to make dinner.", "participants": [\
{"role": "Cook", "task": "You know how soup is made."}, \
{"role": "Gardener", "task": "You know which vegetables taste good."}, \
{"role": "Guest", "task": "You are hungry and ask many questions."}]}"""
PERSONA = "You are {role}. {task} The scene: {scenario} Answer in one or two short sentences."
# Short answers, lively ones, and one sentence each: what this model adds to it repeats it.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 64, "temperature": 0.8, "stop": ["\n", ". "]},
}
SMALL_BUILDER = {
    "config_name": "builder",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 400, "temperature": 0.6},
}


class Participant(BaseModel):
    """Who takes part. (The patterns keep a small model from writing nonsense.)"""

    role: str = Field(pattern="^[A-Z][A-Za-z ]{2,20}$")
    task: str = Field(pattern="^You [A-Za-z ,'-]{10,100}\\.$")


class Scene(BaseModel):
    """What the builder answers."""

    scenario: str = Field(pattern="^[A-Z][A-Za-z ,'-]{10,100}\\.$")
    participants: list[Participant] = Field(min_length=2, max_length=4)


async def converse(
    question: str, model: Any, *, builder_model: Any = None, max_rounds: int = 2
) -> list[DialogAgent]:
    """Build the participants, let them talk about the question, and return them."""
    builder = DialogAgent("Builder", BUILDER, builder_model or model, output_type=Scene)
    asked = Msg("User", question, "user")
    say(asked)
    scene: Scene = (await builder(asked)).parsed
    print(f"Scene: {scene.scenario}")
    agents = [participant(each, scene.scenario, model) for each in scene.participants]
    msg = asked
    for _ in range(max_rounds):
        msg = await sequentialpipeline([*agents], msg)
    return agents


def participant(who: Participant, scenario: str, model: Any) -> DialogAgent:
    print(f"- {who.role}: {who.task}", flush=True)
    return Speaker(
        who.role.replace(" ", "_"),
        PERSONA.format(role=who.role, task=who.task, scenario=scenario),
        model,
    )


class Speaker(DialogAgent):
    """Says aloud what it answers to the one before."""

    async def reply(self, x: Any = None) -> Msg:
        answer = await super().reply(x)
        say(answer)
        return answer


def say(msg: Msg) -> None:
    print(f"{msg.name}: {msg.text}", flush=True)


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs or [SMALL, SMALL_BUILDER]):
        builder_model = "builder" if options.model == "small" else options.model
        await converse(
            options.question, options.model, builder_model=builder_model, max_rounds=options.max_rounds
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-rounds", type=int, default=2)
    parser.add_argument("--model", default="small")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
    except BadResponse as error:
        sys.exit(f"The builder named nobody: {error}")
