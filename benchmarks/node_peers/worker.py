"""A process that serves all agents of one carrier, until its parent ends."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from ..processes import ready, told
from . import Carrier, load


async def _serve(carrier: type[Carrier], job: dict[str, Any]) -> None:
    async with carrier.serving(job["number"], job["first"]) as said:
        gc.collect()
        gc.freeze()
        ready(said)
        await asyncio.Event().wait()


def main() -> None:
    job = told()
    carrier = load(job["file"])
    make_loop: Any = asyncio.SelectorEventLoop
    if job["uvloop"]:
        import uvloop

        make_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(_serve(carrier, job))


if __name__ == "__main__":
    main()
