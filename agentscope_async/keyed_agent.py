"""The agent of one key: made or read when a message comes, saved before that is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ._tasks import finish, see_through
from .agents.base import AgentBase
from .errors import AgentError, ConfigError, RuntimeClosedError
from .logging import brief

if TYPE_CHECKING:
    from .keyed import KeyedAgents
    from .message import Msg

__all__ = ["KeyedAgent", "UnsavedStateError"]


class UnsavedStateError(AgentError):
    """The turn was done, but what the agent remembers of it could not be saved; the cause says why.

    Unless the conversation was taken further or deleted elsewhere, the agent keeps it, and it is
    saved with the next turn, or in the background once the store is well again. An agent whose state
    raises, or is not made of JSON values, is again what it was before the turn.
    """

    def __init__(self, agent: str, problem: str) -> None:
        super().__init__(
            f"Agent {agent!r} has answered, but its state is not saved: {problem} "
            f"Sending the message again would be a second turn.",
            agent=agent,
        )


class KeyedAgent(AgentBase):
    """The agent of one key, whether it is in memory or not; its name is the key.

    Called like any other: awaited, streamed, told, interrupted; in hubs and pipelines.

    Attributes:
        inner: the agent the factory made, while it is in memory.
        is_saved: there is nothing in memory that is not in the store.
    """

    __slots__ = ("inner", "is_saved", "_agents", "_record", "_version")

    # A failing turn is undone by the agent within; this one has no memory of its own.
    def __init__(self, key: str, agents: KeyedAgents, *, record: str | None = None) -> None:
        """Refer to the agent of ``key``; see ``KeyedAgents.get``."""
        super().__init__(key, use_memory=False)
        self._runtime = agents.runtime
        self._agents = agents
        self._record = record
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

    async def delete(self) -> bool:
        """Forget what it remembers, in memory and in the store; see ``KeyedAgents.delete``."""

        async def erase(x: None) -> bool:
            self._check_open()
            has_unsaved = not self.is_saved
            return await see_through(self._erase()) or has_unsaved

        was_there: bool = await self._take_turn(erase)
        return was_there

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
        self._check_open()
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

    def _check_open(self) -> None:
        if not self._agents.runtime.is_open:
            raise RuntimeClosedError(f"The runtime of agent {self.name!r} is not open.")

    async def _save(self, inner: Any) -> None:
        try:
            is_last = await see_through(self._write(inner))
        except _StateFault as fault:
            # It would fail as often as it was tried. As it was saved the agent is of use again.
            self.drop()
            problem = f"{brief(fault.error)}; it remembers what it did before that turn."
            raise UnsavedStateError(self.name, problem) from fault.error
        except Exception as error:
            self._agents.unsaved.add(self)
            raise UnsavedStateError(self.name, brief(error)) from error
        if not is_last:
            # Two programs share the store. What the other one did stays; the next turn reads it.
            self.drop()
            raise UnsavedStateError(self.name, "another program has gone on with it, or it was deleted.")

    async def _write(self, inner: Any) -> bool:
        agents = self._agents
        state = await _state_of(inner)
        try:
            version = await agents.store.save(
                agents.name, self.name, state, version=self._version, record=self._record
            )
        except TypeError as error:  # it is not made of JSON values
            raise _StateFault(error) from error
        if version:
            self._version = version
            self.is_saved = True
            agents.unsaved.discard(self)
        await self._close_store_if_left()
        return version > 0

    async def _erase(self) -> bool:
        was_there = await self._agents.store.delete(self._agents.name, self.name, record=self._record)
        self.drop()
        await self._close_store_if_left()
        return was_there

    async def _close_store_if_left(self) -> None:
        if not self._agents.runtime.is_open:
            await self._agents.store.aclose()  # it had opened again for us


def _checked(made: Any, agents: KeyedAgents) -> Any:
    if not hasattr(made, "state") or not hasattr(made, "load_state"):
        raise ConfigError(
            f"The factory of {agents.name!r} is to return an agent, with state() and load_state(), "
            f"not a value of type {type(made).__name__}."
        )
    if not agents.made.is_new(made):
        raise ConfigError(
            f"The factory of {agents.name!r} gave the same agent twice, which would mix up what is said to "
            f"two keys; it is to make a new one each time."
        )
    return made


class _StateFault(Exception):
    """The agent has no state that can be saved, whatever the store is like."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


async def _state_of(inner: Any) -> Any:
    try:
        return await inner.state()
    except Exception as error:
        raise _StateFault(error) from error
