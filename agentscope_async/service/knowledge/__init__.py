"""A knowledge base: documents indexed by meaning and by words, in one SQLite file."""

from __future__ import annotations

from ._base import KnowledgeBase
from ._results import Hit, IndexReport, Progress
from ._splitting import Chunk

__all__ = ["Chunk", "Hit", "IndexReport", "KnowledgeBase", "Progress"]
