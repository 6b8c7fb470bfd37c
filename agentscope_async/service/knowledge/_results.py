"""What a knowledge base answers: what it found, and what an indexing did."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Hit", "IndexReport", "Progress"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        text: the passage.
        score: cosine similarity of its vector and the question's, in [-1, 1].
        source: the file it is from, or the name its text was added under.
        heading: what it stands under there, joined by `` > ``; ``""`` if under nothing.
        line: where it begins, counted from 1; None in HTML and PDF.
        page: of a PDF, counted from 1.
    """

    text: str
    score: float
    source: str
    heading: str = ""
    line: int | None = None
    page: int | None = None

    @property
    def position(self) -> str:
        """Where in the source, for people: ``"line 12"``, ``"page 3"`` or its heading."""
        if self.page is not None:
            return f"page {self.page}"
        return f"line {self.line}" if self.line is not None else self.heading


@dataclass(slots=True)
class IndexReport:
    """What an indexing did; sources are listed by name.

    Attributes:
        added: new ones.
        changed: those whose content, or way of being split, was another before.
        removed: those whose file is gone.
        skipped: unchanged ones: nothing was embedded for them.
        failed: source -> why it could not be taken; what was known of it before is kept.
        chunks: how many chunks the added and changed ones have now.
        embedded: how many of those were sent to the model; the others were known already.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    chunks: int = 0
    embedded: int = 0

    def sort(self) -> IndexReport:
        """Bring the names into their order; returns itself."""
        for names in (self.added, self.changed, self.removed, self.skipped):
            names.sort()
        self.failed = dict(sorted(self.failed.items()))
        return self


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an indexing is: ``source`` was just finished, the ``done``-th of ``total``."""

    source: str
    done: int
    total: int
