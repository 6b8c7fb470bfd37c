"""Parts of content: texts, media, tool calls and results, and the lists that hold them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from ..errors import MessageError
from ._frozen import Freezer, FrozenList, checked_text
from .usage import Usage

__all__ = [
    "PART_TYPES",
    "AudioPart",
    "ContentPart",
    "FilePart",
    "ImagePart",
    "TextPart",
    "ThinkingPart",
    "ToolCallPart",
    "ToolResultPart",
    "VideoPart",
    "freeze",
    "has_parts",
    "revive",
    "thaw",
]


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
                wire[field.name] = thaw(value)
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
        object.__setattr__(self, "arguments", Freezer().freeze(self.arguments, "arguments", 0))


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
        if has_parts(content) and any(part.kind in _TOOL_KINDS for part in content):
            raise MessageError("content", _NO_NESTING)
        object.__setattr__(self, "content", content)


_TOOL_KINDS = ("tool_call", "tool_result")
_NO_NESTING = "a tool result holds texts and media, not tool calls or further results"

PART_TYPES: dict[str, type[ContentPart]] = {
    part.kind: part
    for part in (
        TextPart, ThinkingPart, ImagePart, AudioPart, VideoPart, FilePart, ToolCallPart, ToolResultPart,
    )
}  # fmt: skip


def freeze(value: Any, field: str) -> Any:
    """Return a frozen copy of a JSON value or list of content parts, checked on the way.

    Raises:
        MessageError: naming the path of the value that no message may hold.
    """
    if isinstance(value, (list, tuple)) and any(isinstance(item, ContentPart) for item in value):
        return FrozenList(_as_part(item, f"{field}[{index}]") for index, item in enumerate(value))
    return Freezer().freeze(value, field, 0)


def _as_part(item: Any, field: str) -> ContentPart:
    if isinstance(item, ContentPart):
        if PART_TYPES.get(item.kind) is not type(item):
            raise MessageError(field, f"{type(item).__name__} is not one of the parts a message may hold")
        for each in fields(item):
            value = getattr(item, each.name)
            if each.type == "str" or (each.type == "str | None" and value is not None):
                checked_text(value, f"{field}.{each.name}")
            elif each.type == "bool" and type(value) is not bool:
                raise MessageError(f"{field}.{each.name}", "must be true or false")
        return item
    if isinstance(item, str):
        return TextPart(checked_text(item, field))
    raise MessageError(field, f"{type(item).__name__} in a list of content parts; wrap it in a TextPart")


def has_parts(content: Any) -> bool:
    """``content`` is a list of content parts."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], ContentPart)


def thaw(value: Any) -> Any:
    """Return a plain, unshared JSON value."""
    match value:
        case Usage():
            return value._asdict()
        case dict():
            return {key: thaw(item) for key, item in value.items()}
        case list() | tuple():
            return [thaw(item) for item in value]
        case ContentPart():
            return value.to_dict()
    return value


def revive(value: Any, field: str) -> Any:
    """Turn a list of content parts in wire form back into parts; other JSON stays as it is."""
    if not isinstance(value, list) or not any(isinstance(item, dict) and "__part" in item for item in value):
        return value
    return [_revive_part(item, f"{field}[{index}]") for index, item in enumerate(value)]


def _revive_part(item: Any, field: str) -> ContentPart:
    if not isinstance(item, dict):
        raise MessageError(field, f"{type(item).__name__} in a list of content parts")
    values = dict(item)
    kind = values.pop("__part", None)
    if not isinstance(kind, str) or kind not in PART_TYPES:
        raise MessageError(field, f"unknown content part {kind!r:.80}; known are {sorted(PART_TYPES)}")
    part = PART_TYPES[kind]
    if part is ToolResultPart and isinstance(values.get("content"), list):
        if any(isinstance(inner, dict) and inner.get("__part") in _TOOL_KINDS for inner in values["content"]):
            raise MessageError(f"{field}.content", _NO_NESTING)
        values["content"] = revive(values["content"], f"{field}.content")
    try:
        return part(**values)
    except TypeError as error:
        raise MessageError(field, f"does not fit {part.__name__}: {str(error)[:200]}") from error
