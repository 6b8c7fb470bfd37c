"""Call ``agentscope-async`` as a user does: in a process of its own, by pipes or in a pseudo-terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pexpect

from agentscope_async import Msg

ROOT = Path(__file__).parents[1]
VARIABLE = ("OPENAI_", "AZURE_OPENAI_", "GOOGLE_", "GEMINI_", "DASHSCOPE_", "OLLAMA_")
"""Beginnings of environment variables with keys and addresses of models."""


def environ(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(VARIABLE)}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": paths, "COLUMNS": "100", "TERM": "xterm-256color", **more}


def call(cwd, *args, code=0, text="", **more):
    """Run the command in pipes, check its exit code, and return (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "agentscope_async", *args],
        cwd=cwd,
        env=environ(**more),
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=50,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def spawn(cwd, *args, **more):
    """Start the command in a pseudo-terminal."""
    return pexpect.spawn(
        sys.executable,
        ["-m", "agentscope_async", *args],
        cwd=str(cwd),
        env=environ(**more),
        encoding="utf-8",
        timeout=50,
        dimensions=(30, 100),
    )


def end(child, code):
    """Read what is left on the terminal, and check the exit code."""
    child.expect(pexpect.EOF)
    child.close()
    assert "Traceback" not in child.before
    assert child.exitstatus == code, child.before
    return child.before


def run_directory(cwd):
    (run,) = (cwd / "runs").iterdir()
    return run


def transcript(cwd):
    """Return the lines of the transcript; each must be a whole message."""
    lines = (run_directory(cwd) / "transcript.jsonl").read_bytes()
    assert lines.endswith(b"\n") or not lines
    return [Msg.from_dict(json.loads(line)) for line in lines.splitlines()]
