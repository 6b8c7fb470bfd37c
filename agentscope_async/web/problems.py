"""What went wrong, as a web client is told: a kind, a sentence, and no internals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import errors
from ..keyed_agent import UnsavedStateError
from ..keyed_unsaved import StoreFailingError
from ..logging import brief, get_logger

__all__ = ["INTERNAL", "Problem", "Refusal", "STORE_FAILING", "problem_of", "refusal_of"]


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        type: one word for programs.
        message: a sentence for people.
        retry_after_s: whole seconds after which it is worth trying again, or None.
    """

    status: int
    type: str
    message: str
    retry_after_s: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the JSON that clients get."""
        return {"type": self.type, "message": self.message, "retry_after_s": self.retry_after_s}

    @property
    def headers(self) -> dict[str, str]:
        """Return what else the answer says."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


class Refusal(Exception):
    """A request that is not taken, for a reason its client may know."""

    def __init__(self, status: int, type: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(status, type, message, retry_after_s)

    @classmethod
    def of(cls, problem: Problem) -> Refusal:
        """Refuse for this reason."""
        return Refusal(problem.status, problem.type, problem.message, problem.retry_after_s)


STORE_FAILING = Problem(503, "store_failing", "Conversations cannot be saved; nothing was done.", 1)
_KNOWN: tuple[tuple[type[BaseException], Problem], ...] = (
    (errors.MailboxFullError, Problem(503, "overloaded", "The agent has too many messages to answer.", 1)),
    (errors.RateLimited, Problem(503, "overloaded", "The model takes no more requests at the moment.", 1)),
    (errors.Overloaded, Problem(503, "overloaded", "The model has more work than it can do.", 1)),
    (errors.QuotaExceededError, Problem(429, "budget", "The budget for this agent is used up.")),
    (errors.QuotaExhausted, Problem(429, "budget", "The budget for this model is used up.")),
    (errors.ContextTooLong, Problem(413, "too_long", "The conversation is too long for the model.")),
    (errors.ContentFiltered, Problem(422, "filtered", "The model refuses this message.")),
    (errors.AskTimeoutError, Problem(504, "timeout", "The agent did not answer in time.")),
    (errors.ModelTimeout, Problem(504, "timeout", "The model did not answer in time.")),
    (errors.ModelError, Problem(502, "model_failed", "The model could not answer.")),
    (errors.InterruptedTurnError, Problem(409, "interrupted", "The turn was interrupted.")),
    (errors.AgentStoppedError, Problem(503, "closing", "The agent takes no more messages.", 1)),
    (errors.RuntimeClosedError, Problem(503, "closing", "The service is closing.", 1)),
    (errors.NodeDown, Problem(502, "node_down", "A part of the service cannot be reached.")),
    (StoreFailingError, STORE_FAILING),
    (UnsavedStateError, Problem(503, "not_saved", "The answer could not be saved, and may be lost.", 1)),
)
_MAX_REASON = 300
MAX_WAIT_S = 3600
INTERNAL = Problem(500, "internal", "Something went wrong here; it is in the log of the service.")


def problem_of(error: BaseException) -> Problem:
    """Return what a client is told of an error; what is not for clients is logged."""
    if isinstance(error, Refusal):
        return error.problem
    problem = next((known for kind, known in _KNOWN if isinstance(error, kind)), INTERNAL)
    get_logger().error("web_turn_failed", type=problem.type, error=brief(error), exc_info=problem is INTERNAL)
    if problem.retry_after_s is not None and (wait_s := _wait_s(error)) is not None:
        problem = replace(problem, retry_after_s=wait_s)
    return problem


def _wait_s(error: BaseException) -> int | None:
    """Return the whole seconds an error says to wait; None: it says none, or nonsense."""
    wait_s = getattr(error, "retry_after_s", None)
    if not isinstance(wait_s, int | float) or not wait_s > 0:  # nor is NaN
        return None
    return max(1, round(min(wait_s, MAX_WAIT_S)))


def refusal_of(errors: Sequence[Any]) -> Refusal:
    """Return what a client is told of a message that is not valid: the first error, without its input."""
    kind, *names = errors[0]["loc"] or ("body",)
    where = f"{names[-1]}: " if kind in ("header", "query") and names else ""
    text = f"{where}{errors[0]['msg']}"[:_MAX_REASON]
    return Refusal(422, "bad_message", text.encode("utf-8", "backslashreplace").decode())
