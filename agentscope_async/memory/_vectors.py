"""Vectors of texts: how a model is asked for them, and how near two of them are."""

from __future__ import annotations

import asyncio
import inspect
import math
import operator
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

__all__ = [
    "NO_MODEL",
    "EmbeddingModel",
    "Metric",
    "Vector",
    "as_vector",
    "checked_model",
    "cosine",
    "embedded",
    "scores_of",
    "together",
]

Vector: TypeAlias = list[float]
"""An embedding: d floats."""

EmbeddingModel: TypeAlias = Callable[[str], Any]
"""A model wrapper or a function, plain or async: text in, a vector or response with an ``embedding`` out."""

Metric: TypeAlias = Callable[[Vector, Vector], Any]
"""How near two vectors are, higher is nearer, or an object with that as ``content``; plain or async."""

SCORES_AT_ONCE = 64
"""Units compared before other tasks get a turn."""

NO_MODEL = (
    "This memory has no embedding model: give it one, TemporaryMemory(embedding_model=...), "
    "or pass embedding_model=... when searching."
)


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine of the angle between two vectors, in [-1, 1]; 0.0 where one has no length.

    Raises:
        ValueError: they have different lengths.
    """
    if len(a) != len(b):
        raise ValueError(
            f"Vectors of {len(a)} and of {len(b)} numbers cannot be compared; "
            f"were they made by different models?"
        )
    length = math.hypot(*a) * math.hypot(*b)
    return max(-1.0, min(1.0, sum(map(operator.mul, a, b)) / length)) if length else 0.0


def checked_model(model: EmbeddingModel) -> EmbeddingModel:
    """Return ``model``.

    Raises:
        TypeError: it cannot be called.
    """
    if not callable(model):
        raise TypeError(
            f"embedding_model must be a model wrapper or a function from text to vector, "
            f"not {type(model).__name__}"
        )
    return model


async def embedded(text: str, model: EmbeddingModel | None) -> Vector:
    """Return the vector that ``model`` makes of a text.

    Raises:
        RuntimeError: there is no model.
    """
    if model is None:
        raise RuntimeError(NO_MODEL)
    answer = model(text)
    if inspect.isawaitable(answer):
        answer = await answer
    return as_vector(getattr(answer, "embedding", answer))


def as_vector(value: Any) -> Vector:
    """Return a list of floats; a list with one vector in it is that vector, as models answer for one text."""
    try:
        numbers = list(value)
        if len(numbers) == 1 and not isinstance(numbers[0], (int, float)):
            numbers = list(numbers[0])
        vector = [float(number) for number in numbers]
    except (TypeError, ValueError):
        vector = []
    if not vector or isinstance(value, (str, bytes)) or not all(map(math.isfinite, vector)):
        raise TypeError(
            f"An embedding is a list of finite numbers; got {type(value).__name__}: {value!r:.80}"
        )
    return vector


async def scores_of(query: Any, items: Sequence[Any], score: Callable[[Any, Any], Any]) -> list[float]:
    """Return ``score(query, item)``, plain or async, of each item; other tasks get a turn now and then.

    Raises:
        ValueError: a score is not a number.
    """
    scores = []
    for index, item in enumerate(items):
        if index % SCORES_AT_ONCE == SCORES_AT_ONCE - 1:
            await asyncio.sleep(0)
        found = score(query, item)
        if inspect.isawaitable(found):
            found = await found
        scores.append(_as_score(getattr(found, "content", found)))
    return scores


def _as_score(value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):
        raise ValueError(
            f"A metric or score function gives a number, or an object with one as .content; got {value!r:.80}"
        )
    return score


async def together(waits: list[Coroutine[Any, Any, Vector]]) -> list[Vector]:
    """Return all results, in order; the first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait) for wait in waits]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
