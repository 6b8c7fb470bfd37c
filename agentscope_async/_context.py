"""What is current: the runtime an agent works for, and the process-wide defaults.

Layers below the runtime never import it; they find it here, as a :class:`RuntimeLike`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from .message import Msg

__all__ = ["RuntimeLike", "find_runtime"]


class RuntimeLike(Protocol):
    """What agents need of a runtime."""

    is_open: bool
    ask_timeout_s: float | None
    models: Any

    @property
    def is_listened_to(self) -> bool:
        """Somebody reads the events."""

    def start(
        self, work: Coroutine[Any, Any, None], abandon: Callable[[], None], *, name: str
    ) -> asyncio.Task[None]:
        """Run ``work`` in a task the runtime owns."""

    def accept(self, mailbox: Any) -> None:
        """Count one more letter the runtime answers for.

        Raises:
            RuntimeClosedError: the runtime takes no more work.
        """

    def accept_more(self) -> None:
        """Count one more letter in a mailbox where another one of this runtime waits."""

    def settle(self, count: int = 1) -> None:
        """Count letters as dealt with."""

    def finish(self, mailbox: Any) -> None:
        """Forget a mailbox that holds no more letters of ours."""

    def report_failure(self, agent: str, msg: Any, error: BaseException, attempt: int) -> bool:
        """Log a failed letter; True when it is to be tried again."""

    def bury(self, agent: str, msg: Any, reason: str, error: BaseException | None = None) -> None:
        """Keep a letter nobody will handle as a dead letter."""

    def emit(self, event: Any) -> None:
        """Show an event to whoever listens."""

    def show(self, msg: Msg) -> None:
        """Write a message to the chat log and the terminal, where these are on."""


override: ContextVar[RuntimeLike | None] = ContextVar("agentscope_async.runtime", default=None)
"""Set by ``with rt.use():``."""

open_runtimes: set[RuntimeLike] = set()
"""All that are open in this process; empty in the many programs that need none."""

attentive: set[RuntimeLike] = set()
"""The open ones that want to see or to limit every ask; while it is empty an ask does not look further."""


def _no_runtime() -> RuntimeLike | None:
    return None


innermost: Callable[[], RuntimeLike | None] = _no_runtime
"""The innermost runtime of the running event loop; set once the runtime module is loaded."""


def find_runtime(built_under: RuntimeLike | None = None) -> RuntimeLike | None:
    """Return the open runtime to work for, or None.

    In this order: the one an agent was built under, the one of ``with rt.use():``, the
    innermost of this event loop. (A ContextVar alone would not do: what a FastAPI
    lifespan sets is not visible in its request handlers.)
    """
    if built_under is not None and built_under.is_open:
        return built_under
    if not open_runtimes:
        return None
    chosen = override.get()
    return chosen if chosen is not None and chosen.is_open else innermost()
