"""Similarity of vectors, and the best of a list by any score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import ConfigError
from ..memory._vectors import EmbeddingModel, cosine, scores_of
from ..message import Msg
from ._marks import marked
from .response import ServiceResponse

__all__ = ["ScoreFunction", "cos_sim", "retrieve_from_list"]

ScoreFunction: TypeAlias = Callable[[Any, Any], Any]
"""How well an item (the second) answers a query (the first), higher is better; plain or async.

A number, or an object with a number as ``content``, as :func:`cos_sim` gives.
"""


@marked()
async def cos_sim(embedding1: Sequence[float], embedding2: Sequence[float]) -> ServiceResponse:
    """Compute the cosine similarity of two vectors.

    ``content`` is a float in [-1, 1]; 0.0 where one of the vectors has no length (AgentScope v0.0.2
    gave ``nan`` there, which has no place in an order). Vectors of different lengths are an ERROR.

    Args:
        embedding1: a list of numbers.
        embedding2: a list of as many numbers.
    """
    try:
        return ServiceResponse.success(cosine(_numbers(embedding1), _numbers(embedding2)))
    except (TypeError, ValueError, OverflowError) as error:
        return ServiceResponse.error(error)


@marked(granted=["score_func", "embedding_model"])
async def retrieve_from_list(
    query: Any,
    knowledge: Sequence[Any],
    score_func: ScoreFunction,
    top_k: int | None = None,
    embedding_model: EmbeddingModel | None = None,
    preserve_order: bool = True,
) -> ServiceResponse:
    """Find the items of a list that answer a query best.

    ``content`` is a list of ``(score, index, item)``. Nothing is changed: a query that gets an
    embedding gets it in a copy. What the score function or the model raises, and a score that
    is no number, are an ERROR.

    Args:
        query: what to look for.
        knowledge: the items to choose from.
        score_func: ``score_func(query, item)``, higher is better.
        top_k: how many items to return; all of them when not given.
        embedding_model: makes the ``embedding`` of a query that is a message or a dict without one.
        preserve_order: return the items in the order of the list, otherwise the best first;
            equal scores keep the order of the list.

    Raises:
        ConfigError: ``score_func`` or ``embedding_model`` cannot be called.
    """
    for name, function in {"score_func": score_func, "embedding_model": embedding_model}.items():
        if not callable(function) and (function is not None or name == "score_func"):
            raise ConfigError(f"{name} must be a function or a model, not {type(function).__name__}.")
    if top_k is not None and (type(top_k) is not int or top_k < 0):
        return ServiceResponse.error(f"top_k must be a whole number from 0, got {top_k!r}.")
    try:
        query = await _embedded(query, embedding_model)
        scores = await scores_of(query, knowledge, score_func)
    except Exception as error:  # a service answers with what went wrong
        return ServiceResponse.error(error)
    best = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top_k]
    if preserve_order:
        best.sort()
    return ServiceResponse.success([(scores[index], index, knowledge[index]) for index in best])


def _numbers(vector: Sequence[float]) -> list[float]:
    numbers = [float(number) for number in vector]
    if isinstance(vector, (str, bytes)) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"A vector is a list of finite numbers, got {vector!r:.80}")
    return numbers


async def _embedded(query: Any, model: EmbeddingModel | None) -> Any:
    """Return the query, with an embedding if it can have one and a model makes it."""
    if model is None or not isinstance(query, (Msg, Mapping)) or query.get("embedding") is not None:
        return query
    from .knowledge._embedding import vector_of

    text = (query.text or query.to_str()) if isinstance(query, Msg) else str(query.get("content", query))
    embedding = await vector_of(model, text)
    return query.replace(embedding=embedding) if isinstance(query, Msg) else {**query, "embedding": embedding}
