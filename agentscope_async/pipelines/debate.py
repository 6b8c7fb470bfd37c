"""A debate: two agents speak in turns, a third may judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._tasks import finish
from ..message import Msg, Usage
from ..msghub import msghub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..agents.base import AgentBase
    from ..message import Speech

__all__ = ["DebateResult", "debate"]

HOST = "host"
OPENING = (
    "The topic of this debate: {topic}\n"
    "{pro} argues for it, {con} argues against it. They speak in turns, {pro} first, {times} each."
)
CLOSING = "The debate is over. Who was more convincing, {pro} or {con}? Give your verdict and say why."


@dataclass(frozen=True, slots=True)
class DebateResult:
    """What came of one debate.

    Attributes:
        messages: all that was said, in order: the host's announcement, the speeches, the
            verdict. Of a failed debate, what was said before it failed.
        verdict: the judge's answer; None without a judge.
        usage: tokens of all messages that say what they took.
        error: what ended it early; None when it came to its end. Only in a batch.
        index: its place in the batch, from 0.
        id: the specification's id, or the index as text.
        seed: what its agents were made with.
        seconds: how long it took.
        resumed: it was read from the file of an earlier run.
    """

    messages: list[Msg]
    verdict: Msg | None = None
    usage: Usage = field(default_factory=Usage)
    error: Exception | None = None
    index: int = 0
    id: str = "0"
    seed: int | None = None
    seconds: float = 0.0
    resumed: bool = False


async def debate(
    pro: AgentBase,
    con: AgentBase,
    judge: AgentBase | None = None,
    *,
    topic: str,
    rounds: int = 3,
    announcement: str | None = None,
    on_speech: Callable[[str, Speech | Msg], Any] | None = None,
) -> DebateResult:
    """Let two agents debate ``topic`` and return all they said.

    All sit in one message hub, so each hears what the others say. The host announces the
    topic as a system message; in each round ``pro`` speaks, then ``con``; in the end the
    host asks the judge, if there is one, for a verdict (that question is not among the
    messages). Agents keep what they remember: make new ones for each debate.

    Args:
        pro: speaks for the topic, first.
        con: speaks against it.
        judge: hears everything and is asked once, at the end.
        topic: what it is about.
        rounds: how often each side speaks.
        announcement: the host's words in place of the usual ones.
        on_speech: for live output: called with the speaker's name and each piece of each
            speech as it is given, then with the finished message; a plain or an async
            function. The speaker waits for it.

    Raises:
        ValueError: no topic, ``rounds`` below 1, or one agent in two roles.
        Exception: whatever an agent, or ``on_speech``, raised.
    """
    table = Table(pro, con, judge, topic, rounds, announcement, on_speech)
    verdict = await table.hold()
    return DebateResult(table.said, verdict, total_usage(table.said))


class Table:
    """One debate while it is held; ``said`` is what was said so far."""

    def __init__(
        self,
        pro: AgentBase,
        con: AgentBase,
        judge: AgentBase | None,
        topic: str,
        rounds: int,
        announcement: str | None = None,
        on_speech: Callable[[str, Speech | Msg], Any] | None = None,
    ) -> None:
        check_terms(topic, rounds)
        self._sides = (pro, con)
        self._judge = judge
        self._rounds = rounds
        self._on_speech = on_speech
        self.seated = [pro, con] if judge is None else [pro, con, judge]
        if len({id(agent) for agent in self.seated}) < len(self.seated):
            raise ValueError("One agent cannot take two roles in a debate: its memory would mix them up.")
        times = "once" if rounds == 1 else f"{rounds} times"
        words = {"topic": topic, "pro": pro.name, "con": con.name, "times": times}
        self._opening = Msg(HOST, OPENING.format(**words) if announcement is None else announcement, "system")
        self._closing = Msg(HOST, CLOSING.format(**words), "user")
        self.said: list[Msg] = []

    async def hold(self) -> Msg | None:
        """Hold the debate and return the verdict."""
        async with msghub(self.seated, self._opening):
            self.said.append(self._opening)
            for _ in range(self._rounds):
                for agent in self._sides:
                    await self._hear(agent)
            return None if self._judge is None else await self._hear(self._judge, self._closing)

    async def _hear(self, agent: AgentBase, question: Msg | None = None) -> Msg:
        if self._on_speech is None:
            msg = await agent(question)
        else:
            msg = await _listen(agent, question, self._on_speech)
        self.said.append(msg)
        return msg


async def _listen(agent: AgentBase, question: Msg | None, on_speech: Callable[..., Any]) -> Msg:
    async with agent.stream(question) as stream:
        async for speech in stream:
            await finish(on_speech(agent.name, speech))
    await finish(on_speech(agent.name, stream.msg))
    return stream.msg


def check_terms(topic: str, rounds: int) -> None:
    """Raise ValueError unless a debate can be held on these terms."""
    if not isinstance(topic, str) or not topic.strip():
        raise ValueError("A debate needs a topic: a text that is not empty.")
    if rounds < 1:
        raise ValueError(f"A debate has 1 round or more, got rounds={rounds}")


def total_usage(messages: Iterable[Msg]) -> Usage:
    """Return the tokens of all messages that say what they took."""
    return sum((msg.usage for msg in messages if msg.usage is not None), Usage())
