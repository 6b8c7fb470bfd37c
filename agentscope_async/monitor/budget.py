"""Budgets: one limit for a whole team, kept before the money is spent."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .. import _context
from ..errors import AgentScopeError, AgentScopeWarning, ConfigError
from ..logging import get_logger
from ._ledger import Amounts, Claim, Ledger, Limits, MemoryLedger, State
from .prices import (
    PICO,
    PriceTable,
    Rate,
    check_tokens,
    find_rate,
    has_price_package,
    is_token_count,
    table_rates,
)

if TYPE_CHECKING:
    from types import TracebackType

    from ..message import Usage

__all__ = ["Budget", "Remaining", "Reservation", "Spending", "active_budgets"]

MAX_USD = 1_000_000
PLAUSIBLE_TOKENS = 1_000_000
"""Usage up to here is believed whatever was reserved; above, only up to ten times the reserved tokens."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What was spent, or is reserved; ``usd`` counts calls whose price is known.

    ``wall_s`` are the seconds since the first reservation was asked for.
    """

    usd: float
    tokens: int
    calls: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a new reservation could still take at once; None where there is no limit."""

    usd: float | None
    tokens: int | None
    calls: int | None
    wall_s: float | None


class Budget:
    """Limits on money, tokens, calls and time, shared by all who reserve from it.

    A call reserves its worst case, and settles what it really took::

        reservation = await budget.reserve(model="gpt-4o-mini", input_tokens=900, output_tokens=500)
        usage = None
        try:
            await reservation.mark_sent()
            usage = (await send()).usage
        finally:
            reservation.settle(usage)

    At no moment is more spent and reserved together than a limit allows, unless a call
    takes more than it had reserved. Without ``path`` the budget lives in memory, for one
    event loop at a time. With one it is a SQLite file on a local disk that any number of
    processes may use at once, under the same ``name``; each of them states its limits,
    what is spent and reserved is common. The death of a process leaves nothing open:
    others release what it had not sent and count the rest as reserved.

    ``async with budget:`` (or ``with``) makes all models charge it that are called inside.

    Attributes:
        place: where it stands among all budgets. Whoever reserves in several at once does so in
            the order of their places; in different orders, two could wait for each other for ever.
    """

    def __init__(
        self,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        wall_s: float | None = None,
        name: str = "budget",
        path: str | Path | None = None,
        prices: PriceTable | None = None,
        max_output_tokens: int = 4096,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Set the limits; at least one.

        Args:
            usd: money, in USD, for calls of models with a known price. Up to 1,000,000.
            tokens: input and output together.
            calls: calls that were not released.
            wall_s: seconds after the first ``reserve`` in which another may begin. Calls
                under way are not stopped.
            name: which budget of the file; and how errors call it.
            path: a SQLite file.
            prices: USD per million input and output tokens by model; wins over
                ``genai-prices``, which is used where it is installed.
            max_output_tokens: what a call reserves that does not say how long its answer may be.
            clock: returns seconds, for tests; by default ``time.monotonic``, with a file ``time.time``.

        Raises:
            ConfigError: no limit, or one that is not a positive finite number; a price that is none.
        """
        if usd is None and tokens is None and calls is None and wall_s is None:
            raise ConfigError("A budget needs a limit: usd=, tokens=, calls= or wall_s=.")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"A budget's name is a text that is not empty, not {name!r}.")
        check_tokens("max_output_tokens", max_output_tokens)
        limits = Limits(
            name,
            usd_pico=_usd_limit(usd),
            tokens=_whole_limit("tokens", tokens),
            calls=_whole_limit("calls", calls),
            wall_s=_limit("wall_s", wall_s),
            clock=clock or (time.monotonic if path is None else time.time),
        )
        self.name = name
        self.path = None if path is None else Path(path)
        self.max_output_tokens = max_output_tokens
        # The same file has the same place in all processes.
        self.place = ("", "", next(_numbers)) if path is None else (os.path.realpath(path), name, 0)
        self._settings = None if path is None or clock is not None else {
            "usd": usd, "tokens": tokens, "calls": calls, "wall_s": wall_s, "name": name,
            "path": str(Path(path).absolute()), "prices": None if prices is None else dict(prices),
            "max_output_tokens": max_output_tokens,
        }  # fmt: skip
        self._limits = limits
        self._ledger = _open_ledger(limits, path)
        self._holders: Counter[asyncio.Task[Any] | None] = Counter()
        self._has_prices = usd is not None or bool(prices)
        self._table = table_rates(prices)
        self._rates: dict[str, Rate | None] = dict(self._table)
        self._overrun: set[str] = set()  # models that took more than was reserved; each is logged once

    def settings(self) -> dict[str, Any]:
        """Return, as JSON values, the arguments by which another process opens the same budget.

        Raises:
            ConfigError: it has no file, so it is this process's alone, or a clock of its own.
        """
        if self._settings is None:
            raise ConfigError(
                f"The budget {self.name!r} is in memory, where no other process can count in it. "
                f"Give it a file: Budget(..., path='team.db')."
            )
        return self._settings

    async def reserve(
        self, *, model: str, input_tokens: int, output_tokens: int | None = None
    ) -> Reservation:
        """Set aside the most a call can take, and return when that is done.

        Where only reservations of other tasks are in the way it waits, first come first served, until
        they are settled (between processes: in no order). Cancelled while it waits, it
        leaves nothing reserved. Every reservation must be settled or released.

        Args:
            model: the model's name, for its price.
            input_tokens: at most so many.
            output_tokens: at most so many; by default the budget's ``max_output_tokens``.

        Raises:
            BudgetExceededError: with what is spent already, a limit leaves too little room.
                Raised at once, also to those that wait when it comes to that.
            ConfigError: a token count is not a usable number.
            AgentScopeError: the file cannot be read or written.
        """
        if output_tokens is None:
            output_tokens = self.max_output_tokens
        check_tokens("input_tokens", input_tokens)
        check_tokens("output_tokens", output_tokens)
        rate = self._rates.get(model)
        if rate is None and self._has_prices and model not in self._rates:
            rate = await self._find_rate(model)
        usd_pico = 0 if rate is None else rate(input_tokens, output_tokens)
        needed = Amounts(usd_pico, input_tokens + output_tokens, 1)
        task = asyncio.current_task()
        if self._holders.get(task):
            self._refuse_waiting(needed)
        claim = await self._ledger.reserve(needed)
        self._holders[task] += 1
        return Reservation(self, model, claim, rate, task)

    def _refuse_waiting(self, needed: Amounts) -> None:
        """Raise if the claim would have to wait: its task holds a reservation, maybe the one in the way.

        A call made while one's own stream is open would otherwise wait for itself.
        """
        totals = self._ledger.totals()
        limit = self._limits.exceeded_by(totals.spent.plus(totals.reserved).plus(needed))
        if limit is not None or self._ledger.is_waited_for:
            raise self._limits.error(limit or "calls", totals, needed)

    def _drop_holder(self, task: asyncio.Task[Any] | None) -> None:
        self._holders[task] -= 1
        if not self._holders[task]:
            del self._holders[task]

    @property
    def counts_tokens(self) -> bool:
        """The number of a call's tokens matters: there is a limit in tokens or USD."""
        return min(self._limits.usd_pico, self._limits.tokens) < math.inf

    @property
    def spent(self) -> Spending:
        """What settled calls took. With a file: as last read, plus what this process settled since."""
        totals = self._ledger.totals()
        return _spending(totals.spent, self._limits.elapsed_s(totals.started_at))

    @property
    def reserved(self) -> Spending:
        """What calls under way may take."""
        return _spending(self._ledger.totals().reserved, 0.0)

    @property
    def remaining(self) -> Remaining:
        """What is neither spent nor reserved."""
        totals, limits = self._ledger.totals(), self._limits
        used = totals.spent.plus(totals.reserved)
        usd_pico = _left(limits.usd_pico, used.usd_pico)
        tokens, calls = _left(limits.tokens, used.tokens), _left(limits.calls, used.calls)
        return Remaining(
            None if usd_pico is None else usd_pico / PICO,
            None if tokens is None else int(tokens),
            None if calls is None else int(calls),
            _left(limits.wall_s, limits.elapsed_s(totals.started_at)),
        )

    async def refresh(self) -> None:
        """With a file: return when what was settled here is in it and what others did is read."""
        await self._ledger.sync()

    async def aclose(self) -> None:
        """Write what is left, close the file and end its thread.

        Reservations that are still open count as those of a process that died. The budget
        stays usable: the next call opens the file again.
        """
        await self._ledger.aclose()

    def __enter__(self) -> Self:
        _context.letters_carry = True
        _context.charged.set((*_context.charged.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # By value, not by token: the same budget may be entered by several tasks at once.
        active = list(_context.charged.get())
        if self in active:
            active.reverse()
            active.remove(self)
            active.reverse()
        _context.charged.set(tuple(active))

    async def __aenter__(self) -> Self:
        await self.refresh()
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
        await self.refresh()

    def __repr__(self) -> str:
        return f"<Budget {self.name!r} spent={self.spent} remaining={self.remaining}>"

    async def _find_rate(self, model: str) -> Rate | None:
        # In a thread: it may load a package.
        rate = await asyncio.to_thread(find_rate, model, self._table)
        if model not in self._rates:
            self._rates[model] = rate
            if rate is None:
                await self._warn_of_no_price(model)
        return self._rates[model]

    async def _warn_of_no_price(self, model: str) -> None:
        advice = f"Give prices={{{model!r}: (usd_per_million_input, usd_per_million_output)}}"
        if not await asyncio.to_thread(has_price_package):
            advice += ", or: pip install 'agentscope-async[prices]'"
        warnings.warn(
            f"The price of model {model!r} is not known: its calls cost nothing in budget {self.name!r}. "
            f"{advice}.",
            AgentScopeWarning,
            stacklevel=3,
        )

    def _settle(self, claim: Claim, spent: Amounts, model: str, holder: asyncio.Task[Any] | None) -> None:
        is_closed = self._close(claim, spent, holder)
        is_more = is_closed and spent.tokens > claim.needed.tokens and self.counts_tokens
        if is_more and model not in self._overrun:
            self._overrun.add(model)
            get_logger().warning(
                "a call took more than it had reserved",
                budget=self.name,
                model=model,
                tokens=spent.tokens,
                reserved_tokens=claim.needed.tokens,
            )

    def _close(self, claim: Claim, spent: Amounts, holder: asyncio.Task[Any] | None) -> bool:
        is_closed = self._ledger.close(claim, spent)
        if is_closed:
            self._drop_holder(holder)
        return is_closed


class Reservation:
    """What one call may take, until it is settled or released; the second time has no effect."""

    __slots__ = ("_budget", "_model", "_claim", "_rate", "_holder")

    def __init__(
        self, budget: Budget, model: str, claim: Claim, rate: Rate | None, holder: asyncio.Task[Any] | None
    ) -> None:
        self._budget = budget
        self._model = model
        self._claim = claim
        self._rate = rate
        self._holder = holder

    async def mark_sent(self) -> None:
        """Say that the request leaves now; with a file, return when the file says so too.

        From then on, the death of this process counts as having spent what is reserved.

        Raises:
            AgentScopeError: it was settled or released before, or the file cannot be written.
                Do not send the request.
        """
        if self._claim.state is not State.RESERVED:
            raise AgentScopeError(
                f"This reservation from budget {self._budget.name!r} is settled or released already. "
                f"Reserve again before sending."
            )
        await self._budget._ledger.mark_sent(self._claim)

    def settle(self, usage: Usage | None) -> None:
        """Count what the call took; None, or usage that cannot be true, counts as what was reserved.

        More than was reserved is counted as it is, and logged where tokens matter, once for each model.
        Others that wait see it at once; with a file, it is written in a moment, in order.
        """
        self._budget._settle(self._claim, self._spent(usage), self._model, self._holder)

    def release(self) -> None:
        """Count nothing: the request was not sent, or the server definitely refused it."""
        self._budget._close(self._claim, Amounts(), self._holder)

    def _spent(self, usage: Usage | None) -> Amounts:
        reserved = self._claim.needed
        try:
            input_tokens, output_tokens = usage.input_tokens, usage.output_tokens  # type: ignore[union-attr]
        except AttributeError:  # None, or no usage at all
            return reserved
        if not (is_token_count(input_tokens) and is_token_count(output_tokens)):
            return reserved
        tokens = input_tokens + output_tokens
        if tokens > max(10 * reserved.tokens, PLAUSIBLE_TOKENS):
            return reserved
        return Amounts(0 if self._rate is None else self._rate(input_tokens, output_tokens), tokens, 1)


_numbers = itertools.count()


def active_budgets() -> tuple[Budget, ...]:
    """Return the budgets that calls made here are charged to, outermost first, each one once."""
    return tuple(dict.fromkeys(_context.charged.get()))


def _open_ledger(limits: Limits, path: str | Path | None) -> Ledger:
    if path is None:
        return MemoryLedger(limits)
    from ._shared_ledger import SharedLedger

    return SharedLedger(limits, path)


def _spending(amounts: Amounts, wall_s: float) -> Spending:
    return Spending(amounts.usd_pico / PICO, amounts.tokens, amounts.calls, wall_s)


def _left(limit: float, used: float) -> float | None:
    return None if limit == math.inf else max(0, limit - used)


def _usd_limit(usd: Any) -> float:
    limit = _limit("usd", usd)
    if limit == math.inf:
        return limit
    if limit > MAX_USD:
        raise ConfigError(f"usd may be at most {MAX_USD:,}, not {usd!r}.")
    return int(Decimal(str(usd)) * PICO)


def _whole_limit(name: str, value: Any) -> float:
    limit = _limit(name, value)
    if limit == math.inf:
        return limit
    if limit != int(limit):
        raise ConfigError(f"{name} must be a whole number, not {value!r}.")
    return int(limit)


def _limit(name: str, value: Any) -> float:
    """Return a limit as a number; infinite for None."""
    if value is None:
        return math.inf
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be a positive finite number, not {value!r}.")
    return float(value)
