"""debate and debates."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import agentscope_async
from agentscope_async import (
    AgentBase,
    DebateSpec,
    FunctionModel,
    Msg,
    ScriptedModel,
    Speech,
    Usage,
    debate,
    debates,
)
from agentscope_async.pipelines import _batch_file


class Debater(AgentBase):
    """Says what its model makes of all it heard."""

    async def reply(self, x=None):
        if x is not None:
            self.memory.add(x)
        messages = self.model.format(self.memory.get_memory(), me=self.name)
        async with self.model.stream(messages) as stream:
            async for delta in stream:
                await self.speak(delta)
        msg = Msg(self.name, stream.response.text, "assistant", usage=stream.response.usage)
        self.memory.add(msg)
        return msg


def seeded(name, delay_s=0.0):
    """A factory of debaters whose words depend on the seed and on what they heard."""

    def make(seed):
        model = FunctionModel(lambda messages: f"{name} {seed} heard {len(messages)}", delay_s=delay_s)
        return Debater(name, model=model)

    return make


def specs(count, delay_s=0.0):
    """So many debates, all different."""
    sides = [seeded(name, delay_s) for name in ("pro", "con", "judge")]
    return [DebateSpec(*sides, topic=f"topic {number}", rounds=1) for number in range(count)]


def scripted(name, *answers):
    return Debater(name, model=ScriptedModel(answers))


def trio():
    return scripted("pro", "p1", "p2"), scripted("con", "c1", "c2"), scripted("judge", "pro wins")


class Hanger(AgentBase):
    """Never answers; says when it was asked."""

    def __init__(self, name="hanger"):
        super().__init__(name)
        self.has_begun = asyncio.Event()

    async def reply(self, x=None):
        self.has_begun.set()
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
async def no_task_is_left():
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


# -- one debate --


async def test_a_debate_is_what_was_said_in_order_and_the_verdict():
    pro, con, judge = trio()

    result = await debate(pro, con, judge, topic="Is tea better than coffee?", rounds=2)

    names = [msg.name for msg in result.messages]
    assert names == ["host", "pro", "con", "pro", "con", "judge"]
    assert [msg.text for msg in result.messages[1:]] == ["p1", "c1", "p2", "c2", "pro wins"]
    assert result.messages[0].role == "system"
    assert "Is tea better than coffee?" in result.messages[0].text
    assert result.verdict is result.messages[-1]
    assert result.error is None


async def test_everyone_hears_everything_once():
    pro, con, judge = trio()

    result = await debate(pro, con, judge, topic="tea", rounds=2)

    said = [msg.id for msg in result.messages]
    assert [msg.id for msg in pro.memory.get_memory()] == said
    assert [msg.id for msg in con.memory.get_memory()] == said
    question = judge.memory.get_memory()[-2]
    assert (question.name, question.role) == ("host", "user")
    assert [msg.id for msg in judge.memory.get_memory() if msg is not question] == said


async def test_usage_is_the_sum_over_all_messages():
    result = await debate(*trio(), topic="tea", rounds=2)

    assert result.usage == sum((msg.usage for msg in result.messages[1:]), Usage())
    assert result.usage.total_tokens > 0


async def test_without_a_judge_there_is_no_verdict():
    pro, con, _ = trio()

    result = await debate(pro, con, topic="tea", rounds=1)

    assert result.verdict is None
    assert [msg.name for msg in result.messages] == ["host", "pro", "con"]


async def test_the_announcement_can_be_ones_own():
    pro, con, _ = trio()

    result = await debate(pro, con, topic="tea", rounds=1, announcement="Fight {fairly}!")

    assert result.messages[0].text == "Fight {fairly}!"


async def test_agents_that_remember_nothing_and_stream_nothing_can_debate():
    class Plain(AgentBase):
        async def reply(self, x=None):
            return Msg(self.name, "so", "assistant")

    heard = []
    agents = [Plain(name, use_memory=False) for name in ("a", "b", "c")]

    result = await debate(*agents, topic="tea", rounds=1, on_speech=lambda *args: heard.append(args))

    assert result.usage == Usage()
    assert [piece for _, piece in heard if isinstance(piece, Speech)] == [Speech("text", "so")] * 3


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_speech_hears_pieces_and_then_the_message(is_async):
    heard = []
    pro, con = scripted("pro", "one two"), scripted("con", "three four")

    def note(name, piece):
        heard.append((name, piece.text if isinstance(piece, Speech) else piece))

    async def note_async(name, piece):
        await asyncio.sleep(0)
        note(name, piece)

    result = await debate(pro, con, topic="tea", rounds=1, on_speech=note_async if is_async else note)

    assert heard == [
        ("pro", "one"), ("pro", " two"), ("pro", result.messages[1]),
        ("con", "three"), ("con", " four"), ("con", result.messages[2]),
    ]  # fmt: skip


async def test_an_error_of_on_speech_ends_the_debate():
    def stop(name, piece):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await debate(*trio(), topic="tea", on_speech=stop)


async def test_an_agents_error_comes_as_it_is_and_leaves_the_hub_closed():
    pro, con, judge = trio()
    con.model = ScriptedModel([ValueError("lost the thread")])

    with pytest.raises(ValueError, match="lost the thread"):
        await debate(pro, con, judge, topic="tea")

    await pro()
    assert con.memory.size() == 2


@pytest.mark.parametrize("with_listener", [False, True])
async def test_cancelling_a_debate_cancels_the_speaker(with_listener):
    pro = Hanger("pro")
    listener = (lambda *_: None) if with_listener else None
    task = asyncio.create_task(debate(pro, scripted("con"), topic="tea", on_speech=listener))
    await pro.has_begun.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert pro.mailbox.is_idle


async def test_terms_that_make_no_debate_are_refused():
    pro, con, judge = trio()

    with pytest.raises(ValueError, match="1 round or more"):
        await debate(pro, con, judge, topic="tea", rounds=0)
    with pytest.raises(ValueError, match="topic"):
        await debate(pro, con, judge, topic=" ")
    with pytest.raises(ValueError, match="two roles"):
        await debate(pro, pro, judge, topic="tea")
    with pytest.raises(ValueError, match="topic"):
        DebateSpec(pro, con)


# -- many debates --


async def collect(batch):
    async with batch as results:
        return [result async for result in results]


async def test_every_debate_gives_one_result_with_its_place_and_id():
    batch = [*specs(9), DebateSpec(seeded("x"), seeded("y"), topic="tea", id="mine", seed=99)]

    results = await collect(debates(batch, limit=4, seed=100))

    assert sorted(result.index for result in results) == list(range(10))
    by_index = {result.index: result for result in results}
    assert [by_index[i].id for i in (0, 8, 9)] == ["0", "8", "mine"]
    assert [by_index[i].seed for i in (0, 8, 9)] == [100, 108, 99]
    assert all(result.seconds > 0 and result.error is None and not result.resumed for result in results)


async def test_results_come_as_they_finish():
    hanger = Hanger("pro")
    slow = DebateSpec(hanger, scripted("con"), topic="slow")

    async with debates([slow, *specs(3)]) as results:
        first = [(await anext(results)).index for _ in range(3)]

    assert sorted(first) == [1, 2, 3]
    assert hanger.mailbox.is_idle


async def test_the_same_seed_gives_the_same_debates():
    def words(results):
        return sorted((result.index, tuple(msg.text for msg in result.messages)) for result in results)

    first = words(await collect(debates(specs(5), seed=1)))

    assert words(await collect(debates(specs(5), seed=1))) == first
    assert words(await collect(debates(specs(5), seed=2))) != first
    assert words(await collect(debates(specs(5)))) == words(await collect(debates(specs(5), seed=0)))


async def test_specifications_and_agents_are_made_only_when_there_is_room():
    made = ended = most = 0

    def counted():
        nonlocal made
        for spec in specs(50):
            made += 1
            yield spec

    async for _ in debates(counted(), limit=3):
        ended += 1
        most = max(most, made - ended)

    assert (made, ended) == (50, 50)
    assert most <= 6


async def test_the_limit_bounds_how_many_are_held_at_once():
    inside = most = 0

    class Guest(AgentBase):
        async def reply(self, x=None):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            return Msg(self.name, "so", "assistant")

    batch = [DebateSpec(lambda _: Guest("a"), lambda _: Guest("b"), topic="tea") for _ in range(20)]

    await collect(debates(batch, limit=5))

    assert most == 5


async def test_a_failed_debate_is_a_result_with_its_error_and_what_was_said():
    error = ValueError("lost the thread")
    bad = DebateSpec(scripted("pro", "p1"), scripted("con", error), topic="bad", rounds=1)

    results = await collect(debates([specs(1)[0], bad]))

    good, failed = sorted(results, key=lambda result: result.index)
    assert (good.error, failed.error) == (None, error)
    assert [msg.name for msg in failed.messages] == ["host", "pro"]
    assert failed.usage.total_tokens > 0
    assert failed.verdict is None


async def test_with_raise_the_first_failed_debate_ends_the_batch():
    hanger = Hanger("pro")
    slow = DebateSpec(hanger, scripted("con"), topic="slow")
    bad = DebateSpec(scripted("pro", ValueError("no")), scripted("con"), topic="bad")

    with pytest.raises(ValueError, match="no"):
        await collect(debates([slow, bad], on_error="raise"))

    assert hanger.mailbox.is_idle


@pytest.mark.parametrize("factory", [lambda seed: "no agent", lambda seed: 1 // 0, lambda: None])
async def test_a_factory_that_makes_no_agent_fails_its_debate(factory):
    (result,) = await collect(debates([DebateSpec(factory, seeded("con"), topic="tea")]))

    assert isinstance(result.error, (TypeError, ZeroDivisionError))
    assert result.messages == []


async def test_factories_may_be_async():
    async def make(seed):
        return scripted("pro", f"seed {seed}")

    (result,) = await collect(debates([DebateSpec(make, seeded("con"), topic="tea", rounds=1, seed=5)]))

    assert result.messages[1].text == "seed 5"


async def test_one_agent_in_two_debates_at_once_is_refused():
    pro = Debater("pro", model=ScriptedModel(["so"], loop=True))
    batch = [DebateSpec(pro, seeded("con"), topic="tea") for _ in range(3)]

    with pytest.raises(ValueError, match="'pro' is in two debates at once"):
        await collect(debates(batch))
    assert len(await collect(debates(batch, limit=1))) == 3


async def test_leaving_the_block_cancels_what_still_runs():
    hanger = Hanger("pro")
    async with debates([DebateSpec(hanger, scripted("con"), topic="slow"), *specs(1)]) as results:
        await anext(results)
        await hanger.has_begun.wait()

    assert hanger.mailbox.is_idle
    with pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_a_loop_left_early_cancels_what_still_runs_soon_after():
    hanger = Hanger("pro")
    async for _ in debates([DebateSpec(hanger, scripted("con"), topic="slow"), *specs(1)]):
        break

    gc.collect()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    assert hanger.mailbox.is_idle


async def test_cancelling_the_reader_cancels_the_debates():
    hanger = Hanger("pro")
    reader = asyncio.create_task(collect(debates([DebateSpec(hanger, scripted("con"), topic="slow")])))
    await hanger.has_begun.wait()

    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert hanger.mailbox.is_idle


def test_unknown_options_are_refused_when_called():
    with pytest.raises(ValueError, match="limit"):
        debates([], limit=0)
    with pytest.raises(ValueError, match="on_error"):
        debates([], on_error="ignore")


async def test_no_specifications_give_no_results(tmp_path):
    assert await collect(debates([])) == []
    assert await collect(debates([], resume=tmp_path / "batch.jsonl")) == []


# -- progress --


@pytest.mark.parametrize("is_async", [False, True])
async def test_progress_is_told_after_each_debate(is_async):
    seen = []

    async def note_async(progress):
        seen.append(progress)

    bad = DebateSpec(scripted("pro", ValueError("no")), scripted("con"), topic="bad")
    on_progress = note_async if is_async else seen.append

    results = await collect(debates([*specs(4), bad], on_progress=on_progress))

    assert [progress.done for progress in seen] == [1, 2, 3, 4, 5]
    last = seen[-1]
    assert (last.failed, last.total, last.turns) == (1, 5, 4 * 3)
    assert last.usage == sum((result.usage for result in results), Usage())
    assert (last.cost_usd, last.eta_s) == (None, 0.0)
    assert all(progress.eta_s >= 0 and progress.elapsed_s >= 0 for progress in seen)


async def test_of_a_generator_neither_total_nor_end_is_known():
    seen = []

    await collect(debates((spec for spec in specs(2)), on_progress=seen.append))

    assert [(progress.total, progress.eta_s) for progress in seen] == [(None, None)] * 2


# -- stop and go on --


class Counted:
    """Specifications that count how often each debate was begun and brought to its end."""

    def __init__(self, count):
        self.ended = [0] * count
        self.begun = [0] * count

    def specs(self):
        return [self._spec(number) for number in range(len(self.ended))]

    def _spec(self, number):
        class Judge(Debater):
            async def reply(judge, x=None):
                msg = await super().reply(x)
                self.ended[number] += 1
                return msg

        def make_pro(seed):
            self.begun[number] += 1
            return seeded("pro")(seed)

        def make_judge(seed):
            return Judge("judge", model=ScriptedModel([f"verdict {number}"]))

        return DebateSpec(make_pro, seeded("con"), make_judge, topic=f"topic {number}", rounds=1)


def records(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


async def stop_at(batch, count):
    stopped = []
    async with batch as results:
        async for result in results:
            stopped.append(result)
            if len(stopped) == count:
                break
    return stopped


async def test_a_stopped_batch_goes_on_where_it_was(tmp_path):
    path, counted = tmp_path / "batch.jsonl", Counted(30)

    before = await stop_at(debates(counted.specs(), limit=4, resume=path, seed=3), 20)
    assert 20 <= sum(counted.ended) < 30
    in_file = [record["index"] for record in records(path)]
    after = await collect(debates(counted.specs(), limit=4, resume=path, seed=3))

    assert sorted(result.index for result in after) == list(range(30))
    assert counted.ended == [1] * 30
    assert [result.index for result in after if result.resumed] == in_file
    assert [result.resumed for result in after] == [True] * len(in_file) + [False] * (30 - len(in_file))
    for old, again in zip(before, after, strict=False):
        assert (again.messages, again.verdict, again.usage) == (old.messages, old.verdict, old.usage)
        assert (again.index, again.id, again.seed, again.seconds) == (
            old.index,
            old.id,
            old.seed,
            old.seconds,
        )
    assert [record["index"] for record in records(path)] == [result.index for result in after]


async def test_a_finished_batch_is_read_and_nothing_is_held_again(tmp_path):
    path, counted, seen = tmp_path / "batch.jsonl", Counted(5), []

    await collect(debates(counted.specs(), resume=path))
    again = await collect(debates(counted.specs(), resume=path, on_progress=seen.append))

    assert counted.begun == [1] * 5
    assert all(result.resumed for result in again)
    assert [progress.done for progress in seen] == [1, 2, 3, 4, 5]
    assert [progress.eta_s for progress in seen] == [None, None, None, None, 0.0]
    assert seen[-1].turns == 15


async def test_a_line_is_on_disk_before_its_result_is_handed_out(tmp_path):
    path = tmp_path / "batch.jsonl"

    async for result in debates(specs(6), limit=2, resume=path):
        record = next(each for each in records(path) if each["index"] == result.index)
        assert list(record) == [
            "index", "id", "topic", "rounds", "seed", "messages", "verdict", "usage", "error", "seconds",
        ]  # fmt: skip
        assert [Msg.from_dict(each) for each in record["messages"]] == result.messages
        assert record["error"] is None


@pytest.mark.parametrize("keep", [0, 1, 9, 10, 200, -2, -1])
async def test_a_torn_last_line_is_cut_off_and_that_debate_held_again(tmp_path, keep):
    path, counted = tmp_path / "batch.jsonl", Counted(6)
    await collect(debates(counted.specs(), limit=1, resume=path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:keep])

    results = await collect(debates(counted.specs(), resume=path))

    assert sorted(result.index for result in results) == list(range(6))
    assert counted.ended == [1, 1, 1, 1, 1, 2]
    assert [record["index"] for record in records(path)] == list(range(6))


async def test_a_last_line_of_zeros_from_a_power_cut_is_cut_off(tmp_path):
    path, counted = tmp_path / "batch.jsonl", Counted(2)
    await collect(debates(counted.specs(), resume=path))
    path.write_bytes(path.read_bytes() + b"\0" * 100)

    await collect(debates(counted.specs(), resume=path))

    assert counted.ended == [1, 1]
    assert len(records(path)) == 2


async def test_failed_debates_are_held_again(tmp_path):
    path = tmp_path / "batch.jsonl"
    answers = [ValueError("a lone \ud800 surrogate"), "p1"]

    def pro(seed):
        return scripted("pro", answers.pop(0))

    batch = [DebateSpec(pro, seeded("con"), topic="tea", rounds=1)]

    (failed,) = await collect(debates(batch, resume=path))
    (held,) = await collect(debates(batch, resume=path))
    (read,) = await collect(debates(batch, resume=path))

    assert failed.error is not None
    assert [record["error"] is None for record in records(path)] == [False, True]
    assert "ValueError: a lone \\ud800 surrogate" in records(path)[0]["error"]
    assert (held.error, held.resumed) == (None, False)
    assert (read.messages, read.resumed) == (held.messages, True)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ([{"topic": "else"}], "topic"),
        ([{"rounds": 2}], "rounds"),
        ([{"id": "x"}], "id"),
        ([{"seed": 5}], "seed"),
        ([], "only 2"),
    ],
)
async def test_the_file_of_another_batch_is_refused_before_anything_is_held(tmp_path, other, what):
    path = tmp_path / "batch.jsonl"
    await collect(debates(specs(3), resume=path))
    before = path.read_bytes()

    last = [replace(specs(3)[2], **changes) for changes in other]
    with pytest.raises(ValueError, match=f"another batch.*{what}"):
        await collect(debates([*specs(2), *last], resume=path))

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"dear diary",
        b"dear\ndiary\n",
        b'{"index": "one"}\n',
        b'{"index": 1}\n',
        b"[1]\n",
        b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path, content):
    path = tmp_path / "precious.txt"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"precious.txt, line 1, is not a record"):
        await collect(debates(specs(1), resume=path))

    assert path.read_bytes() == content


async def test_a_record_with_broken_messages_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "batch.jsonl"
    await collect(debates(specs(1), resume=path))
    path.write_text(path.read_text().replace('"role":"system"', '"role":"king"'))

    with pytest.raises(ValueError, match="record of debate 0 cannot be read"):
        await collect(debates(specs(1), resume=path))


async def test_a_batch_that_grew_goes_on(tmp_path):
    path = tmp_path / "batch.jsonl"
    await collect(debates(specs(3), resume=path))

    results = await collect(debates(specs(5), resume=path))

    assert [result.resumed for result in results] == [True] * 3 + [False] * 2


async def test_a_path_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        await collect(debates(specs(1), resume=tmp_path / "missing" / "batch.jsonl"))


async def test_debates_that_ended_unseen_are_in_the_file_all_the_same(tmp_path):
    path, counted = tmp_path / "batch.jsonl", Counted(8)

    async with debates(counted.specs(), limit=8, resume=path) as results:
        await anext(results)
        while sum(counted.ended) < 8:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    await collect(debates(counted.specs(), resume=path))
    assert counted.ended == [1] * 8


async def test_a_reader_cancelled_while_the_file_is_written_leaves_whole_lines(tmp_path, monkeypatch):
    path, counted = tmp_path / "batch.jsonl", Counted(3)
    loop = asyncio.get_running_loop()
    append = _batch_file.BatchFile.append

    def cancel_and_append(file, results):
        asyncio.run_coroutine_threadsafe(cancel(), loop).result()
        append(file, results)

    async def cancel():
        reader.cancel()
        await asyncio.sleep(0)

    monkeypatch.setattr(_batch_file.BatchFile, "append", cancel_and_append)
    reader = asyncio.create_task(collect(debates(counted.specs(), limit=1, resume=path)))
    with pytest.raises(asyncio.CancelledError):
        await reader
    monkeypatch.undo()

    assert records(path)[0]["index"] == 0
    await collect(debates(counted.specs(), resume=path))
    assert counted.ended[0] == 1, "it is in the file; the next one may have ended while that was written"
    assert [record["index"] for record in records(path)] == [0, 1, 2]


async def test_a_full_disk_ends_the_batch_with_its_error(tmp_path, monkeypatch):
    def fail(file, results):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_batch_file.BatchFile, "append", fail)

    with pytest.raises(OSError, match="No space left"):
        await collect(debates(specs(5), limit=2, resume=tmp_path / "batch.jsonl"))


def told_by_a_killed_batch(path, count):
    """Hold a batch in a process of its own and kill it after ``count`` results; return their indexes."""
    command = [sys.executable, __file__, str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(agentscope_async.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as child:
        told = [int(child.stdout.readline()) for _ in range(count)]
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    return told


async def test_a_killed_batch_goes_on_where_it_was(tmp_path):
    path = tmp_path / "batch.jsonl"
    told = told_by_a_killed_batch(path, 4)

    results = await collect(debates(specs(12), resume=path, seed=7))

    assert sorted(result.index for result in results) == list(range(12))
    assert set(told) <= {result.index for result in results if result.resumed}
    assert sorted(record["index"] for record in records(path)) == list(range(12))
    assert {result.seed - result.index for result in results} == {7}


async def hold_batch(path):
    """The program that a test kills; its last debates take too long for it to end before."""
    batch = [*specs(10, delay_s=0.03), *specs(12, delay_s=600)[10:]]
    async with debates(batch, limit=3, resume=path, seed=7) as results:
        async for result in results:
            print(result.index, flush=True)


if __name__ == "__main__":
    asyncio.run(hold_batch(sys.argv[1]))
