"""``python -m benchmarks local|models|...``: one sub-command for each file named in ``COMMANDS``.

A benchmark is a module with ``add_arguments(parser)`` and ``run(args) -> exit code``;
the first line of its docstring is its help.
"""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = (
    "local",
    "distributed",
    "links",
    "models",
    "million",
    "monitor",
    "budget",
    "limits",
    "safety",
    "react",
    "services",
    "sandbox",
    "retrieval",
    "imports",
)


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark and return its exit code."""
    args = _parser().parse_args(argv)
    return int(args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what agentscope_async claims, beside plain asyncio in the same run.",
        epilog="Compare the ratios: they are taken inside a round; other work on the machine moves the rest.",
    )
    commands = parser.add_subparsers(title="benchmarks", required=True, metavar="|".join(COMMANDS))
    for name in COMMANDS:
        module = importlib.import_module(f"benchmarks.{name}")
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.split("\n", 1)[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_common_arguments(command)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _add_common_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", metavar="FILE", help="write all figures, round by round, to FILE")
    command.add_argument(
        "--smoke", action="store_true", help="tiny sizes, to see that it runs; no gate is judged"
    )
    command.add_argument("--strict", action="store_true", help="exit with 1 when a gate is missed")


if __name__ == "__main__":
    sys.exit(main())
