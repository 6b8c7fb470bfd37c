"""The program of a child process: a node for the agents of its parent.

``python -m agentscope_async.node.child --report-fd N --class module:Class ...``, started by
``launcher``. Its settings come as one line of JSON through its standard input, which then stays
open: when it closes, the parent is gone, and so is this process. It reports its URL to the file
descriptor, finishes what is under way on SIGTERM, and leaves Ctrl-C to its parent.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # before the imports, which take most of the start

import argparse
import asyncio
import errno
import importlib
import json
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from ..agents.base import AgentBase
    from ..runtime import Runtime

LAST_S = 0.8
"""For what still ends by itself after the order to end at once. The process is gone within a second."""
MAX_TOLD = 16_000
LOOK_S = 1.0
"""How often the parent is looked for. The pipe to it stays open while another child of it, made by a
plain fork, holds the other end."""


def main() -> None:
    """Run until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--class", dest="classes", action="append", default=[], metavar="MODULE:CLASS")
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE")
    options = parser.parse_args()
    report = _Report(options.report_fd)
    life_line = _LifeLine()
    try:
        bootstrap = json.loads(life_line.read_line())
        _take_over_paths(bootstrap)
        for module in options.modules:
            importlib.import_module(module)
        classes = [_import(name) for name in options.classes]
        asyncio.run(_serve(bootstrap, classes, report, life_line))
    except Exception as error:
        if report.is_sent:
            raise
        text = f"{type(error).__name__}: {error}"
        report.send({"error": text[:MAX_TOLD], "traceback": traceback.format_exc()[-MAX_TOLD:]})
        sys.exit(1)


async def _serve(
    bootstrap: dict[str, Any], classes: list[type[AgentBase]], report: _Report, life_line: _LifeLine
) -> None:
    if bootstrap["settings"] is not None:
        from .._init import init_process

        init_process(**bootstrap["settings"])
    order = _Order()
    life_line.when_cut(order.end_at_once)
    try:
        async with AsyncExitStack() as stack:
            runtime, is_port_taken = await _open(stack, bootstrap, classes)
            runtime.node.family_token = bootstrap["family_token"]
            report.send({"url": runtime.url, "is_port_taken": is_port_taken})
            await order.given.wait()
    except asyncio.CancelledError:
        sys.exit(1)  # what was under way is not finished


async def _open(
    stack: AsyncExitStack, bootstrap: dict[str, Any], classes: list[type[AgentBase]]
) -> tuple[Runtime, bool]:
    """Open the runtime; at any port that is free, if somebody listens at the one that is wanted."""
    port = bootstrap["port"]
    try:
        return await stack.enter_async_context(_runtime(bootstrap, classes, port)), False
    except OSError as error:
        if error.errno != errno.EADDRINUSE or port == 0:
            raise
    return await stack.enter_async_context(_runtime(bootstrap, classes, 0)), True


def _runtime(bootstrap: dict[str, Any], classes: list[type[AgentBase]], port: int) -> Runtime:
    from ..monitor import Budget
    from ..runtime import Runtime
    from .exports import Grant

    owner = Grant(spawn=classes, is_owner=True, max_spawned=sys.maxsize)
    runtime = Runtime(
        listen=f"ws://{bootstrap['host']}:{port}",
        token={bootstrap["parent"]: bootstrap["token"], "": bootstrap["family_token"]},
        allow={bootstrap["parent"]: owner},
        node=bootstrap["node"],
        budget=None if bootstrap["budget"] is None else Budget(**bootstrap["budget"]),
        **bootstrap["runtime"],
    )
    runtime.keep_replies(**bootstrap["replies"])
    return runtime


def _take_over_paths(bootstrap: dict[str, Any]) -> None:
    """Find the modules that the parent finds; the environment is again what the parent's is."""
    sys.path[:] = bootstrap["sys_path"]
    if bootstrap["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = bootstrap["pythonpath"]


def _import(name: str) -> type[AgentBase]:
    """Return a class that our own parent named."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for each in path.split("."):
        found = getattr(found, each)
    return found  # type: ignore[no-any-return]


class _Order:
    """The order to end, by SIGTERM: the first lets what is under way be finished, the second does not.

    Not taken by ``loop.add_signal_handler``, which waits for a loop that something keeps busy.
    """

    def __init__(self) -> None:
        self.given = asyncio.Event()
        self._is_taken = False
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        signal.signal(signal.SIGTERM, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._is_taken:
            self.end_at_once()
        self._is_taken = True
        self._call_soon(self.given.set)

    def end_at_once(self) -> None:
        """Cancel everything; a thread ends what does not end by that. May be called from any thread."""
        guard = threading.Timer(LAST_S, os._exit, [1])
        guard.daemon = True
        guard.start()
        assert self._task is not None
        self._call_soon(self._task.cancel)

    def _call_soon(self, do: Callable[[], Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: this process is ending already
            self._loop.call_soon_threadsafe(do)


class _LifeLine:
    """Standard input as the parent gave it: one line, then nothing until the parent is gone.

    It is put elsewhere, so that whoever reads standard input here finds it at its end.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._end: Callable[[], None] = partial(os._exit, 1)
        self._fd = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    def read_line(self) -> bytes:
        """Return the line; from then on the process ends with its parent. Without one it ends now."""
        line = bytearray()
        while not line.endswith(b"\n"):
            piece = os.read(self._fd, 65_536)
            if not piece:
                sys.exit(1)
            line += piece
        threading.Thread(target=self._watch, name="life line", daemon=True).start()
        return bytes(line)

    def when_cut(self, end: Callable[[], None]) -> None:
        """Call ``end`` once the parent is gone, in another thread: the event loop may be blocked."""
        self._end = end

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            if select.select([self._fd], [], [], LOOK_S)[0] and not os.read(self._fd, 4096):
                break
        self._end()


class _Report:
    """What is told to the parent, once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_sent = False

    def send(self, report: dict[str, Any]) -> None:
        """Send it, and close the pipe."""
        self.is_sent = True
        with suppress(BrokenPipeError):  # the parent waits no longer, and will end this process
            os.write(self._fd, json.dumps(report).encode() + b"\n")
        os.close(self._fd)


if __name__ == "__main__":
    main()
