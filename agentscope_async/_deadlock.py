"""Waits that could never end: found before they begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from .errors import DeadlockError

if TYPE_CHECKING:
    from ._turn import Turn

__all__ = ["Awaited", "Blocked", "Wait", "current_waits"]


class Awaited(Protocol):
    """What a turn can be blocked on: a mailbox, a reply."""

    @property
    def holder(self) -> Turn | None:
        """The turn that must end before this can be had; None: nothing to wait for."""


class Wait(NamedTuple):
    """A turn that is blocked: on whose (``name``) mailbox or reply."""

    turn: Turn
    target: Awaited
    name: str


current_waits: dict[int, Wait] = {}
"""All blocked turns of this process, for ``rt.graph()``."""


class Blocked:
    """While inside, ``turn`` (and all turns above it) is known to wait for ``target``.

    Raises DeadlockError, when made, if that wait would close a circle. Circles are looked
    for only here, where somebody is about to wait: a turn that is free is no way into one.
    """

    __slots__ = ("_wait", "_turns")

    def __init__(self, turn: Turn | None, target: Awaited, name: str) -> None:
        self._turns = list(turn.chain()) if turn is not None else []
        self._wait: Wait | None = None
        if self._turns:  # a caller outside all turns holds nothing that anyone could wait for
            path = _find_circle(self._turns, target, name)
            if path is not None:
                raise DeadlockError(name, path)
            self._wait = Wait(self._turns[0], target, name)

    def __enter__(self) -> None:
        if self._wait is not None:
            current_waits[id(self)] = self._wait
            for turn in self._turns:
                turn.more().waits.append(self._wait)

    def __exit__(self, *exc: object) -> None:
        if self._wait is not None:
            current_waits.pop(id(self), None)
            for turn in self._turns:
                turn.more().waits.remove(self._wait)


def _find_circle(ours: list[Turn], target: Awaited, name: str) -> list[str] | None:
    """Return the names around the circle that waiting for ``target`` would close, or None.

    A depth-first search forward from the turn that has what we want, along what it and
    the turns below it are blocked on, until one of our own is met. A turn that races
    several asks counts as waiting for each of them.
    """
    places = {turn: place for place, turn in enumerate(ours)}
    seen: set[Turn] = set()
    stack = [(target.holder, [name])]
    while stack:
        turn, path = stack.pop()
        if turn is None:
            continue
        if turn in places:
            return [each.agent.name for each in reversed(ours[: places[turn] + 1])] + path
        if turn in seen or turn.extra is None:
            continue
        seen.add(turn)
        for wait in turn.extra.waits:
            below = _names_below(turn, wait.turn)
            stack.append((wait.target.holder, [*path, *below, wait.name]))
    return None


def _names_below(turn: Turn, blocked: Turn) -> list[str]:
    names: list[str] = []
    for each in blocked.chain():
        if each is turn:
            break
        names.insert(0, each.agent.name)
    return names
