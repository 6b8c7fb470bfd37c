"""Every fault of the wire on every provider: how many attempts, how long apart, which error, what is kept."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from agentscope_async.errors import (
    BadResponse,
    ConnectionFailed,
    ModelError,
    ModelTimeout,
    PartialStreamError,
    QuotaExhausted,
    RateLimited,
)
from agentscope_async.models._http_pools import in_use
from agentscope_async.models.dashscope import DashScopeChatWrapper
from agentscope_async.models.gemini import GeminiChatWrapper
from agentscope_async.models.ollama import OllamaChatWrapper, OllamaGenerationWrapper
from agentscope_async.models.openai import OpenAIChatWrapper
from agentscope_async.models.post_api import PostAPIChatWrapper

if TYPE_CHECKING:
    from recorder import ReplayServer

    from agentscope_async.models import ModelResponse, ModelWrapperBase

HELLO = [{"role": "user", "content": "Hello!"}]
runs = itertools.count()


@dataclass(frozen=True)
class Subject:
    """A provider's wrapper, the case it is answered from, and the case of a stream."""

    provider: str
    wrapper: type[ModelWrapperBase]
    prefix: str
    case: str
    stream_case: str | None = None
    prompt: Any = None
    says: str = ""

    def __str__(self) -> str:
        return self.wrapper.__name__

    def model(self, server: ReplayServer, fault: str, *, stream: bool = False, **client_args: Any):
        case = self.stream_case if stream else self.case
        assert case is not None
        return self.model_at(server.url(case, fault, run=f"run{next(runs)}"), **client_args)

    def model_at(self, origin: str, **client_args: Any):
        url = origin + self.prefix
        if self.wrapper is PostAPIChatWrapper:
            retries = client_args.pop("max_retries", 2)
            timeout = client_args.pop("timeout", 30)
            return PostAPIChatWrapper("p", api_url=url, max_retries=retries + 1, timeout=timeout)
        return self.wrapper(
            "c", model_name="m", api_key="sk-0123456789abcdef", base_url=url, client_args=client_args
        )

    @property
    def messages(self) -> Any:
        return HELLO if self.prompt is None else self.prompt


GEMINI_HELLO = [{"role": "user", "parts": ["Hello!"]}]
SUBJECTS = [
    Subject(
        "openai", OpenAIChatWrapper, "/v1", "openai-chat-basic", "openai-chat-stream", says="Hello there!"
    ),
    Subject(
        "dashscope",
        DashScopeChatWrapper,
        "/api/v1",
        "dashscope-chat-basic",
        "dashscope-chat-stream-incremental",
        says="我是通义千问",
    ),
    Subject(
        "gemini",
        GeminiChatWrapper,
        "/v1beta",
        "gemini-chat-basic",
        "gemini-chat-stream",
        GEMINI_HELLO,
        says="One, two, three",
    ),
    Subject("ollama", OllamaChatWrapper, "", "ollama-chat-basic", "ollama-chat-stream", says="The sky!"),
    Subject(
        "ollama",
        OllamaGenerationWrapper,
        "",
        "ollama-generate-basic",
        "ollama-generate-stream",
        "Hello!",
        says="Because",
    ),
    Subject("post_api", PostAPIChatWrapper, "/v1/chat", "post_api-chat-messages"),
]
STREAMING = [subject for subject in SUBJECTS if subject.stream_case]
every_provider = pytest.mark.parametrize("subject", SUBJECTS, ids=str)
every_stream = pytest.mark.parametrize("subject", STREAMING, ids=str)


@pytest.fixture(autouse=True)
async def _all_connections_given_back() -> AsyncIterator[None]:
    yield
    assert in_use() == 0


async def ask(subject: Subject, model: Any) -> ModelResponse:
    return await model(subject.messages)


async def listen(subject: Subject, model: Any) -> ModelResponse:
    async with model.stream(subject.messages) as stream:
        async for _ in stream:
            pass
    return stream.response


async def failure_of(subject: Subject, model: Any, how: Any = ask) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await how(subject, model)
    return caught.value


def requests(server: ReplayServer, fault: str) -> list[dict[str, Any]]:
    return [record for record in server.records if record["fault"] == fault]


def waits(server: ReplayServer, fault: str) -> list[float]:
    times = [record["t"] for record in requests(server, fault)]
    return [after - before for before, after in itertools.pairwise(times)]


# -- refusals --


@every_provider
async def test_wire_m02_what_may_pass_is_asked_three_times_and_then_raised(
    replay: ReplayServer, subject: Subject
):
    expected = {
        408: "timeout",
        409: "conflict",
        425: "conflict",
        429: "rate_limit",
        500: "server",
        502: "server",
        503: "overloaded",
        504: "timeout",
        529: "overloaded",
    }

    async def type_and_attempts(status: int) -> tuple[str, int, bool, int | None, int]:
        fault = f"{status},html"  # without a body that says more than the status
        error = await failure_of(subject, subject.model(replay, fault))
        return error.type, error.attempts, error.retryable, error.status, len(requests(replay, fault))

    found = await asyncio.gather(*(type_and_attempts(status) for status in expected))
    wanted = [(type, 3, True, status, 3) for status, type in expected.items()]
    assert found == wanted


@every_provider
async def test_wire_m02_what_cannot_pass_is_asked_once(replay: ReplayServer, subject: Subject):
    for status, type in {
        400: "bad_request",
        401: "auth",
        403: "permission",
        404: "not_found",
        413: "bad_request",
        422: "bad_request",
    }.items():
        error = await failure_of(subject, subject.model(replay, f"{status},html"))
        assert (error.type, error.status, error.retryable) == (type, status, False)
        assert (error.attempts, len(requests(replay, f"{status},html"))) == (1, 1)


@every_provider
async def test_a_call_succeeds_once_the_refusals_are_over(replay: ReplayServer, subject: Subject):
    faults = ["429x1", "429x2", "500x1", "503x2", "429x1,rams=120", "429x2,rams=80", "503x1,ra=0.1"]
    models = [subject.model(replay, fault) for fault in faults]
    responses = await asyncio.gather(*(ask(subject, model) for model in models))
    assert all(response.text for response in responses)
    assert [len(requests(replay, fault)) for fault in faults] == [2, 3, 2, 3, 2, 3, 2]


@every_provider
@pytest.mark.parametrize(
    ("fault", "at_least_s"), [("429x2,rams=700", 0.7), ("429x1,ra=1", 1.0), ("503x1,ra=1.2", 1.2)]
)
async def test_the_wait_is_never_shorter_than_the_server_asks(
    replay: ReplayServer, subject: Subject, fault: str, at_least_s: float
):
    await ask(subject, subject.model(replay, fault))
    assert min(waits(replay, fault)) >= at_least_s


async def test_retry_after_ms_wins_over_retry_after(replay: ReplayServer):
    (subject, *_) = SUBJECTS
    error = await failure_of(subject, subject.model(replay, "429,ra=60,rams=30"))
    assert (error.retry_after_s, error.attempts) == (0.03, 3)


@every_provider
async def test_a_wait_above_the_cap_is_not_waited_for_but_told(replay: ReplayServer, subject: Subject):
    error = await failure_of(subject, subject.model(replay, "429,ra=7200"))
    assert isinstance(error, RateLimited)
    assert (error.attempts, error.retry_after_s) == (1, 7200.0)


@pytest.mark.parametrize("subject", [each for each in SUBJECTS if each.provider != "ollama"], ids=str)
async def test_a_spent_quota_is_never_asked_again(replay: ReplayServer, subject: Subject):
    error = await failure_of(subject, subject.model(replay, "429,quota"))
    assert isinstance(error, QuotaExhausted)
    assert (error.type, error.retryable, error.attempts) == ("quota", False, 1)


@every_provider
async def test_max_retries_zero_asks_once(replay: ReplayServer, subject: Subject):
    error = await failure_of(subject, subject.model(replay, "503", max_retries=0))
    assert (error.attempts, len(requests(replay, "503"))) == (1, 1)


# -- connections --


@every_provider
async def test_wire_m03_a_refused_connection_is_tried_three_times(subject: Subject):
    error = await failure_of(subject, subject.model_at("http://127.0.0.1:9"))
    assert isinstance(error, ConnectionFailed)
    assert (error.type, error.retryable, error.attempts, error.status) == ("connection", True, 3, None)


@every_provider
async def test_wire_m03_a_connection_that_breaks_is_made_again(replay: ReplayServer, subject: Subject):
    faults = ["drop", "reset@0", "reset@50%", "fin@50%"]
    errors = await asyncio.gather(*(failure_of(subject, subject.model(replay, fault)) for fault in faults))
    assert [(error.type, error.attempts) for error in errors] == [("connection", 3)] * 4
    once = [f"{fault},first=1" for fault in faults]
    responses = await asyncio.gather(*(ask(subject, subject.model(replay, fault)) for fault in once))
    assert all(response.text for response in responses)


@every_provider
async def test_wire_m03_a_server_that_accepts_and_says_nothing_is_a_timeout(
    replay: ReplayServer, subject: Subject
):
    error = await failure_of(subject, subject.model(replay, "hang=30", timeout=0.2, max_retries=1))
    assert isinstance(error, ModelTimeout)
    assert (error.type, error.attempts) == ("timeout", 2)


@pytest.mark.parametrize("subject", STREAMING, ids=str)
@pytest.mark.parametrize("how", [ask, listen])
async def test_the_deadline_wins_over_everything(replay: ReplayServer, subject: Subject, how: Any):
    fault = "429,ra=1" if how is ask else "hang=30"
    model = subject.model(replay, fault, stream=how is listen, deadline_s=0.4, max_retries=50)
    error = await failure_of(subject, model, how)
    assert error.attempts == 1
    assert isinstance(error, RateLimited if how is ask else ModelTimeout)


# -- answers that are none --


@every_provider
@pytest.mark.parametrize("fault", ["200,html", "badjson", "badutf8", "trunc@50%", "trunc@0"])
async def test_wire_m05_an_answer_that_is_not_json_is_a_bad_response(
    replay: ReplayServer, subject: Subject, fault: str
):
    error = await failure_of(subject, subject.model(replay, fault))
    assert isinstance(error, BadResponse)
    assert (error.type, error.retryable, error.attempts, error.status) == ("bad_response", False, 1, 200)
    assert isinstance(error.raw, str)
    assert len(error.raw) <= 1024


@every_provider
async def test_bytes_that_come_slowly_or_singly_make_the_same_answer(replay: ReplayServer, subject: Subject):
    whole = await ask(subject, subject.model(replay, ""))
    for fault in ("bytes=1", "drip=50:0.002"):
        assert (await ask(subject, subject.model(replay, fault))).text == whole.text


# -- streams --


@every_stream
async def test_wire_m04_a_stream_comes_whole_however_its_bytes_come(replay: ReplayServer, subject: Subject):
    faults = ["", "bytes=1", "drip=40:0.001", "crlf", "ping", "crlf,bytes=1", "ping,bytes=3"]
    if subject.provider == "ollama":
        faults.remove("ping")
        faults.remove("ping,bytes=3")
    models = [subject.model(replay, fault, stream=True) for fault in faults]
    responses = await asyncio.gather(*(listen(subject, model) for model in models))
    assert [response.text for response in responses] == [subject.says] * len(faults)


@every_stream
async def test_twenty_streams_take_one_connection(replay: ReplayServer, subject: Subject):
    model = subject.model(replay, "", stream=True)
    for _ in range(20):
        await listen(subject, model)
    assert replay.total_connections == 1


@every_stream
@pytest.mark.parametrize("kind", ["trunc", "reset", "fin"])
async def test_wire_m04_a_stream_cut_at_any_of_50_places_is_never_taken_for_whole(
    replay: ReplayServer, subject: Subject, kind: str
):
    async def outcome(percent: int) -> str:
        model = subject.model(replay, f"{kind}@{percent}%,bytes=16", stream=True, max_retries=1)
        try:
            response = await listen(subject, model)
        except PartialStreamError as error:
            assert (error.type, error.retryable, error.status) == ("truncated", False, 200)
            assert error.partial_text is not None
            assert subject.says.startswith(error.partial_text)
            assert error.attempts == (1 if error.partial_text else 2)
            return "cut"
        except ConnectionFailed as error:
            assert (kind, error.attempts) != ("trunc", 2)
            assert error.partial_text is None
            return "lost"
        assert response.text == subject.says
        assert response.finish_reason
        return "whole"

    outcomes = await asyncio.gather(*(outcome(percent) for percent in range(0, 100, 2)))
    assert outcomes.count("cut") >= 15
    first_whole = outcomes.index("whole") if "whole" in outcomes else len(outcomes)
    assert set(outcomes[:first_whole]) <= {"cut", "lost"}
    assert set(outcomes[first_whole:]) <= {"whole"}


@every_stream
async def test_wire_m04_without_its_last_event_a_stream_is_whole_only_if_that_said_nothing(
    replay: ReplayServer, subject: Subject
):
    model = subject.model(replay, "noterm", stream=True)
    if subject.provider == "openai":  # its last event is only [DONE]
        assert (await listen(subject, model)).text == subject.says
    else:
        error = await failure_of(subject, model, listen)
        assert (type(error), error.type) == (PartialStreamError, "truncated")
        assert error.partial_text


@every_stream
@pytest.mark.parametrize("fault", ["badjson", "badutf8"])
async def test_wire_m04_garbage_in_a_stream_is_a_bad_response_with_the_text_so_far(
    replay: ReplayServer, subject: Subject, fault: str
):
    error = await failure_of(subject, subject.model(replay, fault, stream=True), listen)
    assert isinstance(error, BadResponse)
    assert error.attempts == 1
    assert subject.says.startswith(error.partial_text or "")


@every_stream
async def test_a_stream_is_tried_again_while_nothing_was_heard(replay: ReplayServer, subject: Subject):
    faults = ["429x2", "503x1,ra=0.1", "drop,first=2", "reset@0,first=1", "trunc@0,first=1", "500x1,html"]
    models = [subject.model(replay, fault, stream=True) for fault in faults]
    responses = await asyncio.gather(*(listen(subject, model) for model in models))
    assert [response.text for response in responses] == [subject.says] * len(faults)


@every_stream
async def test_a_stream_that_stalls_is_given_up_with_what_was_heard(replay: ReplayServer, subject: Subject):
    model = subject.model(replay, "bytes=64,stall=30@60%", stream=True, timeout=0.3)
    error = await failure_of(subject, model, listen)
    assert (error.type, error.attempts) == ("truncated", 1)
    assert error.partial_text
    assert subject.says.startswith(error.partial_text)


@every_stream
async def test_leaving_a_stream_ends_the_request(replay: ReplayServer, subject: Subject):
    model = subject.model(replay, "drip=30:0.02", stream=True)
    async with model.stream(subject.messages) as stream:
        async for _ in stream:
            break
    while replay.open_connections:
        await asyncio.sleep(0.01)
    assert [record["sent"]["outcome"] for record in replay.records] == ["client-left"]


@every_stream
async def test_wire_m10_after_random_cancels_nothing_is_held(replay: ReplayServer, subject: Subject):
    model = subject.model(replay, "", stream=True)
    limiter = model.gate(asyncio.get_running_loop()).limiter

    async def cancelled(turns: int) -> None:
        call = asyncio.create_task(listen(subject, model))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])

    for _ in range(10):
        await asyncio.gather(*(cancelled(turns) for turns in range(1, 31)))
    assert limiter.statistics().in_flight == 0
    assert (await listen(subject, model)).text == subject.says


# -- herds --


async def test_wire_m09_a_thousand_calls_refused_first_do_not_all_come_back(replay: ReplayServer):
    (subject, *_) = SUBJECTS
    model = subject.model(replay, "503", max_concurrency=200)
    outcomes = await asyncio.gather(*(ask(subject, model) for _ in range(1000)), return_exceptions=True)
    assert all(isinstance(outcome, ModelError) for outcome in outcomes)
    assert len(requests(replay, "503")) <= 1000 * 1.1 + 10


async def test_a_lone_caller_is_not_slowed_down_long_after_it_has_waited(replay: ReplayServer):
    (subject, *_) = SUBJECTS
    model = subject.model(replay, "429x1,rams=900")
    limiter = model.gate(asyncio.get_running_loop()).limiter
    await ask(subject, model)
    pace_per_s = limiter.statistics().ramp_pace_per_s
    assert pace_per_s is None or pace_per_s >= 2.0


async def test_a_redirection_is_told_where_to(replay: ReplayServer):
    transport = httpx.MockTransport(
        lambda request: httpx.Response(302, headers={"Location": "https://elsewhere.example/v1?key=secret"})
    )
    model = OpenAIChatWrapper(
        "c", "m", base_url="http://here.example/v1", client_args={"transport": transport}
    )
    with pytest.raises(ModelError, match=r"sends us on to https://elsewhere\.example.*base_url") as caught:
        await model(HELLO)
    assert "secret" not in str(caught.value)
