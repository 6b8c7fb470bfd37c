"""Code in a process of its own and nothing more, for programs that vouch for it."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import sys
import tempfile

from ._sandbox_process import Ended, LimitedProcess

__all__ = ["LocalUnavailable", "run_unprotected"]

MAX_FILE_BYTES = 64 << 20
"""Size of the largest file the code can write."""

_PROGRAM = """
import resource, sys
for word in sys.argv[1:]:
    name, most = word.split("=")
    hard = resource.getrlimit(getattr(resource, name))[1]
    most = int(most) if hard == resource.RLIM_INFINITY else min(int(most), hard)
    resource.setrlimit(getattr(resource, name), (most, most))
sys.argv[:] = ["<code>"]
sys.stdout.reconfigure(line_buffering=True)
code = compile(sys.stdin.buffer.read().decode(), "<code>", "exec", dont_inherit=True)
exec(code, {"__name__": "__main__"})
"""


class LocalUnavailable(Exception):  # never leaves this package
    """There is no such process to be had on this system."""


async def run_unprotected(code: bytes, *, timeout_s: float, memory_bytes: int) -> Ended:
    """Run Python code with this user's rights, in a directory that is removed afterwards.

    It does not see this process's environment, and its group is killed at the limits and in the
    end. A process that it moves to a session of its own is out of reach, and survives.

    Raises:
        LocalUnavailable: this system has no process groups (Windows).
    """
    if os.name != "posix":
        raise LocalUnavailable(
            "unsafe_local needs a POSIX system; there is use_docker=True. Nothing was run."
        )
    directory = await asyncio.to_thread(tempfile.mkdtemp, prefix="agentscope-code-")
    try:
        with tempfile.TemporaryFile() as source:
            source.write(code)
            source.seek(0)
            return await _Unprotected(
                _command(timeout_s, memory_bytes),
                timeout_s=timeout_s,
                stdin=source,
                cwd=directory,
                env={"PATH": os.defpath, "HOME": directory, "LANG": "C.UTF-8"},
            ).run()
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))


class _Unprotected(LimitedProcess):
    async def all_ended(self) -> None:
        self.kill_group()  # what it left behind in its group


def _command(timeout_s: float, memory_bytes: int) -> list[str]:
    limits = {
        "RLIMIT_CPU": math.ceil(timeout_s) + 1,
        "RLIMIT_DATA": memory_bytes,
        "RLIMIT_FSIZE": MAX_FILE_BYTES,
        "RLIMIT_CORE": 0,
    }
    words = [f"{name}={most}" for name, most in limits.items()]
    return [sys.executable, "-I", "-B", "-X", "utf8", "-c", _PROGRAM, *words]
