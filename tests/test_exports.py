"""What can be imported from where."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import agentscope_async

ROOT = Path(__file__).parents[1]
SUB_PACKAGES = ["agents", "errors", "memory", "message", "models", "monitor", "pipelines", "service"]


def test_A10_the_version_is_readable() -> None:
    assert agentscope_async.__version__.count(".") >= 2


def test_all_is_sorted_and_complete() -> None:
    assert agentscope_async.__all__ == sorted(set(agentscope_async.__all__))
    for name in agentscope_async.__all__:
        assert getattr(agentscope_async, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="RpcAgent"):
        _ = agentscope_async.RpcAgent


def test_a_name_of_agentscope_that_is_another_one_here_says_which() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'RpcAgentServerLauncher'; use Runtime\(listen="):
        _ = agentscope_async.RpcAgentServerLauncher
    table = (ROOT / "examples/migration_from_agentscope/README.md").read_text().splitlines()
    renamed = {
        name for row in table if "| renamed |" in row for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert set(agentscope_async._RENAMED) <= renamed
    assert not any(hasattr(agentscope_async, name) for name in agentscope_async._RENAMED)


@pytest.mark.parametrize("module", SUB_PACKAGES)
def test_what_a_sub_package_exports_is_public_and_the_same_at_the_top(module: str) -> None:
    home = importlib.import_module(f"agentscope_async.{module}")
    for name in home.__all__:
        assert getattr(home, name) is not None
    assert set(home.__all__) <= set(agentscope_async.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(agentscope_async.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = set()
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if alias.name == "*":
                seen |= set(importlib.import_module(f"agentscope_async.{node.module}").__all__)
            else:
                seen.add(alias.asname)
    assert seen | {"__version__"} == set(agentscope_async.__all__)


def test_msghub_stays_the_function_after_its_module_was_imported() -> None:
    code = (
        "import agentscope_async.msghub, agentscope_async as a; from agentscope_async import msghub;"
        "assert callable(msghub), msghub; assert callable(a.msghub)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


IMPORT_EACH_ALONE = """
import os, sys
import fastapi, httpx, mcp, pydantic, pytest, rich, structlog, typer, websockets  # once, as they take long

for name in sys.argv[1:]:
    if not (pid := os.fork()):
        __import__(name)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        print(name)
"""


def test_every_module_can_be_imported_alone() -> None:
    names = [each.name for each in pkgutil.walk_packages(agentscope_async.__path__, "agentscope_async.")]
    command = [sys.executable, "-c", IMPORT_EACH_ALONE, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_importing_loads_nothing_heavy_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, agentscope_async\n"
        "heavy = {'httpx','websockets','xllamacpp','rich','typer','fastapi','starlette','pydantic',"
        "'anyio','structlog','tenacity','asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_no_part_in_use_loads_a_provider_or_a_web_package() -> None:
    code = (
        "import sys, agentscope_async as a\n"
        "from agentscope_async.models._catalog import TYPES\n"
        "clients = {name for _, name in TYPES.values()}\n"
        "[getattr(a, name) for name in set(a.__all__) - clients]\n"
        "heavy = {'httpx','websockets','xllamacpp','rich','typer','fastapi','starlette'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_documented() -> None:
    for name in agentscope_async.__all__:
        value = getattr(agentscope_async, name)
        if isinstance(value, type) or callable(value):
            assert getattr(value, "__doc__", None), name
