"""What a model call costs.

Prices come, in this order, from a table of the caller's, from the package
``genai-prices`` where it is installed (its bundled data; nothing is fetched), and from
the few models AgentScope 0.0.2 knew. A model none of them knows has no cost, never a
guessed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from importlib import import_module
from typing import Any, TypeAlias

from ..errors import ConfigError

__all__ = ["PriceTable", "cost_of"]

PriceTable: TypeAlias = Mapping[str, tuple[float, float]]
"""Model name -> (USD per million input tokens, USD per million output tokens)."""

Rate: TypeAlias = Callable[[int, int], int]
"""Input and output tokens of one call -> its cost in picodollars (1e-12 USD), rounded up."""

PICO = 10**12
MAX_USD_PER_MILLION = 10_000.0
MAX_CALL_TOKENS = 10**8
"""Larger figures are no token counts; with the limit above, every sum fits SQLite's 64-bit integers."""

_SINCE_AGENTSCOPE: PriceTable = {
    # The models in AgentScope 0.0.2's utils/monitor.py, at today's list prices
    # (https://platform.openai.com/docs/pricing); gpt-3.5-turbo has become cheaper since.
    "gpt-4-turbo": (10.0, 30.0),
    "gpt-4": (30.0, 60.0),
    "gpt-4-32k": (60.0, 120.0),
    "gpt-3.5-turbo": (0.5, 1.5),
}


def cost_of(
    model: str, input_tokens: int, output_tokens: int, prices: PriceTable | None = None
) -> float | None:
    """Return the cost of one call in USD, or None for a model without a known price.

    The first call for a model that is not in ``prices`` may load ``genai-prices``, which
    takes about 0.2 s.

    Raises:
        ConfigError: a token count or a price is not a usable number.
    """
    for count in (input_tokens, output_tokens):
        check_tokens("Tokens", count)
    rate = find_rate(model, table_rates(prices))
    return None if rate is None else rate(input_tokens, output_tokens) / PICO


def find_rate(model: str, table: Mapping[str, Rate]) -> Rate | None:
    """Return what calls of ``model`` cost, or None. May load a package: not for the event loop."""
    if model in table:
        return table[model]
    return _package_rate(model) or _OLD_RATES.get(model)


def has_price_package() -> bool:
    """Tell whether ``genai-prices`` can be imported."""
    return _package() is not None


def table_rates(prices: PriceTable | None) -> dict[str, Rate]:
    """Check a price table and return its rates.

    Raises:
        ConfigError: a price is not a pair of finite numbers from 0 to 10,000.
    """
    rates = {}
    for model, pair in (prices or {}).items():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(_is_price, pair)):
            raise ConfigError(
                f"The price of {model!r} is {pair!r}, but must be (USD per million input tokens, "
                f"USD per million output tokens), each from 0 to {MAX_USD_PER_MILLION:,.0f}."
            )
        rates[model] = _linear(*pair)
    return rates


def check_tokens(name: str, count: Any) -> None:
    """Raise ConfigError unless ``count`` can be the tokens of one call."""
    if not is_token_count(count):
        raise ConfigError(f"{name} must be a whole number from 0 to {MAX_CALL_TOKENS:,}, not {count!r}.")


def is_token_count(count: Any) -> bool:
    """Tell a possible token count of one call from nonsense."""
    is_whole = type(count) is int or (isinstance(count, int) and not isinstance(count, bool))
    return is_whole and 0 <= count <= MAX_CALL_TOKENS


def _is_price(value: Any) -> bool:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= MAX_USD_PER_MILLION


def _linear(usd_per_million_input: float, usd_per_million_output: float) -> Rate:
    # By way of the decimal text, so that 0.15 is exactly 150,000 picodollars a token.
    per_input = math.ceil(Decimal(str(usd_per_million_input)) * 10**6)
    per_output = math.ceil(Decimal(str(usd_per_million_output)) * 10**6)
    return lambda input_tokens, output_tokens: input_tokens * per_input + output_tokens * per_output


def _package_rate(model: str) -> Rate | None:
    """Return the package's price, which may depend on the size of a call and on the time of day."""
    package = _package()
    if package is None:
        return None

    def cost_pico(input_tokens: int, output_tokens: int) -> int:
        usage = package.Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        cost: int = math.ceil(package.calc_price(usage, model).total_price * PICO)
        return cost

    try:
        cost_pico(0, 0)
    except LookupError:
        return None
    return cost_pico


def _package() -> Any:
    try:
        return import_module("genai_prices")
    except ImportError:
        return None


_OLD_RATES = table_rates(_SINCE_AGENTSCOPE)
