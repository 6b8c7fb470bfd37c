"""``agentscope-async serve``: an agent that any OpenAI client talks to."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from .._sockets import listening_socket
from .._tasks import cancel_all
from ..errors import ConfigError, MissingExtraError
from ..runtime import Runtime
from ._modules import import_here
from ._run import complain
from ._stop import StopOrder
from .node import BIND_PROBLEMS, read_token_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HOST", "PORT", "Terms", "serve"]

HOST = "127.0.0.1"
PORT = 8000
LAST_S = 3
"""For the server to send the last answers, once the grace is over."""

MAKE_TOKEN = (
    "(umask 077; python -c 'import secrets; print(secrets.token_urlsafe(32))' > serve.token), "
    "then --token-file serve.token; clients show it as their API key"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a call of the command asks for; see the options in ``_app``."""

    target: str
    host: str = HOST
    port: int = PORT
    name: str | None = None
    token_file: Path | None = None
    model_configs: Path | None = None
    max_turns: int = 100
    grace_s: float = 10.0


async def serve(terms: Terms) -> int:
    """Serve until SIGTERM (0) or Ctrl-C (130); what is under way then is finished, within the grace."""
    is_open = _is_loopback(terms.host)
    token = None if terms.token_file is None else read_token_file(terms.token_file)
    if token is None and not is_open:
        raise ConfigError(
            f"Without a token anybody who reaches {terms.host} could use the agent, and your models. "
            f"Leave --host {HOST}, or make a token: {MAKE_TOKEN}."
        )
    try:
        listening = listening_socket(terms.host, terms.port, backlog=1024)
    except OSError as error:
        if error.errno not in BIND_PROBLEMS and not isinstance(error, socket.gaierror):
            raise
        complain(f"error: Cannot listen at {terms.host} port {terms.port}: {error.strerror}.")
        return 1
    async with StopOrder() as order:
        with listening:
            await _serve_at(listening, terms, token, order)
    return order.exit_code


async def _serve_at(listening: socket.socket, terms: Terms, token: str | None, order: StopOrder) -> None:
    serving = None
    try:
        # Turns end with the runtime, so clients are told that theirs was cancelled; the server, which
        # would just break off, ends after it.
        async with Runtime(model_configs=terms.model_configs, grace=terms.grace_s) as runtime:
            models = _models(terms)
            server = _server(_app(models, runtime, terms, token), terms.grace_s)
            serving = asyncio.create_task(server.serve(sockets=[listening]), name="serve")
            _announce(listening, terms, list(models))
            await _until_ordered(order, serving)
            server.should_exit = True
    finally:
        if serving is not None:
            server.should_exit = True
            await serving


async def _until_ordered(order: StopOrder, serving: asyncio.Task[None]) -> None:
    ordered = asyncio.create_task(order.wait(), name="order to stop")
    try:
        await asyncio.wait([serving, ordered], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all([ordered])
    if sys.stdout.isatty():
        complain("stopping, once what is under way is done; once more to stop now")


def _is_loopback(host: str) -> bool:
    from ..node._door import is_address, is_loopback

    return host == "localhost" or (is_address(host) and is_loopback(host))


def _models(terms: Terms) -> dict[str, Any]:
    """Return what is to be served, by name: the module's own names where it is a dict."""
    module, separator, attribute = terms.target.partition(":")
    if not (module and separator and attribute):
        raise ConfigError(f"What to serve is given as MODULE:NAME, got {terms.target!r}.")
    try:
        holder = import_here(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{terms.target}: {error}.") from error
        raise ConfigError(
            f"{terms.target}: there is no module {module!r} here ({os.getcwd()}) or among what is installed."
        ) from error
    target = getattr(holder, attribute, None)
    if target is None:
        raise ConfigError(f"{terms.target}: the module {module!r} has no {attribute!r}.")
    if isinstance(target, Mapping):
        if terms.name is not None:
            raise ConfigError(f"--name is for one agent; {terms.target} has {len(target)} with their own.")
        return dict(target)
    return {terms.name or attribute: target}


def _app(models: Mapping[str, Any], runtime: Runtime, terms: Terms, token: str | None) -> Any:
    from ..web.openai_face import openai_api

    _refuse_applications(models, terms)
    router = openai_api(models, token=token, max_turns=terms.max_turns)
    from fastapi import FastAPI

    app = FastAPI(title="agentscope-async", docs_url=None, redoc_url=None)
    app.include_router(router)
    app.state.runtime = runtime
    if token is None:
        # A web page can have its own name resolved to this machine, and is then let in by the browser.
        app.add_middleware(_OwnHost, hosts={"localhost", "127.0.0.1", "[::1]", _in_url(terms.host)})
    return app


def _refuse_applications(models: Mapping[str, Any], terms: Terms) -> None:
    starlette = sys.modules.get("starlette.applications")  # who made one has it
    for name, target in models.items():
        if starlette is not None and isinstance(target, starlette.Starlette):
            module = terms.target.partition(":")[0]
            raise ConfigError(
                f"{name!r} is a web application: run it with `uvicorn {module}:{name}`. This serves agents, "
                f"and factories of agents."
            )


class _OwnHost:
    """Middleware that refuses requests to other hosts; Starlette's cannot read addresses of IPv6."""

    def __init__(self, app: Any, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        host = re.sub(r":\d*$", "", Headers(scope=scope).get("host", ""))
        app = self._app if host.lower() in self._hosts else PlainTextResponse("This is another host.\n", 400)
        await app(scope, receive, send)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _server(app: Any, grace_s: float) -> Any:
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(
            "uvicorn", "Serving needs uvicorn: pip install 'agentscope-async[web]'"
        ) from error

    class Server(uvicorn.Server):
        """Leaves signals to the command."""

        capture_signals = nullcontext  # type: ignore[assignment]  # takes the server for nothing

    config = uvicorn.Config(
        app, lifespan="off", log_level="warning", timeout_graceful_shutdown=round(grace_s) + LAST_S
    )
    return Server(config)


def _announce(listening: socket.socket, terms: Terms, names: list[str]) -> None:
    """Print where it is (the last word is the URL), and how to try it."""
    url = f"http://{_in_url(terms.host)}:{listening.getsockname()[1]}/v1"
    print(f"{', '.join(names)} served at {url}")
    body = {"model": names[0], "messages": [{"role": "user", "content": "Hello"}]}
    key = ""
    if terms.token_file is not None:
        key = f'-H "Authorization: Bearer $(cat {shlex.quote(str(terms.token_file))})" '
    print(
        f"  curl {url}/chat/completions {key}-H 'Content-Type: application/json' "
        f"-d '{orjson.dumps(body).decode()}'",
        flush=True,
    )
