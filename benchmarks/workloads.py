"""What the rows L1 to L6 do, once for all systems; see ``local.py`` for what each means."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .common import Cost, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from .systems import Ask, Kind, System

HUB_SIZE = 50
DEBATE_ROUNDS = 3
MODEL_DELAY_S = 0.02
TOPIC = "This house believes that every agent deserves a mailbox of its own, and that order is kept in it."


async def sequential_asks(system: System, asks: int) -> Cost:
    """L1: one asks one, and waits for each answer."""
    async with system:
        (agent,) = await system.spawn("echo", ["echo"])
        ask, request = system.ask(agent), system.request
        with Stopwatch(asks) as watch:
            for _ in range(asks):
                await ask(request())
    return watch.cost


async def crowded_asks(system: System, batches: int, *, kind: Kind = "echo", agents: int = 1) -> Cost:
    """L2: 1,000 callers at once, of a thousand agents or of one."""
    async with system:
        crowd = [system.ask(agent) for agent in await system.spawn(kind, names(agents))] * (1000 // agents)
        request = system.request
        with Stopwatch(1000 * batches) as watch:
            for _ in range(batches):
                await asyncio.gather(*[ask(request()) for ask in crowd])
    return watch.cost


async def posts(system: System, count: int) -> Cost:
    """L3: messages nobody waits for, until all are handled."""
    async with system:
        agents = await system.spawn("echo", ["echo"])
        tell, request = system.tell(agents[0]), system.request
        with Stopwatch(count) as watch:
            for _ in range(count):
                await tell(request())
            await system.drain(agents)
    return watch.cost


async def idle_agents(system: System, count: int) -> Cost:
    """L4: make agents that are ready for a first message."""
    all_names = names(count)
    async with system:
        with Stopwatch(count) as watch:
            agents = await system.spawn("echo", all_names)
        assert len(agents) == count
    return watch.cost


async def hub(system: System, hubs: int, messages: int) -> Cost:
    """L5: in turn each agent says something and all the others remember it."""
    watch = Stopwatch(hubs * messages * (HUB_SIZE - 1))
    async with system:
        for _ in range(hubs):
            agents = await system.spawn("listening", names(HUB_SIZE))
            asks = [system.ask(agent) for agent in agents]
            async with system.hub(agents):
                with watch:
                    for index in range(messages):
                        await asks[index % HUB_SIZE](system.request())
                    await system.drain(agents)
            check_heard(system, agents, messages)
    return watch.cost


async def debates(system: System, repeats: int, at_once: int) -> Cost:
    """L6: debates side by side; each turn waits for its model."""
    async with system:
        speakers = await system.spawn("modelled", names(3 * at_once))
        asks = [system.ask(speaker) for speaker in speakers]
        groups = [asks[start : start + 3] for start in range(0, len(asks), 3)]
        with Stopwatch(repeats * at_once * 3 * DEBATE_ROUNDS) as watch:
            for _ in range(repeats):
                await asyncio.gather(*[debate(system, group) for group in groups])
    return watch.cost


async def debate(system: System, asks: Sequence[Ask]) -> None:
    """Pro, con and judge in turn, each asked with what was said last."""
    said = TOPIC
    for _ in range(DEBATE_ROUNDS):
        for ask in asks:
            said = system.text(await ask(system.request(said)))
    if said != TOPIC:
        raise AssertionError(
            f"{system.name}: the model says back what it hears, but in the end it was {said!r}"
        )


def check_heard(system: System, agents: Sequence[Any], messages: int) -> None:
    """Fail unless each remembers every answer, its own included, and the requests made to it."""
    heard = [system.heard(agent) for agent in agents]
    expected = [messages + len(range(index, messages, HUB_SIZE)) for index in range(HUB_SIZE)]
    if heard != expected:
        raise AssertionError(
            f"{system.name}: messages were lost or heard twice: {heard}, expected {expected}"
        )


def names(count: int) -> list[str]:
    """Return as many names."""
    return [f"agent{number}" for number in range(count)]


@dataclass(frozen=True)
class Workload:
    """A row: ``run(system, *size)``, and how much CPU we may take, as a multiple of the queue actor's.

    The first number of ``size`` is how often it is done; slow systems do it less often.
    """

    what: str
    run: Callable[..., Coroutine[Any, Any, Cost]]
    size: tuple[int, ...]
    smoke_size: tuple[int, ...]
    gate: float | None = None
    model_delay_s: float = 0.0


WORKLOADS = {
    "L1": Workload("ask, one after another", sequential_asks, (50_000,), (300,), 0.4),
    "L2": Workload(
        "one ask each of 1,000 agents at once",
        functools.partial(crowded_asks, agents=1000),
        (40,),
        (1,),
        0.75,
    ),
    "L2b": Workload("1,000 asks of one agent at once", crowded_asks, (40,), (1,)),
    "L2c": Workload(
        "the same, all having to queue", functools.partial(crowded_asks, kind="pausing"), (40,), (1,)
    ),
    "L3": Workload("post, all handled", posts, (200_000,), (3_000,), 1.5),
    "L4": Workload("make an idle agent", idle_agents, (100_000,), (1_000,), 0.2),
    "L5": Workload("hub delivery, remembered", hub, (8, 200), (1, 50), 0.6),
    "L6": Workload("debate turn, 20 ms model", debates, (6, 200), (1, 10), 1.0, MODEL_DELAY_S),
}
