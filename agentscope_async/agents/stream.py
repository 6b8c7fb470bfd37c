"""A turn heard while it speaks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, Self

from .._tasks import cancel_all
from ..message import Msg, Speech

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AgentStream"]


class Heard(Protocol):
    """An agent, here or elsewhere."""

    name: str

    async def _watched(self, x: Any, kwargs: dict[str, Any], listener: Any) -> Msg:
        """Ask, and let ``listener`` hear what is spoken meanwhile."""


class AgentStream:
    """One turn being listened to: see ``agent.stream``."""

    def __init__(self, agent: Heard, x: Any, kwargs: dict[str, Any]) -> None:
        self._agent = agent
        self._x = x
        self._kwargs = kwargs
        # Without a bound: a speaker that waited for its listener would wait for ever for one
        # that asks it something between two pieces. A reply's text is small.
        self._pieces: asyncio.Queue[Speech | None] = asyncio.Queue()
        self._task: asyncio.Task[Msg] | None = None
        self._has_raised = False

    @property
    def msg(self) -> Msg:
        """The reply, once the stream has ended.

        Raises:
            RuntimeError: the turn has not ended, or was ended by leaving the block.
        """
        task = self._task
        if task is None or not task.done() or task.cancelled():
            raise RuntimeError(
                "The turn has not ended: read the stream with `async for` before asking for .msg"
            )
        return task.result()

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("A stream is one turn; call agent.stream(...) again for another.")
        self._task = asyncio.create_task(self._speak(), name=f"stream of {self._agent.name}")
        try:
            await asyncio.sleep(0)  # its message takes its place in the mailbox before we go on
        except BaseException:
            await cancel_all([self._task])
            if not self._task.cancelled():
                self._task.exception()  # nobody is left to be told
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        await cancel_all([self._task])
        failure = None if self._task.cancelled() else self._task.exception()
        if failure is not None and error is None and not self._has_raised:
            raise failure  # nobody was told yet

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Speech:
        if self._task is None:
            raise RuntimeError("Enter the stream first: `async with agent.stream(x) as s:`")
        piece = None
        if not (self._task.done() and self._pieces.empty()):
            piece = await self._pieces.get()
        if piece is not None:
            return piece
        self._pieces.put_nowait(None)  # for another reader
        await asyncio.wait([self._task])
        if not self._task.cancelled() and self._task.exception() is not None:
            self._has_raised = True
            self._task.result()
        raise StopAsyncIteration

    async def _speak(self) -> Msg:
        ear = _Ear(self._pieces)
        try:
            msg = await self._agent._watched(self._x, self._kwargs, ear)
            if not ear.has_heard:
                await ear.hear(msg)
            return msg
        finally:
            self._pieces.put_nowait(None)


class _Ear:
    """Takes what is spoken in a turn into the queue of its stream."""

    __slots__ = ("_pieces", "_in_pieces", "has_heard")

    def __init__(self, pieces: asyncio.Queue[Speech | None]) -> None:
        self._pieces = pieces
        self._in_pieces = False
        self.has_heard = False

    async def hear(self, content: Msg | Speech | str) -> None:
        """Pass on a piece; a whole message only when its pieces were not heard before it."""
        if isinstance(content, Speech):
            self._in_pieces = self._in_pieces or content.kind == "text"
        elif self._in_pieces:
            self._in_pieces = False
            return
        else:
            content = Speech("text", content.text if isinstance(content, Msg) else content)
        self.has_heard = True
        self._pieces.put_nowait(content)
