"""Results that are kept where they were made until somebody asks for them.

``submit`` sends the message with an id its sender chose; the node of the agent keeps the result
under it. Passing a :class:`RemoteReply` on sends that id, and whoever gets it fetches the result
from where it is kept, if it knows that node, or else through the node it got the id from. An id
is 128 random bits: who has it may fetch. No reference holds an address.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from functools import partial
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import AskTimeoutError, DeadlockError, InterruptedTurnError, MessageError, ReplyExpiredError
from ..reply import Reply
from ._grammar import is_name, is_secret

if TYPE_CHECKING:
    from ..message import Msg
    from .bridge import Bridge
    from .node import Node

__all__ = ["RemoteReply", "Replies", "reference_of", "referred"]

EXPECT_S = 10.0
"""How long an id is waited for that was not heard of yet: its letter may come by a slower link."""
REMEMBERED = 10_000
FETCH = "fetch"


class Replies:
    """The results a node keeps, by id.

    Those nobody has asked for yet are kept for ``ttl_s`` seconds after they are there, and at most
    ``limit`` of them; the oldest go first. An id whose result is gone is answered with
    ReplyExpiredError.
    """

    def __init__(self, limit: int, ttl_s: float) -> None:
        self._limit = limit
        self._ttl_s = ttl_s
        self._kept: dict[str, Reply] = {}
        self._done: OrderedDict[str, float] = OrderedDict()  # when, oldest first
        self._gone: deque[str] = deque(maxlen=REMEMBERED)
        self._expected: dict[str, list[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def id_of(self, reply: Reply) -> str:
        """Return an id for a reply of this node that is passed on; the same while it is kept."""
        return next((id for id, kept in self._kept.items() if kept is reply), None) or token_hex(16)

    def keep(self, id: str, reply: Reply) -> None:
        """Keep a reply, there yet or not; an id that is taken already stays whose it is."""
        known = self._kept.get(id)
        if known is not None and (not isinstance(known, RemoteReply) or isinstance(reply, RemoteReply)):
            reply._future.add_done_callback(_see)
            return
        # A node that submits to itself passes a reference on before the letter has come round to it.
        self._done.pop(id, None)
        self._kept[id] = reply
        if isinstance(reply, RemoteReply):
            self._end(id)  # a place to ask on behalf of others; nothing runs here
        else:
            reply._future.add_done_callback(partial(self._note_end, id))
        for waiter in self._expected.pop(id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def keep_error(self, id: str, agent: str, error: Exception) -> None:
        """Keep what a submission failed with at once."""
        reply = RemoteReply(agent, id, None, None)
        reply.resolve(error)
        reply._future.exception()  # perhaps nobody asks for it
        self.keep(id, reply)

    async def find(self, id: str, *, may_come: bool = True) -> Reply:
        """Return what is kept under an id; one that is not known yet ``may_come`` within seconds.

        Raises:
            ReplyExpiredError: it is not kept any more, or never was.
        """
        self._drop_old()
        if may_come and id not in self._kept and id not in self._gone:
            await self._expect(id)
        reply = self._kept.get(id)
        if reply is None:
            raise ReplyExpiredError("agent")
        return reply

    async def fetch(self, id: str) -> Msg:
        """Return a result once it is there, or raise its error; see ``find``."""
        return await (await self.find(id))

    async def _expect(self, id: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._expected.setdefault(id, [])
        waiters.append(waiter)
        try:
            async with asyncio.timeout(EXPECT_S):
                await waiter
        except TimeoutError:
            pass  # told as expired
        finally:
            waiters.remove(waiter)
            if not waiters:
                self._expected.pop(id, None)

    def cancel(self, id: str) -> None:
        """Take a submission back, or end its turn."""
        reply = self._kept.get(id)
        if reply is not None:
            reply.cancel()

    def _note_end(self, id: str, future: asyncio.Future[Msg]) -> None:
        if not future.cancelled():
            future.exception()  # it is kept for whoever asks for it; perhaps nobody does
        self._end(id)

    def _end(self, id: str) -> None:
        self._done[id] = monotonic()
        self._drop_old()

    def _drop_old(self) -> None:
        oldest = monotonic() - self._ttl_s
        while self._done and (len(self._done) > self._limit or next(iter(self._done.values())) < oldest):
            id, _ = self._done.popitem(last=False)
            del self._kept[id]
            self._gone.append(id)


def _see(future: asyncio.Future[Msg]) -> None:
    """Take note of an error that nobody will ask for."""
    if not future.cancelled():
        future.exception()


class RemoteReply(Reply):
    """The reply to a ``submit`` whose result is kept on another node; see :class:`Reply`.

    The value is fetched when it is first awaited, in the task that awaits it. An error that another
    node tells of stays; one that only says that this wait was given up does not.
    """

    __slots__ = ("id", "home", "placed", "_fetch", "_take_back")

    def __init__(
        self,
        name: str,
        id: str | None,
        fetch: Callable[[], Awaitable[Msg]] | None,
        take_back: Callable[[], None] | None,
    ) -> None:
        # Not Reply.__init__: it has no mailbox and no letter here.
        self.name = name
        self._future = asyncio.get_running_loop().create_future()
        self.id = id or token_hex(16)
        self.home: str | None = None  # the node that keeps it, once that is known
        self.placed: asyncio.Future[Any] | None = None  # done when it is known, or never will be
        self._fetch = fetch
        self._take_back = take_back

    @property
    def holder(self) -> None:
        """Known to the node that keeps it."""
        return None

    def cancel(self, reason: str | None = "cancelled by its sender") -> bool:
        """Take the message back or end its turn, as soon as the other node hears of it."""
        if self._future.done():
            return False
        self._future.set_exception(InterruptedTurnError(self.name, reason))
        self._future.exception()  # whoever cancels knows
        if self._take_back is not None:
            self._take_back()
        return True

    async def _wait(self) -> Msg:
        if not self._future.done():
            assert self._fetch is not None
            try:
                self.resolve(await self._fetch())
            except (AskTimeoutError, DeadlockError):
                if not self._future.done():
                    raise
            except Exception as error:
                self.resolve(error)
        return self._future.result()


def reference_of(reply: Reply, node: Node) -> dict[str, str]:
    """Return what stands for a reply in a message to another node, and keep it here to be fetched."""
    if isinstance(reply, RemoteReply):
        id, home = reply.id, reply.home or node.name
    else:
        id, home = node.replies.id_of(reply), node.name
    if home != node.name or not isinstance(reply, RemoteReply) or reply.home is None:
        node.replies.keep(id, reply)  # else it is kept here already, for itself
    return {"__type": "Reply", "name": reply.name, "node": home, "id": id}


def referred(reference: dict[str, Any], bridge: Bridge) -> Reply:
    """Return the reply that a reference in a message from ``bridge`` stands for.

    Raises:
        MessageError: it is no reference.
    """
    name, home, id = reference.get("name"), reference.get("node"), reference.get("id")
    if type(name) is not str or not is_name(home) or not is_secret(id):
        raise MessageError("x", "is a reference to a reply without name, node or id")
    node = bridge.node

    async def fetch() -> Msg:
        if home == node.name:
            return await node.replies.fetch(id)
        at_home = await node.bridge_to(home)
        return await node.fetch(at_home or bridge, id, name, is_here=at_home is None)

    reply = RemoteReply(name[:200], id, fetch, None)
    reply.home = home
    return reply
