"""Models without a model."""

from __future__ import annotations

import asyncio

import pytest

from agentscope_async import (
    ConfigError,
    DialogAgent,
    EchoModel,
    FunctionModel,
    ModelError,
    ModelResponse,
    ScriptedModel,
    Speech,
    Usage,
)
from agentscope_async.message import ToolCallPart
from agentscope_async.models import ModelRegistry

DELAY_S = 0.02


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


def user(text):
    return {"role": "user", "content": text}


async def ask(model, text="x"):
    return (await model([user(text)])).text


async def heard(model, messages):
    async with model.stream(messages) as stream:
        return [delta async for delta in stream], stream.response


# -- EchoModel --


async def test_an_echo_says_the_last_message_back():
    model = EchoModel()
    response = await model([user("one"), user("two words")])
    assert (response.text, response.finish_reason, response.model) == ("two words", "stop", model.model_name)
    assert response.usage.estimated
    assert response.usage.output_tokens > 0
    assert response.usage.input_tokens > response.usage.output_tokens


@pytest.mark.parametrize("messages", [[], "", "just text"])
async def test_an_echo_of_little_is_that(messages):
    assert (await EchoModel()(messages)).text == (messages or "")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": []},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user", "content": ""},
    ],
)
async def test_messages_of_other_providers_forms_are_counted_without_failing(message):
    response = await ScriptedModel(["fine"])([message, user("and?")])
    assert response.usage.input_tokens > 0


# -- ScriptedModel --


async def test_a_script_is_said_in_order_and_keeps_what_was_asked():
    model = ScriptedModel(["one", "two"])
    assert [await ask(model, "a"), await ask(model, "b")] == ["one", "two"]
    assert model.calls == [[user("a")], [user("b")]]


async def test_a_script_that_has_ended_says_so():
    model = ScriptedModel(["one"])
    await ask(model)
    with pytest.raises(ModelError, match="has 1 answers and was asked for one more"):
        await ask(model)
    with pytest.raises(ModelError, match="has 0 answers"):
        await ask(ScriptedModel())
    with pytest.raises(ModelError, match="has 0 answers"):
        await ask(ScriptedModel(loop=True))


async def test_a_script_may_start_again():
    model = ScriptedModel(["one", "two"], loop=True)
    assert [await ask(model) for _ in range(5)] == ["one", "two", "one", "two", "one"]


async def test_a_script_holds_texts_objects_responses_and_errors():
    whole = ModelResponse("whole", usage=Usage(3, 4), finish_reason="length")
    model = ScriptedModel(["text", {"a": [1, "é"]}, whole, ConnectionError("down"), "after"])
    assert await ask(model) == "text"
    assert await ask(model) == '{"a":[1,"é"]}'
    assert await model([]) is whole
    with pytest.raises(ConnectionError, match="down"):
        await ask(model)
    assert await ask(model) == "after"


async def test_a_script_may_be_made_of_anything_that_can_be_iterated():
    assert await ask(ScriptedModel(str(n) for n in range(3))) == "0"
    registry = ModelRegistry()
    registry.read({"config_name": "script", "model_type": "fake_scripted", "answers": ["a"], "loop": True})
    assert await ask(registry.load("script")) == "a"


async def test_tool_calls_are_scripted_and_streamed():
    calls = [ToolCallPart("1", "add", {"a": 1}, '{"a": 1}'), ToolCallPart("2", "stop")]
    model = ScriptedModel([ModelResponse("let me see", tool_calls=calls, thinking="a sum")], loop=True)
    assert (await model([])).tool_calls == calls
    deltas, response = await heard(model, [])
    assert [delta.kind for delta in deltas] == [
        "thinking",
        "thinking",
        "text",
        "text",
        "text",
        "tool_call",
        "tool_call",
    ]
    assert [delta.data for delta in deltas[-2:]] == calls
    assert response.tool_calls == calls


# -- FunctionModel --


async def test_a_function_answers():
    def shout(messages):
        return messages[-1]["content"].upper()

    async def shout_async(messages):
        await asyncio.sleep(0)
        return shout(messages)

    assert await ask(FunctionModel(shout), "hi") == "HI"
    assert await ask(FunctionModel(shout_async), "hi") == "HI"


async def test_a_function_gets_the_arguments_of_the_call():
    def answer(messages, *, seed, top_p=None):
        return f"{seed} {top_p}"

    model = FunctionModel(answer, generate_args={"seed": 1})
    assert (await model([], top_p=2)).text == "1 2"
    with pytest.raises(TypeError, match="colour"):
        await model([], colour="blue")


async def test_a_function_may_give_whatever_a_script_may_hold():
    answers = iter([{"a": 1}, ModelResponse("whole"), ConnectionError("down")])
    model = FunctionModel(lambda messages: next(answers))
    assert await ask(model) == '{"a":1}'
    assert await ask(model) == "whole"
    with pytest.raises(ConnectionError, match="down"):
        await ask(model)


async def test_what_a_function_raises_reaches_the_asker():
    def fail(messages):
        raise LookupError("no idea")

    with pytest.raises(LookupError, match="no idea"):
        await ask(FunctionModel(fail))
    with pytest.raises(LookupError, match="no idea"):
        await heard(FunctionModel(fail), [])


# -- streams --


@pytest.mark.parametrize(
    "text", ["one", "one two  three", " lead", "trail \n", "a\nb\tc", "  ", "\n", "先生 先生", "a" * 5000]
)
async def test_a_streamed_text_is_whole_when_put_together(text):
    deltas, response = await heard(EchoModel(), [user(text)])
    assert "".join(delta.text for delta in deltas) == text
    assert {delta.kind for delta in deltas} == {"text"}
    assert all(delta.text for delta in deltas)
    assert response.text == text
    assert response.usage is not None


async def test_an_empty_answer_is_an_empty_stream():
    deltas, response = await heard(ScriptedModel([""]), [])
    assert deltas == []
    assert response.text == ""


async def test_other_tasks_run_between_two_words():
    async with EchoModel().stream([user("one two three")]) as stream:
        order = []

        async def other():
            while len(order) < 5:
                order.append("other")
                await asyncio.sleep(0)

        running = asyncio.create_task(other())
        async for delta in stream:
            order.append(delta.text)  # noqa: PERF401  # the order is the point
        await running
    assert order.index("other") < order.index(" three")


async def test_a_streamed_error_of_a_script_is_raised_on_reading():
    model = ScriptedModel([ConnectionError("down")])
    async with model.stream([]) as stream:
        with pytest.raises(ConnectionError, match="down"):
            await anext(stream)


# -- delays --


@pytest.mark.parametrize(
    "model", [EchoModel(delay_s=DELAY_S), FunctionModel(lambda messages: "x", delay_s=DELAY_S)]
)
async def test_a_delayed_answer_is_never_early(model):
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    assert await ask(model) == "x"
    assert loop.time() - began_at >= DELAY_S


async def test_a_delayed_stream_takes_the_whole_delay_in_all():
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    deltas, _ = await heard(EchoModel(delay_s=DELAY_S), [user("one two three four")])
    assert len(deltas) == 4
    assert loop.time() - began_at >= DELAY_S


async def test_many_delayed_callers_wait_together():
    model = EchoModel(delay_s=DELAY_S)
    assert await asyncio.gather(*(ask(model, str(n)) for n in range(1000))) == [str(n) for n in range(1000)]


async def test_cancelling_one_caller_wakes_no_other():
    model = EchoModel(delay_s=DELAY_S)
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    asking = [asyncio.create_task(ask(model, str(n))) for n in range(3)]
    await asyncio.sleep(0)
    asking[1].cancel()
    await asyncio.wait([asking[1]])
    assert asking[1].cancelled()
    assert not asking[0].done()
    assert not asking[2].done()
    assert [await asking[0], await asking[2]] == ["0", "2"]
    assert loop.time() - began_at >= DELAY_S


async def test_a_cancelled_call_of_a_script_uses_up_no_answer():
    model = ScriptedModel(["one", "two"], delay_s=DELAY_S)
    asking = asyncio.create_task(ask(model))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert await ask(model) == "one"


@pytest.mark.parametrize("delay_s", [-1, -0.001])
def test_a_negative_delay_is_refused(delay_s):
    with pytest.raises(ConfigError, match="delay_s"):
        EchoModel(delay_s=delay_s)


def test_delays_work_in_a_second_event_loop():
    model = EchoModel(delay_s=DELAY_S)
    for text in ("one", "two"):
        assert asyncio.run(ask(model, text)) == text


async def test_a_delayed_model_can_be_streamed_by_an_agent_and_left():
    agent = DialogAgent("a", model=EchoModel(delay_s=1000))
    async with agent.stream("hi"):
        pass
    assert agent.memory.size() == 0
    agent.model = EchoModel()
    async with agent.stream("hi") as stream:
        assert [piece async for piece in stream] == [Speech("text", "user:"), Speech("text", " hi")]
