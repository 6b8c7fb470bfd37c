"""Audiences: AgentScope v0.0.2's way to share what is said; ``msghub`` is the easier one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ..errors import AgentScopeWarning
from ._mail import Circle, Member

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Speaker"]


class Speaker(Member):
    """A member with an audience of its own."""

    __slots__ = ("_circles",)

    def reset_audience(self, audience: Sequence[Any]) -> None:
        """Let these agents, less this one, observe every reply.

        Raises:
            TypeError: one of them is not an agent.
        """
        for each in audience:
            if not isinstance(each, Member):
                raise TypeError(f"An audience is made of agents, not {type(each).__name__}")
        self.clear_audience()
        self._circles = (*self._circles, _Audience(each for each in audience if each is not self))

    def clear_audience(self) -> None:
        """Let nobody observe, apart from hubs this agent is in."""
        self._circles = tuple(circle for circle in self._circles if not isinstance(circle, _Audience))

    def rm_audience(self, audience: Any) -> None:
        """Let this agent, or these, no longer observe; one that does not is warned about."""
        members = [m for circle in self._circles if isinstance(circle, _Audience) for m in circle.members]
        for agent in audience if isinstance(audience, (list, tuple)) else [audience]:
            if agent in members:
                members.remove(agent)
            else:
                warnings.warn(
                    f"Agent {getattr(agent, 'name', agent)!r} is not in the audience of {self.name!r}.",
                    AgentScopeWarning,
                    stacklevel=2,
                )
        self.reset_audience(members)


class _Audience(Circle):
    """The listeners of one agent, set by ``reset_audience``."""

    __slots__ = ()
