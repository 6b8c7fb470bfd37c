"""One directory and what lies beneath it, reached by descriptors only and never through a link.

Every name is looked up in a directory that is already open, so swapping a directory on
the way for a link cannot lead out: the kernel does not follow it (``openat2``), and where
it cannot be asked that, neither does a walk of one name at a time. Links are not followed
at all, not even those that stay inside; they can be listed, moved and deleted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Self

from . import _kernel
from ._paths import parts_of, shown

__all__ = ["Place", "Root", "kind_error", "lstat", "move_new", "named", "open_directory", "open_file"]

_WAY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How directories on the way are opened: they need not be readable."""


class Place:
    """A name in an open directory; ``path`` is how the caller wrote it."""

    __slots__ = ("folder", "name", "path")

    def __init__(self, folder: int, name: str, path: str) -> None:
        self.folder = folder
        self.name = name
        self.path = path


class Root:
    """The directory that a tool was granted; a context manager that holds it open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory = -1

    def __enter__(self) -> Self:
        if os.open not in os.supports_dir_fd:
            raise NotImplementedError("File services need a system that opens files relative to directories.")
        try:
            self._directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise type(error)(
                f"The directory open to this tool cannot be used ({error.strerror}). "
                f"Whoever runs the program must see to it."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    @contextmanager
    def place(self, path: str | os.PathLike[str]) -> Iterator[Place]:
        """Open the directory that ``path`` is in; what is there itself may be anything, or nothing.

        Raises:
            PermissionError: the path leads out, through a link, or is the root itself.
            ValueError: it is no path.
            OSError: there is no such directory.
        """
        parts = parts_of(path, self._path)
        if not parts:
            raise PermissionError(f"{shown(path)} is the directory open to this tool: name something in it.")
        with named(path):
            folder = self._walk(self._directory, parts[:-1])
        try:
            yield Place(folder, parts[-1], os.fspath(path))
        finally:
            os.close(folder)

    @contextmanager
    def directory(self, path: str | os.PathLike[str]) -> Iterator[int]:
        """Open a directory to list it; it may be the root.

        Raises:
            PermissionError, ValueError, OSError: as for :meth:`place`.
        """
        parts = parts_of(path, self._path)
        with named(path):
            folder = self._walk(self._directory, parts[:-1])
            try:
                directory = open_directory(parts[-1] if parts else ".", folder)
            finally:
                os.close(folder)
        try:
            yield directory
        finally:
            os.close(directory)

    def make_directories(self, path: str | os.PathLike[str]) -> None:
        """Make a directory and those above it that are missing.

        Raises:
            FileExistsError: there is something already.
            PermissionError, ValueError, OSError: as for :meth:`place`.
        """
        parts = parts_of(path, self._path)
        if not parts:
            raise FileExistsError("The directory already exists.")
        with named(path):
            make_directories(self._directory, parts)

    def _walk(self, directory: int, parts: tuple[str, ...]) -> int:
        if parts and _kernel.has_openat2():
            return _kernel.open_beneath(directory, "/".join(parts), _WAY & ~os.O_NOFOLLOW)
        return walk(directory, parts)


def walk(directory: int, parts: tuple[str, ...], *, make: bool = False) -> int:
    """Return a descriptor of a directory beneath another, opened one name at a time.

    With ``make`` those that are missing are made.

    Raises:
        OSError: one is not there, or is a link.
    """
    here = os.open(".", _WAY, dir_fd=directory)
    for part in parts:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
            below = _step(part, here)
        finally:
            os.close(here)
        here = below
    return here


def make_directories(directory: int, parts: tuple[str, ...]) -> None:
    """Make a directory beneath another, with those above it; the last one must not be there yet."""
    above = walk(directory, parts[:-1], make=True)
    try:
        os.mkdir(parts[-1], dir_fd=above)
    finally:
        os.close(above)


def open_directory(name: str, folder: int) -> int:
    """Open a directory to list it; a link to one is none.

    Raises:
        OSError: it is something else.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except NotADirectoryError:
        _refuse_link(name, folder)
        raise


def open_file(place: Place) -> int:
    """Open an ordinary file to read it; never waits for anybody.

    Raises:
        OSError: it is a link, a directory, a pipe, a socket, a device, or made up by the kernel.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with named(place.path):
        status = os.lstat(place.name, dir_fd=place.folder)
        _require_file(status, place.path)  # opening a device or a pipe already does something
        file = os.open(place.name, flags, dir_fd=place.folder)
    try:
        _require_file(os.fstat(file), place.path)  # it may be another one by now
    except OSError:
        os.close(file)
        raise
    return file


@contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the caller's path into the system's errors, which know only its last name; links are refused.

    Raises:
        OSError: of the same class, with a text that says all.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # the second is FreeBSD's word for it
            raise _link_error(path) from error
        if error.errno == errno.EXDEV:
            raise OSError(
                f"{shown(path)} and its new place are on two file systems: write a new file, delete this one."
            ) from error
        if error.errno is None:
            raise  # one of our own, which says all
        raise type(error)(f"{error.strerror}: {shown(path)}") from error


def lstat(place: Place) -> os.stat_result | None:
    """Return what is at a place, or None; a link is a link."""
    try:
        return os.lstat(place.name, dir_fd=place.folder)
    except FileNotFoundError:
        return None


def move_new(source: Place, target: Place) -> None:
    """Rename; of several who move to one target, one succeeds and the others see it there.

    Where the system has no such call, a file is linked under its new name before the old
    one goes, and a directory takes the place of an empty one made for it.

    Raises:
        FileExistsError: there is something at the target.
        OSError: it cannot be moved.
    """
    with named(source.path):
        try:
            _move_new(source, target)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise OSError(f"{shown(source.path)} cannot be moved into itself.") from error
            raise


def _move_new(source: Place, target: Place) -> None:
    if _kernel.rename_new(source.name, source.folder, target.name, target.folder):
        return
    if stat.S_ISDIR(os.lstat(source.name, dir_fd=source.folder).st_mode):
        os.mkdir(target.name, dir_fd=target.folder)
        try:
            os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)
        except OSError:
            with suppress(OSError):
                os.rmdir(target.name, dir_fd=target.folder)
            raise
        return
    os.link(
        source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder, follow_symlinks=False
    )
    os.unlink(source.name, dir_fd=source.folder)


def kind_error(mode: int, path: str) -> OSError | None:
    """Return why something is no ordinary file, by its mode; None if it is one."""
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return IsADirectoryError(f"{shown(path)} is a directory, not a file.")
    if stat.S_ISLNK(mode):
        return _link_error(path)
    return PermissionError(f"{shown(path)} is a pipe, a socket or a device; only ordinary files are used.")


def _require_file(status: os.stat_result, path: str) -> None:
    problem = kind_error(status.st_mode, path)
    if problem is None and status.st_dev in _kernel_file_systems():
        problem = PermissionError(f"{shown(path)} is made up by the kernel; only ordinary files are used.")
    if problem is not None:
        raise problem


@lru_cache(maxsize=1)
def _kernel_file_systems() -> frozenset[int]:
    return frozenset(os.stat(top).st_dev for top in ("/proc", "/sys") if os.path.ismount(top))


def _step(name: str, folder: int) -> int:
    try:
        return os.open(name, _WAY, dir_fd=folder)
    except NotADirectoryError:
        _refuse_link(name, folder)
        raise


def _refuse_link(name: str, folder: int) -> None:
    """Say that something is a link, if it is: the system only says that it is no directory."""
    with suppress(FileNotFoundError):
        if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)


def _link_error(path: object) -> PermissionError:
    return PermissionError(f"{shown(path)} is a link or leads through one, and links are not followed here.")
