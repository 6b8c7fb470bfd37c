"""The port of before.py, a script for AgentScope v0.0.2: what differs is marked.

python examples/migration_from_agentscope/main.py                  # the bundled small model
python examples/migration_from_agentscope/main.py --model mine     # the model of the script
"""

from __future__ import annotations

import argparse
import asyncio  # new
import sys
from typing import Any

import agentscope_async
from agentscope_async import (
    AgentBase,
    DialogAgent,
    ModelResponse,
    ModelWrapperBase,
    Msg,
    msghub,
    sequentialpipeline,
)


class CountingModel(ModelWrapperBase):
    model_type = "counting"

    # No __init__ and no format: those of the base class do.
    async def _call(self, messages: Any, args: dict[str, Any]) -> ModelResponse:  # was: __call__
        return ModelResponse(text=f"I read {len(messages)} messages.")


class Teller(AgentBase):
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.rounds = 0

    async def reply(self, x: Any = None) -> Msg:  # async
        self.rounds += 1
        msg = Msg(self.name, f"That was round {self.rounds}.", role="assistant")
        await self.speak(msg)  # await
        return msg


async def main(model: str) -> None:  # async
    agentscope_async.init(
        model_configs=[{"config_name": "mine", "model_type": "counting"}],
        save_log=False,
        save_code=False,
        save_api_invoke=False,
    )
    ann = DialogAgent("Ann", "You are Ann. Answer in one short sentence.", model)
    bob = DialogAgent("Bob", "You are Bob. Answer in one short sentence.", model)
    teller = Teller("Teller")
    opening = Msg("Host", "Where shall we go on Sunday?", role="user")
    async with msghub([ann, bob, teller], announcement=opening):  # async
        x = opening
        for _ in range(2):
            x = await sequentialpipeline([ann, bob, teller], x)  # await
    x = x.replace(content=f"{x.content} The end.")  # messages are frozen: others hold this one, too
    assert ann.memory is not None  # for type checkers: use_memory=False makes it None
    print(f"{x.content} Ann remembers {ann.memory.size()} messages.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="local:smollm2")
    try:
        asyncio.run(main(parser.parse_args().model))
    except KeyboardInterrupt:
        sys.exit(130)
