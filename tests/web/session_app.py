"""A service with sessions, in a process of its own: ``python -m tests.web.session_app STORE LIVE``.

Prints its origin, and ends with its standard input or with SIGTERM.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request

from agentscope_async import DialogAgent, EchoModel
from agentscope_async._sockets import listening_socket
from agentscope_async.web import Sessions, expose, lifespan


def chat(key: str) -> DialogAgent:
    return DialogAgent("Ann", None, EchoModel())


def user_of_token(authorization: str = Header("")) -> str:
    kind, _, user = authorization.partition(" ")
    if kind != "Bearer" or not user:
        raise HTTPException(401)
    return user


def make_app(store: str, live: int) -> FastAPI:
    app = FastAPI(lifespan=lifespan())
    sessions = Sessions(live=live, store=store)
    app.include_router(expose(chat, sessions=sessions, auth=user_of_token, max_turns=live))

    @app.get("/live")
    async def count(request: Request) -> Any:
        agents = request.app.state.runtime.agents(
            chat, name="chat", live=live, idle_after_s=600.0, store=store
        )
        return agents.live_count

    return app


def end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    threading.Thread(target=end_with_stdin, daemon=True).start()
    app = make_app(sys.argv[1], int(sys.argv[2]))
    with listening_socket("127.0.0.1", 0, backlog=1024) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="error")
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
