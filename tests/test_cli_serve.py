"""``agentscope-async serve`` as it is used: as a process, with OpenAI's client at the other end."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from command import call, end, environ, spawn

END_S = 40.0
"""A guard: so long a process may take to end."""

AGENTS = '''
import asyncio
import os
import socket

from fastapi import FastAPI

from agentscope_async import AgentBase, DialogAgent, Msg


class Gated(AgentBase):
    """Says a word, then waits for ever."""

    async def reply(self, x=None):
        await self.speak("begun")
        try:
            await asyncio.Event().wait()
        finally:
            open("left", "w").close()


class Plumber(AgentBase):
    """Says whether each connection of its process sends small pieces at once."""

    async def reply(self, x=None):
        return Msg(self.name, " ".join(map(str, filter(None, map(told, range(3, 100))))), "assistant")


def told(descriptor):
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.getpeername()
            is_at_once = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    except OSError:
        return None  # no connection over TCP
    return "at_once" if is_at_once else "held_back"


def plumber():
    return Plumber("Plumber")


def ann():
    return DialogAgent("Ann", None, "fake:echo")


eve = DialogAgent("Eve", None, "fake:echo")
both = {"ann": ann, "eve": eve}
nothing = 3
app = FastAPI()
apps = {"ann": ann, "app": app}


def picky(model, prompt):
    return ann()


def gated():
    return Gated("Gated")


def configured():
    return DialogAgent("Ann", None, "said")
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(AGENTS)
    (tmp_path / "program.py").write_text(f"{AGENTS}\nasync def main(): ...\n\nasyncio.run(main())\n")


@contextmanager
def served(cwd: Path, *args: str):
    """Run the command at a free port; gives the process, the URL and the curl line."""
    command = [sys.executable, "-m", "agentscope_async", "serve", "--port", "0", *args]
    with (cwd / "serve.err").open("w") as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=environ(), stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
        )
    with process:
        try:
            line = process.stdout.readline()
            assert re.search(r" served at http://\S+:[1-9]\d*/v1\n", line), (cwd / "serve.err").read_text()
            yield process, line.split()[-1], process.stdout.readline()
        finally:
            process.kill()


def ask(url: str, model: str, *, key: str = "any", **options):
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        messages = [{"role": "user", "content": "Hello"}]
        return client.chat.completions.create(model=model, messages=messages, **options)


def text_of(answer) -> str:
    return answer.choices[0].message.content


@pytest.mark.parametrize("name", ["ann", "eve"])
def test_an_agent_or_a_factory_of_the_working_directory_is_served(tmp_path, name):
    with served(tmp_path, f"mine:{name}") as (process, url, _):
        assert url.startswith("http://127.0.0.1:")
        assert text_of(ask(url, name)) == "user: Hello"
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0
    assert (tmp_path / "serve.err").read_text() == ""


def test_small_pieces_of_an_answer_are_not_held_back(tmp_path):
    with served(tmp_path, "mine:plumber") as (_, url, _):
        assert text_of(ask(url, "plumber")) == "at_once"


def test_a_dict_serves_several_by_name(tmp_path):
    with (
        served(tmp_path, "mine:both") as (_, url, _),
        openai.OpenAI(base_url=url, api_key="any") as client,
    ):
        assert [model.id for model in client.models.list()] == ["ann", "eve"]


def test_name_says_what_clients_ask_for(tmp_path):
    with served(tmp_path, "mine:ann", "--name", "gpt-ann") as (_, url, _):
        assert text_of(ask(url, "gpt-ann")) == "user: Hello"


def test_model_configurations_are_known_to_what_is_served(tmp_path):
    config = '{"config_name": "said", "model_type": "fake_scripted", "answers": ["prepared"]}'
    (tmp_path / "models.json").write_text(config)
    with served(tmp_path, "mine:configured", "--model-configs", "models.json") as (_, url, _):
        assert text_of(ask(url, "configured")) == "prepared"


def test_the_curl_line_that_is_printed_works(tmp_path):
    token = secrets.token_urlsafe(32)
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(f"{token}\n")
    with served(tmp_path, "mine:ann", "--token-file", "token") as (_, _, line):
        done = subprocess.run(
            ["bash", "-c", line.strip().replace("curl ", "curl -sS ", 1)],
            cwd=tmp_path,
            capture_output=True,
            timeout=END_S,
            check=True,
        )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "user: Hello"
    assert shlex.split(line)[0] == "curl"


def test_with_a_token_file_only_who_shows_the_token_is_served(tmp_path):
    token = secrets.token_urlsafe(32)
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(f"{token}\n")
    with served(tmp_path, "mine:ann", "--token-file", "token", "--host", "0.0.0.0") as (_, url, _):
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert text_of(ask(url, "ann", key=token)) == "user: Hello"
        with pytest.raises(openai.AuthenticationError):
            ask(url, "ann", key="wrong")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_web_page_under_a_name_of_its_own_is_not_served(tmp_path, host):
    with served(tmp_path, "mine:ann", "--host", host) as (_, url, _):
        for name in ("evil.example", "evil.example:80", "[::1].evil.example", "127.0.0.1.evil.example", ""):
            assert httpx.get(f"{url}/models", headers={"Host": name}).status_code == 400
        own = url.split("/")[2]
        for name in (own, own.rpartition(":")[0], "localhost:8000", "LOCALHOST"):
            assert httpx.get(f"{url}/models", headers={"Host": name}).status_code == 200


def test_ctrl_c_ends_cleanly_with_130_and_the_turn_under_way_with_it(tmp_path):
    with served(tmp_path, "mine:gated", "--grace", "0") as (process, url, _):
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            messages = [{"role": "user", "content": "Hello"}]
            stream = client.chat.completions.create(model="gated", messages=messages, stream=True)
            assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "begun"]
            process.send_signal(signal.SIGINT)
            with pytest.raises(openai.APIError, match="cancelled"):
                next(stream)
            assert process.wait(END_S) == 130
    assert (tmp_path / "left").exists()
    assert "Traceback" not in (tmp_path / "serve.err").read_text()


def test_ctrl_c_on_a_terminal_ends_with_130(tmp_path):
    terminal = spawn(tmp_path, "serve", "mine:ann", "--port", "0")
    terminal.expect("curl http")
    terminal.expect("Hello")
    terminal.sendintr()
    end(terminal, 130)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["mine:ann", "--host", "0.0.0.0"], "--token-file"),
        (["mine:ann", "--host", "example.org"], "--token-file"),
        (["mine"], "MODULE:NAME"),
        (["missing:ann"], "no module 'missing'"),
        (["mine:missing"], "has no 'missing'"),
        (["mine:nothing"], "factory"),
        (["mine:picky"], "factory"),
        (["mine:app"], "uvicorn mine:app"),
        (["mine:apps"], "uvicorn mine:app"),
        (["program:ann"], '`if __name__ == "__main__":`'),
        (["mine:both", "--name", "x"], "--name"),
        (["mine:ann", "--name", "a b"], "no name for a model"),
    ],
)
def test_what_cannot_be_served_is_a_mistake_of_usage(tmp_path, args, why):
    _, err = call(tmp_path, "serve", "--port", "0", *args, code=2)
    assert why in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, err = call(tmp_path, "serve", "mine:ann", "--port", str(port), code=1)
    assert err.startswith(f"error: Cannot listen at 127.0.0.1 port {port}: ")
