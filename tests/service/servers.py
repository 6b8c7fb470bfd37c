"""Real database servers on loopback, one of each for a test session, with data folders that go with them.

Each is started when first asked for and told by the kernel to end when the tests do, also
when these are killed. A test module that needs one imports its fixture from here.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_S = 30.0
STOP_S = 10.0


@dataclass(frozen=True)
class Login:
    """Where a server is, and an ordinary account of it: rights on the database ``test`` and no other."""

    port: int
    folder: Path
    host: str = "127.0.0.1"
    user: str = "test"
    password: str = "test-password"
    database: str = "test"

    def as_kwargs(self) -> dict[str, Any]:
        names = ("database", "host", "port", "user", "password")
        return {name: getattr(self, name) for name in names}


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """A MariaDB.

    Besides ``test`` it has the accounts ``filer``, which may touch the server's files, and
    ``brief``, whose password is ``pw12``.
    """
    server, install = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
    if server is None or install is None:
        pytest.skip("needs: apt-get install mariadb-server")
    login = Login(_free_port(), tmp_path_factory.mktemp("mariadb"))
    data, sock = login.folder / "data", login.folder / "s"
    small = ["--innodb-log-file-size=4M", "--innodb-data-file-path=ibdata1:4M:autoextend"]
    common = ["--no-defaults", "--user=root", f"--datadir={data}", *small]
    options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
    subprocess.run([install, *common, *options], check=True, capture_output=True)
    server_options = [
        "--bind-address=127.0.0.1", f"--port={login.port}", f"--socket={sock}", "--skip-name-resolve",
        "--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0", "--local-infile=1",
        f"--pid-file={login.folder / 'pid'}", "--secure-file-priv=",
    ]  # fmt: skip
    with _running([server, *common, *server_options], login, "TERM") as process:
        _admin(process, ["mariadb", "--no-defaults", "-uroot", f"--socket={sock}", "-e", _MARIADB_ACCOUNTS])
        yield login


_MARIADB_ACCOUNTS = """
create database test character set utf8mb4;
create user test@127.0.0.1 identified by 'test-password', filer@127.0.0.1 identified by 'test-password';
grant all on test.* to test@127.0.0.1; grant all on test.* to filer@127.0.0.1;
create role keeper; grant file on *.* to keeper; grant keeper to filer@127.0.0.1;
set default role keeper for filer@127.0.0.1;
create user brief@127.0.0.1 identified by 'pw12'; grant all on test.* to brief@127.0.0.1;
"""


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """A PostgreSQL; its superuser ``postgres`` has the same password."""
    found = shutil.which("initdb") or max(glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=None)
    if found is None:
        pytest.skip("needs: apt-get install postgresql")
    programs = Path(found).resolve().parent
    login = Login(_free_port(), tmp_path_factory.mktemp("postgres"))
    data = login.folder / "data"
    as_user = _without_root(login.folder)
    secret = login.folder / "password"
    secret.write_text(login.password)
    init: list[Any] = [programs / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--no-sync"]
    options = ["-A", "scram-sha-256", f"--pwfile={secret}"]
    subprocess.run([*as_user, *init, *options], check=True, capture_output=True, cwd="/")
    settings = ["fsync=off", "shared_buffers=16MB", "listen_addresses=127.0.0.1"]
    settings += [f"unix_socket_directories={data}", f"port={login.port}"]
    command: list[Any] = [
        programs / "postgres",
        "-D",
        data,
        *(part for each in settings for part in ("-c", each)),
    ]
    url = f"postgresql://postgres:{login.password}@127.0.0.1:{login.port}/postgres"
    with _running(command, login, "INT", as_user) as process:
        _admin(
            process,
            [str(programs / "psql"), url, "-c", f"create role test login password '{login.password}'"],
        )
        _admin(process, [str(programs / "psql"), url, "-c", "create database test owner test"])
        yield login


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """A server that speaks MongoDB's wire protocol over SQLite (nx-27017); it is no mongod."""
    pytest.importorskip("nx_27017", reason="needs: pip install nx-27017")
    login = Login(_free_port(), tmp_path_factory.mktemp("mongo"))
    program = "import sys; from nx_27017.nx_27017 import main; sys.exit(main())"
    options = ["--data-dir", login.folder / "data", "--host", "127.0.0.1", "-p", str(login.port)]
    files = ["--log-file", login.folder / "server.log", "--pid-file", login.folder / "unused.pid"]
    with _running([sys.executable, "-c", program, *options, *files], login, "TERM") as process:
        _until(process, lambda: _answers(login.port))
        yield login


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _without_root(folder: Path) -> list[str]:
    """Return the start of a command that gives up root's rights, which PostgreSQL refuses to run with."""
    if os.getuid() != 0:
        return []
    for each in [folder, *folder.parents[:3]]:  # pytest's own folders are closed to others
        if each.name.startswith(("pytest-", "popen-", "postgres")):
            each.chmod(0o755)
    shutil.chown(folder, "postgres", "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


@contextmanager
def _running(
    command: list[Any], login: Login, stop_signal: str, as_user: list[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with open(login.folder / "output", "wb") as output:
        process = subprocess.Popen(
            [*(as_user or ["setpriv"]), "--pdeathsig", stop_signal, *map(str, command)],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate() if stop_signal == "TERM" else process.send_signal(2)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(login.folder, ignore_errors=True)


def _admin(process: subprocess.Popen[bytes], command: list[str]) -> None:
    _until(process, lambda: subprocess.run(command, capture_output=True).returncode == 0)


def _until(process: subprocess.Popen[bytes], is_so: Any) -> None:
    """Ask again and again: a server that comes up gives no other sign."""
    deadline = time.monotonic() + START_S
    while not is_so():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
