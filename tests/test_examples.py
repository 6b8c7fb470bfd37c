"""Every example runs as it stands, without a network, a key or a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from run_examples import COMMANDS

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {"conversation": ["--model", "fake:echo"], "fanout": []}


def run(name: str, *args: str) -> str:
    command = [sys.executable, str(EXAMPLES / name / "main.py"), *(args or ARGUMENTS[name])]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_each_example_is_run() -> None:
    """The service, which does not end by itself, by web/test_example."""
    assert {path.parent.name for path in EXAMPLES.glob("*/main.py")} == {*COMMANDS, "fastapi_service"}


def test_the_conversation_reaches_everybody() -> None:
    lines = run("conversation").splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["Ann", "Bob", "Eve"]
    assert "Ann remembers 4 messages" in lines[-1]


def test_the_conversation_takes_models_of_a_file(tmp_path) -> None:
    (tmp_path / "models.json").write_text('{"config_name": "mine", "model_type": "fake_echo"}')
    configs = str(tmp_path / "models.json")
    assert "Ann remembers 4 messages" in run("conversation", "--model", "mine", "--model-configs", configs)


def test_the_fanout_says_what_it_does_when_asked_for_help() -> None:
    assert "Ask many agents at once" in run("fanout", "--help")


def test_the_fanout_keeps_the_failure_in_its_place() -> None:
    lines = run("fanout").splitlines()
    assert lines[:4] == ["Ann says 8", "Bob says 6", "Eve failed: the line is dead", "Joe says 8"]
    assert "first: Bob" in lines
    assert "first two good ones: ['Bob', 'Ann']" in lines
    assert "most say: 8" in lines
