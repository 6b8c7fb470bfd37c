"""AutoGen over gRPC: agents in ``GrpcWorkerAgentRuntime``s that meet at a host.

The host is in the first serving process, beside agents; every message goes through it.
"""

# No postponed annotations here: the message handlers are found by their real types.

import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Self

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    message_handler,
    try_get_known_serializers_for_type,
)
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from . import Ask, Carrier as CarrierBase


@dataclass
class Say:
    """A message to an agent, and its reply."""

    name: str
    content: str
    role: str


class Echo(RoutedAgent):
    @message_handler
    async def reply(self, message: Say, ctx: MessageContext) -> Say:
        return Say(self.id.key, message.content, "assistant")


class Carrier(CarrierBase):
    """``runtime.send_message(msg, agent_id)``."""

    name: ClassVar = f"autogen-ext {version('autogen-ext')} gRPC"
    share: ClassVar = 0.05

    @staticmethod
    @asynccontextmanager
    async def serving(number: int, first: Mapping[str, Any] | None) -> AsyncIterator[dict[str, Any]]:
        logging.getLogger("autogen_core").setLevel(logging.ERROR)
        address = first["address"] if first else f"127.0.0.1:{_free_port()}"
        if first is None:
            host = GrpcWorkerAgentRuntimeHost(address=address)
            host.start()
        runtime = GrpcWorkerAgentRuntime(host_address=address)
        await runtime.start()
        await Echo.register(runtime, f"echo{number}", lambda: Echo("echoes"))
        yield {"address": address}

    async def __aenter__(self) -> Self:
        logging.getLogger("autogen_core").setLevel(logging.ERROR)
        self._runtime = GrpcWorkerAgentRuntime(host_address=self.servers[0]["address"])
        self._runtime.add_message_serializer(try_get_known_serializers_for_type(Say))
        await self._runtime.start()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._runtime.stop()

    def ask(self, server: int, agent: str) -> Ask:
        send, agent_id = self._runtime.send_message, AgentId(f"echo{server}", agent)

        async def ask(text: str) -> str:
            answer = await send(Say("user", text, "user"), agent_id)
            return answer.content  # type: ignore[no-any-return]

        return ask


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
