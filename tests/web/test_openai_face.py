"""Agents behind OpenAI's form, asked by OpenAI's own client, over TCP under uvicorn."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI, Header, HTTPException
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from agentscope_async import (
    AgentBase,
    BudgetExceededError,
    ConfigError,
    DialogAgent,
    EchoModel,
    FunctionModel,
    MailboxFullError,
    MissingExtraError,
    Msg,
    ReActAgent,
    ScriptedModel,
    SequentialPipeline,
    ServerError,
    Speech,
    Usage,
)
from agentscope_async.errors import ContentFiltered, ContextTooLong
from agentscope_async.message import ToolCallPart
from agentscope_async.models.base import ModelResponse
from agentscope_async.pipelines.batch import DebateSpec
from agentscope_async.web import lifespan, turns
from agentscope_async.web.openai_face import openai_api
from tests.web import serving
from tests.web.serving import served

pytestmark = pytest.mark.usefixtures("no_leaks")

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
HELLO: Any = [{"role": "user", "content": "Hello there"}]


@asynccontextmanager
async def talking_to(
    tmp_path: Path, models: dict[str, Any], api_key: str = "any", **options: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    app = FastAPI(lifespan=lifespan(save_dir=tmp_path, run_id="web"))
    app.include_router(openai_api(models, **options))
    async with (
        served(app) as origin,
        openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=api_key, max_retries=0) as client,
    ):
        yield client


def ann_with(model: Any, **options: Any) -> Any:
    return lambda: DialogAgent("Ann", "You are Ann.", model, **options)


def native(model: Any) -> Any:
    model.tool_calling = "native"
    return model


class Recorder:
    """A model's function that keeps what it was asked and told."""

    def __init__(self, answer: Any = "fine") -> None:
        self.answer = answer
        self.prompts: list[Any] = []
        self.args: list[dict[str, Any]] = []

    def __call__(self, messages: Any, **args: Any) -> Any:
        self.prompts.append(messages)
        self.args.append(args)
        return self.answer


class Held(AgentBase):
    """Says a word, then waits until it is let go on; says when it has ended."""

    def __init__(self) -> None:
        super().__init__("Held")
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        try:
            await self.speak(Speech("text", "first"))
            self.begun.set()
            await self.go_on.wait()
            return Msg(self.name, "first", "assistant")
        finally:
            self.ended.set()


class Failing(AgentBase):
    def __init__(self, error: Exception, *, says: str = "") -> None:
        super().__init__("Failing")
        self.error = error
        self.says = says

    async def reply(self, x: Any = None) -> Msg:
        if self.says:
            await self.speak(Speech("text", self.says))
        raise self.error


# -- plain and streamed --


async def test_an_answer_is_a_chat_completion_of_the_client(tmp_path: Path) -> None:
    model = ScriptedModel([ModelResponse("Hi!", usage=Usage(7, 2), finish_reason="stop")])
    async with talking_to(tmp_path, {"ann": ann_with(model)}) as client:
        answer = await client.chat.completions.create(model="ann", messages=HELLO)
    assert type(answer) is ChatCompletion
    assert answer.object == "chat.completion"
    assert answer.model == "ann"
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hi!", "stop")
    assert choice.message.tool_calls is None
    usage = answer.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 2, 9)


async def test_a_stream_gives_chunks_whose_texts_add_up(tmp_path: Path) -> None:
    model = ScriptedModel(["one two three"])
    async with talking_to(tmp_path, {"ann": ann_with(model)}) as client:
        stream = await client.chat.completions.create(model="ann", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    assert {type(chunk) for chunk in chunks} == {ChatCompletionChunk}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert pieces == ["one", " two", " three"]
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_stream_ends_with_the_usage_when_that_is_wanted(tmp_path: Path) -> None:
    model = ScriptedModel([ModelResponse("Hi!", usage=Usage(7, 2))])
    async with talking_to(tmp_path, {"ann": ann_with(model)}) as client:
        stream = await client.chat.completions.create(
            model="ann", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 9
    assert all(chunk.usage is None for chunk in chunks[:-1])


class Searching(AgentBase):
    """Says something aloud before it answers."""

    def __init__(self, *aloud: str, answer: str = "The answer is 42.") -> None:
        super().__init__("Searching")
        self.aloud = aloud
        self.answer = answer

    async def reply(self, x: Any = None) -> Msg:
        for each in self.aloud:
            await self.speak(Speech("text", each))
        return Msg(self.name, self.answer, "assistant")


@pytest.mark.parametrize(
    ("aloud", "heard"),
    [
        ([], "The answer is 42."),
        (["The answer ", "is 42."], "The answer is 42."),
        (["The answer is 42. "], "The answer is 42. "),
        (["Let me look ..."], "Let me look ...\n\nThe answer is 42."),
        (["Let me look ...", "\n", "The answer is 42."], "Let me look ...\nThe answer is 42."),
    ],
)
async def test_the_answer_is_in_the_stream_whatever_was_said_before(
    tmp_path: Path, aloud: list[str], heard: str
) -> None:
    async with talking_to(tmp_path, {"ann": lambda: Searching(*aloud)}) as client:
        stream = await client.chat.completions.create(model="ann", messages=HELLO, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == heard


async def test_what_an_agent_says_before_and_after_its_tools_stays_apart(tmp_path: Path) -> None:
    def look() -> str:
        """Look around."""
        return "42"

    call = ToolCallPart("c1", "look", {}, "{}")
    model = native(ScriptedModel([ModelResponse("I will look.", tool_calls=[call]), "It is 42."]))
    async with talking_to(tmp_path, {"ann": lambda: ReActAgent("Ann", None, model, tools=[look])}) as client:
        stream = await client.chat.completions.create(model="ann", messages=HELLO, stream=True)
        heard = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert heard == "I will look.\n\nIt is 42."


async def test_the_clients_stream_helper_puts_the_answer_together(tmp_path: Path) -> None:
    async with (
        talking_to(tmp_path, {"ann": ann_with(ScriptedModel(["one two"]))}) as client,
        client.chat.completions.stream(model="ann", messages=HELLO) as stream,
    ):
        whole = await stream.get_final_completion()
    assert whole.choices[0].message.content == "one two"
    assert whole.choices[0].finish_reason == "stop"


async def test_a_stream_on_the_wire_ends_with_done(tmp_path: Path) -> None:
    async with (
        talking_to(tmp_path, {"ann": ann_with(EchoModel())}) as client,
        httpx.AsyncClient() as http,
    ):
        body = {"model": "ann", "messages": HELLO, "stream": True}
        answer = await http.post(f"{client.base_url}chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert all(event.startswith("data: {") for event in events[:-2])
    assert events[-2:] == ["data: [DONE]", ""]


async def test_a_stream_begins_without_its_first_word_when_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PING_S", 0.01)
    go_on = asyncio.Event()

    async def think(messages: Any) -> str:
        await go_on.wait()
        raise ServerError("broken", provider="openai", model="m")

    body = {"model": "ann", "messages": HELLO, "stream": True}
    async with (
        talking_to(tmp_path, {"ann": ann_with(FunctionModel(think))}) as client,
        httpx.AsyncClient() as http,
        http.stream("POST", f"{client.base_url}chat/completions", json=body) as answer,
    ):
        lines = answer.aiter_lines()
        opening = json.loads((await anext(lines)).removeprefix("data: "))
        assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        while await anext(lines) != ":":
            pass
        go_on.set()
        rest = [line async for line in lines if line.startswith("data: ")]
    assert answer.status_code == 200
    assert ["error" in json.loads(line.removeprefix("data: ")) for line in rest] == [True]


async def test_an_answer_that_met_the_limit_says_so(tmp_path: Path) -> None:
    model = ScriptedModel([ModelResponse("Once upon", finish_reason="MAX_TOKENS")])
    async with talking_to(tmp_path, {"ann": ann_with(model)}) as client:
        answer = await client.chat.completions.create(model="ann", messages=HELLO)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_of_the_model_is_one_for_the_client(tmp_path: Path, streamed: bool) -> None:
    model = ScriptedModel([ModelResponse(refusal="I would rather not.")])
    async with talking_to(tmp_path, {"ann": ann_with(model)}) as client:
        if streamed:
            async with client.chat.completions.stream(model="ann", messages=HELLO) as stream:
                message: Any = (await stream.get_final_completion()).choices[0].message
        else:
            answer = await client.chat.completions.create(model="ann", messages=HELLO)
            message = answer.choices[0].message
    assert (message.content or message.refusal) == "I would rather not."


# -- what the agent knows --


async def test_the_history_sent_is_what_the_agent_remembers(tmp_path: Path) -> None:
    asked = Recorder()
    history: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My name is Bob.", "name": "Bob"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello Bob."}]},
        {"role": "user", "content": "Who am I?"},
    ]
    async with talking_to(tmp_path, {"ann": ann_with(FunctionModel(asked))}) as client:
        await client.chat.completions.create(model="ann", messages=history)
    assert [(said["role"], said["content"]) for said in asked.prompts[0]] == [
        ("system", "You are Ann."),
        ("system", "Be brief."),
        ("user", "Bob: My name is Bob."),
        ("assistant", "Hello Bob."),
        ("user", "user: Who am I?"),
    ]


async def test_nothing_is_remembered_from_one_request_to_the_next(tmp_path: Path) -> None:
    asked = Recorder()
    async with talking_to(tmp_path, {"ann": ann_with(FunctionModel(asked))}) as client:
        for _ in range(2):
            await client.chat.completions.create(model="ann", messages=HELLO)
    assert len(asked.prompts[0]) == len(asked.prompts[1]) == 2


async def test_an_agent_given_itself_is_a_pattern_that_stays_as_it_is(tmp_path: Path) -> None:
    asked = Recorder()
    ann = DialogAgent("Ann", "You are Ann.", FunctionModel(asked))
    await ann.observe(Msg("Eve", "The word is tulip.", "user"))
    async with talking_to(tmp_path, {"ann": ann}) as client:
        for _ in range(2):
            await client.chat.completions.create(model="ann", messages=HELLO)
    heard = [said["content"] for said in asked.prompts[1]]
    assert heard == ["You are Ann.", "Eve: The word is tulip.", "user: Hello there"]
    assert ann.memory is not None
    assert ann.memory.size() == 1


async def test_a_user_with_the_agents_name_is_not_taken_for_the_agent(tmp_path: Path) -> None:
    asked = Recorder()
    said: Any = [{"role": "user", "content": "I said so.", "name": "Ann"}]
    async with talking_to(tmp_path, {"ann": ann_with(FunctionModel(asked))}) as client:
        await client.chat.completions.create(model="ann", messages=said)
    heard = asked.prompts[0][-1]
    assert (heard["role"], heard["content"]) == ("user", "Ann (user): I said so.")


async def test_images_reach_the_model(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Looking(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            seen.extend(x.content)
            return Msg(self.name, "a cat", "assistant")

    said: Any = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
            ],
        }
    ]
    async with talking_to(tmp_path, {"eye": lambda: Looking("eye")}) as client:
        await client.chat.completions.create(model="eye", messages=said)
    assert [part.kind for part in seen] == ["text", "image"]


async def test_files_of_the_server_are_not_read(tmp_path: Path) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]
    said: Any = [{"role": "user", "content": parts}]
    async with talking_to(tmp_path, {"ann": ann_with(EchoModel())}) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="ann", messages=said)
    assert refused.value.code == "invalid_value"


# -- what the model is told --


async def test_options_are_given_to_the_model(tmp_path: Path) -> None:
    asked = Recorder()
    async with talking_to(tmp_path, {"ann": ann_with(FunctionModel(asked))}) as client:
        await client.chat.completions.create(
            model="ann",
            messages=HELLO,
            temperature=0.5,
            top_p=0.9,
            seed=3,
            max_completion_tokens=20,
            stop="END",
            user="bob",
            n=1,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}},
            },
        )
    assert asked.args == [
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
            "max_tokens": 20,
            "stop": ["END"],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}},
            },
        }
    ]


async def test_options_of_one_request_do_not_reach_the_next(tmp_path: Path) -> None:
    asked = Recorder()
    ann = DialogAgent("Ann", None, FunctionModel(asked))
    async with talking_to(tmp_path, {"ann": ann}) as client:
        await client.chat.completions.create(model="ann", messages=HELLO, temperature=1)
        await client.chat.completions.create(model="ann", messages=HELLO)
    assert asked.args[1] == {}


async def test_a_parameter_the_model_does_not_take_is_a_bad_request(tmp_path: Path) -> None:
    def refuse(messages: Any, **args: Any) -> str:
        raise ConfigError("no such argument")

    async with talking_to(tmp_path, {"ann": ann_with(FunctionModel(refuse))}) as client:
        with pytest.raises(openai.BadRequestError, match="logit_bias"):
            await client.chat.completions.create(model="ann", messages=HELLO, logit_bias={"1": 2})


# -- tools --


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_clients_tools_are_called_by_it_and_their_results_understood(
    tmp_path: Path, streamed: bool
) -> None:
    call = ToolCallPart("call_1", "weather", {"city": "Oslo"}, '{"city":"Oslo"}')
    answers: list[Any] = [ModelResponse(tool_calls=[call], finish_reason="tool_calls"), "It rains in Oslo."]
    model = native(ScriptedModel(answers))
    talk: Any = list(HELLO)

    async def ask(client: openai.AsyncOpenAI) -> Any:
        if not streamed:
            return await client.chat.completions.create(model="ann", messages=talk, tools=[WEATHER])
        async with client.chat.completions.stream(model="ann", messages=talk, tools=[WEATHER]) as stream:
            return await stream.get_final_completion()

    async with talking_to(tmp_path, {"ann": ann_with(model)}) as client:
        first = (await ask(client)).choices[0]
        assert first.finish_reason == "tool_calls"
        assert first.message.content is None
        (asked,) = first.message.tool_calls
        assert (asked.id, asked.type, asked.function.name) == ("call_1", "function", "weather")
        assert asked.function.arguments == '{"city":"Oslo"}'
        talk.append(first.message.model_dump(exclude={"parsed"}))
        talk.append({"role": "tool", "tool_call_id": "call_1", "content": "rain"})
        second = (await ask(client)).choices[0]
    assert (second.message.content, second.finish_reason) == ("It rains in Oslo.", "stop")
    assert [said["role"] for said in model.calls[1]] == ["system", "user", "assistant", "tool"]
    assert model.calls[1][2]["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo"}'
    assert model.calls[1][3] == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


async def test_tool_definitions_reach_the_model_as_they_were_sent(tmp_path: Path) -> None:
    asked = Recorder()
    async with talking_to(tmp_path, {"ann": ann_with(native(FunctionModel(asked)))}) as client:
        await client.chat.completions.create(
            model="ann", messages=HELLO, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False
        )
    assert asked.args == [{"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False}]


@pytest.mark.parametrize(
    "target",
    [
        ann_with(EchoModel()),
        lambda: ReActAgent("Ann", None, native(EchoModel()), tools=[]),
        lambda: SequentialPipeline([DialogAgent("Ann", None, native(EchoModel()))]),
    ],
    ids=["a model without tools", "an agent with its own", "a pipeline"],
)
async def test_tools_are_refused_where_nobody_would_call_them(tmp_path: Path, target: Any) -> None:
    async with talking_to(tmp_path, {"ann": target}) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="ann", messages=HELLO, tools=[WEATHER])
    assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")


async def test_tools_an_agent_calls_itself_are_not_shown_as_the_clients(tmp_path: Path) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: one.
            b: the other.
        """
        return a + b

    call = ToolCallPart("c1", "add", {"a": 1, "b": 2}, '{"a":1,"b":2}')
    answers = [ModelResponse(tool_calls=[call], usage=Usage(5, 1)), ModelResponse("3", usage=Usage(9, 1))]
    model = native(ScriptedModel(answers))
    async with talking_to(tmp_path, {"ann": lambda: ReActAgent("Ann", None, model, tools=[add])}) as client:
        answer = await client.chat.completions.create(model="ann", messages=HELLO)
    assert answer.choices[0].message.content == "3"
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == 16


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_agent_that_stops_at_a_call_of_its_own_shows_none(tmp_path: Path, streamed: bool) -> None:
    model = native(ScriptedModel([ModelResponse(tool_calls=[ToolCallPart("c1", "look", {}, "{}")])]))

    def look() -> str:
        """Look around."""
        return "nothing"

    bob = ReActAgent("Bob", None, model, tools=[look], max_iters=1)
    async with talking_to(tmp_path, {"bob": lambda: bob}) as client:
        if streamed:
            async with client.chat.completions.stream(model="bob", messages=HELLO) as stream:
                choice: Any = (await stream.get_final_completion()).choices[0]
        else:
            choice = (await client.chat.completions.create(model="bob", messages=HELLO)).choices[0]
    assert choice.message.content
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")


async def test_a_tools_result_that_nobody_asked_for_is_a_bad_request(tmp_path: Path) -> None:
    said: Any = [*HELLO, {"role": "tool", "tool_call_id": "call_9", "content": "rain"}]
    async with talking_to(tmp_path, {"ann": ann_with(native(EchoModel()))}) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="ann", messages=said)
    assert refused.value.param == "messages.1.tool_call_id"


# -- teams --


async def test_a_pipeline_answers_and_each_of_its_agents_knows_the_history(tmp_path: Path) -> None:
    first, second = Recorder("draft"), Recorder("final")

    def team() -> SequentialPipeline:
        return SequentialPipeline(
            [
                DialogAgent("Writer", None, FunctionModel(first)),
                DialogAgent("Editor", None, FunctionModel(second)),
            ]
        )

    said: Any = [{"role": "user", "content": "About tulips."}, *HELLO]
    async with talking_to(tmp_path, {"team": team}) as client:
        answer = await client.chat.completions.create(model="team", messages=said, temperature=1)
    assert answer.choices[0].message.content == "final"
    assert first.args == second.args == [{}]
    assert first.prompts[0][0]["content"] == second.prompts[0][0]["content"] == "user: About tulips."
    assert second.prompts[0][1]["content"] == "Writer: draft"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0


async def test_an_async_factory_makes_agents(tmp_path: Path) -> None:
    async def make() -> AgentBase:
        return Plain("Ann")

    async with talking_to(tmp_path, {"ann": make}) as client:
        answer = await client.chat.completions.create(model="ann", messages=HELLO)
    assert answer.choices[0].message.content == "yes"


async def test_a_plain_function_answers(tmp_path: Path) -> None:
    async def shout(msg: Any) -> Msg:
        return Msg("shout", msg.text.upper(), "assistant")

    async with talking_to(tmp_path, {"shout": shout}) as client:
        answer = await client.chat.completions.create(model="shout", messages=HELLO)
    assert answer.choices[0].message.content == "HELLO THERE"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_debate_about_the_last_message_is_the_answer(tmp_path: Path, streamed: bool) -> None:
    def speaker(name: str, text: str) -> Any:
        return lambda seed: DialogAgent(name, None, ScriptedModel([text], loop=True))

    spec = DebateSpec(
        speaker("Pro", "Yes it is."),
        speaker("Con", "No."),
        speaker("Judge", "Pro wins."),
        topic="to be replaced",
        rounds=1,
    )
    async with talking_to(tmp_path, {"debate": spec}) as client:
        if streamed:
            stream = await client.chat.completions.create(model="debate", messages=HELLO, stream=True)
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        else:
            answer = await client.chat.completions.create(model="debate", messages=HELLO)
            said = answer.choices[0].message.content or ""
    assert said == "Pro: Yes it is.\n\nCon: No.\n\nJudge: Pro wins."


async def test_the_models_are_listed(tmp_path: Path) -> None:
    models = {"ann": ann_with(EchoModel()), "team:2": ann_with(EchoModel())}
    async with talking_to(tmp_path, models) as client:
        listed = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("ann")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("bob")
    assert listed == ["ann", "team:2"]
    assert (one.id, one.object) == ("ann", "model")


# -- errors --


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (RuntimeError("secret detail"), openai.InternalServerError, "internal"),
        (MailboxFullError("Ann", 1, "reject"), openai.InternalServerError, "overloaded"),
        (ServerError("secret", provider="p", model="m"), openai.InternalServerError, "model_failed"),
        (
            BudgetExceededError("secret", limit="usd", allowed=1, spent=1, reserved=0, needed=1),
            openai.RateLimitError,
            "insufficient_quota",
        ),
        (
            ContextTooLong("secret", provider="p", model="m"),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (ContentFiltered("secret", provider="p", model="m"), openai.BadRequestError, "content_filter"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_fails_is_the_clients_exception_and_holds_no_internals(
    tmp_path: Path, error: Exception, kind: type[openai.APIStatusError], code: str, streamed: bool
) -> None:
    async with talking_to(tmp_path, {"ann": lambda: Failing(error)}) as client:
        with pytest.raises(kind) as failed:
            await client.chat.completions.create(model="ann", messages=HELLO, stream=streamed)
    assert failed.value.code == code
    assert "secret" not in str(failed.value)


async def test_what_fails_in_the_middle_of_a_stream_is_the_clients_exception(tmp_path: Path) -> None:
    async with talking_to(tmp_path, {"ann": lambda: Failing(RuntimeError("secret"), says="Well")}) as client:
        stream = await client.chat.completions.create(model="ann", messages=HELLO, stream=True)
        heard = []
        with pytest.raises(openai.APIError) as failed:
            async for chunk in stream:
                heard.append(chunk.choices[0].delta.content)  # noqa: PERF401  # kept also when it fails
    assert heard == ["", "Well"]
    assert failed.value.code == "internal"


async def test_an_unknown_model_is_not_found(tmp_path: Path) -> None:
    async with talking_to(tmp_path, {"ann": ann_with(EchoModel())}) as client:
        with pytest.raises(openai.NotFoundError) as failed:
            await client.chat.completions.create(model="bob", messages=HELLO)
    assert (failed.value.code, failed.value.param) == ("model_not_found", "model")


async def test_what_is_null_is_as_if_it_were_left_out(tmp_path: Path) -> None:
    nulls = dict.fromkeys(
        "audio functions function_call prediction top_logprobs verbosity web_search_options "
        "temperature stop tools response_format".split()
    )
    body = {"model": "ann", "messages": HELLO, **nulls, "stream_options": {"include_usage": None}}
    async with (
        talking_to(tmp_path, {"ann": ann_with(EchoModel())}) as client,
        httpx.AsyncClient() as http,
    ):
        assert (await http.post(f"{client.base_url}chat/completions", json=body)).status_code == 200


async def test_people_have_names_of_their_own_letters(tmp_path: Path) -> None:
    said: Any = [{"role": "user", "content": "Hi", "name": "Zoë"}]
    async with talking_to(tmp_path, {"ann": ann_with(EchoModel())}) as client:
        answer = await client.chat.completions.create(model="ann", messages=said)
    assert answer.choices[0].message.content == "Zoë: Hi"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"n": 2}, "n", "invalid_value"),
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"max_tokens": "many"}, "max_tokens", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"\ud800": 1}, None, "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0", "invalid_value"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_is_not_valid_is_a_bad_request_that_names_the_parameter(
    tmp_path: Path, body: dict[str, Any], param: str | None, code: str
) -> None:
    async with (
        talking_to(tmp_path, {"ann": ann_with(EchoModel())}) as client,
        httpx.AsyncClient() as http,
    ):
        content = json.dumps({"model": "ann", "messages": HELLO, **body})
        answer = await http.post(
            f"{client.base_url}chat/completions",
            content=content,
            headers={"Content-Type": "application/json"},
        )
    assert answer.status_code == 400
    fault = answer.json()["error"]
    assert (fault["param"], fault["code"], fault["type"]) == (param, code, "invalid_request_error")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [(b"{", 400, "invalid_json"), (b'"\xff"', 400, "invalid_json"), (b"[" * 2000, 413, "too_large")],
)
async def test_bodies_that_cannot_be_read_are_refused(
    tmp_path: Path, content: bytes, status: int, code: str
) -> None:
    async with (
        talking_to(tmp_path, {"ann": ann_with(EchoModel())}, max_body_bytes=1000) as client,
        httpx.AsyncClient() as http,
    ):
        answer = await http.post(
            f"{client.base_url}chat/completions",
            content=content,
            headers={"Content-Type": "application/json"},
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("key", ["wrong", "t0ken"])
async def test_without_the_token_nobody_is_served(tmp_path: Path, key: str) -> None:
    async with talking_to(tmp_path, {"ann": ann_with(EchoModel())}, key, token="t0ken2") as client:
        with pytest.raises(openai.AuthenticationError) as failed:
            await client.chat.completions.create(model="ann", messages=HELLO)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
        answer = await client.with_options(api_key="t0ken2").chat.completions.create(
            model="ann", messages=HELLO
        )
    assert failed.value.code == "invalid_api_key"
    assert answer.choices[0].message.content


async def test_a_dependency_decides_who_is_served(tmp_path: Path) -> None:
    def check(authorization: str = Header("")) -> None:
        if authorization != "Bearer bob":
            raise HTTPException(403, "Not you.")

    async with talking_to(tmp_path, {"ann": ann_with(EchoModel())}, "ann", auth=check) as client:
        with pytest.raises(openai.PermissionDeniedError, match="Not you"):
            await client.chat.completions.create(model="ann", messages=HELLO)
        await client.with_options(api_key="bob").chat.completions.create(model="ann", messages=HELLO)


async def test_too_many_turns_are_refused_with_the_time_to_wait(tmp_path: Path) -> None:
    held = Held()
    agents = iter([held, DialogAgent("Ann", None, EchoModel())])
    async with talking_to(tmp_path, {"ann": lambda: next(agents)}, max_turns=1, retry_after_s=7) as client:
        asking = asyncio.create_task(client.chat.completions.create(model="ann", messages=HELLO))
        await held.begun.wait()
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="ann", messages=HELLO)
        held.go_on.set()
        await asking
        await client.chat.completions.create(model="ann", messages=HELLO)
    assert failed.value.status_code == 503
    assert failed.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_cancels_the_turn(tmp_path: Path, streamed: bool) -> None:
    held = Held()
    async with talking_to(tmp_path, {"ann": lambda: held}) as client:
        if streamed:
            stream = await client.chat.completions.create(model="ann", messages=HELLO, stream=True)
            await held.begun.wait()
            await stream.close()
        else:
            asking = asyncio.create_task(client.chat.completions.create(model="ann", messages=HELLO))
            await held.begun.wait()
            asking.cancel()
        await held.ended.wait()
    assert not held.go_on.is_set()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_service_that_closes_says_so_to_those_who_wait(
    tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SHUTDOWN_S", 0)
    held = Held()
    body = {"model": "ann", "messages": HELLO, "stream": streamed}
    async with httpx.AsyncClient() as http:
        async with talking_to(tmp_path, {"ann": lambda: held}) as client:
            asking = asyncio.create_task(http.post(f"{client.base_url}chat/completions", json=body))
            await held.begun.wait()
        answer = await asking
    assert (answer.status_code, '"code":"closing"' in answer.text) == (200 if streamed else 503, True)


async def test_a_service_that_closes_makes_no_more_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SHUTDOWN_S", 0)
    making = asyncio.Event()

    async def make() -> AgentBase:
        making.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with httpx.AsyncClient() as http:
        async with talking_to(tmp_path, {"ann": lambda: make()}) as client:
            body = {"model": "ann", "messages": HELLO}
            asking = asyncio.create_task(http.post(f"{client.base_url}chat/completions", json=body))
            await making.wait()
        answer = await asking
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


class Plain(AgentBase):
    async def reply(self, x: Any = None) -> Msg:
        return Msg(self.name, "yes", "assistant")


@pytest.mark.parametrize("agent", [Plain("Ann"), DialogAgent("Ann", None, EchoModel())])
@pytest.mark.parametrize("is_team", [True, False])
@pytest.mark.parametrize("size", [1, 2])
async def test_a_factory_that_gives_an_agent_again_is_found_out(
    tmp_path: Path, agent: AgentBase, is_team: bool, size: int
) -> None:
    pool = [copy.copy(agent) for _ in range(size)]
    given = itertools.cycle(pool)
    factory = (lambda: SequentialPipeline([next(given)])) if is_team else (lambda: next(given))
    async with talking_to(tmp_path, {"ann": factory}) as client:
        for _ in pool:
            await client.chat.completions.create(model="ann", messages=HELLO)
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="ann", messages=HELLO)


@pytest.mark.parametrize(
    ("models", "options", "why"),
    [
        ({}, {}, "what there is"),
        ({"a b": lambda: None}, {}, "no name for a model"),
        ({"..": lambda: None}, {}, "no name for a model"),
        ({"a": 3}, {}, "factory"),
        ({"a": SequentialPipeline([])}, {}, "factory"),
        ({"a": FastAPI()}, {}, "without arguments"),
        ({"a": lambda key, model: None}, {}, "without arguments"),
        ({"a": Failing(OSError())}, {}, "cannot be copied"),
        ({"a": lambda: None}, {"max_turns": 0}, "1 or more"),
        ({"a": lambda: None}, {"token": "x", "auth": lambda: None}, "not both"),
    ],
)
def test_what_cannot_be_exposed_is_refused_at_once(
    models: dict[str, Any], options: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        openai_api(models, **options)


def test_without_fastapi_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "agentscope_async.web._openai_routes", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtraError, match=r"agentscope-async\[web\]"):
        openai_api({"ann": ann_with(EchoModel())})
