"""What all wrappers of HTTP providers share: options, keys, addresses and the path of a call."""

from __future__ import annotations

import copy
import difflib
import math
import os
import ssl
import warnings
from abc import abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar
from weakref import WeakKeyDictionary

from .. import _context
from .._redact import remember_secret, remember_secrets
from .._turn import open_turn
from ..errors import AgentScopeWarning, ConfigError, NoRuntimeError
from ..message import Speech, Usage
from ..tokens import count_tokens
from ._call import Call
from ._charge import active
from ._http import Carrier
from ._http_answer import MAX_ANSWER_BYTES
from ._limits import Limiter, RetryBudget
from ._problem import request_id_of
from ._request import HttpRequest, check_url, is_text, with_headers, with_query
from ._sse import SSEReader, StreamReader
from .base import Messages, ModelResponse, ModelStream, ModelWrapperBase

if TYPE_CHECKING:
    import asyncio

    from ..files import Files
    from ..monitor import Budget
    from ._live import Collector
    from ._problem import Problem

__all__ = ["ClientOptions", "HttpModel", "run_files"]


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a wrapper calls its provider: what ``client_args`` may hold.

    Attributes:
        timeout: seconds without a byte before an attempt is given up (the whole wait for
            an answer that is not streamed); None: no limit.
        connect_timeout: seconds to connect in.
        deadline_s: seconds for a whole call, its retries and a stream's end included.
        max_retries: attempts after the first, for failures that may pass.
        max_retry_after_s: a server that asks to wait longer is not asked again.
        max_concurrency: calls under way at once, over all wrappers alike with the same key.
        requests_per_min, tokens_per_min: what the provider allows that key.
        default_headers: sent with each request.
        default_query: added to each URL.
        http: ``"aiohttp"``, ``"httpx"`` or ``"auto"``.
        transport, http_client: an ``httpx.AsyncBaseTransport`` or ``httpx.AsyncClient`` to send by.
        verify: False, or an ``ssl.SSLContext``.
        proxy: URL of a proxy.
        max_answer_bytes: a larger answer, or stream in all, is given up: BadResponse.
    """

    timeout: float | None = 600.0
    connect_timeout: float | None = 10.0
    deadline_s: float | None = None
    max_retries: int = 2
    max_retry_after_s: float = 120.0
    max_concurrency: int | None = 512
    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    default_headers: Mapping[str, str] | None = field(default=None, repr=False)  # they hold keys
    default_query: Mapping[str, str] | None = field(default=None, repr=False)
    http: str = "auto"
    transport: Any = None
    http_client: Any = None
    verify: Any = True
    proxy: str | None = field(default=None, repr=False)
    max_answer_bytes: int = MAX_ANSWER_BYTES

    def __post_init__(self) -> None:
        for name in ("default_headers", "default_query"):
            _check_texts(name, getattr(self, name))
        for name in ("max_concurrency", "max_answer_bytes"):
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not is_whole and not (value is None and name == "max_concurrency"):
                raise ConfigError(f"{name} must be a whole number above 0, got {value!r}")
        if not isinstance(self.verify, (bool, ssl.SSLContext)):
            raise ConfigError(f"verify must be False or an ssl.SSLContext, got {self.verify!r}")
        if isinstance(self.max_retry_after_s, bool) or not isinstance(self.max_retry_after_s, (int, float)):
            raise ConfigError(f"max_retry_after_s must be a number, got {self.max_retry_after_s!r}")
        for name in ("timeout", "connect_timeout", "deadline_s", "requests_per_min", "tokens_per_min"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ConfigError(f"{name} must be a number or None, got {value!r}")
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0 or None, got {value!r}")
        if (
            isinstance(self.max_retries, bool)
            or not isinstance(self.max_retries, int)
            or self.max_retries < 0
        ):
            raise ConfigError(f"max_retries must be 0 or more, got {self.max_retries!r}")


@dataclass(frozen=True, slots=True)
class Gate:
    """What all calls with one key in one event loop pass."""

    limiter: Limiter
    retries: RetryBudget


class HttpModel(ModelWrapperBase):
    """Base of the wrappers that speak HTTP.

    A provider says what a request looks like (``build_request``), what an answer means
    (``parse_response``, ``collector``) and what a refusal means (``explain``): pure
    functions all. The rest is here and the same for all.
    """

    provider: ClassVar[str] = ""
    key_variables: ClassVar[tuple[str, ...]] = ()
    """Environment variables that may hold the key, the first one set counts."""
    default_url: ClassVar[str] = ""
    url_variable: ClassVar[str] = ""
    needs_key: ClassVar[bool] = True
    """Whether the provider's own address refuses calls without a key."""
    takes_messages: ClassVar[bool] = True
    """Whether the model takes a list of messages; else a text."""
    can_stream: ClassVar[bool] = True
    input_name: ClassVar[str] = "messages"
    """What AgentScope v0.0.2 calls the first argument of a call; it may be given under this name."""

    def __init__(
        self,
        config_name: str | None = None,
        model_name: str | None = None,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        client_args: dict[str, Any] | None = None,
        generate_args: dict[str, Any] | None = None,
        budget: Budget | float | None = None,
    ) -> None:
        """Prepare a wrapper; nothing is opened or sent.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: the model, in the provider's words; by default ``config_name``, with a warning.
            api_key: the key; by default from the environment.
            base_url: the address of the API; by default the provider's own. A user and password in
                it (``https://user:password@host``) are sent in place of an ``Authorization`` with the key.
            client_args: how to call it; see :class:`ClientOptions`.
            generate_args: arguments sent with each call unless the call says otherwise.
            budget: what all calls of this wrapper may use; a number means USD.

        Raises:
            ConfigError: something is missing, unknown or not valid.
        """
        if not isinstance(model_name, (str, NoneType)) or not is_text(model_name or ""):
            raise ConfigError(f"model_name must be a text, got {model_name!r}")
        if model_name is None and config_name is not None:
            warnings.warn(
                f"model_name is not given: config_name {config_name!r} is used.",
                AgentScopeWarning,
                stacklevel=3,
            )
        super().__init__(config_name, model_name=model_name or config_name, generate_args=generate_args)
        client_args = dict(client_args or {})
        other_url, other_key = client_args.pop("base_url", None), client_args.pop("api_key", None)
        url = other_url if base_url is None else base_url
        key = other_key if api_key is None else api_key
        self.options = self._options(client_args)
        is_own_address = url is None and not os.environ.get(self.url_variable)
        self.base_url = check_url(url or os.environ.get(self.url_variable) or self.default_url)
        if "?" in self.base_url:
            raise ConfigError(
                "A base_url ends before the '?'; the rest: client_args={'default_query': {...}}."
            )
        self._api_key = self._key(key, is_own_address)
        self.carrier = Carrier(
            http=self.options.http,
            transport=self.options.transport,
            client=self.options.http_client,
            verify=self.options.verify,
            proxy=self.options.proxy,
            timeout_s=self.options.timeout,
            connect_timeout_s=self.options.connect_timeout,
            max_answer_bytes=self.options.max_answer_bytes,
        )
        self._budget = self._own_budget(budget)
        self._gate: tuple[asyncio.AbstractEventLoop, Gate] | None = None

    def __call__(self, messages: Messages = None, **args: Any) -> Coroutine[Any, Any, ModelResponse]:
        """Return the model's whole answer; see :class:`ModelWrapperBase` for ``parse_func`` and the like."""
        if self.input_name in args:
            messages = args.pop(self.input_name)
        return super().__call__(messages, **args)

    def stream(self, messages: Messages = None, **args: Any) -> ModelStream:
        """Return the answer as it is being given; see :class:`ModelStream`.

        Raises:
            ConfigError: this kind of model answers in one piece.
        """
        if not self.can_stream:
            raise ConfigError(f"{type(self).__name__} cannot stream.")
        if self.input_name in args:
            messages = args.pop(self.input_name)
        return super().stream(messages, **args)

    def export_config(self) -> dict[str, Any]:
        """Return the configuration; see :class:`ModelWrapperBase`.

        Raises:
            ConfigError: it has a budget of its own, too: copies would spend it once each.
        """
        if self._budget is not None:
            raise ConfigError(
                f"The budget of {self.model_name!r} holds for this wrapper alone, and not for copies of it. "
                f"Without one, limit the whole run: Runtime(budget=...)."
            )
        return super().export_config()

    # -- what a provider says --

    def own_headers(self) -> dict[str, str]:
        """Return what the provider wants in each request: the key, above all."""
        return {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}

    @abstractmethod
    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request; reads no file and no clock, and changes none of its arguments."""

    @abstractmethod
    def parse_response(self, body: Any) -> ModelResponse:
        """Return what a parsed body says.

        Raises:
            Problem: it is a failure that came as an answer.
        """

    @abstractmethod
    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """Return what a refusal (status 300 and above) means."""

    def reader(self) -> StreamReader:
        """Return what takes a stream's bytes apart into events."""
        return SSEReader()

    def collector(self, request: HttpRequest) -> Collector:
        """Return what gathers the streamed answer to ``request``."""
        raise NotImplementedError(f"{type(self).__name__} has no collector")

    async def prepare(self, messages: Messages) -> Messages:
        """Return ``messages`` as ``build_request`` takes them: files read, addresses fetched."""
        return messages

    def output_limit(self, body: Any) -> int | None:
        """Return the most tokens the answer to this body may have, or None if it does not say."""
        return None

    def limit_output(self, body: Any, default: int) -> int:
        """Return that limit; without one set ``default`` in the body."""
        return 0

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics."""
        return {
            "call_counter": 1,
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }

    # -- the path of a call --

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers of all requests; ``default_headers`` have the last word."""
        fixed = {"Content-Type": "application/json", "Accept": "application/json"}
        return with_headers(with_headers(fixed, self.own_headers()), self.options.default_headers)

    def address(self, path: str, query: Mapping[str, Any] | None = None) -> str:
        """Return the URL of something below ``base_url``, with ``default_query``."""
        return with_query(f"{self.base_url}{path}", {**(query or {}), **(self.options.default_query or {})})

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        check_args(args)
        messages = await self.prepare(messages)
        return await Call(self, self.build_request(messages, args, stream=False)).answer()

    async def _stream(
        self, messages: Messages, args: dict[str, Any]
    ) -> AsyncGenerator[Speech | ModelResponse, None]:
        check_args(args)
        messages = await self.prepare(messages)
        live = await Call(self, self.build_request(messages, args, stream=True)).open()
        parts = live.parts()
        try:
            async for speech in parts:
                yield speech
        finally:
            await parts.aclose()
            await live.aclose()
        assert live.response is not None
        yield live.response

    def complete(self, response: ModelResponse, request: HttpRequest, headers: Mapping[str, str]) -> None:
        """Fill what the answer left out: the model, the call's id, an estimate of its usage."""
        mine = vars(response)  # ours still, nobody has seen it
        mine.setdefault("model", self.model_name)
        if "request_id" not in mine and (call_id := request_id_of(headers)) is not None:
            mine["request_id"] = call_id
        if "usage" not in mine:
            heard = "".join(response.texts) or response.text or ""
            mine["usage"] = Usage(count_tokens(request.json), count_tokens(heard), True)

    def gate(self, loop: asyncio.AbstractEventLoop) -> Gate:
        """Return the limits of this wrapper's key in this event loop."""
        if self._gate is not None and self._gate[0] is loop:
            return self._gate[1]
        options = self.options
        limits = (options.max_concurrency, options.requests_per_min, options.tokens_per_min)
        gates = _gates.setdefault(loop, {})
        place = (self.provider, self.base_url, self._api_key, limits)
        if place not in gates:
            limiter = Limiter(max_concurrency=limits[0], requests_per_min=limits[1], tokens_per_min=limits[2])
            gates[place] = Gate(limiter, RetryBudget())
        self._gate = (loop, gates[place])
        return gates[place]

    def budgets(self) -> list[Budget]:
        """Return the budgets a call made here and now counts against."""
        return active(self._budget)

    # -- making one --

    def _options(self, client_args: dict[str, Any]) -> ClientOptions:
        """Return the options; a provider takes its own out of ``client_args`` first."""
        return options_of(ClientOptions, client_args, "client_args")

    def _key(self, given: str | None, is_own_address: bool) -> str | None:
        key = given or next((os.environ[name] for name in self.key_variables if os.environ.get(name)), None)
        if key is None and self.needs_key and is_own_address:
            raise ConfigError(
                f"{type(self).__name__} needs a key: api_key=... or the environment variable "
                f"{' or '.join(self.key_variables)}."
            )
        if key is not None:
            if not isinstance(key, str):
                raise ConfigError(f"api_key must be a text, not {type(key).__name__}")
            remember_secret(key)
        return key

    def _own_budget(self, budget: Budget | float | None) -> Budget | None:
        if budget is None:
            return None
        from ..monitor import Budget

        return budget if isinstance(budget, Budget) else Budget(usd=budget, name=self.model_name)

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a wrapper with arguments of its own; connections and limits stay shared."""
        copied = self.__copy__()
        copied.generate_args = copy.deepcopy(self.generate_args, memo)
        return copied

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and is not pickled: send its configuration.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(config_name={self.config_name!r}, model_name={self.model_name!r})"


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Gate]] = WeakKeyDictionary()


MAX_DEPTH = 300
"""Arguments deeper than this, a cycle for instance, are refused when they are to be written as JSON."""


def check_args(args: Mapping[str, Any], depth: int = 0) -> None:
    """Refuse numbers that JSON has no form for; they would be sent as null.

    Raises:
        ConfigError: one of them is NaN or infinite, or ``args`` is no object.
    """
    if depth > MAX_DEPTH:
        return
    if not isinstance(args, Mapping):
        raise ConfigError(f"Arguments are an object of names and values, not {type(args).__name__}.")
    for name, value in args.items():
        if type(value) is float and not math.isfinite(value):
            raise ConfigError(f"The argument {name!r} must be a finite number, got {value!r}.")
        if type(value) is dict:
            check_args(value, depth + 1)
        elif type(value) is list:
            check_args({f"{name}[{index}]": each for index, each in enumerate(value)}, depth + 1)


def _check_texts(name: str, given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ConfigError(f"{name} must be an object of names and texts, not {type(given).__name__}")
    for key, value in given.items():
        if not isinstance(value, str) and (name == "default_headers" or not isinstance(value, (int, float))):
            raise ConfigError(f"{key!r} in {name} must be a text, not {type(value).__name__}")
    remember_secrets(given)


_Options = TypeVar("_Options")


def options_of(kind: type[_Options], given: Mapping[str, Any], what: str) -> _Options:
    """Return ``kind(**given)``.

    Raises:
        ConfigError: it has no such field; names the nearest one.
    """
    known = ["api_key", "base_url", *(each.name for each in fields(kind))]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{what} has no {name!r}; {hint}known: {', '.join(known)}.")
    return kind(**given)


def run_files() -> Files:
    """Return where the current run keeps its images.

    Raises:
        NoRuntimeError: nothing keeps files here.
    """
    turn = open_turn()
    services = _context.find_services(None if turn is None else getattr(turn.agent, "_runtime", None))
    if services is None:
        raise NoRuntimeError("save_local=True")
    files: Files = services.files
    return files
