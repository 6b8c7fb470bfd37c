"""Text of HTML pages and PDFs, read by a limited process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ...errors import MissingExtraError

__all__ = ["LoadError", "read_pages"]

MAX_CHARS = 4_000_000
"""Of one file: two thousand pages of a book."""
CPU_S = 60
MEMORY_BYTES = 1 << 30
READ_S = 90.0
"""For one file; a reader that is not done then is killed."""

_PACKAGES = {"html": "selectolax", "pdf": "pypdf"}


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
    package = _PACKAGES[kind]
    if find_spec(package) is None:
        raise MissingExtraError(
            package, f"Reading {kind.upper()} needs {package}: pip install 'agentscope-async[web-tools]'"
        )
    said = await _said_by_reader(kind, content)
    if not said:
        raise LoadError("it takes too long to read, or too much memory")
    answer = json.loads(said)
    if "problem" in answer:
        raise LoadError(answer["problem"])
    pages: list[str] = answer["pages"]
    return pages


async def _said_by_reader(kind: str, content: bytes) -> bytes:
    """Return what the reader wrote; nothing if it was ended, by its limits or by ours."""
    program = str(Path(__file__).with_name("_reader.py"))
    kept = ("PYTHONPATH", "PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    reader = await asyncio.create_subprocess_exec(
        *[sys.executable, "-P", program, kind, str(MAX_CHARS), str(CPU_S), str(MEMORY_BYTES)],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in kept if name in os.environ},
    )
    try:
        async with asyncio.timeout(READ_S):
            said, _ = await reader.communicate(content)
        return said if reader.returncode == 0 else b""
    except TimeoutError:
        return b""
    finally:
        if reader.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                reader.kill()
            await asyncio.shield(reader.wait())
