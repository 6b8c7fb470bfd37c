"""An agent's settings: the arguments that make another one like it, as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._settings import json_copy, parameters
from ..errors import ConfigError
from ..models.config import setting_of

if TYPE_CHECKING:
    from .base import AgentBase

__all__ = ["set_attributes", "settings_of"]

_ABSENT: Any = object()
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


def set_attributes(agent: AgentBase, values: dict[str, Any]) -> None:
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
