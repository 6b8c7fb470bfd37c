"""The one path every request to a provider takes, and what is done on its way.

Limiter, reservation in the budgets, one POST on the loop's shared connections, typed
errors, settlement, metrics, record. A failure that may pass is tried again by tenacity,
which is entered only then: around every call it would cost more than the call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import orjson

from .. import _context
from .._turn import open_turn
from ..events import ModelCalled
from ._charge import NO_CHARGE, Charge, bytes_of, close_account, unwritable
from ._limits import backoff_s, parse_rate_headers, retry_after
from ._live import LiveAnswer
from ._problem import Problem, head, request_id_of, unreadable
from ._request import HttpFailure, HttpRequest, shown_url

if TYPE_CHECKING:
    from ..errors import ModelError
    from ..message import Usage
    from ._http_answer import HttpAnswer
    from .base import ModelResponse
    from .provider import HttpModel

__all__ = ["Call"]

T = TypeVar("T")


class Call:
    """One call of a wrapper: a request, and as many attempts as it takes."""

    __slots__ = ("model", "request", "attempts", "_gate", "_limiter", "_slot", "_deadline", "_started_at")

    def __init__(self, model: HttpModel, request: HttpRequest) -> None:
        self.model = model
        self.request = request
        self.attempts = 1
        loop = asyncio.get_running_loop()
        self._gate = gate = model.gate(loop)
        self._limiter = gate.limiter
        self._slot = 0
        gate.retries.note_call()
        limit_s = model.options.deadline_s
        self._deadline = None if limit_s is None else loop.time() + limit_s
        self._started_at = time.perf_counter()

    async def answer(self) -> ModelResponse:
        """Return the whole answer.

        Raises:
            ModelError: it could not be had.
        """
        return await self._persist(self._answer_in_time if self._deadline else self._answer_once)

    async def body(self) -> Any:
        """Return the parsed body, for requests that are no model's answer: a task's state, a list of models.

        They cost nothing, so they count against no budget.

        Raises:
            ModelError: it could not be had.
        """
        return (await self._persist(lambda: self.in_time(self._exchange())))[0]

    async def open(self) -> LiveAnswer:
        """Return the streamed answer, once its first words are there.

        Raises:
            ModelError: there was none.
        """
        return await self._persist(self._open_once)

    # -- one attempt --

    async def _answer_in_time(self) -> ModelResponse:
        async with asyncio.timeout_at(self._deadline):
            return await self._answer_once()

    async def _answer_once(self) -> ModelResponse:
        model = self.model
        body, answer, charge = await self._charged_exchange()
        try:
            response = model.parse_response(body)
            model.complete(response, self.request, answer.headers)
        except Problem as problem:
            charge.settle(None)
            problem.status = problem.status or answer.status
            problem.request_id = problem.request_id or request_id_of(answer.headers)
            raise
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            charge.settle(None)
            raise unreadable(error, answer, body) from error
        usage = response.usage
        assert usage is not None
        charge.settle(usage)
        self.account(usage, body)
        return response

    async def _exchange(self) -> tuple[Any, HttpAnswer]:
        body, answer, _ = await self._charged_exchange(is_free=True)
        return body, answer

    async def _charged_exchange(self, *, is_free: bool = False) -> tuple[Any, HttpAnswer, Charge]:
        """Send the request once and return the parsed body; the budgets are still to be settled."""
        await self._enter()
        charge = NO_CHARGE
        try:
            if not is_free:
                charge = await self._reserve()
            answer = await self._send(charge)
            content = await answer.read()
            if answer.status >= 300:
                raise self._refusal(answer, content)
            try:
                body = orjson.loads(content)
            except orjson.JSONDecodeError as error:
                raise unreadable(error, answer, head(content)) from error
            self._learn(answer)
            return body, answer, charge
        except HttpFailure as failure:
            raise self._broken(failure, charge) from failure
        except BaseException as error:
            close_account(charge, error)
            raise
        finally:
            self._limiter.leave()

    async def _open_once(self) -> LiveAnswer:
        await self._enter()
        charge = NO_CHARGE
        try:
            charge = await self.in_time(self._reserve())
            answer = await self.in_time(self._send(charge))
            if answer.status >= 300:
                raise self._refusal(answer, await self.in_time(answer.read()))
            self._learn(answer)
            live = LiveAnswer(self, answer, charge)
        except HttpFailure as failure:
            self._limiter.leave()
            raise self._broken(failure, charge) from failure
        except BaseException as error:
            self._limiter.leave()
            close_account(charge, error)
            raise
        await live.begin()
        return live

    async def _enter(self) -> None:
        tokens = self._expected_tokens() if self.model.options.tokens_per_min else 0
        limiter = self._limiter
        self._slot = limiter.try_enter(tokens) or await self.in_time(limiter.enter(tokens))

    def leave(self) -> None:
        """Give the place among those under way back; a live answer does so at its end."""
        self._limiter.leave()

    async def _reserve(self) -> Charge:
        budgets = self.model.budgets()
        if not budgets:
            return NO_CHARGE
        return await Charge.of(self.model, budgets, self.request)

    async def _send(self, charge: Charge) -> HttpAnswer:
        if charge is not NO_CHARGE:
            await charge.mark_sent()
        try:
            return await self.model.carrier.send(self.request)
        except orjson.JSONEncodeError as error:
            raise unwritable(error) from error

    async def in_time(self, work: Awaitable[T]) -> T:
        """Return what ``work`` gives, unless the time for the whole call is over before.

        Raises:
            TimeoutError: it is.
        """
        if self._deadline is None:
            return await work
        async with asyncio.timeout_at(self._deadline):
            return await work

    # -- what an answer says --

    def _refusal(self, answer: HttpAnswer, content: bytes) -> Problem:
        headers = answer.headers
        problem = self.model.explain(answer.status, headers, content)
        problem.status = problem.status or answer.status
        problem.request_id = problem.request_id or request_id_of(headers)
        waits_s = [problem.retry_after_s, retry_after(headers, time.time())]
        problem.retry_after_s = max((each for each in waits_s if each is not None), default=None)
        if 300 <= answer.status < 400:
            place = shown_url(headers.get("location", "nowhere"))
            problem.message = f"it sends us on to {place}: is the base_url right?"
        if (word := headers.get("x-should-retry")) in ("true", "false"):
            problem.retryable = word == "true"
        if problem.type == "rate_limit":
            self._limiter.back_off(problem.retry_after_s)
        elif problem.type not in ("overloaded", "quota"):
            self._limiter.succeed()  # whatever was wrong, the call did not come too soon
        return problem

    def _broken(self, failure: HttpFailure, charge: Charge) -> Problem:
        host = urlsplit(self.request.url).netloc.rpartition("@")[2]
        problem = Problem(failure.type, f"no whole answer from {host}: {failure}")
        if failure.was_sent:
            charge.settle(None)
            if not self.request.is_repeatable:
                problem.retryable = False
        else:
            charge.release()
        return problem

    def _learn(self, answer: HttpAnswer) -> None:
        """Tell the limiter that a call was answered, and what the provider says is left."""
        headers = answer.headers
        if "x-ratelimit-remaining-requests" in headers or "x-ratelimit-remaining-tokens" in headers:
            self._limiter.learn(**parse_rate_headers(headers), slot=self._slot)
        self._limiter.succeed()

    def _expected_tokens(self) -> int:
        body = self.request.json
        return bytes_of(body) // 4 + (self.model.output_limit(body) or 0)

    # -- trying again --

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()
        except Problem as problem:
            first = problem
        except TimeoutError as error:
            raise self._error(self.too_late()) from error
        if not self._may_pass(first):
            raise self._error(first) from (first.__cause__ or first)
        return await self._try_again(first, attempt)

    async def _try_again(self, first: Problem, attempt: Callable[[], Awaitable[T]]) -> T:
        from tenacity import AsyncRetrying, retry_if_exception

        trials = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Problem) and self._may_pass(error)),
            wait=lambda state: self._wait_s(state.outcome.exception()),  # type: ignore[union-attr,arg-type]
            sleep=asyncio.sleep,
            reraise=True,
        )
        told = iter([first])
        try:
            async for trial in trials:
                with trial:
                    if (known := next(told, None)) is not None:
                        raise known  # the attempt that was made before tenacity was needed
                    self.attempts += 1
                    return await attempt()
        except Problem as problem:
            raise self._error(problem) from (problem.__cause__ or problem)
        except TimeoutError as error:
            raise self._error(self.too_late()) from error
        raise AssertionError("tenacity ends with a result or an error")

    def _may_pass(self, problem: Problem) -> bool:
        """Whether this failure is worth one more attempt, and one is left."""
        options = self.model.options
        if not problem.is_retryable or self.attempts > options.max_retries:
            return False
        wait_s = problem.retry_after_s or 0.0
        if wait_s > options.max_retry_after_s:
            return False
        if self._deadline is not None and asyncio.get_running_loop().time() + wait_s >= self._deadline:
            return False
        return self._gate.retries.may_retry()

    def _wait_s(self, problem: Problem) -> float:
        wait_s = backoff_s(self.attempts - 1, at_least_s=problem.retry_after_s)
        if self._deadline is not None:
            wait_s = min(wait_s, max(0.0, self._deadline - asyncio.get_running_loop().time()))
        return wait_s

    def _error(self, problem: Problem) -> ModelError:
        model = self.model
        return problem.as_error(model.provider, model.model_name, attempts=self.attempts)

    def too_late(self) -> Problem:
        """Return what it is when the time for the whole call is over."""
        limit_s = self.model.options.deadline_s
        return Problem("timeout", f"no whole answer within its deadline of {limit_s:g} s", retryable=False)

    # -- afterwards --

    def account(self, usage: Usage, raw: Any) -> None:
        """Count a finished call in the metrics, record it and tell who listens."""
        model = self.model
        turn = open_turn()
        runtime = _context.find_runtime(None if turn is None else getattr(turn.agent, "_runtime", None))
        if model.options.tokens_per_min:
            self._limiter.correct_tokens(self._expected_tokens(), usage.total_tokens)
        services = runtime or _context.process_services
        if services is None:
            return
        if (monitor := services.monitor) is not None:
            monitor.count(model.metrics(usage, raw), prefix=model.model_name)
        if (invocations := services.invocations) is not None:
            request = self.request
            arguments = {"url": request.url, "headers": request.headers, "body": request.json}
            invocations.record(type(model).__name__, arguments, raw)
        if runtime is not None and runtime.is_listened_to:
            seconds = time.perf_counter() - self._started_at
            name = "" if turn is None else turn.agent.name
            runtime.emit(ModelCalled(name, model.provider, model.model_name, usage, seconds, self.attempts))
