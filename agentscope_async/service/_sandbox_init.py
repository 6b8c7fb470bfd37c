"""Process 1 of the sandbox: starts the code, watches over it and hands out the files it wrote.

It is given to an interpreter inside as text (``python -I -S -c``) and never imported, so it can use nothing
but the standard library, and of that what loads fast. All that the code can do to it is to end
it, which ends every process of the sandbox. Its arguments are ``name=number``:

- ``report``: descriptor that gets ``started``, then one line that says how it ended, then the files;
- ``files``: descriptor to read input files from; both hold records as of ``write_records``;
- ``memory``, ``wall_s``, ``cpu_s``, ``inodes``, ``file_bytes``, ``processes``, ``open_files``: limits;
- ``return_files``, ``return_bytes``: at most so many files, and bytes in all, are handed out.
"""

from __future__ import annotations

import builtins
import ctypes
import os
import resource
import select
import sys
import time
from stat import S_ISREG

TYPE_CHECKING = False  # importing typing takes milliseconds
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterator
    from types import TracebackType
    from typing import BinaryIO, TypeAlias

    Looks: TypeAlias = tuple[int, int, int]
else:
    import _signal  # signal itself takes milliseconds to import, for its enums

CODE = "/code.py"
HOME = "/tmp"
WORK = "/tmp/work"
PACKAGES = "/packages"
SCRATCH = ("/tmp", "/dev/shm")

LOOK_EVERY_S = 0.02
PR_SET_DUMPABLE = 4


def main() -> None:
    job = {name: int(number) for name, _, number in (word.partition("=") for word in sys.argv[1:])}
    be_open_to_others(False)  # the code has the same user: it must not write to this process's memory
    os.mkdir(WORK)
    os.chdir(WORK)
    given = unpack(job["files"])
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGCHLD])
    os.write(job["report"], b"started\n")
    code = os.fork()
    if code == 0:
        become_the_code(job)
        return
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # whatever else process 1 has no handler for is ignored
    verdict = watch(code, job)
    end_all_others()  # before looking at files that somebody might still move
    if verdict == "alone":
        return
    with os.fdopen(job["report"], "wb") as report:
        report.write(verdict.encode() + b"\n")
        write_records(report, written_files(given), job["return_files"], job["return_bytes"])


def be_open_to_others(is_open: bool) -> None:
    if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, int(is_open), 0, 0, 0):
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


def unpack(source: int) -> dict[str, Looks]:
    """Write the input files; return what they look like now, to see later which of them changed."""
    given: dict[str, Looks] = {}
    with os.fdopen(source, "rb") as records:
        while head := records.read(12):
            name = os.fsdecode(records.read(int.from_bytes(head[:4], "big")))
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
            with open(name, "xb") as file:
                file.write(records.read(int.from_bytes(head[4:], "big")))
            given[name] = looks(os.lstat(name))
    return given


def looks(status: os.stat_result) -> Looks:
    return status.st_ino, status.st_size, status.st_mtime_ns


def watch(code: int, job: dict[str, int]) -> str:
    """Wait until the code ends, or all processes together exceed a limit; say which in one word or two."""
    deadline = time.monotonic() + job["wall_s"]
    outside = select.poll()
    outside.register(job["report"], 0)  # told nevertheless: that nobody is left to read it
    while True:
        _signal.sigtimedwait([_signal.SIGCHLD], LOOK_EVERY_S)
        for pid, status in ended_children():
            if pid == code:
                exit_code = os.waitstatus_to_exitcode(status)
                return f"exit {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
        if inodes_in_use() > job["inodes"]:
            return "inodes"
        if memory_in_use(job["memory"]) > job["memory"]:
            return "memory"
        if time.monotonic() > deadline:  # the program outside does this too, unless it is stuck
            return "time"
        if outside.poll(0):  # it is gone
            return "alone"


def ended_children() -> Iterator[tuple[int, int]]:
    """Reap: whose parent is gone belongs to process 1."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, status


def inodes_in_use() -> int:
    return sum(found.f_files - found.f_ffree for found in map(os.statvfs, SCRATCH))


def memory_in_use(limit: int) -> int:
    """Return bytes of memory and of files in memory, of all processes together.

    Adding resident sets up counts what a fork shares once for each process. Only where that
    exceeds the limit the shares are asked for, which takes the kernel longer.
    """
    files = sum((found.f_blocks - found.f_bfree) * found.f_frsize for found in map(os.statvfs, SCRATCH))
    pids = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    resident = sum(kilobytes(f"/proc/{pid}/status", b"RssAnon:", b"RssShmem:") for pid in pids) * 1024
    if files + resident <= limit:
        return files + resident
    return files + sum(share(pid) for pid in pids) * 1024


def share(pid: str) -> int:
    try:
        return kilobytes(f"/proc/{pid}/smaps_rollup", b"Pss_Anon:", b"Pss_Shmem:")
    except PermissionError:  # it made itself unreadable
        return kilobytes(f"/proc/{pid}/status", b"RssAnon:", b"RssShmem:")


def kilobytes(path: str, *fields: bytes) -> int:
    try:
        with open(path, "rb") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(fields))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def end_all_others() -> None:
    try:
        os.kill(-1, _signal.SIGKILL)
        while True:
            os.wait()
    except (ProcessLookupError, ChildProcessError):
        pass


def written_files(given: dict[str, Looks]) -> list[tuple[str, int]]:
    """Return the regular files the code wrote or changed: (name, bytes); links are not followed."""
    found: list[tuple[str, int]] = []
    directories = [""]
    while directories:
        try:
            with os.scandir(os.path.join(".", directory := directories.pop())) as entries:
                for entry in entries:
                    name = os.path.join(directory, entry.name)
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(name)
                    elif S_ISREG(status.st_mode) and given.get(name) != looks(status):
                        found.append((name, status.st_size))
        except OSError:  # not readable, or too deep
            continue
    return sorted(found)


def write_records(out: BinaryIO, files: list[tuple[str, int]], most_files: int, most_bytes: int) -> None:
    """Write, for each file, the lengths of its name (4 bytes) and of its content (8), and both.

    A last record of a name without a length, ``0 0``, is followed by how many were left out (8).
    """
    left_out = 0
    for name, size in files:
        if most_files < 1 or size > most_bytes:
            left_out += 1
            continue
        try:
            with open(name, "rb") as file:
                content = file.read(size)
        except OSError:
            left_out += 1
            continue
        most_files, most_bytes = most_files - 1, most_bytes - len(content)
        label = os.fsencode(name)
        out.write(len(label).to_bytes(4, "big") + len(content).to_bytes(8, "big") + label + content)
    out.write(bytes(12) + left_out.to_bytes(8, "big"))


def become_the_code(job: dict[str, int]) -> None:
    os.closerange(3, 1 << 20)
    be_open_to_others(True)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    limit_this_process(job)
    sys.path[:0] = [WORK]
    if os.path.isdir(PACKAGES):
        sys.path.append(PACKAGES)
    sys.argv[:] = [CODE]
    # what was printed is kept if the process is killed
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # nothing has replaced it yet
    for name in ("exit", "quit"):
        setattr(builtins, name, sys.exit)  # as at a prompt; generated code likes to call them
    sys.excepthook = show_error
    run_code()


def limit_this_process(job: dict[str, int]) -> None:
    limits = {
        resource.RLIMIT_DATA: job["memory"],
        resource.RLIMIT_AS: job["memory"] + (1 << 30),  # libraries, and what is reserved but never used
        resource.RLIMIT_CPU: job["cpu_s"],
        resource.RLIMIT_FSIZE: job["file_bytes"],
        resource.RLIMIT_NOFILE: job["open_files"],
        resource.RLIMIT_NPROC: job["processes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def run_code() -> None:
    module = type(sys)("__main__")
    module.__dict__.update(__file__=CODE, __builtins__=builtins)
    sys.modules["__main__"] = module
    with open(CODE, "rb") as file:
        source = file.read().decode()  # UTF-8, whatever a coding line says
    exec(compile(source, CODE, "exec", dont_inherit=True), module.__dict__)


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback that begins in the code."""
    while trace is not None and trace.tb_frame.f_code.co_filename != CODE:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    main()
