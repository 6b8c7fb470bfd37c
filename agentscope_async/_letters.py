"""Letters: what waits in a mailbox, and what becomes of one that is not handled."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from ._context import find_runtime
from ._turn import Named, Turn
from .logging import brief, get_logger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from ._context import RuntimeLike

__all__ = ["AskLetter", "Errand", "Letter", "Mail", "Note", "bury", "turn_away"]


class Letter(Turn):
    """A turn that is yet to come: a place in a mailbox."""

    __slots__ = ("placed_at",)

    granted: asyncio.Future[None] | None = None
    errand: Errand | None = None
    note: Callable[[Any], None] | None = None
    runtime: RuntimeLike | None = None
    admitted: asyncio.Future[None] | None = None
    msg: Any = None

    def __init__(self, agent: Named, parent: Turn | None) -> None:
        super().__init__(agent, parent)
        self.placed_at = monotonic()

    def settle(self) -> None:
        """Tell the runtime, if one counts this letter, that it is dealt with."""
        if self.runtime is not None:
            self.runtime.settle()


class AskLetter(Letter):
    """Somebody waits for this turn, and will run it in their own task once it is ``granted``."""

    __slots__ = ("granted",)


class Mail(Letter):
    """A detached letter, from ``post``, ``submit`` or a hub, for a task to run.

    ``runtime`` lends that task; None for a hub's letter where no runtime is open.
    ``admitted`` is set while its sender waits for room in the mailbox.
    """

    __slots__ = ("errand", "runtime", "msg", "admitted")

    def __init__(self, agent: Named, msg: Any, errand: Errand, runtime: RuntimeLike | None) -> None:
        # Written out: this is the whole cost of posting to a busy agent.
        self.agent = agent
        self.parent = None
        self.task = None
        self.extra = None
        self.msg = msg
        self.errand = errand
        self.runtime = runtime
        self.admitted = None
        self.placed_at = monotonic()


class Note(Letter):
    """A plain function to call with ``msg`` when the turn comes: done on the spot, by nobody's task."""

    __slots__ = ("note", "msg", "admitted")

    def __init__(self, agent: Named, msg: Any, note: Callable[[Any], None]) -> None:
        super().__init__(agent, None)
        self.msg = msg
        self.note = note
        self.admitted = None


class Errand(Protocol):
    """What a detached letter asks for. Only ``run`` may suspend, and raise what the handler raised."""

    @property
    def is_heard_only(self) -> bool:
        """The message is to be remembered, not answered."""

    def run(self, letter: Letter) -> Coroutine[Any, Any, Any]:
        """Run the letter's turn to its end."""

    @property
    def succeed(self) -> Callable[[Letter, Any], None] | None:
        """Takes what ``run`` returned; None: nobody is interested."""

    def fail(self, letter: Letter, error: Exception, attempt: int) -> bool:
        """Take what ``run`` raised; True: run it again."""

    def give_up(self, letter: Letter, error: Exception, reason: str) -> None:
        """Tell whoever cares that the letter will not be handled."""


def turn_away(letter: Letter, error: Exception, reason: str) -> None:
    """Answer for a letter that will get no turn: tell its sender, or make it a dead one."""
    if letter.granted is not None:
        if not letter.granted.done():
            letter.granted.set_exception(error)
        return
    if letter.admitted is not None and not letter.admitted.done():
        letter.admitted.set_exception(error)  # its sender is still there to be told
    elif letter.errand is not None:
        letter.errand.give_up(letter, error, reason)
    else:
        bury(letter, reason, error)
    letter.settle()


def bury(letter: Letter, reason: str, error: BaseException | None = None) -> None:
    """Make a letter a dead one, in the runtime's books or, without a runtime, in the log."""
    name = letter.agent.name
    runtime = letter.runtime or find_runtime(getattr(letter.agent, "_runtime", None))
    if runtime is not None:
        is_heard_only = letter.note is not None or (letter.errand is not None and letter.errand.is_heard_only)
        runtime.bury(letter.agent, letter.msg, reason, error, is_heard_only=is_heard_only)
        return
    get_logger().warning("dead_letter", agent=name, reason=reason, error=brief(error) if error else None)
