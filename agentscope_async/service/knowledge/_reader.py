"""Reads an HTML page or a PDF that anybody may have written; a program, run with limits.

``_reader.py KIND MAX_CHARS CPU_S MEMORY_BYTES`` reads the file from standard input and writes
one JSON object: ``{"pages": [text, ...]}``, of HTML one text in Markdown, or ``{"problem": text}``.
It limits itself first: a small file of either kind can keep its parser busy for minutes, or fill
the memory. It imports nothing of this package, so that it starts fast.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["markdown_of_page", "texts_of_pdf"]

_LEFT_OUT = frozenset(["script", "style", "noscript", "template", "nav", "svg", "head", "iframe", "object"])
_BLOCKS = frozenset(
    "p div section article main aside header footer ul ol table tr blockquote dl dt dd figure figcaption "
    "br hr details summary body form".split()
)
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}


def markdown_of_page(html: bytes) -> str:
    """Return what a reader sees of a page; headings begin with ``#``, code stands between fences."""
    from selectolax.lexbor import LexborHTMLParser

    root = LexborHTMLParser(html).root
    text = "".join(_pieces(root)) if root is not None else ""
    return "\n".join(line.rstrip() for line in text.split("\n"))


def _pieces(root: Any) -> Iterator[str]:
    """Yield the texts in reading order; no recursion, pages nest as deep as they like."""
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
        elif node.tag == "-text":
            yield _words(node)
        elif node.tag not in _LEFT_OUT:
            before, after = _around(node.tag)
            yield before
            waiting.append(after)
            waiting.extend(reversed(list(node.iter(include_text=True))))


def _words(node: Any) -> str:
    text: str = node.text_content or ""
    if node.parent is not None and node.parent.tag in ("pre", "code"):
        return text
    spaced = " ".join(text.split())
    if not spaced:
        return " " if text else ""
    spaced = f"\\{spaced}" if spaced.startswith("#") else spaced  # words, and no heading
    spaced = spaced if text[0].strip() else f" {spaced}"
    return spaced if text[-1].strip() else f"{spaced} "


def _around(tag: str) -> tuple[str, str]:
    if tag in _HEADINGS:
        return f"\n\n{_HEADINGS[tag]} ", "\n\n"
    if tag == "pre":
        return "\n```\n", "\n```\n"
    if tag == "li":
        return "\n- ", ""
    if tag in ("td", "th"):
        return "", " | "
    return ("\n\n", "\n\n") if tag in _BLOCKS else ("", "")


def texts_of_pdf(content: bytes, max_chars: int) -> list[str]:
    """Return the text of each page.

    Raises:
        ValueError: it is no PDF, locked with a password, or longer than ``max_chars``.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    texts: list[str] = []
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("it is locked with a password")
        for page in reader.pages:
            texts.append(page.extract_text().strip())
            if sum(map(len, texts)) > max_chars:
                raise ValueError(f"it has more than {max_chars} characters")
    except (PyPdfError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no PDF, or a broken one: {type(error).__name__}") from error
    return texts


def _limit(cpu_s: int, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: there the parent's clock is the only limit
        return
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(kind: str, max_chars: int, content: bytes) -> dict[str, Any]:
    try:
        pages = texts_of_pdf(content, max_chars) if kind == "pdf" else [markdown_of_page(content)]
    except MemoryError:
        return {"problem": "it needs too much memory to read"}
    except ValueError as error:
        return {"problem": str(error)}
    if sum(map(len, pages)) > max_chars:
        return {"problem": f"it has more than {max_chars} characters"}
    return {"pages": pages}


def _main() -> None:
    kind, max_chars, cpu_s, memory_bytes = sys.argv[1:]
    _limit(int(cpu_s), int(memory_bytes))
    answer = _answer(kind, int(max_chars), sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
