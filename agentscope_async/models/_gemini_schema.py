"""From JSON schema to the part of it that Gemini takes.

Source: ai.google.dev/api/caching#Schema: a subset of OpenAPI 3.0. A keyword outside of it
makes the whole request fail.
"""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError

__all__ = ["gemini_schema"]

KEPT = frozenset(
    {
        "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems", "required",
        "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "example",
        "propertyOrdering", "minimum", "maximum",
    }
)  # fmt: skip
FORMATS = frozenset({"date-time", "enum", "float", "double", "int32", "int64"})


def gemini_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with references resolved and unknown keywords left out.

    What has no counterpart is loosened rather than refused: the answer then fits
    the schema less tightly, and whoever parses it says so.

    Raises:
        ConfigError: the schema refers to itself, or to something that is not there.
    """
    definitions = {**schema.get("definitions", {}), **schema.get("$defs", {})}
    return _converted(schema, definitions, ())


def _converted(schema: Any, definitions: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(schema, dict):  # true: anything goes
        return {}
    if isinstance(schema.get("$ref"), str):
        return _resolved(schema, definitions, path)
    wanted = {key: value for key, value in schema.items() if key in KEPT}
    for part in schema.get("allOf", ()):
        wanted = _merged(_converted(part, definitions, path), wanted)
    _take_type(wanted)
    _take_values(wanted, schema)
    if "items" in schema:
        wanted["items"] = _converted(schema["items"], definitions, path)
    if schema.get("properties"):
        properties = {
            name: _converted(each, definitions, path) for name, each in schema["properties"].items()
        }
        wanted["properties"] = {**wanted.get("properties", {}), **properties}
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        _take_choices(wanted, [_converted(each, definitions, path) for each in choices])
    return wanted


def _resolved(schema: dict[str, Any], definitions: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    name = schema["$ref"].rpartition("/")[2]
    if name in path:
        raise ConfigError(
            f"The schema {name!r} refers to itself, which Gemini's responseSchema cannot say. Give it as "
            f"generation_config={{'response_json_schema': ..., 'response_mime_type': 'application/json'}}."
        )
    if name not in definitions:
        raise ConfigError(f"The schema refers to {schema['$ref']!r}, which it does not define.")
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    return _converted({**definitions[name], **beside}, definitions, (*path, name))


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    return merged


def _take_type(wanted: dict[str, Any]) -> None:
    """Say ``["string", "null"]`` as a nullable string."""
    kinds = wanted.get("type")
    if not isinstance(kinds, list):
        return
    others = [kind for kind in kinds if kind != "null"]
    if len(others) < len(kinds):
        wanted["nullable"] = True
    del wanted["type"]
    if len(others) == 1:
        wanted["type"] = others[0]
    elif others:
        wanted["anyOf"] = [{"type": kind} for kind in others]


def _take_values(wanted: dict[str, Any], schema: dict[str, Any]) -> None:
    """Keep what Gemini has: an ``enum`` is of strings, a ``format`` one of a few."""
    if isinstance(schema.get("const"), str):
        wanted["enum"] = [schema["const"]]
    values = wanted.get("enum")
    if values is not None:
        texts = [value for value in values if isinstance(value, str)]
        if None in values:
            wanted["nullable"] = True
        if len(texts) + values.count(None) == len(values):
            wanted["enum"] = texts
            wanted.setdefault("type", "string")
        else:
            del wanted["enum"]
    if "format" in wanted and wanted["format"] not in FORMATS:
        del wanted["format"]


def _take_choices(wanted: dict[str, Any], choices: list[dict[str, Any]]) -> None:
    """Say "or null" as nullable; a choice that is left alone is no choice."""
    others = [choice for choice in choices if choice.get("type") != "null"]
    if len(others) < len(choices):
        wanted["nullable"] = True
    if len(others) == 1:
        for key, value in others[0].items():
            wanted.setdefault(key, value)
    else:
        wanted["anyOf"] = others
