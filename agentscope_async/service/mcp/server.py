"""Our tools and agents as an MCP server."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from ..._sockets import listening_socket
from ..._tasks import until_ended
from ...errors import ConfigError
from ...message import Msg, ToolCallPart
from ..response import ServiceResponse
from ..toolkit import Toolkit
from ._results import result_of
from .client import _require_mcp

if TYPE_CHECKING:
    import socket

    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel import Server
    from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

__all__ = ["MCPService", "serve_mcp"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
AgentLike: TypeAlias = Callable[[Msg], Awaitable[Msg]]
"""Awaited with a message, it gives one."""

LOOPBACK_HOSTS = ("127.0.0.1:*", "localhost:*", "[::1]:*")
"""What the Host header of a request may be: a page on the web whose name leads here is turned away."""

CLOSING_S = 1
"""Requests still running when the server is closed get this long."""

_ASKER = "mcp_client"
_STRANGER = "an MCP client"


def serve_mcp(
    offered: Toolkit | AgentLike, *, name: str | None = None, description: str | None = None
) -> MCPService:
    """Offer a toolkit's tools, or an agent, to MCP clients.

    ::

        await serve_mcp(toolkit).over_stdio()

        async with serve_mcp(agent).over_http(token=secret) as url:
            ...

    A client is a stranger: a tool marked dangerous runs only with the yes of the toolkit's
    approver, who is told that ``"an MCP client"`` wants it, and an agent's turn for a client counts
    as one that has read untrusted content. An agent becomes one tool, ``ask``, with a
    ``message``; its answers are texts, and each client waits for its turn with it like anyone else.

    Args:
        offered: a toolkit, or an agent: anything awaited with a message that gives a message.
        name: the server's; the agent's own, or "agentscope_async".
        description: for an agent: what clients are told of ``ask``.

    Raises:
        ConfigError: ``offered`` is neither.
        MissingExtraError: the package ``mcp`` is not installed.
    """
    _require_mcp()
    if isinstance(offered, Toolkit):
        if description is not None:
            raise ConfigError("description= is for an agent; the tools of a toolkit have their own.")
        return MCPService(offered, name or "agentscope_async")
    if not callable(offered):
        raise ConfigError(f"serve_mcp takes a Toolkit or an agent, not {type(offered).__name__}.")
    name = name or str(getattr(offered, "name", "agent"))
    return MCPService(
        _ask_toolkit(offered, description or f"Send {name} a message and get the answer."), name
    )


class MCPService:
    """A toolkit as an MCP server; :func:`serve_mcp` makes one. It may be served in several ways at once."""

    def __init__(self, toolkit: Toolkit, name: str) -> None:
        self._toolkit = toolkit
        self.name = name

    async def over_stdio(self) -> None:
        """Serve the client on standard input and output until it hangs up.

        Meanwhile prints go to standard error, and reads of standard input find its end. Cancelling it
        stops serving at once.

        Raises:
            ValueError: standard input or output is a file, not a pipe, a socket or a terminal.
        """
        from ._own_stdio import own_stdio

        server = self._server()
        async with own_stdio() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    def app(self, *, token: str | None = None, hosts: Sequence[str] = LOOPBACK_HOSTS) -> ASGIApp:
        """Return an ASGI app that serves clients at ``/mcp`` by streamable HTTP.

        The app's server must run its lifespan (uvicorn does).

        Args:
            token: what requests must bring as ``Authorization: Bearer ...``; None: nothing.
            hosts: what their Host header may be, ``:*`` for any port. Requests from web pages
                (with an Origin) are refused.

        Raises:
            ConfigError: the token is empty.
        """
        from mcp.server.transport_security import TransportSecuritySettings

        app: ASGIApp = self._server().streamable_http_app(
            transport_security=TransportSecuritySettings(allowed_hosts=list(hosts), allowed_origins=[])
        )
        if token is None:
            return app
        if not token:
            raise ConfigError("The token of an MCP server is empty; None asks for none.")
        return _for_bearers(app, token)

    @asynccontextmanager
    async def over_http(self, *, port: int = 0, token: str | None = None) -> AsyncGenerator[str, None]:
        """Serve clients on this machine while the context is open; gives the URL.

        Args:
            port: on 127.0.0.1; 0: a free one.
            token: as for :meth:`app`. Without one, every user and program of this machine may call.

        Raises:
            OSError: the port is taken.
        """
        app = self.app(token=token)
        listening = listening_socket("127.0.0.1", port, backlog=128)
        try:
            async with _uvicorn(app, listening):
                yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            listening.close()

    def _server(self) -> Server[Any]:
        from mcp.server.lowlevel import Server

        return Server(self.name, on_list_tools=self._list, on_call_tool=self._call)

    async def _list(
        self, context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        from mcp_types import ListToolsResult, Tool

        tools = [
            Tool(name=each.name, description=each.description, input_schema=each.parameters)
            for each in self._toolkit.tools
        ]
        return ListToolsResult(tools=tools)

    async def _call(
        self, context: ServerRequestContext[Any], params: CallToolRequestParams
    ) -> CallToolResult:
        call = ToolCallPart(str(context.request_id), params.name, params.arguments or {})
        outcome = await self._toolkit.call(call, agent=_ASKER, tainted_by=[_STRANGER])
        return result_of(outcome.response, outcome.text)


def _ask_toolkit(agent: AgentLike, description: str) -> Toolkit:
    from ..tools import Tool, ToolOptions

    async def ask(arguments: dict[str, Any]) -> ServiceResponse:
        message = arguments.get("message")
        if not isinstance(message, str) or set(arguments) != {"message"}:
            raise ValueError("ask takes a message, a text, and nothing else")
        # The field that agents carry on, so that their tools know whose wish it may be (agents/_taint.py).
        answer = await agent(Msg(_ASKER, message, role="user", untrusted=[_STRANGER]))
        return ServiceResponse.success(answer.text)

    parameters = {
        "type": "object",
        "properties": {"message": {"type": "string", "description": "What to say."}},
        "required": ["message"],
        "additionalProperties": False,
    }
    # An agent has limits of its own, and its mailbox puts callers in order.
    options = ToolOptions(timeout_s=None, max_output_chars=_MAX_ANSWER_CHARS)
    toolkit = Toolkit()
    toolkit.add_tool(Tool("ask", description, parameters, ask, options=options))
    return toolkit


_MAX_ANSWER_CHARS = 1_000_000


def _for_bearers(app: ASGIApp, token: str) -> ASGIApp:
    """Return an app that answers 401 to requests without the token."""
    expected = f"Bearer {token}".encode()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, expected):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                return await send({"type": "http.response.body", "body": b""})
        return await app(scope, receive, send)

    return guarded


@asynccontextmanager
async def _uvicorn(app: ASGIApp, listening: socket.socket) -> AsyncGenerator[None, None]:
    import uvicorn

    class Uvicorn(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals are the program's

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=CLOSING_S,
    )
    server = Uvicorn(config)
    serving = asyncio.create_task(server.serve([listening]), name="MCP service")
    try:
        yield
    finally:
        server.should_exit = True
        await until_ended(serving)
