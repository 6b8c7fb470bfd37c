"""The answer to a message that was submitted, to be awaited later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ._deadlock import Blocked
from ._turn import current_turn
from .errors import DeadlockError, InterruptedTurnError

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._letters import Letter
    from ._turn import Turn
    from .mailbox import Mailbox
    from .message import Msg

__all__ = ["Reply"]


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
