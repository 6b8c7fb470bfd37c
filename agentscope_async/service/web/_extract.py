"""Text out of HTML and PDF; imported as a module, and run as a program for what strangers wrote.

As a program: ``_extract.py KIND MAX_CHARS CPU_S MEMORY_BYTES TAGS`` reads the file from standard
input and writes one JSON object, ``{"text", "chars"}`` or ``{"problem"}``. It gives itself limits
first, since a page of 200 kB can keep a parser of HTML busy for minutes (elements 40,000 deep), and a PDF
can unpack to gigabytes. It imports nothing of this package: so it starts in 40 ms.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

__all__ = ["text_of_elements", "text_of_page", "text_of_pdf"]

_UNSEEN = {"script", "style", "template", "svg", "iframe", "object"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "dialog", "div",
    "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6",
    "header", "hr", "html", "li", "main", "nav", "ol", "option", "p", "pre", "section", "summary", "table",
    "tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul",
}  # fmt: skip
"""Elements that begin a line, or a cell, of their own: words on both sides of their edges are two."""

_KEPT_SPACE = "\ue000"
"""Stands for the spaces of preformatted text while others are collapsed."""


def text_of_page(html: str) -> str:
    """Return what a page says, a line for each block, links to web addresses as ``[text](url)``."""
    pieces = ("\n" if piece is None else piece for piece in _pieces(_root(html), keep_other_links=True))
    lines = (" ".join(line.split()) for line in "".join(pieces).split("\n"))
    return "\n".join(filter(None, lines)).replace(_KEPT_SPACE, " ")


def text_of_elements(html: str, tags: Collection[str]) -> str:
    """Return the text of all elements of these kinds, in AgentScope v0.0.2's form.

    In the order of the document, each outermost one once, nothing between two of them; white
    space is collapsed; links to web addresses as ``[text](url)``, the text of others is left out.
    ``h`` means all headings: there is no such element, and v0.0.2's digest asks for it.
    """
    wanted = {tag.lower() for tag in tags}
    wanted |= _HEADINGS if "h" in wanted else set()
    found = []
    node = _root(html)
    while node is not None:
        if node.tag in wanted:
            pieces = (piece if piece is not None else " " for piece in _pieces(node, keep_other_links=False))
            found.append(" ".join("".join(pieces).replace(_KEPT_SPACE, " ").split()))
        inner = None if node.tag in wanted else node.child
        node = _after(node) if inner is None else inner
    return "".join(found)


def _root(html: str) -> Any:
    from selectolax.lexbor import LexborHTMLParser

    return LexborHTMLParser(html).root


def _after(node: Any) -> Any:
    """Return the node that begins where this one ends."""
    while node is not None and node.next is None:
        node = node.parent
    return None if node is None else node.next


def _pieces(top: Any, *, keep_other_links: bool) -> Iterator[str | None]:
    """Yield the texts below an element, without line breaks; None at the edges of a block."""
    node, preformatted = top, None
    while True:
        tag = node.tag
        if tag == "-text":
            yield from _said(node, keep_other_links, preformatted is not None)
        elif tag in _BLOCKS:
            yield None
        if node.child is not None and tag not in _UNSEEN:
            if tag == "pre" and preformatted is None:
                preformatted = node.mem_id
            node = node.child
            continue
        while node.mem_id != top.mem_id and node.next is None:
            node = node.parent
            if node.tag in _BLOCKS:
                yield None
            if node.mem_id == preformatted:
                preformatted = None
        if node.mem_id == top.mem_id:
            return
        node = node.next


def _said(node: Any, keep_other_links: bool, is_preformatted: bool) -> Iterator[str | None]:
    """Yield the text of a text node, as a link where it stands in one."""
    text = node.text_content or ""
    href = node.parent.attributes.get("href") if node.parent.tag == "a" else None
    if href and text.strip():
        if _is_absolute(href):
            yield f"[{' '.join(text.split())}]({href})"
        elif keep_other_links:
            yield " ".join(text.split("\n"))
    elif is_preformatted:
        for number, line in enumerate(text.split("\n")):
            if number:
                yield None
            yield line.expandtabs(4).replace(" ", _KEPT_SPACE)
    else:
        yield text.replace("\n", " ")


def _is_absolute(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc)


def text_of_pdf(content: bytes, max_chars: int) -> str:
    """Return the text of a PDF, a blank line between two pages, until there is more than ``max_chars``.

    Raises:
        ValueError: it is none, or locked with a password.
    """
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("the PDF is locked with a password")
        texts: list[str] = []
        for page in reader.pages:
            texts.append(page.extract_text().strip())
            if sum(map(len, texts)) > max_chars:
                break
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # a broken file brings pypdf to errors of nearly any kind
        raise ValueError(f"the PDF cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
    whole = "\n\n".join(filter(None, texts))
    return whole.encode("utf-8", "replace").decode()  # fonts can name halves of surrogate pairs


def _limit(cpu_s: int, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: there the parent's clock is the only limit
        return
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(kind: str, max_chars: int, tags: list[str], content: bytes) -> dict[str, Any]:
    try:
        if kind == "pdf":
            text = text_of_pdf(content, max_chars)
        else:
            html = content.decode("utf-8", "replace")
            text = text_of_elements(html, tags) if tags else text_of_page(html)
    except MemoryError:
        return {"problem": "it needs too much memory"}
    except ValueError as error:
        return {"problem": str(error)}
    return {"text": text[:max_chars], "chars": len(text)}


def _main() -> None:
    kind, max_chars, cpu_s, memory_bytes, tags = sys.argv[1:]
    _limit(int(cpu_s), int(memory_bytes))
    answer = _answer(kind, int(max_chars), json.loads(tags), sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
