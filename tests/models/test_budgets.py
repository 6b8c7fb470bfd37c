"""Budgets and limits as a user meets them: through wrappers and agents, before a server that counts."""

from __future__ import annotations

import asyncio
import logging as stdlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from models.scripted import HANG, serve
from recorder import Fault, Recorder, Reply, Request

from agentscope_async import AgentBase, DialogAgent, Msg, Runtime, _context, init
from agentscope_async.errors import (
    AgentScopeWarning,
    BadRequest,
    BadResponse,
    BudgetExceededError,
    ConnectionFailed,
    ModelError,
    ModelTimeout,
    PartialStreamError,
    ServerError,
)
from agentscope_async.models import _limits, _retries
from agentscope_async.models._http_pools import in_use
from agentscope_async.models.fallback import FallbackModel
from agentscope_async.models.ollama import OllamaChatWrapper
from agentscope_async.models.openai import OpenAIChatWrapper
from agentscope_async.monitor import Budget, active_budgets

HELLO = [{"role": "user", "content": "Hello!"}]
LIMIT_TOKENS = 20
"""What calls say their answer may have at most; less than any answer's usage would be too much."""
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
PRICES = {"m": (0.5, 1.5)}


@pytest.fixture(autouse=True)
def _retries_come_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retries, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(_limits, "doubled_s", lambda times: 0.001)


@pytest.fixture(autouse=True)
async def _all_connections_given_back() -> AsyncIterator[None]:
    yield
    assert in_use() == 0


def completion(usage: Any = USAGE, text: str = "Hi") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return body if usage is None else {**body, "usage": usage}


def events(usage: Any = USAGE) -> bytes:
    """Return a stream of four words, with or without a usage at its end."""
    parts: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in ("one ", "two ", "three ", "four")
    ]
    parts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage is not None:
        parts.append({"choices": [], "usage": usage})
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"".join(b"data: %s\n\n" % orjson.dumps({**head, **part}) for part in parts) + b"data: [DONE]\n\n"


def streamed(usage: Any = USAGE, fault: str = "") -> Reply:
    headers = {"Content-Type": "text/event-stream"}
    return Reply(200, headers, events(usage), stream="sse", fault=Fault.parse(fault))


def spoilt(fault: str, body: Any = None) -> Reply:
    return Reply(200, {}, orjson.dumps(body or completion()), fault=Fault.parse(fault))


def refusal(status: int) -> Reply:
    return Reply(status, {"retry-after-ms": "1"}, b'{"error": {"message": "no"}}')


def chat(origin: str, **options: Any) -> OpenAIChatWrapper:
    client_args = {"max_retries": 0, "timeout": 30, **options.pop("client_args", {})}
    name = options.pop("model_name", "m")
    return OpenAIChatWrapper("c", name, "sk", base_url=f"{origin}/v1", client_args=client_args, **options)


async def ask(model: Any, **args: Any) -> Any:
    return await model(HELLO, max_tokens=LIMIT_TOKENS, **args)


async def listen(model: Any, **args: Any) -> Any:
    async with model.stream(HELLO, max_tokens=LIMIT_TOKENS, **args) as stream:
        async for _ in stream:
            pass
    return stream.response


async def together(calls: int, call: Callable[[], Awaitable[Any]]) -> tuple[list[Any], list[BaseException]]:
    """Make that many calls at once; return what was answered and what was raised."""
    outcomes = await asyncio.gather(*(call() for _ in range(calls)), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)], failures


def most_of(request: Request) -> int:
    """Return the tokens that are reserved for a request: a token has a byte at least."""
    return len(request.raw) + LIMIT_TOKENS


@dataclass
class Watched:
    """A server that looks at a budget with each request."""

    budget: Budget
    answer: Any = field(default_factory=completion)
    seen: list[Any] = field(default_factory=list)

    async def __call__(self, request: Request) -> Reply:
        spent, reserved = self.budget.spent, self.budget.reserved
        self.seen.append(
            (spent.usd + reserved.usd, spent.tokens + reserved.tokens, spent.calls + reserved.calls)
        )
        return Reply(200, {}, orjson.dumps(self.answer))

    def most(self) -> tuple[float, int, int]:
        usd, tokens, calls = zip(*self.seen, strict=True)
        return max(usd), max(tokens), max(calls)


def refused_port() -> int:
    """Return a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


# -- where a budget may be given --


async def test_e08_a_number_is_usd_and_refuses_a_call_before_it_is_sent():
    usage = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
    async with serve(completion(usage), is_last_repeated=True) as server:
        model = chat(server.origin, model_name="gpt-4", budget=0.015)
        await model(HELLO, max_tokens=100)
        with pytest.raises(BudgetExceededError) as caught:
            await model(HELLO, max_tokens=100)
    error = caught.value
    assert (error.name, error.limit, error.allowed) == ("gpt-4", "usd", 0.015)
    assert error.spent == pytest.approx(0.0066)  # 20 at 30 USD and 100 at 60 USD a million
    assert error.reserved == 0
    assert len(server.requests) == 1


async def test_a_number_for_a_model_without_a_price_warns_once_and_costs_nothing():
    async with serve(completion(), is_last_repeated=True) as server:
        model = chat(server.origin, budget=0.000_001)
        with pytest.warns(AgentScopeWarning, match="price of model 'm' is not known"):
            await ask(model)
        await ask(model)
    assert len(server.requests) == 2


async def test_the_budget_of_a_wrapper_holds_for_all_its_calls_and_no_others():
    budget = Budget(calls=2)
    async with serve(completion(), is_last_repeated=True) as server:
        mine, other = chat(server.origin, budget=budget), chat(server.origin)
        await ask(mine)
        await ask(other)
        await ask(mine)
        with pytest.raises(BudgetExceededError):
            await ask(mine)
        await ask(other)
    assert len(server.requests) == 4
    assert budget.spent.calls == 2


async def test_the_budget_of_a_runtime_is_shared_by_a_team_that_asks_submits_and_posts():
    budget = Budget(calls=3)
    async with serve(completion(), is_last_repeated=True) as server:
        model = chat(server.origin)
        async with Runtime(budget=budget) as rt:
            asked, told, submitted = (DialogAgent(name, model=model) for name in ("ask", "tell", "submit"))
            await asked(Msg("me", "Hello!", "user"))
            await told.post(Msg("me", "Hello!", "user"))
            await submitted.submit(Msg("me", "Hello!", "user"))
            await rt.drain()
            assert budget.spent.calls == 3
            with pytest.raises(BudgetExceededError):
                await asked(Msg("me", "And?", "user"))
            with pytest.raises(BudgetExceededError):
                await submitted.submit(Msg("me", "And?", "user"))
            await told.post(Msg("me", "And?", "user"))
            await rt.drain()
            assert [type(letter.error) for letter in rt.dead_letters] == [BudgetExceededError]
    assert len(server.requests) == 3
    assert budget.reserved.calls == 0


async def test_all_budgets_around_a_call_are_charged_each_once():
    outer, inner, of_runtime, own = (Budget(calls=10, name=str(n)) for n in range(4))
    async with serve(completion(), is_last_repeated=True) as server:
        async with Runtime(budget=of_runtime), outer:
            model = chat(server.origin, budget=own)
            with inner, outer, own:
                await ask(model)
            await ask(model)
        await ask(model)
        assert active_budgets() == ()
    assert [each.spent.calls for each in (outer, inner, of_runtime, own)] == [2, 1, 2, 3]
    assert [each.spent.tokens for each in (outer, inner, of_runtime, own)] == [42, 21, 42, 63]
    assert {each.reserved.calls for each in (outer, inner, of_runtime, own)} == {0}


async def test_a_call_one_budget_refuses_leaves_nothing_reserved_in_the_others():
    wide, narrow = Budget(calls=10), Budget(tokens=10)
    async with serve(completion(), is_last_repeated=True) as server:
        model = chat(server.origin)
        with wide, narrow, pytest.raises(BudgetExceededError):
            await ask(model)
        with narrow, wide, pytest.raises(BudgetExceededError):
            await ask(model)
    assert server.requests == []
    assert (wide.spent.calls, wide.reserved.calls, narrow.reserved.tokens) == (0, 0, 0)


async def test_what_is_submitted_and_posted_in_a_block_is_charged_to_it():
    budget = Budget(calls=10)
    async with serve(completion(), is_last_repeated=True) as server, Runtime() as rt:
        agent = DialogAgent("a", model=chat(server.origin))
        with budget:
            reply = agent.submit(Msg("me", "1", "user"))
            await agent.post(Msg("me", "2", "user"))
        await reply
        await rt.drain()
        await agent(Msg("me", "3", "user"))
    assert budget.spent.calls == 2


class Patient(DialogAgent):
    """Waits in its first turn until it may go on."""

    __slots__ = ("has_begun", "may_go")

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.has_begun, self.may_go = asyncio.Event(), asyncio.Event()

    async def reply(self, x: Any = None) -> Msg:
        self.has_begun.set()
        await self.may_go.wait()
        return await super().reply(x)


@pytest.mark.parametrize("first", ["ask", "post"])
@pytest.mark.parametrize("is_inside", [True, False])
async def test_a_letter_behind_others_is_charged_to_the_block_it_was_sent_in(first: str, is_inside: bool):
    budget = Budget(calls=10)
    async with serve(completion(), is_last_repeated=True) as server, Runtime() as rt:
        agent = Patient("a", model=chat(server.origin))

        async def begin() -> asyncio.Task[Any]:
            task: asyncio.Task[Any] = asyncio.create_task(_send(agent, first))
            await agent.has_begun.wait()
            return task

        if is_inside:  # the letters are sent in the block, the one before them outside
            running = await begin()
            with budget:
                reply = agent.submit(Msg("me", "2", "user"))
                await agent.post(Msg("me", "3", "user"))
        else:
            with budget:
                running = await begin()
            reply = agent.submit(Msg("me", "2", "user"))
            await agent.post(Msg("me", "3", "user"))
        agent.may_go.set()
        await running
        await reply
        await rt.drain()
    assert len(server.requests) == 3
    assert budget.spent.calls == (2 if is_inside else 1)


async def _send(agent: AgentBase, how: str) -> None:
    await (agent(Msg("me", "1", "user")) if how == "ask" else agent.post(Msg("me", "1", "user")))


# -- many calls at once --


async def test_of_500_calls_at_once_exactly_the_100_allowed_are_sent():
    budget = Budget(calls=100)
    watched = Watched(budget)
    async with Recorder(watched) as server:
        model = chat(server.origin, budget=budget)
        answers, failures = await together(500, lambda: ask(model))
    assert len(server.requests) == len(answers) == 100
    assert [type(failure) for failure in failures] == [BudgetExceededError] * 400
    assert (budget.spent.calls, budget.reserved.calls) == (100, 0)
    assert watched.most()[2] <= 100


async def test_money_for_100_calls_is_never_overspent_and_nearly_all_used():
    # 12 of 20 output tokens and 9 of about 75 possible input tokens are used.
    usd_each = (9 * 0.5 + 12 * 1.5) / 1e6
    budget = Budget(usd=round(100 * usd_each, 9), prices=PRICES)
    watched = Watched(budget)
    async with Recorder(watched) as server:
        model = chat(server.origin, budget=budget)
        answers, failures = await together(500, lambda: ask(model))
    assert {type(failure) for failure in failures} == {BudgetExceededError}
    assert watched.most()[0] <= 100 * usd_each * (1 + 1e-12)
    assert 95 <= len(answers) == len(server.requests) <= 100
    assert budget.spent.usd == pytest.approx(len(answers) * usd_each)
    assert (budget.reserved.usd, budget.reserved.calls) == (0, 0)


async def test_money_is_used_up_to_the_last_call_when_calls_take_what_they_reserved():
    async def answer(request: Request) -> Reply:
        usage = {"prompt_tokens": len(request.raw), "completion_tokens": LIMIT_TOKENS}
        return Reply(200, {}, orjson.dumps(completion(usage)))

    async with Recorder(answer) as server:
        await ask(chat(server.origin))
        usd_each = (len(server.requests[0].raw) * 0.5 + LIMIT_TOKENS * 1.5) / 1e6
        budget = Budget(usd=round(100 * usd_each, 9), prices=PRICES)
        model = chat(server.origin, budget=budget)
        answers, _ = await together(500, lambda: ask(model))
    assert len(answers) == 100
    assert budget.spent.usd == pytest.approx(100 * usd_each)
    assert budget.remaining.usd == 0


async def test_many_calls_limited_in_tokens_are_never_overspent():
    budget = Budget(tokens=2_100)
    watched = Watched(budget)
    async with Recorder(watched) as server:
        model = chat(server.origin, budget=budget)
        answers, _ = await together(500, lambda: ask(model))
    assert watched.most()[1] <= 2_100
    assert 95 <= len(answers) <= 100
    assert (budget.spent.tokens, budget.reserved.tokens) == (21 * len(answers), 0)


@pytest.mark.parametrize("text", ["0123456789abcdef" * 2_000, "data:," + "x" * 20_000, "\u8bf4" * 9_000])
async def test_a_long_text_without_spaces_is_reserved_whole(text: str):
    budget = Budget(tokens=10_000)
    async with serve() as server:
        with pytest.raises(BudgetExceededError) as caught:
            await chat(server.origin, budget=budget)([{"role": "user", "content": text}], max_tokens=1)
    assert caught.value.needed > len(text.encode())


async def test_an_image_is_not_counted_by_its_bytes():
    url = "data:image/png;base64," + "A" * 400_000
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    budget = Budget(tokens=10_000)
    async with serve(completion()) as server:
        await chat(server.origin, budget=budget)([{"role": "user", "content": content}], max_tokens=1)
    assert (budget.spent.tokens, budget.reserved.tokens) == (21, 0)


@pytest.mark.parametrize("limit", [{"tokens": 1_000}, {"usd": 1.0, "prices": PRICES}])
async def test_a_call_without_a_limit_is_given_the_budgets(limit: dict[str, Any]):
    wide, narrow = Budget(max_output_tokens=90, **limit), Budget(max_output_tokens=33, **limit)
    async with serve(completion(), is_last_repeated=True) as server:
        model = chat(server.origin, budget=wide)
        await model(HELLO)
        with narrow:
            await model(HELLO)
            await model(HELLO, max_tokens=50)
        ollama = OllamaChatWrapper("o", "m", host=server.origin, budget=wide)
        with pytest.raises(BadResponse):  # it is asked in ollama's form and answers in OpenAI's
            await ollama(HELLO)
    bodies = [request.json for request in server.requests]
    assert [body.get("max_tokens") for body in bodies] == [90, 33, 50, None]
    assert bodies[3]["options"]["num_predict"] == 90


async def test_a_limit_on_calls_alone_leaves_the_request_as_it_is():
    async with serve(completion()) as server:
        await chat(server.origin, budget=Budget(calls=1))(HELLO)
    assert "max_tokens" not in server.requests[0].json


# -- what a call is settled at --


@dataclass
class Case:
    """One end of a call: what the server does, what is raised, and what is spent in the end."""

    name: str
    answers: tuple[Any, ...]
    how: Callable[..., Awaitable[Any]] = ask
    error: type[BaseException] | None = None
    spent: str = "used"
    calls: int = 1
    client_args: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def with_usage(prompt_tokens: Any = 9, completion_tokens: Any = 12) -> dict[str, Any]:
    return completion({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens})


CASES = [
    Case("answered", (completion(),)),
    Case("without usage", (completion(None),), spent="reserved"),
    Case("usage null", ({**completion(), "usage": None},), spent="reserved"),
    Case("usage of zero", (with_usage(0, 0),), spent="none"),
    Case("usage negative", (with_usage(prompt_tokens=-9),), spent="reserved"),
    Case("usage a text", (with_usage(prompt_tokens="9"),), spent="reserved"),
    Case("usage a float", (with_usage(completion_tokens=1.5),), spent="reserved"),
    Case("usage too large for one call", (with_usage(completion_tokens=10**7),), spent="reserved"),
    Case("usage absurd", (with_usage(completion_tokens=10**18),), spent="reserved"),
    Case("usage true", (with_usage(completion_tokens=True),), spent="reserved"),
    Case("usage contradicting itself", (completion({**USAGE, "completion_tokens": -1}),), spent="reserved"),
    Case("usage only in total", (completion({"total_tokens": 21}),), spent="reserved"),
    Case("usage a list", (completion([1, 2]),), spent="reserved"),
    Case("not JSON", (Reply(200, {}, b"<html>"),), error=BadResponse, spent="reserved"),
    Case("not a completion", ({"choices": 7},), error=BadResponse, spent="reserved"),
    Case("not a choice", ({"choices": [{"message": 7}]},), error=BadResponse, spent="reserved"),
    Case("cut in the answer", (spoilt("reset@50%"),), error=ConnectionFailed, spent="reserved"),
    Case("closed in the answer", (spoilt("fin@50%"),), error=ConnectionFailed, spent="reserved"),
    Case("reset after sending", (spoilt("drop"),), error=ConnectionFailed, spent="reserved"),
    Case("timeout", (HANG,), error=ModelTimeout, spent="reserved", client_args={"timeout": 0.05}),
    Case("deadline", (HANG,), error=ModelTimeout, spent="reserved", client_args={"deadline_s": 1.0}),
    *(
        Case(f"status {status}", (refusal(status),), error=ModelError, spent="none", calls=0)
        for status in (302, 400, 401, 403, 404, 408, 429, 500, 503, 529)
    ),
    Case("stream", (streamed(),), listen),
    Case("stream without usage", (streamed(None),), listen, spent="reserved"),
    Case(
        "stream with nonsense for usage",
        (streamed({**USAGE, "prompt_tokens": "x"}),),
        listen,
        spent="reserved",
    ),
    Case("stream refused", (refusal(500),), listen, ServerError, spent="none", calls=0),
    Case("stream ended early", (streamed(fault="trunc@50%"),), listen, PartialStreamError, spent="reserved"),
    Case("stream cut", (streamed(fault="reset@50%"),), listen, PartialStreamError, spent="reserved"),
    Case("stream never begun", (streamed(fault="drop"),), listen, ConnectionFailed, spent="reserved"),
    Case("stream of garbage", (streamed(fault="badjson"),), listen, BadResponse, spent="reserved"),
    Case(
        "stream stalls",
        (streamed(fault="stall=30@50%"),),
        listen,
        PartialStreamError,
        spent="reserved",
        client_args={"timeout": 0.1},
    ),
    Case(
        "stream beyond its deadline",
        (streamed(fault="stall=30@50%"),),
        listen,
        ModelError,
        spent="reserved",
        client_args={"deadline_s": 1.0},
    ),
]


@pytest.fixture(params=["memory", "file"])
async def budget(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Budget]:
    """A budget nothing in a test exceeds; afterwards nothing may be reserved."""
    path = tmp_path / "budget.db" if request.param == "file" else None
    budget = Budget(tokens=10**7, calls=1000, usd=1000, prices=PRICES, path=path)
    yield budget
    await budget.refresh()
    assert (budget.reserved.calls, budget.reserved.tokens, budget.reserved.usd) == (0, 0, 0)
    await budget.aclose()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_call_is_settled_at(case: Case, budget: Budget):
    async with serve(*case.answers) as server:
        model = chat(server.origin, budget=budget, client_args=case.client_args)
        if case.error is None:
            await case.how(model)
        else:
            with pytest.raises(case.error):
                await case.how(model)
        tokens = {"none": 0, "used": 21, "reserved": most_of(server.requests[0])}[case.spent]
        assert (budget.spent.tokens, budget.spent.calls) == (tokens, case.calls)
        assert (budget.reserved.tokens, budget.reserved.calls) == (0, 0)


async def test_tokens_above_what_was_reserved_are_logged_only_where_tokens_matter(
    caplog: pytest.LogCaptureFixture,
):
    usage = {"prompt_tokens": 9, "completion_tokens": 200}
    async with serve(completion(usage), is_last_repeated=True) as server:
        await ask(chat(server.origin, budget=Budget(calls=1)))
        assert "more than it had reserved" not in caplog.text
        await ask(chat(server.origin, budget=Budget(tokens=1000)))
        assert "more than it had reserved" in caplog.text


async def test_usage_above_what_was_reserved_is_spent_and_refuses_the_next():
    usage = {"prompt_tokens": 9, "completion_tokens": 2000, "total_tokens": 2009}
    budget = Budget(tokens=500)
    async with serve(completion(usage), is_last_repeated=True) as server:
        model = chat(server.origin, budget=budget)
        await ask(model)
        with pytest.raises(BudgetExceededError):
            await ask(model)
    assert (budget.spent.tokens, budget.reserved.tokens) == (2009, 0)


async def test_a_refused_connection_costs_nothing(budget: Budget):
    model = chat(f"http://127.0.0.1:{refused_port()}", budget=budget, client_args={"max_retries": 1})
    for how in (ask, listen):
        with pytest.raises(ConnectionFailed) as caught:
            await how(model)
        assert caught.value.attempts == 2
    assert (budget.spent.calls, budget.reserved.calls) == (0, 0)


async def test_what_cannot_be_sent_costs_nothing_and_is_a_bad_request(budget: Budget):
    async with serve() as server:
        model = chat(server.origin, budget=budget)
        for how in (ask, listen):
            with pytest.raises(BadRequest, match="cannot be written as JSON"):
                await how(model, metadata=object())
    assert server.requests == []
    assert (budget.spent.calls, budget.reserved.calls) == (0, 0)


async def test_what_cannot_be_sent_is_a_bad_request_under_a_limit_on_tokens_a_minute_too():
    async with serve() as server:
        model = chat(server.origin, client_args={"tokens_per_min": 100_000})
        with pytest.raises(BadRequest, match="cannot be written as JSON"):
            await ask(model, metadata=object())
    limiter = model.gate(asyncio.get_running_loop()).limiter
    assert (limiter.statistics().in_flight, limiter.statistics().waiting) == (0, 0)


# -- cancelled --


@pytest.mark.parametrize("how", [ask, listen])
async def test_cancelled_while_waiting_for_an_answer_it_is_settled_at_what_was_reserved(
    how: Any, budget: Budget
):
    async with serve(HANG) as server:
        call = asyncio.create_task(how(chat(server.origin, budget=budget)))
        await server.asked(1)
        assert budget.reserved.calls == 1
        await cancelled(call)
        assert (budget.spent.calls, budget.spent.tokens) == (1, most_of(server.requests[0]))
        assert budget.reserved.calls == 0


@pytest.mark.parametrize("how", [ask, listen])
async def test_cancelled_while_it_waits_for_the_limiter_it_has_reserved_nothing(how: Any, budget: Budget):
    async with serve(HANG) as server:
        model = chat(server.origin, budget=budget, client_args={"max_concurrency": 1})
        first = asyncio.create_task(ask(model))
        await server.asked(1)
        second = asyncio.create_task(how(model))
        await until(lambda: model.gate(asyncio.get_running_loop()).limiter.statistics().waiting == 1)
        await cancelled(second)
        assert (budget.spent.calls, budget.reserved.calls) == (0, 1)
        await cancelled(first)
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", [ask, listen])
async def test_cancelled_while_it_waits_for_room_in_a_budget_it_has_reserved_nothing(
    how: Any, budget: Budget
):
    # Reserved after the other one, which has room.
    narrow = Budget(calls=1, path=None if budget.path is None else budget.path.with_name("narrow.db"))
    async with serve(HANG) as server:
        model = chat(server.origin)
        limiter = model.gate(asyncio.get_running_loop()).limiter
        with budget, narrow:
            first = asyncio.create_task(ask(model))
            await server.asked(1)
            second = asyncio.create_task(how(model))
            await until(lambda: limiter.statistics().in_flight == 2 and budget.reserved.calls == 2)
        await cancelled(second)
        assert (budget.spent.calls, budget.reserved.calls, narrow.reserved.calls) == (0, 1, 1)
        await cancelled(first)
        assert limiter.statistics().in_flight == 0
    await narrow.aclose()
    assert (narrow.spent.calls, narrow.reserved.calls) == (1, 0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", [ask, listen])
async def test_cancelled_at_any_step_nothing_stays_reserved(how: Any, budget: Budget):
    async with Recorder(answer_in_kind) as server:
        model = chat(server.origin, budget=budget)

        async def cut_off(turns: int) -> None:
            call = asyncio.create_task(how(model))
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancelled(call)

        for _ in range(3):
            await asyncio.gather(*(cut_off(turns) for turns in range(60)))
        await budget.refresh()
        assert budget.reserved.calls == 0
        assert len(server.requests) <= budget.spent.calls <= 180
        await how(model)


async def answer_in_kind(request: Request) -> Reply:
    return streamed() if request.json.get("stream") else Reply(200, {}, orjson.dumps(completion()))


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


async def test_a_stream_left_early_is_settled_at_what_was_reserved(budget: Budget):
    async with serve(streamed(fault="stall=30@50%")) as server:
        model = chat(server.origin, budget=budget)
        async with model.stream(HELLO, max_tokens=LIMIT_TOKENS) as stream:
            async for _ in stream:
                assert (budget.spent.calls, budget.reserved.calls) == (0, 1)
                break
        assert (budget.spent.calls, budget.reserved.calls) == (1, 0)
        assert budget.spent.tokens == most_of(server.requests[0])


async def test_a_stream_that_is_never_read_costs_nothing(budget: Budget):
    async with serve() as server, chat(server.origin, budget=budget).stream(HELLO):
        pass
    assert (budget.spent.calls, budget.reserved.calls, server.requests) == (0, 0, [])


async def test_a_stream_that_waits_for_room_keeps_its_deadline():
    narrow = Budget(calls=1)
    async with serve(HANG) as server:
        with narrow:
            first = asyncio.create_task(ask(chat(server.origin)))
            await server.asked(1)
            late = chat(server.origin, client_args={"deadline_s": 0.05})
            for how in (ask, listen):
                with pytest.raises(ModelTimeout):
                    await asyncio.wait_for(how(late), 10)
        assert narrow.reserved.calls == 1
        await cancelled(first)
    assert len(server.requests) == 1


# -- retries and fallbacks --


@pytest.mark.parametrize("how", [ask, listen])
async def test_each_attempt_is_settled_by_itself(how: Any, budget: Budget):
    last = completion() if how is ask else streamed()
    lost = spoilt("drop")
    async with serve(refusal(503), lost, refusal(429), last) as server:
        await how(chat(server.origin, budget=budget, client_args={"max_retries": 3}))
        assert len(server.requests) == 4
        assert budget.spent.calls == 2  # the lost one may have been billed
        assert budget.spent.tokens == most_of(server.requests[1]) + 21


async def test_a_retry_the_budget_has_no_room_for_is_not_sent():
    budget = Budget(calls=1)
    async with serve(spoilt("drop"), completion()) as server:
        with pytest.raises(BudgetExceededError):
            await ask(chat(server.origin, budget=budget, client_args={"max_retries": 2}))
    assert len(server.requests) == 1
    assert (budget.spent.calls, budget.reserved.calls) == (1, 0)


@pytest.mark.parametrize("how", [ask, listen])
async def test_a_fallback_is_charged_for_each_model_that_may_have_cost(how: Any, budget: Budget):
    last = completion() if how is ask else streamed()
    async with serve(refusal(500)) as down, serve(spoilt("drop")) as lost, serve(last) as up:
        model = FallbackModel([chat(each.origin) for each in (down, lost, up)])
        with budget:
            await how(model)
        assert budget.spent.calls == 2
        assert budget.spent.tokens == most_of(lost.requests[0]) + 21


async def test_a_used_up_budget_ends_a_fallback_before_the_next_model_is_asked():
    budget = Budget(calls=1)
    async with serve(spoilt("drop")) as lost, serve(completion()) as up:
        with budget, pytest.raises(BudgetExceededError):
            await ask(FallbackModel([chat(lost.origin), chat(up.origin)]))
    assert (len(lost.requests), len(up.requests)) == (1, 0)


# -- budgets that wait for each other --


async def test_calls_charged_to_the_same_budgets_in_opposite_order_do_not_wait_for_each_other(tmp_path: Any):
    async with serve(completion(), is_last_repeated=True) as server:
        model = chat(server.origin)
        await ask(model)
        # Room for what one call reserves, and for what 40 calls use: they can only go one by one.
        tokens = most_of(server.requests[0]) + 40 * 21
        one, other = (Budget(tokens=tokens, path=tmp_path / f"{name}.db", name=name) for name in "ab")

        async def call(*budgets: Budget) -> None:
            with budgets[0], budgets[1]:
                await ask(model)

        calls = [call(one, other) if index % 2 else call(other, one) for index in range(40)]
        async with asyncio.timeout(20):
            await asyncio.gather(*calls)
        assert (one.spent.calls, other.spent.calls) == (40, 40)
        assert (one.reserved.calls, other.reserved.calls) == (0, 0)
        await one.aclose()
        await other.aclose()


# -- another provider --


async def test_ollama_is_charged_as_well():
    answer = {
        "model": "m", "created_at": "2024-01-01T00:00:00Z", "done": True, "done_reason": "stop",
        "message": {"role": "assistant", "content": "Hi"}, "prompt_eval_count": 9, "eval_count": 12,
    }  # fmt: skip
    budget = Budget(calls=3, tokens=10_000)
    lines = orjson.dumps({**answer, "done": False}) + b"\n" + orjson.dumps({**answer}) + b"\n"
    stream = Reply(200, {"Content-Type": "application/x-ndjson"}, lines, stream="ndjson")
    async with serve(answer, stream, refusal(500), {**answer, "eval_count": -1}) as server:
        model = OllamaChatWrapper("o", "m", host=server.origin, budget=budget, client_args={"max_retries": 0})
        await model(HELLO, options={"num_predict": LIMIT_TOKENS})
        async with model.stream(HELLO, options={"num_predict": LIMIT_TOKENS}) as heard:
            async for _ in heard:
                pass
        assert (budget.spent.calls, budget.spent.tokens, budget.reserved.tokens) == (2, 42, 0)
        with pytest.raises(ModelError):
            await model(HELLO)
        assert (budget.spent.calls, budget.spent.tokens, budget.reserved.tokens) == (2, 42, 0)
        await model(HELLO, options={"num_predict": LIMIT_TOKENS})
        assert budget.spent.tokens == 42 + most_of(server.requests[3])
        with pytest.raises(BudgetExceededError):
            await model(HELLO)
    assert len(server.requests) == 4


async def test_what_is_no_answer_of_a_model_counts_against_no_budget():
    budget = Budget(tokens=1)
    async with serve({"models": [{"name": "m"}]}) as server:
        assert await OllamaChatWrapper("o", "m", host=server.origin, budget=budget).list_models() == ["m"]
    assert (budget.spent.calls, budget.reserved.calls) == (0, 0)


# -- metrics --


METRICS = ("call_counter", "prompt_tokens", "completion_tokens", "total_tokens")


async def test_e08_metrics_of_a_runtime_grow_with_each_call_and_not_with_a_refused_one():
    async with serve(completion(), streamed(), refusal(500)) as server:
        async with Runtime(budget=Budget(calls=2)) as rt:
            model = chat(server.origin)
            grown = []
            for how in (ask, listen):
                await how(model)
                grown.append([await rt.monitor.get_value(f"m.{name}") for name in METRICS])
            with pytest.raises(BudgetExceededError):
                await ask(model)
            assert [await rt.monitor.get_value(f"m.{name}") for name in METRICS] == grown[1]
    assert grown == [[1, 9, 12, 21], [2, 18, 24, 42]]
    assert len(server.requests) == 2


@pytest.fixture
async def initialised(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """What ``init`` sets up; other tests see none of it."""
    monkeypatch.setattr(_context, "process_services", None)
    level = stdlib.getLogger("agentscope_async").level
    init(save_dir=tmp_path, save_code=False, save_log=False, save_api_invoke=False)
    yield _context.find_services()
    await _context.process_services.aclose()
    stdlib.getLogger("agentscope_async").setLevel(level)


async def test_e08_metrics_grow_after_init_without_a_runtime(initialised: Any):
    async with serve(completion(), is_last_repeated=True) as server:
        for _ in range(3):
            await ask(chat(server.origin))
    monitor = initialised.monitor
    assert [await monitor.get_value(f"m.{name}") for name in METRICS] == [3, 27, 36, 63]
