"""The three wrappers against a server that has a real model."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import orjson
import pytest
from models.wire_driver import listen

from agentscope_async import errors
from agentscope_async.agents import DialogAgent
from agentscope_async.message import Msg
from agentscope_async.models._fetch import fetch
from agentscope_async.models.ollama import (
    OllamaChatWrapper,
    OllamaEmbeddingWrapper,
    OllamaGenerationWrapper,
)

HELLO = [{"role": "user", "content": "Say hello."}]
SHORT = {"temperature": 0, "max_tokens": 12}

pytestmark = pytest.mark.local_model


def chat(server: str, **options: Any) -> OllamaChatWrapper:
    return OllamaChatWrapper("test", "smollm2", host=server, **options)


async def quiet(server: str) -> dict[str, int]:
    """Wait until the server decodes nothing; return how many answers it finished and stopped."""
    return orjson.loads(await fetch(f"{server}/quiet", allow_private=True))


async def test_f14_chat_answers_and_counts(ollama_server):
    response = await chat(ollama_server, options={"temperature": 0})(HELLO, max_tokens=12)
    assert response.text
    assert response.usage is not None
    assert not response.usage.estimated
    assert 0 < response.usage.output_tokens <= 12
    assert response.usage.input_tokens > 2
    assert response.model == "smollm2:135m"


async def test_stream_says_what_the_whole_answer_says(ollama_server):
    whole = await chat(ollama_server)(HELLO, **SHORT)
    hearing = await listen(chat(ollama_server).stream(HELLO, **SHORT))
    assert "".join(delta.text for delta in hearing.deltas) == hearing.response.text == whole.text
    assert len(hearing.deltas) > 2
    assert hearing.response.finish_reason == whole.finish_reason


async def test_answer_is_held_to_a_schema(ollama_server):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    asked = [{"role": "user", "content": "Name a colour."}]
    response = await chat(ollama_server)(asked, response_format=schema, temperature=0)
    assert orjson.loads(response.text or "")["colour"] in ("red", "green")


async def test_f16_generation_answers_whole_and_streamed(ollama_server):
    model = OllamaGenerationWrapper(
        "test", "smollm2", {"temperature": 0, "num_predict": 12}, host=ollama_server
    )
    whole = await model("Say hello.", system="Be brief.")
    hearing = await listen(model.stream("Say hello.", system="Be brief."))
    assert whole.text == hearing.response.text
    assert whole.text


async def test_f17_vectors_tell_what_is_alike(ollama_server):
    model = OllamaEmbeddingWrapper("test", "smollm2", host=ollama_server)
    response = await model(["The cat sleeps.", "The cat is asleep.", "Parliament votes on taxes."])
    cat, same, other = response.embedding or ()
    assert _cosine(cat, same) > _cosine(cat, other)
    legacy = await OllamaEmbeddingWrapper("test", "smollm2", legacy=True, host=ollama_server)(
        "The cat sleeps."
    )
    assert legacy.embedding is not None
    assert _cosine(legacy.embedding[0], cat) > 0.99


def _cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


async def test_unknown_model_is_not_found(ollama_server):
    with pytest.raises(errors.NotFound, match="'nope' not found"):
        await OllamaChatWrapper("test", "nope", host=ollama_server)(HELLO)
    with pytest.raises(errors.NotFound):
        await listen(OllamaChatWrapper("test", "nope", host=ollama_server).stream(HELLO))
    assert await chat(ollama_server).list_models() == ["smollm2:135m"]


async def test_no_messages_load_the_model(ollama_server):
    response = await chat(ollama_server)([])
    assert (response.text, response.finish_reason) == ("", "load")


async def test_cancelling_a_stream_stops_the_decoding(ollama_server):
    before = await quiet(ollama_server)
    is_heard = asyncio.Event()

    async def hear() -> None:
        asked = [{"role": "user", "content": "Tell me a very long story about a fox."}]
        async with chat(ollama_server).stream(asked, max_tokens=900, temperature=0) as stream:
            async for _ in stream:
                is_heard.set()

    hearing = asyncio.create_task(hear())
    await is_heard.wait()
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    after = await quiet(ollama_server)
    assert after == {"finished": before["finished"], "stopped": before["stopped"] + 1}


async def test_agent_talks_by_it(ollama_server):
    agent = DialogAgent("Fox", "You are a fox.", model=chat(ollama_server, generate_args=SHORT))
    reply = await agent(Msg("Al", "Who are you?", "user"))
    assert reply.text
    assert reply.usage.output_tokens <= 12
