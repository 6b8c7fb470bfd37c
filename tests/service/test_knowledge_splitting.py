"""How documents are cut, seen from outside: what a search finds of each kind, and where."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agentscope_async.errors import ConfigError
from agentscope_async.service import KnowledgeBase
from tests.service.knowledge_fakes import WordVectors, pdf_of

MARKDOWN = """# Manual

## Install

Use the package manager.

```
# not a heading
```

## Use

### From Python

Call the function.
"""

CODE = '''"""A module."""

import os


@decorated
def first(x):
    """Frobnicate."""
    return x


class Thing:
    """A thing."""

    def small(self):
        return 1
'''


@pytest.fixture
async def kb(tmp_path):
    async with KnowledgeBase(tmp_path / "kb", WordVectors(), root=tmp_path) as kb:
        yield kb


async def all_hits(kb):
    return sorted(await kb.query("anything", top_k=1000), key=lambda hit: (hit.line or 0, hit.page or 0))


async def test_markdown_is_cut_at_headings_which_say_where_a_passage_stands(kb):
    await kb.add_text(MARKDOWN, source="manual", kind="markdown")
    hits = await all_hits(kb)
    assert [(hit.heading, hit.line) for hit in hits] == [
        ("Manual > Install", 3),
        ("Manual > Use > From Python", 13),
    ]
    assert "# not a heading" in hits[0].text
    assert hits[1].position == "line 13"


async def test_code_is_cut_at_definitions_with_their_decorators(kb):
    await kb.add_text(CODE, source="code", kind="code")
    assert [(hit.heading, hit.line) for hit in await all_hits(kb)] == [("", 1), ("first", 6), ("Thing", 12)]


async def test_a_long_class_is_cut_at_its_methods(kb):
    methods = "".join(f"    def method_{n}(self):\n        return {'x' * 300!r}\n\n" for n in range(5))
    await kb.add_text(f"class Long:\n    limit = 1\n\n{methods}", source="code", kind="code")
    headings = [hit.heading for hit in await all_hits(kb)]
    assert headings == ["Long", *(f"Long > method_{n}" for n in range(5))]


@pytest.mark.parametrize("kind", ["text", "markdown", "code"])
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"line {n} " + "word " * (n % 40) for n in range(400)),
        "word " * 5000,
        "x" * 12_345,
        "\n\n".join(["paragraph " * 30] * 30),
        "a\n" + "\n" * 10_000 + "b",
        "\n\n\n\n".join(["a line"] * 30),
    ],
    ids=["lines", "one line", "one word", "paragraphs", "mostly nothing", "gaps"],
)
async def test_no_chunk_is_too_long_and_no_word_is_lost(kb, kind, text):
    await kb.add_text(text, source="s", kind=kind)
    hits = await all_hits(kb)
    assert max(len(hit.text) for hit in hits) <= 1000
    assert not any("\n\n\n" in hit.text for hit in hits)
    assert set("".join(text.split())) <= set("".join(hit.text for hit in hits))
    for line in filter(None, map(str.strip, text.splitlines())):
        if len(line) < 400:
            assert any(line in hit.text for hit in hits)


async def test_the_end_of_a_chunk_begins_the_next_one(kb):
    await kb.add_text("\n".join(f"sentence number {n}" for n in range(200)), source="s")
    hits = await all_hits(kb)
    assert len(hits) > 3
    for one, other in pairwise(hits):
        assert one.text.splitlines()[-1] in other.text.splitlines()[:6]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(" " * n + "class a:" for n in range(3000)),
        "# a" + " " * 100_000 + "b",
        "#" * 200_000,
        "async " * 50_000,
        "```\n" * 5000,
        "(" * 100_000,
    ],
    ids=["nested", "spaces", "hashes", "async", "fences", "brackets"],
)
@pytest.mark.parametrize("kind", ["markdown", "code"])
async def test_a_strangers_text_is_cut_without_much_ado(kb, kind, text):
    report = await kb.add_text(text, source="s", kind=kind)
    assert report.added == ["s"]
    assert max(hit.heading.count(">") for hit in await all_hits(kb)) <= 2


async def test_html_is_read_as_people_see_it(kb, tmp_path):
    page = (
        "<html><head><title>t</title><style>p {}</style></head><body><nav>menu</nav><h1>Gar<b>den</b></h1>"
        "<p>Roses   are <i>red</i>.</p><p># no heading</p><h2>Tools</h2><ul><li>spade<li>rake</ul>"
        "<pre>def dig():\n    pass</pre><script>alert(1)</script></body></html>"
    )
    (tmp_path / "garden.html").write_text(page, encoding="utf-8")
    await kb.add(tmp_path / "garden.html")
    by_heading = {hit.heading: hit for hit in await all_hits(kb)}
    assert set(by_heading) == {"Garden", "Garden > Tools"}
    assert "Roses are red." in by_heading["Garden"].text
    assert "- spade\n- rake" in by_heading["Garden > Tools"].text
    assert "def dig():\n    pass" in by_heading["Garden > Tools"].text
    shown = "".join(hit.text for hit in by_heading.values())
    assert "alert" not in shown
    assert "menu" not in shown
    assert by_heading["Garden"].line is None
    assert by_heading["Garden"].position == "Garden"


async def test_a_pdf_is_read_page_by_page(kb, tmp_path):
    (tmp_path / "book.pdf").write_bytes(pdf_of("The first page is about cats.", "The second one about dogs."))
    await kb.add(tmp_path / "book.pdf")
    assert [(hit.page, hit.position, hit.text) for hit in await all_hits(kb)] == [
        (1, "page 1", "The first page is about cats."),
        (2, "page 2", "The second one about dogs."),
    ]


@pytest.mark.parametrize(
    ("chunk_chars", "overlap_chars"), [(99, 0), (1000, 501), (1000, -1), (1e3, 0), (True, 0)]
)
def test_sizes_that_make_no_sense_are_refused(tmp_path, chunk_chars, overlap_chars):
    with pytest.raises(ConfigError, match="chunk_chars"):
        KnowledgeBase(tmp_path / "kb", WordVectors(), chunk_chars=chunk_chars, overlap_chars=overlap_chars)


async def test_an_unknown_kind_is_refused(kb):
    with pytest.raises(ConfigError, match="kind"):
        await kb.add_text("x", source="s", kind="poem")
