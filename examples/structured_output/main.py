"""Make objects of sentences.

python examples/structured_output/main.py
python examples/structured_output/main.py --model openai:gpt-4o-mini
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from agentscope_async import AgentFailure, DialogAgent, Runtime

SENTENCES = (
    "On Friday at 9 we all meet in the library to read poems.",
    "Football on Sunday at 15 in the park.",
    "The choir sings in the church on Wednesday at 20.",
)
# The likeliest words: else this model makes up weekdays.
SMALL = {
    "config_name": "small",
    "model_type": "local",
    "model_name": "smollm2",
    "generate_args": {"max_tokens": 120, "temperature": 0},
}
READER = "You read about an event and say what it is, on which weekday, at which hour, and where."


class Event(BaseModel):
    """What a sentence tells."""

    what: str = Field(min_length=3, max_length=40, description="in one to four words")
    weekday: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    hour: int = Field(ge=0, le=23)
    where: str = Field(min_length=3, max_length=30)


async def read_all(sentences: Sequence[str], model: Any) -> list[Event | AgentFailure]:
    """Read all sentences at once; what could not be read stands in its place as a failure."""

    async def read(sentence: str) -> Event | AgentFailure:
        reader = DialogAgent("Reader", READER, model, output_type=Event)  # each without the others' memories
        try:
            event: Event = (await reader(sentence)).parsed
        except ValueError as error:  # BadResponse is one
            return AgentFailure("Reader", error)
        return event

    return await asyncio.gather(*map(read, sentences))


def row(event: Event | AgentFailure) -> str:
    if isinstance(event, AgentFailure):
        return f"(not read: {reason(event.error)})"
    return f"{event.weekday:<10} {event.hour:>2} h  {event.where:<30} {event.what}"


def reason(error: BaseException) -> str:
    """Return in a few words why an answer is no event: its first fault."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    fault = error.__cause__.errors()[0]
    return ": ".join([*map(str, fault["loc"]), fault["msg"]])


async def main(options: argparse.Namespace) -> None:
    sentences = options.script.read_text().splitlines() if options.script else SENTENCES
    async with Runtime(model_configs=options.model_configs or SMALL):
        for sentence, event in zip(sentences, await read_all(sentences, options.model), strict=True):
            print(f"{sentence}\n    {row(event)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--script", metavar="FILE", type=Path, help="other sentences, one a line")
    parser.add_argument("--model", default=SMALL["config_name"])
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
