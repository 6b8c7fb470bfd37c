"""Two calls at once to one agent with a history: who keeps the conversation intact?

A fake model takes 50 ms and answers ``A:`` and the last question it was given. The agent
is asked ``Q1`` and ``Q2`` at the same time. Intact means: what it remembers afterwards is
each question followed by its own answer, and the call that came second was made with the
first exchange in view. Systems that cannot be imported are named with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from agentscope_async.agents import DialogAgent
from agentscope_async.message import Msg
from agentscope_async.models import FunctionModel

from . import peers
from .common import in_short, machine_facts, table, write_json

if TYPE_CHECKING:
    import argparse

MODEL_DELAY_S = 0.05
QUESTIONS = ("Q1", "Q2")


class Brain:
    """What every fake model here thinks with, and what each of its calls was given to read."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    async def answer(self, heard: Sequence[str]) -> str:
        """Take 50 ms and answer the last question among the texts."""
        said = [text for text in heard if text.startswith(("Q", "A:"))]
        self.calls.append(said)
        await asyncio.sleep(MODEL_DELAY_S)
        return "A:" + [text for text in said if text.startswith("Q")][-1]


Converse: TypeAlias = Callable[[Brain, Sequence[str]], Awaitable[tuple[str, list[str]]]]
"""Asks a new agent all questions at once; returns the system's name and what the agent remembers."""


@dataclass(frozen=True, slots=True)
class Account:
    """How it went: what is remembered, what each model call was given, or why there is neither."""

    system: str
    remembered: list[str]
    given: list[list[str]]
    is_intact: bool
    failure: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``python -m benchmarks safety`` has no options of its own."""


def run(args: argparse.Namespace) -> int:
    """Ask, print, write; 1 when our own conversation is damaged under ``--strict``, else 0."""
    others, absent = peers.find("converse")
    accounts = [asyncio.run(_account(converse)) for converse in (ours, *others)]
    print(f"{' and '.join(QUESTIONS)} asked at once of one agent that remembers\n")
    told = [_row(account) for account in accounts if account.failure is None]
    print(table(["system", "remembered afterwards", "the model was given", "intact"], told))
    failed = {account.system: account.failure for account in accounts if account.failure}
    for name, reason in {**failed, **absent}.items():
        print(f"{name}: {reason}")
    write_json(
        args.json,
        {"benchmark": "safety", "machine": machine_facts(), "accounts": [asdict(each) for each in accounts]},
    )
    return int(args.strict and not accounts[0].is_intact)


async def ours(brain: Brain, questions: Sequence[str]) -> tuple[str, list[str]]:
    """Ask a DialogAgent."""

    async def think(messages: list[dict[str, Any]]) -> str:
        return await brain.answer([each["content"].removeprefix("user: ") for each in messages])

    agent = DialogAgent("agent", sys_prompt="You answer.", model=FunctionModel(think))
    await asyncio.gather(*(agent(Msg("user", question, role="user")) for question in questions))
    assert agent.memory is not None
    return "agentscope_async, DialogAgent", [str(msg["content"]) for msg in agent.memory.get_memory()]


async def _account(converse: Converse) -> Account:
    brain = Brain()
    try:
        system, remembered = await converse(brain, QUESTIONS)
    except Exception as error:  # a peer that breaks is a line in the table
        if converse is ours:
            raise
        name = converse.__module__.rpartition(".")[2]
        return Account(name, [], brain.calls, is_intact=False, failure=f"n/a: {in_short(error)}")
    return Account(system, remembered, brain.calls, is_intact(remembered, brain.calls))


def is_intact(remembered: list[str], given: list[list[str]]) -> bool:
    """Whether both exchanges are there, each in one piece, and the second call knew of the first."""
    for first, second in (QUESTIONS, QUESTIONS[::-1]):
        whole = [first, f"A:{first}", second, f"A:{second}"]
        if remembered == whole:
            return given == [whole[:1], whole[:3]]
    return False


def _row(account: Account) -> list[object]:
    given = " | ".join(" ".join(call) for call in account.given)
    return [
        account.system,
        ", ".join(map(_short, account.remembered)),
        given,
        "yes" if account.is_intact else "NO",
    ]


def _short(text: str) -> str:
    return repr(text) if "\n" in text or not text else text
