"""Which keyed agents a runtime has, and where it saves them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError
from .keyed import IDLE_AFTER_S, KEY, LIVE, AgentFactory, KeyedAgents
from .keyed_store import StateStore

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = ["Registries"]


class Registries:
    """All keyed agents of a runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._by_name: dict[tuple[Path | None, str], KeyedAgents] = {}
        self._stores: dict[Path | None, StateStore] = {}

    def find(
        self,
        factory: AgentFactory,
        *,
        name: str | None,
        live: int | None,
        idle_after_s: float | None,
        store: str | Path | None,
    ) -> KeyedAgents:
        """Return the agents of a factory, the same ones each time."""
        name = _name_of(factory) if name is None else name
        if not KEY.fullmatch(name):
            raise ConfigError(f"name= is 1 to 64 letters, digits, '_', '.' or '-', got {name!r:.80}.")
        path = None if store is None else Path(store).absolute()
        found = self._by_name.get((path, name))
        if found is None:
            found = self._by_name[path, name] = KeyedAgents(
                self._runtime,
                factory,
                self._store_at(path),
                name=name,
                live=LIVE if live is None else live,
                idle_after_s=IDLE_AFTER_S if idle_after_s is None else idle_after_s,
            )
        if found.factory != factory:
            raise ConfigError(
                f"Another factory keeps its agents as {name!r} already; give one of them name=."
            )
        if live not in (None, found.live) or idle_after_s not in (None, found.idle_after_s):
            raise ConfigError(f"The agents of {name!r} have other options already; give them once.")
        return found

    async def aclose(self) -> None:
        """Save what is not saved, and close the files."""
        for agents in self._by_name.values():
            await agents.aclose()
        for store in self._stores.values():
            await store.aclose()

    def _store_at(self, path: Path | None) -> StateStore:
        if path not in self._stores:
            run = self._runtime.run
            self._stores[path] = StateStore(lambda: path if path is not None else run.path / "agents.db")
        return self._stores[path]


def _name_of(factory: AgentFactory) -> str:
    name = getattr(factory, "__name__", None)
    if name is None:
        raise ConfigError(
            f"A factory without a name, {factory!r:.80}, needs name=: its agents are kept by it."
        )
    return str(name).strip("<>")  # of a lambda
