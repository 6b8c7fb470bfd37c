"""A knowledge base: documents one can ask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

from ..._tasks import finish, run_all
from ...errors import BadRequest, ConfigError, ContentFiltered
from .._marks import marked
from .._threads import Halt, in_thread
from ..response import ServiceResponse
from ._embedding import REQUESTS_AT_ONCE, Embedder, EmbeddingModel, Packed
from ._loading import Document, find_files, read_document, split_document
from ._reading import LoadError
from ._results import Hit, IndexReport, Progress
from ._splitting import Chunk, Splitter
from ._store import Store

__all__ = ["KnowledgeBase"]

T = TypeVar("T")
StrPath: TypeAlias = str | os.PathLike[str]
Listener: TypeAlias = Callable[[Progress], Any]
"""Told after each source; plain or async."""

FILES_AT_ONCE = 8
READERS = 4
"""Queries that search at the same time; others wait."""
MAX_TOP_K = 1000
MAX_PASSAGES = 20
"""For a model, in one answer."""


class KnowledgeBase:
    """Documents that can be asked: cut into chunks, embedded, and kept in one file.

    ::

        async with KnowledgeBase("docs.kb", OpenAIEmbeddingWrapper("e", "text-embedding-3-small")) as kb:
            print(await kb.add("docs"))
            for hit in await kb.query("How do I cancel a turn?"):
                print(hit.score, hit.source, hit.position, hit.text)
            toolkit.add(kb.as_tool(about="the manual of this project"))

    Indexing again costs only what has changed: sources are known by their content, chunks within a
    changed source by their text. Each source is replaced in one transaction, so whoever asks meanwhile,
    here or in another process, sees all of the old one or all of the new one, and a crash or a
    cancellation leaves each as it was or as it is to be. Nothing here blocks the event loop.
    """

    def __init__(
        self,
        path: StrPath,
        embedding_model: EmbeddingModel,
        *,
        model_name: str | None = None,
        root: StrPath | None = None,
        chunk_chars: int = 1000,
        overlap_chars: int = 100,
        texts_a_request: int | None = None,
        requests_at_once: int = REQUESTS_AT_ONCE,
    ) -> None:
        """Say how; :meth:`__aenter__` opens the file.

        Args:
            path: the file to keep everything in; made if there is none.
            embedding_model: an embedding wrapper, or a function from a text to its vector; plain functions
                run in threads.
            model_name: what the vectors are known by; by default the wrapper's or function's own name.
            root: files must lie in this directory, and are named relative to it; without it, files
                may lie anywhere and are named by their whole path.
            chunk_chars: how long a chunk is at most, in characters (about four to a token).
            overlap_chars: how much of a chunk the next one repeats at most.
            texts_a_request: how many texts the model is given at once, as a list if it is more than 1; by
                default 10 for wrappers and 1 for functions.
            requests_at_once: to the model.

        Raises:
            ConfigError: an argument makes no sense.
        """
        self._path = Path(path)
        self._splitter = Splitter(chunk_chars, overlap_chars)
        self._embedder = Embedder(
            embedding_model,
            name=model_name,
            texts_a_request=texts_a_request,
            requests_at_once=requests_at_once,
        )
        self._root = None if root is None else Path(root)
        self._writer: Store | None = None
        self._readers: list[Store] = []
        self._may_read = asyncio.Semaphore(READERS)
        self._may_write = asyncio.Lock()
        self._may_index = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open the file.

        Raises:
            ConfigError: it is something else, or holds vectors of another model.
            MissingExtraError: apsw or sqlite-vec is not installed.
        """
        if self._writer is not None:
            raise ConfigError("This knowledge base is open already.")
        self._writer = await in_thread(self._opened)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the file, after what is being indexed; a query that still searches ends first."""
        async with self._may_index, self._may_write:
            stores = [self._check_open(), *self._readers]
            self._writer, self._readers = None, []
            await in_thread(lambda halt: _close(stores))

    # -- asking --

    async def query(self, text: str, top_k: int = 5) -> list[Hit]:
        """Return the passages nearest to a text, best first.

        They are found by their meaning (vectors) and by their words (BM25), and both orders joined by
        reciprocal rank fusion; so scores may rise further down. Embeds the text once.

        Raises:
            ValueError: no text, or ``top_k`` is not from 1 to 1000.
            ModelError: the embedding model failed after its retries.
            ConfigError: the model gave a vector of another dimension than the file holds.
        """
        if not text.strip():
            raise ValueError("There is nothing to look for: the text is empty.")
        if type(top_k) is not int or not 1 <= top_k <= MAX_TOP_K:
            raise ValueError(f"top_k must be a whole number from 1 to {MAX_TOP_K}, got {top_k!r}.")
        self._check_open()
        vector = await self._embedder.one(text)
        return await self._read(lambda store: store.search(vector, text, top_k))

    @marked(untrusted=True)
    async def search(self, question: str, top_k: int = 5) -> ServiceResponse:
        """Search the knowledge base for passages that answer a question.

        ``content`` is a text: the passages, best first, each with its source and position.

        Args:
            question: what to look for, in plain words.
            top_k: how many passages to return, at most 20.
        """
        if type(top_k) is not int or not 1 <= top_k <= MAX_PASSAGES:
            return ServiceResponse.error(f"top_k must be a whole number from 1 to {MAX_PASSAGES}.")
        try:
            hits = await self.query(question, top_k)
        except Exception as error:  # a service answers with what went wrong
            return ServiceResponse.error(error)
        return ServiceResponse.success("\n\n".join(map(_as_passage, hits)) or "Nothing was found.")

    def as_tool(
        self, name: str = "search_knowledge", *, about: str = ""
    ) -> Callable[..., Coroutine[Any, Any, ServiceResponse]]:
        """Return :meth:`search` as a function for a Toolkit, under a name of its own.

        Args:
            name: what the model calls it by; each of several knowledge bases needs another.
            about: what there is to find, for the model.

        Raises:
            ConfigError: ``name`` cannot be a function's name.
        """
        if not name.isidentifier():
            raise ConfigError(f"A tool's name is letters, digits and underscores, not {name!r}.")

        @marked(untrusted=True)
        async def tool(question: str, top_k: int = 5) -> ServiceResponse:
            return await self.search(question, top_k)

        tool.__name__ = tool.__qualname__ = name
        tool.__doc__ = _TOOL_TEXT.format(f" ({about})" if about else "")
        return tool

    async def sources(self) -> list[str]:
        """Return the names of all sources, sorted."""
        return sorted(await self._read(Store.fingerprints))

    # -- indexing --

    async def add(
        self,
        paths: StrPath | Sequence[StrPath],
        *,
        patterns: str | Sequence[str] = (),
        on_progress: Listener | None = None,
    ) -> IndexReport:
        """Index files and directories, or bring them up to date.

        Of directories all files are taken that are Markdown, HTML, PDF, code or plain text by their ending,
        beneath them too; not those in hidden directories and in ``node_modules`` and the like. Files beneath
        an added directory that are gone from the disk are forgotten, as is an added file. A file that cannot
        be taken is reported, the others go on. Indexings wait for one another.

        When cancelled, or when the model fails, each source is as it was or as it is to be; indexing
        again goes on from there.

        Args:
            paths: one or several.
            patterns: take those files of directories whose name, or path within the directory, matches one
                of them, such as ``"*.md"`` or ``"guide/*"``, whatever their ending.
            on_progress: called with a ``Progress`` after each file.

        Raises:
            ModelError: the embedding model failed after its retries (a text it refuses only fails its file).
            MissingExtraError: a PDF or HTML file is among them, and what reads it is not installed.
        """
        chosen = [patterns] if isinstance(patterns, str) else list(patterns)
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        self._check_open()
        async with self._may_index:
            known = await self._read(Store.fingerprints)
            report = IndexReport()
            files = await self._found(given, tuple(chosen), known, report)
            total = len(files)
            waiting = iter(files.items())

            async def take_files() -> None:
                for name, (path, within) in waiting:
                    await self._take(name, path, within, known.get(name, ("", True))[0], report)
                    await _tell(on_progress, name, report, total)

            await run_all(take_files() for _ in range(FILES_AT_ONCE))
        return report.sort()

    async def add_text(
        self, text: str, *, source: str, kind: Literal["text", "markdown", "code"] = "text"
    ) -> IndexReport:
        """Index a text under a name; it takes the place of what was there under this name.

        Raises:
            ModelError: the embedding model failed after its retries.
            ConfigError: an unknown ``kind``.
        """
        if kind not in ("text", "markdown", "code"):
            raise ConfigError(f"kind must be 'text', 'markdown' or 'code', got {kind!r}.")
        self._check_open()
        async with self._may_index:
            known = await self._read(Store.fingerprints)
            report = IndexReport()
            document = Document(text.encode("utf-8", "replace"), kind)
            await self._index(source, document, known.get(source, ("", False))[0], report, is_file=False)
        return report

    async def remove(self, source: str) -> bool:
        """Forget a source; return whether it was known."""
        async with self._may_index:
            return bool(await self._write(lambda store: store.remove([source])))

    async def _found(
        self,
        given: list[StrPath],
        patterns: tuple[str, ...],
        known: dict[str, tuple[str, bool]],
        report: IndexReport,
    ) -> dict[str, tuple[Path, Path | None]]:
        """Return name -> (path, the directory it must lie in) of the files to take; forget what is gone."""

        def find(halt: Halt) -> tuple[dict[str, tuple[Path, Path | None]], list[str]]:
            files: dict[str, tuple[Path, Path | None]] = {}
            paths = list(map(_absolute, given))
            for path in paths:
                if path.is_dir():
                    found = find_files(path, patterns, halt)
                    files.update((self._name(file), (file, path)) for file in found)
                elif os.path.lexists(path) or self._name(path) not in known:
                    files[self._name(path)] = path, None
            return files, list(self._gone(paths, known))

        files, gone = await in_thread(find)
        if gone:
            report.removed += await self._write(lambda store: store.remove(gone))
        return files

    def _gone(self, paths: list[Path], known: dict[str, tuple[str, bool]]) -> Iterator[str]:
        for name, (_, is_file) in known.items():
            path = (self._root or Path()) / name
            if is_file and any(path.is_relative_to(each) for each in paths) and not os.path.lexists(path):
                yield name

    def _name(self, path: Path) -> str:
        if self._root is not None and path.is_relative_to(self._root):
            return path.relative_to(self._root).as_posix()
        return path.as_posix()

    async def _take(
        self, name: str, path: Path, within: Path | None, before: str, report: IndexReport
    ) -> None:
        try:
            document = await in_thread(lambda halt: read_document(path, self._root or within))
            await self._index(name, document, before, report, is_file=True)
        except LoadError as error:
            report.failed[name] = str(error)
        except UnicodeEncodeError:
            report.failed[name] = "its name, or a name in it, is not UTF-8"
        except OSError as error:
            report.failed[name] = f"it cannot be read: {error.strerror or error}"
        except (BadRequest, ContentFiltered) as error:
            report.failed[name] = f"the embedding model refuses it: {error}"

    async def _index(
        self, name: str, document: Document, before: str, report: IndexReport, *, is_file: bool
    ) -> None:
        how = f"1 {self._splitter.chunk_chars} {self._splitter.overlap_chars}"
        fingerprint = await in_thread(lambda halt: document.fingerprint(how))
        if fingerprint == before:
            report.skipped.append(name)
            return
        chunks = await split_document(document, self._splitter)
        known = await self._read(lambda store: store.vectors_of(name)) if before else {}
        vectors, embedded = await self._vectors(name, chunks, known)
        await self._write(lambda store: store.put(name, fingerprint, chunks, vectors, is_file=is_file))
        (report.changed if before else report.added).append(name)
        report.chunks += len(chunks)
        report.embedded += embedded

    async def _vectors(
        self, name: str, chunks: list[Chunk], known: dict[tuple[str, str], Packed]
    ) -> tuple[list[Packed], int]:
        """Return the vectors of the chunks, and how many of them had to be made."""
        missing = [chunk for chunk in chunks if (chunk.heading, chunk.text) not in known]
        made = await self._embedder.many([_as_embedded(name, chunk) for chunk in missing])
        vectors = known | {
            (chunk.heading, chunk.text): vector for chunk, vector in zip(missing, made, strict=True)
        }
        return [vectors[chunk.heading, chunk.text] for chunk in chunks], len(missing)

    # -- the file --

    def _opened(self, halt: Halt) -> Store:
        if self._root is not None:
            self._root = _absolute(self._root)
        return Store(self._path, self._embedder.name)

    def _check_open(self) -> Store:
        if self._writer is None:
            raise ConfigError("A knowledge base is used inside `async with KnowledgeBase(...) as kb:`.")
        return self._writer

    async def _read(self, work: Callable[[Store], T]) -> T:
        self._check_open()
        async with self._may_read:
            self._check_open()
            store = self._readers.pop() if self._readers else await in_thread(self._opened)
            try:
                return await in_thread(lambda halt: work(store))
            finally:
                if self._writer is None:  # closed meanwhile
                    await in_thread(lambda halt: _close([store]))
                else:
                    self._readers.append(store)

    async def _write(self, work: Callable[[Store], T]) -> T:
        async with self._may_write:
            store = self._check_open()
            return await in_thread(lambda halt: work(store))


_TOOL_TEXT = """Search the knowledge base{} for passages that answer a question.

Args:
    question: what to look for, in plain words.
    top_k: how many passages to return, at most 20.
"""


def _absolute(path: StrPath) -> Path:
    return Path(os.path.abspath(path))


def _close(stores: list[Store]) -> None:
    for store in stores:
        store.close()


def _as_embedded(source: str, chunk: Chunk) -> str:
    """Return what a chunk is embedded as: its text under the names it stands under."""
    return f"{source.rsplit('/', 1)[-1]}: {chunk.heading}\n{chunk.text}"


def _as_passage(hit: Hit) -> str:
    place = ", ".join(filter(None, (hit.source, hit.position, hit.heading)))
    return f"[{place}]\n{hit.text}"


async def _tell(listener: Listener | None, source: str, report: IndexReport, total: int) -> None:
    if listener is None:
        return
    done = sum(map(len, (report.added, report.changed, report.skipped, report.failed)))
    await finish(listener(Progress(source, done, total)))
