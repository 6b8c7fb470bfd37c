"""What nobody handled is kept, can be looked through, and can be sent again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentscope_async import (
    AgentBase,
    AgentStoppedError,
    ConfigError,
    DeadLetter,
    Msg,
    NoRuntimeError,
    Runtime,
    RuntimeClosedError,
    msghub,
    runtime as runtime_module,
)
from agentscope_async.runtime import DeadLetters


class Picky(AgentBase):
    """Handles what it does not refuse, and keeps a list of both."""

    def __init__(self, name: str = "picky", refused: Any = (), **options: Any) -> None:
        super().__init__(name, **options)
        self.refused = set(refused)
        self.handled: list[str] = []
        self.attempts: list[str] = []

    async def reply(self, x: Any = None) -> Msg:
        self.attempts.append(x.text)
        await asyncio.sleep(0)
        if x.text in self.refused:
            raise LookupError(f"poison: {x.text}")
        self.handled.append(x.text)
        return Msg(self.name, x.text, "assistant")


class Gate(AgentBase):
    """Answers once its door is open."""

    def __init__(self, name: str = "gate", **options: Any) -> None:
        super().__init__(name, **options)
        self.door, self.reached = asyncio.Event(), asyncio.Event()
        self.handled: list[str] = []

    async def reply(self, x: Any = None) -> Msg:
        self.reached.set()
        await self.door.wait()
        self.handled.append(x.text)
        return Msg(self.name, "through", "assistant")


class Listener(AgentBase):
    """Hears in its own way."""

    def __init__(self, name: str = "listener") -> None:
        super().__init__(name)
        self.heard: list[str] = []
        self.is_deaf = True

    async def observe(self, x: Any) -> None:
        if self.is_deaf:
            raise ValueError("deaf")
        self.heard.append(x.text)


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


def texts(letters: Any) -> list[str]:
    return [letter.msg.text for letter in letters]


async def one_dead_letter(rt: Runtime, agent: Picky) -> DeadLetter:
    await agent.post("bad")
    await rt.drain()
    (letter,) = rt.dead_letters
    return letter


@pytest.mark.parametrize("attempts", [1, 3])
async def test_ten_poison_messages_among_a_thousand_end_in_the_store_and_the_rest_keep_their_order(
    attempts: int,
) -> None:
    sent = [str(n) for n in range(1000)]
    poison = sent[7::100]
    async with Runtime(post_attempts=attempts) as rt:
        agent = Picky(refused=poison)
        for text in sent:
            await agent.post(text)
        await rt.drain()
        assert agent.handled == [text for text in sent if text not in poison]
        assert len(agent.handled) == 990
        assert texts(rt.dead_letters) == poison
        assert texts(rt.dead_letters.find("picky", "failed")) == poison
        assert agent.attempts == [text for text in sent for _ in range(attempts if text in poison else 1)]
        assert all(type(letter.error) is LookupError for letter in rt.dead_letters)


async def test_a_dead_letter_knows_its_agent_and_does_not_show_it() -> None:
    async with Runtime() as rt:
        agent = Picky(refused=["bad"])
        letter = await one_dead_letter(rt, agent)
        assert letter.target is agent
        assert (letter.agent, letter.reason, letter.is_heard_only) == ("picky", "failed", False)
        assert "target" not in repr(letter)


async def test_a_letter_sent_again_is_handled_and_no_longer_dead() -> None:
    async with Runtime() as rt:
        agent = Picky(refused=["bad"])
        letter = await one_dead_letter(rt, agent)
        agent.refused.clear()
        await rt.resend(letter)
        assert letter not in rt.dead_letters
        await rt.drain()
        assert agent.handled == ["bad"]
        assert (len(rt.dead_letters), rt.dead_letters.total) == (0, 1)


async def test_a_letter_that_fails_again_is_a_new_dead_letter() -> None:
    async with Runtime() as rt:
        agent = Picky(refused=["bad"])
        letter = await one_dead_letter(rt, agent)
        await rt.resend(letter)
        await rt.drain()
        (again,) = rt.dead_letters
        assert again is not letter
        assert again.msg is letter.msg
        assert rt.dead_letters.total == 2


async def test_all_letters_of_an_agent_can_be_sent_again_in_their_order() -> None:
    async with Runtime() as rt:
        agent, other = Picky("a", refused="0123456789"), Picky("b", refused=["x"])
        for text in "0123456789":
            await agent.post(text)
            await other.post("x")
        await rt.drain()
        agent.refused.clear()
        for letter in rt.dead_letters.find(agent="a"):
            await rt.resend(letter)
        await rt.drain()
        assert agent.handled == list("0123456789")
        assert {letter.agent for letter in rt.dead_letters} == {"b"}


async def test_a_letter_stays_when_its_agent_takes_it_no_more() -> None:
    async with Runtime() as rt:
        agent = Picky(refused=["bad"])
        letter = await one_dead_letter(rt, agent)
        await agent.stop()
        with pytest.raises(AgentStoppedError):
            await rt.resend(letter)
        assert list(rt.dead_letters) == [letter]
        with pytest.raises(AgentStoppedError):
            await rt.resend(letter)


async def test_a_letter_stays_when_sending_it_again_is_cancelled() -> None:
    async with Runtime() as rt:
        gate = Gate(capacity=1, overflow="wait")
        rt.bury(gate, Msg("u", "dead", "user"), "failed")
        (letter,) = rt.dead_letters
        await gate.post("in hand")
        await gate.reached.wait()
        await gate.post("waiting")
        sending = asyncio.create_task(rt.resend(letter))
        await asyncio.sleep(0)
        assert not sending.done()
        sending.cancel()
        await asyncio.wait([sending])
        assert list(rt.dead_letters) == [letter]
        gate.door.set()
        await rt.resend(letter)
        await rt.drain()
        assert gate.handled == ["in hand", "waiting", "dead"]


async def test_a_letter_is_not_sent_twice_by_two_at_once() -> None:
    async with Runtime() as rt:
        gate = Gate(capacity=1, overflow="wait")
        rt.bury(gate, Msg("u", "dead", "user"), "failed")
        (letter,) = rt.dead_letters
        await gate.post("in hand")
        await gate.reached.wait()
        await gate.post("waiting")
        sending = asyncio.create_task(rt.resend(letter))
        await asyncio.sleep(0)
        with pytest.raises(LookupError, match="being sent again"):
            await rt.resend(letter)
        gate.door.set()
        await sending
        with pytest.raises(LookupError, match="not kept"):
            await rt.resend(letter)
        await rt.drain()
        assert gate.handled == ["in hand", "waiting", "dead"]


async def test_a_letter_that_is_not_kept_can_not_be_sent_again() -> None:
    async with Runtime() as rt:
        agent = Picky(refused=["bad"])
        letter = await one_dead_letter(rt, agent)
        rt.dead_letters.remove(letter)
        for each in (letter, DeadLetter("picky", "bad", "failed", target=agent)):
            with pytest.raises(LookupError, match="'picky' is not kept"):
                await rt.resend(each)
            with pytest.raises(LookupError, match="'picky' is not kept"):
                rt.dead_letters.remove(each)
        assert agent.attempts == ["bad"]


async def test_a_letter_for_an_agent_that_is_not_known_can_not_be_sent_again() -> None:
    async with Runtime() as rt:
        rt.bury("somebody", Msg("u", "hello", "user"), "not delivered")
        (letter,) = rt.dead_letters
        assert letter.target is None
        with pytest.raises(ConfigError, match="'somebody'"):
            await rt.resend(letter)
        assert list(rt.dead_letters) == [letter]


async def test_letters_of_a_closed_runtime_are_read_but_not_sent_by_it() -> None:
    async with Runtime() as rt:
        agent = Picky(refused=["bad"])
        letter = await one_dead_letter(rt, agent)
    with pytest.raises((NoRuntimeError, RuntimeClosedError)):
        await rt.resend(letter)
    assert list(rt.dead_letters) == [letter]


async def test_a_letter_is_sent_again_in_the_runtime_it_died_in() -> None:
    agent = Picky(refused=["bad"])
    async with Runtime() as rt, Runtime() as inner:
        with rt.use():
            await agent.post("bad")
        await rt.drain()
        (letter,) = rt.dead_letters
        await rt.resend(letter)
        await rt.drain()
        assert (len(rt.dead_letters), rt.dead_letters.total, inner.dead_letters.total) == (1, 2, 0)


async def test_what_was_not_heard_in_a_hub_is_heard_when_it_is_sent_again() -> None:
    async with Runtime() as rt:
        speaker, listener = Picky("speaker"), Listener()
        async with msghub([speaker, listener]):
            await speaker("hello")
        (letter,) = rt.dead_letters
        assert letter.target is listener
        assert letter.is_heard_only
        listener.is_deaf = False
        await rt.resend(letter)
        assert listener.heard == ["hello"]
        assert len(rt.dead_letters) == 0


async def test_what_a_full_mailbox_dropped_from_a_hub_is_only_heard_when_it_is_sent_again() -> None:
    async with Runtime() as rt:
        speaker, gate = Picky("speaker"), Gate(capacity=1, overflow="drop_newest")
        asking = asyncio.create_task(gate("x"))
        await gate.reached.wait()
        async with msghub([speaker, gate]):
            await speaker("one")
            await speaker("two")
        gate.door.set()
        await asking
        (letter,) = rt.dead_letters
        assert (letter.msg.text, letter.target, letter.is_heard_only) == ("two", gate, True)
        await rt.resend(letter)
        assert [msg.text for msg in gate.memory.get_memory()] == ["one", "two"]
        assert gate.handled == ["x"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_letter_dropped_from_a_full_mailbox_can_be_sent_again(overflow: str) -> None:
    async with Runtime() as rt:
        gate = Gate(capacity=1, overflow=overflow)
        for text in ("in hand", "one", "two"):
            await gate.post(text)
            await gate.reached.wait()
        (letter,) = rt.dead_letters
        assert letter.target is gate
        gate.door.set()
        await rt.drain()
        await rt.resend(letter)
        await rt.drain()
        assert sorted(gate.handled) == ["in hand", "one", "two"]


async def test_a_letter_waiting_for_an_agent_that_stops_knows_the_agent() -> None:
    async with Runtime() as rt:
        gate = Gate()
        await gate.post("in hand")
        await gate.reached.wait()
        await gate.post("waiting")
        gate.mailbox.stop()
        gate.door.set()
        (letter,) = rt.dead_letters
        assert (letter.msg.text, letter.reason, letter.target) == ("waiting", "agent stopped", gate)


def test_letters_are_found_by_agent_and_reason() -> None:
    letters = DeadLetters()
    for agent in "ab":
        for reason in ("failed", "mailbox full"):
            letters.append(DeadLetter(agent, agent + reason, reason))
    assert letters.find() == list(letters)
    assert [each.msg for each in letters.find("a")] == ["afailed", "amailbox full"]
    assert [each.msg for each in letters.find(reason="failed")] == ["afailed", "bfailed"]
    assert [each.msg for each in letters.find("b", "mailbox full")] == ["bmailbox full"]
    assert letters.find("c") == []


def test_the_newest_letters_are_kept_and_all_are_counted() -> None:
    letters = DeadLetters()
    for n in range(10_007):
        letters.append(DeadLetter("a", n, "failed"))
    assert (len(letters), letters.total) == (10_000, 10_007)
    assert (letters[0].msg, letters[-1].msg) == (7, 10_006)
    letters.clear()
    assert (len(letters), letters.total, letters.find()) == (0, 10_007, [])


def test_one_of_two_equal_letters_is_removed() -> None:
    letters = DeadLetters()
    one, other = (DeadLetter("a", "x", "failed", None, 0.0) for _ in range(2))
    letters.append(one)
    letters.append(other)
    letters.remove(other)
    assert [each is one for each in letters] == [True]
    letters.remove(one)
    assert len(letters) == 0


async def test_a_letter_pushed_out_while_it_is_sent_again_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runtime() as rt:
        rt.dead_letters = DeadLetters(limit=1)
        gate = Gate(capacity=1)
        rt.bury(gate, Msg("u", "dead", "user"), "failed")
        (letter,) = rt.dead_letters
        await gate.post("in hand")
        await gate.reached.wait()
        await gate.post("waiting")
        sending = asyncio.create_task(rt.resend(letter))
        await asyncio.sleep(0)
        rt.bury("other", "x", "failed")
        gate.door.set()
        await sending
        await rt.drain()
        assert gate.handled == ["in hand", "waiting", "dead"]
        assert [each.agent for each in rt.dead_letters] == ["other"]


def test_they_can_be_had_where_the_runtime_is() -> None:
    assert runtime_module.DeadLetter is DeadLetter
