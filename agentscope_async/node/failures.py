"""Errors on their way to another node and back.

Our own errors and Python's own keep their type, by two fixed tables; every other one becomes a
RemoteError that names it. Nothing is looked up by a name from the wire except in these tables.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import errors
from .._redact import redact_text
from ..errors import MessageError, NodeDown, QuorumError, RemoteError
from ..logging import brief, get_logger, visible
from ..message import Msg
from ._facts import attributes_of, fits, read_attributes, text_in, told
from ._python_errors import arguments_of, built
from .encoding import sendable
from .frames import MAX_TRACEBACK, Failure, FrameError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["error_of", "failure_of"]

MAX_FACTS = 64 * 1024
"""Bytes of all facts of an error; what does not fit is left out."""
MAX_NOTES = 16_384
"""Characters of all notes of an error."""
MAX_CHAIN = 4
"""Errors of a chain of causes whose tracebacks are told."""
MAX_INNER = 32
"""Errors of a group whose texts are told."""
FIRST_FRAMES, LAST_FRAMES = 8, 32
MAX_FRAME_TEXT = 500

_OURS: dict[str, type[Exception]] = {name: getattr(errors, name) for name in errors.__all__}
_BUILTIN: dict[str, type[Exception]] = {
    name: each
    for name, each in vars(builtins).items()
    # Groups would need the errors in them, and no future can be given a StopIteration.
    if isinstance(each, type) and issubclass(each, Exception)
    and not issubclass(each, (BaseExceptionGroup, StopIteration)) and name == each.__name__
}  # fmt: skip
_BY_NAME = {**_BUILTIN, **_OURS}

AGENT_ERROR = "agent_error"
_CODES = {
    "AgentNotFound": "no_such_agent",
    "AgentStoppedError": "agent_stopped",
    "AskTimeoutError": "deadline",
    "ConfigError": "bad_config",
    "ConnectFailed": "connect_failed",
    "DeadlockError": "deadlock",
    "ForbiddenError": "forbidden",
    "InterruptedTurnError": "interrupted",
    "MailboxFullError": "mailbox_full",
    "MessageError": "bad_payload",
    "NoRuntimeError": "no_runtime",
    "NodeDown": "node_down",
    "ReplyExpiredError": "reply_expired",
    "RuntimeClosedError": "runtime_closed",
    "WrongLoopError": "wrong_loop",
}
_BY_CODE: dict[str, type[Exception]] = {
    **{code: _OURS[name] for name, code in _CODES.items()},
    **dict.fromkeys(
        ("bad_frame", "bad_json", "bad_name", "hop_limit", "too_deep", "too_large", "too_many_elements",
         "unknown_type"), MessageError,
    ),
    "cancelled": errors.InterruptedTurnError,
    "draining": NodeDown,
}  # fmt: skip
"""What a failure that names no class is told as: one of the protocol, or of another program than ours."""


def failure_of(error: BaseException, *, with_traceback: bool = True) -> Failure:
    """Return what another node is told of an error.

    Text, notes and traceback are cut to 4, 16 and 16 KiB and hold no secrets. The traceback is
    that of the error and of what caused it; reading the source lines for it may touch the disk.
    """
    if isinstance(error, FrameError):
        error = MessageError("body", str(error)).with_traceback(error.__traceback__)
    name = _name_of(error)
    return Failure(
        code=_CODES.get(name, AGENT_ERROR),
        text=_text_of(error),
        type=told(name, 200),
        traceback=_traceback_of(error) if with_traceback else "",
        facts=_facts_of(error) or None,
    )


def error_of(failure: Failure, *, agent: str, node: str) -> Exception:
    """Return the error for what another node tells; its notes and its traceback there are notes.

    ``agent`` and ``node`` say who was asked, where the failure does not.
    """
    error = _made(failure, failure.facts or {}, agent, node)
    for note in _notes_in(failure):
        error.add_note(visible(note))
    if failure.traceback:
        error.add_note(f"Traceback on node {node}:\n{visible(failure.traceback[:MAX_TRACEBACK])}")
    return error


# -- telling --


def _name_of(error: BaseException) -> str:
    """Return the name of an error's class, with its module for one that is only called like one of ours."""
    kind = type(error)
    if _BY_NAME.get(kind.__name__, kind) is kind:
        return kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
        if isinstance(error, BaseExceptionGroup):
            inner = (f"{type(each).__name__}: {_text_of(each)}" for each in _inner(error))
            text = "; ".join([text, *inner])
        return told(text)
    except Exception as problem:  # a class of the user's own, and its asker is to hear of it all the same
        return f"<its text cannot be had: {type(problem).__name__}>"


def _inner(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield the first errors of a group, and of groups in it."""
    waiting, told_of = list(reversed(group.exceptions[:MAX_INNER])), 0
    while waiting and told_of < MAX_INNER:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(reversed(error.exceptions[:MAX_INNER]))
        else:
            told_of += 1
            yield error


def _traceback_of(error: BaseException) -> str:
    """Return the end of what Python would print, cut to the room there is."""
    try:
        parts: list[str] = []
        for shown, link in _chain(error):
            parts[:0] = [_frames_of(shown.__traceback__), f"{_name_of(shown)}: {_text_of(shown)}\n", link]
        text = redact_text("".join(parts))
    except Exception as problem:  # no reason to leave whoever asked without an answer
        return f"<no traceback: {type(problem).__name__}>"
    if len(text) > MAX_TRACEBACK:
        text = "...\n" + text[4 - MAX_TRACEBACK :]
    return sendable(text, MAX_TRACEBACK)


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yield an error and what led to it, each with the line that follows it."""
    shown: BaseException | None = error
    link = ""
    seen: set[int] = set()
    while shown is not None and len(seen) < MAX_CHAIN and id(shown) not in seen:
        seen.add(id(shown))
        yield shown, link
        if shown.__cause__ is not None:
            shown, link = shown.__cause__, "\nwhich was the direct cause of:\n\n"
        else:
            shown = None if shown.__suppress_context__ else shown.__context__
            link = "\nwhile handling it:\n\n"


def _frames_of(trace: TracebackType | None) -> str:
    frames = list(traceback.walk_tb(trace))
    if not frames:
        return ""
    left_out = len(frames) - FIRST_FRAMES - LAST_FRAMES
    if left_out > 0:
        frames[FIRST_FRAMES:-LAST_FRAMES] = []
    lines = [line[:MAX_FRAME_TEXT] for line in traceback.StackSummary.extract(iter(frames)).format()]
    if left_out > 0:
        lines.insert(FIRST_FRAMES, f"  ... {left_out} more ...\n")
    return "Traceback (most recent call last):\n" + "".join(lines)


def _facts_of(error: BaseException) -> dict[str, Any]:
    """Return what fits of an error's attributes and notes; small and important ones come first."""
    facts, room = {}, MAX_FACTS
    for name, value in _candidates(error).items():
        size = fits(value, room)
        if size is not None:
            facts[name] = value
            room -= size
    return facts


def _candidates(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    found: dict[str, Any] = {}
    try:
        if _OURS.get(kind.__name__) is kind:
            found = attributes_of(error)
        elif _BUILTIN.get(kind.__name__) is kind:
            found = arguments_of(error)
        if type(error) is QuorumError:
            found |= {"good": _good_of(error), "failures": _failures_of(error)}
        if notes := list(_notes_of(error)):
            found["notes"] = notes
    except (
        Exception
    ) as problem:  # attributes can be anything; no reason to leave whoever asked without an answer
        get_logger().warning("error_told_in_part", error=kind.__name__, problem=brief(problem))
    return found


def _notes_of(error: BaseException) -> Iterator[str]:
    notes = getattr(error, "__notes__", ())
    room = MAX_NOTES
    for note in notes if isinstance(notes, (list, tuple)) else ():
        if isinstance(note, str) and room > 0:
            text = told(note, room)
            room -= len(text)
            yield text


# -- hearing --


def _notes_in(failure: Failure) -> list[str]:
    notes = (failure.facts or {}).get("notes")
    if type(notes) is not list:
        return []
    return [note[:MAX_NOTES] for note in notes[:MAX_INNER] if type(note) is str]


def _made(failure: Failure, facts: dict[str, Any], agent: str, node: str) -> Exception:
    kind = _OURS.get(failure.type)
    if kind is None and failure.type in _BUILTIN:
        return built(_BUILTIN[failure.type], failure.text, facts)
    if kind is None and not failure.type:
        kind = _BY_CODE.get(failure.code)
        if failure.code == "draining":
            facts = {"reason": "draining", "outcome": "not_delivered"}
    if kind is None:
        return RemoteError(agent, failure.text, type=visible(failure.type or failure.code), node=node)
    known = {"agent": agent, "node": node, "reason": failure.code, "field": "body", "type": failure.type}
    # Not by its __init__, which takes what the text was made from; two of its bases have a __new__ each.
    make = OSError.__new__ if issubclass(kind, OSError) else kind.__new__
    error: Exception = make(kind, failure.text)
    error.args = (failure.text,)
    vars(error).update(read_attributes(kind, facts, **known))
    if isinstance(error, QuorumError):
        error.good, error.failures = _read_good(facts), _read_failures(facts, node)
    return error


# -- a quorum that failed: the answers that did come, and the errors of the others --


class _Elsewhere(NamedTuple):
    """An agent of which we know the name only."""

    name: str


def _good_of(error: QuorumError) -> list[Any]:
    return [each.to_dict() if isinstance(each, Msg) else None for each in error.good]


def _failures_of(error: QuorumError) -> list[Any]:
    return [_failure_in_quorum(told(each.name, 200), each.error) for each in error.failures[:MAX_INNER]]


def _failure_in_quorum(agent: str, error: Exception) -> dict[str, Any]:
    name = _name_of(error)
    facts = {} if isinstance(error, QuorumError) else _facts_of(error)  # once is deep enough
    code = _CODES.get(name, AGENT_ERROR)
    return {"agent": agent, "code": code, "text": _text_of(error), "type": told(name, 200), "facts": facts}


def _read_good(facts: dict[str, Any]) -> list[Msg | None]:
    good = facts.get("good")
    try:
        return [None if each is None else Msg.from_dict(each) for each in good or ()]
    except (MessageError, TypeError):
        return []


def _read_failures(facts: dict[str, Any], node: str) -> list[Any]:
    from ..pipelines.fanout import AgentFailure

    failures = facts.get("failures")
    return [
        AgentFailure(_Elsewhere(name), error_of(failure, agent=name, node=node))
        for name, failure in map(_read_failure, failures if type(failures) is list else ())
    ]


def _read_failure(value: Any) -> tuple[str, Failure]:
    """Return the name and the failure of one agent; what is missing is left empty."""
    told_of = value if type(value) is dict else {}
    name, code, text, kind = (text_in(told_of, key) or "" for key in ("agent", "code", "text", "type"))
    facts = told_of.get("facts")
    if type(facts) is not dict or kind == "QuorumError":
        facts = None
    return name, Failure(code, text, kind, facts=facts)
