"""Links that are cut, nodes that are killed or fall silent, and a machine that is merely busy."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope_async.errors import NodeDown
from agentscope_async.message import Msg
from agentscope_async.runtime import Runtime

from . import TOKEN, Links, Reading, Scale, chaos_proxy, nodes, port_of, under_way, until
from .agents import Holding, Process

if TYPE_CHECKING:
    from ..processes import Worker

IN_FLIGHT = 500
HOLDERS = 10
"""Agents the asks in flight are spread over, so that all of them are sent."""
LARGE = "x" * 64 * 1024


async def resume(scale: Scale) -> list[Reading]:
    """Cut the link while eight answers of 64 KiB are under way; all must come, once it is resumed."""
    took_s = []
    with nodes({"echo": ("Echo", {"name": "echo"})}) as (node,):
        async with chaos_proxy(port_of(node.said["url"])) as proxy, Runtime(token=TOKEN) as runtime:
            remote = runtime.agent(f"ws://127.0.0.1:{proxy.port}/echo")
            await remote(_msg(LARGE))
            for number in range(scale(200, 5)):
                async with under_way(remote(_msg(LARGE)) for _ in range(8)) as asks:
                    for _ in range(random.randrange(20)):
                        await asyncio.sleep(0)
                    cut_at = time.monotonic()
                    (proxy.cut if number % 2 else proxy.reset)()
                    await asyncio.gather(*asks)
                    took_s.append(time.monotonic() - cut_at)
    return [Reading("from the cut to the last of 8 answers", "s", took_s, 1.0, "p95")]


async def kill_child(scale: Scale) -> list[Reading]:
    """Kill -9 a child that to_dist() started, with 500 asks in flight."""
    took_s, others = [], 0
    for _ in range(scale(5, 1)):
        async with Runtime() as runtime:
            with runtime.use():
                remotes = [Process("pid").to_dist()]
                remotes += [Holding(f"holder{n}").to_dist(beside=remotes[0]) for n in range(HOLDERS)]
            pid, *held = remotes
            process = (await pid()).content
            async with under_way(_ask_all(held)) as asks:
                await asyncio.sleep(1)  # nothing here can tell when they have all arrived
                killed_at = time.monotonic()
                os.kill(process, signal.SIGKILL)
                ends, strange = await _ends(asks)
            took_s += [end - killed_at for end in ends]
            others += strange
    return _down_readings("kill -9 of a child to NodeDown", took_s, others)


async def kill_node(scale: Scale) -> list[Reading]:
    """Kill -9 a node that somebody else started; its port refuses, and 500 asks are in flight."""
    took_s, others = [], 0
    for _ in range(scale(5, 1)):
        with nodes({f"holder{n}": ("Holding", {"name": f"holder{n}"}) for n in range(HOLDERS)}) as (node,):
            async with Runtime(token=TOKEN) as runtime:
                held = [runtime.agent(f"{node.said['url']}/holder{n}") for n in range(HOLDERS)]
                async with under_way(_ask_all(held)) as asks:
                    await _all_held(node, HOLDERS)
                    killed_at = time.monotonic()
                    node.kill()
                    ends, strange = await _ends(asks)
                took_s += [end - killed_at for end in ends]
                others += strange
    return _down_readings("kill -9 of a node to NodeDown", took_s, others)


async def silence(scale: Scale) -> list[Reading]:
    """Stop the node (SIGSTOP), or drop every packet, until the link is suspected; then let it resume."""
    stopped_s, dropped_s, back_s = [], [], []
    with nodes({"echo": ("Echo", {"name": "echo"})}) as (node,):
        async with chaos_proxy(port_of(node.said["url"])) as proxy, Runtime(token=TOKEN) as runtime:
            remote = runtime.agent(f"ws://127.0.0.1:{proxy.port}/echo")
            await remote(_msg("Hello!"))
            async with Links(runtime) as links:
                for _ in range(scale(5, 1)):
                    node.stop()
                    try:
                        began_at = time.monotonic()
                        stopped_s.append(await links.next("suspect") - began_at)
                    finally:
                        node.go_on()
                    back_s.append(await _answered(remote))
                    proxy.stall()
                    began_at = time.monotonic()
                    dropped_s.append(await links.next("suspect") - began_at)
                    proxy.heal()
                    back_s.append(await _answered(remote))
    return [
        Reading("SIGSTOP to suspicion", "s", stopped_s, 3.5, "most"),
        Reading("silent drop to suspicion", "s", dropped_s, 3.5, "most"),
        Reading("then healed to the next answer", "s", back_s, 3.0, "most"),
    ]


async def busy(scale: Scale) -> list[Reading]:
    """Keep all cores busy with twice as many processes; a link with little to carry must not be suspected."""
    took_s = []
    with nodes({"echo": ("Echo", {"name": "echo"})}) as (node,):
        async with Runtime(token=TOKEN) as runtime, Links(runtime) as links:
            remote = runtime.agent(f"{node.said['url']}/echo")
            await remote(_msg("Hello!"))
            links.count("suspect")
            node.answer("changes")
            with _burning(2 * (os.cpu_count() or 1)):
                end = time.monotonic() + scale(30, 2)
                while time.monotonic() < end:
                    asked_at = time.monotonic()
                    await remote(_msg("Still there?"))
                    took_s.append(time.monotonic() - asked_at)
                    await asyncio.sleep(0.05)
            suspicions = links.count("suspect") + node.answer("changes").count("suspect")
    return [
        Reading("false suspicions, both sides", "", [float(suspicions)], 0.0, "most"),
        Reading("round trip meanwhile", "ms", [each * 1e3 for each in took_s]),
    ]


def _msg(text: str) -> Msg:
    return Msg("trial", text, role="user")


def _ask_all(remotes: list[Any]) -> list[Coroutine[Any, Any, Any]]:
    return [remotes[number % len(remotes)](_msg("Wait.")) for number in range(IN_FLIGHT)]


async def _all_held(node: Worker, count: int) -> None:
    """Wait until so many handlers have begun; the other asks were sent no later than theirs, but for some."""
    held: list[float] = []

    def is_so() -> bool:
        held.extend(node.answer("held"))
        return len(held) >= count

    await until(is_so, "all agents asked", every_s=0.01)
    await asyncio.sleep(0.5)


async def _ends(asks: list[asyncio.Task[Any]]) -> tuple[list[float], int]:
    """Return when each ended with NodeDown, and how many ended otherwise or not at all."""
    ends: list[float] = []
    for ask in asks:
        ask.add_done_callback(lambda _: ends.append(time.monotonic()))
    done, pending = await asyncio.wait(asks, timeout=30)
    strange = sum(not isinstance(ask.exception(), NodeDown) for ask in done)
    return list(ends), strange + len(pending)


def _down_readings(what: str, took_s: list[float], others: int) -> list[Reading]:
    return [
        Reading(what, "ms", [each * 1e3 for each in took_s], 300.0, "p99"),
        Reading("asks that ended otherwise", "", [float(others)], 0.0, "most"),
    ]


async def _answered(remote: Any) -> float:
    """Return how long an answer takes."""
    began_at = time.monotonic()
    await remote(_msg("Back?"))
    return time.monotonic() - began_at


BURN = "import os, sys, threading\ndef end():\n    sys.stdin.read()\n    os._exit(0)\n\
threading.Thread(target=end, daemon=True).start()\nwhile True:\n    pass\n"


@contextmanager
def _burning(count: int) -> Iterator[None]:
    """Run processes that do nothing but use a core; they end with this one."""
    burners = [
        subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, cwd=Path(__file__).parent)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.communicate()
