"""Starting again what failed: how soon, and when to stop trying."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ._tasks import finish
from .errors import ConfigError
from .logging import brief, get_logger

__all__ = ["RestartPolicy", "Restarts", "Supervisor"]

MAX_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How soon something is started again, and when that is given up.

    The delay doubles with each failure in a row, up to ``longest_s``, and is drawn at random from
    the upper half of that, so that what failed together does not come back together. A run of
    ``within_s`` seconds, and the delays begin anew. More than ``max_restarts`` within ``within_s``
    seconds is one too many (as for supervisors in Erlang/OTP).
    """

    first_s: float = 0.1
    longest_s: float = 30.0
    max_restarts: int = 5
    within_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: a time is not above 0, or ``max_restarts`` below 0.
        """
        if not (0 < self.first_s <= self.longest_s and self.within_s > 0 and self.max_restarts >= 0):
            raise ConfigError("A restart policy has times above 0, first_s <= longest_s, max_restarts >= 0.")


class Restarts:
    """The restarts of one thing."""

    def __init__(
        self,
        policy: RestartPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Count by ``clock``, in seconds; ``draw`` gives a random number between two."""
        self.policy = policy or RestartPolicy()
        self._clock = clock
        self._draw = draw
        self._times: deque[float] = deque()
        self._failures_in_row = 0
        self._began_at: float | None = None

    def note_start(self) -> None:
        """Take note that it runs; a long run makes up for the failures before it."""
        self._began_at = self._clock()

    def next_delay(self) -> float | None:
        """Take note of a failure; return after how many seconds to start again, None: give up."""
        policy, now = self.policy, self._clock()
        if self._began_at is not None and now - self._began_at >= policy.within_s:
            self._failures_in_row = 0
        self._began_at = None
        while self._times and now - self._times[0] > policy.within_s:
            self._times.popleft()
        if len(self._times) >= policy.max_restarts:
            return None
        delay_s = min(policy.longest_s, policy.first_s * 2.0 ** min(self._failures_in_row, MAX_DOUBLINGS))
        self._failures_in_row += 1
        self._times.append(now)
        return self._draw(delay_s / 2, delay_s)


class Supervisor:
    """Runs one thing again and again until it returns, or fails too often.

    Attributes:
        name: of what it looks after, for the log.
        gave_up: it failed too often, and is not started any more.
    """

    def __init__(
        self,
        name: str,
        restarts: Restarts | None = None,
        *,
        on_fatal: Callable[[Exception], Awaitable[None] | None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare to look after something.

        Args:
            name: for the log.
            restarts: how often it is started again, and by which clock.
            on_fatal: called once, with the last failure, when it is given up; a plain or async function.
            sleep: waits so many seconds of that clock.
        """
        self.name = name
        self.gave_up = False
        self._restarts = restarts or Restarts()
        self._on_fatal = on_fatal
        self._sleep = sleep

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Await ``work()``, again after each failure, until it returns or is given up.

        What it raises is logged, not raised. Cancelling this cancels the work, or the wait for its
        next start, and it is not started again, whatever it makes of its cancellation.
        """
        cancels = _cancels()
        while not self.gave_up:
            self._restarts.note_start()
            try:
                await work()
            except Exception as error:
                if _cancels() > cancels:
                    raise asyncio.CancelledError from error
                await self._after(error)
            except (SystemExit, asyncio.CancelledError) as error:
                if _cancels() > cancels:
                    raise
                await self._after(_by_itself(error))
            else:
                return

    async def _after(self, failure: Exception) -> None:
        delay_s = self._restarts.next_delay()
        if delay_s is None:
            await self._give_up(failure)
            return
        get_logger().warning("restarting", what=self.name, after_s=round(delay_s, 2), exc_info=failure)
        await self._sleep(delay_s)

    async def _give_up(self, failure: Exception) -> None:
        self.gave_up = True
        get_logger().error("given_up", what=self.name, error=brief(failure))
        if self._on_fatal is None:
            return
        try:
            await finish(self._on_fatal(failure))
        except Exception:
            get_logger().exception("on_fatal_failed", what=self.name)


def _cancels() -> int:
    """How often our own task was cancelled so far; a CancelledError without that is the work's own."""
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _by_itself(error: BaseException) -> Exception:
    failure = RuntimeError(f"it raised {type(error).__name__} by itself")
    failure.__cause__ = error
    return failure
