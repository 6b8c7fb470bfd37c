"""Turns that are cancelled, interrupted, or end themselves in ways nobody should."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from agentscope_async import Msg, Runtime
from agentscope_async.agents import AgentBase, DialogAgent
from agentscope_async.errors import (
    AskTimeoutError,
    CancellationSwallowedError,
    InterruptedTurnError,
    InvalidReplyError,
    ReplyExitError,
)
from agentscope_async.message import Speech
from agentscope_async.models import FunctionModel

LIMIT_S = 30


class Actor(AgentBase):
    """Remembers each message and then does what a function says."""

    def __init__(self, name: str = "agent", act: Callable[[Any], Awaitable[Any]] | None = None) -> None:
        super().__init__(name)
        self.act = act
        self.begun = asyncio.Event()
        self.handled: list[str] = []

    async def reply(self, x: Any = None) -> Msg:
        self._remember(x)
        self.begun.set()
        if self.act is not None:
            await self.act(x)
        self.handled.append(x.text)
        return Msg(self.name, f"re: {x.text}", "assistant")

    @property
    def remembered(self) -> list[str]:
        assert self.memory is not None
        return [unit.text for unit in self.memory.get_memory()]  # type: ignore[union-attr]


def message(text: object = "x") -> Msg:
    return Msg("caller", str(text), "user")


def start(work: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)


async def steps(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def for_ever(x: Any = None) -> None:
    await asyncio.Event().wait()


async def assert_usable(agent: Actor, *before: str) -> None:
    """Ask once more, and look whether the memory holds just what it should."""
    agent.act = None
    async with asyncio.timeout(LIMIT_S):
        assert (await agent(message("after"))).text == "re: after"
    assert agent.mailbox.is_idle
    assert agent.remembered == [*before, "after"]


# -- the caller goes away --


async def cancel_natively(agent: Actor) -> None:
    task = start(agent(message("cancelled")))
    await agent.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out_with_asyncio(agent: Actor) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await agent(message("cancelled"))


async def time_out_with_wait_for(agent: Actor) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent(message("cancelled")), 0.001)


async def fail_after_with_anyio(agent: Actor) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.001):
            await agent(message("cancelled"))


async def move_on_after_with_anyio(agent: Actor) -> None:
    with anyio.move_on_after(0.001) as scope:
        await agent(message("cancelled"))
    assert scope.cancelled_caught


async def cancel_a_task_group_of_anyio(agent: Actor) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(agent, message("cancelled"))
        await agent.begun.wait()
        group.cancel_scope.cancel()


async def fail_beside_it_in_a_task_group(agent: Actor) -> None:
    async def fail() -> None:
        await agent.begun.wait()
        raise ValueError("beside")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent(message("cancelled")))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await start(both())  # a task of its own: before Python 3.13 a failed group leaves a count behind
    assert caught.group_contains(ValueError, match="beside")


async def time_out_under_a_runtime(agent: Actor) -> None:
    async with Runtime(ask_timeout_s=0.001):
        with pytest.raises(AskTimeoutError) as caught:
            await agent(message("cancelled"))
    assert caught.value.timeout_s == 0.001
    assert isinstance(caught.value, TimeoutError)


async def leave_a_stream(agent: Actor) -> None:
    async with agent.stream(message("cancelled")):
        await agent.begun.wait()


ENDINGS = [
    cancel_natively,
    time_out_with_asyncio,
    time_out_with_wait_for,
    fail_after_with_anyio,
    move_on_after_with_anyio,
    cancel_a_task_group_of_anyio,
    fail_beside_it_in_a_task_group,
    time_out_under_a_runtime,
    leave_a_stream,
]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_caller_that_goes_away_cancels_its_turn(ending: Callable[[Actor], Awaitable[None]]) -> None:
    tasks = asyncio.all_tasks()
    cancelled = False

    async def act(x: Any) -> None:
        nonlocal cancelled
        try:
            await for_ever()
        except asyncio.CancelledError:
            cancelled = True
            raise

    agent = Actor()
    await agent(message("before"))
    agent.begun.clear()
    agent.act = act
    async with asyncio.timeout(LIMIT_S):
        await ending(agent)
    assert cancelled
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert agent.remembered == ["before"]
    assert asyncio.all_tasks() == tasks
    await assert_usable(agent, "before")


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e is not time_out_under_a_runtime])
async def test_the_next_caller_is_served_when_the_one_before_goes_away(
    ending: Callable[[Actor], Awaitable[None]],
) -> None:
    agent = Actor(act=lambda x: for_ever() if x.text == "cancelled" else asyncio.sleep(0))
    first = start(ending(agent))
    await steps(3)
    second = start(agent(message("second")))
    async with asyncio.timeout(LIMIT_S):
        await first
        assert (await second).text == "re: second"
    assert agent.remembered == ["second"]


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e is not leave_a_stream])
async def test_a_caller_that_goes_away_while_queued_leaves_no_trace(
    ending: Callable[[Actor], Awaitable[None]],
) -> None:
    hold = asyncio.Event()
    agent = Actor(act=lambda x: hold.wait())
    running = start(agent(message("running")))
    await agent.begun.wait()  # and so stays set: endings that wait for it go on at once
    ended = start(ending(agent))
    last = start(agent(message("last")))
    async with asyncio.timeout(LIMIT_S):
        await ended
        hold.set()
        await asyncio.gather(running, last)
    assert agent.handled == ["running", "last"]
    assert agent.mailbox.statistics()[:3] == (0, 2, 0)


async def test_a_stream_left_while_queued_leaves_no_trace() -> None:
    hold = asyncio.Event()
    agent = Actor(act=lambda x: hold.wait())
    running = start(agent(message("running")))
    await agent.begun.wait()
    async with asyncio.timeout(LIMIT_S):
        async with agent.stream(message("left")):
            assert agent.mailbox.statistics().waiting == 1
        assert agent.mailbox.statistics().waiting == 0
        hold.set()
        await running
    assert agent.handled == ["running"]


async def test_cancelling_the_first_of_a_chain_cancels_all_turns_of_it() -> None:
    inner = Actor("inner", for_ever)
    middle = Actor("middle", lambda x: inner(message("inner")))
    outer = Actor("outer", lambda x: middle(message("middle")))
    task = start(outer(message("outer")))
    await inner.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for agent in (inner, middle, outer):
        await assert_usable(agent)


async def test_a_turn_asked_for_while_being_cancelled_is_a_turn_like_others() -> None:
    agent = Actor()

    async def caller() -> None:
        try:
            await for_ever()
        finally:
            assert (await agent(message("last wish"))).text == "re: last wish"

    task = start(caller())
    await steps()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert agent.handled == ["last wish"]


# -- streams --


async def test_a_stream_left_early_stops_the_model() -> None:
    stopped = asyncio.Event()

    class Endless(FunctionModel):
        async def _stream(self, messages: Any, args: dict[str, Any]) -> AsyncGenerator[Any, None]:
            try:
                while True:
                    await asyncio.sleep(0)
                    yield Speech("text", "word ")
            finally:
                stopped.set()

    agent = DialogAgent("talker", model=Endless(lambda messages: ""))
    async with asyncio.timeout(LIMIT_S):
        async with agent.stream(message()) as stream:
            async for part in stream:
                assert part.text == "word "
                break
        assert stopped.is_set()
    assert agent.mailbox.is_idle
    assert agent.memory is not None
    assert agent.memory.size() == 0
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = stream.msg


async def test_an_error_in_a_stream_is_raised_once_and_unwrapped() -> None:
    async def fail(x: Any) -> None:
        await agent.speak(Speech("text", "one"))
        raise ValueError("no more")

    agent = Actor(act=fail)
    parts = []
    with pytest.raises(ValueError, match="no more"):
        async with agent.stream(message()) as stream:
            async for part in stream:
                parts.append(part.text)  # noqa: PERF401  # those before the error are wanted
    assert parts == ["one"]
    with pytest.raises(ValueError, match="no more"):
        async with agent.stream(message()):
            await steps()
    with pytest.raises(KeyError, match="the reader"):
        async with agent.stream(message()):
            await steps()
            raise KeyError("the reader")
    await assert_usable(agent)


# -- cancellation that is swallowed --


async def swallow(x: Any) -> None:
    try:
        await for_ever()
    except asyncio.CancelledError:
        return


async def swallow_and_go_on_once(x: Any) -> None:
    for _ in range(2):
        try:
            await asyncio.sleep(0.001 if _ else 60)
        except asyncio.CancelledError:
            continue


@pytest.mark.parametrize("act", [swallow, swallow_and_go_on_once])
async def test_a_swallowed_cancellation_is_a_typed_error_and_its_reply_is_thrown_away(act: Any) -> None:
    agent = Actor(act=act)
    task = start(agent(message()))
    await agent.begun.wait()
    task.cancel()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(CancellationSwallowedError, match="'agent'"):
            await task
    await assert_usable(agent)


@pytest.mark.parametrize("act", [swallow, swallow_and_go_on_once])
async def test_a_cancel_scope_ends_as_it_should_when_a_handler_swallows_the_cancellation(act: Any) -> None:
    agent = Actor(act=act)
    async with asyncio.timeout(LIMIT_S):
        with anyio.move_on_after(0.001) as scope:
            await agent(message())
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.001):
                await agent(message())
    await assert_usable(agent)


async def test_another_error_in_place_of_a_cancellation_reaches_the_caller() -> None:
    async def replace(x: Any) -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            raise ValueError("instead") from None

    agent = Actor(act=replace)
    task = start(agent(message()))
    await agent.begun.wait()
    task.cancel()
    with pytest.raises(ValueError, match="instead"):
        await task
    await assert_usable(agent)


async def test_limits_inside_a_handler_are_its_own() -> None:
    async def act(x: Any) -> None:
        with anyio.move_on_after(0.001):
            await for_ever()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await for_ever()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(for_ever(), 0.001)

    agent = Actor(act=act)
    async with asyncio.timeout(LIMIT_S):
        assert (await agent(message("x"))).text == "re: x"
        assert (await agent(message("y"))).text == "re: y"
    assert agent.remembered == ["x", "y"]


async def test_a_failed_task_group_that_a_handler_takes_care_of_is_no_cancellation() -> None:
    async def fail() -> None:
        raise ValueError

    async def act(x: Any) -> None:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(for_ever())
                group.create_task(fail())

    agent = Actor(act=act)
    asked = start(agent(message("x")))
    if sys.version_info < (3, 13):  # there such a group leaves a cancellation behind, which is said
        with pytest.raises(CancellationSwallowedError, match="caught its cancellation"):
            await asked
        await assert_usable(agent)
        return
    assert (await asked).text == "re: x"
    assert agent.remembered == ["x"]


async def test_a_task_group_that_fails_within_its_block_is_no_cancellation() -> None:
    async def fail() -> None:
        raise ValueError

    async def act(x: Any) -> None:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                await asyncio.wait([group.create_task(for_ever()), group.create_task(fail())])

    agent = Actor(act=act)
    assert (await start(agent(message("x")))).text == "re: x"
    assert agent.remembered == ["x"]


# -- interrupt --


async def test_interrupt_ends_the_running_turn_and_only_that() -> None:
    agent = Actor(act=lambda x: for_ever() if x.text == "long" else asyncio.sleep(0))
    assert await agent.interrupt() is False
    first, second = start(agent(message("long"))), start(agent(message("short")))
    await agent.begun.wait()
    assert await agent.interrupt("enough") is True
    assert await agent.interrupt("again") is True
    with pytest.raises(InterruptedTurnError, match="enough") as caught:
        await first
    assert caught.value.reason == "enough"
    assert caught.value.agent == "agent"
    assert first.cancelling() == 0
    assert (await second).text == "re: short"
    assert await agent.interrupt() is False
    await assert_usable(agent, "short")


async def test_an_interrupted_caller_may_go_on() -> None:
    agent = Actor(act=for_ever)

    async def caller() -> str:
        async with asyncio.timeout(LIMIT_S):
            try:
                await agent(message("x"))
            except InterruptedTurnError:
                await asyncio.sleep(0)
                agent.act = None
                return (await agent(message("y"))).text
        return "not interrupted"

    task = start(caller())
    await agent.begun.wait()
    await agent.interrupt()
    assert await task == "re: y"


@pytest.mark.parametrize("is_caught", [False, True])
async def test_a_handler_may_interrupt_its_own_turn(is_caught: bool) -> None:
    async def act(x: Any) -> None:
        try:
            await agent.interrupt("myself")
        except InterruptedTurnError:
            if not is_caught:
                raise

    agent = Actor(act=act)
    with pytest.raises(InterruptedTurnError, match="myself"):
        await agent(message())
    await assert_usable(agent)


async def test_a_swallowed_interruption_still_ends_the_turn() -> None:
    agent = Actor(act=swallow)
    task = start(agent(message()))
    await agent.begun.wait()
    await agent.interrupt("enough")
    with pytest.raises(InterruptedTurnError):
        await task
    assert task.cancelling() == 0
    await assert_usable(agent)


async def test_a_caller_cancelled_and_interrupted_at_once_is_cancelled() -> None:
    for order in (0, 1):
        agent = Actor(act=for_ever)
        task = start(agent(message()))
        await agent.begun.wait()
        if order:
            task.cancel()
        await agent.interrupt()
        if not order:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await assert_usable(agent)


async def test_interrupting_a_turn_that_has_the_turn_but_has_not_begun() -> None:
    hold = asyncio.Event()
    agent = Actor(act=lambda x: hold.wait())
    first, second = start(agent(message("first"))), start(agent(message("second")))
    await agent.begun.wait()
    hold.set()
    while not first.done():
        await asyncio.sleep(0)
    assert await agent.interrupt("too late for the first") is True
    with pytest.raises(InterruptedTurnError):
        await second
    assert agent.handled == ["first"]
    await assert_usable(agent, "first")


async def test_interrupting_a_caller_below_whom_another_turn_runs() -> None:
    inner = Actor("inner", for_ever)
    outer = Actor("outer", lambda x: inner(message("inner")))
    for interrupted in (outer, inner):
        inner.act, inner.begun = for_ever, asyncio.Event()
        outer.act = lambda x: inner(message("inner"))
        task = start(outer(message("outer")))
        await inner.begun.wait()
        await interrupted.interrupt()
        with pytest.raises(InterruptedTurnError) as caught:
            await task
        assert caught.value.agent == interrupted.name
        assert task.cancelling() == 0
    both = start(outer(message("outer")))
    await steps()
    await inner.interrupt()
    await outer.interrupt()
    with pytest.raises(InterruptedTurnError):
        await both
    await assert_usable(inner)
    await assert_usable(outer)


async def test_an_interrupted_post_is_a_dead_letter_and_an_interrupted_submission_raises() -> None:
    agent = Actor(act=lambda x: for_ever() if x.text != "short" else asyncio.sleep(0))
    async with Runtime() as rt, asyncio.timeout(LIMIT_S):
        await agent.post(message("posted"))
        await agent.begun.wait()
        reply = agent.submit(message("submitted"))
        last = agent.submit(message("short"))
        assert await agent.interrupt("one")
        agent.begun.clear()
        await agent.begun.wait()
        assert await agent.interrupt("two")
        with pytest.raises(InterruptedTurnError, match="two"):
            await reply
        assert (await last).text == "re: short"
        await rt.drain()
        assert [(each.msg.text, type(each.error)) for each in rt.dead_letters] == [
            ("posted", InterruptedTurnError)
        ]
    await assert_usable(agent, "short")


@pytest.mark.parametrize("when", ["at once", "queued", "running", "done"])
async def test_a_submission_may_be_taken_back(when: str) -> None:
    hold = asyncio.Event()
    agent = Actor(act=lambda x: hold.wait() if when != "done" else asyncio.sleep(0))
    async with Runtime() as rt, asyncio.timeout(LIMIT_S):
        first = agent.submit(message("first")) if when == "queued" else None
        if first is not None:
            await agent.begun.wait()
        reply = agent.submit(message("taken back"))
        if when == "running":
            await agent.begun.wait()
        if when == "done":
            await reply
            assert reply.cancel() is False
            assert (await reply).text == "re: taken back"
            return
        assert reply.cancel("no longer wanted") is True
        reply.cancel()
        for _ in range(2):
            with pytest.raises(InterruptedTurnError, match="no longer wanted"):
                await reply
        assert reply.done()
        assert reply.cancel() is False
        hold.set()
        await rt.drain()
        assert agent.handled == ([] if first is None else ["first"])
        assert rt.dead_letters.total == 0


async def test_awaiting_a_reply_may_be_cancelled_without_ending_its_turn() -> None:
    hold = asyncio.Event()
    agent = Actor(act=lambda x: hold.wait())
    async with Runtime(), asyncio.timeout(LIMIT_S):
        reply = agent.submit(message("x"))
        with anyio.move_on_after(0.001):
            await reply
        assert not reply.done()
        hold.set()
        assert (await reply).text == (await reply).text == "re: x"


# -- what handlers should not raise or return --


class Custom(BaseException):
    """Of the user's own making."""


EXITS = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError("by itself"),
    Custom("mine"),
    BaseExceptionGroup("several", [Custom("one"), SystemExit()]),
]


@pytest.mark.parametrize("after_a_wait", [False, True])
@pytest.mark.parametrize("error", EXITS, ids=lambda error: type(error).__name__)
async def test_an_exit_raised_by_a_handler_ends_only_its_turn(
    error: BaseException, after_a_wait: bool
) -> None:
    async def act(x: Any) -> None:
        if x.text == "bad":
            if after_a_wait:
                await steps(2)
            raise error

    agent = Actor(act=act)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ReplyExitError) as caught:
            await agent(message("bad"))
        assert caught.value.exit_type is type(error)
        assert caught.value.__cause__ is error
        assert type(error).__name__ in str(caught.value)

        first, second = start(agent(message("bad"))), start(agent(message("good")))
        with pytest.raises(ReplyExitError):
            await first
        assert (await second).text == "re: good"

        with pytest.raises(ReplyExitError):
            async with agent.stream(message("bad")) as stream:
                async for _ in stream:
                    pass

        async with Runtime() as rt:
            await agent.post(message("bad"))
            reply = agent.submit(message("bad"))
            with pytest.raises(ReplyExitError):
                await reply
            assert (await agent.submit(message("good too"))).text == "re: good too"
            await rt.drain()
            assert [type(each.error) for each in rt.dead_letters] == [ReplyExitError]
    await assert_usable(agent, "good", "good too")


async def test_awaiting_something_cancelled_by_others_is_not_the_callers_cancellation() -> None:
    async def act(x: Any) -> None:
        other = start(for_ever())
        await steps()
        other.cancel()
        await other

    agent = Actor(act=act)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ReplyExitError) as caught:
            await agent(message())
        assert caught.value.exit_type is asyncio.CancelledError
    await assert_usable(agent)


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, 7, [message()], object()])
async def test_a_reply_that_is_no_message_is_a_typed_error(value: object) -> None:
    class Foolish(Actor):
        async def reply(self, x: Any = None) -> Any:
            msg = await super().reply(x)
            return value if x.text == "bad" else msg

    agent = Foolish("foolish")
    async with Runtime() as rt:
        with pytest.raises(InvalidReplyError, match="'foolish'") as caught:
            await agent(message("bad"))
        assert caught.value.value_type is type(value)
        assert isinstance(caught.value, TypeError)
        assert type(value).__name__ in str(caught.value)
        await agent.post(message("bad"))
        with pytest.raises(InvalidReplyError):
            await agent.submit(message("bad"))
        await rt.drain()
        assert [type(each.error) for each in rt.dead_letters] == [InvalidReplyError]
    await assert_usable(agent)


async def test_an_error_that_cannot_be_shown_is_still_an_error() -> None:
    class Unshowable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("cannot be shown")

        __repr__ = __str__

    async def act(x: Any) -> None:
        raise Unshowable

    agent = Actor(act=act)
    async with Runtime() as rt, asyncio.timeout(LIMIT_S):
        with pytest.raises(Unshowable):
            await agent(message())
        await agent.post(message())
        await rt.drain()
        assert [type(each.error) for each in rt.dead_letters] == [Unshowable]
    await assert_usable(agent)


# -- context, coroutines, loops --

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_context_variables_of_the_caller_reach_the_handler() -> None:
    seen: list[str] = []

    async def act(x: Any) -> None:
        seen.append(variable.get())
        variable.set(f"set for {x.text}")

    agent = Actor(act=act)
    variable.set("the caller's")
    await agent(message("x"))
    assert seen == ["the caller's"]
    assert variable.get() == "set for x"  # as after any coroutine
    await start(agent(message("y")))
    assert variable.get() == "set for x"
    assert seen[1] == "set for x"


async def test_a_coroutine_closed_before_it_ran_takes_no_turn() -> None:
    agent = Actor()
    agent(message("never")).close()
    agent.observe(message("never")).close()
    agent.state().close()
    assert agent.mailbox.is_idle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        agent(message("forgotten"))
        gc.collect()
    await assert_usable(agent)


def test_an_agent_goes_on_in_a_second_event_loop() -> None:
    agent = Actor()
    for number in range(3):
        asyncio.run(agent(message(number)))
    assert agent.remembered == ["0", "1", "2"]


def test_an_agent_goes_on_after_a_loop_that_ended_in_the_middle_of_its_turn() -> None:
    agent = Actor(act=lambda x: for_ever() if x.text == "cut" else asyncio.sleep(0))

    async def begin() -> None:
        tasks.append(asyncio.create_task(agent(message("cut"))))
        tasks.append(asyncio.create_task(agent(message("queued"))))
        await asyncio.sleep(0.001)

    tasks: list[asyncio.Task[Any]] = []
    asyncio.run(begin())  # cancels what is left
    asyncio.run(assert_usable(agent))
    assert all(task.cancelled() for task in tasks)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_forgotten", [False, True])
@pytest.mark.parametrize("waiters", [0, 2])
def test_an_agent_goes_on_after_a_loop_closed_in_the_middle_of_its_turn(
    is_forgotten: bool, waiters: int
) -> None:
    agent = Actor()
    asyncio.run(agent(message("before")))
    agent.act = for_ever
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(agent(message(number))) for number in range(1 + waiters)]
    loop.run_until_complete(steps())
    loop.close()  # without cancelling anything
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be
    agent.act = None
    del task
    if is_forgotten:
        tasks.clear()
        gc.collect()
    asyncio.run(asyncio.wait_for(agent(message("second loop")), LIMIT_S))
    tasks.clear()
    gc.collect()  # the turn cut off is found only now, and must not undo what came after
    assert agent.remembered[0] == "before"
    assert agent.remembered[-1] == "second loop"
    assert (asyncio.run(agent(message("third loop")))).text == "re: third loop"
    assert agent.mailbox.is_idle


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_swallowed_interruption_still_ends_the_turn,
        test_interrupting_a_caller_below_whom_another_turn_runs,
        test_an_interrupted_post_is_a_dead_letter_and_an_interrupted_submission_raises,
        test_cancelling_the_first_of_a_chain_cancels_all_turns_of_it,
        test_a_stream_left_early_stops_the_model,
        test_limits_inside_a_handler_are_its_own,
    ],
)
def test_in_asyncio_debug_mode(scenario: Callable[[], Any]) -> None:
    asyncio.run(scenario(), debug=True)


async def test_a_time_limit_ends_a_tight_loop_of_asks() -> None:
    agent = Actor()
    turns = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            while True:
                await agent(message("x"))
                turns += 1
    assert turns > 0
    assert (await agent(message("y"))).text == "re: y"


async def test_a_cancellation_on_its_way_when_the_turn_would_begin_is_the_callers_own():
    class Slow(AgentBase):
        async def reply(self, x=None):
            await asyncio.sleep(0)
            return Msg(self.name, "done", "assistant")

    agent = Slow("slow")

    async def ask():
        asyncio.current_task().cancel()
        await agent("x")

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(ask())

    async def ask_while_being_cancelled():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return (await agent("a last word")).text

    asking = asyncio.create_task(ask_while_being_cancelled())
    await asyncio.sleep(0)
    asking.cancel()
    assert await asking == "done"
