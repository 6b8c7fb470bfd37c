"""What every memory offers to its agent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

from ..message import Msg

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["MemoryBase", "Unit"]

Unit: TypeAlias = Msg | dict[str, Any]
"""One thing remembered: a message, or a plain object of the user's own."""


class MemoryBase(ABC):
    """A store of messages, oldest first.

    An agent calls these methods inside its own turn, so they need no locks. The ones
    here are plain functions: what takes a model or a server belongs into a subclass
    as an async method of its own.
    """

    __slots__ = ()

    @abstractmethod
    def get_memory(
        self, recent_n: int | None = None, filter_func: Callable[[int, Unit], bool] | None = None
    ) -> list[Unit]:
        """Return a new list of the units, oldest first.

        Args:
            recent_n: only so many of the latest; 0 gives none.
            filter_func: keeps the units for which ``filter_func(index, unit)`` is true,
                ``index`` counted within the recent ones.
        """

    @abstractmethod
    def add(self, memories: Unit | Sequence[Unit | None] | None, embed: bool = False) -> None:
        """Append one unit or several; None is nothing to remember.

        A message that is already there (by its id) is not stored twice. ``embed`` says that
        the units will be searched by embedding.
        """

    @abstractmethod
    def delete(self, index: int | Iterable[int]) -> None:
        """Forget the unit at ``index``, or those at several of them, counted from 0."""

    @abstractmethod
    def load(self, memories: Any, overwrite: bool = False) -> None:
        """Add units from a file, from JSON text, or a unit or list of them.

        With ``overwrite`` they take the place of everything else. A failing load changes nothing.
        """

    @abstractmethod
    def export(
        self, to_mem: bool = False, file_path: str | os.PathLike[str] | None = None
    ) -> list[Unit] | None:
        """Return a new list of all units (``to_mem``), or write them to a JSON file, or both."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything."""

    @abstractmethod
    def size(self) -> int:
        """Return the number of units."""

    def remember(self, msg: Msg) -> None:
        """Add one message; the short way for callers who know that it is one."""
        self.add(msg)

    def mark(self) -> Any:
        """Return a point to which :meth:`rollback` can return.

        A turn that fails must leave the memory as it was. This one copies everything; a
        memory that can do better overrides both.
        """
        return self.export(to_mem=True)

    def rollback(self, mark: Any) -> None:
        """Undo everything since ``mark``, deletions included.

        Marks nest like calls: going back to one makes those taken after it void.
        """
        self.load(mark, overwrite=True)
