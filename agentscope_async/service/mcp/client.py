"""MCP servers whose tools join a toolkit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import urlsplit

from ...errors import ConfigError, MissingExtraError
from ...logging import get_logger
from ..response import ServiceResponse
from ._connection import Connection, Lose
from ._offers import Offer, fingerprint, listed, offer_of
from .errors import MCPServerError, MCPServerGone

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from mcp.client import Transport
    from mcp_types import Tool as RemoteTool

    from ..tools import Tool

__all__ = ["MCPClient"]

MAX_RECONNECTIONS = 3
"""In a row, without an answered call between them. After that the server is given up."""


class _Toolkit(Protocol):
    """What we need of one."""

    def add_tool(self, tool: Tool) -> None: ...
    def remove(self, name: str) -> None: ...
    def __contains__(self, name: object) -> bool: ...


class MCPClient:
    """An MCP server, a child process or one at a URL, whose tools join toolkits.

    ::

        async with MCPClient("uvx", ["mcp-server-time"]) as client:
            await client.join(toolkit, only=["get_current_time"], trusted_tools=["get_current_time"])
            await agent(question)

    What the server says is a stranger's text: its tools' names, schemas and number are checked, what
    it says of their harmlessness is not believed (each needs the approver's yes unless you say
    otherwise), and their results are untrusted. Its ``instructions`` are not read. It is offered
    nothing: no sampling, no elicitation, no roots. A tool that changes after it has joined is refused until
    you ``join`` again: you may have approved another one.

    Any number of agents may call at once; cancelling a call tells the server, and leaves the others
    alone. When the server ends, the calls under way fail, with an ERROR that begins ``MCPServerGone``,
    and are not repeated: they may have been done. The next call connects anew, up to
    :data:`MAX_RECONNECTIONS` times in a row.

    A child process gets ``env`` and, of our environment, PATH, HOME and a few that hold no secrets. It
    ends, with all it started, when the context is left, however it is left; also when our process is
    killed. (On systems other than Linux, what began a session of its own may survive.) What it writes
    to standard error is logged at DEBUG. It needs a POSIX system.
    """

    def __init__(
        self,
        command: str | None = None,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        connect_timeout_s: float = 30.0,
    ) -> None:
        """Name the server; nothing is started yet.

        Args:
            command: the program of a server on pipes, and ``args``, ``env``, ``cwd`` for it.
            args: its arguments.
            env: environment variables for it.
            cwd: the folder it starts in; ours.
            url: of a server that speaks streamable HTTP, instead of a command.
            headers: sent with every request to it, for example an Authorization.
            name: for errors and the log; the program's or the host's.
            connect_timeout_s: seconds to start, shake hands and list the tools.

        Raises:
            ConfigError: there is not exactly one of ``command`` and ``url``, or the URL is none.
        """
        if (command is None) is (url is None):
            raise ConfigError("An MCP server is a command or a URL: give MCPClient one of both.")
        if not connect_timeout_s > 0:
            raise ConfigError(f"connect_timeout_s must be above 0, got {connect_timeout_s!r}.")
        self.name = name or _name_of(command, url)
        self._command, self._args, self._env, self._cwd = command, tuple(args), env, cwd
        self._url, self._headers = url, headers
        self._connect_timeout_s = connect_timeout_s
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._reconnections = 0
        self._is_open = False
        self._offers_now = _OffersNow()
        self._joined: list[tuple[_Toolkit, str]] = []

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            MCPServerGone: the server cannot be started or reached, or took too long.
            MissingExtraError: the package ``mcp`` is not installed.
        """
        await asyncio.to_thread(_require_mcp)  # half a second, the first time
        self._is_open = True
        self._reconnections = 0
        try:
            await self._connected()
        except BaseException:
            self._is_open = False
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the tools out of their toolkits and end the connection, with the server's process."""
        self._is_open = False
        for toolkit, name in self._joined:
            if name in toolkit:
                toolkit.remove(name)
        self._joined.clear()
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def __repr__(self) -> str:
        return f"MCPClient({self.name!r})"  # arguments, environment and headers may hold keys

    async def join(
        self,
        toolkit: _Toolkit,
        *,
        only: Collection[str] | None = None,
        prefix: str = "",
        dangerous: bool = True,
        trusted_tools: Collection[str] = (),
        group: str | None = None,
        timeout_s: float | None = 60.0,
        max_output_chars: int = 20_000,
        max_concurrency: int = 16,
    ) -> list[str]:
        """Add the server's tools to a toolkit, in the place of those of this server it has already.

        Tools with an unusable name or schema are left out, with a warning in the log, unless
        ``only`` names them.

        Args:
            toolkit: where to.
            only: the tools to take, by the server's names; None: all.
            prefix: put before each name, to tell servers apart.
            dangerous: each call needs the toolkit's approver. What the server says about that is
                not asked.
            trusted_tools: names (the server's) of tools that do not need the approver.
            group: the toolkit's group for them.
            timeout_s: seconds for one call, including the time to connect anew.
            max_output_chars: of a result, this many characters are shown to the model.
            max_concurrency: calls of one tool that run at once.

        Returns:
            The names the tools have in the toolkit, in the server's order.

        Raises:
            ConfigError: the server has no tool that ``only`` or ``trusted_tools`` names, or one of a
                name is in the toolkit already. Nothing was added then.
            MCPServerError: the server did not list its tools, or a tool that ``only`` names is unusable.
        """
        from ..tools import Tool, ToolOptions

        options = ToolOptions(
            group=group,
            timeout_s=timeout_s,
            max_output_chars=max_output_chars,
            max_concurrency=max_concurrency,
        )
        offers = await self._offers(only, prefix, trusted_tools)
        tools = [
            Tool(
                offer.name,
                offer.description,
                offer.parameters,
                _Call(self, offer, max_concurrency),
                untrusted=True,
                dangerous=dangerous and offer.remote_name not in trusted_tools,
                options=options,
            )
            for offer in offers
        ]
        self._replace(toolkit, tools)
        return [tool.name for tool in tools]

    async def call(self, offer: Offer, arguments: dict[str, Any]) -> ServiceResponse:
        """Call a tool that has joined, if it still is what it was.

        An ERROR has a ``kind`` as :class:`MCPServerError` has one. It is raised only by cancelling.
        """
        from ._results import response_of

        try:
            connection = await self._connected()
            await self._check_unchanged(connection, offer)
            result = await connection.call_tool(offer.remote_name, arguments)
        except MCPServerError as error:
            get_logger().warning("mcp_call_failed", server=self.name, tool=offer.remote_name, kind=error.kind)
            response = ServiceResponse.error(error)
            response["kind"] = error.kind
            return response
        self._reconnections = 0
        return response_of(result)

    async def _offers(
        self, only: Collection[str] | None, prefix: str, trusted_tools: Collection[str]
    ) -> list[Offer]:
        tools = await self._listed(await self._connected())
        for named in (*(only or ()), *trusted_tools):
            if named not in tools:
                raise ConfigError(
                    f"MCP server {self.name!r} has no tool {named!r}; it has: {', '.join(tools) or 'none'}."
                )
        offers = []
        for name, tool in tools.items():
            if only is not None and name not in only:
                continue
            try:
                offers.append(offer_of(tool, prefix))
            except ValueError as error:
                if only is not None:
                    problem = f"offers {name!r:.80}, but {error}."
                    raise MCPServerError(self.name, "protocol", problem) from None
                get_logger().warning("mcp_tool_left_out", server=self.name, tool=name[:80], reason=str(error))
        return offers

    def _replace(self, toolkit: _Toolkit, tools: list[Tool]) -> None:
        ours = [name for joined, name in self._joined if joined is toolkit and name in toolkit]
        for tool in tools:
            if tool.name in toolkit and tool.name not in ours:
                raise ConfigError(
                    f"The toolkit has a tool {tool.name!r} already: join {self.name!r} with a prefix=."
                )
        for name in ours:
            toolkit.remove(name)
        self._joined = [each for each in self._joined if each[0] is not toolkit]
        for tool in tools:
            toolkit.add_tool(tool)
            self._joined.append((toolkit, tool.name))

    async def _connected(self) -> Connection:
        """Return a connection that is alive, a new one if need be."""
        async with self._connecting:
            if not self._is_open:
                raise MCPServerGone(self.name, "was left: use it inside `async with`.")
            former = self._connection
            if former is not None and former.is_alive:
                return former
            if former is not None:
                await former.close()
                self._count_reconnection()
            self._connection = Connection(self.name, self._transport)
            await self._open(self._connection)
            return self._connection

    def _count_reconnection(self) -> None:
        if self._reconnections >= MAX_RECONNECTIONS:
            raise MCPServerGone(
                self.name,
                f"is gone: it ended {self._reconnections + 1} times without an answer between. "
                f"It is not tried again: leave `async with` and enter it anew.",
            )
        self._reconnections += 1
        get_logger().info("mcp_reconnecting", server=self.name, attempt=self._reconnections)

    async def _open(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s) as limit:
                await connection.open()
        except asyncio.CancelledError:
            self._reconnections = max(0, self._reconnections - 1)  # this one did not fail
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            problem = f"is gone: it did not shake hands within {self._connect_timeout_s:g} s."
            raise MCPServerGone(self.name, problem) from None

    def _transport(self, lose: Lose) -> Transport:
        from ._http import http_streams
        from ._stdio import Command, stdio_streams

        if self._url is not None:
            return http_streams(self._url, self._headers)
        assert self._command is not None
        return stdio_streams(self.name, Command(self._command, self._args, self._env, self._cwd), lose)

    async def _check_unchanged(self, connection: Connection, offer: Offer) -> None:
        """Look at the list again if it may have changed, and refuse a tool that has."""
        now = self._offers_now
        async with now.looking:
            if now.state != (connection, connection.changes):
                await self._listed(connection)
        if now.prints.get(offer.remote_name) != offer.fingerprint:
            problem = (
                f"has changed or withdrawn the tool {offer.remote_name!r}: the program must join it again."
            )
            raise MCPServerError(self.name, "changed", problem)

    async def _listed(self, connection: Connection) -> dict[str, RemoteTool]:
        state = (connection, connection.changes)
        try:
            async with asyncio.timeout(self._connect_timeout_s) as limit:
                tools = await listed(self.name, connection.page_of_tools)
        except TimeoutError:
            if not limit.expired():
                raise
            problem = f"did not list its tools within {self._connect_timeout_s:g} s."
            raise MCPServerError(self.name, "protocol", problem) from None
        self._offers_now.prints = {name: fingerprint(tool) for name, tool in tools.items()}
        self._offers_now.state = state
        return tools


class _OffersNow:
    """What the server's tools are by its last list."""

    def __init__(self) -> None:
        self.looking = asyncio.Lock()
        self.state: tuple[Connection, int] | None = None
        """The connection, and how many changes it had told of when the list was asked for."""
        self.prints: dict[str, str] = {}


class _Call:
    """Calls one tool that has joined."""

    def __init__(self, client: MCPClient, offer: Offer, max_concurrency: int) -> None:
        self._client = client
        self._offer = offer
        self._slots = asyncio.Semaphore(max_concurrency)

    async def __call__(self, arguments: dict[str, Any]) -> ServiceResponse:
        async with self._slots:
            return await self._client.call(self._offer, arguments)


def _name_of(command: str | None, url: str | None) -> str:
    if command is not None:
        return Path(command).name
    parts = urlsplit(url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("url= of an MCP server begins with http:// or https:// and names a host.")
    return parts.hostname


def _require_mcp() -> None:
    try:
        import mcp.client.streamable_http  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "mcp", "MCP servers need the package mcp: pip install 'agentscope-async[mcp]'"
        ) from error
