"""Messages in OpenAI's form: from the package's, and files in them as data."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from ..message.parts import AudioPart, ContentPart, FilePart, ImagePart, TextPart, VideoPart, thaw
from ._media import is_local, load_media
from ._messages import Heard, hear, with_calls_told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..message import Msg, ToolCallPart, ToolResultPart

__all__ = ["as_messages", "with_media"]


def as_messages(msgs: Iterable[Msg], me: str | None) -> list[dict[str, Any]]:
    """Return messages as OpenAI takes them.

    Images, sounds and files are sent only in user messages: it refuses them elsewhere.
    """
    items: list[dict[str, Any]] = []
    for msg in with_calls_told(msgs, me):
        heard = hear(msg, me)
        if heard.tool_calls or heard.tool_results:
            items += _tool_turn(heard)
        else:
            items.append(_item(heard.role, heard.name, _content(heard)))
    return items


def _item(role: str, name: str | None, content: Any) -> dict[str, Any]:
    if name is None:
        return {"role": role, "content": content}
    return {"role": role, "name": name, "content": content}


def _content(heard: Heard) -> str | list[dict[str, Any]]:
    if not heard.media or heard.role != "user":
        return heard.text
    said = [{"type": "text", "text": heard.text}] if heard.text else []
    return said + [_media_part(part) for part in heard.media]


def _media_part(part: ImagePart | AudioPart | VideoPart | FilePart) -> dict[str, Any]:
    """Return the part with its address; ``with_media`` makes data of what the server cannot fetch."""
    match part:
        case ImagePart():
            return {"type": "image_url", "image_url": {"url": part.url}}
        case AudioPart():
            return {"type": "audio_url", "audio_url": {"url": part.url}}
        case VideoPart():
            return {"type": "video_url", "video_url": {"url": part.url}}
    return {"type": "file", "file": {"filename": part.name or _file_name(part.url), "file_data": part.url}}


def _tool_turn(heard: Heard) -> list[dict[str, Any]]:
    """Return what was asked of tools as an assistant's turn, and each result as one of its own.

    A tool's turn takes text only, so its images follow in a user message. What others asked
    of their tools (the speaker is heard as a user) is not told.
    """
    items = []
    text = heard.text
    if heard.tool_calls and heard.role != "user":
        calls = [_tool_call(call) for call in heard.tool_calls]
        items.append({**_item("assistant", heard.name, text or None), "tool_calls": calls})
        text = ""
    items += [_tool_result(result) for result in heard.tool_results]
    media = heard.media + [part for result in heard.tool_results for part in _media_in(result.content)]
    if text or media:
        items.append(_item("user", heard.name, _content(Heard("user", None, text, media))))
    return items


def _tool_call(call: ToolCallPart) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}


def _arguments(call: ToolCallPart) -> str:
    """Return the arguments as they were sent, unless that was in another provider's form."""
    if call.arguments is None:
        return call.raw or "{}"
    written = _json(call.arguments)
    with suppress(ValueError):
        if call.raw is not None and orjson.loads(call.raw) == orjson.loads(written):
            return call.raw
    return written


def _tool_result(result: ToolResultPart) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": result.id, "content": _result_text(result.content)}


def _result_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)) and content and isinstance(content[0], ContentPart):
        return "\n".join(part.text for part in content if isinstance(part, TextPart))
    return "" if content is None else _json(content)


def _media_in(content: Any) -> list[Any]:
    if not isinstance(content, (list, tuple)):
        return []
    return [part for part in content if isinstance(part, (ImagePart, AudioPart, VideoPart, FilePart))]


def _json(value: Any) -> str:
    return json.dumps(thaw(value), ensure_ascii=False)


def _file_name(url: str) -> str:
    return "file" if url.startswith("data:") else url.partition("?")[0].rpartition("/")[2] or "file"


async def with_media(messages: Any) -> Any:
    """Return the messages with what the server cannot fetch as data; the same object if there is nothing."""
    if not isinstance(messages, list):
        return messages
    for item in messages:
        if type(item) is dict and type(item.get("content")) is list:
            return [await _loaded(each) for each in messages]
    return messages


async def _loaded(item: Any) -> Any:
    content = item.get("content") if isinstance(item, dict) else None
    if not isinstance(content, list):
        return item
    return {**item, "content": [await _loaded_part(part) for part in content]}


async def _loaded_part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    inner = part.get(kind) if kind in ("image_url", "audio_url", "video_url", "file") else None
    if not isinstance(inner, dict):
        return part
    url = inner.get("file_data" if kind == "file" else "url")
    if not isinstance(url, str):
        return part
    if kind == "audio_url":
        return await _sound(url)
    if kind == "file":
        if url.startswith("data:"):
            return part
        return {"type": kind, kind: {**inner, "file_data": (await load_media(url)).data_uri}}
    if is_local(url):
        return {"type": kind, kind: {**inner, "url": (await load_media(url)).data_uri}}
    return part


async def _sound(url: str) -> dict[str, Any]:
    """Return a sound as OpenAI takes it: data and the name of its format, never an address."""
    media = await load_media(url)
    kind = media.mime_type.rpartition("/")[2].removeprefix("x-")
    sound = {"data": media.base64, "format": {"mpeg": "mp3", "wave": "wav"}.get(kind, kind)}
    return {"type": "input_audio", "input_audio": sound}
