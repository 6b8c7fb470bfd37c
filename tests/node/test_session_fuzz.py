"""Whatever bytes come, a session answers with events and typed closes, within its limits."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given, settings, strategies as st
from node.fuzz import VICTIM, Target, fuzz, message

from agentscope_async.node.decoding import decode
from agentscope_async.node.frames import FrameError
from agentscope_async.node.reception import Reception
from agentscope_async.node.session import Session


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except FrameError as error:
        assert error.code


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_any_bytes_are_survived_by_a_session(messages: list[bytes]) -> None:
    target = Target(random.Random(0))
    for data in messages:
        target.throw(data)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32))
def test_messages_that_are_nearly_right_are_survived_by_a_session(seed: int) -> None:
    draw = random.Random(seed)
    target = Target(draw)
    for _ in range(20):
        target.throw(message(draw, target.n))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32), st.binary(max_size=100))
def test_any_greeting_is_answered(seed: int, junk: bytes) -> None:
    draw = random.Random(seed)
    for data in (junk, message(draw, 0)):
        admission = Reception(VICTIM).admit(data, 0.0)
        assert (admission.session is None) == (admission.refusal is not None)
        dialer = Session.dial(VICTIM)
        dialer.link_up(0.0)
        dialer.receive(data, 0.0)


def test_fifteen_thousand_inputs_leave_nothing_behind() -> None:
    fuzz(2_000, seed=0)  # fills caches
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        target = fuzz(15_000, seed=1)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert target.closes.keys() >= {4001, 4002, 4006}
    assert peak - before < 4 * 2**20
    assert after - before < 2**20
