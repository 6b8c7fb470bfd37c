"""From a client's request to messages for an agent and arguments for its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ..message import (
    AudioPart,
    ContentPart,
    ImagePart,
    Msg,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from ._openai_errors import BadParameter

if TYPE_CHECKING:
    from ..models.base import ModelWrapperBase
    from ._openai_schema import Ask

__all__ = ["arguments_for", "check_tools", "has_tools", "read_messages"]

GIVEN_ON = (
    "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "reasoning_effort",
    "tools", "tool_choice", "parallel_tool_calls", "response_format",
)  # fmt: skip
"""What a model is told as it stands, where the client says it."""


def read_messages(ask: Ask, me: str) -> list[Msg]:
    """Return the conversation, oldest first; what the assistant said in it, ``me`` said.

    Raises:
        BadParameter: a tool gave something back that nobody had asked it for.
        MessageError: the content is none that a message can hold.
    """
    names: dict[str, str] = {}
    return [_read(said, me, names, f"messages.{index}") for index, said in enumerate(ask.messages)]


def _read(said: Any, me: str, tool_names: dict[str, str], where: str) -> Msg:
    match said.role:
        case "system" | "developer":
            return Msg(said.name or "system", _text(said.content), "system")
        case "assistant":
            return Msg(me, _own_content(said, tool_names), "assistant")
        case "tool":
            return _tool_result(said, tool_names, where)
    name = said.name or "user"
    # An agent takes what bears its own name for its own words.
    return Msg(name if name != me else f"{name} (user)", _user_content(said.content), "user")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _user_content(content: Any) -> str | list[ContentPart]:
    if isinstance(content, str) or all(part.type == "text" for part in content):
        return _text(content)
    return [_part(part) for part in content]


def _part(part: Any) -> ContentPart:
    match part.type:
        case "image_url":
            return ImagePart(part.image_url.url)
        case "input_audio":
            sound = part.input_audio
            kind = "audio/mpeg" if sound.format == "mp3" else "audio/wav"
            return AudioPart(f"data:{kind};base64,{sound.data}", kind)
    return TextPart(part.text)


def _own_content(said: Any, tool_names: dict[str, str]) -> str | list[ContentPart]:
    content = said.content or ""
    if not isinstance(content, str):
        content = "\n".join(part.text if part.type == "text" else part.refusal for part in content)
    text = content or said.refusal or ""
    if not said.tool_calls:
        return text
    tool_names.update((call.id, call.function.name) for call in said.tool_calls)
    calls: list[ContentPart] = [_call(call) for call in said.tool_calls]
    return [TextPart(text), *calls] if text else calls


def _call(call: Any) -> ToolCallPart:
    raw = call.function.arguments
    try:
        arguments = orjson.loads(raw) if raw.strip() else {}
    except ValueError:  # a model wrote it; what it is to make of that is its own affair
        arguments = None
    return ToolCallPart(call.id, call.function.name, arguments, raw)


def _tool_result(said: Any, tool_names: dict[str, str], where: str) -> Msg:
    name = tool_names.get(said.tool_call_id)
    if name is None:
        raise BadParameter(
            f"{where}.tool_call_id",
            "A message of the role 'tool' answers one of the tool_calls of a message before it.",
        )
    return Msg("tool", [ToolResultPart(said.tool_call_id, name, _text(said.content))], "tool")


def has_tools(ask: Ask) -> bool:
    """Whether tools of the client's have a part in this."""
    return bool(ask.tools) or any(said.role == "tool" or _calls(said) for said in ask.messages)


def _calls(said: Any) -> Any:
    return said.role == "assistant" and said.tool_calls


def check_tools(ask: Ask) -> None:
    """Refuse what OpenAI refuses, too.

    Raises:
        BadParameter: a choice among no tools.
    """
    for name in ("tool_choice", "parallel_tool_calls"):
        if getattr(ask, name) is not None and not ask.tools:
            raise BadParameter(name, f"{name!r} is only allowed when 'tools' are specified.")


def arguments_for(model: ModelWrapperBase, ask: Ask) -> dict[str, Any]:
    """Return what the model is to be told, in the words all providers' wrappers understand."""
    given = ask.model_dump(include=set(GIVEN_ON), exclude_none=True, by_alias=True)
    args = {name: given[name] for name in GIVEN_ON if name in given}
    if not ask.tools:
        args.pop("tools", None)
    if ask.stop:
        args["stop"] = [ask.stop] if isinstance(ask.stop, str) else ask.stop
    limit = ask.max_completion_tokens or ask.max_tokens
    if limit is not None:
        _set_limit(model, args, limit)
    return args


def _set_limit(model: ModelWrapperBase, args: dict[str, Any], limit: int) -> None:
    set_limit = getattr(model, "limit_output", None)  # some of OpenAI's models want another name for it
    if set_limit is not None:
        set_limit(args, limit)
    else:
        args["max_tokens"] = limit
