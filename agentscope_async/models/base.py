"""What every model wrapper is: a formatter of messages and an awaitable that answers them."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, cast, get_args

import orjson

from .._redact import redact
from .._settings import json_copy, misfit, parameters
from .._tasks import finish
from ..errors import BadResponse, ConfigError
from ..message import Msg, Speech, ToolCallPart, ToolResultPart, Usage
from ._catalog import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

__all__ = [
    "Messages",
    "ModelResponse",
    "ModelStream",
    "ModelWrapperBase",
    "ParseFunc",
    "TOOL_CALLING",
    "ToolCalling",
]

Messages: TypeAlias = Any
"""What a provider takes as input: for chat models a list of ``{"role", "content", ...}`` objects."""

ParseFunc: TypeAlias = Callable[["ModelResponse"], Any]
"""Turns a response into a parsed one, or raises; a plain or an async function."""

ToolCalling: TypeAlias = Literal["native", "schema", "text"]
"""How a model can be made to call tools, the best way first.

It takes ``tools=`` and answers with ``tool_calls``; it can be held to a JSON schema by
``response_format=``; or it can only be asked for an object in words.
"""

TOOL_CALLING: tuple[ToolCalling, ...] = get_args(ToolCalling)

DEFAULT_PARSE_ATTEMPTS = 3

_NAME_IT = (
    "Put the model into model_configs= and give the agent its config_name (a key may also be in the "
    "environment), or make the model in the __init__ of an agent class of your own."
)


@dataclass(frozen=True, init=False)
class ModelResponse:
    """What a model answered; fields a model does not fill stay None or empty.

    Attributes:
        text: the answer, the first one where several were asked for.
        texts: all answers, in the provider's order.
        embedding: one vector of d floats, or a list of them, in the order of the inputs.
        image_urls: where to fetch generated images.
        images_b64: generated images, base64 text.
        raw: the provider's answer as parsed JSON, or what a ``parse_func`` made of it.
        tool_calls: tools the model asks for; ``.arguments`` parsed, ``.raw`` as sent.
        thinking: what the model thought first.
        refusal: why it declined, in its words.
        usage: tokens used; ``.estimated`` where the server sent none.
        finish_reason: the provider's word for why it stopped: ``"stop"``, ``"length"``, ...
        model: the model's name as the provider reports it.
        request_id: the provider's id of this call.
    """

    text: str | None = None
    texts: list[str] = field(default_factory=list)
    embedding: list[Any] | None = None
    image_urls: list[str] | None = None
    images_b64: list[str] | None = None
    raw: Any = None
    tool_calls: list[ToolCallPart] = field(default_factory=list)
    thinking: str | None = None
    refusal: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str | None = None
    request_id: str | None = None

    def __init__(
        self,
        text: str | None = None,
        texts: list[str] | None = None,
        embedding: list[Any] | None = None,
        image_urls: list[str] | None = None,
        images_b64: list[str] | None = None,
        raw: Any = None,
        tool_calls: list[ToolCallPart] | None = None,
        thinking: str | None = None,
        refusal: str | None = None,
        usage: Usage | None = None,
        finish_reason: str | None = None,
        model: str | None = None,
        request_id: str | None = None,
    ) -> None:
        # What is not given stays the default of the class: this takes a quarter of the time of
        # the __init__ that a frozen dataclass makes.
        mine = self.__dict__
        mine["text"] = text
        mine["texts"] = [] if texts is None else texts
        mine["tool_calls"] = [] if tool_calls is None else tool_calls
        if embedding is not None:
            mine["embedding"] = embedding
        if image_urls is not None:
            mine["image_urls"] = image_urls
        if images_b64 is not None:
            mine["images_b64"] = images_b64
        if raw is not None:
            mine["raw"] = raw
        if thinking is not None:
            mine["thinking"] = thinking
        if refusal is not None:
            mine["refusal"] = refusal
        if usage is not None:
            mine["usage"] = usage
        if finish_reason is not None:
            mine["finish_reason"] = finish_reason
        if model is not None:
            mine["model"] = model
        if request_id is not None:
            mine["request_id"] = request_id

    def __str__(self) -> str:
        shown = {
            "text": self.text,
            "embedding": self.embedding,
            "image_urls": self.image_urls,
            "raw": self.raw,
        }
        return orjson.dumps(shown, default=str, option=orjson.OPT_INDENT_2).decode()


class ModelStream:
    """One streamed answer: ``async with model.stream(x) as s: async for delta in s: ...``.

    Leaving the block early ends the request. Deltas are :class:`Speech`; the whole
    :class:`ModelResponse` is in ``response`` once the iteration has ended.
    """

    def __init__(self, deltas: AsyncGenerator[Speech | ModelResponse, None]) -> None:
        self._deltas = deltas
        self._response: ModelResponse | None = None

    @property
    def response(self) -> ModelResponse:
        """The whole answer.

        Raises:
            RuntimeError: the stream has not been read to its end.
        """
        if self._response is None:
            raise RuntimeError(
                "The stream has not ended: read it with `async for` before asking for .response"
            )
        return self._response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._deltas.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Speech:
        delta = await anext(self._deltas)
        if isinstance(delta, ModelResponse):
            self._response = delta
            await self._deltas.aclose()
            raise StopAsyncIteration
        return delta


class ModelWrapperBase(ABC):
    """Base of all model wrappers.

    A subclass that sets ``model_type`` can be named by it in configurations; one that
    merely inherits a type does not replace its parent. It implements ``_call``, and
    ``_stream`` where it can speak before it has finished.
    """

    model_type: ClassVar[str] = ""
    _types: ClassVar[dict[str, type[ModelWrapperBase]]] = {}

    tool_calling: ToolCalling = "text"
    """How this model calls tools."""
    made_by_name: str | None = None
    """The ``"provider:model"`` string that alone makes this wrapper, if that is how it was made."""
    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep what the wrapper is given, for ``export_config``.

        Raises:
            ConfigError: it takes no argument of that name.
        """
        if kwargs and _names_all(cls) and (problem := misfit(cls.__name__, kwargs, parameters(cls))):
            raise ConfigError(problem)
        wrapper = super().__new__(cls)
        wrapper._given = (args, kwargs)  # wrappers are few and shared: what they were given may stay
        return wrapper

    def __init__(
        self,
        config_name: str | None = None,
        *,
        model_name: str | None = None,
        generate_args: dict[str, Any] | None = None,
    ) -> None:
        """Keep what all wrappers share.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: the model, in the provider's words.
            generate_args: arguments sent with each call unless the call says otherwise.
        """
        self.config_name = config_name
        self.model_name = model_name or self.model_type or type(self).__name__
        if generate_args is not None and not isinstance(generate_args, Mapping):
            raise ConfigError(f"generate_args must be an object, not {type(generate_args).__name__}")
        self.generate_args = dict(generate_args or {})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own_type = cls.__dict__.get("model_type")
        if own_type is None:
            return
        home = TYPES.get(own_type)
        if home is not None and cls.__module__ != f"{__package__}.{home[0]}":
            raise ConfigError(f"model_type {own_type!r} of {cls.__name__} is taken by {home[1]}")
        rival = cls._types.get(own_type)
        if rival is not None and (rival.__module__, rival.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"model_type {own_type!r} of {cls.__name__} is taken by {rival.__name__}")
        cls._types[own_type] = cls

    def __call__(
        self,
        messages: Messages,
        *,
        parse_func: ParseFunc | None = None,
        fault_handler: ParseFunc | None = None,
        max_retries: int | None = None,
        **args: Any,
    ) -> Coroutine[Any, Any, ModelResponse]:
        """Return the model's whole answer to ``messages`` (the form :meth:`format` makes).

        With ``parse_func`` the answer is what that function returns; while it raises, the
        model is asked again, up to ``max_retries`` times in all (3 when not given), then
        ``fault_handler`` gets the last answer.

        Raises:
            ModelError: the call failed.
            BadResponse: no answer could be parsed and there is no ``fault_handler``.
        """
        # Not `async`: hands out the coroutine of the call itself, one frame less for each of many.
        if self.generate_args:
            args = {**self.generate_args, **args}
        if parse_func is None:
            return self._call(messages, args)
        if max_retries is not None and max_retries < 0:
            raise ConfigError(f"max_retries must not be negative, got {max_retries}")
        return self._call_and_parse(
            messages, args, parse_func, fault_handler, max_retries or DEFAULT_PARSE_ATTEMPTS
        )

    def export_config(self) -> dict[str, Any]:
        """Return the configuration that makes such a wrapper again: what this one was given, and its type.

        There is never a key in it: one from the environment is found there again.

        Raises:
            ConfigError: it was given a key, or something that JSON has no form for.
        """
        kind = type(self)
        is_named = ModelWrapperBase._types.get(kind.model_type) is kind
        config: dict[str, Any] = {"model_type": kind.model_type if is_named else kind.__name__}
        for name, value in self._arguments().items():
            if value is not None:
                config[name] = json_copy(value, f"{name}= of this {kind.__name__}", _NAME_IT)
        if redact(config) != config:
            raise ConfigError(
                f"This {kind.__name__} was given a key or a password, which no settings hold. {_NAME_IT}"
            )
        return config

    def _arguments(self) -> dict[str, Any]:
        """Return what the constructor was given, by name."""
        args, kwargs = self._given
        bound = inspect.signature(type(self).__init__).bind(self, *args, **kwargs)
        given: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                given.update(value)
            else:
                given[name] = value
        return given

    async def aclose(self) -> None:  # noqa: B027  # most models hold on to nothing
        """Give back what the model holds on to, if anything; it can still be used afterwards."""

    async def _call_and_parse(
        self,
        messages: Messages,
        args: dict[str, Any],
        parse_func: ParseFunc,
        fault_handler: ParseFunc | None,
        attempts: int,
    ) -> ModelResponse:
        error: Exception | None = None
        for _ in range(attempts):
            try:
                response = await self._call(messages, dict(args))
            except BadResponse as problem:  # an object that was cut off, say
                error, response = problem, ModelResponse(str(problem.raw or problem.partial_text or ""))
                continue
            try:
                return cast("ModelResponse", await finish(parse_func(response)))
            except Exception as problem:  # whatever the user's parser finds wrong means: ask again
                error = problem
        if fault_handler is not None:
            return cast("ModelResponse", await finish(fault_handler(response)))
        parser = getattr(parse_func, "__name__", repr(parse_func))
        raise BadResponse(
            f"No answer of {self.model_name} could be parsed by {parser}: {error}",
            provider=self.model_type,
            model=self.model_name,
            raw=response.text,
        ) from error

    def stream(self, messages: Messages, **args: Any) -> ModelStream:
        """Return the answer as it is being given; see :class:`ModelStream`."""
        return ModelStream(self._stream(messages, {**self.generate_args, **args}))

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> Messages:
        """Turn messages into what the model takes: ``[{"role", "name", "content"}, ...]``.

        None is left out, lists are flattened. With ``me``, that agent's own messages get the
        role ``assistant`` and everybody else's ``user``, with the speaker's name in the
        text, so that a model knows which side it is on.

        Raises:
            TypeError: an item is not a message.
        """
        flat: list[Msg] = []
        flatten(msgs, flat)
        prompt = []
        for msg in flat:
            text = msg.content
            if type(text) is not str:
                if _has_tool_parts(msg):
                    from ._openai_messages import as_messages

                    return as_messages(flat, me)
                text = msg.text
            if me is None:
                prompt.append({"role": msg.role, "name": msg.name, "content": text})
            else:
                prompt.append(_as_heard_by(me, msg, text))
        return prompt

    @abstractmethod
    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        """Answer once, whole."""

    async def _stream(
        self, messages: Messages, args: dict[str, Any]
    ) -> AsyncGenerator[Speech | ModelResponse, None]:
        """Yield what is said as it is said, and the whole response last."""
        response = await self._call(messages, args)
        for delta in as_deltas(response):
            yield delta
        yield response


def _names_all(kind: type[ModelWrapperBase]) -> bool:
    """Whether ``parameters`` are all it takes: ``**kwargs`` of a user's class may be for anything."""
    for each in kind.__mro__:
        if "__init__" not in each.__dict__:
            continue
        own = inspect.signature(each.__dict__["__init__"]).parameters.values()
        if all(one.kind is not one.VAR_KEYWORD for one in own):
            return True
        if not each.__module__.startswith(f"{__package__}."):
            return False
    return True


def flatten(msgs: Iterable[Any], flat: list[Msg]) -> None:
    """Append the messages in nested lists to ``flat``, in order; None is left out."""
    for item in msgs:
        if isinstance(item, Msg):
            flat.append(item)
        elif isinstance(item, list):
            flatten(item, flat)
        elif item is not None:
            raise TypeError(f"format() takes messages and lists of them, not {type(item).__name__}")


def as_deltas(response: ModelResponse) -> Iterator[Speech]:
    """Yield a finished response as stream deltas: thinking, text, tool calls."""
    if response.thinking:
        yield Speech("thinking", response.thinking)
    if response.text:
        yield Speech("text", response.text)
    for call in response.tool_calls:
        yield Speech("tool_call", data=call)


def _has_tool_parts(msg: Msg) -> bool:
    content = msg.content
    return isinstance(content, (list, tuple)) and any(
        isinstance(part, (ToolCallPart, ToolResultPart)) for part in content
    )


def _as_heard_by(me: str, msg: Msg, text: str) -> dict[str, Any]:
    if msg.role in ("system", "tool"):
        return {"role": msg.role, "content": text}
    if msg.name == me:
        return {"role": "assistant", "content": text}
    return {"role": "user", "content": f"{msg.name}: {text}"}
