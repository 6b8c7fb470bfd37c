"""Three agents in a hub: what one says, the others hear.

python examples/conversation/main.py                     # the bundled small model
python examples/conversation/main.py --model fake:echo   # no model at all
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from agentscope_async import DialogAgent, Msg, Runtime, msghub

# Short answers: this model does not know when it has said enough.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 64, "temperature": 0.4, "stop": ["\n"]},
}


async def main(options: argparse.Namespace) -> None:
    model = options.model
    opening = Msg("host", "Where shall we go on Sunday: to the sea or to the mountains?", role="user")
    # chat= prints what agents say: `speaker: text`, in colour on a terminal.
    async with Runtime(model_configs=options.model_configs or SMALL, chat=sys.stdout):
        ann = DialogAgent("Ann", "You want to go to the sea. Say why in one short sentence.", model)
        bob = DialogAgent("Bob", "You want to go to the mountains. Say why in one short sentence.", model)
        eve = DialogAgent("Eve", "You want to stay at home. Say why in one short sentence.", model)
        async with msghub([ann, bob, eve], announcement=opening):
            for _ in range(options.rounds):
                for agent in (ann, bob, eve):
                    await agent()
        heard = ann.memory.size()
    print(f"Ann remembers {heard} messages: the opening, her own, and what the others said.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument("--rounds", type=int, default=1)
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
