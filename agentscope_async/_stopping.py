"""Who is to hear of it when an agent is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .logging import brief, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from .mailbox import Mailbox

__all__ = ["tell_stopped", "told_when_stopped", "when_stopped"]

told_when_stopped: dict[Mailbox, dict[object, Callable[[], object]]] = {}
"""Whom to tell, by mailbox: a slot in each would cost the many agents nobody watches."""


def when_stopped(mailbox: Mailbox, tell: Callable[[], object]) -> Callable[[], None]:
    """Call ``tell`` once, when the agent of a mailbox is stopped, or now if it is.

    Those told of one agent are called in the order they asked. Returns what takes this back;
    calling it again, or too late, does nothing.
    """
    if mailbox.is_stopped:
        tell()
        return _nothing
    key = object()
    told_when_stopped.setdefault(mailbox, {})[key] = tell

    def forget() -> None:
        told = told_when_stopped.get(mailbox, {})
        if told.pop(key, None) is not None and not told:
            told_when_stopped.pop(mailbox, None)

    return forget


def tell_stopped(mailbox: Mailbox) -> None:
    """Tell those who asked about the agent of a mailbox, which is stopped."""
    told = told_when_stopped[mailbox]
    while told:
        tell = told.pop(next(iter(told)))  # one at a time: each may take back others
        try:
            tell()
        except Exception as error:  # whoever stops the agent is not to blame, and the others wait to hear
            get_logger().error("watcher_failed", error=brief(error))
    told_when_stopped.pop(mailbox, None)


def _nothing() -> None:
    pass
