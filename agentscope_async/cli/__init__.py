"""The command ``agentscope-async``: talk with an agent, hold debates, see what is installed.

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import sys

__all__ = ["main"]

PROGRAM = "agentscope-async"


def main() -> int:
    """Run the command line in ``sys.argv``; typer ends the process itself, with its exit code."""
    missing = [package for package in ("typer", "rich") if importlib.util.find_spec(package) is None]
    if missing:
        print(
            f"The command {PROGRAM} needs {' and '.join(missing)}: pip install 'agentscope-async[cli]'",
            file=sys.stderr,
        )
        return 2
    _prepare_output()
    try:
        from ._app import app

        app(prog_name=PROGRAM)
    except KeyboardInterrupt:  # before a command took it over
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _prepare_output() -> None:
    """Let nothing that is printed fail: not on a closed stream, nor on one that knows only ASCII."""
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
