"""Tools of MCP servers for our agents, and our tools and agents for MCP clients.

MCP is the Model Context Protocol, https://modelcontextprotocol.io. Needs the extra ``mcp``, the protocol's
official package.
"""

from .client import MCPClient
from .errors import MCPServerError, MCPServerGone
from .server import MCPService, serve_mcp

__all__ = ["MCPClient", "MCPServerError", "MCPServerGone", "MCPService", "serve_mcp"]
