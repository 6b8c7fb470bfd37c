"""The file in which a knowledge base lives: SQLite with sqlite-vec and FTS5.

Why sqlite-vec, and through apsw (measured on one machine, 2 cores, Python 3.11, 384 dimensions, exact
search, ``python -m benchmarks retrieval`` repeats the first row):

=====================  ================  ==============  ===============  ====================
(November 2026)        installs          10,000: query   100,000: query   100,000: write, disk
=====================  ================  ==============  ===============  ====================
sqlite-vec 0.1.9,      2 wheels, 12 MB   10 ms           68 ms            2 s, 157 MB
  apsw 3.54
lancedb 0.40           17 wheels,        9-13 ms         164 ms           3 s, 155 MB
                       446 MB
qdrant-client 1.20,    20 wheels,        28 ms           332 ms           213 s, 414 MB
  local mode           117 MB
=====================  ================  ==============  ===============  ====================

sqlite-vec is released the least often of the three (0.1.9 is of March 2026; apsw, lancedb and
qdrant-client of October), but what it keeps are plain float32 blobs in SQLite tables.

One file, transactions, readers in other processes, and full text search beside the vectors come with
SQLite. qdrant's local mode also keeps pickles, which nobody should load from a file, and admits one
process only. Python's own sqlite3 cannot load extensions where it was built without them, as on
macOS and under pyenv; apsw brings a SQLite of its own that can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, MissingExtraError
from ._results import Hit

if TYPE_CHECKING:
    import os

    import apsw

    from ._embedding import Packed
    from ._splitting import Chunk

__all__ = ["Store"]

APPLICATION_ID = 0x41734B42
"""Says of an SQLite file that it is ours: "AsKB"."""
FORMAT = 1
BUSY_MS = 20_000
"""How long to wait for another process that writes."""
MAPPED_BYTES = 1 << 30
"""Of the file that are read as memory: a search reads all vectors, and copying them takes a third of it."""
BYTES_A_NUMBER = 4
MOST_WORDS = 64
"""Of a question that are looked for, the first ones."""
CANDIDATES = 100
"""How many chunks of each order, by vectors and by words, are joined at least."""
RANK_OFFSET = 60
"""Of reciprocal rank fusion, as in Cormack, Clarke and Büttcher, SIGIR 2009."""

_SCHEMA = f"""
pragma application_id = {APPLICATION_ID};
pragma user_version = {FORMAT};
create table facts (name text primary key, value text not null) without rowid;
create table sources (
    id integer primary key, name text not null unique, fingerprint text not null, is_file integer not null
);
create table chunks (
    id integer primary key, source_id integer not null references sources (id),
    heading text not null, line integer, page integer, text text not null
);
create index chunks_of_source on chunks (source_id);
create virtual table words using fts5 (
    heading, text, content = '', contentless_delete = 1, tokenize = 'porter unicode61'
);
"""


class Store:
    """One connection to the file; used by one thread at a time. Everything here blocks."""

    def __init__(self, path: str | os.PathLike[str], model_name: str) -> None:
        """Open the file, and make it if there is none.

        Raises:
            MissingExtraError: apsw or sqlite-vec is not installed.
            ConfigError: the file is something else, or holds vectors of another model.
        """
        self._path = path
        self._model_name = model_name
        self._db = _connected(path)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def fingerprints(self) -> dict[str, tuple[str, bool]]:
        """Return name -> (fingerprint, whether it is a file) of all sources."""
        rows = self._db.execute("select name, fingerprint, is_file from sources")
        return {name: (fingerprint, bool(is_file)) for name, fingerprint, is_file in rows}

    def vectors_of(self, source: str) -> dict[tuple[str, str], Packed]:
        """Return (heading, text) -> vector of what is known of a source."""
        rows = self._db.execute(
            "select chunks.heading, chunks.text, vectors.embedding from sources "
            "join chunks on chunks.source_id = sources.id join vectors on vectors.chunk_id = chunks.id "
            "where sources.name = ?",
            (source,),
        )
        return {(heading, text): vector for heading, text, vector in rows}

    def put(
        self,
        source: str,
        fingerprint: str,
        chunks: Sequence[Chunk],
        vectors: Sequence[Packed],
        *,
        is_file: bool,
    ) -> None:
        """Put a source into the place of what was known of it, all at once or not at all.

        Raises:
            ConfigError: the vectors have another dimension than those stored.
        """
        with self._transaction():
            self._check_dimension(vectors)
            self._forget(source)
            self._db.execute(
                "insert into sources (name, fingerprint, is_file) values (?, ?, ?)",
                (source, fingerprint, is_file),
            )
            source_id = self._db.last_insert_rowid()
            for chunk, vector in zip(chunks, vectors, strict=True):
                self._add(source_id, chunk, vector)

    def remove(self, sources: Iterable[str]) -> list[str]:
        """Forget sources, all at once; return those that were known."""
        with self._transaction():
            return [source for source in sources if self._forget(source)]

    def search(self, vector: Packed, words: str, top_k: int) -> list[Hit]:
        """Return the best chunks by vector and by words, best first.

        Raises:
            ConfigError: the vector has another dimension than those stored.
        """
        with self._transaction("deferred"):  # one state of the file, whatever others write meanwhile
            if self._fact("dimension") is None:
                return []
            self._check_dimension([vector])
            limit = max(top_k, CANDIDATES)
            best = _fused(self.nearest(vector, limit), self.mentioning(words, limit))
            return [self._hit(chunk_id, vector) for chunk_id in best[:top_k]]

    def nearest(self, vector: Packed, limit: int) -> list[int]:
        """Return the ids of chunks by the cosine of their vectors, nearest first."""
        return self._ids("select chunk_id from vectors where embedding match ? and k = ?", vector, limit)

    def mentioning(self, words: str, limit: int) -> list[int]:
        """Return the ids of chunks that have some of the words, by BM25; headings count twice."""
        found = dict.fromkeys(_WORD.findall(words.lower()))
        if not found:
            return []
        terms = " OR ".join(f'"{word}"' for word in islice(found, MOST_WORDS))
        sql = "select rowid from words where words match ? order by bm25(words, 2, 1) limit ?"
        return self._ids(sql, terms, limit)

    def _ids(self, sql: str, *values: Any) -> list[int]:
        return [chunk_id for (chunk_id,) in self._db.execute(sql, values)]

    def _hit(self, chunk_id: int, vector: Packed) -> Hit:
        row = self._db.execute(
            "select chunks.text, 1 - vec_distance_cosine(vectors.embedding, ?), sources.name, "
            "chunks.heading, chunks.line, chunks.page from chunks "
            "join sources on sources.id = chunks.source_id "
            "join vectors on vectors.chunk_id = chunks.id where chunks.id = ?",
            (vector, chunk_id),
        ).get
        return Hit(*row)

    def _add(self, source_id: int, chunk: Chunk, vector: Packed) -> None:
        self._db.execute(
            "insert into chunks (source_id, heading, line, page, text) values (?, ?, ?, ?, ?)",
            (source_id, chunk.heading, chunk.line, chunk.page, chunk.text),
        )
        chunk_id = self._db.last_insert_rowid()
        self._db.execute("insert into vectors (chunk_id, embedding) values (?, ?)", (chunk_id, vector))
        self._db.execute(
            "insert into words (rowid, heading, text) values (?, ?, ?)", (chunk_id, chunk.heading, chunk.text)
        )

    def _forget(self, source: str) -> bool:
        source_id = self._db.execute("select id from sources where name = ?", (source,)).get
        if source_id is None:
            return False
        ids = self._db.execute("select id from chunks where source_id = ?", (source_id,)).fetchall()
        if ids:
            self._db.executemany("delete from vectors where chunk_id = ?", ids)
            self._db.executemany("delete from words where rowid = ?", ids)
            self._db.execute("delete from chunks where source_id = ?", (source_id,))
        self._db.execute("delete from sources where id = ?", (source_id,))
        return True

    # -- what the file says of itself --

    def _prepare(self) -> None:
        import apsw

        try:
            if self._pragma("application_id") != APPLICATION_ID:
                self._create()
        except apsw.NotADBError:
            raise ConfigError(f"{self._path} is no knowledge base, nor any database.") from None
        self._pragma("synchronous = normal")  # with WAL a crash may undo the last writes, and no more
        self._pragma(f"mmap_size = {MAPPED_BYTES}")
        if self._pragma("user_version") != FORMAT:
            raise ConfigError(
                f"{self._path} was made by another version of this package: make it anew in another file."
            )
        made_by = self._fact("model")
        if made_by != self._model_name:
            raise ConfigError(
                f"{self._path} holds vectors of {made_by}, and {self._model_name} makes others. Give it "
                f"that model (model_name={made_by!r} if only the name is another), or another path."
            )

    def _create(self) -> None:
        self._refuse_if_foreign()
        self._pragma("journal_mode = wal")
        with self._transaction():
            if self._pragma("application_id") != APPLICATION_ID:  # else another process was faster
                self._refuse_if_foreign()
                self._db.execute(_SCHEMA).fetchall()
                self._db.execute("insert into facts values ('model', ?)", (self._model_name,))

    def _refuse_if_foreign(self) -> None:
        if self._db.execute("select count(*) from sqlite_schema").get and (
            self._pragma("application_id") != APPLICATION_ID
        ):
            raise ConfigError(f"{self._path} is a database of something else: choose another path.")

    def _check_dimension(self, vectors: Sequence[Packed]) -> None:
        wanted = self._fact("dimension")
        for vector in vectors:
            dimension = len(vector) // BYTES_A_NUMBER
            if wanted is None:
                wanted = str(dimension)
                self._db.execute("insert into facts values ('dimension', ?)", (wanted,))
                self._db.execute(
                    f"create virtual table vectors using vec0 "
                    f"(chunk_id integer primary key, embedding float[{dimension}] distance_metric=cosine)"
                )
            elif wanted != str(dimension):
                raise ConfigError(
                    f"{self._path} holds vectors of {wanted} numbers, and {self._model_name} now gave one of "
                    f"{dimension}. Give it the model it was made with, or another path."
                )

    def _fact(self, name: str) -> str | None:
        value: str | None = self._db.execute("select value from facts where name = ?", (name,)).get
        return value

    def _pragma(self, text: str) -> Any:
        return self._db.execute(f"pragma {text}").get

    @contextmanager
    def _transaction(self, kind: str = "immediate") -> Iterator[None]:
        self._db.execute(f"begin {kind}")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")


_WORD = re.compile(r"\w+")


def _fused(*rankings: Sequence[int]) -> list[int]:
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, chunk_id in enumerate(ranking, 1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1 / (RANK_OFFSET + rank)
    return sorted(scores, key=scores.__getitem__, reverse=True)


def _connected(path: str | os.PathLike[str]) -> apsw.Connection:
    try:
        import apsw
        import sqlite_vec
    except ImportError as error:
        package = error.name or "apsw"
        raise MissingExtraError(
            package, f"A knowledge base needs {package}: pip install 'agentscope-async[knowledge]'"
        ) from None
    try:
        db = apsw.Connection(str(path))
    except apsw.CantOpenError as error:
        raise ConfigError(f"The knowledge base {path} cannot be opened: {error}.") from None
    db.set_busy_timeout(BUSY_MS)
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.enable_load_extension(False)
    return db
