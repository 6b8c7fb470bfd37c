"""Text of pages and papers: by this process, or by a limited one for what strangers wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from .._reader_process import check_installed, said_by_reader
from . import _extract

__all__ = ["ExtractedText", "extract", "parse_html_to_text"]

MAX_TEXT_CHARS = 200_000
"""More text of one page or paper is cut off."""

READ_S = 20.0
"""For reading one file; a reader that is not done then is killed."""

CPU_S = 10
MEMORY_BYTES = 1 << 30
MAX_READERS = 4
"""How many files an event loop has read at once; others wait."""


def parse_html_to_text(html_text: str, html_selected_tags: Sequence[str] | None = None) -> str:
    """Extract the text of the chosen elements of an HTML page.

    In the order of the document, each element once, white space collapsed; links as
    ``[text](url)``, where they name a web address, as in AgentScope v0.0.2
    (service/web_search/web_digest.py).

    Works in this process and thread, for as long as the page takes: 1 MB takes about a tenth of a
    second, but elements nested 40,000 deep take minutes. For pages of strangers use :func:`load_web`,
    which has them read by a limited process.

    Args:
        html_text (str): The source of the page.
        html_selected_tags (Optional[Sequence[str]]): Names of the elements wanted, such as p, li, h1.

    Returns:
        The text; ``""`` if no tags are given.

    Raises:
        MissingExtraError: selectolax is not installed.
    """
    if not html_selected_tags:
        return ""
    check_installed("html")
    return _extract.text_of_elements(html_text, html_selected_tags)


@dataclass(frozen=True, slots=True)
class ExtractedText:
    """The text of a file.

    Attributes:
        text: at most ``MAX_TEXT_CHARS`` of it.
        chars: how long it was before it was cut; of a PDF, of the pages that were read.
    """

    text: str
    chars: int

    @property
    def is_cut(self) -> bool:
        """Whether there was more."""
        return self.chars > len(self.text)


async def extract(
    kind: Literal["html", "pdf"], content: bytes, *, tags: Sequence[str] = (), timeout_s: float = READ_S
) -> ExtractedText:
    """Return the text of an HTML page (as UTF-8) or a PDF that a stranger wrote.

    A process of its own reads it, within 10 s of CPU and 1 GiB of memory (where the system has such
    limits), and without this one's environment. It is gone when this returns, and when it is cancelled.

    Args:
        kind: what the content is.
        content: the file.
        tags: of HTML, only these elements, see :func:`parse_html_to_text`; else all of the page.
        timeout_s: seconds until the reader is killed.

    Raises:
        MissingExtraError: selectolax or pypdf is not installed.
        ValueError: it cannot be read; the text says why.
    """
    check_installed(kind)
    limits = (kind, MAX_TEXT_CHARS, CPU_S, MEMORY_BYTES, json.dumps(list(tags)))
    async with _turn():
        said = await said_by_reader(str(Path(_extract.__file__)), limits, content, timeout_s)
    if not said:
        raise ValueError(f"the {kind.upper()} takes too long to read, or too much memory")
    answer = json.loads(said)
    if "problem" in answer:
        raise ValueError(answer["problem"])
    return ExtractedText(answer["text"], answer["chars"])


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _turn() -> asyncio.Semaphore:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_READERS))
