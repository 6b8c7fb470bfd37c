"""One child process with a limit of time and of output, and with nothing left of it at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeAlias

__all__ = ["MAX_OUTPUT_BYTES", "Ended", "Heard", "LimitedProcess"]

MAX_OUTPUT_BYTES = 1 << 20
"""What a program may write to standard output, and to standard error; one that writes more is stopped."""

GRACE_S = 2.0
"""How long the gentle way of ending may take before the process group is killed."""

DRAIN_S = 1.0
"""How long to wait for the end of the output of a program that has ended."""

Stop: TypeAlias = Literal["time", "output"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How it went.

    Attributes:
        stdout, stderr: the first MAX_OUTPUT_BYTES of each, what is not UTF-8 replaced.
        status: the exit code, or the negative number of a signal.
        stopped: the limit it was stopped for, or None.
    """

    stdout: str
    stderr: str
    status: int
    stopped: Stop | None


class Heard(asyncio.Protocol):
    """Keeps what arrives through a pipe, up to a limit."""

    def __init__(self, max_bytes: int, on_excess: Callable[[], None]) -> None:
        self.bytes = bytearray()
        self.closed = asyncio.get_running_loop().create_future()
        self._max_bytes = max_bytes
        self._on_excess = on_excess

    def data_received(self, data: bytes) -> None:
        """Keep what fits."""
        room = self._max_bytes - len(self.bytes)
        self.bytes += data[:room]
        if len(data) > room:
            self._on_excess()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that no more will come."""
        if not self.closed.done():
            self.closed.set_result(None)

    @property
    def text(self) -> str:
        """What was kept, as text."""
        return self.bytes.decode("utf-8", "replace")


class LimitedProcess:
    """Runs a command in a session of its own; ``run`` may be called once.

    Not :mod:`asyncio.subprocess`: there a cancellation can come while the process is being made,
    and waiting for its end can wait for pipes that its grandchildren hold.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self.pass_fds: list[int] = []
        self._timeout_s = timeout_s
        self._surroundings: dict[str, Any] = {"stdin": stdin, "cwd": cwd, "env": env}
        self._transports: list[asyncio.ReadTransport] = []
        self._heard: list[Heard] = []
        self._write_ends: list[int] = []
        self._cancelled: asyncio.CancelledError | None = None

    async def run(self) -> Ended:
        """Run it to its end or to a limit.

        However this ends, also by cancellation, the process is dead and reaped before.

        Raises:
            OSError: the program could not be started.
        """
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[Any] = loop.create_future()  # int
        self._stopped: asyncio.Future[Any] = loop.create_future()  # Stop
        out, err = (Heard(MAX_OUTPUT_BYTES, lambda: self.stop("output")) for _ in range(2))
        try:
            stdout, stderr = [await self.hear(heard) for heard in (out, err)]
            await self.prepare()
            self._start(stdout, stderr)  # from here on it is ours to end, whatever happens
            timer = loop.call_later(self._timeout_s, self.stop, "time")
            try:
                await asyncio.wait({self._exited, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                await self._end()
        finally:
            self._close()
        stopped = self._stopped.result() if self._stopped.done() else None
        return Ended(out.text, err.text, self._exited.result(), stopped)

    def stop(self, why: Stop) -> None:
        """Let ``run`` end the process."""
        if not self._stopped.done():
            self._stopped.set_result(why)

    async def prepare(self) -> None:
        """Make ready what the process is started with: ``command`` and ``pass_fds``."""

    async def kill(self) -> None:
        """End all processes; the one started here may be left to end by itself then."""
        self.kill_group()

    async def all_ended(self) -> None:
        """Do what is left to do when the process has ended, waiting with ``outlast``."""

    def kill_group(self) -> None:
        """Kill the process and those of its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def hear(self, heard: Heard) -> int:
        """Return the end of a new pipe that a process writes to, to be heard here."""
        read_end, write_end = os.pipe()
        self._write_ends.append(write_end)
        reader = os.fdopen(read_end, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: heard, reader)
        self._transports.append(transport)
        self._heard.append(heard)
        return write_end

    async def outlast(self, future: asyncio.Future[Any], timeout_s: float | None) -> bool:
        """Wait also while being cancelled, which ``run`` then is in the end; say whether it came."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while not future.done():
            left_s = None if deadline is None else deadline - loop.time()
            if left_s is not None and left_s <= 0:
                return False
            try:
                await asyncio.wait([future], timeout=left_s)
            except asyncio.CancelledError as cancelled:
                self._cancelled = cancelled
        return True

    def _start(self, stdout: int, stderr: int) -> None:
        self._process = subprocess.Popen(
            self.command,
            stdout=stdout,
            stderr=stderr,
            pass_fds=self.pass_fds,
            start_new_session=True,
            **self._surroundings,
        )
        self._close_write_ends()
        _tell_exit(self._process, self._exited)

    async def _end(self) -> None:
        """End and reap the process, and hear its last words."""
        if not self._exited.done():
            await self.kill()
            if not await self.outlast(self._exited, GRACE_S):
                self.kill_group()
                await self.outlast(self._exited, None)
        await self.all_ended()
        for heard in self._heard:
            await self.outlast(heard.closed, DRAIN_S)
        if self._cancelled is not None:
            raise self._cancelled

    def _close(self) -> None:
        self._close_write_ends()
        for transport in self._transports:
            transport.close()

    def _close_write_ends(self) -> None:
        while self._write_ends:
            os.close(self._write_ends.pop())


def _tell_exit(process: subprocess.Popen[bytes], exited: asyncio.Future[Any]) -> None:
    """Wait in a thread, as asyncio did before pidfd, for all systems have those."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        status = process.wait()
        with suppress(RuntimeError):  # the loop was closed in the midst of it
            loop.call_soon_threadsafe(exited.set_result, status)

    threading.Thread(target=wait, name=f"waits for {process.pid}", daemon=True).start()
