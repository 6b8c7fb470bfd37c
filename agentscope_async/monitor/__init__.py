"""What is measured and what may be spent: metrics with quotas, budgets, prices.

:class:`Monitor` holds numbers by name, in memory or in a SQLite file that several
processes share. :class:`Budget` limits what a whole team spends, before it is spent.
"""

from __future__ import annotations

from .budget import Budget, Remaining, Reservation, Spending, active_budgets
from .metrics import Metric, Monitor, MonitorFactory, get_full_name
from .prices import PriceTable, cost_of

__all__ = [
    "Budget",
    "Metric",
    "Monitor",
    "MonitorFactory",
    "PriceTable",
    "Remaining",
    "Reservation",
    "Spending",
    "active_budgets",
    "cost_of",
    "get_full_name",
]
