"""How an agent is put on another node: into a child process, or on a node that runs already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError
from .launched import Child, Launched, Spawned
from .remote import RemoteAgent

if TYPE_CHECKING:
    from ..agents.base import AgentBase
    from ._line import Locator
    from .node import Node

__all__ = ["Distribution", "distribute"]


class Distribution(NamedTuple):
    """How an agent is to be put on another node; see ``AgentBase.to_dist``."""

    host: str | None
    port: int
    is_launched: bool
    is_local: bool
    is_lazy: bool
    kept_replies: int
    kept_reply_s: float
    token: str | None
    beside: Any


def distribute(node: Node, agent: AgentBase, options: Distribution) -> RemoteAgent:
    """Return the same agent on another node; see ``AgentBase.to_dist``.

    Raises:
        ConfigError: the options do not go together, or another process cannot make this agent.
    """
    locator: Locator
    if options.is_launched:
        locator = launched = Launched(agent, _child_for(node, options), node)
    else:
        launched = None
        url = f"ws://{options.host or '127.0.0.1'}:{options.port}"
        locator = Spawned(agent, node, node.address(url, options.token, None))
    remote = RemoteAgent(agent.name, node, locator)
    if launched is not None:
        launched.end_with(remote)
    if not options.is_lazy:
        remote.connect_soon()
    return remote


def _child_for(node: Node, options: Distribution) -> Child:
    if options.beside is None:
        host = options.host or ("127.0.0.1" if options.is_local else "0.0.0.0")
        return Child(
            node, host="127.0.0.1" if host == "localhost" else host, port=options.port,
            kept_replies=options.kept_replies, kept_reply_s=options.kept_reply_s,
        )  # fmt: skip
    located = options.beside.locator if isinstance(options.beside, RemoteAgent) else None
    if not isinstance(located, Launched):
        raise ConfigError("beside= is an agent that to_dist() put into a child process.")
    return located.child
