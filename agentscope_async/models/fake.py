"""Models without a model, for tests, demonstrations and benchmarks of your own.

They answer at once or after a set delay, stream word by word, call tools and cost
nothing. ``"fake:echo"`` names the first one in a model string.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, TypeAlias

import orjson

from .._tasks import finish
from ..errors import ConfigError, ModelError
from ..message import Speech, Usage
from .base import Messages, ModelResponse, ModelWrapperBase, as_deltas

__all__ = ["EchoModel", "FunctionModel", "ScriptedModel"]

Scripted: TypeAlias = "str | dict[str, Any] | ModelResponse | BaseException"
"""One scripted answer: a text, an object (sent as its JSON), a whole response, or an error to raise."""


class FakeModel(ModelWrapperBase):
    """Base of the fakes: a delay, an answer, a stream of its words."""

    def __init__(
        self,
        config_name: str | None = None,
        *,
        model_name: str | None = None,
        delay_s: float = 0.0,
        generate_args: dict[str, Any] | None = None,
    ) -> None:
        """Answer ``delay_s`` seconds after each call (rounded up to a hundredth when above it)."""
        super().__init__(config_name, model_name=model_name, generate_args=generate_args)
        if delay_s < 0:
            raise ConfigError(f"delay_s must not be negative, got {delay_s}")
        self.delay_s = delay_s
        self._clock: _Clock | None = None

    def _after(self, delay_s: float) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if self._clock is None or self._clock.loop is not loop:
            self._clock = _Clock(loop)
        return self._clock.future(delay_s)

    def _answer(self, messages: Messages, args: dict[str, Any]) -> Any:
        """Return the answer, or something to await for it."""
        raise NotImplementedError

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        if self.delay_s:
            await self._after(self.delay_s)
        answer = self._answer(messages, args)
        if type(answer) is not str:
            answer = await finish(answer)
        return _as_response(answer, messages, self.model_name)

    async def _stream(
        self, messages: Messages, args: dict[str, Any]
    ) -> AsyncGenerator[Speech | ModelResponse, None]:
        response = _as_response(await finish(self._answer(messages, args)), messages, self.model_name)
        deltas = [piece for delta in as_deltas(response) for piece in _word_by_word(delta)]
        for delta in deltas:
            await (self._after(self.delay_s / len(deltas)) if self.delay_s else asyncio.sleep(0))
            yield delta
        yield response


class EchoModel(FakeModel):
    """Say the last message back, as it stands in the prompt.

    There it begins with its speaker's name, unless that is the agent's own: to ``hello`` of a User an
    agent answers ``User: hello``. Echoes show what the model was sent, also who is named in it.
    """

    model_type = "fake_echo"

    def _answer(self, messages: Messages, args: dict[str, Any]) -> str:
        return _last_text(messages)


class ScriptedModel(FakeModel):
    """Give prepared answers, one a call, and keep what was asked in ``calls``.

    Raises:
        ModelError: the script has come to its end.
    """

    model_type = "fake_scripted"

    def __init__(
        self,
        answers: Iterable[Scripted] = (),
        config_name: str | None = None,
        *,
        loop: bool = False,
        **kwargs: Any,
    ) -> None:
        """Take the answers in order; ``loop=True`` starts again at the end."""
        super().__init__(config_name, **kwargs)
        self.answers = list(answers)
        self.calls: list[Messages] = []
        self._loop = loop

    def _answer(self, messages: Messages, args: dict[str, Any]) -> Any:
        index = len(self.calls)
        self.calls.append(messages)
        if self._loop and self.answers:
            index %= len(self.answers)
        if index >= len(self.answers):
            raise ModelError(
                f"The script has {len(self.answers)} answers and was asked for one more.",
                provider="fake",
                model=self.model_name,
            )
        return self.answers[index]


class FunctionModel(FakeModel):
    """Answer with what a plain or async function makes of the messages."""

    model_type = "fake_function"

    def __init__(self, function: Callable[..., Any], config_name: str | None = None, **kwargs: Any) -> None:
        """Call ``function(messages, **args)``; it returns what :class:`ScriptedModel` takes as an answer."""
        super().__init__(config_name, **kwargs)
        self.function = function

    def _answer(self, messages: Messages, args: dict[str, Any]) -> Any:
        return self.function(messages, **args)


def by_name(name: str, **options: Any) -> ModelWrapperBase:
    """Return the fake meant by ``"fake:NAME"``; it takes no options."""
    if options:
        raise ConfigError(f"A fake model takes no {', '.join(options)}.")
    if name != "echo":
        raise ConfigError(f"No fake model is named {name!r}; known: 'fake:echo'.")
    return EchoModel(f"fake:{name}", model_name=name)


def _as_response(answer: Any, messages: Messages, model: str) -> ModelResponse:
    if isinstance(answer, str):
        text = answer
    elif isinstance(answer, ModelResponse):
        return answer
    elif isinstance(answer, BaseException):
        raise answer
    else:
        text = orjson.dumps(answer).decode()
    usage = Usage(_tokens(messages), len(text) // 4 + 1, True)
    return ModelResponse(text, usage=usage, finish_reason="stop", model=model)


def _last_text(messages: Messages) -> str:
    if isinstance(messages, str):
        return messages
    last = messages[-1] if messages else {"content": ""}
    return str(last["content"])


def _tokens(messages: Messages) -> int:
    """Return a guess: a token for every four characters."""
    if isinstance(messages, str):
        return len(messages) // 4 + 1
    count = 0
    for each in messages:
        count += len(each.get("content") or "") // 4 + 1
    return count


def _word_by_word(delta: Speech) -> Iterable[Speech]:
    if delta.kind not in ("text", "thinking"):
        return [delta]
    return [Speech(delta.kind, word) for word in re.findall(r"\s*\S+\s*$|\s*\S+", delta.text)] or [delta]


class _Clock:
    """Wakes callers at the next hundredth of a second after their delay, with one timer a tick.

    A million timers would cost the event loop more than the agents under test. Each
    call keeps a future of its own, so that cancelling one wakes no other, and the time
    is rounded up, so that nobody is answered early.
    """

    TICK_S = 0.01

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ticks: dict[int, list[asyncio.Future[None]]] = {}

    def future(self, delay_s: float) -> asyncio.Future[None]:
        loop = self.loop
        tick = int((loop.time() + delay_s) / self.TICK_S) + 1
        due = self._ticks.get(tick)
        if due is None:
            due = self._ticks[tick] = []
            loop.call_at(tick * self.TICK_S, self._ring, tick)
        future: asyncio.Future[None] = asyncio.Future(loop=loop)  # half of loop.create_future()
        due.append(future)
        return future

    def _ring(self, tick: int) -> None:
        for future in self._ticks.pop(tick):
            if not future.done():
                future.set_result(None)
