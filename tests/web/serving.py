"""An application under uvicorn, on a port of its own, for as long as a test needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn

from agentscope_async._sockets import listening_socket

SHUTDOWN_S = 5


class Server(uvicorn.Server):
    """Leaves signals to whoever runs the tests."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve ``app`` over TCP and give its origin; its lifespan ends with the block."""
    with listening_socket("127.0.0.1", 0, backlog=1024) as listening:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_S)
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started:
                if serving.done():
                    raise RuntimeError("The application did not start.")
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def client_of(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve ``app`` and give a client of it."""
    async with served(app) as origin, httpx.AsyncClient(base_url=origin, timeout=30, **options) as http:
        yield http


def said(text: Any, name: str = "Bob") -> dict[str, Any]:
    """Return the body of a message."""
    return {"name": name, "content": text}


async def read_events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str, str]]:
    """Yield server-sent events as ``(event, id, data)``."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line and not line.startswith(":"):
            key, _, value = line.partition(": ")
            fields[key] = value
        elif not line and fields:
            yield fields["event"], fields["id"], fields["data"]
            fields = {}
