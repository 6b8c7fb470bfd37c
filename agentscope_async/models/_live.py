"""A streamed answer while it is under way."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from ._problem import Problem, request_id_of, unreadable
from ._request import HttpFailure

if TYPE_CHECKING:
    from ..errors import ModelError
    from ..message import Speech
    from ._call import Call
    from ._charge import Charge
    from ._http_answer import HttpAnswer
    from ._sse import ServerEvent
    from .base import ModelResponse

__all__ = ["Collector", "LiveAnswer"]


class Collector(Protocol):
    """What has been heard of one streamed answer; each provider has its own.

    Attributes:
        is_complete: the provider's sign that the answer is whole has been seen.
        is_over: nothing more will come, the server may keep the stream open or not.
        text: what has been said so far.
    """

    is_complete: bool
    is_over: bool

    @property
    def text(self) -> str: ...

    def feed(self, event: ServerEvent) -> list[Speech]:
        """Return what an event adds.

        Raises:
            Problem: it reports an error, or cannot be read.
        """

    def response(self) -> ModelResponse:
        """Return the whole answer."""


class LiveAnswer:
    """A streamed answer under way; everything it holds is given back by ``aclose``."""

    def __init__(self, call: Call, answer: HttpAnswer, charge: Charge) -> None:
        model = call.model
        self._call = call
        self._answer = answer
        self._charge = charge
        self._chunks = answer.chunks()
        self._reader = model.reader()
        self._collector = model.collector(call.request)
        self._heard: list[Speech] | None = []
        self._problem: Problem | None = None  # came behind words that are to be handed out first
        self._is_closed = False
        self.response: ModelResponse | None = None

    async def begin(self) -> None:
        """Read until there is something to hand out.

        Raises:
            Problem: the answer failed before that.
        """
        try:
            while self._heard is not None and not self._heard:
                self._heard = await self._read()
        except BaseException as error:
            if isinstance(error, Problem):
                self._place(error)
            await self.aclose()
            raise

    async def parts(self) -> AsyncGenerator[Speech, None]:
        """Yield what is said; afterwards ``response`` is the whole answer.

        Raises:
            ModelError: it failed half-way; ``partial_text`` is what was said.
        """
        try:
            heard = self._heard
            while heard is not None:
                for speech in heard:
                    yield speech
                heard = await self._read()
        except Problem as problem:
            raise self._error(problem) from (problem.__cause__ or problem)
        finally:
            await self.aclose()

    async def _read(self) -> list[Speech] | None:
        """Return what the next piece says, maybe nothing; None at the end."""
        if self.response is not None:
            return None
        if self._problem is not None:
            raise self._problem
        chunk = await self._chunk()
        heard: list[Speech] = []
        try:
            if chunk is None:
                self._end(heard)
            else:
                self._take(self._reader.feed(chunk), heard)
                if self._collector.is_over:
                    await self._answer.drain(self._chunks)
                    self._finish()
        except Problem as problem:
            self._problem = problem
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            self._problem = unreadable(error, self._answer, None)
            self._problem.__cause__ = error
        if self._problem is not None and not heard:
            raise self._problem
        return heard

    def _take(self, events: list[ServerEvent], heard: list[Speech]) -> None:
        feed = self._collector.feed
        for event in events:
            heard += feed(event)

    def _end(self, heard: list[Speech]) -> None:
        """Take what came without its end; half an event says nothing, and is no error of its own."""
        with suppress(ValueError):
            self._take(self._reader.close(), heard)
        self._finish()

    async def _chunk(self) -> bytes | None:
        """Return the next bytes; None at the end."""
        call = self._call
        try:
            return await call.in_time(anext(self._chunks, None))
        except HttpFailure as failure:
            if self._collector.is_complete:
                return None
            raise Problem(failure.type, f"the stream broke off: {failure}") from failure
        except TimeoutError as error:
            raise call.too_late() from error

    def _finish(self) -> None:
        call = self._call
        if not self._collector.is_complete:
            raise Problem("truncated", "the stream ended before the answer was complete", retryable=True)
        response = self._collector.response()
        call.model.complete(response, call.request, self._answer.headers)
        self.response = response
        assert response.usage is not None
        self._charge.settle(response.usage)
        call.account(response.usage, response.raw)

    def _error(self, problem: Problem) -> ModelError:
        call = self._call
        model = call.model
        self._place(problem)
        return problem.as_partial(
            model.provider, model.model_name, attempts=call.attempts, text=self._collector.text
        )

    def _place(self, problem: Problem) -> None:
        problem.status = problem.status or self._answer.status
        problem.request_id = problem.request_id or request_id_of(self._answer.headers)

    async def aclose(self) -> None:
        """Give back the connection, the limiter's place and what is reserved; again: no effect."""
        if self._is_closed:
            return
        self._is_closed = True
        self._call.leave()
        self._charge.settle(None)
        try:
            await self._chunks.aclose()
        finally:
            await self._answer.aclose()
