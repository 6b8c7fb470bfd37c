"""What goes wrong with an MCP server."""

from __future__ import annotations

from ...errors import AgentScopeError

__all__ = ["MCPServerError", "MCPServerGone"]


class MCPServerError(AgentScopeError):
    """An MCP server did not do what was asked of it.

    Attributes:
        server: its name.
        kind: one word for programs: ``"changed"`` (it offers the tool no longer as it was when it
            joined), ``"protocol"`` (what it says is no MCP, or beyond our limits), ``"refused"`` (it
            answered with an error), ``"gone"`` for a :class:`MCPServerGone`.
    """

    def __init__(self, server: str, kind: str, problem: str) -> None:
        self.server = server
        self.kind = kind
        super().__init__(f"MCP server {server!r} {problem}")


class MCPServerGone(MCPServerError, ConnectionError):
    """An MCP server cannot be reached, has ended, or was left."""

    def __init__(self, server: str, problem: str) -> None:
        super().__init__(server, "gone", problem)
