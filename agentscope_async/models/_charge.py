"""What a call may cost: reserved in the budgets before it is sent, settled afterwards."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

from .. import _context
from .._turn import open_turn
from ..monitor import active_budgets
from ._problem import Problem

if TYPE_CHECKING:
    from ..message import Usage
    from ..monitor import Budget, Reservation
    from ._request import HttpRequest
    from .provider import HttpModel

__all__ = ["NO_CHARGE", "Charge", "active", "bytes_of", "close_account", "unwritable"]

MEDIA_CHARACTERS = 2_000
"""Strings longer than this that hold no space are taken for encoded media, where media may be."""
MEDIA_TOKENS = 2_000
"""The most one image is taken to cost."""
MEDIA_KEYS = frozenset({"audio", "data", "file_data", "image", "image_url", "images", "url", "video"})
"""What media are called in requests. A text without spaces, under any other name, is a text."""


class Charge:
    """What one attempt has reserved in the budgets it counts against."""

    __slots__ = ("reservations", "was_sent")

    def __init__(self, reservations: list[Reservation]) -> None:
        self.reservations = reservations
        self.was_sent = False

    @classmethod
    async def of(cls, model: HttpModel, budgets: list[Budget], request: HttpRequest) -> Charge:
        """Reserve the most the request can cost in every budget, or in none.

        Whoever waits for room in one budget holds what it has in others. All calls go through
        their budgets in one order, or two of them could wait for each other for ever.

        Raises:
            BudgetExceededError: one of them has too little left.
        """
        charge = cls([])
        limits = [budget.max_output_tokens for budget in budgets if budget.counts_tokens]
        output_tokens = model.limit_output(request.json, min(limits)) if limits else 0
        input_tokens = _most_input_tokens(request.json)
        try:
            for budget in sorted(budgets, key=attrgetter("place")) if len(budgets) > 1 else budgets:
                reservation = await budget.reserve(
                    model=model.model_name, input_tokens=input_tokens, output_tokens=output_tokens
                )
                charge.reservations.append(reservation)
        except BaseException:
            charge.release()
            raise
        return charge

    async def mark_sent(self) -> None:
        """Note that the request leaves now: from here on it may cost."""
        for reservation in self.reservations:
            await reservation.mark_sent()
        self.was_sent = True

    def settle(self, usage: Usage | None) -> None:
        """Record what was used; None, or an estimate, counts as all that was reserved."""
        for reservation in self.reservations:
            reservation.settle(None if usage is None or usage.estimated else usage)

    def release(self) -> None:
        """Give everything back: nothing was used."""
        for reservation in self.reservations:
            reservation.release()


NO_CHARGE = Charge([])


def close_account(charge: Charge, error: BaseException) -> None:
    """Settle what an attempt reserved that ended in ``error``.

    A refusal with a status costs nothing. After anything else, a cancellation among
    them, the request may have been answered and billed.
    """
    is_refusal = isinstance(error, Problem) and error.status is not None and error.status >= 300
    if is_refusal or not charge.was_sent or (isinstance(error, Problem) and error.type == "bad_request"):
        charge.release()
    else:
        charge.settle(None)


def _most_input_tokens(body: Any) -> int:
    """Return what a request can cost at most: no tokenizer makes more tokens than there are bytes."""
    most = bytes_of(body)
    if most > MEDIA_CHARACTERS:
        for text in _media_in(body):
            most += MEDIA_TOKENS - len(text)
    return most


def _media_in(value: Any, key: str = "") -> list[str]:
    if isinstance(value, str):
        is_long = len(value) > MEDIA_CHARACTERS and key in MEDIA_KEYS
        return [value] if is_long and " " not in value[:MEDIA_CHARACTERS] else []
    if isinstance(value, dict):
        return [text for name, each in value.items() for text in _media_in(each, name)]
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in _media_in(each, key)]
    return []


def bytes_of(body: Any) -> int:
    """Return how long a body is as JSON.

    Raises:
        Problem: it cannot be written.
    """
    try:
        return len(orjson.dumps(body))
    except orjson.JSONEncodeError as error:
        raise unwritable(error) from error


def unwritable(error: orjson.JSONEncodeError) -> Problem:
    """Return what it is when a request cannot be written."""
    return Problem("bad_request", f"the request cannot be written as JSON: {error}")


def active(own: Budget | None) -> list[Budget]:
    """Return the budgets a call made here counts against: the wrapper's, the runtime's, the block's."""
    turn = open_turn()
    services = _context.find_services(None if turn is None else getattr(turn.agent, "_runtime", None))
    of_runtime = None if services is None else services.budget
    found = [each for each in (own, of_runtime, *active_budgets()) if each is not None]
    return list(dict.fromkeys(found))
