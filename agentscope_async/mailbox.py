"""The turn mailbox: one message at a time for each agent, in the order sent.

A mailbox is a FIFO of letters and at most one open :class:`Turn`. Whoever waits for an
answer runs the turn in its own task, so a free mailbox costs no task, no future and no
event, and cancellation, time limits, exceptions and context variables work as for any
coroutine. Mail nobody waits for borrows a task from a runtime. Private state, one
message at a time, FIFO, asynchronous sends: these are actors, without a loop each.

Everything that changes a mailbox is a plain function; nothing here can be cancelled
half-way. A mailbox belongs to one event loop at a time: one that is busy in another
thread's loop says so, but two threads must not use one agent at the same moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from . import _context
from ._context import find_runtime
from ._deadlock import Blocked
from ._turn import Named, Turn, current_turn, open_turn
from .errors import (
    AgentStoppedError,
    AskTimeoutError,
    ConfigError,
    DeadlockError,
    InterruptedTurnError,
    MailboxFullError,
    RuntimeClosedError,
    WrongLoopError,
)
from .logging import brief, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable

    from ._context import RuntimeLike
    from .message import Msg

__all__ = ["Mailbox", "MailboxStatistics", "Overflow", "Reply", "Turn"]

Overflow: TypeAlias = Literal["wait", "reject", "drop_oldest", "drop_newest"]
"""What a full mailbox does with one more letter."""

OVERFLOWS = ("wait", "reject", "drop_oldest", "drop_newest")
DEFAULT_CAPACITY = 1000


class MailboxStatistics(NamedTuple):
    """A snapshot: letters waiting now; turns handled and failed, letters rejected and dropped so far."""

    waiting: int
    handled: int
    failed: int
    rejected: int
    dropped: int
    longest_wait_s: float


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


class Mailbox:
    """FIFO of letters for one agent; whoever holds the turn may run its reply."""

    __slots__ = (
        "_turn", "_letters", "_unadmitted", "_stopped", "_idle",
        "capacity", "overflow", "handled", "failed", "rejected", "dropped", "longest_wait_s",
    )  # fmt: skip

    def __init__(self, capacity: int = DEFAULT_CAPACITY, overflow: Overflow = "wait") -> None:
        """Hold at most ``capacity`` waiting letters; ``overflow`` says what becomes of one more.

        Raises:
            ConfigError: ``capacity`` is below 1 or ``overflow`` unknown.
        """
        if capacity != DEFAULT_CAPACITY or overflow != "wait":
            check_options(capacity, overflow)
        self.capacity = capacity
        self.overflow = overflow
        self._turn: Turn | None = None  # the open one; _STOPPED when stopped and idle
        self._letters: deque[Letter] | None = None  # an empty deque takes 760 bytes
        self._unadmitted: deque[Letter] | None = None  # letters beyond the capacity whose senders wait
        self._stopped = False
        self._idle: asyncio.Future[None] | None = None
        self.handled = self.failed = self.rejected = self.dropped = 0
        self.longest_wait_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Nobody has the turn or waits for it."""
        return self._turn is None or self._turn is _STOPPED

    @property
    def has_letters(self) -> bool:
        """Somebody waits for a turn."""
        return self._letters is not None

    @property
    def is_stopped(self) -> bool:
        """No further letters are taken."""
        return self._stopped

    @property
    def turn(self) -> Turn | None:
        """The open turn, if there is one."""
        return None if self._turn is _STOPPED else self._turn

    holder = turn

    def statistics(self) -> MailboxStatistics:
        """Return the counters as they are now."""
        return MailboxStatistics(
            len(self._letters or ()),
            self.handled,
            self.failed,
            self.rejected,
            self.dropped,
            self.longest_wait_s,
        )

    # -- asking --

    async def wait(self, agent: Named, parent: Turn | None) -> Turn:
        """Wait in the queue for a turn, and return it open. Only for a mailbox that is not free.

        Raises:
            DeadlockError: the turn could never come.
            AgentStoppedError: the agent is stopped, now or while waiting.
            MailboxFullError: the overflow policy turned this letter away.
        """
        if self._stopped:
            raise AgentStoppedError(agent.name)
        if self._was_left_by_its_loop(agent):
            return self._start_anew(Letter(agent, parent))
        letter = AskLetter(agent, parent)
        if parent is None:  # a caller outside all turns holds nothing that anyone could wait for
            await self._queue_up(letter)
        else:
            with Blocked(parent, self, agent.name):
                await self._queue_up(letter)
        return letter

    async def _queue_up(self, letter: AskLetter) -> None:
        letter.granted = asyncio.get_running_loop().create_future()
        self._make_room(letter)
        self._append(letter)
        try:
            await letter.granted
            deadline = _context.deadline.get()
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                raise AskTimeoutError(letter.agent.name, monotonic() - letter.placed_at)
        except BaseException:
            if self._turn is letter:
                hand_on(self, letter)  # cancelled just as the turn came
            else:
                self._remove(letter)
            raise

    # -- detached mail --

    def place(self, letter: Letter) -> bool | None:
        """Take the turn for a detached letter (True) or put it behind the others (False).

        None: the overflow policy dropped it; it is a dead letter now.

        Raises:
            AgentStoppedError: the agent is stopped.
            MailboxFullError: the mailbox is full and its policy is ``"reject"``.
        """
        if self._turn is None:
            self._turn = letter
            return True
        if self._stopped:
            raise AgentStoppedError(letter.agent.name)
        if self._was_left_by_its_loop(letter.agent):
            self._start_anew(letter)
            return True
        if not self._make_room(letter):
            return None
        self._append(letter)
        return False

    def holds(self, letter: Letter) -> bool:
        """The letter still waits."""
        return self._letters is not None and letter in self._letters

    def is_over_capacity(self) -> bool:
        """A letter placed last has not been admitted yet: its sender is to wait."""
        return self._letters is not None and len(self._letters) > self.capacity

    async def admission(self, letter: Mail | Note, sender: Turn | None) -> None:
        """Wait until a letter placed beyond the capacity is within it.

        Raises:
            DeadlockError: the sender keeps the mailbox from getting empty.
            AgentStoppedError: the agent was stopped meanwhile.
        """
        with Blocked(sender, self, letter.agent.name):
            letter.admitted = asyncio.get_running_loop().create_future()
            if self._unadmitted is None:
                self._unadmitted = deque()
            self._unadmitted.append(letter)
            await letter.admitted

    # -- the way on --

    def release(self, turn: Turn) -> Letter | None:
        """End a turn and open the next one. Returns a detached letter the caller must see to.

        Notes are done here and now; an asker is woken. A turn that is not the open one,
        because its event loop was closed and it was forgotten, changes nothing.
        """
        if self._turn is not turn:
            return None
        while (letters := self._letters) is not None:
            letter = letters.popleft()
            if not letters:
                self._letters = None
            if self._unadmitted is not None:
                self._admit_one()
            waited_s = monotonic() - letter.placed_at
            if waited_s > self.longest_wait_s:
                self.longest_wait_s = waited_s
            if letter.errand is not None:
                self._turn = letter  # from here on the turn is theirs
                return letter
            if letter.granted is not None:
                if letter.granted.done():
                    continue  # cancelled, and its task has not come to take it out yet
                self._turn = letter
                letter.granted.set_result(None)
                return None
            self._do_note(letter)
        self._turn = _STOPPED if self._stopped else None
        self._unadmitted = None
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None
        return None

    def stop(self) -> None:
        """Take no more letters and answer all that wait with AgentStoppedError."""
        self._stopped = True
        if self._turn is None:
            self._turn = _STOPPED
        for letter in self._take_all():
            _turn_away(letter, AgentStoppedError(letter.agent.name), "agent stopped")
        if self in _told_when_stopped:
            _tell_stopped(self)

    async def until_idle(self) -> None:
        """Wait until nobody has the turn; the caller must not be part of what it waits for."""
        if not self.is_idle:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle])

    def withdraw(self, letter: Letter) -> bool:
        """Take back a letter that still waits; False when its turn has come."""
        if not self.holds(letter):
            return False
        self._remove(letter)
        return True

    def forget(self, runtime: RuntimeLike) -> None:
        """Turn away all letters that count on ``runtime``, which is closing."""
        for letter in [each for each in self._letters or () if each.runtime is runtime]:
            self._remove(letter)
            _turn_away(
                letter,
                RuntimeClosedError("The runtime was left before this letter's turn."),
                "runtime closed",
            )

    # -- inside --

    def _was_left_by_its_loop(self, agent: Named) -> bool:
        """The open turn was left behind by an event loop that is closed, and will never end.

        Raises:
            WrongLoopError: that loop goes on, in another thread.
        """
        turn = self._turn
        if turn is None:
            return False
        owner: asyncio.Future[Any] | None = turn.task
        if owner is None and isinstance(turn, AskLetter):
            owner = turn.granted
        if owner is None:
            return False
        loop = owner.get_loop()
        if loop is not asyncio.get_running_loop() and not loop.is_closed():
            raise WrongLoopError(agent.name)
        return loop.is_closed()

    def _start_anew(self, letter: Letter) -> Turn:
        """Forget what a closed loop left behind, whose tasks and futures are dead, and open a turn."""
        left_turn = self._turn
        for left in self._take_all():
            if left.errand is not None:
                bury(left, "event loop closed")
        if left_turn is not None and left_turn.task is not None:
            _close(left_turn.task)  # its handler's `finally`s now, while its memory can still be rolled back
        self._turn = letter
        return letter

    def _append(self, letter: Letter) -> None:
        if self._letters is None:
            self._letters = deque()
        self._letters.append(letter)

    def _remove(self, letter: Letter) -> None:
        if self._letters is None:
            return
        try:
            self._letters.remove(letter)
        except ValueError:
            return  # dropped or turned away already
        if not self._letters:
            self._letters = None
        if self._unadmitted is not None:
            if letter in self._unadmitted:
                self._unadmitted.remove(letter)
            else:
                self._admit_one()

    def _take_all(self) -> Iterable[Letter]:
        letters, self._letters, self._unadmitted = self._letters, None, None
        return letters or ()

    def _admit_one(self) -> None:
        while self._unadmitted:
            admitted = self._unadmitted.popleft().admitted
            if admitted is not None and not admitted.done():
                admitted.set_result(None)
                break
        if not self._unadmitted:
            self._unadmitted = None

    def _make_room(self, letter: Letter) -> bool:
        """Apply the overflow policy; False: this letter was dropped."""
        if self.overflow == "wait" or self._letters is None or len(self._letters) < self.capacity:
            return True
        error = MailboxFullError(letter.agent.name, self.capacity, self.overflow)
        if self.overflow == "reject":
            self.rejected += 1
            raise error
        self.dropped += 1
        if self.overflow == "drop_oldest":
            oldest = self._letters.popleft()
            if oldest.granted is not None and oldest.granted.done():
                self.dropped -= 1  # cancelled, and its task has not come to take it out yet
            else:
                _turn_away(oldest, error, "mailbox full")
            return True
        if isinstance(letter, AskLetter):
            raise error  # an asker learns it directly
        _turn_away(letter, error, "mailbox full")
        return False

    def _do_note(self, letter: Letter) -> None:
        assert letter.note is not None
        try:
            letter.note(letter.msg)
            self.handled += 1
        except Exception as error:
            self.failed += 1
            bury(letter, "observe failed", error)


_told_when_stopped: dict[Mailbox, dict[object, Callable[[], object]]] = {}
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
    _told_when_stopped.setdefault(mailbox, {})[key] = tell

    def forget() -> None:
        told = _told_when_stopped.get(mailbox, {})
        if told.pop(key, None) is not None and not told:
            _told_when_stopped.pop(mailbox, None)

    return forget


def _tell_stopped(mailbox: Mailbox) -> None:
    told = _told_when_stopped[mailbox]
    while told:
        tell = told.pop(next(iter(told)))  # one at a time: each may take back others
        try:
            tell()
        except Exception as error:  # whoever stops the agent is not to blame, and the others wait to hear
            get_logger().error("watcher_failed", error=brief(error))
    _told_when_stopped.pop(mailbox, None)


def _nothing() -> None:
    pass


_STOPPED = Turn.__new__(Turn)
"""Holds the turn of a stopped, idle mailbox, so that the free path tests one thing only."""


def check_options(capacity: int, overflow: str) -> None:
    """Raise ConfigError unless these are options a mailbox can have."""
    if not isinstance(capacity, int) or capacity < 1:
        raise ConfigError(f"capacity must be a whole number of 1 or more, got {capacity!r}")
    if overflow not in OVERFLOWS:
        raise ConfigError(f"overflow must be one of {', '.join(OVERFLOWS)}, got {overflow!r}")


def hand_on(mailbox: Mailbox, turn: Turn) -> None:
    """Release the turn, and give the next letter, if detached, a task to run in."""
    letter = mailbox.release(turn)
    while letter is not None:
        if letter.runtime is None and isinstance(letter, Mail):
            # From a hub outside any runtime, to be run by whoever ends the turn before it. But
            # that is us, and we are being cancelled: any runtime that is open by now will do.
            letter.runtime = find_runtime(getattr(letter.agent, "_runtime", None))
            try:
                if letter.runtime is not None:
                    letter.runtime.accept(mailbox)
            except RuntimeClosedError:
                letter.runtime = None
        if letter.runtime is not None:
            start(mailbox, letter)
            return
        bury(letter, "no task to run it in")
        letter = mailbox.release(letter)


def _close(task: asyncio.Task[Any]) -> None:
    """End the coroutine of a task whose loop is closed."""
    try:
        task.get_coro().close()
    except Exception as error:
        get_logger().warning("handler_left_by_closed_loop", task=task.get_name(), error=brief(error))


async def hand_on_inline(mailbox: Mailbox, turn: Turn) -> None:
    """As :func:`hand_on`, but run letters for which there is no runtime here, before going on."""
    letter = mailbox.release(turn)
    if letter is None:
        return
    if letter.runtime is not None:
        start(mailbox, letter)
        return
    work = Work(mailbox, letter, open_turn())
    try:
        await work.run()
    finally:
        work.check()


def start(mailbox: Mailbox, letter: Letter) -> None:
    """Run a detached letter whose turn is open, and those behind it, in a task of its runtime."""
    assert letter.runtime is not None
    work = Work(mailbox, letter)
    task = letter.runtime.start(work.run(), work.abandon, name=f"mail of {letter.agent.name}")
    task.add_done_callback(work.check)


class Work:
    """One task that handles detached letters of a mailbox until an asker, or nobody, is next."""

    __slots__ = ("mailbox", "letter", "parent", "runtime", "settled")

    def __init__(self, mailbox: Mailbox, letter: Letter, parent: Turn | None = None) -> None:
        self.mailbox = mailbox
        self.parent = parent  # the open turn that goes on only when this work is done
        self.letter: Letter | None = letter  # the one in hand
        self.runtime = letter.runtime
        self.settled = 0  # letters dealt with that the runtime was not told of yet

    async def run(self) -> None:
        mailbox = self.mailbox
        letter = self.letter
        task = asyncio.current_task()
        if self.parent is None:
            _context.leave_sender()
        while letter is not None:
            if self.settled >= 64:
                self.settle()
                await asyncio.sleep(0)  # a long queue of instant letters must not keep the loop
            errand = letter.errand
            assert errand is not None
            letter.task = task
            letter.parent = self.parent
            try:
                result = await errand.run(letter)
            except Exception as error:
                await self._fail(letter, errand, error)
            else:
                if errand.succeed is not None:
                    errand.succeed(letter, result)
            if self.letter is not None:  # else it was abandoned meanwhile
                self.letter = None
                if letter.runtime is not None:
                    self.settled += 1
            letter = mailbox.release(letter)
            if letter is not None:
                if letter.runtime is not self.runtime and letter.runtime is not None:
                    start(mailbox, letter)
                    break
                self.letter = letter
        self.settle()

    async def _fail(self, letter: Letter, errand: Errand, error: Exception) -> None:
        attempt = 1
        while errand.fail(letter, error, attempt):
            attempt += 1
            if letter.extra is not None:
                letter.extra.interruption = None
            letter.task = asyncio.current_task()
            try:
                result = await errand.run(letter)
            except Exception as again:
                error = again
            else:
                if errand.succeed is not None:
                    errand.succeed(letter, result)
                return

    def check(self, task: object = None) -> None:
        """Answer for the letter in hand when the task was cancelled, perhaps before it began."""
        if self.letter is not None:
            letter = self.letter
            self._give_up(letter, "The runtime was left before this letter was handled.", "cancelled")
            hand_on(self.mailbox, letter)

    def settle(self) -> None:
        """Tell the runtime, if one counts these letters, how many were dealt with."""
        if self.runtime is not None:
            self.runtime.settle(self.settled)
            self.runtime.finish(self.mailbox)
        self.settled = 0

    def abandon(self) -> None:
        """Answer for a letter whose handler does not end; its agent must take no other one."""
        if self.letter is not None:
            self._give_up(self.letter, "The handler did not end when cancelled.", "unkillable")
            self.mailbox.stop()

    def _give_up(self, letter: Letter, problem: str, reason: str) -> None:
        self.letter = None
        if letter.runtime is not None:
            self.settled += 1
        assert letter.errand is not None
        letter.errand.give_up(letter, RuntimeClosedError(problem), reason)
        self.settle()


def _turn_away(letter: Letter, error: Exception, reason: str) -> None:
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


class Reply:
    """The answer to a ``submit``, perhaps not there yet: await it, or pass it on as a message.

    An agent that gets one as its message waits for it in its own turn. Awaiting is
    allowed any number of times and gives the same :class:`Msg`, or raises the same error.
    """

    __slots__ = ("name", "_future", "_mailbox", "_letter")

    def __init__(self, name: str, mailbox: Mailbox, letter: Letter) -> None:
        self.name = name
        self._future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._mailbox = mailbox
        self._letter = letter

    def resolve(self, outcome: Msg | Exception) -> None:
        """Give out the answer or the error; the first one counts."""
        if self._future.done():
            return
        if isinstance(outcome, Exception):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)

    def done(self) -> bool:
        """The answer, or the error, is there."""
        return self._future.done()

    def cancel(self, reason: str | None = "cancelled by its sender") -> bool:
        """Take the message back or end its turn; awaiting then raises InterruptedTurnError.

        Returns False when it was done already.
        """
        if self._future.done():
            return False
        if self._mailbox.withdraw(self._letter):
            self._future.set_exception(InterruptedTurnError(self.name, reason))
            self._future.exception()  # whoever cancels knows
            self._letter.settle()
            return True
        if self._mailbox.turn is not self._letter:
            return False
        self._letter.interrupt(reason)
        return True

    @property
    def holder(self) -> Turn | None:
        """The turn that must end before the answer is there, or before its own can begin."""
        if self._future.done():
            return None
        return self._letter if self._letter.task is not None else self._mailbox.turn

    def __await__(self) -> Generator[Any, None, Msg]:
        return self._wait().__await__()

    async def _wait(self) -> Msg:
        if not self._future.done():
            try:
                blocked = Blocked(current_turn.get(), self, self.name)
            except DeadlockError as error:
                # Left in the mailbox it would be handled after all, and might ask back again.
                if self._mailbox.withdraw(self._letter):
                    self.resolve(error)
                    self._future.exception()  # raised here
                    self._letter.settle()
                raise
            with blocked:
                await asyncio.wait([self._future])
        return self._future.result()

    def __repr__(self) -> str:
        return f"<Reply of {self.name!r}, {'done' if self.done() else 'pending'}>"
