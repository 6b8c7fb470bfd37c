"""What owns the work nobody waits for, and what scripts without it rely on."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import logging as stdlib
import re
import subprocess
import sys
import warnings
from typing import Any

import pytest

from agentscope_async import (
    AgentBase,
    AgentScopeWarning,
    AskTimeoutError,
    ConfigError,
    DeadlockError,
    DialogAgent,
    DictDialogAgent,
    EchoModel,
    Msg,
    NoRuntimeError,
    Runtime,
    RuntimeClosedError,
    ScriptedModel,
    UserAgent,
    __version__,
    _event_reader,
    current_runtime,
    init,
    logging as chat_logging,
    models,
    msghub,
    runtime as runtime_module,
)
from agentscope_async.events import LetterBuried, TurnEnded, TurnStarted

ECHO = {"config_name": "talk", "model_type": "fake_echo"}
SHORT_S = 0.05


class Parrot(AgentBase):
    """Answers with what it was told, and keeps a list of it."""

    def __init__(self, name="parrot", **options):
        super().__init__(name, **options)
        self.handled = []

    async def reply(self, x=None):
        await asyncio.sleep(0)
        self.handled.append(x.text)
        return Msg(self.name, x.text, "assistant")


class Gate(AgentBase):
    """Answers once its door is open."""

    def __init__(self, name="gate", **options):
        super().__init__(name, **options)
        self.door, self.reached = asyncio.Event(), asyncio.Event()
        self.was_cancelled = False

    async def reply(self, x=None):
        self.reached.set()
        try:
            await self.door.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return Msg(self.name, x.text, "assistant")


class Broken(AgentBase):
    """Fails a number of times before it answers."""

    def __init__(self, failures=10**9, name="broken"):
        super().__init__(name)
        self.failures, self.attempts = failures, 0

    async def reply(self, x=None):
        self.attempts += 1
        if self.attempts <= self.failures:
            raise LookupError(f"attempt {self.attempts}")
        return x


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


@pytest.fixture(autouse=True)
def clean_process():
    """What ``init`` changes in the process is undone."""
    logger = stdlib.getLogger("agentscope_async")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
    chat_logging._default_chat.use(None)
    models.config.process_models.clear()


def run_python(*arguments, given=None, cwd=None):
    done = subprocess.run(
        [sys.executable, *arguments], input=given, capture_output=True, text=True, timeout=50, cwd=cwd
    )
    return done.stdout, done.stderr, done.returncode


def reasons(rt):
    return [letter.reason for letter in rt.dead_letters]


def test_A10_the_version_can_be_read():
    assert re.match(r"\d+\.\d+\.\d+", __version__)


# -- several runtimes --


async def test_two_runtimes_share_no_models():
    async with Runtime(model_configs=ECHO) as one, Runtime(model_configs=[{**ECHO, "delay_s": 1}]) as two:
        with one.use():
            first = DialogAgent("a", model="talk")
        with two.use():
            second = DialogAgent("b", model="talk")
        assert (first.model.delay_s, second.model.delay_s) == (0, 1)
        one.models.read({**ECHO, "config_name": "more"})
        assert one.models.names() == ["talk", "more"]
        assert two.models.names() == ["talk"]
        with two.use(), pytest.raises(ConfigError, match="more"):
            DialogAgent("c", model="more")
    with pytest.raises(ConfigError):
        DialogAgent("d", model="talk")


async def test_two_runtimes_share_no_dead_letters_tasks_or_events():
    seen = {"one": [], "two": []}

    async def read(rt, name):
        async for event in rt.events():
            seen[name].append((type(event), event.agent))

    async with Runtime() as one, Runtime() as two:
        readers = [asyncio.create_task(read(one, "one")), asyncio.create_task(read(two, "two"))]
        await asyncio.sleep(0)
        with one.use():
            a, gate = Broken(name="a"), Gate("gate one")
        with two.use():
            b = Broken(name="b")
        await gate.post("wait")
        await gate.reached.wait()
        await a.post("x")
        await b.post("y")
        await two.drain()  # not held up by the gate of the other one
        assert [(letter.agent, letter.msg.text) for letter in two.dead_letters] == [("b", "y")]
        gate.door.set()
        await one.drain()
        assert [(letter.agent, letter.msg.text) for letter in one.dead_letters] == [("a", "x")]
    await asyncio.wait(readers)
    assert {agent for _, agent in seen["one"]} == {"gate one", "a"}
    assert {agent for _, agent in seen["two"]} == {"b"}


async def test_leaving_one_runtime_leaves_the_others_work_alone():
    async with Runtime() as outer:
        gate = Gate()
        reply = gate.submit("x")
        async with Runtime():
            parrot = Parrot()
            await parrot.post("y")
        assert parrot.handled == ["y"]
        await gate.reached.wait()
        gate.door.set()
        assert (await reply).text == "x"
        assert not gate.was_cancelled
        assert len(outer.dead_letters) == 0


async def test_two_runtimes_in_two_event_loops_share_nothing():
    def work(text):
        async def main():
            async with Runtime() as rt:
                parrot, broken = Parrot(), Broken()
                await parrot.post(text)
                await broken.post(text)
                await rt.drain()
                assert current_runtime() is rt
                return parrot.handled, [letter.msg.text for letter in rt.dead_letters]

        return asyncio.run(main())

    results = await asyncio.gather(*(asyncio.to_thread(work, text) for text in "abcd"))
    assert results == [([text], [text]) for text in "abcd"]


# -- which one is current --


async def test_the_innermost_runtime_is_current():
    assert current_runtime() is None
    async with Runtime() as outer:
        assert current_runtime() is outer
        async with Runtime() as inner:
            assert current_runtime() is inner
        assert current_runtime() is outer
    assert current_runtime() is None


async def test_runtimes_are_left_in_any_order():
    one, two, three = Runtime(), Runtime(), Runtime()
    for rt in (one, two, three):
        await rt.__aenter__()
    await one.__aexit__(None, None, None)
    assert current_runtime() is three
    await three.__aexit__(None, None, None)
    assert current_runtime() is two
    reply = Parrot().submit("still works")
    assert (await reply).text == "still works"
    await two.__aexit__(None, None, None)
    assert current_runtime() is None


async def test_use_overrides_the_innermost_and_ends_with_its_block():
    async with Runtime() as outer, Runtime() as inner:
        with outer.use() as used:
            assert used is outer
            assert current_runtime() is outer
            with inner.use():
                assert current_runtime() is inner
            assert current_runtime() is outer
        assert current_runtime() is inner


async def test_a_used_runtime_that_was_left_is_not_current():
    async with Runtime() as outer:
        async with Runtime() as inner:
            pass
        with inner.use():
            assert current_runtime() is outer


async def test_the_runtime_an_agent_was_built_under_goes_first():
    async with Runtime() as outer:
        agent = Broken()
        async with Runtime() as inner:
            with inner.use():
                await agent.post("x")
                await outer.drain()
        assert reasons(outer) == ["failed"]
        assert reasons(inner) == []


async def test_an_agent_outlives_the_runtime_it_was_built_under():
    async with Runtime():
        parrot = Parrot()
    assert (await parrot("alone")).text == "alone"
    with pytest.raises(NoRuntimeError):
        await parrot.post("x")
    async with Runtime() as later:
        await parrot.post("again")
        await later.drain()
    assert parrot.handled == ["alone", "again"]


async def test_an_agent_built_before_any_runtime_works_for_the_one_that_is_open():
    parrot = Parrot()
    async with Runtime() as rt:
        await parrot.post("x")
        await rt.drain()
    assert parrot.handled == ["x"]


async def test_a_runtime_of_a_lifespan_is_found_by_handlers_that_do_not_inherit_its_context():
    requests, started, ended = asyncio.Queue(), asyncio.Event(), asyncio.Event()
    outside = contextvars.copy_context()

    async def lifespan():
        async with Runtime(model_configs=ECHO) as rt:
            started.set()
            await ended.wait()
            return rt

    async def handle(text, answer):
        agent = DialogAgent("clerk", model="talk")
        answer.set_result((current_runtime(), await agent.submit(text)))

    async def serve():
        while True:
            text, answer = await requests.get()
            handling.append(
                asyncio.get_running_loop().create_task(handle(text, answer), context=outside.copy())
            )

    handling = []
    opening = asyncio.create_task(lifespan(), context=outside.copy())
    await started.wait()
    serving = asyncio.create_task(serve(), context=outside.copy())
    assert outside.run(current_runtime) is current_runtime()
    for text in ("one", "two"):
        answer = asyncio.get_running_loop().create_future()
        await requests.put((text, answer))
        found, msg = await answer
        assert msg.text == f"user: {text}"
        assert found is current_runtime()
        assert found is not None
    serving.cancel()
    await asyncio.wait([serving, *handling])
    ended.set()
    assert await opening is found
    assert current_runtime() is None


def test_there_is_no_current_runtime_outside_of_an_event_loop():
    assert current_runtime() is None
    assert asyncio.run(Parrot()("x")).text == "x"


async def test_a_thread_without_a_loop_finds_no_runtime():
    async with Runtime():
        assert await asyncio.to_thread(contextvars.Context().run, current_runtime) is None


# -- without a runtime --


async def test_background_work_needs_a_runtime_and_the_error_says_how():
    parrot = Parrot()
    wanted = r"{}\(\) of agent 'parrot' needs a Runtime.*`async with Runtime\(\) as rt: \.\.\.`"
    with pytest.raises(NoRuntimeError, match=wanted.format("post")):
        await parrot.post("x")
    with pytest.raises(NoRuntimeError, match=wanted.format("submit")):
        parrot.submit("x")
    with pytest.raises(RuntimeError):
        parrot.submit("x")
    assert parrot.handled == []


ASK = """
import asyncio
from agentscope_async import AgentBase, Msg

class Echo(AgentBase):
    async def reply(self, x=None):
        await asyncio.sleep(0)
        return Msg(self.name, x.text, "assistant")

agent = Echo("echo")

async def main(text):
    print((await agent(text)).content)
"""


def test_asking_works_in_a_bare_script():
    assert run_python("-X", "dev", "-W", "error", "-c", ASK + "asyncio.run(main('hi'))") == ("hi\n", "", 0)


def test_asking_works_in_a_second_event_loop_after_the_first_closed():
    script = ASK + "asyncio.run(main('one'))\nasyncio.run(main('two'))"
    assert run_python("-X", "dev", "-W", "error", "-c", script) == ("one\ntwo\n", "", 0)


def test_a_turn_cut_off_with_its_loop_does_not_keep_the_agent():
    async def ask_and_leave(agent):
        asking = asyncio.create_task(agent("never"))
        await agent.reached.wait()
        return asking  # asyncio.run cancels it on the way out

    async def ask_again(agent):
        agent.door, agent.reached = asyncio.Event(), asyncio.Event()
        agent.door.set()
        async with asyncio.timeout(30):
            return await agent("again")

    gate = asyncio.run(_make(Gate))
    assert asyncio.run(ask_and_leave(gate)).cancelled()
    assert asyncio.run(ask_again(gate)).text == "again"


def test_asking_works_in_ipython(tmp_path):
    script = ASK + "agent2 = agent\nprint((await agent('top level')).content)\nawait main('again')\n"
    out, err, code = run_python(
        "-m", "IPython", "--quick", "--colors=NoColor", f"--ipython-dir={tmp_path}", "-c", script
    )
    assert "top level\nagain\n" in out
    assert "Error" not in out + err
    assert code == 0


def test_asking_and_posting_work_in_cells_of_ipython(tmp_path):
    script = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in [
    {ASK!r},
    "print((await agent('cell one')).content)",
    "from agentscope_async import Runtime\\nrt = await Runtime().__aenter__()",
    "reply = agent.submit('cell three'); print((await reply).content)",
    "await rt.__aexit__(None, None, None)",
]:
    shell.run_cell(cell).raise_error()
"""
    out, err, code = run_python("-c", script)
    assert out.endswith("cell one\ncell three\n")
    assert "Error" not in err
    assert code == 0


# -- leaving --


async def test_leaving_finishes_what_was_posted():
    parrot = Parrot()
    async with Runtime() as rt:
        for n in range(100):
            await parrot.post(str(n))
    assert parrot.handled == [str(n) for n in range(100)]
    assert len(rt.dead_letters) == 0
    assert not rt.is_open


async def test_leaving_finishes_what_follows_from_what_was_posted():
    parrot = Parrot()

    class Chain(AgentBase):
        async def reply(self, x=None):
            await asyncio.sleep(0)
            n = int(x.text)
            await (self if n else parrot).post(str(n - 1))
            return x

    async with Runtime() as rt:
        await Chain("c").post("20")
    assert parrot.handled == ["-1"]
    assert len(rt.dead_letters) == 0


async def test_after_the_grace_everybody_waiting_is_answered():
    async with Runtime(grace=SHORT_S) as rt:
        gate = Gate()
        running, waiting = gate.submit("1"), gate.submit("2")
        await gate.post("3")
        await gate.reached.wait()
    assert gate.was_cancelled
    for reply in (running, waiting):
        with pytest.raises(RuntimeClosedError):
            await reply
    assert [(letter.msg.text, letter.reason) for letter in rt.dead_letters] == [("3", "runtime closed")]
    assert isinstance(rt.dead_letters[0].error, RuntimeClosedError)
    gate.door.set()
    assert (await gate("alive")).text == "alive"


async def test_a_running_post_that_is_cancelled_is_a_dead_letter():
    async with Runtime(grace=0) as rt:
        gate = Gate()
        await gate.post("x")
        await gate.reached.wait()
    assert [(letter.agent, letter.msg.text) for letter in rt.dead_letters] == [("gate", "x")]
    assert gate.was_cancelled


async def test_posts_to_agents_that_are_asked_from_outside_are_not_forgotten():
    gate = Gate()
    async with Runtime(grace=SHORT_S) as rt:
        asking = asyncio.create_task(gate("asked"))
        await gate.reached.wait()
        await gate.post("posted")
    assert [(letter.msg.text, letter.reason) for letter in rt.dead_letters] == [("posted", "runtime closed")]
    assert not asking.done()
    gate.door.set()
    assert (await asking).text == "asked"


async def test_an_error_in_the_block_passes_and_does_not_wait_for_the_grace():
    gate = Gate()
    with pytest.raises(KeyError, match="oops"):
        async with Runtime(grace=1000) as rt:
            await gate.post("x")
            await gate.reached.wait()
            raise KeyError("oops")
    assert gate.was_cancelled
    assert len(rt.dead_letters) == 1


async def test_cancelling_the_block_ends_its_work():
    gate, seen = Gate(), []

    async def block():
        async with Runtime() as rt:
            seen.append(rt)
            reply = gate.submit("x")
            await reply

    running = asyncio.create_task(block())
    await gate.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gate.was_cancelled
    assert not seen[0].is_open
    assert current_runtime() is None


async def test_cancelling_while_leaving_still_ends_everything():
    gate, leaving = Gate(), asyncio.Event()

    async def block():
        async with Runtime(grace=1000):
            await gate.post("x")
            await gate.reached.wait()
            leaving.set()

    running = asyncio.create_task(block())
    await leaving.wait()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gate.was_cancelled
    assert len(asyncio.all_tasks()) == 1


async def test_while_leaving_nothing_new_is_taken_from_outside():
    gate, parrot = Gate(), Parrot()
    async with Runtime() as rt:
        await gate.post("x")
        await gate.reached.wait()

        async def intrude():
            while rt._intake is not None:
                await asyncio.sleep(0)
            try:
                with pytest.raises(RuntimeClosedError, match="being left"):
                    await parrot.post("late")
                with pytest.raises(RuntimeClosedError, match="being left"):
                    parrot.submit("late")
            finally:
                gate.door.set()

        intruding = asyncio.create_task(intrude())
    await intruding
    assert parrot.handled == []


async def test_leaving_leaves_no_task_behind():
    before = asyncio.all_tasks()
    async with Runtime(grace=0):
        for n in range(20):
            gate = Gate(str(n))
            await gate.post("x")
            await gate.post("y")
            gate.submit("z").cancel()
    assert asyncio.all_tasks() == before


async def test_a_handler_that_cannot_be_killed_does_not_keep_the_runtime(monkeypatch):
    monkeypatch.setattr(runtime_module, "KILL_WAIT_S", SHORT_S)
    release, deaf = asyncio.Event(), asyncio.Event()

    class Deaf(AgentBase):
        async def reply(self, x=None):
            deaf.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return x

    agent = Deaf("deaf")
    async with Runtime(grace=0) as rt:
        reply = agent.submit("x")
        await deaf.wait()
        tasks = list(rt._tasks)
    with pytest.raises(RuntimeClosedError, match="did not end when cancelled"):
        await reply
    release.set()
    await asyncio.wait(tasks)


async def test_a_runtime_is_entered_once():
    rt = Runtime()
    async with rt:
        with pytest.raises(RuntimeError, match="entered once"):
            await rt.__aenter__()
        assert current_runtime() is rt
    with pytest.raises(RuntimeError, match="entered once"):
        await rt.__aenter__()


# -- drain --


async def test_drain_waits_for_everything_and_may_be_called_again():
    parrot = Parrot()
    async with Runtime() as rt:
        await rt.drain()
        for n in range(10):
            await parrot.post(str(n))
            parrot.submit(str(n))
        await rt.drain()
        assert len(parrot.handled) == 20
        await rt.drain()


async def test_drain_from_inside_is_refused():
    errors = []

    class Inside(AgentBase):
        async def reply(self, x=None):
            for wait in (rt.drain(), asyncio.wait_for(rt.drain(), 5), _gather(rt.drain())):
                try:
                    await wait
                except RuntimeError as error:
                    errors.append(error)
            return x

    async with Runtime() as rt:
        await Inside("i").post("x")
        await rt.drain()
    assert len(errors) == 3
    assert "wait for itself" in str(errors[0])


async def test_drain_can_be_given_up():
    gate = Gate()
    async with Runtime() as rt:
        await gate.post("x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await rt.drain()
        gate.door.set()
        await rt.drain()


# -- failing posts --


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_failing_post_is_tried_as_often_as_said_and_then_a_dead_letter(attempts):
    broken, told = Broken(), []
    async with Runtime(post_attempts=attempts, on_error=told.append) as rt:
        await broken.post("x")
        await rt.drain()
        [letter] = rt.dead_letters
    assert broken.attempts == attempts
    assert (letter.agent, letter.msg.text, letter.reason) == ("broken", "x", "failed")
    assert str(letter.error) == f"attempt {attempts}"
    assert told == [letter]


async def test_a_post_that_works_in_the_end_is_no_dead_letter():
    broken, told = Broken(failures=2), []
    async with Runtime(post_attempts=3, on_error=told.append) as rt:
        await broken.post("x")
        await rt.drain()
        assert len(rt.dead_letters) == 0
    assert told == []
    assert broken.attempts == 3


async def test_a_failing_submission_is_its_askers_and_not_tried_again():
    broken, told = Broken(), []
    async with Runtime(post_attempts=3, on_error=told.append) as rt:
        with pytest.raises(LookupError, match="attempt 1"):
            await broken.submit("x")
        assert len(rt.dead_letters) == 0
    assert told == []


async def test_on_error_may_be_async():
    told, heard = [], asyncio.Event()

    async def on_error(letter):
        await asyncio.sleep(0)
        told.append(letter.msg.text)
        heard.set()

    async with Runtime(on_error=on_error) as rt:
        await Broken().post("x")
        await rt.drain()
        await heard.wait()
    assert told == ["x"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_error_hears_of_letters_lost_by_leaving_too(is_async):
    told = []

    async def tell_async(letter):
        told.append(letter.msg.text)

    gate = Gate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with Runtime(
            on_error=tell_async if is_async else (lambda letter: told.append(letter.msg.text)), grace=0
        ):
            await gate.post("1")
            await gate.post("2")
            await gate.reached.wait()
    assert sorted(told) == ["1", "2"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_failing_on_error_is_logged_and_harms_nobody(caplog, is_async):
    tried = asyncio.Event()

    def fail(letter):
        tried.set()
        raise ValueError("and this failed too")

    async def fail_async(letter):
        fail(letter)

    parrot = Parrot()
    async with Runtime(on_error=fail_async if is_async else fail) as rt:
        await Broken().post("x")
        await rt.drain()
        await tried.wait()
        await parrot.post("still")
    assert parrot.handled == ["still"]
    assert len(rt.dead_letters) == 1
    assert "on_error_failed" in caplog.text
    assert "and this failed too" in caplog.text


async def test_what_on_error_returns_is_not_awaited_unless_it_can_be(caplog):
    async with Runtime(on_error=lambda letter: True) as rt:
        await Broken().post("x")
        await rt.drain()
    assert "on_error_failed" not in caplog.text


async def test_on_error_may_post():
    told = Parrot()

    async def on_error(letter):
        await told.post(f"lost: {letter.msg.text}")

    async with Runtime(on_error=on_error) as rt:
        await Broken().post("x")
        await rt.drain()
        while not told.handled:
            await asyncio.sleep(0)
    assert told.handled == ["lost: x"]


async def test_an_error_whose_text_cannot_be_had_is_a_dead_letter_as_well():
    class Nasty(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    class Agent(AgentBase):
        async def reply(self, x=None):
            raise Nasty

    async with Runtime() as rt:
        await Agent("nasty").post("x")
        await rt.drain()
        assert isinstance(rt.dead_letters[0].error, Nasty)


async def test_dead_letters_keep_the_newest_and_count_all():
    letters = runtime_module.DeadLetters(limit=2)
    for n in range(5):
        letters.append(runtime_module.DeadLetter("a", n, "failed"))
    assert letters.total == 5
    assert len(letters) == 2
    assert [letter.msg for letter in letters] == [3, 4]
    assert letters[-1].msg == 4


# -- time limits --


async def test_an_ask_that_takes_too_long_is_a_timeout_error():
    async with Runtime(ask_timeout_s=SHORT_S):
        gate = Gate()
        with pytest.raises(TimeoutError) as caught:
            await gate("x")
        assert isinstance(caught.value, AskTimeoutError)
        assert (caught.value.timeout_s, caught.value.agent) == (SHORT_S, "gate")
        assert gate.was_cancelled
        gate.door.set()
        assert (await gate("y")).text == "y"


async def test_a_waiting_ask_is_limited_too():
    async with Runtime(ask_timeout_s=SHORT_S):
        gate = Gate()
        results = await asyncio.gather(gate("1"), gate("2"), return_exceptions=True)
        assert [type(result) for result in results] == [AskTimeoutError] * 2
        assert gate.mailbox.statistics().waiting == 0


async def test_a_timeout_of_the_handler_is_not_mistaken_for_the_limit():
    class Late(AgentBase):
        async def reply(self, x=None):
            raise TimeoutError("my own")

    async with Runtime(ask_timeout_s=1000):
        with pytest.raises(TimeoutError, match="my own") as caught:
            await Late("l")("x")
    assert type(caught.value) is TimeoutError


async def test_the_limit_of_a_runtime_is_not_that_of_another():
    async with Runtime(ask_timeout_s=SHORT_S), Runtime() as free:
        with free.use():
            gate = Gate()
        asking = asyncio.create_task(gate("x"))
        await gate.reached.wait()
        limited = asyncio.timeout(4 * SHORT_S)
        with pytest.raises(TimeoutError) as caught:
            async with limited:
                await asyncio.shield(asking)
        assert type(caught.value) is TimeoutError
        gate.door.set()
        assert (await asking).text == "x"


@pytest.mark.parametrize(
    "options", [{"post_attempts": 0}, {"grace": -1}, {"ask_timeout_s": 0}, {"ask_timeout_s": -1}]
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError):
        Runtime(**options)


# -- looking in --


async def test_events_tell_of_turns_and_dead_letters():
    seen, started = [], asyncio.Event()

    async def read(rt):
        started.set()
        async for event in rt.events():
            seen.append(event)  # noqa: PERF401  # read as they come

    async with Runtime() as rt:
        reading = asyncio.create_task(read(rt))
        await started.wait()
        await Parrot("ann")("x")
        await Broken(name="bob").post("y")
        await rt.drain()
    await reading
    assert [(type(event), event.agent) for event in seen] == [
        (TurnStarted, "ann"),
        (TurnEnded, "ann"),
        (TurnStarted, "bob"),
        (TurnEnded, "bob"),
        (LetterBuried, "bob"),
    ]
    assert seen[1].error is None
    assert seen[1].seconds >= 0
    assert isinstance(seen[3].error, LookupError)
    assert seen[4].reason == "failed"


async def test_all_readers_of_events_see_all():
    async def read(rt):
        return [type(event).__name__ async for event in rt.events()]

    async with Runtime() as rt:
        readers = [asyncio.create_task(read(rt)) for _ in range(3)]
        await asyncio.sleep(0)
        await Parrot()("x")
    assert [await reader for reader in readers] == [["TurnStarted", "TurnEnded"]] * 3


async def test_events_of_a_runtime_that_was_left_are_none():
    async with Runtime() as rt:
        pass
    assert [event async for event in rt.events()] == []


async def test_a_reader_that_leaves_is_not_kept():
    async with Runtime() as rt:
        events = rt.events()
        first = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        assert rt.is_listened_to
        await Parrot()("x")
        assert isinstance(await first, TurnStarted)
        await events.aclose()
        assert not rt.is_listened_to
        assert (await Parrot()("y")).text == "y"


async def test_a_reader_far_behind_loses_the_oldest_and_is_told(monkeypatch, caplog):
    monkeypatch.setattr(_event_reader, "MAX_UNREAD_EVENTS", 4)
    async with Runtime() as rt:
        events = rt.events()
        first = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        for n in range(10):
            rt.emit(TurnStarted(str(n)))
        assert (await first).agent == "6"
        await events.aclose()
    assert "events_lost" in caplog.text
    assert "count=6" in caplog.text


async def test_graph_tells_who_waits_on_whom():
    gate = Gate("gate")

    class Asker(AgentBase):
        async def reply(self, x=None):
            return await gate(x)

    async with Runtime() as rt:
        assert rt.graph() == []
        asking = [asyncio.create_task(Asker(name)(name)) for name in ("ann", "bob")]
        await gate.reached.wait()
        await asyncio.sleep(0)
        assert ("bob", "gate") in rt.graph()
        gate.door.set()
        await asyncio.wait(asking)
        assert rt.graph() == []


async def test_graph_tells_of_asks_that_did_not_have_to_queue():
    gates = [Gate("left"), Gate("right")]

    class Middle(AgentBase):
        async def reply(self, x=None):
            await asyncio.gather(*(gate(x) for gate in gates))
            return Msg(self.name, "done", "assistant")

    middle = Middle("middle")

    class Outer(AgentBase):
        async def reply(self, x=None):
            async with asyncio.timeout(60), middle.stream(x) as stream:
                async for _ in stream:
                    pass
                return stream.msg

    async with Runtime() as rt:
        asking = asyncio.create_task(Outer("outer")("x"))
        for gate in gates:
            await gate.reached.wait()
        assert sorted(rt.graph()) == [("middle", "left"), ("middle", "right"), ("outer", "middle")]
        for gate in gates:
            gate.door.set()
        await asking
        assert rt.graph() == []


async def test_graph_tells_of_the_asks_it_is_called_within():
    class Inner(AgentBase):
        async def reply(self, x=None):
            return Msg(self.name, rt.graph(), "assistant")

    inner = Inner("inner")

    class Outer(AgentBase):
        async def reply(self, x=None):
            return await inner(x)

    async with Runtime() as rt:
        assert (await Outer("outer")("x")).content == [["outer", "inner"]]
        assert (await inner("x")).content == []


async def test_graph_shows_those_of_this_runtime_only():
    async with Runtime() as one, Runtime() as two:
        with one.use():
            gate = Gate("gate")

            class Asker(AgentBase):
                async def reply(self, x=None):
                    return await gate(x)

            asker = Asker("ann")
        working = asyncio.create_task(gate("busy"))
        await gate.reached.wait()
        asking = asyncio.create_task(asker("x"))
        await asyncio.sleep(0)
        assert one.graph() == [("ann", "gate")]
        assert two.graph() == []
        gate.door.set()
        await asyncio.wait([working, asking])


# -- files --


async def test_a_run_directory_is_made_only_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with Runtime(project="tea", name="first") as rt, msghub([Parrot("a"), Parrot("b")], "hello"):
        await Parrot().post("x")
        assert rt.run.name == "first"
    assert list(tmp_path.iterdir()) == []
    folder = rt.run.path
    assert folder.resolve().parent == (tmp_path / "runs").resolve()
    assert re.fullmatch(r"run_\d{8}-\d{6}_[0-9a-z]{6}", folder.name)
    config = json.loads((folder / ".config").read_text())
    assert (config["project"], config["name"], config["id"]) == ("tea", "first", folder.name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", config["timestamp"])
    assert rt.run.path == folder


async def test_two_runtimes_have_two_run_directories(tmp_path):
    async with Runtime(save_dir=tmp_path) as one, Runtime(save_dir=tmp_path) as two:
        assert one.run.path != two.run.path
    assert len(list(tmp_path.iterdir())) == 2


# -- models of a runtime --


async def test_model_configs_are_an_object_a_list_or_a_path(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(ECHO))
    (tmp_path / "list.json").write_text(json.dumps([ECHO]))
    for given in (ECHO, [ECHO], str(tmp_path / "one.json"), tmp_path / "list.json"):
        async with Runtime(model_configs=given):
            assert isinstance(DialogAgent("a", model="talk").model, EchoModel)


async def test_an_unknown_name_is_refused_with_the_nearest_of_this_runtime():
    async with Runtime(model_configs=ECHO):
        with pytest.raises(ConfigError, match="did you mean 'talk'"):
            DialogAgent("a", model="tlak")


async def test_a_runtime_falls_back_on_the_process_defaults(tmp_path):
    init(model_configs={**ECHO, "config_name": "everywhere"}, save_dir=tmp_path)
    async with Runtime(model_configs=ECHO):
        assert DialogAgent("a", model="everywhere").model.config_name == "everywhere"
        assert DialogAgent("a", model="talk").model.config_name == "talk"


# -- init --


def test_init_without_arguments_returns_nothing_and_makes_a_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert init() == []
    [run] = (tmp_path / "runs").iterdir()
    assert {path.name for path in run.iterdir()} == {".config", "logging.log", "logging.chat"}


def test_init_takes_model_configs_in_every_form(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([ECHO]))
    for given in (
        ECHO,
        [ECHO, {**ECHO, "config_name": "other"}],
        str(tmp_path / "list.json"),
        tmp_path / "list.json",
    ):
        init(model_configs=given, save_dir=tmp_path, save_log=False)
        assert isinstance(DialogAgent("a", model="talk").model, EchoModel)


def test_init_again_keeps_the_former_models(tmp_path):
    init(model_configs=ECHO, save_dir=tmp_path, save_log=False)
    init(model_configs={**ECHO, "config_name": "new"}, save_dir=tmp_path, save_log=False)
    init(save_dir=tmp_path, save_log=False)
    for name in ("talk", "new"):
        assert DialogAgent("a", model=name).model.config_name == name


AGENTS = [
    {
        "class": "DialogAgent",
        "args": {"name": "ann", "sys_prompt": "You are Ann.", "model_config_name": "talk"},
    },
    {"class": "UserAgent", "args": {"name": "bob"}},
    {"class": "DictDialogAgent", "args": {"name": "cy", "model": "talk", "max_retries": 1}},
]


def test_init_builds_agents_in_order_from_every_form(tmp_path):
    (tmp_path / "agents.json").write_text(json.dumps(AGENTS))
    for given in (AGENTS, str(tmp_path / "agents.json"), tmp_path / "agents.json"):
        agents = init(model_configs=ECHO, agent_configs=given, save_dir=tmp_path, save_log=False)
        assert [type(agent) for agent in agents] == [DialogAgent, UserAgent, DictDialogAgent]
        assert [agent.name for agent in agents] == ["ann", "bob", "cy"]
    assert agents[0].sys_prompt == "You are Ann."
    assert agents[2].max_retries == 1
    [agent] = init(model_configs=ECHO, agent_configs=AGENTS[0], save_dir=tmp_path, save_log=False)
    assert agent.name == "ann"


@pytest.mark.parametrize(
    "config",
    [
        {"class": "os.system", "args": {"command": "exit 1"}},
        {"class": "NoSuchAgent", "args": {}},
        {"class": "AgentLike", "args": {}},
        {"class": None, "args": {}},
        {"args": {}},
        {"class": "UserAgent"},
        {"class": "UserAgent", "args": ["x"]},
        {"class": "UserAgent", "args": {"colour": "blue"}},
        {"class": "UserAgent", "args": {"name": ""}},
        {"class": "DialogAgent", "args": {"name": "a"}},
        {"class": "DialogAgent", "args": {"name": "a", "model": "nothing"}},
        "UserAgent",
        3,
    ],
)
def test_init_refuses_agents_it_does_not_know(tmp_path, config):
    with pytest.raises(ConfigError):
        init(agent_configs=[config], save_dir=tmp_path, save_log=False)


@pytest.mark.parametrize(
    "given", ["missing.json", 3, [3], ["x"], {}, [{}], {"config_name": "a"}, {"model_type": "fake_echo"}]
)
def test_init_refuses_model_configs_that_are_none(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, FileNotFoundError)):
        init(model_configs=given)
    assert list(tmp_path.iterdir()) == []


def test_init_refuses_a_broken_file(tmp_path, monkeypatch):
    (tmp_path / "models.json").write_text("{not json")
    with pytest.raises(ConfigError, match=r"models\.json is not JSON"):
        init(model_configs=str(tmp_path / "models.json"), save_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_init_refuses_an_unknown_level_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="LOUD"):
        init(save_dir=tmp_path / "runs", logger_level="LOUD")
    assert not (tmp_path / "runs").exists()


def test_init_records_project_and_name(tmp_path):
    init(project="tea", name="first", save_dir=tmp_path)
    [run] = tmp_path.iterdir()
    config = json.loads((run / ".config").read_text())
    assert (config["project"], config["name"], config["id"]) == ("tea", "first", run.name)


def test_init_without_logs_writes_nothing(tmp_path):
    init(save_dir=tmp_path / "runs", save_log=False)
    assert not (tmp_path / "runs").exists()


async def test_what_agents_say_after_init_is_in_its_chat_log(tmp_path, capsys):
    [agent] = init(model_configs=ECHO, agent_configs=AGENTS[0], save_dir=tmp_path)
    msg = await agent("hello")
    [run] = tmp_path.iterdir()
    assert [json.loads(line) for line in (run / "logging.chat").read_text().splitlines()] == [msg.to_dict()]
    assert "ann: user: hello" in capsys.readouterr().out


async def test_init_and_a_runtime_go_together(tmp_path, capsys):
    [agent] = init(model_configs=ECHO, agent_configs=AGENTS[0], save_dir=tmp_path)
    async with Runtime():
        await agent.submit("hello")
    [run] = tmp_path.iterdir()
    assert len((run / "logging.chat").read_text().splitlines()) == 1
    assert "ann: user: hello" in capsys.readouterr().out


async def test_a_runtime_with_a_chat_of_its_own_does_not_write_to_that_of_init(tmp_path, capsys):
    init(save_dir=tmp_path)
    screen = io.StringIO()
    async with Runtime(chat=screen):
        await DialogAgent("ann", model=ScriptedModel(["hi"]))("x")
    [run] = tmp_path.iterdir()
    assert (run / "logging.chat").read_text() == ""
    assert screen.getvalue() == "ann: hi\n"
    assert capsys.readouterr().out == ""


def test_importing_writes_no_file(tmp_path):
    script = (
        "from agentscope_async import *; import agentscope_async.runtime, agentscope_async.logging; Runtime()"
    )
    assert run_python("-c", script, cwd=tmp_path) == ("", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_doubled_name_in_init_warns(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_module._context, "process_services", None)  # put back afterwards
    with pytest.warns(AgentScopeWarning, match="'talk' is known already"):
        init(model_configs=[ECHO, {**ECHO, "delay_s": 3}], save_dir=tmp_path, save_log=False)
    assert DialogAgent("a", model="talk").model.delay_s == 0


async def _make(kind):
    return kind()


async def _gather(*waits):
    return await asyncio.gather(*waits)


async def test_posting_from_another_threads_loop_is_refused() -> None:
    hold, begun = asyncio.Event(), asyncio.Event()

    class Slow(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            begun.set()
            await hold.wait()
            return Msg(self.name, "done", "assistant")

    async with Runtime() as rt:
        agent = Slow("slow")
        await agent.post("x")
        await agent.post("x")
        await begun.wait()
        with pytest.raises(RuntimeError, match="event loop of their runtime"):
            await asyncio.to_thread(asyncio.run, agent.post("y"))
        hold.set()
        await rt.drain()
        assert agent.mailbox.statistics().handled == 2


async def test_a_runtime_forgets_mailboxes_that_hold_nothing_of_it() -> None:
    class Quick(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            return Msg(self.name, "done", "assistant")

    async with Runtime() as rt:
        for _ in range(20):
            agent = Quick("quick")
            await agent.post("x")
            await agent("y")
        await rt.drain()
        assert len(rt._mailboxes) <= 1


async def test_agents_that_submit_to_each_other_come_to_an_end() -> None:
    turns = 0

    class Asker(AgentBase):
        other: Asker

        async def reply(self, x: Any = None) -> Msg:
            nonlocal turns
            turns += 1
            return await self.other.submit("again")

    async with Runtime() as rt, asyncio.timeout(30):
        a, b = Asker("a"), Asker("b")
        a.other, b.other = b, a
        with pytest.raises(DeadlockError):
            await a("x")
        await rt.drain()
        assert turns == 2


async def test_a_closed_chat_does_not_fail_a_turn() -> None:
    class Loud(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            await self.speak("hello")
            return Msg(self.name, "done", "assistant")

    stream = io.StringIO()
    stream.close()
    async with Runtime(chat=stream):
        assert (await Loud("loud")("x")).text == "done"
        assert (await Loud("loud")("x")).text == "done"


def test_a_post_behind_what_a_closed_loop_left_is_handled() -> None:
    agents: list[AgentBase] = []

    class Slow(AgentBase):
        async def reply(self, x: Any = None) -> Msg:
            if x.text == "stuck":
                await asyncio.Event().wait()
            return Msg(self.name, "done", "assistant")

    async def leave_it_busy() -> None:
        await Runtime().__aenter__()
        agents.append(Slow("slow"))
        for _ in range(3):
            await agents[0].post("stuck")
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_it_busy())
    tasks = asyncio.all_tasks(loop)  # held, as a debugger or a traceback would
    loop.close()

    async def go_on() -> int:
        async with Runtime() as rt, asyncio.timeout(30):
            with rt.use():
                agents[0]._runtime = rt
                await agents[0].post("fine")
                await rt.drain()
        return agents[0].mailbox.statistics().handled

    assert asyncio.run(go_on()) == 1
    assert tasks
    for runtime in list(runtime_module._context.open_runtimes):
        runtime_module._context.open_runtimes.discard(runtime)
