"""What carries a message to another process and the answer back: one file for each way.

Each has a class ``Carrier``. What two processes say to each other is the same for all: a
question with a text to one of ``AGENTS`` agents, and that agent's answer, which says the
text back; both are really built and parsed, with a correlation id where the way needs one.
Ours and the raw ways say it in a ``Msg`` each, others in a message of their own.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from ..common import in_short

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

AGENTS = 1000
"""How many agents each serving process has."""

Ask: TypeAlias = Callable[[str], Awaitable[str]]
"""Called and awaited with a text; gives the text of the answer."""

OURS, BASELINE = "ours", "raw_websockets"
FILES = (OURS, BASELINE, "bare_websockets", "raw_tcp", "autogen_grpc", "xoscar_pool")
OWN = FILES[:4]
"""Those that need nothing but this package."""


class Carrier:
    """The client's side, a fresh one for every measurement, used as ``async with carrier:``."""

    name: ClassVar[str]
    share: ClassVar[float] = 1.0
    """How much of the number of operations to do; figures are per operation, and some take long."""

    def __init__(self, servers: Sequence[Mapping[str, Any]]) -> None:
        """Take what each server said of where it is."""
        self.servers = servers

    @staticmethod
    def serving(number: int, first: Mapping[str, Any] | None) -> AbstractAsyncContextManager[dict[str, Any]]:
        """Serve all agents in a process; give what a client needs to know, as JSON values.

        ``number`` counts the serving processes from 0; ``first`` is what number 0 said.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: Any) -> None:
        pass

    def ask(self, server: int, agent: str) -> Ask:
        """Return what asks an agent in the process number ``server``."""
        raise NotImplementedError


def agent_names(count: int = AGENTS) -> list[str]:
    """Return the names of the first agents."""
    return [f"agent{number}" for number in range(count)]


def find(files: Sequence[str] = FILES) -> tuple[dict[str, type[Carrier]], dict[str, str]]:
    """Return file -> carrier where all it needs is installed, and file -> reason for the others."""
    found, absent = {}, {}
    for file in files:
        try:
            found[file] = load(file)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(("agentscope_async", "benchmarks")):
                raise  # ours are always there
            absent[file] = f"not installed: pip install {PIP[file]}"
        except Exception as error:  # whatever an import of somebody else's package may raise
            absent[file] = f"n/a: {in_short(error)}"
    return found, absent


PIP = {"autogen_grpc": "'autogen-ext[grpc]'", "xoscar_pool": "xoscar"}


def load(file: str) -> type[Carrier]:
    """Import one of ``FILES``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        carrier: type[Carrier] = importlib.import_module(f"{__name__}.{file}").Carrier
    return carrier
