"""One agent for each key: made on its first message, saved after each, dropped when idle."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

from ._made import Made
from .errors import ConfigError
from .keyed_agent import KeyedAgent
from .keyed_unsaved import RETRY_S, Unsaved
from .logging import brief, get_logger

if TYPE_CHECKING:
    from .keyed_store import StateStore
    from .runtime import Runtime

__all__ = ["AgentFactory", "KeyedAgents"]

AgentFactory: TypeAlias = Callable[[str], Any]
"""Makes the agent of a key, new each time; a plain or async function."""

LIVE = 1000
IDLE_AFTER_S = 600.0

KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class KeyedAgents:
    """The agents of one factory: ``agents = rt.agents(factory)``, then ``agents.get("ann")``.

    An agent is made when a message for its key comes, and takes over what was saved of it.
    It is saved after each turn, before the turn is answered: what was acknowledged survives
    the process. So an idle agent can be dropped at any time, and is, once ``live`` others
    were used after it or ``idle_after_s`` have passed. One turn at a time for each key,
    saving included. Agents that are answering are never dropped, nor kept waiting: while more
    than ``live`` answer at once, that many are in memory. The whole state is written each time:
    for long conversations, give agents a memory that forgets.
    """

    def __init__(
        self,
        runtime: Runtime,
        factory: AgentFactory,
        store: StateStore,
        *,
        name: str,
        live: int = LIVE,
        idle_after_s: float = IDLE_AFTER_S,
    ) -> None:
        """See ``Runtime.agents``."""
        if live < 1 or idle_after_s < 0:
            raise ConfigError(f"live must be 1 or more, idle_after_s 0 or more: {live}, {idle_after_s}.")
        self.name = name
        self.runtime = runtime
        self.factory = factory
        self.store = store
        self.live = live
        self.idle_after_s = idle_after_s
        self._known: WeakValueDictionary[str, KeyedAgent] = WeakValueDictionary()
        # Those with an agent in memory, and when each was used last (loop time), least recent first.
        self._awake: OrderedDict[KeyedAgent, float] = OrderedDict()
        self.made = Made()
        self.unsaved = Unsaved()
        self._being_saved: set[KeyedAgent] = set()
        self._timer: asyncio.TimerHandle | None = None

    def get(self, key: str, *, record: str | None = None) -> KeyedAgent:
        """Return the agent of a key; nothing is made or read before its first message.

        With ``record``, the kind of a state in the store under this key, the agent belongs to
        that: without it nothing of the agent is saved, and the two are deleted together.

        Raises:
            ConfigError: the key is not 1 to 64 letters, digits, ``_``, ``.`` or ``-``.
        """
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ConfigError(f"A key is 1 to 64 letters, digits, '_', '.' or '-', got {key!r:.80}.")
        agent = self._known.get(key)
        if agent is None or (agent.mailbox.is_stopped and agent.mailbox.is_idle):
            agent = self._known[key] = KeyedAgent(key, self, record=record)
        return agent

    async def delete(self, key: str) -> bool:
        """Forget the agent of a key, in memory and in the store; whether there was something to forget.

        Waits for its turn in line: messages sent before are answered first, and one sent after
        is the first of a new agent. Another program that is in a turn with it cannot save that.

        Raises:
            ConfigError: it is no key.
            RuntimeClosedError: the runtime is not open.
            AgentScopeError: the store could not be written, and nothing is deleted.
        """
        return await self.get(key).delete()

    async def saved(self, key: str) -> dict[str, Any] | None:
        """Return the state after the last turn of this key, or None; needs no turn and makes no agent.

        Raises:
            AgentScopeError: the store could not be read.
        """
        saved = await self.store.load(self.name, key)
        return None if saved is None else saved.state

    @property
    def live_count(self) -> int:
        """How many agents are in memory now."""
        return len(self._awake)

    def __repr__(self) -> str:
        return f"<KeyedAgents {self.name!r}, {self.live_count} live>"

    async def aclose(self) -> None:
        """Save what is not saved yet and drop all that are idle; those in a turn see to themselves."""
        if self._timer is not None:
            self._timer.cancel()
        for agent in [each for each in self._awake if each.mailbox.is_idle]:
            if agent.is_saved:
                agent.drop()
            else:
                await self._put_to_sleep(agent)

    # -- what keyed agents call --

    def touch(self, agent: KeyedAgent) -> None:
        """Note that an agent is in memory and in use."""
        self._awake[agent] = asyncio.get_running_loop().time()
        self._awake.move_to_end(agent)

    def forget(self, agent: KeyedAgent) -> None:
        """Note that an agent is in memory no longer."""
        self._awake.pop(agent, None)
        self.unsaved.discard(agent)

    def trim_soon(self) -> None:
        """Drop what is too many once the turn that ends here is over."""
        asyncio.get_running_loop().call_soon(self._trim)

    # -- dropping --

    def _trim(self) -> None:
        if not self.runtime.is_open:
            return  # aclose() sees to them
        for agent in self._superfluous():
            if agent.is_saved:
                agent.drop()
            elif agent not in self._being_saved:
                self._being_saved.add(agent)
                self.runtime.start(self._put_to_sleep(agent), _nothing, name=f"saving {agent.name}")
        self._set_timer()

    def _superfluous(self) -> list[KeyedAgent]:
        """Return the idle agents that were idle for too long, or are too many, or are to be saved again."""
        now = asyncio.get_running_loop().time()
        surplus = len(self._awake) - self.live
        found = self.unsaved.due()
        for agent, used_at in self._awake.items():
            if used_at > now - self.idle_after_s and len(found) >= surplus:
                break
            if agent.mailbox.is_idle and agent not in self.unsaved:
                found.append(agent)
        return found

    async def _put_to_sleep(self, agent: KeyedAgent) -> None:
        try:
            await agent.sleep()
        except Exception as error:
            get_logger().error("state_not_saved", agents=self.name, agent=agent.name, error=brief(error))
        finally:
            self._being_saved.discard(agent)

    def _set_timer(self) -> None:
        """Look again when the next one may be due. A timer that rings too early costs little."""
        loop = asyncio.get_running_loop()
        oldest = next((used_at for each, used_at in self._awake.items() if each.mailbox.is_idle), None)
        idle_at = None if oldest is None else oldest + self.idle_after_s
        due = [each for each in (idle_at, self.unsaved.next_at()) if each is not None]
        if not due:
            return
        at = max(min(due), loop.time() + RETRY_S)
        if self._timer is not None and at < self._timer.when():
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._trim()


def _nothing() -> None:
    pass
