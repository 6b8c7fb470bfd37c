"""A conversation of four in which "@Name" says who speaks next.

python examples/conversation_with_mentions/main.py                      # the bundled small model
python examples/conversation_with_mentions/main.py --model fake:echo    # no model at all
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path

from agentscope_async import DialogAgent, Msg, Runtime, UserAgent, msghub

NAMES = ("Lingfeng", "Boyu", "Haotian")
PERSONA = "You are {name}, a curious student who talks with friends. Answer in one short sentence."
GREETING = (
    "Hello everyone. Lingfeng, Boyu, Haotian and the user are here. "
    "Write @ before a name and that one speaks next. What shall we talk about?"
)

# Short answers, lively ones, and one sentence each: what this model adds to it repeats it.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 64, "temperature": 0.8, "stop": ["\n", ". "]},
}


def mentioned(text: str, names: Sequence[str]) -> list[str]:
    """Return who is named with "@", in the order and as often as they are named; case counts."""
    return re.findall(rf"(?<!\w)@({'|'.join(map(re.escape, names))})\b", text)


async def converse(
    npcs: Sequence[DialogAgent], user: UserAgent, *, wait_s: float = 10.0, max_turns: int | None = None
) -> None:
    """Let the user, and then whoever is named or next in turn, speak until the user says "exit"."""
    by_name = {npc.name: npc for npc in npcs}
    named: deque[str] = deque()  # who has the word, first one first
    greeting = Msg("Host", GREETING, "system")
    print(f"{greeting.name}: {greeting.text}", flush=True)
    async with msghub([*npcs, user], announcement=greeting):
        for turn in count() if max_turns is None else range(max_turns):
            said = await listen(user, wait_s)
            if said == "exit":  # the others have heard it
                break
            named.extend(mentioned(said, list(by_name)))
            speaker = by_name[named.popleft()] if named else npcs[turn % len(npcs)]
            reply = await speaker()
            print(f"{reply.name}: {reply.text}", flush=True)
            named.extend(mentioned(reply.text, list(by_name)))


async def listen(user: UserAgent, wait_s: float) -> str:
    """Return what the user says within so many seconds, else nothing."""
    try:
        return (await user(timeout=wait_s)).text.strip()
    except TimeoutError:
        print("(The user says nothing.)", flush=True)
        return ""


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs or SMALL):
        npcs = [DialogAgent(name, PERSONA.format(name=name), options.model) for name in NAMES]
        user = UserAgent("User", source=source_of(options.script))
        with contextlib.suppress(EOFError):  # the end of the input ends the talk, too
            await converse(npcs, user, wait_s=options.wait_s, max_turns=options.max_turns)


def source_of(script: Path | None) -> Callable[[str], Awaitable[str]] | None:
    """Return where the user's words come from; None is the terminal."""
    if script is None:
        return None
    lines = iter(script.read_text().splitlines())

    async def next_line(prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        if not line.strip():
            raise TimeoutError("An empty line of a script is a user who says nothing in time.")
        print(f"User: {line}", flush=True)
        return line

    return next_line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument("--script", metavar="FILE", type=Path, help="your lines, in place of the terminal")
    parser.add_argument(
        "--wait-s", type=float, default=10.0, help="so many seconds you have to say something"
    )
    parser.add_argument("--max-turns", type=int, help="end after so many rounds")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
