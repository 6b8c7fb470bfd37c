"""Child processes that run a node: started, told what they need, ended with us."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from .._settings import json_copy
from .._tasks import see_through
from ..errors import AgentScopeWarning, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ChildProcess", "importable_name", "is_portable"]

START_S = 60.0
"""How long a child may take to import its classes and listen."""
STOP_S = 2.0
"""How long it may take to end before it is killed."""
_ROOT = Path(__file__).parents[2]


class ChildProcess:
    """A process of ours that runs a node; see ``child``.

    Attributes:
        url: where it listens.
        pid: its process id.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self._is_told_to_end = False
        self.url = url
        self.pid = process.pid

    @classmethod
    async def start(
        cls, bootstrap: dict[str, Any], classes: Iterable[type], modules: Iterable[str] = ()
    ) -> ChildProcess:
        """Start one that makes agents of ``classes``; the secrets in ``bootstrap`` go through a pipe.

        If the port it is to listen at is taken it listens at another one, with a warning. When this
        is cancelled, no process is left.

        Args:
            bootstrap: its name, and that of our node; where to listen; what its runtime is made with.
            classes: it imports them, as they are called here.
            modules: to be imported as well, for what registers itself there.

        Raises:
            ConfigError: a class cannot be imported elsewhere, or the process could not start: the
                text says why, and a note where.
        """
        if os.name != "posix":
            raise ConfigError("Child processes need POSIX. Start a node by hand: agentscope-async node ...")
        told = _told(bootstrap)
        names = [f"--class={importable_name(each)}" for each in classes]
        names += [f"--import={each}" for each in modules]
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "agentscope_async.node.child", f"--report-fd={writing}", *names,
                stdin=asyncio.subprocess.PIPE, pass_fds=(writing,), env=_environment(),
            )  # fmt: skip
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            url = await _handshake(process, told, reading, bootstrap["port"])
        except BaseException:
            await _kill(process)
            raise
        return cls(process, url.replace("//0.0.0.0:", "//127.0.0.1:"))

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until it has ended; return its exit code."""
        code = await self._process.wait()
        _close_pipe(self._process)
        return code

    async def aclose(self, grace_s: float = STOP_S) -> None:
        """Have it finish what is under way, for at most ``grace_s`` seconds, and end it.

        Cancelled, it ends the process at once. Ending it again does nothing.
        """
        try:
            if self._process.returncode is None and grace_s > 0:
                self._tell_to_end()
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self._process.wait()
        finally:
            await _kill(self._process)

    def _tell_to_end(self) -> None:
        """Send it SIGTERM, once: a second one means that it is not to finish anything."""
        if not self._is_told_to_end:
            self._is_told_to_end = True
            with suppress(ProcessLookupError):
                self._process.terminate()


async def _handshake(process: asyncio.subprocess.Process, told: bytes, reading: int, port: int) -> str:
    """Give the child what it needs, and return the URL it listens at."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**20)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
    )
    try:
        async with asyncio.timeout(START_S):
            assert process.stdin is not None
            with suppress(ConnectionError):  # it ended at once: its report, or the lack of one, says so
                process.stdin.write(told)
                await process.stdin.drain()
            line = await reader.readline()
            report = orjson.loads(line) if line else _without_report(await process.wait())
    except TimeoutError:
        raise ConfigError(f"The child process did not start within {START_S:g} s.") from None
    finally:
        transport.close()
    if "error" in report:
        error = ConfigError(f"The child process could not start: {report['error']}")
        error.add_note(f"In the child process:\n{report['traceback']}")
        raise error
    if report["is_port_taken"]:
        warnings.warn(
            f"Port {port} is taken; the child process listens at {report['url']}.",
            AgentScopeWarning,
            stacklevel=2,
        )
    return str(report["url"])


def _without_report(exit_code: int) -> dict[str, str]:
    return {"error": f"it ended with exit code {exit_code}", "traceback": "(none)"}


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End it, if it has not ended, and wait until it has; also while being cancelled."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    _close_pipe(process)
    await see_through(process.wait())


def _close_pipe(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _told(bootstrap: dict[str, Any]) -> bytes:
    """Return what the child reads: also where it finds modules, without models that only live here."""
    whole = {
        **bootstrap,
        "sys_path": [os.path.abspath(each) for each in sys.path],
        "pythonpath": os.environ.get("PYTHONPATH"),
    }
    for part in ("runtime", "settings"):
        if whole[part] is not None:
            portable = [config for config in whole[part]["model_configs"] if is_portable(config)]
            whole[part] = {**whole[part], "model_configs": portable}
    return orjson.dumps(whole) + b"\n"


def is_portable(config: dict[str, Any]) -> bool:
    """Whether the configuration of a model can be told to another process."""
    try:
        json_copy(config, "", "")
    except ConfigError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Return an environment in which the child finds this package; it finds the rest by what it is told."""
    if str(_ROOT) in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return dict(os.environ)
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths}


def importable_name(kind: type) -> str:
    """Return ``module:Class``.

    Raises:
        ConfigError: another process cannot import that class.
    """
    module, name = kind.__module__, kind.__qualname__
    if module in ("__main__", "__mp_main__"):
        raise _not_importable(name, "is defined in the script that runs")
    if "<locals>" in name:
        raise _not_importable(name, "is defined in a function")
    found: Any = sys.modules.get(module)
    for each in name.split("."):
        found = getattr(found, each, None)
    if found is not kind:
        raise _not_importable(name, f"is not what {module} has under this name")
    return f"{module}:{name}"


def _not_importable(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"Another process cannot import {name.rpartition('.')[2]}: it {why}. "
        f"Move the class into a module of its own and import it from there."
    )
