"""Does a small real model use a tool, and what it said? ReActAgent with the bundled local model, 20 seeds.

The grammar makes it choose one of the tools and fitting arguments; whether the choice makes
sense, and whether the answer repeats what the tool said, is up to the model. Both are counted.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from agentscope_async import ReActAgent
from agentscope_async.models.local import LocalModel

from .common import machine_facts, print_facts, progress, table, write_json

if TYPE_CHECKING:
    import argparse

QUESTION = "What is the weather in Oslo?"
FACT = "In {city} it is 17 degrees and raining."


@dataclass
class Attempt:
    """One seed: what was looked up, and what was answered."""

    seed: int
    cities: list[str]
    was_heard: bool
    answer: str
    seconds: float

    @property
    def is_right_city(self) -> bool:
        """Whether the city of the question was looked up."""
        return "Oslo" in self.cities

    @property
    def is_used(self) -> bool:
        """Whether the answer repeats what the tool said."""
        return "17" in self.answer or "rain" in self.answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks react``."""
    parser.add_argument("--seeds", type=int, default=20, help="how often the question is asked (20)")


def run(args: argparse.Namespace) -> int:
    """Ask, print, write; 1 when a tool was not used, or not heard of, under ``--strict``, else 0."""
    facts = machine_facts()
    print_facts(facts)
    try:
        attempts = asyncio.run(_ask_all(2 if args.smoke else args.seeds))
    except ImportError as error:
        print(error)
        return 1
    progress("")
    count = len(attempts)
    rows = [
        ["a tool ran", sum(bool(each.cities) for each in attempts), count],
        ["its result stood in the next prompt", sum(each.was_heard for each in attempts), count],
        ["it was asked about the right city", sum(each.is_right_city for each in attempts), count],
        ["the answer used the result", sum(each.is_used for each in attempts), count],
    ]
    print(table(["", "times", "of"], rows))
    print(f"\nlast answer: {attempts[-1].answer[:200]}")
    write_json(
        args.json,
        {"benchmark": "react", "machine": facts, "attempts": [asdict(each) for each in attempts]},
    )
    is_sound = all(each.cities and each.was_heard for each in attempts)
    return int(args.strict and not is_sound)


async def _ask_all(seeds: int) -> list[Attempt]:
    gate = asyncio.Semaphore(4)  # as many as the engine decodes together
    done = 0

    async def ask(seed: int) -> Attempt:
        nonlocal done
        async with gate:
            attempt = await _ask(seed)
        done += 1
        progress(f"{done} of {seeds}")
        return attempt

    return await asyncio.gather(*[ask(seed) for seed in range(seeds)])


async def _ask(seed: int) -> Attempt:
    cities: list[str] = []

    async def get_weather(city: Literal["Paris", "Rome", "Oslo"]) -> str:
        """Tell the weather in a city."""
        cities.append(city)
        return FACT.format(city=city)

    model = LocalModel(generate_args={"seed": seed, "temperature": 0.8})
    agent = ReActAgent("ann", model=model, tools=[get_weather], max_iters=3, must_use_tool=True)
    began = time.perf_counter()
    reply = await agent(QUESTION)
    assert agent.memory is not None
    told = [msg.text for msg in agent.memory.get_memory() if msg.role == "system"]
    content = reply.content
    answer = f"{content.get('speak')}" if hasattr(content, "get") else reply.text
    was_heard = any(FACT.format(city=city) in text for text in told for city in cities)
    return Attempt(seed, cities, was_heard, answer, time.perf_counter() - began)
