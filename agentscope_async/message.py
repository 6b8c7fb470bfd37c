"""Messages: what agents say to each other, and the JSON form in which they travel.

A :class:`Msg` is frozen and so are the lists and objects inside it: what one agent
holds, nobody else can change. Everything that could not be sent to another node
(NaN, lone surrogates, cycles, foreign objects) is refused when the message is
built, next to the mistake, and not later on some wire.
"""

from __future__ import annotations

import itertools
import math
import operator
import os
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

import orjson

from .errors import AgentScopeWarning, MessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "AudioPart",
    "ContentPart",
    "FilePart",
    "ImagePart",
    "Msg",
    "Speech",
    "TextPart",
    "ThinkingPart",
    "Tht",
    "ToolCallPart",
    "ToolResultPart",
    "Usage",
    "VideoPart",
    "deserialize",
    "serialize",
]

ROLES = ("system", "user", "assistant", "tool")
MAX_DEPTH = 64
"""Containers may nest this deep in ``content`` and extra fields."""
MAX_ELEMENTS = 100_000
"""Values in one field; stops inputs that share sub-trees to grow without bound."""

Timestamp: TypeAlias = float | str


class Usage(NamedTuple):
    """Tokens one or several model calls took.

    ``estimated`` is True where a server sent no figures and ours are a guess.
    ``Usage() + a + b`` adds up; an estimate anywhere makes the sum an estimate.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:  # type: ignore[override]  # sums, does not concatenate
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Speech:
    """A piece of an answer while it is being given.

    Attributes:
        kind: ``"text"``, ``"thinking"``, ``"tool_call"`` or ``"tool_result"``.
        text: what to append to the text of this kind heard so far.
        data: the whole ``ToolCallPart`` or ``ToolResultPart`` for the two tool kinds, else None.
    """

    kind: str
    text: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True)
class ContentPart:
    """Base of the typed parts a message's content list may hold."""

    kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form: ``{"__part": kind, field: value, ...}`` without empty fields."""
        wire: dict[str, Any] = {"__part": self.kind}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                wire[field.name] = _thaw(value)
        return wire

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> Any:  # through __init__, which freezes
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class TextPart(ContentPart):
    """Plain text."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True, slots=True)
class ThinkingPart(ContentPart):
    """What a model thought before it answered; not part of ``msg.text``."""

    text: str
    kind: ClassVar[str] = "thinking"


@dataclass(frozen=True, slots=True)
class ImagePart(ContentPart):
    """An image by ``url``: http(s), a ``data:`` URI or a local path."""

    url: str
    mime_type: str | None = None
    kind: ClassVar[str] = "image"


@dataclass(frozen=True, slots=True)
class AudioPart(ContentPart):
    """A sound by ``url``: http(s), a ``data:`` URI or a local path."""

    url: str
    mime_type: str | None = None
    kind: ClassVar[str] = "audio"


@dataclass(frozen=True, slots=True)
class VideoPart(ContentPart):
    """A film by ``url``: http(s), a ``data:`` URI or a local path."""

    url: str
    mime_type: str | None = None
    kind: ClassVar[str] = "video"


@dataclass(frozen=True, slots=True)
class FilePart(ContentPart):
    """Any other file by ``url``, with the ``name`` to show for it."""

    url: str
    mime_type: str | None = None
    name: str | None = None
    kind: ClassVar[str] = "file"


@dataclass(frozen=True, slots=True)
class ToolCallPart(ContentPart):
    """A model asks for a tool: ``arguments`` parsed, ``raw`` as the model wrote them."""

    id: str
    name: str
    arguments: Any = None
    raw: str | None = None
    kind: ClassVar[str] = "tool_call"

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", _Freezer().freeze(self.arguments, "arguments", 0))


@dataclass(frozen=True, slots=True)
class ToolResultPart(ContentPart):
    """What the tool called as ``id`` gave back; ``failed`` when that is an error text."""

    id: str
    name: str
    content: Any = None
    failed: bool = False
    kind: ClassVar[str] = "tool_result"

    def __post_init__(self) -> None:
        content = freeze(self.content, "content")
        if _has_parts(content) and any(part.kind in _TOOL_KINDS for part in content):
            raise MessageError("content", _NO_NESTING)
        object.__setattr__(self, "content", content)


_TOOL_KINDS = ("tool_call", "tool_result")
_NO_NESTING = "a tool result holds texts and media, not tool calls or further results"

_PART_TYPES: dict[str, type[ContentPart]] = {
    part.kind: part
    for part in (
        TextPart, ThinkingPart, ImagePart, AudioPart, VideoPart, FilePart, ToolCallPart, ToolResultPart,
    )
}  # fmt: skip


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
        draft.name = name if type(name) is str and name.isascii() else _checked_text(name, "name")
        draft.content = content if type(content) is str and content.isascii() else freeze(content, "content")
        draft.role = role if role in ROLES else _role_or_error(role)
        draft.url = _checked_url(url) if url else None
        draft._id = None
        draft._time = _now() if timestamp is None else _checked_text(timestamp, "timestamp")
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
            with _ids.lock:  # two threads that ask first must hear the same
                id = self._id
                if id is None:
                    id = _new_id()
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
        if _has_parts(content):
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
            "__type": next(kind.__name__ for kind in type(self).__mro__ if kind.__name__ in _MSG_TYPES),
            "id": self.id,
            "timestamp": self.timestamp,
            "name": self.name,
            "content": _thaw(self.content),
            "url": _thaw(self.url),
            "role": self.role,
        }
        for key, value in (self._extra or {}).items():
            if key != "parsed":
                wire[key] = _thaw(value)
        return wire

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> Msg:
        """Rebuild a message from :meth:`to_dict`; ``__type`` says which kind, Msg when absent.

        Raises:
            MessageError: an unknown kind, a missing field or a value no message may hold.
        """
        if not isinstance(wire, dict):
            raise MessageError("", f"a message is a JSON object, not {type(wire).__name__}")
        plain = plain_from(wire)
        if plain is not None:
            return plain
        values = dict(wire)
        kind = values.pop("__type", "Msg")
        if not isinstance(kind, str) or kind not in _MSG_TYPES:
            raise MessageError(
                "__type", f"unknown kind {kind!r:.80}; known are {sorted(_MSG_TYPES)} and 'List'"
            )
        for key in ("name", "content"):
            if key not in values:
                raise MessageError(key, "is missing")
        for key, value in values.items():
            values[key] = _revive(value, str(key))
        if isinstance(values.get("usage"), dict):
            values["usage"] = _revive_usage(values["usage"])
        values.pop("echo", None)
        return _build(_MSG_TYPES[kind], values)

    def serialize(self) -> str:
        """Return the wire form as JSON text."""
        return serialize(self)

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
        from pydantic_core import core_schema

        def read(value: Any) -> Msg:
            msg = as_msg(value) if isinstance(value, (Msg, str)) else Msg.from_dict(value)
            if not isinstance(msg, cls):
                raise MessageError("__type", f"expected {cls.__name__}, got {type(msg).__name__}")
            return msg

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(lambda msg: msg.to_dict())
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Describe the wire form as JSON schema."""
        text = {"type": "string"}
        return {
            "title": "Msg",
            "type": "object",
            "properties": {
                "__type": {"enum": sorted(_MSG_TYPES), "default": "Msg"},
                "id": {**text, "pattern": "^[0-9a-f]{32}$"},
                "timestamp": text,
                "name": text,
                "content": {"description": "a string, any JSON value, or a list of content parts"},
                "url": {"anyOf": [text, {"type": "array", "items": text}, {"type": "null"}]},
                "role": {"enum": list(ROLES), "default": "assistant"},
            },
            "required": ["name", "content"],
            "additionalProperties": True,
        }


class Tht(Msg):
    """A thought: a message an agent keeps for itself. Its name is ``thought``, its role ``assistant``."""

    __slots__ = ()

    def __new__(cls, /, content: Any, timestamp: str | None = None, **extra: Any) -> Self:
        """Build a thought; ``content`` as in :class:`Msg`."""
        for key, fixed in (("name", "thought"), ("role", "assistant")):
            if extra.pop(key, fixed) != fixed:
                raise MessageError(key, f"of a thought is always {fixed!r}")
        return super().__new__(cls, "thought", content, "assistant", timestamp=timestamp, **extra)


def serialize(messages: Msg | Sequence[Msg]) -> str:
    """Return one message, or a list of them, as JSON text.

    Raises:
        MessageError: something in the list is not a message.
    """
    if isinstance(messages, Msg):
        return orjson.dumps(messages.to_dict()).decode()
    for index, item in enumerate(messages):
        if not isinstance(item, Msg):
            raise MessageError(f"[{index}]", f"{type(item).__name__} is not a message")
    return orjson.dumps({"__type": "List", "__value": [msg.to_dict() for msg in messages]}).decode()


def deserialize(text: str | bytes) -> Msg | list[Msg]:
    """Rebuild what :func:`serialize` wrote, ids included.

    Raises:
        MessageError: not JSON, an unknown kind, or a value no message may hold.
    """
    try:
        wire = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MessageError("", f"not JSON: {error}") from error
    if not isinstance(wire, dict):
        raise MessageError("", f"a message is a JSON object, not {type(wire).__name__}")
    if "__type" not in wire:
        raise MessageError("__type", "is missing")
    if wire["__type"] != "List":
        return Msg.from_dict(wire)
    if not isinstance(wire.get("__value"), list):
        raise MessageError("__value", "must be a list")
    return [Msg.from_dict(item) for item in wire["__value"]]


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

_MSG_TYPES: dict[str, type[Msg]] = {"Msg": Msg, "Tht": Tht}
_FIELDS = ("id", "timestamp", "name", "content", "role", "url")
_RESERVED = frozenset(dir(Msg)) - {"usage", "parsed"}
TAKEN_FIELDS = frozenset(dir(Msg)) | {"echo"}
"""What a field of one's own cannot be called."""

_set_id = _Draft._id.__set__  # type: ignore[misc,union-attr]  # a slot descriptor: writes past the freeze
_set_time = _Draft._time.__set__  # type: ignore[misc,union-attr]


class FrozenDict(dict[str, Any]):
    """A JSON object inside a message: a dict that refuses changes; ``dict(x)`` is a free copy."""

    __slots__ = ()

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("The content of a message is frozen; change a copy: dict(content) or list(content)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> Any:  # what pickle and deepcopy make of it is free as well
        return dict, (dict(self),)


class FrozenList(list[Any]):
    """A JSON array inside a message: a list that refuses changes; ``list(x)`` is a free copy."""

    __slots__ = ()

    _refuse = FrozenDict._refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __reduce__(self) -> Any:
        return list, (list(self),)


def freeze(value: Any, field: str) -> Any:
    """Return a frozen copy of a JSON value or list of content parts, checked on the way.

    Raises:
        MessageError: naming the path of the value that no message may hold.
    """
    if isinstance(value, (list, tuple)) and any(isinstance(item, ContentPart) for item in value):
        return FrozenList(_as_part(item, f"{field}[{index}]") for index, item in enumerate(value))
    return _Freezer().freeze(value, field, 0)


class _Freezer:
    """One walk over a value; counts what it sees."""

    def __init__(self) -> None:
        self._elements = 0

    def freeze(self, value: Any, field: str, depth: int) -> Any:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise MessageError(field.split(".")[0].split("[")[0], f"holds more than {MAX_ELEMENTS:,} values")
        match value:
            case None | bool():
                return value
            case str():
                return _checked_text(value, field)
            case int():
                return _checked_int(value, field)
            case float():
                if not math.isfinite(value):
                    raise MessageError(field, f"{value} has no JSON form; use null or a string")
                return float(value)
            case dict() | list() | tuple() if not isinstance(value, Usage):
                return self._freeze_container(value, field, depth + 1)
        raise MessageError(field, f"{type(value).__name__} is not a JSON value or a content part")

    def _freeze_container(self, value: Any, field: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise MessageError(field[:200], f"is nested deeper than {MAX_DEPTH}, or holds itself")
        if not isinstance(value, dict):
            return FrozenList(self.freeze(item, f"{field}[{i}]", depth) for i, item in enumerate(value))
        frozen = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise MessageError(field, f"key {key!r:.80} is {type(key).__name__}; JSON keys are strings")
            if key == "__part":
                raise MessageError(field, "'__part' is reserved for content parts")
            frozen[_checked_text(key, field)] = self.freeze(item, f"{field}.{key[:100]}", depth)
        return FrozenDict(frozen)


def _as_part(item: Any, field: str) -> ContentPart:
    if isinstance(item, ContentPart):
        if _PART_TYPES.get(item.kind) is not type(item):
            raise MessageError(field, f"{type(item).__name__} is not one of the parts a message may hold")
        for each in fields(item):
            value = getattr(item, each.name)
            if each.type == "str" or (each.type == "str | None" and value is not None):
                _checked_text(value, f"{field}.{each.name}")
            elif each.type == "bool" and type(value) is not bool:
                raise MessageError(f"{field}.{each.name}", "must be true or false")
        return item
    if isinstance(item, str):
        return TextPart(_checked_text(item, field))
    raise MessageError(field, f"{type(item).__name__} in a list of content parts; wrap it in a TextPart")


def _has_parts(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], ContentPart)


def _thaw(value: Any) -> Any:
    """Return a plain, unshared JSON value."""
    match value:
        case Usage():
            return value._asdict()
        case dict():
            return {key: _thaw(item) for key, item in value.items()}
        case list() | tuple():
            return [_thaw(item) for item in value]
        case ContentPart():
            return value.to_dict()
    return value


@lru_cache(maxsize=64)
def _formatted(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def plain_from(wire: dict[str, Any]) -> Msg | None:
    """Return the message of a wire form that holds only plain texts, as most do; None: ask ``from_dict``."""
    try:
        kind, id, timestamp, name, content, url, role = _plain_fields(wire)
    except KeyError:
        return None
    if len(wire) != 7 or kind != "Msg" or url is not None:
        return None
    if not (type(id) is type(timestamp) is type(name) is type(content) is type(role) is str):
        return None
    if not (content.isascii() and name.isascii() and timestamp.isascii() and id.isascii()):
        return None
    if role not in ROLES or not 1 <= len(id) <= 200:
        return None
    draft = _new_draft(_Draft)
    draft.name = name
    draft.content = content
    draft.role = role
    draft.url = draft._extra = None
    draft._id = id
    draft._time = timestamp
    draft.__class__ = Msg
    return draft  # type: ignore[return-value]  # cast() would be a call for each message


_plain_fields = operator.itemgetter("__type", "id", "timestamp", "name", "content", "url", "role")


def _revive(value: Any, field: str) -> Any:
    """Turn a list of content parts in wire form back into parts; other JSON stays as it is."""
    if not isinstance(value, list) or not any(isinstance(item, dict) and "__part" in item for item in value):
        return value
    return [_revive_part(item, f"{field}[{index}]") for index, item in enumerate(value)]


def _revive_part(item: Any, field: str) -> ContentPart:
    if not isinstance(item, dict):
        raise MessageError(field, f"{type(item).__name__} in a list of content parts")
    values = dict(item)
    kind = values.pop("__part", None)
    if not isinstance(kind, str) or kind not in _PART_TYPES:
        raise MessageError(field, f"unknown content part {kind!r:.80}; known are {sorted(_PART_TYPES)}")
    part = _PART_TYPES[kind]
    if part is ToolResultPart and isinstance(values.get("content"), list):
        if any(isinstance(inner, dict) and inner.get("__part") in _TOOL_KINDS for inner in values["content"]):
            raise MessageError(f"{field}.content", _NO_NESTING)
        values["content"] = _revive(values["content"], f"{field}.content")
    try:
        return part(**values)
    except TypeError as error:
        raise MessageError(field, f"does not fit {part.__name__}: {str(error)[:200]}") from error


def _revive_usage(wire: dict[str, Any]) -> Usage:
    try:
        return Usage(**wire)
    except TypeError as error:
        raise MessageError("usage", str(error)[:200]) from error


def _build(kind: type[Msg], values: dict[str, Any]) -> Msg:
    for key in values:
        if not isinstance(key, str) or ((key in _RESERVED or key == "parsed") and key not in _FIELDS):
            raise MessageError(f"{key!s:.100}", "is not a name a field may have")
    return kind(**values)


def _fill_extra(draft: _Draft, extra: dict[str, Any]) -> None:
    if "id" in extra:
        msg_id = extra.pop("id")
        if not isinstance(msg_id, str) or not 1 <= len(msg_id) <= 200:
            raise MessageError("id", "must be a string of 1 to 200 characters")
        draft._id = _checked_text(msg_id, "id")
    kept = {}
    for key, value in extra.items():
        if key in _RESERVED or key.startswith("__"):
            raise MessageError(key, "is taken by Msg itself; choose another name for this field")
        if key == "usage":
            if value is not None:
                kept[key] = _checked_usage(value)
        else:
            kept[_checked_text(key, "field name")] = value if key == "parsed" else freeze(value, key)
    draft._extra = kept or None


def _checked_usage(usage: Any) -> Usage:
    if not isinstance(usage, Usage):
        raise MessageError("usage", f"must be a Usage, not {type(usage).__name__}")
    for tokens in (usage.input_tokens, usage.output_tokens):
        if type(tokens) is not int or not 0 <= tokens < 2**63:
            raise MessageError("usage", f"token counts are whole numbers from 0, not {tokens!r:.80}")
    if type(usage.estimated) is not bool:
        raise MessageError("usage", "'estimated' is true or false")
    return usage


def _checked_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise MessageError(field, f"must be a string, not {type(value).__name__}")
    text = str.__str__(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MessageError(field, f"has a lone surrogate at position {error.start}") from None
    return text


def _checked_int(value: int, field: str) -> int:
    if not -(2**63) <= value < 2**64:
        raise MessageError(field, "is a whole number beyond 64 bits; send it as a string")
    return int(value)


def _checked_url(url: Any) -> str | FrozenList:
    if isinstance(url, (list, tuple)):
        return FrozenList(_checked_text(item, f"url[{index}]") for index, item in enumerate(url))
    return _checked_text(url, "url")


def _role_or_error(role: Any) -> str:
    if role is not None:
        raise MessageError("role", f"unknown role {role!r:.80}; use one of {', '.join(ROLES)}")
    warnings.warn("A message without a role gets the role 'assistant'.", AgentScopeWarning, stacklevel=3)
    return "assistant"


def _echo(msg: Msg) -> None:
    from .logging import chat  # the lowest layer prints only when asked to

    chat(msg)


class _Ids:
    """A random prefix for the process and a count: unique, and a tenth of uuid4's cost."""

    def __init__(self) -> None:
        self.reseed()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reseed)

    def reseed(self) -> None:
        """Make ids of this process different from those of any other, its parent included."""
        self._prefix = os.urandom(10).hex()
        self._count = itertools.count()
        self.lock = threading.Lock()  # another thread may have held the old one during the fork

    def new(self) -> str:
        return f"{self._prefix}{next(self._count):012x}"


_ids = _Ids()
_new_id = _ids.new
