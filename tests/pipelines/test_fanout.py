"""gather, race, quorum and vote."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar

import pytest
from hypothesis import given, strategies as st

from agentscope_async import (
    AgentBase,
    AgentFailure,
    DeadlockError,
    EchoModel,
    Msg,
    QuorumError,
    ReplyExitError,
    gather,
    quorum,
    race,
    vote,
)

ASK = Msg("user", "well?", "user")


class Sayer(AgentBase):
    """Says one thing, or raises it."""

    def __init__(self, answer, name="sayer"):
        super().__init__(name, use_memory=False)
        self.answer = answer

    async def reply(self, x=None):
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return Msg(self.name, self.answer, "assistant")


class Waiter(AgentBase):
    """Waits for ever, and notes how that ended."""

    def __init__(self, name="waiter"):
        super().__init__(name, use_memory=False)
        self.has_begun = asyncio.Event()
        self.was_cancelled = False

    async def reply(self, x=None):
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


class Gate:
    """Counts who is in at once."""

    def __init__(self):
        self.inside = self.most = self.total = 0

    async def __call__(self, x=None):
        self.inside += 1
        self.total += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            self.inside -= 1
        return x


async def number_late(order):
    """Operators that end in the given order, each with its number."""
    turns = [asyncio.Event() for _ in range(len(order) + 1)]
    turns[0].set()

    def operator(number, place):
        async def answer(x):
            await turns[place].wait()
            turns[place + 1].set()
            return number

        return answer

    return [operator(number, order.index(number)) for number in range(len(order))]


@pytest.fixture(autouse=True)
async def no_task_is_left():
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()
    assert complaints == []


limits = pytest.mark.parametrize("limit", [None, 1, 3, 1000])


# -- gather --


@limits
async def test_gathered_answers_stand_in_the_order_of_the_agents(limit):
    agents = [Sayer(str(number)) for number in range(20)]

    answers = await gather(agents, ASK, limit)

    assert [answer.text for answer in answers] == [str(number) for number in range(20)]


@given(st.permutations(range(6)))
async def test_gathered_answers_are_aligned_whoever_is_first(order):
    assert await gather(await number_late(order), None) == list(range(6))
    assert await gather(await number_late(order), None, limit=6, on_error="keep") == list(range(6))


@given(
    st.lists(st.integers(0, 9) | st.just(ValueError("no")), max_size=30),
    st.none() | st.integers(1, 8),
)
async def test_kept_failures_stand_in_place(outcomes, limit):
    def operator(outcome):
        async def answer(x):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return answer

    agents = [operator(each) for each in outcomes]

    answers = await gather(agents, None, limit, "keep")

    assert [a.error if isinstance(a, AgentFailure) else a for a in answers] == outcomes
    assert all(a.agent is agent for a, agent in zip(answers, agents, strict=True) if type(a) is AgentFailure)


@limits
async def test_a_kept_failure_says_who_and_what(limit):
    agent = Sayer(ValueError("no"), "Ann")

    (failure,) = await gather([agent], ASK, limit, on_error="keep")

    assert failure == AgentFailure(agent, agent.answer)
    assert failure.name == "Ann"
    with pytest.raises(AttributeError):
        failure.error = None


@limits
async def test_the_first_error_is_raised_as_it_is_and_cancels_the_rest(limit):
    waiters = [Waiter(), Waiter()]
    error = ValueError("the first one")

    with pytest.raises(ValueError, match="the first one") as caught:
        await gather([Sayer("good"), *waiters[: (limit or 3) - 1], Sayer(error), waiters[-1]], ASK, limit)

    assert caught.value is error
    assert all(waiter.was_cancelled for waiter in waiters if waiter.has_begun.is_set())
    assert not any(waiter.mailbox.turn for waiter in waiters)


@limits
async def test_several_errors_at_once_raise_the_first_and_leave_none_unretrieved(limit):
    agents = [Sayer(ValueError(str(number))) for number in range(5)]

    with pytest.raises(ValueError, match="0"):
        await gather(agents, ASK, limit)


@pytest.mark.parametrize("limit", [1, 2, 7, 50])
async def test_the_limit_bounds_how_many_are_asked_at_once(limit):
    gate = Gate()

    await gather([gate] * 50, None, limit)

    assert (gate.most, gate.total) == (limit, 50)


async def test_without_a_limit_all_are_asked_at_once():
    gate = Gate()

    await gather([gate] * 50, None)

    assert gate.most == 50


async def test_with_a_limit_there_is_no_task_for_an_agent_before_its_turn():
    most_tasks = most_taken = done = 0

    async def answer(x):
        nonlocal most_tasks, done
        most_tasks = max(most_tasks, len(asyncio.all_tasks()))
        done += 1

    def agents():
        nonlocal most_taken
        for number in range(2000):
            most_taken = max(most_taken, number - done)
            yield answer

    before = len(asyncio.all_tasks())
    answers = await gather(agents(), None, limit=10)

    assert answers == [None] * 2000
    assert most_tasks <= before + 10
    assert most_taken <= 20


@limits
async def test_nobody_to_ask_gives_no_answers(limit):
    assert await gather([], ASK, limit) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"on_error": "ignore"}, "on_error"), ({"limit": 0}, "limit"), ({"limit": -1}, "limit")],
)
async def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        await gather([Sayer("good")], ASK, **options)


@limits
@pytest.mark.parametrize("on_error", ["raise", "keep"])
async def test_cancelling_the_caller_cancels_all_and_waits_for_them(limit, on_error):
    waiters = [Waiter() for _ in range(limit or 3)][:3]
    caller = asyncio.create_task(gather(waiters, ASK, limit, on_error))
    for waiter in waiters:
        await waiter.has_begun.wait()

    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    assert all(waiter.was_cancelled for waiter in waiters)


async def test_a_caller_that_is_cancelled_waits_for_slow_cleaners():
    may_clean_up, cleaned = asyncio.Event(), []
    has_begun = asyncio.Event()

    async def slow_cleaner(x):
        try:
            has_begun.set()
            await asyncio.Event().wait()
        finally:
            await may_clean_up.wait()
            cleaned.append(x)

    caller = asyncio.create_task(gather([slow_cleaner], "x"))
    await has_begun.wait()
    for _ in range(2):  # impatience does not help
        caller.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not caller.done()

    may_clean_up.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cleaned == ["x"]


@limits
async def test_one_agent_may_be_asked_several_times(limit):
    class Counter(AgentBase):
        async def reply(self, x=None):
            count = self.memory.size()
            await asyncio.sleep(0)
            self.memory.add(Msg("user", "one more", "user"))
            return Msg(self.name, count, "assistant")

    counter = Counter("counter")
    answers = await gather([counter] * 20, ASK, limit)
    assert [answer.content for answer in answers] == list(range(20))


async def test_more_agents_than_are_started_at_once_get_their_answers():
    agents = [Sayer(str(number)) for number in range(2500)]

    answers = await gather(agents, ASK)

    assert [answer.text for answer in answers] == [str(number) for number in range(2500)]


async def test_an_early_failure_ends_the_starting_of_a_great_many():
    asked = 0

    async def fail(x):
        nonlocal asked
        asked += 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await gather([fail] * 10_000, ASK)

    assert asked < 10_000


@limits
async def test_a_cancellation_an_agent_made_up_is_its_failure_not_ours(limit):
    async def give_up(x):
        raise asyncio.CancelledError

    (failure,) = await gather([give_up], ASK, limit, "keep")
    assert (failure.name, type(failure.error)) == ("give_up", ReplyExitError)

    with pytest.raises(ReplyExitError, match="give_up"):
        await gather([give_up], ASK, limit)


@limits
async def test_operators_that_cannot_be_called_or_awaited_are_failures(limit):
    def plain(x):
        return x

    failures = await gather([plain, 3], ASK, limit, "keep")

    assert [type(failure.error) for failure in failures] == [TypeError, TypeError]


@limits
async def test_context_variables_of_one_agent_do_not_reach_the_next(limit):
    variable = ContextVar("variable", default="clean")

    async def soil(x):
        before = variable.get()
        variable.set("soiled")
        return before

    assert await gather([soil] * 5, None, limit) == ["clean"] * 5


async def test_asking_oneself_through_gather_is_a_deadlock_not_a_hang():
    class Asker(AgentBase):
        async def reply(self, x=None):
            return (await gather([self], x))[0]

    with pytest.raises(DeadlockError):
        await Asker("asker")(ASK)


async def test_models_of_gathered_agents_work_side_by_side():
    class Asker(AgentBase):
        async def reply(self, x=None):
            response = await self.model(self.model.format(x))
            return Msg(self.name, response.text, "assistant")

    model = EchoModel(delay_s=0.02)

    answers = await gather([Asker("asker", model=model) for _ in range(100)], ASK)

    assert {answer.text for answer in answers} == {"well?"}


# -- race --


async def test_race_returns_the_first_good_answer_and_cancels_the_losers():
    losers = [Waiter(), Waiter()]

    answer = await race([losers[0], Sayer(ValueError("bad")), Sayer("good"), losers[1]], ASK)

    assert answer.text == "good"
    assert all(loser.was_cancelled for loser in losers)


async def test_race_that_all_lose_tells_of_every_failure():
    agents = [Sayer(ValueError(str(number)), f"agent {number}") for number in range(3)]

    with pytest.raises(QuorumError, match="3 of 3 agents failed") as caught:
        await race(agents, ASK)

    assert (caught.value.needed, caught.value.good) == (1, [])
    assert [failure.name for failure in caught.value.failures] == ["agent 0", "agent 1", "agent 2"]
    assert caught.value.__cause__ is agents[2].answer


async def test_race_of_nobody_is_refused():
    with pytest.raises(ValueError, match="number of agents"):
        await race([], ASK)


async def test_cancelling_a_race_cancels_the_runners():
    waiters = [Waiter(), Waiter()]
    caller = asyncio.create_task(race(waiters, ASK))
    for waiter in waiters:
        await waiter.has_begun.wait()

    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    assert all(waiter.was_cancelled for waiter in waiters)


# -- quorum --


@given(st.permutations(range(5)), st.integers(1, 5))
async def test_quorum_gives_the_first_k_in_order_of_arrival(order, k):
    assert await quorum(await number_late(order), None, k) == order[:k]


async def test_quorum_cancels_the_rest():
    waiter = Waiter()

    answers = await quorum([waiter, Sayer("a"), Sayer("b")], ASK, 2)

    assert [answer.text for answer in answers] == ["a", "b"]
    assert waiter.was_cancelled


async def test_quorum_that_can_no_longer_be_reached_fails_at_once():
    waiter = Waiter()

    with pytest.raises(QuorumError) as caught:
        await quorum([Sayer("good"), Sayer(ValueError("1")), waiter, Sayer(ValueError("2"))], ASK, 3)

    assert caught.value.needed == 3
    assert [answer.text for answer in caught.value.good] == ["good"]
    assert [str(failure.error) for failure in caught.value.failures] == ["1", "2"]
    assert waiter.was_cancelled


@pytest.mark.parametrize("k", [-1, 0, 3])
async def test_quorum_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="from 1 to the number of agents, which is 2"):
        await quorum([Sayer("a"), Sayer("b")], ASK, k)


# -- vote --


async def test_vote_takes_the_most_frequent_answer_of_the_earliest_agent():
    agents = [Sayer(text, f"agent {number}") for number, text in enumerate("abcbcb")]

    answer = await vote(agents, ASK)

    assert (answer.text, answer.name) == ("b", "agent 1")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
async def test_votes_that_tie_go_to_the_earliest_agent(texts):
    most = max(texts.count(text) for text in texts)
    winner = next(text for text in texts if texts.count(text) == most)

    answer = await vote([Sayer(text, str(number)) for number, text in enumerate(texts)], ASK)

    assert (answer.text, answer.name) == (winner, str(texts.index(winner)))


async def test_agents_that_fail_do_not_vote():
    agents = [Sayer(ValueError("x")), Sayer(ValueError("x")), Sayer("good")]

    assert (await vote(agents, ASK)).text == "good"


async def test_votes_are_counted_by_key():
    agents = [Sayer("no"), Sayer("Yes."), Sayer("yes!")]

    assert (await vote(agents, ASK, key=lambda msg: msg.text.lower().strip(".!"))).text == "Yes."


async def test_a_vote_without_voters_or_ballots_is_refused():
    with pytest.raises(ValueError, match="at least one agent"):
        await vote([], ASK)
    with pytest.raises(QuorumError) as caught:
        await vote([Sayer(ValueError("a")), Sayer(ValueError("b"))], ASK)
    assert [str(failure.error) for failure in caught.value.failures] == ["a", "b"]


async def test_a_vote_can_be_limited():
    gate = Gate()

    assert await vote([gate] * 9, "x", key=str, limit=2) == "x"
    assert gate.most == 2
