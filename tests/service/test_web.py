"""Pages of the web: what is in them, within limits."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from recorder import Recorder, Reply

from agentscope_async.errors import ConfigError, MissingExtraError
from agentscope_async.models import ModelResponse
from agentscope_async.models.fake import ScriptedModel
from agentscope_async.service import (
    ServiceExecStatus,
    ServiceResponse,
    digest_webpage,
    is_valid_url,
    load_web,
    parse_html_to_text,
)
from agentscope_async.service._marks import marks_of
from agentscope_async.service.web import text as web_text

UPSTREAM_PAGE = """
            <!DOCTYPE html>
            <html>
            <body>
                <div>
                    <h1>Hello World!</h1>
                    <div>
                        Testing!
                        <p>
                        Some intro text about Foo. <a href="xxx">Examples</a>
                        <ol>
                        <li>Test list.</li>
                        </ol>
                      </div>
                </div>
                <ol>
                    <li>Test list again.</li>
                </ol>
            </body>
            </html>
        """
"""Of AgentScope v0.0.2, tests/web_digest_test.py."""

UPSTREAM_TEXT = "Hello World! Testing! Some intro text about Foo. Test list.Test list again."
DEEP = b"<div>" * 60_000 + b"x"
"""300 kB that keep an HTML parser busy for about ten seconds."""


@asynccontextmanager
async def site(
    body: bytes, content_type: str | None = "text/html", *, status: int = 200, **headers: str
) -> AsyncIterator[str]:
    """A server with one page."""

    async def handle(request: Any) -> Reply:
        kind = {} if content_type is None else {"Content-Type": content_type}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(status, {**kind, **named}, body)

    async with Recorder(handle) as server:
        yield f"{server.origin}/page"


async def load(body: bytes, content_type: str | None = "text/html", **options: Any) -> ServiceResponse:
    async with site(body, content_type) as url:
        return await load_web(url, allow_private=True, **options)


def pdf(*pages: str) -> bytes:
    """Return a PDF with these texts, as small as can be."""
    count = len(pages)
    kids = " ".join(f"{3 + 2 * index} 0 R" for index in range(count))
    font = "<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {count} >>"]
    for index, text in enumerate(pages):
        stream = f"BT /F 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {font} "
            f"/Contents {4 + 2 * index} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, each in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{each}\nendobj\n".encode())
    start = out.tell()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    out.write(f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n".encode())
    out.write(f"<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode())
    return out.getvalue()


def locked_pdf() -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("secret"))))
    writer.encrypt("owner's", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


# -- what is in a page --


async def test_l24_html_with_tags_is_raw_and_text_to_the_letter_as_v002_has_them():
    response = await load(UPSTREAM_PAGE.encode(), html_selected_tags=["p", "div", "h1", "li"])
    assert response == {
        "status": ServiceExecStatus.SUCCESS,
        "content": {"raw": UPSTREAM_PAGE.encode(), "html_to_text": UPSTREAM_TEXT},
    }


async def test_l24_json_is_parsed():
    body = b'{"a": [1, 2.5, null], "b": "\xc3\xbc"}'
    assert (await load(body, "application/json")).content == {
        "raw": body, "json": {"a": [1, 2.5, None], "b": "\u00fc"}
    }  # fmt: skip
    assert (await load(body, "application/ld+json; charset=utf-8", keep_raw=False)).content.keys() == {"json"}


async def test_l24_a_pdf_is_read_page_by_page():
    response = await load(pdf("Bees make honey.", "Second page."), "application/pdf", keep_raw=False)
    assert response.content == {"pdf_to_text": "Bees make honey.\n\nSecond page."}


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", None])
async def test_l24_an_image_is_kept_as_it_is(kind: str | None):
    body = b"\x89PNG\r\n\x1a\n\0\0"
    assert (await load(body, kind)).content == {"raw": body}


async def test_l24_a_function_of_ones_own_reads_the_page_by_its_requests_like_attributes():
    def parse(page: Any) -> Any:
        return page.status_code, page.headers["content-type"], page.text[:6], page.url.endswith("/page")

    async def parse_async(page: Any) -> int:
        return len(page.content)

    response = await load(b"<b>hi</b>", self_parse_func=parse)
    assert response.content["self_define_func"] == (200, "text/html", "<b>hi<", True)
    response = await load(b"[1]", "application/json", self_parse_func=parse_async, keep_raw=False)
    assert response.content == {"self_define_func": 3, "json": [1]}


async def test_l24_a_function_of_ones_own_that_fails_is_an_error():
    response = await load(b"hi", self_parse_func=lambda page: page.json())
    assert not response.is_success
    assert "JSONDecodeError" in response.content


async def test_l25_html_without_tags_is_raw_and_its_whole_text():
    page = b"""<!doctype html><title>Bees &amp; honey</title><style>p {}</style><script>evil()</script>
        <h1>Bees</h1><p>They  make <b>hon</b>ey.<br>See <a href='https://example.org/x'>here</a> or
        <a href=/y>there</a>.</p><ul><li>one<li>two</ul><!-- no --><table><tr><td>a<td>b</table>"""
    response = await load(page)
    lines = ["Bees & honey", "Bees", "They make honey.", "See [here](https://example.org/x) or there."]
    assert response.content == {"raw": page, "html_to_text": "\n".join([*lines, "one", "two", "a", "b"])}


async def test_l25_preformatted_text_keeps_its_lines_and_its_indentation():
    code = b"<b>def</b> f():\n    return  1\n\n\t# <a href=/x>x</a>"
    page = b"<p>see\n it</p><pre><code>" + code + b"</code></pre>and <i>on</i>"
    response = await load(page, keep_raw=False)
    assert response.content["html_to_text"] == "see it\ndef f():\n    return  1\n    # x\nand on"
    assert parse_html_to_text(page.decode(), ["pre"]) == "def f(): return 1 #"


async def test_l25_plain_text_is_text():
    response = await load(b"caf\xc3\xa9", "text/plain")
    assert response.content == {"raw": b"caf\xc3\xa9", "text": "caf\u00e9"}


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b"<!DOCTYPE html><p>x", "html_to_text"),
        (b"just text", "text"),
        (b"\0\1\2", None),
        (b"\xff\xfe\xfd", None),
    ],
)
async def test_l25_without_a_content_type_it_is_what_it_begins_like(body: bytes, key: str | None):
    for content_type in (None, "application/octet-stream"):
        response = await load(body, content_type, keep_raw=False)
        assert response.is_success
        assert list(response.content) == [key][: key is not None]


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("\u4f60\u597d".encode("gb18030"), "text/plain; charset=GB2312", "\u4f60\u597d"),
        ("\u3042".encode("shift_jis"), 'text/plain; charset="Shift_JIS"', "\u3042"),
        ("\u20ac5".encode("cp1252"), "text/plain; charset=iso-8859-1", "\u20ac5"),
        ("caf\u00e9".encode("cp1252"), "text/plain", "caf\u00e9"),
        ("caf\u00e9".encode("utf-8-sig"), "text/plain; charset=latin1", "caf\u00e9"),
        ("caf\u00e9".encode("utf-16"), "text/plain", "caf\u00e9"),
        (b"<meta charset=windows-1251><p>\xcf", "text/html", "\u041f"),
        (b'<meta http-equiv=x content="text/html; charset=koi8-r"><p>\xf0', "text/html", "\u041f"),
        (b"a+AGE-", "text/plain; charset=utf-7", "a+AGE-"),
        (b"\\x41", "text/plain; charset=unicode_escape", "\\x41"),
        (b"\xffa", "text/plain; charset=utf-8", "\ufffda"),
    ],
    ids=range(11),
)
async def test_l25_text_is_read_in_the_encoding_that_the_page_has(body: bytes, content_type: str, text: str):
    content = (await load(body, content_type, keep_raw=False)).content
    assert list(content.values()) == [text]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"NaN", b"[1e999", b"[" * 100_000, b"9" * 5000, b"\xff\xff"], ids=range(7)
)
async def test_l24_what_says_that_it_is_json_and_is_not_is_an_error(body: bytes):
    response = await load(body, "application/json")
    assert not response.is_success
    assert "Could not read json" in response.content


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"%PDF-1.4 and nothing", "PDF cannot be read"),
        (locked_pdf(), "locked with a password"),
        (pdf("x").replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]"), "PDF"),
    ],
    ids=["broken", "locked", "cyclic"],
)
async def test_l24_a_pdf_that_cannot_be_read_is_an_error_that_says_why(body: bytes, problem: str):
    response = await load(body, "application/pdf")
    assert not response.is_success
    assert problem in response.content


# -- text of HTML --


def test_l26_text_of_chosen_elements_is_v002s():
    assert parse_html_to_text(UPSTREAM_PAGE, ["p", "div", "h1", "li"]) == UPSTREAM_TEXT


@pytest.mark.parametrize(
    ("page", "tags", "text"),
    [
        ("<p>a</p>", None, ""),
        ("<p>a</p>", [], ""),
        ("", ["p"], ""),
        ("<p>a</p><b>b</b><p>c</p>", ["p"], "ac"),
        ("<div><p>a</p></div>", ["p", "div"], "a"),
        ("<p>a</p>tail<p>b</p>", ["P"], "ab"),
        ("<p>see <a href='http://x.org/'> it </a>!</p>", ["p"], "see [it](http://x.org/)!"),
        ("<a href='http://x.org/'>it</a>", ["a"], "[it](http://x.org/)"),
        ("<p><a href='/x'>it</a><a href='javascript:x'>no</a></p>", ["p"], ""),
        ("<p>a<script>x</script><style>y</style><!-- z --></p>", ["p"], "a"),
        ("<p> a \n\t b </p>", ["p"], "a b"),
        ("<div><h2>Foo</h2><p>bar</p></div>", ["div"], "Foo bar"),
        ("<h1>a</h1><h2>b</h2>", ["h"], "ab"),
        ("<p>1 &lt; 2 &amp; 3</p>", ["p"], "1 < 2 & 3"),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>", ["li"], "ab c"),
    ],
    ids=range(15),
)
def test_l26_text_and_absolute_links_of_chosen_elements(page: str, tags: list[str] | None, text: str):
    assert parse_html_to_text(page, tags) == text


@pytest.mark.parametrize(
    ("url", "is_url"),
    [
        ("http://x.org/a", True),
        ("ftp://x", True),
        ("x.org", False),
        ("", False),
        ("http://", False),
        ("http://[::1", False),
    ],
)
def test_l26_a_url_has_a_scheme_and_a_host(url: str, is_url: bool):
    assert is_valid_url(url) is is_url


def test_l26_selectolax_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentscope_async.service._reader_process.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"selectolax: pip install 'agentscope-async\[web-tools\]'"):
        parse_html_to_text("<p>a</p>", ["p"])


async def test_l24_pypdf_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentscope_async.service._reader_process.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pypdf: pip install 'agentscope-async\[web-tools\]'"):
        await load(pdf("x"), "application/pdf")


# -- digests --


class Reader(ScriptedModel):
    """Says the same of everything, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__([ModelResponse(text="a summary")], loop=True)

    @property
    def told(self) -> str:
        return str(self.calls[-1])


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"<h1>Bees</h1><p>make honey</p>", "text/html", "Beesmake honey"),
        (b'{"bees": "honey"}', "application/json", '"bees": "honey"'),
        (pdf("Bees in a paper"), "application/pdf", "Bees in a paper"),
        (b"Bees in a text", "text/plain", "Bees in a text"),
    ],
    ids=["html", "json", "pdf", "text"],
)
async def test_l27_a_model_digests_pages_of_every_kind(body: bytes, content_type: str, text: str):
    model = Reader()
    async with site(body, content_type) as url:
        response = await digest_webpage(url, model, allow_private=True)
    assert response == {"status": ServiceExecStatus.SUCCESS, "content": "a summary"}
    assert text in model.told.replace('\\"', '"')
    assert "web page analyser" in model.told


async def test_l27_a_text_is_digested_as_it_is():
    model = Reader()
    assert (await digest_webpage("Bees make honey.", model, digest_prompt="Be brief.")).content == "a summary"
    assert "Bees make honey." in model.told
    assert "Be brief." in model.told


async def test_l27_a_page_that_cannot_be_had_is_not_digested():
    model = Reader()
    async with site(b"", status=404) as url:
        response = await digest_webpage(url, model, allow_private=True)
    assert not response.is_success
    assert "answered 404" in response.content
    assert not (await digest_webpage("http://127.0.0.1:9/", model)).is_success
    async with site(b"\x89PNG\r\n", "image/png") as url:
        assert "No text to digest" in (await digest_webpage(url, model, allow_private=True)).content
    assert model.calls == []


async def test_l27_without_a_model_nothing_is_digested():
    with pytest.raises(ConfigError, match="needs model="):
        await digest_webpage("text")


# -- limits --


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
async def test_l25_any_other_status_is_an_error_that_names_it(status: int):
    async with site(b"<p>sorry", status=status) as url:
        response = await load_web(url, allow_private=True)
    assert not response.is_success
    assert f"answered {status}" in response.content


async def test_a_page_larger_than_allowed_is_an_error():
    response = await load(b"x" * 1001, "text/plain", max_bytes=1000)
    assert "larger than 1000 bytes" in response.content
    assert (await load(b"x" * 1000, "text/plain", max_bytes=1000)).is_success


async def test_a_page_without_end_is_left_at_its_limit():
    left = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            left.set()
        writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (
            "larger than 1000000 bytes" in (await load_web(url, allow_private=True, max_bytes=10**6)).content
        )
        await left.wait()


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_packed_page_is_unpacked_though_none_was_asked_for(pack: Any):
    text = b"Bees make honey. " * 20_000
    coding = "gzip" if pack is gzip.compress else "deflate"
    async with site(pack(text), "text/plain", content_encoding=coding) as url:
        response = await load_web(url, allow_private=True)
    assert response.content["raw"] == text


@pytest.mark.parametrize(
    ("body", "coding", "problem"),
    [
        (gzip.compress(b"\0" * 50_000_000), "gzip", "suspiciously much"),
        (gzip.compress(b"abc" * 1000)[:-20], "gzip", "broke off"),
        (b"no gzip at all", "gzip", "broken"),
        (gzip.compress(gzip.compress(b"x")), "gzip, gzip", "not asked for"),
        (b"x", "br", "not asked for"),
    ],
    ids=["bomb", "cut", "broken", "twice", "brotli"],
)
async def test_a_page_packed_with_ill_will_is_an_error(body: bytes, coding: str, problem: str):
    async with site(body, content_encoding=coding) as url:
        response = await load_web(url, allow_private=True, max_bytes=100_000_000)
    assert problem in response.content


async def test_headers_without_end_are_an_error():
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        response = await load_web(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", allow_private=True
        )
    assert not response.is_success


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
async def test_a_server_that_falls_silent_is_left_when_the_time_is_up(begin: bytes):
    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert "within 0.2 s" in (await load_web(url, timeout=0.2, allow_private=True)).content
        await left.wait()


async def test_cancelling_leaves_the_server_before_it_returns():
    asked, left = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        loading = asyncio.create_task(load_web(url, timeout=60, allow_private=True))
        await asked.wait()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await left.wait()


async def test_a_long_text_is_cut_and_says_so():
    response = await load(b"x" * 250_000, "text/plain", keep_raw=False)
    assert response.content["text"] == "x" * 200_000
    assert response.content["cut"] == "text holds the first 200000 characters; there were at least 250000"
    response = await load(b"<p>" + b"x" * 250_000, keep_raw=False)
    assert len(response.content["html_to_text"]) == 200_000
    assert "250000" in response.content["cut"]


async def test_a_json_document_too_large_to_parse_is_left_out_and_says_so():
    response = await load(b"[" + b"1," * 2_000_000 + b"1]", "application/json", keep_raw=False)
    assert response.content == {"cut": "json is left out: the document is larger than 4000000 bytes"}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """All processes that were started to read something."""
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def noted(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*args, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    return started


async def test_a_page_that_takes_too_much_cpu_is_an_error(
    monkeypatch: pytest.MonkeyPatch, readers: list[Any]
):
    monkeypatch.setattr(web_text, "CPU_S", 1)
    response = await load(DEEP)
    assert "takes too long to read" in response.content
    assert readers[0].returncode is not None


async def test_a_page_that_takes_too_much_memory_is_an_error(
    monkeypatch: pytest.MonkeyPatch, readers: list[Any]
):
    monkeypatch.setattr(web_text, "MEMORY_BYTES", 60_000_000)
    response = await load(b"<p>x" * 1_000_000, keep_raw=False)
    assert "too much memory" in response.content
    assert readers[0].returncode is not None


async def test_a_reader_is_killed_when_its_time_is_up(readers: list[Any]):
    with pytest.raises(ValueError, match="takes too long"):
        await web_text.extract("html", DEEP, timeout_s=0.3)
    assert readers[0].returncode is not None


async def test_a_reader_is_killed_when_its_caller_is_cancelled(readers: list[Any]):
    reading = asyncio.create_task(web_text.extract("html", DEEP))
    while not readers:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert readers[0].returncode is not None


async def test_a_reader_has_none_of_this_process_environment(
    monkeypatch: pytest.MonkeyPatch, readers: list[Any], tmp_path: Any
):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-0123456789")
    program = tmp_path / "shows.py"
    program.write_text('import json, os; print(json.dumps({"text": str(dict(os.environ)), "chars": 1}))')
    monkeypatch.setattr(web_text._extract, "__file__", str(program))
    assert "secret" not in (await web_text.extract("html", b"x")).text


async def test_pages_are_read_four_at_a_time(readers: list[Any]):
    read = await asyncio.gather(*(web_text.extract("html", b"<p>%d" % number) for number in range(10)))
    assert [each.text for each in read] == [str(number) for number in range(10)]
    assert len(readers) == 10


def test_what_a_model_may_not_set_is_granted_and_what_comes_back_is_untrusted():
    assert marks_of(load_web).granted >= {"self_parse_func", "timeout", "allow_private", "max_bytes"}
    assert marks_of(load_web).untrusted == "url"
    assert marks_of(digest_webpage).granted >= {"model", "digest_prompt", "timeout", "allow_private"}
    assert marks_of(digest_webpage).untrusted == "web_text_or_url"
    assert not marks_of(load_web).dangerous
