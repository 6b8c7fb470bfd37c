"""A person, as an agent."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from ..errors import ConfigError
from ..message.msg import TAKEN_FIELDS, Msg
from .base import AgentBase

__all__ = ["UserAgent", "UserSource"]

UserSource: TypeAlias = Callable[[str], Awaitable[str]] | AsyncIterator[str]
"""Where a person's words come from: an async function of the prompt, or an async iterator of lines."""


class UserAgent(AgentBase):
    """Ask a person: at the terminal, or through any async ``source`` (a websocket, a test).

    The event loop goes on while the person thinks; cancelling the turn stops asking. A
    program that reads a pipe with both this and ``input()`` splits its lines between them.
    """

    __slots__ = ("require_url", "source")

    def __init__(
        self,
        name: str = "User",
        require_url: bool = False,
        *,
        source: UserSource | None = None,
        **options: Any,
    ) -> None:
        """Make a user; with ``require_url`` each message is asked for a URL as well."""
        super().__init__(name, **options)
        self.require_url = require_url
        self.source = source

    async def reply(
        self, x: Any = None, required_keys: list[str] | str | None = None, timeout: float | None = None
    ) -> Msg:
        """Return what the person says, with a field for each of ``required_keys``.

        Raises:
            TimeoutError: not all was entered within ``timeout`` seconds (None or 0: no limit).
            ValueError: a required key is a field that every message has.
            EOFError: the input has ended.
        """
        self._remember(x)
        keys = [required_keys] if isinstance(required_keys, str) else required_keys or []
        taken = TAKEN_FIELDS.intersection(keys)
        if taken:  # before the person has typed it all
            raise ValueError(f"A message has {', '.join(sorted(taken))} of its own; ask for other keys.")
        async with asyncio.timeout(timeout or None):
            content = await self._hear("User input: ")
            fields: dict[str, Any] = {key: await self._hear(f"{key}: ") for key in keys}
            url = await self._hear("URL: ") if self.require_url else None
        msg = Msg(self.name, content, "user", url=url, **fields)
        await self.speak(msg)
        self._remember(msg)
        return msg

    def to_dist(self, *args: Any, **options: Any) -> Any:
        """Refuse: a person stays where the terminal is.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"The person behind {self.name!r} cannot move to another process. Let other processes use this "
            f"agent here instead: Runtime(listen='ws://127.0.0.1:12010', exports=[agent])."
        )

    async def _hear(self, prompt: str) -> str:
        if self.source is None:
            return await read_line(prompt)
        if callable(self.source):
            line = self.source(prompt)
            return await line if inspect.isawaitable(line) else str(line)
        try:
            return await anext(self.source)
        except StopAsyncIteration:
            raise EOFError(f"The source of {self.name!r} has ended.") from None


async def read_line(prompt: str) -> str:
    """Return one line from standard input, without its end, while the event loop goes on.

    A line that comes after this call was cancelled is kept for the next one.

    Raises:
        EOFError: the input has ended.
    """
    async with _turn_at_the_terminal():
        if sys.stdin is None:
            raise EOFError("Standard input is closed.")
        descriptor = _pollable_stdin()
        if descriptor is None:
            # No descriptor to wait for: a test's StringIO, a replaced input(), or Windows.
            return await asyncio.to_thread(builtins.input, prompt)
        print(prompt, end="", flush=True)
        return await _stdin.line(descriptor)


class _StdinLines:
    """Lines of standard input, read when the descriptor is ready; no thread is left waiting in it.

    (A thread blocked in ``input()`` cannot be cancelled, and one that waits on a pipe
    makes the interpreter abort when it exits.)
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._has_ended = False

    async def line(self, descriptor: int) -> str:
        while b"\n" not in self._buffer and not self._has_ended:
            await _until_readable(descriptor)
            chunk = _read_now(descriptor)
            if chunk is None:
                continue
            self._buffer += chunk
            self._has_ended = not chunk
        self._has_ended = False  # a terminal may go on after Ctrl-D
        if not self._buffer:
            raise EOFError("Standard input has ended.")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode(errors="replace")


def _read_now(descriptor: int) -> bytes | None:
    """Return what can be read without waiting, ``b""`` at the end, None if there is nothing after all.

    (Ctrl-C makes a terminal drop a line that it had announced; a blocking read would then
    wait, and the whole program with it.)
    """
    was_blocking = os.get_blocking(descriptor)
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None
    finally:
        os.set_blocking(descriptor, was_blocking)


async def _until_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        loop.add_reader(descriptor, _set, ready)
    except PermissionError:
        return  # a file or /dev/null: always ready, and epoll refuses it for that
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _pollable_stdin() -> int | None:
    if not inspect.isbuiltin(builtins.input) or os.name == "nt":
        return None
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None


_stdin = _StdinLines()
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _turn_at_the_terminal() -> asyncio.Lock:
    """Several users at one terminal are asked one after the other."""
    loop = asyncio.get_running_loop()
    lock = _locks.get(loop)
    if lock is None:
        lock = _locks[loop] = asyncio.Lock()
    return lock
