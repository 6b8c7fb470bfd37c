"""A memory that lives as long as its process, with a search by embedding."""

from __future__ import annotations

import asyncio
import inspect
import math
import operator
import os
import secrets
import warnings
from array import array
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeAlias, cast

import orjson

from ..errors import AgentScopeWarning
from ..message import Msg
from ..message.parts import freeze
from .base import MemoryBase, Unit

__all__ = ["EmbeddingModel", "TemporaryMemory", "Vector"]

Vector: TypeAlias = list[float]
"""An embedding: d floats."""

EmbeddingModel: TypeAlias = Callable[[str], Any]
"""A model wrapper or a function, plain or async: text in, a vector or response with an ``embedding`` out."""

Metric: TypeAlias = Callable[[Vector, Vector], Any]
"""How near two vectors are, higher is nearer, or an object with that as ``content``; plain or async."""

Mark: TypeAlias = tuple[list[Unit], int]

SMALL = 8
"""Up to this many units are searched one by one; an index by id would cost more than it saves."""
EMBEDDINGS_AT_ONCE = 16
"""Requests to the embedding model that one call of ours keeps open."""
SCORES_AT_ONCE = 64
"""Units compared before other tasks get a turn."""


class TemporaryMemory(MemoryBase):
    """A list of messages, each of them once.

    ::

        memory = TemporaryMemory(embedding_model=model)
        memory.add(Msg("Ann", "The red bicycle is mine.", role="user"))
        [hit] = await memory.retrieve_by_embedding("Whose bicycle is it?")
        hit["memory"].text

    Messages with the same id are the same message. Plain dicts may be stored too; they
    have no identity, so each ``add`` of one appends it.

    Attributes:
        embedding_model: makes vectors of texts for the methods that need them, or None.
    """

    # A million idle agents hold a million of these, so it is three slots and a list:
    # - _content is appended to in place, but whatever removes something puts a new list
    #   into the slot. A list object and a length therefore are a mark to go back to.
    # - _ids maps the id of each message to its embedding (the model that made it, and
    #   the vector), or to None. It does not exist before it is needed: ids of messages
    #   are made when asked for, and most messages in small memories are never asked.
    __slots__ = ("_content", "_ids", "embedding_model")

    _content: list[Unit]
    _ids: dict[str, tuple[EmbeddingModel, array[float]] | None] | None
    embedding_model: EmbeddingModel | None

    def __init__(self, *, embedding_model: EmbeddingModel | None = None) -> None:
        """Start with nothing.

        Raises:
            TypeError: ``embedding_model`` cannot be called.
        """
        self._content = []
        self._ids = None
        self.embedding_model = _checked_model(embedding_model)

    def get_memory(
        self, recent_n: int | None = None, filter_func: Callable[[int, Unit], bool] | None = None
    ) -> list[Unit]:
        """Return a new list of the units, oldest first; see :meth:`MemoryBase.get_memory`.

        More than there are is all of them, with a warning.

        Raises:
            ValueError: ``recent_n`` is negative.
        """
        size = len(self._content)
        if recent_n is None:
            recent_n = size
        elif recent_n < 0:
            raise ValueError(f"recent_n must be 0 or more, got {recent_n}")
        elif recent_n > size:
            problem = f"recent_n={recent_n}, but the memory holds only {size}; all of them are returned."
            warnings.warn(problem, AgentScopeWarning, stacklevel=2)
        units = self._content[max(size - recent_n, 0) :]
        if filter_func is None:
            return units
        return [unit for index, unit in enumerate(units) if filter_func(index, unit)]

    def add(self, memories: Unit | Sequence[Unit | None] | None, embed: bool = False) -> None:
        """Append one unit or several, all or none of them; None is nothing to remember.

        A message that is already there (by its id) is not stored twice, nor is one that occurs
        twice in a list. ``embed`` only makes sure that there is a model: vectors are made
        when they are first needed.

        Raises:
            RuntimeError: ``embed`` without an ``embedding_model``.
            TypeError: something is neither a message nor a dict.
        """
        if embed and self.embedding_model is None:
            raise RuntimeError(_NO_MODEL)
        if isinstance(memories, Msg):
            self.remember(memories)
        else:
            self._append(_units_of(memories))

    def remember(self, msg: Msg) -> None:
        """Append ``msg`` unless a message of its id is here; what :meth:`add` does with one."""
        ids = self._ids
        content = self._content
        if ids is None:
            if len(content) <= SMALL:
                if not content or not _holds(content, msg):
                    content.append(msg)
                return
            ids = self._ids = self._index()
        msg_id = msg.id
        if msg_id not in ids:
            ids[msg_id] = None
            content.append(msg)

    def delete(self, index: int | Iterable[int]) -> None:
        """Forget the unit at ``index``, or those at several of them, counted from 0.

        An index that is negative or too high is left out, with a warning.

        Raises:
            TypeError: an index is not a whole number; nothing is deleted then.
        """
        chosen = set(index) if isinstance(index, Iterable) else {index}
        for each in chosen:
            if not isinstance(each, int) or isinstance(each, bool):
                raise TypeError(f"delete() takes an index or several of them, not {type(each).__name__}")
        size = len(self._content)
        invalid = sorted(each for each in chosen if not 0 <= each < size)
        if len(invalid) < len(chosen):
            self._put([unit for i, unit in enumerate(self._content) if i not in chosen])
        if invalid:
            problem = f"No memory at index {invalid} to delete; there were {size}, counted from 0."
            warnings.warn(problem, AgentScopeWarning, stacklevel=2)

    def load(self, memories: Any, overwrite: bool = False) -> None:
        """Add units from outside; everything is read and checked before anything changes.

        Args:
            memories: path of a JSON file, or JSON text, or a unit, or a list of them. An object in a
                file or text that has ``name`` and ``content``, or says its ``__type``, becomes
                a message again; others, and dicts given as such, stay what they are.
            overwrite: put them in the place of all that is here.

        Raises:
            ValueError: a text that is neither an existing file nor JSON.
            MessageError: an object that says it is a message and is none.
            TypeError: something is neither a message nor a dict.
        """
        if isinstance(memories, (str, bytes, os.PathLike)):
            units = [_revived(unit) for unit in _units_of(_read(memories))]
        else:
            units = _units_of(memories)
        if overwrite:
            self.clear()
        self._append(units)

    def export(
        self, to_mem: bool = False, file_path: str | os.PathLike[str] | None = None
    ) -> list[Unit] | None:
        """Return a new list of all units (``to_mem``), or write them to a JSON file, or both.

        The file is whole at every moment: either the old one or the new one, never a part.

        Raises:
            ValueError: neither was asked for.
            MessageError: a dict holds what has no JSON form; the file stays as it was.
        """
        if not to_mem and file_path is None:
            raise ValueError("export() needs to_mem=True for a list or file_path=... for a JSON file")
        if file_path is not None:
            plain = [
                unit.to_dict() if isinstance(unit, Msg) else freeze(unit, f"[{index}]")
                for index, unit in enumerate(self._content)
            ]
            _write_whole(file_path, orjson.dumps(plain, option=orjson.OPT_INDENT_2))
        return self._content[:] if to_mem else None

    def clear(self) -> None:
        """Forget everything."""
        self._put([])

    def size(self) -> int:
        """Return the number of units."""
        return len(self._content)

    def mark(self) -> Mark:
        """Return a point to which :meth:`rollback` can return; copies nothing."""
        return self._content, len(self._content)

    def rollback(self, mark: Mark) -> None:
        """Undo everything since ``mark``, deletions included.

        Marks nest like calls: going back to one makes those taken after it void.
        """
        content, size = mark
        added = content[size:]
        del content[size:]
        if content is not self._content:
            self._put(content)
        elif self._ids is not None:
            for unit in added:
                if isinstance(unit, Msg):
                    self._ids.pop(unit.id, None)

    async def get_embeddings(self, embedding_model: EmbeddingModel | None = None) -> list[Vector]:
        """Return one vector per unit, oldest first.

        A unit's own ``embedding`` field is taken as it is; other units are embedded by their
        text, messages only once for each model. What others add or delete meanwhile is
        not seen. If the model fails, the vectors it made until then are kept.

        Args:
            embedding_model: used instead of the memory's own one.

        Raises:
            RuntimeError: a vector has to be made and there is no model.
        """
        return await self._embed_all(self._content[:], self._model(embedding_model))

    async def retrieve_by_embedding(
        self,
        query: str | Sequence[float],
        metric: Metric | None = None,
        top_k: int = 1,
        preserve_order: bool = True,
        embedding_model: EmbeddingModel | None = None,
    ) -> list[dict[str, Any]]:
        """Return the ``top_k`` units nearest to ``query``: ``{"score", "index", "memory"}`` each.

        Args:
            query: a text, which is embedded first, or a vector.
            metric: ``metric(query, vector)``, higher is nearer; cosine similarity, in [-1, 1],
                when not given. Ties keep the order of the memory.
            top_k: how many, fewer where the memory holds fewer.
            preserve_order: return them oldest first; otherwise nearest first.
            embedding_model: used instead of the memory's own one.

        Raises:
            RuntimeError: a vector has to be made and there is no model.
            ValueError: ``top_k`` is below 1, a score is not a number, or vectors of different
                length were to be compared.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, got {top_k}")
        units = self._content[:]
        model = self._model(embedding_model)
        wanted = await _embedded(query, model) if isinstance(query, str) else _as_vector(query)
        vectors = await self._embed_all(units, model)
        scores = await _scores(wanted, vectors, metric or cosine)
        best = sorted(range(len(units)), key=scores.__getitem__, reverse=True)[:top_k]
        if preserve_order:
            best.sort()
        return [{"score": scores[index], "index": index, "memory": units[index]} for index in best]

    def _append(self, units: Iterable[Unit]) -> None:
        for unit in units:
            if isinstance(unit, Msg):
                self.remember(unit)
            else:
                self._content.append(unit)

    def _put(self, content: list[Unit]) -> None:
        self._content = content
        if self._ids is not None:
            self._ids = self._index() if content else None

    def _index(self) -> dict[str, tuple[EmbeddingModel, array[float]] | None]:
        """Return the ids of the messages, with the vectors known so far."""
        known = self._ids or {}
        ids = [unit.id for unit in self._content if isinstance(unit, Msg)]
        return {msg_id: known.get(msg_id) for msg_id in ids}

    def _model(self, given: EmbeddingModel | None) -> EmbeddingModel | None:
        return self.embedding_model if given is None else _checked_model(given)

    async def _embed_all(self, units: list[Unit], model: EmbeddingModel | None) -> list[Vector]:
        limit = asyncio.Semaphore(EMBEDDINGS_AT_ONCE)

        async def vector_of(unit: Unit) -> Vector:
            async with limit:
                vector = await _embedded(_text_of(unit), model)
            self._keep(unit, model, vector)
            return vector

        vectors = [self._kept(unit, model) for unit in units]
        missing = [index for index, vector in enumerate(vectors) if vector is None]
        if missing and model is None:
            raise RuntimeError(_NO_MODEL)
        made = await _together([vector_of(units[index]) for index in missing])
        for index, vector in zip(missing, made, strict=True):
            vectors[index] = vector
        return cast("list[Vector]", vectors)

    def _kept(self, unit: Unit, model: EmbeddingModel | None) -> Vector | None:
        own = unit.get("embedding")
        if own is not None:
            return _as_vector(own)
        if self._ids is None or not isinstance(unit, Msg):
            return None
        kept = self._ids.get(unit.id)
        return kept[1].tolist() if kept is not None and (model is None or kept[0] == model) else None

    def _keep(self, unit: Unit, model: EmbeddingModel | None, vector: Vector) -> None:
        if self._ids is None:
            self._ids = self._index()
        # Not when it was deleted while the model was at work.
        if isinstance(unit, Msg) and unit.id in self._ids and model is not None:
            self._ids[unit.id] = (model, array("d", vector))


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


_NO_MODEL = (
    "This memory has no embedding model: give it one, TemporaryMemory(embedding_model=...), "
    "or pass embedding_model=... when searching."
)


def _holds(content: list[Unit], msg: Msg) -> bool:
    msg_id = msg._id
    if msg_id is None:  # then no other object can be this message, and no id need be made
        for unit in content:
            if unit is msg:
                return True
        return False
    for unit in content:
        if unit is msg or getattr(unit, "_id", None) == msg_id:
            return True
    return False


def _checked_model(model: EmbeddingModel | None) -> EmbeddingModel | None:
    if model is not None and not callable(model):
        raise TypeError(
            f"embedding_model must be a model wrapper or a function from text to vector, "
            f"not {type(model).__name__}"
        )
    return model


def _units_of(memories: Any) -> list[Unit]:
    if memories is None:
        return []
    if isinstance(memories, (Msg, dict)):
        return [memories]
    if not isinstance(memories, (list, tuple)):
        raise TypeError(_NOT_A_UNIT.format(type(memories).__name__))
    units = [unit for unit in memories if unit is not None]
    for unit in units:
        if not isinstance(unit, (Msg, dict)):
            raise TypeError(_NOT_A_UNIT.format(type(unit).__name__))
    return units


_NOT_A_UNIT = (
    "A memory holds messages and dicts, not {}. "
    "Wrap what is to be remembered: Msg(name, content, role='user')."
)


def _read(source: str | bytes | os.PathLike[str]) -> Any:
    """Return the object or list in a file or text; also the list in what ``serialize`` makes of one."""
    text: str | bytes
    if isinstance(source, os.PathLike) or (isinstance(source, str) and os.path.isfile(source)):
        with open(source, "rb") as file:
            text = file.read()
        origin = f"The file {os.fspath(source)!r} is not JSON"
    else:
        text = source
        origin = f"{source[:80]!r} is neither an existing file nor JSON"
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{origin}: {error}") from error
    if isinstance(value, dict) and value.get("__type") == "List":
        value = value.get("__value")
    if not isinstance(value, (dict, list)):
        raise TypeError(
            f"Memories in JSON are an object or a list of objects, not {orjson.dumps(value)[:80].decode()}"
        )
    return value


def _revived(unit: Unit) -> Unit:
    if isinstance(unit, Msg) or not ("__type" in unit or ("name" in unit and "content" in unit)):
        return unit
    return Msg.from_dict(unit)


def _write_whole(path: str | os.PathLike[str], text: bytes) -> None:
    target = os.path.realpath(path)
    draft = f"{target}.{secrets.token_hex(8)}.tmp"
    try:
        with open(draft, "xb") as file:
            file.write(text)
        os.replace(draft, target)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


def _text_of(unit: Unit) -> str:
    if isinstance(unit, Msg):
        return unit.text or unit.to_str()  # models refuse an empty text; an image alone still has a speaker
    content = unit.get("content", unit)
    if isinstance(content, str) and content:
        return content
    return orjson.dumps(unit, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


async def _embedded(text: str, model: EmbeddingModel | None) -> Vector:
    if model is None:
        raise RuntimeError(_NO_MODEL)
    answer = model(text)
    if inspect.isawaitable(answer):
        answer = await answer
    return _as_vector(getattr(answer, "embedding", answer))


def _as_vector(value: Any) -> Vector:
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


async def _scores(query: Vector, vectors: list[Vector], metric: Metric) -> list[float]:
    scores = []
    for index, vector in enumerate(vectors):
        if index % SCORES_AT_ONCE == SCORES_AT_ONCE - 1:
            await asyncio.sleep(0)
        score = metric(query, vector)
        if inspect.isawaitable(score):
            score = await score
        scores.append(_as_score(getattr(score, "content", score)))
    return scores


def _as_score(value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):
        raise ValueError(
            f"The metric must give a number, or an object with one as .content; got {value!r:.80}"
        )
    return score


async def _together(waits: list[Coroutine[Any, Any, Vector]]) -> list[Vector]:
    """Return all results, in order; the first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait) for wait in waits]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
