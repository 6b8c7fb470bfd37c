"""A node of the trials: a process that exports the agents it is told of, until its parent ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from agentscope_async.events import LinkChanged
from agentscope_async.runtime import Runtime

from ..processes import ready, told
from . import agents


async def _serve(job: dict[str, Any]) -> None:
    exports = {key: getattr(agents, kind)(**kwargs) for key, (kind, kwargs) in job["exports"].items()}
    logging.getLogger("agentscope_async").setLevel(logging.CRITICAL)  # what goes wrong here is meant to
    for key in job["stopped"]:
        await exports[key].stop()
    async with Runtime(listen="ws://127.0.0.1:0", token=job["token"], exports=exports) as runtime:
        changes: list[str] = []
        answers = {
            "ended": lambda: _taken(agents.ENDED),
            "held": lambda: _taken(agents.HELD),
            "changes": lambda: _taken(changes),
        }
        events = runtime.events()
        ready({"url": runtime.url}, answers)
        async for event in events:
            if isinstance(event, LinkChanged):
                changes.append(event.state)  # noqa: PERF401  # this very list is asked for


def _taken(what: list[Any]) -> list[Any]:
    """Return what there is, and forget it; called from another thread, so each is taken by itself."""
    return [what.pop(0) for _ in range(len(what))]


if __name__ == "__main__":
    asyncio.run(_serve(told()))
