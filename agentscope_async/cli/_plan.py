"""What a call of ``debate`` is to hold, and the run directory it is kept in."""

from __future__ import annotations

import os
import random
import shlex
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import orjson

from ..errors import ConfigError
from ..logging import ChatLog
from ..pipelines._batch_file import BatchFile

if TYPE_CHECKING:
    from pathlib import Path

    from ..message import Msg

__all__ = ["BATCH", "DEFAULTS", "TRANSCRIPT", "Plan", "rebuild_transcript", "with_number"]

SETTINGS = "settings.json"
TRANSCRIPT = "transcript.jsonl"
BATCH = "debates.jsonl"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be held; kept in the run directory so that a stopped run can go on."""

    topic: str = "It is better to live in the country than in a city"
    rounds: int = 3
    debates: int = 1
    limit: int = 4
    model: str = "local:smollm2"
    seed: int = 0
    is_seeded: bool = False  # the seed was asked for
    max_tokens: int | None = None
    base_url: str | None = None
    model_configs: str | None = None

    @classmethod
    def new(cls, given: dict[str, Any]) -> Self:
        """Return the plan of a new run; what is not given has its default, the seed a random one."""
        return replace(cls(seed=random.randrange(2**31), is_seeded="seed" in given), **given)

    @classmethod
    def of_run(cls, run: Path, given: dict[str, Any]) -> Self:
        """Return the plan of an earlier run, to go on with; ``given`` may change how, not what.

        Raises:
            ConfigError: there is none, it cannot go on, or it is about something else.
        """
        plan = cls._read(run / SETTINGS)
        if plan.debates == 1:
            raise ConfigError(
                f"{run} holds a single debate, and only runs of several can go on. "
                f"To hold it again: --topic {shlex.quote(plan.topic)} --seed {plan.seed}"
            )
        for key in ("topic", "rounds", "seed"):
            if given.get(key, getattr(plan, key)) != getattr(plan, key):
                raise ConfigError(
                    f"The run in {run} has {key} {getattr(plan, key)!r}, not {given[key]!r}. "
                    f"Leave out --{key} to go on with it, or --resume for a new run."
                )
        if given.get("debates", plan.debates) < plan.debates:
            raise ConfigError(f"The run in {run} has {plan.debates} debates; --debates can only raise that.")
        return replace(plan, **given)

    @classmethod
    def _read(cls, path: Path) -> Self:
        try:
            return cls(**orjson.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path.parent} holds no debates to go on with: no {path.name} there."
            ) from error
        except (orjson.JSONDecodeError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read as the settings of a debate: {error}") from error

    def write(self, run: Path) -> None:
        """Keep the plan in the run directory."""
        settings = orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (run / SETTINGS).write_bytes(settings)

    @property
    def model_options(self) -> dict[str, Any]:
        """What the model's wrapper is made with."""
        return {} if self.base_url is None else {"base_url": self.base_url}

    @property
    def turns_each(self) -> int:
        """Speeches in one debate, the verdict included."""
        return 2 * self.rounds + 1


DEFAULTS = Plan()


def with_number(msg: Msg, index: int) -> dict[str, Any]:
    """Return a message's wire form with a field that says which debate it belongs to."""
    return {**msg.to_dict(), "debate": index}


def rebuild_transcript(run: Path) -> None:
    """Write the transcript again, of the finished debates only.

    The others are held again from their beginning, so what they had said would stand there
    twice. The new file takes the old one's place when it is whole.

    Raises:
        ConfigError: the file of the batch is not one.
    """
    finished = BatchFile(run / BATCH)
    draft = run / f"{TRANSCRIPT}.new"
    draft.unlink(missing_ok=True)
    transcript = ChatLog(file=draft)
    try:
        finished.open()
        for index in list(finished.finished):
            for msg in finished.take(index).messages:
                transcript.show(with_number(msg, index))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        finished.close()
        transcript.close()
    os.replace(draft, run / TRANSCRIPT)
