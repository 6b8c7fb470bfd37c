"""Agents that act of their own accord: their ``run()``, kept going by a runtime."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _context
from ._stopping import when_stopped
from ._tasks import finish
from ._turn import current_turn
from .errors import AgentStoppedError, ConfigError
from .supervision import Supervisor

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = ["Hosting", "OnFatal"]

OnFatal: TypeAlias = Callable[[Exception], Awaitable[None] | None]
"""Called with the last error of what failed too often; a plain or async function."""


class Hosting:
    """The hosted agents of one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by the id of the agent, which its task keeps alive

    def begin(self, agent: Any, on_fatal: OnFatal | None) -> asyncio.Task[None]:
        """Keep ``agent.run()`` going; see ``Runtime.host``."""
        if not inspect.iscoroutinefunction(getattr(agent, "run", None)):
            raise ConfigError(f"{type(agent).__name__} has no `async def run(self)` to be hosted.")
        if id(agent) in self._tasks:
            raise ConfigError(f"Agent {agent.name!r} is hosted already.")
        if agent.mailbox.is_stopped:
            raise AgentStoppedError(agent.name)
        work = self._keep_going(agent, on_fatal)
        start = partial(self._runtime.start, work, _nothing, name=f"run of {agent.name}")
        task = self._tasks[id(agent)] = self._context().run(start)
        task.add_done_callback(lambda task: self._tasks.pop(id(agent), None))
        return task

    def end(self) -> None:
        """Cancel all of them: the runtime is being left, and takes nothing new on."""
        for task in self._tasks.values():
            task.cancel()

    def _context(self) -> contextvars.Context:
        """Return what they run in: this runtime, and outside the turn that may have begun them."""
        context = contextvars.copy_context()
        context.run(_context.override.set, self._runtime)
        context.run(current_turn.set, None)
        context.run(_context.deadline.set, None)
        return context

    async def _keep_going(self, agent: Any, on_fatal: OnFatal | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        forget = when_stopped(agent.mailbox, partial(_cancel, task))

        async def give_up(failure: Exception) -> None:
            forget()
            agent.mailbox.stop()
            if on_fatal is not None:
                await finish(on_fatal(failure))

        try:
            await Supervisor(f"run of {agent.name}", on_fatal=give_up).run(agent.run)
        finally:
            forget()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _nothing() -> None:
    pass
