"""From messages to what ollama takes: texts, images as bare base64, tools by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import MessageError
from ..message.parts import ImagePart, ToolCallPart, ToolResultPart, thaw
from ._media import load_media
from ._messages import check_messages, hear, image_urls, with_calls_told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..message import Msg
    from ._messages import Heard

__all__ = ["as_messages", "bare_base64", "check_prompt", "wire_messages", "with_images"]

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")


def as_messages(msgs: Sequence[Msg], me: str | None) -> list[dict[str, Any]]:
    """Return messages in ollama's form, in order; each result of a tool is one of its own."""
    messages: list[dict[str, Any]] = []
    for msg in with_calls_told(msgs, me):
        heard = hear(msg, me)
        messages += [_result(result) for result in heard.tool_results]
        if heard.text or heard.media or not heard.tool_results:
            messages.append(_message(heard, _images(msg, heard, me)))
    return messages


def _message(heard: Heard, images: list[str]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": heard.role, "content": heard.text}
    if images:
        message["images"] = images
    if heard.tool_calls:
        message["tool_calls"] = [_call(call) for call in heard.tool_calls]
    return message


def _images(msg: Msg, heard: Heard, me: str | None) -> list[str]:
    for part in heard.media:
        if not isinstance(part, ImagePart):
            raise MessageError("content", f"holds a part of the kind {part.kind!r}; ollama takes images only")
    images = [part.url for part in heard.media]
    if me is not None or not msg.url:
        return images
    urls = [msg.url] if isinstance(msg.url, str) else list(msg.url)
    return images[: len(images) - len(image_urls(msg))] + urls


def _call(call: ToolCallPart) -> dict[str, Any]:
    arguments = thaw(call.arguments)
    function = {"name": call.name, "arguments": arguments if isinstance(arguments, dict) else {}}
    return {"id": call.id, "function": function}


def _result(result: ToolResultPart) -> dict[str, Any]:
    return {
        "role": "tool",
        "content": _text(result.content),
        "tool_name": result.name,
        "tool_call_id": result.id,
    }


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)) and content and hasattr(content[0], "to_dict"):
        return "\n".join(part.text for part in content if hasattr(part, "text"))
    return orjson.dumps(thaw(content)).decode()


def wire_messages(messages: Any) -> list[dict[str, Any]]:
    """Return messages as they go out: those in OpenAI's form are changed, in copies.

    Raises:
        MessageError: it is no list of objects with role and content.
    """
    names: dict[str, str] = {}
    wired = []
    for index, message in enumerate(check_messages(messages)):
        content = message.get("content")
        if isinstance(content, str) and not message.keys() - _PLAIN:
            wired.append(message)
            continue
        try:
            wired.append(_wired(message, names))
        except (KeyError, TypeError, AttributeError) as error:
            raise MessageError(
                f"messages[{index}]", f"is in no known form: {type(error).__name__}: {error}"
            ) from error
    return wired


_PLAIN = frozenset({"role", "content"})


def _wired(message: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    wired = dict(message)
    if isinstance(message.get("content"), list):
        wired["content"], images = _taken_apart(message["content"])
        if images:
            wired["images"] = [*message.get("images", ()), *images]
    if "images" in wired:
        wired["images"] = [bare_base64(image) for image in wired["images"]]
    if message.get("tool_calls"):
        wired["tool_calls"] = [_wired_call(call, names) for call in message["tool_calls"]]
        if wired.get("content") is None:
            wired.pop("content", None)
    if message["role"] == "tool" and "tool_name" not in message:
        name = wired.pop("name", None) or names.get(message.get("tool_call_id", ""))
        if name:
            wired["tool_name"] = name
    return wired


def _wired_call(call: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return a call with its arguments as an object; OpenAI has them as text."""
    function = call["function"]
    if call.get("id"):
        names[call["id"]] = function["name"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError:
            arguments = {}  # the model wrote them so; ollama refuses what is no object
        return {**call, "function": {**function, "arguments": arguments}}
    return call


def _taken_apart(content: list[Any]) -> tuple[str, list[str]]:
    """Return the text and the images of a content list in OpenAI's form."""
    texts, images = [], []
    for part in content:
        kind = "text" if isinstance(part, str) else part["type"]
        if kind == "text":
            texts.append(part if isinstance(part, str) else part["text"])
        elif kind == "image_url":
            images.append(part["image_url"]["url"])
        else:
            raise TypeError(f"a part of the type {kind!r}; ollama takes texts and images only")
    return "\n".join(texts), images


async def with_images(messages: Any) -> Any:
    """Return the messages with images read; the very same object if none holds any.

    Raises:
        MessageError: an image cannot be had.
    """
    if not isinstance(messages, list) or not any(map(_has_images, messages)):
        return messages
    return [await _with_images(message) for message in wire_messages(messages)]


def _has_images(message: Any) -> bool:
    return isinstance(message, dict) and (
        bool(message.get("images")) or isinstance(message.get("content"), list)
    )


async def _with_images(message: dict[str, Any]) -> dict[str, Any]:
    if not message.get("images"):
        return message
    return {**message, "images": [await _loaded(image) for image in message["images"]]}


async def _loaded(image: Any) -> Any:
    """Return base64: what it is already stays; paths and addresses are read."""
    if not isinstance(image, str) or _BASE64.fullmatch(image):
        return image
    return (await load_media(image)).base64


def bare_base64(image: Any) -> Any:
    """Return the data of a ``data:`` URI; anything else as it is."""
    if isinstance(image, str) and image.startswith("data:"):
        return image.partition(",")[2]
    return image


def check_prompt(prompt: Any) -> str:
    """Return the prompt.

    Raises:
        MessageError: it is not a text.
    """
    if not isinstance(prompt, str):
        raise MessageError("prompt", f"must be a text, not {type(prompt).__name__}")
    return prompt
