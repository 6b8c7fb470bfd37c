"""OpenAI Agents SDK: one agent, one ``SQLiteSession``, a fake model."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, SQLiteSession, Usage
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..safety import Brain


class FakeModel(Model):
    """Answers with what the brain makes of the texts it is given."""

    def __init__(self, brain: Brain) -> None:
        self._brain = brain

    async def get_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> ModelResponse:
        heard = [input] if isinstance(input, str) else [text_of(item) for item in input]
        text = ResponseOutputText(type="output_text", text=await self._brain.answer(heard), annotations=[])
        message = ResponseOutputMessage(
            id="fake", type="message", role="assistant", status="completed", content=[text]
        )
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def text_of(item: Any) -> str:
    """Return the text of a session item: a plain content, or parts."""
    content = item["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def converse(brain: Brain, questions: Sequence[str]) -> tuple[str, list[str]]:
    """Run one agent with one session and all questions at once; return its name and the session's items."""
    agent = Agent("agent", instructions="You answer.", model=FakeModel(brain))
    session, config = SQLiteSession("one"), RunConfig(tracing_disabled=True)
    await asyncio.gather(*(Runner.run(agent, each, session=session, run_config=config) for each in questions))
    items = await session.get_items()
    return f"OpenAI Agents {version('openai-agents')}, one SQLiteSession", [text_of(item) for item in items]
