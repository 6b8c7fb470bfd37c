"""The three sides of the local benchmarks: our agents, asyncio.Queue actors, direct coroutine calls.

What an agent does is written once, as a mix-in, and given to each side; so all sides run
the same reply, with the same message type, memory and model.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias

from agentscope_async.agents import AgentBase
from agentscope_async.memory import TemporaryMemory
from agentscope_async.message import Msg
from agentscope_async.models import EchoModel
from agentscope_async.msghub import msghub
from agentscope_async.runtime import Runtime

TEXT = "What do you make of this? " * 3 + "Please say it briefly."
"""The content of each message: 100 characters."""

CAPACITY = 1000
"""Letters a mailbox holds, on both sides."""

Kind: TypeAlias = Literal["echo", "pausing", "listening", "modelled"]

Ask: TypeAlias = Callable[[Any], Awaitable[Any]]
"""Called and awaited with a request."""


class System(Protocol):
    """One side; a fresh one for every measurement, used as ``async with system:``."""

    name: str

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *error: object) -> None: ...

    def request(self, text: str = TEXT) -> Any:
        """Build a message to an agent, in the system's own type."""

    def text(self, reply: Any) -> str:
        """Return the text of a reply."""

    async def spawn(self, kind: Kind, names: Sequence[str]) -> Sequence[Any]:
        """Make agents that are ready for their first message."""

    def ask(self, agent: Any) -> Ask:
        """Return what gives the agent's reply to a request."""

    def tell(self, agent: Any) -> Ask:
        """Return what hands the agent a message and waits for no reply."""

    def hub(self, agents: Sequence[Any]) -> AbstractAsyncContextManager[object]:
        """Let each of the agents hear what the others answer."""

    async def drain(self, agents: Sequence[Any]) -> None:
        """Return when everything told and broadcast has been handled."""

    def heard(self, agent: Any) -> int:
        """Return how many messages a listening agent remembers."""


# -- what the agents do --


class Echo:
    """Answers with a message of its own."""

    __slots__ = ()
    name: str

    async def reply(self, x: Msg | None = None) -> Msg:
        return Msg(self.name, TEXT, role="assistant")


class Pausing:
    """Gives way to the event loop once before it answers, as any agent with a model does."""

    __slots__ = ()
    name: str

    async def reply(self, x: Msg | None = None) -> Msg:
        await asyncio.sleep(0)
        return Msg(self.name, TEXT, role="assistant")


class Listening:
    """Remembers what it is asked and what it answers."""

    __slots__ = ()
    name: str
    memory: Any

    async def reply(self, x: Msg | None = None) -> Msg:
        self.memory.add(x)
        answer = Msg(self.name, TEXT, role="assistant")
        self.memory.add(answer)
        return answer


class Modelled:
    """Asks its model; remembers nothing."""

    __slots__ = ()
    name: str
    model: Any

    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        response = await self.model([{"role": "user", "content": x.content}])
        return Msg(self.name, response.text, role="assistant")


class MsgSystem:
    """What the sides that speak :class:`Msg` share."""

    kinds: ClassVar[dict[str, Callable[..., Any]]]

    def __init__(self, model_delay_s: float = 0.0) -> None:
        self._model = EchoModel(delay_s=model_delay_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def request(self, text: str = TEXT) -> Msg:
        return Msg("user", text, role="user")

    def text(self, reply: Msg) -> str:
        return reply.text

    async def spawn(self, kind: Kind, names: Sequence[str]) -> Sequence[Any]:
        make = self.kinds[kind]
        if kind == "modelled":
            make = functools.partial(make, model=self._model)
        return [make(name) for name in names]

    def heard(self, agent: Any) -> int:
        return int(agent.memory.size())


# -- ours --


class EchoAgent(Echo, AgentBase):
    pass


class PausingAgent(Pausing, AgentBase):
    pass


class ListeningAgent(Listening, AgentBase):
    pass


class ModelledAgent(Modelled, AgentBase):
    pass


class Agents(MsgSystem):
    """Agents of this package, with their defaults, inside a ``Runtime``."""

    name = "agentscope_async"
    kinds: ClassVar = {
        "echo": EchoAgent,
        "pausing": PausingAgent,
        "listening": ListeningAgent,
        "modelled": ModelledAgent,
    }

    async def __aenter__(self) -> Self:
        self._save_dir = tempfile.TemporaryDirectory()
        self._runtime = await Runtime(save_dir=self._save_dir.name).__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._runtime.__aexit__(*error)
        self._save_dir.cleanup()

    def ask(self, agent: AgentBase) -> Ask:
        return agent

    def tell(self, agent: AgentBase) -> Ask:
        return agent.post

    def hub(self, agents: Sequence[Any]) -> AbstractAsyncContextManager[object]:
        return msghub(agents)

    async def drain(self, agents: Sequence[Any]) -> None:
        await self._runtime.drain()


# -- asyncio.Queue actors --


class QueueActor:
    """The actor one writes with plain asyncio: a bounded queue, a resident task, a future for each ask."""

    __slots__ = ("_loop", "_queue", "name", "task")

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue(CAPACITY)
        self.task = self._loop.create_task(self._serve())

    async def reply(self, x: Msg | None = None) -> Msg:
        raise NotImplementedError

    async def ask(self, msg: Msg) -> Msg:
        answer: asyncio.Future[Msg] = self._loop.create_future()
        if self._queue.full():
            await self._queue.put((msg, answer))
        else:
            self._queue.put_nowait((msg, answer))  # saves the coroutine of put()
        return await answer

    def tell(self, msg: Msg) -> Awaitable[None]:
        return self._queue.put((msg, None))

    async def drained(self) -> None:
        """Ask once more: that answer comes after everything told before."""
        await self.ask(Msg("user", TEXT, role="user"))

    async def _serve(self) -> None:
        get = self._queue.get
        while True:
            msg, answer = await get()
            try:
                reply = await self.reply(msg)
            except Exception as error:
                if answer is None:
                    logging.getLogger(__name__).exception("%s failed", self.name)
                elif not answer.done():
                    answer.set_exception(error)
            else:
                if answer is not None and not answer.done():
                    answer.set_result(reply)


class EchoActor(Echo, QueueActor):
    pass


class PausingActor(Pausing, QueueActor):
    pass


class ListeningActor(Listening, QueueActor):
    """Remembers what the others say, and puts what it says into their queues."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.memory = TemporaryMemory()
        self.others: list[ListeningActor] = []

    async def drained(self) -> None:
        """Put a mark behind everything that is in the queue and wait until it is reached."""
        mark = self._loop.create_future()
        await self._queue.put((None, mark))
        await mark

    async def _serve(self) -> None:
        get, remember = self._queue.get, self.memory.add
        while True:
            msg, answer = await get()
            if answer is None:
                remember(msg)
            elif msg is None:
                answer.set_result(None)
            else:
                reply = await self.reply(msg)
                letter = (reply, None)
                for other in self.others:
                    other._queue.put_nowait(letter)  # not full: fewer messages are sent than it holds
                if not answer.done():
                    answer.set_result(reply)


class ModelledActor(Modelled, QueueActor):
    def __init__(self, name: str, model: EchoModel) -> None:
        super().__init__(name)
        self.model = model


class QueueActors(MsgSystem):
    """An ``asyncio.Queue`` and a resident task for each actor."""

    name = "asyncio.Queue"
    kinds: ClassVar = {
        "echo": EchoActor,
        "pausing": PausingActor,
        "listening": ListeningActor,
        "modelled": ModelledActor,
    }

    def __init__(self, model_delay_s: float = 0.0) -> None:
        super().__init__(model_delay_s)
        self._actors: list[Any] = []

    async def __aexit__(self, *error: object) -> None:
        for actor in self._actors:
            actor.task.cancel()
        await asyncio.gather(*(actor.task for actor in self._actors), return_exceptions=True)

    async def spawn(self, kind: Kind, names: Sequence[str]) -> Sequence[Any]:
        actors = await super().spawn(kind, names)
        self._actors += actors
        await asyncio.sleep(0)  # lets each task start and wait at its queue
        return actors

    def ask(self, agent: Any) -> Ask:
        return agent.ask  # type: ignore[no-any-return]

    def tell(self, agent: Any) -> Ask:
        return agent.tell  # type: ignore[no-any-return]

    def hub(self, agents: Sequence[Any]) -> AbstractAsyncContextManager[object]:
        _introduce(agents)
        return nullcontext()

    async def drain(self, agents: Sequence[Any]) -> None:
        for agent in agents:
            await agent.drained()


# -- direct calls --


class PlainObject:
    """An object whose coroutine method is called: no mailbox, nothing keeps two calls apart."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class EchoObject(Echo, PlainObject):
    pass


class PausingObject(Pausing, PlainObject):
    pass


class ListeningObject(Listening, PlainObject):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.memory = TemporaryMemory()
        self.others: list[ListeningObject] = []

    async def say(self, msg: Msg) -> Msg:
        reply = await self.reply(msg)
        for other in self.others:
            other.memory.add(reply)
        return reply


class ModelledObject(Modelled, PlainObject):
    def __init__(self, name: str, model: EchoModel) -> None:
        super().__init__(name)
        self.model = model


class DirectCalls(MsgSystem):
    """``await thing.reply(msg)``: the floor, with none of an actor's promises."""

    name = "direct call"
    kinds: ClassVar = {
        "echo": EchoObject,
        "pausing": PausingObject,
        "listening": ListeningObject,
        "modelled": ModelledObject,
    }

    def ask(self, agent: Any) -> Ask:
        return agent.say if isinstance(agent, ListeningObject) else agent.reply

    def tell(self, agent: Any) -> Ask:
        return agent.reply  # type: ignore[no-any-return]

    def hub(self, agents: Sequence[Any]) -> AbstractAsyncContextManager[object]:
        _introduce(agents)
        return nullcontext()

    async def drain(self, agents: Sequence[Any]) -> None:
        pass


def _introduce(agents: Sequence[Any]) -> None:
    for agent in agents:
        agent.others = [other for other in agents if other is not agent]
