"""What a runtime tells those who read ``rt.events()``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Event", "LetterBuried", "TurnEnded", "TurnStarted"]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events.

    Attributes:
        agent: the name of the agent it happened to.
    """

    agent: str


@dataclass(frozen=True, slots=True)
class TurnStarted(Event):
    """An agent began to handle a message."""


@dataclass(frozen=True, slots=True)
class TurnEnded(Event):
    """An agent is done with a message, after ``seconds``; ``error`` when it failed."""

    seconds: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class LetterBuried(Event):
    """A letter became a dead letter, for this ``reason``."""

    reason: str
