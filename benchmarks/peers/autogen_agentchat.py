"""AutoGen's ``AssistantAgent`` over a fake chat client."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ChatCompletionClient, CreateResult, ModelInfo, RequestUsage, SystemMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..safety import Brain


class FakeClient(ChatCompletionClient):
    """Answers with what the brain makes of the texts it is given."""

    component_config_schema = None  # type: ignore[assignment]

    def __init__(self, brain: Brain) -> None:
        self._brain = brain

    async def create(self, messages: Sequence[Any], **kwargs: Any) -> CreateResult:
        heard = [str(each.content) for each in messages if not isinstance(each, SystemMessage)]
        answer = await self._brain.answer(heard)
        return CreateResult(finish_reason="stop", content=answer, usage=RequestUsage(1, 1), cached=False)

    def create_stream(self, messages: Sequence[Any], **kwargs: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def actual_usage(self) -> RequestUsage:
        return RequestUsage(0, 0)

    total_usage = actual_usage

    def count_tokens(self, messages: Sequence[Any], **kwargs: Any) -> int:
        return 1

    remaining_tokens = count_tokens

    @property
    def model_info(self) -> ModelInfo:
        return ModelInfo(
            vision=False, function_calling=False, json_output=False, family="x", structured_output=False
        )

    capabilities = model_info  # type: ignore[assignment]


async def converse(brain: Brain, questions: Sequence[str]) -> tuple[str, list[str]]:
    """Ask one agent all questions at once; return its name and what it remembers."""
    agent = AssistantAgent("agent", FakeClient(brain), system_message="You answer.")
    await asyncio.gather(*(agent.run(task=question) for question in questions))
    remembered = await agent.model_context.get_messages()
    return f"AutoGen {version('autogen-agentchat')}, AssistantAgent", [
        str(each.content) for each in remembered
    ]
