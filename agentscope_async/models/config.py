"""Which models there are: configurations by name, and ``"provider:model"`` strings."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import orjson

from .._redact import redact_text
from .._settings import misfit, nearest, parameters
from ..errors import AgentScopeWarning, ConfigError
from ._catalog import ALIASES, KEYS, PROVIDERS, TYPES
from .base import ModelWrapperBase

__all__ = ["ModelConfigs", "ModelRegistry"]

ModelConfigs: TypeAlias = dict[str, Any] | list[dict[str, Any]] | str | Path
"""One configuration, a list of them, or the path of a JSON file with either."""


SLIP = 0.9
"""A type as like one of this package (difflib's ratio) is that one, misspelt; ``my_openai_chat`` is not."""

_FALLBACKS = ("fallback", TYPES["fallback"][1])


class ModelRegistry:
    """Model configurations by ``config_name``; wrappers are made on first use and then shared."""

    def __init__(self) -> None:
        self._configs: dict[str, dict[str, Any]] = {}
        self._wrappers: dict[str, ModelWrapperBase] = {}
        self._being_made: list[str] = []

    def read(self, configs: ModelConfigs, *, clear_existing: bool = False, replace: bool = False) -> None:
        """Add configurations: a dict, a list of dicts, or the path of a JSON file with either.

        A ``config_name`` that is known already keeps its first configuration, with a warning.

        Args:
            configs: the configurations.
            clear_existing: forget all others first.
            replace: of a ``config_name`` read before, forget the former configuration; within ``configs``
                the first one stays as ever.

        Raises:
            ConfigError: an entry is not an object, has no ``config_name`` or ``model_type``, or a key
                that its type does not take. Nothing is added then. A ``model_type`` like none that is
                known is left to the first use: its class may still be written.
        """
        loaded = load_configs(configs, "model")
        for config in loaded:
            _check(config)
        if clear_existing:
            self.clear()
        if replace:
            self._forget({config["config_name"] for config in loaded})
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

    def configs(self) -> list[dict[str, Any]]:
        """Return the configurations as they were read; they may hold keys."""
        return [dict(config) for config in self._configs.values()]

    def has_made(self, wrapper: ModelWrapperBase) -> bool:
        """Whether the ``config_name`` of this wrapper is that of a configuration, and stands for it."""
        return wrapper.config_name is not None and self._wrappers.get(wrapper.config_name) is wrapper

    def names(self) -> list[str]:
        """Return the known ``config_name``s, in the order they were added."""
        return list(self._configs)

    def load(self, model: str, *, also: Sequence[str] = (), **options: Any) -> ModelWrapperBase:
        """Return the wrapper for a ``config_name`` or a ``"provider:model"`` string.

        ``also`` names configurations known elsewhere, for the error. ``options``
        (``base_url=``, say) go to the wrapper that a ``"provider:model"`` string stands for.

        Raises:
            ConfigError: neither a known name nor a known provider.
        """
        if model in self._configs:
            if options:
                raise ConfigError(
                    f"{', '.join(options)} goes with 'provider:model' strings; {model!r} is a configuration."
                )
            if model not in self._wrappers:
                self._wrappers[model] = self._made_once(model)
            return self._wrappers[model]
        provider, colon, name = model.partition(":")
        if colon and not name:
            raise ConfigError(f"{model!r} names no model; write {provider + ':MODEL'!r}.")
        if colon and provider in PROVIDERS:
            module = importlib.import_module(f".{PROVIDERS[provider]}", __package__)
            wrapper: ModelWrapperBase = module.by_name(name, **options)
            if not options:
                wrapper.made_by_name = model
            return wrapper
        raise ConfigError(self._unknown(model, also))

    def _forget(self, names: set[str]) -> None:
        known = names & self._configs.keys()
        for name in known:
            del self._configs[name]
            self._wrappers.pop(name, None)
        for name, config in self._configs.items():
            if known and config["model_type"] in _FALLBACKS:  # it may hold a wrapper that is forgotten now
                self._wrappers.pop(name, None)

    def _made_once(self, name: str) -> ModelWrapperBase:
        """Make a wrapper, and those it falls back on; itself must not be among these."""
        if name in self._being_made:
            raise ConfigError(f"Models fall back on each other: {' -> '.join([*self._being_made, name])}.")
        self._being_made.append(name)
        try:
            return self._make(self._configs[name])
        finally:
            self._being_made.remove(name)

    def _make(self, config: dict[str, Any]) -> ModelWrapperBase:
        arguments = dict(config)
        kind = _class_of(arguments.pop("model_type"), config["config_name"])
        if config["model_type"] in _FALLBACKS and isinstance(config.get("models"), list):
            arguments["models"] = [
                self.load(each) if isinstance(each, str) else each for each in config["models"]
            ]
        return _made(kind, arguments)

    def _unknown(self, model: str, also: Sequence[str]) -> str:
        known = [*self._configs, *also, *(f"{provider}:..." for provider in sorted(PROVIDERS))]
        return f"No model configuration is named {model!r}; {nearest(model, known)}known: {', '.join(known)}."


def find_model(
    model: ModelWrapperBase | dict[str, Any] | str | None, runtime: Any = None, **options: Any
) -> ModelWrapperBase:
    """Return the wrapper an agent means: itself, by its configuration, or by name from runtime or process.

    ``options`` go to the wrapper that a ``"provider:model"`` string stands for.

    Raises:
        ConfigError: no such model, or not something that names one.
    """
    # The first is a tenth of what isinstance() of an abstract class takes, for each agent made.
    if ModelWrapperBase in type(model).__mro__ or isinstance(model, ModelWrapperBase):
        return cast("ModelWrapperBase", model)
    if isinstance(model, dict):
        return _made_alone(model)
    if not isinstance(model, str):
        raise ConfigError(
            f"A model is a wrapper, a config name or 'provider:model', not {type(model).__name__}."
        )
    if runtime is None:
        return process_models.load(model, **options)
    if model in runtime.models or model not in process_models:
        loaded = runtime.models.load(model, also=process_models.names(), **options)
        return cast("ModelWrapperBase", loaded)
    return process_models.load(model, **options)


def setting_of(model: ModelWrapperBase, runtime: Any = None) -> str | dict[str, Any]:
    """Return what :func:`find_model` takes for such a wrapper: its name, else its configuration.

    Raises:
        ConfigError: it has neither; see ``ModelWrapperBase.export_config``.
    """
    if runtime is not None and runtime.models.has_made(model):
        return cast("str", model.config_name)
    if process_models.has_made(model):
        return cast("str", model.config_name)
    return model.export_config() if model.made_by_name is None else model.made_by_name


process_models = ModelRegistry()
"""The configurations ``init()`` reads: those of programs that open no runtime."""


def load_configs(configs: ModelConfigs, kind: str) -> list[dict[str, Any]]:
    """Return configurations given as a dict, a list of dicts, or the path of a JSON file with either.

    Raises:
        ConfigError: something in it is not an object.
    """
    if isinstance(configs, (str, Path)):
        if isinstance(configs, str) and configs.lstrip()[:1] in ("{", "["):
            raise ConfigError(
                f"The {kind} configurations are JSON text, not a path: give json.loads(...) of it."
            )
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
    _check_keys(config)


def _check_keys(config: dict[str, Any]) -> None:
    """Refuse a key that the wrapper does not take, and a type that is a slip of the pen; loads no wrapper."""
    given, name = config["model_type"], config["config_name"]
    own_type = _own_type(given)
    arguments = [key for key in config if key != "model_type"]
    if own_type is not None:
        _refuse_unknown(arguments, KEYS[own_type], name, TYPES[own_type][1])
    elif (kind := _loaded(given)) is not None:
        _refuse_unknown(arguments, _parameters(kind), name, kind.__name__)
    elif _is_slip(given):
        raise ConfigError(_unknown_type(given, name))


def _own_type(model_type: str) -> str | None:
    """Return the type of this package meant by a type, an old name of one, or the name of a class."""
    model_type = ALIASES.get(model_type, model_type)
    if model_type in TYPES:
        return model_type
    return next((each for each, (_, name) in TYPES.items() if name == model_type), None)


def _loaded(model_type: str) -> type[ModelWrapperBase] | None:
    """Return the wrapper of a user's own meant by its type or its name, if it is there already."""
    if model_type in ModelWrapperBase._types:
        return ModelWrapperBase._types[model_type]
    every = _subclasses(ModelWrapperBase)  # type: ignore[type-abstract]  # only looked at
    return next((kind for kind in every if kind.__name__ == model_type), None)


def _is_slip(model_type: str) -> bool:
    """Whether a type is next to nothing else than one of this package, or a provider instead of it."""
    plain = model_type.lower().replace("-", "_")
    return plain in PROVIDERS or bool(difflib.get_close_matches(plain, TYPES, n=1, cutoff=SLIP))


def _made_alone(config: dict[str, Any]) -> ModelWrapperBase:
    """Return a wrapper made from a configuration that needs no name."""
    arguments = dict(config)
    model_type = arguments.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ConfigError(
            f"A model's configuration needs a 'model_type', one of {', '.join(_known_types())}."
        )
    arguments.setdefault("config_name", None)
    return _made(_class_of(model_type, arguments["config_name"]), arguments)


def _known_types() -> list[str]:
    return sorted({*TYPES, *ModelWrapperBase._types})


def _made(kind: type[ModelWrapperBase], arguments: dict[str, Any]) -> ModelWrapperBase:
    name = arguments["config_name"] or arguments.get("model_name")
    _refuse_unknown(arguments, _parameters(kind), name, kind.__name__)
    try:
        return kind(**arguments)
    except ConfigError as error:
        if repr(name) in str(error):
            raise
        raise ConfigError(f"Model configuration {name!r}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:  # a value of another kind than is meant
        raise ConfigError(f"Model configuration {name!r}: {redact_text(str(error))}") from error


def _refuse_unknown(arguments: Iterable[str], known: Collection[str], name: Any, kind: str) -> None:
    if problem := misfit(kind, arguments, known):
        raise ConfigError(f"Model configuration {name!r}: {problem}")


def _class_of(model_type: str, config_name: str | None) -> type[ModelWrapperBase]:
    """Return the wrapper meant by a type, an old name of one, or the name of a class."""
    if model_type in ALIASES:
        warnings.warn(
            f"model_type {model_type!r} is an old name of {ALIASES[model_type]!r}.",
            AgentScopeWarning,
            stacklevel=2,
        )
        model_type = ALIASES[model_type]
    if model_type in ModelWrapperBase._types:
        return ModelWrapperBase._types[model_type]
    own_type = _own_type(model_type)
    if own_type is not None:
        return _import(*TYPES[own_type])
    kind = _loaded(model_type)
    if kind is None:
        raise ConfigError(_unknown_type(model_type, config_name))
    return kind


def _unknown_type(model_type: str, config_name: str | None) -> str:
    known = _known_types()
    hint = nearest(model_type, known)
    return f"Unknown model_type {model_type!r} in {config_name!r}; {hint}known: {', '.join(known)}."


def _import(module: str, name: str) -> type[ModelWrapperBase]:
    return cast("type[ModelWrapperBase]", getattr(importlib.import_module(f".{module}", __package__), name))


def _subclasses(kind: type[ModelWrapperBase]) -> list[type[ModelWrapperBase]]:
    below = kind.__subclasses__()
    return [*below, *(each for child in below for each in _subclasses(child))]


def _parameters(kind: type[ModelWrapperBase]) -> list[str]:
    """Return what can be given by keyword, also through ``**kwargs`` to the classes above."""
    return [name for name, one in parameters(kind).items() if one.kind is not one.POSITIONAL_ONLY]
