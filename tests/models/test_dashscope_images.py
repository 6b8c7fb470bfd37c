from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from models.scripted import Scripted, serve
from recorder import Reply

from agentscope_async import Runtime
from agentscope_async.errors import (
    BadResponse,
    Conflict,
    ContentFiltered,
    ModelError,
    ModelTimeout,
    NoRuntimeError,
    NotFound,
    RateLimited,
)
from agentscope_async.models import _dashscope_tasks
from agentscope_async.models._dashscope_tasks import pace, parse_image_response
from agentscope_async.models.dashscope import DashScopeImageSynthesisWrapper
from agentscope_async.monitor import Budget

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32


def test_questions_come_slower_and_slower():
    waits = pace()
    assert [next(waits) for _ in range(11)] == [1, 1, 2, 2, 2, 4, 4, 4, 5, 5, 5]


@pytest.fixture
def quick(monkeypatch):
    """Polling without the waits, which have a test of their own."""

    def at_once():
        while True:
            yield 0.001

    monkeypatch.setattr(_dashscope_tasks, "pace", at_once)


def state(status: str, **more: Any) -> dict[str, Any]:
    return {"request_id": "r-1", "output": {"task_id": "t-1", "task_status": status, **more}}


def done(*urls: str, **more: Any) -> dict[str, Any]:
    return state("SUCCEEDED", results=[{"url": url} for url in urls]) | more


def test_image_is_one_unless_more_are_asked_for():
    sent = images().build_request("a cat", {"negative_prompt": "dog", "size": "1024*1024"}, stream=False)
    assert sent.json["input"] == {"prompt": "a cat", "negative_prompt": "dog"}
    assert sent.json["parameters"] == {"n": 1, "size": "1024*1024"}
    assert not sent.is_repeatable


def test_edit_goes_to_the_address_of_edits():
    model = DashScopeImageSynthesisWrapper("test", "wanx2.1-imageedit", "sk")
    sent = model.build_request("x", {"base_image_url": "u", "function": "expand"}, stream=False)
    assert sent.url.endswith("/services/aigc/image2image/image-synthesis")
    assert sent.json["input"] == {"prompt": "x", "base_image_url": "u", "function": "expand"}


async def test_f09_images_are_counted_and_recorded_once(quick, tmp_path):
    answers = [state("PENDING"), state("RUNNING"), done("https://x.org/1", usage={"image_count": 1})]
    async with serve(*answers) as server, Runtime(save_dir=tmp_path, save_api_invoke=True) as rt:
        response = await images(base_url=server.origin)("a cat")
        assert response.image_urls == ["https://x.org/1"]
        names = ("call_counter", "image_count")
        assert [await rt.monitor.get_value(f"wanx-v1.{name}") for name in names] == [1, 1]
        await rt.invocations.flush()
        (record,) = rt.files.dir_invoke.iterdir()
    text = record.read_text("utf-8")
    assert "https://x.org/1" in text
    assert "a cat" in text
    assert "sk-secret-image-key" not in text


async def test_f09_images_are_saved_to_the_files_of_the_run(quick, tmp_path):
    async with serve() as server:
        url = f"{server.origin}/cat.png"
        server.answers = [state("PENDING"), done(url), Reply(200, {"Content-Type": "image/png"}, PNG)]
        async with Runtime(save_dir=tmp_path) as rt:
            response = await images(base_url=server.origin)("a cat", save_local=True)
            (path,) = rt.files.dir_file.iterdir()
            assert response.image_urls == [str(path)]
            assert path.read_bytes() == PNG


async def test_f09_saving_without_a_run_is_refused_before_anything_is_paid():
    async with serve() as server:
        with pytest.raises(NoRuntimeError):
            await images(base_url=server.origin)("a cat", save_local=True)
        assert server.requests == []


async def test_budget_is_charged_once_for_a_task(quick):
    async with serve(state("PENDING"), state("RUNNING"), state("RUNNING"), done("https://x.org/1")) as server:
        budget = Budget(calls=1)
        response = await images(base_url=server.origin, budget=budget)("a cat")
        assert response.image_urls == ["https://x.org/1"]
        assert budget.spent.calls == 1


@pytest.mark.parametrize("status", [503, 504])
async def test_trouble_of_the_gateway_while_asking_is_ridden_out(quick, status):
    trouble = Reply(status, {}, b"<html>try later</html>")
    async with serve(state("PENDING"), trouble, trouble, done("https://x.org/1")) as server:
        model = images(base_url=server.origin, client_args={"max_retries": 0})
        assert (await model("a cat")).image_urls == ["https://x.org/1"]


async def test_refusal_while_asking_ends_the_call(quick):
    refusal = Reply(401, {}, b'{"code": "InvalidApiKey", "message": "no"}')
    async with serve(state("PENDING"), refusal) as server:
        with pytest.raises(ModelError) as caught:
            await images(base_url=server.origin)("a cat")
    assert caught.value.type == "auth"


async def test_question_that_is_not_answered_is_no_slow_task(quick):
    async with serve(state("PENDING"), Reply(408)) as server:
        with pytest.raises(ModelTimeout) as caught:
            await images(base_url=server.origin, client_args={"max_retries": 0})("a cat")
    assert caught.value.status == 408


async def test_image_is_not_asked_for_again_when_its_answer_is_lost(replay):
    model = images(base_url=replay.url("dashscope-image-async", "drop"))
    with pytest.raises(ModelError):
        await model("一只猫")
    assert len(replay.records) == 1


def test_failed_images_among_good_ones_are_left_out_with_a_warning(caplog):
    body = state("SUCCEEDED", results=[{"url": "u"}, {"code": "DataInspectionFailed", "message": "no"}])
    assert parse_image_response(body).image_urls == ["u"]
    assert "DataInspectionFailed" in caplog.text


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (state("SUCCEEDED", results=[{"code": "DataInspectionFailed", "message": "no"}]), ContentFiltered),
        (state("SUCCEEDED", results=[]), BadResponse),
        (state("SUCCEEDED", results=[7]), BadResponse),
        (state("CANCELED"), Conflict),
        (state("UNKNOWN"), NotFound),
        (state("DANCING"), BadResponse),
        ({"output": {"task_id": "t-1"}}, BadResponse),
        ({"code": "Throttling", "message": "slow"}, RateLimited),
        ([], BadResponse),
    ],
    ids=str,
)
async def test_other_ends_of_a_task_are_errors(quick, last, error):
    async with serve(state("PENDING"), last) as server:
        with pytest.raises(error) as caught:
            await images(base_url=server.origin)("a cat")
    assert caught.value.partial_text is None


async def test_task_that_takes_too_long_is_given_up(quick):
    async with serve(state("PENDING"), state("RUNNING"), is_last_repeated=True) as server:
        model = images(base_url=server.origin, client_args={"deadline_s": 0.2})
        with pytest.raises(ModelTimeout, match=r"t-1 was still RUNNING after 0\.2 s") as caught:
            await model("a cat")
    assert not caught.value.retryable


async def test_task_that_is_given_up_before_it_began_is_cancelled(quick):
    async with serve(state("PENDING"), is_last_repeated=True) as server:
        with pytest.raises(ModelTimeout, match="still PENDING"):
            await images(base_url=server.origin, client_args={"timeout": 0.2})("a cat")
        assert calls_off(server) == ["/api/v1/tasks/t-1/cancel"]


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
async def test_cancelled_call_cancels_a_task_that_has_not_begun(quick, status):
    async with serve(state(status), is_last_repeated=True) as server:
        call = asyncio.create_task(images(base_url=server.origin)("a cat"))
        await server.asked(3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert calls_off(server) == (["/api/v1/tasks/t-1/cancel"] if status == "PENDING" else [])


async def test_call_in_a_cancelled_scope_cancels_its_task_too(quick):
    async with serve(state("PENDING"), is_last_repeated=True) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(images(base_url=server.origin), "a cat")
            await server.asked(3)
            group.cancel_scope.cancel()
        assert calls_off(server) == ["/api/v1/tasks/t-1/cancel"]


def images(**options: Any) -> DashScopeImageSynthesisWrapper:
    return DashScopeImageSynthesisWrapper("test", "wanx-v1", "sk-secret-image-key", **options)


def calls_off(server: Scripted) -> list[str]:
    return [request.path for request in server.requests if request.path.endswith("/cancel")]
