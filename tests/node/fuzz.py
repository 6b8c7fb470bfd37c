"""Throws bytes at sessions; by hand: ``python tests/node/fuzz.py [inputs] [seed]``.

Most inputs are real messages with something changed, as random bytes hardly ever get past
the JSON parser. Whatever comes, a session answers with events, and holds no more than its
limits allow.
"""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import orjson

from agentscope_async.node import frames
from agentscope_async.node.events import CannotSend, CloseLink, State
from agentscope_async.node.frames import Ask, CloseCode, Spawn, Tell
from agentscope_async.node.reception import Reception
from agentscope_async.node.settings import Settings

if TYPE_CHECKING:
    from agentscope_async.node.session import Session

LIMITS: dict[str, Any] = {"max_frame": 16 * 1024, "max_body": 64 * 1024, "credit": 8, "outbox_frames": 64}
VICTIM = Settings("b", "1." + "b" * 16, **LIMITS)
PEER = {
    "t": "hello", "v": [1], "node": "a", "inc": "1." + "a" * 16, "sid": "1" * 32, "key": None, "rx": 0,
    "max_frame": 16 * 1024, "max_body": 64 * 1024, "credit": 8, "hb": 1000,
}  # fmt: skip
TEXTS = ("1" * 32, "2024-01-01 00:00:00", "al", "hi", "user")
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 65, 2**53, 2**53 + 1, 2**63, 1.5, 1e300, "", "bob", "_node", "x" * 65,
    "../x", "\u202e", "aGk=", [], {}, [1], ["x"] * 40, {"code": "x"}, {"code": 1}, "ask", "part", "0" * 32,
    [[[[]]]],
]  # fmt: skip


class Target:
    """A session under attack; made anew when it is over."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.now = 0.0
        self.sessions = 0
        self.closes: dict[int, int] = {}
        self.start()

    def start(self) -> None:
        self.sessions += 1
        self.wildness = self.draw.choice((0.005, 0.05, 0.5))  # few frames get deep into a wild session
        admission = Reception(VICTIM).admit(orjson.dumps(PEER), self.now)
        assert admission.session is not None
        self.session: Session = admission.session
        self.session.poll(self.now)
        self.n = 0
        for _ in range(3):
            self.session.ask("al", 1, self.now, wants_parts=True)
        self.session.watch("al")
        self.session.ask_message("al", TEXTS)

    def resume(self) -> None:
        statistics = self.session.statistics()
        hello = frames.Hello("a", "1." + "a" * 16, "1" * 32, None, 0, self.session.settings.terms)
        hello.rx = statistics.frames_sent - statistics.frames_waiting
        self.session.link_down(self.now)
        if self.session.resume_check(hello.rx) is None:
            self.session.take_link(hello, self.now, resumed=True)
        self.n = statistics.frames_received

    def throw(self, data: bytes) -> None:
        """Let the session have one message, and do what an application would."""
        session = self.session
        for event in session.receive(data, self.now):
            if isinstance(event, CloseLink):
                assert event.code in CloseCode
                self.closes[event.code] = self.closes.get(event.code, 0) + 1
            elif isinstance(event, (Tell, Ask)):
                session.consumed(event.to, self.draw.choice((1, 1, 1, 0)))
                if isinstance(event, Ask):
                    self.answer(event.id)
            elif isinstance(event, Spawn):
                session.consumed(frames.NODE)
                self.answer(event.id)
        while (out := session.poll(self.now)) is not None:
            assert len(out) <= 16 * 1024
        self.now += 0.001
        session.tick(self.now)
        self.check_bounds()
        if session.is_over:
            self.start()
        elif session.state is not State.OPEN:
            self.resume()

    def answer(self, id: int) -> None:
        try:
            self.session.reply(id, "yes")
        except CannotSend as refused:
            assert refused.code in {"outbox_full", "not_asked"}

    def check_bounds(self) -> None:
        statistics = self.session.statistics()
        assert statistics.frames_waiting <= 64 + 3
        assert statistics.bytes_waiting <= 64 * 1024
        self.n = statistics.frames_received


def seeds(n: int) -> list[dict[str, Any]]:
    """One frame of each type that may come, numbered as the next; those that mostly end a link are last."""
    return [
        {"t": "tell", "n": n, "to": "bob", "body": "hi", "from": "al"},
        {"t": "tell", "n": n, "to": "bob", "body": "hi"},
        {"t": "ask", "n": n, "id": n, "to": "bob", "msg": TEXTS},
        {"t": "rep", "n": n, "id": 5, "msg": TEXTS},
        {"t": "ask", "n": n, "id": n, "to": "bob", "body": [1], "ttl": 5, "chain": ["a/al"], "parts": True},
        {"t": "rep", "n": n, "id": 1, "body": 1, "last": False},
        {"t": "rep", "n": n, "id": 2, "err": {"code": "x", "text": "y"}},
        {"t": "can", "n": n, "id": max(1, n - 1)},
        {"t": "wat", "n": n, "id": n, "ref": "bob"},
        {"t": "unw", "n": n, "id": max(1, n - 1)},
        {"t": "dwn", "n": n, "id": 4, "reason": "stopped"},
        {"t": "spn", "n": n, "id": n, "kind": "K", "name": "x", "cfg": {}},
        {"t": "ack", "rx": 0},
        {"t": "crd", "to": "al", "upto": 70},
        {"t": "crd", "id": 1, "upto": 70},
        {"t": "hb", "ts": 1},
        {"t": "hbr", "ts": 1},
        {"t": "prb", "id": 1, "path": ["x"]},
        {"t": "bye", "reason": "x", "drain_ms": 5},
        {"t": "part", "n": n, "id": n, "i": 0, "of": 2, "data": "eyJ0Ijoi"},
        {"t": "part", "n": n, "id": n - 1, "i": 1, "of": 2, "data": "eyJ0Ijoi"},
        PEER,
    ]


def message(draw: random.Random, n: int, wildness: float = 0.5) -> bytes:
    """Return one or a few frames, each changed somewhere as often as ``wildness`` says."""
    lines = []
    kinds = 3 if wildness < 0.01 else 18 if wildness < 0.1 else None
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        fields = dict(draw.choice(seeds(n + 1)[:kinds]))
        n += "n" in fields
        if draw.random() < wildness:
            fields[draw.choice([*fields, "a"])] = draw.choice(VALUES)
        if draw.random() < wildness / 5:
            del fields[draw.choice(list(fields))]
        lines.append(orjson.dumps(fields))
    data = lines[0] if len(lines) == 1 else b"[%b]" % b",".join(lines)
    return draw.choice(CHANGES)(draw, data) if draw.random() < wildness else data


def _flip(draw: random.Random, data: bytes) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]


def _cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def _nest(draw: random.Random, data: bytes) -> bytes:
    depth = draw.choice((10, 70, 2000))
    return data.replace(b'"hi"', b"[" * depth + b"]" * depth)


def _same(draw: random.Random, data: bytes) -> bytes:
    return data


CHANGES: list[Callable[[random.Random, bytes], bytes]] = [_same] * 6 + [_flip, _flip, _cut, _nest]


def fuzz(inputs: int, seed: int) -> Target:
    """Throw so many messages; raise AssertionError with the one that did harm."""
    draw = random.Random(seed)
    target = Target(draw)
    for i in range(inputs):
        data = message(draw, target.n, target.wildness)
        try:
            target.throw(data)
        except Exception as error:
            raise AssertionError(f"input {i} of seed {seed} does harm: {data!r}") from error
    return target


def main() -> None:
    inputs, seed = (int(text) for text in (*sys.argv[1:], "1000000", "1")[:2])
    fuzz(10_000, seed)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    target = fuzz(inputs, seed)
    after, peak = tracemalloc.get_traced_memory()
    print(f"{inputs:,} inputs, {target.sessions:,} sessions, closes {dict(sorted(target.closes.items()))}")
    print(f"memory +{(after - before) / 1024:.0f} KiB at the end, +{(peak - before) / 1024:.0f} KiB at most")


if __name__ == "__main__":
    main()
