"""The keyed agents whose last save failed, and when each is tried again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from .errors import AgentError

if TYPE_CHECKING:
    from .keyed_agent import KeyedAgent

__all__ = ["RETRY_S", "StoreFailingError", "Unsaved"]

RETRY_S = 1.0
"""An agent that could not be saved is not tried again before that; each failure doubles it."""
MAX_RETRY_S = 30.0
MAX_UNSAVED = 100
"""While so many agents could not be saved no turns are taken, as they would fill the memory."""


class StoreFailingError(AgentError):
    """The turn was not begun, as the states of too many agents could not be saved.

    These are tried again from time to time; turns are taken again once enough are saved.
    """

    def __init__(self, agent: str, unsaved: int) -> None:
        super().__init__(
            f"Agent {agent!r} was not asked: the states of {unsaved} agents could not be saved, and are in "
            f"memory only. Look after the store (is the disk full?); they are tried again.",
            agent=agent,
        )


class Unsaved:
    """The agents whose last save failed."""

    def __init__(self) -> None:
        self._retries: dict[KeyedAgent, _Retry] = {}

    def __contains__(self, agent: KeyedAgent) -> bool:
        return agent in self._retries

    def add(self, agent: KeyedAgent) -> None:
        """Note that an agent could not be saved: it is due again later, each time after longer."""
        last = self._retries.get(agent)
        wait_s = RETRY_S if last is None else min(2 * last.wait_s, MAX_RETRY_S)
        self._retries[agent] = _Retry(wait_s, asyncio.get_running_loop().time() + wait_s)

    def discard(self, agent: KeyedAgent) -> None:
        """Note that an agent is saved, or its state is of no use any more."""
        self._retries.pop(agent, None)

    def due(self) -> list[KeyedAgent]:
        """Return the idle ones that may be tried again."""
        now = asyncio.get_running_loop().time()
        return [each for each, retry in self._retries.items() if retry.at <= now and each.mailbox.is_idle]

    def next_at(self) -> float | None:
        """Return the loop time at which the first is due; None: all agents are saved."""
        return min((retry.at for retry in self._retries.values()), default=None)

    def check_room(self, agent: KeyedAgent) -> None:
        """Refuse a turn of ``agent`` with StoreFailingError while there are too many."""
        if len(self._retries) >= MAX_UNSAVED:
            raise StoreFailingError(agent.name, len(self._retries))


class _Retry(NamedTuple):
    """When to try again, in loop time, and how long that is after the failure."""

    wait_s: float
    at: float
