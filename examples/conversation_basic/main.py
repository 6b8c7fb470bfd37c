"""Talk with an assistant.

python examples/conversation_basic/main.py                      # the bundled small model
python examples/conversation_basic/main.py --model fake:echo    # no model at all
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agentscope_async import DialogAgent, Msg, Runtime, UserAgent

PERSONA = "You are a friendly assistant. Greet the user, and answer in one or two short sentences."
# Short answers: this model does not know when it has said enough.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 64, "temperature": 0.4, "stop": ["\n"]},
}


async def converse(model: Any, source: AsyncIterator[str] | None = None) -> None:
    """Let the assistant and the user speak in turns until the user says "exit"."""
    assistant = DialogAgent("Assistant", PERSONA, model)
    user = UserAgent("User", source=source)
    said: Msg | None = None
    while said is None or said.text.strip() != "exit":
        reply = await assistant(said)
        print(f"{reply.name}: {reply.text}", flush=True)
        said = await user(reply)


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs or SMALL):
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
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument("--script", metavar="FILE", type=Path, help="your lines, in place of the terminal")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
