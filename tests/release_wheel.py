"""Builds a wheel, installs it in an empty environment, and uses it: ``python -m tests.release_wheel``.

Takes 15 seconds where pip has what it needs at hand, and else as long as the downloads, so it is not
part of the tests that run at each change; it prints how long each step took. In that environment,
from a directory of its own, a debate is held and an agent served to whoever speaks OpenAI's form.
Ends with 0 if all went well.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
LIMIT_S = 600.0
"""A guard: so long a step may take."""

AGENT = """
from agentscope_async import DialogAgent


def ann():
    return DialogAgent("Ann", None, "fake:echo")
"""


def main() -> int:
    """Do all steps."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with timed("built"):
            wheel = build(directory)
        with timed("installed"):
            commands = install(wheel, directory)
        with timed("imported from where it was installed"):
            check_home(commands, directory)
        with timed("a debate held"):
            hold_debate(commands, directory)
        with timed("an agent served"):
            serve(commands, directory)
    return 0


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what was done, and how long it took."""
    began_at = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began_at:.1f} s", flush=True)


def build(directory: Path) -> Path:
    """Build a wheel of the project and return its path."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(directory), str(ROOT)]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    (wheel,) = directory.glob("agentscope_async-*.whl")
    return wheel


def install(wheel: Path, directory: Path) -> Path:
    """Install it in an empty environment and return where that has its commands."""
    home = directory / "environment"
    venv.create(home, with_pip=True)
    commands = home / ("Scripts" if os.name == "nt" else "bin")
    command = [str(commands / "python"), "-m", "pip", "install", "-q", f"{wheel}[cli,web]"]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    return commands


def run(commands: Path, directory: Path, program: str, *args: str) -> str:
    """Run a program of the environment and return what it printed."""
    done = subprocess.run(
        [str(commands / program), *args],
        cwd=directory,
        env=environ(),
        check=True,
        timeout=LIMIT_S,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    return done.stdout


def environ() -> dict[str, str]:
    """Return an environment in which the project's own directory is not found."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


def check_home(commands: Path, directory: Path) -> None:
    """Make sure that it is the wheel that is used."""
    code = "import agentscope_async; print(agentscope_async.__file__)"
    home = Path(run(commands, directory, "python", "-c", code).strip())
    assert (directory / "environment").resolve() in home.resolve().parents, home


def hold_debate(commands: Path, directory: Path) -> None:
    """Hold a debate from the shell."""
    said = run(commands, directory, "agentscope-async", "debate", "--model", "fake:echo", "--rounds", "1")
    assert "Judge" in said, said


def serve(commands: Path, directory: Path) -> None:
    """Serve an agent, ask it, and end it by Ctrl-C."""
    (directory / "mine.py").write_text(AGENT)
    command = [str(commands / "agentscope-async"), "serve", "mine:ann", "--port", "0"]
    with subprocess.Popen(
        command, cwd=directory, env=environ(), stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"served at (\S+)", process.stdout.readline())
            assert found is not None
            assert ask(found[1]) == "user: Hello"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def ask(url: str) -> str:
    """Return what the agent answers."""
    body = {"model": "ann", "messages": [{"role": "user", "content": "Hello"}]}
    request = Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=30) as answer:
        text: str = json.load(answer)["choices"][0]["message"]["content"]
    return text


if __name__ == "__main__":
    sys.exit(main())
