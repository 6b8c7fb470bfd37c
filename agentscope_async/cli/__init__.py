"""The command ``agentscope-async``: talk with an agent, hold debates, see what is installed.

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import importlib.util
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
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII
    try:
        from ._app import app

        app(prog_name=PROGRAM)
    except KeyboardInterrupt:  # before a command took it over
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        return 130
    return 0
