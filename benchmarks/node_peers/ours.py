"""Agents of this package: exported by one ``Runtime``, asked by another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from secrets import token_urlsafe
from typing import Any, ClassVar, Self

from agentscope_async.agents import AgentBase
from agentscope_async.message import Msg
from agentscope_async.runtime import Runtime

from . import Ask, Carrier as CarrierBase, agent_names


class Echo(AgentBase):
    """Says back what it is told, in a message of its own."""

    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        return Msg(self.name, x.content, role="assistant")


class Carrier(CarrierBase):
    """``rt.agent(url)``, asked with a ``Msg``; all defaults."""

    name: ClassVar = "agentscope_async"

    @staticmethod
    @asynccontextmanager
    async def serving(number: int, first: Mapping[str, Any] | None) -> AsyncIterator[dict[str, Any]]:
        token = token_urlsafe(32)
        exports = {name: Echo(name) for name in agent_names()}
        async with Runtime(listen="ws://127.0.0.1:0", token=token, exports=exports) as runtime:
            yield {"url": runtime.url, "token": token}

    async def __aenter__(self) -> Self:
        self._runtime = await Runtime().__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._runtime.__aexit__(*error)

    def ask(self, server: int, agent: str) -> Ask:
        place = self.servers[server]
        remote = self._runtime.agent(f"{place['url']}/{agent}", token=place["token"])

        async def ask(text: str) -> str:
            answer = await remote(Msg("user", text, role="user"))
            return answer.content  # type: ignore[no-any-return]

        return ask
