"""What an error knows besides its text, as JSON values and back.

Which attributes cross, and what they may be, is written down here for each class; nothing else
is ever set. What is missing or of the wrong kind is replaced by a default, so that every
attribute an error is documented to have is there.
"""

from __future__ import annotations

import asyncio
import builtins
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .. import errors
from .._redact import redact, redact_text
from .encoding import encode, sendable
from .frames import MAX_INTEGER, MAX_TEXT, FrameError

__all__ = ["attributes_of", "fits", "read_attributes", "read_whole", "text_in", "told"]

MAX_SPOKEN = 16_384
"""Characters of a model's answer, and bytes of a raw one, that an error takes along."""
MAX_NAMES = 64


def told(text: str, limit: int = MAX_TEXT) -> str:
    """Return what another node may see of a text: its beginning, without secrets."""
    # Somewhat more is searched than is sent, for a secret at the cut.
    return sendable(redact_text(str.__getitem__(text, slice(0, 2 * limit))), limit)


def fits(value: Any, room: int) -> int | None:
    """Return how many bytes a value takes in a frame; None: more than ``room``, or it may not go there."""
    try:
        line = encode({"t": "rep", "n": 1, "id": 1, "err": {"facts": {"": value}}})
    except FrameError:
        return None
    return len(line) if len(line) <= room else None


class _Fact(NamedTuple):
    """One attribute: ``write`` gives its JSON value, ``read`` takes one; or raise ValueError."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    default: Any


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return told(value)


def _read_text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError
    return value[:MAX_SPOKEN]


def _spoken(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return sendable(value, MAX_SPOKEN)  # what models say is kept as it is


def read_whole(value: Any) -> int:
    """Return a whole number as JSON readers agree on; raises ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INTEGER:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, float) and math.isfinite(value):
        return value
    return read_whole(value)


def _code(value: Any) -> str | int:
    return _text(value) if isinstance(value, str) else read_whole(value)


def _names(value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise ValueError
    return [_text(each) for each in value[:MAX_NAMES]]


def _read_names(value: Any) -> tuple[str, ...]:
    if type(value) is not list:
        raise ValueError
    return tuple(_read_text(each) for each in value[:MAX_NAMES])


def _outcome(value: Any) -> str:
    if value not in ("not_delivered", "unknown"):
        raise ValueError
    return str(value)


def _raw(value: Any) -> Any:
    if fits(value, MAX_SPOKEN) is None:
        raise ValueError
    return redact(value)


def _as_it_is(value: Any) -> Any:
    return value


def _class_name(value: Any) -> str:
    return told(value.__name__, 200)


_CLASSES: dict[str, type] = {
    name: each for name, each in vars(builtins).items() if isinstance(each, type) and name == each.__name__
} | {"CancelledError": asyncio.CancelledError}


def _read_class(value: Any) -> type:
    if type(value) is not str or value not in _CLASSES:
        raise ValueError
    return _CLASSES[value]


def _or_none(fact: _Fact) -> _Fact:
    return _Fact(
        lambda value: None if value is None else fact.write(value),
        lambda value: None if value is None else fact.read(value),
        None,
    )


_TEXT = _Fact(_text, _read_text, "")
_WHOLE = _Fact(read_whole, read_whole, 0)
_NUMBER = _Fact(_number, _number, math.nan)

_FACTS: dict[type[BaseException], dict[str, _Fact]] = {
    errors.AgentError: {"agent": _TEXT},
    errors.AgentNotFound: {"node": _TEXT},
    errors.AskTimeoutError: {"timeout_s": _NUMBER},
    errors.BudgetExceededError: {
        "limit": _TEXT, "allowed": _NUMBER, "spent": _NUMBER, "reserved": _NUMBER, "needed": _NUMBER,
    },
    errors.ConnectFailed: {"url": _TEXT, "kind": _TEXT, "status": _or_none(_WHOLE)},
    errors.DeadlockError: {"chain": _Fact(_names, _read_names, ())},
    errors.InterruptedTurnError: {"reason": _or_none(_TEXT)},
    errors.InvalidReplyError: {"value_type": _Fact(_class_name, _read_class, object)},
    errors.MailboxFullError: {"capacity": _WHOLE, "overflow": _TEXT},
    errors.MessageError: {"field": _TEXT},
    errors.MissingExtraError: {"package": _TEXT},
    errors.ModelError: {
        "provider": _TEXT,
        "model": _TEXT,
        "status": _or_none(_WHOLE),
        "code": _or_none(_Fact(_code, _code, None)),
        "request_id": _or_none(_TEXT),
        "attempts": _WHOLE._replace(default=1),
        "retry_after_s": _or_none(_NUMBER),
        "partial_text": _or_none(_Fact(_spoken, _read_text, None)),
        "raw": _Fact(_raw, _as_it_is, None),
    },
    errors.NodeDown: {"node": _TEXT, "reason": _TEXT, "outcome": _Fact(_outcome, _outcome, "unknown")},
    errors.PartialStreamError: {"type": _TEXT._replace(default="truncated")},
    errors.QuorumError: {"needed": _WHOLE},
    errors.QuotaExceededError: {"name": _TEXT},
    errors.RemoteError: {"type": _TEXT, "node": _TEXT},
    errors.ReplyExitError: {"exit_type": _Fact(_class_name, _read_class, BaseException)},
}  # fmt: skip
"""The attributes of each class of ours, besides those of its bases. That of a class that is not
built in is told as the default: it cannot be had by its name."""


def _facts_of(kind: type[BaseException]) -> dict[str, _Fact]:
    return {name: fact for base in reversed(kind.__mro__) for name, fact in _FACTS.get(base, {}).items()}


def attributes_of(error: BaseException) -> dict[str, Any]:
    """Return the attributes of an error of ours as JSON values; one that has no such form is left out."""
    known, values = vars(error), {}
    for name, fact in _facts_of(type(error)).items():
        try:
            values[name] = fact.write(known[name])
        except (KeyError, ValueError):
            continue
    return values


def read_attributes(kind: type[BaseException], values: Mapping[str, Any], **known: str) -> dict[str, Any]:
    """Return the attributes for an error of ours from what another node says of them.

    ``known`` is used for those it does not say, before the default.
    """
    found = {}
    for name, fact in _facts_of(kind).items():
        try:
            found[name] = fact.read(values[name])
        except (KeyError, ValueError):
            found[name] = known.get(name, fact.default)
    return found


def text_in(facts: dict[str, Any], name: str) -> str | None:
    """Return a text that another node says, or None if that is none."""
    value = facts.get(name)
    return value[:MAX_TEXT] if type(value) is str else None
