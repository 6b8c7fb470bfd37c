"""What ``execute_python_code`` answers, in the sandbox, in Docker and without either."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest
from service.sandbox_traces import new_name, processes_named

from agentscope_async.errors import ConfigError
from agentscope_async.service import ServiceExecStatus, execute_python_code
from agentscope_async.service._marks import marks_of

needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="needs: apt-get install bubblewrap"
)

ENDLESS = "import time\nprint('Hello World')\ntime.sleep(1e6)\nprint('This will not print')"


@needs_bubblewrap
async def test_l01_what_is_printed_is_the_content() -> None:
    response = await execute_python_code("print('Hello World')", timeout=20, use_docker=False)

    assert response.status is ServiceExecStatus.SUCCESS
    assert response.content == "Hello World\n"


@needs_bubblewrap
async def test_l01_an_exception_is_an_error_with_output_and_traceback() -> None:
    code = "def fail():\n    raise ValueError('An intentional error')\nprint('Hello World')\nfail()"

    response = await execute_python_code(code, 20)

    assert response.status is ServiceExecStatus.ERROR
    assert response.content == (
        "Hello World\n"
        "\n"
        "Traceback (most recent call last):\n"
        '  File "/code.py", line 4, in <module>\n'
        "    fail()\n"
        '  File "/code.py", line 2, in fail\n'
        "    raise ValueError('An intentional error')\n"
        "ValueError: An intentional error\n"
    )


@needs_bubblewrap
@pytest.mark.parametrize(
    ("code", "output"), [("import math\nprint(math.sqrt(16))", "4.0\n"), ("", ""), ("print('é€')", "é€\n")]
)
async def test_l01_the_standard_library_and_no_code_at_all(code: str, output: str) -> None:
    response = await execute_python_code(code, timeout=20)

    assert response.content == output
    assert response.is_success


@needs_bubblewrap
async def test_l02_code_that_takes_too_long_is_an_error_with_what_it_printed() -> None:
    response = await execute_python_code(ENDLESS, timeout=0.5)

    assert response.status is ServiceExecStatus.ERROR
    assert response.content.startswith("Hello World\n\n")
    assert "timed out\n" in response.content


@needs_bubblewrap
async def test_l02_exceptions_cannot_be_caught_to_go_on() -> None:
    code = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"

    response = await execute_python_code(code, timeout=0.5)

    assert "timed out\n" in response.content


@needs_bubblewrap
def test_l02_the_limit_holds_off_the_main_thread_and_in_several_loops() -> None:
    contents: list[str] = []

    def in_a_loop_of_its_own() -> None:
        contents.append(asyncio.run(execute_python_code(ENDLESS, timeout=0.5)).content)

    threads = [threading.Thread(target=in_a_loop_of_its_own) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["timed out\n" in content for content in contents] == [True] * 3


@needs_bubblewrap
async def test_l02_too_much_memory_is_a_memory_error() -> None:
    code = "print('Hello World')\nkept = bytearray(300 * 2**20)"

    response = await execute_python_code(code, 20, None, 200 * 2**20)

    assert response.status is ServiceExecStatus.ERROR
    assert response.content.startswith("Hello World\n\n")
    assert response.content.endswith("MemoryError\n")


@needs_bubblewrap
async def test_l03_code_that_writes_files_is_answered() -> None:
    code = "open('a.txt', 'w').write('text')\nprint(open('a.txt').read())\nimport os\nos.remove('a.txt')"

    response = await execute_python_code(code, timeout=20)

    assert response.content == "text\n"


@needs_bubblewrap
@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("print(1)\nimport sys\nsys.exit()", "1\n"),
        ("print(1)\nexit()", "1\n"),
        ("print(1)\nraise SystemExit(0)", "1\n"),
        ("print(1)\nimport sys\nsys.exit(3)", "1\n\nexit code 3\n"),
        ("print(1)\nquit('why')", "1\n\nwhy\n"),
        ("print(1)\nimport os\nos._exit(5)", "1\n\nexit code 5\n"),
        ("print(1)\nimport ctypes\nctypes.string_at(0)", "1\n\nIt was ended by SIGSEGV\n"),
        ("print(1)\nimport os\nos.abort()", "1\n\nIt was ended by SIGABRT\n"),
        ("print(1)\nimport os\nos.kill(os.getpid(), 9)", "1\n\nIt was ended by SIGKILL\n"),
    ],
)
async def test_l03_every_way_to_end_is_answered(code: str, content: str) -> None:
    response = await execute_python_code(code, timeout=20)

    assert response.content == content
    assert response.is_success is (content == "1\n")


@needs_bubblewrap
async def test_l03_helper_functions_see_what_was_imported_at_the_top() -> None:
    code = "import math\ndef helper():\n    return math.floor(2.5)\nprint(helper(), [helper()])"

    response = await execute_python_code(code, timeout=20)

    assert response.content == "2 [2]\n"


@needs_bubblewrap
async def test_l03_it_runs_as_a_script() -> None:
    code = """
import atexit, pickle, sys, threading, time
class Thing: pass
def later():
    time.sleep(0.05)
    print("thread")
if __name__ == "__main__":
    threading.Thread(target=later).start()
    atexit.register(print, "at exit")
    print(type(pickle.loads(pickle.dumps(Thing()))).__name__, sys.argv, sys.stdin.read() == "")
"""
    response = await execute_python_code(code, timeout=20)

    assert response.content == "Thing ['/code.py'] True\nthread\nat exit\n"


@needs_bubblewrap
async def test_warnings_of_code_that_ends_well_are_not_its_output() -> None:
    response = await execute_python_code("import warnings\nwarnings.warn('w')\nprint(1)", timeout=20)

    assert response.content == "1\n"


@needs_bubblewrap
def test_it_runs_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def both() -> list[str]:
        codes = ("print(1)", ENDLESS)
        return [(await execute_python_code(code, timeout=0.5)).content for code in codes]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        contents = runner.run(both())

    assert contents[0] == "1\n"
    assert "timed out\n" in contents[1]


async def test_l04_without_a_docker_client_the_answer_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    response = await execute_python_code("print('ran')", use_docker=True)

    assert response.status is ServiceExecStatus.ERROR
    assert "apt-get install docker.io" in response.content


async def test_l04_without_a_docker_daemon_the_answer_says_so(docker: FakeDocker) -> None:
    docker.does("echo 'docker: Cannot connect to the Docker daemon.' >&2; exit 125")

    response = await execute_python_code("print('ran')", use_docker=True)

    assert response.status is ServiceExecStatus.ERROR
    assert "Cannot connect to the Docker daemon" in response.content
    assert "daemon running" in response.content


async def test_l04_a_real_client_without_an_engine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("docker") is None:
        pytest.skip("needs: apt-get install docker.io")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")

    response = await execute_python_code("print('ran')", use_docker=True)

    assert response.status is ServiceExecStatus.ERROR
    assert "nowhere/docker.sock" in response.content


async def test_l04_docker_gets_the_code_as_it_is_and_all_limits(docker: FakeDocker) -> None:
    docker.does("cat")
    code = "print('''a''' + \"b\\\\\")  # '''\n"

    response = await execute_python_code(code, use_docker="python:3.13-slim", maximum_memory_bytes=1 << 28)

    assert response.content == code
    called = docker.calls[0]
    assert called.startswith("run --rm --interactive --name agentscope-")
    assert called.endswith(" -- python:3.13-slim python -I -B -X utf8 -")
    for limit in (
        "--network none",
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        "--pids-limit 64",
        "--user 65534:65534",
        f"--memory {1 << 28} --memory-swap {1 << 28}",
    ):
        assert f" {limit} " in called


async def test_l04_failing_code_in_docker_is_an_error(docker: FakeDocker) -> None:
    docker.does("echo out; echo 'ValueError: no' >&2; exit 1")

    response = await execute_python_code("", use_docker=True)

    assert response.status is ServiceExecStatus.ERROR
    assert response.content == "out\n\nValueError: no\n"


async def test_l04_a_container_that_takes_too_long_is_removed(docker: FakeDocker) -> None:
    docker.does("echo out; sleep 1000")

    response = await execute_python_code("", timeout=0.3, use_docker=True)

    assert "timed out\n" in response.content
    docker.assert_removed()


async def test_l04_a_cancelled_container_is_removed(docker: FakeDocker) -> None:
    docker.does("sleep 1000")
    running = asyncio.create_task(execute_python_code("", use_docker=True))
    while not docker.calls:
        await asyncio.sleep(0.01)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    docker.assert_removed()


async def test_unsafe_local_runs_and_says_so_each_time(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        response = await execute_python_code("print('Hello World')", timeout=20, unsafe_local=True)
        assert response.content == "Hello World\n"

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["code_without_sandbox" in record.getMessage() for record in warnings] == [True] * 2


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise ValueError('why')", "ValueError: why"),
        ("while True: pass", "timed out\n"),
        ("bytearray(2**31)", "MemoryError"),
        ("while True: print('y' * 1000)", "cut there and stopped"),
        ("import os\nprint(os.environ['OPENAI_API_KEY'])", "KeyError"),
        ("import sys\nsys.exit(3)", "exit code 3"),
    ],
)
async def test_unsafe_local_has_limits_too(code: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")

    response = await execute_python_code(code, timeout=1, unsafe_local=True)

    assert response.status is ServiceExecStatus.ERROR
    assert told in response.content


async def test_unsafe_local_leaves_no_files_and_no_children() -> None:
    name = new_name()
    code = f"""
import ctypes, os, time
ctypes.CDLL(None).prctl(15, {name!r}.encode(), 0, 0, 0)
open("made", "w").close()
if os.fork() == 0:
    time.sleep(1e6)
print(os.getcwd())
"""
    response = await execute_python_code(code, timeout=20, unsafe_local=True)

    while processes_named(name):  # killed; the system's first process reaps it when it comes to it
        await asyncio.sleep(0.01)
    with pytest.raises(FileNotFoundError):
        os.stat(response.content.strip())


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"maximum_memory_bytes": 0},
        {"unsafe_local": True, "use_docker": True},
        {"unsafe_local": True, "packages": ("numpy",)},
        {"use_docker": True, "return_files": True},
        {"files": {"a": bytes(33 << 20)}},
    ],
)
async def test_options_that_make_no_sense_are_the_programs_mistake(options: dict[str, object]) -> None:
    if "files" in options and shutil.which("bwrap") is None:
        pytest.skip("needs: apt-get install bubblewrap")

    with pytest.raises(ConfigError):
        await execute_python_code("print(1)", **options)  # type: ignore[arg-type]


def test_a_model_may_set_the_code_and_nothing_else() -> None:
    import inspect

    parameters = set(inspect.signature(execute_python_code).parameters)

    assert parameters - marks_of(execute_python_code).granted == {"code"}


def test_it_is_dangerous_only_without_the_sandbox() -> None:
    is_dangerous = marks_of(execute_python_code).dangerous

    assert callable(is_dangerous)
    assert not is_dangerous({"timeout": 5, "packages": ("numpy",)})
    assert is_dangerous({"unsafe_local": True})
    assert is_dangerous({"use_docker": "python:3.13"})


class FakeDocker:
    """A program named docker: notes its arguments and does what it is told for ``docker run``."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "docker"
        self._log = directory / "calls"

    def does(self, script: str) -> None:
        self._program.write_text(
            f'#!/bin/sh\necho "$@" >> {self._log}\nif [ "$1" = run ]; then {script}; fi\n', encoding="utf-8"
        )
        self._program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []

    def assert_removed(self) -> None:
        name = self.calls[0].split("--name ")[1].split()[0]
        assert self.calls[1:] == [f"rm --force {name}"]


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDocker:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return FakeDocker(tmp_path)
