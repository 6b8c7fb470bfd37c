"""The tools one agent may use, and how their calls are carried out."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from .. import _context
from .._lenient import read_object
from ..errors import ConfigError
from ..events import ToolCalled
from ..logging import brief, get_logger
from ..message import Msg, ToolResultPart
from ._tool_thread import Slots
from .response import ServiceResponse
from .tools import Tool, ToolOptions, as_tool

if TYPE_CHECKING:
    from ..message import ToolCallPart

__all__ = ["Approver", "ToolApproval", "ToolOutcome", "Toolkit"]


@dataclass(frozen=True, slots=True)
class ToolApproval:
    """What an approver is asked: may this agent make this call?

    Attributes:
        agent: the agent's name, "" where no agent asks.
        name: the tool's.
        arguments: what the tool will be given: the model's, after they were checked.
        tainted_by: where untrusted content came from that the agent has read, so that the call may
            be somebody else's wish; empty when it has read none.
    """

    agent: str
    name: str
    arguments: dict[str, Any]
    tainted_by: tuple[str, ...]


Approver: TypeAlias = Callable[[ToolApproval], bool | Awaitable[bool]]
"""Says yes (True) or no to a dangerous call. A plain function is called in a thread, and may ask a person."""


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What became of one call.

    Attributes:
        call: the call.
        response: the tool's answer, or ERROR with the reason why there is none.
        text: the answer as a model is to read it: cut to size, untrusted content in an envelope.
        source: where it comes from if it is not to be trusted, else None.
    """

    call: ToolCallPart
    response: ServiceResponse
    text: str
    source: str | None = None

    @property
    def part(self) -> ToolResultPart:
        """The outcome as a part of a message."""
        return ToolResultPart(self.call.id, self.call.name, self.text, not self.response.is_success)


class Toolkit:
    """Tools, each under a name of its own.

    ::

        toolkit = Toolkit(approve=ask_me)
        toolkit.add(load_web)
        toolkit.add(read_text_file, root="notes")
        toolkit.add(search, ToolOptions(timeout_s=5, group="web"), api_key=key)
        agent = ReActAgent("ann", model="openai:gpt-4o-mini", tools=toolkit)

    An agent can call what is in its toolkit and nothing else; no text it reads changes that.
    Parameters set by the program (presets, and those that give rights) are not shown to models,
    and a call that names one is refused. A tool marked dangerous runs only when ``approve`` says yes.
    """

    def __init__(self, tools: Iterable[Any] = (), *, approve: Approver | None = None) -> None:
        """Take functions, :class:`Tool` objects and pairs that ``ServiceFactory.get`` gave.

        Args:
            tools: what to start with.
            approve: asked before each call of a dangerous tool, one question at a time.
        """
        if approve is not None and not callable(approve):
            raise ConfigError(f"approve= is a function that is asked, not {approve!r:.80}.")
        if callable(tools) or not isinstance(tools, Iterable):
            raise ConfigError(f"tools= is a Toolkit, or a list of functions and tools, not {tools!r:.80}.")
        self._tools: dict[str, Tool] = {}
        self._off: set[str] = set()
        self._desk = None if approve is None else _Desk(approve)
        for each in tools:
            self._take(each)

    def add(
        self, function: Callable[..., Any], options: ToolOptions | None = None, /, **presets: Any
    ) -> Tool:
        """Add a function, plain (it runs in a thread) or async, and return the tool made of it.

        What a model is told comes from its signature, annotations and docstring. ``presets``
        are arguments set here, for every call.

        Raises:
            ConfigError: the name is taken, a preset is no parameter, a parameter that gives rights
                is not set, or a parameter's type has no JSON form.
            MissingExtraError: the package docstring-parser is not installed.
        """
        tool = as_tool(function, options, presets)
        self.add_tool(tool)
        return tool

    def add_tool(self, tool: Tool) -> None:
        """Add a tool.

        Raises:
            ConfigError: there is one of that name.
        """
        if tool.name in self._tools:
            raise ConfigError(
                f"There is a tool {tool.name!r} already; give this one another: ToolOptions(name=...)."
            )
        self._tools[tool.name] = tool

    def remove(self, name: str) -> None:
        """Take a tool away; calls under way end as usual.

        Raises:
            ConfigError: there is none of that name.
        """
        if self._tools.pop(name, None) is None:
            raise ConfigError(f"There is no tool {name!r} to remove; there are: {', '.join(self._tools)}.")

    def enable(self, group: str) -> None:
        """Switch the tools of a group on again."""
        self._off.discard(self._known_group(group))

    def disable(self, group: str) -> None:
        """Switch the tools of a group off: models are not told of them, and calls are refused."""
        self._off.add(self._known_group(group))

    def only(self, *names: str) -> Toolkit:
        """Return another toolkit with some of these tools, for an agent that may use no others.

        Raises:
            ConfigError: there is no tool of one of the names.
        """
        chosen = Toolkit()
        chosen._desk = self._desk
        for name in names:
            if name not in self._tools:
                raise ConfigError(f"There is no tool {name!r}; there are: {', '.join(self._tools)}.")
            chosen.add_tool(self._tools[name])
        chosen._off = self._off & {tool.options.group for tool in chosen._tools.values()}
        return chosen

    @property
    def tools(self) -> list[Tool]:
        """The tools that are switched on, in the order they were added."""
        return [tool for tool in self._tools.values() if tool.options.group not in self._off]

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """Those tools as model wrappers take them for ``tools=``."""
        return [tool.schema for tool in self.tools]

    async def call(
        self, call: ToolCallPart, *, agent: str = "", tainted_by: Sequence[str] = ()
    ) -> ToolOutcome:
        """Carry out one call. Whatever goes wrong is an outcome with ERROR; only cancelling raises.

        Args:
            call: what a model asks for.
            agent: who asks, for the approver and the log.
            tainted_by: where untrusted content came from that the asker has read.
        """
        began = time.perf_counter()
        outcome = await self._outcome(call, agent, tainted_by)
        runtime = _context.find_runtime()
        if runtime is not None and runtime.is_listened_to:
            seconds = time.perf_counter() - began
            runtime.emit(ToolCalled(agent, call.name, seconds, outcome.response.is_success))
        return outcome

    async def call_all(
        self, calls: Sequence[ToolCallPart], *, agent: str = "", tainted_by: Sequence[str] = ()
    ) -> list[ToolOutcome]:
        """Carry out several calls at once; outcomes in the order of the calls."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.call(call, agent=agent, tainted_by=tainted_by)) for call in calls]
        return [task.result() for task in tasks]

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __repr__(self) -> str:
        return f"Toolkit({', '.join(self._tools)})"

    async def _outcome(self, call: ToolCallPart, agent: str, tainted_by: Sequence[str]) -> ToolOutcome:
        tool = next((tool for tool in self.tools if tool.name == call.name), None)
        if tool is None:
            known = ", ".join(tool.name for tool in self.tools) or "none"
            problem = f"There is no tool {call.name!r}; there are: {known}."
            return _outcome(call, ServiceResponse.error(problem))
        arguments = _arguments(call)
        if arguments is None:
            problem = f"The arguments of {call.name!r} are not a JSON object: {call.raw or ''!s:.200}"
            return _outcome(call, ServiceResponse.error(problem))
        try:
            arguments = tool.check(arguments)
        except Exception as error:
            return _outcome(call, ServiceResponse.error(error))
        refusal = await self._refusal(tool, ToolApproval(agent, tool.name, arguments, tuple(tainted_by)))
        if refusal is not None:
            get_logger().warning("tool_refused", agent=agent, tool=tool.name, reason=refusal)
            return _outcome(call, ServiceResponse.error(refusal))
        response = await _carried_out(tool, arguments, agent)
        return _outcome(call, response, tool, tool.source(arguments))

    def _take(self, given: Any) -> None:
        match given:
            case Tool():
                self.add_tool(given)
            case (function, dict() as schema) if callable(function):
                self.add_tool(_as_described(as_tool(function, None, {}), schema))
            case _ if callable(given):
                self.add(given)
            case _:
                raise ConfigError(
                    f"A tool is a function, a Tool or a pair from ServiceFactory.get, not {given!r:.80}."
                )

    def _known_group(self, group: str) -> str:
        groups = sorted({tool.options.group for tool in self._tools.values() if tool.options.group})
        if group not in groups:
            raise ConfigError(f"No tool is in a group {group!r}; there are: {', '.join(groups) or 'none'}.")
        return group

    async def _refusal(self, tool: Tool, request: ToolApproval) -> str | None:
        """Return why a call must not be made; None when it may."""
        if not tool.dangerous:
            return None
        if self._desk is None:
            return (
                f"{tool.name!r} is marked dangerous and nobody is there to approve it. "
                f"(The program can: Toolkit(approve=...), or say that the tool is not dangerous.)"
            )
        try:
            is_approved = await self._desk.ask(request)
        except Exception as error:
            return f"The approver failed, so {tool.name!r} was not called: {brief(error)}"
        return None if is_approved is True else f"The call of {tool.name!r} was not approved."


class _Desk:
    """Where an approver is asked, one question at a time."""

    def __init__(self, approve: Approver) -> None:
        self._approve = approve
        self._place = Slots(1)

    async def ask(self, request: ToolApproval) -> Any:
        if self in _asking.get():
            raise RuntimeError("it asked for this call itself, while it was being asked about another")
        token = _asking.set((*_asking.get(), self))
        try:
            if inspect.iscoroutinefunction(self._approve):
                async with self._place.here:
                    return await self._approve(request)
            answer = await self._place.in_thread(lambda: self._approve(request))
            return await answer if inspect.isawaitable(answer) else answer
        finally:
            _asking.reset(token)


_asking: ContextVar[tuple[_Desk, ...]] = ContextVar("agentscope_async.asking", default=())
"""The approvers this code was called by."""


def _as_described(tool: Tool, schema: dict[str, Any]) -> Tool:
    """Return the tool under the name, and with the texts, that a schema of the program's own gives."""
    function = schema.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ConfigError("The schema of a tool is {'type': 'function', 'function': {'name': ..., ...}}.")
    return replace(
        tool,
        name=function["name"],
        description=function.get("description") or tool.description,
        parameters=function.get("parameters") or tool.parameters,
    )


def _arguments(call: ToolCallPart) -> dict[str, Any] | None:
    """Return the arguments as a dict of one's own, or None; never repaired: what was cut off must not run."""
    if call.arguments is None:
        return read_object(call.raw, may_repair=False) if call.raw else {}
    plain = orjson.loads(orjson.dumps(call.arguments))
    if isinstance(plain, str):  # JSON in JSON, which some models write
        plain = read_object(plain, may_repair=False)
    return plain if isinstance(plain, dict) else None


async def _carried_out(tool: Tool, arguments: dict[str, Any], agent: str) -> ServiceResponse:
    task = asyncio.current_task()
    cancellations = 0 if task is None else task.cancelling()
    try:
        async with asyncio.timeout(tool.options.timeout_s) as limit:
            return await tool.call(arguments)
    except asyncio.CancelledError:
        if task is None or task.cancelling() > cancellations:
            raise
        return ServiceResponse.error(f"{tool.name!r} was cancelled from within.")
    except (Exception, SystemExit) as error:
        if limit.expired():
            return ServiceResponse.error(
                f"TimeoutError: {tool.name!r} did not answer within {tool.options.timeout_s:g} s."
            )
        get_logger().info("tool_failed", agent=agent, tool=tool.name, error=type(error).__name__)
        return ServiceResponse.error(error)


def _outcome(
    call: ToolCallPart, response: ServiceResponse, tool: Tool | None = None, source: str | None = None
) -> ToolOutcome:
    try:
        content = response.content
        if isinstance(content, Msg):
            source = source or ", ".join(map(str, content.get("untrusted", ()))) or None
            content = content.text
        text = _as_text(content)
    except Exception as error:  # of a value that cannot be shown
        response = ServiceResponse.error(
            f"What {call.name!r} returned cannot be told: {type(error).__name__}"
        )
        text = response.content
    limit = ToolOptions().max_output_chars if tool is None else tool.options.max_output_chars
    if len(text) > limit:
        text = f"{text[:limit]}\n[cut: {len(text) - limit} more characters]"
    return ToolOutcome(call, response, text if source is None else _enveloped(text, source), source)


def _as_text(content: Any) -> str:
    if not isinstance(content, str):
        try:
            content = orjson.dumps(content, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:
            content = repr(content)
    text: str = content.encode("utf-8", "replace").decode()
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, (set, frozenset)):
        return list(value)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


ENVELOPE = "untrusted-content"
_ENVELOPE = re.compile(r"untrusted\W{0,3}content", re.IGNORECASE)


def _enveloped(text: str, source: str) -> str:
    """Return the text between marks that it cannot close itself."""
    inside = _ENVELOPE.sub("untrusted_content", text)
    where = "".join(each for each in source if each.isprintable() and each not in '"<>')[:300]
    return f'<{ENVELOPE} source="{where}">\n{inside}\n</{ENVELOPE}>'
