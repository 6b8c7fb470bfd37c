"""From the work of a query to the response of a service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from ..._redact import REDACTED, redact_text, remember_secret
from ...errors import ConfigError, MissingExtraError
from ..response import ServiceResponse
from ._limits import Limits, QueryFailed

__all__ = ["GRACE_S", "answer", "driver", "load_driver"]

GRACE_S = 0.5
"""Seconds beyond the time limit: the server stops a query first, which costs no connection."""


async def answer(
    query: Callable[[], Awaitable[list[Any]]], limits: Limits, *, password: str | None = None
) -> ServiceResponse:
    """Return the rows of ``query()``, or what went wrong, without the password.

    Raises:
        ConfigError: the program has set nonsense.
        MissingExtraError: a driver is not installed.
    """
    remember_secret(password)
    try:
        limits.check_maxcount()
        async with asyncio.timeout(limits.timeout_s + GRACE_S) as clock:
            return ServiceResponse.success(await query())
    except (ConfigError, MissingExtraError):
        raise
    except QueryFailed as error:
        problem = str(error)
    # Each driver has its own family of errors, and all come from outside: the answer names them.
    except Exception as error:
        problem = _said(error)
        if isinstance(error, TimeoutError) and clock.expired():
            problem = (
                f"The query has taken longer than {limits.timeout_s:g} s and was stopped. Make it simpler."
            )
    return ServiceResponse.error(_without(password, problem))


async def load_driver(package: str, extra: str) -> None:
    """Load a database driver without holding up the loop, which takes a tenth of a second and more.

    Raises:
        MissingExtraError: it is not installed.
    """
    if package not in sys.modules:
        await asyncio.to_thread(driver, package, extra)


def driver(package: str, extra: str) -> Any:
    """Return the module of a database driver.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise MissingExtraError(name, f"This needs: pip install 'agentscope-async[{extra}]'") from error


def _said(error: Exception) -> str:
    text = ServiceResponse.error(error).content
    assert isinstance(text, str)
    return text


def _without(password: str | None, text: str) -> str:
    """Hide a password, a short one too, which would not be remembered."""
    if password:
        text = text.replace(password, REDACTED)
    return redact_text(text)
