"""What the base install does without the optional packages, and what it says is missing."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import agentscope_async
from agentscope_async.cli.doctor import OPTIONAL

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = set(PROJECT["optional-dependencies"]) - {"services", "demo", "dev"}  # these are sums of others

NEEDS = {
    "local": "await DialogAgent('Ann', model='local:smollm2')('Hi')",
    "tools": "Toolkit().add(described)",
    "web-tools": "parse_html_to_text('<p>cats</p>', ['p'])",
    "search": "await ddgs_search('cats')",
    "mcp": "await MCPClient('true').__aenter__()",
    "mysql": "await query_mysql('database', 'SELECT 1', 'h', 'user', 'password')",
    "postgresql": "await query_postgresql('database', 'SELECT 1', 'h', 'user', 'password')",
    "mongodb": "await query_mongodb('database', 'collection', {}, 'h')",
    "knowledge": "await KnowledgeBase('cats.kb', len).__aenter__()",
    "web": "web.expose(described)",
    "tokens": "tokens.count_openai_token('cats', 'gpt-4')",
    "fast": "OpenAIChatWrapper('a', model_name='m', api_key='k', client_args={'http': 'aiohttp'})",
}
"""What uses each extra, as somebody would who has not installed it."""

PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from agentscope_async import *
from agentscope_async import tokens, web
from agentscope_async.models import *
from agentscope_async.service import *

def described(key: str) -> str:
    '''Say it.

    Args:
        key: what to say.
    '''
    return key

{case}
"""

CASE = """
async def main():
    {code}

try:
    asyncio.run(main())
except MissingExtraError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def base_install(tmp_path_factory):
    """A directory of what ``pip install agentscope-async`` brings, and of nothing else."""
    directory = tmp_path_factory.mktemp("base")
    for name in closure(PROJECT["dependencies"]):
        for file in metadata.files(name) or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (directory / top).exists():
                (directory / top).symlink_to(metadata.distribution(name).locate_file(top))
    (directory / "agentscope_async").symlink_to(Path(agentscope_async.__file__).parent)
    return directory


def closure(requirements):
    """Return the names of the distributions that these need, themselves included."""
    found, queue = set(), [Requirement(each) for each in requirements]
    while queue:
        needed = queue.pop()
        is_meant = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if is_meant and needed.name not in found:
            found.add(needed.name)
            queue += [Requirement(each) for each in metadata.requires(needed.name) or ()]
    return found


def run(base_install, case, *options):
    return subprocess.run(
        [sys.executable, "-I", "-S", *options, "-c", PROGRAM.format(case=case), base_install],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=base_install.parent,
    )


def test_q16_base_install_has_all_names_and_an_agent_answers(base_install):
    done = run(
        base_install,
        "agent = DialogAgent('Ann', model='fake:echo')\n"
        "print(asyncio.run(agent('Hello')).text, 'typer' in sys.modules)",
    )
    assert (done.stdout, done.stderr) == ("user: Hello False\n", "")


def test_q16_base_install_needs_no_more_than_the_seven_packages_bring(base_install):
    assert not any((base_install / name).exists() for name in ("typer", "fastapi", "aiohttp", "xllamacpp"))
    assert {Requirement(each).name for each in PROJECT["dependencies"]} == {
        *("httpx", "anyio", "pydantic", "orjson", "structlog", "websockets", "tenacity")
    }


@pytest.mark.parametrize("extra", NEEDS)
def test_q16_what_an_extra_adds_says_how_to_install_it(base_install, extra):
    done = run(base_install, CASE.format(code=NEEDS[extra]))
    assert done.stdout, done.stderr
    assert f"pip install 'agentscope-async[{extra}]'" in json.loads(done.stdout)


def test_q16_command_says_how_to_install_it(base_install):
    done = run(base_install, "from agentscope_async.cli import main\nsys.exit(main())")
    assert done.returncode == 2
    assert "pip install 'agentscope-async[cli]'" in done.stderr


@pytest.mark.parametrize("text", ['{"a": 1}', "```json\n{'a': 1}\n```"])
def test_q16_objects_are_read_without_json_repair_too(base_install, text):
    code = f"from agentscope_async._lenient import read_object\nprint(read_object({text!r}))"
    assert run(base_install, code).stdout == "{'a': 1}\n"


def test_q16_doctor_knows_each_extra():
    named = {re.search(r"\[(.+)]", line)[1] for line in OPTIONAL.values() if "[" in line}
    assert named == EXTRAS


def test_q16_each_extra_is_shown_here():
    assert set(NEEDS) | {"cli", "json", "prices"} == EXTRAS
