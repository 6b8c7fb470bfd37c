"""What importing costs: CPU of a fresh process, and what the base install brings along.

CPU is ``time.process_time`` of a fresh interpreter after the import, less that of one
that imports nothing; medians. Distributions are counted by following the declared
requirements of the installed package, without its extras.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING

from .common import table

if TYPE_CHECKING:
    import argparse

STATEMENTS = {
    "nothing": "pass",
    "the package": "import agentscope_async",
    "agents and a runtime": "from agentscope_async import AgentBase, DialogAgent, Msg, Runtime",
    "every name but the HTTP clients": (
        "import agentscope_async as a; from agentscope_async.models._catalog import TYPES;"
        "clients = {name for _, name in TYPES.values()};"
        "[getattr(a, name) for name in a.__all__ if name not in clients]"
    ),
}
GATE_CPU_MS = 150.0
GATE_DISTRIBUTIONS = 15
HEAVY = ("httpx", "websockets", "xllamacpp", "rich", "typer", "fastapi", "starlette")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9, help="fresh processes for each statement")


def run(args: argparse.Namespace) -> int:
    rounds = 2 if args.smoke else args.rounds
    rows, figures, is_missed = [], {}, False
    for label, statement in STATEMENTS.items():
        cpu_ms, heavy = _measure(statement, rounds)
        is_missed |= bool(heavy) or (label == "the package" and cpu_ms > GATE_CPU_MS)
        rows.append([label, f"{cpu_ms:.0f}", ", ".join(heavy) or "none"])
        figures[label] = {"cpu_ms": cpu_ms, "heavy": heavy}
    print(table(["import", "CPU ms, whole process", "heavy packages loaded"], rows))
    print(f"gate: {GATE_CPU_MS:.0f} ms of CPU for the package, no heavy package anywhere")
    try:
        brought = sorted(distributions("agentscope-async"))
    except ModuleNotFoundError as error:
        print(f"\nDistributions are not counted: {error}")
        return int(is_missed and args.strict)
    is_missed |= len(brought) > GATE_DISTRIBUTIONS
    print(f"\nThe base install brings {len(brought)} distributions (gate {GATE_DISTRIBUTIONS}):")
    print(", ".join(brought))
    if args.json:
        Path(args.json).write_text(json.dumps({"imports": figures, "distributions": brought}, indent=2))
    print("\ngates missed" if is_missed else "\nno gate missed")
    return int(is_missed and args.strict)


def distributions(root: str) -> set[str]:
    """Names of all distributions that ``root`` requires, directly or not, without extras."""
    found: set[str] = set()
    waiting = [root]
    while waiting:
        try:
            requirements = requires(waiting.pop()) or []
        except PackageNotFoundError:
            continue
        for requirement in requirements:
            name = re.sub(r"[-_.]+", "-", re.split(r"[ ;<>=!~\[(]", requirement, maxsplit=1)[0]).lower()
            if _applies(requirement) and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def _applies(requirement: str) -> bool:
    """Whether a requirement holds here: no extra, and its marker fits this interpreter."""
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate({"extra": ""})


def _measure(statement: str, rounds: int) -> tuple[float, list[str]]:
    code = (
        f"{statement}\nimport sys, time\ncpu = time.process_time()\n"
        f"print(cpu, *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(rounds)
    ]
    return statistics.median(float(answer[0]) for answer in answers) * 1000, answers[0][1:]


if __name__ == "__main__":
    sys.exit("run as: python -m benchmarks imports")
