"""Unpack archives that nobody vouches for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, cast

from ._contents import CHUNK_BYTES, draft_name, remove_tree
from ._paths import parts_of, shown
from ._rooted import Place, move_new, named, open_directory, open_file, walk

if TYPE_CHECKING:
    import tarfile
    import zipfile

    from ._threads import Halt

__all__ = ["Limits", "extract"]

MAX_RATIO = 100
FREE_BYTES = 2**20
"""Up to this much is unpacked whatever the ratio: small repetitive files pack very well."""
MAX_HEADER_BYTES = 2**20
"""Of what a tar file says about one member."""
MAX_SIZE_FACTOR = 2
"""Headers and padding of a tar file may double what is read of it, before anything is written."""

_ZIP_ENTRY = b"PK\x01\x02"  # begins each entry of the list of members (APPNOTE.TXT 4.3.12)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold."""

    members: int
    size_bytes: int


class Reader(Protocol):
    """What members are read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to so many bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file or directory in an archive; ``problem`` says why it must not be unpacked."""

    name: str
    is_directory: bool
    problem: str | None = None


def extract(archive: Place, target: Place, limits: Limits, halt: Halt) -> tuple[int, int]:
    """Unpack into a new directory, all or nothing; return how many files and bytes there were.

    Raises:
        ValueError: it is no archive, or one that is refused.
        FileExistsError: the target exists.
        OSError: it cannot be read or written.
    """
    import lzma
    import tarfile
    import zipfile
    import zlib

    try:
        with os.fdopen(open_file(archive), "rb") as packed:
            size = os.fstat(packed.fileno()).st_size
            if size > limits.size_bytes:
                raise ValueError(
                    f"The archive has {size:,} bytes; at most {limits.size_bytes:,} are unpacked."
                )
            return _unpack(packed, size, target, limits, halt)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(
            f"{shown(archive.path)} is damaged, or no archive of a known kind: {error}"
        ) from error
    except (NotImplementedError, RuntimeError) as error:  # zipfile: a method or a password it does not have
        raise ValueError(f"{shown(archive.path)} cannot be unpacked: {error}") from error


def _unpack(packed: IO[bytes], size: int, target: Place, limits: Limits, halt: Halt) -> tuple[int, int]:
    draft = Place(target.folder, draft_name(), target.path)
    os.mkdir(draft.name, dir_fd=draft.folder)
    try:
        directory = open_directory(draft.name, draft.folder)
        try:
            box = _Box(directory, limits, max(FREE_BYTES, MAX_RATIO * size), halt)
            for member, reader in _members(packed, limits):
                box.put(member, reader)
        finally:
            os.close(directory)
        halt.check()
        move_new(draft, target)  # the point of no return
    except BaseException:
        from ._threads import Halt

        remove_tree(draft, Halt())
        raise
    return box.files, box.size


class _Box:
    """A new directory that is being filled, and what there is in it so far."""

    def __init__(self, directory: int, limits: Limits, most_by_ratio: int, halt: Halt) -> None:
        self.files = 0
        self.size = 0
        self._members = 0
        self._directory = directory
        self._limits = limits
        self._most_by_ratio = most_by_ratio
        self._halt = halt

    def put(self, member: Member, reader: Reader | None) -> None:
        self._halt.check()
        self._members += 1
        if self._members > self._limits.members:
            raise _too_many(self._limits)
        if member.problem is not None:
            raise ValueError(f"The archive is refused: its member {shown(member.name)} is {member.problem}.")
        parts = _inner_parts(member.name)
        with named(member.name):
            try:
                self._put(parts, None if member.is_directory else reader)
            except (FileExistsError, NotADirectoryError) as error:
                raise ValueError(
                    f"The archive is refused: it has {shown(member.name)} twice, or something in its place."
                ) from error

    def _put(self, parts: tuple[str, ...], reader: Reader | None) -> None:
        if reader is None:
            os.close(walk(self._directory, parts, make=True))
            return
        folder = walk(self._directory, parts[:-1], make=True)
        try:
            self._write(parts[-1], folder, reader)
        finally:
            os.close(folder)

    def _write(self, name: str, folder: int, reader: Reader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o666, dir_fd=folder)
        with os.fdopen(file, "wb", buffering=0) as written:
            while chunk := reader.read(CHUNK_BYTES // 4):
                self._halt.check()
                self._count(len(chunk))
                written.write(chunk)
        self.files += 1

    def _count(self, size: int) -> None:
        self.size += size
        if self.size > self._limits.size_bytes:
            raise ValueError(f"The archive is refused: it holds more than {self._limits.size_bytes:,} bytes.")
        if self.size > self._most_by_ratio:
            raise ValueError(f"The archive is refused: it unpacks to more than {MAX_RATIO} times its size.")


def _inner_parts(name: str) -> tuple[str, ...]:
    if name.startswith("/"):
        raise ValueError(f"The archive is refused: its member {shown(name)} has an absolute path.")
    try:
        return parts_of(name, "/")
    except (PermissionError, ValueError) as error:
        raise ValueError(f"The archive is refused: {error}") from error


def _members(packed: IO[bytes], limits: Limits) -> Iterator[tuple[Member, Reader | None]]:
    """Yield members with what to read them from, which is good until the next one."""
    begin = packed.read(6)
    packed.seek(0)
    if begin[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from _zip_members(packed, limits)
        return
    with _decompressed(packed, begin) as plain:
        yield from _tar_members(_Metered(plain, MAX_SIZE_FACTOR * limits.size_bytes), limits)


def _zip_members(packed: IO[bytes], limits: Limits) -> Iterator[tuple[Member, Reader | None]]:
    import zipfile

    # zipfile reads the whole list of members before it tells how many there are.
    if _occurrences(packed, _ZIP_ENTRY) > limits.members:
        raise _too_many(limits)
    with zipfile.ZipFile(packed) as archive:
        for info in archive.infolist():
            member = Member(info.filename, info.is_dir(), _zip_problem(info))
            if member.is_directory or member.problem is not None:
                yield member, None
                continue
            with archive.open(info) as reader:
                yield member, cast("Reader", reader)


def _zip_problem(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    return "encrypted" if info.flag_bits & 1 else None


def _occurrences(file: IO[bytes], wanted: bytes) -> int:
    found, tail = 0, b""
    while chunk := file.read(CHUNK_BYTES):
        found += (tail + chunk).count(wanted)
        tail = chunk[1 - len(wanted) :]
    file.seek(0)
    return found


def _tar_members(plain: _Metered, limits: Limits) -> Iterator[tuple[Member, Reader | None]]:
    import tarfile

    with tarfile.TarFile.open(fileobj=cast("IO[bytes]", plain), mode="r:") as archive:
        while (info := archive.next()) is not None:
            member = Member(info.name, info.isdir(), _tar_problem(info, limits))
            yield member, plain.limited(info.size) if info.isreg() else None


def _tar_problem(info: tarfile.TarInfo, limits: Limits) -> str | None:
    if info.issparse() or not (info.isreg() or info.isdir()):
        return "a link, a device or a file with holes"
    return "too large" if info.size > limits.size_bytes else None


@contextmanager
def _decompressed(packed: IO[bytes], begin: bytes) -> Iterator[IO[bytes]]:
    import bz2
    import gzip
    import lzma

    if begin.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=packed) as plain:
            yield cast("IO[bytes]", plain)
    elif begin.startswith(b"BZh"):
        with bz2.BZ2File(packed) as plain_bz2:
            yield cast("IO[bytes]", plain_bz2)
    elif begin.startswith(b"\xfd7zXZ\0"):
        with lzma.LZMAFile(packed) as plain_xz:
            yield cast("IO[bytes]", plain_xz)
    else:
        yield packed


class _Metered:
    """Reads on, and only so much: tarfile would read headers and skip gaps of any size."""

    def __init__(self, plain: IO[bytes], max_bytes: int) -> None:
        self._plain = plain
        self._left = max_bytes
        self._at = 0

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise ValueError("The archive is refused: what it says about a member is too long.")
        return self._read(size)

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or position < self._at:
            raise ValueError("The archive is refused: it is damaged.")
        while self._at < position and self._read(min(position - self._at, CHUNK_BYTES)):
            pass
        return self._at

    def limited(self, size: int) -> Reader:
        """Return a reader of the next ``size`` bytes."""
        return _Part(self, size)

    def _read(self, size: int) -> bytes:
        content = self._plain.read(size)
        self._at += len(content)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("The archive is refused: it unpacks to too much.")
        return content


class _Part:
    def __init__(self, plain: _Metered, size: int) -> None:
        self._plain = plain
        self._left = size

    def read(self, size: int) -> bytes:
        content = self._plain.read(min(size, self._left))
        if not content and self._left:
            raise EOFError("it ends in the middle of a file")
        self._left -= len(content)
        return content


def _too_many(limits: Limits) -> ValueError:
    return ValueError(f"The archive is refused: it has more than {limits.members:,} members.")
