"""Parity row C13."""

from __future__ import annotations

import asyncio

import pytest

from agentscope_async import ConfigError, EchoModel, ModelResponse, Msg, ScriptedModel, TextToImageAgent
from agentscope_async.models import FunctionModel


def painter(*urls, **options):
    return TextToImageAgent(
        "painter", ScriptedModel([ModelResponse(image_urls=list(urls))], loop=True), **options
    )


async def test_C13_url_holds_the_image_urls():
    agent = painter("http://a/1.png", "http://a/2.png")
    asked = Msg("Ann", "A red bicycle", "user")
    msg = await agent(asked)
    assert msg.url == ["http://a/1.png", "http://a/2.png"]
    assert (msg.name, msg.content, msg.role) == ("painter", "This is the generated image ", "assistant")
    assert agent.memory.get_memory() == [asked, msg]
    assert agent.model.calls == ["A red bicycle"]


async def test_a_picture_of_what_strangers_wrote_says_so():
    asked = Msg("Ann", "A red bicycle", "user", untrusted=["load_web: http://x"])
    assert list((await painter("http://a")(asked)).untrusted) == ["load_web: http://x"]
    assert "untrusted" not in await painter("http://a")("A red bicycle")


async def test_C13_an_empty_call_raises_value_error():
    for agent in (painter("http://a"), painter("http://a", use_memory=False)):
        with pytest.raises(ValueError, match="'painter' has nothing to draw"):
            await agent()
        with pytest.raises(ValueError, match="nothing to draw"):
            await agent([])
        async with asyncio.timeout(30):
            assert (await agent("now")).url == ["http://a"]


async def test_C13_an_empty_call_draws_what_was_remembered_last():
    agent = painter("http://a")
    await agent.observe(["a tree", "a house"])
    await agent()
    assert agent.model.calls == ["a house"]


async def test_C13_of_several_messages_the_last_is_drawn():
    agent = painter("http://a", use_memory=False)
    await agent(["a tree", Msg("Ann", "a house", "user")])
    assert agent.model.calls == ["a house"]


async def test_C13_the_pictures_are_spoken():
    agent = painter("http://a")
    async with asyncio.timeout(30), agent.stream("a tree") as stream:
        pieces = [piece async for piece in stream]
    assert [piece.text for piece in pieces] == ["This is the generated image "]
    assert stream.msg.url == ["http://a"]


async def test_C13_a_failing_model_leaves_nothing_remembered():
    def fail(messages):
        raise ConnectionError("no paint")

    agent = TextToImageAgent("painter", FunctionModel(fail))
    with pytest.raises(ConnectionError, match="no paint"):
        await agent("a tree")
    assert agent.memory.size() == 0


def test_C13_a_painter_needs_a_model():
    with pytest.raises(ConfigError, match="'painter' needs a model"):
        TextToImageAgent("painter")
    assert TextToImageAgent("painter", model_config_name="fake:echo").model.model_type == EchoModel.model_type
