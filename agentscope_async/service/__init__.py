"""Services that agents can be given as tools: files, code, databases, the web, knowledge.

Each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "code": ["execute_python_code"],
    "databases": ["query_mongodb", "query_mysql", "query_postgresql", "query_sqlite"],
    "factory": ["ServiceFactory"],
    "files": [
        "create_directory", "create_file", "delete_directory", "delete_file", "extract_archive",
        "get_current_directory", "list_directory_content", "move_directory", "move_file", "read_json_file",
        "read_text_file", "write_json_file", "write_text_file",
    ],
    "knowledge": ["Chunk", "Hit", "IndexReport", "KnowledgeBase"],
    "mcp": ["MCPClient", "serve_mcp"],
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

__all__ = sorted([*_home_of, "get_help"])


def get_help() -> None:
    """Print the names of all services."""
    print("\n".join(sorted(_home_of)))


def __getattr__(name: str) -> Any:
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_home_of[name]}", __name__), name)
    globals()[name] = value
    return value
