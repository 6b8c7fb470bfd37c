"""Agents in web applications: ``app.include_router(expose(...))``. Needs the extra ``web``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Sessions": "sessions",
    "ask_person": "talks",
    "expose": "embedding",
    "lifespan": "embedding",
    "openai_api": "openai_face",
}

__all__ = ["Sessions", "ask_person", "expose", "lifespan", "openai_api"]

if TYPE_CHECKING:
    from .embedding import expose, lifespan
    from .openai_face import openai_api
    from .sessions import Sessions
    from .talks import ask_person


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
