"""One agent for each key: made on its first message, saved after each turn, dropped when idle."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentscope_async import (
    AgentBase,
    AgentScopeError,
    ConfigError,
    DeadlockError,
    DialogAgent,
    EchoModel,
    FunctionModel,
    InterruptedTurnError,
    KeyedAgent,
    KeyedAgents,
    MessageError,
    Msg,
    Runtime,
    RuntimeClosedError,
    StoreFailingError,
    UnsavedStateError,
    keyed_unsaved,
    msghub,
    sequentialpipeline,
)

pytestmark = pytest.mark.usefixtures("no_leaks")


class Counting(AgentBase):
    """Counts its messages in a state of its own, and can be held up or made to fail."""

    made: Counter[str] = Counter()

    def __init__(self, key: str) -> None:
        super().__init__(f"agent of {key}")
        self.key = key
        self.count = 0
        type(self).made[key] += 1

    async def reply(self, x: Any = None) -> Msg:
        self._remember(x)
        self.count += 1
        await self.work(x)
        msg = Msg(self.name, f"{self.key} {self.count}", "assistant")
        self._remember(msg)
        return msg

    async def work(self, x: Any) -> None:
        await asyncio.sleep(0)

    async def state(self) -> dict[str, Any]:
        return {**await super().state(), "count": self.count}

    async def load_state(self, state: dict[str, Any]) -> None:
        await super().load_state(state)
        self.count = state["count"]


@pytest.fixture(autouse=True)
def _nobody_made() -> None:
    Counting.made.clear()


def counting(key: str) -> Counting:
    return Counting(key)


def chat(key: str) -> DialogAgent:
    return DialogAgent("Ann", None, EchoModel())


async def settled() -> None:
    """Let what was called soon be called."""
    for _ in range(3):
        await asyncio.sleep(0)


def break_store(path: Path) -> None:
    """Let every save fail."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER no BEFORE UPDATE ON states BEGIN SELECT RAISE(ABORT, 'no'); END")
    connection.close()


def mend_store(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER no")
    connection.close()


# -- one for each key --


async def test_each_key_has_an_agent_of_its_own(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        assert (await rt.agents(counting, key="ann")("a")).text == "ann 1"
        assert (await rt.agents(counting, key="bob")("b")).text == "bob 1"
        assert (await rt.agents(counting, key="ann")("c")).text == "ann 2"
    assert Counting.made == {"ann": 1, "bob": 1}


async def test_nothing_is_made_or_written_before_the_first_message(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agent = rt.agents(counting, key="ann")
        assert agent is rt.agents(counting, key="ann")
    assert not Counting.made
    assert os.listdir(tmp_path) == []


async def test_an_async_factory_makes_agents_of_its_runtime(tmp_path: Path) -> None:
    owners = []

    async def make(key: str) -> Counting:
        await asyncio.sleep(0)
        made = Counting(key)
        owners.append(made._runtime)
        return made

    async with Runtime(save_dir=tmp_path) as outer, Runtime():
        assert (await outer.agents(make, key="ann")("a")).text == "ann 1"
    assert owners == [outer]


async def test_many_askers_of_one_key_get_one_agent_and_one_turn_each(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting, live=1)
        replies = await asyncio.gather(*(agents.get("ann")(f"m{n}") for n in range(20)))
        assert [each.text for each in replies] == [f"ann {n}" for n in range(1, 21)]
    assert Counting.made["ann"] == 1


@pytest.mark.parametrize("key", ["", "a/b", "../x", "a b", "x" * 65, "ä", "a\n", "\0", None, 5])
async def test_what_is_no_key_is_refused(key: Any, tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        with pytest.raises(ConfigError, match="1 to 64"):
            rt.agents(counting).get(key)


async def test_options_that_contradict_are_refused(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        rt.agents(counting, live=3)
        assert rt.agents(counting).live == 3
        with pytest.raises(ConfigError, match="options"):
            rt.agents(counting, live=4)
        with pytest.raises(ConfigError, match="name="):
            rt.agents(chat, name="counting")
        with pytest.raises(ConfigError, match="live"):
            rt.agents(chat, live=0)
        with pytest.raises(ConfigError, match="64"):
            rt.agents(chat, name="a/b")


async def test_a_factory_that_gives_no_agent_is_told_so(tmp_path: Path) -> None:
    shared = Counting("all")
    async with Runtime(save_dir=tmp_path) as rt:
        with pytest.raises(ConfigError, match="is to return an agent"):
            await rt.agents(lambda key: 5, key="ann")("a")
        agents = rt.agents(lambda key: shared, name="shared")
        await agents.get("ann")("a")
        with pytest.raises(ConfigError, match="same agent twice"):
            await agents.get("bob")("a")


@pytest.mark.parametrize("key", ["ann", "bob"])
async def test_an_agent_that_was_dropped_is_not_given_again(tmp_path: Path, key: str) -> None:
    given = iter([(one := chat("ann")), chat("eve"), one])
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(lambda key: next(given), name="pool", live=1)
        for first in ("ann", "eve"):
            await agents.get(first)("a secret")
        await settled()
        assert agents.live_count == 1
        with pytest.raises(ConfigError, match="same agent twice"):
            await agents.get(key)("hello")


async def test_an_agent_nobody_can_tell_from_another_is_refused(tmp_path: Path) -> None:
    class Bare:
        __slots__ = ()

        async def state(self) -> dict[str, Any]:
            return {}

        load_state = state

    async with Runtime(save_dir=tmp_path) as rt:
        with pytest.raises(ConfigError, match="__weakref__"):
            await rt.agents(lambda key: Bare(), name="bare").get("ann")("a")


# -- it is an agent like any other --


async def test_a_keyed_agent_is_streamed_told_and_heard_like_any_other(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        ann, bob = rt.agents(chat, key="ann"), rt.agents(counting, key="bob")
        async with ann.stream("one two three") as stream:
            pieces = [speech.text async for speech in stream]
        assert len(pieces) >= 3
        assert "".join(pieces) == stream.msg.text
        await bob.post("told")
        assert (await bob.submit("asked")).text == "bob 2"
        async with msghub([ann, bob], announcement=Msg("host", "hear this", "user")):
            await ann("again")
        assert (await sequentialpipeline([ann, bob], "through")).text == "bob 3"
        remembered = [m["content"] for m in (await bob.state())["memory"]]
        assert "hear this" in remembered
        assert any("again" in each for each in remembered)


async def test_interrupt_ends_the_turn_and_the_next_one_goes_on_from_before_it(tmp_path: Path) -> None:
    begun = asyncio.Event()

    class Slow(Counting):
        async def work(self, x: Any) -> None:
            if x.text == "slow":
                begun.set()
                await asyncio.Event().wait()

    async with Runtime(save_dir=tmp_path) as rt:
        agent = rt.agents(Slow, key="ann")
        await agent("a")
        asking = asyncio.create_task(agent("slow"))
        await begun.wait()
        assert await agent.interrupt("enough")
        with pytest.raises(InterruptedTurnError, match="enough"):
            await asking
        await agent("b")
        assert [m["content"] for m in (await agent.state())["memory"]] == ["a", "ann 1", "b", "ann 3"]


async def test_an_agent_that_asks_its_own_key_is_told_of_the_circle(tmp_path: Path) -> None:
    class Selfish(Counting):
        async def work(self, x: Any) -> None:
            await rt.agents(Selfish, key="ann")("and you?")

    async with Runtime(save_dir=tmp_path) as rt:
        with pytest.raises(DeadlockError, match="ann -> agent of ann -> ann"):
            await rt.agents(Selfish, key="ann")("a")


async def test_agents_that_ask_each_other_do_not_wait_for_room_in_memory(tmp_path: Path) -> None:
    class Relay(Counting):
        async def work(self, x: Any) -> None:
            if self.key != "0":
                await agents.get(str(int(self.key) - 1))("further")

    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(Relay, live=1)
        assert (await agents.get("9")("go")).text == "9 1"
        await settled()
        assert agents.live_count == 1


# -- dropped and back --


async def test_only_so_many_stay_in_memory_and_all_keep_what_they_know(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting, live=10)
        for turn in range(1, 4):
            for n in range(100):
                assert (await agents.get(f"k{n}")(f"m{turn}")).text == f"k{n} {turn}"
                await settled()
                assert agents.live_count <= 10
        assert agents.live_count == 10
        for n in range(100):
            told = [m["content"] for m in (await agents.get(f"k{n}").state())["memory"]]
            await settled()
            assert agents.live_count <= 10
            assert told == ["m1", f"k{n} 1", "m2", f"k{n} 2", "m3", f"k{n} 3"]
    assert all(times >= 3 for times in Counting.made.values())


async def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting, live=2)
        for key in ("ann", "bob", "ann", "eve", "ann"):
            await agents.get(key)("m")
            await settled()
    assert Counting.made == {"ann": 1, "bob": 1, "eve": 1}


async def test_an_idle_agent_is_dropped_after_its_time(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting, idle_after_s=0.0)
        await agents.get("ann")("a")
        await settled()
        assert agents.live_count == 0
        assert (await agents.get("ann")("b")).text == "ann 2"
    assert Counting.made["ann"] == 2


async def test_the_time_of_an_idle_agent_is_counted_from_its_last_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    ahead_s = 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead_s)
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting, idle_after_s=1000.0)
        await agents.get("ann")("a")
        await agents.get("bob")("a")
        ahead_s = 900.0
        await agents.get("bob")("b")
        ahead_s = 1001.0
        await settled()
        assert agents.live_count == 1
        ahead_s = 2000.0
        await settled()
        assert agents.live_count == 0


async def test_an_agent_that_is_answering_is_not_dropped(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Counting):
        async def work(self, x: Any) -> None:
            if x.text == "slow":
                begun.set()
                await go_on.wait()

    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(Slow, live=1, idle_after_s=0.0)
        asking = asyncio.create_task(agents.get("ann")("slow"))
        await begun.wait()
        for n in range(5):
            await agents.get(f"k{n}")("quick")
            await settled()
        go_on.set()
        assert (await asking).text == "ann 1"
        assert (await agents.get("ann")("quick")).text == "ann 2"
        await settled()
    assert Counting.made["ann"] <= 2


async def test_a_message_that_comes_while_the_agent_is_saved_waits_for_that(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting, live=1, idle_after_s=0.0)

        async def talk(key: str) -> list[str]:
            return [(await agents.get(key)("m")).text for _ in range(30)]

        talks = await asyncio.gather(*(talk(key) for key in ("ann", "bob", "ann", "eve")))
    assert sorted(talks[0] + talks[2], key=lambda text: int(text.split()[1])) == [
        f"ann {n}" for n in range(1, 61)
    ]
    assert talks[1] == [f"bob {n}" for n in range(1, 31)]


# -- saved --


async def test_another_runtime_with_the_same_store_goes_on_from_there(tmp_path: Path) -> None:
    store = tmp_path / "deep" / "agents.db"
    for turn in range(1, 4):
        async with Runtime(save_dir=tmp_path) as rt:
            assert (await rt.agents(counting, key="ann", store=store)("m")).text == f"ann {turn}"
    assert store.stat().st_mode & 0o777 == 0o600


async def test_a_run_that_is_joined_again_has_its_agents(tmp_path: Path) -> None:
    for turn in range(1, 3):
        async with Runtime(save_dir=tmp_path, run_id="mine") as rt:
            assert (await rt.agents(counting, key="ann")("m")).text == f"ann {turn}"
    assert (tmp_path / "mine" / "agents.db").is_file()


async def test_a_turn_is_saved_before_it_is_answered(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        assert await agents.saved("ann") is None
        await agents.get("ann")("m")
        assert ((await agents.saved("ann")) or {})["count"] == 1
        await agents.get("ann").observe(Msg("host", "heard", "user"))
        assert ((await agents.saved("ann")) or {})["memory"][-1]["content"] == "heard"


async def test_a_failed_turn_leaves_what_was_saved_and_its_remains_are_saved_later(tmp_path: Path) -> None:
    class Failing(Counting):
        async def work(self, x: Any) -> None:
            if x.text == "fail":
                raise LookupError("lost")

    async with Runtime(save_dir=tmp_path, run_id="r") as rt:
        agents = rt.agents(Failing)
        await agents.get("ann")("a")
        with pytest.raises(LookupError, match="lost"):
            await agents.get("ann")("fail")
        assert ((await agents.saved("ann")) or {})["count"] == 1
    async with Runtime(save_dir=tmp_path, run_id="r") as rt:
        state = (await rt.agents(Failing).saved("ann")) or {}
    assert state["count"] == 2  # of its own, which no failing turn undoes
    assert [m["content"] for m in state["memory"]] == ["a", "ann 1"]


async def test_a_store_that_fails_is_told_to_the_asker_and_nothing_is_lost(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    async with Runtime() as rt:
        agents = rt.agents(counting, store=store, idle_after_s=0.0)
        ann = agents.get("ann")
        await ann("a")
        break_store(store)
        with pytest.raises(UnsavedStateError, match="no") as caught:
            await ann("b")
        assert caught.value.agent == "ann"
        for _ in range(20):
            await settled()
        assert agents.live_count == 1  # it is not dropped unsaved
        mend_store(store)
        assert (await ann("c")).text == "ann 3"
        told = [m["content"] for m in ((await agents.saved("ann")) or {})["memory"]]
        assert told == ["a", "ann 1", "b", "ann 2", "c", "ann 3"]


async def test_what_could_not_be_saved_is_saved_when_the_runtime_is_left(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    async with Runtime() as rt:
        ann = rt.agents(counting, key="ann", store=store)
        await ann("a")
        break_store(store)
        with pytest.raises(UnsavedStateError):
            await ann("b")
        mend_store(store)
    async with Runtime() as rt:
        assert (await rt.agents(counting, key="ann", store=store)("c")).text == "ann 3"


class FullDisk:
    """Has saves of these agents fail until it is emptied, and counts them."""

    def __init__(self, agents: KeyedAgents, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tries: Counter[str] = Counter()
        self.is_full = True
        self._save = agents.store.save
        monkeypatch.setattr(agents.store, "save", self.save)

    async def save(self, kind: str, key: str, state: dict[str, Any], **options: Any) -> int:
        self.tries[key] += 1
        if self.is_full:
            raise AgentScopeError("disk full")
        return await self._save(kind, key, state, **options)


async def long_settled() -> None:
    for _ in range(20):
        await settled()


async def test_what_could_not_be_saved_is_tried_again_after_longer_and_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    ahead_s = 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead_s)
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting, live=1)
        disk = FullDisk(agents, monkeypatch)
        keys = ("ann", "bob", "cid")
        for key in keys:
            with pytest.raises(UnsavedStateError):
                await agents.get(key)("a")
            await long_settled()
        assert disk.tries == dict.fromkeys(keys, 1)
        seen = []
        for later_s in (100.0, 101.0, 200.0, 201.0, 203.0, 300.0):
            ahead_s = later_s
            await long_settled()
            seen.append(disk.tries["ann"])
        # After 1 s, 2 s, 4 s, ...: not again until that has passed.
        assert seen == [2, 2, 3, 3, 3, 4]
        disk.is_full = False
        ahead_s = 400.0
        while agents.live_count:
            await asyncio.sleep(0)
        assert disk.tries == dict.fromkeys(keys, 5)


async def test_no_agent_is_asked_while_too_many_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    ahead_s = 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead_s)
    monkeypatch.setattr(keyed_unsaved, "MAX_UNSAVED", 2)
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        disk = FullDisk(agents, monkeypatch)
        for key in ("ann", "bob"):
            with pytest.raises(UnsavedStateError):
                await agents.get(key)("a")
        for key in ("ann", "cid"):
            with pytest.raises(StoreFailingError, match="2 agents could not be saved"):
                await agents.get(key)("b")
        assert Counting.made == {"ann": 1, "bob": 1}
        disk.is_full = False
        ahead_s = 100.0
        while agents.live_count:
            await asyncio.sleep(0)
        assert (await agents.get("cid")("c")).text == "cid 1"
        assert (await agents.get("ann")("c")).text == "ann 2"


async def test_a_store_that_cannot_be_read_keeps_the_agent_from_being_asked(tmp_path: Path) -> None:
    (tmp_path / "agents.db").write_bytes(b"no database at all" * 100)
    async with Runtime() as rt:
        with pytest.raises(AgentScopeError, match="SQLite"):
            await rt.agents(counting, key="ann", store=tmp_path / "agents.db")("a")
        with pytest.raises(AgentScopeError, match="cannot be made"):
            await rt.agents(chat, key="ann", store=tmp_path)("a")
    assert not Counting.made


async def test_two_programs_on_one_store_do_not_overwrite_each_other(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    async with Runtime() as one, Runtime() as two:
        ann, same = (rt.agents(counting, key="ann", store=store) for rt in (one, two))
        assert (await ann("a")).text == "ann 1"
        assert (await same("b")).text == "ann 2"
        with pytest.raises(UnsavedStateError, match="another program"):
            await ann("c")
        assert (await ann("d")).text == "ann 3"
        told = [m["content"] for m in (await ann.state())["memory"]]
        assert told == ["a", "ann 1", "b", "ann 2", "d", "ann 3"]


async def test_a_caller_cancelled_while_the_agent_is_saved_leaves_no_doubt_about_it(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        real = agents.store.save
        saving = asyncio.Event()

        async def save(*args: Any, **options: Any) -> int:
            saving.set()
            return await real(*args, **options)

        agents.store.save = save  # type: ignore[method-assign]
        asking = asyncio.create_task(agents.get("ann")("a"))
        await saving.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await agents.get("ann")("b")).text == "ann 2"


async def test_a_keyed_agent_of_a_runtime_that_was_left_says_so(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        ann = rt.agents(counting, key="ann")
        await ann("a")
    with pytest.raises(RuntimeClosedError):
        await ann("b")


async def test_a_turn_that_outlives_its_runtime_is_saved_too(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Counting):
        async def work(self, x: Any) -> None:
            begun.set()
            await go_on.wait()

    async with Runtime(save_dir=tmp_path, run_id="r") as rt:
        asking = asyncio.create_task(rt.agents(Slow, key="ann")("a"))
        await begun.wait()
    go_on.set()
    assert (await asking).text == "ann 1"
    async with Runtime(save_dir=tmp_path, run_id="r") as rt:
        assert (await rt.agents(Slow, key="ann")("b")).text == "ann 2"


async def test_a_keyed_agent_stays_with_its_runtime(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        ann = rt.agents(counting, key="ann")
        with pytest.raises(ConfigError, match="stays"):
            ann.to_dist()


async def test_the_state_of_a_keyed_agent_can_be_replaced(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        await agents.get("ann")("a")
        await agents.get("bob").load_state(await agents.get("ann").state())
        assert ((await agents.saved("bob")) or {})["count"] == 1
        assert (await agents.get("bob")("b")).text == "bob 2"


async def test_a_stopped_agent_is_made_anew_when_asked_for_again(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        await agents.get("ann")("a")
        await agents.get("ann").stop()
        assert (await agents.get("ann")("b")).text == "ann 2"


async def test_cancelling_a_turn_cancels_the_model_call_behind_it(tmp_path: Path) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def think(messages: Any) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    async with Runtime(save_dir=tmp_path) as rt:
        ann = rt.agents(lambda key: DialogAgent("Ann", None, FunctionModel(think)), key="ann")
        asking = asyncio.create_task(ann("a"))
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert cancelled.is_set()
        assert isinstance(ann, KeyedAgent)


# -- deleted --


def rows(store: Path) -> list[tuple[str, str]]:
    """Return the kinds and keys of all that is saved."""
    with sqlite3.connect(store) as connection:
        found = connection.execute("SELECT kind, key FROM states ORDER BY kind, key").fetchall()
    connection.close()
    return found


def remembered(state: dict[str, Any] | None) -> list[str]:
    return [m["content"] for m in (state or {})["memory"]]


async def test_a_deleted_agent_is_gone_and_the_next_message_makes_a_fresh_one(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    async with Runtime() as rt:
        agents = rt.agents(counting, store=store)
        for key in ("ann", "bob"):
            await agents.get(key)("a")
        assert await agents.delete("ann")
        assert agents.live_count == 1
        assert await agents.saved("ann") is None
        assert rows(store) == [("counting", "bob")]
        assert not await agents.delete("ann")
        assert (await agents.get("ann")("b")).text == "ann 1"
        assert remembered(await agents.get("ann").state()) == ["b", "ann 1"]
        assert (await agents.get("bob")("b")).text == "bob 2"
    assert Counting.made == {"ann": 2, "bob": 1}


async def test_an_agent_that_is_not_in_memory_is_deleted_too(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    for is_first in (True, False):
        async with Runtime() as rt:
            agents = rt.agents(counting, store=store)
            if is_first:
                await agents.get("ann")("a")
            else:
                assert await agents.delete("ann")
    assert rows(store) == []
    assert Counting.made == {"ann": 1}


async def test_there_is_nothing_to_delete_of_an_agent_that_was_only_looked_at(tmp_path: Path) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        await agents.get("ann").state()
        assert not await agents.delete("ann")
        assert agents.live_count == 0
        with pytest.raises(ConfigError, match="1 to 64"):
            await agents.delete("a/b")


async def test_a_deletion_waits_in_line(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Counting):
        async def work(self, x: Any) -> None:
            if x.text == "slow":
                begun.set()
                await go_on.wait()

    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(Slow)
        running = asyncio.create_task(agents.get("ann")("slow"))
        await begun.wait()
        before = asyncio.create_task(agents.get("ann")("before"))
        await settled()
        deleting = asyncio.create_task(agents.delete("ann"))
        await settled()
        after = asyncio.create_task(agents.get("ann")("after"))
        await settled()
        assert not deleting.done()
        go_on.set()
        assert [(await each).text for each in (running, before, after)] == ["ann 1", "ann 2", "ann 1"]
        assert await deleting
        assert remembered(await agents.saved("ann")) == ["after", "ann 1"]


class Spoilt(Counting):
    """Has a state that cannot be saved once it was told to."""

    @property
    def spoilt(self) -> dict[str, Any]:
        raise MessageError("note", "is spoilt")

    async def state(self) -> dict[str, Any]:
        state = await super().state()
        told = [each["content"] for each in state["memory"]]
        if "no JSON" in told:
            return {**state, "notes": {7: "x"}}
        return {**state, **self.spoilt} if "raise" in told else state


@pytest.mark.parametrize("fault", ["no JSON", "raise"])
async def test_a_state_that_cannot_be_saved_is_the_fault_of_its_agent_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(keyed_unsaved, "MAX_UNSAVED", 1)
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(Spoilt)
        await agents.get("ann")("a")
        for key in ("ann", "bob"):
            with pytest.raises(UnsavedStateError, match="before that turn"):
                await agents.get(key)(fault)
        assert (await agents.get("eve")("c")).text == "eve 1"
        assert (await agents.get("ann")("b")).text == "ann 2"  # as it was saved
        assert (await agents.get("bob")("b")).text == "bob 1"
        assert agents.live_count == 3


async def test_what_could_not_be_saved_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_unsaved, "MAX_UNSAVED", 1)
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        disk = FullDisk(agents, monkeypatch)
        with pytest.raises(UnsavedStateError):
            await agents.get("ann")("a")
        with pytest.raises(StoreFailingError):
            await agents.get("bob")("a")
        assert await agents.delete("ann")  # there was something, though never saved
        disk.is_full = False
        assert (await agents.get("bob")("a")).text == "bob 1"
        assert await agents.saved("ann") is None


async def test_an_agent_that_cannot_be_deleted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        await agents.get("ann")("a")

        async def fail(*args: Any, **options: Any) -> bool:
            raise AgentScopeError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(agents.store, "delete", fail)
            with pytest.raises(AgentScopeError, match="disk full"):
                await agents.delete("ann")
        assert (await agents.get("ann")("b")).text == "ann 2"
    with pytest.raises(RuntimeClosedError):
        await agents.delete("ann")


async def test_whoever_is_cancelled_while_deleting_has_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(save_dir=tmp_path) as rt:
        agents = rt.agents(counting)
        await agents.get("ann")("a")
        real, begun = agents.store.delete, asyncio.Event()

        async def delete(*args: Any, **options: Any) -> bool:
            begun.set()
            return await real(*args, **options)

        monkeypatch.setattr(agents.store, "delete", delete)
        deleting = asyncio.create_task(agents.delete("ann"))
        await begun.wait()
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
        assert agents.live_count == 0
        assert (await agents.get("ann")("b")).text == "ann 1"


async def test_a_program_that_is_in_a_turn_does_not_bring_back_what_another_deletes(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Counting):
        async def work(self, x: Any) -> None:
            if x.text == "slow":
                begun.set()
                await go_on.wait()

    async with Runtime() as one, Runtime() as two:
        mine, theirs = (rt.agents(Slow, store=store) for rt in (one, two))
        await theirs.get("ann")("a")
        asking = asyncio.create_task(theirs.get("ann")("slow"))
        await begun.wait()
        assert await mine.delete("ann")
        go_on.set()
        with pytest.raises(UnsavedStateError, match="deleted"):
            await asking
        assert rows(store) == []
        assert (await theirs.get("ann")("b")).text == "ann 1"


async def test_a_program_that_knows_what_was_deleted_does_not_overwrite_what_is_new(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    async with Runtime() as one, Runtime() as two:
        mine, theirs = (rt.agents(counting, store=store) for rt in (one, two))
        await theirs.get("ann")("secret")
        assert await mine.delete("ann")
        await mine.get("ann")("new")  # as often saved by now as what the other one has in memory
        with pytest.raises(UnsavedStateError):
            await theirs.get("ann")("b")
        assert remembered(await mine.saved("ann")) == ["new", "ann 1"]


async def test_an_agent_that_belongs_to_a_record_is_only_saved_while_that_is_there(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    async with Runtime() as rt:
        agents = rt.agents(counting, store=store)
        with pytest.raises(UnsavedStateError, match="deleted"):
            await agents.get("ann", record="users")("a")
        await agents.store.save("users", "bob", {"since": 2024}, version=0)
        bob = agents.get("bob", record="users")
        assert [(await bob(x)).text for x in "ab"] == ["bob 1", "bob 2"]
        assert rows(store) == [("counting", "bob"), ("users", "bob")]
        assert await bob.delete()
        assert rows(store) == []
        with pytest.raises(UnsavedStateError, match="deleted"):
            await bob("c")
        assert rows(store) == []


KILLED = """
import asyncio, sys
from agentscope_async import DialogAgent, EchoModel, Runtime

def chat(key):
    return DialogAgent("Ann", None, EchoModel())

async def main():
    async with Runtime() as rt:
        agents = rt.agents(chat, store=sys.argv[1], live=3)
        async def talk(key):
            for n in range(10_000):
                reply = await agents.get(key)(f"{key} {n}")
                print(key, n, flush=True)
        await asyncio.gather(*(talk(f"k{n}") for n in range(8)))

asyncio.run(main())
"""


def talk_until_killed(store: Path) -> list[str]:
    """Return what a process said was acknowledged before ``kill -9``."""
    command = [sys.executable, "-c", KILLED, str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(400)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()
    return [line for line in lines if line.endswith("\n")]


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    store = tmp_path / "agents.db"
    lines = await asyncio.to_thread(talk_until_killed, store)
    acknowledged: Counter[str] = Counter(line.split()[0] for line in lines)
    assert len(acknowledged) == 8
    async with Runtime() as rt:
        agents = rt.agents(chat, store=store)
        for key, count in acknowledged.items():
            memory = ((await agents.saved(key)) or {})["memory"]
            said = [m["content"] for m in memory if m["role"] == "user"]
            assert said[:count] == [f"{key} {n}" for n in range(count)]
            assert len(said) <= count + 1  # one more may have been saved and not yet acknowledged
