"""Whose conversation it is: session ids, issued here and checked here."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from ..errors import AgentScopeError, ConfigError
from ..logging import brief, get_logger
from .problems import STORE_FAILING, Refusal

if TYPE_CHECKING:
    from ..keyed import KeyedAgents

__all__ = ["Session", "Sessions", "begin_session", "find_session"]

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
    """

    live: int = 1000
    idle_after_s: float = 600.0
    store: str | Path | None = None


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


async def begin_session(agents: KeyedAgents, user: str | None) -> Session:
    """Issue a session to a user; None: to whoever will have its id.

    Raises:
        ConfigError: the user is something else.
        Refusal: it could not be saved.
    """
    if not isinstance(user, str | None):
        raise ConfigError(f"auth= is to return the id of the user, a string, not a {type(user).__name__}.")
    session = _session(token_hex(16))
    record = {"user": user, "begun_at": time.time()}
    try:
        await agents.store.save(_kind(agents), session.key, record, version=0)
    except AgentScopeError as error:
        get_logger().error("session_not_saved", agents=agents.name, error=brief(error))
        raise Refusal(
            STORE_FAILING.status, STORE_FAILING.type, STORE_FAILING.message, STORE_FAILING.retry_after_s
        ) from error
    return session


async def find_session(agents: KeyedAgents, id: str, user: str | None) -> Session:
    """Return the session of that id, if it was issued to this user.

    Raises:
        Refusal: it is no id, or none that this user has; which of these is not told.
    """
    if not _ID.fullmatch(id):
        raise Refusal(400, "bad_session", "X-Session-Id is 32 hexadecimal digits, as the service issued it.")
    session = _session(id)
    saved = await agents.store.load(_kind(agents), session.key)
    if saved is None or saved.state.get("user") != user:
        raise Refusal(
            404, "unknown_session", "There is no such session; leave X-Session-Id out for a new one."
        )
    return session


def _session(id: str) -> Session:
    return Session(id, hashlib.sha256(id.encode()).hexdigest()[:32])


def _kind(agents: KeyedAgents) -> str:
    return f"sessions of {agents.name}"  # with spaces: no agents are kept under that name
