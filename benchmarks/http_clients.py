"""The clients ``python -m benchmarks models`` compares: ours, and plain HTTP by hand, aiohttp and httpx.

Each sends the same two messages, parses the JSON of the answer and takes the text; a
stream is read and parsed event by event. Each keeps its connections and is used as
``async with client:``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

import orjson

if TYPE_CHECKING:
    import aiohttp
    import httpx

MODEL = "gpt-4o-mini"
KEY = "x"
SYSTEM = "You are a helpful assistant."
QUESTION = "Why does an agent have a mailbox? Please say it in one sentence, in plain words."
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
REQUEST: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
STREAM_REQUEST: dict[str, Any] = {**REQUEST, "stream": True, "stream_options": {"include_usage": True}}
HEADERS = {"Authorization": f"Bearer {KEY}"}
TIMEOUT_S = 60.0
"""For httpx: its 5 seconds can end calls that wait for one of its 100 connections."""


class ModelClient:
    """Base of the clients; a fresh one for every measurement."""

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    """What has to be importable."""
    pip: ClassVar[str]
    """What ``pip install`` brings them."""
    share: ClassVar[float] = 1.0
    """How much of the number of calls to make; figures are per call, and some take long."""

    def __init__(self, base_url: str) -> None:
        """Know the address: what stands before ``/chat/completions``."""
        self._base_url = base_url
        self._url = f"{base_url}/chat/completions"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def ask(self) -> str:
        """Return the text of one answer."""
        raise NotImplementedError

    async def listen(self) -> str:
        """Return the text of one streamed answer, joined from its events."""
        raise NotImplementedError


# -- ours --


class OurBase(ModelClient):
    """``OpenAIChatWrapper`` with the base install: httpx carries it."""

    name = "ours-base"
    modules: ClassVar[tuple[str, ...]] = ("agentscope_async.models.openai", "httpx")
    pip = "agentscope-async"
    http: ClassVar = "httpx"

    def __init__(self, base_url: str) -> None:
        from agentscope_async.models.openai import OpenAIChatWrapper

        super().__init__(base_url)
        self._model = OpenAIChatWrapper(
            "bench", model_name=MODEL, api_key=KEY, base_url=base_url, client_args={"http": self.http}
        )

    async def __aexit__(self, *error: object) -> None:
        await self._model.aclose()

    async def ask(self) -> str:
        return (await self._model(MESSAGES)).text or ""

    async def listen(self) -> str:
        words = []
        async with self._model.stream(MESSAGES) as stream:
            async for delta in stream:
                words.append(delta.text)  # noqa: PERF401  # what a listener does: something at each event
        return "".join(words)


class OurFast(OurBase):
    """The same with the extra ``fast``: aiohttp carries it."""

    name = "ours-fast"
    modules: ClassVar = (*OurBase.modules, "aiohttp", "httpx_aiohttp")
    pip = "'agentscope-async[fast]'"
    http: ClassVar = "aiohttp"


# -- plain HTTP --


class Raw(ModelClient):
    """HTTP written by hand on asyncio streams, for this one server: the floor."""

    name = "raw"
    modules: ClassVar = ()
    pip = ""

    async def __aenter__(self) -> Self:
        parts = urlsplit(self._url)
        self._host, self._port = parts.hostname, parts.port
        fields = {"Host": parts.netloc, "Content-Type": "application/json", **HEADERS}
        head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{name}: {fields[name]}\r\n" for name in fields)
        self._head = head.encode() + b"Content-Length: %d\r\n\r\n"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        return self

    async def __aexit__(self, *error: object) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    async def ask(self) -> str:
        reader, _ = connection = await self._send(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        answer = orjson.loads(await reader.readexactly(int(_LENGTH.search(head)[1])))  # type: ignore[index]
        self._idle.append(connection)
        return answer["choices"][0]["message"]["content"]  # type: ignore[no-any-return]

    async def listen(self) -> str:
        reader, _ = connection = await self._send(STREAM_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        text = await spoken(_http_chunks(reader))
        self._idle.append(connection)
        return text

    async def _send(self, request: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = await asyncio.open_connection(self._host, self._port)
        body = orjson.dumps(request)
        connection[1].write(self._head % len(body) + body)
        return connection


_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)")


async def _http_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)


class Aiohttp(ModelClient):
    """An ``aiohttp.ClientSession`` with as many connections as it needs."""

    name = "aiohttp"
    modules: ClassVar = ("aiohttp",)
    pip = "aiohttp"
    _session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=HEADERS)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def ask(self) -> str:
        async with self._session.post(self._url, json=REQUEST) as response:
            answer = await response.json()
        return answer["choices"][0]["message"]["content"]  # type: ignore[no-any-return]

    async def listen(self) -> str:
        async with self._session.post(self._url, json=STREAM_REQUEST) as response:
            return await spoken(response.content.iter_any())


class Httpx(ModelClient):
    """One ``httpx.AsyncClient`` with its defaults: at most 100 connections, 20 kept when idle."""

    name = "httpx"
    modules: ClassVar = ("httpx",)
    pip = "httpx"
    share = 0.25
    _client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        import httpx

        self._client = httpx.AsyncClient(headers=HEADERS, timeout=TIMEOUT_S)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def ask(self) -> str:
        response = await self._client.post(self._url, json=REQUEST)
        return response.json()["choices"][0]["message"]["content"]  # type: ignore[no-any-return]

    async def listen(self) -> str:
        async with self._client.stream("POST", self._url, json=STREAM_REQUEST) as response:
            return await spoken(response.aiter_bytes())


async def spoken(chunks: AsyncIterable[bytes]) -> str:
    """Join what the events of a stream say; an event may come in pieces, and many in one piece."""
    words, rest = [], b""
    async for chunk in chunks:
        *events, rest = (rest + chunk).split(b"\n\n")
        for event in events:
            if event == b"data: [DONE]":
                continue
            for choice in orjson.loads(event[6:])["choices"]:
                words.append(choice["delta"].get("content") or "")  # noqa: PERF401  # at each event
    return "".join(words)


CLIENTS: tuple[type[ModelClient], ...] = (OurBase, OurFast, Raw, Aiohttp, Httpx)
