"""The process between us and an MCP server on pipes: it ends the server, and all it started, with us.

Run as ``python -I -S _guard.py CONTROL_FD COMMAND [ARGUMENT...]`` in a session of its own. The server gets
our pipes; the guard keeps only the socket ``CONTROL_FD``. There, ``T`` from us asks the server to end
(SIGTERM), and the end of the socket, whether we closed it or died, kills everything at once. The guard
tells one line when the server has ended: ``exited with status 3``.

On Linux the guard adopts what its descendants leave behind (PR_SET_CHILD_SUBREAPER, prctl(2)), so that a
process that left the group is found, too. Elsewhere such a one escapes.
"""

from __future__ import annotations

import os
import select
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_KILL_ROUNDS = 500
_ROUND_S = 0.01
_CANNOT_START = 127
"""The status of a shell that did not find the command."""


def main(control: int, command: list[str]) -> None:
    """Run the server until it ends or the control socket does."""
    _adopt_orphans()
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    server = _start(control, command)
    _leave_pipes()
    while True:
        ready, _, _ = select.select([control, ended], [], [])
        if control in ready:
            if not os.read(control, 64):
                break
            os.kill(server, signal.SIGTERM)
        if ended in ready:
            os.read(ended, 4096)
            if (told := _reap(server)) is not None:
                _tell(control, told)
                break
    _kill_everything()


def _start(control: int, command: list[str]) -> int:
    server = os.fork()
    if server == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.set_inheritable(control, False)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            _tell(control, f"cannot start {command[0]!r}: {error.strerror}")
        os._exit(_CANNOT_START)
    return server


def _leave_pipes() -> None:
    """Let the server alone hold its pipes: their end is then its end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


def _reap(server: int) -> str | None:
    """Collect all children that ended; return how the server did, if it is among them."""
    told = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return told
        if pid == 0:
            return told
        if pid == server:
            code = os.waitstatus_to_exitcode(status)
            told = f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"


def _tell(control: int, text: str) -> None:
    try:
        os.write(control, text.encode() + b"\n")
    except OSError:  # we are gone; nobody is there to be told
        pass


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_everything() -> None:
    """Kill the children, then those who thereby become our children; last the group, with ourselves."""
    for _ in range(_KILL_ROUNDS):
        children = _children()
        if not children:
            break
        for child in children:
            os.kill(child, signal.SIGKILL)  # a child is there, or a zombie, until we collect it
        select.select([], [], [], _ROUND_S)
        _reap(0)
    os.killpg(0, signal.SIGKILL)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listed:  # proc(5)
            return [int(pid) for pid in listed.read().split()]
    except OSError:  # not Linux
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
