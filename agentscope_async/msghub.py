"""Message hubs: what one participant says, the others hear."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NoReturn, Self

from .agents._mail import Circle, Member, deliver, tell
from .errors import AgentScopeWarning
from .message.msg import Msg, as_msg

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from ._letters import Letter

__all__ = ["MsgHub", "msghub"]


class MsgHub(Circle):
    """The participants of one hub; enter it with ``async with``.

    What a participant replies is put into every other participant's mailbox before its
    turn ends: all hear the replies of one speaker in the order they were given. Busy
    listeners are not waited for. Hubs nest: an agent may be in several at once, and hears
    a message once.
    """

    __slots__ = ("_announcement", "_is_open")

    def __init__(
        self, participants: Sequence[Member], announcement: Msg | str | Sequence[Msg | str] | None = None
    ) -> None:
        super().__init__(())
        for agent in participants:
            _check_participant(agent)
        self.members.extend({id(agent): agent for agent in participants}.values())
        self._announcement = announcement
        self._is_open = False

    @property
    def participants(self) -> list[Member]:
        """Who is in the hub now; a list of its own."""
        return list(self.members)

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise RuntimeError("This hub is entered already; hubs nest, so make another one with msghub(...)")
        self._is_open = True
        try:
            for agent in self.members:
                agent._circles = (*agent._circles, self)
            if self._announcement is not None:
                await self.broadcast(self._announcement)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    if not TYPE_CHECKING:  # type checkers say so by themselves

        def __enter__(self) -> NoReturn:
            raise TypeError("A hub is entered with `async with msghub(...)`: what is said there is awaited.")

        def __exit__(self, *exc_info: object) -> None:
            """Only makes Python call ``__enter__``."""

    def add(self, participant: Member | Sequence[Member]) -> None:
        """Let an agent, or several, hear and be heard from now on; one that is in already is warned about.

        Raises:
            TypeError: one of them is not an agent; none is added then.
        """
        newcomers = _as_list(participant)
        for agent in newcomers:
            _check_participant(agent)
        for agent in newcomers:
            if agent in self.members:
                _warn(f"Agent {agent.name!r} is in the hub already.")
                continue
            self.members.append(agent)
            if self._is_open:
                agent._circles = (*agent._circles, self)

    def delete(self, participant: Member | Sequence[Member]) -> None:
        """Let an agent, or several, neither hear nor be heard any more; a stranger is warned about."""
        for agent in _as_list(participant):
            if agent not in self.members:
                _warn(f"Agent {getattr(agent, 'name', agent)!r} is not in the hub.")
                continue
            self.members.remove(agent)
            agent._circles = tuple(circle for circle in agent._circles if circle is not self)

    async def broadcast(self, msg: Msg | str | Sequence[Msg | str]) -> None:
        """Let every participant, the author included, observe a message or several."""
        open_letters: list[Letter] = []
        for each in [as_msg(item) for item in _as_list(msg)]:
            for agent in self.members:
                tell(agent, each, open_letters)
        if open_letters:
            await deliver(open_letters)

    def _close(self) -> None:
        self._is_open = False
        for agent in self.members:
            agent._circles = tuple(circle for circle in agent._circles if circle is not self)


def msghub(
    participants: Sequence[Member], announcement: Msg | str | Sequence[Msg | str] | None = None
) -> MsgHub:
    """Make a hub to enter.

    ``async with msghub([a, b, c], announcement=msg) as hub: await a()``

    ``announcement``, one message or several, is observed by all on entering. The caller's
    sequence of participants is not changed.

    Raises:
        TypeError: a participant is not an agent.
    """
    return MsgHub(participants, announcement)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_participant(agent: object) -> None:
    if not isinstance(agent, Member):
        raise TypeError(f"A hub's participants are agents, not {type(agent).__name__}")


def _warn(text: str) -> None:
    warnings.warn(text, AgentScopeWarning, stacklevel=3)
