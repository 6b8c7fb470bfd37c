"""Processes a benchmark starts: they say when they are ready and what they have used, and end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .common import resident_bytes

if TYPE_CHECKING:
    from types import TracebackType

END_S = 5.0
"""How long a process may take to end by itself."""


class Used(NamedTuple):
    """CPU seconds of all threads since the process began, and its resident set now."""

    cpu_s: float
    resident: int


class Worker:
    """``python -m MODULE``, which calls :func:`told` and then :func:`ready`; a context manager.

    It ends when its standard input does: also when this process is killed. Ctrl-C is left to
    this process.

    Attributes:
        said: what the module gave to ``ready``.
        pid: its process id.
    """

    def __init__(self, module: str, job: Mapping[str, Any]) -> None:
        """Start the process; ``said`` is there once it has been entered."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        self.pid = self._process.pid
        self._ask(json.dumps(job).encode())

    def __enter__(self) -> Self:
        self.said: dict[str, Any] = json.loads(self._hear())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(END_S)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()
        finally:
            self._process.stdout.close()

    def used(self) -> Used:
        """Ask the process what it has used so far."""
        return Used(*self.answer("used"))

    def answer(self, question: str) -> Any:
        """Ask one of the questions the process knows; takes about a millisecond of this thread."""
        self._ask(question.encode())
        return json.loads(self._hear())

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop it as Ctrl-Z does, without a word to it."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after ``stop``."""
        self._process.send_signal(signal.SIGCONT)

    def _ask(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A process of the benchmark ended with {self._process.wait()}.")
        return line


_answers: dict[str, Callable[[], Any]] = {"used": lambda: Used(time.process_time(), resident_bytes())}


def told() -> dict[str, Any]:
    """Return, in a worker, the job it was given; from now on it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_answer, daemon=True).start()
    return job


def ready(said: Mapping[str, Any], answers: Mapping[str, Callable[[], Any]] | None = None) -> None:
    """Tell the parent that it may begin, and ask besides ``used`` what ``answers`` give as JSON values."""
    _answers.update(answers or {})
    _say(said)


def _answer() -> None:
    with open(0, "rb", buffering=0, closefd=False) as questions:  # sys.stdin's lock would hold up the exit
        for line in questions:
            _say(_answers[line.decode().strip()]())
    os._exit(0)  # the parent is done with us, or gone


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
