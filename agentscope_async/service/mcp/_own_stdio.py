"""This process's standard input and output as a connection to an MCP client."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio

from ...logging import get_logger
from ._frames import read_frames, write_frames
from ._limits import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

__all__ = ["own_stdio"]


@asynccontextmanager
async def own_stdio() -> AsyncGenerator[TransportStreams, None]:
    """Read messages from standard input and write them to standard output.

    The package's own ``stdio_server`` reads in a thread, which nothing can cancel while the client is
    silent; this one reads on the loop.
    """
    from mcp.shared.message import SessionMessage

    heard, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, to_say = anyio.create_memory_object_stream[SessionMessage](0)

    async def listen(source: asyncio.StreamReader) -> None:
        problem = await read_frames(source, heard, "client")
        if problem is not None:
            get_logger().warning("mcp_client_hung_up_on", reason=problem)

    async def talk(target: asyncio.StreamWriter) -> None:
        async with to_say:
            await write_frames(to_say, target)

    with _taken_over() as (source_fd, target_fd), heard, incoming, outgoing, to_say:
        async with _pipes(source_fd, target_fd) as (source, target), anyio.create_task_group() as tasks:
            tasks.start_soon(listen, source)
            tasks.start_soon(talk, target)
            yield incoming, outgoing
            tasks.cancel_scope.cancel()


@contextmanager
def _taken_over() -> Generator[tuple[int, int], None, None]:
    """Keep the two descriptors from everybody else: a print would tear the protocol."""
    sys.stdout.flush()
    source, target = os.dup(0), os.dup(1)
    blocking = os.get_blocking(source), os.get_blocking(target)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        yield source, target
    finally:
        sys.stdout.flush()
        os.dup2(source, 0)
        os.dup2(target, 1)
        os.close(source)
        os.close(target)
        # The loop made them non-blocking, for everyone who holds them: a terminal, say.
        os.set_blocking(0, blocking[0])
        os.set_blocking(1, blocking[1])


@asynccontextmanager
async def _pipes(
    source_fd: int, target_fd: int
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    loop = asyncio.get_running_loop()
    source = asyncio.StreamReader(MAX_MESSAGE_BYTES)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(source), os.fdopen(os.dup(source_fd), "rb", buffering=0)
    )
    try:
        writing, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),  # for its flow control
            os.fdopen(os.dup(target_fd), "wb", buffering=0),
        )
        try:
            yield source, asyncio.StreamWriter(writing, protocol, None, loop)
        finally:
            writing.close()
    finally:
        reading.close()
        await asyncio.sleep(0)  # transports close in the loop's next round
