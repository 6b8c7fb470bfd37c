"""The directory of one run: made when first written to."""

from __future__ import annotations

import random
import re
import string
import time
from pathlib import Path

import orjson

from .errors import ConfigError

__all__ = ["RunDirectory"]

_RUN_ID = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]{1,64}")
_LOWER = string.ascii_lowercase + string.digits
_random = random.SystemRandom()  # two runs must not share a directory because both seed `random` alike


class RunDirectory:
    """``<save_dir>/run_%Y%m%d-%H%M%S_<six characters>``, with a ``.config`` that says what the run is.

    Attributes:
        project, name: as given, or six random characters.
        run_id: the directory's own name.
    """

    def __init__(
        self,
        save_dir: str | Path = "./runs",
        *,
        project: str | None = None,
        name: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Name a run; with ``run_id``, join the one of that name in ``save_dir``, begun by another process.

        Raises:
            ConfigError: ``run_id`` cannot be the name of a directory.
        """
        if run_id is not None and not _RUN_ID.fullmatch(run_id):
            raise ConfigError(f"A run id is 1 to 64 letters, digits, '_', '.' or '-', got {run_id!r}.")
        random_name = "".join(_random.choices(_LOWER, k=6))
        self._started_at = time.localtime()
        self.project = project or "".join(_random.choices(_LOWER + string.ascii_uppercase, k=6))
        self.name = name or random_name
        self.run_id = run_id or f"run_{time.strftime('%Y%m%d-%H%M%S', self._started_at)}_{random_name}"
        # Absolute: a program may change its directory before the first file is written.
        self._path = Path(save_dir).absolute() / self.run_id

    @property
    def save_dir(self) -> Path:
        """The directory that holds this one and those of other runs."""
        return self._path.parent

    @property
    def path(self) -> Path:
        """The directory; made, with its ``.config``, when first asked for."""
        if not (self._path / ".config").exists():
            self._path.mkdir(parents=True, exist_ok=True)  # another thread may ask for the first time, too
            about = {
                "project": self.project,
                "name": self.name,
                "id": self.run_id,
                "timestamp": time.strftime("%Y-%m-%d %H:%M:%S", self._started_at),
            }
            (self._path / ".config").write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
        return self._path
