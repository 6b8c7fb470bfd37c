"""What is current: the runtime an agent works for, and the process-wide defaults.

Layers below the runtime never import it; they find it here, as a :class:`RuntimeLike`.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from .message import Msg

__all__ = ["RuntimeLike", "Services", "find_runtime", "find_services"]


class Services(Protocol):
    """What a call to a model is reported to, and may be limited by."""

    @property
    def monitor(self) -> Any:
        """The ``Monitor`` that metrics are counted in."""

    @property
    def budget(self) -> Any:
        """The ``Budget`` every call is charged to, or None."""

    @property
    def invocations(self) -> Any:
        """The ``Invocations`` that keep each call as a file, or None."""

    @property
    def files(self) -> Any:
        """The ``Files`` of the run directory."""


class RuntimeLike(Services, Protocol):
    """What agents and models need of a runtime."""

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

    def distribute(self, agent: Any, options: dict[str, Any]) -> Any:
        """Put an agent on another node."""

    def report_failure(
        self, agent: Any, msg: Any, error: BaseException, attempt: int, *, is_heard_only: bool = False
    ) -> bool:
        """Log a failed letter; True when it is to be tried again."""

    def bury(
        self,
        agent: Any,
        msg: Any,
        reason: str,
        error: BaseException | None = None,
        *,
        is_heard_only: bool = False,
    ) -> None:
        """Keep a letter nobody will handle as a dead letter, for an agent or the name of one."""

    def emit(self, event: Any) -> None:
        """Show an event to whoever listens."""

    def show(self, msg: Msg) -> None:
        """Write a message to the chat log and the terminal, where these are on."""


charged: ContextVar[tuple[Any, ...]] = ContextVar("agentscope_async.budgets", default=())
"""The budgets of the ``with budget:`` blocks this code runs in, outermost first."""

deadline: ContextVar[float | None] = ContextVar("agentscope_async.deadline", default=None)
"""When, by the event loop's clock, this work must be over; nested asks inherit it, letters do not."""

trace_id: ContextVar[str | None] = ContextVar("agentscope_async.trace_id", default=None)
"""What the logs of this work have in common, also on other nodes; set by :func:`join_trace`."""

letters_carry = False
"""Some budget or trace was ever entered: until then letters need not look for what their sender had."""


def join_trace(id: str | None) -> Token[str | None]:
    """Make this code part of a trace, and all that it asks and posts."""
    global letters_carry
    letters_carry = True
    return trace_id.set(id)


def leave_sender() -> None:
    """Forget what is the sender's own: this task was begun by one of them, and works for all."""
    if letters_carry:
        charged.set(())
        trace_id.set(None)
    if deadline.get() is not None:
        deadline.set(None)


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


process_services: Services | None = None
"""Those of ``init()``: of programs that open no runtime. None before it was called."""


def find_services(built_under: RuntimeLike | None = None) -> Services | None:
    """Return the runtime of :func:`find_runtime`, without one what ``init()`` set up, or None."""
    return find_runtime(built_under) or process_services


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
