"""Hear an answer while it is given; Ctrl-C ends the answer.

python examples/streaming_cli/main.py                      # the bundled small model
python examples/streaming_cli/main.py --model fake:echo    # no model at all
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from agentscope_async import DialogAgent, InterruptedTurnError, Msg, Runtime, UserAgent

PERSONA = "You are a friendly assistant. Answer in a few sentences."


async def converse(model: Any, source: AsyncIterator[str] | None = None) -> None:
    """Answer the user until they say "exit"."""
    assistant = DialogAgent("Assistant", PERSONA, model)
    user = UserAgent("User", source=source)
    while (said := await user()).text.strip() != "exit":
        try:
            with interrupted_by_ctrl_c(assistant):
                await hear(assistant, said)
        except InterruptedTurnError:
            print(" (interrupted)", flush=True)


async def hear(assistant: DialogAgent, said: Msg) -> None:
    """Print the answer piece by piece, and what it took."""
    print(f"{assistant.name}: ", end="", flush=True)
    async with assistant.stream(said) as speech:
        async for piece in speech:
            if piece.kind == "text":
                print(piece.text, end="", flush=True)
    usage = speech.msg.usage
    tokens = f" [{usage.output_tokens} tokens]" if usage and not usage.estimated else ""
    print(tokens, flush=True)


@contextlib.contextmanager
def interrupted_by_ctrl_c(agent: DialogAgent) -> Iterator[None]:
    """Let Ctrl-C end the agent's turn in here; outside it ends the program as ever."""
    loop = asyncio.get_running_loop()
    interrupts: set[asyncio.Task[Any]] = set()
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(
        signal.SIGINT, lambda: interrupts.add(loop.create_task(agent.interrupt("Ctrl-C")))
    )
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs):
        with contextlib.suppress(EOFError):  # the end of the input ends the talk, too
            await converse(options.model, source_of(options.script))


def source_of(script: Path | None) -> AsyncIterator[str] | None:
    """Return where the user's words come from; None is the terminal."""
    return None if script is None else lines_of(script.read_text().splitlines())


async def lines_of(lines: list[str]) -> AsyncIterator[str]:
    for line in lines:
        print(f"User: {line}", flush=True)
        yield line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument("--script", metavar="FILE", type=Path, help="your lines, in place of the terminal")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
