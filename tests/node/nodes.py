"""Nodes and agents for tests: several runtimes in one event loop, agents that do as they are told."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from agentscope_async import Msg, Runtime
from agentscope_async.agents import AgentBase

LIMIT_S = 30
TOKEN = "a-token-for-these-tests-only-0123456789"


class Actor(AgentBase):
    """Remembers each message, does with it what a function says, answers with what that returns."""

    def __init__(self, name: str, act: Callable[..., Any] | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.act = act
        self.got: list[Any] = []

    async def reply(self, x: Any = None, **kwargs: Any) -> Msg:
        self.got.append(x)
        if self.memory is not None and x is not None:
            self.memory.add(x)
        result = self.act(x, **kwargs) if self.act is not None else None
        if inspect.isawaitable(result):
            result = await result
        return result if isinstance(result, Msg) else answer(self.name, result)

    @property
    def texts(self) -> list[str]:
        """What it was sent to reply to, and began to."""
        return [each.text for each in self.got]


class Gate:
    """What an agent does that is to be stuck: waits until the gate is opened. Counts who came and left."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.left = asyncio.Event()
        self.begun = self.ended = self.cancelled = 0

    async def __call__(self, x: Any = None) -> None:
        self.begun += 1
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1
            self.left.set()


def answer(name: str, content: Any = None) -> Msg:
    """What an agent of this name says."""
    return Msg(name, f"{name} answers" if content is None else content, "assistant")


def message(text: object = "x") -> Msg:
    """What a caller says."""
    return Msg("caller", str(text), "user")


@asynccontextmanager
async def nodes(*names: str, **options: Any) -> AsyncIterator[list[Runtime]]:
    """Open a runtime that listens at ``mem://name`` for each name."""
    async with AsyncExitStack() as stack, asyncio.timeout(LIMIT_S * 2):
        runtimes = [Runtime(listen=f"mem://{name}", node=name, **options) for name in names]
        for runtime in runtimes:
            await stack.enter_async_context(runtime)
        yield runtimes


@asynccontextmanager
async def nothing_goes_on() -> AsyncIterator[None]:
    """Afterwards no task is left of what was done inside."""
    before = asyncio.all_tasks()
    yield

    def left() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}

    for _ in range(10_000):
        if not left():
            return
        await asyncio.sleep(0)
    assert left() == set()


async def steps(count: int = 20) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something no event tells of."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


async def outcomes(*works: Awaitable[Any]) -> list[Any]:
    """Return what each gave or raised."""
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*works, return_exceptions=True)


async def error_of(work: Awaitable[Any]) -> Any:
    """Return what it raised."""
    outcome = (await outcomes(work))[0]
    assert isinstance(outcome, BaseException), f"no error, but {outcome!r}"
    return outcome


def dead(runtime: Runtime) -> list[tuple[str, str]]:
    """The texts of a runtime's dead letters, and why they are dead."""
    return [(letter.msg.text, letter.reason) for letter in runtime.dead_letters]
