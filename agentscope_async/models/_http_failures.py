"""What goes wrong on the way to an answer, in our words."""

from __future__ import annotations

import httpcore
import httpx

from .._redact import redact_text
from ..errors import ConfigError
from ._http_redaction import showable
from ._request import HttpFailure

__all__ = ["BROKEN", "failure_of"]


def failure_of(error: Exception, *, was_sent: bool) -> HttpFailure:
    """Return what happened in our words.

    httpx-aiohttp calls every ClientConnectionError a ConnectTimeout, a server that
    hung up without an answer among them; its cause tells.
    """
    if isinstance(error, HttpFailure):
        return error
    cause = error.__cause__
    # aiohttp writes of TLS where there is none
    text = redact_text(str(error)).replace(" ssl:default", "") or type(cause or error).__name__
    if isinstance(error, _UNSENDABLE):
        raise ConfigError(f"The request cannot be sent: {text}") from showable(error)
    if not isinstance(error, BROKEN) and not _is_of_aiohttp(error):
        raise error
    if cause is not None and _is_of_aiohttp(cause):
        is_timeout = isinstance(cause, TimeoutError)
        never_left = any(kind.__name__ in _BEFORE_SENDING for kind in type(cause).__mro__)
    else:
        is_timeout = isinstance(error, (httpx.TimeoutException, httpcore.TimeoutException))
        never_left = isinstance(error, _NOT_CONNECTED)
    return HttpFailure("timeout" if is_timeout else "connection", text, was_sent=was_sent or not never_left)


_UNSENDABLE = (
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpcore.UnsupportedProtocol,
    httpcore.LocalProtocolError,
)
BROKEN = (
    httpx.HTTPError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    OSError,
)
_NOT_CONNECTED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
)
_BEFORE_SENDING = ("ClientConnectorError", "ConnectionTimeoutError")
"""aiohttp's errors of a connection that was not made."""


def _is_of_aiohttp(error: BaseException) -> bool:
    return type(error).__module__.startswith("aiohttp")
