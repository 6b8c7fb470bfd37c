"""Modules that a command line names."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["import_here"]


def import_here(module: str) -> ModuleType:
    """Import a module of the current directory, or of what is installed, as ``python -m`` has it.

    Raises:
        ConfigError: it is a program that runs at once.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "event loop" not in str(error):  # asyncio's words for one that is started within another
            raise
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            traceback.clear_frames(error.__traceback__)  # with them goes a coroutine that nobody awaits
    raise ConfigError(
        f"The module {module!r} runs a program when it is imported: put its asyncio.run(...) or "
        f'uvicorn.run(...) under `if __name__ == "__main__":`.'
    )
