"""Named metrics with quotas, for awaiting and, on hot paths, for counting without a wait."""

from __future__ import annotations

import asyncio
import math
import numbers
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from .. import _context
from ..errors import AgentScopeWarning, ConfigError
from ..logging import get_logger
from ._saved_table import SavedTable
from ._store import Answers, Store
from ._table import Metric, Rates, Table
from .prices import PICO, find_rate

__all__ = ["Metric", "Monitor", "MonitorFactory", "get_full_name"]

T = TypeVar("T")

COUNT_DELAY_S = 0.05
"""How long counts may wait for company before they are written."""


def get_full_name(name: str, prefix: str | None = None) -> str:
    """Return ``prefix.name``, or ``name`` where there is no prefix."""
    return f"{prefix}.{name}" if prefix else name


class Monitor:
    """Numbers by name, each with a unit and a quota if it has one.

    Without ``path`` they live in memory. With one they live in a SQLite file that other
    processes may read and write at the same time (table ``monitor_metrics``): an awaited
    change is in the file when it returns and survives the death of the process. Changes
    are made one after the other, in the order they were asked for. A call that is
    cancelled may or may not have changed what it was to change, but nothing by half.

    Unknown metrics: methods that name one metric return False or None; ``update`` and
    ``count`` add it. Every method raises ConfigError, and changes nothing, when a name is
    not a text or a value not a finite number, and AgentScopeError when the file cannot be
    read or written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._table = Table()
        self._store = None if path is None else Store(path, SavedTable)
        self._counts: dict[str, float] = {}
        self._count_units: dict[str, str] = {}
        self._uncommitted_counts: list[dict[str, float]] = []
        self._is_writing_queued = False

    async def register(
        self, metric_name: str, metric_unit: str | None = None, quota: float | None = None
    ) -> bool:
        """Add a metric at 0; False, and nothing changed, when there is one of that name."""
        name, quota = _name(metric_name), _quota(quota)
        if metric_unit is not None and not isinstance(metric_unit, str):
            raise ConfigError(f"A unit is a text or None, not {metric_unit!r}.")
        return await self._do(lambda table: table.register(name, metric_unit, quota))

    async def exists(self, metric_name: str) -> bool:
        """Tell whether there is a metric of that name."""
        return await self.get_metric(metric_name) is not None

    async def remove(self, metric_name: str) -> bool:
        """Take a metric away; removing a ``cost`` that ``register_budget`` made ends that budget."""
        name = _name(metric_name)
        return await self._do(lambda table: table.remove(name))

    async def clear(self, metric_name: str) -> bool:
        """Set a value back to 0, whatever it and its quota are."""
        name = _name(metric_name)
        return await self._do(lambda table: table.clear(name))

    async def set_quota(self, metric_name: str, quota: float | None) -> bool:
        """Raise, lower or (None) lift a quota.

        It may be below the value; then only decreases are taken until there is room again.
        """
        name, quota = _name(metric_name), _quota(quota)
        return await self._do(lambda table: table.set_quota(name, quota))

    async def add(self, metric_name: str, value: float) -> bool:
        """Add ``value``; a sum equal to the quota is allowed.

        Raises:
            QuotaExceededError: the sum would be above the quota; the value stays as it was.
        """
        name, value = _name(metric_name), _number(metric_name, value)
        return await self._do(lambda table: table.add(name, value))

    async def update(self, values: Mapping[str, float], prefix: str | None = None) -> None:
        """Add to several metrics at once, to all of them or to none.

        A metric that is not known yet is added, without unit and quota. AgentScope 0.0.2
        ignored it, so that what was counted was lost; refusing it would break programs
        written for that, which hand in whole usage records.

        Raises:
            QuotaExceededError: one of them, or the cost that ``register_budget`` watches,
                would go above its quota (``.name`` says which); nothing was added.
        """
        deltas = _deltas(values, prefix)
        await self._do(lambda table: table.change(deltas))

    def count(
        self, values: Mapping[str, float], prefix: str | None = None, *, unit: str | None = None
    ) -> None:
        """Add to several metrics without waiting and without looking at quotas.

        For hot paths, after the fact: a few dictionary updates, never a wait for a file.
        Unknown metrics are added, with ``unit``. Every call of this monitor that is awaited
        later sees what was counted; the file has it after the next ``flush``, or a moment later.
        A metric that goes above its quota is logged, and refuses what is added next.
        """
        deltas = _deltas(values, prefix)
        with self._lock:
            counts = self._counts
            for name, delta in deltas.items():
                counts[name] = counts.get(name, 0.0) + delta
            if unit is not None:
                self._count_units.update(dict.fromkeys(deltas, unit))
            if self._store is None or self._is_writing_queued:
                return
            self._is_writing_queued = True
        self._store.submit(self._write_counts, self._counts_written, within_s=COUNT_DELAY_S)

    async def get_value(self, metric_name: str) -> float | None:
        """Return the value, or None where there is no such metric."""
        metric = await self.get_metric(metric_name)
        return None if metric is None else metric["value"]

    async def get_unit(self, metric_name: str) -> str | None:
        """Return the unit, or None where there is none, or no such metric."""
        metric = await self.get_metric(metric_name)
        return None if metric is None else metric["unit"]

    async def get_quota(self, metric_name: str) -> float | None:
        """Return the quota, or None where there is none, or no such metric."""
        metric = await self.get_metric(metric_name)
        return None if metric is None else metric["quota"]

    async def get_metric(self, metric_name: str) -> Metric | None:
        """Return ``{"value": ..., "quota": ..., "unit": ...}``, or None where there is no such metric."""
        name = _name(metric_name)
        return await self._do(lambda table: table.get(name))

    async def get_metrics(
        self, filter_regex: str | None = None, *, prefix: str | None = None
    ) -> dict[str, Metric]:
        """Return metrics by full name.

        ``filter_regex`` is searched for anywhere in the full name (a dot in it stands for
        any character); ``prefix`` keeps the names that begin with it and a dot.
        """
        pattern = _pattern(filter_regex)
        below = None if prefix is None else _name(prefix)
        return await self._do(lambda table: table.find(pattern, below))

    async def register_budget(self, model_name: str, value: float, prefix: str | None = None) -> bool:
        """Limit what tokens counted below ``prefix`` may cost, to ``value`` USD.

        Adds ``{prefix}.cost`` and ``{prefix}.prompt_tokens``, ``{prefix}.completion_tokens``.
        From then on every change of the two token metrics changes the cost, at the price
        :func:`agentscope_async.monitor.cost_of` gives for a small call of this model. An
        awaited change that would end above ``value`` is refused as a whole. To refuse a
        call *before* the money is spent, use :class:`agentscope_async.monitor.Budget`.

        Returns:
            False when the prefix has a cost already, or, with an AgentScopeWarning, when
            the model has no known price.
        """
        quota = _quota(value)
        if quota is None:
            raise ConfigError("A budget needs a value in USD.")
        below = _name(prefix) if prefix else ""
        # In a thread: it may load a package.
        rate = await asyncio.to_thread(find_rate, _name(model_name), {})
        if rate is None:
            warnings.warn(
                f"The price of model {model_name!r} is not known: no budget registered. "
                f"pip install 'agentscope-async[prices]' knows more models.",
                AgentScopeWarning,
                stacklevel=2,
            )
            return False
        rates = Rates(rate(1000, 0) / 1000 / PICO, rate(0, 1000) / 1000 / PICO)
        return await self._do(lambda table: table.register_budget(below, quota, rates))

    async def flush(self) -> None:
        """Return when everything counted so far is in the file."""
        if self._store is not None and (self._counts or self._uncommitted_counts):
            written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._store.submit(self._write_counts, partial(self._counts_written, future=written))
            await written

    async def aclose(self) -> None:
        """Write what was counted, close the file and end its thread.

        The monitor stays usable: the next call opens the file again.
        """
        if self._store is not None:
            try:
                await self.flush()
            finally:
                await self._store.aclose()

    async def _do(self, work: Callable[[Table], T]) -> T:
        if self._store is not None:
            return await self._store.run(lambda session: work(session.table))
        with self._lock:
            if self._counts:
                self._table.change(self._counts, units=self._count_units, is_limited=False)
                self._counts.clear()
            return work(self._table)

    def _write_counts(self, session: SavedTable) -> None:
        with self._lock:  # for a moment only: those who count must not wait for the rest
            self._is_writing_queued = False
            counts, self._counts = self._counts, {}
            self._uncommitted_counts.append(counts)
        session.table.change(counts, units=self._count_units, is_limited=False)

    def _counts_written(
        self,
        answers: Answers,
        result: None,
        error: Exception | None,
        future: asyncio.Future[None] | None = None,
    ) -> None:
        with self._lock:
            if error is not None:  # kept for the next time
                self._is_writing_queued = False
                for counts in self._uncommitted_counts:
                    _add_up(self._counts, counts)
            self._uncommitted_counts.clear()
        if future is not None:
            answers.add(future, None, error)
        elif error is not None:
            get_logger().error("counted metrics are not written yet", error=str(error))


class MonitorFactory:
    """The monitor that calls made here are counted in; else one of the process."""

    _monitor: ClassVar[Monitor | None] = None

    @classmethod
    def get_monitor(
        cls, impl_type: str | None = None, db_path: str | Path | None = "agentscope.db"
    ) -> Monitor:
        """Return the monitor of the runtime this is called in, or of ``init()``; it is always the same there.

        Where there is neither, one of the process, kept in ``db_path`` as the first such call
        decides; ``db_path=None`` keeps it in memory.

        Raises:
            ConfigError: ``impl_type`` is neither None nor ``"sqlite"``.
        """
        if impl_type not in (None, "sqlite"):
            raise ConfigError(f"There is no monitor of type {impl_type!r}: use None or 'sqlite'.")
        services = _context.find_services()
        if services is not None:
            monitor: Monitor = services.monitor
            return monitor
        if cls._monitor is None:
            cls._monitor = Monitor(db_path)
        return cls._monitor

    @classmethod
    def flush(cls) -> None:
        """Forget the monitor of this process, for tests. Close it yourself: ``await monitor.aclose()``."""
        cls._monitor = None


def _deltas(values: Mapping[str, float], prefix: str | None) -> dict[str, float]:
    if type(values) is not dict and not isinstance(values, Mapping):
        raise ConfigError(f"Give a mapping from metric names to numbers, not {type(values).__name__}.")
    lead = f"{_name(prefix)}." if prefix else ""
    deltas = {}
    for name, value in values.items():
        is_usual = type(name) is str and name and (type(value) is int or type(value) is float)
        if not (is_usual and -1e300 < value < 1e300):  # nan is not between them either
            name, value = _name(name), _number(name, value)
        deltas[lead + name] = value
    return deltas


def _add_up(sums: dict[str, float], deltas: Mapping[str, float]) -> None:
    for name, delta in deltas.items():
        sums[name] = sums.get(name, 0.0) + delta


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"A metric's name is a text that is not empty, not {name!r}.")
    return name


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"Metric {name!r} takes a number, not {type(value).__name__} {value!r}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"Metric {name!r} takes a finite number, not {value!r}.")
    return number


def _quota(quota: Any) -> float | None:
    if quota is None:
        return None
    number = _number("quota", quota)
    if number < 0:
        raise ConfigError(f"A quota is 0 or above, or None for no quota, not {quota!r}.")
    return number


def _pattern(filter_regex: str | None) -> re.Pattern[str] | None:
    if filter_regex is None:
        return None
    try:
        return re.compile(filter_regex)
    except (re.error, TypeError) as error:
        raise ConfigError(f"filter_regex {filter_regex!r} is not a regular expression: {error}.") from None
