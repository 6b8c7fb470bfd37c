"""The OpenAI wrappers against llama.cpp's own HTTP server, with a real model of 135 M parameters."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from models.wire_driver import heard, listen
from pydantic import BaseModel
from servers.llama_server import MODEL

from agentscope_async.agents import DialogAgent
from agentscope_async.errors import ContextTooLong
from agentscope_async.message import Msg
from agentscope_async.models.openai import OpenAIChatWrapper, OpenAIEmbeddingWrapper

pytestmark = pytest.mark.local_model

HELLO = [{"role": "user", "content": "Say hello."}]
STORY = [{"role": "user", "content": "Tell me a very long story about a fox."}]
GREET = {
    "type": "function",
    "function": {
        "name": "greet",
        "description": "Greet somebody.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}


@pytest.fixture
def smol(openai_server: str) -> OpenAIChatWrapper:
    return OpenAIChatWrapper(
        "smol",
        MODEL,
        base_url=f"{openai_server}/v1",
        generate_args={"seed": 1, "max_tokens": 12, "temperature": 0},
    )


async def test_chat_answers_with_the_tokens_it_took(smol):
    response = await smol(HELLO)
    assert response.text
    assert response.finish_reason in ("stop", "length")
    assert response.model == MODEL
    assert not response.usage.estimated
    assert 0 < response.usage.output_tokens <= 12


async def test_stream_says_what_the_whole_answer_says(smol):
    whole, streamed = await smol(HELLO), await heard(smol.stream(HELLO))
    assert streamed.text == whole.text
    assert streamed.usage == whole.usage


async def test_several_answers_are_all_given(smol):
    response = await smol(HELLO, n=2, max_tokens=4)
    assert len(response.texts) == 2
    assert response.text == response.texts[0]


class Person(BaseModel):
    name: str
    is_old: bool


async def test_answer_fits_the_schema(smol):
    messages = [{"role": "user", "content": "Invent a person, as JSON."}]
    response = await smol(messages, response_format=Person, max_tokens=60)
    assert Person.model_validate_json(response.text)


async def test_tool_that_is_required_is_called_or_text_is_an_answer(smol):
    messages = [{"role": "user", "content": "Greet Ada."}]
    response = await smol(messages, tools=[GREET], tool_choice="required", max_tokens=60)
    assert response.tool_calls or response.text is not None
    for call in response.tool_calls:
        assert (call.name, call.id != "") == ("greet", True)
        assert orjson.loads(call.raw) == dict(call.arguments)


async def test_streamed_tool_call_is_the_whole_one(smol):
    args: dict[str, Any] = {"tools": [GREET], "tool_choice": "required", "max_tokens": 60}
    messages = [{"role": "user", "content": "Greet Ada."}]
    whole, streamed = await smol(messages, **args), await heard(smol.stream(messages, **args))
    assert [(call.name, call.raw) for call in streamed.tool_calls] == [
        (call.name, call.raw) for call in whole.tool_calls
    ]


async def test_tool_result_is_taken_back(smol):
    call = {"id": "call_0", "type": "function", "function": {"name": "greet", "arguments": '{"name":"Ada"}'}}
    turns = [
        {"role": "user", "content": "Greet Ada."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "Hello Ada!"},
    ]
    assert (await smol(turns, tools=[GREET])).text is not None


async def test_two_callers_are_answered_at_once(smol):
    first, second = await asyncio.gather(smol(HELLO), smol(STORY))
    assert first.text
    assert second.text


async def test_stream_left_early_leaves_the_model_free(smol):
    async with smol.stream(STORY, max_tokens=800) as stream:
        async for _ in stream:
            break
    assert (await smol(HELLO)).text


async def test_prompt_that_is_too_long_is_told_by_its_class(smol):
    with pytest.raises(ContextTooLong):
        await smol([{"role": "user", "content": "fox " * 3_000}])
    with pytest.raises(ContextTooLong):
        await listen(smol.stream([{"role": "user", "content": "fox " * 3_000}]))


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_embeddings_are_one_vector_for_each_text(openai_server, encoding):
    model = OpenAIEmbeddingWrapper("smol", MODEL, base_url=f"{openai_server}/v1")
    one = (await model("a fox", encoding_format=encoding)).embedding
    both = (await model(["a fox", "an equation"], encoding_format=encoding)).embedding
    assert [len(vector) for vector in both] == [len(one[0])] * 2
    assert both[0] == pytest.approx(one[0], abs=1e-3)
    assert both[0] != pytest.approx(both[1], abs=1e-3)


async def test_agent_talks_through_it(smol):
    agent = DialogAgent("fox", sys_prompt="You are brief.", model=smol)
    reply = await agent(Msg("user", "Say hello.", role="user"))
    assert reply.text
