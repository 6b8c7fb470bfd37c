"""Other frameworks beside ours, where they can be imported; nothing in the benchmarks needs one.

One file each. ``local`` uses the class ``Adapter`` of those that have one, ``safety`` the
coroutine ``converse``. Each is used in one process, as its documentation shows, with
message types of its own and without the network.
"""

from __future__ import annotations

import importlib
import warnings
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from agentscope_async.models import EchoModel

from ..common import in_short
from ..systems import TEXT, Ask, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

FILES = {
    "Adapter": ("agentscope", "autogen_core", "xoscar"),
    "converse": ("agentscope", "autogen_agentchat", "langgraph", "openai_agents"),
}
"""What is looked for, and the files that have it."""


class Peer:
    """Base of the adapters: a :class:`benchmarks.systems.System` that need not do every row."""

    name: ClassVar[str]
    rows: ClassVar[frozenset[str]]
    share: ClassVar[float] = 0.1
    """How much of the number of operations to do; figures are per operation, and some take long."""

    def __init__(self, model_delay_s: float = 0.0) -> None:
        self.model = EchoModel(delay_s=model_delay_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def request(self, text: str = TEXT) -> Any:
        raise NotImplementedError

    def text(self, reply: Any) -> str:
        return str(reply.content)

    async def spawn(self, kind: Kind, names: Sequence[str]) -> Sequence[Any]:
        raise NotImplementedError

    def ask(self, agent: Any) -> Ask:
        raise NotImplementedError

    def tell(self, agent: Any) -> Ask:
        raise NotImplementedError

    def hub(self, agents: Sequence[Any]) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def drain(self, agents: Sequence[Any]) -> None:
        raise NotImplementedError

    def heard(self, agent: Any) -> int:
        raise NotImplementedError


def find(what: Literal["Adapter", "converse"]) -> tuple[list[Any], dict[str, str]]:
    """Return that of each framework which can be imported, and file -> reason for the others."""
    found, absent = [], {}
    for file in FILES[what]:
        try:
            found.append(getattr(_quietly_imported(file), what))
        except ModuleNotFoundError as error:
            absent[file] = f"n/a: {error.name} is not installed"
        except Exception as error:  # whatever an import of somebody else's package may raise
            absent[file] = f"n/a: {in_short(error)}"
    return found, absent


def _quietly_imported(file: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{__name__}.{file}")
