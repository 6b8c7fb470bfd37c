"""What answers in OpenAI's form say: chat completions, embeddings, images."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any

import orjson

from ..errors import MessageError
from ..message import ToolCallPart, Usage
from ._openai_errors import error_in, problem_in
from ._problem import Problem
from .base import ModelResponse

__all__ = [
    "as_json",
    "parse_chat_response",
    "parse_embedding_response",
    "parse_image_response",
    "parse_tool_calls",
    "parse_usage",
    "text_in",
]

MOST_TOKENS = 1_000_000_000
"""A usage beyond this is a fault of the server."""


def parse_chat_response(body: Any) -> ModelResponse:
    """Return what a chat completion says; ``texts`` has one text for each choice.

    Raises:
        Problem: it is an error in disguise, or holds no choices.
    """
    choices = _rows(body, "choices")
    if len(choices) > 1:
        choices = _in_order(choices)
    contents = [text_in(choice["message"].get("content")) for choice in choices]
    first = choices[0]
    message = first["message"]
    calls = message.get("tool_calls")
    return ModelResponse(
        contents[0],
        ["" if text is None else text for text in contents],
        raw=body,
        tool_calls=parse_tool_calls(calls) if calls else None,
        thinking=message.get("reasoning_content") or message.get("reasoning") or None,
        refusal=message.get("refusal") or None,
        usage=parse_usage(body.get("usage")),
        finish_reason=first.get("finish_reason"),
        model=body.get("model") or None,
    )


def parse_tool_calls(calls: list[dict[str, Any]]) -> list[ToolCallPart]:
    """Return the tools asked for, each with an id of its own; a missing or repeated one is made up."""
    parts: list[ToolCallPart] = []
    taken: set[str] = {call["id"] for call in calls if call.get("id")}
    used: set[str] = set()
    for call in calls:
        function = call["function"]
        call_id = call.get("id")
        if not call_id or call_id in used:
            call_id = _new_id(len(parts), taken)
        used.add(call_id)
        parts.append(_tool_call(call_id, function["name"], function.get("arguments")))
    return parts


def _new_id(number: int, taken: set[str]) -> str:
    while (made_up := f"call_{number}") in taken:
        number += 1
    taken.add(made_up)
    return made_up


def _tool_call(call_id: str, name: Any, arguments: Any) -> ToolCallPart:
    """Return the call; its arguments are None when they are no JSON, or nested beyond reason."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a tool is {name!r}")
    raw = arguments if isinstance(arguments, str) else "" if arguments is None else as_json(arguments)
    try:
        return ToolCallPart(call_id, name, orjson.loads(raw) if raw.strip() else {}, raw)
    except (orjson.JSONDecodeError, MessageError):
        return ToolCallPart(call_id, name, None, raw)


def parse_embedding_response(body: Any) -> ModelResponse:
    """Return the vectors, in the order of the inputs, whichever way their numbers were sent.

    Raises:
        Problem: it is an error in disguise, or holds no vectors.
    """
    rows = _in_order(_rows(body, "data"))
    return ModelResponse(
        embedding=[_vector(row["embedding"]) for row in rows],
        raw=body,
        usage=parse_usage(body.get("usage")),
        model=body.get("model") or None,
    )


def _vector(sent: Any) -> list[float]:
    """Return d floats; in base64 they are little-endian and of 32 bits."""
    if isinstance(sent, list):
        return sent
    numbers = array("f")
    numbers.frombytes(base64.b64decode(sent, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def parse_image_response(body: Any) -> ModelResponse:
    """Return the images, as addresses or as base64, as the model gives them.

    Raises:
        Problem: it is an error in disguise, or holds no images.
    """
    rows = _rows(body, "data")
    return ModelResponse(
        image_urls=[row["url"] for row in rows if row.get("url")],
        images_b64=[row["b64_json"] for row in rows if row.get("b64_json")],
        raw=body,
        usage=parse_usage(body.get("usage")),
        model=body.get("model") or None,
    )


def parse_usage(usage: Any) -> Usage | None:
    """Return the tokens a server reports, or None if that cannot be true.

    What was answered may be left out: embeddings have no such count.
    """
    if not isinstance(usage, dict):
        return None
    taken = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    reported = usage.get("completion_tokens", usage.get("output_tokens"))
    given = _count(reported)
    total = _count(usage.get("total_tokens"))
    if reported is None and taken is not None:
        given = max(0, total - taken) if total is not None else 0
    return None if taken is None or given is None else Usage(taken, given)


def _count(number: Any) -> int | None:
    if type(number) is int and 0 <= number <= MOST_TOKENS:
        return number
    return None


def text_in(content: Any) -> str | None:
    """Return the text of a ``content``: itself, or its text parts joined."""
    if content is None or isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type", "text") == "text")


def as_json(value: Any) -> str:
    """Return the value as JSON text."""
    return orjson.dumps(value).decode()


def _rows(body: Any, name: str) -> list[dict[str, Any]]:
    """Return the non-empty list called ``name``, which is what the answer is about."""
    rows = body.get(name) if isinstance(body, dict) else None
    if rows and isinstance(rows, list):
        return rows
    error = error_in(body)
    if error is not None:
        raise problem_in(error, raw=body)
    raise Problem("bad_response", f"the answer has no {name!r}", raw=body)


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows by their ``index``; servers may send them in any order."""
    return [row for _, row in sorted(enumerate(rows), key=lambda item: item[1].get("index", item[0]))]
