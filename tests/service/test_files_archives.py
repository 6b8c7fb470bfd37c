"""Archives that nobody vouches for: all of one is unpacked, or nothing is left behind."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agentscope_async.errors import ConfigError
from agentscope_async.service import extract_archive, files

CONTENTS = {"a.txt": b"first", "dir/b.bin": bytes(range(256)) * 10, "dir/deep/er/c": b""}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(members: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return packed.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str, target: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
    return packed.getvalue()


def zip_twice(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, "2")
    return packed.getvalue()


def zip_encrypted() -> bytes:
    packed = bytearray(zipped({"a": b"secret"}, zipfile.ZIP_STORED))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = packed.index(signature) + offset
        packed[at : at + 2] = struct.pack("<H", 1)
    return bytes(packed)


def overlapping_zip(times: int) -> bytes:
    """Every entry of the list points to the same packed data, as in the 42-kB bombs."""
    whole = zipped({"x": bytes(2**20)})
    start = whole.index(b"PK\x01\x02")
    entry = whole[start : whole.index(b"PK\x05\x06")]
    entries = b"".join(entry[:46] + struct.pack("B", 65 + n) for n in range(times))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, times, times, len(entries), start, 0)
    return whole[:start] + entries + end


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize(
    "pack",
    [
        zipped,
        lambda members: zipped(members, zipfile.ZIP_STORED),
        lambda members: zipped(members, zipfile.ZIP_BZIP2),
        lambda members: zipped(members, zipfile.ZIP_LZMA),
        tarred,
        lambda members: gzip.compress(tarred(members)),
        lambda members: bz2.compress(tarred(members)),
        lambda members: lzma.compress(tarred(members)),
    ],
    ids=["zip", "stored zip", "bzip2 zip", "lzma zip", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
async def test_archives_are_unpacked_with_their_directories(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    (tmp_path / "archive").write_bytes(pack({**CONTENTS, "./dot/x": b"x"}))
    response = await extract_archive("archive", "new", root=tmp_path)
    assert response.content == "4 files with 2,566 bytes were unpacked."
    for name, content in CONTENTS.items():
        assert (tmp_path / "new" / name).read_bytes() == content
    assert (tmp_path / "new/dot/x").read_bytes() == b"x"


async def test_empty_archives_and_directories_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "empty.zip").write_bytes(zipped({}))
    (tmp_path / "directories.tar").write_bytes(tarred({}, special("a/b", tarfile.DIRTYPE)))
    assert (await extract_archive("empty.zip", "one", root=tmp_path)).is_success
    assert (await extract_archive("directories.tar", "two", root=tmp_path)).is_success
    assert everything(tmp_path) == ["directories.tar", "empty.zip", "one", "two", "two/a", "two/a/b"]


HOSTILE = {
    "zip up": lambda: zipped({"ok": b"", "../evil": b"x"}),
    "zip far up": lambda: zipped({"ok": b"", "a/../../../evil": b"x"}),
    "zip absolute": lambda: zipped({"ok": b"", "/tmp/evil": b"x"}),
    "zip backslash": lambda: zipped({"ok": b"", "..\\evil": b"x"}),
    "zip root": lambda: zipped({"ok": b"", "/": b""}),
    "zip link": lambda: zip_link("link", "/etc"),
    "zip twice": lambda: zip_twice("same"),
    "zip encrypted": zip_encrypted,
    "zip file as directory": lambda: zipped({"a": b"", "a/b": b""}),
    "zip overlap": lambda: overlapping_zip(50),
    "zip ratio": lambda: zipped({"zeros": bytes(20_000_000)}),
    "zip damaged": lambda: zipped(CONTENTS)[:-30],
    "zip damaged inside": lambda: zipped({"x": b"a" * 1000}, zipfile.ZIP_STORED).replace(b"aa", b"ab", 1),
    "tar up": lambda: tarred({"ok": b"", "../evil": b"x"}),
    "tar absolute": lambda: tarred({"ok": b"", "/tmp/evil": b"x"}),
    "tar link": lambda: tarred({"ok": b""}, special("l", tarfile.SYMTYPE, "/etc")),
    "tar link then file": lambda: tarred({}, special("l", tarfile.SYMTYPE, "/tmp")) + tarred({"l/evil": b""}),
    "tar hard link": lambda: tarred({"ok": b""}, special("l", tarfile.LNKTYPE, "/etc/passwd")),
    "tar device": lambda: tarred({"ok": b""}, special("zero", tarfile.CHRTYPE)),
    "tar pipe": lambda: tarred({"ok": b""}, special("pipe", tarfile.FIFOTYPE)),
    "tar invalid name": lambda: tarred({os.fsdecode(b"\xff"): b""}),
    "tar cut": lambda: tarred({"a": bytes(5000)})[:3000],
    "tar.gz ratio": lambda: gzip.compress(tarred({"zeros": bytes(20_000_000)})),
    "tar.gz cut": lambda: gzip.compress(tarred({"a": os.urandom(5000)}))[:3000],
    "gz of no tar": lambda: gzip.compress(b"just a text" * 100),
    "no archive": lambda: b"just a text" * 100,
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_p11_a_hostile_or_damaged_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, kind: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "archive").write_bytes(HOSTILE[kind]())
    response = await extract_archive("archive", "new", root=root)
    assert not response.is_success, response
    assert str(response.content).startswith("ValueError: "), response
    assert everything(tmp_path) == ["root", "root/archive"]
    assert len(str(response.content)) < 500


async def test_p11_a_header_of_any_length_is_not_read_into_memory(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(gzip.compress(tarred({"x" * 3_000_000: b""})))
    refused = await extract_archive("archive", "new", root=tmp_path)
    assert "what it says about a member is too long" in refused.content


async def test_p11_more_members_than_allowed_are_refused(tmp_path: Path) -> None:
    many = {str(n): b"" for n in range(101)}
    (tmp_path / "zip").write_bytes(zipped(many))
    (tmp_path / "tar").write_bytes(tarred(many))
    for name in ("zip", "tar"):
        assert (await extract_archive(name, f"{name}-new", root=tmp_path, max_members=101)).is_success
        refused = await extract_archive(name, "no", root=tmp_path, max_members=100)
        assert "more than 100 members" in refused.content
    assert files.MAX_MEMBERS == 10_000


async def test_p11_a_list_of_a_million_members_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 6, 0, 0, 0, 1, *[0] * 4, 0, 0) + b"x"
    packed = b"PK\x03\x04" + entry * 10**6
    packed += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry) * 10**6, 4, 0)
    (tmp_path / "zip").write_bytes(packed)
    refused = await extract_archive("zip", "new", root=tmp_path)
    assert "more than 10,000 members" in refused.content


async def test_p11_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    noise = os.urandom(5000)
    two = {"a": noise, "b": noise}
    for pack in (zipped, lambda members: gzip.compress(tarred(members))):
        (tmp_path / "archive").write_bytes(pack(two))
        refused = await extract_archive("archive", "new", root=tmp_path, max_bytes=9_999)
        assert "9,999" in refused.content
        assert everything(tmp_path) == ["archive"]
    assert (await extract_archive("archive", "new", root=tmp_path, max_bytes=11_000)).is_success
    assert files.MAX_UNPACKED_BYTES == 100 * 2**20


async def test_p11_archives_within_an_archive_stay_packed(tmp_path: Path) -> None:
    inner = zipped({"zeros": bytes(20_000_000)})
    (tmp_path / "outer.zip").write_bytes(zipped({"inner.zip": inner}, zipfile.ZIP_STORED))
    assert (await extract_archive("outer.zip", "new", root=tmp_path)).is_success
    assert (tmp_path / "new/inner.zip").read_bytes() == inner


async def test_a_directory_that_exists_is_not_unpacked_into(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(zipped({"a": b"new"}))
    (tmp_path / "there").mkdir()
    response = await extract_archive("zip", "there", root=tmp_path)
    assert response.content.startswith("FileExistsError")
    assert everything(tmp_path) == ["there", "zip"]
    with pytest.raises(ConfigError):
        await extract_archive("zip", "new", root=tmp_path, max_members=0)


async def test_a_cancelled_extraction_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zip").write_bytes(zipped({"a": b"1", "b": b"2"}))
    reached, go_on = threading.Event(), threading.Event()
    read = zipfile.ZipExtFile.read

    def slow(self: zipfile.ZipExtFile, size: int = -1) -> bytes:
        reached.set()
        assert go_on.wait(30)
        return read(self, size)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", slow)
    extracting = asyncio.create_task(extract_archive("zip", "new", root=tmp_path))
    await asyncio.to_thread(reached.wait, 20)
    extracting.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await extracting
    assert everything(tmp_path) == ["zip"]
