"""The sandbox's limits hold, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from service.sandbox_runs import play
from service.sandbox_traces import marked_code, new_name, processes_named, sandboxes_of

import agentscope_async
from agentscope_async.errors import ConfigError
from agentscope_async.service import ServiceExecStatus, ServiceResponse, execute_python_code
from agentscope_async.service._sandbox_seccomp import _REFUSED, seccomp_program

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs: apt-get install bubblewrap")

MEBIBYTE = 1 << 20


IN_MANY_PROCESSES = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        kept = b"x" * (100 * 2**20)
        time.sleep(100)
time.sleep(100)
"""


async def run(code: str, timeout_s: float = 20, **options: object) -> ServiceResponse:
    return await execute_python_code(code, timeout_s, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc/shadow",
        "/root/.ssh",
        "/home",
        "/sys",
        "/var",
        "/run",
        "/usr/src",
        str(Path.home() / ".bashrc"),
        str(Path(agentscope_async.__file__).parent),
        str(Path(__file__)),
    ],
)
async def test_x01_files_of_this_machine_are_not_there(path: str) -> None:
    response = await run(f"import os; os.stat({path!r})")

    assert "FileNotFoundError" in response.content


async def test_x01_the_environment_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "hidden")

    response = await run("import os; print(sorted(os.environ), os.getuid(), os.getcwd(), os.listdir())")

    names = ["HOME", "LANG", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PWD"]
    assert response.content == f"{names} 1000 /tmp/work []\n"


async def test_x01_packages_installed_here_cannot_be_imported() -> None:
    response = await run("import pytest")

    assert "ModuleNotFoundError" in response.content


async def test_x01_packages_installed_here_cannot_be_read() -> None:
    places = [*map(sysconfig.get_path, ("purelib", "platlib")), "/usr/lib/python3/dist-packages"]
    places.append(f"{sys.base_prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    code = f"import os; print([path for path in {places} if os.path.exists(path) and os.listdir(path)])"

    response = await run(code)

    assert response.content == "[]\n"


async def test_x03_only_the_scratch_directories_can_be_written(tmp_path: Path) -> None:
    places = ["/", "/usr/lib", "/dev", "/proc", "/code.py/..", str(tmp_path), "/tmp", "/tmp/work", "/dev/shm"]
    code = f"""
import os
for place in {places}:
    try:
        open(place + "/made", "w").write("x")
        print(place)
    except OSError:
        pass
os.symlink({str(tmp_path)!r}, "out")
try:
    open("out/made", "w")
except OSError as error:
    print(type(error).__name__)
"""
    response = await run(code)

    assert response.content.split() == ["/tmp", "/tmp/work", "/dev/shm", "FileNotFoundError"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal; signal.setitimer(signal.ITIMER_REAL, 0); signal.alarm(0)\nwhile True: pass",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        """
import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True: pass
""",
        """
import os, time
if os.fork():
    os.setsid()
os.close(1); os.close(2); time.sleep(1e6)
""",
    ],
    ids=["loop", "timers off", "catches all", "ignores signals", "leaves its session"],
)
async def test_x05_what_never_ends_is_stopped_from_outside(code: str) -> None:
    name = new_name()

    response = await run(marked_code(name, code), timeout_s=0.5)

    assert response.status is ServiceExecStatus.ERROR
    assert "timed out\n" in response.content
    assert processes_named(name) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1e6,)).start()",
        """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        time.sleep(1e6)
    os._exit(0)
""",
    ],
    ids=["fork bomb", "thread bomb", "daemon"],
)
async def test_x07_no_process_is_left(code: str) -> None:
    name = new_name()

    await run(marked_code(name, code), timeout_s=0.6)

    assert processes_named(name) == []
    assert sandboxes_of(os.getpid()) == []


async def test_x07_forks_and_threads_are_counted() -> None:
    code = """
import os, signal
made = 0
try:
    while made < 500:
        if os.fork() == 0:
            signal.pause()
        made += 1
except BlockingIOError:
    print(made)
"""
    response = await run(code)

    assert int(response.content) < 64


async def test_x07_runs_at_once_do_not_use_up_each_others_processes() -> None:
    code = "import os, signal\nfor _ in range(40):\n  if os.fork() == 0: signal.pause()\nprint('all')"

    responses = await asyncio.gather(*(run(code) for _ in range(3)))

    assert [response.content for response in responses] == ["all\n"] * 3


@pytest.mark.parametrize(
    "code",
    [
        "b = bytearray(2**31)",
        "kept = []\nwhile True: kept.append(bytearray(65536))",
        "kept = [b'x' * 2**20 for _ in range(10_000)]",
        "import mmap\nm = mmap.mmap(-1, 2**30)\nfor at in range(0, 2**30, 4096): m[at] = 1",
        "a = 'a' * 10**10",
        IN_MANY_PROCESSES,
        "import ctypes; ctypes.CDLL(None).prctl(4, 0)  # hides its memory map\n" + IN_MANY_PROCESSES,
    ],
    ids=["at once", "slow leak", "many", "mapped", "text", "in many processes", "in hidden processes"],
)
async def test_x08_too_much_memory_is_an_error_that_says_so(code: str) -> None:
    before = resident_bytes()

    response = await run(code, maximum_memory_bytes=300 * MEBIBYTE)

    assert response.status is ServiceExecStatus.ERROR
    assert "MemoryError" in response.content
    assert resident_bytes() - before < 32 * MEBIBYTE


async def test_x08_memory_shared_after_a_fork_counts_once() -> None:
    code = """
import os, time
shared = b"x" * (100 * 2**20)
for _ in range(6):
    if os.fork() == 0:
        time.sleep(0.2)
        os._exit(0)
for _ in range(6):
    os.wait()
print("done")
"""
    response = await run(code, maximum_memory_bytes=300 * MEBIBYTE)

    assert response.content == "done\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("f = open('big', 'wb')\nwhile True: f.write(bytes(2**20))", "OSError"),
        ("for i in range(10**6): open(f'big{i}', 'wb').write(bytes(2**20))", "OSError"),
        ("for i in range(10**6): open(f'/dev/shm/{i}', 'wb').close()", "10,000 files"),
        ("for i in range(10**6): open(str(i), 'w').close()", "10,000 files"),
        ("import os\nfor i in range(10**6): os.mkdir('d'); os.chdir('d')", "10,000 files"),
        ("open('sparse', 'wb').truncate(2**40)", "File too large"),
        ("open('n' * 5000, 'w')", "File name too long"),
    ],
    ids=["one file", "disk", "shm", "files", "deep", "sparse", "long name"],
)
async def test_x11_files_are_bounded(code: str, told: str) -> None:
    response = await run(code, return_files=True)

    assert response.status is ServiceExecStatus.ERROR
    assert told in response.content


@pytest.mark.parametrize("target", ["-1", "1", "os.getppid()", "0"])
async def test_x14_killing_reaches_nothing_outside(target: str) -> None:
    response = await run(f"import os, signal\nos.kill({target}, signal.SIGKILL)\nprint('still here')")

    assert "still here" in response.content or "SIGKILL" in response.content
    assert sandboxes_of(os.getpid()) == []


async def test_x15_only_three_descriptors_are_open() -> None:
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        code = """
import os
found = []
for fd in range(1024):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError:
        pass
print(found, os.readlink("/proc/self/fd/0"))
"""
        response = await run(code)
    finally:
        os.close(secret)

    assert response.content == "[0, 1, 2] /dev/null\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("print('''a'''); print(\"\"\"b\"\"\")", "a\nb\n"),
        ("print('\\\\', '{', '%s', '$HOME')", "\\ { %s $HOME\n"),
        ("print(1)\0print(2)", "null bytes"),
        ("# a line\n" * 1_100_000 + "print(1)", "1\n"),
        ("if True:\n\tprint('tab')\r\nprint('crlf')\r\n", "tab\ncrlf\n"),
        ("# -*- coding: latin-1 -*-\nprint('é')", "é\n"),
        ("# -*- coding: no-such -*-\nprint('é')", "é\n"),
        ("def f(:", "SyntaxError"),
        ("\ud800", "UnicodeEncodeError"),
        ("(" * 1000, "SyntaxError"),
        ("", ""),
        ("#", ""),
    ],
    ids=[
        *("quotes", "marks", "null", "10 MB", "tabs", "coding", "bad coding", "syntax", "surrogate"),
        *("deep", "empty", "comment"),
    ],
)
async def test_x17_any_text_is_answered(code: str, told: str) -> None:
    response = await run(code)

    assert isinstance(response.content, str)
    assert told in response.content


async def test_x17_longer_code_is_refused() -> None:
    response = await run("#" * (17 << 20))

    assert response.status is ServiceExecStatus.ERROR
    assert "nothing was run" in response.content


async def test_x21_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    response = await run("print('ran')")

    assert response.status is ServiceExecStatus.ERROR
    assert "apt-get install bubblewrap" in response.content
    assert "ran\n" not in response.content


async def test_x21_without_leave_for_namespaces_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    response = await run("print('ran')")

    assert response.status is ServiceExecStatus.ERROR
    assert "No permissions to create new namespace" in response.content
    assert "Nothing was run" in response.content


async def test_x21_elsewhere_than_on_linux_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")

    response = await run("print('ran')")

    assert "darwin" in response.content
    assert response.status is ServiceExecStatus.ERROR


async def test_x21_without_a_filter_for_this_machine_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    response = await run("print('ran')")

    assert "riscv64" in response.content
    assert response.status is ServiceExecStatus.ERROR


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_roots_sandboxes_each_run_as_somebody_else() -> None:
    names = [new_name(), new_name()]
    code = "import time; time.sleep(1e6)"
    running = [asyncio.create_task(run(marked_code(name, code))) for name in names]
    while not all(map(processes_named, names)):
        await asyncio.sleep(0.01)

    users = {user_of(pid) for name in names for pid in processes_named(name)}

    assert len(users) == 2
    assert min(users) >= 0x7000_0000
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def test_an_ordinary_user_has_the_same_sandbox(tmp_path: Path) -> None:
    command = as_ordinary_user("""
import asyncio, os
from agentscope_async.service._sandbox import run_in_sandbox
assert os.getuid() != 0
codes = ["import os; print(os.getuid(), os.listdir('/home'))", "while True: pass", "bytearray(2**31)"]
for code in codes:
    ran = asyncio.run(run_in_sandbox(code.encode(), timeout_s=1))
    print([ran.verdict, ran.ended.stopped, ran.ended.stdout, ran.ended.stderr[-40:]])
""")
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, problems = await process.communicate()

    lines = said.decode().splitlines()
    assert len(lines) == 3, problems
    assert "No such file or directory: '/home'" in lines[0]
    assert lines[1].startswith("['', 'time'")
    assert "MemoryError" in lines[2]


def as_ordinary_user(code: str) -> list[str]:
    """Return a command that runs this; the interpreter may stand where only root can reach it."""
    if os.getuid() != 0:
        return [sys.executable, "-c", code]
    found = Path(agentscope_async.__file__).parents[1]
    for python in (sys.executable, "/usr/bin/python3"):
        paths = os.pathsep.join([str(found), *filter(None, sys.path)])
        drop = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
        command = [*drop, "env", f"PYTHONPATH={paths}", "PYTHONDONTWRITEBYTECODE=1", python, "-c"]
        version = sys.version_info[:2]
        check = f"import sys, agentscope_async.service._sandbox; assert sys.version_info[:2] == {version}"
        if subprocess.run([*command, check], capture_output=True, check=False).returncode == 0:
            return [*command, code]
    pytest.skip("other users reach no interpreter like this one, or not this directory")


async def test_the_filter_is_on_and_all_rights_are_gone() -> None:
    response = await run("print(open('/proc/self/status').read())")

    facts = dict(line.split(":\t", 1) for line in response.content.splitlines() if ":\t" in line)
    assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "1")
    assert {facts[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}


def test_refused_calls_have_the_kernels_numbers() -> None:
    headers = {0: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1: "/usr/include/asm-generic/unistd.h"}
    if not all(map(os.path.exists, headers.values())):
        pytest.skip("needs: apt-get install linux-libc-dev, on x86_64")
    for column, path in headers.items():
        words = [
            line.split() for line in Path(path).read_text().splitlines() if line.startswith("#define __NR")
        ]
        known = {
            word[1].removeprefix("__NR3264_").removeprefix("__NR_"): word[2]
            for word in words
            if len(word) > 2
        }
        named = {name: str(numbers[column]) for name, numbers in _REFUSED.items() if name in known}
        assert named == {name: known[name] for name in named}
        assert len(named) > 70


def test_no_filter_for_an_unknown_machine() -> None:
    with pytest.raises(ConfigError, match="m68k"):
        seccomp_program("m68k")


async def test_processes_of_its_own_can_talk() -> None:
    code = """
import asyncio, multiprocessing, subprocess, sqlite3, threading
def square(n): return n * n
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    print(await reader.read(), sqlite3.connect("x.db").execute("select 1").fetchone())
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        print(pool.map(square, [1, 2, 3]))
    print(subprocess.run("echo shell", shell=True, capture_output=True, text=True).stdout)
    asyncio.run(main())
"""
    response = await run(code)

    assert response.content == "[1, 4, 9]\nshell\n\nb'' (1,)\n"


async def test_given_files_are_there_and_written_ones_come_back() -> None:
    code = """
import os
print(open("data/in.txt").read(), open("same.txt").read())
open("data/in.txt", "a").write("+")
open("out.bin", "wb").write(bytes([0, 255]))
os.makedirs("a/b"); open("a/b/c.txt", "w").write("deep")
os.symlink("/code.py", "link"); os.mkfifo("pipe"); os.symlink("a", "directory")
"""
    response = await run(code, files={"data/in.txt": b"in", "same.txt": b"same"}, return_files=True)

    assert response.content == {
        "output": "in same\n",
        "files": {"data/in.txt": b"in+", "out.bin": b"\x00\xff", "a/b/c.txt": b"deep"},
    }


async def test_files_too_many_or_too_large_are_counted_not_returned() -> None:
    code = """
for i in range(1_005): open(f"f{i:04}", "w").close()
for i in range(3): open(f"a{i}", "wb").truncate(20 * 2**20)
"""
    response = await run(code, return_files=True)

    assert response.content["output"] == "\n[8 more files were too many or too large to return]"
    assert len(response.content["files"]) == 1_000
    assert sum(map(len, response.content["files"].values())) == 20 * MEBIBYTE


async def test_file_names_that_are_not_text_come_back_legibly() -> None:
    response = await run(r"open(b'\xff\n', 'w').close()", return_files=True)

    assert response.content["files"] == {"\\xff\n": b""}


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a//b", "./x", "a\0b"])
async def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="files has the name"):
        await run("", files={name: b""})


async def test_granted_packages_can_be_imported_and_no_others() -> None:
    pytest.importorskip("numpy")
    code = """
import numpy
print(int(numpy.arange(5).sum()), numpy.__file__)
import pytest
"""
    response = await run(code, packages=("numpy",))

    assert response.content.startswith("10 /packages/numpy/__init__.py\n")
    assert "No module named 'pytest'" in response.content


async def test_required_packages_come_along() -> None:
    response = await run("import yarl, idna, os; print(os.listdir('/packages'))", packages=("anyio",))

    assert "No module named 'yarl'" in response.content
    response = await run("import anyio, idna; print('idna' in idna.__file__)", packages=("anyio",))
    assert response.content == "True\n"


async def test_packages_that_are_not_installed_are_a_mistake_of_the_program() -> None:
    with pytest.raises(ConfigError, match="no-such-package"):
        await run("", packages=("no-such-package",))


async def test_cancelling_ends_the_sandbox_first() -> None:
    name = new_name()
    running = asyncio.create_task(run(marked_code(name, "import time; time.sleep(1e6)")))
    while not processes_named(name):
        await asyncio.sleep(0.01)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert processes_named(name) == []
    assert sandboxes_of(os.getpid()) == []


async def test_cancelling_at_any_time_leaves_nothing() -> None:
    name = new_name()
    code = marked_code(name, "import time; time.sleep(1e6)")
    open_before = len(os.listdir("/proc/self/fd"))

    for steps in range(24):
        running = asyncio.create_task(run(code))
        for _ in range(steps):
            await asyncio.sleep(0 if steps < 12 else 0.002)
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()  # once more, while it is ending
        with pytest.raises(asyncio.CancelledError):
            await running
        assert processes_named(name) == []
        assert sandboxes_of(os.getpid()) == []

    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_leaving_the_loop_ends_sandboxes_that_still_run() -> None:
    name = new_name()
    left: list[asyncio.Task[ServiceResponse]] = []

    async def leave() -> None:
        left.append(asyncio.create_task(run(marked_code(name, "import time; time.sleep(1e6)"))))
        while not processes_named(name):
            await asyncio.sleep(0.01)

    asyncio.run(leave())

    assert left[0].cancelled()
    assert processes_named(name) == []
    assert sandboxes_of(os.getpid()) == []


async def test_a_killed_program_takes_its_sandboxes_with_it() -> None:
    name = new_name()
    code = marked_code(name, "import time; time.sleep(1e6)")
    program = f"""
import asyncio
from agentscope_async.service import execute_python_code
asyncio.run(execute_python_code({code!r}))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    while not processes_named(name):
        await asyncio.sleep(0.01)

    process.kill()
    await process.wait()

    while processes_named(name):  # the kernel ends them one after the other
        await asyncio.sleep(0.01)


async def test_r45_nothing_is_left_of_many_runs() -> None:
    runs = 27

    found = await play(runs)

    assert sum(found.answers.values()) == runs, found.answers
    assert (found.processes, found.descriptors) == ([], 0)


async def test_too_much_output_is_cut_and_ends_it() -> None:
    response = await run("while True: print('y' * 1000)")

    assert response.status is ServiceExecStatus.ERROR
    assert "cut there and stopped" in response.content
    assert len(response.content) < MEBIBYTE + 1_000


async def test_output_is_text_whatever_is_written() -> None:
    response = await run(r"import os; os.write(1, b'\xff\x00{}%s\x1b[31m')")

    assert response.content == "\ufffd\x00{}%s\x1b[31m"


def user_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}").st_uid


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
