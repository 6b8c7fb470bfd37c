"""Xoscar: actors in the main pool of one process, so calls stay off sockets."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Self

import xoscar

from ..systems import TEXT, Ask, Kind
from . import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Say:
    """A message or a reply."""

    name: str
    content: str
    role: str


class EchoActor(xoscar.Actor):
    async def reply(self, message: Say) -> Say:
        return Say("agent", TEXT, "assistant")


class PausingActor(xoscar.Actor):
    async def reply(self, message: Say) -> Say:
        await asyncio.sleep(0)
        return Say("agent", TEXT, "assistant")


class ListeningActor(xoscar.Actor):
    def __init__(self) -> None:
        super().__init__()
        self.memory: list[Say] = []
        self.others: list[Any] = []

    def introduce(self, others: list[Any]) -> None:
        self.others = others

    async def reply(self, message: Say) -> Say:
        answer = Say("agent", TEXT, "assistant")
        self.memory += [message, answer]
        for other in self.others:
            await other.hear.tell(answer)
        return answer

    def hear(self, message: Say) -> None:
        self.memory.append(message)

    def size(self) -> int:
        return len(self.memory)


class ModelledActor(xoscar.Actor):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    async def reply(self, message: Say) -> Say:
        response = await self._model([{"role": "user", "content": message.content}])
        return Say("agent", response.text, "assistant")


class Adapter(Peer):
    """Ask is ``await ref.reply(msg)``, tell ``await ref.reply.tell(msg)``."""

    name = f"xoscar {version('xoscar')}"
    rows: ClassVar = frozenset({"L1", "L2", "L2b", "L2c", "L3", "L4", "L5", "L6"})
    _numbers = itertools.count()

    async def __aenter__(self) -> Self:
        self._pool = await xoscar.create_actor_pool("127.0.0.1", n_process=0, use_uvloop=False)
        await self._pool.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._pool.stop()

    def request(self, text: str = TEXT) -> Say:
        return Say("user", text, "user")

    async def spawn(self, kind: Kind, names: Sequence[str]) -> Sequence[Any]:
        kinds = {
            "echo": EchoActor,
            "pausing": PausingActor,
            "listening": ListeningActor,
            "modelled": ModelledActor,
        }
        args = [self.model] if kind == "modelled" else []
        place = self._pool.external_address
        crowd = next(self._numbers)
        refs = [
            await xoscar.create_actor(kinds[kind], *args, uid=f"{name}-{crowd}", address=place)
            for name in names
        ]
        if kind == "listening":
            for ref in refs:
                await ref.introduce([other for other in refs if other is not ref])
        self._kind, self._sizes = kind, dict[bytes, int]()
        return refs

    def ask(self, agent: Any) -> Ask:
        return agent.reply  # type: ignore[no-any-return]

    def tell(self, agent: Any) -> Ask:
        return agent.reply.tell  # type: ignore[no-any-return]

    async def drain(self, agents: Sequence[Any]) -> None:
        """Let the tasks of the last tells begin, then ask each once more: it answers in order."""
        await asyncio.sleep(0)
        for agent in agents:
            if self._kind == "listening":
                self._sizes[agent.uid] = await agent.size()
            else:
                await agent.reply(self.request())

    def heard(self, agent: Any) -> int:
        return self._sizes[agent.uid]
