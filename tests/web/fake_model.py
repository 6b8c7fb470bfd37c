"""A model server that speaks OpenAI's chat completions, word by word without end, and counts who listens.

Wire format: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

WORD_S = 0.05


class FakeModel:
    """Attributes:
    url: for ``base_url``.
    open_calls: connections whose answer is being given.
    calls: all there ever were.
    """

    def __init__(self) -> None:
        self.url = ""
        self.open_calls = 0
        self.calls = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            await reader.readexactly(length)
            self.calls += 1
            self.open_calls += 1
            gone = asyncio.create_task(reader.read())
            talking = asyncio.create_task(_talk(writer))
            try:
                await asyncio.wait([gone, talking], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.open_calls -= 1
                for task in (gone, talking):
                    task.cancel()
                await asyncio.gather(gone, talking, return_exceptions=True)
        writer.close()


async def _talk(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    while True:
        chunk: dict[str, Any] = {
            "id": "c",
            "object": "chat.completion.chunk",
            "model": "fake",
            "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}],
        }
        writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await writer.drain()
        await asyncio.sleep(WORD_S)


@asynccontextmanager
async def fake_model() -> AsyncIterator[FakeModel]:
    model = FakeModel()
    server = await asyncio.start_server(model.answer, "127.0.0.1", 0, backlog=1024)
    async with server:
        model.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield model
