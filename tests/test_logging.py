"""Parity rows N03 to N05: the chat and the system log."""

from __future__ import annotations

import io
import logging as stdlib
import re
import subprocess
import sys

import orjson
import pexpect
import pytest

from agentscope_async import ConfigError, Msg, Runtime, TextPart, logging
from agentscope_async.logging import COLOURS, ChatLog, chat, get_logger, setup_logger
from agentscope_async.message import ImagePart

LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) \| (?P<level>\w+) *\| "
    r"(?P<place>\S+:\S+:\d+) - (?P<text>.*)"
)
SAY_HI = """
from agentscope_async import Msg
from agentscope_async.logging import chat, setup_logger
setup_logger()
chat(Msg("Ann", "hi", "user"))
"""

HOSTILE = [
    "<b>bold</b> <red>x</red> List[<int>] </>",
    "{braces} {} {{ {0} {name!r}",
    "%s %d %(name)s 100%",
    "[bold]rich[/bold] [/] [red",
    "$name ${name} #{name}",
    "it's \"quoted\" \\n \\x1b",
    "先生 👩‍🔬 é",
]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def clean_set_up():
    """What a set-up changes in the process is undone."""
    logger = stdlib.getLogger("agentscope_async")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before
    logger.setLevel(before[1])
    logging._default_chat.use(None)


def chat_lines(folder):
    return [orjson.loads(line) for line in (folder / "logging.chat").read_bytes().splitlines()]


def log_lines(folder):
    found = [LINE.fullmatch(line) for line in (folder / "logging.log").read_text().split("\n")[:-1]]
    assert all(found)
    return found


def note_it(event_name, **values):
    get_logger().warning(event_name, **values)


# -- N03: the chat log --


def test_N03_strings_messages_and_dicts_are_one_json_value_a_line(tmp_path, capsys):
    setup_logger(tmp_path)
    msg = Msg("Ann", "Hello", "user", url="http://a/b.png", score=3)
    plain = {"name": "Bo", "content": {"deep": [1, None]}, "role": "assistant"}
    chat("a bare line\nin two parts")
    chat(msg)
    chat(plain)
    assert chat_lines(tmp_path) == ["a bare line\nin two parts", msg.to_dict(), plain]
    assert capsys.readouterr().out.splitlines()[:2] == ["a bare line", "in two parts"]


def test_N03_a_logged_message_can_be_read_back(tmp_path):
    setup_logger(tmp_path)
    msg = Msg("Ann", [TextPart("look"), ImagePart("http://a")], "user", tags=["x"])
    chat(msg)
    [line] = chat_lines(tmp_path)
    assert Msg.from_dict(line) == msg


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ({"name": "Ann", "role": "user", "content": "hi"}, ["Ann: hi"]),
        ({"role": "user", "content": "hi"}, ["user: hi"]),
        ({"name": "Ann", "content": "hi", "url": "http://a"}, ["Ann: hi", "Ann: http://a"]),
        ({"name": "Ann", "content": "hi", "url": ["http://a", "b"]}, ["Ann: hi", "Ann: http://a", "Ann: b"]),
        ({"name": "Ann", "url": "http://a"}, ["Ann: http://a"]),
        ({"content": "nobody"}, ["{'content': 'nobody'}"]),
        ({"name": "Ann"}, ["{'name': 'Ann'}"]),
        ({"name": "Ann", "content": 0}, ["Ann: 0"]),
        ({"name": 3, "content": "x"}, ["{'name': 3, 'content': 'x'}"]),
        ({}, ["{}"]),
        ("just text", ["just text"]),
        ("", [""]),
    ],
)
def test_N03_who_said_what_is_shown(message, lines):
    screen = io.StringIO()
    ChatLog(terminal=screen).show(message)
    assert screen.getvalue() == "".join(line + "\n" for line in lines)


@pytest.mark.parametrize(
    "odd", [{1: 2, "name": "a", "content": "x"}, {"name": "a", "content": object()}, "\ud800 lone"]
)
def test_N03_what_has_no_json_form_does_not_fail(tmp_path, odd):
    setup_logger(tmp_path)
    chat(odd)
    chat("next")
    assert chat_lines(tmp_path)[-1] == "next"


def test_N03_logs_are_appended_to(tmp_path):
    for number in (1, 2):
        setup_logger(tmp_path)
        chat(f"line {number}")
    assert chat_lines(tmp_path) == ["line 1", "line 2"]


def test_N03_the_folder_is_made(tmp_path):
    setup_logger(tmp_path / "deep" / "er")
    chat("x")
    assert chat_lines(tmp_path / "deep" / "er") == ["x"]


def test_N03_without_a_folder_no_file_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    setup_logger()
    chat("only shown")
    assert capsys.readouterr().out == "only shown\n"
    assert list(tmp_path.iterdir()) == []


# -- N03: the system log --


def test_N03_a_line_has_time_level_place_and_text(tmp_path):
    setup_logger(tmp_path)
    note_it("tea_ready", cups=4)
    [line] = log_lines(tmp_path)
    assert line["level"] == "WARNING"
    number = note_it.__code__.co_firstlineno + 1
    assert line["place"] == f"test_logging:note_it:{number}"
    assert "tea_ready" in line["text"]
    assert "cups=4" in line["text"]


def test_N03_an_exception_names_its_place_and_is_one_line(tmp_path):
    setup_logger(tmp_path)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        get_logger().exception("failed")
        stdlib.getLogger("agentscope_async").exception("failed too")
    lines = log_lines(tmp_path)
    assert [line["level"] for line in lines] == ["ERROR", "ERROR"]
    for line in lines:
        assert line["place"].startswith("test_logging:test_N03_an_exception")
        assert "ZeroDivisionError: division by zero" in line["text"]
        assert "test_logging.py" in line["text"]


@pytest.mark.parametrize(
    "level", ["TRACE", "DEBUG", "INFO", "CHAT", "SUCCESS", "WARNING", "ERROR", "CRITICAL"]
)
def test_N03_every_level_has_its_name_and_hides_what_is_below(tmp_path, level):
    setup_logger(tmp_path, level)
    logger = stdlib.getLogger("agentscope_async")
    for number in logging.LEVELS.values():
        logger.log(number, "level %d", number)
    names = list(logging.LEVELS)
    assert [line["level"] for line in log_lines(tmp_path)] == names[names.index(level) :]


@pytest.mark.parametrize("level", ["SUCCESS", "ERROR"])
def test_N03_above_the_chats_level_it_is_still_kept_but_not_shown(tmp_path, capsys, level):
    setup_logger(tmp_path, level)
    chat("quiet")
    assert capsys.readouterr().out == ""
    assert chat_lines(tmp_path) == ["quiet"]


@pytest.mark.parametrize("level", ["info", "LOUD", "", 20, None])
def test_N03_a_level_that_does_not_exist_is_refused_before_anything_is_written(tmp_path, level):
    with pytest.raises(ConfigError, match=r"does not exist.*TRACE.*CRITICAL"):
        setup_logger(tmp_path / "new", level)
    assert not (tmp_path / "new").exists()


def test_N03_a_repeated_set_up_does_not_double_the_lines(tmp_path, capsys):
    for _ in range(3):
        setup_logger(tmp_path)
    note_it("once")
    chat("said once")
    assert len(log_lines(tmp_path)) == 1
    assert chat_lines(tmp_path) == ["said once"]
    shown = capsys.readouterr()
    assert shown.out == "said once\n"
    assert shown.err.count("once") == 1


def test_N03_a_second_set_up_moves_the_logs(tmp_path):
    setup_logger(tmp_path / "one")
    setup_logger(tmp_path / "two")
    note_it("moved")
    chat("moved")
    assert log_lines(tmp_path / "one") == []
    assert chat_lines(tmp_path / "one") == []
    assert len(log_lines(tmp_path / "two")) == len(chat_lines(tmp_path / "two")) == 1


def test_N03_the_system_log_goes_through_the_standard_library(caplog):
    note_it("for the application", key="value")
    [record] = caplog.records
    assert (record.name, record.levelname) == ("agentscope_async", "WARNING")
    assert "for the application" in record.getMessage()
    assert "value" in record.getMessage()


def test_N03_the_terminal_is_the_one_of_the_moment(capsys, monkeypatch):
    first = io.StringIO()
    monkeypatch.setattr(sys, "stdout", first)
    setup_logger()
    chat("one")
    monkeypatch.undo()
    assert first.getvalue() == "one\n"
    first.close()
    chat("two")
    assert capsys.readouterr().out == "two\n"


def test_N03_a_process_that_only_imports_writes_nothing(tmp_path):
    script = "import agentscope_async; from agentscope_async import *; import agentscope_async.logging"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []


# -- N04: colours --


def test_N04_speakers_get_seven_colours_and_then_the_first_again():
    screen = Terminal()
    log = ChatLog(terminal=screen)
    for name in "abcdefgh":
        log.show(Msg(name, "x", "user"))
    lines = screen.getvalue().splitlines()
    codes = [re.match(r"\x1b\[1;(\d+)m\w\x1b\[0m: x$", line)[1] for line in lines]
    assert codes == [str(code) for code in (36, 32, 35, 31, 37, 33, 34, 36)]
    assert list(COLOURS) == ["cyan", "green", "magenta", "red", "white", "yellow", "blue"]


def test_N04_a_speaker_keeps_the_colour():
    log = ChatLog(terminal=Terminal())
    first = log.coloured("Ann")
    assert log.coloured("Bo") != first.replace("Ann", "Bo")
    assert log.coloured("Ann") == first


def test_N04_a_url_is_a_line_of_its_speaker():
    screen = Terminal()
    ChatLog(terminal=screen).show(Msg("Ann", "look", "user", url=["http://a", "http://b"]))
    name = "\x1b[1;36mAnn\x1b[0m"
    assert screen.getvalue() == f"{name}: look\n{name}: http://a\n{name}: http://b\n"


def test_N04_no_colours_in_a_pipe():
    screen = io.StringIO()
    ChatLog(terminal=screen).show(Msg("Ann", "hi", "user"))
    assert screen.getvalue() == "Ann: hi\n"
    done = subprocess.run([sys.executable, "-c", SAY_HI], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("Ann: hi\n", "", 0)


def test_N04_colours_on_a_real_terminal():
    terminal = pexpect.spawn(sys.executable, ["-c", SAY_HI], encoding="utf-8", timeout=20)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert "\x1b[1;36mAnn\x1b[0m: hi" in terminal.before


# -- N05: content is data --


@pytest.mark.parametrize("text", HOSTILE)
def test_N05_content_is_printed_and_kept_as_it_is(tmp_path, capsys, text):
    setup_logger(tmp_path)
    chat(Msg(text, text, "user", url=text))
    chat(text)
    chat({"name": text, "content": text})
    shown = capsys.readouterr()
    assert shown.out == f"{text}: {text}\n{text}: {text}\n{text}\n{text}: {text}\n"
    assert shown.err == ""
    msg, plain, _ = chat_lines(tmp_path)
    assert msg["content"] == msg["name"] == msg["url"] == plain == text


@pytest.mark.parametrize("text", HOSTILE)
def test_N05_the_system_log_takes_any_text_as_it_is(tmp_path, capsys, text):
    setup_logger(tmp_path)
    note_it("event", text=text)
    stdlib.getLogger("agentscope_async").warning("%s", text)
    structured, plain = log_lines(tmp_path)
    assert repr(text) in structured["text"]
    assert plain["text"] == text
    assert "Logging error" not in capsys.readouterr().err


@pytest.mark.parametrize("text", HOSTILE)
def test_N05_an_event_may_have_any_name(tmp_path, text):
    setup_logger(tmp_path)
    note_it(text)
    [line] = log_lines(tmp_path)
    assert repr(text) in line["text"]


CONTROLS = [
    "\x1b[2J\x1b[H",
    "\x00",
    "\x07",
    "\x08\x08",
    "\r",
    "\x7f",
    "\x9b31m",
    "\x85",
    "\x1b]0;title\x07",
    "\x0b\x0c",
]


@pytest.mark.parametrize("text", CONTROLS)
def test_N05_control_characters_are_made_visible(text):
    screen = Terminal()
    ChatLog(terminal=screen).show(Msg(f"A{text}", f"x{text}y", "user", url=text))
    seen = screen.getvalue().replace("\x1b[1;36m", "").replace("\x1b[0m", "")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", seen)
    assert "x\\x" in seen


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\n2026-01-01 00:00:00.000 | ERROR    | x:y:1 - forged", *CONTROLS]
)
def test_N05_no_text_makes_two_lines_of_the_system_log(tmp_path, text):
    setup_logger(tmp_path)
    note_it("event", text=text)
    note_it(text)
    stdlib.getLogger("agentscope_async").error("%s", text)
    content = (tmp_path / "logging.log").read_bytes()
    assert content.count(b"\n") == 3
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", content)
    log_lines(tmp_path)


def test_N05_newlines_and_tabs_of_a_message_are_shown():
    screen = io.StringIO()
    ChatLog(terminal=screen).show(Msg("Ann", "one\n\ttwo", "user"))
    assert screen.getvalue() == "Ann: one\n\ttwo\n"


def test_N05_a_long_line_is_cut_in_the_system_log_and_kept_in_the_chat(tmp_path, capsys):
    setup_logger(tmp_path)
    note_it("event", text="x" * 1_000_000)
    chat(Msg("Ann", "y" * 1_000_000, "user"))
    [line] = log_lines(tmp_path)
    assert len(line["text"]) < 11_000
    assert "1000014 characters" in line["text"] or re.search(r"\(10000\d\d characters\)$", line["text"])
    assert len(chat_lines(tmp_path)[0]["content"]) == 1_000_000
    capsys.readouterr()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_N05_a_terminal_with_few_letters_shows_what_it_can(encoding):
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    ChatLog(terminal=screen).show(Msg("Zoë", "先生 abc", "user"))
    assert b"abc" in screen.buffer.getvalue()


async def test_N05_a_runtimes_chat_is_its_own(capsys):
    one, two = io.StringIO(), io.StringIO()
    async with Runtime(chat=one) as first, Runtime(chat=two) as second:
        first.show(Msg("Ann", "{one}", "user"))
        second.show(Msg("Bo", "<two>", "user"))
    assert (one.getvalue(), two.getvalue()) == ("Ann: {one}\n", "Bo: <two>\n")
    assert capsys.readouterr().out == ""


def test_before_any_set_up_chat_goes_to_the_terminal(capsys):
    chat("hello")
    Msg("Ann", "echoed", "user", echo=True)
    assert capsys.readouterr().out == "hello\nAnn: echoed\n"
