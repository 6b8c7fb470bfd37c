"""AgentScope v0.0.2's way to make a tool of a service."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .tools import as_tool

__all__ = ["ServiceFactory"]


class ServiceFactory:
    """Makes pairs of a function and its description; :class:`Toolkit` does more."""

    @classmethod
    def get(
        cls, service_func: Callable[..., Any], /, **kwargs: Any
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return ``service_func`` with ``kwargs`` set, and the JSON Schema of its other parameters.

        Whole numbers are described as ``number``, as v0.0.2 did; parameters that give
        rights are never described.

        Raises:
            ConfigError: a keyword is no parameter of it, or a type has no JSON form.
            MissingExtraError: the package docstring-parser is not installed.
        """
        schema = as_tool(service_func, None, kwargs).schema
        function = schema["function"]
        function["parameters"] = _with_numbers(function["parameters"])
        return functools.partial(service_func, **kwargs), schema


def _with_numbers(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_numbers(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: "number" if key == "type" and value == "integer" else _with_numbers(value)
        for key, value in schema.items()
    }
