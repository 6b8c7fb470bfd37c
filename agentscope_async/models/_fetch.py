"""Fetch a file from the web: an image that a provider made, a page that an agent wants to read."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from ..errors import ConfigError
from ._http import Carrier
from ._pinned import PinnedNetwork
from ._request import HttpFailure, HttpRequest, shown_url
from ._web_address import any_address, is_public, problem_of

if TYPE_CHECKING:
    from ._http_answer import HttpAnswer

__all__ = ["Fetched", "fetch", "fetch_page"]

MAX_REDIRECTS = 5
MAX_WASTE = 200
"""How many times larger than what was sent a body may become unpacked, beyond its first megabyte."""

PIECE_BYTES = 65536
ACCEPT = "text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was at a URL.

    Attributes:
        url: where it was found in the end, after redirections.
        headers: of the answer; names in lower case.
        body: unpacked.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes


async def fetch(
    url: str, *, max_bytes: int = 50_000_000, timeout_s: float = 60.0, allow_private: bool = False
) -> bytes:
    """Return what is at ``url`` (an image a provider made, say); see :func:`fetch_page`."""
    page = await fetch_page(url, max_bytes=max_bytes, timeout_s=timeout_s, allow_private=allow_private)
    return page.body


async def fetch_page(
    url: str, *, max_bytes: int, timeout_s: float, allow_private: bool = False, accept: str = "*/*"
) -> Fetched:
    """Return what is at ``url``, after at most five redirections, each checked like the first.

    Sends no cookie, no credentials and no referrer; keeps nothing of what the server sets; takes
    no notice of proxies, ``.netrc`` or ``Refresh``. From https to http is followed, as browsers do.

    Args:
        url: http or https, without credentials.
        max_bytes: more, unpacked, is given up.
        timeout_s: for all of it: looking names up, connecting, redirections, the body.
        allow_private: also addresses of this machine and of its network; else only those of the
            public internet, whatever the name says, see :func:`._web_address.is_public`.
        accept: the header of that name.

    Raises:
        ConnectionError: it could not be had, must not be had, or is too large.
    """
    network = PinnedNetwork(any_address if allow_private else is_public)
    try:
        async with asyncio.timeout(timeout_s):
            # Certificates are read from a file the first time.
            carrier = await asyncio.to_thread(Carrier, timeout_s=timeout_s, network=network)
            return await _followed(carrier, url, max_bytes, allow_private, accept)
    except (HttpFailure, ConfigError) as failure:
        raise ConnectionError(f"Could not fetch {_shown(url)}: {failure}") from failure
    except TimeoutError:
        raise ConnectionError(f"Could not fetch {_shown(url)} within {timeout_s:g} s") from None


def _shown(url: str) -> str:
    return shown_url(url)[:200] if isinstance(url, str) else repr(url)[:200]


async def _followed(carrier: Carrier, url: str, max_bytes: int, allow_private: bool, accept: str) -> Fetched:
    if (problem := problem_of(url, allow_private=allow_private)) is not None:
        raise HttpFailure("connection", problem, was_sent=False)
    for _ in range(MAX_REDIRECTS + 1):
        answer = await carrier.send(HttpRequest("GET", url, {"Accept": accept}))
        try:
            if answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                url = _redirected(url, answer.headers["location"], allow_private)
                continue
            if answer.status != 200:
                raise HttpFailure("connection", f"the server answered {answer.status}", was_sent=True)
            return Fetched(url, answer.headers, await _body(answer, max_bytes))
        finally:
            await answer.aclose()
    raise HttpFailure("connection", f"more than {MAX_REDIRECTS} redirections", was_sent=True)


def _redirected(url: str, location: str, allow_private: bool) -> str:
    # The name of a file may be written in UTF-8, against the rules; bytes came in as latin-1.
    location = location.encode("latin-1").decode("utf-8", "replace")
    try:
        found = urljoin(url, location) if location.isprintable() else location  # it drops tabs silently
    except ValueError:  # half an IPv6 address, say
        found = ""
    if (problem := problem_of(found, allow_private=allow_private)) is not None:
        text = f"it is redirected to what is no http address to ask for: {problem}"
        raise HttpFailure("connection", text, was_sent=True)
    return found


async def _body(answer: HttpAnswer, max_bytes: int) -> bytes:
    body = bytearray()
    announced = answer.headers.get("content-length", "")
    is_announced_larger = announced.isdecimal() and len(announced) < 20 and int(announced) > max_bytes
    if not is_announced_larger:
        async for piece in _unpacked(answer):
            body += piece
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise HttpFailure("connection", f"it is larger than {max_bytes} bytes", was_sent=True)


async def _unpacked(answer: HttpAnswer) -> AsyncIterator[bytes]:
    """Yield the body in pieces of bounded size: a kilobyte can unpack to a megabyte."""
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        async for chunk in answer.packed_chunks():
            yield chunk
        return
    if coding not in ("gzip", "x-gzip", "deflate"):  # we ask for identity; some send these all the same
        raise HttpFailure("connection", f"its packing {coding[:40]!r} was not asked for", was_sent=True)
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by how it begins
    packed_bytes = unpacked_bytes = 0
    async for chunk in answer.packed_chunks():
        packed_bytes += len(chunk)
        is_more = True
        while is_more and not unpacker.eof:
            piece = _piece(unpacker, chunk)
            unpacked_bytes += len(piece)
            if unpacked_bytes > 2**20 + MAX_WASTE * packed_bytes:
                raise HttpFailure("connection", "it unpacks to suspiciously much", was_sent=True)
            yield piece
            chunk = unpacker.unconsumed_tail
            is_more = bool(chunk) or len(piece) == PIECE_BYTES
    if not unpacker.eof:
        raise HttpFailure("connection", "its packing broke off", was_sent=True)


def _piece(unpacker: zlib._Decompress, chunk: bytes) -> bytes:
    try:
        return unpacker.decompress(chunk, PIECE_BYTES)
    except zlib.error as error:
        raise HttpFailure("connection", "its packing is broken", was_sent=True) from error
