"""Two calls of the operating system that Python does not offer, and whether they are to be had."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import lru_cache
from typing import Any

__all__ = ["has_openat2", "open_beneath", "rename_new"]

OPENAT2 = 437  # of every architecture but alpha (linux/include/uapi/asm-generic/unistd.h)
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08  # linux/openat2.h
RENAME_NOREPLACE, RENAME_EXCL = 1, 4  # linux/fs.h; sys/stdio.h of macOS

_UNAVAILABLE = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ENOTSUP)
"""Answers of kernels, containers and file systems that do not have a call."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@lru_cache(maxsize=1)
def has_openat2() -> bool:
    """Whether a path can be opened so that the kernel itself does not leave a directory (Linux 5.6)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(open_beneath(top, ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:  # not there, or forbidden as in some containers
        return False
    finally:
        os.close(top)
    return True


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open ``path``, which lies beneath an open directory and goes through no link; see openat2(2).

    Raises:
        OSError: ELOOP for a link on the way, EXDEV for a way out, and all of open(2).
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    how = _OpenHow(flags, 0, resolve)
    while True:
        opened: int = _libc().syscall(
            ctypes.c_long(OPENAT2),
            ctypes.c_long(directory),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return opened
        problem = ctypes.get_errno()
        if problem not in (errno.EINTR, errno.EAGAIN):  # "the caller should retry" of a rename meanwhile
            raise OSError(problem, os.strerror(problem), path)


def rename_new(source: str, source_folder: int, target: str, target_folder: int) -> bool:
    """Rename unless the target exists, in one step; False where that cannot be had.

    Raises:
        OSError: FileExistsError, and all of rename(2).
    """
    rename, flag = _rename_call()
    if rename is None:
        return False
    while rename(source_folder, os.fsencode(source), target_folder, os.fsencode(target), flag) != 0:
        problem = ctypes.get_errno()
        if problem in _UNAVAILABLE:
            return False
        if problem != errno.EINTR:
            raise OSError(problem, os.strerror(problem), source, None, target)
    return True


def _rename_call() -> tuple[Any, int]:
    if sys.platform == "darwin":
        return getattr(_libc(), "renameatx_np", None), RENAME_EXCL
    return getattr(_libc(), "renameat2", None), RENAME_NOREPLACE


@lru_cache(maxsize=1)
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
