"""The wire: one suite over both transports, against a server on 127.0.0.1."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest
import respx
from recorder import ReplayServer

from agentscope_async import Runtime
from agentscope_async.errors import ConfigError
from agentscope_async.models._fetch import fetch
from agentscope_async.models._http import Carrier
from agentscope_async.models._http_pools import close_idle_pools, in_use
from agentscope_async.models._request import HttpFailure, HttpRequest, check_url

PATH = "/v1/chat/completions"


@pytest.fixture(params=["httpx", "aiohttp"])
def http(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def post(server: ReplayServer, case: str = "openai-chat-basic", fault: str = "") -> HttpRequest:
    headers = {"Authorization": "Bearer k", "Content-Type": "application/json"}
    return HttpRequest("POST", server.url(case, fault) + PATH, headers, {"model": "m"})


async def exchange(carrier: Carrier, request: HttpRequest) -> tuple[int, bytes]:
    answer = await carrier.send(request)
    return answer.status, await answer.read()


async def test_calls_after_one_another_share_a_connection(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    for _ in range(20):
        assert (await exchange(carrier, post(replay)))[0] == 200
    assert replay.total_connections == 1


async def test_two_carriers_to_one_origin_share_connections(replay: ReplayServer, http: str):
    for _ in range(5):
        await exchange(Carrier(http=http), post(replay))
    assert replay.total_connections == 1


async def test_calls_at_once_have_a_connection_each_and_use_them_again(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    for _ in range(3):
        await asyncio.gather(*(exchange(carrier, post(replay)) for _ in range(30)))
    assert replay.total_connections <= 30


async def test_twenty_streams_read_to_their_end_take_one_connection(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    for _ in range(20):
        status, body = await exchange(carrier, post(replay, "openai-chat-stream"))
        assert (status, body.endswith(b"[DONE]\n\n")) == (200, True)
    assert replay.total_connections == 1


async def test_an_answer_left_unread_costs_its_connection_and_no_slot(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    answer = await carrier.send(post(replay, "openai-chat-stream", "drip=20:0.01"))
    async for _ in (chunks := answer.chunks()):
        break
    await chunks.aclose()
    await answer.aclose()
    await answer.aclose()
    assert in_use() == 0
    assert (await exchange(carrier, post(replay)))[0] == 200


async def test_after_5000_calls_cancelled_at_random_no_slot_is_lost(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    moments = random.Random(7)
    ended = 0

    async def cancelled() -> None:
        nonlocal ended
        call = asyncio.create_task(exchange(carrier, post(replay)))
        for _ in range(moments.randrange(1, 14)):  # so many turns of the loop
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        ended += call.cancelled()

    for _ in range(100):
        await asyncio.gather(*(cancelled() for _ in range(50)))
    assert ended > 1000
    assert in_use() == 0
    replay.total_connections = 0
    for _ in range(2):
        await asyncio.gather(*(exchange(carrier, post(replay)) for _ in range(20)))
    assert in_use() == 0
    assert replay.total_connections <= 20


@pytest.mark.parametrize(
    ("fault", "type"),
    [
        ("drop", "connection"),
        ("reset@0", "connection"),
        ("reset@50%", "connection"),
        ("fin@50%", "connection"),
        ("hang=5", "timeout"),
        ("bytes=64,stall=5@50%", "timeout"),
    ],
)
async def test_an_answer_that_breaks_off_says_how(replay: ReplayServer, http: str, fault: str, type: str):
    carrier = Carrier(http=http, timeout_s=0.2)
    with pytest.raises(HttpFailure) as caught:
        await exchange(carrier, post(replay, fault=fault))
    assert (caught.value.type, caught.value.was_sent) == (type, True)
    assert in_use() == 0


@pytest.mark.parametrize("origin", ["http://127.0.0.1:9", "http://nowhere.invalid"])
async def test_a_request_that_never_left_says_so(http: str, origin: str):
    with pytest.raises(HttpFailure) as caught:
        await exchange(Carrier(http=http), HttpRequest("GET", f"{origin}/x", {}))
    assert (caught.value.type, caught.value.was_sent) == ("connection", False)


async def test_the_body_one_byte_at_a_time_is_the_same_body(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    whole = await exchange(carrier, post(replay))
    assert await exchange(carrier, post(replay, fault="bytes=1")) == whole


async def test_a_pool_closed_in_between_is_opened_again(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    await exchange(carrier, post(replay))
    await close_idle_pools()
    assert (await exchange(carrier, post(replay)))[0] == 200
    assert replay.total_connections == 2


async def test_closing_idle_pools_leaves_calls_under_way_alone(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    answer = await carrier.send(post(replay, "openai-chat-stream", "drip=40:0.001"))
    await close_idle_pools()
    assert (await answer.read()).endswith(b"[DONE]\n\n")


def test_each_event_loop_has_connections_of_its_own(http: str):
    carrier = Carrier(http=http)

    async def main() -> tuple[int, bytes]:
        async with ReplayServer.from_dirs("tests/fixtures/wire/openai") as server:
            return await exchange(carrier, post(server))

    assert [asyncio.run(main())[0] for _ in range(3)] == [200, 200, 200]


async def test_a_transport_is_used_as_it_is_given():
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"ok": True})

    carrier = Carrier(transport=httpx.MockTransport(answer))
    request = HttpRequest("POST", "https://api.example/v1/x?a=1", {"Authorization": "Bearer k"}, {"m": 1})
    assert await exchange(carrier, request) == (200, b'{"ok":true}')
    (sent,) = seen
    assert (sent.method, str(sent.url), sent.content) == ("POST", "https://api.example/v1/x?a=1", b'{"m":1}')
    assert sent.headers["authorization"] == "Bearer k"
    assert sent.headers["content-length"] == "7"
    assert sent.headers["host"] == "api.example"
    assert sent.headers["user-agent"].startswith("agentscope-async/")


async def test_a_client_is_used_as_it_is_given():
    transport = httpx.MockTransport(lambda request: httpx.Response(201, text=request.url.path))
    async with httpx.AsyncClient(transport=transport) as client:
        carrier = Carrier(client=client)
        assert await exchange(carrier, HttpRequest("GET", "https://api.example/p", {})) == (201, b"/p")


async def test_a_respx_mock_answers_whatever_transport_is_installed(http: str):
    carrier = Carrier(http=http)
    with respx.mock(assert_all_called=True) as mock:
        mock.get("https://api.example/m").respond(200, json=[1])
        assert await exchange(carrier, HttpRequest("GET", "https://api.example/m", {})) == (200, b"[1]")


async def test_a_compressed_answer_is_read_as_what_it_was():
    import gzip

    packed = gzip.compress(b'{"a":1}')
    transport = httpx.MockTransport(
        lambda request: httpx.Response(200, content=packed, headers={"Content-Encoding": "gzip"})
    )
    carrier = Carrier(transport=transport)
    assert await exchange(carrier, HttpRequest("GET", "http://a.example/", {})) == (200, b'{"a":1}')


@pytest.mark.parametrize("url", ["http:localhost:8000/v1", "localhost:8000", "ftp://h/x", "", "http://"])
def test_an_address_without_a_host_is_refused(url: str):
    with pytest.raises(ConfigError, match="not an http"):
        check_url(url)


@pytest.mark.parametrize("value", ["a\nb", "a\r\nX: y", "key\u2028"])
async def test_a_header_that_could_forge_another_is_refused(value: str):
    with pytest.raises(ConfigError, match="header"):
        await Carrier().send(HttpRequest("GET", "http://127.0.0.1:9/", {"Authorization": value}))


def test_an_unknown_transport_is_refused():
    with pytest.raises(ConfigError, match="'auto', 'aiohttp' or 'httpx'"):
        Carrier(http="curl")
    with pytest.raises(ConfigError, match=r"transport must be an httpx\.AsyncBaseTransport"):
        Carrier(transport=object())


async def test_fetching_what_is_too_large_or_not_there_raises(replay: ReplayServer):
    url = replay.url("ollama-tags") + "/api/tags"
    assert b"llama3.2" in await fetch(url, allow_private=True)
    with pytest.raises(ConnectionError, match="larger than 10 bytes"):
        await fetch(url, max_bytes=10, allow_private=True)
    with pytest.raises(ConnectionError, match="answered 404"):
        await fetch(replay.origin + "/nothing?sig=secret", allow_private=True)


async def test_the_last_runtime_of_a_loop_closes_idle_connections(replay: ReplayServer, http: str):
    carrier = Carrier(http=http)
    async with Runtime():
        async with Runtime():
            await exchange(carrier, post(replay))
        await exchange(carrier, post(replay))
        assert replay.total_connections == 1
    while replay.open_connections:
        await asyncio.sleep(0)
    assert (await exchange(carrier, post(replay)))[0] == 200
