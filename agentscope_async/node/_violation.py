"""Broken rules, and which of them end a session."""

from __future__ import annotations

from .frames import CloseCode

__all__ = ["FATAL", "FATAL_IN_HANDSHAKE", "Violation"]

FATAL = frozenset(
    {CloseCode.IDENTITY, CloseCode.VERSION, CloseCode.FLOW, CloseCode.FENCED, CloseCode.DRAINING}
)
"""Codes after which a new link could not help."""
FATAL_IN_HANDSHAKE = FATAL | {CloseCode.SEQUENCE}


class Violation(Exception):
    """The other side broke a rule; the link is given up, and with a fatal code the session."""

    def __init__(self, code: CloseCode, text: str) -> None:
        super().__init__(text)
        self.code = code
