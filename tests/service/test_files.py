"""File services: what each does, and what stays when it fails."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentscope_async.errors import ConfigError
from agentscope_async.service import (
    ServiceExecStatus,
    ServiceResponse,
    _kernel,
    create_directory,
    create_file,
    delete_directory,
    delete_file,
    get_current_directory,
    list_directory_content,
    move_directory,
    move_file,
    read_json_file,
    read_text_file,
    write_json_file,
    write_text_file,
)
from agentscope_async.service._marks import marks_of


@pytest.fixture(params=["openat2", "one name at a time"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests, also on a system without the calls of newer kernels."""
    if request.param == "openat2":
        if not _kernel.has_openat2():
            pytest.skip("this kernel has no openat2, or does not allow it")
        return
    monkeypatch.setattr(_kernel, "has_openat2", lambda: False)
    monkeypatch.setattr(_kernel, "rename_new", lambda *names: False)


def error_of(response: ServiceResponse) -> str:
    assert response.status is ServiceExecStatus.ERROR, response
    return str(response.content).partition(":")[0]


def done(response: ServiceResponse) -> None:
    assert response == {"status": ServiceExecStatus.SUCCESS, "content": "Success"}


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


async def test_l05_create_file_writes_the_content_and_fails_the_second_time(tmp_path: Path) -> None:
    done(await create_file("new.txt", "once", root=tmp_path))
    again = await create_file("new.txt", "twice", root=tmp_path)
    assert again.content.startswith("FileExistsError: The file already exists.")
    assert (tmp_path / "new.txt").read_text() == "once"
    done(await create_file("empty.txt", root=tmp_path))
    assert (tmp_path / "empty.txt").read_text() == ""
    assert error_of(await create_file("missing/new.txt", "", root=tmp_path)) == "FileNotFoundError"


async def test_l05_of_many_who_create_one_file_only_one_succeeds(tmp_path: Path) -> None:
    responses = await asyncio.gather(*(create_file("one", str(n), root=tmp_path) for n in range(40)))
    winners = [str(n) for n, response in enumerate(responses) if response.is_success]
    assert [(tmp_path / "one").read_text()] == winners
    assert {error_of(response) for response in responses if not response.is_success} == {"FileExistsError"}
    assert everything(tmp_path) == ["one"]


async def test_l06_delete_file_removes_it_and_reports_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    (tmp_path / "directory").mkdir()
    done(await delete_file("old", root=tmp_path))
    assert not (tmp_path / "old").exists()
    assert error_of(await delete_file("old", root=tmp_path)) == "FileNotFoundError"
    assert error_of(await delete_file("directory", root=tmp_path)) in ("IsADirectoryError", "PermissionError")


async def test_l07_move_file_moves_and_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "d").mkdir()
    taken = await move_file("a", "b", root=tmp_path)
    assert taken.content.startswith("FileExistsError: The destination file already exists.")
    assert error_of(await move_file("a", "d", root=tmp_path)) == "FileExistsError"
    missing = await move_file("c", "e", root=tmp_path)
    assert missing.content == "FileNotFoundError: The source file does not exist."
    assert error_of(await move_file("a", "no/such/place", root=tmp_path)) == "FileNotFoundError"
    done(await move_file("a", "d/a2", root=tmp_path))
    assert {name: (tmp_path / name).read_text() for name in ("b", "d/a2")} == {"b": "b", "d/a2": "a"}
    assert everything(tmp_path) == ["b", "d", "d/a2"]


async def test_l07_of_many_who_move_to_one_name_only_one_succeeds(tmp_path: Path) -> None:
    for n in range(40):
        (tmp_path / f"from{n}").write_text(str(n))
    moves = (move_file(f"from{n}", "to", root=tmp_path) for n in range(40))
    responses = await asyncio.gather(*moves)
    assert sum(response.is_success for response in responses) == 1
    assert sorted(int((tmp_path / name).read_text()) for name in everything(tmp_path)) == list(range(40))


async def test_l08_create_directory_makes_those_above_it_and_fails_the_second_time(tmp_path: Path) -> None:
    done(await create_directory("a/b/c", root=tmp_path))
    assert (tmp_path / "a/b/c").is_dir()
    for existing in ("a/b/c", "a", "."):
        again = await create_directory(existing, root=tmp_path)
        assert again.content == "FileExistsError: The directory already exists."
    (tmp_path / "file").write_text("")
    assert error_of(await create_directory("file/inner", root=tmp_path)) == "NotADirectoryError"


async def test_l09_delete_directory_removes_the_tree_and_not_what_its_links_point_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    (root / "tree/deep/er").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (root / "tree/deep/file").write_text("")
    (root / "tree/link").symlink_to(outside)
    os.mkfifo(root / "tree/pipe")
    done(await delete_directory("tree", root=root))
    assert everything(root) == []
    assert (outside / "kept").read_text() == "kept"
    missing = await delete_directory("tree", root=root)
    assert missing.content == "FileNotFoundError: The directory does not exist."
    assert error_of(await delete_directory(".", root=root)) == "PermissionError"
    (root / "file").write_text("")
    assert error_of(await delete_directory("file", root=root)) == "NotADirectoryError"


async def test_l09_a_tree_too_deep_for_one_go_can_be_deleted_from_inside(tmp_path: Path) -> None:
    path = "/".join(["d"] * 200)
    done(await create_directory(path, root=tmp_path))
    refused = await delete_directory("d", root=tmp_path)
    assert "delete those inside first" in refused.content
    done(await delete_directory("/".join(["d"] * 100), root=tmp_path))
    done(await delete_directory("d", root=tmp_path))
    assert everything(tmp_path) == []


async def test_l10_move_directory_moves_the_tree_but_not_into_itself(tmp_path: Path) -> None:
    (tmp_path / "a/inner").mkdir(parents=True)
    (tmp_path / "a/inner/file").write_text("x")
    (tmp_path / "taken").mkdir()
    taken = await move_directory("a", "taken", root=tmp_path)
    assert taken.content.startswith("FileExistsError: The destination directory already exists.")
    assert "into itself" in (await move_directory("a", "a/inner/a", root=tmp_path)).content
    assert everything(tmp_path) == ["a", "a/inner", "a/inner/file", "taken"]
    done(await move_directory("a", "b", root=tmp_path))
    assert everything(tmp_path) == ["b", "b/inner", "b/inner/file", "taken"]


async def test_l11_some_lines_of_a_text_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\nthree")
    for arguments, text in (
        ((1, 1), "one\r\n"),
        ((2,), "two\nthree"),
        ((2, 1), "two\n"),
        ((9,), ""),
        ((1, 0), ""),
    ):
        response = await read_text_file("a.txt", *arguments, root=tmp_path)
        assert (response.status, response.content) == (1, text), arguments
    for bad in ((0,), (1, -1)):
        assert (await read_text_file("a.txt", *bad, root=tmp_path)).status == -1


async def test_l11_read_text_file_returns_utf8_as_it_is(tmp_path: Path) -> None:
    text = "Grüße, 世界\r\nzweite Zeile\n"
    (tmp_path / "text").write_bytes(text.encode())
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfhi")
    (tmp_path / "latin1").write_bytes("Grüße".encode("latin-1"))
    assert (await read_text_file("text", root=tmp_path)).content == text
    assert (await read_text_file("marked", root=tmp_path)).content == "hi"
    assert error_of(await read_text_file("latin1", root=tmp_path)) == "UnicodeDecodeError"
    missing = await read_text_file("nothing", root=tmp_path)
    assert missing.content == "FileNotFoundError: No such file or directory: 'nothing'"


async def test_l11_a_file_above_the_limit_is_not_read_and_its_size_is_told(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1001)
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)
    assert "1,001 bytes" in (await read_text_file("large", root=tmp_path, max_bytes=1000)).content
    assert (await read_text_file("large", root=tmp_path, max_bytes=1001)).is_success
    assert "1,099,511,627,776 bytes" in (await read_text_file("huge", root=tmp_path)).content
    assert error_of(await read_json_file("huge", root=tmp_path)) == "ValueError"


async def test_l11_a_file_that_grows_while_it_is_read_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 900)
    read = os.read

    def read_while_it_grows(file: int, size: int) -> bytes:
        with log.open("ab") as growing:
            growing.write(b"x" * 900)
        return read(file, size)

    monkeypatch.setattr(os, "read", read_while_it_grows)
    response = await read_text_file("log", root=tmp_path, max_bytes=5000)
    assert "at most 5,000 are read" in response.content


async def test_l12_write_text_file_overwrites_only_when_told_to(tmp_path: Path) -> None:
    done(await write_text_file("f", "ä1", root=tmp_path))
    refused = await write_text_file("f", "2", root=tmp_path)
    assert refused.content.startswith("FileExistsError: The file already exists.")
    assert (tmp_path / "f").read_text() == "ä1"
    done(await write_text_file("f", "3", True, root=tmp_path))
    assert (tmp_path / "f").read_text() == "3"
    assert "at most 4" in (await write_text_file("f", "ääx", True, root=tmp_path, max_bytes=4)).content
    assert (tmp_path / "f").read_text() == "3"
    assert everything(tmp_path) == ["f"]


async def test_l13_read_json_file_returns_the_data(tmp_path: Path) -> None:
    data = {"list": [1, 2.5, None, True], "größe": {"x": "y"}, "big": 2**80}
    (tmp_path / "j.json").write_text(json.dumps(data))
    (tmp_path / "bad.json").write_text("{'single': 1}")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert (await read_json_file("j.json", root=tmp_path)).content == data
    assert error_of(await read_json_file("bad.json", root=tmp_path)) == "JSONDecodeError"
    assert error_of(await read_json_file("deep.json", root=tmp_path)) == "RecursionError"


async def test_l14_write_json_file_indents_by_4_and_keeps_non_ascii(tmp_path: Path) -> None:
    data = {"größe": [1, {"世": None}]}
    done(await write_json_file("j", data, root=tmp_path))
    assert (tmp_path / "j").read_text() == json.dumps(data, ensure_ascii=False, indent=4)
    assert error_of(await write_json_file("j", 1, root=tmp_path)) == "FileExistsError"
    done(await write_json_file("j", 1, overwrite=True, root=tmp_path))
    assert (tmp_path / "j").read_text() == "1"


@pytest.mark.parametrize(
    "data",
    [{"a": 1, "b": object()}, [float("nan")], {"half": "\ud800"}, {("a", "b"): 1}],
    ids=["object", "nan", "half a pair", "key"],
)
async def test_l14_what_json_cannot_hold_keeps_the_old_file(tmp_path: Path, data: Any) -> None:
    (tmp_path / "j").write_text("old")
    assert error_of(await write_json_file("j", data, True, root=tmp_path)) in (
        "TypeError",
        "ValueError",
        "UnicodeEncodeError",
    )
    assert (tmp_path / "j").read_text() == "old"
    assert everything(tmp_path) == ["j"]


async def test_a_directory_is_listed_sorted_and_a_long_one_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentscope_async.service import files

    for name in ("b", "a", "c/inner"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("c")
    (tmp_path / os.fsdecode(b"\xff")).write_text("")
    listed = ["a", "b", "c/", "link", "\ufffd"]
    assert (await list_directory_content(".", root=tmp_path)).content == listed
    assert (await list_directory_content("c", root=tmp_path)).content == ["inner"]
    assert error_of(await list_directory_content("a", root=tmp_path)) == "NotADirectoryError"
    assert error_of(await list_directory_content("nothing", root=tmp_path)) == "FileNotFoundError"
    monkeypatch.setattr(files, "MAX_ENTRIES", 3)
    cut = (await list_directory_content(root=tmp_path)).content
    assert len(cut) == 4
    assert cut[3] == "... and more: only 3 names are listed"


async def test_the_working_directory_is_the_root_unless_another_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").write_text("found")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (await get_current_directory()).content == str(tmp_path)
    assert (await read_text_file("here")).content == "found"
    assert (await read_text_file(str(tmp_path / "here"))).content == "found"
    assert error_of(await read_text_file(str(tmp_path / "here"), root="sub")) == "PermissionError"
    assert (await get_current_directory(root="sub")).content == str(tmp_path / "sub")


async def test_a_root_that_is_gone_is_an_error_and_one_that_is_no_path_the_programs_mistake(
    tmp_path: Path,
) -> None:
    assert error_of(await read_text_file("x", root=tmp_path / "gone")) == "FileNotFoundError"
    for nonsense in ("", "a\0b", b"bytes"):
        with pytest.raises(ConfigError):
            await read_text_file("x", root=nonsense)  # type: ignore[arg-type]
    for limit in (0, -1, True, 1.5):
        with pytest.raises(ConfigError):
            await read_text_file("x", root=tmp_path, max_bytes=limit)  # type: ignore[arg-type]


async def test_p12_a_replaced_file_leaves_its_permissions_to_the_new_one(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("old")
    script.chmod(0o750)
    done(await write_text_file("run.sh", "new", True, root=tmp_path))
    assert stat.S_IMODE(script.stat().st_mode) == 0o750


async def test_p12_readers_and_writers_at_the_same_time_never_see_a_torn_file(tmp_path: Path) -> None:
    texts = [letter * 300_000 for letter in "abcdef"]
    (tmp_path / "shared").write_text(texts[0])

    async def write(text: str) -> None:
        for _ in range(8):
            done(await write_text_file("shared", text, True, root=tmp_path))

    async def read() -> None:
        for _ in range(30):
            assert (await read_text_file("shared", root=tmp_path)).content in texts

    await asyncio.gather(*map(write, texts), read(), read())
    assert everything(tmp_path) == ["shared"]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[threading.Event, threading.Event]]:
    """Makes the next ``fsync`` tell that it was reached and wait to be let go on."""

    def hold() -> tuple[threading.Event, threading.Event]:
        reached, go_on = threading.Event(), threading.Event()

        def slow(file: int) -> None:
            reached.set()
            assert go_on.wait(30)

        monkeypatch.setattr(os, "fsync", slow)
        return reached, go_on

    return hold


async def test_p12_a_cancelled_write_changes_nothing_and_leaves_no_draft(
    tmp_path: Path, held: Callable[[], tuple[threading.Event, threading.Event]]
) -> None:
    (tmp_path / "f").write_text("old")
    reached, go_on = held()
    writing = asyncio.create_task(write_text_file("f", "new", True, root=tmp_path))
    await asyncio.to_thread(reached.wait, 20)
    assert len(everything(tmp_path)) == 2  # the old one and the draft
    writing.cancel()
    await asyncio.sleep(0)
    assert not writing.done()  # the thread is still at work
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (tmp_path / "f").read_text() == "old"
    assert everything(tmp_path) == ["f"]


async def test_p12_a_write_that_fails_half_way_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("old")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    response = await write_text_file("f", "new", True, root=tmp_path)
    assert response.content == "OSError: No space left on device: 'f'"
    assert (tmp_path / "f").read_text() == "old"
    assert everything(tmp_path) == ["f"]


async def test_the_loop_goes_on_while_a_file_is_written(
    tmp_path: Path, held: Callable[[], tuple[threading.Event, threading.Event]]
) -> None:
    reached, go_on = held()
    writing = asyncio.create_task(write_text_file("f", "x", root=tmp_path))
    while not reached.is_set():
        await asyncio.sleep(0)
    go_on.set()
    done(await writing)


def test_what_destroys_is_marked_dangerous_and_what_gives_rights_is_never_a_models() -> None:
    always = [delete_file, delete_directory, move_file, move_directory]
    assert all(marks_of(service).dangerous is True for service in always)
    for service in (write_text_file, write_json_file):
        is_dangerous = marks_of(service).dangerous
        assert callable(is_dangerous)
        assert is_dangerous({})
        assert is_dangerous({"overwrite": True})
        assert not is_dangerous({"overwrite": False})
    assert not any(marks_of(service).dangerous for service in (create_file, create_directory, read_text_file))
    assert all("root" in marks_of(service).granted for service in [*always, read_json_file, create_file])
    assert marks_of(read_text_file).untrusted == "file_path"


WRITES_ON = """
import asyncio, sys
from agentscope_async.service import write_text_file

async def main():
    while True:
        for letter in "ab":
            response = await write_text_file("f", letter * 3_000_000, True, root=sys.argv[1])
            print(response.content, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("writes", [1, 2, 5])
def test_p12_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path, writes: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_ON, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert [writer.stdout.readline() for _ in range(writes)] == ["Success\n"] * writes
        writer.kill()
    text = (tmp_path / "f").read_text()
    assert text in ("a" * 3_000_000, "b" * 3_000_000)
