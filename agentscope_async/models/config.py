"""Which models there are: configurations by name, and ``"provider:model"`` strings."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import orjson

from ..errors import AgentScopeWarning, ConfigError
from .base import ModelWrapperBase

__all__ = ["ModelConfigs", "ModelRegistry"]

ModelConfigs: TypeAlias = dict[str, Any] | list[dict[str, Any]] | str | Path
"""One configuration, a list of them, or the path of a JSON file with either."""

PROVIDERS = {"fake": "fake", "local": "local"}
"""What may stand before the colon of ``"provider:model"``, and the module that knows it by ``by_name``."""


class ModelRegistry:
    """Model configurations by ``config_name``; wrappers are made on first use and then shared."""

    def __init__(self) -> None:
        self._configs: dict[str, dict[str, Any]] = {}
        self._wrappers: dict[str, ModelWrapperBase] = {}

    def read(self, configs: ModelConfigs, *, clear_existing: bool = False) -> None:
        """Add configurations: a dict, a list of dicts, or the path of a JSON file with either.

        A ``config_name`` that is known already keeps its first configuration, with a warning.

        Raises:
            ConfigError: an entry is not an object, or has no ``config_name`` or ``model_type``.
        """
        loaded = load_configs(configs, "model")
        for config in loaded:
            _check(config)
        if clear_existing:
            self.clear()
        for config in loaded:
            name = config["config_name"]
            if name in self._configs:
                warnings.warn(
                    f"config_name {name!r} is known already; the first one stays.",
                    AgentScopeWarning,
                    stacklevel=3,
                )
                continue
            self._configs[name] = config

    def clear(self) -> None:
        """Forget all configurations and the wrappers made from them."""
        self._configs.clear()
        self._wrappers.clear()

    def __contains__(self, name: object) -> bool:
        return name in self._configs

    def names(self) -> list[str]:
        """Return the known ``config_name``s, in the order they were added."""
        return list(self._configs)

    def load(self, model: str, *, also: Sequence[str] = ()) -> ModelWrapperBase:
        """Return the wrapper for a ``config_name`` or a ``"provider:model"`` string.

        ``also`` names configurations known elsewhere, for the error.

        Raises:
            ConfigError: neither a known name nor a known provider.
        """
        if model in self._configs:
            if model not in self._wrappers:
                self._wrappers[model] = _make(self._configs[model])
            return self._wrappers[model]
        provider, colon, name = model.partition(":")
        if colon and provider in PROVIDERS:
            module = importlib.import_module(f".{PROVIDERS[provider]}", __package__)
            wrapper: ModelWrapperBase = module.by_name(name)
            return wrapper
        raise ConfigError(self._unknown(model, also))

    def _unknown(self, model: str, also: Sequence[str]) -> str:
        known = [*self._configs, *also, *(f"{provider}:..." for provider in sorted(PROVIDERS))]
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"No model configuration is named {model!r}; {hint}known: {', '.join(known)}."


def find_model(model: ModelWrapperBase | str | None, runtime: Any = None) -> ModelWrapperBase:
    """Return the wrapper an agent means: itself, or by name from its runtime, then the process.

    Raises:
        ConfigError: no such model, or not something that names one.
    """
    if isinstance(model, ModelWrapperBase):
        return model
    if not isinstance(model, str):
        raise ConfigError(
            f"A model is a wrapper, a config name or 'provider:model', not {type(model).__name__}."
        )
    if runtime is None:
        return process_models.load(model)
    if model in runtime.models or model not in process_models:
        return cast("ModelWrapperBase", runtime.models.load(model, also=process_models.names()))
    return process_models.load(model)


process_models = ModelRegistry()
"""The configurations ``init()`` reads: those of programs that open no runtime."""


def load_configs(configs: ModelConfigs, kind: str) -> list[dict[str, Any]]:
    """Return configurations given as a dict, a list of dicts, or the path of a JSON file with either.

    Raises:
        ConfigError: something in it is not an object.
    """
    if isinstance(configs, (str, Path)):
        try:
            configs = orjson.loads(Path(configs).read_bytes())
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{configs} is not JSON: {error}") from error
    if isinstance(configs, dict):
        return [dict(configs)]
    if not isinstance(configs, (list, tuple)):
        raise ConfigError(
            f"The {kind} configurations are a dict, a list or a path, not {type(configs).__name__}."
        )
    for index, config in enumerate(configs):
        if not isinstance(config, dict):
            raise ConfigError(f"The {kind} configuration {index} is {type(config).__name__}, not an object.")
    return [dict(config) for config in configs]


def _check(config: dict[str, Any]) -> None:
    name = config.get("config_name")
    if not isinstance(name, str) or not name:
        raise ConfigError("A model configuration needs a 'config_name'.")
    if not isinstance(config.get("model_type"), str):
        raise ConfigError(
            f"Model configuration {name!r} needs a 'model_type', one of {', '.join(_known_types())}."
        )


def _known_types() -> list[str]:
    for module in PROVIDERS.values():
        importlib.import_module(f".{module}", __package__)
    return sorted(ModelWrapperBase._types)


def _make(config: dict[str, Any]) -> ModelWrapperBase:
    arguments = dict(config)
    model_type = arguments.pop("model_type")
    known = _known_types()
    if model_type not in known:
        near = difflib.get_close_matches(model_type, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"Unknown model_type {model_type!r} in {config['config_name']!r}; {hint}known: {known}."
        )
    try:
        return ModelWrapperBase._types[model_type](**arguments)
    except TypeError as error:
        raise ConfigError(f"Model configuration {config['config_name']!r}: {error}") from error
