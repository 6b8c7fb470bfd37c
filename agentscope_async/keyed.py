"""One agent for each key: made on its first message, saved after each, dropped when idle."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from ._tasks import finish
from .agents.base import AgentBase
from .errors import AgentError, ConfigError, RuntimeClosedError
from .logging import brief, get_logger

if TYPE_CHECKING:
    from .keyed_store import StateStore
    from .message import Msg
    from .runtime import Runtime

__all__ = ["AgentFactory", "KeyedAgent", "KeyedAgents", "StoreFailingError", "UnsavedStateError"]

AgentFactory: TypeAlias = Callable[[str], Any]
"""Makes the agent of a key, new each time; a plain or async function."""

LIVE = 1000
IDLE_AFTER_S = 600.0
RETRY_S = 1.0
"""An agent that could not be saved is not tried again before that; each failure doubles it."""
MAX_RETRY_S = 30.0
MAX_UNSAVED = 100
"""While so many agents could not be saved no turns are taken, as they would fill the memory."""

KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class UnsavedStateError(AgentError):
    """The turn was done, but what the agent remembers of it could not be saved; the cause says why.

    Unless another program has taken the conversation further, the agent keeps it, and it is
    saved with the next turn, or in the background once the store is well again.
    """

    def __init__(self, agent: str, problem: str) -> None:
        super().__init__(
            f"Agent {agent!r} has answered, but its state is not saved: {problem} "
            f"Sending the message again would be a second turn.",
            agent=agent,
        )


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
        self.unsaved = _Unsaved()
        self._being_saved: set[KeyedAgent] = set()
        self._timer: asyncio.TimerHandle | None = None

    def get(self, key: str) -> KeyedAgent:
        """Return the agent of a key; nothing is made or read before its first message.

        Raises:
            ConfigError: the key is not 1 to 64 letters, digits, ``_``, ``.`` or ``-``.
        """
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ConfigError(f"A key is 1 to 64 letters, digits, '_', '.' or '-', got {key!r:.80}.")
        agent = self._known.get(key)
        if agent is None or (agent.mailbox.is_stopped and agent.mailbox.is_idle):
            agent = self._known[key] = KeyedAgent(key, self)
        return agent

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

    def is_in_memory(self, made: Any) -> bool:
        """Some key has this very agent."""
        return any(each.inner is made for each in self._awake)

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


class _Unsaved:
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


class KeyedAgent(AgentBase):
    """The agent of one key, whether it is in memory or not; its name is the key.

    Called like any other: awaited, streamed, told, interrupted; in hubs and pipelines.

    Attributes:
        inner: the agent the factory made, while it is in memory.
        is_saved: there is nothing in memory that is not in the store.
    """

    __slots__ = ("inner", "is_saved", "_agents", "_version", "__weakref__")

    # A failing turn is undone by the agent within; this one has no memory of its own.
    def __init__(self, key: str, agents: KeyedAgents) -> None:
        """Refer to the agent of ``key``; see ``KeyedAgents.get``."""
        super().__init__(key, use_memory=False)
        self._runtime = agents.runtime
        self._agents = agents
        self._version = 0
        self.inner: Any = None
        self.is_saved = True

    async def reply(self, x: Any = None, **kwargs: Any) -> Msg:
        """Have the agent of this key answer, and save it.

        Raises:
            UnsavedStateError: it has answered, and could not be saved.
            StoreFailingError: too many agents could not be saved; it was not asked.
            ConfigError: the factory gave no agent whose state can be saved.
            AgentScopeError: what was saved could not be read; the agent was not asked.
            RuntimeClosedError: the runtime was left.
        """
        reply: Msg = await self._acting(lambda inner: inner._watched(x, kwargs, self._listener()))
        return reply

    async def observe(self, x: Any) -> None:
        """Have the agent remember a message, or several, without replying; saved as after a reply."""
        await self._acting(lambda inner: inner.observe(x))

    async def state(self) -> dict[str, Any]:
        """Return what the agent remembers, after the turns before this."""

        async def read(x: None) -> dict[str, Any]:
            inner = await self._wake()
            try:
                found: dict[str, Any] = await inner.state()
            finally:
                self._agents.trim_soon()
            return found

        state: dict[str, Any] = await self._take_turn(read)
        return state

    async def load_state(self, state: dict[str, Any]) -> None:
        """Have the agent remember this instead, and save it."""

        async def write(x: None) -> None:
            await self._acting(lambda inner: inner.load_state(state))

        await self._take_turn(write)

    def to_dist(self, *args: Any, **options: Any) -> Any:
        """Refuse: it belongs to this runtime and its store.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"The agent of key {self.name!r} stays with its runtime. Let other processes use it: "
            f"rt.export(key, agent)."
        )

    async def sleep(self) -> None:
        """Save the agent if need be, as a turn of its own, and drop it."""

        async def save(x: None) -> None:
            if self.inner is not None and not self.is_saved:
                await self._save(self.inner)
            self.drop()

        await self._take_turn(save)

    def drop(self) -> None:
        """Let go of the agent in memory; only while no turn runs, and when it is saved."""
        self.inner = None
        self.is_saved = True
        self._agents.forget(self)

    # -- inside a turn --

    async def _acting(self, act: Callable[[Any], Awaitable[Any]]) -> Any:
        """Let the agent do something, save it, and only then say what came of it."""
        self._agents.unsaved.check_room(self)
        inner = await self._wake()
        self.is_saved = False  # whatever a turn leaves behind that fails or is cancelled
        try:
            result = await act(inner)
            await self._save(inner)
        finally:
            if self.inner is not None:
                self._agents.touch(self)
            self._agents.trim_soon()
        return result

    async def _wake(self) -> Any:
        agents = self._agents
        if not agents.runtime.is_open:
            raise RuntimeClosedError(f"The runtime of agent {self.name!r} is not open.")
        if self.inner is None:
            saved = await agents.store.load(agents.name, self.name)
            with agents.runtime.use():
                made = _checked(await finish(agents.factory(self.name)), agents)
                if saved is not None:
                    await made.load_state(saved.state)
            # From here on it is in memory, as it was saved.
            self.inner, self._version = made, saved.version if saved is not None else 0
        agents.touch(self)
        return self.inner

    async def _save(self, inner: Any) -> None:
        try:
            is_last = await _to_its_end(self._write(inner))
        except Exception as error:
            self._agents.unsaved.add(self)
            raise UnsavedStateError(self.name, brief(error)) from error
        if not is_last:
            # Two programs share the store. What the other one wrote stays; the next turn reads it.
            self.drop()
            raise UnsavedStateError(self.name, "another program has gone on with it meanwhile.")

    async def _write(self, inner: Any) -> bool:
        agents = self._agents
        state = await inner.state()
        is_last = await agents.store.save(agents.name, self.name, state, version=self._version)
        if is_last:
            self._version += 1
            self.is_saved = True
            agents.unsaved.discard(self)
        if not agents.runtime.is_open:
            await agents.store.aclose()  # it had opened again for us
        return is_last


def _checked(made: Any, agents: KeyedAgents) -> Any:
    if not hasattr(made, "state") or not hasattr(made, "load_state"):
        raise ConfigError(
            f"The factory of {agents.name!r} is to return an agent, with state() and load_state(), "
            f"not a value of type {type(made).__name__}."
        )
    if agents.is_in_memory(made):
        raise ConfigError(
            f"The factory of {agents.name!r} gave the same agent for two keys; each needs one of its own."
        )
    return made


async def _to_its_end(work: Coroutine[Any, Any, bool]) -> bool:
    """Run ``work``, which is short, also when we are cancelled meanwhile, and only then let that go on.

    Left half-way we would not know which version was saved.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # the agent is not saved then, and knows it
        raise cancelled
    return task.result()


def _nothing() -> None:
    pass
