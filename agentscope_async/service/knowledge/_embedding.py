"""Vectors of texts, by any embedding wrapper or function."""

from __future__ import annotations

import asyncio
import inspect
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from ..._tasks import finish, run_all
from ...errors import ConfigError

__all__ = ["Embedder", "EmbeddingModel", "Packed", "vector_of"]

EmbeddingModel: TypeAlias = Callable[..., Any]
"""A wrapper or a function, plain or async: a text in, or a list of texts; vectors out, or a response
with them as ``embedding``. Plain functions run in worker threads."""

Packed: TypeAlias = bytes
"""A vector as d little-endian 32-bit floats."""

TEXTS_A_REQUEST = 10
"""To wrappers: what the strictest of them takes, DashScope's text-embedding-v3 and v4
(help.aliyun.com/zh/model-studio/text-embedding-synchronous-api, read in 2026)."""
REQUESTS_AT_ONCE = 4


class Embedder:
    """Makes vectors of texts by one model, a few requests at a time.

    Attributes:
        name: which model it is; a store holds vectors of one model only.
    """

    def __init__(
        self, model: EmbeddingModel, *, name: str | None, texts_a_request: int | None, requests_at_once: int
    ) -> None:
        """Check what was given.

        Raises:
            ConfigError: the model cannot be called, or a number is not a whole number from 1.
        """
        if not callable(model):
            raise ConfigError(
                f"embedding_model must be a model wrapper or a function from text to vector, "
                f"not {type(model).__name__}."
            )
        if texts_a_request is None:
            texts_a_request = TEXTS_A_REQUEST if _takes_lists(model) else 1
        for option, number in (("texts_a_request", texts_a_request), ("requests_at_once", requests_at_once)):
            if type(number) is not int or number < 1:
                raise ConfigError(f"{option} must be a whole number from 1, got {number!r}.")
        self.name = name or _name_of(model)
        self._model = model
        self._texts_a_request = texts_a_request
        self._free = asyncio.Semaphore(requests_at_once)

    async def one(self, text: str) -> Packed:
        """Return the vector of one text.

        Raises:
            ValueError: the model gave something else.
        """
        return _packed(_only(await _asked(self._model, text)))

    async def many(self, texts: Sequence[str]) -> list[Packed]:
        """Return the vectors, in the texts' order; the first failure ends all and is raised.

        Raises:
            ValueError: the model gave something else, or not as many.
        """
        parts = await run_all(self._part(part) for part in _cut(texts, self._texts_a_request))
        return [vector for part in parts for vector in part]

    async def _part(self, texts: Sequence[str]) -> list[Packed]:
        async with self._free:
            if self._texts_a_request == 1:
                return [await self.one(texts[0])]
            vectors = await _asked(self._model, list(texts))
        if len(vectors) != len(texts):
            raise ValueError(f"The model gave {len(vectors)} vectors for {len(texts)} texts.")
        return [_packed(vector) for vector in vectors]


async def vector_of(model: EmbeddingModel, text: str) -> list[float]:
    """Return the vector of a text.

    Raises:
        ValueError: the model gave something else.
    """
    return _floats(_only(await _asked(model, text)))


async def _asked(model: EmbeddingModel, texts: str | list[str]) -> Any:
    call = getattr(model, "__call__", model)  # noqa: B004  # whose kind is asked for, not whether it is there
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(model) or _is_wrapper(model):
        answer = await model(texts)
    else:
        answer = await finish(await asyncio.to_thread(model, texts))
    return getattr(answer, "embedding", answer)


def _only(answer: Any) -> Any:
    """Return the vector in an answer for one text: wrappers put it into a list."""
    is_nested = isinstance(answer, (list, tuple)) and len(answer) == 1 and hasattr(answer[0], "__len__")
    return answer[0] if is_nested else answer


def _floats(vector: Any) -> list[float]:
    try:
        numbers = [] if isinstance(vector, (str, bytes)) else [float(number) for number in vector]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"An embedding is a list of finite numbers; got {type(vector).__name__}")
    return numbers


def _packed(vector: Any) -> Packed:
    numbers = array("f", _floats(vector))
    if not any(numbers) or not all(map(math.isfinite, numbers)):
        raise ValueError("The model gave a vector without a length, or one too long for 32-bit floats.")
    return numbers.tobytes()


def _is_wrapper(model: Any) -> bool:
    return isinstance(getattr(model, "model_type", None), str)


def _takes_lists(model: Any) -> bool:
    return _is_wrapper(model) and not getattr(model, "is_legacy", False)


def _name_of(model: Any) -> str:
    if _is_wrapper(model):
        return f"{model.model_type}/{model.model_name}"
    maker = model if hasattr(model, "__qualname__") else type(model)
    return f"{maker.__module__}.{maker.__qualname__}"


def _cut(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))
