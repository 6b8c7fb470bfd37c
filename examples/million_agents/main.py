"""A million agents guess two thirds of what all guess on average, three times.

python examples/million_agents/main.py --agents 10000
python examples/million_agents/main.py --picture histogram.png
python examples/million_agents/main.py --agents 8 --model small    # the bundled model reads the question
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import random
import re
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentscope_async import AgentBase, FunctionModel, Msg, Runtime

RULES = "Everybody names a number from 0 to 100. Who is nearest to two thirds of the average wins."
MODEL_DELAY_S = 1.0
LEVELS, SHARES = (0, 1, 2, 3), (25, 40, 25, 10)  # how far people think ahead, and how many of a hundred do
BINS, BAR_CHARS = 20, 60
TELL_EVERY_S = 5.0
GC_THRESHOLDS = (100_000_000, 50, 1000)
# A number is wanted, and this model would go on to explain it.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 24},
}


class Guesser(AgentBase):
    """Asks its model and keeps its own guess; one that cannot be read leaves it as it was."""

    __slots__ = ("guess",)

    def __init__(self, name: str, model: Any) -> None:
        super().__init__(name, model=model, use_memory=False)
        self.guess = 50.0

    async def reply(self, x: Any = None) -> Msg:
        response = await self.model(self.model.format(x))
        self.guess = number_in(response.text or "", self.guess)
        return Msg(self.name, self.guess, "assistant")


def number_in(text: str, otherwise: float) -> float:
    """Return the first number of a text, kept within 0 and 100."""
    found = re.search(r"\d+(?:\.\d+)?", text)
    return otherwise if found is None else min(100.0, float(found[0]))


def crowd(seed: int) -> FunctionModel:
    """Return a model that answers a second later as one of a crowd would.

    Some guess around the last average; others expect that of all, and name two thirds of it; others
    expect that, in turn (Nagel, "Unraveling in Guessing Games", American Economic Review 85, 1995).
    """
    dice = random.Random(seed)

    def think(messages: list[dict[str, str]]) -> str:
        last = float(messages[-1]["content"].rsplit(" ", 1)[1])
        (level,) = dice.choices(LEVELS, SHARES)
        guess = dice.gauss(last, last / 5) * (2 / 3) ** level
        return f"{min(100.0, max(0.0, guess)):.2f}"

    return FunctionModel(think, delay_s=MODEL_DELAY_S)


async def play(agents: Sequence[Guesser], rounds: int) -> list[list[float]]:
    """Let all guess at once, round after round; returns the guesses of each round."""
    average, guesses = 50.0, []
    for number in range(1, rounds + 1):
        began_at = time.monotonic()
        question = Msg("host", f"{RULES} In the last round the average was {average:.2f}", "user")
        answers = await all_told([asyncio.ensure_future(agent(question)) for agent in agents])
        guesses.append([answer.content for answer in answers])
        average = sum(guesses[-1]) / len(agents)
        aim, took_s = average * 2 / 3, time.monotonic() - began_at
        print(f"\nRound {number}: average {average:.2f}, two thirds of it {aim:.2f} ({took_s:.1f} s)")
        print(bars(guesses[-1]), flush=True)
    return guesses


async def all_told(turns: Sequence[asyncio.Future[Msg]]) -> list[Msg]:
    """Return all answers; meanwhile say now and then how many there are."""
    teller = asyncio.create_task(tell(turns))
    try:
        return await asyncio.gather(*turns)
    finally:
        teller.cancel()


async def tell(turns: Sequence[asyncio.Future[Msg]]) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        count = sum(turn.done() for turn in turns)
        print(f"{count:,} of {len(turns):,} have guessed", file=sys.stderr, flush=True)


def bars(guesses: Sequence[float]) -> str:
    """Return how many guessed what, one line for each twentieth of the range that anybody chose."""
    width = 100 / BINS
    counts = [0] * BINS
    for guess in guesses:
        counts[min(BINS - 1, int(guess / width))] += 1
    marks = ["#" * round(BAR_CHARS * count / max(counts)) for count in counts]
    return "\n".join(
        f"{index * width:>3.0f} to {(index + 1) * width:>3.0f} {marks[index]} {count:,}"
        for index, count in enumerate(counts)
        if count
    )


def draw(guesses: Sequence[Sequence[float]], path: Path) -> None:
    """Draw the histograms of all rounds into one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for number, each in enumerate(guesses, 1):
        label = f"round {number}: average {sum(each) / len(each):.1f}"
        axes.hist(each, bins=100, range=(0, 100), histtype="step", linewidth=1.5, label=label)
    axes.set(xlabel="guess", ylabel="agents", title=f"Two thirds of the average, {len(guesses[0]):,} agents")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs or SMALL):
        began_at = time.monotonic()
        model = crowd(options.seed) if options.model == "crowd" else options.model
        agents = [Guesser(f"agent{number}", model) for number in range(options.agents)]
        print(f"{options.agents:,} agents made in {time.monotonic() - began_at:.1f} s", flush=True)
        guesses = await play(agents, options.rounds)
        if options.picture:
            draw(guesses, options.picture)
            print(f"\nThe picture is in {options.picture}.")
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(f"\n{time.monotonic() - began_at:.1f} s in all, {peak_gib:.2f} GiB at most")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", metavar="FILE.png", type=Path, help="where to draw the histogram")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="crowd", help="by default one that takes a second and is free")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    options = parser.parse_args()
    if options.picture and importlib.util.find_spec("matplotlib") is None:
        sys.exit("A picture needs matplotlib: pip install matplotlib")
    gc.freeze()  # nothing here is garbage, so looking through a million agents for it finds none
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        asyncio.run(main(options))
    except KeyboardInterrupt:
        sys.exit(130)
