"""An agent's settings: the arguments that make another one like it, as JSON values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .._settings import json_copy, parameters
from ..errors import ConfigError
from ..mailbox import check_options
from ..models.config import find_model, setting_of
from ._memory import UNMADE

if TYPE_CHECKING:
    from .base import AgentBase

__all__ = ["apply_settings", "checked_name", "model_for", "settings_of"]

_ABSENT: Any = object()
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SETTINGS = {
    "class", "name", "sys_prompt", "use_memory", "capacity", "overflow", "model", "model_config_name",
}  # fmt: skip
"""Those of every agent."""
_MODEL = ("model", "model_config_name")  # two names of one thing: the first one a class takes counts


def settings_of(agent: AgentBase) -> dict[str, Any]:
    """Return the class, by its name, and every argument of its constructor; see ``AgentBase.export_config``.

    An argument is read from the attribute of the same name, as scikit-learn's
    ``get_params`` does; those of AgentBase are kept in their own ways.
    """
    kind = type(agent)
    known = parameters(kind)
    model_name = next((name for name in known if name in _MODEL), None)
    settings: dict[str, Any] = {"class": kind.__name__}
    for name, parameter in known.items():
        if name in _MODEL and name != model_name:
            continue
        value = _stored(agent, name)
        has_default = parameter.default is not parameter.empty
        if has_default and (value is _ABSENT or (value is parameter.default and not _is_told(name, value))):
            continue
        remedy = f"Write export_config() in {kind.__name__}, or a subclass of it that sets {name} itself."
        if value is _ABSENT or parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"{kind.__name__} {agent.name!r} does not say what its argument {name!r} was: store it as "
                f"self.{name}, or write export_config() in {kind.__name__}."
            )
        settings[name] = json_copy(value, f"{name} of {kind.__name__} {agent.name!r}", remedy)
    return settings


def _stored(agent: AgentBase, name: str) -> Any:
    if name in _MODEL:
        return None if agent.model is None else setting_of(agent.model, agent._runtime)
    if name == "memory":
        return _ABSENT  # what is remembered is state, not a setting
    value = getattr(agent, name, _ABSENT)
    if value is not _ABSENT and getattr(value, "__self__", None) is not agent:  # a method, say `stream`
        return value
    if name == "use_memory":
        return agent._memory is not None
    if name in ("capacity", "overflow"):
        return agent._options[name == "overflow"]
    return _ABSENT


def _is_told(name: str, default: Any) -> bool:
    """Whether a default is written down, too: unless it is no model, or something JSON has no form for."""
    if name in _MODEL:
        return False
    try:
        json_copy(default, name, "")
    except ConfigError:
        return False
    return True


def apply_settings(agent: AgentBase, config: dict[str, Any]) -> None:
    """Take over settings from :func:`settings_of`; see ``AgentBase.load_from_config``.

    Raises:
        ConfigError: the settings are another class's, or one cannot be set; nothing is changed then.
    """
    if config.get("class", type(agent).__name__) != type(agent).__name__:
        raise ConfigError(f"These are the settings of a {config['class']}, this is a {type(agent).__name__}.")
    name = checked_name(config.get("name", agent.name))
    options = (config.get("capacity", agent._options[0]), config.get("overflow", agent._options[1]))
    check_options(*options)
    model = agent.model
    if "model" in config or "model_config_name" in config:
        model = model_for(config.get("model"), config.get("model_config_name"), agent._runtime)
    _set_attributes(agent, {key: value for key, value in config.items() if key not in _SETTINGS})
    agent.name, agent._options, agent.model = name, options, model
    agent.sys_prompt = config.get("sys_prompt", agent.sys_prompt)
    if agent._mailbox is not None:
        agent._mailbox.capacity, agent._mailbox.overflow = options
    has_memory = agent._memory is not None
    if config.get("use_memory", has_memory) != has_memory:
        agent._memory = None if has_memory else UNMADE


def _set_attributes(agent: AgentBase, values: dict[str, Any]) -> None:
    """Set arguments of the agent's class anew, all of them or none.

    Raises:
        ConfigError: the class takes no such argument, or does not store it under its name.
    """
    known = parameters(type(agent))
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ConfigError(f"Unknown settings for a {type(agent).__name__}: {', '.join(sorted(unknown))}.")
    former = {name: getattr(agent, name, _ABSENT) for name in values}
    done: list[str] = []
    try:
        for name, value in values.items():
            if former[name] is _ABSENT:
                raise AttributeError(name)
            setattr(agent, name, value)
            done.append(name)
    except Exception as error:
        for name in done:
            setattr(agent, name, former[name])
        if isinstance(error, AttributeError):
            raise ConfigError(
                f"{name!r} of {type(agent).__name__} {agent.name!r} cannot be set: store it as self.{name}, "
                f"or write load_from_config() in {type(agent).__name__}."
            ) from error
        raise


def model_for(model: Any, model_config_name: str | None, runtime: Any) -> Any:
    """Return the wrapper for what was given as ``model``, or by AgentScope v0.0.2's name for it.

    Raises:
        ConfigError: both were given, or it is not valid.
    """
    if model is not None and model_config_name is not None:
        raise ConfigError("Give the model as model= or as model_config_name=, not both.")
    return find_model(model if model is not None else model_config_name, runtime)


def checked_name(name: Any) -> str:
    """Return ``name`` as a plain string.

    Raises:
        ConfigError: it is none an agent can have.
    """
    if not isinstance(name, str):
        raise ConfigError(f"An agent's name is a string, not {type(name).__name__}.")
    if not 1 <= len(name) <= 200:
        raise ConfigError(f"An agent's name has 1 to 200 characters, this one has {len(name)}.")
    if _CONTROL.search(name):
        raise ConfigError(f"An agent's name holds no control characters: {name!a}.")
    return str(name)
