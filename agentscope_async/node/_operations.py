"""What other nodes ask of this one itself, and tell it: not of one of its agents."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import ForbiddenError, MessageError
from ..message import Msg
from ._addresses import Address
from ._grammar import is_name, is_path, is_secret, is_target
from ._replies import FETCH, RemoteReply
from ._wire import answer_of, read_msg
from .events import CannotSend
from .failures import error_of
from .frames import MAX_HOPS, Failure, FrameError
from .report import AgentReport, NodeReport

if TYPE_CHECKING:
    from ..message.msg import Texts
    from .bridge import Bridge
    from .node import Node

__all__ = ["hear", "operate"]


async def operate(node: Node, op: str, body: Any, bridge: Bridge) -> Any:
    """Do what another node asks of this one itself."""
    if op == FETCH:
        return await _give(node, _id_in(body), bridge, is_here=body.get("here") is True)
    if op == "interrupt":
        return await _interrupt(node, body, bridge)
    if op == "ps":
        return _report(node, bridge.caller).to_dict()
    raise ForbiddenError(f"There is no operation {op!r} on a node.")


async def _give(node: Node, id: str, bridge: Bridge, *, is_here: bool) -> dict[str, Any] | Texts:
    """Return a result, or where it is kept if that is elsewhere: it need not go through this node."""
    reply = await node.replies.find(id)
    if isinstance(reply, RemoteReply) and reply.placed is not None and not (is_here or reply.done()):
        await asyncio.wait([reply.placed])
        if reply.home is not None and reply.home != node.name:
            with suppress(CannotSend, FrameError):
                node.introduce(reply, bridge)
            return {"__type": "Reply", "name": reply.name, "node": reply.home, "id": id}
    return answer_of(await reply)


async def _interrupt(node: Node, body: Any, bridge: Bridge) -> bool:
    """End the running turn of an agent: asked of the node, so that it need not queue for the agent."""
    key, x = (body.get("key"), body.get("x")) if type(body) is dict else (None, None)
    if not is_target(key):
        raise MessageError("body", "is an object with the key of an agent")
    reason = None if x is None else Msg.from_dict(x).text
    return await node.exports.find(key, bridge.caller).agent.interrupt(reason)


def _report(node: Node, caller: str) -> NodeReport:
    """Return who is here that ``caller`` may use, and, if that is everybody, who waits for whom."""
    agents = [AgentReport.of(exported) for exported in node.exports.usable_by(caller)]
    is_all = node.exports.grant(caller).agents is None
    return NodeReport(node.name, agents, node.runtime.graph() if is_all else [])


def hear(node: Node, op: str, body: Any, bridge: Bridge) -> None:
    """Take what another node tells this one itself."""
    if op == "cancel":
        node.replies.cancel(_id_in(body))
    elif op == "returned":
        _take_back(node, body, bridge)
    elif op == "introduce":
        _meet(node, body, bridge)
    elif op == "probe":
        _probe(node, body, bridge)
    else:
        raise ForbiddenError(f"There is no operation {op!r} on a node.")


def _take_back(node: Node, body: Any, bridge: Bridge) -> None:
    """Bury a letter of ours that could not be placed over there."""
    if type(body) is not dict or type(body.get("to")) is not str or type(body.get("body")) is not dict:
        raise MessageError("body", "is an object with the letter that comes back")
    if not bridge.take_back(body["to"]):
        raise ForbiddenError(f"No letter was sent to {body['to'][:64]!r} that could come back.")
    failure = Failure(
        str(body.get("code"))[:64], str(body.get("text"))[:1000], str(body.get("type", ""))[:200]
    )
    error = error_of(failure, agent=body["to"], node=bridge.peer)
    error.add_note(f"Returned by node {bridge.peer}.")
    x = body["body"].get("x")
    msg = read_msg(x, bridge) if isinstance(x, dict) and x.get("__type") in ("Msg", "Tht") else x
    node.runtime.bury(body["to"][:200], msg, "not delivered", error)


def _probe(node: Node, body: Any, bridge: Bridge) -> None:
    """Follow a circle of waits of somebody who has no room to ask an agent here."""
    key, path = (body.get("to"), body.get("path")) if type(body) is dict else (None, None)
    if not is_target(key) or not path or not is_path(path, MAX_HOPS):
        raise MessageError("body", "is an object with the key of an agent and a path of names")
    turn = node.exports.find(key, bridge.caller).agent.mailbox.turn
    if turn is not None:
        node.waits.probe_on(turn, tuple(path), is_holder=True)


def _meet(node: Node, body: Any, bridge: Bridge) -> None:
    if not node.exports.grant(bridge.caller).is_owner:
        raise ForbiddenError(f"Node {bridge.peer!r} may not say where others are.")
    name, url = (body.get("node"), body.get("url")) if type(body) is dict else (None, None)
    if not is_name(name) or type(url) is not str or not url.startswith(("ws://", "wss://")):
        raise MessageError("body", "is an object with the name and the URL of a node")
    node.peers[name] = Address(url, node.family_token)


def _id_in(body: Any) -> str:
    id = body.get("id") if type(body) is dict else None
    if not is_secret(id):
        raise MessageError("id", "is 32 hex digits")
    return str(id)
