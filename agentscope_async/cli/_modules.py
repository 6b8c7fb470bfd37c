"""Modules that a command line names."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["import_here"]


def import_here(module: str) -> ModuleType:
    """Import a module of the current directory, or of what is installed, as ``python -m`` has it."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(module)
