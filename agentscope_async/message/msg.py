"""The message itself: a frozen object that reads as a mapping and has a wire form."""

from __future__ import annotations

import itertools
import operator
import time
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import orjson

from ..errors import AgentScopeWarning, MessageError
from ._frozen import FrozenList, checked_text
from ._ids import ids
from .parts import TextPart, freeze, has_parts, revive, thaw
from .usage import Usage, checked_usage, usage_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "MSG_TYPES", "ROLES", "TAKEN_FIELDS", "TEXTS", "Msg", "Texts", "Tht", "as_msg", "from_texts", "texts_of",
]  # fmt: skip

ROLES = ("system", "user", "assistant", "tool")

Timestamp: TypeAlias = float | str
Texts: TypeAlias = tuple[str, str, str, str, str]
"""A message that holds only texts, as most do: the fields named in ``TEXTS``."""
TEXTS = ("id", "timestamp", "name", "content", "role")

_new_draft = object.__new__
_now = time.time


class _Draft:
    """A message while it is being filled.

    Filling a plain slotted object and then giving it its frozen class costs a third
    of ``object.__setattr__`` for each field.
    """

    __slots__ = ("name", "content", "role", "url", "_id", "_time", "_extra")

    name: str
    content: Any
    role: str
    url: Any
    _id: str | None
    _time: Timestamp
    _extra: dict[str, Any] | None


class Msg(_Draft):
    """One message, frozen: ``Msg("Ann", "Good morning", role="user")``.

    Attributes:
        name: who says it.
        content: a string, a JSON value, or a list of content parts (``TextPart``, ``ImagePart``, ...).
        role: ``"system"``, ``"user"``, ``"assistant"`` or ``"tool"``; without one it is
            ``"assistant"``, with a warning, as in AgentScope v0.0.2.
        url: a URL or path of an attachment, or a list of them in order.
        id: 32 hexadecimal digits, unique; made when first asked for, then fixed.
        timestamp: local time of creation, ``%Y-%m-%d %H:%M:%S``.
        usage: tokens used, when a model made this message; else None.
        parsed: the validated object, when an agent with an ``output_type`` made it; else
            None. It does not travel: its JSON is the content.

    Any further keyword is a field of its own (``Msg(..., score=3).score``). Items and
    attributes agree (``msg["content"]``, ``.get``, ``in``, ``dict(msg)``). A missing
    attribute raises AttributeError, a missing item KeyError. ``echo=True`` prints the
    message when it is built.

    Raises:
        MessageError: a field holds what cannot be sent: NaN, a lone surrogate, nesting
            deeper than 64, a value that is not JSON; or the role is unknown.
    """

    __slots__ = ()

    def __new__(
        cls,
        /,
        name: str,
        content: Any,
        role: str | None = None,
        *,
        url: str | Sequence[str] | None = None,
        timestamp: str | None = None,
        echo: bool = False,
        **extra: Any,
    ) -> Self:
        """Build a frozen message; see the class for the fields."""
        draft = _new_draft(_Draft)
        draft.name = name if type(name) is str and name.isascii() else checked_text(name, "name")
        draft.content = content if type(content) is str and content.isascii() else freeze(content, "content")
        draft.role = role if role in ROLES else _role_or_error(role)
        draft.url = _checked_url(url) if url else None
        draft._id = None
        draft._time = _now() if timestamp is None else checked_text(timestamp, "timestamp")
        draft._extra = None
        if extra:
            _fill_extra(draft, extra)
        draft.__class__ = cls
        msg: Self = draft  # type: ignore[assignment]  # cast() would be a call for each message
        if echo:
            _echo(msg)
        return msg

    def __init_subclass__(cls) -> None:
        if cls.__dict__.get("__slots__") != ():
            raise TypeError(
                f"{cls.__name__} must declare `__slots__ = ()`: further fields are keywords of Msg."
            )

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        id = self._id
        if id is None:
            with ids.lock:  # two threads that ask first must hear the same
                id = self._id
                if id is None:
                    id = ids.new()
                    _set_id(self, id)
        return id

    @property
    def timestamp(self) -> str:
        """Local time of creation, ``%Y-%m-%d %H:%M:%S``."""
        moment = self._time
        if not isinstance(moment, str):
            moment = _formatted(int(moment))
            _set_time(self, moment)
        return moment

    @property
    def usage(self) -> Usage | None:
        """Tokens used by the model call that made this message."""
        return None if self._extra is None else self._extra.get("usage")

    @property
    def parsed(self) -> Any:
        """The validated object of an agent with an ``output_type``."""
        return None if self._extra is None else self._extra.get("parsed")

    @property
    def text(self) -> str:
        """The content as text: a string as it is, text parts joined, any other value as JSON."""
        content = self.content
        if isinstance(content, str):
            return content
        if has_parts(content):
            return "\n".join(part.text for part in content if isinstance(part, TextPart))
        return orjson.dumps(content).decode()

    def to_str(self) -> str:
        """Return ``"name: text"``."""
        return f"{self.name}: {self.text}"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed and, unless given, a new id and time."""
        left_out = ("id", "timestamp", "parsed") if "content" in changes else ("id", "timestamp")
        old = {key: self[key] for key in self if key not in left_out}
        return type(self)(**{**old, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form: plain JSON values, with ``__type`` first.

        Subclasses of one's own travel as the Msg or Tht they are based on.
        """
        if type(self) is Msg and type(self.content) is str and self._extra is None and self.url is None:
            moment = self._time
            return {
                "__type": "Msg", "id": self._id or self.id,
                "timestamp": moment if type(moment) is str else self.timestamp,
                "name": self.name, "content": self.content, "url": None, "role": self.role,
            }  # fmt: skip
        wire = {
            "__type": next(kind.__name__ for kind in type(self).__mro__ if kind.__name__ in MSG_TYPES),
            "id": self.id,
            "timestamp": self.timestamp,
            "name": self.name,
            "content": thaw(self.content),
            "url": thaw(self.url),
            "role": self.role,
        }
        for key, value in (self._extra or {}).items():
            if key != "parsed":
                wire[key] = thaw(value)
        return wire

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> Msg:
        """Rebuild a message from :meth:`to_dict`; ``__type`` says which kind, Msg when absent.

        Raises:
            MessageError: an unknown kind, a missing field or a value no message may hold.
        """
        if not isinstance(wire, dict):
            raise MessageError("", f"a message is a JSON object, not {type(wire).__name__}")
        plain = _plain_from(wire)
        if plain is not None:
            return plain
        values = dict(wire)
        kind = values.pop("__type", "Msg")
        if not isinstance(kind, str) or kind not in MSG_TYPES:
            raise MessageError(
                "__type", f"unknown kind {kind!r:.80}; known are {sorted(MSG_TYPES)} and 'List'"
            )
        for key in ("name", "content"):
            if key not in values:
                raise MessageError(key, "is missing")
        for key, value in values.items():
            values[key] = revive(value, str(key))
        if isinstance(values.get("usage"), dict):
            values["usage"] = usage_from(values["usage"])
        values.pop("echo", None)
        return _build(MSG_TYPES[kind], values)

    def serialize(self) -> str:
        """Return the wire form as JSON text."""
        return orjson.dumps(self.to_dict()).decode()

    # -- the same as a read-only mapping --

    def keys(self) -> Iterator[str]:
        """Names of the fields, in order."""
        return iter(self)

    def values(self) -> Iterator[Any]:
        """Values of the fields, in order."""
        return (self[key] for key in self)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Pairs of name and value, in order."""
        return ((key, self[key]) for key in self)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the field, or ``default`` where there is none of that name."""
        return self[key] if key in self else default

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(_FIELDS, self._extra or ())

    def __len__(self) -> int:
        return len(_FIELDS) + len(self._extra or ())

    def __contains__(self, key: object) -> bool:
        return key in _FIELDS or (self._extra is not None and key in self._extra)

    def __getitem__(self, key: str) -> Any:
        if key in _FIELDS:
            return getattr(self, key)
        if self._extra is not None and key in self._extra:
            return self._extra[key]
        raise KeyError(key)

    def __getattr__(self, key: str) -> Any:
        extra = None if key.startswith("__") else self._extra
        if extra is not None and key in extra:
            return extra[key]
        raise AttributeError(f"{type(self).__name__} has no attribute {key!r}")

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"A message is frozen; make a changed copy: msg.replace({key}=...)")

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"A message is frozen; it cannot lose {key!r}")

    def __setitem__(self, key: str, value: object) -> None:
        raise TypeError(f"A message is frozen; make a changed copy: msg.replace({key}=...)")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        return f"{type(self).__name__}(name={self.name!r}, content={text!r}, role={self.role!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[..., Msg], tuple[dict[str, Any]]]:
        return Msg.from_dict, (self.to_dict(),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let pydantic (and so FastAPI) read and write messages in their wire form."""
        from ._pydantic import core_schema_of

        return core_schema_of(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Describe the wire form as JSON schema."""
        from ._pydantic import json_schema

        return json_schema()


class Tht(Msg):
    """A thought: a message an agent keeps for itself. Its name is ``thought``, its role ``assistant``."""

    __slots__ = ()

    def __new__(cls, /, content: Any, timestamp: str | None = None, **extra: Any) -> Self:
        """Build a thought; ``content`` as in :class:`Msg`."""
        for key, fixed in (("name", "thought"), ("role", "assistant")):
            if extra.pop(key, fixed) != fixed:
                raise MessageError(key, f"of a thought is always {fixed!r}")
        return super().__new__(cls, "thought", content, "assistant", timestamp=timestamp, **extra)


def as_msg(value: Any) -> Msg:
    """Return ``value`` if it is a message, or a user's message if it is a bare string.

    Raises:
        MessageError: it is neither.
    """
    if isinstance(value, Msg):
        return value
    if isinstance(value, str):
        return Msg("user", value, "user")
    raise MessageError("message", f"expected a Msg or a string, not {type(value).__name__}")


Mapping.register(Msg)  # it reads like one; FastAPI takes it for a body, not a query parameter, by this

MSG_TYPES: dict[str, type[Msg]] = {"Msg": Msg, "Tht": Tht}
_FIELDS = ("id", "timestamp", "name", "content", "role", "url")
_RESERVED = frozenset(dir(Msg)) - {"usage", "parsed"}
TAKEN_FIELDS = frozenset(dir(Msg)) | {"echo"}
"""What a field of one's own cannot be called."""

_set_id = _Draft._id.__set__  # type: ignore[misc,union-attr]  # a slot descriptor: writes past the freeze
_set_time = _Draft._time.__set__  # type: ignore[misc,union-attr]


@lru_cache(maxsize=64)
def _formatted(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _plain_from(wire: dict[str, Any]) -> Msg | None:
    """Return the message of a wire form that holds only ASCII texts, as most do; None: ask ``from_dict``.

    Raises:
        MessageError: as ``from_dict``.
    """
    try:
        kind, url, id, timestamp, name, content, role = _plain_fields(wire)
    except KeyError:
        return None
    if len(wire) != 7 or kind != "Msg" or url is not None:
        return None
    if not (type(id) is type(timestamp) is type(name) is type(content) is type(role) is str):
        return None
    if not (content.isascii() and name.isascii() and timestamp.isascii() and id.isascii()):
        return None
    return from_texts((id, timestamp, name, content, role))


def texts_of(msg: Msg) -> Texts | None:
    """Return the texts of a message that holds nothing else; None: it has to travel as ``to_dict`` says."""
    content, moment = msg.content, msg._time
    if type(content) is not str or msg._extra is not None or msg.url is not None or type(msg) is not Msg:
        return None
    timestamp = moment if type(moment) is str else _formatted(int(moment))
    return msg._id or msg.id, timestamp, msg.name, content, msg.role


def from_texts(texts: Sequence[Any]) -> Msg:
    """Return the message that :func:`texts_of` was given; they come from JSON: none has a lone surrogate.

    Raises:
        MessageError: they are not five texts, or none of a message.
    """
    try:
        id, timestamp, name, content, role = texts
    except ValueError:
        raise _no_texts() from None
    if not (type(id) is type(timestamp) is type(name) is type(content) is type(role) is str):
        raise _no_texts()
    if role not in ROLES:
        raise _unknown_role(role)
    if not 1 <= len(id) <= 200:
        raise _bad_id()
    draft = _new_draft(_Draft)
    draft.name = name
    draft.content = content
    draft.role = role
    draft.url = draft._extra = None
    draft._id = id
    draft._time = timestamp
    draft.__class__ = Msg
    return draft  # type: ignore[return-value]  # cast() would be a call for each message


_plain_fields = operator.itemgetter("__type", "url", *TEXTS)


def _build(kind: type[Msg], values: dict[str, Any]) -> Msg:
    for key in values:
        if not isinstance(key, str) or ((key in _RESERVED or key == "parsed") and key not in _FIELDS):
            raise MessageError(f"{key!s:.100}", "is not a name a field may have")
    return kind(**values)


def _fill_extra(draft: _Draft, extra: dict[str, Any]) -> None:
    if "id" in extra:
        msg_id = extra.pop("id")
        if not isinstance(msg_id, str) or not 1 <= len(msg_id) <= 200:
            raise _bad_id()
        draft._id = checked_text(msg_id, "id")
    kept = {}
    for key, value in extra.items():
        if key in _RESERVED or key.startswith("__"):
            raise MessageError(key, "is taken by Msg itself; choose another name for this field")
        if key == "usage":
            if value is not None:
                kept[key] = checked_usage(value)
        else:
            kept[checked_text(key, "field name")] = value if key == "parsed" else freeze(value, key)
    draft._extra = kept or None


def _checked_url(url: Any) -> str | FrozenList:
    if isinstance(url, (list, tuple)):
        return FrozenList(checked_text(item, f"url[{index}]") for index, item in enumerate(url))
    return checked_text(url, "url")


def _role_or_error(role: Any) -> str:
    if role is not None:
        raise _unknown_role(role)
    warnings.warn("A message without a role gets the role 'assistant'.", AgentScopeWarning, stacklevel=3)
    return "assistant"


def _unknown_role(role: Any) -> MessageError:
    return MessageError("role", f"unknown role {role!r:.80}; use one of {', '.join(ROLES)}")


def _no_texts() -> MessageError:
    return MessageError("msg", f"is a list of five texts: {', '.join(TEXTS)}")


def _bad_id() -> MessageError:
    return MessageError("id", "must be a string of 1 to 200 characters")


def _echo(msg: Msg) -> None:
    from ..logging import chat  # the lowest layer prints only when asked to

    chat(msg)
