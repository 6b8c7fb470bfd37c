"""What a provider's response headers say about its limits."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RateHeaders", "parse_rate_headers", "retry_after"]


def retry_after(headers: Mapping[str, str], now_epoch_s: float) -> float | None:
    """Return the seconds a server asks to wait, or None where it does not say, or not clearly.

    ``retry-after-ms`` wins over ``retry-after`` (seconds, or an HTTP date: RFC 9110 section 10.2.3).

    Args:
        headers: by lower-case name.
        now_epoch_s: the time by the wall clock, for dates.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    return _seconds_until(text, now_epoch_s)


class RateHeaders(TypedDict, total=False):
    """What :func:`parse_rate_headers` found: the keywords of :meth:`Limiter.learn`."""

    remaining_requests: float
    reset_requests_s: float
    remaining_tokens: float
    reset_tokens_s: float


def parse_rate_headers(headers: Mapping[str, str]) -> RateHeaders:
    """Read ``x-ratelimit-remaining-requests``, ``-reset-requests`` and the same two for tokens.

    Resets are durations as ``1s``, ``6m0s``, ``20ms``, or plain seconds (OpenAI, "Rate limits", headers).
    What is missing or makes no sense is left out.

    Args:
        headers: by lower-case name.
    """
    found: RateHeaders = {}
    if (requests := _number(headers.get("x-ratelimit-remaining-requests"))) is not None:
        found["remaining_requests"] = requests
    if (requests_s := _duration_s(headers.get("x-ratelimit-reset-requests"))) is not None:
        found["reset_requests_s"] = requests_s
    if (tokens := _number(headers.get("x-ratelimit-remaining-tokens"))) is not None:
        found["remaining_tokens"] = tokens
    if (tokens_s := _duration_s(headers.get("x-ratelimit-reset-tokens"))) is not None:
        found["reset_tokens_s"] = tokens_s
    return found


_NUMBER = re.compile(r"\s*\d{1,15}(?:\.\d{0,15})?\s*", re.ASCII)
_DURATION = re.compile(r"\s*(?:\d{1,9}(?:\.\d{1,15})?(?:ms|us|µs|ns|d|h|m|s)){1,6}\s*", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_UNIT_S = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def _number(text: str | None) -> float | None:
    return float(text) if text and _NUMBER.fullmatch(text) else None


def _duration_s(text: str | None) -> float | None:
    if not text or not _DURATION.fullmatch(text):
        return _number(text)
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in _PART.findall(text))


def _seconds_until(http_date: str, now_epoch_s: float) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(http_date)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, when.timestamp() - now_epoch_s)
    except (ValueError, OverflowError):
        return None
