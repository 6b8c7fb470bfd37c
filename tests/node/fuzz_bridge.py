"""Throws messages at a runtime that listens; by hand: ``python tests/node/fuzz_bridge.py [inputs] [seed]``.

Most inputs are real messages with something changed, in their frames or in what agents are sent.
Whatever comes, the runtime goes on, answers who is honest, and holds no more than its limits allow.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import random
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    root = Path(__file__).parent.parent
    sys.path[:0] = [str(root), str(root.parent)]

import orjson
from node.raw_peer import Healthy, RawPeer, msg

from agentscope_async import Msg, Runtime, Speech
from agentscope_async.agents import AgentBase

HEX = "0123456789abcdef" * 2
KEYS = [
    "echo",
    "speaker",
    "failing",
    "wrapped",
    "nobody",
    "_node",
    "made-0",
    "made-1",
    "he\u0430lthy",
    "",
    "_x",
]
OPS = [
    "reply",
    "reply",
    "observe",
    "interrupt",
    "state",
    "load_state",
    "stop",
    "submit",
    "fetch",
    "ps",
    "cancel",
    "returned",
    "introduce",
    "__init__",
    "export_config",
    "watch",
    "exec",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    65,
    2**53,
    2**53 + 1,
    2**63,
    1.5,
    1e300,
    "",
    "echo",
    "_node",
    "x" * 65,
    "../x",
    "\u202e",
    "\x00",
    "aGk=",
    [],
    {},
    [1],
    ["x"] * 40,
    HEX,
    "0" * 31,
    [[[[]]]],
    {"__type": "Msg"},
    "os.system",
    {"__type": "Reply", "name": "x", "node": "fuzzer", "id": HEX},
    "ws://127.0.0.1:9/x",
    {"__part": "image"},
]


class Speaker(AgentBase):
    """Speaks in pieces before it answers."""

    async def reply(self, x: Any = None, **kwargs: Any) -> Msg:
        for _ in range(3):
            await self.speak(Speech("text", "piece"))
        return Msg(self.name, "spoken", "assistant")


class Failing(AgentBase):
    """Raises one thing or another."""

    async def reply(self, x: Any = None) -> Msg:
        raise (ValueError("no"), KeyError(1), SystemExit(3), KeyboardInterrupt())[self.mailbox.failed % 4]


class Made(AgentBase):
    """May be created by others."""


async def wrapped(x: Any) -> Any:
    return x


def bodies(draw: random.Random) -> list[Any]:
    reference = {
        "__type": "Reply",
        "name": "someone",
        "node": draw.choice(("house", "fuzzer", "elsewhere")),
        "id": draw.choice((HEX, "f" * 32)),
    }
    return [
        {"x": None},
        msg(),
        msg(trace="t"),
        msg(kw={"a": 1}),
        msg(rid=HEX),
        msg(rid="f" * 32),
        {"x": reference},
        {"x": reference, "rid": HEX},
        {"x": [msg()["x"]] * 3},
        {"id": HEX},
        {"id": "e" * 32},
        {"to": "echo", "body": msg(), "code": "mailbox_full", "text": "full"},
        {"node": "elsewhere", "url": "ws://127.0.0.1:9"},
        msg({"memory": [msg()["x"]]}),
        msg([{"__part": "text", "text": "a"}]),
        msg([{"__part": "image", "url": "/etc/passwd"}]),
    ]


def seeds(draw: random.Random, n: int) -> list[dict[str, Any]]:
    """One frame of each type that may come, numbered as the next; those that mostly end a link are last."""
    body, to, op = draw.choice(bodies(draw)), draw.choice(KEYS[:8]), draw.choice(OPS)
    chain = draw.choice(([], ["house/echo~1"], ["fuzzer/x~1", "house/speaker~0"]))
    texts = [HEX, "2024-01-01 00:00:00", "fuzzer", "hi", draw.choice(("user", "assistant", "nobody"))]
    return [
        {"t": "ask", "n": n, "id": n, "to": to, "msg": texts},
        {"t": "rep", "n": n, "id": draw.randrange(1, 9), "msg": texts},
        {"t": "tell", "n": n, "to": to, "msg": texts, "op": op},
        {"t": "tell", "n": n, "to": to, "body": body, "op": op},
        {"t": "tell", "n": n, "to": "echo", "body": body, "op": "submit"},
        {
            "t": "ask",
            "n": n,
            "id": n,
            "to": to,
            "body": body,
            "op": op,
            "chain": chain,
            "ttl": draw.choice((0, 1, 50)),
        },
        {"t": "ask", "n": n, "id": n, "to": to, "body": body, "parts": True, "ttl": 50},
        {"t": "can", "n": n, "id": max(1, n - draw.randrange(4))},
        {"t": "wat", "n": n, "id": n, "ref": to},
        {"t": "unw", "n": n, "id": max(1, n - draw.randrange(4))},
        {
            "t": "spn",
            "n": n,
            "id": n,
            "kind": draw.choice(("Made", "AgentBase", "os.system")),
            "name": f"made-{draw.randrange(40)}",
            "cfg": {"name": "m", "model": "fake:echo"},
        },
        {"t": "prb", "id": max(1, n - 1), "path": ["house/echo~1", "fuzzer/x~2"]},
        {"t": "crd", "id": max(1, n - 1), "upto": 70},
        {"t": "crd", "to": "_node", "upto": 70},
        {"t": "rep", "n": n, "id": draw.randrange(1, 9), "body": msg()["x"]},
        {
            "t": "rep",
            "n": n,
            "id": draw.randrange(1, 9),
            "err": {"code": "agent_error", "type": "OSError", "text": "y"},
        },
        {"t": "dwn", "n": n, "id": 4, "reason": "stopped"},
        {"t": "hb", "ts": 1},
        {"t": "rep", "n": n, "id": draw.randrange(1, 9), "body": 1, "last": False},
        {"t": "part", "n": n, "id": n, "i": 0, "of": 2, "data": "eyJ0Ijoi"},
        {"t": "ack", "rx": draw.randrange(50)},
        {"t": "bye", "reason": "x", "drain_ms": 5},
    ]


def hostile_message(draw: random.Random, n: int, wildness: float) -> tuple[bytes, int]:
    """Return frames, each changed somewhere as often as ``wildness`` says, and the last number."""
    lines = []
    kinds = 16 if wildness < 0.2 else None
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        fields = draw.choice(seeds(draw, n + 1)[:kinds])
        n += "n" in fields
        if draw.random() < wildness:
            fields = copy.deepcopy(fields)
            within = draw.choice(places(fields))
            key = draw.choice(list(within) if isinstance(within, dict) else range(len(within)))
            if draw.random() < 0.8:
                within[key] = draw.choice(VALUES)
            elif isinstance(within, dict):
                del within[key]
        lines.append(orjson.dumps(fields))
    data = lines[0] if len(lines) == 1 else b"[%b]" % b",".join(lines)
    if draw.random() < wildness / 10:
        at = draw.randrange(len(data))
        data = data[:at] + bytes([draw.randrange(256)]) + data[at + draw.choice((0, 1, 50)) :]
    return data, n


def places(value: Any) -> list[Any]:
    """Return every object and list in ``value`` that has something in it; those of the body count twice."""
    found = [value] if value else []
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, (dict, list)):
            found += places(each)
    return found


class BridgeTarget:
    """A runtime under attack, and the peer that attacks it; a new link when the last one was closed."""

    def __init__(self, rt: Runtime, draw: random.Random) -> None:
        self.rt = rt
        self.draw = draw
        self.links = 0
        self.closes: Counter[int] = Counter()
        self.answers: Counter[str] = Counter()
        self.reports: list[dict[str, Any]] = []
        self.peer: RawPeer | None = None

    @classmethod
    async def attack(cls, seed: int, inputs: int) -> BridgeTarget:
        """Throw so many messages; raise AssertionError when that did harm."""
        draw, before = random.Random(seed), len(asyncio.all_tasks())
        loop = asyncio.get_running_loop()
        exports = {
            "healthy": Healthy("healthy"),
            "echo": Healthy("echo"),
            "speaker": Speaker("speaker"),
            "failing": Failing("failing"),
            "wrapped": wrapped,
        }
        rt = Runtime(
            listen="mem://fuzzed", token="f" * 32, node="house", exports=exports, allow=[Made], grace=0
        )
        async with rt, Runtime(token="f" * 32, node="honest") as honest:
            self = cls(rt, draw)
            loop.set_exception_handler(lambda loop, context: self.reports.append(context))
            for i in range(inputs):
                data = await self.throw()
                if self.reports or i % 1000 == 999:
                    assert self.reports == [], (seed, i, data, self.reports)
                    assert (await honest.agent("mem://fuzzed/healthy")("well?")).text == "fine"
                    self.answers["honest"] += 1
            if self.peer is not None:
                await self.peer.leave()
            assert (await honest.agent("mem://fuzzed/healthy")("well?")).text == "fine"
        assert self.reports == [], (seed, self.reports)
        assert len(asyncio.all_tasks()) <= before
        return self

    async def throw(self) -> bytes:
        peer = self.peer
        if peer is None or peer.closed.done() or peer.n > 5000:
            if peer is not None:
                await peer.leave()
                self.closes[peer.closed.result()[0]] += 1
            self.wildness = self.draw.choice((0.01, 0.1, 0.5))
            self.links += 1
            peer = self.peer = await RawPeer.enter(
                "mem://fuzzed", "f" * 32, node="fuzzer", acknowledges=self.draw.random() < 0.9
            )
        data, peer.n = hostile_message(self.draw, peer.n, self.wildness)
        peer.send(data)
        for _ in range(self.draw.choice((1, 1, 2, 6))):
            await asyncio.sleep(0)
        for frame in peer.seen:
            self.answers[frame.get("err", {}).get("code") or frame["t"]] += 1
        peer.seen.clear()
        return data


def main() -> None:
    inputs, seed = (int(text) for text in [*sys.argv[1:], *("1000000", "1")[len(sys.argv) - 1 :]])
    logging.disable(logging.CRITICAL)
    asyncio.run(BridgeTarget.attack(seed, 20_000))
    is_traced = inputs <= 200_000
    if is_traced:
        tracemalloc.start()
    at_first, began = memory(is_traced), time.monotonic()
    closes: Counter[int] = Counter()
    answers: Counter[str] = Counter()
    links = 0
    for run in range(max(1, inputs // 100_000)):
        target = asyncio.run(BridgeTarget.attack(seed + run, min(inputs, 100_000)))
        closes += target.closes
        answers += target.answers
        links += target.links
        print(
            f"{(run + 1) * min(inputs, 100_000):,} inputs, memory +{memory(is_traced) - at_first:,} KiB",
            flush=True,
        )
    print(f"{links:,} links, closes {dict(sorted(closes.items()))}, {time.monotonic() - began:.0f} s")
    print(f"answers {dict(answers.most_common())}")


def memory(is_traced: bool) -> int:
    """Return KiB in use: of Python's own objects, or resident."""
    gc.collect()
    if is_traced:
        return tracemalloc.get_traced_memory()[0] // 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


if __name__ == "__main__":
    main()
