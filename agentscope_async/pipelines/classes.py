"""Pipelines as objects: made once, called many times, and operators themselves.

Each call does what the function of the same name in ``functional`` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from .functional import (
    forlooppipeline,
    ifelsepipeline,
    placeholder,
    sequentialpipeline,
    switchpipeline,
    whilelooppipeline,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from .functional import Condition, Operators

__all__ = [
    "ForLoopPipeline",
    "IfElsePipeline",
    "PipelineBase",
    "SequentialPipeline",
    "SwitchPipeline",
    "WhileLoopPipeline",
]


class PipelineBase(ABC):
    """What all pipelines are: operators made of operators, so they nest.

    Attributes:
        participants: the operators as they were given; a sequence given as one stays one.
    """

    def __init__(self) -> None:
        self.participants: list[Any] = []

    @abstractmethod
    async def __call__(self, x: Any = None) -> Any:
        """Pass ``x`` through and return what comes out."""


class SequentialPipeline(PipelineBase):
    """Operators one after the other: ``y = await SequentialPipeline([a, b])(x)``."""

    def __init__(self, operators: Operators) -> None:
        super().__init__()
        self.operators = operators
        self.participants = [operators] if callable(operators) else list(operators)

    async def __call__(self, x: Any = None) -> Any:
        """See :func:`sequentialpipeline`."""
        return await sequentialpipeline(self.operators, x)


class IfElsePipeline(PipelineBase):
    """One of two branches, by condition."""

    def __init__(
        self,
        condition_func: Condition,
        if_body_operators: Operators,
        else_body_operators: Operators = placeholder,
    ) -> None:
        super().__init__()
        self.condition_func = condition_func
        self.if_body_operators = if_body_operators
        self.else_body_operators = else_body_operators
        self.participants = [if_body_operators, else_body_operators]

    async def __call__(self, x: Any = None) -> Any:
        """See :func:`ifelsepipeline`."""
        return await ifelsepipeline(self.condition_func, self.if_body_operators, self.else_body_operators, x)


class SwitchPipeline(PipelineBase):
    """One of many branches, by key."""

    def __init__(
        self,
        condition_func: Condition,
        case_operators: Mapping[Hashable, Operators],
        default_operators: Operators = placeholder,
    ) -> None:
        super().__init__()
        self.condition_func = condition_func
        self.case_operators = case_operators
        self.default_operators = default_operators
        self.participants = [*case_operators.values(), default_operators]

    async def __call__(self, x: Any = None) -> Any:
        """See :func:`switchpipeline`."""
        return await switchpipeline(self.condition_func, self.case_operators, self.default_operators, x)


class ForLoopPipeline(PipelineBase):
    """Operators run again and again, so many times at most."""

    def __init__(
        self, loop_body_operators: Operators, max_loop: int, break_func: Condition = lambda _: False
    ) -> None:
        super().__init__()
        self.loop_body_operators = loop_body_operators
        self.max_loop = max_loop
        self.break_func = break_func
        self.participants = [loop_body_operators]

    async def __call__(self, x: Any = None) -> Any:
        """See :func:`forlooppipeline`."""
        return await forlooppipeline(self.loop_body_operators, self.max_loop, self.break_func, x)


class WhileLoopPipeline(PipelineBase):
    """Operators run again and again while a condition holds."""

    def __init__(
        self,
        loop_body_operators: Operators,
        condition_func: Callable[[int, Any], Any] = lambda _, __: False,
    ) -> None:
        super().__init__()
        self.loop_body_operators = loop_body_operators
        self.condition_func = condition_func
        self.participants = [loop_body_operators]

    async def __call__(self, x: Any = None) -> Any:
        """See :func:`whilelooppipeline`."""
        return await whilelooppipeline(self.loop_body_operators, self.condition_func, x)
