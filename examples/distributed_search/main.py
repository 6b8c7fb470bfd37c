"""Ask a question: one agent finds pages for it, others read a page each, all at the same time.

python examples/distributed_search/main.py --use-dist                      # a process for each reader
python examples/distributed_search/main.py --use-dist --model slow         # a fake that waits like a server
python examples/distributed_search/main.py --use-dist --model fake:echo    # no model at all
python examples/distributed_search/main.py                                 # one process, page after page
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agentscope_async import AgentBase, DialogAgent, Msg, NodeDown, Runtime, UserAgent

PAGES = json.loads(Path(__file__).with_name("pages.json").read_text())
KEYWORDS = "Name up to five keywords to search for, and nothing else."
# Most models are asked over a network, and keep whoever asks waiting and not busy.
SLOW = {"config_name": "slow", "model_type": "fake_echo", "delay_s": 2.0}
ANSWER = "You read a page and answer a question about it in one short sentence."


class Searcher(AgentBase):
    """Finds the pages that fit a question best."""

    max_pages = 5

    async def reply(self, x: Any = None) -> Msg:
        response = await self.model(self.model.format(Msg("system", KEYWORDS, "system"), x))
        pages = search(f"{response.text} {x.text}")  # a small model may name anything
        titles = ", ".join(page["title"] for page in pages[: self.max_pages])
        return Msg(self.name, titles or "nothing", "assistant", pages=pages[: self.max_pages])


def search(words: str) -> list[dict[str, str]]:
    """Return the pages with at least one of the words, those with most of them first."""
    wanted = words_of(words)
    hits = {index: len(wanted & words_of(" ".join(page.values()))) for index, page in enumerate(PAGES)}
    best = sorted(hits, key=lambda index: -hits[index])
    return [PAGES[index] for index in best if hits[index]]


def words_of(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


async def main(options: argparse.Namespace) -> None:
    """Answer questions until one ends with "exit"."""
    async with Runtime(model_configs=options.model_configs or SLOW):
        searcher = Searcher("Searcher", model=options.model)
        searcher.max_pages = options.num_workers
        readers: list[Any] = [
            DialogAgent(f"Answerer-{index}", ANSWER, options.model, use_memory=False)
            for index in range(options.num_workers)
        ]
        if options.use_dist:
            readers = [reader.to_dist(lazy_launch=False) for reader in readers]
        user = UserAgent("User", source=source_of(options.script))
        with contextlib.suppress(EOFError):  # the end of the input ends it, too
            while not (question := await user()).text.strip().endswith("exit"):
                await answer(question, searcher, readers, at_once=options.use_dist)


async def answer(question: Msg, searcher: Searcher, readers: list[Any], *, at_once: bool) -> None:
    """Print what each page says to the question, best page first, as soon as all before it are printed."""
    began_at = time.monotonic()
    found = await searcher(question)
    print(f"Searcher: {found.text}", flush=True)
    tasks = [
        (reader, page["title"], f"Page: {page['text']}\n\nAnswer in one sentence: {question.text}")
        for reader, page in zip(readers, found.pages, strict=False)
    ]
    how = "at once" if at_once else "one after another"
    print(f"({len(tasks)} pages are read, {how} ...)", file=sys.stderr, flush=True)
    replies = [reader.submit(task) for reader, _, task in tasks] if at_once else []
    for index, (reader, title, task) in enumerate(tasks):
        said = await (replies[index] if at_once else reader(task))
        print(f"{said.name} ({title}): {said.text}", flush=True)
    print(f"{len(tasks)} pages read in {time.monotonic() - began_at:.1f} s", flush=True)


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
    parser.add_argument("--num-workers", type=int, default=5, help="so many pages are read for a question")
    parser.add_argument("--use-dist", action="store_true", help="give each reader a process of its own")
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument("--script", metavar="FILE", type=Path, help="questions, in place of the terminal")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
    except NodeDown as error:
        sys.exit(f"A reader is gone: {error}")
