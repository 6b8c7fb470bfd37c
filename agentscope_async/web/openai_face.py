"""Agents as OpenAI's models: any OpenAI client talks to a team of agents."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from fastapi import APIRouter

__all__ = ["openai_api"]

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def openai_api(
    models: Mapping[str, Any],
    *,
    token: str | None = None,
    auth: Callable[..., Any] | None = None,
    max_turns: int = 100,
    retry_after_s: int = 1,
    max_body_bytes: int = 2**22,
) -> APIRouter:
    """Return a router with ``/v1/chat/completions`` and ``/v1/models``, in OpenAI's form.

    ``app.include_router(openai_api({"team": new_team}))``, and then in any OpenAI client
    ``base_url="http://host/v1"`` and ``model="team"``. It needs an open Runtime:
    ``FastAPI(lifespan=lifespan())``.

    Each request is answered by an agent of its own: it remembers the messages that were sent,
    is asked the last one, and is dropped. A client that goes away cancels the turn and the model
    call behind it. What is exposed under a name is one of these:

    - a factory, ``f()`` or ``f(key)``, that makes an agent, a pipeline or a debate for each request;
    - an agent, which serves as the pattern: each request is answered by another one with its
      settings, its model and what it remembered at that time;
    - an ``async def f(msg) -> Msg``, which hears the last message only;
    - a :class:`DebateSpec` made of factories: the last message is the topic, and all speeches,
      each behind its speaker's name, are the answer.

    ``temperature``, ``top_p``, ``max_tokens``, ``stop``, ``seed``, the penalties, ``logit_bias`` and
    ``reasoning_effort`` are given to the model of an agent; a pipeline or a debate decides for itself
    and is not told. ``tools``, and results of tools among the messages, need an agent whose model
    calls tools natively and that has none of its own: what that model calls is the answer.
    ``response_format`` needs an agent with a model. Where these cannot be had, where ``n`` is not 1
    and for parameters that are not known, the answer is 400, as OpenAI's is. ``user``, ``metadata``,
    ``store``, ``service_tier``, ``safety_identifier`` and ``prompt_cache_key`` are accepted and have
    no effect. A system message is added to what the agent is told to be. The usage counts all
    model calls of the turn.

    A stream begins once there is something to say, or after 15 seconds; what goes wrong before
    that has the status of any other error, later it is an event with an ``error``. All an agent
    says aloud in its turn is streamed; if that does not end with its reply, the reply comes after it.

    Args:
        models: what there is, by the names clients ask for.
        token: clients show it as their API key; others get 401. None: everybody is served.
        auth: a FastAPI dependency instead, which raises HTTPException for those not served.
        max_turns: so many turns run at once; further ones are refused with 503.
        retry_after_s: what these are told to wait.
        max_body_bytes: of a request; larger ones are refused with 413.

    Raises:
        MissingExtraError: FastAPI is not installed.
        ConfigError: a name, an option or what is to be exposed is not valid.
    """
    _check(models, token, auth)
    if max_turns < 1 or retry_after_s < 1 or max_body_bytes < 1:
        raise ConfigError("max_turns, retry_after_s and max_body_bytes are 1 or more.")
    try:
        from ._openai_routes import make_router
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "starlette"):
            raise
        raise MissingExtraError(
            "fastapi", "Agents in web applications need FastAPI: pip install 'agentscope-async[web]'"
        ) from error
    from ._openai_agents import Offer
    from .talks import Talks

    return make_router(
        {name: Offer(name, target) for name, target in models.items()},
        token=token,
        auth=auth,
        talks=Talks(linger_s=0.0, max_turns=max_turns, retry_after_s=retry_after_s),
        max_body_bytes=max_body_bytes,
    )


def _check(models: Mapping[str, Any], token: str | None, auth: Callable[..., Any] | None) -> None:
    if not isinstance(models, Mapping) or not models:
        raise ConfigError('Say what there is, by name: openai_api({"team": new_team}).')
    for name in models:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
            raise ConfigError(
                f"{name!r:.80} is no name for a model: give 1 to 64 letters, digits, '_', '.', ':' or '-'."
            )
    if token is not None and auth is not None:
        raise ConfigError("Give token= or auth=, not both.")
    if token is not None and not (
        isinstance(token, str) and token.isascii() and token.strip() == token != ""
    ):
        raise ConfigError("token= is a text of ASCII characters without spaces around it.")
