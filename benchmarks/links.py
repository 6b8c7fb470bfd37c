"""How links between nodes behave when something goes wrong, or nothing happens: how soon, at what cost.

Nodes are processes of their own on loopback. Each trial prints what it measured, with the aim for
one of its statistics; nothing fails because of a figure, but under ``--strict`` the exit
code is 1 when an aim was missed. ``--quick`` does just enough to see that the trials work.

"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from .common import in_short, machine_facts, print_facts, progress, table, write_json
from .link_trials import Reading, Scale, losses, waits, weight

if TYPE_CHECKING:
    import argparse

    from .link_trials import Trial

TRIALS: dict[str, Trial] = {
    "resume": losses.resume,
    "kill-child": losses.kill_child,
    "kill-node": losses.kill_node,
    "silence": losses.silence,
    "busy": losses.busy,
    "cancel": waits.cancel,
    "deadline": waits.deadline,
    "deadlock": waits.deadlock,
    "errors": waits.errors,
    "slow-consumer": weight.slow_consumer,
    "stuck": weight.stuck,
    "idle": weight.idle,
    "references": weight.references,
}

__doc__ += "\n".join(f"  {name:<14} {trial.__doc__}" for name, trial in TRIALS.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks links``."""
    parser.add_argument("--only", metavar="cancel,idle", help="these trials only")
    parser.add_argument("--quick", action="store_true", help="a few repeats of each; what --smoke does, too")


def run(args: argparse.Namespace) -> int:
    """Try, print, write; 1 when a trial broke, or an aim is missed under ``--strict``, else 0."""
    chosen = _chosen(args.only)
    scale = Scale(is_quick=args.quick or args.smoke)
    logging.getLogger("agentscope_async").setLevel(logging.CRITICAL)  # what goes wrong here is meant to
    facts = machine_facts()
    print_facts(facts)
    readings: dict[str, list[Reading]] = {}
    broken: dict[str, str] = {}
    for name in chosen:
        progress(f"{name}: {TRIALS[name].__doc__}")
        try:
            readings[name] = asyncio.run(TRIALS[name](scale))
        except KeyboardInterrupt:
            print(f"{name}: interrupted")
            return 130
        except Exception as error:  # one trial that cannot be made is a line, not the end of the others
            broken[name] = in_short(error)
        progress("")
        print(_shown(name, readings.get(name, []), broken.get(name)), flush=True)
    missed = [
        f"{name}: {each.what}" for name, each_of in readings.items() for each in each_of if not each.is_met
    ]
    print(
        "quick run: the figures mean little"
        if scale.is_quick
        else f"aims missed: {', '.join(missed) or 'none'}"
    )
    write_json(
        args.json,
        {
            "benchmark": "links",
            "machine": facts,
            "trials": {name: [asdict(each) for each in each_of] for name, each_of in readings.items()},
            "broken": broken,
        },
    )
    return int(bool(broken) or (args.strict and not scale.is_quick and bool(missed)))


def _chosen(only: str | None) -> list[str]:
    names = list(TRIALS) if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in TRIALS]
    if unknown:
        raise SystemExit(f"--only: there is no trial {', '.join(unknown)}, only {', '.join(TRIALS)}")
    return names


def _shown(name: str, readings: list[Reading], problem: str | None) -> str:
    title = f"{name}: {TRIALS[name].__doc__}"
    if problem is not None:
        return f"{title}\nBROKEN: {problem}\n"
    headers = ["", "unit", "values", "median", "p99", "most", "aim", ""]
    return f"{title}\n{table(headers, [_row(each) for each in readings])}\n"


def _row(each: Reading) -> list[object]:
    if not each.values:
        return [each.what, each.unit, 0, "", "", "", "", "none"]
    figures = [each.percentile(50), each.percentile(99), max(each.values)]
    aim = "" if each.aim is None else f"{each.aim_is_for} <= {_short(each.aim)}"
    verdict = "" if each.aim is None else "ok" if each.is_met else "MISSED"
    return [each.what, each.unit, len(each.values), *figures, aim, verdict]


def _short(aim: float) -> str:
    return f"{aim:,.0f}" if aim >= 100 else f"{aim:.3g}"
