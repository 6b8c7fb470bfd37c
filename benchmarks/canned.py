"""The server the model clients are measured against: it gives everybody the same answer.

A process of its own, so that its CPU is not counted with a client's. The answers are ready
as bytes, and a request is looked at only far enough to find its end and whether it wants a
stream. Answers have the fields and headers of OpenAI's, with plausible values
(https://platform.openai.com/docs/api-reference/chat and .../docs/guides/rate-limits).

An answer is about 700 bytes. A stream speaks in ``STREAM_EVENTS`` events, one HTTP chunk
each, all written at once; under ``/drip`` they come one by one, ``DRIP_S`` apart, as from
a model that thinks.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

STREAM_EVENTS = 200
DRIP_S = 0.001

ANSWER_TEXT = (
    "A mailbox keeps what is sent to an agent in order, so that it can take one message "
    "after another and never has to lock what it remembers."
)
STREAM_WORDS = [f" word{number}" for number in range(STREAM_EVENTS)]
STREAM_TEXT = "".join(STREAM_WORDS)

USAGE = {
    "prompt_tokens": 27,
    "completion_tokens": STREAM_EVENTS,
    "total_tokens": 27 + STREAM_EVENTS,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER_TEXT, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
    "service_tier": "default",
    "system_fingerprint": "fp_06737a9306",
}
HEADERS = b"""HTTP/1.1 200 OK
Date: Sat, 22 Nov 2025 12:00:00 GMT
Content-Type: %s
Connection: keep-alive
openai-organization: benchmark
openai-processing-ms: 412
openai-version: 2020-10-01
x-ratelimit-limit-requests: 30000
x-ratelimit-limit-tokens: 150000000
x-ratelimit-remaining-requests: 29999
x-ratelimit-remaining-tokens: 149999973
x-ratelimit-reset-requests: 2ms
x-ratelimit-reset-tokens: 0s
x-request-id: req_8f3c0a8d5b1e4c0f9d8a7b6c5d4e3f2a
Server: cloudflare
%s

""".replace(b"\n", b"\r\n")


def whole_answer() -> bytes:
    """Return a whole HTTP response with one JSON body."""
    body = orjson.dumps(ANSWER)
    return HEADERS % (b"application/json", b"Content-Length: %d" % len(body)) + body


def stream_pieces() -> list[bytes]:
    """Return a streamed HTTP response: its head, one piece for each event, its end."""
    head = HEADERS % (b"text/event-stream; charset=utf-8", b"Transfer-Encoding: chunked")
    events = [
        _event({"role": "assistant", "content": "", "refusal": None}),
        *(_event({"content": word}) for word in STREAM_WORDS),
        _event({}, finish_reason="stop"),
        _event(None, usage=USAGE),
        b"data: [DONE]\n\n",
    ]
    return [head, *(b"%x\r\n%s\r\n" % (len(event), event) for event in events), b"0\r\n\r\n"]


def _event(
    delta: dict[str, Any] | None, *, finish_reason: str | None = None, usage: dict[str, Any] | None = None
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = {
        **{key: ANSWER[key] for key in ("id", "created", "model", "service_tier", "system_fingerprint")},
        "object": "chat.completion.chunk",
        "choices": [] if delta is None else [choice],
        "usage": usage,
    }
    return b"data: %s\n\n" % orjson.dumps(chunk)


_WHOLE = whole_answer()
_PIECES = stream_pieces()
_STREAM = b"".join(_PIECES)
_LENGTH = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)


class CannedConnection(asyncio.Protocol):
    """Answers each request on its connection, in order."""

    def __init__(self) -> None:
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        while length := _request_length(self._heard):
            request, self._heard = self._heard[:length], self._heard[length:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        if b'"stream":true' not in request and b'"stream": true' not in request:
            self._transport.write(_WHOLE)
        elif request.startswith(b"POST /drip/"):
            self._drip(iter(_PIECES))
        else:
            self._transport.write(_STREAM)

    def _drip(self, pieces: Iterator[bytes]) -> None:
        piece = next(pieces, None)
        if piece is not None and not self._transport.is_closing():
            self._transport.write(piece)
            asyncio.get_running_loop().call_later(DRIP_S, self._drip, pieces)


def _request_length(heard: bytes) -> int:
    """Return how many bytes the first request has, or 0 while some are missing."""
    head_end = heard.find(b"\r\n\r\n") + 4
    if head_end < 4:
        return 0
    body = _LENGTH.search(heard, 0, head_end)
    length = head_end + (int(body[1]) if body else 0)
    return length if len(heard) >= length else 0


@contextmanager
def serving(module: str = "benchmarks.canned", *arguments: str) -> Iterator[str]:
    """Run a module that calls ``serve`` in a process of its own; give its address, ``http://127.0.0.1:port``."""
    # It ends when its standard input does: also when this process is killed.
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    ) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"


async def serve(connection: Callable[[], asyncio.Protocol]) -> None:
    """Serve until standard input ends, after a line with the port."""
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(serve(CannedConnection))
