"""The wire: requests written and sent; with its parts, ``_http_*``, the only use of httpx in this package.

Calls are built as ``httpx.Request`` and handed straight to a transport. An
``httpx.AsyncClient`` on the path costs a quarter of a millisecond of CPU a call, and
httpcore's pool, which scans all its connections at every request, 2 to 5 ms with 64
calls in flight. So: the transport of ``httpx-aiohttp`` where the extra ``fast`` is
installed, and otherwise one small httpx transport for each connection, on a stack.
"""

from __future__ import annotations

import asyncio
import base64
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpx
import orjson

from .. import __version__
from .._redact import redact_text, remember_secret
from ..errors import ConfigError, MissingExtraError
from ._http_answer import MAX_ANSWER_BYTES, HttpAnswer
from ._http_connections import Pool, sent_once, ssl_context
from ._http_failures import failure_of
from ._http_pools import Route, has_aiohttp, is_mocked, loop_pools
from ._http_proxy import checked_proxy
from ._http_redaction import showable
from ._request import HttpFailure, HttpRequest, shown_url

if TYPE_CHECKING:
    import ssl

    import httpcore

__all__ = ["Carrier"]


class Carrier:
    """Sends the requests of one wrapper: by the shared pools of the running loop, or as told.

    Args:
        http: ``"aiohttp"``, ``"httpx"``, or ``"auto"``: the first where it is installed.
        transport: an ``httpx.AsyncBaseTransport`` to use instead of ours; never closed here.
        client: an ``httpx.AsyncClient`` to use instead of ours; never closed here.
        verify: False, or an ``ssl.SSLContext``, instead of the usual certificates.
        proxy: the URL of a proxy; by default what the environment says.
        timeout_s: seconds without a byte before a call is given up; None: no limit.
        connect_timeout_s: seconds to connect in.
        max_answer_bytes: a larger body, uncompressed, is given up.
        network: what opens connections instead of ours: one for each request, straight to its
            server whatever the environment says of proxies, and closed after it.
    """

    def __init__(
        self,
        *,
        http: str = "auto",
        transport: Any = None,
        client: Any = None,
        verify: ssl.SSLContext | bool = True,
        proxy: str | None = None,
        timeout_s: float | None = 600.0,
        connect_timeout_s: float | None = 10.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        if http not in ("auto", "aiohttp", "httpx"):
            raise ConfigError(f"http must be 'auto', 'aiohttp' or 'httpx', got {http!r}")
        if http == "aiohttp" and not has_aiohttp():
            raise MissingExtraError(
                "httpx_aiohttp", "http='aiohttp' needs: pip install 'agentscope-async[fast]'"
            )
        if transport is not None and client is not None:
            raise ConfigError("Give a transport or an http_client, not both.")
        _check(transport, "handle_async_request", "transport", "httpx.AsyncBaseTransport")
        _check(client, "send", "http_client", "httpx.AsyncClient")
        self._transport: httpx.AsyncBaseTransport | None = transport
        self._client: httpx.AsyncClient | None = client
        self._max_answer_bytes = max_answer_bytes
        self._route = Route(http, verify, None if proxy is None else checked_proxy(proxy))
        self._network = network
        if network is not None:
            ssl_context(verify)
        elif transport is None and client is None:
            load(http, verify)
        self._extensions = {
            "timeout": {
                "connect": connect_timeout_s,
                "read": timeout_s,
                "write": timeout_s,
                "pool": None,
            }
        }
        self._pool: Pool | None = None
        self._pool_of: tuple[asyncio.AbstractEventLoop, str] | None = None

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """Send a request and return its answer once the headers are there.

        Raises:
            HttpFailure: there was no answer.
            ConfigError: the URL or a header cannot be sent.
            TypeError, ValueError: the body cannot be written as JSON.
        """
        wire = self._as_httpx(request)
        try:
            if self._client is not None:
                answer = HttpAnswer(await self._client.send(wire, stream=True), None)
            elif self._transport is not None:
                answer = HttpAnswer(await self._transport.handle_async_request(wire), None)
            elif self._network is not None:
                answer = await sent_once(wire, ssl_context(self._route.verify), self._network)
            else:
                answer = await self._pool_for(request.url).send(wire)
        except HttpFailure:
            raise
        except Exception as error:
            raise failure_of(error, was_sent=False) from showable(error)
        answer.max_bytes = self._max_answer_bytes
        return answer

    def _as_httpx(self, request: HttpRequest) -> httpx.Request:
        body = b"" if request.json is None else orjson.dumps(request.json)
        url, host, login, _ = _parsed(request.url)
        headers = [(b"Host", host), *_DEFAULT_HEADERS]
        for name, value in request.headers.items():
            headers.append(_header(name, value))
        if login is not None:
            headers = [(name, value) for name, value in headers if name.lower() != b"authorization"]
            headers.append((b"Authorization", login))
        if request.json is not None:
            headers.append((b"Content-Length", b"%d" % len(body)))
        wire = httpx.Request(
            request.method, url, headers=headers, stream=httpx.ByteStream(body), extensions=self._extensions
        )
        wire._content = body
        return wire

    def _pool_for(self, url: str) -> Pool:
        loop = asyncio.get_running_loop()
        origin = _parsed(url)[3]
        if self._pool_of is not None and self._pool_of[0] is loop and self._pool_of[1] == origin:
            if self._pool is not None and not self._pool.is_closed and not is_mocked():
                return self._pool
        self._pool = loop_pools().get(origin, self._route)
        self._pool_of = (loop, origin)
        return self._pool


_DEFAULT_HEADERS = (
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", f"agentscope-async/{__version__}".encode()),
)


@lru_cache(maxsize=1024)
def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if not isinstance(value, str):
        raise ConfigError(f"The header {name!r} must be a text.")
    if "\n" in value or "\r" in value or "\0" in value:
        raise ConfigError(f"The header {name!r} holds a line break or a NUL.")
    if not (name.isascii() and _LATIN_1.fullmatch(value)):
        raise ConfigError(f"The header {name!r} holds characters that HTTP does not allow.")
    return name.encode("ascii"), value.encode("latin-1")


_LATIN_1 = re.compile(r"[\x00-\xff]*")


@lru_cache(maxsize=256)
def _parsed(url: str) -> tuple[httpx.URL, bytes, bytes | None, str]:
    """Return a URL without user and password, its host, these as Authorization, its origin."""
    try:
        parsed = httpx.URL(url)
        login = _login(parsed) if parsed.userinfo else None
        bare = parsed.copy_with(userinfo=b"")
    except httpx.InvalidURL as error:
        raise ConfigError(f"{shown_url(url)!r} is not a URL: {redact_text(str(error))}") from None
    return bare, bare.netloc, login, f"{bare.scheme}://{bare.netloc.decode('ascii')}"


def _login(url: httpx.URL) -> bytes:
    """Return what a URL's user and password are as a header (RFC 7617)."""
    coded = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    remember_secret(url.password)
    remember_secret(coded)
    return f"Basic {coded}".encode()


def load(http: str, verify: ssl.SSLContext | bool) -> None:
    """Load what the first call needs: under way, it would hold up the loop for a quarter of a second."""
    ssl_context(verify)
    if http == "aiohttp" or (http == "auto" and has_aiohttp()):
        import aiohttp  # noqa: F401
        import httpx_aiohttp  # noqa: F401


def _check(value: Any, method: str, name: str, kind: str) -> None:
    if value is not None and not hasattr(value, method):
        raise ConfigError(f"{name} must be an {kind}, not {type(value).__name__}")
