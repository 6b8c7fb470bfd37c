"""From a function to what a model is told of it, and from what a model wrote to its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from ..errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Described", "describe", "parameters_of"]

_GATHERING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
MAX_ERRORS = 5
"""Of those in one call, this many are told."""


class Described:
    """A function as a model sees it.

    Attributes:
        description: its docstring's first paragraph, or None.
        parameters: JSON Schema of an object, properties in the order of the signature.
    """

    def __init__(
        self,
        description: str | None,
        parameters: dict[str, Any],
        names: list[str],
        arguments: type[BaseModel],
    ) -> None:
        self.description = description
        self.parameters = parameters
        self._names = names
        self._arguments = arguments

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function's types want them; those not given are left out.

        Raises:
            ValueError: they do not fit; the text names each of them.
        """
        from pydantic import ValidationError

        try:
            fitting = self._arguments.model_validate(dict(values))
        except ValidationError as error:
            raise ValueError(_told(error)) from None
        given = fitting.model_fields_set
        return {
            name: getattr(fitting, _field(index)) for index, name in enumerate(self._names)
            if _field(index) in given
        }  # fmt: skip


def describe(function: Callable[..., Any], hidden: frozenset[str], name: str) -> Described:
    """Describe ``function`` without its ``hidden`` parameters.

    Types come from the annotations (a parameter without one takes anything), texts from the docstring
    in Google's, NumPy's or reST's form.

    Raises:
        ConfigError: a parameter has a type that JSON has no schema for, or can only be given by position.
        MissingExtraError: the package docstring-parser is not installed.
    """
    from pydantic import PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema

    class Quietly(GenerateJsonSchema):
        ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012  # as declared

    shown = [each for each in _parameters(function, name) if each.name not in hidden]
    summary, texts = _docstring(function)
    try:
        arguments = _arguments_model(function, shown, texts)
        schema = arguments.model_json_schema(schema_generator=Quietly)
    except (PydanticUserError, NameError, TypeError) as error:
        raise ConfigError(
            f"Tool {name!r} cannot be described to a model: {str(error).splitlines()[0]} "
            f"Annotate its parameters with types that have a JSON form, or preset them."
        ) from error
    return Described(summary, _tidy(schema), [each.name for each in shown], arguments)


def parameters_of(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """Return what a function takes.

    Raises:
        ConfigError: it does not say.
    """
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError) as error:
        raise ConfigError(f"Tool {name!r} has no signature to read: wrap it in a function.") from error


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    found = parameters_of(function, name)
    for each in found:
        if each.kind is each.POSITIONAL_ONLY:
            raise ConfigError(
                f"Tool {name!r} takes {each.name!r} by position only, and models call by name: wrap it."
            )
    return [each for each in found if each.kind not in _GATHERING]


def _docstring(function: Callable[..., Any]) -> tuple[str | None, dict[str, str]]:
    """Return the short description (else the long one), and a text for each parameter."""
    text = inspect.getdoc(function)
    if not text:
        return None, {}
    try:
        from docstring_parser import parse
    except ImportError as error:
        raise MissingExtraError(
            "docstring_parser",
            "Tools are described by their docstrings, which needs the package docstring-parser: "
            "pip install 'agentscope-async[tools]'",
        ) from error
    read = parse(text)
    texts = {each.arg_name: each.description or "" for each in read.params}
    return read.short_description or read.long_description, texts


def _arguments_model(
    function: Callable[..., Any], shown: list[inspect.Parameter], texts: dict[str, str]
) -> type[BaseModel]:
    """Return a model with a field for each parameter, under names of our own.

    A parameter may be called ``json`` or ``_x``, which no field of a model may.
    """
    from pydantic import ConfigDict, Field, create_model

    types = _type_hints(function) if shown else {}
    fields: dict[str, Any] = {}
    for index, each in enumerate(shown):
        default = ... if each.default is each.empty else each.default
        about = texts.get(each.name) or None
        fields[_field(index)] = (
            _annotation(each, types),
            Field(default, validation_alias=each.name, description=about),
        )
    return create_model(
        "arguments", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields
    )


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of what is called in the end, be it decorated, a class or an object."""
    inner = inspect.unwrap(function)
    if inspect.isclass(inner):
        inner = inner.__init__
    elif not (inspect.isfunction(inner) or inspect.ismethod(inner)):
        inner = type(inner).__call__
    return get_type_hints(inner, include_extras=True)


def _annotation(parameter: inspect.Parameter, types: dict[str, Any]) -> Any:
    from pydantic.fields import FieldInfo

    if isinstance(parameter.default, FieldInfo):
        raise TypeError(f"{parameter.name} has a Field as its default; write Annotated[..., Field(...)] = 5.")
    if not isinstance(parameter.annotation, str) and parameter.annotation is not parameter.empty:
        return types[parameter.name] if types.get(parameter.name, Any) is not Any else parameter.annotation
    return types.get(parameter.name, Any)


def _field(index: int) -> str:
    return f"p{index}"


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema without pydantic's titles, and without defaults of None."""
    properties = {name: _untitled(each) for name, each in schema.get("properties", {}).items()}
    for each in properties.values():
        if each.get("default", 0) is None:
            del each["default"]
    tidy: dict[str, Any] = {"type": "object", "properties": properties}
    tidy["required"] = schema.get("required", [])
    if "$defs" in schema:
        tidy["$defs"] = {name: _untitled(each) for name, each in schema["$defs"].items()}
    return tidy


def _untitled(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_untitled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _untitled(each) for key, each in schema.items() if key not in ("title", "properties")}
    if isinstance(schema.get("properties"), dict):  # there "title" is the name of a field
        tidy["properties"] = {name: _untitled(each) for name, each in schema["properties"].items()}
    return tidy


def _told(error: Any) -> str:
    problems = error.errors(include_url=False)
    lines = []
    for each in problems[:MAX_ERRORS]:
        where = ".".join(str(part) for part in each["loc"]) or "arguments"
        seen = "" if each["type"] in ("missing", "extra_forbidden") else f", got {each['input']!r:.80}"
        lines.append(f"{where}: {each['msg']}{seen}")
    if len(problems) > MAX_ERRORS:
        lines.append(f"and {len(problems) - MAX_ERRORS} more")
    return "; ".join(lines)
