"""What every agent is: await it with a message, get a message."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from .. import _context
from .._deadlock import Blocked
from .._letters import Mail
from .._stopping import when_stopped
from .._turn import current_turn
from ..errors import ConfigError, DeadlockError, NoRuntimeError
from ..logging import show_if_set_up
from ..mailbox import DEFAULT_CAPACITY, Mailbox, Overflow, check_options
from ..memory import TemporaryMemory
from ..message import Msg, Speech
from ..reply import Reply
from ._audience import Speaker
from ._config import apply_settings, checked_name, model_for, settings_of
from ._mail import POST, Circle, incoming, post_errand, send, submission
from ._memory import UNMADE, restore, state_of
from ._turns import ask_in_time, take_turn
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

_new_mail = object.__new__
_DEFAULT_OPTIONS: tuple[int, Overflow] = (DEFAULT_CAPACITY, "wait")


class AgentBase(Speaker):
    """An actor: private state, a mailbox, one message at a time.

    Subclasses write ``async def reply(self, x)``, and change their own state in it as
    they like: no second message is handled before it has returned. A turn that fails or
    is cancelled leaves the memory as it was before (set ``keeps_failed_turns = True`` to
    keep what was added).

    Calling ``reply`` directly goes past the mailbox; call the agent.
    """

    # A wrapper in subclasses that cannot do without; None is theirs to refuse.
    model: Any

    __slots__ = (
        "name", "sys_prompt", "model", "_memory", "_mailbox", "_options", "_runtime", "__weakref__",
    )  # fmt: skip

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
        self.name = name if is_plain else checked_name(name)
        self.sys_prompt = sys_prompt
        self._runtime = _context.find_runtime() if _context.open_runtimes else None
        self.model = None
        if model is not None or model_config_name is not None:
            self.model = model_for(model, model_config_name, self._runtime)
        if memory is not None and not hasattr(memory, "mark"):
            raise ConfigError(f"memory= is a MemoryBase, not {type(memory).__name__}; lists: load_memory().")
        self._memory: Any = (UNMADE if memory is None else memory) if use_memory else None
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
        letter = _new_mail(Mail)  # Mail(self, x, errand, runtime), without two calls
        letter.agent = self
        letter.parent = letter.task = letter.extra = letter.admitted = None
        letter.msg = x if type(x) is Msg else incoming(x)
        letter.errand = errand
        letter.runtime = runtime
        letter.placed_at = monotonic()
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
        if self._memory is UNMADE:
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
        apply_settings(self, config)

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
        return await state_of(self)

    async def load_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned, in place of what is remembered now.

        Raises:
            MessageError: a message in it is not one; nothing is changed then.
            ConfigError: there is something to remember, and the agent has no memory.
        """
        await restore(self, state)

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

    # The functions themselves: a method that called them would cost every ask a frame.
    _take_turn = take_turn
    _watched = ask_in_time

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
        if memory is UNMADE:
            memory = self.memory
        if memory is not None and x is not None:
            memory.add(x)

    def _need_runtime(self, what: str) -> _context.RuntimeLike:
        runtime = _context.find_runtime(self._runtime)
        if runtime is None:
            raise NoRuntimeError(f"{what}() of agent {self.name!r}")
        return runtime


def _in_a_turn(observe: Callable[[Any, Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
    """Let a subclass's ``observe`` run as a turn, unless it is called from within one of this agent."""

    @functools.wraps(observe)
    async def observe_in_turn(self: AgentBase, x: Any) -> None:
        if self._has_turn():
            await observe(self, x)
        else:
            await self._take_turn(functools.partial(observe, self), x)

    return observe_in_turn
