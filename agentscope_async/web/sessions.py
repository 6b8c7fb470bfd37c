"""Whose conversation it is: session ids, issued here and checked here."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from ..errors import AgentScopeError, ConfigError
from ..logging import brief, get_logger
from .problems import STORE_FAILING, Refusal

if TYPE_CHECKING:
    from ..keyed import KeyedAgents

__all__ = ["Desk", "Session", "Sessions", "record_kind"]

MAX_SWEEP_S = 60.0
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Sessions:
    """How conversations are kept; see ``Runtime.agents``.

    Attributes:
        live: so many agents stay in memory while idle.
        idle_after_s: after so many seconds without a message one is dropped from memory.
        store: the SQLite file they are kept in; ``agents.db`` in the run directory when None. It
            must be the same after a restart for conversations to go on. One process at a time should
            use it: of two that answer the same conversation in turns, one fails with ``not_saved``.
        expire_after_s: a conversation without a message for so many seconds is deleted from the store,
            and its session is unknown; never when None. The store is looked through for such while
            requests come, every minute, or ten times in that time. Give more than twice the time a
            turn may take: one that lasts longer than half of it may find its conversation deleted.
    """

    live: int = 1000
    idle_after_s: float = 600.0
    store: str | Path | None = None
    expire_after_s: float | None = None

    def __post_init__(self) -> None:
        """Check what nobody else does.

        Raises:
            ConfigError: no time is left to conversations.
        """
        if self.expire_after_s is not None and self.expire_after_s <= 0:
            raise ConfigError(f"expire_after_s= is more than 0, or None, not {self.expire_after_s}.")


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation of one user.

    Attributes:
        id: 128 random bits as 32 hexadecimal digits. Who has it takes part in the conversation,
            so it is kept by the client alone.
        key: what the conversation is kept under: a digest, of no use to whoever reads the store or the log.
    """

    id: str
    key: str


class Desk:
    """Issues the sessions of one exposed factory, finds them again, and ends those that expire."""

    def __init__(self, expire_after_s: float | None) -> None:
        """End sessions after so long without a message; see ``Sessions``."""
        self._expire_after_s = expire_after_s
        self._sweep_at = 0.0  # loop time

    async def begin(self, agents: KeyedAgents, user: str | None) -> Session:
        """Issue a session to a user; None: to whoever will have its id.

        Raises:
            ConfigError: the user is something else.
            Refusal: it could not be saved.
        """
        if not isinstance(user, str | None):
            raise ConfigError(
                f"auth= is to return the id of the user, a string, not a {type(user).__name__}."
            )
        await self._sweep(agents)
        session = _session(token_hex(16))
        record = {"user": user, "begun_at": time.time()}
        with _refusing_unsaved(agents):
            await agents.store.save(record_kind(agents), session.key, record, version=0)
        return session

    async def find(self, agents: KeyedAgents, id: str, user: str | None, *, is_message: bool) -> Session:
        """Return the session of that id, if it was issued to this user, for a message or to look at it.

        Raises:
            Refusal: it is no id, or none that this user has now, which of these is not told; or, for a
                message, the store could not be written.
        """
        if not _ID.fullmatch(id):
            raise Refusal(
                400, "bad_session", "X-Session-Id is 32 hexadecimal digits, as the service issued it."
            )
        await self._sweep(agents)
        session = _session(id)
        found = await agents.store.find_record(record_kind(agents), session.key, kind=agents.name)
        if found is None or found.state.get("user") != user:
            raise _unknown()
        if self._expire_after_s is not None:
            now = time.time()
            if now - found.used_at >= self._expire_after_s:
                raise _unknown()
            if is_message and now - found.saved_at >= self._expire_after_s / 2:
                await self._renew(agents, session)
        return session

    async def _renew(self, agents: KeyedAgents, session: Session) -> None:
        """Leave a turn that begins late the time to end, and to be saved."""
        with _refusing_unsaved(agents):
            is_there = await agents.store.touch(record_kind(agents), session.key)
        if not is_there:
            raise _unknown()

    async def _sweep(self, agents: KeyedAgents) -> None:
        """Delete what has expired, if that was not looked for a short while ago."""
        now = asyncio.get_running_loop().time()
        if self._expire_after_s is None or now < self._sweep_at:
            return
        self._sweep_at = now + min(MAX_SWEEP_S, self._expire_after_s / 10)
        try:
            await agents.store.expire(
                record_kind(agents), kind=agents.name, used_before=time.time() - self._expire_after_s
            )
        except AgentScopeError as error:  # whoever comes just now is served all the same
            get_logger().error("sessions_not_swept", agents=agents.name, error=brief(error))


def record_kind(agents: KeyedAgents) -> str:
    """Return the kind that sessions are saved as, the records to which the states of agents belong."""
    return f"sessions of {agents.name}"  # with spaces: no agents are kept under that name


def _session(id: str) -> Session:
    return Session(id, hashlib.sha256(id.encode()).hexdigest()[:32])


def _unknown() -> Refusal:
    return Refusal(404, "unknown_session", "There is no such session; leave X-Session-Id out for a new one.")


@contextmanager
def _refusing_unsaved(agents: KeyedAgents) -> Iterator[None]:
    try:
        yield
    except AgentScopeError as error:
        get_logger().error("session_not_saved", agents=agents.name, error=brief(error))
        raise Refusal.of(STORE_FAILING) from error
