"""A knowledge base: what it finds, what it costs to keep it up to date, and what it survives."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from agentscope_async import OllamaEmbeddingWrapper, OpenAIEmbeddingWrapper
from agentscope_async.errors import BadRequest, ConfigError, MissingExtraError, ServerError
from agentscope_async.service import KnowledgeBase, ServiceExecStatus
from agentscope_async.service._marks import marks_of
from tests.service.knowledge_fakes import WordVectors, pdf_of


@pytest.fixture
def model():
    return WordVectors()


@pytest.fixture
def docs(tmp_path):
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "cats.md").write_text("# Cats\n\nCats sleep on warm windows.\n", encoding="utf-8")
    (docs / "dogs.txt").write_text("Dogs bark at the postman.\n", encoding="utf-8")
    (docs / "deep" / "fish.py").write_text("def swim():\n    '''Fish swim in circles.'''\n", encoding="utf-8")
    return docs


@pytest.fixture
async def kb(tmp_path, model):
    async with KnowledgeBase(tmp_path / "animals.kb", model, root=tmp_path / "docs") as kb:
        yield kb


async def texts_of(kb):
    return {hit.source: hit.text for hit in await kb.query("anything", top_k=1000)}


# -- asking --


async def test_the_nearest_passage_comes_first_and_says_where_it_is_from(kb, docs):
    report = await kb.add(docs)
    assert report.added == ["cats.md", "deep/fish.py", "dogs.txt"]
    assert report.chunks == report.embedded == 3
    hit, *_ = await kb.query("Who barks at the postman?", top_k=2)
    assert (hit.source, hit.position, hit.text) == ("dogs.txt", "line 1", "Dogs bark at the postman.")
    assert 0.3 < hit.score <= 1.0


async def test_a_rare_word_is_found_although_its_vector_is_far_away(tmp_path):
    def blind(text):  # every text lies elsewhere, whatever it says
        return [1.0, float(len(text) % 7), float(len(text) % 5)]

    async with KnowledgeBase(tmp_path / "kb", blind) as kb:
        for n in range(100):
            word = "xylograph" if n == 41 else f"word{n}"
            await kb.add_text(f"A note on {word}, and nothing else. {'.' * n}", source=f"{n}")
        hits = await kb.query("xylographs", top_k=5)
    assert "41" in [hit.source for hit in hits]


async def test_nothing_is_found_in_nothing(kb):
    assert await kb.query("anything") == []
    assert (await kb.search("anything")).content == "Nothing was found."


@pytest.mark.parametrize("question", ['"', "a OR", "NEAR(", "x:y*", "-", "heading:cats", "猫", "\0", "?"])
async def test_a_question_is_words_and_no_query_language(kb, docs, question):
    await kb.add(docs)
    assert len(await kb.query(question, top_k=3)) == 3


async def test_a_question_may_be_long(kb, docs):
    await kb.add(docs)
    question = "Who barks at the postman? " + " ".join(f"word{n}" for n in range(5000))
    assert len(await kb.query(question, top_k=3)) == 3


@pytest.mark.parametrize(
    ("text", "top_k"), [("", 5), (" \n", 5), ("x", 0), ("x", 1001), ("x", "5"), ("x", True)]
)
async def test_a_question_that_makes_no_sense_is_refused(kb, text, top_k):
    with pytest.raises(ValueError):
        await kb.query(text, top_k)
    assert (await kb.search(text, top_k)).status == ServiceExecStatus.ERROR


async def test_it_is_used_inside_async_with(tmp_path, model):
    kb = KnowledgeBase(tmp_path / "kb", model)
    for use in (lambda: kb.query("x"), lambda: kb.add(tmp_path), lambda: kb.sources()):
        with pytest.raises(ConfigError, match="async with"):
            await use()
    async with kb:
        await kb.add_text("x", source="s")
    async with kb:  # and may be opened again
        assert await kb.sources() == ["s"]


async def test_many_ask_while_one_indexes(kb, docs):
    await kb.add_text("Cats purr.", source="cats.md", kind="text")

    async def ask():
        return [hit.text for hit in await kb.query("cats", top_k=1000) if hit.source == "cats.md"]

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(ask()) for _ in range(40)]
        group.create_task(kb.add(docs))
    for task in asking:
        assert task.result() in (["Cats purr."], ["# Cats\n\nCats sleep on warm windows."])


async def test_what_is_replaced_during_a_search_is_found_as_it_was(tmp_path, model, monkeypatch):
    from agentscope_async.service.knowledge import Chunk
    from agentscope_async.service.knowledge._store import Store

    real = Store.mentioning

    def replaced_meanwhile(store, words, limit):
        other = Store(tmp_path / "kb", "m")
        chunk, vector = Chunk("new"), b"\0\0\x80?" * 64
        other.put("s", "2", [chunk], [vector], is_file=False)
        other.close()
        return real(store, words, limit)

    async with KnowledgeBase(tmp_path / "kb", model, model_name="m") as kb:
        await kb.add_text("old", source="s")
        monkeypatch.setattr(Store, "mentioning", replaced_meanwhile)
        assert [hit.text for hit in await kb.query("old")] == ["old"]
        monkeypatch.undo()
        assert [hit.text for hit in await kb.query("old")] == ["new"]


# -- keeping up to date --


async def test_what_has_not_changed_is_not_embedded_again(kb, docs, model):
    await kb.add(docs)
    model.texts.clear()
    report = await kb.add(docs)
    assert model.texts == []
    assert report.skipped == ["cats.md", "deep/fish.py", "dogs.txt"]
    assert (report.added, report.changed, report.chunks, report.embedded) == ([], [], 0, 0)


async def test_of_a_changed_file_only_changed_passages_are_embedded(kb, docs, model):
    (docs / "cats.md").write_text("# A\n\nOne.\n\n# B\n\nTwo.\n", encoding="utf-8")
    await kb.add(docs)
    model.texts.clear()
    (docs / "cats.md").write_text("# Z\n\nNew.\n\n# A\n\nOne.\n\n# B\n\nThree.\n", encoding="utf-8")
    report = await kb.add(docs)
    assert report.changed == ["cats.md"]
    assert (report.chunks, report.embedded) == (3, 2)
    assert len(model.texts) == 2
    found = [hit.text for hit in await kb.query("x", top_k=1000) if hit.source == "cats.md"]
    assert sorted(found) == ["# A\n\nOne.", "# B\n\nThree.", "# Z\n\nNew."]
    assert [hit.line for hit in await kb.query("One", top_k=1000) if "One" in hit.text] == [5]


async def test_files_that_are_gone_are_forgotten_and_others_are_not(kb, docs):
    await kb.add(docs)
    await kb.add_text("Birds sing.", source="birds")
    (docs / "dogs.txt").unlink()
    (docs / "deep" / "fish.py").unlink()
    report = await kb.add(docs / "deep")
    assert report.removed == ["deep/fish.py"]
    assert await kb.sources() == ["birds", "cats.md", "dogs.txt"]
    report = await kb.add(docs / "dogs.txt")
    assert report.removed == ["dogs.txt"]
    assert set(await texts_of(kb)) == {"birds", "cats.md"}


async def test_other_patterns_forget_nothing(kb, docs):
    await kb.add(docs, patterns="*.md")
    assert await kb.sources() == ["cats.md"]
    report = await kb.add(docs, patterns=["deep/*", "**/*.txt"])
    assert (report.added, report.removed) == (["deep/fish.py", "dogs.txt"], [])
    assert len(await kb.sources()) == 3


async def test_a_source_can_be_removed_and_replaced(kb):
    await kb.add_text("one", source="s")
    report = await kb.add_text("two", source="s")
    assert report.changed == ["s"]
    assert await texts_of(kb) == {"s": "two"}
    assert await kb.remove("s")
    assert not await kb.remove("s")
    assert await texts_of(kb) == {}


async def test_other_sizes_cut_everything_anew(tmp_path, docs, model):
    async with KnowledgeBase(tmp_path / "kb", model, root=docs) as kb:
        await kb.add(docs)
    async with KnowledgeBase(tmp_path / "kb", model, root=docs, chunk_chars=500) as kb:
        assert len((await kb.add(docs)).changed) == 3


async def test_progress_is_told_after_each_file(kb, docs):
    heard = []
    await kb.add(docs, on_progress=heard.append)
    assert sorted(progress.done for progress in heard) == [1, 2, 3]
    assert {progress.total for progress in heard} == {3}
    assert {progress.source for progress in heard} == {"cats.md", "deep/fish.py", "dogs.txt"}


# -- what is taken, and what is not --


async def test_copies_hidden_files_and_unknown_endings_are_left_out(kb, docs):
    for name in (".git/notes.md", "node_modules/x.md", "__pycache__/y.txt", "photo.jpg", ".secret.md"):
        (docs / name).parent.mkdir(exist_ok=True)
        (docs / name).write_text("text", encoding="utf-8")
    assert (await kb.add(docs)).added == ["cats.md", "deep/fish.py", "dogs.txt"]


async def test_what_cannot_be_read_is_reported_and_the_others_go_on(kb, docs, tmp_path):
    (tmp_path / "outside.md").write_text("secret", encoding="utf-8")
    (docs / "link.md").symlink_to(tmp_path / "outside.md")
    (docs / "elsewhere").symlink_to(tmp_path)
    (docs / "dangling.md").symlink_to(docs / "nothing")
    os.mkfifo(docs / "pipe.txt")
    (docs / "binary.txt").write_bytes(b"\x00\x01\x02")
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    (docs / "huge.txt").touch()
    os.truncate(docs / "huge.txt", 16 * 1024 * 1024 + 1)
    report = await kb.add([docs, docs / "missing.md"])
    assert report.added == ["cats.md", "deep/fish.py", "dogs.txt"]
    reasons = {
        "link.md": "leads out",
        "dangling.md": "No such file",
        "pipe.txt": "not a regular file",
        "binary.txt": "not text",
        "broken.pdf": "PDF",
        "huge.txt": "longer than",
        "missing.md": "No such file",
    }
    assert set(report.failed) == set(reasons)
    for name, reason in reasons.items():
        assert reason in report.failed[name], name
    assert "secret" not in str(await texts_of(kb))


async def test_a_file_outside_the_root_is_not_taken(kb, tmp_path):
    (tmp_path / "outside.md").write_text("secret", encoding="utf-8")
    report = await kb.add(tmp_path / "outside.md")
    assert list(report.failed) == [str(tmp_path / "outside.md")]


async def test_without_a_root_files_are_named_by_their_path(tmp_path, docs, model):
    async with KnowledgeBase(tmp_path / "kb", model) as kb:
        await kb.add(docs / "cats.md")
        assert await kb.sources() == [str(docs / "cats.md")]


async def test_a_file_that_fails_keeps_what_was_known_of_it(kb, docs):
    await kb.add(docs)
    (docs / "dogs.txt").write_bytes(b"\0")
    report = await kb.add(docs)
    assert list(report.failed) == ["dogs.txt"]
    assert (await texts_of(kb))["dogs.txt"] == "Dogs bark at the postman."


async def test_empty_files_and_other_encodings_are_files_too(kb, docs):
    (docs / "empty.md").write_bytes(b"")
    (docs / "utf16.txt").write_text("Grüße aus Köln", encoding="utf-16")
    (docs / "latin.txt").write_bytes("Grüße aus Bonn".encode("cp1252"))
    (docs / "bom.md").write_text("# Titel\n\nText", encoding="utf-8-sig")
    assert (await kb.add(docs)).failed == {}
    texts = await texts_of(kb)
    assert texts["utf16.txt"] == "Grüße aus Köln"
    assert texts["latin.txt"] == "Grüße aus Bonn"
    assert texts["bom.md"] == "# Titel\n\nText"
    assert "empty.md" in (await kb.add(docs)).skipped


# -- models --


def provider_error(kind, text):
    return kind(text, provider="p", model="m")


async def test_a_text_the_model_refuses_fails_its_file_only(tmp_path, docs):
    async def picky(text):
        if "bark" in text:
            raise provider_error(BadRequest, "no barking")
        return [1.0, 2.0]

    async with KnowledgeBase(tmp_path / "kb", picky, root=docs) as kb:
        report = await kb.add(docs)
    assert report.added == ["cats.md", "deep/fish.py"]
    assert "no barking" in report.failed["dogs.txt"]


async def test_a_model_that_is_down_ends_the_indexing_which_goes_on_later(tmp_path, docs):
    is_down = True

    async def model(text):
        if is_down and "bark" in text:
            raise provider_error(ServerError, "down")
        return [1.0, 2.0]

    async with KnowledgeBase(tmp_path / "kb", model, root=docs, requests_at_once=1) as kb:
        with pytest.raises(ServerError, match="down"):
            await kb.add(docs)
        before = await kb.sources()
        is_down = False
        report = await kb.add(docs)
        assert report.skipped == before
        assert len(await kb.sources()) == 3


async def test_functions_that_block_run_in_threads_and_lists_are_batches(tmp_path):
    sizes = []

    def model(texts):
        assert not _is_loop_here()
        if isinstance(texts, str):
            return [1.0, 2.0]
        sizes.append(len(texts))
        return [[1.0, float(n)] for n, _ in enumerate(texts)]

    async with KnowledgeBase(tmp_path / "kb", model, texts_a_request=4) as kb:
        report = await kb.add_text(
            "\n\n".join(f"# {n}\n\ntext {n}" for n in range(10)), source="s", kind="markdown"
        )
        assert report.chunks == 10
        assert sorted(sizes) == [2, 4, 4]
        assert await kb.query("text")


def _is_loop_here():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _embeddings_server(bodies):
    def answer(request):
        body = json.loads(request.content)
        bodies.append(body)
        texts = body["input"]
        texts = [texts] if isinstance(texts, str) else texts
        rows = [{"index": n, "embedding": [1.0, float(len(text))]} for n, text in enumerate(texts)]
        return httpx.Response(200, json={"data": rows, "model": "m", "usage": {"prompt_tokens": 1}})

    return httpx.MockTransport(answer)


async def test_a_wrapper_is_sent_lists_and_known_by_its_models_name(tmp_path):
    bodies = []
    model = OpenAIEmbeddingWrapper(
        "e", "embed-3", api_key="k", client_args={"transport": _embeddings_server(bodies)}
    )
    async with KnowledgeBase(tmp_path / "kb", model) as kb:
        await kb.add_text("\n\n".join(f"# {n}\n\ntext {n}" for n in range(25)), source="s", kind="markdown")
        assert sorted(len(body["input"]) for body in bodies) == [5, 10, 10]
        assert len(await kb.query("text", top_k=30)) == 25
        assert bodies[-1]["input"] == "text"
    await model.aclose()
    with pytest.raises(ConfigError, match="openai_embedding/embed-3"):
        async with KnowledgeBase(tmp_path / "kb", WordVectors()):
            pass


async def test_a_server_that_takes_no_lists_is_sent_one_text_at_a_time(tmp_path):
    prompts = []

    def answer(request):
        prompts.append(json.loads(request.content)["prompt"])
        return httpx.Response(200, json={"embedding": [1.0, 2.0]})

    model = OllamaEmbeddingWrapper(
        "e",
        "minilm",
        legacy=True,
        host="http://127.0.0.1:1",
        client_args={"transport": httpx.MockTransport(answer)},
    )
    async with KnowledgeBase(tmp_path / "kb", model) as kb:
        await kb.add_text("# a\n\none\n\n# b\n\ntwo", source="s", kind="markdown")
    await model.aclose()
    assert len(prompts) == 2


async def test_not_more_requests_at_once_than_allowed(tmp_path):
    open_requests, most = 0, 0

    async def model(text):
        nonlocal open_requests, most
        open_requests += 1
        most = max(most, open_requests)
        for _ in range(3):
            await asyncio.sleep(0)
        open_requests -= 1
        return [1.0]

    async with KnowledgeBase(tmp_path / "kb", model, requests_at_once=3) as kb:
        await kb.add_text("\n\n".join(f"# {n}\n\ntext {n}" for n in range(30)), source="s", kind="markdown")
    assert most == 3


@pytest.mark.parametrize("answer", [[], "abc", [float("nan")], None, [0.0, 0.0], [1e300], [["a"]], 7])
async def test_what_is_no_vector_is_refused_and_nothing_is_stored(tmp_path, answer):
    async def model(text):
        return answer

    async with KnowledgeBase(tmp_path / "kb", model) as kb:
        with pytest.raises(ValueError):
            await kb.add_text("text", source="s")
        assert await kb.sources() == []


async def test_a_store_of_another_model_is_refused(tmp_path, model):
    async with KnowledgeBase(tmp_path / "kb", model, model_name="small") as kb:
        await kb.add_text("text", source="s")
    with pytest.raises(ConfigError, match="vectors of small, and large makes others"):
        async with KnowledgeBase(tmp_path / "kb", model, model_name="large"):
            pass


async def test_vectors_of_another_dimension_are_refused(tmp_path):
    async with KnowledgeBase(tmp_path / "kb", WordVectors(8), model_name="m") as kb:
        await kb.add_text("text", source="s")
    async with KnowledgeBase(tmp_path / "kb", WordVectors(9), model_name="m") as kb:
        with pytest.raises(ConfigError, match="vectors of 8 numbers"):
            await kb.query("text")
        with pytest.raises(ConfigError, match="vectors of 8 numbers"):
            await kb.add_text("text", source="t")
        assert await kb.sources() == ["s"]


@pytest.mark.parametrize(
    "option", [{"texts_a_request": 0}, {"requests_at_once": 0}, {"requests_at_once": 1.5}]
)
def test_options_that_make_no_sense_are_refused(tmp_path, model, option):
    with pytest.raises(ConfigError):
        KnowledgeBase(tmp_path / "kb", model, **option)
    with pytest.raises(ConfigError, match="embedding_model"):
        KnowledgeBase(tmp_path / "kb", "text-embedding-3-small")


# -- the file --


async def test_what_is_no_knowledge_base_is_refused_and_left_alone(tmp_path, model):
    import sqlite3

    (tmp_path / "text").write_bytes(b"Dear diary, " * 100)
    with sqlite3.connect(tmp_path / "app.db") as db:
        db.execute("create table users (name)")
    db.close()
    for name in ("text", "app.db", "missing/directory/kb", "."):
        before = _bytes_of(tmp_path / name)
        with pytest.raises(ConfigError):
            async with KnowledgeBase(tmp_path / name, model):
                pass
        assert _bytes_of(tmp_path / name) == before


def _bytes_of(path):
    return path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize("package", ["apsw", "sqlite_vec"])
async def test_a_missing_package_names_the_line_that_installs_it(tmp_path, model, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agentscope-async\[knowledge\]'"):
        async with KnowledgeBase(tmp_path / "kb", model):
            pass


async def test_missing_readers_name_the_line_that_installs_them(kb, docs, monkeypatch):
    (docs / "book.pdf").write_bytes(pdf_of("page"))
    monkeypatch.setattr("agentscope_async.service._reader_process.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pypdf: pip install .agentscope-async\[web-tools\]"):
        await kb.add(docs)


async def test_it_survives_a_restart(tmp_path, docs, model):
    async with KnowledgeBase(tmp_path / "kb", model, root=docs) as kb:
        await kb.add(docs)
        before = await kb.query("Who barks?", top_k=3)
    async with KnowledgeBase(tmp_path / "kb", model, root=docs) as kb:
        assert await kb.query("Who barks?", top_k=3) == before


async def test_a_cancelled_indexing_leaves_each_file_whole(tmp_path, docs):
    started, go_on = asyncio.Event(), asyncio.Event()

    async def model(text):
        if "bark" in text and not go_on.is_set():
            started.set()
            await go_on.wait()
        return [1.0, 2.0]

    async with KnowledgeBase(tmp_path / "kb", model, root=docs) as kb:
        task = asyncio.create_task(kb.add(docs))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = await kb.sources()
        assert "dogs.txt" not in before
        assert len(await kb.query("x", top_k=10)) == len(before)
        go_on.set()
        report = await kb.add(docs)
        assert "dogs.txt" in report.added
        assert report.skipped == before


KILLED = """
import asyncio, sys
from agentscope_async.service import KnowledgeBase
from tests.service.knowledge_fakes import WordVectors

async def main():
    async with KnowledgeBase(sys.argv[1], WordVectors(), model_name="m") as kb:
        print("ready", flush=True)
        n = 0
        while True:
            n += 1
            await kb.add_text(f"# a\\n\\nversion {n}\\n\\n# b\\n\\nversion {n}", source="s", kind="markdown")
            if n == 5:
                print("going", flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_all_of_one_version(tmp_path):
    root = Path(__file__).parents[2]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, str(tmp_path / "kb")),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert await child.stdout.readline() == b"ready\n"
        async with KnowledgeBase(tmp_path / "kb", WordVectors(), model_name="m") as kb:  # beside it
            assert await child.stdout.readline() == b"going\n"
            for _ in range(20):
                assert len({hit.text[-3:] for hit in await kb.query("version")}) == 1
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()
    async with KnowledgeBase(tmp_path / "kb", WordVectors(), model_name="m") as kb:
        assert len({hit.text.split()[-1] for hit in await kb.query("version", top_k=10)}) == 1
        assert len(await kb.query("version", top_k=10)) == 2


def _only_in_threads(work, called):
    def checked(*args, **options):
        assert not _is_loop_here(), work.__name__
        called.append(work.__name__)
        return work(*args, **options)

    return checked


async def test_the_event_loop_never_waits_for_the_disk(tmp_path, docs, model, monkeypatch):
    from agentscope_async.service.knowledge import _base, _store

    called = []
    places = [
        (_store.Store, name) for name in ("__init__", "put", "remove", "search", "fingerprints", "close")
    ]
    for place, name in [*places, (_base, "find_files"), (_base, "read_document")]:
        monkeypatch.setattr(place, name, _only_in_threads(getattr(place, name), called))
    async with KnowledgeBase(tmp_path / "kb", model) as kb:
        await kb.add(docs)
        await kb.query("x")
        await kb.remove("x")
    assert len(set(called)) == 8


# -- as a tool --


async def test_a_search_tells_a_model_the_passages_and_their_places(kb, docs):
    await kb.add(docs)
    response = await kb.search("sleep on warm windows", 1)
    assert response.status == ServiceExecStatus.SUCCESS
    assert response.content == "[cats.md, line 1, Cats]\n# Cats\n\nCats sleep on warm windows."
    assert (await kb.search("x", 21)).status == ServiceExecStatus.ERROR


async def test_what_a_search_returns_was_written_by_strangers(kb):
    assert marks_of(kb.search).untrusted is True
    assert marks_of(kb.as_tool()).untrusted is True


async def test_as_a_tool_it_has_a_name_and_says_what_there_is(kb, docs):
    from agentscope_async.service import Toolkit

    await kb.add(docs)
    tool = kb.as_tool("ask_animals", about="a book on animals")
    toolkit = Toolkit()
    toolkit.add(tool)
    [schema] = toolkit.schemas
    function = schema["function"]
    assert function["name"] == "ask_animals"
    assert "a book on animals" in function["description"]
    assert list(function["parameters"]["properties"]) == ["question", "top_k"]
    assert "Dogs bark" in (await tool("Who barks?", 1)).content
    with pytest.raises(ConfigError, match="name"):
        kb.as_tool("ask animals")


async def test_a_failing_model_is_an_error_of_the_search(tmp_path):
    async def model(text):
        raise provider_error(ServerError, "down")

    async with KnowledgeBase(tmp_path / "kb", model) as kb:
        response = await kb.search("x")
    assert response.status == ServiceExecStatus.ERROR
    assert "down" in response.content
