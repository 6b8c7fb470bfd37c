"""File services and hostile paths: nothing outside the root is read, written, moved or deleted."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentscope_async.service import (
    ServiceResponse,
    _kernel,
    create_directory,
    create_file,
    delete_directory,
    delete_file,
    extract_archive,
    list_directory_content,
    move_directory,
    move_file,
    read_json_file,
    read_text_file,
    write_json_file,
    write_text_file,
)

SECRET = "nobody's business"

USES: dict[str, Callable[[str, Path], Awaitable[ServiceResponse]]] = {
    "create_file": lambda path, root: create_file(path, "x", root=root),
    "delete_file": lambda path, root: delete_file(path, root=root),
    "move_file from": lambda path, root: move_file(path, "moved", root=root),
    "move_file to": lambda path, root: move_file("mine", path, root=root),
    "create_directory": lambda path, root: create_directory(path, root=root),
    "delete_directory": lambda path, root: delete_directory(path, root=root),
    "move_directory from": lambda path, root: move_directory(path, "moved", root=root),
    "move_directory to": lambda path, root: move_directory("directory", path, root=root),
    "list_directory_content": lambda path, root: list_directory_content(path, root=root),
    "read_text_file": lambda path, root: read_text_file(path, root=root),
    "write_text_file": lambda path, root: write_text_file(path, "x", True, root=root),
    "read_json_file": lambda path, root: read_json_file(path, root=root),
    "write_json_file": lambda path, root: write_json_file(path, {}, True, root=root),
    "extract_archive from": lambda path, root: extract_archive(path, "unpacked", root=root),
    "extract_archive to": lambda path, root: extract_archive("mine", path, root=root),
}
"""Each way to use a path."""


@pytest.fixture(params=["openat2", "one name at a time"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with neighbours that must stay as they are, on systems with and without openat2."""
    if request.param != "openat2":
        monkeypatch.setattr(_kernel, "has_openat2", lambda: False)
        monkeypatch.setattr(_kernel, "rename_new", lambda *names: False)
    elif not _kernel.has_openat2():
        pytest.skip("this kernel has no openat2, or does not allow it")
    for name in ("data/ws", "data/ws/directory/inner", "data/ws-evil", "outside/directory"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("x", "data/x", "data/ws-evil/x", "outside/secret", "outside/directory/secret"):
        (tmp_path / name).write_text(SECRET)
    (tmp_path / "data/ws/mine").write_text("mine")
    return tmp_path / "data/ws"


def neighbours(root: Path) -> dict[str, str]:
    """What is outside of the root: names and contents."""
    top = root.parent.parent
    return {
        str(path): path.read_text() if path.is_file() else ""
        for path in top.rglob("*")
        if root not in (path, *path.parents)
    }


def everything(root: Path) -> list[str]:
    return sorted(map(str, root.rglob("*")))


def is_there(path: str) -> bool:
    return os.path.lexists(path)


async def assert_nobody_gets_out(path: str, root: Path, uses: list[str] | None = None) -> list[str]:
    """Try every service on the path and return the errors."""
    before = neighbours(root)
    errors = []
    for name in uses or USES:
        response = await USES[name](path, root)
        assert SECRET not in str(response.content), name
        assert "secret" not in str(response.content) or "secret" in path, name  # a name in a listing
        assert not response.is_success, (name, response)
        errors.append(str(response.content))
    assert neighbours(root) == before
    return errors


@pytest.mark.parametrize(
    "path",
    [
        "../x", "..", "a/../../x", "directory/../../x", "directory/../mine", "....//x", "..\\x",
        "%2e%2e/x", "%2E%2E/x", ".%2e/x", "..%2fx", "%2e%2e%5cx", ".%00./x", "/../x", "./../x",
        "directory/inner/../../../x", "~", "~/x", ". ./x", ".. /x", "/etc/passwd", "//etc/passwd",
        "/", "file:///etc/passwd/..", "\\\\host\\share\\x", "C:\\x",
    ],
)  # fmt: skip
async def test_p01_paths_that_lead_out_are_denied(root: Path, path: str) -> None:
    for error in await assert_nobody_gets_out(path, root):
        assert error.split(":")[0] in (
            "PermissionError",
            "ValueError",
            "FileNotFoundError",
            "NotADirectoryError",
        )


async def test_p01_an_absolute_path_beneath_the_root_is_taken(root: Path) -> None:
    assert (await read_text_file(str(root / "mine"), root=root)).content == "mine"
    assert (await read_text_file(f"{root}//./mine", root=root)).content == "mine"
    assert (await list_directory_content(str(root), root=root)).content == ["directory/", "mine"]
    (root.parent / "way").symlink_to(root)
    assert (await read_text_file(str(root.parent / "way/mine"), root=root.parent / "way")).content == "mine"
    assert (await read_text_file(str(root / "mine"), root=root.parent / "way")).content == "mine"


async def test_p03_a_neighbour_whose_name_begins_with_the_roots_is_denied(root: Path) -> None:
    for path in (f"{root}-evil/x", f"{root}-evil", f"{root}/../ws-evil/x", "../ws-evil/x"):
        await assert_nobody_gets_out(path, root)


@pytest.mark.parametrize("target", ["../../outside", "{top}/outside", "directory", "loop", "/proc/self/cwd"])
async def test_links_to_directories_are_not_followed(root: Path, target: str) -> None:
    (root / "loop").symlink_to(target.replace("{top}", str(root.parent.parent)))
    for path in ("loop/secret", "loop/directory/secret", "loop/inner"):
        await assert_nobody_gets_out(path, root)
    for use in ("list_directory_content", "delete_directory"):
        [error] = await assert_nobody_gets_out("loop", root, [use])
        assert "links are not followed" in error
    assert (root / "directory/inner").is_dir()
    assert (root / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "target", ["../../outside/secret", "{top}/outside/secret", "mine", "/dev/zero", "no"]
)
async def test_links_to_files_are_neither_read_nor_written_through(root: Path, target: str) -> None:
    (root / "link").symlink_to(target.replace("{top}", str(root.parent.parent)))
    uses = ["read_text_file", "read_json_file", "write_text_file", "write_json_file", "extract_archive from"]
    for error in await assert_nobody_gets_out("link", root, uses):
        assert "links are not followed" in error
    assert (await create_file("link", "x", root=root)).content.startswith("FileExistsError")
    assert (root / "mine").read_text() == "mine"
    assert (await move_file("link", "other", root=root)).is_success
    assert (await delete_file("other", root=root)).is_success  # the link itself
    assert neighbours(root)[str(root.parent.parent / "outside/secret")] == SECRET


@pytest.mark.parametrize("target", ["../../outside/secret", "pipe"])
async def test_a_file_swapped_after_it_was_looked_at_is_not_read(
    root: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.lstat
    os.mkfifo(root / "pipe")

    def look_then_swap(name: str, *, dir_fd: int | None = None) -> os.stat_result:
        seen = look(name, dir_fd=dir_fd)
        if name == "mine":
            (root / "mine").unlink()
            if target == "pipe":
                (root / "pipe").rename(root / "mine")
            else:
                (root / "mine").symlink_to(target)
        return seen

    monkeypatch.setattr(os, "lstat", look_then_swap)
    response = await read_text_file("mine", root=root)
    assert response.content.startswith("PermissionError")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
async def test_p06_a_hard_link_to_another_users_file_is_not_written(root: Path) -> None:
    outside = root.parent.parent / "outside/secret"
    os.chown(outside, 12345, 12345)
    os.link(outside, root / "hard")
    for use in ("write_text_file", "write_json_file"):
        response = await USES[use]("hard", root)
        assert response.content.startswith("PermissionError")
        assert "hard links" in response.content
    assert outside.read_text() == SECRET


async def test_p06_writing_ones_own_hard_link_leaves_the_other_name_as_it_was(root: Path) -> None:
    outside = root.parent.parent / "outside/secret"
    os.link(outside, root / "hard")
    assert (await write_text_file("hard", "new", True, root=root)).is_success
    assert (outside.read_text(), (root / "hard").read_text()) == (SECRET, "new")


async def test_p07_pipes_sockets_and_directories_are_refused_as_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(root)  # the address of a socket is short
        listening.bind("socket")
        uses = [
            "read_text_file",
            "read_json_file",
            "write_text_file",
            "write_json_file",
            "extract_archive from",
        ]
        for name in ("pipe", "socket", "directory"):
            for error in await assert_nobody_gets_out(name, root, uses):
                assert error.split(":")[0] in ("PermissionError", "IsADirectoryError")
                assert "ordinary files" in error or "is a directory" in error


@pytest.fixture(autouse=True)
def back_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "/dev/zero",
        "/dev/null",
        "/dev/tty",
        "/proc/version",
        "/proc/self/mem",
        "/proc/1/environ",
        "/sys/kernel",
    ],
)
@pytest.mark.parametrize("walk", [False, True])
async def test_p07_devices_and_what_the_kernel_makes_up_are_refused_even_beneath_the_root(
    path: str, walk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if walk:
        monkeypatch.setattr(_kernel, "has_openat2", lambda: False)
    if not is_there(path):
        pytest.skip(f"there is no {path} here")
    response = await read_text_file(path, root="/")
    assert response.content.split(":")[0] in ("PermissionError", "IsADirectoryError"), response
    response = await read_json_file(path, root="/")
    assert not response.is_success


BAD_NAMES = {
    "nul": "a\0b", "newline": "a\nb", "carriage return": "a\rb", "escape": "a\x1b[31mb", "delete": "a\x7f",
    "line separator": "a\u2028b", "too long": "x" * 5000, "too long a name": "x" * 300,
    "half a pair": "a\ud800", "invalid bytes": os.fsdecode(b"\xff\xfe"), "right to left": "a\u202etxt.exe",
    "con": "CON", "con with suffix": "con.txt", "aux in a directory": "directory/aux.json", "com1": "COM1",
    "lpt": "lpt9.log", "trailing dot": "name.", "trailing space": "name ", "inner trailing dot": "a./b",
    "only a space": " ", "empty": "", "only dots": "....",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
async def test_p08_names_that_no_file_should_have_get_a_clear_error(root: Path, name: str) -> None:
    before = everything(root)
    for error in await assert_nobody_gets_out(name, root):
        assert error.split(":")[0] in ("ValueError", "PermissionError", "OSError", "FileNotFoundError")
        assert len(error) < 400
        assert error.isprintable()  # nothing in it can play tricks on a terminal or a prompt
        error.encode()
    assert everything(root) == before


@pytest.mark.parametrize(
    "name", ["ä.txt", "日本語", "a b.txt", ".hidden", "a%b", "100%.txt", "x..y", "a:b", "👩‍🚀"]
)
async def test_names_that_people_use_are_taken(root: Path, name: str) -> None:
    assert (await create_file(name, "x", root=root)).is_success
    assert (await read_text_file(name, root=root)).content == "x"
    assert name in (await list_directory_content(root=root)).content


@pytest.mark.parametrize("path", [None, 3, b"mine", ["mine"]], ids=repr)
async def test_what_is_no_text_is_an_error_and_not_an_exception(root: Path, path: object) -> None:
    await assert_nobody_gets_out(path, root)  # type: ignore[arg-type]  # as a model may send it
