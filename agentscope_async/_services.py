"""What a run keeps of its model calls: metrics, records and files, each made when first used."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ._invocations import Invocations
from .files import Files

if TYPE_CHECKING:
    from ._rundir import RunDirectory
    from .monitor import Budget, Monitor

__all__ = ["RunServices"]


class RunServices:
    """The services of a runtime, or of ``init()``; see ``_context.Services``.

    Attributes:
        budget: what every model call is charged to, or None.
        files: the run's directory and its parts.
        is_saved: metrics are kept in the run's directory; else in memory.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        is_saved: bool,
        save_api_invoke: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.is_saved = is_saved
        self.budget = budget
        self.files = Files(run, save_api_invoke=save_api_invoke)
        self._save_api_invoke = save_api_invoke
        self._monitor: Monitor | None = None
        self._invocations: Invocations | None = None
        self._making = threading.Lock()

    @property
    def monitor(self) -> Monitor:
        """The run's metrics."""
        if self._monitor is None:
            from .monitor import Monitor

            with self._making:  # two threads that count for the first time must share one
                if self._monitor is None:
                    self._monitor = Monitor(self.files.path_db if self.is_saved else None)
        return self._monitor

    @property
    def invocations(self) -> Invocations | None:
        """What writes a file for each model call; None when switched off."""
        if self._invocations is None and self._save_api_invoke:
            with self._making:
                if self._invocations is None:
                    self._invocations = Invocations(self.files.dir_invoke)
        return self._invocations

    async def aclose(self) -> None:
        """Write what is left, and end the threads that write."""
        try:
            if self._invocations is not None:
                await self._invocations.aclose()
        finally:
            if self._monitor is not None:
                await self._monitor.aclose()
