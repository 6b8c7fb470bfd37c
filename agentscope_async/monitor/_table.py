"""Named metrics as plain data: what may change, and how. No files, no threads, no waiting.

Every method checks first and changes after, so that one that raises has changed nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from ..errors import ConfigError, QuotaExceededError
from ..logging import get_logger

if TYPE_CHECKING:
    import re

__all__ = ["Metric", "Table"]

COST = "cost"
PROMPT_TOKENS = "prompt_tokens"
COMPLETION_TOKENS = "completion_tokens"


class Metric(TypedDict):
    """A metric as ``get_metric`` gives it; ``quota`` is None where there is none."""

    value: float
    quota: float | None
    unit: str | None


class Rates(NamedTuple):
    """USD for one token."""

    usd_per_prompt_token: float
    usd_per_completion_token: float


class Table:
    """Metrics by name, and the price of tokens below some prefixes.

    ``changed`` and ``changed_rates`` collect the names of what is not saved yet.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.rates: dict[str, Rates] = {}
        self.changed: set[str] = set()
        self.changed_rates: set[str] = set()

    def register(self, name: str, unit: str | None, quota: float | None) -> bool:
        """Add a metric at 0; False when there is one of that name."""
        if name in self.metrics:
            return False
        self._put(name, {"value": 0.0, "quota": quota, "unit": unit})
        return True

    def register_budget(self, prefix: str, quota: float, rates: Rates) -> bool:
        """Add the cost of a prefix; False when it has one."""
        if not self.register(_below(prefix, COST), "USD", quota):
            return False
        for leaf in (PROMPT_TOKENS, COMPLETION_TOKENS):
            self.register(_below(prefix, leaf), "token", None)
        self.rates[prefix] = rates
        self.changed_rates.add(prefix)
        return True

    def remove(self, name: str) -> bool:
        """Take a metric away; with the cost of a prefix its budget ends."""
        if self.metrics.pop(name, None) is None:
            return False
        self.changed.add(name)
        prefix, leaf = _split(name)
        if leaf == COST and self.rates.pop(prefix, None) is not None:
            self.changed_rates.add(prefix)
        return True

    def clear(self, name: str) -> bool:
        """Set a value to 0."""
        metric = self.metrics.get(name)
        if metric is None:
            return False
        self._put(name, {**metric, "value": 0.0})
        return True

    def set_quota(self, name: str, quota: float | None) -> bool:
        """Change a quota, also to one below the value."""
        metric = self.metrics.get(name)
        if metric is None:
            return False
        self._put(name, {**metric, "quota": quota})
        return True

    def add(self, name: str, value: float) -> bool:
        """Add to one metric, as ``change`` does; False when there is none of that name."""
        if name not in self.metrics:
            return False
        self.change({name: value})
        return True

    def change(
        self, deltas: Mapping[str, float], *, units: Mapping[str, str] | None = None, is_limited: bool = True
    ) -> None:
        """Add to all of these metrics or to none, new ones included.

        With ``is_limited``, an increase that ends above its quota is refused. A decrease
        never is, nor an increase that leads exactly to the quota.
        """
        values = {}
        for name, delta in self._with_costs(deltas).items():
            metric = self.metrics.get(name) or _new((units or {}).get(name))
            value = metric["value"] + delta
            if not math.isfinite(value):
                if not is_limited:
                    get_logger().error("a counted metric is too large to be kept", metric=name)
                    continue
                raise ConfigError(f"Metric {name!r} cannot hold {metric['value']!r} + {delta!r}.")
            if _split(name)[1] == COST:
                # Sums of money stay whole picodollars: 30 times 0.1 USD is 3 USD, not a little more.
                value = round(value, 12)
            quota = metric["quota"]
            if delta > 0 and quota is not None and value > quota:
                self._exceed(name, metric["value"], quota, is_limited=is_limited)
            values[name] = Metric(value=value, quota=quota, unit=metric["unit"])
        for name, metric in values.items():
            self._put(name, metric)

    def find(self, pattern: re.Pattern[str] | None, prefix: str | None) -> dict[str, Metric]:
        """Return copies of the metrics below ``prefix`` whose name ``pattern`` matches somewhere."""
        return {
            name: metric.copy()
            for name, metric in self.metrics.items()
            if (pattern is None or pattern.search(name))
            and (prefix is None or name.startswith(_below(prefix, "")))
        }

    def get(self, name: str) -> Metric | None:
        """Return a copy of one metric."""
        metric = self.metrics.get(name)
        return None if metric is None else metric.copy()

    def _with_costs(self, deltas: Mapping[str, float]) -> Mapping[str, float]:
        """Add what the tokens among ``deltas`` cost, where they have a price."""
        if not self.rates:
            return deltas
        costs: dict[str, float] = {}
        for name, delta in deltas.items():
            prefix, leaf = _split(name)
            rates = self.rates.get(prefix)
            if rates is None or leaf not in (PROMPT_TOKENS, COMPLETION_TOKENS):
                continue
            usd_per_token = rates[leaf == COMPLETION_TOKENS]
            costs[_below(prefix, COST)] = costs.get(_below(prefix, COST), 0.0) + delta * usd_per_token
        return {**deltas, **{name: cost + deltas.get(name, 0.0) for name, cost in costs.items()}}

    def _exceed(self, name: str, value: float, quota: float, *, is_limited: bool) -> None:
        if is_limited:
            raise QuotaExceededError(name)
        if value <= quota:  # said once, when it is crossed
            get_logger().warning("a counted metric went above its quota", metric=name, quota=quota)

    def _put(self, name: str, metric: Metric) -> None:
        self.metrics[name] = metric
        self.changed.add(name)


def _new(unit: str | None) -> Metric:
    return {"value": 0.0, "quota": None, "unit": unit}


def _below(prefix: str, leaf: str) -> str:
    return f"{prefix}.{leaf}" if prefix else leaf


def _split(name: str) -> tuple[str, str]:
    prefix, _, leaf = name.rpartition(".")
    return prefix, leaf
