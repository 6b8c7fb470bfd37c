"""A file for each call to a model: what was asked and what came back, without secrets."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import random
import string
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from ._redact import redact
from .logging import brief, get_logger

__all__ = ["Invocations", "write_record"]

MAX_WAITING = 1_000
"""Records that may wait for the disk; what comes when so many do is dropped, and counted."""
IDLE_S = 1.0
"""How long the writing thread stays without work."""
EXIT_WAIT_S = 5.0
"""How long the end of the interpreter waits for records to be written."""

_Item: TypeAlias = "tuple[str, float, Any, Any] | Callable[[], None]"
_random = random.SystemRandom()  # names must not depend on a seed the user sets


class Invocations:
    """Writes records of model calls into a directory, on a thread of its own.

    Recording never waits and never fails: a full disk costs the record, not the call.
    May be used from any thread and from several event loops.

    Attributes:
        directory: where the files go; made with the first one.
        dropped: how many records were lost, because too many waited or writing failed.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.dropped = 0
        self._items: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._writer: threading.Thread | None = None
        self._is_closed = False
        _open_recorders.add(self)

    def record(self, model_class: str, arguments: Any, response: Any) -> None:
        """Keep one call, soon, as ``model_{model_class}_{YYYYmmdd-HHMMSS}_{six characters}.json``.

        The lists and dicts of ``arguments`` are copied before this returns, so the caller
        may go on changing them. After :meth:`aclose` nothing is kept.
        """
        try:
            item = (model_class, time.time(), _copy(arguments), _copy(response))
            with self._changed:
                if self._is_closed:
                    return
                if len(self._items) < MAX_WAITING:
                    self._put(item)
                    return
        except Exception as error:  # a cycle in the arguments, or no thread to be had: no reason to fail
            self._drop(brief(error))
        else:
            self._drop("too many records wait to be written")

    async def flush(self) -> None:
        """Wait until everything recorded so far is written."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if self._is_idle():
                return
            self._put(lambda: _tell(loop, written))
        await written

    async def aclose(self) -> None:
        """Write what was recorded and end the thread."""
        try:
            await self.flush()
        finally:
            self._close()

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        _open_recorders.discard(self)

    def finish(self, wait_s: float = EXIT_WAIT_S) -> None:
        """Close without an event loop, blocking at most ``wait_s`` seconds; at the end of a process."""
        self._close()
        writer = self._writer
        if writer is not None:
            writer.join(wait_s)

    # -- shared with the writing thread; under the lock --

    def _put(self, item: _Item) -> None:
        self._items.append(item)
        if self._writer is None or not self._writer.is_alive():  # the latter in a forked process
            self._writer = threading.Thread(target=self._write_all, name="invocations", daemon=True)
            self._writer.start()
        else:
            self._changed.notify()

    def _is_idle(self) -> bool:
        return self._writer is None

    def _next(self) -> _Item | None:
        with self._changed:
            if not self._items and not self._is_closed:
                self._changed.wait(IDLE_S)
            if self._items:
                return self._items.popleft()
            self._writer = None
            return None

    # -- on the writing thread --

    def _write_all(self) -> None:
        while (item := self._next()) is not None:
            try:
                if callable(item):
                    item()
                else:
                    self._write(*item)
            except Exception as error:  # the thread must survive whatever one record does
                self._drop(brief(error))

    def _write(self, model_class: str, at: float, arguments: Any, response: Any) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(at))
        write_record(
            self.directory,
            f"model_{model_class}",
            {"model_class": model_class, "timestamp": stamp, "arguments": arguments, "response": response},
            stamp,
        )

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        if self.dropped == 1:
            get_logger().warning("invocations_dropped", directory=str(self.directory), reason=reason)


def write_record(directory: Path, prefix: str, record: Any, stamp: str | None = None) -> Path:
    """Write ``record``, redacted, to a new ``{prefix}_{stamp}_{six characters}.json``; return its path.

    The file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = _as_json(redact(record))
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{_file_name(prefix)}_{stamp or time.strftime('%Y%m%d-%H%M%S')}"
    while True:
        path = directory / f"{stem}_{_six()}.json"
        draft = path.with_name(f".{path.name}.tmp")
        try:
            opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # somebody is writing one of this very name
            continue
        try:
            with os.fdopen(opened, "wb") as file:
                file.write(text)
            if path.exists():
                continue
            draft.replace(path)
            return path
        finally:
            draft.unlink(missing_ok=True)


def _as_json(plain: Any) -> bytes:
    try:
        return orjson.dumps(plain, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, which UTF-8 cannot hold
        return json.dumps(plain, indent=2).encode() + b"\n"


def _six() -> str:
    return "".join(_random.choices(string.ascii_lowercase + string.digits, k=6))


def _file_name(text: str) -> str:
    return "".join(char if char.isalnum() or char in "-_" else "_" for char in text)[:100]


def _copy(value: Any) -> Any:
    """Copy dicts and lists through and through; what else there is is not changed by anybody."""
    kind = type(value)
    if kind is dict:
        return {key: _copy(item) for key, item in value.items()}
    if kind is list:
        return [_copy(item) for item in value]
    return value


def _tell(loop: asyncio.AbstractEventLoop, written: asyncio.Future[None]) -> None:
    def tell() -> None:
        if not written.done():
            written.set_result(None)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:  # that loop is closed; nobody waits any more
        pass


_open_recorders: weakref.WeakSet[Invocations] = weakref.WeakSet()


@atexit.register
def _finish_all() -> None:
    """Write what is left when the interpreter ends."""
    deadline = time.monotonic() + EXIT_WAIT_S
    for recorder in list(_open_recorders):
        recorder.finish(max(0.0, deadline - time.monotonic()))
