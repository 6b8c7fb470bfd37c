"""One HTTP request as plain values, and how it can fail: what providers see of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from .._redact import remember_secrets, remember_url
from ..errors import ConfigError

__all__ = [
    "HttpFailure",
    "HttpRequest",
    "check_url",
    "is_http",
    "is_text",
    "shown_url",
    "with_headers",
    "with_query",
]


@dataclass(slots=True)
class HttpRequest:
    """One request, as plain values: what ``build_request`` of a provider makes.

    Attributes:
        method: ``"POST"`` or ``"GET"``.
        url: absolute, with its query.
        headers: names in any case; ``Host``, ``User-Agent``, ``Accept-Encoding`` and the length are added.
        json: the body before it is written as JSON; None sends no body.
        is_repeatable: sending it twice does no harm; False where a lost answer may still be billed.
    """

    method: str
    url: str
    headers: dict[str, str]
    json: Any = None
    is_repeatable: bool = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}, {shown_url(self.url)!r})"  # headers hold keys


class HttpFailure(Exception):
    """No answer, or not all of it.

    Attributes:
        type: ``"connection"``, ``"timeout"`` or, for an answer nobody can take, ``"bad_response"``.
        was_sent: the request, or a part of it, may have reached the server.
    """

    def __init__(self, type: str, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.type = type
        self.was_sent = was_sent


def check_url(url: str) -> str:
    """Return a URL without its last slash; what is secret in it is hidden from now on.

    Raises:
        ConfigError: it has no host, is not http or https, or goes on behind a ``#``.
    """
    if not isinstance(url, str):
        raise ConfigError(f"A URL is a text, not {type(url).__name__}.")
    remember_url(url)
    if not is_http(url):
        raise ConfigError(f"{shown_url(url)!r} is not an http:// or https:// URL with a host.")
    if "#" in url:
        raise ConfigError(f"{shown_url(url)!r}: what follows a '#' is never sent; in a password write %23.")
    return url.rstrip("/")


def is_http(url: str) -> bool:
    """Whether this is the address of something that can be asked for over HTTP."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").encode("idna")
        return parts.scheme in ("http", "https") and bool(host) and (parts.port or 1) > 0 and is_text(url)
    except ValueError:  # a port that is no number, brackets that hold no address, a label too long
        return False


def is_text(text: str) -> bool:
    """Whether this can be written as UTF-8: halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown_url(url: str) -> str:
    """Return a URL for people to read: without its query and password."""
    return url.partition("?")[0].partition("#")[0].rpartition("@")[2]


def with_headers(headers: Mapping[str, str], more: Mapping[str, str] | None) -> dict[str, str]:
    """Return all of them; of two with one name, however spelled, the later counts.

    Keys among ``more`` are hidden wherever they would be shown.
    """
    if not more:
        return dict(headers)
    remember_secrets(more)
    replaced = {name.lower() for name in more}
    return {**{name: value for name, value in headers.items() if name.lower() not in replaced}, **more}


def with_query(url: str, query: Mapping[str, Any] | None) -> str:
    """Return the URL with these parameters added to its own."""
    if not query:
        return url
    scheme, host, path, known, _ = urlsplit(url)
    more = urlencode(query, doseq=True)
    return urlunsplit((scheme, host, path or "/", "&".join(filter(None, (known, more))), ""))
