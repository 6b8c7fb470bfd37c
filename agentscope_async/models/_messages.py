"""From messages to what a chat provider sends: who said it, in which role, with which media and tools."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import AgentScopeWarning, MessageError
from ..message import (
    AudioPart,
    FilePart,
    ImagePart,
    Msg,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    VideoPart,
)
from ..message.parts import thaw
from .base import flatten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..message import ContentPart

__all__ = [
    "Heard",
    "check_messages",
    "hear",
    "image_urls",
    "text_of",
    "warn_of_lost_images",
    "with_calls_told",
]

_IMAGE = re.compile(
    r"^data:image/|^https?://\S+$|^(?:file://)?[^\r\n]+\.(?:png|jpe?g|gif|webp|bmp|tiff?|svg|heic)$", re.I
)


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as a model is to hear it.

    Attributes:
        role: system, user, assistant or tool.
        name: the speaker, or None where the speaker is told by role or text alone.
        text: what was said.
        media: images, sounds, films and files, in order; ``url`` attachments last.
        tool_calls: tools the speaker asked for.
        tool_results: what tools gave back.
        thinking: what the speaker thought, or "".
    """

    role: str
    name: str | None
    text: str
    media: list[ImagePart | AudioPart | VideoPart | FilePart] = field(default_factory=list)
    tool_calls: list[ToolCallPart] = field(default_factory=list)
    tool_results: list[ToolResultPart] = field(default_factory=list)
    thinking: str = ""


def with_calls_told(msgs: Iterable[Msg], me: str | None) -> list[Msg]:
    """Return the messages without results of calls that are not told.

    What others asked of their tools is not told (they are heard as users), and providers
    refuse a result whose call they were not sent.
    """
    untold: set[str] = set()
    kept = []
    for msg in msgs:
        parts: Sequence[ContentPart] = () if isinstance(msg.content, str) else _parts(msg.content)
        if me is not None and msg.name != me and msg.role not in ("system", "tool"):
            untold.update(part.id for part in parts if isinstance(part, ToolCallPart))
        heard = [part for part in parts if not isinstance(part, ToolResultPart) or part.id not in untold]
        if len(heard) == len(parts):
            kept.append(msg)
        elif heard:
            kept.append(msg.replace(content=heard))
    return kept


def hear(msg: Msg, me: str | None) -> Heard:
    """Return a message as it is to be sent.

    Without ``me``, role and name stay as they are (AgentScope v0.0.2's form). With it,
    that agent's own messages become the assistant's and everybody else's the user's,
    with the speaker's name in the text.
    """
    parts: Sequence[ContentPart] = [] if isinstance(msg.content, str) else _parts(msg.content)
    role, text = msg.role, text_of(msg)
    name: str | None = msg.name
    calls = [part for part in parts if isinstance(part, ToolCallPart)]
    results = [part for part in parts if isinstance(part, ToolResultPart)]
    if results:
        role = "tool"
    if me is not None:
        if role not in ("system", "tool"):
            role = "assistant" if msg.name == me else "user"
        if role == "user":
            text = f"{msg.name}: {text}"
        name = None
    media = [part for part in parts if isinstance(part, (ImagePart, AudioPart, VideoPart, FilePart))]
    media += [ImagePart(url) for url in image_urls(msg)]
    thinking = "".join(part.text for part in parts if isinstance(part, ThinkingPart))
    return Heard(role, name, text, media, calls, results, thinking)


def text_of(msg: Msg) -> str:
    """Return the text of a message: a string as it is, text parts joined, other values as JSON."""
    content = msg.content
    if isinstance(content, str):
        return content
    return msg.text if _parts(content) else json.dumps(thaw(content), ensure_ascii=False)


def image_urls(msg: Msg) -> list[str]:
    """Return those of a message's ``url`` that are images: web addresses, data URIs, paths of image files."""
    url = msg.url
    urls = [url] if isinstance(url, str) else list(url or [])
    return [each for each in urls if isinstance(each, str) and _IMAGE.match(each)]


def warn_of_lost_images(msgs: Any, who: str) -> None:
    """Warn when messages hold images and ``who`` takes text only."""
    flat: list[Msg] = []
    flatten(msgs, flat)
    for msg in flat:
        parts = () if isinstance(msg.content, str) else _parts(msg.content)
        if any(isinstance(part, ImagePart) for part in parts) or (msg.url and image_urls(msg)):
            text = f"{who} takes text only: the image of {msg.name!r} is left out."
            warnings.warn(text, AgentScopeWarning, stacklevel=3)
            return


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Return what a chat model was given.

    Raises:
        MessageError: it is not a list, or an item has no role and content.
    """
    if not isinstance(messages, list):
        raise MessageError("messages", f"must be a list of objects, not {type(messages).__name__}")
    for index, item in enumerate(messages):
        if isinstance(item, Msg):
            raise MessageError(f"messages[{index}]", "is a Msg; a model takes model.format(msg, ...)")
        if not isinstance(item, dict) or "role" not in item or not _says_something(item):
            raise MessageError(f"messages[{index}]", "needs 'role' and 'content'")
    return messages


def _says_something(item: dict[str, Any]) -> bool:
    return "content" in item or "tool_calls" in item or "parts" in item


def _parts(content: Any) -> Sequence[ContentPart]:
    from ..message import ContentPart

    is_parts = isinstance(content, (list, tuple)) and content and isinstance(content[0], ContentPart)
    return content if is_parts else ()
