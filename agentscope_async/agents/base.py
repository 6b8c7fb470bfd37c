"""What every agent is: await it with a message, get a message."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

from .. import _context
from .._deadlock import Blocked
from .._letters import Mail
from .._stopping import when_stopped
from .._turn import Turn, current_turn
from .._work import hand_on, hand_on_inline
from ..errors import (
    AgentScopeWarning,
    AskTimeoutError,
    CancellationSwallowedError,
    ConfigError,
    DeadlockError,
    InvalidReplyError,
    MessageError,
    NoRuntimeError,
    ReplyExitError,
)
from ..events import TurnEnded, TurnStarted
from ..logging import brief, show_if_set_up
from ..mailbox import DEFAULT_CAPACITY, Mailbox, Overflow, check_options
from ..memory import TemporaryMemory
from ..message import Msg, Speech
from ..models.config import find_model
from ..reply import Reply
from ._config import set_attributes, settings_of
from ._mail import (
    POST,
    Circle,
    Member,
    announce,
    incoming,
    pass_on,
    post_errand,
    send,
    start_all,
    submission,
)
from .stream import AgentStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..memory import MemoryBase
    from ..models.base import ModelWrapperBase
    from ..node.remote import RemoteAgent
    from ..watching import Watch

__all__ = ["AgentBase", "AgentLike", "Operator"]


class Operator(Protocol):
    """Whatever can be awaited with a message: an agent, a pipeline, a remote agent, a plain ``async def``."""

    def __call__(self, x: Any = None, /) -> Awaitable[Any]:
        """Take a message, give one back."""


AgentLike: TypeAlias = Operator


class _Unmade:
    """Stands for a memory that is made when first asked for. The class itself: copies keep it what it is."""


_UNMADE: Any = _Unmade
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DEFAULT_OPTIONS: tuple[int, Overflow] = (DEFAULT_CAPACITY, "wait")
_SETTINGS = {
    "class", "name", "sys_prompt", "use_memory", "capacity", "overflow", "model", "model_config_name",
}  # fmt: skip
"""Those of every agent."""
_current_task = asyncio.current_task
_get_turn = current_turn.get
_set_turn = current_turn.set
_new_turn = object.__new__


MAX_STREAK = 64
"""So many turns a task may take in a row before the event loop is let run."""


class _Streak:
    """The task that took the last turn, by its id, and how many before that one."""

    __slots__ = ("task", "turns")

    def __init__(self) -> None:
        self.task = 0
        self.turns = 0


_streak = _Streak()


class AgentBase(Member):
    """An actor: private state, a mailbox, one message at a time.

    Subclasses write ``async def reply(self, x)``, and change their own state in it as
    they like: no second message is handled before it has returned. A turn that fails or
    is cancelled leaves the memory as it was before (set ``keeps_failed_turns = True`` to
    keep what was added).

    Calling ``reply`` directly goes past the mailbox; call the agent.
    """

    # A wrapper in subclasses that cannot do without; None is theirs to refuse.
    model: Any

    __slots__ = ("name", "sys_prompt", "model", "_memory", "_mailbox", "_options", "_runtime", "_circles")

    keeps_failed_turns: ClassVar[bool] = False
    _observes_plainly: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        sys_prompt: str | None = None,
        model: ModelWrapperBase | dict[str, Any] | str | None = None,
        *,
        model_config_name: str | None = None,
        use_memory: bool = True,
        memory: MemoryBase | None = None,
        capacity: int = DEFAULT_CAPACITY,
        overflow: Overflow = "wait",
    ) -> None:
        """Make an agent; no event loop or runtime is needed yet.

        Args:
            name: free text of 1 to 200 characters without control characters; need not be unique.
            sys_prompt: what the agent is told to be.
            model: a wrapper, a configuration of one or its name, or ``"provider:model"``.
            model_config_name: AgentScope v0.0.2's keyword for ``model``.
            use_memory: False: the agent has no memory, ``agent.memory`` is None.
            memory: the memory to use; a TemporaryMemory when not given.
            capacity: how many letters may wait.
            overflow: what becomes of one more: ``"wait"``, ``"reject"``, ``"drop_oldest"`` or
                ``"drop_newest"``.

        Raises:
            ConfigError: the name, the model or an option is not valid.
        """
        is_plain = type(name) is str and 0 < len(name) <= 200 and name.isascii() and name.isprintable()
        self.name = name if is_plain else _checked_name(name)
        self.sys_prompt = sys_prompt
        self._runtime = _context.find_runtime() if _context.open_runtimes else None
        self.model = None
        if model is not None or model_config_name is not None:
            self.model = _find_model(model, model_config_name, self._runtime)
        if memory is not None and not hasattr(memory, "mark"):
            raise ConfigError(f"memory= is a MemoryBase, not {type(memory).__name__}; lists: load_memory().")
        self._memory: Any = (_UNMADE if memory is None else memory) if use_memory else None
        self._mailbox: Mailbox | None = None
        self._circles: tuple[Circle, ...] = ()
        if capacity == DEFAULT_CAPACITY and overflow == "wait":
            self._options = _DEFAULT_OPTIONS
        else:
            check_options(capacity, overflow)
            self._options = (capacity, overflow)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own_reply = cls.__dict__.get("reply")
        if inspect.isfunction(own_reply) and not inspect.iscoroutinefunction(inspect.unwrap(own_reply)):
            raise TypeError(
                f"{cls.__name__}.reply is a plain function; write `async def reply(self, x=None)`"
            )
        own_observe = cls.__dict__.get("observe")
        if own_observe is not None:
            cls.observe = _in_a_turn(own_observe)  # type: ignore[method-assign,assignment]
            cls._observes_plainly = False

    # -- what subclasses write --

    async def reply(self, x: Any = None) -> Msg:
        """Answer one message. Subclasses write this."""
        raise NotImplementedError(f"{type(self).__name__} must write `async def reply(self, x=None)`")

    # -- what callers use --

    def __call__(self, x: Any = None, **kwargs: Any) -> Coroutine[Any, Any, Msg]:
        """Ask: one turn of this agent, in this task, and its reply.

        ``x`` is a message, a bare string (a user's message), a list of messages, a
        :class:`Reply` to wait for, or None. Further keywords go to ``reply``. Messages are
        handled in the order they were sent. Cancelling the caller cancels the turn.

        Raises:
            DeadlockError: this agent, perhaps through others, waits for the caller.
            AgentStoppedError: the agent is stopped.
            MailboxFullError: the overflow policy turned the message away.
            InterruptedTurnError: ``interrupt`` ended the turn.
            AskTimeoutError: the runtime's ``ask_timeout_s`` ran out.
        """
        # Not `async`: the coroutine of the turn itself is handed out, one frame less for each ask.
        if _context.attentive:
            return self._watched(x, kwargs, None)
        return self._take_turn(None, x, kwargs or None)

    def stream(self, x: Any = None, **kwargs: Any) -> AgentStream:
        """Ask, and hear the answer while it is being given: ``async with agent.stream(x) as s``.

        ``async for speech in s`` yields :class:`Speech`; ``s.msg`` is the reply once that has
        ended. Leaving the block early cancels the turn.
        """
        return AgentStream(self, x, kwargs)

    def submit(self, x: Any = None, **kwargs: Any) -> Reply:
        """Ask now, wait later: place the message and return a :class:`Reply` to await or pass on.

        Raises:
            NoRuntimeError: there is no open runtime to do the work.
            AgentStoppedError: the agent is stopped.
            MailboxFullError: the mailbox is full and its policy is ``"reject"``.
        """
        runtime = self._need_runtime("submit")
        mailbox = self.mailbox
        errand = submission(kwargs)
        letter = Mail(self, incoming(x), errand, runtime)
        errand.reply = Reply(self.name, mailbox, letter)
        send(mailbox, letter, runtime)
        return errand.reply

    async def post(self, x: Any = None) -> None:
        """Tell: place the message and go on; returns once the mailbox has admitted it.

        What the agent answers is dropped; what it raises is logged, handed to the
        runtime's ``on_error`` and ends as a dead letter. Messages that are handled one
        right after the other share a task, and so the context variables a handler sets.

        Raises:
            NoRuntimeError: there is no open runtime to do the work.
            AgentStoppedError: the agent is stopped.
            MailboxFullError: the mailbox is full and its policy is ``"reject"``.
            DeadlockError: the mailbox is full and waits for the sender.
        """
        runtime = self._runtime
        if runtime is None or not runtime.is_open:
            runtime = self._need_runtime("post")
        mailbox = self._mailbox
        if mailbox is None:
            mailbox = self.mailbox
        errand = post_errand() if _context.letters_carry else POST
        letter = Mail(self, x if type(x) is Msg else incoming(x), errand, runtime)
        letters = mailbox._letters
        if letters is not None and letters[-1].runtime is runtime and len(letters) < mailbox.capacity:
            # What send() does behind another letter of this runtime, whose loop is known to go on.
            runtime.accept_more()
            letters.append(letter)
        elif send(mailbox, letter, runtime) is False and mailbox.is_over_capacity():
            try:
                await mailbox.admission(letter, current_turn.get())
            except BaseException:
                if mailbox.withdraw(letter):
                    letter.settle()
                raise

    async def observe(self, x: Any) -> None:
        """Remember a message, or a list of them, without replying.

        Takes a turn, so it keeps its place among other messages. A subclass may write its
        own; that too is run as a turn.
        """
        mailbox = self.mailbox
        x = incoming(x)
        if mailbox._turn is None and not isinstance(x, Reply):
            self._remember(x)
            mailbox.handled += 1
        elif self._has_turn():
            self._remember(x)
        else:
            await self._take_turn(self._observe_now, x)

    async def _observe_now(self, x: Any) -> None:
        self._remember(x)

    async def speak(self, content: Msg | Speech | str) -> None:
        """Say something aloud: to whoever streams this turn, the chat log and the terminal.

        A :class:`Speech` is a piece of an answer and goes to the stream only.
        """
        listener = self._listener()
        if listener is not None:
            await listener.hear(content)
        if isinstance(content, Speech):
            return
        msg = content if isinstance(content, Msg) else Msg(self.name, content, "assistant")
        runtime = _context.find_runtime(self._runtime)
        if runtime is not None:
            runtime.show(msg)
        else:
            show_if_set_up(msg)

    @property
    def is_heard(self) -> bool:
        """Somebody streams the turn being handled, so speaking piece by piece is worth it."""
        return self._listener() is not None

    async def interrupt(self, reason: str | None = None) -> bool:
        """End the running turn: its asker gets InterruptedTurnError, the mailbox goes on.

        Returns whether there was one. Within that turn itself, it raises that error.
        """
        turn = self._mailbox.turn if self._mailbox is not None else None
        if turn is None:
            return False
        turn.interrupt(reason)
        return True

    async def stop(self) -> None:
        """Take no more messages, answer waiting ones with AgentStoppedError, wait for the current turn.

        From inside that turn, or one it waits for, it returns at once.
        """
        mailbox = self.mailbox
        mailbox.stop()
        try:
            with Blocked(current_turn.get(), mailbox, self.name):
                await mailbox.until_idle()
        except DeadlockError:
            return  # our own turn will end after this; nobody else's can come

    # -- memory, settings, state --

    @property
    def memory(self) -> MemoryBase | None:
        """The agent's memory; None with ``use_memory=False``."""
        if self._memory is _UNMADE:
            self._memory = TemporaryMemory()
        memory: MemoryBase | None = self._memory
        return memory

    @memory.setter
    def memory(self, memory: MemoryBase | None) -> None:
        self._memory = memory

    @property
    def mailbox(self) -> Mailbox:
        """The agent's mailbox; ``agent.mailbox.statistics()`` says how it fares."""
        if self._mailbox is None:
            self._mailbox = Mailbox(*self._options)
        return self._mailbox

    def load_memory(self, memory: Sequence[Msg | dict[str, Any]] | str) -> None:
        """Add messages to the memory: a list of them, a JSON text or the path of a JSON file.

        Raises:
            ConfigError: the agent has no memory.
            MessageError: something in it is not a message; nothing is added then.
        """
        if self.memory is None:
            raise ConfigError(f"Agent {self.name!r} was made with use_memory=False and can remember nothing.")
        self.memory.load(memory)

    def export_config(self) -> dict[str, Any]:
        """Return the arguments that make another agent like this one, as JSON values, and its ``"class"``.

        Every argument of the class is read from the attribute of the same name, also those it
        passes on to AgentBase; one with a default that is not kept under its name is left out.
        The model is a name or a configuration, never with a key. What the agent remembers is not
        among these: see :meth:`state`.

        Raises:
            ConfigError: an argument is not kept under its name, or is no JSON value.
        """
        return settings_of(self)

    def load_from_config(self, config: dict[str, Any]) -> None:
        """Take over settings from :meth:`export_config`; what is missing stays as it is.

        Arguments that a subclass adds are set as the attributes of these names.

        Raises:
            ConfigError: the settings are another class's, or one cannot be set; nothing is changed then.
        """
        if config.get("class", type(self).__name__) != type(self).__name__:
            raise ConfigError(
                f"These are the settings of a {config['class']}, this is a {type(self).__name__}."
            )
        name = _checked_name(config.get("name", self.name))
        options = (config.get("capacity", self._options[0]), config.get("overflow", self._options[1]))
        check_options(*options)
        model = self.model
        if "model" in config or "model_config_name" in config:
            model = _find_model(config.get("model"), config.get("model_config_name"), self._runtime)
        set_attributes(self, {key: value for key, value in config.items() if key not in _SETTINGS})
        self.name, self._options, self.model = name, options, model
        self.sys_prompt = config.get("sys_prompt", self.sys_prompt)
        if self._mailbox is not None:
            self._mailbox.capacity, self._mailbox.overflow = options
        has_memory = self._memory is not None
        if config.get("use_memory", has_memory) != has_memory:
            self._memory = None if has_memory else _UNMADE

    def to_dist(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        max_pool_size: int = 8192,
        max_timeout_seconds: float = 1800,
        launch_server: bool | None = None,
        local_mode: bool = True,
        lazy_launch: bool = True,
        token: str | None = None,
        beside: Any = None,
    ) -> RemoteAgent:
        """Return the same agent, with its settings and memory, in a process of its own or on another node.

        The process is started when the agent is first used, is started again when it ends unasked
        (the agent then has the memory it began with), and ends with the runtime, however that ends.
        This agent itself stays as it is.

        Args:
            host: where a node runs on which the agent is to be made; it must allow the class. None:
                a child process.
            port: of that node; or where the child listens, None: any port that is free.
            max_pool_size: so many results of ``submit`` are kept over there until they are fetched.
            max_timeout_seconds: how long they are kept.
            launch_server: True with a host: start a child that listens there. False: use the node there.
            local_mode: False: the child listens on every interface of this machine, not on loopback only.
            lazy_launch: False: start the process now.
            token: shown to the node at ``host``; the runtime's own when not given.
            beside: an agent that to_dist() gave: use the same child process.

        Raises:
            NoRuntimeError: there is no open runtime to own the process.
            ConfigError: another process cannot make this agent, or count in the runtime's budget, which
                is in memory; or the options do not go together.
        """
        is_launched = host is None if launch_server is None else launch_server
        if not is_launched and port is None:
            raise ConfigError("to_dist() to a node that runs already needs its port.")
        options = {
            "host": host, "port": port or 0, "is_launched": is_launched, "is_local": local_mode,
            "is_lazy": lazy_launch, "kept_replies": max_pool_size, "kept_reply_s": max_timeout_seconds,
            "token": token, "beside": beside,
        }  # fmt: skip
        return self._need_runtime("to_dist").distribute(self, options)  # type: ignore[no-any-return]

    async def state(self) -> dict[str, Any]:
        """Return what the agent remembers as JSON values; waits for a turn, so it is never half a turn's.

        Subclasses with more state add their own keys, and read them in :meth:`load_state`.
        """

        async def read(x: None) -> dict[str, Any]:
            memory = self.memory
            if memory is None:
                return {"memory": None}
            return {"memory": [m.to_dict() if isinstance(m, Msg) else m for m in memory.get_memory()]}

        if self._has_turn() or (self.mailbox.is_stopped and self.mailbox.is_idle):
            return await read(None)
        state: dict[str, Any] = await self._take_turn(read, None)
        return state

    async def load_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned, in place of what is remembered now.

        Raises:
            MessageError: a message in it is not one; nothing is changed then.
            ConfigError: there is something to remember, and the agent has no memory.
        """
        units = state.get("memory", [])
        if "memory" not in state or not (units is None or isinstance(units, list)):
            raise MessageError("memory", "must be a list of messages, or null for an agent without a memory")
        if units and self._memory is None:
            raise ConfigError(f"Agent {self.name!r} was made with use_memory=False and can remember nothing.")
        remembered = [Msg.from_dict(each) if _is_msg(each) else each for each in units or []]

        async def write(x: None) -> None:
            if self.memory is not None:
                self.memory.load(remembered, overwrite=True)

        if self._has_turn():
            await write(None)
        else:
            await self._take_turn(write, None)

    # -- audiences, AgentScope v0.0.2's way to share what is said; msghub is the easier one --

    def reset_audience(self, audience: Sequence[Any]) -> None:
        """Let these agents, less this one, observe every reply.

        Raises:
            TypeError: one of them is not an agent.
        """
        for each in audience:
            if not isinstance(each, Member):
                raise TypeError(f"An audience is made of agents, not {type(each).__name__}")
        self.clear_audience()
        self._circles = (*self._circles, _Audience(each for each in audience if each is not self))

    def clear_audience(self) -> None:
        """Let nobody observe, apart from hubs this agent is in."""
        self._circles = tuple(circle for circle in self._circles if not isinstance(circle, _Audience))

    def rm_audience(self, audience: Any) -> None:
        """Let this agent, or these, no longer observe; one that does not is warned about."""
        members = [m for circle in self._circles if isinstance(circle, _Audience) for m in circle.members]
        for agent in audience if isinstance(audience, (list, tuple)) else [audience]:
            if agent in members:
                members.remove(agent)
            else:
                warnings.warn(
                    f"Agent {getattr(agent, 'name', agent)!r} is not in the audience of {self.name!r}.",
                    AgentScopeWarning,
                    stacklevel=2,
                )
        self.reset_audience(members)

    def _watch(self, watch: Watch) -> None:
        """Have a watch fire once this agent is stopped; see ``rt.watch``."""
        watch.on_end(when_stopped(self.mailbox, functools.partial(watch.fire, "stopped")))

    def __getstate__(self) -> Any:
        """Copy and pickle what the agent is, not where it is: no mailbox, runtime or hub."""
        state: Any = super().__getstate__()
        own, slots = state  # a pair, as the class has slots
        return own, {**slots, "_mailbox": None, "_runtime": None, "_circles": ()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    # -- one turn --

    async def _take_turn(
        self,
        act: Callable[[Any], Awaitable[Any]] | None,
        x: Any = None,
        kwargs: dict[str, Any] | None = None,
        listener: Any = None,
        turn: Turn | None = None,
    ) -> Any:
        """Reply, or ``act``, as one turn in this task: wait for it, run, tell the circles, pass it on.

        With a ``turn`` that is open already (a letter's), its holder does the last two. One
        flat function, because each further frame costs every ask a tenth of its time.
        """
        if x is not None and type(x) is not Msg:
            x = incoming(x)
        mailbox = self._mailbox
        if mailbox is None:
            mailbox = self.mailbox
        is_ours = turn is None
        if turn is None:
            task: asyncio.Task[Any] | None = _current_task()
            if task is None:
                raise RuntimeError(f"Agent {self.name!r} is to be awaited in a task: asyncio.run(main()).")
            if task.cancelling():
                await asyncio.sleep(0)  # one on its way arrives here, and not as if reply() had raised it
            parent = _get_turn()
            if parent is not None and parent.task is None:
                parent = None  # the turn has ended in which this background task was made
            if mailbox._turn is None:
                turn = mailbox._turn = _new_turn(Turn)  # Turn(self, parent), at a third of its cost
                turn.agent, turn.parent, turn.extra = self, parent, None
            else:
                turn = await mailbox.wait(self, parent)
            turn.task = task
        else:
            task = turn.task
            assert task is not None  # whoever opened the turn has set it
        cancels = task.cancelling()
        memory = self._memory
        mark = began_at = None
        _set_turn(turn)
        try:
            if listener is not None or turn.extra is not None:
                _prepare(turn, listener)
            if memory is not None and memory is not _UNMADE:
                mark = memory.mark()
            if _context.attentive:
                began_at = self._report_start()
            if x is not None and type(x) is not Msg and isinstance(x, Reply):
                x = await x
            if act is not None:
                result = await act(x)
            else:
                result = await (self.reply(x, **kwargs) if kwargs else self.reply(x))
                if type(result) is not Msg and not isinstance(result, Msg):
                    raise InvalidReplyError(self.name, result)
            if turn.extra is not None or task.cancelling() != cancels:
                await _honour_cancellation(turn, task, cancels)
        except BaseException as error:
            if mailbox._turn is not turn:  # its event loop is closed, and the agent went on in another
                turn.task = None
                raise
            reason = _explain(error, turn, task, cancels)
            _end(turn)
            mailbox.failed += 1
            self._undo(memory, mark, began_at, reason)
            if is_ours and isinstance(reason, Exception):
                await hand_on_inline(mailbox, turn)
            elif is_ours:
                hand_on(mailbox, turn)
            if reason is error:
                raise
            raise reason from error
        _end(turn)
        mailbox.handled += 1
        if began_at is not None:
            self._report_end(began_at, None)
        # Placed before the turn is passed on, so that listeners hear this reply before the next.
        heard = announce(self, result) if self._circles and act is None else None
        if not is_ours:
            if heard:
                start_all(heard, turn)
            return result
        if mailbox._letters is None and not heard:
            mailbox.release(turn)
        else:
            await pass_on(mailbox, turn, heard or [])
        if _streak.task != id(task):
            _streak.task, _streak.turns = id(task), 0
        elif _streak.turns < MAX_STREAK:
            _streak.turns += 1
        else:
            _streak.turns = 0
            await asyncio.sleep(0)  # turns that never wait must not keep the loop from its timers
        return result

    def _undo(self, memory: Any, mark: Any, began_at: float | None, reason: BaseException) -> None:
        if began_at is not None:
            self._report_end(began_at, reason)
        if self.keeps_failed_turns:
            return
        try:
            if memory is _UNMADE and self._memory is not _UNMADE:
                if self._memory is not None:
                    self._memory.clear()
            elif mark is not None:
                memory.rollback(mark)
        except Exception as error:  # a memory of the user's own; the turn is to be passed on all the same
            reason.add_note(f"The memory of {self.name!r} could not be rolled back: {brief(error)}")

    def _report_start(self) -> float | None:
        runtime = _context.find_runtime(self._runtime)
        if runtime is None or not runtime.is_listened_to:
            return None
        runtime.emit(TurnStarted(self.name))
        return time.monotonic()

    def _report_end(self, began_at: float, error: BaseException | None) -> None:
        runtime = _context.find_runtime(self._runtime)
        if runtime is not None:
            runtime.emit(TurnEnded(self.name, time.monotonic() - began_at, error))

    async def _watched(self, x: Any, kwargs: dict[str, Any], listener: Any) -> Msg:
        """Ask under the runtime's time limit."""
        runtime = _context.find_runtime(self._runtime)
        limit_s = runtime.ask_timeout_s if runtime is not None else None
        asking = self._take_turn(None, x, kwargs, listener)
        if limit_s is None:
            return cast("Msg", await asking)
        own = due = asyncio.get_running_loop().time() + limit_s
        inherited, turn = _context.deadline.get(), _get_turn()
        if inherited is not None and (turn is None or turn.task is not None):
            due = min(own, inherited)  # else it was for a turn that has ended, and this goes on without it
        token = _context.deadline.set(due)
        try:
            async with asyncio.timeout_at(own) as limit:
                return cast("Msg", await asking)
        except TimeoutError:
            if limit.expired():
                raise AskTimeoutError(self.name, limit_s) from None
            raise
        finally:
            with suppress(ValueError):  # thrown away by the garbage collector, in whatever context
                _context.deadline.reset(token)

    def _listener(self) -> Any:
        turn = current_turn.get()
        return (
            turn.extra.listener if turn is not None and turn.extra is not None and self._has_turn() else None
        )

    def _has_turn(self) -> bool:
        turn = current_turn.get()
        return turn is not None and turn.agent is self and turn.task is not None

    def _remember(self, x: Any) -> None:
        memory = self._memory
        if memory is _UNMADE:
            memory = self.memory
        if memory is not None and x is not None:
            memory.add(x)

    def _need_runtime(self, what: str) -> _context.RuntimeLike:
        runtime = _context.find_runtime(self._runtime)
        if runtime is None:
            raise NoRuntimeError(f"{what}() of agent {self.name!r}")
        return runtime


class _Audience(Circle):
    """The listeners of one agent, set by ``reset_audience``."""

    __slots__ = ()


def _in_a_turn(observe: Callable[[Any, Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
    """Let a subclass's ``observe`` run as a turn, unless it is called from within one of this agent."""

    @functools.wraps(observe)
    async def observe_in_turn(self: AgentBase, x: Any) -> None:
        if self._has_turn():
            await observe(self, x)
        else:
            await self._take_turn(functools.partial(observe, self), x)

    return observe_in_turn


def _end(turn: Turn) -> None:
    turn.task = None
    if turn.parent is not None:  # else: an ended turn in the context is as good as none
        _set_turn(turn.parent)


def _prepare(turn: Turn, listener: Any) -> None:
    """Give a turn its listener, unless it was interrupted before it began."""
    extra = turn.more()
    if extra.interruption is not None:
        raise extra.interruption
    extra.listener = listener


async def _honour_cancellation(turn: Turn, task: asyncio.Task[Any], cancels: int) -> None:
    """Raise what a handler that returned all the same has swallowed."""
    if turn.extra is not None and turn.extra.interruption is not None:
        raise turn.extra.interruption
    if task.cancelling() > cancels:
        # A cancel scope of anyio sends its cancellation again, and knows only that one as its own.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise CancellationSwallowedError(turn.agent.name)


def _explain(error: BaseException, turn: Turn, task: asyncio.Task[Any], cancels: int) -> BaseException:
    """Return what the asker is to see for what ``reply`` raised: mostly just that."""
    interruption = turn.extra.interruption if turn.extra is not None else None
    if interruption is not None:
        if task.cancelling() > cancels:
            task.uncancel()  # the one cancel() that the interruption sent
        # Another one on top of it is the caller's own, and goes first.
        return error if task.cancelling() > cancels else interruption
    if isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError) and task.cancelling() > cancels:
        return error
    if _is_being_closed(task):
        return error
    return ReplyExitError(turn.agent.name, error)


def _is_being_closed(task: asyncio.Task[Any]) -> bool:
    """The coroutine is being thrown away by its loop or the garbage collector, not run."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


def _is_msg(unit: Any) -> bool:
    return isinstance(unit, dict) and "__type" in unit


def _find_model(model: Any, model_config_name: str | None, runtime: Any) -> Any:
    if model is not None and model_config_name is not None:
        raise ConfigError("Give the model as model= or as model_config_name=, not both.")
    return find_model(model if model is not None else model_config_name, runtime)


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"An agent's name is a string, not {type(name).__name__}.")
    if not 1 <= len(name) <= 200:
        raise ConfigError(f"An agent's name has 1 to 200 characters, this one has {len(name)}.")
    if _CONTROL.search(name):
        raise ConfigError(f"An agent's name holds no control characters: {name!a}.")
    return str(name)
