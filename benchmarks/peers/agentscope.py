"""AgentScope 2: there is no bare actor, so an ask is a whole ``Agent.reply`` over a fake chat model."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

from agentscope.agent import Agent
from agentscope.credential import CredentialBase
from agentscope.formatter import OpenAIChatFormatter
from agentscope.message import Msg, TextBlock, UserMsg
from agentscope.model import ChatModelBase, ChatResponse

from ..systems import TEXT, Ask, Kind
from . import Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..safety import Brain

NAME = f"AgentScope {version('agentscope')}"


class FakeModel(ChatModelBase):
    """Answers with what ``answer`` makes of the texts it is given."""

    def __init__(self, answer: Callable[[list[str]], Awaitable[str]]) -> None:
        super().__init__(CredentialBase(), "fake", self.Parameters(), stream=False)
        self.formatter = OpenAIChatFormatter()  # agents look up what media it takes
        self._answer = answer

    async def _call_api(
        self, model_name: str, messages: list[Msg], *args: Any, **kwargs: Any
    ) -> ChatResponse:
        answer = await self._answer([text_of(msg) for msg in messages if msg.role != "system"])
        return ChatResponse([TextBlock(text=answer)], is_last=True)


def text_of(msg: Msg) -> str:
    """Return the text blocks of a message as one text."""
    return "\n".join(block.text for block in msg.get_content_blocks() if isinstance(block, TextBlock))


class Adapter(Peer):
    """Its context is emptied before every ask, so that turns do not get longer and longer."""

    name = NAME
    rows: ClassVar = frozenset({"L1", "L4", "L6"})
    share = 0.005

    def request(self, text: str = TEXT) -> Msg:
        return UserMsg("user", text)

    def text(self, reply: Msg) -> str:
        return text_of(reply)

    async def spawn(self, kind: Kind, names: Sequence[str]) -> Sequence[Agent]:
        model = FakeModel(self._say_back if kind == "modelled" else self._say_text)
        return [Agent(name, "You answer.", model) for name in names]

    def ask(self, agent: Agent) -> Ask:
        async def ask(msg: Msg) -> Msg:
            agent.state.context.clear()
            return await agent.reply(msg)

        return ask

    async def _say_text(self, heard: list[str]) -> str:
        return TEXT

    async def _say_back(self, heard: list[str]) -> str:
        question = [text for text in heard if text][-1]  # a message of its own comes last, without text
        return (await self.model([{"role": "user", "content": question}])).text or ""


async def converse(brain: Brain, questions: Sequence[str]) -> tuple[str, list[str]]:
    """Ask one agent all questions at once; return its name and what it remembers."""
    agent = Agent("agent", "You answer.", FakeModel(brain.answer))
    await asyncio.gather(*(agent.reply(UserMsg("user", question)) for question in questions))
    return f"{NAME}, Agent", [text_of(msg) for msg in agent.state.context]
