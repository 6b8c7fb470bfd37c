"""The books of a budget: what is spent, what is reserved, who waits. Here in memory."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from ..errors import BudgetExceededError
from .prices import PICO

__all__ = ["Amounts", "Claim", "Ledger", "Limits", "Line", "MemoryLedger", "State", "Totals"]


class Amounts(NamedTuple):
    """What a call takes, or several."""

    usd_pico: int = 0
    tokens: int = 0
    calls: int = 0

    def plus(self, other: Amounts) -> Amounts:
        """Return the sum."""
        return Amounts(self[0] + other[0], self[1] + other[1], self[2] + other[2])

    def minus(self, other: Amounts) -> Amounts:
        """Return the difference."""
        return Amounts(self[0] - other[0], self[1] - other[1], self[2] - other[2])


class Totals(NamedTuple):
    """The state of a budget; ``started_at`` is the clock's time of the first reserve."""

    spent: Amounts = Amounts()
    reserved: Amounts = Amounts()
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a budget allows; infinite where it has no limit."""

    name: str
    usd_pico: float = math.inf
    tokens: float = math.inf
    calls: float = math.inf
    wall_s: float = math.inf
    clock: Callable[[], float] = field(kw_only=True)

    def exceeded_by(self, amounts: Amounts) -> str | None:
        """Return the first limit these amounts are above, or None."""
        if amounts[2] > self.calls:
            return "calls"
        if amounts[1] > self.tokens:
            return "tokens"
        return "usd" if amounts[0] > self.usd_pico else None

    def allow(self, spent: Amounts, reserved: Amounts, started_at: float) -> bool:
        """Tell whether so much may be spent and reserved, now."""
        return (
            spent[2] + reserved[2] <= self.calls
            and spent[1] + reserved[1] <= self.tokens
            and spent[0] + reserved[0] <= self.usd_pico
            and (self.wall_s == math.inf or self.elapsed_s(started_at) < self.wall_s)
        )

    def elapsed_s(self, started_at: float | None) -> float:
        """Return the seconds since the first reserve."""
        return 0.0 if started_at is None else max(0.0, self.clock() - started_at)

    def is_over_time(self, totals: Totals) -> bool:
        """Tell whether the time for new reservations has run out."""
        return self.elapsed_s(totals.started_at) >= self.wall_s

    def error(self, limit: str, totals: Totals, needed: Amounts) -> BudgetExceededError:
        """Return the error for a claim that ``limit`` refuses, in that limit's unit."""
        if limit == "wall_s":
            spent_s = self.elapsed_s(totals.started_at)
            figures = {"allowed": self.wall_s, "spent": spent_s, "reserved": 0.0, "needed": 0.0}
        else:
            index = {"usd": 0, "tokens": 1, "calls": 2}[limit]
            scale = PICO if limit == "usd" else 1
            allowed = (self.usd_pico, self.tokens, self.calls)[index]
            figures = {
                "allowed": allowed / scale,
                "spent": totals.spent[index] / scale,
                "reserved": totals.reserved[index] / scale,
                "needed": needed[index] / scale,
            }
        return BudgetExceededError(self.name, limit=limit, **figures)


class State(Enum):
    """What has become of a claim."""

    WAITING = auto()
    REFUSED = auto()
    WITHDRAWN = auto()
    RESERVED = auto()
    CLOSED = auto()


@dataclass(slots=True, eq=False)
class Claim:
    """What one call needs at worst; ``answer`` is there while its task waits."""

    needed: Amounts
    number: int = 0
    state: State = State.WAITING
    answer: asyncio.Future[None] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        if self.answer is None:
            self.answer = asyncio.get_running_loop().create_future()
        return self.answer.__await__()


class Ledger(Protocol):
    """What a budget writes into."""

    async def reserve(self, needed: Amounts) -> Claim:
        """Return a claim in state RESERVED, or raise BudgetExceededError."""

    @property
    def is_waited_for(self) -> bool:
        """Claims wait for room."""

    async def mark_sent(self, claim: Claim) -> None:
        """Note that the call is about to leave."""

    def close(self, claim: Claim, spent: Amounts) -> bool:
        """End a claim; False when it was ended before."""

    def totals(self) -> Totals:
        """Return the figures as they are known in this process."""

    async def sync(self) -> None:
        """Return when all that was done is kept, and ``totals`` are up to date."""

    async def aclose(self) -> None:
        """Let go of files and threads."""


class Line:
    """Claims that wait, first come first served."""

    def __init__(self) -> None:
        self._claims: deque[Claim] = deque()
        self._largest = Amounts()  # of each amount; an upper bound, made exact when it matters

    def __len__(self) -> int:
        return len(self._claims)

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._claims)

    def append(self, claim: Claim) -> None:
        """Add a claim at the end."""
        self._claims.append(claim)
        self._largest = _largest(self._largest, claim.needed)

    def remove(self, claim: Claim) -> None:
        """Take a claim out, wherever it stands."""
        if self._claims and self._claims[0] is claim:
            self._claims.popleft()
        else:
            self._claims.remove(claim)

    def admit(self, totals: Totals, limits: Limits) -> tuple[list[Claim], list[tuple[Claim, str]]]:
        """Return who may go and who can never go any more (with the limit), and change nothing.

        Those who may go are the first in the line that fit beside all that is reserved.
        Those who never can are looked for in the whole line: what is spent stays spent.
        """
        if limits.is_over_time(totals):
            return [], [(claim, "wall_s") for claim in self._claims]
        spent, reserved, _ = totals
        is_hopeless_possible = limits.exceeded_by(spent.plus(self._largest)) is not None
        granted: list[Claim] = []
        refused: list[tuple[Claim, str]] = []
        is_blocked = False
        largest = Amounts()
        for claim in self._claims:
            limit = limits.exceeded_by(spent.plus(claim.needed))
            if limit is not None:
                refused.append((claim, limit))
                continue
            total = reserved.plus(claim.needed)
            if not is_blocked and limits.exceeded_by(spent.plus(total)) is None:
                granted.append(claim)
                reserved = total
                continue
            is_blocked = True
            if not is_hopeless_possible:
                break
            largest = _largest(largest, claim.needed)
        else:
            self._largest = largest  # of those that go on waiting
        return granted, refused


class MemoryLedger:
    """The books in memory, for one event loop at a time. Nothing but a wait for room suspends."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._spent = self._reserved = Amounts()
        self._started_at: float | None = None
        self._line = Line()

    def totals(self) -> Totals:
        return Totals(self._spent, self._reserved, self._started_at)

    async def reserve(self, needed: Amounts) -> Claim:
        if self._started_at is None:
            self._started_at = self._limits.clock()
        claim = Claim(needed)
        reserved = self._reserved.plus(needed)
        if not self._line and self._limits.allow(self._spent, reserved, self._started_at):
            # The usual case, fast.
            claim.state = State.RESERVED
            self._reserved = reserved
            return claim
        self._line.append(claim)
        self._serve(claim)
        if claim.state is State.WAITING:
            await self._wait(claim)
        return claim

    @property
    def is_waited_for(self) -> bool:
        return len(self._line) > 0

    async def mark_sent(self, claim: Claim) -> None:
        pass

    def close(self, claim: Claim, spent: Amounts) -> bool:
        if claim.state is not State.RESERVED:
            return False
        claim.state = State.CLOSED
        self._spent = self._spent.plus(spent)
        self._reserved = self._reserved.minus(claim.needed)
        if self._line:
            self._serve()
        return True

    async def sync(self) -> None:
        if self._line:
            self._serve()

    async def aclose(self) -> None:
        pass

    async def _wait(self, claim: Claim) -> None:
        timer = None
        limits = self._limits
        if limits.wall_s < math.inf:
            left_s = limits.wall_s - limits.elapsed_s(self._started_at)
            timer = asyncio.get_running_loop().call_later(left_s, self._refuse, claim, "wall_s")
        try:
            await claim
        except (asyncio.CancelledError, GeneratorExit):
            self._withdraw(claim)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _serve(self, newcomer: Claim | None = None) -> None:
        """Let go who may, and refuse who never can. Raises what ``newcomer`` is refused with."""
        granted, refused = self._line.admit(self.totals(), self._limits)
        for claim in granted:
            claim.state = State.RESERVED
            self._line.remove(claim)
            self._reserved = self._reserved.plus(claim.needed)
            _answer(claim)
        for claim, limit in refused:
            if claim is not newcomer:
                self._refuse(claim, limit)
        if newcomer is not None and refused and refused[-1][0] is newcomer:
            newcomer.state = State.REFUSED
            self._line.remove(newcomer)
            raise self._limits.error(refused[-1][1], self.totals(), newcomer.needed)

    def _refuse(self, claim: Claim, limit: str) -> None:
        if claim.state is State.WAITING:
            claim.state = State.REFUSED
            self._line.remove(claim)
            _answer(claim, self._limits.error(limit, self.totals(), claim.needed))

    def _withdraw(self, claim: Claim) -> None:
        if claim.state is State.WAITING:
            claim.state = State.WITHDRAWN
            self._line.remove(claim)
            self._serve()
        else:  # room was made for it just now: for the next one, then
            self.close(claim, Amounts())


def _answer(claim: Claim, error: Exception | None = None) -> None:
    future = claim.answer
    if future is None or future.done() or future.get_loop().is_closed():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _largest(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2]))
