"""Parity rows C11 and C12: a person, at the terminal and elsewhere."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys

import pexpect
import pytest

from agentscope_async import Msg, UserAgent

NOBODY_ANSWERS_S = 0.05

START = """
import asyncio, sys
from agentscope_async import *

def say(*words):
    print(*words, flush=True)

"""


@pytest.fixture(autouse=True)
async def nothing_may_hang():
    async with asyncio.timeout(30):
        yield


def lines_of(*lines):
    async def source():
        for line in lines:
            yield line

    return source()


def run_script(body, given=None, **options):
    """Run a script with ``given`` as its standard input: its output, its errors and its exit code."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", START + body],
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        **options,
    )
    return done.stdout, done.stderr, done.returncode


def open_terminal(body):
    return pexpect.spawn(sys.executable, ["-c", START + body], encoding="utf-8", timeout=20, echo=False)


# -- C11 --


async def test_C11_what_is_typed_becomes_the_content(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Good morning\n"))
    user = UserAgent("Ann")
    msg = await user()
    assert (msg.name, msg.content, msg.role, msg.url) == ("Ann", "Good morning", "user", None)
    assert user.memory.get_memory() == [msg]
    assert "User input: " in capsys.readouterr().out


async def test_C11_a_replaced_input_function_is_asked(monkeypatch):
    prompts = []

    def answer(prompt=""):
        prompts.append(prompt)
        return f"line {len(prompts)}"

    monkeypatch.setattr("builtins.input", answer)
    user = UserAgent("Ann")
    assert [(await user()).text, (await user()).text] == ["line 1", "line 2"]
    assert prompts == ["User input: "] * 2


async def test_C11_each_required_key_is_asked_for_and_set():
    prompts = []

    async def source(prompt):
        prompts.append(prompt)
        return prompt.upper()

    msg = await UserAgent("Ann", source=source)(required_keys=["age", "town"])
    assert prompts == ["User input: ", "age: ", "town: "]
    assert (msg.content, msg.age, msg["town"]) == ("USER INPUT: ", "AGE: ", "TOWN: ")


async def test_C11_a_single_required_key_may_be_a_string():
    msg = await UserAgent("Ann", source=lines_of("hello", "forty"))(required_keys="age")
    assert (msg.content, msg.age) == ("hello", "forty")


async def test_C11_a_required_url_is_asked_for_and_set():
    prompts = []

    async def source(prompt):
        prompts.append(prompt)
        return "http://a/b.png" if prompt == "URL: " else "look"

    user = UserAgent("Ann", require_url=True, source=source)
    msg = await user(required_keys=["why"])
    assert prompts == ["User input: ", "why: ", "URL: "]
    assert (msg.content, msg.url, msg.why) == ("look", "http://a/b.png", "look")


async def test_C11_what_was_said_before_is_remembered():
    user = UserAgent("Ann", source=lines_of("fine"))
    asked = Msg("Bo", "How are you?", "assistant")
    msg = await user(asked)
    assert user.memory.get_memory() == [asked, msg]


@pytest.mark.parametrize("text", ["", "  spaced  ", "{x} %s <b>", "先生 👩‍🔬", "\x1b[31m", "a\tb"])
async def test_C11_the_text_is_taken_as_it_is(text):
    assert (await UserAgent(source=lines_of(text))()).content == text


async def test_C11_a_source_that_has_ended_is_the_end_of_input():
    user = UserAgent("Ann", source=lines_of("only"))
    assert (await user()).text == "only"
    with pytest.raises(EOFError, match="'Ann' has ended"):
        await user()
    assert user.memory.size() == 1


async def test_C11_the_error_of_a_source_reaches_the_asker():
    async def broken(prompt):
        raise ConnectionResetError("the browser is gone")

    user = UserAgent("Ann", source=broken)
    with pytest.raises(ConnectionResetError, match="browser"):
        await user("hello?")
    assert user.memory.size() == 0


async def test_C11_the_end_of_a_text_stream_is_an_eof_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("last"))
    user = UserAgent()
    assert (await user()).text == "last"
    with pytest.raises(EOFError):
        await user()


READ_ALL = """
async def main():
    user = UserAgent("Ann")
    while True:
        try:
            say("got", repr((await user()).content))
        except EOFError:
            return say("end")

asyncio.run(main())
"""


def test_C11_a_pipe_is_read_line_by_line_to_its_end():
    out, err, code = run_script(READ_ALL, "one\n\nZoë\r\nlast without an end")
    said = [line.removeprefix("User input: ") for line in out.splitlines()]
    assert said == ["got 'one'", "got ''", "got 'Zoë'", "got 'last without an end'", "end"]
    assert (err, code) == ("", 0)


def test_C11_a_long_line_and_many_lines_come_through_a_pipe():
    out, err, code = run_script(
        """
async def main():
    user = UserAgent("Ann", use_memory=False)
    say("\\nlength", len((await user()).content))
    say("\\nsum", sum([int((await user()).content) for _ in range(2000)]))

asyncio.run(main())
""",
        "x" * 1_000_000 + "\n" + "".join(f"{n}\n" for n in range(2000)),
    )
    assert "length 1000000" in out
    assert f"sum {sum(range(2000))}" in out
    assert (err, code) == ("", 0)


def test_C11_a_file_is_read_like_a_pipe(tmp_path):
    (tmp_path / "in.txt").write_text("one\ntwo")
    with open(tmp_path / "in.txt") as file:
        out, err, code = run_script(READ_ALL, stdin=file)
    assert [line.removeprefix("User input: ") for line in out.splitlines()] == [
        "got 'one'",
        "got 'two'",
        "end",
    ]
    assert (err, code) == ("", 0)


def test_C11_no_input_at_all_is_an_eof_error():
    out, err, code = run_script(READ_ALL, stdin=subprocess.DEVNULL)
    assert out == "User input: end\n"
    assert (err, code) == ("", 0)


def test_C11_a_closed_input_is_an_eof_error():
    script = [sys.executable, "-c", START + READ_ALL]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *script], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.endswith("end\n")
    assert done.returncode == 0


def test_C11_bytes_that_are_no_text_do_not_end_the_talk():
    script = [sys.executable, "-c", START + READ_ALL]
    done = subprocess.run(script, input=b"\xff\xfe\nfine\n", capture_output=True, timeout=30)
    assert b"got 'fine'" in done.stdout
    assert done.returncode == 0


def test_C11_a_terminal_is_read_while_the_loop_goes_on():
    terminal = open_terminal(
        """
async def main():
    user, ticks = UserAgent("Ann"), 0
    asking = asyncio.create_task(user(required_keys=["age"]))
    while not asking.done():
        ticks += 1
        await asyncio.sleep(0.001)
    say("got", asking.result().content, asking.result().age, ticks > 3)

asyncio.run(main())
"""
    )
    terminal.expect_exact("User input: ")
    terminal.sendline("Grüße")
    terminal.expect_exact("age: ")
    terminal.sendline("40")
    terminal.expect_exact("got Grüße 40 True")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_C11_the_end_key_of_a_terminal_is_an_eof_error_and_the_talk_may_go_on():
    terminal = open_terminal(
        """
async def main():
    user = UserAgent("Ann")
    try:
        await user()
    except EOFError:
        say("end")
    say("got", (await user()).content)

asyncio.run(main())
"""
    )
    terminal.expect_exact("User input: ")
    terminal.sendeof()
    terminal.expect_exact("end")
    terminal.expect_exact("User input: ")
    terminal.sendline("still here")
    terminal.expect_exact("got still here")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_C11_two_users_at_one_terminal_are_asked_one_after_the_other():
    terminal = open_terminal(
        """
async def main():
    ann, bob = UserAgent("Ann"), UserAgent("Bob")
    for msg in await asyncio.gather(ann(required_keys="a"), bob(required_keys="b")):
        say(msg.name, msg.content, msg.get("a"), msg.get("b"))

asyncio.run(main())
"""
    )
    typed = {}
    for line in ("one", "two", "three", "four"):
        prompt = ["User input: ", "a: ", "b: "][terminal.expect_exact(["User input: ", "a: ", "b: "])]
        typed.setdefault(prompt, []).append(line)
        terminal.sendline(line)
    terminal.expect(pexpect.EOF)
    [ann, bob] = terminal.before.split("\r\n")[-3:-1]
    assert sorted(typed["User input: "]) == sorted([ann.split()[1], bob.split()[1]])
    assert ann.split()[2:] == [typed["a: "][0], "None"]
    assert bob.split()[2:] == ["None", typed["b: "][0]]
    terminal.close()


def test_C11_users_work_in_a_second_event_loop():
    out, err, code = run_script(
        """
user = UserAgent("Ann")
async def ask():
    say("got", (await user()).content)
asyncio.run(ask())
asyncio.run(ask())
""",
        "one\ntwo\n",
    )
    assert out == "User input: got one\nUser input: got two\n"
    assert (err, code) == ("", 0)


# -- C12 --


async def test_C12_a_timeout_raises_and_the_agent_lives_on():
    answers = asyncio.Queue()

    async def source(prompt):
        return await answers.get()

    user = UserAgent("Ann", source=source)
    with pytest.raises(TimeoutError):
        await user("hello?", timeout=NOBODY_ANSWERS_S)
    assert user.memory.size() == 0
    answers.put_nowait("late")
    assert (await user(timeout=20)).text == "late"


@pytest.mark.parametrize("timeout", [None, 0])
async def test_C12_none_and_zero_are_no_limit(timeout):
    answers = asyncio.Queue()

    async def source(prompt):
        return await answers.get()

    asking = asyncio.create_task(UserAgent("Ann", source=source)(timeout=timeout))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not asking.done()
    answers.put_nowait("at last")
    assert (await asking).text == "at last"


async def test_C12_the_timeout_covers_the_required_keys_too():
    async def source(prompt):
        if prompt == "age: ":
            await asyncio.Event().wait()
        return "x"

    with pytest.raises(TimeoutError):
        await UserAgent("Ann", source=source)(required_keys=["age"], timeout=NOBODY_ANSWERS_S)


TIMEOUT_AND_AGAIN = """
async def main():
    user, ticks = UserAgent("Ann"), 0
    asking = asyncio.create_task(user(timeout=0.2))
    while not asking.done():
        ticks += 1
        await asyncio.sleep(0.001)
    say("timeout", isinstance(asking.exception(), TimeoutError), ticks > 3)
    say("got", (await user()).content)
    again = asyncio.create_task(user())
    await asyncio.sleep(0)
    again.cancel()
    await asyncio.wait([again])
    say("cancelled", again.cancelled())
    say("got", (await user()).content)

asyncio.run(main())
"""


def test_C12_after_a_timeout_and_a_cancel_no_line_is_lost_on_a_pipe():
    with subprocess.Popen(
        [sys.executable, "-c", START + TIMEOUT_AND_AGAIN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        out = process.stdout
        assert out.readline() == "User input: timeout True True\n"
        process.stdin.write("one\n")
        process.stdin.flush()
        assert out.readline() == "User input: got one\n"
        assert out.readline().endswith("cancelled True\n")
        process.stdin.write("two\n")
        process.stdin.flush()
        assert out.readline() == "User input: got two\n"
        process.stdin.close()
        assert process.wait(20) == 0


def test_C12_after_a_timeout_and_a_cancel_no_line_is_lost_on_a_terminal():
    terminal = open_terminal(TIMEOUT_AND_AGAIN)
    terminal.expect_exact("timeout True True")
    terminal.expect_exact("User input: ")
    terminal.sendline("one")
    terminal.expect_exact("got one")
    terminal.expect_exact("cancelled True")
    terminal.expect_exact("User input: ")
    terminal.sendline("two")
    terminal.expect_exact("got two")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


PENDING = """
async def main():
    asking = asyncio.create_task(UserAgent("Ann")())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asking.done()
    say("leaving")

asyncio.run(main())
say("left")
"""


def test_C12_the_process_ends_with_a_read_pending_on_a_pipe():
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", START + PENDING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.wait(20) == 0
        assert process.stdout.read().endswith("leaving\nleft\n")
        assert process.stderr.read() == ""


def test_C12_the_process_ends_with_a_read_pending_on_a_terminal():
    terminal = open_terminal(PENDING)
    terminal.expect(pexpect.EOF)
    said = terminal.before
    terminal.close()
    assert terminal.exitstatus == 0
    assert "left" in said
    assert "rror" not in said


def test_C12_the_interrupt_key_ends_a_script_that_waits_for_a_person():
    terminal = open_terminal(READ_ALL)
    terminal.expect_exact("User input: ")
    terminal.sendintr()
    terminal.expect_exact("KeyboardInterrupt")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert "Fatal Python error" not in terminal.before
    assert terminal.exitstatus == 130 or terminal.signalstatus == 2
