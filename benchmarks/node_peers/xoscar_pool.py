"""Xoscar: actors in the main pool of each serving process, called by reference."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Self

import xoscar

from . import Ask, Carrier as CarrierBase, agent_names


@dataclass
class Say:
    """A message or a reply."""

    name: str
    content: str
    role: str


class Echo(xoscar.Actor):  # type: ignore[misc]
    async def reply(self, message: Say) -> Say:
        return Say("agent", message.content, "assistant")


class Carrier(CarrierBase):
    """``await ref.reply(msg)``."""

    name: ClassVar = f"xoscar {version('xoscar')}"
    share: ClassVar = 0.2

    @staticmethod
    @asynccontextmanager
    async def serving(number: int, first: Mapping[str, Any] | None) -> AsyncIterator[dict[str, Any]]:
        pool = await xoscar.create_actor_pool("127.0.0.1", n_process=0, use_uvloop=False)
        async with pool:
            for name in agent_names():
                await xoscar.create_actor(Echo, uid=name, address=pool.external_address)
            yield {"address": pool.external_address}

    async def __aenter__(self) -> Self:
        self._refs: dict[tuple[int, str], Any] = {}
        return self

    def ask(self, server: int, agent: str) -> Ask:
        address = self.servers[server]["address"]

        async def ask(text: str) -> str:
            ref = self._refs.get((server, agent))
            if ref is None:
                ref = self._refs[server, agent] = await xoscar.actor_ref(agent, address=address)
            answer = await ref.reply(Say("user", text, "user"))
            return answer.content  # type: ignore[no-any-return]

        return ask
