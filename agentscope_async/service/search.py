"""Search the web by one of six services; each returns ``[{title, link, snippet}, ...]``."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .._redact import redact_text, remember_secret
from ..errors import ConfigError, MissingExtraError
from ._marks import marked
from .response import ServiceResponse

if TYPE_CHECKING:
    from ..models._request import HttpRequest

__all__ = ["bing_search", "brave_search", "ddgs_search", "google_search", "searxng_search", "tavily_search"]

TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 5_000_000
MAX_RESULTS = 50
"""What a model can ask for at most; services have lower limits of their own."""

BING_URL = "https://api.bing.microsoft.com/v7.0/search"
GOOGLE_URL = "https://www.googleapis.com/customsearch/v1"
TAVILY_URL = "https://api.tavily.com/search"
BRAVE_URL = "https://api.search.brave.com/res/v1/web/search"


@marked(untrusted=True, granted=("api_key", "timeout", "base_url"))
async def bing_search(
    question: str,
    api_key: str,
    num_results: int = 10,
    *,
    timeout: float = TIMEOUT_S,
    base_url: str = BING_URL,
    **kwargs: Any,
) -> ServiceResponse:
    """Search question in Bing Search API and return the searching results

    In AgentScope v0.0.2's form (service/web_search/search.py). Microsoft has switched this service off on
    2025-08-11 (https://learn.microsoft.com/lifecycle/announcements/bing-search-api-retirement): only
    servers that speak like it can answer. Of the others here, Tavily, Brave and SearXNG work.

    Args:
        question (str): The search query string.
        api_key (str): The API key provided for authenticating with the Bing Search API.
        num_results (int): The number of search results to return.
        timeout (float): seconds for the whole call.
        base_url (str): the address asked.
        **kwargs (Any): Additional keyword arguments to be included in the search query.

    Returns:
        ServiceResponse: the content is a list of dicts with ``title``, ``link`` and ``snippet``.
    """  # noqa: D415  # to the letter as models were told by v0.0.2
    query = {"q": question, "count": num_results, **kwargs}
    answer = await _asked(base_url, query, {"Ocp-Apim-Subscription-Key": api_key}, api_key, timeout)
    return _listed(answer, ("webPages", "value"), "name", "url", "snippet")


@marked(untrusted=True, granted=("api_key", "cse_id", "timeout", "base_url"))
async def google_search(
    question: str,
    api_key: str,
    cse_id: str,
    num_results: int = 10,
    *,
    timeout: float = TIMEOUT_S,
    base_url: str = GOOGLE_URL,
    **kwargs: Any,
) -> ServiceResponse:
    """Search question in Google Search API and return the searching results

    In AgentScope v0.0.2's form (service/web_search/search.py). Google takes no new customers for it and
    closes it on 2027-01-01 (https://developers.google.com/custom-search/v1/overview). It gives at most ten
    results a call.

    Args:
        question (str): The search query string.
        api_key (str): The API key provided for authenticating with the Google Custom Search JSON API.
        cse_id (str): The unique identifier of a programmable search engine to use.
        num_results (int): The number of search results to return.
        timeout (float): seconds for the whole call.
        base_url (str): the address asked.
        **kwargs (Any): Additional keyword arguments to be included in the search query.

    Returns:
        ServiceResponse: the content is a list of dicts with ``title``, ``link`` and ``snippet``.
    """  # noqa: D415  # to the letter as models were told by v0.0.2
    query = {"q": question, "key": api_key, "cx": cse_id, "num": num_results, **kwargs}
    answer = await _asked(base_url, query, {}, api_key, timeout)
    return _listed(answer, ("items",), "title", "link", "snippet")


@marked(untrusted=True, granted=("api_key", "timeout", "base_url"))
async def tavily_search(
    question: str,
    api_key: str,
    num_results: int = 5,
    *,
    timeout: float = TIMEOUT_S,
    base_url: str = TAVILY_URL,
) -> ServiceResponse:
    """Search the web and return titles, links and what each page says about the question.

    By Tavily (https://docs.tavily.com/documentation/api-reference/endpoint/search).

    Args:
        question (str): What to search for.
        api_key (str): the key of an account at Tavily.
        num_results (int): The number of search results to return, at most 20.
        timeout (float): seconds for the whole call.
        base_url (str): the address asked.

    Returns:
        ServiceResponse: the content is a list of dicts with ``title``, ``link`` and ``snippet``.
    """
    body = {"query": question, "max_results": min(num_results, 20)}
    headers = {"Authorization": f"Bearer {api_key}"}
    answer = await _asked(base_url, {}, headers, api_key, timeout, body=body)
    return _listed(answer, ("results",), "title", "url", "content")


@marked(untrusted=True, granted=("api_key", "timeout", "base_url"))
async def brave_search(
    question: str,
    api_key: str,
    num_results: int = 10,
    *,
    timeout: float = TIMEOUT_S,
    base_url: str = BRAVE_URL,
) -> ServiceResponse:
    """Search the web and return titles, links and descriptions of pages.

    By Brave, from its own index (https://api-dashboard.search.brave.com/app/documentation/web-search).

    Args:
        question (str): What to search for.
        api_key (str): the subscription token of an account at Brave.
        num_results (int): The number of search results to return, at most 20.
        timeout (float): seconds for the whole call.
        base_url (str): the address asked.

    Returns:
        ServiceResponse: the content is a list of dicts with ``title``, ``link`` and ``snippet``.
    """
    query = {"q": question, "count": min(num_results, 20), "text_decorations": "false"}
    answer = await _asked(base_url, query, {"X-Subscription-Token": api_key}, api_key, timeout)
    return _listed(answer, ("web", "results"), "title", "url", "description")


@marked(untrusted=True, granted=("base_url", "timeout"))
async def searxng_search(
    question: str, num_results: int = 10, *, base_url: str, timeout: float = TIMEOUT_S
) -> ServiceResponse:
    """Search the web and return titles, links and descriptions of pages.

    By a SearXNG that you run (https://docs.searxng.org/dev/search_api.html); its ``settings.yml`` must allow
    JSON: ``search: {formats: [html, json]}``.

    Args:
        question (str): What to search for.
        num_results (int): The number of search results to return.
        base_url (str): where it is, for example ``http://127.0.0.1:8888``.
        timeout (float): seconds for the whole call.

    Returns:
        ServiceResponse: the content is a list of dicts with ``title``, ``link`` and ``snippet``.
    """
    url = f"{base_url.rstrip('/')}/search"
    answer = await _asked(url, {"q": question, "format": "json"}, {}, "", timeout)
    if isinstance(answer, str) and "answered 403" in answer:
        answer += " SearXNG does so when its settings.yml does not allow json under search: formats."
    return _listed(answer, ("results",), "title", "url", "content", num_results)


@marked(untrusted=True, granted=("timeout", "backend"))
async def ddgs_search(
    question: str, num_results: int = 10, *, timeout: float = TIMEOUT_S, backend: str = "auto"
) -> ServiceResponse:
    """Search the web and return titles, links and descriptions of pages.

    By the package ``ddgs``, which reads the result pages of public search engines: it needs no key, and
    is refused when it is used much. It does not tell a refusal from a search without results: both are
    an ERROR here. It works in a thread, which a cancellation leaves to end by itself.

    Args:
        question (str): What to search for.
        num_results (int): The number of search results to return.
        timeout (float): seconds for the whole call.
        backend (str): which engines: a name, several with commas between them, or ``"auto"``.

    Returns:
        ServiceResponse: the content is a list of dicts with ``title``, ``link`` and ``snippet``.

    Raises:
        MissingExtraError: ``ddgs`` is not installed.
    """
    if find_spec("ddgs") is None:
        raise MissingExtraError("ddgs", "ddgs_search needs: pip install 'agentscope-async[search]'")
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.to_thread(_found_by_ddgs, question, num_results, backend, timeout)
    except TimeoutError:
        found = f"The search engines did not answer within {timeout:g} s."
    return _listed(found, (), "title", "href", "body", num_results)


def _found_by_ddgs(question: str, num_results: int, backend: str, timeout_s: float) -> list[Any] | str:
    from ddgs import DDGS
    from ddgs.exceptions import DDGSException

    engines = DDGS(timeout=max(1, math.ceil(timeout_s)))
    try:
        return engines.text(question, max_results=max(1, num_results), backend=backend)
    except DDGSException as error:
        if "No results" in str(error):
            return "The search engines gave no results: there are none, or they refuse (too many searches)."
        return f"The search failed: {redact_text(str(error))[:300]}"


async def _asked(
    url: str,
    query: Mapping[str, Any],
    headers: dict[str, str],
    api_key: str,
    timeout_s: float,
    *,
    body: Any = None,
) -> Any:
    """Return the JSON that a service answers, or a text that says what went wrong, without the key."""
    from ..models._http import Carrier
    from ..models._request import HttpFailure, HttpRequest, shown_url, with_query

    remember_secret(api_key)
    where = f"The search at {shown_url(url)}"
    carrier = Carrier(timeout_s=timeout_s, max_answer_bytes=MAX_ANSWER_BYTES)
    headers = {"Accept": "application/json", "Content-Type": "application/json", **headers}
    try:
        method = "GET" if body is None else "POST"
        request = HttpRequest(method, with_query(url, query), headers, body)
        async with asyncio.timeout(timeout_s):
            status, said = await _answered(carrier, request)
        if status != 200:
            return redact_text(f"{where} answered {status}: {said[:300].decode('utf-8', 'replace')}")
        return json.loads(said)
    except TimeoutError:
        return f"{where} did not answer within {timeout_s:g} s."
    except (HttpFailure, ConfigError) as error:
        return redact_text(f"{where} failed: {error}")
    except (UnicodeEncodeError, TypeError):
        return f"{where} failed: the question holds characters that cannot be sent."
    except (ValueError, RecursionError):
        return f"{where} answered with what is no JSON."


async def _answered(carrier: Any, request: HttpRequest) -> tuple[int, bytes]:
    answer = await carrier.send(request)
    return answer.status, await answer.read()


def _listed(
    answer: Any, path: tuple[str, ...], title: str, link: str, snippet: str, num_results: int = MAX_RESULTS
) -> ServiceResponse:
    """Return what the service found in the one form of all; a result may lack any of the three."""
    if isinstance(answer, str):
        return ServiceResponse.error(answer)
    for key in path:
        answer = answer.get(key) if isinstance(answer, dict) else None
    results = [each for each in answer if isinstance(each, dict)] if isinstance(answer, list) else []
    return ServiceResponse.success(
        [
            {"title": _text(each, title), "link": _text(each, link), "snippet": _text(each, snippet)}
            for each in results[: max(0, num_results)]
        ]
    )


def _text(result: Mapping[str, Any], key: str) -> str:
    value = result.get(key)
    return value if isinstance(value, str) else ""
