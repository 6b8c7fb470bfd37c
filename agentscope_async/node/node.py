"""A node: this process, as other nodes see it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from .. import _context
from .._tasks import run_all
from .._turn import current_turn, open_turn
from ..errors import ConfigError, MessageError, NodeDown, ReplyExpiredError, RuntimeClosedError
from ..logging import get_logger
from ..message import Msg
from ._addresses import Address, host_and_port, normal_url, split_agent_url
from ._door import certified_name
from ._grammar import is_name, is_target
from ._line import PASSING, Line
from ._replies import FETCH, RemoteReply, Replies
from ._waits import Asked, Waits, in_time
from ._wire import read_msg
from .bridge import Bridge
from .connection import new_token
from .events import CannotSend
from .exports import Allowed, Exports
from .frames import NODE, FrameError
from .link import Link
from .remote import ByUrl, RemoteAgent
from .report import NodeReport
from .settings import Settings, new_incarnation
from .switchboard import Switchboard

if TYPE_CHECKING:
    import ssl as tls

    from ..runtime import Runtime
    from ..watching import Watch
    from ._listener import Listener
    from ._memory import MemoryListener
    from .launched import Child

__all__ = ["Node"]

KILL_WAIT_S = 5.0
MAX_KEPT_REPLIES = 8192
KEPT_REPLY_S = 1800.0


T = TypeVar("T")


class Node:
    """This process, as other nodes see it: its name, what it exports, its links to others.

    Attributes:
        name: told to other nodes; random unless given.
        url: where it listens; None if it does not.
        exports: its agents that others may use.
        peers: where the nodes are that we know by name.
        replies: results of submissions, kept to be fetched.
        waits: who here waits for whom elsewhere.
        context: what served work runs in: the runtime's own, outside all turns.
        started: the URLs of nodes that this one started, by name.
        family_token: what lets these in to each other.
        ending: served work that was cancelled and has not ended yet.
        children: processes that this one starts and ends.
    """

    url: str | None = None

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str | None = None,
        listen: str | None = None,
        token: str | Mapping[str, str] | None = None,
        exports: Mapping[str, Any] | Iterable[Any] | None = None,
        allow: Allowed | None = None,
        peers: Mapping[str, str | Address] | None = None,
        ssl: tls.SSLContext | None = None,
        kept_replies: int = MAX_KEPT_REPLIES,
        kept_reply_s: float = KEPT_REPLY_S,
    ) -> None:
        """Prepare a node; see Runtime."""
        if name is not None and not is_name(name):
            raise ConfigError(f"A node's name is 1 to 64 letters, digits, '_', '.' or '-', got {name!r}.")
        self.runtime = runtime
        self.name = name or f"node-{token_hex(6)}"
        self.exports = Exports(exports, allow)
        self.waits = Waits(self.name)
        self.replies = Replies(kept_replies, kept_reply_s)
        self._listen = listen
        self._token = token
        self._ssl = ssl
        self.peers = {
            peer: each if isinstance(each, Address) else Address(each) for peer, each in (peers or {}).items()
        }
        self._settings = Settings(self.name, new_incarnation(), window_s=runtime.resume_s)
        self._bridges: set[Bridge] = set()
        self._dialed: dict[tuple[str, str | None, int], asyncio.Task[Bridge]] = {}
        self._introduced: set[tuple[Bridge, str]] = set()
        self.started: dict[str, str] = {}
        self.ending: set[asyncio.Task[None]] = set()
        self.children: set[Child] = set()
        self.family_token = ""
        self._listener: Listener | MemoryListener | None = None
        self._switchboard: Switchboard | None = None
        is_proven = ssl is not None or isinstance(token, Mapping)
        if listen is not None and isinstance(allow, Mapping) and not is_proven:
            raise ConfigError(
                "allow= says what each node may do, by its name: give token={name: token, ...} as well. "
                "With one token for all, each can take any name."
            )
        if listen is not None and self.exports.allows_spawning and token is None:
            raise ConfigError(
                "allow= lets other nodes create agents here: give a token= as well. "
                "One is made by: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )

    # -- its life --

    def begin(self) -> None:
        """Take the context in which served work is to run, less what belongs to the caller's own work."""
        self.context = contextvars.copy_context()
        self.context.run(current_turn.set, None)
        self.context.run(_context.charged.set, ())
        self.context.run(_context.override.set, self.runtime)
        self.context.run(_context.deadline.set, None)
        self.context.run(_context.trace_id.set, None)

    async def open(self) -> None:
        """Listen, where that was asked for.

        Raises:
            ConfigError: the URL or the token cannot be used. OSError: the address cannot be listened at.
        """
        if self._listen is None:
            return
        reserved = set(self._token) if isinstance(self._token, Mapping) else ()
        self._switchboard = Switchboard(self._settings, self._take_link, reserved=reserved)
        url = urlsplit(self._listen)
        if url.scheme == "mem":
            self._listener = await self._switchboard.listen_in_memory(
                url.netloc, tokens=self._token, anonymous=self._token is None
            )
            self.url = f"mem://{url.netloc}"
            return
        host, port = host_and_port(self._listen, self._ssl is not None)
        proof: dict[str, Any] = {"tokens": self._token}
        if self._token is None:
            shows_certificate = self._ssl is not None and self._ssl.verify_mode.name == "CERT_REQUIRED"
            proof = {"authenticate": certified_name} if shows_certificate else {"anonymous": True}
        self._listener = await self._switchboard.listen(host, port, ssl=self._ssl, **proof)
        self.url = self._listener.url.rstrip("/")

    async def refuse(self, grace_s: float) -> None:
        """Let others have no new work done here, and what is under way for them end."""
        if self._listener is not None:
            await self._listener.aclose()
        if self._switchboard is not None:
            await self._switchboard.aclose(grace_s)

    async def drain(self, grace_s: float) -> None:
        """Let what we have under way elsewhere end, then the children."""
        await asyncio.gather(*(link.aclose(grace_s) for link in self._links()))
        await asyncio.gather(*(child.aclose(grace_s) for child in list(self.children)))

    async def aclose(self) -> None:
        """Close every link; answer whoever waits for something from elsewhere; end every child."""
        self.waits.close()
        await run_all([self._close_links(), *(child.aclose() for child in list(self.children))])
        if self.ending:
            await asyncio.wait(self.ending, timeout=KILL_WAIT_S)
        for left in self.ending:
            get_logger().error("unkillable", task=left.get_name(), waited_s=KILL_WAIT_S)

    async def _close_links(self) -> None:
        for task in self._dialed.values():
            task.cancel()
        if self._listener is not None:
            await self._listener.aclose()
        closing = [link.aclose() for link in self._links()]
        if self._switchboard is not None:
            closing.append(self._switchboard.aclose())
        await asyncio.gather(*closing)

    def _links(self) -> list[Link]:
        accepted = set(self._switchboard.links) if self._switchboard is not None else set()
        return [bridge.link for bridge in self._bridges if bridge.link not in accepted]

    def start(self, work: Coroutine[Any, Any, None], abandon: Callable[[], None] = lambda: None) -> None:
        """Run something in a task of the runtime, outside all turns; cancelled, ``abandon`` is called."""
        self.context.copy().run(self._start, work, abandon)

    def _start(self, work: Coroutine[Any, Any, None], abandon: Callable[[], None]) -> None:
        task = self.runtime.start(work, abandon, name=f"node {self.name}")
        # A task that is cancelled before its first step never runs a line of ``work``.
        task.add_done_callback(lambda task: abandon() if task.cancelled() else None)

    def start_task(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run something, outside all turns, in a task that its owner ends."""
        task = asyncio.get_running_loop().create_task(work, name=name, context=self.context.copy())
        task.add_done_callback(_note_failure)
        return task

    # -- child processes --

    def bootstrap(self) -> dict[str, Any]:
        """Return what every child process needs to be a node of the same run."""
        self.family_token = self.family_token or new_token()
        return {
            "parent": self.name,
            "family_token": self.family_token,
            **self.runtime.settings_for_children(),
        }

    def lose(self, name: str, reason: str) -> None:
        """End what is under way with a node that is known to be gone."""
        for bridge in list(self._bridges):
            if bridge.peer == name and not bridge.is_over:
                bridge.lose(reason)

    # -- other nodes --

    def agent(
        self, url: str, *, token: str | None, name: str | None, timeout_s: float | None,
        ssl: tls.SSLContext | None,
    ) -> RemoteAgent:  # fmt: skip
        """Return the agent at ``url``; see ``Runtime.agent``."""
        base, key = split_agent_url(url)
        locator = ByUrl(self, self.address(base, token, ssl), key)
        return RemoteAgent(name or key, self, locator, timeout_s=timeout_s)

    async def spawn(
        self, url: str, kind: str, config: dict[str, Any], *, key: str | None, token: str | None,
        ssl: tls.SSLContext | None,
    ) -> RemoteAgent:  # fmt: skip
        """Create an agent on another node; see ``Runtime.spawn``."""
        address = self.address(url, token, ssl)
        bridge = await self.bridge_at(address)
        key = await self.spawn_at(bridge, kind, config, key or f"{kind[:40]}-{token_hex(6)}")
        return RemoteAgent(str(config.get("name", key)), self, ByUrl(self, address, key))

    async def spawn_at(
        self,
        bridge: Bridge,
        kind: str,
        config: dict[str, Any],
        key: str,
        *,
        state: dict[str, Any] | None = None,
    ) -> str:
        """Create an agent over a bridge, and have it remember ``state``; return its key."""
        if not is_target(key):
            raise ConfigError(
                f"The key of an agent is 1 to 64 letters, digits, '_', '.' or '-', got {key!r}."
            )
        Msg("config", config, "user").to_dict()  # all of it is JSON
        asked = Asked(key, None, is_heard=False)
        answer = await self._send_and_wait(bridge, asked, lambda: bridge.spawn(kind, key, config, asked))
        if state and any(state.values()):
            load = Asked(key, None, is_heard=False)
            body = {"x": Msg("state", state, "user").to_dict()}
            try:
                await self._send_and_wait(bridge, load, partial(bridge.ask, key, body, load, op="load_state"))
            except Exception:
                with suppress(CannotSend, FrameError):  # an agent without its memory is not what was wanted
                    bridge.ask(key, {"x": None}, Asked(key, None, is_heard=False), op="stop")
                raise
        if type(answer) is not dict or answer.get("key") != key:
            raise MessageError("key", f"of the created agent is not what node {bridge.peer!r} was asked for")
        return key

    async def ask_report(self, url: str, *, token: str | None, ssl: tls.SSLContext | None) -> NodeReport:
        """Return what another node tells of itself."""
        bridge = await self.bridge_at(self.address(url, token, ssl))
        return NodeReport.from_dict(await self.ask(bridge, bridge.peer, "ps", None))

    async def ask(self, bridge: Bridge, name: str, op: str, body: Any, deadline: float | None = None) -> Any:
        """Ask a node itself for something and return the answer."""
        asked = Asked(name, open_turn(), is_heard=False)
        if deadline is None:
            deadline = _context.deadline.get()
        with self.waits.waiting(asked) as chain:
            send = partial(bridge.ask, NODE, body, asked, op=op, chain=chain, deadline=deadline)
            return await in_time(deadline, name, self._send_and_wait(bridge, asked, send))

    async def _send_and_wait(self, bridge: Bridge, asked: Asked, send: Callable[[], bool]) -> Any:
        """Send once there is room, and return the answer."""
        while True:
            try:
                send()
                break
            except CannotSend as problem:
                if bridge.is_over or problem.code == "draining":
                    raise NodeDown(bridge.peer, reason=problem.code, outcome="not_delivered") from None
                await bridge.room(problem.target)
            except FrameError as problem:
                raise ConfigError(f"This cannot be sent to node {bridge.peer!r}: {problem}") from None
        try:
            return await asked.answer
        except BaseException:
            asked.give_up()
            raise

    def address(self, url: str, token: str | None, ssl: tls.SSLContext | None) -> Address:
        """Return where a node is, with the token of this node if no other is given."""
        if token is None and isinstance(self._token, str):
            token = self._token
        return Address(normal_url(url), token, ssl)

    def open_bridge(self, address: Address) -> Bridge | None:
        """Return the bridge to the node at an address, if it is connected."""
        dialing = self._dialed.get((address.url, address.token, id(address.ssl)))
        if dialing is None or not dialing.done() or _is_of_no_use(dialing) or not self.runtime.is_open:
            return None
        return dialing.result()

    async def bridge_at(self, address: Address) -> Bridge:
        """Return the bridge to the node at an address, connected.

        Raises:
            ConnectFailed: it cannot be reached. RuntimeClosedError: our runtime is being left.
        """
        if not self.runtime.is_open:
            raise RuntimeClosedError("The runtime of this remote agent was left.")
        place = address.url, address.token, id(address.ssl)
        dialing = self._dialed.get(place)
        if dialing is None or _is_of_no_use(dialing):
            dialing = self._dialed[place] = self.start_task(self._dial(address), name=f"dial {address.url}")
        if not dialing.done():
            await asyncio.wait([dialing])
        if dialing.cancelled():
            raise RuntimeClosedError("The runtime is being left.")
        return dialing.result()

    async def _dial(self, address: Address) -> Bridge:
        bridge = Bridge(self, is_dialed=True)
        bridge.is_to_child = any(child.is_at(address.token) for child in self.children)
        link = await Link.dial(
            address.url, self._settings, on_event=bridge.on_event, on_lost=bridge.on_lost,
            token=address.token, ssl=address.ssl,
        )  # fmt: skip
        bridge.attach(link)
        self._bridges.add(bridge)
        return bridge

    async def bridge_to(self, node: str) -> Bridge | None:
        """Return the bridge to a node we know by name, or None: no message makes us dial elsewhere."""
        for bridge in self._bridges:
            is_proven = bridge.is_to_child or node not in self.started
            if bridge.peer == node and is_proven and not bridge.is_over:
                return bridge
        known = self.peers.get(node)
        if known is None:
            return None
        return await self.bridge_at(self.address(known.url, known.token, known.ssl))

    def _take_link(self, link: Link) -> None:
        bridge = Bridge(self, is_dialed=False)
        link.start(bridge.on_event, bridge.on_lost)
        bridge.attach(link)
        self._bridges.add(bridge)

    def forget(self, bridge: Bridge) -> None:
        """Take note that a bridge is over."""
        self._bridges.discard(bridge)
        self._dialed = {place: each for place, each in self._dialed.items() if not _is_of_no_use(each)}
        self._introduced = {each for each in self._introduced if each[0] is not bridge}

    # -- what the parts of the node need of it --

    def emit(self, event: Any) -> None:
        """Show an event to whoever reads the runtime's."""
        self.runtime.emit(event)

    def bury(
        self, agent: Any, msg: Any, reason: str, error: BaseException | None, *, is_heard_only: bool = False
    ) -> None:
        """Make a message that was not delivered a dead letter of the runtime."""
        self.runtime.bury(agent, msg, reason, error, is_heard_only=is_heard_only)

    async def fetch(
        self, bridge: Bridge, id: str, name: str, deadline: float | None = None, *, is_here: bool = False
    ) -> Msg:
        """Return a result that is kept on another node.

        That node may know a better place; ``is_here``: not any more.
        """
        try:
            answer = await self.ask(bridge, name, FETCH, {"id": id, "here": is_here}, deadline)
        except ReplyExpiredError:
            raise ReplyExpiredError(name) from None  # that node does not know whose it was
        home = answer.get("node") if type(answer) is dict and answer.get("__type") == "Reply" else None
        if is_here or not is_name(home):
            return read_msg(answer, bridge)
        if home == self.name:
            return await (await self.replies.find(id, may_come=False))
        at_home = await self.bridge_to(home)
        return await self.fetch(at_home or bridge, id, name, deadline, is_here=True)

    def take_back(self, bridge: Bridge, id: str) -> None:
        """Cancel what was submitted over a bridge, as soon as there is room for saying so."""
        try:
            bridge.tell(NODE, {"id": id}, op="cancel")
        except CannotSend as problem:
            if problem.code in PASSING and not bridge.is_over:
                bridge.when_room(problem.target, partial(self.take_back, bridge, id))

    def introduce(self, x: Any, bridge: Bridge) -> None:
        """Tell a node that we started where a result is kept that it is about to be given."""
        home = x.home if isinstance(x, RemoteReply) else None
        if home is None or home == bridge.peer or home not in self.started or not bridge.is_to_child:
            return
        url = self.started[home]  # another one when it was started again
        if (bridge, url) not in self._introduced:
            bridge.tell(NODE, {"node": home, "url": url}, op="introduce")
            self._introduced.add((bridge, url))

    def watch(self, line: Line, watch: Watch) -> None:
        """Have a watch fire when an agent of another node is gone."""
        self.start(self._watch(line, watch))

    async def _watch(self, line: Line, watch: Watch) -> None:
        try:
            bridge, id = await line.join(lambda bridge, key: (bridge, bridge.watch(key, watch.fire)))
        except Exception as error:
            get_logger().info("watched_node_down", error=str(error))
            watch.fire("node_down")
        else:
            watch.on_end(lambda: bridge.unwatch(id))


def _is_of_no_use(dialing: asyncio.Task[Bridge]) -> bool:
    if not dialing.done():
        return False
    if dialing.cancelled() or dialing.exception() is not None:
        return True
    return dialing.result().is_over


def _note_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # whoever wanted to know may be gone by now
