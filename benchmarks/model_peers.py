"""Model clients of other packages, where they can be imported; no benchmark needs one.

Each is used as its documentation shows and asked for what the clients in
``http_clients.py`` are asked for.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from .http_clients import KEY, MESSAGES, MODEL, QUESTION, SYSTEM, ModelClient

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import fetches a price list


class OpenAI(ModelClient):
    """``openai.AsyncOpenAI``."""

    name = "openai"
    modules: ClassVar = ("openai",)
    pip = "openai"
    share = 0.1

    def __init__(self, base_url: str) -> None:
        import openai

        super().__init__(base_url)
        self._client: Any = openai.AsyncOpenAI(api_key=KEY, base_url=base_url)

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self) -> str:
        answer = await self._client.chat.completions.create(model=MODEL, messages=MESSAGES)
        return answer.choices[0].message.content or ""

    async def listen(self) -> str:
        words = []
        stream = await self._client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            for choice in chunk.choices:
                words.append(choice.delta.content or "")  # noqa: PERF401  # at each event
        return "".join(words)


class LiteLLM(ModelClient):
    """``litellm.acompletion``, which keeps its clients itself."""

    name = "litellm"
    modules: ClassVar = ("litellm",)
    pip = "litellm"
    share = 0.05

    async def ask(self) -> str:
        return (await self._complete()).choices[0].message.content or ""

    async def listen(self) -> str:
        words = []
        async for chunk in await self._complete(stream=True, stream_options={"include_usage": True}):
            for choice in chunk.choices:
                words.append(choice.delta.content or "")  # noqa: PERF401  # at each event
        return "".join(words)

    async def _complete(self, **args: Any) -> Any:
        import litellm

        return await litellm.acompletion(
            f"openai/{MODEL}", messages=MESSAGES, api_base=self._base_url, api_key=KEY, **args
        )


class AgentScope(ModelClient):
    """``OpenAIChatModel`` of AgentScope 2, over the client of openai."""

    name = "agentscope"
    modules: ClassVar = ("agentscope.model", "agentscope.credential", "agentscope.message")
    pip = "'agentscope>=2'"
    share = 0.1

    def __init__(self, base_url: str) -> None:
        from agentscope.credential import OpenAICredential
        from agentscope.message import SystemMsg, UserMsg
        from agentscope.model import OpenAIChatModel

        super().__init__(base_url)
        credential = OpenAICredential(api_key=KEY, base_url=base_url)
        self._whole, self._streaming = (
            OpenAIChatModel(credential, MODEL, stream=is_streaming) for is_streaming in (False, True)
        )
        self._messages = [SystemMsg("system", SYSTEM), UserMsg("user", QUESTION)]

    async def __aexit__(self, *error: object) -> None:
        for model in (self._whole, self._streaming):
            await model.client.close()

    async def ask(self) -> str:
        return _text_of(await self._whole(self._messages))

    async def listen(self) -> str:
        words = []
        async for response in await self._streaming(self._messages):
            if not response.is_last:  # the last one repeats the whole
                words.append(_text_of(response))  # noqa: PERF401  # at each event
        return "".join(words)


def _text_of(response: Any) -> str:
    return "".join(block.text for block in response.content if block.type == "text")


class AutogenExt(ModelClient):
    """``OpenAIChatCompletionClient`` of autogen-ext, over the client of openai."""

    name = "autogen-ext"
    modules: ClassVar = ("autogen_core.models", "autogen_ext.models.openai")
    pip = "'autogen-ext[openai]'"
    share = 0.1

    def __init__(self, base_url: str) -> None:
        from autogen_core.models import SystemMessage, UserMessage
        from autogen_ext.models.openai import OpenAIChatCompletionClient

        super().__init__(base_url)
        self._client = OpenAIChatCompletionClient(model=MODEL, api_key=KEY, base_url=base_url)
        self._messages = [SystemMessage(content=SYSTEM), UserMessage(content=QUESTION, source="user")]

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self) -> str:
        return str((await self._client.create(self._messages)).content)

    async def listen(self) -> str:
        words = []
        async for piece in self._client.create_stream(self._messages, include_usage=True):
            if isinstance(piece, str):  # what comes last is the whole
                words.append(piece)  # noqa: PERF401  # at each event
        return "".join(words)


PEERS: tuple[type[ModelClient], ...] = (OpenAI, LiteLLM, AgentScope, AutogenExt)
