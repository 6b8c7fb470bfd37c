"""One tool: a function, what a model is told of it, and how it may be used."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ConfigError
from ._marks import marks_of
from ._schema import describe, parameters_of
from ._tool_thread import Slots
from .response import ServiceResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Tool", "ToolCall", "ToolOptions", "as_tool"]

ToolCall: TypeAlias = Callable[[dict[str, Any]], Awaitable[ServiceResponse]]
"""Calls a tool with arguments that were checked."""

ToolCheck: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes of the arguments a model wrote those the tool is given. Raises ValueError when they do not fit."""

MAX_SOURCE_CHARS = 300

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PRESET_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """How a tool may be used: ``toolkit.add(function, ToolOptions(timeout_s=5), **presets)``.

    Attributes:
        name: what the model calls it by, 1 to 64 letters, digits, ``_`` and ``-``; the function's name.
        description: what the model is told it does; the first lines of the function's docstring.
        group: tools of one group are switched on and off together; those of none are always on.
        timeout_s: seconds a call may take, waiting included; None: any time. The thread of a plain
            function cannot be ended: the call fails in time, the thread goes on and keeps its place.
        max_output_chars: of a result, this many characters are shown to the model.
        max_concurrency: calls that run at once; further ones wait.
        untrusted: the results were written by strangers; a text names the argument that says where
            they come from. None: as the function is marked, False where it is not.
        dangerous: it runs only with the approver's yes. None: as the function is marked.
    """

    name: str | None = None
    description: str | None = None
    group: str | None = None
    timeout_s: float | None = 60.0
    max_output_chars: int = 20_000
    max_concurrency: int = 16
    untrusted: str | bool | None = None
    dangerous: bool | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ConfigError(f"A tool's name is 1 to 64 letters, digits, _ and -, not {self.name!r:.80}.")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigError(f"timeout_s of a tool must be above 0, got {self.timeout_s!r}.")
        for option in ("max_output_chars", "max_concurrency"):
            if getattr(self, option) < 1:
                raise ConfigError(f"{option} of a tool must be 1 or more, got {getattr(self, option)!r}.")


@dataclass(frozen=True, slots=True)
class Tool:
    """What a toolkit holds. :func:`as_tool` makes one of a function.

    Attributes:
        name: what models call it by.
        description: what they are told it does.
        parameters: JSON Schema of an object, its arguments.
        call: runs it.
        check: sees to its arguments first; without one they are taken as written.
        untrusted: its results were written by strangers; see :class:`ToolOptions`.
        dangerous: it runs only with an approver's yes.
        options: limits and group.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    call: ToolCall
    untrusted: str | bool = False
    dangerous: bool = False
    options: ToolOptions = field(default_factory=ToolOptions)
    check: ToolCheck = dict

    def __post_init__(self) -> None:
        ToolOptions(name=self.name)  # checks it

    @property
    def schema(self) -> dict[str, Any]:
        """The tool in the form OpenAI's API gave such descriptions."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def source(self, arguments: Mapping[str, Any]) -> str | None:
        """Return where a result comes from if it is not to be trusted, else None."""
        if not self.untrusted:
            return None
        named = arguments.get(self.untrusted) if isinstance(self.untrusted, str) else None
        if not isinstance(named, str):
            return self.name
        shown = "".join(each if each.isprintable() else " " for each in named[: MAX_SOURCE_CHARS + 1])
        cut = "..." if len(shown) > MAX_SOURCE_CHARS else ""
        return f"{self.name}: {shown[:MAX_SOURCE_CHARS]}{cut}"


def as_tool(function: Callable[..., Any], options: ToolOptions | None, presets: Mapping[str, Any]) -> Tool:
    """Make a tool of a function, plain or async; ``presets`` are set by the program and not shown to models.

    Raises:
        ConfigError: a preset is none of its parameters, a parameter that gives rights is not set, or
            the function cannot be described.
    """
    if options is not None and not isinstance(options, ToolOptions):
        raise ConfigError(f"The options of a tool are ToolOptions(...), not {type(options).__name__}.")
    marks = marks_of(function)
    if options is None:
        options = ToolOptions(timeout_s=None) if marks.ends_itself else ToolOptions()
    if isinstance(function, functools.partial):
        if function.args:
            raise ConfigError("A partial with positional arguments cannot be a tool: give them by keyword.")
        presets = {**function.keywords, **presets}
        function = function.func
    name = options.name or str(getattr(function, "__name__", type(function).__name__))
    _check_kind(function, name)
    taken = parameters_of(function, name)
    _check_presets(taken, name, presets, marks.granted)
    untrusted = marks.untrusted if options.untrusted is None else options.untrusted
    if isinstance(untrusted, str) and untrusted not in [each.name for each in taken]:
        raise ConfigError(f"untrusted= names a parameter of {name!r} or is True, not {untrusted!r}.")
    described = describe(function, frozenset(presets) | marks.granted, name)
    dangerous = marks.dangerous(presets) if callable(marks.dangerous) else marks.dangerous
    return Tool(
        name,
        options.description or described.description or "",
        described.parameters,
        _caller(function, presets, options.max_concurrency),
        untrusted,
        dangerous if options.dangerous is None else options.dangerous,
        options,
        described.check,
    )


def _caller(function: Callable[..., Any], presets: Mapping[str, Any], max_concurrency: int) -> ToolCall:
    slots = Slots(max_concurrency)
    is_async = _is_async(function)

    async def call(arguments: dict[str, Any]) -> ServiceResponse:
        bound = functools.partial(function, **presets, **arguments)
        if is_async:
            async with slots.here:
                answer = await bound()
        else:
            answer = await slots.in_thread(bound)
            if inspect.isawaitable(answer):  # a decorated async function, say
                answer = await answer
        return answer if isinstance(answer, ServiceResponse) else ServiceResponse.success(answer)

    return call


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # of an object that is called like a function
    )


def _check_kind(function: Callable[..., Any], name: str) -> None:
    inner = inspect.unwrap(function)
    if hasattr(inner, "reply") and hasattr(inner, "observe") and not inspect.isclass(inner):
        raise ConfigError(
            "An agent becomes a tool through a function that says what it is asked: "
            "`async def ask_bob(question: str) -> str: return (await bob(question)).text`."
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigError(f"Tool {name!r} yields its results; a tool returns them: a list, say.")


def _check_presets(
    taken: Sequence[inspect.Parameter], name: str, presets: Mapping[str, Any], granted: frozenset[str]
) -> None:
    if not any(each.kind is each.VAR_KEYWORD for each in taken):
        known = [each.name for each in taken if each.kind in _PRESET_KINDS]
        for preset in presets:
            if preset not in known:
                hint = f" ToolOptions({preset}=...) sets how it is used." if preset in _OPTIONS else ""
                raise ConfigError(
                    f"Tool {name!r} has no parameter {preset!r}; it has {', '.join(known) or 'none'}.{hint}"
                )
    for each in taken:
        if each.name in granted and each.name not in presets and each.default is each.empty:
            raise ConfigError(
                f"Tool {name!r} needs {each.name}= from the program: toolkit.add({name}, {each.name}=...)."
            )


_OPTIONS = frozenset(each.name for each in fields(ToolOptions))
