"""The wire: connections, kept and shared, and the only use of httpx in this package.

Calls are built as ``httpx.Request`` and handed straight to a transport. An
``httpx.AsyncClient`` on the path costs a quarter of a millisecond of CPU a call, and
httpcore's pool, which scans all its connections at every request, 2 to 5 ms with 64
calls in flight. So: the transport of ``httpx-aiohttp`` where the extra ``fast`` is
installed, and otherwise one small httpx transport for each connection, on a stack.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import ssl
import sys
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpcore
import httpx
import orjson

from .. import __version__
from .._redact import redact_text, remember_secret, remember_url
from ..errors import ConfigError, MissingExtraError
from ._request import HttpFailure, HttpRequest, shown_url

__all__ = ["Carrier", "HttpAnswer", "close_idle_pools", "in_use"]

KEEP_ALIVE_S = 30.0
"""Connections idle for longer are closed, not used again."""

MAX_ANSWER_BYTES = 100_000_000
"""Unless a wrapper says otherwise: far more than any answer, and less than a process has."""

DRAIN_S = 1.0
"""How long the rest of a stream is read, after its last event, so that its connection can be kept."""


class HttpAnswer:
    """The status and headers of an answer, and its body, still to be read.

    ``await answer.read()`` for the whole body, or ``async for chunk in answer.chunks()``;
    then ``await answer.aclose()``. What was not read to its end costs the connection.
    """

    __slots__ = ("status", "headers", "max_bytes", "_size", "_response", "_give_back", "_is_read")

    def __init__(self, response: httpx.Response, give_back: _GiveBack | None) -> None:
        self.max_bytes = MAX_ANSWER_BYTES
        self._size = 0
        self.status = response.status_code
        # A plain dict: each look into httpx's Headers costs as much as building this.
        self.headers: Mapping[str, str] = {
            name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers.raw
        }
        self._response = response
        self._give_back = give_back
        self._is_read = False

    async def read(self) -> bytes:
        """Return the whole body and give the connection back.

        Raises:
            HttpFailure: it broke off, or is larger than ``max_bytes``.
        """
        try:
            body = b"".join([self._weighed(chunk) async for chunk in self._body()])
            self._is_read = True
        except Exception as error:
            raise _failure(error, was_sent=True) from _showable(error)
        finally:
            await self.aclose()
        return body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives, uncompressed.

        Raises:
            HttpFailure: it broke off, or is larger than ``max_bytes``.
        """
        try:
            async for chunk in self._body():
                yield self._weighed(chunk)
        except Exception as error:
            raise _failure(error, was_sent=True) from _showable(error)
        self._is_read = True

    async def packed_chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it was sent, compressed if it is.

        Raises:
            HttpFailure: it broke off, or is larger than ``max_bytes``.
        """
        try:
            async for chunk in cast("AsyncIterator[bytes]", self._response.stream):
                yield self._weighed(chunk)
        except Exception as error:
            raise _failure(error, was_sent=True) from _showable(error)
        self._is_read = True

    def _weighed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size > self.max_bytes:
            text = f"the answer is larger than {self.max_bytes} bytes (max_answer_bytes)"
            raise HttpFailure("bad_response", text, was_sent=True)
        return chunk

    def _body(self) -> AsyncIterator[bytes]:
        is_packed = "content-encoding" in self.headers
        if is_packed and "," in self.headers["content-encoding"]:  # each multiplies what few bytes become
            raise HttpFailure("bad_response", "the answer is packed more than once", was_sent=True)
        body = self._response.aiter_bytes() if is_packed else self._response.stream
        return cast("AsyncIterator[bytes]", body)

    async def drain(self, chunks: AsyncIterator[bytes]) -> None:
        """Read what is left, so that the connection can be used again, for a second at most."""
        with suppress(HttpFailure, TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                async for _ in chunks:
                    pass

    async def aclose(self) -> None:
        """Give the connection back when all was read, else close it; again: no effect."""
        give_back, self._give_back = self._give_back, None
        try:
            await self._response.stream.aclose()  # type: ignore[union-attr]  # async transports give async streams
        except Exception as error:  # the answer is in hand, or has failed already
            self._is_read = False
            if not isinstance(error, _BROKEN):
                raise
        except BaseException:
            self._is_read = False
            raise
        finally:
            if give_back is not None:
                await give_back(self._is_read)


class _GiveBack(Protocol):
    """Takes a connection back; it can be used again if it ``is_clean``."""

    async def __call__(self, is_clean: bool, /) -> None: ...


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
        if http == "aiohttp" and not _has_aiohttp():
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
        self._route = _Route(http, verify, None if proxy is None else _checked_proxy(proxy))
        self._network = network
        if network is not None:
            _ssl_context(verify)
        elif transport is None and client is None:
            _load(http, verify)
        self._extensions = {
            "timeout": {
                "connect": connect_timeout_s,
                "read": timeout_s,
                "write": timeout_s,
                "pool": None,
            }
        }
        self._pool: _Pool | None = None
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
                answer = await _sent_once(wire, _ssl_context(self._route.verify), self._network)
            else:
                answer = await self._pool_for(request.url).send(wire)
        except HttpFailure:
            raise
        except Exception as error:
            raise _failure(error, was_sent=False) from _showable(error)
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

    def _pool_for(self, url: str) -> _Pool:
        loop = asyncio.get_running_loop()
        origin = _parsed(url)[3]
        if self._pool_of is not None and self._pool_of[0] is loop and self._pool_of[1] == origin:
            if self._pool is not None and not self._pool.is_closed and not _is_mocked():
                return self._pool
        self._pool = _pools_of(loop).get(origin, self._route)
        self._pool_of = (loop, origin)
        return self._pool


@dataclass(frozen=True, slots=True)
class _Route:
    """How connections to an origin are made; part of the key of their pool."""

    http: str
    verify: ssl.SSLContext | bool
    proxy: str | None = field(repr=False)


class _Pool(Protocol):
    """The connections to one origin, in one event loop."""

    is_closed: bool
    in_use: int

    async def send(self, request: httpx.Request) -> HttpAnswer: ...

    async def aclose(self) -> None: ...


class _Connection(httpx.AsyncBaseTransport):
    """A transport that is one connection of httpcore, without a pool around it."""

    def __init__(
        self, url: httpx.URL, context: ssl.SSLContext, network: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        port = url.port or (443 if url.scheme == "https" else 80)
        self._connection = httpcore.AsyncHTTPConnection(
            httpcore.Origin(url.raw_scheme, url.raw_host, port),
            ssl_context=context,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=network or httpcore.AnyIOBackend(),
        )

    @property
    def is_usable(self) -> bool:
        """It is open, and the server has not hung up while it was idle."""
        return not (self._connection.is_closed() or self._connection.has_expired())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        answer = await self._connection.handle_async_request(
            httpcore.Request(
                request.method,
                target,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Incoming(answer.stream))

    async def aclose(self) -> None:
        await self._connection.aclose()


class _Incoming(httpx.AsyncByteStream):
    """The body of an answer, from httpcore."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return cast("AsyncIterator[bytes]", self._stream.__aiter__())

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _sent_once(
    request: httpx.Request, context: ssl.SSLContext, network: httpcore.AsyncNetworkBackend
) -> HttpAnswer:
    """Send a request over a connection of its own, which ends with its answer."""
    connection = _Connection(request.url, context, network)

    async def close(is_clean: bool = False) -> None:
        await asyncio.shield(_closed(connection))

    try:
        response = await connection.handle_async_request(request)
    except BaseException:
        await close()
        raise
    return HttpAnswer(response, close)


class _Stack:
    """One transport for each connection, the one used last on top.

    A call that was not read to its end takes its connection with it: there is no slot
    that could stay taken.
    """

    def __init__(self, verify: ssl.SSLContext | bool, proxy: str | None) -> None:
        self._context = _ssl_context(verify)
        self._proxy = proxy
        self._free: deque[tuple[float, httpx.AsyncBaseTransport]] = deque()
        self._clock = asyncio.get_running_loop().time
        self.in_use = 0
        self.is_closed = False

    async def send(self, request: httpx.Request) -> HttpAnswer:
        self.in_use += 1
        transport = None
        try:
            transport = await self._take(request.url)
            response = await transport.handle_async_request(request)
        except BaseException:
            await self._give_back(transport, False)
            raise
        return HttpAnswer(response, lambda is_clean: self._give_back(transport, is_clean))

    async def _take(self, url: httpx.URL) -> httpx.AsyncBaseTransport:
        while self._free:
            last_used, transport = self._free.pop()
            is_usable = not isinstance(transport, _Connection) or transport.is_usable
            if is_usable and last_used > self._clock() - KEEP_ALIVE_S:
                return transport
            await _closed(transport)
        if self._proxy is None:
            return _Connection(url, self._context)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_S)
        return httpx.AsyncHTTPTransport(
            verify=self._context, trust_env=False, limits=limits, proxy=self._proxy
        )

    async def _give_back(self, transport: httpx.AsyncBaseTransport | None, is_clean: bool) -> None:
        self.in_use -= 1
        if transport is None:
            return
        if is_clean and not self.is_closed:
            now = self._clock()
            self._free.append((now, transport))
            if self._free[0][0] < now - KEEP_ALIVE_S:
                await self._free.popleft()[1].aclose()
        else:
            await asyncio.shield(_closed(transport))

    async def aclose(self) -> None:
        self.is_closed = True
        while self._free:
            await self._free.pop()[1].aclose()


class _Aiohttp:
    """The connections of an aiohttp session, behind httpx's transport interface."""

    def __init__(self, verify: ssl.SSLContext | bool, proxy: str | None) -> None:
        import aiohttp
        from httpx_aiohttp import AiohttpTransport

        context = _ssl_context(verify)

        def session() -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(
                limit=0, ssl=context, keepalive_timeout=KEEP_ALIVE_S, enable_cleanup_closed=False
            )
            return aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )

        self._transport = AiohttpTransport(
            verify=context, client=session, proxy=httpx.Proxy(proxy) if proxy else None
        )
        self.in_use = 0
        self.is_closed = False

    async def send(self, request: httpx.Request) -> HttpAnswer:
        self.in_use += 1
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException:
            self.in_use -= 1
            raise
        return HttpAnswer(response, self._give_back)

    async def _give_back(self, is_clean: bool) -> None:
        self.in_use -= 1

    async def aclose(self) -> None:
        self.is_closed = True
        await self._transport.aclose()


class _LoopPools:
    """All pools of one event loop."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, _Route], _Pool] = {}
        self._until_shutdown: AsyncIterator[None] | None = None

    def get(self, origin: str, route: _Route) -> _Pool:
        http = "httpx" if _is_mocked() else route.http
        if http == "auto":
            http = "aiohttp" if _has_aiohttp() else "httpx"
        key = (origin, _Route(http, route.verify, route.proxy))
        pool = self._pools.get(key)
        if pool is None or pool.is_closed:
            proxy = route.proxy or _proxy_of(origin)
            if proxy is not None and proxy.startswith("socks"):  # httpx-aiohttp cannot
                http = "httpx"
            pool = self._pools[key] = (
                _Aiohttp(route.verify, proxy) if http == "aiohttp" else _Stack(route.verify, proxy)
            )
        return pool

    def all(self) -> list[_Pool]:
        return list(self._pools.values())

    async def close(self, *, only_idle: bool) -> None:
        for key, pool in list(self._pools.items()):
            if not (only_idle and pool.in_use):
                del self._pools[key]
                await pool.aclose()

    async def watch(self) -> None:
        """Have the pools closed when the loop shuts down its asynchronous generators.

        That is the only notice asyncio gives; ``asyncio.run`` and anyio do it for
        every loop.
        """
        if self._until_shutdown is None:
            self._until_shutdown = self._wait()
            await anext(self._until_shutdown)

    async def _wait(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.close(only_idle=False)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPools] = WeakKeyDictionary()


def _pools_of(loop: asyncio.AbstractEventLoop) -> _LoopPools:
    pools = _loops.get(loop)
    if pools is None:
        pools = _loops[loop] = _LoopPools()
        started = pools.watch()
        with suppress(StopIteration):
            started.send(None)  # runs to its end without waiting: the generator yields at once
    return pools


async def close_idle_pools() -> None:
    """Close the running loop's connections that no call is using; later calls open new ones."""
    pools = _loops.get(asyncio.get_running_loop())
    if pools is not None:
        await pools.close(only_idle=True)


def in_use() -> int:
    """Return how many connections of the running loop belong to a call right now."""
    pools = _loops.get(asyncio.get_running_loop())
    return 0 if pools is None else sum(pool.in_use for pool in pools.all())


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


@lru_cache(maxsize=8)
def _ssl_context(verify: ssl.SSLContext | bool) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    return httpx.create_ssl_context(verify=verify)


def _load(http: str, verify: ssl.SSLContext | bool) -> None:
    """Load what the first call needs: under way, it would hold up the loop for a quarter of a second."""
    _ssl_context(verify)
    if http == "aiohttp" or (http == "auto" and _has_aiohttp()):
        import aiohttp  # noqa: F401
        import httpx_aiohttp  # noqa: F401


@lru_cache(maxsize=1)
def _has_aiohttp() -> bool:
    return find_spec("httpx_aiohttp") is not None


def _is_mocked() -> bool:
    """Whether a respx mock is active: it replaces what httpx uses, and so must we then."""
    respx = sys.modules.get("respx.mocks")
    return respx is not None and any(
        getattr(mocker, "routers", None) for mocker in respx.Mocker.registry.values()
    )


def _proxy_of(origin: str) -> str | None:
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if proxy is None else _checked_proxy(proxy)


def _check(value: Any, method: str, name: str, kind: str) -> None:
    if value is not None and not hasattr(value, method):
        raise ConfigError(f"{name} must be an {kind}, not {type(value).__name__}")


def _checked_proxy(url: Any) -> str:
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


async def _closed(transport: httpx.AsyncBaseTransport) -> None:
    with suppress(Exception):  # it is thrown away
        await transport.aclose()


def _failure(error: Exception, *, was_sent: bool) -> HttpFailure:
    """Return what happened in our words.

    httpx-aiohttp calls every ClientConnectionError a ConnectTimeout, a server that
    hung up without an answer among them; its cause tells.
    """
    if isinstance(error, HttpFailure):
        return error
    cause = error.__cause__
    # aiohttp writes of TLS where there is none
    text = redact_text(str(error)).replace(" ssl:default", "") or type(cause or error).__name__
    if isinstance(error, _UNSENDABLE):
        raise ConfigError(f"The request cannot be sent: {text}") from _showable(error)
    if not isinstance(error, _BROKEN) and not _is_of_aiohttp(error):
        raise error
    if cause is not None and _is_of_aiohttp(cause):
        is_timeout = isinstance(cause, TimeoutError)
        never_left = any(kind.__name__ in _BEFORE_SENDING for kind in type(cause).__mro__)
    else:
        is_timeout = isinstance(error, (httpx.TimeoutException, httpcore.TimeoutException))
        never_left = isinstance(error, _NOT_CONNECTED)
    return HttpFailure("timeout" if is_timeout else "connection", text, was_sent=was_sent or not never_left)


class _WithoutSecrets(logging.Filter):
    """Hides keys in what the libraries below log at DEBUG: addresses, the headers of answers."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (shown := redact_text(text)) != text:
            record.msg, record.args = shown, ()
        return True


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks"):
    logging.getLogger(_name).addFilter(_WithoutSecrets())  # of a logger itself: one place, any handler


def _showable(error: BaseException) -> BaseException | None:
    """Return ``error``, or None where it shows a secret in a traceback; aiohttp's hold all headers."""
    each: BaseException | None = error
    while each is not None:
        text = f"{each} {each!r}"
        if redact_text(text) != text:
            return None
        each = each.__cause__ or each.__context__
    return error


_UNSENDABLE = (
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpcore.UnsupportedProtocol,
    httpcore.LocalProtocolError,
)
_BROKEN = (
    httpx.HTTPError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    OSError,
)
_NOT_CONNECTED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
)
_BEFORE_SENDING = ("ClientConnectorError", "ConnectionTimeoutError")
"""aiohttp's errors of a connection that was not made."""


def _is_of_aiohttp(error: BaseException) -> bool:
    return type(error).__module__.startswith("aiohttp")
