"""How a turn is passed on: to whoever waits for it, or to a task that handles detached letters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from . import _context
from ._context import find_runtime
from ._letters import Mail, bury
from ._turn import open_turn
from .errors import RuntimeClosedError

if TYPE_CHECKING:
    from ._letters import Errand, Letter
    from ._turn import Turn
    from .mailbox import Mailbox

__all__ = ["Work", "hand_on", "hand_on_inline", "start"]


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
        mailbox, runtime = self.mailbox, self.runtime
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
            if self.letter is not None and letter.runtime is not None:  # not abandoned meanwhile, and counted
                self.settled += 1
            self.letter = None
            letter = mailbox.release(letter)
            if letter is not None:
                if letter.runtime is not runtime and letter.runtime is not None:
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
