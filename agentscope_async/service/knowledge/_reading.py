"""Text of HTML pages and PDFs, read by a limited process."""

from __future__ import annotations

import json
from pathlib import Path

from .._reader_process import check_installed, said_by_reader

__all__ = ["LoadError", "read_pages"]

MAX_CHARS = 4_000_000
"""Of one file: two thousand pages of a book."""
CPU_S = 60
MEMORY_BYTES = 1 << 30
READ_S = 90.0
"""For one file; a reader that is not done then is killed."""


class LoadError(Exception):
    """This file cannot be taken; the text says why."""


async def read_pages(kind: str, content: bytes) -> list[str]:
    """Return the text of each page of a PDF, or the one text of an HTML page, in Markdown.

    A process of its own reads it, within 60 s of CPU and 1 GiB of memory (where the system has such
    limits) and without this one's environment. It is gone when this returns, also by cancellation.

    Raises:
        MissingExtraError: the package that reads this kind is not installed.
        LoadError: it cannot be read, or is too long.
    """
    check_installed(kind)
    limits = (kind, MAX_CHARS, CPU_S, MEMORY_BYTES)
    said = await said_by_reader(str(Path(__file__).with_name("_reader.py")), limits, content, READ_S)
    if not said:
        raise LoadError("it takes too long to read, or too much memory")
    answer = json.loads(said)
    if "problem" in answer:
        raise LoadError(answer["problem"])
    pages: list[str] = answer["pages"]
    return pages
