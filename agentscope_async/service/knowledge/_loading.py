"""Finding files, reading them, and making text of them: Markdown, HTML, PDF, code, plain text."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePath

from .._threads import Halt, in_thread
from ._reading import LoadError, read_pages
from ._splitting import Chunk, Splitter

__all__ = ["Document", "find_files", "kind_of", "read_document", "split_document"]

MAX_FILE_BYTES = 16 * 1024 * 1024
"""A file longer than this is refused: nobody wrote that to be read."""
MAX_FILES = 100_000
"""Of one directory tree."""

_CODE_ENDINGS = frozenset(
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .java .kt .scala .go .rs .c .h .cc .cpp .hpp .cs .rb .php .swift "
    ".sh .sql .lua .r .jl .dart .ex .exs".split()
)
_TEXT_ENDINGS = ".txt .text .rst .adoc .org .tex .log .csv .tsv .json .toml .yaml .yml .ini .cfg".split()
_KINDS = {
    **dict.fromkeys(_CODE_ENDINGS, "code"),
    **dict.fromkeys([".md", ".markdown", ".mdx"], "markdown"),
    **dict.fromkeys([".html", ".htm", ".xhtml"], "html"),
    **dict.fromkeys(_TEXT_ENDINGS, "text"),
    ".pdf": "pdf",
}
_LEFT_OUT = frozenset(["__pycache__", "node_modules", "venv", "dist", "build", "site-packages"])
"""Directories that hold copies; those whose name begins with a dot are left out too."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file held when it was read."""

    content: bytes
    kind: str

    def fingerprint(self, how: str) -> str:
        """Return what changes with the content, and with ``how`` it is made into chunks."""
        return hashlib.sha256(b"\0".join([how.encode(), self.kind.encode(), self.content])).hexdigest()


def kind_of(name: str) -> str | None:
    """Return ``"markdown"``, ``"code"``, ``"html"``, ``"pdf"``, ``"text"``, or None for an unknown ending."""
    return _KINDS.get(PurePath(name).suffix.lower())


def find_files(directory: Path, patterns: tuple[str, ...], halt: Halt) -> list[Path]:
    """Return the files beneath a directory, sorted; links to directories are not followed.

    Args:
        directory: where to begin.
        patterns: a file's path in the directory, or its name, must match one of them; with none,
            its ending must be a known one.
        halt: ends the search.

    Raises:
        LoadError: there are too many.
    """
    found = []
    for path in _walk(directory):
        halt.check()
        if _is_wanted(path.relative_to(directory), patterns):
            found.append(path)
        if len(found) > MAX_FILES:
            raise LoadError(f"{directory} holds more than {MAX_FILES} files: choose some by patterns=.")
    return sorted(found)


def _walk(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory, followlinks=False):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith(".")]
        yield from (Path(folder, name) for name in names)


def _is_wanted(path: PurePath, patterns: Iterable[str]) -> bool:
    if not patterns:
        return kind_of(path.name) is not None and not path.name.startswith(".")
    shown = path.as_posix()
    return any(
        fnmatch(shown, pattern) or fnmatch(path.name, pattern.removeprefix("**/")) for pattern in patterns
    )


def read_document(path: Path, within: Path | None) -> Document:
    """Read a file.

    Args:
        path: which one.
        within: it must lie in this directory, also when its name is a link; None: anywhere.

    Raises:
        LoadError: it is no file, lies elsewhere, or is too long.
        OSError: it cannot be read.
    """
    real = path.resolve()
    if within is not None and not real.is_relative_to(within.resolve()):
        raise LoadError(f"it is a link that leads out of {within}")
    # Not blocking: opening a named pipe would wait for somebody to write into it.
    descriptor = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise LoadError("it is not a regular file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise LoadError(f"it is longer than {MAX_FILE_BYTES} bytes")
    return Document(content, kind_of(path.name) or "text")


async def split_document(document: Document, splitter: Splitter) -> list[Chunk]:
    """Return the chunks of a document.

    Raises:
        LoadError: it holds no text, or none that can be read.
        MissingExtraError: it is HTML or a PDF, and the package that reads it is not installed.
    """
    if document.kind == "pdf":
        pages = await read_pages("pdf", document.content)
        return [
            Chunk(chunk.text, page=number)
            for number, page in enumerate(pages, 1)
            for chunk in splitter.split(page, "text")
        ]
    if document.kind == "html":
        [page] = await read_pages("html", document.content)
        return [Chunk(chunk.text, chunk.heading) for chunk in splitter.split(page, "markdown")]
    return await in_thread(lambda halt: splitter.split(_decoded(document.content), document.kind))


def _decoded(content: bytes) -> str:
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    if "\0" in text:
        raise LoadError("it is not text")
    return text
