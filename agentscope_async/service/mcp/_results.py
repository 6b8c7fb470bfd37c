"""What a server's tool gave, as a response, and a response as what our own server gives."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any

import orjson

from ...message import AudioPart, ContentPart, FilePart, ImagePart, TextPart
from ..response import ServiceResponse

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

__all__ = ["response_of", "result_of"]

MAX_BLOCKS = 256
"""Of the content of one result; further ones are left out, and the response says so."""

_MIME_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}")
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)


def response_of(result: CallToolResult) -> ServiceResponse:
    """Return the response to an agent.

    ``content`` is text: all texts of the result in order, and a line in brackets for each thing that is
    none. ``response["media"]`` has those as parts of a message, and ``response["structured"]`` the
    JSON object of a result that has one; its text is the content where the server sent no other.
    """
    texts, media = [], []
    for block in result.content[:MAX_BLOCKS]:
        text, part = _read(block)
        texts.append(text)
        media += [part] if part is not None else []
    left_out = len(result.content) - MAX_BLOCKS
    if left_out > 0:
        texts.append(f"[cut: {left_out} more blocks]")
    if not texts and result.structured_content is not None:
        texts.append(json.dumps(result.structured_content, ensure_ascii=False))
    content = "\n".join(texts)
    if result.is_error:
        return ServiceResponse.error(content or "The tool failed and did not say why.")
    response = ServiceResponse.success(content)
    if media:
        response["media"] = media
    if result.structured_content is not None:
        response["structured"] = result.structured_content
    return response


def result_of(response: ServiceResponse, text: str) -> CallToolResult:
    """Return the result for a client of ours; ``text`` is the response as a model is to read it."""
    from mcp_types import CallToolResult, TextContent

    media = [_block(part) for part in response.get("media", ()) if isinstance(part, ContentPart)]
    structured = response.get("structured", response.content)
    return CallToolResult(
        content=[TextContent(text=text), *(block for block in media if block is not None)],
        structured_content=structured if response.is_success and _is_json_object(structured) else None,
        is_error=not response.is_success,
    )


def _read(block: ContentBlock) -> tuple[str, ContentPart | None]:
    """Return a block's text, and its part where it is more than text."""
    match block.type:
        case "text":
            return block.text, None
        case "image":
            return _medium(ImagePart, block.mime_type, block.data)
        case "audio":
            return _medium(AudioPart, block.mime_type, block.data)
        case "resource_link":  # never fetched here: the model may ask a tool of ours to
            return f"[resource {block.name}: {block.uri}]", None
        case "resource":
            resource = block.resource
            if hasattr(resource, "text"):
                return f"[resource {resource.uri}]\n{resource.text}", None
            text, part = _medium(FilePart, resource.mime_type or "application/octet-stream", resource.blob)
            return f"[resource {resource.uri}]\n{text}", part


def _medium(
    kind: type[ImagePart | AudioPart | FilePart], mime_type: str, data: str
) -> tuple[str, ContentPart | None]:
    try:
        size = len(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return f"[{kind.kind} left out: its data is no base64]", None
    if not _MIME_TYPE.fullmatch(mime_type):
        return f"[{kind.kind} left out: its type is no MIME type]", None
    return f"[{kind.kind}: {mime_type}, {size:,} bytes]", kind(f"data:{mime_type};base64,{data}", mime_type)


def _block(part: ContentPart) -> Any:
    """Return a part as a block of a result; None for what a client of ours has no use for, as our paths."""
    from mcp_types import AudioContent, ImageContent, TextContent

    if isinstance(part, TextPart):
        return TextContent(text=part.text)
    found = _DATA_URI.fullmatch(part.url) if isinstance(part, (ImagePart, AudioPart)) else None
    if found is None:
        return None
    block = ImageContent if isinstance(part, ImagePart) else AudioContent
    return block(mime_type=found[1], data=found[2])


def _is_json_object(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
