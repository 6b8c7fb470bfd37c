"""Nothing that arrives runs code, imports, writes, starts a program or dials: seen by an audit hook.

A child process runs a node and the peers that attack it; `python -m` of this file is that child.
See https://docs.python.org/3/library/audit_events.html for the events.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
FORBIDDEN = frozenset(
    {
        "exec",
        "compile",
        "pickle.find_class",
        "marshal.loads",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "socket.connect",
        "ctypes.dlopen",
        "import",
    }
)


def test_no_frame_runs_code_imports_writes_or_dials() -> None:
    child = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        timeout=55,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    )
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    assert "seen: nothing" in child.stdout


SEEING = """
import sys
from node.test_no_code_from_wire import Watchman
watchman = Watchman()
watchman.is_watching = True
exec("1")
open("/dev/null", "w").close()
try:
    import a_module_that_is_not_there
except ImportError:
    pass
watchman.is_watching = False
print(sorted(watchman.seen))
"""


def test_the_audit_hook_sees_what_it_is_to_see() -> None:
    child = subprocess.run(
        [sys.executable, "-c", SEEING],
        capture_output=True,
        text=True,
        timeout=55,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    )
    assert child.returncode == 0, child.stderr
    assert all(event in child.stdout for event in ("exec", "import a_module", "open for writing"))


class Watchman:
    """Counts what must not happen while it watches."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.is_watching = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_watching:
            return
        if event in FORBIDDEN:
            if event == "import" and args[0] in sys.modules:
                return
            self.seen[f"{event} {str(args[0])[:100]}"] += 1
        elif event == "open":
            mode, flags = args[1], args[2]
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & 3):
                self.seen[f"open for writing {str(args[0])[:100]}"] += 1


async def attack_all(watchman: Watchman) -> None:
    from node import test_hostile_agents as agents, test_hostile_frames as frames
    from node.fuzz_bridge import BridgeTarget
    from node.raw_peer import attacked

    async def all_of_it() -> None:
        async with attacked(
            exports={"echo": agents.Echo("echo"), "raising": agents.Raising("raising")}, allow=[agents.Made]
        ) as house:
            for messages, _ in frames.CLOSED.values():
                peer = await house.enter()
                for message in messages:
                    peer.send(message)
                await asyncio.sleep(0)
                await peer.leave()
            peer = await house.enter(node="refused")
            for changes, _ in frames.REFUSED.values():
                await peer.answer(peer.ask(**changes))
            for name in agents.tempting_names():
                await peer.answer(agents.spawn(peer, name, "x", {"name": "x"}))
                await peer.answer(peer.ask("echo", agents.msg(kw={name: 1})))
                if agents_is_name(name):
                    await peer.answer(peer.ask("echo", op=name)) if name not in ("reply",) else None
            for cfg, _ in agents.BAD_ARGUMENTS.values():
                await peer.answer(agents.spawn(peer, "Made", "x", cfg))
            for problem in agents.PROBLEMS:
                await peer.answer(peer.ask("raising", agents.msg(problem)))
                await peer.answer(agents.spawn(peer, "Made", "x", {"name": "m", "problem": problem}))
        await BridgeTarget.attack(3, 2000)

    await all_of_it()  # what is imported at first use, is now
    watchman.is_watching = True
    await all_of_it()
    watchman.is_watching = False


def agents_is_name(name: str) -> bool:
    from agentscope_async.node._grammar import is_name

    return is_name(name)


if __name__ == "__main__":
    import logging

    logging.disable(logging.CRITICAL)
    watchman = Watchman()
    asyncio.run(attack_all(watchman))
    print("seen:", dict(watchman.seen) or "nothing")
    sys.exit(bool(watchman.seen))
