"""File services: read, write, move and delete beneath one directory, and nowhere else.

Each takes ``root=``, the one directory it may use (the working directory unless the program
grants another); links are not followed, so nothing outside can be reached, not even by
somebody who swaps directories for links meanwhile. Content is ``"Success"`` unless said
otherwise. Failures are responses, ``"ErrorClass: text"``, as in AgentScope v0.0.2
(``service/file/common.py``, ``text.py``, ``json.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from ._contents import read_file, remove_tree, write_file
from ._granted import answer, check_positive, checked_root
from ._marks import marked
from ._rooted import Root, lstat, move_new, named
from .response import ServiceResponse

if TYPE_CHECKING:
    from ._threads import Halt

__all__ = [
    "create_directory",
    "create_file",
    "delete_directory",
    "delete_file",
    "extract_archive",
    "get_current_directory",
    "list_directory_content",
    "move_directory",
    "move_file",
    "read_json_file",
    "read_text_file",
    "write_json_file",
    "write_text_file",
]

MAX_BYTES = 10_000_000
"""Of one file that is read or written, unless the program grants more or less."""
MAX_ENTRIES = 2_000
"""Of a directory that are listed."""
MAX_UNPACKED_BYTES = 100 * 2**20
MAX_MEMBERS = 10_000

DONE = "Success"

_CHOOSE = "Choose another name."
_OVERWRITE = "Choose another name, or set overwrite to replace it."


def _may_overwrite(presets: Mapping[str, Any]) -> bool:
    return presets.get("overwrite") is not False


@marked(granted=["root", "max_bytes"])
async def create_file(
    file_path: str,
    content: str = "",
    *,
    root: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> ServiceResponse:
    """Create a new text file. Fails if there is already something with that name.

    Of several who create one file at the same time, one succeeds. When cancelled, the file
    is there whole or not at all.

    Args:
        file_path: path of the new file; its directory must exist.
        content: the text to put into it.
        root: the directory it must be beneath; by default the working directory.
        max_bytes: the most it may have, as UTF-8.
    """
    return await _write(file_path, lambda: content, root, max_bytes, overwrite=False, way_out=_CHOOSE)


@marked(dangerous=True, granted=["root"])
async def delete_file(file_path: str, *, root: str | os.PathLike[str] | None = None) -> ServiceResponse:
    """Delete a file.

    A link is deleted itself, not what it points to.

    Args:
        file_path: path of the file; a directory is refused.
        root: the directory it must be beneath; by default the working directory.
    """

    def work(base: Root, halt: Halt) -> str:
        with base.place(file_path) as place, named(file_path):
            os.unlink(place.name, dir_fd=place.folder)
        return DONE

    return await answer(root, work)


@marked(dangerous=True, granted=["root"])
async def move_file(
    source_path: str, destination_path: str, *, root: str | os.PathLike[str] | None = None
) -> ServiceResponse:
    """Move or rename a file. Fails if the destination already exists.

    Also moves directories, as in AgentScope v0.0.2. In one step: there is no moment at which
    both names or neither exist (where the system has renameat2 or renameatx_np), and never is
    anything replaced.

    Args:
        source_path: where the file is now.
        destination_path: its new path, with its name; the directory must exist.
        root: the directory both must be beneath; by default the working directory.
    """
    return await _move(source_path, destination_path, root, "file")


@marked(granted=["root"])
async def create_directory(
    directory_path: str, *, root: str | os.PathLike[str] | None = None
) -> ServiceResponse:
    """Create a directory, and those above it that are missing. Fails if it already exists.

    Args:
        directory_path: path of the new directory.
        root: the directory it must be beneath; by default the working directory.
    """

    def work(base: Root, halt: Halt) -> str:
        try:
            base.make_directories(directory_path)
        except FileExistsError as error:
            raise FileExistsError("The directory already exists.") from error
        return DONE

    return await answer(root, work)


@marked(dangerous=True, granted=["root"])
async def delete_directory(
    directory_path: str, *, root: str | os.PathLike[str] | None = None
) -> ServiceResponse:
    """Delete a directory and everything in it.

    Links in it are deleted, not followed; a file system mounted in it is left alone. When
    cancelled it stops, and what was deleted before is gone.

    Args:
        directory_path: path of the directory.
        root: the directory it must be beneath (it is never deleted itself); by default the working directory.
    """

    def work(base: Root, halt: Halt) -> str:
        with base.place(directory_path) as place:
            if lstat(place) is None:
                raise FileNotFoundError("The directory does not exist.")
            remove_tree(place, halt)
        return DONE

    return await answer(root, work)


@marked(dangerous=True, granted=["root"])
async def move_directory(
    source_path: str, destination_path: str, *, root: str | os.PathLike[str] | None = None
) -> ServiceResponse:
    """Move or rename a directory with everything in it. Fails if the destination already exists.

    Args:
        source_path: where the directory is now.
        destination_path: its new path, with its name; the directory above it must exist.
        root: the directory both must be beneath; by default the working directory.
    """
    return await _move(source_path, destination_path, root, "directory")


@marked(untrusted="directory_path", granted=["root"])
async def list_directory_content(
    directory_path: str = ".", *, root: str | os.PathLike[str] | None = None
) -> ServiceResponse:
    """List the names of the files and directories in a directory; those of directories end with "/".

    Content is a sorted list of texts. Of more than ``MAX_ENTRIES`` names only so many are
    given, and a last text says so. Names that are not UTF-8 are shown with U+FFFD.

    Args:
        directory_path: path of the directory; "." is the topmost one.
        root: the directory it must be beneath, or be; by default the working directory.
    """

    def work(base: Root, halt: Halt) -> list[str]:
        with base.directory(directory_path) as directory, os.scandir(directory) as entries:
            names = sorted(_listed(entry) for entry in islice(entries, MAX_ENTRIES + 1))
        if len(names) > MAX_ENTRIES:
            names[MAX_ENTRIES:] = [f"... and more: only {MAX_ENTRIES:,} names are listed"]
        return names

    return await answer(root, work)


@marked(granted=["root"])
async def get_current_directory(*, root: str | os.PathLike[str] | None = None) -> ServiceResponse:
    """Tell the path of the directory that relative paths start from.

    Args:
        root: the directory granted to the other file services; by default the working directory.
    """
    return await answer(root, lambda base, halt: os.path.abspath(checked_root(root)))


@marked(untrusted="file_path", granted=["root", "max_bytes"])
async def read_text_file(
    file_path: str,
    first_line: int = 1,
    line_count: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> ServiceResponse:
    """Read a text file (UTF-8), or some lines of it, and return the text.

    Ends of lines are as they are in the file; a byte order mark at its beginning is left out.

    Args:
        file_path: path of the file.
        first_line: the line to begin with, counted from 1.
        line_count: how many lines to return; all that follow when not given.
        root: the directory it must be beneath; by default the working directory.
        max_bytes: a larger file is not read; the response says how large it is.
    """
    if first_line < 1 or (line_count is not None and line_count < 0):
        return ServiceResponse.error("first_line is 1 or more, line_count 0 or more.")
    if first_line == 1 and line_count is None:
        return await _read(file_path, root, max_bytes, lambda text: text)
    last = None if line_count is None else first_line - 1 + line_count
    return await _read(
        file_path,
        root,
        max_bytes,
        lambda text: "".join(text.splitlines(keepends=True)[first_line - 1 : last]),
    )


@marked(dangerous=_may_overwrite, granted=["root", "max_bytes"])
async def write_text_file(
    file_path: str,
    content: str,
    overwrite: bool = False,
    *,
    root: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> ServiceResponse:
    """Write a text into a file (UTF-8); creates it if it does not exist.

    The file is replaced whole: readers see the old text or the new one, and it is on the disk
    when this returns. When cancelled, the file has the old text or the new one. Of several
    who write at the same time, the last one counts. A toolkit in which ``overwrite=False`` is
    preset need not ask for approval.

    Args:
        file_path: path of the file; its directory must exist.
        content: the whole text of the file.
        overwrite: whether a file that exists is replaced; otherwise that is an error.
        root: the directory it must be beneath; by default the working directory.
        max_bytes: the most it may have, as UTF-8.
    """
    return await _write(file_path, lambda: content, root, max_bytes, overwrite=overwrite, way_out=_OVERWRITE)


@marked(untrusted="file_path", granted=["root", "max_bytes"])
async def read_json_file(
    file_path: str, *, root: str | os.PathLike[str] | None = None, max_bytes: int = MAX_BYTES
) -> ServiceResponse:
    """Read a JSON file and return the data in it.

    Args:
        file_path: path of the file.
        root: the directory it must be beneath; by default the working directory.
        max_bytes: a larger file is not read; the response says how large it is.
    """
    return await _read(file_path, root, max_bytes, _parse_json)


@marked(dangerous=_may_overwrite, granted=["root", "max_bytes"])
async def write_json_file(
    file_path: str,
    data: Any,
    overwrite: bool = False,
    *,
    root: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> ServiceResponse:
    """Write data into a JSON file; creates it if it does not exist.

    Indented by 4, characters beyond ASCII as they are. What JSON cannot hold (NaN, too) is an
    error that leaves the old file as it is; otherwise as :func:`write_text_file`. The data is
    read in another thread: leave it unchanged meanwhile.

    Args:
        file_path: path of the file; its directory must exist.
        data: an object, a list, a text, a number, true, false or null.
        overwrite: whether a file that exists is replaced; otherwise that is an error.
        root: the directory it must be beneath; by default the working directory.
        max_bytes: the most it may have, as UTF-8.
    """

    def text() -> str:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=4)

    return await _write(file_path, text, root, max_bytes, overwrite=overwrite, way_out=_OVERWRITE)


@marked(untrusted="archive_path", granted=["root", "max_bytes", "max_members"])
async def extract_archive(
    archive_path: str,
    directory_path: str,
    *,
    root: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_UNPACKED_BYTES,
    max_members: int = MAX_MEMBERS,
) -> ServiceResponse:
    """Unpack an archive (zip, tar, tar.gz, tar.bz2 or tar.xz) into a new directory.

    All of it or nothing: it is unpacked beside its place, which it takes at the end. Refused
    are archives with members that would lie outside, links, devices, encrypted members, two
    members of one name, more than 100 times the size of the archive (beyond the first MiB),
    and those above the limits. Archives within it stay packed. Content is a text that says
    how much there was.

    Args:
        archive_path: path of the archive.
        directory_path: path of the directory to create for what is in it; it must not exist yet.
        root: the directory both must be beneath; by default the working directory.
        max_bytes: the most the archive may have, and the most that may be in its files.
        max_members: the most files and directories.
    """
    check_positive(max_bytes=max_bytes, max_members=max_members)

    def work(base: Root, halt: Halt) -> str:
        from ._archives import Limits, extract

        with base.place(archive_path) as archive, base.place(directory_path) as target:
            files, size = extract(archive, target, Limits(max_members, max_bytes), halt)
        return f"{files:,} files with {size:,} bytes were unpacked."

    return await answer(root, work)


async def _move(
    source_path: str, destination_path: str, root: str | os.PathLike[str] | None, kind: str
) -> ServiceResponse:
    def work(base: Root, halt: Halt) -> str:
        with base.place(source_path) as source, base.place(destination_path) as target:
            if lstat(source) is None:
                raise FileNotFoundError(f"The source {kind} does not exist.")
            try:
                move_new(source, target)
            except FileExistsError as error:
                raise FileExistsError(f"The destination {kind} already exists. {_CHOOSE}") from error
        return DONE

    return await answer(root, work)


async def _read(
    file_path: str, root: str | os.PathLike[str] | None, max_bytes: int, parse: Callable[[str], Any]
) -> ServiceResponse:
    check_positive(max_bytes=max_bytes)

    def work(base: Root, halt: Halt) -> Any:
        with base.place(file_path) as place:
            content = read_file(place, max_bytes, halt)
        return parse(content.decode("utf-8-sig"))

    return await answer(root, work)


async def _write(
    file_path: str,
    make_text: Callable[[], str],
    root: str | os.PathLike[str] | None,
    max_bytes: int,
    *,
    overwrite: bool,
    way_out: str,
) -> ServiceResponse:
    check_positive(max_bytes=max_bytes)

    def work(base: Root, halt: Halt) -> str:
        with base.place(file_path) as place:
            content = make_text().encode()
            if len(content) > max_bytes:
                raise ValueError(
                    f"The content has {len(content):,} bytes; at most {max_bytes:,} are written. Write less."
                )
            try:
                write_file(place, content, overwrite=overwrite, halt=halt)
            except FileExistsError as error:
                raise FileExistsError(f"The file already exists. {way_out}") from error
        return DONE

    return await answer(root, work)


def _parse_json(text: str) -> Any:
    # The hook is Python code: between objects the event loop's thread gets its turn.
    return json.loads(text, object_pairs_hook=lambda pairs: dict(pairs))


def _listed(entry: os.DirEntry[str]) -> str:
    name = os.fsencode(entry.name).decode(errors="replace")
    return f"{name}/" if entry.is_dir(follow_symlinks=False) else name
