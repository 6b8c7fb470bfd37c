"""Keeps secrets out of what the HTTP libraries say: of their errors, and from its import on of their logs."""

from __future__ import annotations

import logging

from .._redact import redact_text

__all__ = ["showable"]


def showable(error: BaseException) -> BaseException | None:
    """Return ``error``, or None where it shows a secret in a traceback; aiohttp's hold all headers."""
    each: BaseException | None = error
    while each is not None:
        text = f"{each} {each!r}"
        if redact_text(text) != text:
            return None
        each = each.__cause__ or each.__context__
    return error


class _WithoutSecrets(logging.Filter):
    """Hides keys in what the libraries below log at DEBUG: addresses, the headers of answers."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (shown := redact_text(text)) != text:
            record.msg, record.args = shown, ()
        return True


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks"):
    logging.getLogger(_name).addFilter(_WithoutSecrets())  # of a logger itself: one place, any handler
