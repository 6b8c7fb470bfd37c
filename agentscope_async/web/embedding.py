"""Agents inside a FastAPI application."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from fastapi import APIRouter

    from .sessions import Sessions

__all__ = ["expose", "lifespan"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TAKEN = {".", "..", "health", "docs", "redoc", "openapi.json"}


def expose(
    target: Any,
    *,
    name: str | None = None,
    sessions: Sessions | None = None,
    auth: Callable[..., Any] | None = None,
    linger_s: float = 0.0,
    max_turns: int = 100,
    retry_after_s: int = 1,
    max_body_bytes: int = 2**20,
    origins: Collection[str] = (),
) -> APIRouter:
    """Return a router that lets web clients talk to agents: ``app.include_router(expose(new_chat))``.

    For each agent, under its name: ``POST /NAME`` (a Msg in, a Msg out), ``POST /NAME/stream``
    (server-sent events), the websocket ``/NAME/ws``, ``GET`` and ``DELETE /NAME/history``; and ``GET
    /health`` once. A factory ``f(key)`` makes an agent for each conversation: the first answer carries the
    conversation's id in ``X-Session-Id``, which the client sends with its further messages. An
    agent given itself is shared by all clients, who then have one conversation, and no history.

    A client that goes away cancels its turn, and the model call behind it. It needs an open
    Runtime: ``FastAPI(lifespan=lifespan())``. What the events of a stream are says
    :mod:`agentscope_async.web.streaming`, what goes over the websocket :mod:`agentscope_async.web.socket`.

    Args:
        target: an agent, a factory, or a dict of these by name.
        name: of the one agent; its own, or its factory's, when not given.
        sessions: how conversations are kept; for factories only.
        auth: a FastAPI dependency that returns the id of the user, a string, or raises
            HTTPException. A session then is of use to its user only. For the websocket it must not
            ask for a Request: ``Header()`` or ``HTTPConnection`` work for both.
        linger_s: so many seconds a turn goes on when its client has left; a stream's client can
            come back meanwhile, with ``Last-Event-ID``, and gets what it missed. So can one that
            lost the end of a stream, so long after that. A client that takes nothing for 30
            seconds has left.
        max_turns: so many turns run, or are still being sent, at once; further ones are refused
            with 503. So many that are over are kept, at most, for clients to come back to.
        retry_after_s: what these are told to wait.
        max_body_bytes: of a message; larger ones are refused with 413.
        origins: of web pages that may open the websocket, such as ``"https://example.org"``, besides
            those of the service's own host.

    Raises:
        MissingExtraError: FastAPI is not installed.
        ConfigError: a name or an option is not valid.
    """
    if linger_s < 0 or max_turns < 1 or max_body_bytes < 1 or retry_after_s < 1:
        raise ConfigError("linger_s must not be negative; the other limits are 1 or more.")
    targets = target if isinstance(target, Mapping) else {name or _name_of(target): target}
    for each, agent in targets.items():
        _check(each, agent, sessions)
    try:
        from ._routes import make_router
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "starlette"):
            raise
        raise MissingExtraError(
            "fastapi", "Agents in web applications need FastAPI: pip install 'agentscope-async[web]'"
        ) from error
    from .sessions import Sessions
    from .talks import Talks

    return make_router(
        targets,
        sessions=sessions or Sessions(),
        auth=auth,
        talks=Talks(linger_s=linger_s, max_turns=max_turns, retry_after_s=retry_after_s),
        max_body_bytes=max_body_bytes,
        origins=frozenset(origins),
    )


def lifespan(**options: Any) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan for an application, in which a Runtime is open: ``FastAPI(lifespan=lifespan())``.

    The runtime is ``app.state.runtime``, and current in all handlers.

    Args:
        **options: those of :class:`Runtime`.
    """

    @asynccontextmanager
    async def live(app: Any) -> AsyncIterator[None]:
        from ..runtime import Runtime

        async with Runtime(**options) as runtime:
            app.state.runtime = runtime
            yield

    return live


def is_shared(target: Any) -> bool:
    """Whether this is an agent, not a factory of agents."""
    return not inspect.isclass(target) and hasattr(target, "stream")


def _name_of(target: Any) -> str:
    name = target.name if is_shared(target) else getattr(target, "__name__", None)
    if not isinstance(name, str):
        raise ConfigError(f"What is exposed has no name of its own; give name=: {target!r:.80}")
    return name


def _check(name: Any, target: Any, sessions: Sessions | None) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
        raise ConfigError(
            f"{name!r:.80} cannot be part of an address: give a name of 1 to 64 letters, digits, '_', '.' or "
            f"'-', and none of {', '.join(sorted(_TAKEN))}."
        )
    if not callable(target):
        raise ConfigError(f"{name!r} is to be an agent or a factory, not a {type(target).__name__}.")
    if is_shared(target) and sessions is not None:
        raise ConfigError(
            f"{name!r} is one agent, with one conversation for all. With sessions=, expose a factory that "
            f"makes an agent for each: expose(lambda key: DialogAgent(...), name={name!r}, sessions=...)."
        )
