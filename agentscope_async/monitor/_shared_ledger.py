"""The books of a budget in a SQLite file, for several processes at once: the side that asks."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import AgentScopeError
from ._books import Asked, Books, Decided
from ._ledger import Amounts, Claim, Limits, Line, State, Totals
from ._store import Answers, Store

__all__ = ["SharedLedger"]

POLL_S = 0.02
"""How often those who wait look at what other processes have settled."""

RETRY_S = 1.0
"""When to try again to write what could not be written."""


class SharedLedger:
    """The books in a file. Each exchange with it carries all that was asked for since the last one.

    Claims made by one ledger are served in order; between processes whoever looks first
    after a settlement goes first.
    """

    def __init__(self, limits: Limits, path: str | Path) -> None:
        self._limits = limits
        self._store = Store(path, partial(Books, Path(path).absolute(), limits))
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._line = Line()
        self._next = Asked()
        self._under_way = Asked()
        self._is_exchange_queued = self._is_exchange_urgent = self._is_exchanging = False
        self._totals = Totals()

    def totals(self) -> Totals:
        with self._lock:
            spent, reserved, started_at = self._totals
            for claim, actual in (*self._under_way.closed, *self._next.closed):
                spent = spent.plus(actual)
                reserved = reserved.minus(claim.needed)
            return Totals(spent, reserved, started_at)

    async def reserve(self, needed: Amounts) -> Claim:
        claim = Claim(needed, next(self._numbers), answer=asyncio.get_running_loop().create_future())
        with self._lock:
            self._line.append(claim)
        self._exchange_soon()
        try:
            await claim
        except (asyncio.CancelledError, GeneratorExit):
            self._withdraw(claim)
            raise
        return claim

    @property
    def is_waited_for(self) -> bool:
        return len(self._line) > 0

    async def mark_sent(self, claim: Claim) -> None:
        await self._ask(lambda asked, future: asked.sent.append((claim, future)))

    def close(self, claim: Claim, spent: Amounts) -> bool:
        with self._lock:
            if claim.state is not State.RESERVED:
                return False
            claim.state = State.CLOSED
            self._next.closed.append((claim, spent))
        self._exchange_soon()
        return True

    async def sync(self) -> None:
        await self._ask(lambda asked, future: asked.synced.append(future))

    async def aclose(self) -> None:
        if self._store.is_open:
            try:
                await self.sync()
            finally:
                await self._store.aclose()

    async def _ask(self, put: Callable[[Asked, asyncio.Future[None]], None]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            put(self._next, future)
        self._exchange_soon()
        await future

    def _withdraw(self, claim: Claim) -> None:
        with self._lock:
            if claim.state is State.WAITING:
                claim.state = State.WITHDRAWN
                self._line.remove(claim)
        # If room had been made for it already, that is for the next one. Either way somebody may go now.
        if not self.close(claim, Amounts()):
            self._exchange_soon()

    def _exchange_soon(self, within_s: float = 0.0) -> None:
        """Have one exchange queued, never two: both would see the same claims waiting."""
        is_urgent = not within_s
        with self._lock:
            is_queued, was_urgent = self._is_exchange_queued, self._is_exchange_urgent
            self._is_exchange_queued = True
            self._is_exchange_urgent = was_urgent or is_urgent
        if not is_queued:
            self._store.submit(self._exchange, self._exchanged, within_s=within_s)
        elif is_urgent and not was_urgent:  # the one in the queue has time: an urgent job takes it along
            self._store.submit(lambda books: None, lambda answers, result, error: None)

    # -- on the writing thread --

    def _exchange(self, books: Books) -> Decided:
        with self._lock:
            asked = self._take()
        return books.exchange(asked)

    def _take(self) -> Asked:
        """Take what was asked for; what comes from now on needs another exchange."""
        self._is_exchange_queued = self._is_exchange_urgent = False
        self._is_exchanging = True
        self._under_way, self._next = self._next, Asked()
        self._under_way.waiting = list(self._line)
        return self._under_way

    def _exchanged(self, answers: Answers, decided: Decided | None, error: Exception | None) -> None:
        with self._lock:
            if not self._is_exchanging:  # the file could not even be opened
                self._take()
            asked, self._under_way = self._under_way, Asked()
            self._is_exchanging = False
            if decided is None:
                self._give_up(answers, asked, error)
            else:
                self._carry_out(answers, asked, decided)
            is_left = bool(self._next.closed)
            is_waited_for = bool(self._line)
        if is_left:
            self._exchange_soon(RETRY_S if error else 0.0)
        elif is_waited_for:
            self._exchange_soon(POLL_S)

    def _carry_out(self, answers: Answers, asked: Asked, decided: Decided) -> None:
        self._totals = decided.totals
        for claim, future in asked.sent:
            answers.add(future, None, self._forgotten() if claim.number in decided.unknown else None)
        for future in asked.synced:
            answers.add(future, None)
        for claim in decided.granted:
            if claim.state is State.WAITING:
                claim.state = State.RESERVED
                self._leave(answers, claim)
            else:  # withdrawn in the meantime
                self._next.closed.append((claim, Amounts()))
        for claim, limit in decided.refused:
            if claim.state is State.WAITING:
                claim.state = State.REFUSED
                self._leave(answers, claim, self._limits.error(limit, decided.totals, claim.needed))

    def _give_up(self, answers: Answers, asked: Asked, error: Exception | None) -> None:
        """Pass a failure on to all that wait; what was settled is kept for the next attempt."""
        self._next.closed[:0] = asked.closed
        for future in (*(future for _, future in asked.sent), *asked.synced):
            answers.add(future, None, error)
        for claim in asked.waiting:
            if claim.state is State.WAITING:
                claim.state = State.REFUSED
                self._leave(answers, claim, error)

    def _leave(self, answers: Answers, claim: Claim, error: Exception | None = None) -> None:
        self._line.remove(claim)
        if claim.answer is not None:
            answers.add(claim.answer, None, error)

    def _forgotten(self) -> AgentScopeError:
        return AgentScopeError(
            f"Budget {self._limits.name!r} no longer holds this reservation: it was settled, or closed by "
            f"another process that found our lock file gone. Reserve again before sending."
        )
