"""Messages nobody handled: kept, looked through, and sent again."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DeadLetter", "DeadLetters"]

MAX_DEAD_LETTERS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class DeadLetter:
    """A message nobody handled.

    Attributes:
        agent: the name of the agent it was for.
        msg: the message.
        reason: why it was not handled.
        error: with which error, if there was one.
        at: when, in seconds since the epoch.
        target: the agent itself, or None where it is not known: ``rt.resend`` sends it there again.
        is_heard_only: it was to be remembered, not answered: something said in a hub, for instance.
    """

    agent: str
    msg: Any
    reason: str
    error: BaseException | None = None
    at: float = field(default_factory=time.time)
    target: Any = field(default=None, repr=False)
    is_heard_only: bool = False


class DeadLetters:
    """The newest dead letters, oldest first; ``total`` counts those no longer kept, too."""

    def __init__(self, limit: int = MAX_DEAD_LETTERS) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=limit)
        self._on_the_way: set[DeadLetter] = set()
        self.total = 0

    def __repr__(self) -> str:
        return f"<DeadLetters: {len(self._letters):,} kept, {self.total:,} in all>"

    def append(self, letter: DeadLetter) -> None:
        """Keep one more; beyond the limit the oldest goes."""
        self.total += 1
        self._letters.append(letter)

    def find(self, agent: str | None = None, reason: str | None = None) -> list[DeadLetter]:
        """Return those for an agent of this name, or buried for this reason, or both; oldest first."""
        return [
            letter
            for letter in self._letters
            if (agent is None or letter.agent == agent) and (reason is None or letter.reason == reason)
        ]

    def remove(self, letter: DeadLetter) -> None:
        """Keep this one no longer.

        Raises:
            LookupError: it is not kept.
        """
        if letter not in self._letters:
            raise LookupError(
                f"This dead letter for {letter.agent!r} is not kept here. It was sent again or removed, is "
                f"another runtime's, or newer ones took its place: the newest {self._letters.maxlen:,} stay."
            )
        self._letters.remove(letter)

    def clear(self) -> None:
        """Keep none of those there are."""
        self._letters.clear()

    @contextmanager
    def leaving(self, letter: DeadLetter) -> Iterator[Any]:
        """Give the agent a letter is to be sent to; without an error it is kept no longer afterwards.

        Raises:
            LookupError: it is not kept, or is being sent by somebody else.
            ConfigError: its agent is not known.
        """
        if letter in self._on_the_way:
            raise LookupError(f"This dead letter for {letter.agent!r} is being sent again at this moment.")
        if letter not in self._letters:
            self.remove(letter)  # says why it is not there
        if letter.target is None:
            raise ConfigError(
                f"It is not known which agent named {letter.agent!r} this letter was for. "
                f"Send it yourself: `await agent.post(letter.msg)`, then dead_letters.remove(letter)."
            )
        self._on_the_way.add(letter)
        try:
            yield letter.target
        finally:
            self._on_the_way.discard(letter)
        if letter in self._letters:  # else newer ones took its place meanwhile
            self._letters.remove(letter)

    def __contains__(self, letter: object) -> bool:
        return letter in self._letters

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(list(self._letters))

    def __len__(self) -> int:
        return len(self._letters)

    def __getitem__(self, index: int) -> DeadLetter:
        return self._letters[index]
