"""Have a page of the web, from public addresses only, and say what is in it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from .._marks import marked
from ..response import ServiceResponse
from .page import WebPage
from .text import MAX_TEXT_CHARS, extract

__all__ = ["MAX_BYTES", "is_valid_url", "load_web"]

MAX_BYTES = 10_000_000
"""A larger page is not loaded, unless the program says so."""

MAX_JSON_BYTES = 4_000_000
"""A larger document is not parsed: that holds up all of Python, for 40 ms a megabyte, also in a thread."""


@marked(untrusted="url", granted=("keep_raw", "self_parse_func", "timeout", "allow_private", "max_bytes"))
async def load_web(
    url: str,
    keep_raw: bool = True,
    html_selected_tags: Sequence[str] | None = None,
    self_parse_func: Callable[[WebPage], Any] | None = None,
    timeout: float = 5,
    *,
    allow_private: bool = False,
    max_bytes: int = MAX_BYTES,
) -> ServiceResponse:
    """Load a web page, a PDF, a JSON document or a text file from the internet and return what it says.

    Has the form of AgentScope v0.0.2 (service/web_search/web_digest.py), where HTML without selected
    tags, plain text and PDF were errors.

    Only addresses of the public internet are asked: the host's name is resolved once, every address
    found is checked, and exactly those are connected to; for each redirection (at most five) again.
    Proxies of the environment, cookies, credentials and ``Refresh`` have no part in it. HTML and PDF are
    read by a process of its own with limits of time and memory.

    Args:
        url (str): The address of the page, beginning with http:// or https://.
        keep_raw (bool): Whether to keep the page as it was sent.
        html_selected_tags (Optional[Sequence[str]]): Only return the text of these HTML elements,
            for example h1, p, li. By default all of the page's text is returned.
        self_parse_func (Optional[Callable]): is called with the :class:`WebPage`, in a worker thread,
            or awaited; what it returns is kept.
        timeout (float): seconds for having the page, redirections and all.
        allow_private (bool): also addresses of this machine and its network.
        max_bytes (int): a larger page is an error.

    Returns:
        ServiceResponse: the content is a dict with some of these keys: ``raw`` (bytes),
        ``self_define_func`` (what that function returned), and by what the page is ``html_to_text``,
        ``json``, ``pdf_to_text`` or ``text``; images have only ``raw``. Where a text was longer than
        200,000 characters, or a JSON document than 4 MB, ``cut`` says so.

    Raises:
        MissingExtraError: HTML needs selectolax, PDF pypdf.
    """
    from ...models._fetch import ACCEPT, fetch_page

    try:
        found = await fetch_page(
            url, max_bytes=max_bytes, timeout_s=timeout, allow_private=allow_private, accept=ACCEPT
        )
    except ConnectionError as error:
        return ServiceResponse.error(str(error))
    page = WebPage(found.url, found.headers, found.body)
    content: dict[str, Any] = {"raw": page.content} if keep_raw else {}
    if self_parse_func is not None:
        try:
            content["self_define_func"] = await _called(self_parse_func, page)
        except Exception as error:
            return ServiceResponse.error(error)
    try:
        content |= await _read(page, html_selected_tags or ())
    except ValueError as error:
        return ServiceResponse.error(f"Could not read {page.kind} from {url!r}: {error}")
    return ServiceResponse.success(content)


def is_valid_url(url: str) -> bool:
    """Tell whether a text is a URL: whether it has a scheme and a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc)


async def _called(function: Callable[[WebPage], Any], page: WebPage) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(page)
    result = await asyncio.to_thread(function, page)
    return await result if inspect.isawaitable(result) else result


async def _read(page: WebPage, tags: Sequence[str]) -> dict[str, Any]:
    match page.kind:
        case "html":
            source = (await asyncio.to_thread(lambda: page.text)).encode("utf-8", "replace")
            return _named("html_to_text", *await _extracted("html", source, tags))
        case "pdf":
            return _named("pdf_to_text", *await _extracted("pdf", page.content, ()))
        case "json" if len(page.content) > MAX_JSON_BYTES:
            return {"cut": f"json is left out: the document is larger than {MAX_JSON_BYTES} bytes"}
        case "json":
            return {"json": await asyncio.to_thread(page.json)}
        case "text":
            text = await asyncio.to_thread(lambda: page.text)
            return _named("text", text[:MAX_TEXT_CHARS], len(text))
        case "image" | "binary":
            return {}


async def _extracted(kind: Any, content: bytes, tags: Sequence[str]) -> tuple[str, int]:
    found = await extract(kind, content, tags=tags)
    return found.text, found.chars


def _named(key: str, text: str, chars: int) -> dict[str, str]:
    if chars == len(text):
        return {key: text}
    return {key: text, "cut": f"{key} holds the first {len(text)} characters; there were at least {chars}"}
