"""What the start scripts share: running servers as child processes, and saying when they answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"
START_S = 300.0
STOP_S = 30.0
LOOK_AGAIN_S = 0.5


def stop_at_signals() -> None:
    """Let SIGTERM and Ctrl-C end the program quietly, by way of every ``finally``."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


@contextmanager
def running(module: str, *args: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m MODULE`` in a process group of its own; no process of it is left afterwards.

    What it prints goes to standard error.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", module, *args],
        stdout=sys.stderr,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environ},
        start_new_session=True,
    )
    try:
        yield child
    finally:
        end_group(child)


def end_group(child: subprocess.Popen[bytes]) -> None:
    """Ask the child to end, and after STOP_S seconds end by force whoever of its group is left."""
    child.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_S)
    finally:
        with suppress(ProcessLookupError):  # all of them are gone, as they should be
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_for(url: str, *children: subprocess.Popen[bytes], containing: bytes = b"") -> None:
    """Return once ``url`` answers, with these words if any are given.

    Raises:
        SystemExit: one of the children ended, or START_S seconds went by.
    """
    give_up_at = time.monotonic() + START_S
    while not answers(url, containing):
        ended = [child.returncode for child in children if child.poll() is not None]
        if ended:
            sys.exit(f"The server ended with {ended[0]}; what it printed above says why.")
        if time.monotonic() > give_up_at:
            sys.exit(f"The server did not answer at {url} within {START_S:g} s.")
        time.sleep(LOOK_AGAIN_S)


def answers(url: str, containing: bytes) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=LOOK_AGAIN_S) as answer:
            return containing in answer.read()
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def announce(url: str) -> None:
    print(f"serving at {url}", flush=True)
