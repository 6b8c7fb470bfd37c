"""What is left of a sandbox on this machine: its processes, found by a name they give themselves."""

from __future__ import annotations

import os
from pathlib import Path

MARK = """
import ctypes
ctypes.CDLL(None).prctl(15, {name!r}.encode(), 0, 0, 0)  # PR_SET_NAME; children inherit it
"""


def new_name() -> str:
    """Return a name that no process has, 15 characters at most."""
    return f"sb-{os.urandom(6).hex()}"


def marked_code(name: str, code: str) -> str:
    """Return code whose processes all have this name."""
    return MARK.format(name=name) + code


def processes_named(name: str) -> list[int]:
    """Return the ids of processes and threads of this name, zombies included."""
    return [pid for pid, found in _names() if found == name]


def sandboxes_of(parent: int) -> list[int]:
    """Return the ids of bubblewrap's processes below this one."""
    parents = dict(_parents())
    own = {pid for pid, name in _names() if name in ("bwrap", "setpriv")}
    return [pid for pid in own if _is_below(pid, parent, parents)]


def _is_below(pid: int, parent: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        pid = parents.get(pid, 0)
        if pid == parent:
            return True
    return False


def _names() -> list[tuple[int, str]]:
    return [(pid, stat[stat.index("(") + 1 : stat.rindex(")")]) for pid, stat in _stats()]


def _parents() -> list[tuple[int, int]]:
    return [(pid, int(stat.rpartition(")")[2].split()[1])) for pid, stat in _stats()]


def _stats() -> list[tuple[int, str]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append((int(entry), Path(f"/proc/{entry}/stat").read_text(errors="replace")))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
