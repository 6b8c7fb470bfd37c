"""Ask many agents at once: all of them, the first, a quorum, a vote; with failures kept in place.

python examples/fanout/main.py
"""

from __future__ import annotations

import argparse
import asyncio

from agentscope_async import (
    AgentFailure,
    DialogAgent,
    FunctionModel,
    Usage,
    gather,
    quorum,
    race,
    vote,
)


def guesser(name: str, guess: str, delay_s: float) -> DialogAgent:
    """Return an agent whose model thinks for a while and then guesses; "?" fails."""

    def think(messages: list[dict[str, str]]) -> str:
        if guess == "?":
            raise ConnectionError("the line is dead")
        return guess

    return DialogAgent(name, model=FunctionModel(think, delay_s=delay_s))


async def main() -> None:
    question = "How many legs does a spider have?"
    agents = [
        guesser("Ann", "8", 0.03),
        guesser("Bob", "6", 0.01),
        guesser("Eve", "?", 0.02),
        guesser("Joe", "8", 0.05),
    ]
    used = Usage()
    for answer in await gather(agents, question, on_error="keep", limit=3):
        if isinstance(answer, AgentFailure):
            print(f"{answer.name} failed: {answer.error}")
        else:
            print(f"{answer.name} says {answer.text}")
            used += answer.usage or Usage()
    print("first:", (await race(agents, question)).name)
    print("first two good ones:", [msg.name for msg in await quorum(agents, question, k=2)])
    print("most say:", (await vote(agents, question)).text)
    print(f"the round of all took {used.total_tokens} tokens, by our own estimate")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    asyncio.run(main())
