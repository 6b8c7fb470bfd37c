"""What the nodes of the trials are asked: agents that answer, wait, pass on, take their time."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from agentscope_async.agents import AgentBase
from agentscope_async.message import Msg
from agentscope_async.models import OpenAIChatWrapper
from agentscope_async.runtime import current_runtime

ENDED: list[float] = []
"""When each handler that should be gone was, on the monotonic clock, which all processes share."""
HELD: list[float] = []
"""When each handler began that waits for ever."""


class Echo(AgentBase):
    """Says back what it is told."""

    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        return Msg(self.name, x.content, role="assistant")


class Holding(AgentBase):
    """Never answers."""

    async def reply(self, x: Msg | None = None) -> Msg:
        HELD.append(time.monotonic())
        try:
            await asyncio.Event().wait()
        finally:
            ENDED.append(time.monotonic())
        raise AssertionError


class Misspoken(AgentBase):
    """Answers with what is no message."""

    async def reply(self, x: Msg | None = None) -> Any:
        return object()


class Relay(AgentBase):
    """Is given URLs; asks the first with the others, and says what it says. The pause lets others begin."""

    def __init__(self, name: str, pause_s: float = 0.0) -> None:
        super().__init__(name)
        self._pause_s = pause_s

    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        next_url, *rest = x.content
        runtime: Any = current_runtime()
        await asyncio.sleep(self._pause_s)
        try:
            answer: Msg = await runtime.agent(next_url)(Msg(self.name, rest, role="user"))
        finally:
            ENDED.append(time.monotonic())
        return Msg(self.name, answer.content, role="assistant")


class Streaming(AgentBase):
    """Listens to a model that never comes to an end."""

    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        (origin,) = x.content
        model = OpenAIChatWrapper("endless", "m", "sk", base_url=f"{origin}/v1")
        try:
            async with model.stream([{"role": "user", "content": "Go on."}]) as deltas:
                async for _ in deltas:
                    pass
        finally:
            ENDED.append(time.monotonic())
        raise AssertionError


class Slow(AgentBase):
    """Takes its time with each message; asked with None, it says how many there were."""

    def __init__(self, name: str, pause_s: float, capacity: int = 1000) -> None:
        super().__init__(name, use_memory=False, capacity=capacity)
        self._pause_s = pause_s
        self._handled = 0

    async def reply(self, x: Msg | None = None) -> Msg:
        if x is None:
            return Msg(self.name, self._handled, role="assistant")
        await asyncio.sleep(self._pause_s)
        self._handled += 1
        return Msg(self.name, "taken", role="assistant")


class Producing(AgentBase):
    """Posts to another agent as fast as it is let, for some seconds; says how many there were."""

    async def reply(self, x: Msg | None = None) -> Msg:
        assert x is not None
        runtime: Any = current_runtime()
        other = runtime.agent(x.content["to"])
        count, end = 0, time.monotonic() + x.content["seconds"]
        while time.monotonic() < end:
            await other.post(Msg(self.name, f"{count:08}".ljust(x.content["bytes"], "x"), role="user"))
            count += 1
        return Msg(self.name, count, role="assistant")


class Process(AgentBase):
    """Says which process it is in."""

    async def reply(self, x: Msg | None = None) -> Msg:
        return Msg(self.name, os.getpid(), role="assistant")
