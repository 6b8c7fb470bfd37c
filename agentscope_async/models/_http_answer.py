"""An answer: its status and headers, and its body, read as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

from ._http_failures import BROKEN, failure_of
from ._http_redaction import showable
from ._request import HttpFailure

if TYPE_CHECKING:
    import httpx

__all__ = ["MAX_ANSWER_BYTES", "HttpAnswer"]

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
            raise failure_of(error, was_sent=True) from showable(error)
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
            raise failure_of(error, was_sent=True) from showable(error)
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
            raise failure_of(error, was_sent=True) from showable(error)
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
            if not isinstance(error, BROKEN):
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
