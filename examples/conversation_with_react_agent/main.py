"""Talk with an agent that uses tools.

python examples/conversation_with_react_agent/main.py                               # the bundled small model
python examples/conversation_with_react_agent/main.py --model openai:gpt-4o-mini    # a model that reasons
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from agentscope_async import Msg, ReActAgent, Runtime, UserAgent
from agentscope_async.service import Toolkit, read_text_file, tavily_search, write_text_file

PERSONA = "You are a helpful assistant. Use a tool when it helps, then answer in one short sentence."
SHOPPING_LIST = "3 lemons\n1 bread\n12 eggs\n"
# Steps of an agent are objects, which want room and few adventures.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 256, "temperature": 0.2},
}


def temperature(city: Literal["Paris", "Rome", "Oslo"]) -> str:
    """Look up how warm it is in a city.

    Args:
        city: the city's name.
    """
    degrees = {"Paris": 17, "Rome": 24, "Oslo": 5}  # a service of yours would ask a thermometer
    return f"In {city} it is {degrees[city]} degrees."


def tools(root: Path) -> Toolkit:
    """Return what the agent can use; what stands after a function is set here and not shown to the model."""
    toolkit = Toolkit()
    toolkit.add(temperature)
    toolkit.add(read_text_file, root=root)
    toolkit.add(write_text_file, root=root, overwrite=False)  # else each call would need somebody's yes
    if key := os.environ.get("TAVILY_API_KEY"):
        toolkit.add(tavily_search, api_key=key, num_results=3)
    return toolkit


async def converse(
    model: Any,
    root: Path,
    source: AsyncIterator[str] | None = None,
    *,
    max_iters: int = 10,
    must_use_tool: bool = False,
) -> None:
    """Answer the user until they say "exit"."""
    assistant = ReActAgent(
        "Assistant", PERSONA, model, tools=tools(root), max_iters=max_iters, must_use_tool=must_use_tool
    )
    user = UserAgent("User", source=source)
    reply: Msg | None = None
    while (said := await user(reply)).text.strip() != "exit":
        reply = await assistant(said)


async def main(options: argparse.Namespace) -> None:
    # chat= prints the steps, which the agent says aloud; what you type is said, too.
    async with Runtime(model_configs=options.model_configs or SMALL, chat=sys.stdout):
        with contextlib.suppress(EOFError), tempfile.TemporaryDirectory() as folder:
            await converse(
                options.model,
                options.root or with_a_list(Path(folder)),
                source_of(options.script),
                max_iters=options.max_iters,
                must_use_tool=options.model == "small",  # which would rather not
            )


def with_a_list(folder: Path) -> Path:
    """Write a shopping list into the folder, and return it."""
    (folder / "shopping.txt").write_text(SHOPPING_LIST)
    return folder


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
    parser.add_argument("--root", metavar="FOLDER", type=Path, help="where the agent reads and writes files")
    parser.add_argument("--max-iters", type=int, default=3, help="so many steps at most for an answer")
    parser.add_argument("--model", default="small")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument("--script", metavar="FILE", type=Path, help="your lines, in place of the terminal")
    options = parser.parse_args()
    if importlib.util.find_spec("docstring_parser") is None:
        sys.exit("This example needs the extra: pip install -e '.[tools]'")
    try:
        asyncio.run(main(options))
    except KeyboardInterrupt:
        sys.exit(130)
