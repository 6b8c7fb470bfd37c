"""``response_format=``: a pydantic model or a JSON schema, in the forms providers want."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import ConfigError

__all__ = ["WantedSchema", "wanted_schema"]


class WantedSchema(NamedTuple):
    """What an answer must fit.

    Attributes:
        name: of the schema; letters, digits, ``_`` and ``-``.
        schema: the JSON schema, or None for "any JSON object".
        is_strict: it came from a pydantic model: all properties required, no others allowed,
            as OpenAI's strict mode wants it.
    """

    name: str
    schema: dict[str, Any] | None
    is_strict: bool


def wanted_schema(response_format: Any) -> WantedSchema | None:
    """Return what ``response_format`` asks for; None when it asks for text.

    Takes a pydantic model class, a JSON schema, or OpenAI's ``{"type": "json_schema" |
    "json_object" | "text", ...}``.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(response_format, type) and hasattr(response_format, "model_json_schema"):
        name = "".join(c if c.isalnum() and c.isascii() else "_" for c in response_format.__name__)
        return WantedSchema(name[:64], strict(response_format.model_json_schema()), True)
    if not isinstance(response_format, dict):
        raise ConfigError(
            f"response_format must be a pydantic model or a JSON schema, got {response_format!r}."
        )
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            return WantedSchema("answer", None, False)
        case "json_schema" if "json_schema" in response_format or "schema" in response_format:
            inner = response_format.get("json_schema") or response_format
            if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
                raise ConfigError(
                    "response_format of type 'json_schema' needs {'json_schema': {'schema': {...}}}."
                )
            return WantedSchema(inner.get("name") or "answer", inner["schema"], bool(inner.get("strict")))
    return WantedSchema("answer", response_format, False)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which every object requires all its properties and allows no others.

    What OpenAI's strict mode asks for (platform.openai.com, "Structured outputs",
    supported schemas); defaults are left out, as it refuses them.
    """
    changed = {key: _strict_value(key, value) for key, value in schema.items() if key != "default"}
    if "properties" in changed:
        changed["required"] = list(changed["properties"])
        changed["additionalProperties"] = False
    return changed


def _strict_value(key: str, value: Any) -> Any:
    if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
        return {name: strict(each) if isinstance(each, dict) else each for name, each in value.items()}
    if key in ("items", "additionalProperties", "not") and isinstance(value, dict):
        return strict(value)
    if key in ("anyOf", "allOf", "oneOf", "prefixItems") and isinstance(value, list):
        return [strict(each) if isinstance(each, dict) else each for each in value]
    return value
