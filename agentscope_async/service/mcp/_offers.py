"""The tools a server offers, checked: their names, descriptions and schemas are a stranger's texts."""

from __future__ import annotations

import hashlib
import json  # not orjson, which has no integers beyond 64 bits
import re
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import MCPServerError

if TYPE_CHECKING:
    from mcp_types import ListToolsResult, Tool

__all__ = ["Offer", "fingerprint", "listed", "offer_of"]

MAX_TOOLS = 256
"""A server may offer this many; one that offers more is not joined."""

MAX_PAGES = 64
"""Its list may have this many pages."""

MAX_DESCRIPTION_CHARS = 2_000
"""Of a tool's description; the rest is cut, and the cut is marked."""

MAX_SCHEMA_BYTES = 32 * 1024
MAX_SCHEMA_DEPTH = 24
"""Containers inside containers. Schemas beyond are refused, with their tools."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what model providers take


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as a server offered it when it joined.

    Attributes:
        remote_name: the server's name for it.
        name: what models call it.
        description: checked, and cut to size.
        parameters: checked JSON Schema of an object.
        fingerprint: of all the server said that bears on what the tool does.
    """

    remote_name: str
    name: str
    description: str
    parameters: dict[str, Any]
    fingerprint: str


async def listed(server: str, page_at: Callable[[str | None], Awaitable[ListToolsResult]]) -> dict[str, Tool]:
    """Return all the server's tools by name; ``page_at(cursor)`` asks for one page.

    Raises:
        MCPServerError: there are too many, or one name is there twice.
    """
    tools: dict[str, Tool] = {}
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await page_at(cursor)
        for tool in page.tools:
            if tool.name in tools:
                raise MCPServerError(server, "protocol", f"offers two tools named {tool.name!r:.80}.")
            tools[tool.name] = tool
        if len(tools) > MAX_TOOLS:
            raise MCPServerError(server, "protocol", f"offers more than {MAX_TOOLS} tools.")
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise MCPServerError(server, "protocol", f"lists its tools on more than {MAX_PAGES} pages.")


def offer_of(tool: Tool, prefix: str) -> Offer:
    """Check one tool.

    Raises:
        ValueError: it cannot be offered to a model; the text says why.
    """
    name = prefix + tool.name
    if not _NAME.fullmatch(name):
        raise ValueError("its name is not made of 1 to 64 letters, digits, _ and -")
    schema = _checked(tool.input_schema, 0)
    if schema.get("type", "object") != "object":
        raise ValueError("its schema does not describe an object")
    size = len(json.dumps(schema, ensure_ascii=False).encode())
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"its schema has {size:,} bytes, more than {MAX_SCHEMA_BYTES:,}")
    schema = {"properties": {}, **schema, "type": "object"}
    return Offer(tool.name, name, _readable(tool.description or ""), schema, fingerprint(tool))


def fingerprint(tool: Tool) -> str:
    """Return a hash of what the server says of the tool, whatever the order of the keys."""
    said = tool.model_dump(mode="json", by_alias=True, include={"name", "description", "input_schema"})
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _checked(schema: Any, depth: int) -> Any:
    """Return a copy with readable texts."""
    if depth > MAX_SCHEMA_DEPTH:
        raise ValueError(f"its schema is nested more than {MAX_SCHEMA_DEPTH} deep")
    if isinstance(schema, list):
        return [_checked(each, depth + 1) for each in schema]
    if not isinstance(schema, dict):
        return schema
    target = schema.get("$ref")
    if isinstance(target, str) and not target.startswith("#"):
        raise ValueError("its schema refers to another document")
    if any(_readable(key) != key for key in schema):
        raise ValueError("its schema has names that cannot be read in full")
    return {key: _checked_value(key, value, depth) for key, value in schema.items()}


def _checked_value(key: str, value: Any, depth: int) -> Any:
    if key in ("description", "title") and isinstance(value, str):
        return _readable(value)
    return _checked(value, depth + 1)


def _readable(text: str) -> str:
    """Return the text without what a person who reads it would not see: control and format characters."""
    seen = "".join(each for each in text if each in "\n\t" or unicodedata.category(each)[0] != "C")
    if len(seen) > MAX_DESCRIPTION_CHARS:
        seen = f"{seen[:MAX_DESCRIPTION_CHARS]} [cut: {len(seen) - MAX_DESCRIPTION_CHARS} more characters]"
    return seen
