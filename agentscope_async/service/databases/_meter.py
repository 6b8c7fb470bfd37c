"""Counts what a server sends, below the driver, and hangs up when it is too much.

A driver holds a whole row, at times a whole result, before it hands over any of it; so this
is the only place where one cell of a gigabyte can be stopped.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

__all__ = ["Meter"]


class Meter:
    """The bytes that have come in over a transport since :meth:`start`.

    Stands between a transport and its driver's protocol, which may read by either of
    asyncio's two interfaces.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._left: float = float("inf")
        inner = transport.get_protocol()
        is_buffered = isinstance(inner, asyncio.BufferedProtocol)
        transport.set_protocol((_MeteredBuffer if is_buffered else _MeteredData)(inner, self))

    def start(self, max_bytes: float) -> None:
        """Allow so many from now on."""
        self._left = max_bytes

    @property
    def is_over(self) -> bool:
        """Whether more has come, and the connection was cut; the driver may have got all of it before."""
        return self._left < 0

    def count(self, byte_count: int) -> None:
        """Take note of what has come."""
        self._left -= byte_count
        if self._left < 0:
            self._transport.abort()


class _Metered(asyncio.BaseProtocol):
    """Hands everything on; drivers put calls of their own on their protocols, too."""

    def __init__(self, inner: Any, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def eof_received(self) -> bool | None:
        return cast("bool | None", self._inner.eof_received())


class _MeteredData(_Metered, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self._meter.count(len(data))
        self._inner.data_received(data)


class _MeteredBuffer(_Metered, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> Any:
        return self._inner.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._meter.count(nbytes)
        self._inner.buffer_updated(nbytes)
