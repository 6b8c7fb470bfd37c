"""Code nobody vouches for, in namespaces of its own, made by bubblewrap.

It sees the system's programs and libraries and this interpreter's, all read-only, and a scratch
directory in memory; no network, no other process, no environment, no home. As root it runs as a
user id that nobody has. :mod:`._sandbox_init` is process 1 inside and adds up what all processes
use; a cgroup would do so too, but only where its tree may be written to, which in containers and for
ordinary users it mostly may not. Time and output are limited from outside, by killing process 1: the
kernel then kills the rest before it lets process 1 be reaped.

bubblewrap's options: bwrap(1), version 0.8.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from ..errors import ConfigError
from ._sandbox_process import Ended, Heard, LimitedProcess
from ._sandbox_seccomp import seccomp_program
from ._sandbox_view import (
    Bind,
    SandboxUnavailable,
    needs_root_to_reach,
    options_for,
    packages_view,
    system_view,
    tool,
)
from ._threads import in_thread

__all__ = ["DEFAULT_MEMORY_BYTES", "MAX_PROCESSES", "Ran", "SandboxUnavailable", "run_in_sandbox"]

DEFAULT_MEMORY_BYTES = 512 << 20
"""Memory of all processes together, files in the scratch directory included."""

SCRATCH_BYTES = 64 << 20
"""Size of the scratch directory, and of the largest file; 16 MiB more are in ``/dev/shm``."""

MAX_INODES = 10_000
"""Files and directories in the scratch directories."""

MAX_PROCESSES = 64
"""Processes and threads at once."""

MAX_OPEN_FILES = 128
"""For each process."""

MAX_RETURNED_FILES = 1_000
MAX_RETURNED_BYTES = 32 << 20
"""What is handed out of the files that the code wrote."""

_HOST_USERS = range(0x7000_0000, 0x7FFE_0000)
"""User ids that systemd's table of ranges (systemd.io/UIDS-GIDS, 2026) gives to nobody."""

_ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    # a thread of these libraries for each core of a big machine would use up the limits
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of the code.

    Attributes:
        ended: its output, and the limit that was enforced from outside.
        verdict: what process 1 inside said: ``exit 0``, ``signal 11``, ``memory``, ``inodes``,
            ``time``; or empty when it was ended, too.
        files: what the code wrote, by path in its directory.
        left_out: how many files more it wrote than were handed out.
    """

    ended: Ended
    verdict: str
    files: dict[str, bytes] = field(default_factory=dict)
    left_out: int = 0


async def run_in_sandbox(
    code: bytes,
    *,
    timeout_s: float,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    packages: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    return_files: bool = False,
) -> Ran:
    """Run Python code; when this returns or raises, no process and no file of it is left.

    Raises:
        SandboxUnavailable: there is no sandbox to be had.
        ConfigError: a package is not installed, or a file has a name that leads elsewhere.
    """
    tool("bwrap", "bubblewrap")  # first of all: elsewhere than on Linux the rest does not exist either
    binds = [*system_view(), *await asyncio.to_thread(packages_view, tuple(packages))]
    job = {
        "memory": memory_bytes,
        "wall_s": math.ceil(timeout_s) + 1,
        "cpu_s": math.ceil(timeout_s) + 1,
        "inodes": MAX_INODES,
        "file_bytes": SCRATCH_BYTES,
        "processes": MAX_PROCESSES,
        "open_files": MAX_OPEN_FILES,
        "return_files": MAX_RETURNED_FILES if return_files else 0,
        "return_bytes": MAX_RETURNED_BYTES if return_files else 0,
    }
    with ExitStack() as opened:
        contents = {"code": code, "files": _as_records(files or {}), "filter": _filter(), "info": b""}
        data = await in_thread(  # which waits for the thread when cancelled: no file is left open
            lambda halt: {
                name: opened.enter_context(_in_memory(name, content)) for name, content in contents.items()
            }
        )
        sandbox = _Sandbox(binds, job, {name: file.fileno() for name, file in data.items()}, timeout_s)
        try:
            ended = await sandbox.run()
        except OSError as error:
            raise SandboxUnavailable(f"The sandbox could not be started: {error}") from error
    return _told(ended, bytes(sandbox.report.bytes))


class _Sandbox(LimitedProcess):
    """A bubblewrap that tells in a file which process is the first one inside.

    A file, for a pipe could break: bubblewrap killed between cloning that process and letting it
    go on would leave it waiting for ever. For the same reason there is no --die-with-parent. If this
    program is gone, process 1 sees that nobody reads its report.
    """

    def __init__(
        self, binds: Sequence[Bind], job: Mapping[str, int], data: Mapping[str, int], timeout_s: float
    ) -> None:
        super().__init__([], timeout_s=timeout_s, cwd="/", env={"PATH": "/usr/bin:/bin"})
        self._binds = binds
        self._job = dict(job)
        self._data = data
        self.report = Heard(
            MAX_RETURNED_BYTES + MAX_RETURNED_FILES * 5_000, on_excess=lambda: self.stop("output")
        )

    async def prepare(self) -> None:
        report = await self.hear(self.report)
        self._job |= {"report": report, "files": self._data["files"]}
        self.command = _command(self._binds, self._job, self._data)
        self.pass_fds = [report, *self._data.values()]

    async def kill(self) -> None:
        """Kill process 1; before there is one, the group, which process 1 leaves when it is ready."""
        if not self._kill_first():
            self.kill_group()
            self._kill_first()  # it may have been let go on just then

    def _kill_first(self) -> bool:
        told = os.pread(self._data["info"], 4096, 0)
        if b"}" not in told:
            return False
        try:
            os.kill(json.loads(told)["child-pid"], signal.SIGKILL)
        except ProcessLookupError:
            return True  # its parent is ending, too
        return True


def _command(binds: Sequence[Bind], job: Mapping[str, int], fds: Mapping[str, int]) -> list[str]:
    python = str(_python())
    around = _as_nobody(binds)
    words = [f"{name}={number}" for name, number in job.items()]
    return [
        *around,
        tool("bwrap", "bubblewrap"),
        *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"),
        *("--as-pid-1", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"),
        "--clearenv",
        *(word for name, value in _ENVIRONMENT.items() for word in ("--setenv", name, value)),
        *options_for(binds, is_shown_already=tool("bwrap", "bubblewrap") in around),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(16 << 20), "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"),
        *("--ro-bind-data", str(fds["code"]), "/code.py", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(fds["filter"]), "--info-fd", str(fds["info"]), "--"),
        *(python, "-I", "-S", "-B", "-X", "utf8", "-c", _init_program(), *words),
    ]


def _as_nobody(binds: Sequence[Bind]) -> list[str]:
    """Return what to begin the command with, so that root's rights end before the namespaces begin.

    The kernel does not apply the limit of processes to root. Where that user could not reach
    the interpreter (below ``/root``, say), a first bubblewrap shows it in a place of its own.
    """
    if os.getuid() != 0:
        return []
    nobody = str(_HOST_USERS[int.from_bytes(os.urandom(4), "big") % len(_HOST_USERS)])
    drop = [tool("setpriv", "util-linux"), f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups"]
    if not any(needs_root_to_reach(bind.source) for bind in binds):
        return drop
    system = ["--dir", "/tmp", "--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"]
    return [tool("bwrap", "bubblewrap"), *options_for(binds), *system, "--", *drop]


def _python() -> Path:
    return next(bind.source for bind in system_view() if bind.is_interpreter)


@cache
def _init_program() -> str:
    return Path(__file__).with_name("_sandbox_init.py").read_text(encoding="utf-8")


def _filter() -> bytes:
    try:
        return seccomp_program(platform.machine())
    except ConfigError as error:
        raise SandboxUnavailable(str(error)) from error


def _in_memory(name: str, content: bytes) -> IO[bytes]:
    file = os.fdopen(os.memfd_create(name), "w+b")
    file.write(content)
    file.seek(0)
    return file


def _as_records(files: Mapping[str, bytes]) -> bytes:
    """Return them as ``_sandbox_init.unpack`` reads them."""
    if sum(map(len, files.values())) > SCRATCH_BYTES // 2:
        raise ConfigError(f"files are more than {SCRATCH_BYTES // 2:,} bytes, half of the scratch directory.")
    parts: list[bytes] = []
    for name, content in files.items():
        _check_name(name)
        label = name.encode()
        parts += [len(label).to_bytes(4, "big"), len(content).to_bytes(8, "big"), label, content]
    return b"".join(parts)


def _check_name(name: str) -> None:
    steps = name.split("/")
    if "\0" in name or any(step in ("", ".", "..") for step in steps):
        raise ConfigError(
            f"files has the name {name!r}; give a relative path like 'data/table.csv', without '..'."
        )


def _told(ended: Ended, report: bytes) -> Ran:
    """Read the report. Only process 1 could write to it, but it stood next to the code: trust no length."""
    _, started, rest = report.partition(b"started\n")
    if not started:
        if ended.stopped is not None:
            return Ran(ended, "")
        raise SandboxUnavailable(_why_unavailable(ended))
    verdict, line_end, records = rest.partition(b"\n")
    if not line_end:
        return Ran(ended, "")
    files, left_out = _files_of(records)
    return Ran(ended, verdict.decode("ascii", "replace"), files, left_out)


def _files_of(records: bytes) -> tuple[dict[str, bytes], int]:
    files: dict[str, bytes] = {}
    at = 0
    while len(records) >= at + 12:
        name_length = int.from_bytes(records[at : at + 4], "big")
        length = int.from_bytes(records[at + 4 : at + 12], "big")
        at += 12
        if name_length == 0:
            return files, int.from_bytes(records[at : at + 8], "big")
        name = records[at : at + name_length].decode("utf-8", "backslashreplace")
        at += name_length + length
        if at <= len(records) and ".." not in name.split("/") and not name.startswith("/"):
            files[name] = records[at - length : at]
    return files, 0


def _why_unavailable(ended: Ended) -> str:
    return (
        f"No sandbox: {ended.stderr.strip() or f'bwrap ended with {ended.status}'}\n"
        "It needs bubblewrap 0.8 or later and leave to make user namespaces: see "
        "sysctl user.max_user_namespaces, on Ubuntu kernel.apparmor_restrict_unprivileged_userns, "
        "in a container its seccomp profile and, as root there, user ids as high as "
        f"{_HOST_USERS.start}. Nothing was run."
    )
