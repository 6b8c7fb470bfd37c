"""Configurations of models on servers of one's own: a conversation through each.

The servers of OpenAI's and ollama's kind are llama.cpp with a real model; those that take a plain
POST answer in the form of AgentScope v0.0.2's Flask scripts (scripts/flask_transformers/setup_hf_service.py).
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from run_examples import load, said

from agentscope_async import Runtime


class Flask(ThreadingHTTPServer):
    """Answers ``POST /llm/`` with the number of the call, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FlaskHandler)
        self.asked = []  # (path, Authorization, body)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/llm/"


class FlaskHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        number = len(self.server.asked)
        said = {"response": f"answer {number}", "n_token_prompt": 7, "n_token_response": 9}
        answer = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format, *args):
        pass


@contextmanager
def flask():
    with Flask() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


async def talk(capsys, config, *lines):
    """Hold the basic conversation with the configured model; returns what the assistant said."""
    async with Runtime(model_configs={"config_name": "served", **config}):
        await load("conversation_basic").converse("served", source=said(*lines, "exit"))
    return capsys.readouterr().out.splitlines()


async def talk_to_flask(capsys, server, **config):
    lines = await talk(
        capsys,
        {
            "model_type": "post_api",
            "api_url": server.url,
            "json_args": {"max_length": 4096, "temperature": 0.5},
            **config,
        },
        "hello",
    )
    assert lines == ["Assistant: answer 1", "Assistant: answer 2"]
    path, _, body = server.asked[-1]
    assert path == "/llm/"
    assert (body["max_length"], body["temperature"]) == (4096, 0.5)
    assert "hello" in json.dumps(body["inputs"])


async def talk_to_openai_s_kind(capsys, origin, **config):
    lines = await talk(
        capsys,
        {
            "model_type": "openai_chat",
            "model_name": "any",
            "api_key": "EMPTY",
            "generate_args": {"max_tokens": 12},
            **config,
        },
    )
    assert lines[0].startswith("Assistant: ")
    assert lines[0] != "Assistant: "


async def test_g01_conversation_over_ollama(capsys, ollama_server):
    config = {
        "model_type": "ollama_chat",
        "model_name": "smollm2:135m",
        "host": ollama_server,
        "options": {"num_predict": 12},
    }
    line = (await talk(capsys, config))[0]
    assert line.startswith("Assistant: ")
    assert line != "Assistant: "


async def test_g02_g03_conversation_over_flask_with_transformers_or_modelscope(capsys):
    with flask() as server:  # both of v0.0.2's scripts answer in this form
        await talk_to_flask(capsys, server)


async def test_g04_conversation_over_fastchat_by_client_args_as_v002_had_them(capsys, openai_server):
    await talk_to_openai_s_kind(capsys, openai_server, client_args={"base_url": f"{openai_server}/v1"})


async def test_g05_conversation_over_vllm_by_base_url(capsys, openai_server):
    await talk_to_openai_s_kind(capsys, openai_server, base_url=f"{openai_server}/v1")


async def test_g06_hosted_inference_api_gets_its_bearer_header(capsys):
    with flask() as server:
        await talk_to_flask(capsys, server, headers={"Authorization": "Bearer not-a-key"})
        assert {bearer for _, bearer, _ in server.asked} == {"Bearer not-a-key"}
