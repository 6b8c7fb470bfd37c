"""What a runtime tells those who read ``rt.events()``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .message import Usage

__all__ = ["Event", "LetterBuried", "LinkChanged", "ModelCalled", "ToolCalled", "TurnEnded", "TurnStarted"]


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


@dataclass(frozen=True, slots=True)
class LinkChanged(Event):
    """The link to another ``node`` is ``"up"``, ``"suspect"`` or ``"lost"``, for this ``reason``."""

    node: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelCalled(Event):
    """A model answered, in ``seconds`` and ``attempts`` requests; ``agent`` is "" outside any turn."""

    provider: str
    model: str
    usage: Usage
    seconds: float
    attempts: int


@dataclass(frozen=True, slots=True)
class ToolCalled(Event):
    """A tool was called, or the call was refused: ``is_success`` False, then perhaps in no time at all."""

    tool: str
    seconds: float
    is_success: bool
