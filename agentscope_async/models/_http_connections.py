"""Connections to one origin, kept to be used again: of httpcore, or of aiohttp."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol, cast

import httpcore
import httpx

from ._http_answer import HttpAnswer

__all__ = ["Aiohttp", "Pool", "Stack", "sent_once", "ssl_context"]

KEEP_ALIVE_S = 30.0
"""Connections idle for longer are closed, not used again."""


class Pool(Protocol):
    """The connections to one origin, in one event loop."""

    is_closed: bool
    in_use: int

    async def send(self, request: httpx.Request) -> HttpAnswer: ...

    async def aclose(self) -> None: ...


class Stack:
    """One transport for each connection, the one used last on top.

    A call that was not read to its end takes its connection with it: there is no slot
    that could stay taken.
    """

    def __init__(self, verify: ssl.SSLContext | bool, proxy: str | None) -> None:
        self._context = ssl_context(verify)
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


class Aiohttp:
    """The connections of an aiohttp session, behind httpx's transport interface."""

    def __init__(self, verify: ssl.SSLContext | bool, proxy: str | None) -> None:
        import aiohttp
        from httpx_aiohttp import AiohttpTransport

        context = ssl_context(verify)

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


async def sent_once(
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


async def _closed(transport: httpx.AsyncBaseTransport) -> None:
    with suppress(Exception):  # it is thrown away
        await transport.aclose()


@lru_cache(maxsize=8)
def ssl_context(verify: ssl.SSLContext | bool) -> ssl.SSLContext:
    """Return the context for what ``verify`` says; one for all connections, as making one takes long."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    return httpx.create_ssl_context(verify=verify)
