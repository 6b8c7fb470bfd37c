"""Parity row C08; answers in pieces and as objects."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from agentscope_async import (
    AgentScopeWarning,
    BadResponse,
    ConfigError,
    DialogAgent,
    EchoModel,
    FunctionModel,
    ModelResponse,
    ModelWrapperBase,
    Msg,
    ScriptedModel,
    Speech,
    TemporaryMemory,
    TextPart,
    Usage,
)
from agentscope_async.message import ImagePart, deserialize, serialize


class Verdict(BaseModel):
    winner: str
    score: int


class Hanging(ModelWrapperBase):
    """Never answers; says when it was asked and when it was left."""

    model_type = "test_dialog_hanging"

    def __init__(self):
        super().__init__()
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def _call(self, messages, args):
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


def contents(prompt):
    return [each["content"] for each in prompt]


def texts(agent):
    return [unit.text for unit in agent.memory.get_memory()]


# -- C08 --


async def test_C08_the_model_sees_the_system_prompt_and_the_history():
    model = ScriptedModel(["one", "two"])
    dialog = DialogAgent("Bob", "You are Bob.", model)
    await dialog(Msg("Ann", "Hello", "user"))
    await dialog(Msg("Cy", "Hi there", "user"))
    assert model.calls[0] == [
        {"role": "system", "content": "You are Bob."},
        {"role": "user", "content": "Ann: Hello"},
    ]
    assert model.calls[1] == [
        {"role": "system", "content": "You are Bob."},
        {"role": "user", "content": "Ann: Hello"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "Cy: Hi there"},
    ]


async def test_C08_the_reply_is_remembered_and_is_the_agents_own():
    dialog = DialogAgent("Bob", "You are Bob.", ScriptedModel(["good day"]))
    asked = Msg("Ann", "Hello", "user")
    msg = await dialog(asked)
    assert (msg.name, msg.content, msg.role) == ("Bob", "good day", "assistant")
    assert dialog.memory.get_memory() == [asked, msg]


async def test_C08_prompt_type_only_warns():
    with pytest.warns(AgentScopeWarning, match="prompt_type has no effect"):
        dialog = DialogAgent("d", "x", EchoModel(), prompt_type="list")
    assert (await dialog("hi")).text == "user: hi"


async def test_C08_a_call_without_a_message_goes_on_from_what_is_remembered():
    model = ScriptedModel(["one", "two"])
    dialog = DialogAgent("d", "sys", model)
    await dialog.observe("heard")
    await dialog()
    await dialog()
    assert contents(model.calls[0]) == ["sys", "user: heard"]
    assert contents(model.calls[1]) == ["sys", "user: heard", "one"]


@pytest.mark.parametrize("sys_prompt", [None, ""])
async def test_without_a_system_prompt_none_is_sent(sys_prompt):
    model = ScriptedModel(["one"])
    await DialogAgent("d", sys_prompt, model)("hi")
    assert contents(model.calls[0]) == ["user: hi"]


def test_a_dialog_needs_a_model():
    with pytest.raises(ConfigError, match="DialogAgent 'd' needs a model"):
        DialogAgent("d", "sys")


async def test_ones_own_turns_are_the_assistants_and_all_others_users():
    model = ScriptedModel(["x"])
    dialog = DialogAgent("me", "sys", model)
    dialog.load_memory(
        [
            Msg("host", "The topic is tea.", "system"),
            Msg("other", "I like tea.", "assistant"),
            Msg("me", "I do not.", "assistant"),
            Msg("tool", "4 cups", "tool"),
            Msg("Ann", [TextPart("Look:"), ImagePart("http://a/b.png")], "user"),
            Msg("Ann", {"cups": 4}, "user"),
        ]
    )
    await dialog()
    assert model.calls[0] == [
        {"role": "system", "content": "sys"},
        {"role": "system", "content": "The topic is tea."},
        {"role": "user", "content": "other: I like tea."},
        {"role": "assistant", "content": "I do not."},
        {"role": "tool", "content": "4 cups"},
        {"role": "user", "content": "Ann: Look:"},
        {"role": "user", "content": 'Ann: {"cups":4}'},
    ]


async def test_a_message_passed_and_observed_is_in_the_prompt_once():
    model = ScriptedModel(["x"])
    dialog = DialogAgent("d", "sys", model)
    msg = Msg("Ann", "once", "user")
    await dialog.observe(msg)
    await dialog(msg)
    assert contents(model.calls[0]) == ["sys", "Ann: once"]


@pytest.mark.parametrize(
    "text", ["{x} {} {{", "<b>bold</b>", "100% %s %(a)s", "\x1b[31m\x00\r\n\t", "先生 👩‍🔬", "", " " * 50]
)
async def test_texts_are_data_on_their_way_to_the_model_and_back(text):
    dialog = DialogAgent("d", text, EchoModel())
    assert (await dialog(Msg("A", text, "user"))).text == f"A: {text}"


async def test_usage_comes_with_the_reply():
    usage = Usage(11, 7)
    dialog = DialogAgent(
        "d", "sys", ScriptedModel([ModelResponse("hi", usage=usage), ModelResponse("no usage")])
    )
    assert (await dialog("x")).usage == usage
    assert (await dialog("x")).usage is None


async def test_an_answer_without_text_is_an_empty_one():
    dialog = DialogAgent("d", "sys", ScriptedModel([ModelResponse()]))
    assert (await dialog("x")).content == ""


async def test_a_failing_model_reaches_the_asker_and_nothing_is_remembered():
    dialog = DialogAgent("d", "sys", ScriptedModel([ConnectionError("down"), "up again"]))
    with pytest.raises(ConnectionError, match="down"):
        await dialog("first")
    assert texts(dialog) == []
    assert (await dialog("second")).text == "up again"
    assert texts(dialog) == ["second", "up again"]


async def test_a_cancelled_caller_ends_the_model_call_and_leaves_the_memory():
    model = Hanging()
    dialog = DialogAgent("d", "sys", model)
    async with asyncio.timeout(30):
        asking = asyncio.create_task(dialog("hi"))
        await model.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await model.left.wait()
    assert dialog.memory.size() == 0
    dialog.model = EchoModel()
    async with asyncio.timeout(30):
        assert (await dialog("next")).text == "user: next"


async def test_two_callers_at_once_do_not_mix_the_conversation():
    async def answer(messages):
        for _ in range(3):
            await asyncio.sleep(0)
        return f"re {messages[-1]['content']}"

    dialog = DialogAgent("d", "sys", FunctionModel(answer))
    async with asyncio.timeout(30):
        replies = await asyncio.gather(*(dialog(f"{n}") for n in range(20)))
    assert [reply.text for reply in replies] == [f"re user: {n}" for n in range(20)]
    assert texts(dialog) == [line for n in range(20) for line in (f"{n}", f"re user: {n}")]


async def test_one_model_serves_many_agents():
    model = ScriptedModel(["x"], loop=True)
    agents = [DialogAgent(f"a{n}", f"sys {n}", model) for n in range(5)]
    await asyncio.gather(*(agent("hi") for agent in agents))
    assert [contents(call)[0] for call in model.calls] == [f"sys {n}" for n in range(5)]


async def test_a_memory_of_another_kind_is_asked_for_the_history():
    class LastOnly(TemporaryMemory):
        def get_memory(self, recent_n=None, filter_func=None):
            return super().get_memory(1, filter_func)

    model = ScriptedModel(["one", "two"])
    dialog = DialogAgent("d", "sys", model, memory=LastOnly())
    await dialog("a")
    await dialog("b")
    assert contents(model.calls[1]) == ["sys", "user: b"]


# -- heard in pieces --


async def test_a_streamed_turn_streams_the_model():
    dialog = DialogAgent("d", "sys", ScriptedModel(["one two three"]))
    async with asyncio.timeout(30), dialog.stream("hi") as stream:
        pieces = [piece async for piece in stream]
    assert pieces == [Speech("text", "one"), Speech("text", " two"), Speech("text", " three")]
    assert stream.msg.text == "one two three"
    assert texts(dialog) == ["hi", "one two three"]


async def test_thinking_is_heard_and_is_not_the_text():
    dialog = DialogAgent("d", "sys", ScriptedModel([ModelResponse("yes", thinking="hm")]))
    async with asyncio.timeout(30), dialog.stream("hi") as stream:
        pieces = [piece async for piece in stream]
    assert [(piece.kind, piece.text) for piece in pieces] == [("thinking", "hm"), ("text", "yes")]
    assert stream.msg.text == "yes"


async def test_nobody_listening_the_model_is_not_streamed():
    class Whole(ModelWrapperBase):
        model_type = "test_dialog_whole"

        async def _call(self, messages, args):
            return ModelResponse("whole")

        async def _stream(self, messages, args):
            raise AssertionError("nobody listens")
            yield

    assert (await DialogAgent("d", "sys", Whole())("hi")).text == "whole"


async def test_leaving_a_stream_stops_the_model():
    left = asyncio.Event()

    class Endless(ModelWrapperBase):
        model_type = "test_dialog_endless"

        async def _call(self, messages, args):
            raise AssertionError

        async def _stream(self, messages, args):
            try:
                while True:
                    await asyncio.sleep(0)
                    yield Speech("text", "on and on ")
            finally:
                left.set()

    dialog = DialogAgent("d", "sys", Endless())
    async with asyncio.timeout(30):
        async with dialog.stream("hi") as stream:
            async for _ in stream:
                break
        assert left.is_set()
        assert dialog.memory.size() == 0
        dialog.model = EchoModel()
        assert (await dialog("next")).text == "user: next"


# -- answers as objects --


async def test_an_output_type_gives_a_validated_object():
    dialog = DialogAgent("d", "sys", ScriptedModel([{"winner": "pro", "score": "3"}]), output_type=Verdict)
    msg = await dialog("who?")
    assert msg.parsed == Verdict(winner="pro", score=3)
    assert msg.content == '{"winner":"pro","score":"3"}'


async def test_the_model_is_told_which_object_is_wanted():
    asked = []

    def answer(messages, **args):
        asked.append(args)
        return {"winner": "pro", "score": 3}

    await DialogAgent("d", "sys", FunctionModel(answer), output_type=Verdict)("who?")
    assert asked == [{"response_format": Verdict}]


@pytest.mark.parametrize(
    "bad", ["no JSON", "{", '{"winner": "pro"}', '{"winner": "pro", "score": "many"}', "[]", ""]
)
async def test_an_answer_that_does_not_fit_is_asked_for_again(bad):
    model = ScriptedModel([bad, bad, {"winner": "con", "score": 1}])
    dialog = DialogAgent("d", "sys", model, output_type=Verdict)
    msg = await dialog("who?")
    assert msg.parsed == Verdict(winner="con", score=1)
    assert len(model.calls) == 3
    assert model.calls[0] == model.calls[1] == model.calls[2]
    assert dialog.memory.size() == 2


async def test_when_no_answer_fits_it_is_an_error_with_the_answer():
    model = ScriptedModel(["never"], loop=True)
    dialog = DialogAgent("d", "sys", model, output_type=Verdict)
    with pytest.raises(BadResponse) as caught:
        await dialog("who?")
    assert caught.value.raw == "never"
    assert len(model.calls) == 3
    assert dialog.memory.size() == 0


async def test_a_parsed_object_does_not_travel_but_its_text_does():
    dialog = DialogAgent("d", "sys", ScriptedModel([{"winner": "pro", "score": 3}]), output_type=Verdict)
    msg = await dialog("who?")
    copied = deserialize(serialize(msg))
    assert copied.parsed is None
    assert Verdict.model_validate_json(copied.content) == msg.parsed


async def test_an_object_that_is_streamed_is_heard_whole():
    dialog = DialogAgent("d", "sys", ScriptedModel([{"winner": "pro", "score": 3}]), output_type=Verdict)
    async with asyncio.timeout(30), dialog.stream("who?") as stream:
        pieces = [piece async for piece in stream]
    assert "".join(piece.text for piece in pieces) == '{"winner":"pro","score":3}'
    assert stream.msg.parsed == Verdict(winner="pro", score=3)


def test_an_output_type_that_is_no_pydantic_model_is_refused_at_once():
    with pytest.raises(ConfigError, match="pydantic model class"):
        DialogAgent("Ann", model=EchoModel(), output_type=dict)
