"""Mail nobody waits for: posts, submissions and what is heard in a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _context
from .._letters import Letter, Mail, Note, bury
from .._tasks import run_all
from .._turn import current_turn, open_turn
from .._work import Work, start
from ..errors import AgentStoppedError, DeadlockError, MailboxFullError
from ..message.msg import Msg, as_msg
from ..reply import Reply

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from .._context import RuntimeLike
    from .._turn import Turn
    from ..mailbox import Mailbox

__all__ = [
    "Circle",
    "Member",
    "announce",
    "deliver",
    "incoming",
    "pass_on",
    "post_errand",
    "send",
    "start_all",
    "submission",
    "tell",
]


class Member:
    """Whoever can be in a hub or an audience: an agent, here or elsewhere."""

    __slots__ = ()

    name: str
    _circles: tuple[Circle, ...]


class Circle:
    """Agents who hear what one of them says: a hub, or an audience."""

    __slots__ = ("members",)

    def __init__(self, members: Iterable[Any]) -> None:
        self.members: list[Any] = list(members)


def incoming(x: Any) -> Any:
    """Return what ``reply`` is to get for what a caller gave."""
    if x is None or isinstance(x, (Msg, Reply)):
        return x
    if isinstance(x, (list, tuple)):
        return [as_msg(each) for each in x]
    return as_msg(x)


def send(mailbox: Mailbox, letter: Mail, runtime: RuntimeLike) -> bool | None:
    """Place a letter in a runtime's name; see :meth:`Mailbox.place`."""
    runtime.accept(mailbox)
    try:
        placed = mailbox.place(letter)
    except BaseException:
        runtime.settle()
        raise
    if placed:
        start(mailbox, letter)
    return placed


def announce(speaker: Any, msg: Msg) -> list[Letter]:
    """Tell the speaker's circles; returns what :func:`tell` left open."""
    circles = speaker._circles
    listeners: Iterable[Any] = circles[0].members
    if len(circles) > 1:  # in several circles, hear it once
        listeners = {id(each): each for circle in circles for each in circle.members}.values()
    open_letters: list[Letter] = []
    for listener in listeners:
        if listener is not speaker:
            tell(listener, msg, open_letters)
    return open_letters


def tell(listener: Any, msg: Msg, open_letters: list[Letter]) -> None:
    """Let one agent observe a message, in its place among others.

    A listener that is idle and observes plainly remembers it now. What needs somebody to
    run it, or to wait for its admission, is added to ``open_letters``.
    """
    mailbox = listener._mailbox
    if mailbox is None:
        mailbox = listener.mailbox
    letter: Letter
    if not listener._observes_plainly:
        letter = Mail(listener, msg, OBSERVATION, None)
    elif mailbox._turn is None:
        try:
            listener._remember(msg)
        except Exception as error:  # a memory of the user's own; the speaker is not to blame
            mailbox.failed += 1
            bury(Note(listener, msg, listener._remember), "observe failed", error)
        else:
            mailbox.handled += 1
        return
    else:
        letter = Note(listener, msg, listener._remember)
    try:
        placed = mailbox.place(letter)
    except (AgentStoppedError, MailboxFullError) as error:
        bury(letter, "not delivered", error)
        return
    if placed or (placed is False and mailbox.is_over_capacity()):
        open_letters.append(letter)


async def pass_on(mailbox: Mailbox, turn: Turn, heard: list[Letter]) -> None:
    """Release a turn and see to the letters it left open, and to the next one if it needs a task."""
    following = mailbox.release(turn)
    if following is not None and following.runtime is not None:
        start(mailbox, following)
    elif following is not None:
        heard = [*heard, following]
    if heard:
        await deliver(heard)


async def deliver(letters: list[Letter]) -> None:
    """See to the letters :func:`tell` left open: run those whose turn is open, wait for others' admission."""
    deliveries = [_Delivery(letter) for letter in letters]
    try:
        if len(deliveries) == 1:
            await deliveries[0].run()
        else:
            await run_all([each.run() for each in deliveries])
    finally:
        for each in deliveries:
            each.check()


def start_all(letters: list[Letter], turn: Any) -> None:
    """Have the runtime of a letter's ``turn`` run what :func:`tell` left open.

    Nobody waits for the others' admission: the turn itself is still open.
    """
    runtime: RuntimeLike | None = turn.runtime
    for letter in letters:
        mailbox: Mailbox = letter.agent.mailbox  # type: ignore[attr-defined]  # a listener is an AgentBase
        if mailbox.turn is letter and isinstance(letter, Mail):
            if runtime is not None:
                letter.runtime = runtime
                runtime.accept(mailbox)
            start(mailbox, letter)


class _Delivery:
    """What is left to do for one letter."""

    __slots__ = ("_letter", "_mailbox", "_work")

    def __init__(self, letter: Letter) -> None:
        self._letter = letter
        self._mailbox: Mailbox = letter.agent.mailbox  # type: ignore[attr-defined]  # a listener is an AgentBase
        is_open = self._mailbox.turn is letter
        self._work = Work(self._mailbox, letter, open_turn()) if is_open else None

    async def run(self) -> None:
        if self._work is not None:
            await self._work.run()
        elif isinstance(self._letter, (Mail, Note)) and self._mailbox.holds(self._letter):
            try:
                await self._mailbox.admission(self._letter, current_turn.get())
            except (DeadlockError, AgentStoppedError):
                return  # it waits for us, and the letter keeps its place; or it is a dead letter now

    def check(self) -> None:
        """Give up what a cancellation left undone, perhaps before it began."""
        if self._work is not None:
            self._work.check()


class _AgentErrand:
    """What the errands have in common: the agent replies to the letter."""

    __slots__ = ()

    is_heard_only = False

    def run(self, letter: Letter) -> Coroutine[Any, Any, Any]:
        """Run one reply."""
        agent: Any = letter.agent
        return agent._take_turn(None, letter.msg, None, None, letter)  # type: ignore[no-any-return]


class _CarryingErrand(_AgentErrand):
    """Charge the reply to the budgets, and log it under the trace, that the letter was sent in.

    A task handles letters of many senders, so its own context tells nothing of theirs.
    """

    __slots__ = ()

    _budgets: tuple[Any, ...]
    _trace: str | None

    async def run(self, letter: Letter) -> Any:
        """Run one reply."""
        budgets, trace = _context.charged.set(self._budgets), _context.trace_id.set(self._trace)
        try:
            return await super().run(letter)
        finally:
            _context.charged.reset(budgets)
            _context.trace_id.reset(trace)


class _Post(_AgentErrand):
    """Reply, and drop the reply."""

    __slots__ = ()

    succeed = None

    def fail(self, letter: Letter, error: Exception, attempt: int) -> bool:
        assert letter.runtime is not None
        is_heard_only = letter.errand is not None and letter.errand.is_heard_only
        return letter.runtime.report_failure(
            letter.agent, letter.msg, error, attempt, is_heard_only=is_heard_only
        )

    def give_up(self, letter: Letter, error: Exception, reason: str) -> None:
        bury(letter, reason, error)


class _CarryingPost(_CarryingErrand, _Post):
    __slots__ = ("_budgets", "_trace")

    def __init__(self, budgets: tuple[Any, ...], trace: str | None) -> None:
        self._budgets = budgets
        self._trace = trace

    def fail(self, letter: Letter, error: Exception, attempt: int) -> bool:
        trace = _context.trace_id.set(self._trace)
        try:
            return super().fail(letter, error, attempt)
        finally:
            _context.trace_id.reset(trace)


class Submission(_AgentErrand):
    """Reply, and keep the reply for whoever awaits it."""

    __slots__ = ("reply", "_kwargs")

    def __init__(self, kwargs: dict[str, Any]) -> None:
        self.reply: Reply
        self._kwargs = kwargs

    def run(self, letter: Letter) -> Coroutine[Any, Any, Any]:
        """Run one reply, with the keywords of ``submit``."""
        agent: Any = letter.agent
        return agent._take_turn(None, letter.msg, self._kwargs, None, letter)  # type: ignore[no-any-return]

    def succeed(self, letter: Letter, result: Any) -> None:
        """Give out the reply."""
        self.reply.resolve(result)

    def fail(self, letter: Letter, error: Exception, attempt: int) -> bool:
        """Give out the error; whoever submitted decides whether to try again."""
        self.reply.resolve(error)
        return False

    def give_up(self, letter: Letter, error: Exception, reason: str) -> None:
        """Give out the error."""
        self.reply.resolve(error)


class _CarryingSubmission(_CarryingErrand, Submission):
    __slots__ = ("_budgets", "_trace")

    def __init__(self, kwargs: dict[str, Any], budgets: tuple[Any, ...], trace: str | None) -> None:
        super().__init__(kwargs)
        self._budgets = budgets
        self._trace = trace


def post_errand() -> _Post:
    """Return what a letter posted here asks for."""
    budgets, trace = _context.charged.get(), _context.trace_id.get()
    return _CarryingPost(budgets, trace) if budgets or trace is not None else POST


def submission(kwargs: dict[str, Any]) -> Submission:
    """Return what a letter submitted here asks for."""
    if _context.letters_carry:
        budgets, trace = _context.charged.get(), _context.trace_id.get()
        if budgets or trace is not None:
            return _CarryingSubmission(kwargs, budgets, trace)
    return Submission(kwargs)


class _Observation:
    """An agent with an ``observe`` of its own hears something in a hub."""

    __slots__ = ()

    is_heard_only = True

    def run(self, letter: Letter) -> Coroutine[Any, Any, Any]:
        agent: Any = letter.agent
        return agent._take_turn(agent.observe, letter.msg, None, None, letter)  # type: ignore[no-any-return]

    succeed = None

    def fail(self, letter: Letter, error: Exception, attempt: int) -> bool:
        bury(letter, "observe failed", error)
        return False

    def give_up(self, letter: Letter, error: Exception, reason: str) -> None:
        bury(letter, reason, error)


POST = _Post()
OBSERVATION = _Observation()
