"""Tools for models that have none of their own: told in the prompt, asked for with an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._lenient import is_whole_object, read_object
from ..message import ToolCallPart

if TYPE_CHECKING:
    from ..service.toolkit import ToolOutcome
    from ..service.tools import Tool

__all__ = [
    "CUT",
    "HINT",
    "MALFORMED",
    "SCHEMA_HINT",
    "TOO_MANY",
    "Step",
    "answer_schema",
    "listing",
    "read_step",
    "report",
]

HINT = """\
Answer with one JSON object and nothing else:
{"thought": "what you think", "speak": "what you say to the others", \
"function": [{"name": "a tool's name", "arguments": {"its argument": "a value"}}]}
"function" lists the tools you want to use now; leave it empty, [], once you can answer without them."""

SCHEMA_HINT = """\
You answer with an object: "thought" is what you think, "speak" what you say to the others, "function" \
the tools you want to use now: [] once you have what you need."""

MALFORMED = (
    "That was not one JSON object with the keys thought, speak and function, so nothing was done. "
    "Answer again with that object and nothing else."
)

CUT = "That was cut off at its length limit, so nothing was done. Answer again, and shorter."

TOO_MANY = "Only the first {limit} functions were called: no more than that in one step."

KEYS = ("thought", "speak", "function")
THOUGHT_CHARS = 200
SPEECH_CHARS = 400
CALLS_AT_ONCE = 4
"""A small model held to a grammar does not always find an end; so much it may say."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the model wants: to say something, to use tools, or both."""

    answer: dict[str, Any]
    calls: list[ToolCallPart] = field(default_factory=list)

    @property
    def thought(self) -> str:
        """What it thinks."""
        return _text(self.answer.get("thought"))

    @property
    def speech(self) -> str:
        """What it says."""
        return _text(self.answer.get("speak"))


def listing(tools: Sequence[Tool]) -> str:
    """Return the tools as a numbered list with their arguments, types and descriptions."""
    lines = ["You can use these tools:"]
    for number, tool in enumerate(tools, 1):
        lines.append(f"{number}. {tool.name}: {tool.description}")
        for name, schema in tool.parameters.get("properties", {}).items():
            about = schema.get("description") or ""
            lines.append(f"\t{name} ({_type(schema)}): {about}".rstrip())
    return "\n".join(lines)


def read_step(text: str, number: int, *, may_quote: bool) -> Step | str | None:
    """Return what an answer asks for; a plain text as it is; None when it is a broken object.

    Args:
        text: the answer.
        number: of the step, for the ids of its calls.
        may_quote: the model has read what strangers wrote, and may quote it: then an object with
            something before or after it is a text, and asks for nothing.
    """
    is_whole = is_whole_object(text)
    if may_quote and not is_whole:
        return None if text.lstrip().startswith("{") else text
    answer = read_object(text, may_repair=is_whole, keys=KEYS)
    if answer is None:
        return None if text.lstrip().startswith(("{", "```json")) or '"function"' in text else text
    wanted = answer.get("function") or []
    entries = wanted if isinstance(wanted, list) else [wanted]
    return Step(answer, [_call(entry, f"call_{number}_{index}") for index, entry in enumerate(entries, 1)])


def report(outcomes: Sequence[ToolOutcome], note: str = "") -> str:
    """Return the results as AgentScope v0.0.2 told them: a title, then each call's status and content."""
    lines = ["Results of the functions:"]
    for index, outcome in enumerate(outcomes, 1):
        status = "SUCCESS" if outcome.response.is_success else "FAILED"
        lines += [
            f"{index}. {outcome.call.name}:",
            f"    [EXECUTE STATUS]: {status}",
            f"    [EXECUTE RESULT]: {outcome.text}",
        ]
    return "\n".join([*lines, note] if note else lines)


def answer_schema(tools: Sequence[Tool], *, must_call: bool) -> dict[str, Any]:
    """Return the JSON Schema of such an answer: only tools that there are, with arguments that fit."""
    definitions: dict[str, Any] = {}
    calls = [_call_schema(tool, definitions) for tool in tools]
    function: dict[str, Any] = {"type": "array", "items": {"anyOf": calls}, "maxItems": CALLS_AT_ONCE}
    if not calls:
        function = {"type": "array", "items": {"type": "object"}, "maxItems": 0}
    elif must_call:
        function["minItems"] = 1
    properties = {
        "thought": {"type": "string", "maxLength": THOUGHT_CHARS},
        "speak": {"type": "string", "maxLength": SPEECH_CHARS},
        "function": function,
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {**schema, "additionalProperties": False, **({"$defs": definitions} if definitions else {})}


def _call_schema(tool: Tool, definitions: dict[str, Any]) -> dict[str, Any]:
    parameters = {key: value for key, value in tool.parameters.items() if key != "$defs"}
    for name, each in tool.parameters.get("$defs", {}).items():
        definitions[f"{tool.name}.{name}"] = _moved(each, tool.name)
    properties = {"name": {"const": tool.name}, "arguments": _moved(parameters, tool.name)}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, tool_name: str) -> Any:
    """Return a schema whose references go to where its tool's definitions stand now."""
    if isinstance(schema, list):
        return [_moved(each, tool_name) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, tool_name) for key, value in schema.items()}
    target = moved.get("$ref")
    if isinstance(target, str) and target.startswith("#/$defs/"):
        moved["$ref"] = f"#/$defs/{tool_name}.{target.removeprefix('#/$defs/')}"
    return moved


def _call(entry: Any, call_id: str) -> ToolCallPart:
    """Return a call as it was written; what is wrong with it the toolkit will say."""
    if not isinstance(entry, dict):
        return ToolCallPart(call_id, _text(entry)[:64], None)
    arguments = entry.get("arguments")
    return ToolCallPart(call_id, _text(entry.get("name")), {} if arguments is None else arguments)


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(repr(each) for each in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return "object"
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
