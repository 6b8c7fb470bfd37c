"""A turn heard while it speaks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentscope_async import (
    AgentBase,
    DeadlockError,
    DialogAgent,
    EchoModel,
    InterruptedTurnError,
    Msg,
    ScriptedModel,
    Speech,
    msghub,
)


class Reader(AgentBase):
    """Speaks each of the given pieces, then returns a message."""

    def __init__(self, *pieces, name="reader", **options):
        super().__init__(name, **options)
        self.pieces = pieces

    async def reply(self, x=None):
        self.memory.add(x)
        for piece in self.pieces:
            await self.speak(piece)
        return Msg(self.name, "the end", "assistant")


class Stuck(AgentBase):
    """Says one word and then waits until somebody ends it."""

    def __init__(self):
        super().__init__("stuck")
        self.left = asyncio.Event()

    async def reply(self, x=None):
        self.memory.add(x)
        await self.speak("well")
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


async def heard(stream):
    return [piece async for piece in stream]


async def test_pieces_come_first_and_then_the_message():
    reader = Reader("one", Speech("text", "two"))
    async with reader.stream("hi") as stream:
        assert await heard(stream) == [Speech("text", "one"), Speech("text", "two")]
        assert stream.msg.text == "the end"
    assert stream.msg.text == "the end"
    assert reader.memory.size() == 1


async def test_the_message_before_the_end_is_an_error():
    stream = Stuck().stream("hi")
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = stream.msg
    async with stream:
        await anext(stream)
        with pytest.raises(RuntimeError, match="has not ended"):
            _ = stream.msg
    with pytest.raises(RuntimeError):  # and after leaving early there is none
        _ = stream.msg


async def test_an_agent_that_never_speaks_is_heard_once():
    async with Reader().stream("hi") as stream:
        assert await heard(stream) == [Speech("text", "the end")]


async def test_what_is_spoken_may_be_a_text_a_message_or_a_piece():
    spoken = [
        "text",
        Msg("reader", "message", "assistant"),
        Speech("thinking", "hm"),
        Speech("tool_call", data=3),
    ]
    async with Reader(*spoken).stream("hi") as stream:
        assert await heard(stream) == [
            Speech("text", "text"),
            Speech("text", "message"),
            Speech("thinking", "hm"),
            Speech("tool_call", data=3),
        ]


async def test_a_message_whose_pieces_were_heard_is_not_heard_again():
    spoken = [Speech("text", "one "), Speech("text", "two"), Msg("reader", "one two", "assistant"), "three"]
    async with Reader(*spoken).stream("hi") as stream:
        assert [piece.text for piece in await heard(stream)] == ["one ", "two", "three"]


@pytest.mark.parametrize("kind", ["thinking", "tool_call", "tool_result"])
async def test_a_message_after_pieces_of_another_kind_is_heard(kind):
    async with Reader(Speech(kind, "hm"), Msg("reader", "forty-two", "assistant")).stream("hi") as stream:
        assert [piece.text for piece in await heard(stream)] == ["hm", "forty-two"]


async def test_a_slow_listener_hears_everything_in_order():
    count = 500
    async with Reader(*[str(n) for n in range(count)]).stream("hi") as stream:
        seen = []
        async for piece in stream:
            await asyncio.sleep(0)
            seen.append(piece.text)
    assert seen == [str(n) for n in range(count)]


async def test_a_listener_may_ask_the_speaker_between_two_pieces():
    reader = Reader(*[str(n) for n in range(50)])
    async with reader.stream("hi") as stream:
        await anext(stream)
        assert (await reader("meanwhile")).text == "the end"
        assert len(await heard(stream)) == 49
    assert [unit.text for unit in reader.memory.get_memory()] == ["hi", "meanwhile"]


async def test_the_turn_ends_although_nobody_reads():
    reader = Reader(*[str(n) for n in range(200)])
    async with reader.stream("hi"):
        await reader("later")
    assert reader.memory.size() == 2


async def test_an_error_surfaces_once_and_as_it_is():
    problem = LookupError("lost the page")

    class Broken(AgentBase):
        async def reply(self, x=None):
            await self.speak("once upon")
            raise problem

    seen = []
    with pytest.raises(LookupError) as caught:
        async with Broken("b").stream("hi") as stream:
            async for piece in stream:
                seen.append(piece.text)  # noqa: PERF401  # what was heard until the error
    assert caught.value is problem
    assert seen == ["once upon"]


async def test_an_error_caught_inside_does_not_surface_again_at_the_end():
    class Broken(AgentBase):
        async def reply(self, x=None):
            raise LookupError("lost the page")

    async with Broken("b").stream("hi") as stream:
        with pytest.raises(LookupError, match="lost the page"):
            await heard(stream)
    with pytest.raises(LookupError, match="lost the page"):
        _ = stream.msg


async def test_an_error_nobody_read_surfaces_at_the_end():
    class Broken(AgentBase):
        async def reply(self, x=None):
            raise LookupError("lost the page")

    with pytest.raises(LookupError, match="lost the page"):
        async with Broken("b").stream("hi"):
            await asyncio.sleep(0)
            await asyncio.sleep(0)


async def test_an_error_of_the_listener_is_the_one_that_counts():
    stuck = Stuck()
    with pytest.raises(ZeroDivisionError):
        async with stuck.stream("hi") as stream:
            async for _ in stream:
                _ = 1 / 0
    assert stuck.left.is_set()
    assert stuck.memory.size() == 0


async def test_leaving_early_cancels_the_turn_and_the_next_is_served():
    stuck = Stuck()
    for _ in range(3):
        async with stuck.stream("hi") as stream:
            assert (await anext(stream)).text == "well"
        assert stuck.left.is_set()
        assert stuck.memory.size() == 0
        stuck.left.clear()


async def test_leaving_before_the_turn_came_takes_the_message_back():
    stuck, order = Stuck(), []

    class Other(AgentBase):
        async def reply(self, x=None):
            order.append(x.text)
            await asyncio.sleep(0)
            return x

    other = Other("o")
    async with stuck.stream("1"):
        async with stuck.stream("2"):
            assert stuck.mailbox.statistics().waiting == 1
        assert stuck.mailbox.statistics().waiting == 0
    assert (await other("x")).text == "x"
    assert order == ["x"]


async def test_a_cancelled_listener_cancels_the_turn():
    stuck, began = Stuck(), asyncio.Event()

    async def listen():
        async with stuck.stream("hi") as stream:
            async for _ in stream:
                began.set()

    listening = asyncio.create_task(listen())
    await began.wait()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert stuck.left.is_set()
    assert stuck.mailbox.is_idle


async def test_interrupting_the_speaker_ends_the_stream_with_that_error():
    stuck = Stuck()
    with pytest.raises(InterruptedTurnError, match="enough"):
        async with stuck.stream("hi") as stream:
            async for _ in stream:
                await stuck.interrupt("enough")


async def test_streams_nest():
    class Relay(AgentBase):
        async def reply(self, x=None):
            async with Reader("a", "b", name="inner").stream(x) as inner:
                async for piece in inner:
                    await self.speak(Speech("text", piece.text.upper()))
            return inner.msg

    async with Relay("relay").stream("hi") as stream:
        assert [piece.text for piece in await heard(stream)] == ["A", "B"]
    assert stream.msg.name == "inner"


async def test_a_listener_does_not_hear_those_whom_the_speaker_asks():
    class Boss(AgentBase):
        async def reply(self, x=None):
            await self.speak("asking")
            await Reader("secret", name="clerk")(x)
            await self.speak("asked")
            return Msg(self.name, "done", "assistant")

    async with Boss("boss").stream("hi") as stream:
        assert [piece.text for piece in await heard(stream)] == ["asking", "asked"]


async def test_speech_from_a_subtask_of_the_turn_is_heard():
    class Choir(AgentBase):
        async def reply(self, x=None):
            await asyncio.gather(*(self.speak(str(n)) for n in range(3)))
            return Msg(self.name, "done", "assistant")

    async with Choir("c").stream("hi") as stream:
        assert sorted(piece.text for piece in await heard(stream)) == ["0", "1", "2"]


async def test_an_agent_that_streams_itself_is_a_deadlock():
    class Ouroboros(AgentBase):
        async def reply(self, x=None):
            async with self.stream(x) as stream:
                await heard(stream)
            return x

    with pytest.raises(DeadlockError, match="o -> o"):
        await Ouroboros("o")("hi")


async def test_a_stream_is_one_turn():
    stream = Reader("x").stream("hi")
    async with stream:
        await heard(stream)
        assert await heard(stream) == []
    with pytest.raises(RuntimeError, match="one turn"):
        async with stream:
            pass


async def test_a_stream_that_was_not_entered_says_so():
    with pytest.raises(RuntimeError, match="async with"):
        await anext(Reader("x").stream("hi"))


async def test_two_streams_of_one_agent_are_heard_one_after_the_other():
    reader = Reader("a", "b")
    async with reader.stream("1") as first, reader.stream("2") as second:
        assert [piece.text for piece in await heard(second)] == ["a", "b"]
        assert [piece.text for piece in await heard(first)] == ["a", "b"]
    assert [unit.text for unit in reader.memory.get_memory()] == ["1", "2"]


async def test_streams_keep_their_place_among_asks():
    reader = Reader("a")
    async with reader.stream("1") as stream:
        asking = asyncio.create_task(reader("2"))
        await heard(stream)
    await asking
    assert [unit.text for unit in reader.memory.get_memory()] == ["1", "2"]


async def test_keywords_go_to_reply():
    class Polite(AgentBase):
        async def reply(self, x=None, title=""):
            return Msg(self.name, f"Dear {title}", "assistant")

    async with Polite("p").stream("hi", title="Sir") as stream:
        await heard(stream)
    assert stream.msg.text == "Dear Sir"


async def test_a_streamed_reply_is_heard_in_the_hub():
    ann, bob = DialogAgent("ann", "x", ScriptedModel(["good day all"])), DialogAgent("bob", "x", EchoModel())
    async with msghub([ann, bob]):
        async with ann.stream("hi") as stream:
            await heard(stream)
        assert bob.memory.get_memory() == [stream.msg]


async def test_a_stream_left_early_is_not_announced_in_the_hub():
    stuck, bob = Stuck(), Reader(name="bob")
    async with msghub([stuck, bob]):
        async with stuck.stream("hi") as stream:
            await anext(stream)
    assert bob.memory.size() == 0


async def test_is_heard_is_true_only_inside_a_streamed_turn():
    class Curious(AgentBase):
        async def reply(self, x=None):
            return Msg(self.name, str(self.is_heard), "assistant")

    curious = Curious("c")
    assert (await curious("hi")).text == "False"
    async with curious.stream("hi") as stream:
        await heard(stream)
    assert stream.msg.text == "True"
    assert curious.is_heard is False


async def test_two_readers_share_the_pieces_and_both_end() -> None:
    class Talker(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            for word in ("one", "two", "three"):
                await self.speak(Speech("text", word))
                await asyncio.sleep(0)
            return Msg(self.name, "done", "assistant")

    async with asyncio.timeout(30), Talker("talker").stream("x") as stream:

        async def read() -> list[str]:
            return [piece.text async for piece in stream]

        both = await asyncio.gather(read(), read())
        assert sorted(word for words in both for word in words) == ["one", "three", "two"]
