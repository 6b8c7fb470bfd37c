"""What DashScope is sent and what it answers: pure functions.

Wire format: help.aliyun.com/zh/model-studio/qwen-api-via-dashscope, as dashscope 2.0.2 sends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import orjson

from ..errors import ConfigError, MessageError
from ..message import Usage
from ._messages import check_messages
from ._openai_answers import parse_tool_calls
from ._openai_errors import explain as explain_openai
from ._problem import Problem, type_of_status
from ._request import HttpRequest
from ._sse import SSEReader
from .base import ModelResponse
from .openai import response_format

__all__ = [
    "Host",
    "build_chat_request",
    "build_embedding_request",
    "build_image_request",
    "explain",
    "holds_media",
    "in_native_form",
    "output_of",
    "parse_chat_response",
    "parse_embedding_response",
    "parse_usage",
    "problem_in",
    "text_in",
]

TEXT_PATH = "/services/aigc/text-generation/generation"
MULTIMODAL_PATH = "/services/aigc/multimodal-generation/generation"
EMBEDDING_PATH = "/services/embeddings/text-embedding/text-embedding"

MOST_TOKENS = 1_000_000_000
"""A usage beyond this is a fault of the server."""
_MEDIA_KINDS = ("image", "video", "audio")
# dashscope 2.0.2, aigc/image_synthesis.py: everything else goes under "parameters".
_IMAGE_INPUTS = (
    "negative_prompt",
    "ref_img",
    "images",
    "sketch_image_url",
    "base_image_url",
    "mask_image_url",
    "function",
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where the requests of one wrapper go, and what all of them carry."""

    base_url: str
    headers: Mapping[str, str] = field(repr=False)  # with the key
    query: Mapping[str, str] = field(repr=False)

    def post(
        self, path: str, body: Any, marks: Mapping[str, str] | None = None, *, is_repeatable: bool = True
    ) -> HttpRequest:
        """Return a POST; ``marks`` are headers of its own."""
        headers = {**self.headers, **(marks or {})}
        return HttpRequest("POST", self._url(path), headers, body, is_repeatable)

    def get(self, path: str) -> HttpRequest:
        """Return a GET."""
        return HttpRequest("GET", self._url(path), dict(self.headers))

    def _url(self, path: str) -> str:
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.base_url}{path}{query}"


# -- requests --


def build_chat_request(
    host: Host,
    model: str,
    messages: Any,
    args: Mapping[str, Any],
    *,
    stream: bool,
    legacy_roles: bool = False,
    multimodal: bool | None = None,
) -> HttpRequest:
    """Return the request for a chat answer.

    Raises:
        MessageError: ``messages`` is not a list of objects with role and content.
        ConfigError: an argument cannot be sent.
    """
    parameters = {name: value for name, value in args.items() if value is not None}
    prompt = parameters.pop("prompt", None)
    items = [in_native_form(item) for item in check_messages(messages)]
    if legacy_roles:
        items = with_alternating_roles(items)
    if multimodal is None:
        multimodal = any(holds_media(item) for item in items)
    said: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    if items or prompt is None:
        said["messages"] = [as_parts(item) if multimodal else as_text(item) for item in items]
    marks = _add_stream(parameters) if stream else {}
    _check_stream(parameters)
    if "response_format" in parameters:
        parameters["response_format"] = response_format(parameters["response_format"])
    if not multimodal:
        parameters.setdefault("result_format", "message")
    elif any(url.startswith("oss://") for item in items for url in _urls_in(item)):
        marks["X-DashScope-OssResourceResolve"] = "enable"
    body = {"model": model, "input": said, "parameters": parameters}
    return host.post(MULTIMODAL_PATH if multimodal else TEXT_PATH, body, marks)


def _add_stream(parameters: dict[str, Any]) -> dict[str, str]:
    """Ask for pieces, not for the text so far again and again; return the headers of a stream."""
    parameters.setdefault("incremental_output", True)
    return {"X-DashScope-SSE": "enable", "Accept": "text/event-stream"}


def _check_stream(parameters: dict[str, Any]) -> None:
    if parameters.pop("stream", False):
        raise ConfigError("Streams are asked for by model.stream(...), not by stream=True.")


def with_alternating_roles(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return copies with roles by position alone, as AgentScope v0.0.2 sends them.

    User and assistant take turns; with an even number the first is the system's
    (``models/dashscope_model.py``, ``_preprocess_role``).
    """
    is_even = len(items) % 2 == 0
    return [
        {**item, "role": "system" if is_even and i == 0 else ("user", "assistant")[(i - is_even) % 2]}
        for i, item in enumerate(items)
    ]


def in_native_form(item: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content parts are DashScope's; the same object if they are already."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    parts = [_native_part(part) for part in content]
    return (
        item
        if all(new is old for new, old in zip(parts, content, strict=True))
        else {**item, "content": parts}
    )


def _native_part(part: Any) -> dict[str, Any]:
    """Return a content part as ``{"text" | "image" | "audio" | "video": ...}``; OpenAI's are converted."""
    if isinstance(part, str):
        return {"text": part}
    if not isinstance(part, dict):
        raise MessageError("messages", f"a part of a content must be an object, not {type(part).__name__}")
    kind = part.get("type")
    if kind is None:
        return part
    match kind:
        case "text" | "image" | "audio" | "video":
            return {name: value for name, value in part.items() if name != "type"}
        case "image_url" | "audio_url" | "video_url":
            inner = part.get(kind)
            url = inner.get("url") if isinstance(inner, dict) else inner
            if not isinstance(url, str):
                raise MessageError("messages", f"a part of type {kind!r} has no url")
            return {kind.removesuffix("_url"): url}
        case "input_audio":
            sound = part.get(kind) or {}
            return {"audio": f"data:audio/{sound.get('format', 'wav')};base64,{sound.get('data', '')}"}
    raise MessageError("messages", f"DashScope takes texts, images, sounds and films, not {kind!r}")


def holds_media(item: dict[str, Any]) -> bool:
    """Whether a message in DashScope's form has an image, a sound or a film."""
    content = item.get("content")
    return isinstance(content, list) and any(kind in part for part in content for kind in _MEDIA_KINDS)


def as_parts(item: dict[str, Any]) -> dict[str, Any]:
    """Return the message with a list for content, as models that see and hear want it."""
    content = item.get("content")
    if isinstance(content, list):
        return item
    return {**item, "content": [{"text": content}] if content else []}


def as_text(item: dict[str, Any]) -> dict[str, Any]:
    """Return the message with a string for content, as models of text alone want it.

    Parts that say more than their text (``cache_control``) stay as they are.
    """
    content = item.get("content")
    if not isinstance(content, list) or not all(part.keys() == {"text"} for part in content):
        return item
    return {**item, "content": "".join(str(part["text"]) for part in content)}


def _urls_in(item: dict[str, Any]) -> list[str]:
    content = item.get("content")
    if not isinstance(content, list):
        return []
    found = [part[kind] for part in content for kind in _MEDIA_KINDS if kind in part]
    flat = [url for each in found for url in (each if isinstance(each, list) else [each])]
    return [url for url in flat if isinstance(url, str)]


def build_embedding_request(host: Host, model: str, texts: Any, args: Mapping[str, Any]) -> HttpRequest:
    """Return the request for vectors; DashScope wants a list even for one text.

    Raises:
        MessageError: ``texts`` is neither a text nor a list.
    """
    if not isinstance(texts, (str, list)) or not texts:
        raise MessageError("texts", "must be a text or a list of texts, not empty")
    parameters = {name: value for name, value in args.items() if value is not None}
    given = [texts] if isinstance(texts, str) else texts
    return host.post(EMBEDDING_PATH, {"model": model, "input": {"texts": given}, "parameters": parameters})


def build_image_request(host: Host, model: str, prompt: Any, args: Mapping[str, Any]) -> HttpRequest:
    """Return the request that starts to make images; one unless ``n`` says more, as in AgentScope v0.0.2.

    Raises:
        MessageError: the prompt is not a text.
    """
    if not isinstance(prompt, str):
        raise MessageError("prompt", f"must be a text, not {type(prompt).__name__}")
    parameters = {"n": 1} | {name: value for name, value in args.items() if value is not None}
    wanted = {"prompt": prompt} | {name: parameters.pop(name) for name in _IMAGE_INPUTS if name in parameters}
    # dashscope 2.0.2, aigc/image_synthesis.py, __get_i2i_task
    is_edit = "imageedit" in model or "i2i" in model
    path = f"/services/aigc/{'image2image' if is_edit else 'text2image'}/image-synthesis"
    body = {"model": model, "input": wanted, "parameters": parameters}
    return host.post(path, body, {"X-DashScope-Async": "enable"}, is_repeatable=False)


# -- answers --


def parse_chat_response(body: Any) -> ModelResponse:
    """Return what a chat answer says, in either ``result_format``.

    Raises:
        Problem: it is an error in disguise, or says nothing.
    """
    output = output_of(body)
    choices = output.get("choices")
    if choices is None and "text" in output:
        choices = [{"message": {"content": output["text"]}, "finish_reason": output.get("finish_reason")}]
    if not choices:
        raise Problem("bad_response", "the answer has no choices", raw=body)
    if len(choices) > 1:
        choices = _in_order(choices, "index")
    contents = [text_in(choice["message"].get("content")) for choice in choices]
    first = choices[0]
    calls = first["message"].get("tool_calls")
    return ModelResponse(
        contents[0],
        ["" if text is None else text for text in contents],
        raw=body,
        tool_calls=parse_tool_calls(calls) if calls else None,
        thinking=first["message"].get("reasoning_content") or None,
        usage=parse_usage(body.get("usage")),
        finish_reason=finish_reason_of(first),
        request_id=body.get("request_id"),
    )


def parse_embedding_response(body: Any) -> ModelResponse:
    """Return the vectors, in the order of the texts.

    Raises:
        Problem: it is an error in disguise, or there are none.
    """
    rows = output_of(body).get("embeddings")
    if not rows:
        raise Problem("bad_response", "the answer has no embeddings", raw=body)
    usage = body.get("usage")
    total = _count(usage.get("total_tokens")) if isinstance(usage, dict) else None
    return ModelResponse(
        embedding=[_vector(row) for row in _in_order(rows, "text_index")],
        raw=body,
        usage=None if total is None else Usage(total, 0),
        request_id=body.get("request_id"),
    )


def _in_order(rows: list[dict[str, Any]], index: str) -> list[dict[str, Any]]:
    return [row for _, row in sorted(enumerate(rows), key=lambda item: item[1].get(index, item[0]))]


def _vector(row: dict[str, Any]) -> Any:
    """Return the floats; with ``output_type="sparse"`` there are only tokens and their weights."""
    return row["embedding"] if "embedding" in row else row["sparse_embedding"]


def output_of(body: Any) -> dict[str, Any]:
    """Return ``body["output"]``.

    Raises:
        Problem: there is none; DashScope reports some errors under status 200.
    """
    output = body.get("output") if isinstance(body, dict) else None
    if isinstance(output, dict) and output:
        return output
    if isinstance(body, dict) and body.get("code"):
        raise problem_in(body, 200)
    raise Problem("bad_response", "the answer has no output", raw=body)


def finish_reason_of(choice: Mapping[str, Any]) -> str | None:
    """Return why an answer ended; None, for which DashScope also writes ``"null"``, if it has not."""
    reason = choice.get("finish_reason")
    return None if reason == "null" else reason


def text_in(content: Any) -> str | None:
    """Return the text of a ``content``: itself, or the text parts of a list, which may be empty."""
    if content is None or isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if "text" in part)


def parse_usage(usage: Any) -> Usage | None:
    """Return the tokens reported, or None if that cannot be true; the total is often left out."""
    if not isinstance(usage, dict):
        return None
    taken, given = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    return None if taken is None or given is None else Usage(taken, given)


def _count(number: Any) -> int | None:
    return number if type(number) is int and 0 <= number <= MOST_TOKENS else None


# -- errors --

# help.aliyun.com/zh/model-studio/error-code: the codes that say more than their status, by how they begin.
_TYPES = (
    ("Arrearage", "quota"),
    ("AllocationQuota.FreeTierOnly", "quota"),
    ("Throttling", "rate_limit"),
    ("InvalidApiKey", "auth"),
    ("AccessDenied", "permission"),
    ("Model.AccessDenied", "permission"),
    ("App.AccessDenied", "permission"),
    ("Workspace.AccessDenied", "permission"),
    ("ModelNotFound", "not_found"),
    ("Model.NotExist", "not_found"),
    ("InternalError", "server"),
    ("ServiceUnavailable", "overloaded"),
    ("ModelUnavailable", "overloaded"),
    ("GatewayTimeout", "timeout"),
    ("RequestTimeOut", "timeout"),
    ("InvalidParameter", "bad_request"),
    ("BadRequest", "bad_request"),
    ("InvalidURL", "bad_request"),
)


def explain(status: int, body: bytes) -> Problem:
    """Return what an answer with status 300 or above means; takes any bytes, a gateway's HTML too."""
    parsed = _error_in(body)
    return explain_openai(status, body) if parsed is None else problem_in(parsed, status)


def problem_in(error: Mapping[str, Any], status: int | None) -> Problem:
    """Return what ``{code, message, request_id}`` means; ``status`` None is not known, 200 says nothing."""
    code = error.get("code")
    if isinstance(code, bool) or not isinstance(code, (str, int)) or code == "":
        code = None
    said = error.get("message") or error.get("msg")
    request_id = error.get("request_id")
    return Problem(
        _type(code, status),
        said if isinstance(said, str) else "the server gave no explanation",
        status=status,
        code=code,
        request_id=request_id if isinstance(request_id, str) else None,
        raw=dict(error),
    )


def _type(code: str | int | None, status: int | None) -> str:
    if isinstance(code, str):
        if "datainspection" in code.lower().replace("_", ""):
            return "content_filter"
        for beginning, kind in _TYPES:
            if code.startswith(beginning):
                return kind
    if status is None:
        return "stream_error"
    return type_of_status(status)


def _error_in(body: bytes) -> dict[str, Any] | None:
    """Return the error object of a refusal; that of a stream may come as an event."""
    for data in (body, *reversed(_events_in(body))):
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError:
            continue
        if isinstance(parsed, dict) and (parsed.get("code") or parsed.get("message") or parsed.get("msg")):
            return parsed
    return None


def _events_in(body: bytes) -> list[bytes]:
    if b"data:" not in body:
        return []
    reader = SSEReader()
    try:
        return [event.data for event in (*reader.feed(body), *reader.close())]
    except ValueError:
        return []
