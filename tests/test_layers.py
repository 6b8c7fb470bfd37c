"""Imports point downward only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "agentscope_async"
LAYERS = [
    {"errors", "message", "_context", "logging", "events", "_tasks", "_rundir", "_redact", "_settings"}
    | {"_dead_letters", "_event_reader", "_lenient", "_made", "_per_loop", "_sockets", "_trace"}
    | {"supervision", "watching"},
    {"_turn", "_deadlock", "_letters", "_stopping", "_work", "mailbox", "reply"}
    | {"monitor", "memory", "_invocations", "tokens"},
    {"models", "service", "prompt", "files", "_services"},
    {"agents"},
    {"msghub", "pipelines", "node"},
    {"runtime", "_init", "_hosting", "_graph"}
    | {"keyed", "keyed_agent", "keyed_registries", "keyed_store", "keyed_unsaved"},
    {"web", "cli", "testing", "__main__", "__init__"},
]
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}


def unit_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_units(path: Path) -> set[tuple[str, int]]:
    """Names of the units a file imports when it runs, with line numbers; not those for type checkers only."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    depth = len(path.relative_to(PACKAGE).parts)
    found: set[tuple[str, int]] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_checkers or node.level == 0:
            continue
        if node.level < depth:
            continue  # within its own sub-package
        names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
        found |= {(name, node.lineno) for name in names if not name.startswith("__")}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])
def test_a_file_imports_from_its_own_layer_or_below(path: Path) -> None:
    unit = unit_of(path)
    assert unit in LEVEL, f"{unit} has no layer yet: add it"
    if unit == "__init__":
        return  # it re-exports from every layer
    if path == PACKAGE / "node" / "child.py":
        return  # a program, on top of everything; nothing imports it
    upward = [(name, line) for name, line in imported_units(path) if LEVEL[name] > LEVEL[unit]]
    assert upward == []


def test_every_layer_is_looked_at() -> None:
    assert {"mailbox", "agents", "runtime", "models"} <= {unit_of(path) for path in FILES}
    assert "mailbox" in {name for name, _ in imported_units(PACKAGE / "agents" / "base.py")}
