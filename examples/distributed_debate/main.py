"""A debate whose two sides live in processes of their own; the judge is here.

python examples/distributed_debate/main.py                      # starts both sides itself
python examples/distributed_debate/main.py --model fake:echo    # no model at all

The same in three terminals, with you on one side:

python examples/distributed_debate/main.py --role pro --is-human
python examples/distributed_debate/main.py --role con
python examples/distributed_debate/main.py --role main
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from debaters import Debater, Person

from agentscope_async import Msg, NodeDown, Runtime, msghub

CLAIM = "it is better to live in the country than in a city"
OPENING = f"Welcome! Pro thinks that {CLAIM}, Con does not."
ROUND = "Round {number}: Pro speaks, then Con answers, then the judge says who was better."
END = "The debate is over. Judge, who has won, and why?"
ROLES = {  # what each is, whom it answers, what it is asked
    "pro": (f"You think that {CLAIM}.", ["Con"], f"Why do you think that {CLAIM}?"),
    "con": (f"You do not think that {CLAIM}.", ["Pro"], f"Why do you not agree that {CLAIM}?"),
    "judge": ("You are the judge of a debate.", ["Pro", "Con"], "Who was more convincing, and why?"),
}
# Short answers, lively ones, and one sentence each: what this model adds to it repeats it.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 64, "temperature": 0.8, "stop": ["\n", ". "]},
}


async def hold(options: argparse.Namespace) -> None:
    """Hold the debate: three rounds and a verdict; what one says, all hear."""
    async with Runtime(model_configs=options.model_configs or SMALL) as runtime:
        judge = make("judge", options.model)
        if options.role == "main":
            pro = runtime.agent(f"ws://localhost:{options.pro_port}/pro", name="Pro")
            con = runtime.agent(f"ws://localhost:{options.con_port}/con", name="Con")
        else:
            pro = make("pro", options.model).to_dist(port=options.pro_port)
            con = make("con", options.model).to_dist(port=options.con_port)
        async with msghub([pro, con, judge]) as hub:
            for number in (1, 2, 3):
                words = ROUND.format(number=number)
                await announce(hub, f"{OPENING} {words}" if number == 1 else words)
                for agent in (pro, con, judge):
                    say(await agent())
            await announce(hub, END)
            await compare(pro, con, judge)
            say(await judge())


def make(role: str, model: str) -> Debater:
    persona, answers, task = ROLES[role]
    persona += " Answer in one or two sentences."
    return Debater(role.capitalize(), persona, model, answers=answers, task=task)


async def announce(hub: Any, text: str) -> None:
    announcement = Msg("Host", text, "user")
    say(announcement)
    await hub.broadcast(announcement)


def say(msg: Msg) -> None:
    print(f"{msg.name}: {msg.text}", flush=True)


async def compare(*agents: Any) -> None:
    """Look whether all remember the same, wherever they are."""
    memories = [(await agent.state())["memory"] for agent in agents]
    ids = [[msg["id"] for msg in memory] for memory in memories]
    what = "the same" if all(each == ids[0] for each in ids) else "not the same"
    print(f"(All three remember {what} {len(ids[0])} messages.)", flush=True)


async def serve(options: argparse.Namespace) -> None:
    """Let one side be asked from another process until Ctrl-C."""
    port = options.pro_port if options.role == "pro" else options.con_port
    name = options.role.capitalize()
    script = source_of(options.script)
    async with Runtime(
        listen=f"ws://localhost:{port}",
        model_configs=options.model_configs or SMALL,
        chat=False if options.is_human else sys.stdout,
    ) as runtime:
        side = Person(name, source=script) if options.is_human else make(options.role, options.model)
        runtime.export(options.role, side)
        print(f"{name} waits at {runtime.url}/{options.role}; Ctrl-C ends it.", flush=True)
        await asyncio.Event().wait()


def source_of(script: Path | None) -> AsyncIterator[str] | None:
    """Return where the user's words come from; None is the terminal."""
    return None if script is None else lines_of(script.read_text().splitlines())


async def lines_of(lines: list[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--role", choices=["all", "pro", "con", "main"], default="all")
    parser.add_argument("--pro-port", type=int, default=12011)
    parser.add_argument("--con-port", type=int, default=12012)
    parser.add_argument("--is-human", action="store_true", help="with --role pro or con: you are that side")
    parser.add_argument("--script", metavar="FILE", type=Path, help="your lines, in place of the terminal")
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    options = parser.parse_args()
    if options.is_human and options.role not in ("pro", "con"):
        parser.error("--is-human goes with --role pro or --role con")
    try:
        asyncio.run(serve(options) if options.role in ("pro", "con") else hold(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except (NodeDown, EOFError) as error:
        sys.exit(f"The debate has lost a speaker: {error}")
