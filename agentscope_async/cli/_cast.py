"""Who speaks: the agents of the commands, which get on with a small model too."""

from __future__ import annotations

import copy
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from ..agents import DialogAgent
from ..message import Msg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..models import OpenAIChatWrapper
    from ..models.base import Messages, ModelWrapperBase

__all__ = ["Cast", "Talker", "is_small", "limit", "load", "with_arguments"]

MAX_TOKENS = 64
"""Of a speech of a local model."""

RECENT_CHARACTERS = 4000
"""So much of a talk a small model is given: about 1,000 tokens, half of its memory."""


def is_small(model: ModelWrapperBase) -> bool:
    """Tell whether this is a model in this process, which wants short prompts and a word limit."""
    return model.model_type == "local"


def with_arguments(model: ModelWrapperBase, given: Mapping[str, Any], **defaults: Any) -> ModelWrapperBase:
    """Return the same model with generation arguments: those ``given`` win over its configuration's."""
    if not given and not defaults:
        return model
    changed = copy.copy(model)
    changed.generate_args = {**defaults, **model.generate_args, **given}
    return changed


def limit(model: ModelWrapperBase, max_tokens: int | None) -> dict[str, Any]:
    """Return the argument that limits an answer of this model; none for None."""
    if max_tokens is None:
        return {}
    args: dict[str, Any] = {}
    if model.model_type == "openai_chat":  # some of its models want another name, all other servers this
        cast("OpenAIChatWrapper", model).limit_output(args, max_tokens)
    return args or {"max_tokens": max_tokens}


async def load(model: ModelWrapperBase) -> None:
    """Load a local model now, and say so on a terminal; elsewhere its first call does."""
    if not (is_small(model) and sys.stdout.isatty()):
        return
    from rich.console import Console

    with Console().status(f"loading {model.model_name} ..."):
        await model(model.format(Msg("user", "Hello", "user")), max_tokens=1)


class Cast:
    """Makes the three agents of each debate."""

    def __init__(
        self,
        topic: str,
        model: ModelWrapperBase,
        *,
        max_tokens: int | None = None,
        is_seeded: bool = False,
    ) -> None:
        """Prepare to make agents; a small model gets a word limit and a question to answer.

        Args:
            topic: what the debate is about.
            model: speaks for all of them.
            max_tokens: of each speech; None leaves it to the model.
            is_seeded: seeds are asked for, so models elsewhere are sent theirs, too. Not all
                servers take one.
        """
        self.model = model
        self._topic = topic.strip().rstrip(".!")
        self._limit = limit(model, max_tokens)
        self._is_seeded = is_seeded

    def pro(self, record: Callable[[Msg], None], seed: int) -> Talker:
        """Make the agent that speaks for the topic."""
        return Talker(
            "Pro",
            self._persona("You say yes to the question", "You think that"),
            self._model(seed),
            question=self._question("Say yes, and why.", "Why do you think that"),
            record=record,
            opens=True,
        )

    def con(self, record: Callable[[Msg], None], seed: int) -> Talker:
        """Make the agent that speaks against it."""
        return Talker(
            "Con",
            self._persona("You say no to the question", "You do not think that"),
            self._model(seed),
            question=self._question("Say no, and why.", "Why do you not agree that"),
            record=record,
        )

    def judge(self, record: Callable[[Msg], None], seed: int) -> Talker:
        """Make the agent that gives the verdict."""
        persona = "You are the judge of a debate. Answer in one or two sentences."
        return Judge("Judge", persona, self._model(seed), record=record)

    def _persona(self, of_question: str, of_claim: str) -> str:
        if self._topic.endswith("?"):
            return f'{of_question} "{self._topic}" Answer in one or two sentences.'
        return f"{of_claim} {self._topic}. Answer in one or two sentences."

    def _question(self, of_question: str, of_claim: str) -> str:
        return f"{self._topic} {of_question}" if self._topic.endswith("?") else f"{of_claim} {self._topic}?"

    def _model(self, seed: int) -> ModelWrapperBase:
        given = {**self._limit, "seed": seed} if self._is_seeded else self._limit
        if not is_small(self.model):
            return with_arguments(self.model, given)
        # One sentence, without its full stop: what this size of model adds to it repeats it,
        # or breaks off in the middle at the limit (in 28 of 42 speeches that were tried).
        stop = ["\n", ". "]
        # Below 0.8 the two mostly say the same.
        return with_arguments(self.model, given, max_tokens=MAX_TOKENS, temperature=0.8, stop=stop, seed=seed)


class Talker(DialogAgent):
    """A DialogAgent that reports what it says, and asks in a way every model can follow.

    Many servers want something of a user in every prompt, and user and assistant in turns
    (Gemini refuses a prompt of the system alone, chat templates of Mistral and Gemma one
    that does not alternate). So what others say in a row, the host included, is one turn.

    A small model takes "Name: text" as a play to be continued, speaking for everybody, and
    forgets what it is to do. So it hears the others without their names, only the last
    part of the talk, and ``question`` after the last message.
    """

    __slots__ = ("_question", "_record", "_opens")

    def __init__(
        self,
        name: str,
        sys_prompt: str,
        model: ModelWrapperBase,
        *,
        question: str = "",
        record: Callable[[Msg], None] | None = None,
        opens: bool = False,
    ) -> None:
        """Make an agent that calls ``record`` with each message of its own.

        With ``opens`` it also records what it had heard before it first speaks.
        """
        super().__init__(name, sys_prompt, model)
        self._question = question
        self._record = record
        self._opens = opens

    async def reply(self, x: Any = None) -> Msg:
        """Answer; see DialogAgent."""
        if self._opens and self._record is not None:
            self._opens = False
            for msg in self._heard():
                self._record(msg)
        return await super().reply(x)

    async def speak(self, content: Any) -> None:
        """Say something aloud, and for the record."""
        await super().speak(content)
        if self._record is not None and isinstance(content, Msg):
            self._record(content)

    def _prompt(self, x: Any) -> Messages:
        if not is_small(self.model):
            system = Msg("system", self.sys_prompt, "system") if self.sys_prompt else None
            return self.model.format(system, self._talk_in_turns(), me=self.name)
        talk = _recent([msg for msg in self._heard() if msg.role != "system"])
        return [{"role": "system", "content": self.sys_prompt}, *self._turns(talk)]

    def _turns(self, talk: Sequence[Msg]) -> list[dict[str, str]]:
        turns = [{"role": "assistant" if self._said(msg) else "user", "content": msg.text} for msg in talk]
        if self._question and turns and turns[-1]["role"] == "user":
            turns[-1]["content"] += f"\n{self._question}"
        elif self._question:
            turns.append({"role": "user", "content": self._question})
        return turns

    def _talk_in_turns(self) -> list[Msg]:
        talk: list[Msg] = []
        for is_own, group in groupby(self._heard(), self._said):
            said = list(group)
            talk += said if is_own else [_as_one(said)]
        return talk

    def _said(self, msg: Msg) -> bool:
        return msg.role == "assistant" and msg.name == self.name

    def _heard(self) -> list[Msg]:
        memory = self.memory
        return [msg for msg in memory.get_memory() if isinstance(msg, Msg)] if memory is not None else []


class Judge(Talker):
    """Of a small model's talk it is shown the last speeches, with names: it must tell them apart."""

    __slots__ = ()

    def _turns(self, talk: Sequence[Msg]) -> list[dict[str, str]]:
        *speeches, question = talk
        shown = [*(msg.to_str() for msg in speeches[-2:]), question.text]
        return [{"role": "user", "content": "\n".join(shown)}]


def _as_one(said: Sequence[Msg]) -> Msg:
    """Return what several said, one after the other, as a user's message; each but the first is named."""
    first, *rest = said
    if not rest and first.role == "user":
        return first
    return Msg(first.name, "\n\n".join([first.text, *(msg.to_str() for msg in rest)]), "user")


def _recent(talk: Sequence[Msg]) -> list[Msg]:
    """Return the newest messages, as many as fit; the last one always."""
    recent: list[Msg] = []
    room = RECENT_CHARACTERS
    for msg in reversed(talk):
        room -= len(msg.text)
        if room < 0 and recent:
            break
        recent.append(msg)
    return recent[::-1]
