"""Parity rows I01 to I07; what is said in a hub, and who hears it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, nullcontext

import pytest

from agentscope_async import (
    AgentBase,
    AgentScopeWarning,
    DialogAgent,
    MailboxFullError,
    Msg,
    MsgHub,
    Runtime,
    ScriptedModel,
    TemporaryMemory,
    msghub,
)


class Talker(AgentBase):
    """Says what it is told to say, or its own name and a count."""

    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.count = 0

    async def reply(self, x=None):
        self.memory.add(x)
        self.count += 1
        said = Msg(self.name, f"{self.name}{self.count}", "assistant")
        self.memory.add(said)
        return said


class Busy(Talker):
    """Works until its door is open."""

    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.door, self.at_work = asyncio.Event(), asyncio.Event()

    async def reply(self, x=None):
        self.at_work.set()
        await self.door.wait()
        return await super().reply(x)


class Noting(AgentBase):
    """Observes asynchronously, one message at a time."""

    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.heard = []
        self.is_listening = False

    async def observe(self, x):
        assert not self.is_listening
        self.is_listening = True
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.heard.append(x.text)
        self.is_listening = False

    async def reply(self, x=None):
        await asyncio.sleep(0)
        return Msg(self.name, "noted", "assistant")


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


@pytest.fixture(params=["no runtime", "runtime"])
async def surroundings(request):
    async with Runtime() if request.param == "runtime" else nullcontext():
        yield


def texts(agent):
    return [unit.text for unit in agent.memory.get_memory()]


def host(text):
    return Msg("host", text, "system")


# -- I01 --


async def test_I01_what_one_says_the_others_remember(surroundings):
    a, b, c, outsider = (Talker(name) for name in "abco")
    async with msghub([a, b, c]):
        said = await a()
    assert texts(a) == texts(b) == texts(c) == ["a1"]
    assert b.memory.get_memory() == c.memory.get_memory() == [said]
    assert outsider.memory.size() == 0


async def test_I01_the_speaker_does_not_hear_itself(surroundings):
    noting, other = Noting("n"), Noting("o")
    async with msghub([noting, other]):
        await noting()
    assert noting.heard == []
    assert noting.memory.size() == 0
    assert other.heard == ["noted"]


async def test_I01_dialog_agents_talk_through_the_hub(surroundings):
    models = {name: ScriptedModel([f"{name}{n}" for n in range(3)]) for name in "abc"}
    agents = [DialogAgent(name, f"You are {name}.", model) for name, model in models.items()]
    async with msghub(agents, announcement=host("Talk.")):
        for agent in agents:
            await agent()
        await agents[0]()
    assert models["a"].calls[1] == [
        {"role": "system", "content": "You are a."},
        {"role": "system", "content": "Talk."},
        {"role": "assistant", "content": "a0"},
        {"role": "user", "content": "b: b0"},
        {"role": "user", "content": "c: c0"},
    ]


async def test_I01_nobody_hears_a_failed_turn(surroundings):
    class Failing(AgentBase):
        async def reply(self, x=None):
            raise LookupError("lost the thread")

    a, b = Failing("a"), Talker("b")
    async with msghub([a, b]):
        with pytest.raises(LookupError, match="lost the thread"):
            await a()
        with pytest.raises(LookupError, match="lost the thread"):
            await a()
    assert b.memory.size() == 0


async def test_I01_posts_and_submissions_are_heard_too():
    async with Runtime() as rt:
        a, b = Talker("a"), Talker("b")
        async with msghub([a, b]):
            await a.submit("x")
            await a.post("y")
            await rt.drain()
        assert texts(b) == ["a1", "a2"]


# -- I02 --


@pytest.mark.parametrize("form", ["one", "string", "list", "tuple"])
async def test_I02_announcements_are_held_in_order_by_all(form):
    first, second = host("first"), host("second")
    given = {"one": first, "string": "first", "list": [first, second], "tuple": (first, "second")}[form]
    a, b = Talker("a"), Talker("b")
    async with msghub([a, b], announcement=given):
        wanted = ["first"] if form in ("one", "string") else ["first", "second"]
        assert texts(a) == texts(b) == wanted


async def test_I02_everyone_receives_a_broadcast_the_author_included(surroundings):
    a, b, noting = Talker("a"), Talker("b"), Noting("n")
    async with msghub([a, b, noting]) as hub:
        await hub.broadcast(Msg("a", "to all", "assistant"))
        await hub.broadcast(["two", host("three")])
    assert texts(a) == texts(b) == noting.heard == ["to all", "two", "three"]


async def test_I02_no_announcement_is_none():
    a = Talker("a")
    async with msghub([a]):
        pass
    async with msghub([a], announcement=[]):
        pass
    assert a.memory.size() == 0


@pytest.mark.parametrize("wrong", [3, [3], {"content": "x"}])
async def test_I02_an_announcement_that_is_no_message_opens_nothing(wrong):
    a, b = Talker("a"), Talker("b")
    with pytest.raises(ValueError, match="expected a Msg or a string"):
        async with msghub([a, b], announcement=wrong):
            raise AssertionError("not reached")
    await a()
    assert b.memory.size() == 0


def test_I02_a_hub_entered_as_in_agentscope_says_how_it_is_entered_here():
    with pytest.raises(TypeError, match=r"entered with `async with msghub\(...\)`"), msghub([Talker("Ann")]):
        pass


# -- I03 --


async def test_I03_who_is_added_hears_later_messages_and_not_earlier_ones(surroundings):
    a, b, late = Talker("a"), Talker("b"), Talker("l")
    async with msghub([a, b], announcement=host("hello")) as hub:
        await a()
        hub.add(late)
        await a()
        await late()
        assert hub.participants == [a, b, late]
    assert texts(late) == ["a2", "l1"]
    assert texts(b) == ["hello", "a1", "a2", "l1"]


async def test_I03_who_is_deleted_neither_sends_nor_receives(surroundings):
    a, b, c = Talker("a"), Talker("b"), Talker("c")
    async with msghub([a, b, c]) as hub:
        await a()
        hub.delete(b)
        await a()
        await b()
        assert hub.participants == [a, c]
    assert texts(b) == ["a1", "b1"]
    assert texts(c) == ["a1", "a2"]


async def test_I03_several_are_added_and_deleted_at_once():
    a, b, c = Talker("a"), Talker("b"), Talker("c")
    async with msghub([a]) as hub:
        hub.add([b, c])
        await a()
        hub.delete((b, c))
        await a()
    assert texts(b) == texts(c) == ["a1"]


async def test_I03_a_second_add_and_an_unknown_delete_warn_and_change_nothing():
    a, b, stranger = Talker("a"), Talker("b"), Talker("stranger")
    async with msghub([a, b]) as hub:
        with pytest.warns(AgentScopeWarning, match="'b' is in the hub already"):
            hub.add(b)
        with pytest.warns(AgentScopeWarning, match="'stranger' is not in the hub"):
            hub.delete(stranger)
        await a()
    assert texts(b) == ["a1"]


async def test_I03_an_agent_may_add_and_delete_from_its_own_turn():
    class Doorman(Talker):
        async def reply(self, x=None):
            hub.delete(b)
            hub.add(c)
            return await super().reply(x)

    a, b, c = Doorman("a"), Talker("b"), Talker("c")
    async with msghub([a, b]) as hub:
        await a()
    assert texts(b) == []
    assert texts(c) == ["a1"]


async def test_I03_what_is_no_agent_is_refused_and_changes_nothing():
    a, b = Talker("a"), Talker("b")

    async def function(x):
        return x

    for wrong in ("b", None, function, Talker):
        with pytest.raises(TypeError, match="participants are agents"):
            msghub([a, wrong])
        async with msghub([a]) as hub:
            with pytest.raises(TypeError, match="participants are agents"):
                hub.add([b, wrong])
            assert hub.participants == [a]


# -- I04 --


async def test_I04_after_leaving_nobody_hears_any_more():
    a, b = Talker("a"), Talker("b")
    async with msghub([a, b]):
        await a()
    await a()
    await b()
    assert texts(b) == ["a1", "b1"]
    assert texts(a) == ["a1", "a2"]


async def test_I04_an_error_inside_passes_and_the_hub_is_left():
    a, b, late = Talker("a"), Talker("b"), Talker("l")
    with pytest.raises(KeyError, match="oops"):
        async with msghub([a, b]) as hub:
            hub.add(late)
            raise KeyError("oops")
    for agent in (a, b, late):
        await agent()
    assert texts(a) == ["a1"]
    assert texts(late) == ["l1"]


# -- I05 --


async def test_I05_leaving_an_inner_hub_keeps_the_outer_ones_delivery(surroundings):
    a, b, c = Talker("a"), Talker("b"), Talker("c")
    async with msghub([a, b, c]):
        async with msghub([a, b]):
            await a()
        await a()
        await c()
    assert texts(b) == ["a1", "a2", "c1"]
    assert texts(c) == ["a1", "a2", "c1"]
    await a()
    assert texts(b) == ["a1", "a2", "c1"]


async def test_I05_who_is_in_several_hubs_with_the_speaker_hears_it_once():
    a, b, noting = Talker("a"), Talker("b"), Noting("n")
    async with msghub([a, b, noting]), msghub([a, b, noting]), msghub([a, noting]):
        await a()
    assert texts(b) == ["a1"]
    assert noting.heard == ["a1"]


async def test_I05_hubs_are_left_in_any_order():
    a, b, c = Talker("a"), Talker("b"), Talker("c")
    one, two = msghub([a, b]), msghub([a, c])
    await one.__aenter__()
    await two.__aenter__()
    await one.__aexit__(None, None, None)
    await a()
    await two.__aexit__(None, None, None)
    await a()
    assert texts(b) == []
    assert texts(c) == ["a1"]


async def test_I05_a_hub_can_be_entered_again_but_not_twice_at_once():
    a, b = Talker("a"), Talker("b")
    hub = msghub([a, b], announcement="welcome")
    async with hub:
        with pytest.raises(RuntimeError):
            await hub.__aenter__()
        await a()
    async with hub:
        await a()
    assert texts(b) == ["welcome", "a1", "welcome", "a2"]


async def test_I05_an_audience_and_a_hub_go_together():
    a, b, c = Talker("a"), Talker("b"), Talker("c")
    a.reset_audience([c])
    async with msghub([a, b]):
        await a()
        a.clear_audience()
        await a()
    assert texts(b) == ["a1", "a2"]
    assert texts(c) == ["a1"]


# -- I06 --


async def test_I06_what_was_observed_and_is_then_given_is_kept_once():
    a, b = Talker("a"), Talker("b")
    async with msghub([a, b]):
        said = await a()
        await b(said)
    assert texts(b) == ["a1", "b1"]
    assert texts(a) == ["a1", "b1"]


async def test_I06_a_relayed_message_is_kept_once_by_its_author():
    class Relay(AgentBase):
        async def reply(self, x=None):
            return x

    a, relay = Talker("a"), Relay("r")
    async with msghub([a, relay]):
        await relay(await a())
    assert texts(a) == ["a1"]
    assert texts(relay) == ["a1"]


# -- I07 --


@pytest.mark.parametrize("kind", [list, tuple])
async def test_I07_the_callers_sequence_is_not_touched(kind):
    a, b, c = Talker("a"), Talker("b"), Talker("c")
    given = kind([a, b])
    async with msghub(given) as hub:
        hub.add(c)
        hub.delete(a)
        hub.participants.clear()
        assert hub.participants == [b, c]
        await b()
    assert given == kind([a, b])
    assert texts(c) == ["b1"]


async def test_I07_an_agent_named_twice_is_one_participant():
    a, b = Talker("a"), Talker("b")
    async with msghub([a, b, b, a]) as hub:
        assert hub.participants == [a, b]
        await a()
    assert texts(b) == ["a1"]


async def test_empty_and_lonely_hubs_work():
    a = Talker("a")
    async with msghub([]) as hub:
        hub.add(a)
        await a()
        await hub.broadcast("anyone?")
    assert texts(a) == ["a1", "anyone?"]
    assert isinstance(msghub([]), MsgHub)


# -- busy, slow and failing listeners --


async def test_a_busy_listener_is_not_waited_for_and_hears_it_in_its_turn(surroundings):
    a, busy = Talker("a"), Busy("b")
    async with msghub([a, busy]):
        working = asyncio.create_task(busy())
        await busy.at_work.wait()
        await a()
        await a()
        assert texts(busy) == []
        busy.door.set()
        await working
    assert texts(busy) == ["b1", "a1", "a2"]
    assert texts(a) == ["a1", "a2", "b1"]


async def test_all_speaking_at_once_is_heard_by_all_in_each_speakers_order(surroundings):
    agents = [Noting(name) for name in "abcde"]
    talkers = [Talker(name) for name in "vwxyz"]

    async def talk(agent):
        for _ in range(10):
            await agent()
            await asyncio.sleep(0)

    async with msghub([*agents, *talkers]):
        await asyncio.gather(*(talk(agent) for agent in talkers))
    for listener in agents:
        for talker in talkers:
            mine = [text for text in listener.heard if text.startswith(talker.name)]
            assert mine == [f"{talker.name}{n}" for n in range(1, 11)]
    for listener in talkers:
        assert sorted(texts(listener)) == sorted(f"{t.name}{n}" for t in talkers for n in range(1, 11))


async def test_listeners_that_observe_in_a_turn_have_heard_it_when_the_speaker_is_done(surroundings):
    a, noting = Talker("a"), Noting("n")
    async with msghub([a, noting]):
        await a()
        assert noting.heard == ["a1"]
        await a()
        assert noting.heard == ["a1", "a2"]


async def test_a_listener_may_ask_the_speaker_back(surroundings):
    class Nosy(AgentBase):
        async def observe(self, x):
            if x.text == "a1":
                self.answer = (await a("why?")).text

    a, nosy = Talker("a"), Nosy("n")
    async with msghub([a, nosy]):
        await a()
    assert nosy.answer == "a2"


async def test_a_listener_that_raises_harms_nobody(surroundings):
    class Grumpy(AgentBase):
        async def observe(self, x):
            raise ValueError("I do not want to hear it")

    a, grumpy, b = Talker("a"), Grumpy("g"), Talker("b")
    async with msghub([a, grumpy, b]):
        assert (await a()).text == "a1"
        assert (await a()).text == "a2"
    assert texts(b) == ["a1", "a2"]
    assert grumpy.mailbox.is_idle


async def test_what_a_listener_failed_to_hear_is_a_dead_letter_of_the_runtime():
    class Grumpy(AgentBase):
        async def observe(self, x):
            raise ValueError("I do not want to hear it")

    class Full(TemporaryMemory):
        def add(self, memories, embed=False):
            raise OSError("disk full")

        remember = add

    async with Runtime() as rt:
        a, grumpy, full, gone = Talker("a"), Grumpy("grumpy"), Talker("full", memory=Full()), Talker("gone")
        await gone.stop()
        async with msghub([a, grumpy, full, gone]):
            await a()
        dead = {letter.agent: letter for letter in rt.dead_letters}
        assert set(dead) == {"grumpy", "full", "gone"}
        assert {letter.msg.text for letter in dead.values()} == {"a1"}
        assert isinstance(dead["grumpy"].error, ValueError)
        assert isinstance(dead["full"].error, OSError)


async def test_a_stopped_listener_harms_nobody(surroundings):
    a, gone, b = Talker("a"), Talker("gone"), Talker("b")
    await gone.stop()
    async with msghub([a, gone, b], announcement="hello"):
        assert (await a()).text == "a1"
    assert texts(b) == ["hello", "a1"]


async def test_a_full_listener_that_rejects_harms_nobody(surroundings):
    a, busy = Talker("a"), Busy("b", capacity=1, overflow="reject")
    async with msghub([a, busy]):
        working = asyncio.create_task(busy())
        await busy.at_work.wait()
        for _ in range(3):
            await a()
        with pytest.raises(MailboxFullError):
            await busy("no room")
        busy.door.set()
        await working
    assert texts(busy) == ["b1", "a1"]
    assert a.count == 3


async def test_cancelling_a_speaker_leaves_the_hub_in_order(surroundings):
    busy, b = Busy("busy"), Talker("b")
    async with msghub([busy, b]):
        speaking = asyncio.create_task(busy())
        await busy.at_work.wait()
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
        await b()
    assert texts(b) == ["b1"]
    assert texts(busy) == ["b1"]


async def test_many_hubs_open_and_close_without_a_trace():
    agents = [Talker(str(n)) for n in range(10)]
    async with AsyncExitStack() as stack:
        for n in range(20):
            await stack.enter_async_context(msghub(agents[n % 5 : n % 5 + 5]))
        await agents[4]()
    assert all(agent.memory.size() == 1 for agent in agents[:9])
    await agents[4]()
    assert all(agent.memory.size() == 1 for agent in agents[:4])
