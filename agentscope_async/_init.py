"""``init()``: the process defaults, for scripts and notebooks that open no runtime."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _context
from ._rundir import RunDirectory
from ._services import RunServices
from .errors import ConfigError
from .logging import get_logger, level_number, setup_logger
from .models.config import ModelConfigs, load_configs, process_models

if TYPE_CHECKING:
    from .agents import AgentBase

__all__ = ["init", "init_process", "process_settings"]

_settings: dict[str, Any] = {}
"""What the last call of ``init`` or ``init_process`` was given."""


def init(
    model_configs: ModelConfigs | None = None,
    project: str | None = None,
    name: str | None = None,
    save_dir: str | Path = "./runs",
    save_log: bool = True,
    save_code: bool = True,
    save_api_invoke: bool = True,
    logger_level: str = "INFO",
    agent_configs: dict[str, Any] | list[dict[str, Any]] | str | Path | None = None,
) -> list[AgentBase]:
    """Fill the process defaults, as AgentScope v0.0.2 does; scripts and notebooks need nothing else.

    Everything goes into one run directory ``<save_dir>/run_{time}_{six characters}``, which
    is made with the first file in it. Calling it again replaces the former set-up: a new
    directory, log, metrics; models are added, in place of those of the same name. What is
    still to be written when the program ends is written then, within seconds.

    Args:
        model_configs: a configuration, a list of them, or the path of a JSON file.
        project: kept in the run directory's ``.config``.
        name: of this run; random when not given.
        save_dir: where the run directory is made.
        save_log: write ``logging.log`` (the system log) and ``logging.chat`` (what agents say).
        save_code: copy the ``*.py`` of the current directory to ``code/``.
        save_api_invoke: write a file to ``invoke/`` for each model call, without secrets.
        logger_level: what the terminal and ``logging.log`` show; one of ``logging.LEVELS``.
        agent_configs: ``{"class": ..., "args": {...}}``, a list of these, or the path of a
            JSON file. The class is the name of one in ``agentscope_async.agents``, or a
            class of your own itself; nothing is imported by name.

    Returns:
        The agents, in the order of ``agent_configs``.

    Raises:
        ConfigError: a configuration or the level is not valid.
    """
    level_number(logger_level)
    run = RunDirectory(save_dir, project=project, name=name)
    services = _set_up(run, model_configs, save_dir, save_log, save_api_invoke, logger_level)
    if save_code:
        _copy_code(services)
    return [_make_agent(config) for config in load_configs(agent_configs or [], "agent")]


def init_process(
    model_configs: ModelConfigs | None = None,
    project: str | None = None,
    name: str | None = None,
    runtime_id: str | None = None,
    save_dir: str | Path = "./runs",
    save_api_invoke: bool = False,
    save_log: bool = False,
    logger_level: str = "INFO",
) -> None:
    """Fill the defaults of a child process, with what :func:`process_settings` gave in its parent.

    Args:
        model_configs: a configuration, a list of them, or the path of a JSON file.
        project: as in the parent.
        name: as in the parent.
        runtime_id: the name of the parent's run directory, to write into the same one.
        save_dir: where that directory is.
        save_api_invoke: write a file to ``invoke/`` for each model call, without secrets.
        save_log: write to the run's ``logging.log`` and ``logging.chat``, too.
        logger_level: what the terminal and ``logging.log`` show; one of ``logging.LEVELS``.

    Raises:
        ConfigError: something is not valid.
    """
    level_number(logger_level)
    run = RunDirectory(save_dir, project=project, name=name, run_id=runtime_id)
    _set_up(run, model_configs, save_dir, save_log, save_api_invoke, logger_level)


def process_settings() -> dict[str, Any]:
    """Return the arguments with which :func:`init_process` in another process joins this one's run.

    Plain JSON values. Model configurations are among them as they were given, keys
    included: hand them over through a pipe, not on a command line.

    Raises:
        ConfigError: neither ``init`` nor ``init_process`` was called.
    """
    if not _settings:
        raise ConfigError("This process has no settings to hand on: call agentscope_async.init() first.")
    return {"model_configs": process_models.configs(), **_settings}


def _set_up(
    run: RunDirectory,
    model_configs: ModelConfigs | None,
    save_dir: str | Path,
    save_log: bool,
    save_api_invoke: bool,
    logger_level: str,
) -> RunServices:
    if model_configs is not None:
        process_models.read(model_configs, replace=True)
    setup_logger(run.path if save_log else None, logger_level)
    services = RunServices(run, is_saved=True, save_api_invoke=save_api_invoke)
    _context.process_services = services
    _settings.update(
        project=run.project,
        name=run.name,
        runtime_id=run.run_id,
        save_dir=str(Path(save_dir).absolute()),
        save_api_invoke=save_api_invoke,
        save_log=save_log,
        logger_level=logger_level,
    )
    return services


def _copy_code(services: RunServices) -> None:
    for source in sorted(Path.cwd().glob("*.py")):
        try:
            if source.is_file():
                shutil.copyfile(source, services.files.dir_code / source.name)
        except OSError as error:  # a file of somebody else's in this folder is no reason not to start
            get_logger().warning("code_not_saved", file=source.name, error=str(error))


def _make_agent(config: dict[str, Any]) -> AgentBase:
    from . import agents

    given = config.get("class")
    found = given if isinstance(given, type) else getattr(agents, str(given), None)
    if not (isinstance(found, type) and issubclass(found, agents.AgentBase)):
        raise ConfigError(
            f"Agent configuration names the class {given!r}, which is not an agent of this package. "
            f"For one of your own give the class itself: {{'class': MyAgent, 'args': ...}}."
        )
    arguments = config.get("args")
    if not isinstance(arguments, dict):
        raise ConfigError(
            f"The configuration of a {found.__name__} needs 'args', an object of its arguments."
        )
    try:
        agent: AgentBase = found(**arguments)
    except TypeError as error:
        raise ConfigError(f"The configuration of a {found.__name__} does not fit: {error}") from error
    return agent
