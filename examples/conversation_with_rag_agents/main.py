"""Ask about this project: one agent has read its manual, one its examples, a third sums up.

python examples/conversation_with_rag_agents/main.py
python examples/conversation_with_rag_agents/main.py --model openai:gpt-4o-mini
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import math
import re
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from agentscope_async import DialogAgent, Msg, Runtime, UserAgent, gather
from agentscope_async.service import Hit, KnowledgeBase

ROOT = Path(__file__).parents[2]
READER = (
    "You are given passages of {about} and a question. Answer the question from them in a short sentence."
)
SUMMARY = "You are given two answers to a question. Sum them up in a short sentence."
ABOUT = {"Tutorial": "a manual", "Code": "program code"}
DIMENSIONS = 512
# Short answers: what this model adds to them is not in the passages.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 64, "stop": ["\n"]},
}


class Knowledge(Protocol):
    """What an agent retrieves from: a KnowledgeBase, or a class of your own."""

    async def query(self, text: str, top_k: int = 5) -> Sequence[Hit]:
        """Return the passages nearest to a text, best first."""


class RAGAgent(DialogAgent):
    """Answers from passages that it retrieves for each question."""

    def __init__(
        self,
        name: str,
        sys_prompt: str,
        model: Any,
        knowledge: Knowledge,
        *,
        top_k: int = 2,
        log_retrieval: bool = False,
    ) -> None:
        super().__init__(name, sys_prompt, model, use_memory=False)
        self.knowledge = knowledge
        self.top_k = top_k
        self.log_retrieval = log_retrieval

    async def reply(self, x: Any = None) -> Msg:
        hits = await self.knowledge.query(x.text, self.top_k)
        if self.log_retrieval:
            for hit in hits:
                print(f"  ({self.name} reads {hit.source}, {hit.position}: {hit.score:.2f})", flush=True)
        context = Msg("Context", "\n\n".join(hit.text for hit in hits) or "(nothing found)", "user")
        return await super().reply([context, x])


def embed(text: str) -> list[float]:
    """Return a vector of the words in a text: no meaning, but no model either."""
    vector = [0.0] * DIMENSIONS
    for word in re.findall(r"\w{3,}", text.lower()):
        vector[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]


@contextlib.asynccontextmanager
async def knowledge_bases(
    config: list[dict[str, Any]], embedding: Any
) -> AsyncIterator[dict[str, Knowledge]]:
    """Index what the configuration names, in a temporary folder."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found: dict[str, Knowledge] = {}
        for each in config:
            base = KnowledgeBase(
                folder / f"{each['name']}.kb", embedding, root=ROOT, chunk_chars=each.get("chunk_chars", 1000)
            )
            await stack.enter_async_context(base)
            report = await base.add(
                [ROOT / path for path in each["paths"]], patterns=each.get("patterns", ())
            )
            print(f"{each['name']}: {len(report.added)} files, {report.chunks} passages", flush=True)
            found[each["name"]] = base
        yield found


async def converse(
    readers: Sequence[RAGAgent], summarizer: DialogAgent, source: AsyncIterator[str] | None = None
) -> None:
    """Answer questions until one is empty or begins with "exit"."""
    user = UserAgent("User", source=source)
    while (question := await user()).text.strip() and not question.text.strip().startswith("exit"):
        answers = await gather(readers, question)
        for answer in answers:
            print(f"{answer.name}: {answer.text}", flush=True)
        texts = [*(answer.text for answer in answers), question.text]
        summary = await summarizer(Msg("User", "\n".join(texts), "user"))
        print(f"{summary.name}: {summary.text}", flush=True)


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs or SMALL) as runtime:
        embedding = embed if options.embedding is None else runtime.models.load(options.embedding)
        config = json.loads(options.knowledge)
        async with knowledge_bases(config, embedding) as bases:
            readers = [
                RAGAgent(
                    name,
                    READER.format(about=ABOUT.get(name, name)),
                    options.model,
                    base,
                    log_retrieval=not options.quiet,
                )
                for name, base in bases.items()
            ]
            summarizer = DialogAgent("Summarizer", SUMMARY, options.model, use_memory=False)
            with contextlib.suppress(EOFError):  # the end of the input ends the talk, too
                await converse(readers, summarizer, source_of(options.script))


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
    parser.add_argument(
        "--knowledge",
        metavar="FILE.json",
        type=lambda path: Path(path).read_text(),
        default=str(Path(__file__).with_name("knowledge.json")),
        help="what each reader has read",
    )
    parser.add_argument("--embedding", metavar="CONFIG", help="a configuration of an embedding model")
    parser.add_argument("--quiet", action="store_true", help="do not say what was retrieved")
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what the other options may name")
    parser.add_argument("--script", metavar="FILE", type=Path, help="questions, in place of the terminal")
    options = parser.parse_args()
    if any(importlib.util.find_spec(name) is None for name in ("apsw", "sqlite_vec")):
        sys.exit("This example needs the extra: pip install -e '.[knowledge]'")
    try:
        asyncio.run(main(options))
    except KeyboardInterrupt:
        sys.exit(130)
