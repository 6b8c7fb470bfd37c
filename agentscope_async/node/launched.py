"""Agents put elsewhere by ``to_dist``: into a child process of their own, or on a node that runs already."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from .._settings import json_copy
from ..errors import AgentStoppedError, ConfigError, NodeDown, RuntimeClosedError
from ..logging import brief, get_logger
from ..models.config import process_models
from ..supervision import Restarts
from .connection import new_token
from .launcher import STOP_S, ChildProcess, importable_name

if TYPE_CHECKING:
    from ..agents.base import AgentBase
    from ._addresses import Address
    from .bridge import Bridge
    from .node import Node

__all__ = ["Child", "Launched", "Spawned"]


class Child:
    """A child process with agents in it: started when first needed, and again when it ends unasked.

    Failing is followed by a pause, and failing too often by none: see ``RestartPolicy``.

    Attributes:
        name: of its node.
        process: the one that runs now, if any.
    """

    def __init__(self, node: Node, *, host: str, port: int, kept_replies: int, kept_reply_s: float) -> None:
        self.name = f"{node.name[:40]}-child-{token_hex(4)}"
        self.process: ChildProcess | None = None
        self._node = node
        self._token = new_token()
        self._own_settings = {
            "node": self.name,
            "token": self._token,
            "host": host,
            "port": port,
            "replies": {"kept_replies": kept_replies, "kept_reply_s": kept_reply_s},
        }
        self._classes: list[type] = []
        self._modules: list[str] = []
        self._residents: set[object] = set()
        self._restarts = Restarts()
        self._pause_s: float | None = 0.0  # before the next start; None: it failed too often
        self._failure: Exception | None = None
        self._starting: asyncio.Task[ChildProcess] | None = None
        self._is_closed = False
        node.children.add(self)

    def admit(self, agent: AgentBase, resident: object) -> None:
        """Make room for an agent; the process lives as long as there is one.

        Raises:
            ConfigError: its class cannot be imported elsewhere, or not any more by this process.
        """
        importable_name(type(agent))
        module = None if agent.model is None else type(agent.model).__module__
        knows_all = type(agent) in self._classes and (_is_ours(module) or module in self._modules)
        if not knows_all:
            if self.process is not None or self._starting is not None:
                raise ConfigError(
                    f"The child process runs already and does not know {type(agent).__name__}: "
                    f"call to_dist(beside=...) before the first message is sent to it."
                )
            if not _is_ours(module):
                importable_name(type(agent.model))
                self._modules.append(str(module))
            self._classes.append(type(agent))
        self._residents.add(resident)

    def is_at(self, token: str | None) -> bool:
        """Whether this is the secret that lets us in there."""
        return token == self._token

    @property
    def address(self) -> Address:
        """Where the process that runs listens."""
        assert self.process is not None
        return self._node.address(self.process.url, self._token, None)

    async def running(self) -> ChildProcess:
        """Return the process, started if need be.

        Raises:
            NodeDown: it failed too often. ConfigError: it could not be started.
            RuntimeClosedError: it is ended for good.
        """
        if self._is_closed:
            raise RuntimeClosedError("The child process of this agent was ended with its last agent.")
        if self.process is not None:
            return self.process
        if self._pause_s is None:
            raise NodeDown(self.name, reason="restart_limit", outcome="not_delivered") from self._failure
        starting = self._begin()
        await asyncio.wait([starting])
        if starting.cancelled():
            raise RuntimeClosedError("The child process of this agent is being ended.")
        return starting.result()

    def leave(self, resident: object) -> None:
        """Take note that an agent is not needed any more; the process ends with its last one."""
        self._residents.discard(resident)
        if not self._residents and not self._is_closed and self._node.runtime.is_open:
            self._is_closed = True
            self._node.start(self.aclose(self._node.runtime.grace))

    async def aclose(self, grace_s: float = STOP_S) -> None:
        """End the process, for good; at once when this is cancelled."""
        self._is_closed = True
        if (starting := self._starting) is not None:
            if not starting.cancelling():
                starting.cancel()
            await asyncio.wait([starting])
        if self.process is not None:
            await self.process.aclose(grace_s)
            self.process = None
        self._node.children.discard(self)
        self._node.started.pop(self.name, None)

    def _begin(self) -> asyncio.Task[ChildProcess]:
        if self._starting is None:
            self._starting = self._node.start_task(self._start(), name=f"start {self.name}")
            self._starting.add_done_callback(self._note_started)
        return self._starting

    def _note_started(self, starting: asyncio.Task[ChildProcess]) -> None:
        self._starting = None

    async def _start(self) -> ChildProcess:
        await asyncio.sleep(self._pause_s or 0.0)
        bootstrap = {**self._node.bootstrap(), **self._own_settings}
        self._restarts.note_start()
        try:
            process = await ChildProcess.start(bootstrap, self._classes, self._modules)
        except Exception as error:
            self._note_failure(error)
            raise
        self.process = process
        self._node.started[self.name] = process.url
        self._node.start(self._watch(process))
        return process

    async def _watch(self, process: ChildProcess) -> None:
        """Start it again when it ends unasked."""
        code = await process.wait()
        if self._is_closed:
            return
        self.process = None
        self._node.lose(self.name, "exited")
        get_logger().error("child_ended", node=self.name, pid=process.pid, exit_code=code)
        self._note_failure(RuntimeError(f"The child process ended with exit code {code}."))
        if self._pause_s is not None:
            self._begin()

    def _note_failure(self, error: Exception) -> None:
        self._failure = error
        self._pause_s = self._restarts.next_delay()
        if self._pause_s is None:
            get_logger().error("child_given_up", node=self.name, error=brief(error))


class _Maker:
    """Finds an agent elsewhere, where it is made first: once, however many look for it at a time.

    An attempt that failed or was cut off leaves nothing that the next one could stumble over: each
    makes the agent under another key.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._making: asyncio.Task[tuple[Bridge, str]] | None = None
        self.key = ""

    def find_now(self) -> None:
        """Return None: making it is never done at once."""

    async def find(self) -> tuple[Bridge, str]:
        """Return the bridge to the agent's node and its key there, making it if it is not there yet."""
        if self._making is None:
            self._making = self._node.start_task(self._make(), name="make an agent")
            self._making.add_done_callback(self._end_making)
        making = self._making
        await asyncio.wait([making])
        if making.cancelled():
            raise RuntimeClosedError("The runtime is being left.")
        return making.result()

    def _end_making(self, making: asyncio.Task[tuple[Bridge, str]]) -> None:
        self._making = None

    async def _make(self) -> tuple[Bridge, str]:
        raise NotImplementedError

    async def _spawn(self, bridge: Bridge, kind: str, config: dict[str, Any], state: dict[str, Any]) -> None:
        key = f"agent-{token_hex(8)}"
        await self._node.spawn_at(bridge, kind, config, key, state=state)
        self.key = key


class Launched(_Maker):
    """Finds an agent in a child process, where it is made from its settings and state."""

    def __init__(self, agent: AgentBase, child: Child, node: Node) -> None:
        super().__init__(node)
        self._kind = type(agent).__name__
        self._config = agent.export_config()
        _check_model(self._config, node)
        self._name = agent.name
        self._agent: AgentBase | None = agent
        self._state: dict[str, Any] = {}
        self._made_in: ChildProcess | None = None
        self._is_stopped = False
        self.child = child
        self._resident = object()
        child.admit(agent, self._resident)

    @property
    def url(self) -> str | None:
        """Where the agent is; None while its process does not run."""
        return f"{self.child.process.url}/{self.key}" if self.is_made and self.child.process else None

    @property
    def is_made(self) -> bool:
        """It was made, in a process that runs."""
        return self._made_in is not None and self._made_in is self.child.process

    async def _make(self) -> tuple[Bridge, str]:
        if self._is_stopped:
            raise AgentStoppedError(self._name)
        if self._agent is not None:
            self._state, self._agent = await self._agent.state(), None
        process = await self.child.running()
        bridge = await self._node.bridge_at(self.child.address)
        if self._made_in is not process:
            await self._spawn(bridge, self._kind, self._config, self._state)
            self._made_in = process
        return bridge, self.key

    def end_with(self, remote: object) -> None:
        """End the agent, and its process if it was the last one there, once nobody has ``remote``."""
        loop = asyncio.get_running_loop()
        weakref.finalize(remote, _leave_soon, loop, self.child, self._resident).atexit = False

    def leave(self) -> None:
        """Take note that the agent is stopped."""
        self._is_stopped = True
        self.child.leave(self._resident)


def _leave_soon(loop: asyncio.AbstractEventLoop, child: Child, resident: object) -> None:
    if not loop.is_closed():  # else the child has ended with its runtime
        loop.call_soon_threadsafe(partial(child.leave, resident))


class Spawned(_Maker):
    """Finds an agent on a node that runs already, where it is made when first needed."""

    def __init__(self, agent: AgentBase, node: Node, address: Address) -> None:
        super().__init__(node)
        self._kind = type(agent).__name__
        self._config = agent.export_config()
        self._agent: AgentBase | None = agent
        self._address = address

    @property
    def url(self) -> str:
        """The URL of the agent; that of its node until it is made."""
        return f"{self._address.url}/{self.key}"

    async def _make(self) -> tuple[Bridge, str]:
        bridge = await self._node.bridge_at(self._address)
        if self._agent is not None:
            state = await self._agent.state()
            await self._spawn(bridge, self._kind, self._config, state)
            self._agent = None
        return bridge, self.key


def _is_ours(module: str | None) -> bool:
    return module is None or module.partition(".")[0] == __name__.partition(".")[0]


def _check_model(config: dict[str, Any], node: Node) -> None:
    """Refuse an agent whose model has a configuration that another process cannot be told.

    Raises:
        ConfigError: it holds a function, a client, or the like.
    """
    name = config.get("model", config.get("model_config_name"))
    for each in [*node.runtime.models.configs(), *process_models.configs()]:
        if each["config_name"] == name:
            remedy = f"Make that model in the __init__ of the agent class {config['class']} instead."
            json_copy(each, f"The configuration {name!r}, which a child process needs,", remedy)
            return
