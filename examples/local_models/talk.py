"""Talk with a model on a server of your own.

python examples/local_models/talk.py examples/local_models/configs/llama_cpp.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from agentscope_async import DialogAgent, Runtime, UserAgent

PERSONA = "You are a helpful AI assistant."


async def converse(model: str, source: AsyncIterator[str] | None = None) -> None:
    """Let the user and the assistant speak in turns until the user says "exit"."""
    assistant = DialogAgent("Assistant", PERSONA, model)
    user = UserAgent("User", source=source)
    said = await user(None)
    while said.text.strip() != "exit":
        reply = await assistant(said)
        print(f"{reply.name}: {reply.text.strip()}", flush=True)
        said = await user(reply)


async def main(options: argparse.Namespace) -> None:
    configs = json.loads(options.config.read_text())
    async with Runtime(model_configs=configs):
        with contextlib.suppress(EOFError):  # the end of the input ends the talk, too
            await converse(options.name or configs[0]["config_name"], source_of(options.script))


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
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a JSON file with model configurations")
    parser.add_argument("--name", help="which of them; by default the first")
    parser.add_argument("--script", metavar="FILE", type=Path, help="your lines, in place of the terminal")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
