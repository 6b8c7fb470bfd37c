"""Fetch a file from the web: an image that a provider made, say."""

from __future__ import annotations

import asyncio
from urllib.parse import urljoin

from ._http import Carrier
from ._request import HttpFailure, HttpRequest, is_http, shown_url

__all__ = ["fetch"]


async def fetch(url: str, *, max_bytes: int = 50_000_000, timeout_s: float = 60.0) -> bytes:
    """Return what is at ``url`` (an image a provider made, say).

    Raises:
        ConnectionError: it could not be had, or is larger than ``max_bytes``.
    """
    carrier = Carrier(timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await _fetched(carrier, url, max_bytes)
    except HttpFailure as failure:
        raise ConnectionError(f"Could not fetch {shown_url(url)}: {failure}") from failure
    except TimeoutError:
        raise ConnectionError(f"Could not fetch {shown_url(url)} within {timeout_s:g} s") from None


MAX_REDIRECTS = 5


async def _fetched(carrier: Carrier, url: str, max_bytes: int) -> bytes:
    for _ in range(MAX_REDIRECTS):
        answer = await carrier.send(HttpRequest("GET", url, {"Accept": "*/*"}))
        try:
            if answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                url = _redirected(url, answer.headers["location"])
                continue
            if answer.status != 200:
                raise HttpFailure("connection", f"the server answered {answer.status}", was_sent=True)
            body = bytearray()
            async for chunk in answer.chunks():
                body += chunk
                if len(body) > max_bytes:
                    raise HttpFailure("connection", f"it is larger than {max_bytes} bytes", was_sent=True)
            return bytes(body)
        finally:
            await answer.aclose()
    raise HttpFailure("connection", f"more than {MAX_REDIRECTS} redirections", was_sent=True)


def _redirected(url: str, location: str) -> str:
    try:
        found = urljoin(url, location)
    except ValueError:  # half an IPv6 address, say
        found = ""
    if not is_http(found):
        raise HttpFailure("connection", "it is redirected to what is no http address", was_sent=True)
    return found
