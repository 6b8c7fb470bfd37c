"""What a node shows to others: agents under their keys, and the classes they may create agents of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .._settings import misfit, parameters
from ..agents.base import AgentBase
from ..errors import AgentNotFound, ConfigError, ForbiddenError
from ._grammar import is_name, is_target

if TYPE_CHECKING:
    from .frames import Spawn

__all__ = ["Allowed", "Exported", "Exports", "Grant"]

Allowed: TypeAlias = "Iterable[type[AgentBase] | str] | Mapping[str, Grant]"
"""Who may create what: classes for every node, or a grant for each node by name."""

MAX_SPAWNED = 1000
STRANGER = "?"
"""Stands for a node that has proven nothing; no node has such a name."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What another node may do here.

    Attributes:
        spawn: the classes it may create agents of; one of ``agentscope_async.agents`` may be a name.
        agents: the keys of the agents it may use; None: of all.
        max_spawned: so many agents it may have created at a time.
        is_owner: it started this node: the configuration of an agent it creates may hold that of a
            model, with an address to call (else a model is a name known here); it may stop every
            agent, and say where other nodes are.
    """

    spawn: Collection[type[AgentBase] | str] = ()
    agents: Collection[str] | None = None
    max_spawned: int = MAX_SPAWNED
    is_owner: bool = False


class Exported:
    """An agent that others may use, and who created it: ``""`` is this node itself."""

    __slots__ = ("agent", "key", "creator")

    def __init__(self, agent: AgentBase, key: str, creator: str) -> None:
        self.agent = agent
        self.key = key
        self.creator = creator


class Exports:
    """The agents of a node that others may use, by key, and what each other node may do."""

    def __init__(self, agents: Mapping[str, Any] | Iterable[AgentBase] | None, allow: Allowed | None) -> None:
        """Export ``agents``, by their names where no keys are given.

        Raises:
            ConfigError: a key or a class cannot be used.
        """
        self._exported: dict[str, Exported] = {}
        self._on_removed: dict[str, dict[object, Callable[[], None]]] = {}
        self._grants: dict[str, Grant] = {}
        self._common = Grant()
        self._strange = Grant(agents=())
        if isinstance(allow, Mapping):
            self._grants = dict(allow)
            self._common = Grant(agents=())
        elif allow is not None:
            self._common = Grant(spawn=tuple(allow))
        self._classes = {
            id(grant): _classes_of(grant) for grant in (self._common, self._strange, *self._grants.values())
        }
        named = (
            agents.items() if isinstance(agents, Mapping) else [(agent.name, agent) for agent in agents or ()]
        )
        for key, agent in named:
            self.add(key, agent)

    @property
    def allows_spawning(self) -> bool:
        """Somebody may create agents here."""
        return any(self._classes.values())

    def __iter__(self) -> Iterator[Exported]:
        return iter(list(self._exported.values()))

    def add(self, key: str, agent: Any, creator: str = "") -> AgentBase:
        """Export an agent, or whatever can be awaited with a message, under ``key``.

        Raises:
            ConfigError: the key is taken, or none.
        """
        self._check_key(key)
        hosted = agent if isinstance(agent, AgentBase) else _Wrapped(key, agent)
        self._exported[key] = Exported(hosted, key, creator)
        return hosted

    def _check_key(self, key: str) -> None:
        if not is_target(key) or key.startswith("_"):
            raise ConfigError(
                f"An agent is exported under 1 to 64 letters, digits, '_', '.' or '-', the first not '_'; "
                f"got {key!r}. Give one: exports={{'key': agent}}."
            )
        if key in self._exported:
            raise ConfigError(f"An agent is exported as {key!r} already.")

    def remove(self, key: str) -> None:
        """Export the agent of this key no longer; who watches it is told.

        Raises:
            AgentNotFound: there is none.
        """
        if self._exported.pop(key, None) is None:
            raise AgentNotFound(key)
        for tell in list(self._on_removed.pop(key, {}).values()):
            tell()

    def remove_if(self, exported: Exported) -> None:
        """Export this agent no longer, unless another one has its key by now."""
        if self._exported.get(exported.key) is exported:
            self.remove(exported.key)

    def when_removed(self, key: str, tell: Callable[[], None]) -> Callable[[], None]:
        """Call ``tell`` once the agent of this key is exported no longer; returns what takes that back."""
        waiting = self._on_removed.setdefault(key, {})  # not a list: another node may set thousands
        mark = object()
        waiting[mark] = tell

        def forget() -> None:
            waiting.pop(mark, None)

        return forget

    def usable_by(self, node: str) -> list[Exported]:
        """Return the agents that ``node`` may use."""
        keys = self.grant(node).agents
        return [each for each in self if keys is None or each.key in keys or each.creator == node]

    def find(self, key: str, node: str) -> Exported:
        """Return the agent that ``node`` means.

        Raises:
            AgentNotFound: there is none of this key.
            ForbiddenError: not for that node.
        """
        exported = self._exported.get(key)
        grant = self.grant(node)
        if grant.agents is not None and key not in grant.agents:
            if exported is None or exported.creator != node:
                raise ForbiddenError(f"Node {node!r} may not use an agent {key!r} here.")
        if exported is None:
            raise AgentNotFound(key)
        return exported

    def grant(self, node: str) -> Grant:
        """Return what ``node`` may do."""
        return self._strange if node == STRANGER else self._grants.get(node, self._common)

    def spawn(self, request: Spawn, node: str) -> Exported:
        """Create the agent that ``node`` asks for.

        Raises:
            ForbiddenError: it may not, or has created too many.
            ConfigError: the class cannot be made of these arguments.
        """
        grant = self.grant(node)
        kind = self._classes[id(grant)].get(request.kind)
        if kind is None:
            raise ForbiddenError(
                f"Node {node!r} may not create a {request.kind!r} here. "
                f"Allow it where this node is started: allow=[{request.kind}]."
            )
        if sum(each.creator == node for each in self._exported.values()) >= grant.max_spawned:
            raise ForbiddenError(f"Node {node!r} has created {grant.max_spawned:,} agents; stop some first.")
        self._check_key(request.name)
        config = _checked_config(kind, request.cfg, brings_models=grant.is_owner)
        try:
            agent = kind(**config)
        except TypeError as error:
            raise ConfigError(f"A {request.kind} cannot be made of these arguments: {error}.") from error
        except (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError) as signal:
            raise ConfigError(f"Making a {request.kind} raised {type(signal).__name__}.") from signal
        self.add(request.name, agent, node)
        return self._exported[request.name]


class _Wrapped(AgentBase):
    """A pipeline, a function or a remote agent, exported: one message at a time, as for every agent."""

    def __init__(self, name: str, like: Any) -> None:
        super().__init__(name, use_memory=False)
        self._like = like

    async def reply(self, x: Any = None) -> Any:
        return await self._like(x)


def _classes_of(grant: Grant) -> dict[str, type[AgentBase]]:
    found = [_class_of(each) for each in grant.spawn]
    return {kind.__name__: kind for kind in found}


def _class_of(given: type[AgentBase] | str) -> type[AgentBase]:
    from .. import agents

    kind = getattr(agents, given, None) if isinstance(given, str) else given
    if not (isinstance(kind, type) and issubclass(kind, AgentBase)):
        raise ConfigError(
            f"allow= has {given!r}, which is no class of agents in agentscope_async.agents. "
            f"For one of your own give the class itself."
        )
    return kind


def _holds_model(value: Any) -> bool:
    """Whether a model's configuration is in it, under any name: that may hold an address to call."""
    if isinstance(value, dict):
        return "model_type" in value or any(map(_holds_model, value.values()))
    return isinstance(value, list) and any(map(_holds_model, value))


def _checked_config(
    kind: type[AgentBase], config: Mapping[str, Any], *, brings_models: bool
) -> dict[str, Any]:
    """Return the arguments for ``kind``, checked against what its constructor says of them.

    Raises:
        ConfigError: one is unknown, of another type, or not for others to set.
    """
    arguments = {key: value for key, value in config.items() if key != "class"}
    if not brings_models and _holds_model(arguments):
        raise ConfigError("The model of an agent created from another node is a name that is known here.")
    if not brings_models and (
        _names_file(arguments.get("model")) or _names_file(arguments.get("model_config_name"))
    ):
        raise ConfigError("The model of an agent created from another node is no file of this machine.")
    known = parameters(kind)
    if problem := misfit(kind.__name__, arguments, known):
        raise ConfigError(problem)
    for key, value in arguments.items():
        _check_type(kind, key, value, known[key].annotation)
    return arguments


def _names_file(model: Any) -> bool:
    provider, _, name = model.partition(":") if isinstance(model, str) else ("", "", "")
    return provider == "local" and not is_name(name)


_SIMPLE: dict[Any, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "str | None": (str, type(None)),
    "int | None": (int, type(None)), "float | None": (int, float, type(None)),
    str: (str,), int: (int,), float: (int, float), bool: (bool,),
}  # fmt: skip


def _check_type(kind: type, key: str, value: Any, annotation: Any) -> None:
    """Refuse a value that is plainly of another type; what is not plain is the constructor's to check."""
    fitting = _SIMPLE.get(annotation)
    if fitting is None:
        return
    is_fitting = isinstance(value, fitting) and (bool in fitting or not isinstance(value, bool))
    if not is_fitting:
        raise ConfigError(f"{key} of a {kind.__name__} is {annotation!s}, not {type(value).__name__}.")
