"""Pipelines as functions, with the names and the meaning they have in AgentScope v0.0.2.

``x`` flows through: each operator gets what the one before it gave. Where *operators* are
asked for, one operator or a sequence of them will do; the sequence is run in order.
Conditions may be plain or async functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .._tasks import finish
from ..agents.base import Operator
from ._operators import ask

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = [
    "Operators",
    "forlooppipeline",
    "ifelsepipeline",
    "placeholder",
    "sequentialpipeline",
    "switchpipeline",
    "whilelooppipeline",
]

Operators: TypeAlias = Operator | Sequence[Operator]
"""One operator, or several to be run in order."""

Condition: TypeAlias = Callable[[Any], Any]
"""Looks at ``x`` and decides; a plain or an async function."""


async def placeholder(x: Any = None) -> Any:
    """Return ``x`` as it is: the branch in which nothing is done."""
    return x


async def sequentialpipeline(operators: Operators, x: Any = None) -> Any:
    """Pass ``x`` through the operators, one after the other, and return what the last one gave.

    Raises:
        ValueError: there are no operators.
        TypeError: one of them cannot be awaited with a message.
    """
    if callable(operators):
        return await ask(operators, x)
    if not isinstance(operators, Sequence):
        raise TypeError(f"Operators are one operator or a sequence of them, not {type(operators).__name__}.")
    if not operators:
        raise ValueError("A pipeline needs at least one operator, got an empty sequence.")
    for operator in operators:
        x = await ask(operator, x)
    return x


async def ifelsepipeline(
    condition_func: Condition,
    if_body_operators: Operators,
    else_body_operators: Operators = placeholder,
    x: Any = None,
) -> Any:
    """Run the first operators when ``condition_func(x)`` is true, else the second ones.

    Raises:
        ValueError: the operators to run are an empty sequence.
    """
    is_true = await finish(condition_func(x))
    return await sequentialpipeline(if_body_operators if is_true else else_body_operators, x)


async def switchpipeline(
    condition_func: Condition,
    case_operators: Mapping[Hashable, Operators],
    default_operators: Operators = placeholder,
    x: Any = None,
) -> Any:
    """Run the operators that stand under ``condition_func(x)``, or the default ones where none do.

    Raises:
        ValueError: the operators to run are an empty sequence.
    """
    case = await finish(condition_func(x))
    return await sequentialpipeline(case_operators.get(case, default_operators), x)


async def forlooppipeline(
    loop_body_operators: Operators,
    max_loop: int,
    break_func: Condition = lambda _: False,
    x: Any = None,
) -> Any:
    """Run the operators up to ``max_loop`` times; stop when ``break_func(x)`` is true after a round.

    With ``max_loop=0`` it returns ``x``.

    Raises:
        ValueError: the operators are an empty sequence.
    """
    for _ in range(max_loop):
        x = await sequentialpipeline(loop_body_operators, x)
        if await finish(break_func(x)):
            break
    return x


async def whilelooppipeline(
    loop_body_operators: Operators,
    condition_func: Callable[[int, Any], Any] = lambda _, __: False,
    x: Any = None,
) -> Any:
    """Run the operators as long as ``condition_func(i, x)`` is true before round ``i``, counted from 0.

    The default condition lets them never run.

    Raises:
        ValueError: the operators are an empty sequence.
    """
    i = 0
    while await finish(condition_func(i, x)):
        x = await sequentialpipeline(loop_body_operators, x)
        i += 1
    return x
