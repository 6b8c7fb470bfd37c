"""One SQLite file, written by one thread: many waiting writers share a commit.

The event loop never touches SQLite. Jobs go to a thread that runs all that are waiting
in one transaction and answers when it is committed (group commit). What was answered
survives the death of the process: write-ahead log, ``synchronous=NORMAL``. Loss of power
may take the last commits. The file must be on a local disk (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from ..errors import AgentScopeError
from ..logging import get_logger

__all__ = ["Answers", "Session", "Store"]

LOCK_PATIENCE_S = 60.0
"""How long to wait for other processes that write the same file."""

EXIT_PATIENCE_S = 5.0
"""How long a program that ends without ``aclose`` waits for what was counted to be written."""


class Session(Protocol):
    """What an open file is to its jobs. All of it is called on the writing thread."""

    def begin(self) -> None:
        """Read what other processes may have changed; the transaction has just begun."""

    def finish(self) -> None:
        """Write what the jobs changed; the commit comes next."""

    def discard(self) -> None:
        """Forget what the jobs changed: the transaction was rolled back."""

    def close(self) -> None:
        """Let go of everything but the connection."""


S = TypeVar("S", bound=Session)
T = TypeVar("T")


class Answers:
    """Results for futures of any event loop; each loop is woken once for all of its own."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, Any]]] = {}

    def add(self, future: asyncio.Future[T], result: T | None, error: BaseException | None = None) -> None:
        """Note one answer; it is given by ``send``."""
        self._by_loop.setdefault(future.get_loop(), []).append((future, result, error))

    def send(self) -> None:
        """Give all answers; those for loops that are closed by now are dropped."""
        for loop, answers in self._by_loop.items():
            try:
                loop.call_soon_threadsafe(_give, answers)
            except RuntimeError:  # closed: nobody there waits any more
                continue


Done: TypeAlias = Callable[[Answers, Any, "Exception | None"], None]
"""Called on the writing thread with a job's result after the commit, or with its error."""


@dataclass(slots=True)
class _Job:
    work: Callable[[Any], Any]
    done: Done
    due_at: float


@dataclass(slots=True)
class _Stop:
    ended: asyncio.Future[None] | None


class Store(Generic[S]):
    """Hand jobs to the thread that writes ``path``; it starts with the first one.

    A job is a plain function of the open session. One that raises anything but
    ``sqlite3.Error`` must not have changed anything before. Jobs run in the order they were
    handed in. A closed store opens again when it is used again.
    """

    def __init__(self, path: str | Path, open_session: Callable[[sqlite3.Connection], S]) -> None:
        # Made absolute here: the program may change its directory before the first job.
        self._path = Path(path).absolute()
        self._open_session = open_session
        self._lock = threading.Lock()
        self._writer: _Writer | None = None

    @property
    def is_open(self) -> bool:
        """Something was handed in since the store was made or closed."""
        return self._writer is not None

    def submit(self, work: Callable[[S], Any], done: Done, *, within_s: float = 0.0) -> None:
        """Have ``work`` run, at the latest ``within_s`` seconds from now. Never blocks."""
        job = _Job(work, done, time.monotonic() + within_s if within_s else 0.0)
        with self._lock:
            if self._writer is None:
                self._writer = _Writer(self._path, self._open_session)
                weakref.finalize(self, self._writer.stop).atexit = False
            self._writer.jobs.put(job)

    async def run(self, work: Callable[[S], T]) -> T:
        """Run ``work`` and return its result once it is committed.

        A caller that is cancelled does not stop it: it may or may not have happened.

        Raises:
            AgentScopeError: the file could not be read or written.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(work, partial(_answer, future))
        return await future

    async def aclose(self) -> None:
        """Finish what was handed in, close the file and end the thread."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            writer.stop(ended)
            await ended


@dataclass(eq=False)
class _Writer:
    """The thread of a store. It knows the store's jobs, but not the store, which may go before it."""

    path: Path
    open_session: Callable[[sqlite3.Connection], Session]
    jobs: queue.SimpleQueue[_Job | _Stop] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self._held: list[_Job] = []
        self._stopped_by: list[_Stop] = []
        self._connection: sqlite3.Connection | None = None
        self._session: Session | None = None
        self.thread = threading.Thread(target=self._serve, name=f"writer of {self.path.name}", daemon=True)
        _writers.add(self)
        self.thread.start()

    def stop(self, ended: asyncio.Future[None] | None = None) -> None:
        """End after the jobs handed in so far."""
        self.jobs.put(_Stop(ended))

    def _serve(self) -> None:
        while not self._stopped_by:
            # No name here for a batch: its jobs would keep their owner alive while we wait.
            self._run(self._next_batch())
        self._close()
        answers = Answers()
        for stop in self._stopped_by:
            if stop.ended is not None:
                answers.add(stop.ended, None)
        answers.send()

    def _next_batch(self) -> list[_Job]:
        """Return all jobs handed in, in order, as soon as one of them is due."""
        while True:
            due_at = min((job.due_at for job in self._held), default=None)
            wait_s = None if due_at is None else max(0.0, due_at - time.monotonic())
            try:
                entry = self.jobs.get(block=wait_s != 0.0, timeout=wait_s)
            except queue.Empty:
                if wait_s == 0.0:
                    break
                continue
            if isinstance(entry, _Stop):
                self._stopped_by.append(entry)
                break
            self._held.append(entry)
        batch, self._held = self._held, []
        return batch

    def _run(self, batch: list[_Job]) -> None:
        if not batch:
            return
        try:
            outcomes = self._transact(batch)
        except (sqlite3.Error, OSError) as error:
            outcomes = [(None, self._failure(error)) for _ in batch]
        answers = Answers()
        for job, (result, failure) in zip(batch, outcomes, strict=True):
            try:
                job.done(answers, result, failure)
            except Exception:  # the thread serves others too
                get_logger().exception("a writer's job could not be answered", file=str(self.path))
        answers.send()

    def _transact(self, batch: list[_Job]) -> list[tuple[Any, Exception | None]]:
        connection, session = self._open()
        _patiently(partial(connection.execute, "BEGIN IMMEDIATE"))
        try:
            session.begin()
            outcomes = [_outcome(job, session) for job in batch]
            session.finish()
            _patiently(connection.commit)
        except BaseException:
            connection.rollback()
            session.discard()
            raise
        return outcomes

    def _open(self) -> tuple[sqlite3.Connection, Session]:
        if self._connection is None or self._session is None:
            connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None)
            try:
                _patiently(partial(connection.execute, "PRAGMA journal_mode=WAL"))
                connection.execute("PRAGMA synchronous=NORMAL")
            except BaseException:
                connection.close()
                raise
            self._connection, self._session = connection, self.open_session(connection)
        return self._connection, self._session

    def _close(self) -> None:
        session, connection = self._session, self._connection
        self._session = self._connection = None
        if session is None or connection is None:
            return
        try:
            session.close()
        except (sqlite3.Error, OSError) as error:
            get_logger().warning("a file could not be closed in order", file=str(self.path), error=str(error))
        finally:
            connection.close()

    def _failure(self, error: Exception) -> AgentScopeError:
        failure = AgentScopeError(
            f"{self.path} could not be read or written: {error}. "
            f"It must be a SQLite file, or a new one, on a local disk, that this process may write."
        )
        failure.__cause__ = error
        return failure


def _outcome(job: _Job, session: Session) -> tuple[Any, Exception | None]:
    try:
        return job.work(session), None
    except sqlite3.Error:
        raise  # the whole transaction is in doubt
    except Exception as error:  # this job's alone: it has changed nothing
        return None, error


def _patiently(step: Callable[[], Any]) -> None:
    """Take a step that another process may lock us out of, until it succeeds.

    SQLite's own busy handler sleeps up to 100 ms at a time, and is not asked at all when
    two connections turn on the write-ahead log at once.
    """
    give_up_at = time.monotonic() + LOCK_PATIENCE_S
    pause_s = 0.0002
    while True:
        try:
            step()
            return
        except sqlite3.OperationalError as error:
            is_locked = (error.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not is_locked or time.monotonic() > give_up_at:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(pause_s * 1.5, 0.005)


def _answer(future: asyncio.Future[Any], answers: Answers, result: Any, error: Exception | None) -> None:
    answers.add(future, result, error)


def _give(answers: list[tuple[asyncio.Future[Any], Any, Any]]) -> None:
    for future, result, error in answers:
        if future.done():  # its task was cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


_writers: weakref.WeakSet[_Writer] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Write what is still waiting when the program ends, within a time limit."""
    writers = list(_writers)
    for writer in writers:
        writer.stop()
    give_up_at = time.monotonic() + EXIT_PATIENCE_S
    for writer in writers:
        writer.thread.join(max(0.0, give_up_at - time.monotonic()))
