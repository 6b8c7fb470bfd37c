"""JSON-RPC messages as lines of bytes, the wire form of MCP on pipes.

Source: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

import anyio
import orjson

from ...logging import get_logger
from ._limits import MAX_MESSAGE_BYTES, is_moderate, refusal

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

__all__ = ["MAX_STRAY_LINES", "read_frames", "write_frames"]

MAX_STRAY_LINES = 200
"""Lines in a row that are no messages; some servers print a banner, but not more."""


async def read_frames(
    source: asyncio.StreamReader, sink: MemoryObjectSendStream[SessionMessage | Exception], peer: str
) -> str | None:
    """Hand on messages until the source ends, or sends nonsense, or nobody listens; then close ``sink``.

    ``source`` must have been made with the limit :data:`MAX_MESSAGE_BYTES`.

    Returns:
        What is wrong with the peer, in words that follow its name; None if nothing is.
    """
    async with sink:
        try:
            return await _hand_on(source, sink, peer)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None


async def _hand_on(
    source: asyncio.StreamReader, sink: MemoryObjectSendStream[SessionMessage | Exception], peer: str
) -> str | None:
    from mcp.shared.message import SessionMessage

    stray_lines = 0
    while stray_lines <= MAX_STRAY_LINES:
        try:
            line = await source.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except asyncio.LimitOverrunError:
            return f"sent a message of more than {MAX_MESSAGE_BYTES:,} bytes"
        message = _parsed(line)
        if message is not None:
            stray_lines = 0
            await sink.send(SessionMessage(message))
            continue
        stray_lines += 1
        if stray_lines == 1:
            get_logger().warning("mcp_line_is_no_message", peer=peer, line=line[:200])
    return "does not speak MCP on its standard output"


async def write_frames(messages: AsyncIterable[SessionMessage], target: asyncio.StreamWriter) -> None:
    """Write messages until there are no more, or nobody reads them."""
    try:
        async for each in messages:
            target.write(each.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await target.drain()
    except (ConnectionError, RuntimeError):  # RuntimeError: the writer was closed while we waited
        pass


def _parsed(line: bytes) -> Any:
    """Return the message in a line, or None if there is none."""
    from mcp_types import jsonrpc_message_adapter

    try:
        value = orjson.loads(line)
        if isinstance(value, dict) and not is_moderate(value):
            return refusal(value.get("id"))
        return jsonrpc_message_adapter.validate_python(value, by_name=False)
    except ValueError:
        return None
