"""What agents remember."""

from .base import MemoryBase
from .temporary import TemporaryMemory

__all__ = ["MemoryBase", "TemporaryMemory"]
