"""Records of model calls."""

from __future__ import annotations

import asyncio
import json
import logging as stdlib
import re
import subprocess
import sys
import threading

import pytest

from agentscope_async import ModelResponse, Msg, _invocations
from agentscope_async._invocations import Invocations, write_record


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


@pytest.fixture
async def recorder(tmp_path):
    recorder = Invocations(tmp_path / "invoke")
    yield recorder
    await recorder.aclose()


@pytest.fixture
def stuck_disk(monkeypatch):
    """Nothing is written until the event is set."""
    may_write = threading.Event()
    write = _invocations.write_record

    def wait_and_write(*arguments):
        may_write.wait(20)
        return write(*arguments)

    monkeypatch.setattr(_invocations, "write_record", wait_and_write)
    yield may_write
    may_write.set()


def records(recorder):
    return [json.loads(path.read_text()) for path in sorted(recorder.directory.iterdir())]


async def test_e07_a_call_becomes_a_file(recorder):
    recorder.record("OpenAIChatWrapper", {"model": "gpt-4", "messages": []}, {"text": "hi"})
    await recorder.flush()
    [path] = recorder.directory.iterdir()
    assert re.fullmatch(r"model_OpenAIChatWrapper_\d{8}-\d{6}_[0-9a-z]{6}\.json", path.name)
    record = json.loads(path.read_text())
    assert list(record) == ["model_class", "timestamp", "arguments", "response"]
    assert re.fullmatch(r"\d{8}-\d{6}", record.pop("timestamp"))
    assert record == {
        "model_class": "OpenAIChatWrapper",
        "arguments": {"model": "gpt-4", "messages": []},
        "response": {"text": "hi"},
    }
    assert path.read_text().startswith('{\n  "model_class"')


async def test_e07_no_secret_is_in_the_file(recorder):
    headers = {"Authorization": "Bearer T0p5ecret", "content-type": "application/json"}
    url = "https://host/v1?key=T0p5ecret"
    recorder.record("Post", {"headers": headers, "url": url}, {"error": "key sk-T0p5ecret was refused"})
    await recorder.flush()
    [path] = recorder.directory.iterdir()
    assert "T0p5ecret" not in path.read_text()
    assert "application/json" in path.read_text()


async def test_anything_can_be_recorded(recorder):
    class Odd:
        def __str__(self):
            return "an odd thing"

    recorder.record(
        "A", {1: Odd(), "msg": Msg("ann", "hello", "user"), "half": "\ud800"}, ModelResponse("hi")
    )
    await recorder.flush()
    [record] = records(recorder)
    assert record["arguments"]["1"] == "an odd thing"
    assert record["arguments"]["msg"]["content"] == "hello"
    assert record["response"]["text"] == "hi"


async def test_what_the_caller_changes_afterwards_is_not_in_the_record(recorder, stuck_disk):
    messages = [{"role": "user", "content": "hello"}]
    recorder.record("A", {"messages": messages}, "hi")
    messages[0]["content"] = "changed"
    messages.append({"role": "assistant", "content": "hi"})
    stuck_disk.set()
    await recorder.flush()
    [record] = records(recorder)
    assert record["arguments"]["messages"] == [{"role": "user", "content": "hello"}]


async def test_a_thousand_calls_at_once_are_a_thousand_files(recorder):
    for number in range(1_000):
        recorder.record("A", {"number": number}, None)
    await recorder.flush()
    assert {record["arguments"]["number"] for record in records(recorder)} == set(range(1_000))
    assert recorder.dropped == 0


def test_a_name_that_is_taken_is_not_taken_again(tmp_path, monkeypatch):
    names = iter(["aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr(_invocations, "_six", lambda: next(names))
    first = write_record(tmp_path, "model_A", {"a": 1}, "20250101-000000")
    second = write_record(tmp_path, "model_A", {"a": 2}, "20250101-000000")
    assert (first.name, second.name) == (
        "model_A_20250101-000000_aaaaaa.json", "model_A_20250101-000000_bbbbbb.json",
    )  # fmt: skip
    assert json.loads(first.read_text()) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_cannot_lead_out_of_the_directory(tmp_path):
    folder = tmp_path / "invoke"
    path = write_record(folder, "../../../model_x/..", {})
    assert path.parent == folder
    assert list(tmp_path.iterdir()) == [folder]


async def test_while_the_disk_is_stuck_recording_does_not_wait(recorder, stuck_disk):
    recorder.record("A", {}, {})
    flushed = asyncio.create_task(recorder.flush())
    await asyncio.sleep(0)
    assert not flushed.done()
    stuck_disk.set()
    await flushed
    assert len(records(recorder)) == 1


async def test_too_many_waiting_records_are_dropped_counted_and_logged_once(
    recorder, stuck_disk, monkeypatch, caplog
):
    monkeypatch.setattr(_invocations, "MAX_WAITING", 5)
    with caplog.at_level(stdlib.WARNING, "agentscope_async"):
        for _ in range(20):
            recorder.record("A", {}, {})
    stuck_disk.set()
    await recorder.flush()
    assert recorder.dropped + len(records(recorder)) == 20
    assert recorder.dropped >= 14  # one may be with the writer already
    assert caplog.text.count("invocations_dropped") == 1


async def test_a_disk_that_fails_costs_the_record_not_the_call(tmp_path, caplog):
    (tmp_path / "file").write_text("not a directory")
    recorder = Invocations(tmp_path / "file" / "invoke")
    with caplog.at_level(stdlib.WARNING, "agentscope_async"):
        recorder.record("A", {}, {})
        await recorder.flush()
    assert recorder.dropped == 1
    assert "invocations_dropped" in caplog.text
    await recorder.aclose()


async def test_arguments_that_cannot_be_copied_cost_the_record_only(recorder, caplog):
    cycle = []
    cycle.append(cycle)
    recorder.record("A", cycle, {})
    recorder.record("B", {}, {})
    await recorder.flush()
    assert recorder.dropped == 1
    assert [record["model_class"] for record in records(recorder)] == ["B"]


async def test_closing_writes_the_rest_and_ends_the_thread(tmp_path):
    recorder = Invocations(tmp_path)
    recorder.record("A", {}, {})
    await recorder.aclose()
    assert len(records(recorder)) == 1
    recorder.record("B", {}, {})
    await recorder.aclose()
    assert len(records(recorder)) == 1
    for thread in threading.enumerate():
        if thread.name == "invocations":
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


async def test_a_thread_that_went_idle_is_followed_by_another(recorder, monkeypatch):
    monkeypatch.setattr(_invocations, "IDLE_S", 0.0)
    for number in range(20):
        recorder.record("A", {"number": number}, {})
        await recorder.flush()
    assert len(records(recorder)) == 20


async def test_a_cancelled_flush_harms_nobody(recorder, stuck_disk):
    recorder.record("A", {}, {})
    flushed = asyncio.create_task(recorder.flush())
    await asyncio.sleep(0)
    flushed.cancel()
    stuck_disk.set()
    await recorder.flush()
    assert len(records(recorder)) == 1


def test_one_recorder_serves_several_loops(tmp_path):
    recorder = Invocations(tmp_path)

    async def use():
        recorder.record("A", {}, {})
        await recorder.flush()

    asyncio.run(use())
    asyncio.run(use())
    asyncio.run(recorder.aclose())
    assert len(records(recorder)) == 2


def test_what_is_left_is_written_when_the_program_ends(tmp_path):
    script = (
        "import sys; from agentscope_async._invocations import Invocations\n"
        "recorder = Invocations(sys.argv[1])\n"
        "for number in range(200): recorder.record('A', {}, {})\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(tmp_path.iterdir())) == 200
