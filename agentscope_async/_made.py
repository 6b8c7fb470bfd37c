"""What a factory has made, to find out one that gives something twice."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from .errors import ConfigError

__all__ = ["Made"]


class Made:
    """All that was made and still is somewhere; by identity, whatever equals what."""

    def __init__(self) -> None:
        self._by_id: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def is_new(self, thing: Any) -> bool:
        """Whether this was never asked about before; remembers it, without keeping it alive.

        Raises:
            ConfigError: it cannot be remembered so.
        """
        if self._by_id.get(id(thing)) is thing:
            return False
        try:
            self._by_id[id(thing)] = thing
        except TypeError as error:
            raise ConfigError(
                f"A {type(thing).__name__} made by a factory must allow weak references, to see that none is "
                f"made for two: add '__weakref__' to its __slots__."
            ) from error
        return True
