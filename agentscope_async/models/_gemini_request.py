"""What a call of Gemini looks like on the wire: contents, tools, schemas and options.

Source: the reference of the Gemini API (ai.google.dev/api/generate-content, /api/caching
for Content, Schema and Tool).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from ..errors import ConfigError, MessageError
from ._gemini_schema import gemini_schema
from ._schema import wanted_schema

__all__ = ["as_contents", "build_chat_body", "build_embedding_body", "call_part", "media_part", "result_part"]

ROLES = {"assistant": "model", "developer": "system", "tool": "user", "function": "user"}
"""Roles of other providers, and what Gemini calls them; it has no system role but a field for it."""

OPTION_NAMES = {
    "maxTokens": "maxOutputTokens",
    "maxCompletionTokens": "maxOutputTokens",
    "n": "candidateCount",
    "stop": "stopSequences",
}
"""OpenAI's names of generation options, without underscores."""

TOP_LEVEL = ("safetySettings", "tools", "toolConfig", "cachedContent", "labels", "store", "serviceTier")
"""Arguments that stand beside ``generationConfig``; all others but the ones built below stand in it."""

MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "any": "ANY", "validated": "VALIDATED"}
MADE_UP_ID = "call_"


def build_chat_body(contents: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Return the body of ``:generateContent``; options that are None are left out.

    Raises:
        ConfigError: an argument is not valid.
        MessageError: a message is not.
    """
    turns, system = as_contents(contents)
    given = {camel(name): value for name, value in args.items() if value is not None}
    system = _system_parts(given.pop("systemInstruction", None)) + system
    if system and not turns:  # Gemini refuses a call without contents
        turns, system = [{"role": "user", "parts": system}], []
    body: dict[str, Any] = {"contents": turns}
    if system:
        body["systemInstruction"] = {"parts": system}
    if given:
        _add_arguments(body, given)
    return body


def _add_arguments(body: dict[str, Any], given: dict[str, Any]) -> None:
    if "tools" in given:
        given["tools"] = _tools(given["tools"])
    if "toolChoice" in given:
        given["toolConfig"] = _tool_config(given.pop("toolChoice"))
    config = given.pop("generationConfig", {})
    if not isinstance(config, dict):
        raise ConfigError(f"generation_config must be an object, not {type(config).__name__}.")
    config = {camel(name): value for name, value in config.items()}
    for name in [name for name in given if name in TOP_LEVEL]:
        body[name] = given.pop(name)
    for name, value in given.items():
        config |= _option(name, value)
    if config:
        body["generationConfig"] = config


def _option(name: str, value: Any) -> dict[str, Any]:
    if name == "responseFormat":
        return _response_format(value)
    name = OPTION_NAMES.get(name, name)
    if name == "stopSequences" and isinstance(value, str):
        value = [value]
    if name == "responseSchema":
        value = gemini_schema(value if isinstance(value, dict) else _schema_of(value))
    return {name: value}


def _response_format(response_format: Any) -> dict[str, Any]:
    wanted = wanted_schema(response_format)
    if wanted is None:
        return {}
    config: dict[str, Any] = {"responseMimeType": "application/json"}
    if wanted.schema is not None:
        config["responseSchema"] = gemini_schema(wanted.schema)
    return config


def _schema_of(model: Any) -> dict[str, Any]:
    wanted = wanted_schema(model)
    return {} if wanted is None or wanted.schema is None else wanted.schema


def _system_parts(instruction: Any) -> list[dict[str, Any]]:
    """Return the parts of a ``system_instruction``: a text, texts, parts or a content."""
    if instruction is None:
        return []
    if isinstance(instruction, dict) and "parts" in instruction:
        instruction = instruction["parts"]
    return _parts(instruction, "system_instruction")


# -- contents --


def as_contents(given: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the turns, and the parts of what the system says, which Gemini takes elsewhere.

    ``given`` is a text, or a list of Gemini's contents (texts may stand bare in ``parts``,
    as in AgentScope v0.0.2) and of messages in OpenAI's form, in any mixture. Results of
    tools that follow each other become one turn: Gemini wants as many in it as the turn
    before has calls.

    Raises:
        MessageError: it is neither.
    """
    if isinstance(given, str):
        return [{"role": "user", "parts": [{"text": given}]}], []
    if not isinstance(given, list):
        raise MessageError("contents", f"must be a text or a list of objects, not {type(given).__name__}")
    turns: list[dict[str, Any]] = []
    system: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    for index, item in enumerate(given):
        role, parts = _turn(item, f"contents[{index}]", called)
        if role == "system":
            system += parts
        elif turns and _has_result(parts) and _has_result(turns[-1]["parts"]):
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": role, "parts": parts})
    return turns, system


def _turn(item: Any, field: str, called: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
    if not isinstance(item, dict):
        raise MessageError(field, f"must be an object, not {type(item).__name__}")
    role = item.get("role") or "user"
    if not isinstance(role, str):
        raise MessageError(field, f"'role' must be a text, not {type(role).__name__}")
    if "parts" in item:
        return ROLES.get(role, role), _parts(item["parts"], field)
    if "content" not in item and "tool_calls" not in item:
        raise MessageError(field, "needs 'role' and 'parts', or 'role' and 'content'")
    try:
        return ROLES.get(role, role), _openai_parts(item, role, field, called)
    except (KeyError, TypeError, AttributeError) as error:
        raise MessageError(field, f"is not in OpenAI's form: {type(error).__name__}: {error}") from error


def _parts(parts: Any, field: str) -> list[dict[str, Any]]:
    if isinstance(parts, (str, dict)):
        parts = [parts]
    if not isinstance(parts, (list, tuple)):
        raise MessageError(field, f"'parts' must be a list, not {type(parts).__name__}")
    return [part if isinstance(part, dict) else _text_part(part, field) for part in parts]


def _text_part(text: Any, field: str) -> dict[str, Any]:
    if not isinstance(text, str):
        raise MessageError(field, f"a part is a text or an object, not {type(text).__name__}")
    return {"text": text}


def _openai_parts(
    item: dict[str, Any], role: str, field: str, called: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the parts of a message in OpenAI's form; ``called`` learns and tells the names of its calls."""
    if role in ("tool", "function"):
        call_id = item.get("tool_call_id") or ""
        name = item.get("name") or called.get(call_id)
        if name is None:
            raise MessageError(field, "answers no call before it, and has no 'name' of its tool")
        return [result_part(name, _parsed(item["content"]), call_id)]
    parts = _content_parts(item.get("content"), field)
    for call in item.get("tool_calls") or ():
        function = call["function"]
        called[call.get("id") or ""] = function["name"]
        parts.append(call_part(function["name"], _parsed(function.get("arguments")), call.get("id") or ""))
    return parts or [{"text": ""}]


def _content_parts(content: Any, field: str) -> list[dict[str, Any]]:
    if not content:
        return []
    if isinstance(content, str):
        return [{"text": content}]
    return [{"text": part} if isinstance(part, str) else _content_part(part, field) for part in content]


def _content_part(part: dict[str, Any], field: str) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"text": part["text"]}
        case "image_url":
            return media_part(part["image_url"]["url"])
        case "input_audio":
            sound = part["input_audio"]
            return _data_part(f"audio/{sound['format']}", sound["data"])
        case None:
            return part
    raise MessageError(field, f"holds a part of the type {part['type']!r}, which Gemini does not take")


def media_part(url: str, mime_type: str | None = None) -> dict[str, Any]:
    """Return the part for a ``data:`` URI, or for an address or path that is still to be loaded."""
    if url.startswith("data:"):
        head, comma, data = url.partition(",")
        if not comma or not head.endswith(";base64"):
            raise MessageError("url", "a data: URI must be 'data:<mime type>;base64,<data>'")
        return _data_part(head[len("data:") : -len(";base64")].partition(";")[0] or "image/png", data)
    kind = {} if mime_type is None else {"mimeType": mime_type}
    return {"fileData": {"fileUri": url, **kind}}


def _data_part(mime_type: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": data}}


def call_part(name: str, arguments: Any, call_id: str = "") -> dict[str, Any]:
    """Return the part in which the model calls a tool; arguments that are no object are left out."""
    call = {"name": name, "args": arguments if isinstance(arguments, dict) else {}}
    return {"functionCall": call | _id(call_id)}


def result_part(name: str, result: Any, call_id: str = "", *, failed: bool = False) -> dict[str, Any]:
    """Return the part for what a tool gave back; Gemini takes objects only."""
    if failed:
        result = {"error": result}
    elif not isinstance(result, dict):
        result = {"result": result}
    return {"functionResponse": {"name": name, "response": result} | _id(call_id)}


def _id(call_id: str) -> dict[str, str]:
    """Return the id, unless it was made up by us: then Gemini tells calls by name and order."""
    return {} if not call_id or call_id.startswith(MADE_UP_ID) else {"id": call_id}


def _has_result(parts: list[dict[str, Any]]) -> bool:
    return bool(parts) and "functionResponse" in parts[0]  # they come first


def _parsed(text: Any) -> Any:
    """Return a JSON object that came as text; anything else as it is."""
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


# -- tools --


def _tools(tools: Any) -> list[dict[str, Any]]:
    """Return tools in Gemini's form: functions in OpenAI's form are gathered in one, others kept."""
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, dict) for tool in tools):
        raise ConfigError(f"tools must be a list of objects, got {tools!r}.")
    functions = [_declaration(tool.get("function")) for tool in tools if tool.get("type") == "function"]
    native = [tool for tool in tools if tool.get("type") != "function"]
    return [{"functionDeclarations": functions}, *native] if functions else native


def _declaration(function: Any) -> dict[str, Any]:
    if not isinstance(function, dict) or not function.get("name"):
        raise ConfigError(f"A tool of the type 'function' needs a 'function' with a name, got {function!r}.")
    declared = {key: function[key] for key in ("name", "description") if function.get(key)}
    parameters = function.get("parameters")
    if parameters and parameters.get("properties"):  # an object without properties is refused
        declared["parameters"] = gemini_schema(parameters)
    return declared


def _tool_config(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str) and choice.lower() in MODES:
        return {"functionCallingConfig": {"mode": MODES[choice.lower()]}}
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}}
        case dict() if "type" not in choice:
            return choice
    raise ConfigError(
        f"tool_choice must be one of {', '.join(MODES)}, a function's object or a toolConfig, got {choice!r}."
    )


# -- embeddings --


def build_embedding_body(content: Any, model: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return the body for one text, or for a list of them, which is sent as a batch.

    Raises:
        ConfigError: an argument is not valid.
        MessageError: ``content`` is no text, no content and no list of these.
    """
    options = {camel(name): value for name, value in args.items() if value is not None}
    if isinstance(options.get("taskType"), str):
        options["taskType"] = options["taskType"].upper()
    if "dimensions" in options:
        options["outputDimensionality"] = options.pop("dimensions")
    if not isinstance(content, (list, tuple)):
        return {"content": _embedded(content), **options}
    if not content:
        raise MessageError("content", "is an empty list: there is nothing to embed")
    return {"requests": [{"model": model, "content": _embedded(each), **options} for each in content]}


def _embedded(content: Any) -> dict[str, Any]:
    if isinstance(content, str):
        return {"parts": [{"text": content}]}
    if isinstance(content, dict) and "parts" in content:
        return content
    raise MessageError("content", f"must be a text or a list of texts, not {type(content).__name__}")


# -- names --


@lru_cache(maxsize=256)
def camel(name: str) -> str:
    """Return ``max_output_tokens`` as ``maxOutputTokens``."""
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)
