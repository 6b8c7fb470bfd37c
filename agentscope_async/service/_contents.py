"""What is in files and directories: read whole, written whole, removed whole."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from ._paths import shown
from ._rooted import Place, kind_error, lstat, move_new, named, open_directory, open_file

if TYPE_CHECKING:
    from ._threads import Halt

__all__ = ["draft_name", "read_file", "remove_tree", "write_file"]

CHUNK_BYTES = 2**20
MAX_DEPTH = 128
"""Directories within each other that are removed in one go; each takes a descriptor meanwhile."""


def read_file(place: Place, max_bytes: int, halt: Halt) -> bytes:
    """Return all of an ordinary file.

    Raises:
        ValueError: it has more than ``max_bytes``.
        OSError: it is no ordinary file, or cannot be read.
    """
    file = open_file(place)
    try:
        size = os.fstat(file).st_size
        content = bytearray()
        while size <= max_bytes and (chunk := os.read(file, CHUNK_BYTES)):
            halt.check()
            content += chunk
            size = max(size, len(content))  # it may grow while it is read
    finally:
        os.close(file)
    if size > max_bytes:
        raise ValueError(
            f"{shown(place.path)} has {size:,} bytes, and at most {max_bytes:,} are read at once. "
            f"Use a smaller file or a part of it."
        )
    return bytes(content)


def write_file(place: Place, content: bytes, *, overwrite: bool, halt: Halt) -> None:
    """Put a file there, whole or not at all; whoever reads meanwhile sees the old one or this.

    It is written under another name beside its place, is on the disk then, and only then
    takes the place. A file that is replaced leaves its permissions and, where that is
    possible, its owner to the new one.

    Raises:
        FileExistsError: there is one and ``overwrite`` is False.
        PermissionError: what is there is a link or a device, or may be another's: a file of
            another owner that has further names (hard links).
        InterruptedError: nobody waits for it; nothing has changed.
        OSError: it cannot be written; nothing has changed.
    """
    with named(place.path):
        _write_file(place, content, overwrite, halt)


def remove_tree(place: Place, halt: Halt) -> None:
    """Remove a directory with all that is in it; links in it are removed, not followed.

    When it fails or is told to stop, what was removed before stays removed.

    Raises:
        NotADirectoryError: it is something else.
        PermissionError: another file system is mounted in it.
        OSError: a part of it cannot be removed.
    """
    with named(place.path):
        status = os.lstat(place.name, dir_fd=place.folder)
        _remove_tree(place.name, place.folder, status.st_dev, MAX_DEPTH, halt)


def draft_name() -> str:
    """Return a name for something unfinished that no other has."""
    return f".{secrets.token_hex(8)}.tmp"


def _write_file(place: Place, content: bytes, overwrite: bool, halt: Halt) -> None:
    old = lstat(place)
    if old is not None:
        _check_replacing(old, place, overwrite)
    draft = Place(place.folder, draft_name(), place.path)
    file = os.open(
        draft.name,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o666,
        dir_fd=draft.folder,
    )
    try:
        try:
            if old is not None:
                _take_over(file, old)
            _write(file, content, halt)
            os.fsync(file)
        finally:
            os.close(file)
        halt.check()
        if overwrite:  # the point of no return, as is move_new
            os.rename(draft.name, place.name, src_dir_fd=draft.folder, dst_dir_fd=place.folder)
        else:
            move_new(draft, place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft.name, dir_fd=draft.folder)
        raise


def _remove_tree(name: str, folder: int, device: int, depth: int, halt: Halt) -> None:
    if depth == 0:
        raise OSError(f"More than {MAX_DEPTH} directories are within each other: delete those inside first.")
    directory = open_directory(name, folder)
    try:
        if os.fstat(directory).st_dev != device:
            raise PermissionError("Another file system is mounted there: it is left alone.")
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for inner, is_directory in found:
            halt.check()
            if is_directory:
                _remove_tree(inner, directory, device, depth - 1, halt)
            else:
                os.unlink(inner, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=folder)


def _check_replacing(old: os.stat_result, place: Place, overwrite: bool) -> None:
    if not overwrite:
        raise FileExistsError("The file already exists.")
    problem = kind_error(old.st_mode, place.path)
    if problem is not None:
        raise problem
    if old.st_nlink > 1 and old.st_uid != os.geteuid():
        raise PermissionError(
            f"{shown(place.path)} is another user's file with more names than this (hard links): "
            f"write a new one."
        )


def _take_over(file: int, old: os.stat_result) -> None:
    mine = os.fstat(file)
    if (mine.st_uid, mine.st_gid) != (old.st_uid, old.st_gid):
        with suppress(PermissionError):
            os.fchown(file, old.st_uid, old.st_gid)
    os.fchmod(file, stat.S_IMODE(old.st_mode) & 0o777)


def _write(file: int, content: bytes, halt: Halt) -> None:
    rest = memoryview(content)
    while rest:
        halt.check()
        rest = rest[os.write(file, rest[:CHUNK_BYTES]) :]
