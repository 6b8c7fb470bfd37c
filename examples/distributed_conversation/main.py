"""Talk with an assistant that lives in another process.

python examples/distributed_conversation/main.py                      # starts that process itself
python examples/distributed_conversation/main.py --model fake:echo    # no model at all

The same in two terminals, or on two machines:

python examples/distributed_conversation/main.py --role assistant --port 12010
python examples/distributed_conversation/main.py --role user --port 12010
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from agentscope_async import DialogAgent, NodeDown, Runtime, UserAgent

PERSONA = "You are a friendly assistant. Answer in one or two short sentences."


async def talk(options: argparse.Namespace) -> None:
    """Take turns with the assistant until the user's words end with "exit"."""
    async with Runtime(model_configs=options.model_configs) as runtime:
        if options.role == "user":
            assistant = runtime.agent(f"ws://{options.host}:{options.port}/assistant")
        else:
            # Its settings go to a child process, and what is left here stands for it: await it as before.
            assistant = DialogAgent("Assistant", PERSONA, options.model).to_dist()
        user = UserAgent("User", source=source_of(options.script))
        reply = None
        with contextlib.suppress(EOFError):  # the end of the input ends the talk, too
            while not (said := await user(reply)).text.strip().endswith("exit"):
                reply = await assistant(said)
                print(f"{reply.name}: {reply.text}", flush=True)


async def serve(options: argparse.Namespace) -> None:
    """Let the assistant be used from other processes until Ctrl-C."""
    url = f"ws://{options.host}:{options.port}"
    async with Runtime(listen=url, model_configs=options.model_configs, chat=sys.stdout) as runtime:
        runtime.export("assistant", DialogAgent("Assistant", PERSONA, options.model))
        print(f"The assistant waits at {runtime.url}/assistant; Ctrl-C ends it.", flush=True)
        await asyncio.Event().wait()


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
    parser.add_argument("--role", choices=["both", "assistant", "user"], default="both")
    parser.add_argument("--host", default="localhost")
    parser.add_argument(
        "--port", type=int, default=12010, help="of the assistant, if it has a role of its own"
    )
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument(
        "--script", metavar="FILE", type=Path, help="the user's lines, in place of the terminal"
    )
    options = parser.parse_args()
    try:
        asyncio.run(serve(options) if options.role == "assistant" else talk(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except NodeDown as error:
        sys.exit(f"The assistant is gone: {error}")
