"""A connection to an MCP server that is a child process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ...logging import get_logger
from ._frames import read_frames, write_frames
from ._limits import MAX_MESSAGE_BYTES
from .errors import MCPServerGone

if TYPE_CHECKING:
    from mcp.client import Transport
    from mcp.client._transport import TransportStreams

__all__ = ["Command", "stdio_streams"]

CLOSING_S = 2.0
"""A server may take this long to end after we closed its input, then half of it after SIGTERM."""

LAST_WORDS_S = 0.5
"""The pipes of a server that ends are closed some milliseconds before its guard says how it did."""

MAX_STDERR_BYTES = 1024 * 1024
"""What a server writes to standard error is logged (at DEBUG) up to here, and then thrown away."""

_GUARD = Path(__file__).with_name("_guard.py")


@dataclass(frozen=True, slots=True)
class Command:
    """How a server is started."""

    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str] | None
    folder: str | os.PathLike[str] | None


def stdio_streams(name: str, command: Command, lose: Callable[[str], None]) -> Transport:
    """Start the server, and end it, with all it started, when the context is left.

    The server's environment is ``command.environment`` and, of ours, PATH, HOME and four more that
    hold no secrets. ``lose`` is told when it has gone by itself.

    Raises:
        MCPServerGone: the process cannot be started.
    """
    return _streams(name, command, lose)


@asynccontextmanager
async def _streams(
    name: str, command: Command, lose: Callable[[str], None]
) -> AsyncGenerator[TransportStreams, None]:
    from mcp.shared.message import SessionMessage

    child = await _Child.start(name, command)
    # From here to the task group there is no await: a cancellation could lose the process.
    heard, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, to_say = anyio.create_memory_object_stream[SessionMessage](0)

    async def listen() -> None:
        problem = await read_frames(child.stdout, heard, name)
        lose(problem or await child.how_it_ended())
        while await child.stdout.read(65_536):  # a server that waits to write could not end
            pass

    async def talk() -> None:
        async with to_say:
            await write_frames(to_say, child.stdin)
        lose(await child.how_it_ended())

    with heard, incoming, outgoing, to_say:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            tasks.start_soon(talk)
            tasks.start_soon(_log, name, child.stderr)
            try:
                yield incoming, outgoing
            finally:
                incoming.close()
                with anyio.CancelScope(shield=True):
                    await child.end()
                tasks.cancel_scope.cancel()


class _Child:
    """A server's process, or rather its guard's, and the socket to the guard."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self._process = process
        self._control = control
        self._words = ""

    @classmethod
    async def start(cls, name: str, command: Command) -> _Child:
        from mcp.client.stdio import get_default_environment

        ours, its = socket.socketpair()
        ours.setblocking(False)
        fd = str(its.fileno())
        try:
            # A start that is cancelled half-way kills the guard, and the server it may have started lives on.
            with its, anyio.CancelScope(shield=True):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(_GUARD), fd, command.program, *command.arguments),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env={**get_default_environment(), **(command.environment or {})},
                    cwd=command.folder,
                    pass_fds=[its.fileno()],
                    start_new_session=True,
                    limit=MAX_MESSAGE_BYTES,
                )
        except (OSError, ValueError) as error:
            ours.close()
            raise MCPServerGone(name, f"cannot be started: {error}") from error
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    async def how_it_ended(self) -> str:
        """Return, in words, how the server ended; wait a little for that."""
        await self._ended_within(LAST_WORDS_S)
        return self._last_words() or "closed its pipes"

    async def end(self) -> None:
        """Close its input, ask it to end, kill it: whatever it takes, it and its children are gone then."""
        self.stdin.close()
        if not await self._ended_within(CLOSING_S):
            with suppress(OSError):
                self._control.send(b"T")
            await self._ended_within(CLOSING_S / 2)
        if self._process.returncode is not None and not self._last_words():
            # Somebody killed the guard alone. Its group is still the server's.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._control.close()
        if not await self._ended_within(CLOSING_S):
            get_logger().error("mcp_server_cannot_be_killed", pid=self._process.pid)

    def _last_words(self) -> str:
        with suppress(OSError):
            self._words += self._control.recv(1024).decode(errors="replace")
        return self._words.partition("\n")[0]

    async def _ended_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._process.wait()
        return self._process.returncode is not None


async def _log(name: str, stderr: asyncio.StreamReader) -> None:
    room = MAX_STDERR_BYTES
    while chunk := await stderr.read(4096):
        if room > 0:
            get_logger().debug("mcp_server_says", server=name, text=chunk.decode(errors="replace"))
        room -= len(chunk)
