"""A connection to an MCP server by streamable HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from ._limits import MAX_MESSAGE_BYTES, is_moderate, refusal

if TYPE_CHECKING:
    import httpx2
    from mcp.client import Transport
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage

__all__ = ["http_streams"]

CONNECTING_S = 30.0
"""For connecting and for sending a request. Answers may take any time; calls have limits of their own."""


def http_streams(url: str, headers: Mapping[str, str] | None) -> Transport:
    """Connect when the context is entered. Redirects are followed within the origin of ``url`` only."""
    return _streams(url, headers)


@asynccontextmanager
async def _streams(url: str, headers: Mapping[str, str] | None) -> AsyncGenerator[TransportStreams, None]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(
            # Compressed answers could grow beyond any cap on what was received.
            headers={**(headers or {}), "accept-encoding": "identity"},
            timeout=httpx2.Timeout(CONNECTING_S, read=None),
            transport=_capped_transport(),
        ) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES) as (
            incoming,
            outgoing,
        ),
    ):
        yield _Moderated(incoming), outgoing


class _Moderated:
    """A stream of messages whose immoderate answers are refused before the session checks them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def last_context(self) -> Any:  # which the package asks for
        return self._stream.last_context

    async def receive(self) -> SessionMessage | Exception:
        return _moderated(await self._stream.receive())

    async def __anext__(self) -> SessionMessage | Exception:
        return _moderated(await anext(self._stream))

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stream.__aexit__(*error)


def _moderated(item: SessionMessage | Exception) -> SessionMessage | Exception:
    from mcp.shared.message import SessionMessage
    from mcp_types import JSONRPCResponse

    if isinstance(item, Exception):
        return item
    message = item.message
    if isinstance(message, JSONRPCResponse):
        return item if is_moderate(message.result) else SessionMessage(refusal(message.id))
    is_fine = is_moderate(getattr(message, "params", None))
    return item if is_fine else ValueError("the server sent an immoderate message")


def _capped_transport() -> httpx2.AsyncBaseTransport:
    """Return a transport whose answers end in an error at :data:`MAX_MESSAGE_BYTES`; not event streams."""
    import httpx2

    class CappedStream(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            received = 0
            async for chunk in self._stream:
                received += len(chunk)
                if received > MAX_MESSAGE_BYTES:
                    raise httpx2.StreamError(f"the answer is longer than {MAX_MESSAGE_BYTES:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    class CappedTransport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            kept = [each for each in response.headers.raw if each[0].lower() != b"content-encoding"]
            is_endless = response.headers.get("content-type", "").lower().startswith("text/event-stream")
            return httpx2.Response(
                response.status_code,
                headers=kept,
                stream=response.stream if is_endless else CappedStream(response.stream),
                extensions=response.extensions,
            )

    return CappedTransport()
