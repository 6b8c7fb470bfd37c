"""Services that agents can be given as tools: files, code, databases, the web, knowledge.

Each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "code": ["execute_python_code"],
    "databases": ["close_databases", "query_mongodb", "query_mysql", "query_postgresql", "query_sqlite"],
    "factory": ["ServiceFactory"],
    "files": [
        "create_directory", "create_file", "delete_directory", "delete_file", "extract_archive",
        "get_current_directory", "list_directory_content", "move_directory", "move_file", "read_json_file",
        "read_text_file", "write_json_file", "write_text_file",
    ],
    "knowledge": ["Chunk", "Hit", "IndexReport", "KnowledgeBase", "Progress"],
    "mcp": ["MCPClient", "MCPServerError", "MCPServerGone", "MCPService", "serve_mcp"],
    "response": ["ServiceExecStatus", "ServiceResponse"],
    "retrieval": ["cos_sim", "retrieve_from_list"],
    "search": [
        "bing_search", "brave_search", "ddgs_search", "google_search", "searxng_search", "tavily_search",
    ],
    "text": ["summarization"],
    "toolkit": ["ToolApproval", "ToolOutcome", "Toolkit"],
    "tools": ["Tool", "ToolOptions"],
    "web": ["digest_webpage", "is_valid_url", "load_web", "parse_html_to_text"],
}  # fmt: skip

_home_of = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Chunk",
    "Hit",
    "IndexReport",
    "KnowledgeBase",
    "MCPClient",
    "MCPServerError",
    "MCPServerGone",
    "MCPService",
    "Progress",
    "ServiceExecStatus",
    "ServiceFactory",
    "ServiceResponse",
    "Tool",
    "ToolApproval",
    "ToolOptions",
    "ToolOutcome",
    "Toolkit",
    "bing_search",
    "brave_search",
    "close_databases",
    "cos_sim",
    "create_directory",
    "create_file",
    "ddgs_search",
    "delete_directory",
    "delete_file",
    "digest_webpage",
    "execute_python_code",
    "extract_archive",
    "get_current_directory",
    "get_help",
    "google_search",
    "is_valid_url",
    "list_directory_content",
    "load_web",
    "move_directory",
    "move_file",
    "parse_html_to_text",
    "query_mongodb",
    "query_mysql",
    "query_postgresql",
    "query_sqlite",
    "read_json_file",
    "read_text_file",
    "retrieve_from_list",
    "searxng_search",
    "serve_mcp",
    "summarization",
    "tavily_search",
    "write_json_file",
    "write_text_file",
]


def get_help() -> None:
    """Print the names of all services."""
    print("\n".join(sorted(_home_of)))


def __getattr__(name: str) -> Any:
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_home_of[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # the same names, for type checkers
    from .code import execute_python_code as execute_python_code
    from .databases import (
        close_databases as close_databases,
        query_mongodb as query_mongodb,
        query_mysql as query_mysql,
        query_postgresql as query_postgresql,
        query_sqlite as query_sqlite,
    )
    from .factory import ServiceFactory as ServiceFactory
    from .files import (
        create_directory as create_directory,
        create_file as create_file,
        delete_directory as delete_directory,
        delete_file as delete_file,
        extract_archive as extract_archive,
        get_current_directory as get_current_directory,
        list_directory_content as list_directory_content,
        move_directory as move_directory,
        move_file as move_file,
        read_json_file as read_json_file,
        read_text_file as read_text_file,
        write_json_file as write_json_file,
        write_text_file as write_text_file,
    )
    from .knowledge import (
        Chunk as Chunk,
        Hit as Hit,
        IndexReport as IndexReport,
        KnowledgeBase as KnowledgeBase,
        Progress as Progress,
    )
    from .mcp import (
        MCPClient as MCPClient,
        MCPServerError as MCPServerError,
        MCPServerGone as MCPServerGone,
        MCPService as MCPService,
        serve_mcp as serve_mcp,
    )
    from .response import ServiceExecStatus as ServiceExecStatus, ServiceResponse as ServiceResponse
    from .retrieval import cos_sim as cos_sim, retrieve_from_list as retrieve_from_list
    from .search import (
        bing_search as bing_search,
        brave_search as brave_search,
        ddgs_search as ddgs_search,
        google_search as google_search,
        searxng_search as searxng_search,
        tavily_search as tavily_search,
    )
    from .text import summarization as summarization
    from .toolkit import (
        ToolApproval as ToolApproval,
        Toolkit as Toolkit,
        ToolOutcome as ToolOutcome,
    )
    from .tools import Tool as Tool, ToolOptions as ToolOptions
    from .web import (
        digest_webpage as digest_webpage,
        is_valid_url as is_valid_url,
        load_web as load_web,
        parse_html_to_text as parse_html_to_text,
    )
