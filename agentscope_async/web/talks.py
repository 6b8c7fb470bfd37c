"""Turns as the web sees them: events that can be followed, left, and followed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from secrets import token_hex
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import ConfigError, InterruptedTurnError, RuntimeClosedError
from ..logging import brief, get_logger
from ..message import ContentPart, Speech
from .problems import INTERNAL, Problem, Refusal, problem_of
from .talk_events import LAST, EventLog

if TYPE_CHECKING:
    from types import TracebackType

    from ..message import Msg
    from ..runtime import Runtime
    from .talk_events import TalkEvent

__all__ = ["Place", "Talk", "Talks", "ask_person"]


class Talk:
    """One turn of an agent on behalf of a web client.

    It runs in a task of the runtime while somebody follows it, and ``linger_s`` longer. If it
    is resumable, what happened meanwhile is kept, and can be followed later.

    Attributes:
        id: unguessable, as it lets whoever has it follow the turn.
        owner: whose it is: the key of the session, or "".
        reply: what the agent answered, once it has.
        error: what the turn failed with.
        is_resumable: a client that has left may come back to it.
        is_over: the turn has ended, in whatever way, and there will be no more events.
    """

    def __init__(
        self,
        place: Place,
        agent: Any,
        msg: Msg,
        *,
        owner: str,
        takes_input: bool = False,
        is_resumable: bool = False,
    ) -> None:
        self.id = token_hex(16)
        self.owner = owner
        self.reply: Msg | None = None
        self.error: BaseException | None = None
        self.is_over = False
        self._problem = _CANCELLED
        self._place = place
        self._talks = place.talks
        self._agent = agent
        self._msg = msg
        self._takes_input = takes_input
        self.is_resumable = is_resumable and self._talks.linger_s > 0
        self._interruption: Exception | None = None
        self._events = EventLog(keeps_all=self.is_resumable)
        self._task: asyncio.Task[None] | None = None
        self._followers = 0
        self._ending: asyncio.TimerHandle | None = None
        self._questions: dict[str, asyncio.Future[str]] = {}

    def begin(self, runtime: Runtime, *, is_heard: bool) -> None:
        """Start the turn; heard, the agent's model is asked for a stream."""
        self._talks.add(self)
        work = self._run() if is_heard else self._run_unheard()
        self._task = runtime.start(work, _nothing, name=f"web turn of {self._agent.name}")
        self._task.add_done_callback(self._finish)

    def join(self) -> None:
        """Count one more who follows; each leaves again."""
        self._followers += 1
        self._stay()

    async def leave(self) -> None:
        """Count one less; the last one's leaving ends the turn, at once or after ``linger_s``.

        At once means that the turn, and the model call behind it, has ended on return.
        """
        self._followers -= 1
        if self._followers:
            return
        if self.is_over or self._task is None:
            self._place.leave()
        linger_s = self._talks.linger_s if self._may_be_missed() else 0.0
        if linger_s:
            self._ending = asyncio.get_running_loop().call_later(linger_s, self._expire)
            if self.is_over:
                self._talks.keep(self)
            return
        self._expire()
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def follow(self, after: int = 0) -> AsyncGenerator[TalkEvent, None]:
        """Yield the events after that number, those of the past first, until the turn is over."""
        while True:
            grown = self._events.grown
            for event in self._events.take(after):
                after = event.number
                self._events.hear(event)
                if event.kind in LAST and self._followers == 1:
                    self._place.leave()  # whoever has this event may speak again
                yield event
            if grown is self._events.grown:
                if self.is_over:
                    return
                await grown.wait()

    async def result(self) -> Msg:
        """Wait for the turn to end, and return the reply.

        Raises:
            Refusal: there is none; it says what its client may know.
        """
        assert self._task is not None
        await asyncio.wait([self._task])
        if self.reply is not None:
            return self.reply
        raise Refusal.of(self._problem) from self.error

    def interrupt(self, reason: str | None) -> bool:
        """End this turn, whether it runs, waits for others of its agent or has not begun; False: it is over.

        Not the agent's running turn, which may be somebody else's.
        """
        return self._end_with(InterruptedTurnError(self._agent.name, reason))

    def close(self) -> None:
        """End this turn, as the service closes; those who follow it are told so."""
        self._end_with(RuntimeClosedError("The service closes."))

    def _end_with(self, error: Exception) -> bool:
        if self._task is None or self._task.done():
            return False
        if self._interruption is None:
            self._interruption = error
            self._task.cancel()
        return True

    def discard(self, reason: str) -> None:
        """Interrupt this turn if it is not over, and let nobody follow it again."""
        self.is_resumable = False
        if not self.interrupt(reason):
            self.forget()

    @property
    def events(self) -> int:
        """How many there were so far."""
        return self._events.count

    def answer(self, question: str, text: str) -> bool:
        """Give a person's answer to an ``input_request``; False: that is not open."""
        waiting = self._questions.pop(question, None)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(text)
        return True

    # -- inside the turn --

    async def _run(self) -> None:
        _current.set(self)
        try:
            async with self._agent.stream(self._msg) as stream:
                async for speech in stream:
                    self._hear(speech)
            self.reply = stream.msg
        except Exception as error:
            self.error = error

    async def _run_unheard(self) -> None:
        _current.set(self)
        try:
            self.reply = await self._agent(self._msg)
        except Exception as error:
            self.error = error

    def _hear(self, speech: Speech) -> None:
        if isinstance(speech.data, ContentPart):
            self._events.add(speech.kind, speech.data.to_dict())
        else:
            self._events.add("speech", {"kind": speech.kind, "text": speech.text})

    async def ask(self, prompt: str) -> str:
        """Ask the person at the other end; see :func:`ask_person`."""
        if not self._takes_input:
            raise Refusal(409, "no_person", "This agent asks back; talk to it over its websocket.")
        if self.is_over:
            raise _gone()
        question = token_hex(8)
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._questions[question] = waiting
        self._events.add("input_request", {"id": question, "prompt": prompt})
        try:
            return await waiting
        finally:
            self._questions.pop(question, None)

    def _finish(self, task: asyncio.Task[None]) -> None:
        # Its last event and its end are one: whoever has seen the one finds the other.
        try:
            self._conclude()
        except Exception as error:  # an error, or a reply, of a class of the application's own
            self.reply, self.error, self._problem = None, error, INTERNAL
            get_logger().error("web_turn_failed", type=INTERNAL.type, error=brief(error), exc_info=error)
            self._events.add("error", INTERNAL.to_dict())
        self.is_over = True
        for waiting in self._questions.values():  # of work in the background, which the turn did not wait for
            if not waiting.done():
                waiting.set_exception(_gone())
        if not self._followers:
            self._place.leave()
        if not self._followers and (self._ending is None or not self.is_resumable):
            self.forget()
        elif not self._followers:
            self._talks.keep(self)

    def _conclude(self) -> None:
        if self.reply is None:
            self.error = self._interruption or self.error
            self._problem = problem_of(self.error) if self.error is not None else _CANCELLED
            self._events.add("error", self._problem.to_dict())
            return
        if (usage := self.reply.get("usage")) is not None:
            self._events.add("usage", usage._asdict())
        self._events.add("message", self.reply.to_dict())

    def _may_be_missed(self) -> bool:
        # Also what was sent to its end: how much of that has arrived nobody knows.
        return self._task is not None and (self.is_resumable or not self.is_over)

    def _stay(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _expire(self) -> None:
        if self._task is not None and not self._task.done():
            self._ending = None
            self._task.cancel()
        else:
            self.forget()

    def forget(self) -> None:
        """Let go of a turn that is over, or was never begun: nobody can follow it any more."""
        self._stay()
        self._place.leave()
        self._talks.forget(self)


class Place:
    """Room for one turn: ``with talks.place() as place``, in which the turn is made.

    It is given back if that fails, or when the turn is over; a turn that is lost sight of
    before it begins has none, either.
    """

    def __init__(self, talks: Talks) -> None:
        self.talks = talks

    def leave(self) -> None:
        """Give it back; more than once does no harm."""
        self.talks.give_back(self)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.leave()


class Talks:
    """The turns of the clients of one router."""

    def __init__(self, *, linger_s: float, max_turns: int, retry_after_s: int) -> None:
        """Keep turns ``linger_s`` after their client has left, and refuse more than ``max_turns`` at once.

        No more than ``max_turns`` are kept that are over, the latest.
        """
        self.linger_s = linger_s
        self.max_turns = max_turns
        self.retry_after_s = retry_after_s
        # Weak, as whoever answers a request may fail between making a turn and beginning it.
        self._places: WeakSet[Place] = WeakSet()
        self._by_id: dict[str, Talk] = {}
        self._kept: dict[Talk, None] = {}

    @property
    def running(self) -> int:
        """How many turns run now, or are about to."""
        return len(self._places)

    def place(self) -> Place:
        """Take room for a turn, at once; refuse with 503 if as many have it as may."""
        if len(self._places) >= self.max_turns:
            raise Refusal(
                503, "overloaded", "Too many turns are running; try again soon.", self.retry_after_s
            )
        place = Place(self)
        self._places.add(place)
        return place

    def give_back(self, place: Place) -> None:
        """Let another turn have this room."""
        self._places.discard(place)

    def find(self, id: str, owner: str, *, after: int) -> Talk:
        """Return a turn that can be followed again after an event, for whom it belongs to.

        Raises:
            Refusal: there is none, or not for them, or it has no such event yet.
        """
        talk = self._by_id.get(id)
        if talk is None or talk.owner != owner or not talk.is_resumable:
            raise Refusal(410, "turn_gone", "This turn is not kept; look at the history and ask again.")
        if after > talk.events:
            raise Refusal(400, "bad_event_id", "Last-Event-ID is the id of an event of this turn.")
        self._kept.pop(talk, None)  # until it is left again
        return talk

    def add(self, talk: Talk) -> None:
        """Note a turn that begins."""
        self._by_id[talk.id] = talk

    def discard(self, owner: str, reason: str) -> None:
        """Interrupt the turns of an owner, and keep none of them that is over."""
        for talk in [each for each in self._by_id.values() if each.owner == owner]:
            talk.discard(reason)

    def keep(self, talk: Talk) -> None:
        """Keep a turn that is over for its client to come back to; the oldest go if they are too many."""
        self._kept[talk] = None
        while len(self._kept) > self.max_turns:
            next(iter(self._kept)).forget()

    def forget(self, talk: Talk) -> None:
        """Keep a turn no longer."""
        self._kept.pop(talk, None)
        self._by_id.pop(talk.id, None)


_CANCELLED = Problem(409, "cancelled", "The turn was cancelled.")
_current: ContextVar[Talk | None] = ContextVar("agentscope_async.web.talk", default=None)


async def ask_person(prompt: str) -> str:
    """Ask the person at the other end of the websocket: ``UserAgent("Ann", source=ask_person)``.

    Waits for as long as it takes; a person who leaves cancels the turn.

    Raises:
        ConfigError: nobody talks to this agent through ``expose``, or the turn is over.
        Refusal: they do, and not over its websocket; they are told.
    """
    talk = _current.get()
    if talk is None:
        raise ConfigError("ask_person() asks whoever talks to an agent through `expose`; nobody does here.")
    return await talk.ask(prompt)


def _gone() -> ConfigError:
    return ConfigError("The turn in which a person could be asked is over.")


def _nothing() -> None:
    pass
