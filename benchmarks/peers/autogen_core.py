"""AutoGen's core: ``RoutedAgent``s under a ``SingleThreadedAgentRuntime``."""

# No postponed annotations here: the message handlers are found by their real types.

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Self

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    TypeSubscription,
    message_handler,
)

from ..systems import TEXT, Ask, Kind
from . import Peer


@dataclass
class Say:
    """A message to one agent, and its reply."""

    name: str
    content: str
    role: str


@dataclass
class Said:
    """What an agent in a hub has said."""

    name: str
    content: str
    role: str


class EchoAgent(RoutedAgent):
    @message_handler
    async def reply(self, message: Say, ctx: MessageContext) -> Say:
        return Say(self.id.key, TEXT, "assistant")


class PausingAgent(RoutedAgent):
    @message_handler
    async def reply(self, message: Say, ctx: MessageContext) -> Say:
        await asyncio.sleep(0)
        return Say(self.id.key, TEXT, "assistant")


class ListeningAgent(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("listens")
        self.memory: list[object] = []

    @message_handler
    async def reply(self, message: Say, ctx: MessageContext) -> Say:
        answer = Say(self.id.type, TEXT, "assistant")
        self.memory += [message, answer]
        await self.publish_message(Said(self.id.type, TEXT, "assistant"), TopicId("hub", "default"))
        return answer

    @message_handler
    async def hear(self, message: Said, ctx: MessageContext) -> None:
        self.memory.append(message)


class ModelledAgent(RoutedAgent):
    def __init__(self, model: Any) -> None:
        super().__init__("asks a model")
        self._model = model

    @message_handler
    async def reply(self, message: Say, ctx: MessageContext) -> Say:
        response = await self._model([{"role": "user", "content": message.content}])
        return Say(self.id.key, response.text, "assistant")


class Adapter(Peer):
    """Ask is ``send_message``, tell ``publish_message`` to a topic one agent subscribes to."""

    name = f"autogen-core {version('autogen-core')}"
    rows: ClassVar = frozenset({"L1", "L2", "L2b", "L2c", "L3", "L4", "L5", "L6"})
    share = 0.05

    async def __aenter__(self) -> Self:
        logging.getLogger("autogen_core").setLevel(logging.ERROR)
        await self._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runtime.stop()

    async def _start(self) -> None:
        self._runtime = SingleThreadedAgentRuntime()
        self._runtime.start()

    def request(self, text: str = TEXT) -> Say:
        return Say("user", text, "user")

    async def spawn(self, kind: Kind, names: Sequence[str]) -> Sequence[AgentId]:
        match kind:
            case "echo":
                await EchoAgent.register(self._runtime, "agent", lambda: EchoAgent("echoes"))
            case "pausing":
                await PausingAgent.register(self._runtime, "agent", lambda: PausingAgent("pauses"))
            case "modelled":
                await ModelledAgent.register(self._runtime, "agent", lambda: ModelledAgent(self.model))
            case "listening":
                return await self._spawn_hub(names)
        return [await self._runtime.get("agent", name, lazy=False) for name in names]

    async def _spawn_hub(self, names: Sequence[str]) -> Sequence[AgentId]:
        await self._runtime.stop()
        await self._start()  # the last hub's agents would listen on
        for name in names:
            await ListeningAgent.register(self._runtime, name, ListeningAgent)
            await self._runtime.add_subscription(TypeSubscription("hub", name))
        ids = [await self._runtime.get(name, lazy=False) for name in names]
        self._listeners = {
            each: await self._runtime.try_get_underlying_agent_instance(each, ListeningAgent) for each in ids
        }
        return ids

    def ask(self, agent: AgentId) -> Ask:
        send = self._runtime.send_message
        return lambda msg: send(msg, agent)

    def tell(self, agent: AgentId) -> Ask:
        publish, topic = self._runtime.publish_message, TopicId(f"{agent.type}:", agent.key)
        return lambda msg: publish(msg, topic)

    async def drain(self, agents: Sequence[AgentId]) -> None:
        await self._runtime.stop_when_idle()
        self._runtime.start()

    def heard(self, agent: AgentId) -> int:
        return len(self._listeners[agent].memory)
