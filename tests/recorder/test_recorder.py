"""The replay server itself: it answers as recorded, sees differences, and its faults are faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from recorder import Case, Fault, Recorder, ReplayServer, Reply, diff_json, load_cases

CASES = load_cases(Path(__file__).parent.parent / "fixtures" / "wire")
STREAM = CASES["openai-chat-stream"]
WHOLE = STREAM.exchanges[0].payload()


@pytest.fixture
async def server() -> AsyncIterator[ReplayServer]:
    async with ReplayServer(CASES) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def recorded_request(base_url: str, case: Case, step: int = 0) -> httpx.Request:
    """The request of a case, as the provider's own package sent it."""
    recorded = case.exchanges[step].request
    headers = {name: value.replace("<redacted>", "key") for name, value in recorded["headers"].items()}
    return httpx.Request(
        recorded["method"],
        base_url + recorded["path"],
        params=recorded["query"],
        headers=headers,
        content=None if recorded["body"] is None else json.dumps(recorded["body"]),
    )


async def answer(server, client, fault: str = "", run: str = "") -> httpx.Response:
    """What the server says to the request of the stream case, under a fault."""
    return await client.send(recorded_request(server.url(STREAM.name, fault, run), STREAM))


async def broken_answer(server, client, fault: str) -> tuple[type[Exception], bytes]:
    """The error in which an answer ends, and what came of it before."""
    got = b""
    request = recorded_request(server.url(STREAM.name, fault), STREAM)
    try:
        response = await client.send(request, stream=True)
        async for chunk in response.aiter_raw():
            got += chunk
    except httpx.TransportError as error:
        return type(error), got
    raise AssertionError(f"{fault} broke nothing")


async def test_every_case_is_answered_as_recorded(server, client):
    for case in CASES.values():
        for step, exchange in enumerate(case.exchanges):
            response = await client.send(recorded_request(server.url(case.name), case, step))
            assert (case.name, server.records[-1]["step"]) == (case.name, step)
            assert (response.status_code, response.content) == (
                exchange.response["status"],
                exchange.payload(),
            )
    assert server.differences() == {}
    assert {record["sent"]["outcome"] for record in server.records[:-1]} == {"complete"}


async def test_a_request_without_the_name_of_a_case_finds_one_with_the_same_body(server, client):
    for case in CASES.values():
        await client.send(recorded_request(server.origin, case))
        found = CASES[server.records[-1]["case"]]
        assert found.exchanges[0].request["body"] == case.exchanges[0].request["body"]
    assert server.differences() == {}


async def test_a_changed_missing_or_extra_value_is_a_difference(server, client):
    request = recorded_request(server.url("openai-chat-basic"), CASES["openai-chat-basic"])
    body = json.loads(request.content) | {"model": "other", "zeal": 1}
    del body["messages"]
    headers = {"content-type": "application/json"}
    await client.post(request.url, json=body, headers=headers)
    found = {(each["op"], each["path"]) for each in server.differences()["openai-chat-basic"]}
    assert found == {
        ("changed", "/model"),
        ("extra", "/zeal"),
        ("missing", "/messages"),
        ("missing", "@header/authorization"),
    }


def test_booleans_are_not_numbers_but_1_is_1_0():
    assert list(diff_json({"a": 1}, {"a": 1.0})) == []
    assert [each["path"] for each in diff_json({"a": [True]}, {"a": [1]})] == ["/a/0"]


async def test_records_hold_no_keys(server, client):
    await client.get(
        server.origin + "/x?key=hidden", headers={"Authorization": "Bearer hidden", "api-key": "hidden"}
    )
    assert "hidden" not in json.dumps(server.records)
    assert server.records[0]["headers"]["authorization"] == "Bearer <redacted>"


async def test_what_no_case_answers_is_a_404_and_a_difference(server, client):
    for base_url in (server.origin, server.url("no-such-case")):
        assert (await client.get(base_url + "/nowhere")).status_code == 404
    assert sum(map(len, server.differences().values())) == 2


async def test_an_unknown_fault_is_a_501_and_a_difference(server, client):
    assert (await answer(server, client, "earthquake")).status_code == 501
    assert server.differences()


async def test_a_status_fault_ends_after_its_count_and_carries_the_wait(server, client):
    responses = [await answer(server, client, "429x2,ra=1,rams=900") for _ in range(3)]
    assert [response.status_code for response in responses] == [429, 429, 200]
    assert responses[0].headers["retry-after"] == "1"
    assert responses[0].headers["retry-after-ms"] == "900"
    assert responses[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert [record["nth"] for record in server.records] == [1, 2, 3]


async def test_runs_count_their_faults_apart(server, client):
    responses = [await answer(server, client, "503x1", run) for run in ("a", "b", "a")]
    assert [response.status_code for response in responses] == [503, 503, 200]


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ("openai-chat-basic", "insufficient_quota"),
        ("dashscope-chat-basic", "Arrearage"),
        ("gemini-chat-basic", "PerDay"),
        ("ollama-chat-basic", "error"),
    ],
)
async def test_a_quota_fault_speaks_the_providers_language(server, client, case, word):
    response = await client.send(recorded_request(server.url(case, "429,quota"), CASES[case]))
    assert (response.status_code, word in response.text) == (429, True)


async def test_an_html_fault_is_a_page(server, client):
    response = await answer(server, client, "502,html")
    assert (response.status_code, response.headers["content-type"]) == (502, "text/html")
    assert response.text.startswith("<html")


@pytest.mark.parametrize(
    ("fault", "error", "outcome"),
    [("reset@50%", httpx.ReadError, "reset"), ("fin@50%", httpx.RemoteProtocolError, "fin")],
)
async def test_a_cut_gives_the_first_part_and_then_an_error(server, client, fault, error, outcome):
    assert await broken_answer(server, client, fault) == (error, WHOLE[: len(WHOLE) // 2])
    assert server.records[0]["sent"] == {"status": 200, "bytes": len(WHOLE) // 2, "outcome": outcome}


async def test_drop_closes_without_an_answer(server, client):
    assert await broken_answer(server, client, "drop") == (httpx.ReadError, b"")


async def test_first_limits_a_cut_to_the_first_requests(server, client):
    assert (await broken_answer(server, client, "reset@1,first=1"))[0] is httpx.ReadError
    assert (await answer(server, client, "reset@1,first=1")).content == WHOLE


async def test_trunc_ends_early_in_good_order(server, client):
    assert (await answer(server, client, "trunc@40")).content == WHOLE[:40]


@pytest.mark.parametrize("fault", ["bytes=1", "drip=200:0.001", "hang=0.001", "stall=0.001@10", "first=1"])
async def test_pace_leaves_the_body_as_it_is(server, client, fault):
    assert (await answer(server, client, fault)).content == WHOLE


async def test_an_answer_that_hangs_is_not_awaited_when_the_server_is_left(client):
    async with ReplayServer(CASES) as server:
        request = asyncio.create_task(answer(server, client, "hang=600"))
        while not server.records:
            await asyncio.sleep(0)
    with pytest.raises(httpx.TransportError):
        await request
    assert server.records[0]["sent"]["outcome"] == "stopped"


async def test_a_stall_comes_after_its_bytes(client):
    async with ReplayServer(CASES) as server:
        request = recorded_request(server.url(STREAM.name, "bytes=5,stall=600@10"), STREAM)
        chunks = (await client.send(request, stream=True)).aiter_raw(5)
        assert await anext(chunks) + await anext(chunks) == WHOLE[:10]
    with pytest.raises(httpx.TransportError):
        await anext(chunks)
    assert server.records[0]["sent"] == {"status": 200, "bytes": 10, "outcome": "stopped"}


async def test_content_faults_spoil_what_they_say(server, client):
    async def body(fault):
        return (await answer(server, client, fault)).content

    assert b"[DONE]" not in await body("noterm")
    assert (await body("crlf")).replace(b"\r\n", b"\n") == WHOLE
    assert (await body("ping")).replace(b": keep-alive\n\n", b"") == WHOLE
    assert (await body("badutf8")).replace(b"\xff", b"") == WHOLE
    spoilt = await body("badjson")
    assert 0 < len(spoilt) < len(WHOLE)
    assert spoilt.endswith(b"data: [DONE]\n\n")


def test_faults_spoil_plain_bodies_too():
    assert Fault.parse("badjson").spoil(b'{"a": 1}', None) == b'{"a":'
    assert Fault.parse("badjson").spoil(b'{"a": 1}\n{"b": 22}\n', "ndjson") == b'{"a": 1}\n{"b": 22\n'


async def test_leaving_ends_connections_and_answers_under_way():
    asked = asyncio.Event()

    async def never(request):
        asked.set()
        await asyncio.Event().wait()
        return Reply()

    async with Recorder(never) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asked.wait()
    assert await reader.read() == b""
    assert server.open_connections == 0
    writer.close()
    await writer.wait_closed()


async def test_chunked_requests_and_kept_connections_are_understood(server, client):
    async def body():
        yield b'{"a":'
        yield b" 1}"

    for _ in range(2):
        await client.post(server.origin + "/x", content=body())
    assert [record["body"] for record in server.records] == [{"a": 1}, {"a": 1}]
    assert (server.total_connections, server.max_connections) == (1, 1)


def test_two_cases_of_one_name_are_refused(tmp_path):
    exchange = {"request": {}, "response": {}}
    for file in ("a.json", "b.json"):
        (tmp_path / file).write_text(json.dumps({"name": "twin", "provider": "openai", **exchange}))
    with pytest.raises(ValueError, match="'twin'"):
        load_cases(tmp_path)
