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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from . import _context
from ._deadlock import Blocked
from ._letters import AskLetter, Letter, bury, turn_away
from ._stopping import tell_stopped, told_when_stopped
from ._turn import Named, Turn
from ._work import hand_on
from .errors import (
    AgentStoppedError,
    AskTimeoutError,
    ConfigError,
    MailboxFullError,
    RuntimeClosedError,
    WrongLoopError,
)
from .logging import brief, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._context import RuntimeLike
    from ._letters import Mail, Note

__all__ = ["Mailbox", "MailboxStatistics", "Overflow", "check_options"]

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
            turn_away(letter, AgentStoppedError(letter.agent.name), "agent stopped")
        if self in told_when_stopped:
            tell_stopped(self)

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
            turn_away(
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
                turn_away(oldest, error, "mailbox full")
            return True
        if isinstance(letter, AskLetter):
            raise error  # an asker learns it directly
        turn_away(letter, error, "mailbox full")
        return False

    def _do_note(self, letter: Letter) -> None:
        assert letter.note is not None
        try:
            letter.note(letter.msg)
            self.handled += 1
        except Exception as error:
            self.failed += 1
            bury(letter, "observe failed", error)


_STOPPED = Turn.__new__(Turn)
"""Holds the turn of a stopped, idle mailbox, so that the free path tests one thing only."""


def check_options(capacity: int, overflow: str) -> None:
    """Raise ConfigError unless these are options a mailbox can have."""
    if not isinstance(capacity, int) or capacity < 1:
        raise ConfigError(f"capacity must be a whole number of 1 or more, got {capacity!r}")
    if overflow not in OVERFLOWS:
        raise ConfigError(f"overflow must be one of {', '.join(OVERFLOWS)}, got {overflow!r}")


def _close(task: asyncio.Task[Any]) -> None:
    """End the coroutine of a task whose loop is closed."""
    try:
        task.get_coro().close()
    except Exception as error:
        get_logger().warning("handler_left_by_closed_loop", task=task.get_name(), error=brief(error))
