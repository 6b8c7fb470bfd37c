"""The proxy of a request: the one that was given, or what the environment says."""

from __future__ import annotations

import urllib.request
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import httpx

from .._redact import redact_text, remember_url
from ..errors import ConfigError, MissingExtraError

__all__ = ["checked_proxy", "proxy_of"]


def proxy_of(origin: str) -> str | None:
    """Return the proxy that the environment names for an origin, or None."""
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if proxy is None else checked_proxy(proxy)


def checked_proxy(url: Any) -> str:
    """Return the URL of a proxy; its password is hidden from now on.

    Raises:
        ConfigError: it is none.
        MissingExtraError: it speaks SOCKS, and what httpx needs for that is not installed.
    """
    if not isinstance(url, str):
        raise ConfigError(f"proxy must be a URL, not {type(url).__name__}")
    remember_url(url)
    try:
        httpx.Proxy(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigError(f"proxy is no http, https or socks5 URL: {redact_text(str(error))}") from None
    if url.startswith("socks") and find_spec("socksio") is None:
        raise MissingExtraError("socksio", "A SOCKS proxy needs: pip install socksio")
    return url
