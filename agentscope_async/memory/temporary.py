"""A memory that lives as long as its process, with a search by embedding."""

from __future__ import annotations

import asyncio
import os
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast

import orjson

from ..errors import AgentScopeWarning
from ..message import Msg
from ..message.parts import freeze
from ._files import read, write_whole
from ._vectors import (
    NO_MODEL,
    EmbeddingModel,
    Metric,
    Vector,
    as_vector,
    checked_model,
    cosine,
    embedded,
    scores_of,
    together,
)
from .base import MemoryBase, Unit

__all__ = ["TemporaryMemory"]

Mark: TypeAlias = tuple[list[Unit], int]

SMALL = 8
"""Up to this many units are searched one by one; an index by id would cost more than it saves."""
EMBEDDINGS_AT_ONCE = 16
"""Requests to the embedding model that one call of ours keeps open."""


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
        self.embedding_model = None if embedding_model is None else checked_model(embedding_model)

    def get_memory(
        self, recent_n: int | None = None, filter_func: Callable[[int, Unit], bool] | None = None
    ) -> list[Unit]:
        """Return a new list of the units, oldest first; see :meth:`MemoryBase.get_memory`.

        More than there are is all of them, with a warning.

        Raises:
            ValueError: ``recent_n`` is negative.
        """
        if recent_n is None and filter_func is None:
            return self._content[:]
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
            raise RuntimeError(NO_MODEL)
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
            units = [_revived(unit) for unit in _units_of(read(memories))]
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
            write_whole(file_path, orjson.dumps(plain, option=orjson.OPT_INDENT_2))
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
        wanted = await embedded(query, model) if isinstance(query, str) else as_vector(query)
        vectors = await self._embed_all(units, model)
        scores = await scores_of(wanted, vectors, metric or cosine)
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
        return self.embedding_model if given is None else checked_model(given)

    async def _embed_all(self, units: list[Unit], model: EmbeddingModel | None) -> list[Vector]:
        limit = asyncio.Semaphore(EMBEDDINGS_AT_ONCE)

        async def vector_of(unit: Unit) -> Vector:
            async with limit:
                vector = await embedded(_text_of(unit), model)
            self._keep(unit, model, vector)
            return vector

        vectors = [self._kept(unit, model) for unit in units]
        missing = [index for index, vector in enumerate(vectors) if vector is None]
        if missing and model is None:
            raise RuntimeError(NO_MODEL)
        made = await together([vector_of(units[index]) for index in missing])
        for index, vector in zip(missing, made, strict=True):
            vectors[index] = vector
        return cast("list[Vector]", vectors)

    def _kept(self, unit: Unit, model: EmbeddingModel | None) -> Vector | None:
        own = unit.get("embedding")
        if own is not None:
            return as_vector(own)
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


def _revived(unit: Unit) -> Unit:
    if isinstance(unit, Msg) or not ("__type" in unit or ("name" in unit and "content" in unit)):
        return unit
    return Msg.from_dict(unit)


def _text_of(unit: Unit) -> str:
    if isinstance(unit, Msg):
        return unit.text or unit.to_str()  # models refuse an empty text; an image alone still has a speaker
    content = unit.get("content", unit)
    if isinstance(content, str) and content:
        return content
    return orjson.dumps(unit, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
