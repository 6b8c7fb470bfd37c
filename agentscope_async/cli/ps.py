"""``agentscope-async ps``: what the agents of a node do just now."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import ConfigError, ConnectFailed
from ..logging import visible
from ..runtime import Runtime
from ._run import complain, problem
from .node import check_url, read_token_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

__all__ = ["ps"]

HEADINGS = ("KEY", "NAME", "CLASS", "BUSY", "WAITING", "HANDLED", "FAILED")
NUMBERS = frozenset({"WAITING", "HANDLED", "FAILED"})


async def ps(url: str, *, token_file: Path | None, tls_ca: Path | None) -> int:
    """Print a line for each agent of the node at ``url``, then who waits on whom; 1 if it cannot be asked."""
    check_url(url, "the URL of a node")
    if urlsplit(url).path.strip("/"):
        raise ConfigError(f"ps takes the URL of a node, without the key of an agent; got {url}.")
    token = None if token_file is None else read_token_file(token_file)
    try:
        async with Runtime() as runtime:
            report = await runtime.ps(url, token=token, ssl=_tls(tls_ca))
    except ConnectFailed as error:
        complain(f"error: {_explained(error, has_token=token is not None)}")
        return 1
    rows = [
        (
            agent.key,
            _line(agent.name),
            _line(agent.kind),
            "yes" if agent.is_busy else "no",
            str(agent.waiting),
            str(agent.handled),
            str(agent.failed),
        )
        for agent in report.agents
    ]
    waits = [(_line(waiting), _line(on)) for waiting, on in report.waits]
    title = f"node {_line(report.node)}: {len(rows)} agent{'' if len(rows) == 1 else 's'}"
    (_print_tables if sys.stdout.isatty() else _print_lines)(title, rows, waits)
    return 0


def _tls(ca: Path | None) -> ssl.SSLContext | None:
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(f"--tls-ca {ca}: no certificate of an authority ({error}).") from error


def _explained(error: ConnectFailed, *, has_token: bool) -> str:
    """Return what went wrong, and what to do."""
    text = problem(error)
    match error.kind:
        case "refused":
            return f"{text} Is the node running, and is this its port?"
        case "unauthorized" if has_token:
            return f"{text} Give the one it was started with: --token-file FILE."
        case "unauthorized":
            return f"The node at {error.url} wants a token: --token-file FILE."
        case "not_a_node" | "rejected" | "closed":
            return f"{text} What listens there may be no node: is this its port?"
        case "tls":
            return (
                f"{text} Is it wss:// there, with a certificate from --tls-ca FILE or one that is known here?"
            )
        case _:
            return text


def _line(text: str) -> str:
    return visible(text).replace("\n", " ").replace("\t", " ")


def _print_lines(title: str, rows: Sequence[tuple[str, ...]], waits: Sequence[tuple[str, str]]) -> None:
    print(title)
    table = [HEADINGS, *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if heading in NUMBERS else cell.ljust(width)
            for heading, cell, width in zip(HEADINGS, row, widths, strict=True)
        ]
        print("  ".join(cells))
    for waiting, on in waits:
        print(f"{waiting} waits on {on}")


def _print_tables(title: str, rows: Sequence[tuple[str, ...]], waits: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    if not rows:
        console.print(Text(title))
        return
    table = Table(title=Text(title), title_justify="left")
    for heading in HEADINGS:
        justify: Any = "right" if heading in NUMBERS else "left"
        table.add_column(heading.lower(), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row), style="bold" if row[HEADINGS.index("BUSY")] == "yes" else None)
    console.print(table)
    for waiting, on in waits:
        console.print(Text(f"{waiting} waits on {on}"), soft_wrap=True)
