"""The files of examples/local_models: their configurations, their scripts, and what the scripts share.

The servers themselves are started by release_local_models.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys

import pytest
from release_local_models import EXAMPLE, SERVERS

from agentscope_async.models import ModelRegistry

SCRIPTS = sorted(EXAMPLE.glob("*.py"))
CONFIGS = sorted(EXAMPLE.glob("configs/*.json"))
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def scripts(monkeypatch):
    """A function that imports a script of the example, as it imports the others."""
    monkeypatch.syspath_prepend(EXAMPLE)
    names = {path.stem for path in SCRIPTS}
    yield importlib.import_module
    for name in names & sys.modules.keys():
        del sys.modules[name]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_loads_into_wrappers(path):
    registry = ModelRegistry()
    registry.read(path)
    assert registry.names()
    for config in registry.configs():
        wrapper = registry.load(config["config_name"])
        assert wrapper.model_type == config["model_type"]
        assert wrapper.build_request(MESSAGES, {}, stream=False).url.startswith("http://127.0.0.1:")


def test_each_server_has_a_configuration_and_a_line_in_the_readme():
    assert {path.stem for path in CONFIGS} == SERVERS.keys()
    readme = (EXAMPLE / "README.md").read_text()
    for name, server in SERVERS.items():
        assert f"configs/{name}.json" in readme
        assert server.command[0] in readme
        assert f"| {name} |" in readme


def test_each_requirement_names_its_version():
    lines = [line for path in EXAMPLE.glob("requirements/*.txt") for line in path.read_text().splitlines()]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line)] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_compiles(path):
    compile(path.read_text(), path, "exec")


def test_start_scripts_import_their_libraries_only_when_they_serve(scripts):
    before = set(sys.modules)
    for path in SCRIPTS:
        scripts(path.stem)
    heavy = {"flask", "modelscope", "torch", "transformers", "vllm", "werkzeug", "xllamacpp"}
    assert heavy & (sys.modules.keys() - before) == set()


@pytest.mark.parametrize("name", ["flask_transformers", "flask_modelscope"])
def test_g02_g03_both_wrappers_read_the_answer_of_the_flask_service(scripts, name):
    body = scripts("serve_flask").in_both_forms("Hello.", read=7, whole=9)
    flat = {key: body[key] for key in ("response", "n_token_prompt", "n_token_response")}
    assert flat == {"response": "Hello.", "n_token_prompt": 7, "n_token_response": 9}
    registry = ModelRegistry()
    registry.read(EXAMPLE / "configs" / f"{name}.json")
    assert {config["model_type"] for config in registry.configs()} == {"post_api", "post_api_chat"}
    for config_name in registry.names():
        answer = registry.load(config_name).parse_response(body)
        assert answer.text == "Hello."
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 2)


@pytest.mark.parametrize("name", ["flask_transformers", "flask_modelscope"])
def test_flask_service_takes_what_the_wrappers_send(scripts, name):
    checked = scripts("serve_flask").checked
    registry = ModelRegistry()
    registry.read(EXAMPLE / "configs" / f"{name}.json")
    for config_name in registry.names():
        wrapper = registry.load(config_name)
        prompt = MESSAGES if wrapper.takes_messages else "hi"
        sent = wrapper.build_request(prompt, {}, stream=False).json
        assert checked(sent) == {"inputs": prompt, "max_new_tokens": 64, "temperature": 0}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "Expected"),
        ({}, "Expected"),
        ({"inputs": 7}, "Expected"),
        ({"inputs": ""}, "Expected"),
        ({"inputs": []}, "Expected"),
        ({"inputs": [{"role": "user"}]}, "Expected"),
        ({"inputs": ["hi"]}, "Expected"),
        ({"inputs": "hi", "max_new_tokens": "9"}, "whole number from 1"),
        ({"inputs": "hi", "max_new_tokens": 10**9}, "whole number from 1"),
        ({"inputs": "hi", "max_length": 1.5}, "whole number from 1"),
        ({"inputs": "hi", "temperature": float("nan")}, "a number from 0 to 2"),
        ({"inputs": "hi", "top_p": float("inf")}, "a number from 0 to 1"),
        ({"inputs": "hi", "top_k": -5}, "whole number from 0"),
        ({"inputs": "hi", "top_k": True}, "whole number from 0"),
        ({"inputs": "hi", "custom_generate": "x/y"}, "Unknown: custom_generate"),
    ],
)
def test_flask_service_refuses_what_it_does_not_know(scripts, body, words):
    with pytest.raises(ValueError, match=words):
        scripts("serve_flask").checked(body)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, {"max_new_tokens": 128, "do_sample": False}),
        ({"max_length": 9, "temperature": 0}, {"max_length": 9, "do_sample": False}),
        (
            {"max_new_tokens": 3, "temperature": 0.5},
            {"max_new_tokens": 3, "temperature": 0.5, "do_sample": True},
        ),
    ],
)
def test_flask_service_samples_only_at_a_temperature(scripts, given, taken):
    assert scripts("serve_flask").sampling(given) == taken


def test_a_server_that_was_started_is_gone_afterwards(scripts, tmp_path):
    served = scripts("served")
    port = served.free_port()
    args = (str(port), "--bind", served.HOST, "--directory", str(tmp_path))
    with (tmp_path / "err").open("w") as errors, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", errors)
        with served.running("http.server", *args) as child:
            served.wait_for(f"http://{served.HOST}:{port}/", child)
    assert child.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_waiting_for_a_server_that_ended_says_so(scripts, tmp_path):
    served = scripts("served")
    with (tmp_path / "err").open("w") as errors, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", errors)
        with served.running("no_such_module_at_all") as child:
            child.wait()
            with pytest.raises(SystemExit, match="ended with 1"):
                served.wait_for(f"http://{served.HOST}:{served.free_port()}/", child)


@pytest.mark.parametrize(("more", "answer"), [((), "from a"), (("--name", "b"), "from b")])
def test_talk_speaks_the_script_with_the_first_configuration_or_the_one_named(tmp_path, more, answer):
    config, script = tmp_path / "config.json", tmp_path / "script"
    scripted = {"model_type": "fake_scripted"}
    configs = [{**scripted, "config_name": name, "answers": [f"from {name}"]} for name in ("a", "b")]
    config.write_text(json.dumps(configs))
    script.write_text("hello\nexit\n")
    command = [sys.executable, EXAMPLE / "talk.py", config, "--script", script, *more]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", timeout=50)
    assert done.stdout.splitlines() == ["User: hello", f"Assistant: {answer}", "User: exit"]
