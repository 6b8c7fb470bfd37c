"""Cutting documents into chunks: Markdown by headings, code by definitions, the rest by paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import ConfigError

__all__ = ["Chunk", "Section", "Splitter"]

LONGEST_TITLE = 300
"""Characters of a line that can be a heading or begin a definition."""
DEEPEST_DEFINITION = 3
"""Definitions within definitions are looked for that deep: a method of a class of a class."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document, small enough for a model to read several of them.

    Attributes:
        text: the piece itself.
        heading: what it stands under: Markdown headings, or class and function, joined by `` > ``.
        line: where it begins, counted from 1; None where the document has no lines (HTML, PDF).
        page: of a PDF, counted from 1.
    """

    text: str
    heading: str = ""
    line: int | None = None
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Some lines under one heading; ``first`` is the number of the first one, from 1."""

    heading: str
    first: int
    lines: list[str]


@dataclass(frozen=True, slots=True)
class Splitter:
    """Says how long chunks are and how much of one the next repeats, both in characters."""

    chunk_chars: int
    overlap_chars: int

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a size that makes no sense.
        """
        for name in ("chunk_chars", "overlap_chars"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(f"{name} must be a whole number, got {getattr(self, name)!r}.")
        if not 0 <= self.overlap_chars <= self.chunk_chars // 2 or self.chunk_chars < 100:
            raise ConfigError(
                f"chunk_chars must be at least 100 and overlap_chars at most half of it, "
                f"got {self.chunk_chars} and {self.overlap_chars}."
            )

    def split(self, text: str, kind: str) -> list[Chunk]:
        """Return the chunks of a text of the kind ``"markdown"``, ``"code"`` or ``"text"``, in its order.

        Sections are never mixed. A section too long is cut between paragraphs, or else lines,
        sentences or words, and the end of each of its chunks begins the next one.
        """
        lines = text.splitlines()
        match kind:
            case "markdown":
                sections = _by_heading(lines)
            case "code":
                sections = _by_definition(lines, self.chunk_chars)
            case _:
                sections = iter([Section("", 1, lines)])
        return [chunk for section in sections for chunk in self._chunks(section)]

    def _chunks(self, section: Section) -> Iterator[Chunk]:
        kept: list[tuple[int, str]] = []
        size = fresh = 0
        for number, piece in self._pieces(section):
            if not piece.strip() and not (kept and kept[-1][1].strip()):
                continue  # one empty line says as much as a thousand
            if fresh and size + len(piece) + 1 > self.chunk_chars:
                yield _chunk(kept, section.heading)
                kept = self._tail(kept, self.chunk_chars - len(piece) - 1)
                size, fresh = sum(len(line) + 1 for _, line in kept), 0
            kept.append((number, piece))
            size += len(piece) + 1
            fresh += bool(piece.strip())
            if fresh and not piece.strip() and size > self.chunk_chars * 3 // 4:  # a good place to stop
                yield _chunk(kept, section.heading)
                kept = self._tail(kept, self.chunk_chars)
                size, fresh = sum(len(line) + 1 for _, line in kept), 0
        if fresh:
            yield _chunk(kept, section.heading)

    def _pieces(self, section: Section) -> Iterator[tuple[int, str]]:
        """Yield the lines with their numbers, those too long for a chunk in parts."""
        longest = self.chunk_chars - self.overlap_chars - 1
        for number, line in enumerate(section.lines, section.first):
            while len(line) > longest:
                end = _good_end(line, longest)
                yield number, line[:end]
                line = line[end:].lstrip()
            yield number, line

    def _tail(self, lines: list[tuple[int, str]], room: int) -> list[tuple[int, str]]:
        """Return what the next chunk repeats: whole last lines as far as they fit."""
        room = min(room, self.overlap_chars)
        start = len(lines)
        while start and len(lines[start - 1][1]) + 1 <= room:
            start -= 1
            room -= len(lines[start][1]) + 1
        while start < len(lines) and not lines[start][1].strip():
            start += 1
        return lines[start:]


def _chunk(lines: list[tuple[int, str]], heading: str) -> Chunk:
    first = next(number for number, line in lines if line.strip())
    return Chunk("\n".join(line for _, line in lines).strip("\n").rstrip(), heading, first)


def _good_end(line: str, limit: int) -> int:
    """Return where to cut: after a sentence, or else a word, in the second half; or at the limit."""
    for mark in _GOOD_ENDS:
        end = line.rfind(mark, limit // 2, limit - 1)
        if end != -1:
            return end + len(mark)
    return limit


_GOOD_ENDS = (". ", "? ", "! ", "\u3002", "\uff01", "\uff1f", "; ", ", ", "\uff0c", " ")  # Chinese ones too
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")


def _by_heading(lines: list[str]) -> Iterator[Section]:
    """Yield the sections under each Markdown heading, which is kept as their first line."""
    path: list[tuple[int, str]] = []
    start, fence = 0, ""
    for index, line in enumerate(lines):
        if fenced := _FENCE.match(line):
            mark = fenced.group(1)
            if not fence:
                fence = mark
            elif mark.startswith(fence) and not line.strip().strip(mark[0]):
                fence = ""
        elif not fence and len(line) <= LONGEST_TITLE and (found := _HEADING.match(line)):
            level = len(found.group(1))
            if any(each.strip() for each in lines[start + bool(path) : index]) or level <= _depth(path):
                yield Section(_joined(path), start + 1, lines[start:index])
            path = [*(each for each in path if each[0] < level), (level, (found.group(2) or "").strip())]
            start = index
    yield Section(_joined(path), start + 1, lines[start:])


def _depth(path: list[tuple[int, str]]) -> int:
    return path[-1][0] if path else 0


def _joined(path: list[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in path if title)


_DEFINITION = re.compile(
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub(?:\(\w+\))?"
    r"|unsafe|open|override|inline)\s+)*"
    r"(?:def|class|function|fn|func|fun|interface|struct|enum|impl|trait|module|namespace|object)\s+(?:\([^)]*\)\s*)?"
    r"([A-Za-z_$][\w$]*)"
)
_LEADS_IN = re.compile(r"\s*(?:@|#|//|/\*|\*|\")")


def _by_definition(lines: list[str], chunk_chars: int) -> Iterator[Section]:
    """Yield what lies between the outermost definitions, and each of those; long ones by their inner ones.

    Goes by the beginnings of lines and their indentation: enough for the common languages, and
    nothing in a stranger's file can break it.
    """
    yield from _Definitions(chunk_chars).sections(Section("", 1, lines), 1)


@dataclass(frozen=True, slots=True)
class _Definitions:
    chunk_chars: int

    def sections(self, whole: Section, depth: int) -> Iterator[Section]:
        starts = _definitions(whole.lines, _outer_indent(whole.lines))
        edges = [0, *(start for start, _ in starts), len(whole.lines)]
        names = ["", *(name for _, name in starts)]
        for name, start, end in zip(names, edges, edges[1:], strict=False):
            heading = " > ".join(filter(None, (whole.heading, name)))
            part = Section(heading, whole.first + start, whole.lines[start:end])
            is_long = sum(len(line) + 1 for line in part.lines) > self.chunk_chars
            if name and is_long and depth < DEEPEST_DEFINITION:
                yield from self._inner(part, depth)
            else:
                yield part

    def _inner(self, whole: Section, depth: int) -> Iterator[Section]:
        """Yield the head of a definition, and then what is defined in it."""
        head = next(index for index, line in enumerate(whole.lines) if _defined(line)) + 1
        body = whole.lines[head:]
        starts = _definitions(body, _outer_indent(body))
        cut = head + starts[0][0] if starts else len(whole.lines)
        yield Section(whole.heading, whole.first, whole.lines[:cut])
        if starts:
            yield from self.sections(Section(whole.heading, whole.first + cut, whole.lines[cut:]), depth + 1)


def _outer_indent(lines: list[str]) -> int:
    """Return the smallest indentation of a definition."""
    return min((_indent(line) for line in lines if _defined(line)), default=0)


def _definitions(lines: list[str], indent: int) -> list[tuple[int, str]]:
    """Return where each definition of that indentation begins, with what leads in to it, and its name."""
    found: list[tuple[int, str]] = []
    for index, line in enumerate(lines):
        if (name := _defined(line)) and _indent(line) == indent:
            start = index
            floor = found[-1][0] + 1 if found else 0
            while start > floor and _indent(lines[start - 1]) == indent and _LEADS_IN.match(lines[start - 1]):
                start -= 1
            found.append((start, name))
    return found


def _defined(line: str) -> str:
    """Return the name of what begins to be defined in this line, or an empty text."""
    found = _DEFINITION.match(line[:LONGEST_TITLE].lstrip())
    return found.group(1) if found else ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
