"""The runtime: owner of background work, run directory, models and dead letters."""

from __future__ import annotations

import asyncio
import inspect
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO, overload

from . import _context
from ._dead_letters import DeadLetter, DeadLetters
from ._event_reader import EventReader
from ._hosting import Hosting, OnFatal
from ._rundir import RunDirectory
from ._services import RunServices
from ._tasks import run_all
from ._turn import open_turn
from .errors import ConfigError, InterruptedTurnError, NoRuntimeError, RuntimeClosedError
from .events import Event, LetterBuried
from .logging import ChatLog, brief, get_logger, show_if_set_up
from .models.config import ModelConfigs, ModelRegistry

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
    from types import TracebackType

    from ._invocations import Invocations
    from .files import Files
    from .keyed import AgentFactory, KeyedAgents
    from .keyed_agent import KeyedAgent
    from .keyed_registries import Registries
    from .mailbox import Mailbox
    from .message import Msg
    from .monitor import Budget, Monitor
    from .node.exports import Allowed
    from .node.node import Node
    from .node.remote import RemoteAgent
    from .node.report import NodeReport
    from .watching import Watch

_running_loop = asyncio.get_running_loop

__all__ = ["DeadLetter", "DeadLetters", "Runtime", "current_runtime"]

_HTTP_POOLS = f"{__package__}.models._http_pools"  # looked for, not imported: many programs never need it
KILL_WAIT_S = 5.0
"""How long a cancelled handler may take to end before the runtime is left without it."""


class Runtime:
    """Owns what outlives a single ``await``: ``async with Runtime() as rt: ...``.

    ``post`` and ``submit`` need one; asking does not. Agents made inside belong to it.
    Several may be open at once, in one process or one event loop, and share nothing.
    """

    models: Any

    def __init__(
        self,
        *,
        model_configs: ModelConfigs | None = None,
        project: str | None = None,
        name: str | None = None,
        run_id: str | None = None,
        save_dir: str | Path | None = None,
        save_api_invoke: bool = False,
        budget: Budget | None = None,
        ask_timeout_s: float | None = None,
        grace: float = 10.0,
        post_attempts: int = 1,
        on_error: Callable[[DeadLetter], Awaitable[None] | None] | None = None,
        chat: TextIO | bool = False,
        listen: str | None = None,
        token: str | Mapping[str, str] | None = None,
        exports: Mapping[str, Any] | Iterable[Any] | None = None,
        allow: Allowed | None = None,
        node: str | None = None,
        peers: Mapping[str, str] | None = None,
        ssl: tls.SSLContext | None = None,
        resume_s: float = 30.0,
    ) -> None:
        """Prepare a runtime; nothing is opened or written before it is entered.

        Args:
            model_configs: a configuration, a list of them, or the path of a JSON file.
            project: kept in the run directory's ``.config``.
            name: of this run; random when not given.
            run_id: joins the run of this name in ``save_dir``, begun by another process.
            save_dir: where the run directory is made, once something is written to it; ``./runs``
                when not given. Given, metrics are kept there, too; else in memory.
            save_api_invoke: write a file for each model call into the run directory.
            budget: what every model call in this runtime is charged to, and in the child processes that
                ``to_dist`` starts, for which it needs a ``path``.
            ask_timeout_s: seconds an ask may take before AskTimeoutError; None: no limit.
            grace: seconds that letters in mailboxes get to be handled when the block is left normally.
            post_attempts: how often a failing ``post`` is tried before it is a dead letter.
            on_error: called with the dead letter when a ``post`` has failed for good.
            chat: True prints what agents say to standard output; or a text stream to print to.
            listen: where other nodes reach this one: ``"ws://127.0.0.1:12010"`` (port 0: any free
                one), ``"wss://..."`` with ``ssl``, or ``"mem://name"`` within this event loop.
            token: the secret that lets other nodes in, or one for each node by its name; also what
                this one shows to others. Needed to listen anywhere but on loopback.
            exports: the agents other nodes may use, by key, or a list of agents with names that can be keys.
            allow: classes of agents that other nodes may create here, or a ``Grant`` for each node by name.
            node: the name of this node; random when not given.
            peers: the URLs of nodes, by name, that results may be fetched from when messages refer to them.
            ssl: for ``wss``: the certificate of this node; if it demands those of others and there is no
                ``token``, their common names are the names of their nodes.
            resume_s: seconds that a lost or silent link to another node may take to come back: asks
                wait meanwhile. After that they end with NodeDown("window").

        Raises:
            ConfigError: an option is not valid.
        """
        if post_attempts < 1:
            raise ConfigError(f"post_attempts must be 1 or more, got {post_attempts}")
        if grace < 0 or (ask_timeout_s is not None and ask_timeout_s <= 0):
            raise ConfigError("grace must not be negative, ask_timeout_s must be above 0 or None")
        if resume_s < 0:
            raise ConfigError(f"resume_s must not be negative, got {resume_s}")
        self.models = ModelRegistry()
        if model_configs is not None:
            self.models.read(model_configs)
        self.ask_timeout_s = ask_timeout_s
        self.grace = grace
        self.resume_s = resume_s
        self.run = RunDirectory(
            "./runs" if save_dir is None else save_dir, project=project, name=name, run_id=run_id
        )
        self._save_api_invoke = save_api_invoke
        self.dead_letters = DeadLetters()
        self.is_open = False
        self._own_services = RunServices(
            self.run,
            is_saved=save_dir is not None or save_api_invoke,
            save_api_invoke=save_api_invoke,
            budget=budget,
        )
        self._post_attempts = post_attempts
        self._on_error = on_error
        self._chat = ChatLog(terminal=chat) if chat is not False else None
        self._intake: asyncio.AbstractEventLoop | None = None  # the loop letters come from; None: closing
        self._is_closed = False
        self._last_words: list[Awaitable[None]] = []
        self._outstanding = 0
        self._all_settled: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], Callable[[], None]] = {}
        self._mailboxes: set[Mailbox] = set()  # those that may hold letters of ours
        self._readers: list[EventReader] = []
        self._hosting = Hosting(self)
        self._watches: set[Watch] = set()
        self._keyed: Registries | None = None
        self._node: Node | None = None
        if any(each is not None for each in (listen, token, exports, allow, node, peers, ssl)):
            from .node.node import Node

            self._node = Node(
                self,
                listen=listen,
                token=token,
                exports=exports,
                allow=allow,
                name=node,
                peers=peers,
                ssl=ssl,
            )

    # -- the block --

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("A Runtime is entered once; make another one for another block.")
        self._loop = self._intake = asyncio.get_running_loop()
        self._all_settled = asyncio.Event()
        self._all_settled.set()
        self.is_open = True
        _context.open_runtimes.add(self)
        _open_in_loop.setdefault(self._loop, []).append(self)
        self._attend()
        if self._node is not None:
            try:
                self._node.begin()
                await self._node.open()
            except BaseException:
                await self._close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._intake = None
        self._hosting.end()
        try:
            if error is None and (self._outstanding or self._node is not None):
                try:
                    async with asyncio.timeout(self.grace):
                        await self._finish_work()
                except TimeoutError:
                    get_logger().warning("grace_over", runtime=self.run.name, unhandled=self._outstanding)
        finally:
            await self._close()

    async def _finish_work(self) -> None:
        """Let what was taken on end: what others wait for and our own letters, then what these need."""
        if self._node is None:
            await self._settled()
            return
        await run_all([self._node.refuse(self.grace), self._settled()])
        await self._node.drain(self.grace)

    async def _close(self) -> None:
        """Answer every waiter, end every task, forget the runtime; must not be left half done."""
        self.is_open = False
        self._is_closed = True
        _context.open_runtimes.discard(self)
        _context.attentive.discard(self)
        self._leave_loop()
        for mailbox in list(self._mailboxes):
            mailbox.forget(self)
        for task in self._tasks:
            task.cancel()
        if self._node is not None:
            self.start(self._node.aclose(), _nothing, name=f"closing {self._node.name}")
        cancelled = await self._wait_for_tasks()
        for task, abandon in list(self._tasks.items()):
            get_logger().error("unkillable", task=task.get_name(), waited_s=KILL_WAIT_S)
            abandon()
            self._tasks.pop(task)
        for answer in self._last_words:
            self.start(_guarded(answer, "on_error"), _nothing, name="on_error")
        cancelled = await self._wait_for_tasks() or cancelled
        self.start(self._close_services(), _nothing, name="services")
        cancelled = await self._wait_for_tasks() or cancelled
        for task in self._tasks:
            task.cancel()
        for watch in list(self._watches):
            watch.fire("runtime_closed")
        for reader in self._readers:
            reader.close()
        if self._chat is not None:
            self._chat.close()
        if cancelled is not None:
            raise cancelled

    async def _close_services(self) -> None:
        """Write what is left of metrics and records; the loop's last runtime closes idle connections."""
        try:
            if self._keyed is not None:
                await self._keyed.aclose()
            await self._own_services.aclose()
        finally:
            if self._loop not in _open_in_loop and (pools := sys.modules.get(_HTTP_POOLS)) is not None:
                await pools.close_idle_pools()

    def _leave_loop(self) -> None:
        assert self._loop is not None
        open_here = _open_in_loop[self._loop]
        open_here.remove(self)
        if not open_here:
            del _open_in_loop[self._loop]

    async def _wait_for_tasks(self) -> asyncio.CancelledError | None:
        """Wait for all tasks, at most ``KILL_WAIT_S``; return a cancellation that came meanwhile."""
        assert self._loop is not None
        cancelled: asyncio.CancelledError | None = None
        deadline = self._loop.time() + KILL_WAIT_S
        while self._tasks and self._loop.time() < deadline:
            try:
                await asyncio.wait(list(self._tasks), timeout=deadline - self._loop.time())
            except asyncio.CancelledError as error:
                cancelled = error
        return cancelled

    # -- what users call --

    @contextmanager
    def use(self) -> Iterator[Self]:
        """Make this the current runtime of the code inside, whichever else is open."""
        token = _context.override.set(self)
        try:
            yield self
        finally:
            _context.override.reset(token)

    async def drain(self) -> None:
        """Wait until everything posted and submitted so far, and what follows from it, is handled.

        Raises:
            RuntimeError: called from within such work, which would wait for itself.
        """
        turn = open_turn()
        is_inside = turn is not None and any(getattr(each, "runtime", None) is self for each in turn.chain())
        if is_inside or asyncio.current_task() in self._tasks:
            raise RuntimeError("drain() from inside a posted message would wait for itself.")
        await self._settled()

    async def resend(self, letter: DeadLetter) -> None:
        """Post the message of a dead letter to its agent again; it is a dead letter no longer then.

        What the agent was only to hear, it is given to ``observe``. Letters sent again come after all others.

        Raises:
            LookupError: the letter is not kept any more, or is being sent again already.
            ConfigError: it is not known which agent it was for.
            Exception: what ``post`` or ``observe`` raises; the letter stays.
        """
        with self.dead_letters.leaving(letter) as target, self.use():
            if letter.is_heard_only:
                await target.observe(letter.msg)
            else:
                await target.post(letter.msg)

    def watch(self, agent: Any) -> Watch:
        """Be told when an agent, here or elsewhere, is gone: ``down = await rt.watch(agent)``.

        Exactly one Down follows, at the latest when the runtime is left, unless the watch is cancelled.

        Raises:
            RuntimeClosedError: the runtime is not open.
            TypeError: it is no agent.
        """
        from .watching import Watch

        if not self.is_open:
            raise RuntimeClosedError("A runtime watches agents only inside its `async with` block.")
        begin = getattr(agent, "_watch", None)
        if begin is None:
            raise TypeError(f"There is no agent to watch in a {type(agent).__name__}.")
        watch = Watch(agent.name, self._watches.discard)
        self._watches.add(watch)
        try:
            begin(watch)
        except BaseException:
            watch.cancel()
            raise
        return watch

    def events(self) -> AsyncIterator[Event]:
        """Return turns and dead letters from now on, as they happen, until the runtime is left.

        A reader that falls 10,000 events behind loses the oldest; how many is logged.
        """
        reader = EventReader()
        if self._is_closed:
            reader.close()
        self._readers.append(reader)
        self._attend()
        return self._read(reader)

    async def _read(self, reader: EventReader) -> AsyncIterator[Event]:
        try:
            while (event := await reader.next()) is not None:
                yield event
        finally:
            self._readers.remove(reader)
            self._attend()

    def host(self, agent: Any, *, on_fatal: OnFatal | None = None) -> asyncio.Task[None]:
        """Run ``agent.run()`` in the background until it returns, or agent or runtime are stopped.

        When it fails it is started again, after 0.1 s and then later and later; more than five
        times within ten seconds, and the agent is stopped: who watches it is told. Messages that
        wait in its mailbox survive a restart. ``run`` is no turn: it goes on beside those of
        ``reply``, and may ask its own agent. Leaving the runtime cancels it before anything else.

        Args:
            agent: has an ``async def run(self)``.
            on_fatal: called with the last error when it failed too often; a plain or async function.

        Returns:
            The task it runs in, which never raises what ``run`` did.

        Raises:
            ConfigError: the agent has no such method, or is hosted already.
            NoRuntimeError: the runtime is not open. AgentStoppedError: the agent is stopped.
        """
        if self._intake is None:
            raise NoRuntimeError("host()")
        return self._hosting.begin(agent, on_fatal)

    @overload
    def agents(
        self,
        factory: AgentFactory,
        *,
        key: None = None,
        name: str | None = None,
        live: int | None = None,
        idle_after_s: float | None = None,
        store: str | Path | None = None,
    ) -> KeyedAgents: ...

    @overload
    def agents(
        self,
        factory: AgentFactory,
        *,
        key: str,
        name: str | None = None,
        live: int | None = None,
        idle_after_s: float | None = None,
        store: str | Path | None = None,
    ) -> KeyedAgent: ...

    def agents(
        self,
        factory: AgentFactory,
        *,
        key: str | None = None,
        name: str | None = None,
        live: int | None = None,
        idle_after_s: float | None = None,
        store: str | Path | None = None,
    ) -> KeyedAgents | KeyedAgent:
        """Return the agent of a key: one for each, made on its first message, there again on the next.

        ``await rt.agents(new_chat, key="ann")("Hi")``. Agents are saved through ``state()`` after
        each turn, before it is answered, and dropped when idle; see :class:`KeyedAgents`, which is
        what is returned without a key.

        Args:
            factory: ``factory(key)`` makes the agent of a key; a plain or async function.
            key: 1 to 64 letters, digits, ``_``, ``.`` or ``-``.
            name: what the agents are saved under; the factory's own name when not given.
            live: so many stay in memory while idle; 1,000 when not given.
            idle_after_s: after so many seconds without a message one is dropped; 600 when not given.
            store: the SQLite file to save to; ``agents.db`` in the run directory when not given. To
                find the agents again in another process, give this, or ``run_id`` to the runtime.

        Raises:
            ConfigError: the key or an option is not valid, or is not as it was for this factory before.
        """
        if self._keyed is None:
            from .keyed_registries import Registries

            self._keyed = Registries(self)
        agents = self._keyed.find(factory, name=name, live=live, idle_after_s=idle_after_s, store=store)
        return agents if key is None else agents.get(key)

    def graph(self) -> list[tuple[str, str]]:
        """Return who waits on whom now: pairs of agent names, waiting one first, each once."""
        from ._graph import waits_in

        if self._loop is None:
            return []
        waits = waits_in(self._loop)
        mine = ((turn.agent.name, name) for turn, name in waits if _runtime_of(turn) in (self, None))
        return list(dict.fromkeys(mine))

    # -- other nodes --

    @property
    def node(self) -> Node:
        """This process as other nodes see it.

        Raises:
            NoRuntimeError: the runtime is not open.
        """
        if not self.is_open:
            raise NoRuntimeError("Talking to other nodes")
        if self._node is None:
            from .node.node import Node

            self._node = Node(self)
            self._node.begin()
        return self._node

    @property
    def url(self) -> str | None:
        """Where other nodes reach this one, with the real port; None without ``listen``."""
        return self._node.url if self._node is not None else None

    def agent(
        self,
        url: str,
        *,
        token: str | None = None,
        name: str | None = None,
        timeout_s: float | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> RemoteAgent:
        """Return the agent at ``url``, to be called like a local one; it connects when first used.

        Args:
            url: ``"ws://host:port/key"``, ``"wss://..."`` or ``"mem://name/key"``.
            token: shown to that node; the runtime's own when not given.
            name: what the agent is called here, in errors and hubs; its key when not given.
            timeout_s: seconds an ask may take; None: as long as ``ask_timeout_s`` says.
            ssl: how the node's certificate is checked, and ours shown; only for ``wss``.

        Raises:
            ConfigError: the URL is none of an agent.
        """
        return self.node.agent(url, token=token, name=name, timeout_s=timeout_s, ssl=ssl)

    async def spawn(
        self,
        url: str,
        kind: str,
        config: dict[str, Any],
        *,
        key: str | None = None,
        token: str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> RemoteAgent:
        """Create an agent on the node at ``url``, of a class that is allowed there.

        Args:
            url: ``"ws://host:port"``.
            kind: the name of the class.
            config: the arguments of its constructor, as JSON values.
            key: where it is exported; random when not given.
            token: shown to that node; the runtime's own when not given.
            ssl: as for ``agent``.

        Raises:
            ForbiddenError: we may not create agents of that class there.
            ConfigError: the arguments do not fit, or the key is taken.
            NodeDown: the node cannot be reached, or was lost.
        """
        return await self.node.spawn(url, kind, config, key=key, token=token, ssl=ssl)

    def keep_replies(self, kept_replies: int, kept_reply_s: float) -> None:
        """Keep so many results of ``submit`` for other nodes, and so many seconds."""
        assert self._node is not None
        self._node.replies = type(self._node.replies)(kept_replies, kept_reply_s)

    def distribute(self, agent: Any, options: dict[str, Any]) -> Any:
        """Put an agent on another node; see ``AgentBase.to_dist``."""
        from .node._distribution import Distribution, distribute

        if options["is_launched"] and self.budget is not None:
            self.budget.settings()  # now, where the mistake is, not when the process is started
        return distribute(self.node, agent, Distribution(**options))

    def settings_for_children(self) -> dict[str, Any]:
        """Return, as JSON values, what a child process needs to work for the same run."""
        from ._init import process_settings

        saves = self._own_services.is_saved
        return {
            "settings": process_settings() if _context.process_services is not None else None,
            "runtime": {
                "model_configs": self.models.configs(),
                "project": self.run.project,
                "name": self.run.name,
                "run_id": self.run.run_id,
                "save_dir": str(self.run.save_dir) if saves else None,
                "save_api_invoke": self._save_api_invoke,
                "ask_timeout_s": self.ask_timeout_s,
                "grace": self.grace,
                "chat": self._chat is not None and self._chat.is_on_terminal,
            },
            "budget": None if self.budget is None else self.budget.settings(),
        }

    def export(self, key: str, agent: Any) -> None:
        """Let other nodes use an agent, under this key.

        Raises:
            ConfigError: the key is taken, or none.
        """
        self.node.exports.add(key, agent)

    def withdraw(self, key: str) -> None:
        """Let other nodes use the agent of this key no longer; who watches it is told.

        Raises:
            AgentNotFound: there is none.
        """
        self.node.exports.remove(key)

    async def ps(
        self, url: str, *, token: str | None = None, ssl: tls.SSLContext | None = None
    ) -> NodeReport:
        """Return which agents the node at ``url`` has, how they fare, and who waits for whom.

        Raises:
            NodeDown: the node cannot be reached, or was lost.
        """
        return await self.node.ask_report(url, token=token, ssl=ssl)

    # -- what model calls are reported to --

    @property
    def monitor(self) -> Monitor:
        """The metrics of this runtime; a runtime that saves nothing uses those of ``init()``, if called."""
        monitor: Monitor = self._services.monitor
        return monitor

    @property
    def budget(self) -> Budget | None:
        """What every model call in this runtime is charged to."""
        return self._own_services.budget

    @property
    def invocations(self) -> Invocations | None:
        """What writes a file for each model call, if anything does; ``init()``'s as for ``monitor``."""
        invocations: Invocations | None = self._services.invocations
        return invocations

    @property
    def files(self) -> Files:
        """The run's directory and what is put there; ``init()``'s as for ``monitor``."""
        files: Files = self._services.files
        return files

    @property
    def _services(self) -> _context.Services:
        if not self._own_services.is_saved and _context.process_services is not None:
            return _context.process_services
        return self._own_services

    # -- what agents call --

    @property
    def is_listened_to(self) -> bool:
        """Somebody reads ``events()``."""
        return bool(self._readers)

    def start(
        self, work: Coroutine[Any, Any, None], abandon: Callable[[], None], *, name: str
    ) -> asyncio.Task[None]:
        """Run ``work`` in a task of this runtime; ``abandon`` is called if it cannot be ended."""
        assert self._loop is not None
        task = self._loop.create_task(work, name=name)
        self._tasks[task] = abandon
        task.add_done_callback(self._end_task)
        return task

    def accept(self, mailbox: Mailbox) -> None:
        """Count one more letter; see RuntimeLike."""
        if _running_loop() is not self._intake:
            self._refuse_intake()
        if self._outstanding == 0:
            assert self._all_settled is not None
            self._all_settled.clear()
        self._outstanding += 1
        self._mailboxes.add(mailbox)

    def accept_more(self) -> None:
        """Count a letter placed behind another one of ours; see RuntimeLike."""
        if _running_loop() is not self._intake:
            self._refuse_intake()
        self._outstanding += 1

    def _refuse_intake(self) -> None:
        """Raise, unless this comes from work of our own that goes on while we close."""
        if self._intake is not None or asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("post() and submit() work in the event loop of their runtime only.")
        if asyncio.current_task() not in self._tasks:
            raise RuntimeClosedError("The runtime is being left and takes no more messages.")

    def settle(self, count: int = 1) -> None:
        """Count letters as dealt with."""
        self._outstanding -= count
        if self._outstanding == 0:
            assert self._all_settled is not None
            self._all_settled.set()

    def finish(self, mailbox: Mailbox) -> None:
        """Forget a mailbox that holds no more letters of ours."""
        if not mailbox.has_letters:
            self._mailboxes.discard(mailbox)

    def report_failure(
        self, agent: Any, msg: Any, error: BaseException, attempt: int, *, is_heard_only: bool = False
    ) -> bool:
        """Log a failed post; True: try again. Interrupted, or failed the last time, it is a dead letter."""
        is_last = attempt >= self._post_attempts or isinstance(error, InterruptedTurnError)
        name = agent if isinstance(agent, str) else agent.name
        get_logger().error("post_failed", agent=name, attempt=attempt, is_last=is_last, error=brief(error))
        if is_last:
            self.bury(agent, msg, "failed", error, is_heard_only=is_heard_only)
        return not is_last

    def bury(
        self,
        agent: Any,
        msg: Any,
        reason: str,
        error: BaseException | None = None,
        *,
        is_heard_only: bool = False,
    ) -> None:
        """Keep a dead letter, for an agent or the name of one that is not known, and tell ``on_error``."""
        name, target = (agent, None) if isinstance(agent, str) else (agent.name, agent)
        letter = DeadLetter(name, msg, reason, error, target=target, is_heard_only=is_heard_only)
        self.dead_letters.append(letter)
        self.emit(LetterBuried(name, reason))
        if self._on_error is not None:
            self._tell(letter)

    def emit(self, event: Event) -> None:
        """Hand an event to every reader of ``events()``."""
        for reader in self._readers:
            reader.put(event)

    def show(self, msg: Msg) -> None:
        """Print a message to the chat of this runtime or, without one, that of ``init()``."""
        try:
            if self._chat is not None:
                self._chat.show(msg)
            else:
                show_if_set_up(msg)
        except (OSError, ValueError) as error:  # a closed pipe or file; no reason for a turn to fail
            self._chat = ChatLog()
            get_logger().warning("chat_closed", error=brief(error))

    # -- inside --

    async def _settled(self) -> None:
        assert self._all_settled is not None
        while self._outstanding:
            await self._all_settled.wait()

    def _tell(self, letter: DeadLetter) -> None:
        assert self._on_error is not None
        try:
            answer = self._on_error(letter)
        except Exception:
            get_logger().exception("on_error_failed", agent=letter.agent)
            return
        if not inspect.isawaitable(answer):
            return
        if self.is_open:
            self.start(_guarded(answer, letter.agent), _nothing, name="on_error")
        else:
            self._last_words.append(answer)

    def _attend(self) -> None:
        if self.is_open and (self._readers or self.ask_timeout_s is not None):
            _context.attentive.add(self)
        else:
            _context.attentive.discard(self)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            get_logger().error(
                "task_failed", task=task.get_name(), error=brief(task.exception() or AssertionError())
            )


_open_in_loop: dict[asyncio.AbstractEventLoop, list[Runtime]] = {}
"""The open runtimes of each event loop, innermost last. Every call of a model looks here: a plain
dict takes a tenth of the time of anyio's RunVar."""


def current_runtime() -> Runtime | None:
    """Return the runtime that code here works for, or None; see ``_context.find_runtime``."""
    return _context.find_runtime()  # type: ignore[return-value]  # only Runtimes are ever registered


def _innermost_runtime() -> Runtime | None:
    try:
        open_here = _open_in_loop.get(_running_loop())
    except RuntimeError:
        return None  # an agent made outside any loop
    return open_here[-1] if open_here else None


_context.innermost = _innermost_runtime


def _runtime_of(turn: Any) -> Any:
    return getattr(turn.agent, "_runtime", None)


async def _guarded(answer: Any, agent: str) -> None:
    try:
        await answer
    except Exception:
        get_logger().exception("on_error_failed", agent=agent)


def _nothing() -> None:
    pass
