"""Calling whatever can be awaited with a message."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..agents.base import AgentBase

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ..agents.base import Operator

__all__ = ["ask", "name_of"]


def ask(operator: Operator, x: Any) -> Coroutine[Any, Any, Any]:
    """Return a coroutine that awaits ``operator`` with ``x``; nothing is called before it runs.

    For an agent this is the agent's own coroutine, without another around it.
    """
    if isinstance(operator, AgentBase) and type(operator).__call__ is AgentBase.__call__:
        return operator(x)
    return _ask(operator, x)


async def _ask(operator: Operator, x: Any) -> Any:
    answer = operator(x)
    if not inspect.isawaitable(answer):
        raise TypeError(
            f"{name_of(operator)} returned {type(answer).__name__}, which cannot be awaited. "
            f"An operator is an agent, a pipeline or an `async def` function."
        )
    return await answer


def name_of(operator: object) -> str:
    """Return what to call an operator in messages: an agent's name, a function's, or its type's."""
    name = getattr(operator, "name", None) or getattr(operator, "__name__", None)
    return name if isinstance(name, str) else type(operator).__name__
