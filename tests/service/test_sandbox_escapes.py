"""Nothing that code in the sandbox tries has an effect outside."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from service.sandbox_escapes import ESCAPES, program

from agentscope_async.service import execute_python_code

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs: apt-get install bubblewrap")

SECRET = "SECRET-7f3a"


class Outside:
    """A file, a directory, servers and a process that no escape may reach."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o777)
        self.directory = directory
        self.secret = directory / "secret.txt"
        self.secret.write_text(SECRET)
        self.process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        self.servers = [self._listening(socket.AF_INET, ("127.0.0.1", 0))]
        self.port = self.servers[0].getsockname()[1]
        self.abstract = f"outside-{os.getpid()}"
        self.servers.append(self._listening(socket.AF_UNIX, f"\0{self.abstract}"))
        self.servers.append(self._listening(socket.AF_UNIX, str(directory / "socket")))
        (directory / "socket").chmod(0o777)
        self.listing = sorted(os.listdir(directory))

    @staticmethod
    def _listening(family: int, address: object) -> socket.socket:
        server = socket.socket(family)
        server.bind(address)
        server.listen()
        server.setblocking(False)
        return server

    def described(self) -> bytes:
        return json.dumps(
            {
                "secret": str(self.secret),
                "directory": str(self.directory),
                "pid": self.process.pid,
                "port": self.port,
                "abstract": self.abstract,
                "socket": str(self.directory / "socket"),
            }
        ).encode()

    def assert_untouched(self) -> None:
        assert self.process.poll() is None
        assert self.secret.read_text() == SECRET
        assert sorted(os.listdir(self.directory)) == self.listing
        for server in self.servers:
            with pytest.raises(BlockingIOError):
                server.accept()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for server in self.servers:
            server.close()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    found = Outside(tmp_path_factory.mktemp("outside"))
    yield found
    found.close()


@pytest.mark.parametrize("name", ESCAPES)
async def test_r45_no_way_out(name: str, outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    response = await execute_python_code(
        program(ESCAPES[name]),
        timeout=20,
        files={"target.json": outside.described()},
        return_files=True,
    )

    shown = str(response.content)
    assert SECRET not in shown
    assert "OUT" not in shown
    assert "held" in shown or "SIGSYS" in shown, shown
    outside.assert_untouched()


async def test_r45_the_attempts_work_where_nothing_holds_them(outside: Outside) -> None:
    """An attempt that is merely misspelt would also seem to be held."""
    body = 'return open(target["secret"]).read()'
    code = f"import os\nos.chdir({str(outside.directory)!r})\n" + program(body)
    (outside.directory / "target.json").write_bytes(outside.described())
    try:
        response = await execute_python_code(code, unsafe_local=True)
    finally:
        (outside.directory / "target.json").unlink()

    assert "OUT" in response.content
    assert SECRET in response.content
