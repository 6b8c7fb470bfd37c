"""One connection to one MCP server, owned by one task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ..._tasks import until_ended
from ...logging import brief, get_logger
from .errors import MCPServerError, MCPServerGone

if TYPE_CHECKING:
    from mcp.client import Client, Transport
    from mcp_types import CallToolResult, ListToolsResult

__all__ = ["Connection", "Lose"]

Lose = Callable[[str], None]
"""Told, in words that follow "MCP server 'x' ...", that a connection is over."""

Answer = TypeVar("Answer")

ENDING_S = 8.0
"""A connection may take this long to end politely; a server at a URL is asked to forget our session."""

LISTENING_TRIES = 5
LISTENING_PAUSE_S = 1.0


class Connection:
    """The client of the official package, in a task of its own.

    Its cancel scopes are entered and left in that task, whoever opens and closes the connection.
    Requests run in the tasks of those who ask, any number at once: each waits for its own answer,
    and one that is cancelled tells the server so (``notifications/cancelled``).

    Attributes:
        changes: how often the server said that its tools had changed.
    """

    def __init__(self, server: str, transport: Callable[[Lose], Transport]) -> None:
        """Prepare; ``transport`` is called once, in :meth:`open`."""
        self.changes = 0
        self._server = server
        self._transport = transport
        self._client: Client | None = None
        self._problem: str | None = None
        self._settled = asyncio.Event()
        """Opened, or failed."""
        self._over = asyncio.Event()
        self._scope = anyio.CancelScope()
        """All that the owner does; cancelled to end what has not become a connection yet."""
        self._owner: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Requests can be made."""
        return self._client is not None and not self._over.is_set()

    async def open(self) -> None:
        """Connect and shake hands. Cancelling it closes what was opened, before it returns.

        Raises:
            MCPServerGone: the server cannot be reached, or is none.
        """
        self._owner = asyncio.create_task(self._own(), name=f"MCP server {self._server}")
        try:
            await self._settled.wait()
        except BaseException:
            await self.close()
            raise
        if not self.is_alive:
            await self.close()
            raise self._gone()

    async def close(self) -> None:
        """End the connection; the server's process has ended then. It takes some seconds at most."""
        self.lose(_LEFT)
        if self._owner is None:
            return
        await until_ended(self._owner)

    def lose(self, how: str) -> None:
        """Note that the connection is over; the first reason stays."""
        if self._over.is_set():
            return
        self._problem = how
        self._over.set()
        self._settled.set()
        if self._client is None:
            self._scope.cancel()
        self._scope.deadline = anyio.current_time() + ENDING_S

    async def page_of_tools(self, cursor: str | None) -> ListToolsResult:
        """Ask for a page of the server's tools.

        Raises:
            MCPServerError: it did not give one.
        """
        from mcp_types import PaginatedRequestParams

        return await self._answer(
            lambda client: client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
        )

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Have a tool called.

        The package's own ``call_tool`` would check the result by the server's JSON Schema, whose
        regular expressions, a stranger's, can hold up the loop for hours; so the request is sent plainly.

        Raises:
            MCPServerError: there is no result.
        """
        from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult, InputRequiredResult
        from pydantic import TypeAdapter

        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        kinds: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(
            CallToolResult | InputRequiredResult
        )
        result = await self._answer(lambda client: client.session.send_request(request, kinds))
        if isinstance(result, CallToolResult):
            return result
        problem = f"asks for input before it runs {name!r} (sampling, elicitation or roots); none is given."
        raise MCPServerError(self._server, "refused", problem)

    async def _answer(self, ask: Callable[[Client], Awaitable[Answer]]) -> Answer:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED
        from pydantic import ValidationError

        if self._client is None or not self.is_alive:
            raise self._gone()
        try:
            return await ask(self._client)
        except MCPError as error:
            if str(error) == "Session terminated":  # HTTP status 404 to a request with a session's id
                self.lose("has forgotten our session")
                raise self._gone() from error
            if error.code == CONNECTION_CLOSED and str(error).startswith(_ENDS):
                await self._hear_of_the_end(error)
                raise self._gone("It may have done what was asked; that is not known.") from error
            raise MCPServerError(self._server, "refused", f"answered with an error: {error}") from error
        except (ValidationError, RecursionError) as error:
            problem = f"answered with something that is no MCP: {brief(error)[:300]}"
            raise MCPServerError(self._server, "protocol", problem) from error

    async def _hear_of_the_end(self, error: Exception) -> None:
        """Wait for the reason: requests are answered a moment before it is known."""
        if str(error).startswith(_END_OF_ALL):
            with suppress(TimeoutError):
                async with asyncio.timeout(_REASON_S):
                    await self._over.wait()

    def _gone(self, advice: str = "") -> MCPServerGone:
        return MCPServerGone(self._server, f"is gone: it {self._problem or 'ended'}. {advice}".rstrip())

    async def _own(self) -> None:
        """Hold the connection from its beginning to its end, in one task."""
        try:
            with self._scope:
                await self._hold()
        except Exception as error:
            self.lose(_told(error))
        finally:
            self.lose("ended")
            if self._problem != _LEFT:
                get_logger().warning("mcp_server_gone", server=self._server, reason=self._problem)

    async def _hold(self) -> None:
        from mcp import Client
        from mcp_types import Implementation

        async with (
            Client(
                self._transport(self.lose),
                message_handler=self._hear,
                client_info=Implementation(name="agentscope_async", version="0"),
                cache=None,
            ) as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._listen, client)
            self._client = client
            self._settled.set()
            await self._over.wait()
            tasks.cancel_scope.cancel()

    async def _hear(self, message: object) -> None:
        from mcp_types import ToolListChangedNotification

        if isinstance(message, ToolListChangedNotification):
            self.changes += 1

    async def _listen(self, client: Client) -> None:
        """Subscribe to changes where the protocol (2026-07-28) sends them to subscribers only."""
        from mcp import MCPError
        from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost

        offered = client.server_capabilities.tools
        if offered is None or not offered.list_changed:
            return
        for _ in range(LISTENING_TRIES):
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self.changes += 1  # what changed before we listened
                    async for _ in changes:
                        self.changes += 1
            except ListenNotSupportedError:
                return  # an older protocol: _hear is told without asking
            except (MCPError, SubscriptionLost, TimeoutError):
                pass
            await anyio.sleep(LISTENING_PAUSE_S)
        get_logger().warning("mcp_server_does_not_tell_of_changes", server=self._server)


# The package answers requests so when their connection ends; servers use the code for errors of their own.
# Sources: mcp/shared/jsonrpc_dispatcher.py and mcp/client/streamable_http.py of version 2.3.
_END_OF_ALL = "Connection closed"
_ENDS = (_END_OF_ALL, "SSE stream ended")
_REASON_S = 1.0

_LEFT = "was left"


def _told(error: BaseException) -> str:
    """Return what went wrong in words that follow "it"."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPServerGone):
        return str(error).partition("' ")[2]
    return f"cannot be talked to ({brief(error)[:300]})"
