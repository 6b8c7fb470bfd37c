"""The service under load, in a process of its own: ``python -m tests.web.load_app STORE MODEL_URL DELAY_S``.

Prints its origin, and ends with its standard input or with SIGTERM.
"""

from __future__ import annotations

import sys
import threading

import uvicorn
from fastapi import FastAPI

from agentscope_async import DialogAgent, EchoModel, OpenAIChatWrapper
from agentscope_async._sockets import listening_socket
from agentscope_async.web import Sessions, expose, lifespan
from tests.web.session_app import end_with_stdin


def make_app(store: str, model_url: str, delay_s: float) -> FastAPI:
    echo = EchoModel(delay_s=delay_s)
    remote = OpenAIChatWrapper("fake", model_name="fake", base_url=model_url, api_key="none")
    app = FastAPI(lifespan=lifespan())
    targets = {
        "echo": lambda key: DialogAgent("Echo", None, echo),
        "remote": lambda key: DialogAgent("Remote", None, remote),
    }
    app.include_router(expose(targets, sessions=Sessions(live=500, store=store), max_turns=2000))
    return app


def main() -> None:
    threading.Thread(target=end_with_stdin, daemon=True).start()
    app = make_app(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    with listening_socket("127.0.0.1", 0, backlog=2048) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main()
