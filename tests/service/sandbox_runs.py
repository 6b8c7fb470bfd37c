"""Many runs of the sandbox that end in every way there is: what is left of them?

``python -m tests.service.sandbox_runs 1000`` plays that many, a few at a time, and prints how long after
its limit code that never ends was gone; the test suite plays fewer.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from service.sandbox_traces import marked_code, new_name, processes_named, sandboxes_of

from agentscope_async.service import execute_python_code

AT_ONCE = 4
LIMIT_S = 0.3

CODES = {
    "ends": "print('done')",
    "raises": "raise ValueError",
    "daemon": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        time.sleep(1e6)
    os._exit(0)
""",
    "children": "import os, time\nfor _ in range(10):\n    if os.fork() == 0: time.sleep(1e6)",
    "never ends": "while True: pass",
    "never ends, many": "import os\nfor _ in range(5): os.fork()\nwhile True: pass",
    "cancelled": "import time; time.sleep(1e6)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "prints on": "while True: print('y' * 1000)",
}


@dataclass
class Leftovers:
    """What became of the runs.

    Attributes:
        late_s: seconds from the limit to the answer, of each run that was stopped there.
        answers: how many runs of each kind were answered as they should be.
        processes: ids of processes still there.
        descriptors: how many more there are than before.
    """

    late_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    processes: list[int] = field(default_factory=list)
    descriptors: int = 0


EXPECTED: dict[str, Callable[[str], bool]] = {
    "ends": lambda content: content == "done\n",
    "raises": lambda content: content.endswith("ValueError\n"),
    "daemon": lambda content: content == "",
    "children": lambda content: content == "",
    "never ends": lambda content: "timed out\n" in content,
    "never ends, many": lambda content: "timed out\n" in content,
    "crashes": lambda content: "SIGSEGV" in content,
    "prints on": lambda content: "cut there and stopped" in content,
}


async def play(runs: int) -> Leftovers:
    """Run each kind of code in turn and look for what is left."""
    name = new_name()
    await execute_python_code("")  # opens what stays open: a thread pool, a log
    found = Leftovers()
    descriptors = len(os.listdir("/proc/self/fd"))
    turns = iter([list(CODES)[number % len(CODES)] for number in range(runs)])
    await asyncio.gather(*(_worker(name, turns, found) for _ in range(AT_ONCE)))
    await asyncio.sleep(0)  # pipes are closed in the loop's next round
    found.processes = processes_named(name) + sandboxes_of(os.getpid())
    found.descriptors = len(os.listdir("/proc/self/fd")) - descriptors
    return found


async def _worker(name: str, turns: Iterator[str], found: Leftovers) -> None:
    for kind in turns:
        began = time.perf_counter()
        content = await _run(kind, marked_code(name, CODES[kind]))
        if kind.startswith("never"):
            found.late_s.append(time.perf_counter() - began - LIMIT_S)
        found.answers[kind] += content is None or EXPECTED[kind](content)


async def _run(kind: str, code: str) -> str | None:
    if kind != "cancelled":
        limit_s = LIMIT_S if kind.startswith("never") else 60
        return str((await execute_python_code(code, timeout=limit_s)).content)
    running = asyncio.create_task(execute_python_code(code))
    await asyncio.sleep(int.from_bytes(os.urandom(1), "big") / 1000)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return None


def main() -> int:
    """Play and print; 1 if anything is left."""
    if shutil.which("bwrap") is None:
        print("needs: apt-get install bubblewrap")
        return 1
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    began = time.perf_counter()
    found = asyncio.run(play(runs))
    print(f"{runs:,} runs, {AT_ONCE} at a time, in {time.perf_counter() - began:.0f} s")
    print(f"answered as they should be: {sum(found.answers.values()):,}: {dict(found.answers)}")
    print(f"left: processes {found.processes}, descriptors {found.descriptors}")
    late_ms = sorted(1000 * each for each in found.late_s)
    print(f"gone after the limit: median {statistics.median(late_ms):.0f} ms, most {late_ms[-1]:.0f} ms")
    is_clean = not found.processes and found.descriptors <= 0 and sum(found.answers.values()) == runs
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
