"""A process that reads one file a stranger wrote, with limits, and says what is in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from ..errors import MissingExtraError

__all__ = ["check_installed", "said_by_reader"]

_PACKAGES = {"html": "selectolax", "pdf": "pypdf"}
_KEPT = ("PYTHONPATH", "PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Of the environment; the rest may hold secrets."""


def check_installed(kind: str) -> None:
    """See that what reads HTML or PDF is there.

    Raises:
        MissingExtraError: it is not.
    """
    package = _PACKAGES[kind]
    if find_spec(package) is None:
        raise MissingExtraError(
            package, f"Reading {kind.upper()} needs {package}: pip install 'agentscope-async[web-tools]'"
        )


async def said_by_reader(program: str, args: Sequence[object], content: bytes, timeout_s: float) -> bytes:
    """Run a Python program on ``content`` and return what it wrote; nothing if a limit ended it.

    The process is gone when this returns, also by cancellation.
    """
    reader = await asyncio.create_subprocess_exec(
        *[sys.executable, "-P", program, *map(str, args)],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT if name in os.environ},
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await reader.communicate(content)
        return said if reader.returncode == 0 else b""
    except TimeoutError:
        return b""
    finally:
        if reader.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                reader.kill()
            await asyncio.shield(reader.wait())
