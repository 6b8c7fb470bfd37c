"""Two sessions that talk through this test, which carries their messages and sets their clock."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentscope_async.errors import ConfigError
from agentscope_async.node import _receiving as receiving_module, encoding, frames, session as session_module
from agentscope_async.node.decoding import decode
from agentscope_async.node.events import (
    CannotSend,
    CloseLink,
    CreditGranted,
    LateReply,
    LinkSuspect,
    LinkUp,
    Outcome,
    PeerDraining,
    Refused,
    RoomBack,
    SessionLost,
    State,
)
from agentscope_async.node.frames import (
    NODE,
    Ask,
    Cancel,
    CloseCode,
    Down,
    Failure,
    FrameError,
    Probe,
    Reply,
    Spawn,
    Tell,
    Unwatch,
    Watch,
)
from agentscope_async.node.reception import SESSIONS_PER_NODE, Admission, Reception
from agentscope_async.node.session import Session
from agentscope_async.node.settings import Settings, new_incarnation


class Pair:
    """A dialer and an acceptor; ``now`` is their clock."""

    def __init__(self, **limits: Any) -> None:
        self.now = 10.0
        self.a = Session.dial(Settings("a", new_incarnation(1), **limits))
        self.reception = Reception(Settings("b", new_incarnation(1), **limits))
        assert self.connect() == [LinkUp(resumed=False)]

    def connect(self) -> list[Any]:
        """Open a link; return the dialer's events."""
        self.a.link_up(self.now)
        admission = self.admit(self.a.poll(self.now))
        assert admission.session is not None
        self.b, self.b_events = admission.session, admission.events
        welcome = self.b.poll(self.now)
        assert welcome is not None
        return self.a.receive(welcome, self.now)

    def admit(self, hello: bytes | None, **identity: str) -> Admission:
        assert hello is not None
        return self.reception.admit(hello, self.now, **identity)

    def cut(self) -> list[Any]:
        return self.a.link_down(self.now) + self.b.link_down(self.now)

    def to_b(self) -> list[Any]:
        return carry(self.a, self.b, self.now)

    def to_a(self) -> list[Any]:
        return carry(self.b, self.a, self.now)

    def settle(self) -> list[Any]:
        """Carry messages both ways, and 20 ms later the last acknowledgements."""
        events = self.to_b() + self.to_a() + self.to_b()
        self.now += 0.021
        return events + self.to_a() + self.to_b()


def carry(source: Session, target: Session, now: float) -> list[Any]:
    events: list[Any] = []
    while (data := source.poll(now)) is not None:
        events += target.receive(data, now)
    return events


def refused(code: str) -> Any:
    return pytest.raises(CannotSend, check=lambda error: error.code == code)


def raw(session: Session, *lines: dict[str, Any], now: float = 10.0) -> list[Any]:
    return session.receive(orjson.dumps(lines if len(lines) > 1 else lines[0]), now)


def closes(events: list[Any]) -> list[int]:
    return [event.code for event in events if isinstance(event, CloseLink)]


def tell(n: int, to: str = "bob") -> dict[str, Any]:
    return {"t": "tell", "n": n, "to": to, "body": n}


# -- talking --


def test_an_ask_is_answered() -> None:
    pair = Pair()
    id = pair.a.ask("bob", {"x": 1}, pair.now, ttl_s=2.0, chain=["a/al"], sender="al", op="observe")
    assert pair.to_b() == [Ask(1, id, "bob", {"x": 1}, 2000, ("a/al",), "al", "observe", False)]
    pair.b.reply(id, "yes")
    assert pair.to_a() == [Reply(1, id, "yes", None, True)]
    pair.settle()
    assert pair.a.is_settled
    assert pair.b.is_settled


def test_an_ask_fails_with_what_the_other_side_said() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.to_b()
    failure = Failure("agent_error", "no", "ValueError", "line 1", {"x": 1})
    pair.b.fail(id, failure)
    assert pair.to_a() == [Reply(1, id, None, failure, True)]


def test_both_sides_may_ask_and_tell_at_once() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    id = pair.b.ask("al", 2, pair.now)
    assert pair.to_b() == [Tell(1, "bob", 1, None, "reply")]
    assert [type(event) for event in pair.to_a()] == [Ask]
    pair.a.reply(id, 3)
    assert [event.body for event in pair.to_b()] == [3]


def test_time_spent_in_the_outbox_counts() -> None:
    pair = Pair()
    pair.cut()
    pair.a.ask("bob", 1, pair.now, ttl_s=5.0)
    pair.a.ask("bob", 2, pair.now, ttl_s=1.0)
    pair.a.ask("bob", 3, pair.now)
    pair.a.ask("bob", 4, pair.now, ttl_s=float("inf"))
    pair.now += 2.0
    pair.connect()
    assert [event.ttl_ms for event in pair.to_b()] == [3000, 0, None, 999_999_998_000]


def test_streamed_parts_come_before_the_reply_and_need_credit() -> None:
    pair = Pair(credit=4)
    id = pair.a.ask("bob", 1, pair.now, wants_parts=True)
    pair.to_b()
    for i in range(4):
        pair.b.reply(id, i, last=False)
    with refused("no_credit"):
        pair.b.reply(id, 4, last=False)
    assert [(event.body, event.last) for event in pair.to_a()] == [(i, False) for i in range(4)]
    pair.a.consumed(id, 2)
    assert pair.to_b() == [CreditGranted(id)]
    assert pair.b.credit(id) == 2
    pair.b.reply(id, 4, last=False)
    pair.b.reply(id, "end")
    assert [(event.body, event.last) for event in pair.to_a()] == [(4, False), ("end", True)]


def test_parts_nobody_asked_for_are_a_violation() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    assert closes(raw(pair.a, {"t": "rep", "n": 1, "id": id, "body": 1, "last": False})) == [4006]


def test_an_ask_is_answered_once() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.to_b()
    pair.b.reply(id, 1)
    with refused("not_asked"):
        pair.b.reply(id, 2)
    with refused("not_asked"):
        pair.b.fail(77, Failure("agent_error", ""))


def test_a_reply_nobody_waits_for_is_shown_as_such() -> None:
    pair = Pair()
    [event] = raw(pair.a, {"t": "rep", "n": 1, "id": 5, "body": 1})
    assert event == LateReply(Reply(1, 5, 1, None, True))


def test_the_first_of_two_replies_counts() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.to_b()
    events = raw(pair.a, *({"t": "rep", "n": n, "id": id, "body": n} for n in (1, 2)))
    assert [type(event) for event in events] == [Reply, LateReply]


def test_of_a_cancelled_ask_nothing_more_is_heard() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.to_b()
    pair.a.cancel(id)
    pair.a.cancel(id)
    assert pair.to_b() == [Cancel(2, id)]
    pair.b.reply(id, "late")
    assert pair.to_a() == []
    assert pair.a.statistics().asks_open == 0


def test_a_cancel_that_comes_after_the_reply_is_nothing() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.to_b()
    pair.b.reply(id, "in time")
    pair.a.cancel(id)
    assert pair.to_b() == []


def test_a_spawn_is_answered_as_an_ask_is() -> None:
    pair = Pair(credit=1)
    id = pair.a.spawn("DialogAgent", "bob", {"sys_prompt": "x"}, pair.now, ttl_s=1.0)
    assert pair.to_b() == [Spawn(1, id, "DialogAgent", "bob", {"sys_prompt": "x"}, 1000)]
    with refused("no_credit"):
        pair.a.spawn("DialogAgent", "carol", {}, pair.now)
    pair.b.consumed(NODE)
    pair.b.reply(id, "bob")
    events = pair.to_a()
    assert events == [CreditGranted(NODE), Reply(1, id, "bob", None, True)]


def test_a_watch_fires_once() -> None:
    pair = Pair()
    id = pair.a.watch("bob")
    assert pair.to_b() == [Watch(1, id, "bob")]
    pair.b.down(id, "stopped")
    pair.b.down(id, "stopped")
    assert pair.to_a() == [Down(1, id, "stopped")]
    assert raw(pair.a, {"t": "dwn", "n": 2, "id": id, "reason": "again"}) == []


def test_a_watch_taken_back_does_not_fire() -> None:
    pair = Pair()
    id = pair.a.watch("bob")
    pair.to_b()
    pair.a.unwatch(id)
    pair.b.down(id, "stopped")
    assert pair.to_a() == []
    assert pair.to_b() == []
    other = pair.a.watch("bob")
    pair.a.unwatch(other)
    assert [type(event) for event in pair.to_b()] == [Watch, Unwatch]


def test_a_probe_reaches_whoever_has_the_ask() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.a.probe(id, ["a/al"])
    pair.a.probe(99, ["a/al"])
    assert pair.to_b()[0].id == id
    pair.a.probe(id, ["a/al", "b/bob"])
    assert pair.to_b() == [Probe(id, ("a/al", "b/bob"))]


# -- coalescing --


def test_a_lone_frame_is_a_message_at_once_and_many_go_together() -> None:
    pair = Pair()
    pair.a.tell("bob", 0)
    assert pair.a.poll(pair.now) == b'{"t":"tell","n":1,"to":"bob","body":0}'
    assert pair.a.poll(pair.now) is None
    for i in range(40):
        pair.a.tell("bob", i)
    sizes = []
    while (data := pair.a.poll(pair.now)) is not None:
        frames = orjson.loads(data)
        sizes.append(len(frames) if type(frames) is list else 1)
    assert sizes == [32, 8]


def test_frames_are_worth_a_message_when_as_many_wait_as_are_under_way() -> None:
    pair = Pair(credit=512)
    groups, waiting = [], 0
    for i in range(100):
        pair.a.tell("bob", i)
        waiting += 1
        if pair.a.is_worth_writing:
            groups.append(waiting)
            waiting = 0
            while pair.a.poll(pair.now) is not None:
                pass
            assert not pair.a.is_worth_writing
    assert groups == [1, 1, 2, 4, 8, 16, 32, 32]


def test_a_frame_goes_at_once_when_all_before_it_has_arrived() -> None:
    pair = Pair()
    for i in range(3):
        pair.a.tell("bob", i)
    pair.settle()
    assert not pair.a.is_worth_writing
    pair.a.tell("bob", 4)
    assert pair.a.is_worth_writing


def test_a_large_frame_waits_for_no_others() -> None:
    pair = Pair()
    for i in range(4):
        pair.a.tell("bob", i)
    while pair.a.poll(pair.now) is not None:
        pass
    pair.a.tell("bob", "small")
    assert not pair.a.is_worth_writing
    pair.a.tell("bob", "x" * 20_000)
    assert pair.a.is_worth_writing


def test_no_message_is_larger_than_the_other_side_takes() -> None:
    pair = Pair(max_frame=16_384, max_body=100_000)
    for size in (10_000, 5_000, 16_300, 40_000, 1, 16_000):
        pair.a.ask("bob", "x" * size, pair.now, ttl_s=1.0)
    sizes, events = [], []
    while (data := pair.a.poll(pair.now)) is not None:
        sizes.append(len(data))
        events += pair.b.receive(data, pair.now)
    assert max(sizes) <= 16_384
    assert [len(event.body) for event in events] == [10_000, 5_000, 16_300, 40_000, 1, 16_000]
    assert {event.ttl_ms for event in events} == {1000}


# -- acknowledging --


@pytest.mark.parametrize("rx", [-1, True, 1.0, "1", [1]])
def test_an_acknowledgement_that_is_none_ends_the_link(rx: Any) -> None:
    pair = Pair()
    assert closes(raw(pair.b, {**tell(1), "a": rx})) == [4001]


def test_an_acknowledgement_of_what_was_never_sent_ends_the_link() -> None:
    pair = Pair()
    pair.b.tell("al", 1)
    pair.b.poll(pair.now)
    assert closes(raw(pair.b, {**tell(1), "a": 2})) == [4002]


def test_what_a_frame_acknowledged_by_the_way_is_not_acknowledged_again() -> None:
    pair = Pair(credit=256)
    for _ in range(100):
        id = pair.a.ask("bob", 1, pair.now)
        pair.to_b()
        pair.b.reply(id, 1)
        pair.to_a()
    assert pair.a.poll(pair.now) is None


def test_an_old_acknowledgement_does_no_harm() -> None:
    pair = Pair()
    for _ in range(2):
        pair.b.tell("al", 1)
    pair.b.poll(pair.now)
    events = raw(pair.b, {**tell(1), "a": 2}, {**tell(2), "a": 1})
    assert [type(event) for event in events] == [Tell, Tell]
    assert pair.b.is_settled
    assert pair.b.resume_check(1) == "2 was acknowledged before, now 1."


def test_a_frame_that_is_refused_acknowledges_all_the_same() -> None:
    pair = Pair()
    pair.b.tell("al", 1)
    pair.b.poll(pair.now)
    events = raw(pair.b, {**tell(1, to="../x"), "a": 1})
    assert [type(event) for event in events] == [Refused]
    assert pair.b.is_settled


def test_what_is_written_again_acknowledges_what_has_come_since() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    assert b'"a"' not in (pair.a.poll(pair.now) or b"")  # and is lost
    pair.cut()
    pair.connect()
    pair.b.tell("al", 1)
    pair.to_a()
    assert (pair.a.poll(pair.now) or b"").endswith(b',"a":1}')


def test_a_message_of_the_largest_size_has_room_for_its_tail() -> None:
    pair = Pair(max_frame=16 * 1024)
    pair.b.tell("al", 1)
    pair.to_a()
    for size in range(16_200, 16_384):
        pair.a.ask("bob", "x" * size, pair.now, ttl_s=1e9)
        assert [type(event) for event in pair.to_b()] == [Ask]
        pair.b.consumed("bob")
        pair.b.tell("al", 1)
        pair.to_a()
        pair.a.consumed("al")


@pytest.mark.parametrize("bad", [{"t": "ask", "id": 1, "ttl": "soon"}, {"t": "tell", "op": 1}])
def test_a_bad_frame_gives_its_credit_back(bad: dict[str, Any]) -> None:
    pair = Pair(credit=4)
    for n in range(1, 100):
        raw(pair.b, {**tell(n), **bad, "id": n})
    assert pair.b.state is State.OPEN
    frames = orjson.loads(pair.b.poll(pair.now) or b"")
    assert {"t": "crd", "to": "bob", "upto": 103} in frames


def test_a_bad_frame_beyond_its_credit_ends_the_session() -> None:
    pair = Pair(credit=4)
    lines = [tell(n) for n in range(1, 5)]
    assert closes(raw(pair.b, *lines, {**tell(5), "op": 1})) == [4006]


def test_an_acknowledgement_rides_on_any_message() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.to_b()
    assert pair.b.poll(pair.now) is None
    pair.b.reply(id, 1)
    data = pair.b.poll(pair.now)
    assert data is not None
    assert orjson.loads(data)["a"] == 1  # in the frame, not beside it
    pair.a.receive(data, pair.now)
    assert pair.a.is_settled


def test_an_acknowledgement_is_due_after_20_ms() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    pair.to_b()
    due = pair.b.next_timer(pair.now)
    assert due == pytest.approx(pair.now + 0.020)
    assert pair.b.tick(due) == []
    assert pair.b.poll(due) == b'{"t":"ack","rx":1}'
    assert pair.b.poll(due) is None


def test_an_acknowledgement_is_due_after_64_frames() -> None:
    pair = Pair(credit=100)
    for i in range(63):
        pair.a.tell("bob", i)
    pair.to_b()
    assert pair.b.poll(pair.now) is None
    pair.a.tell("bob", 63)
    pair.to_b()
    assert pair.b.poll(pair.now) == b'{"t":"ack","rx":64}'


@pytest.mark.parametrize("rx", [1, 2**53])
def test_an_acknowledgement_of_what_was_never_sent_closes_the_link(rx: int) -> None:
    pair = Pair()
    assert closes(raw(pair.a, {"t": "ack", "rx": rx})) == [4002]


def test_an_acknowledgement_that_goes_back_is_ignored() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    pair.settle()
    assert raw(pair.a, {"t": "ack", "rx": 0}) == []
    assert pair.a.is_settled


# -- resuming --


def test_what_got_lost_with_a_link_is_sent_again_in_order() -> None:
    pair = Pair()
    for i in range(3):
        pair.a.tell("bob", i)
    pair.to_b()
    for i in range(3, 6):
        pair.a.tell("bob", i)
    assert pair.a.poll(pair.now) is not None  # written, and lost
    pair.a.tell("bob", 6)
    assert pair.cut() == []
    pair.a.tell("bob", 7)
    assert pair.connect() == [LinkUp(resumed=True)]
    assert [event.body for event in pair.to_b()] == [3, 4, 5, 6, 7]
    pair.settle()
    assert pair.a.is_settled


def test_a_frame_that_comes_twice_is_delivered_once() -> None:
    pair = Pair()
    assert [type(event) for event in raw(pair.b, tell(1), tell(1), tell(2))] == [Tell, Tell]
    assert pair.b.statistics().duplicates == 1


def test_a_gap_closes_the_link_and_resuming_repairs_it() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    assert pair.a.poll(pair.now) is not None  # lost, though the link stays
    pair.a.tell("bob", 2)
    assert closes(pair.to_b()) == [4002]
    assert pair.to_b() == []
    pair.a.link_down(pair.now, 4002)
    pair.connect()
    assert [event.body for event in pair.to_b()] == [1, 2]


def test_nothing_of_an_old_link_is_heard_after_it_was_given_up() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    late = pair.a.poll(pair.now)
    assert late is not None
    pair.b.link_down(pair.now)
    assert pair.b.receive(late, pair.now) == []


def test_a_newer_link_replaces_one_that_seems_open() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    pair.a.poll(pair.now)
    pair.a.link_up(pair.now)
    admission = pair.admit(pair.a.poll(pair.now))
    assert admission.session is pair.b
    assert admission.is_takeover
    pair.to_a()
    assert [event.body for event in pair.to_b()] == [1]


def test_a_session_resumes_also_when_its_first_welcome_got_lost() -> None:
    pair = Pair()
    a = Session.dial(pair.a.settings)
    a.link_up(pair.now)
    first = pair.admit(a.poll(pair.now))
    assert first.session is not None
    first.session.tell("al", "early")
    assert first.session.poll(pair.now) is not None
    assert first.session.poll(pair.now) is not None
    a.link_down(pair.now)
    a.link_up(pair.now)
    second = pair.admit(a.poll(pair.now))
    assert second.session is first.session
    assert second.ended == ()
    assert [type(event) for event in carry(first.session, a, pair.now)] == [LinkUp, Tell]


def test_grants_lost_with_a_link_are_given_again() -> None:
    pair = Pair(credit=2)
    pair.a.tell("bob", 1)
    pair.a.tell("bob", 2)
    pair.to_b()
    pair.b.consumed("bob", 2)
    assert pair.b.poll(pair.now) is not None  # lost
    pair.cut()
    pair.connect()
    assert pair.to_a() == [CreditGranted("bob")]
    assert pair.a.credit("bob") == 2


def test_grants_for_parts_of_a_reply_lost_with_a_link_are_given_again() -> None:
    pair = Pair(credit=1)
    id = pair.a.ask("bob", 1, pair.now, wants_parts=True)
    pair.to_b()
    pair.b.reply(id, "part", last=False)
    pair.to_a()
    pair.a.consumed(id)
    assert pair.a.poll(pair.now) is not None  # lost
    pair.cut()
    pair.connect()
    assert pair.to_b() == [CreditGranted(id)]


def test_a_message_in_parts_survives_a_cut_between_them() -> None:
    pair = Pair(max_frame=16_384)
    pair.a.tell("bob", "x" * 200_000)
    for _ in range(5):
        data = pair.a.poll(pair.now)
        assert data is not None
        assert pair.b.receive(data, pair.now) == []
    pair.cut()
    pair.connect()
    [event] = pair.to_b()
    assert event.body == "x" * 200_000


# -- the handshake --


def hello(**changes: Any) -> bytes:
    fields = {
        "t": "hello", "v": [1], "node": "a", "inc": "5." + "a" * 16, "sid": "1" * 32, "key": None, "rx": 0,
        "max_frame": 2**20, "max_body": 2**25, "credit": 64, "hb": 1000, **changes,
    }  # fmt: skip
    return orjson.dumps(fields)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (hello(v=[0]), 4004),
        (hello(v=[2, 999]), 4004),
        (hello(v="1"), 4004),
        (hello(v=None), 4004),
        (hello(node="other"), 4003),
        (hello(node="a b"), 4001),
        (hello(rx=-1), 4001),
        (hello(rx=1), 4002),
        (hello(sid="x"), 4001),
        (hello(pad="x" * 5000), 4001),
        (b"", 4001),
        (b'{"t":"ack","rx":1}', 4001),
        (b"[%b]" % hello(), 4001),
        (hello() + b"\n" + hello(), 4001),
    ],
)
def test_a_bad_hello_is_refused_with_its_code(data: bytes, code: int) -> None:
    reception = Reception(Settings("b", new_incarnation()))
    admission = reception.admit(data, 0.0, identity="a")
    assert admission.session is None
    assert admission.refusal is not None
    assert admission.refusal.code == code
    assert reception.sessions == []


def test_a_hello_with_a_key_nobody_knows_starts_a_session_and_says_so() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    admission = reception.admit(hello(key="2" * 32, rx=7), 0.0)
    assert admission.events == [LinkUp(resumed=False)]
    assert admission.session is not None
    welcome = decode(admission.session.poll(0.0) or b"")
    assert isinstance(welcome, frames.Welcome)
    assert not welcome.resumed
    assert welcome.rx == 0


def test_a_dialer_hears_that_it_was_forgotten_also_at_the_second_try() -> None:
    pair = Pair()
    pair.a.tell("bob", 1, tag="x")
    pair.a.poll(pair.now)
    pair.cut()
    pair.b.tick(pair.now + 30.0)
    pair.a.link_up(pair.now)
    assert pair.admit(pair.a.poll(pair.now)).events == [LinkUp(resumed=False)]  # its welcome gets lost
    events = pair.connect()
    assert closes(events) == [4009]
    assert events[-1] == SessionLost("forgotten", [Outcome("tell", 1, 0, "unknown", "x")], [])


@pytest.mark.parametrize("claim", ["higher", "lower"])
def test_a_resume_that_claims_what_is_not_so_is_refused(claim: str) -> None:
    pair = Pair()
    pair.b.tell("al", 1)
    pair.settle()
    pair.cut()
    rx = 5 if claim == "higher" else 0
    again = hello(inc=pair.a.settings.inc, sid=pair.a.sid, key=pair.a.key, rx=rx)
    refusal = pair.admit(again).refusal
    assert refusal is not None
    assert refusal.code == 4002
    assert pair.connect() == [LinkUp(resumed=True)]


@pytest.mark.parametrize("key", ["f" * 32, None])
def test_a_session_is_not_resumed_without_its_key(key: str | None) -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    pair.to_b()
    refusal = pair.admit(hello(inc=pair.a.settings.inc, sid=pair.a.sid, key=key)).refusal
    assert refusal is not None
    assert refusal.code == 4003
    assert pair.b.state is State.OPEN


def test_a_welcome_that_does_not_come_in_time_ends_the_link() -> None:
    a = Session.dial(Settings("a", new_incarnation()))
    a.link_up(0.0)
    assert a.next_timer(0.0) == 5.0
    assert a.tick(4.9) == []
    assert closes(a.tick(5.0)) == [4007]
    assert a.state is State.SUSPENDED
    assert [event.reason for event in a.tick(30.0)] == ["window"]
    assert a.next_timer(30.0) is None


def test_a_greeting_that_gets_lost_delays_a_session_by_two_seconds_only() -> None:
    pair = Pair()
    pair.cut()
    pair.a.link_up(pair.now)
    pair.a.poll(pair.now)  # the hello, or its welcome, is lost
    assert pair.a.next_timer(pair.now) == pair.now + 2.0
    assert closes(pair.a.tick(pair.now + 2.0)) == [4007]


@pytest.mark.parametrize("first", [b'{"t":"ack","rx":0}', b"junk", b'{"t":"welcome","v":1}'])
def test_what_is_no_welcome_ends_the_link(first: bytes) -> None:
    a = Session.dial(Settings("a", new_incarnation()))
    a.link_up(0.0)
    assert closes(a.receive(first, 0.0)) == [4001]


def test_nothing_can_be_sent_before_the_first_link_is_welcomed() -> None:
    a = Session.dial(Settings("a", new_incarnation()))
    assert not a.can_send
    with refused("not_linked"):
        a.tell("bob", 1)


def test_an_older_incarnation_is_fenced() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    old, new = hello(inc="5." + "a" * 16), hello(inc="6." + "b" * 16, sid="2" * 32)
    first = reception.admit(old, 0.0)
    second = reception.admit(new, 0.0)
    [(ended, events)] = second.ended
    assert ended is first.session
    assert closes(events) == [4008]
    assert events[-1] == SessionLost("restarted", [], [])
    refusal = reception.admit(old, 0.0).refusal
    assert refusal is not None
    assert refusal.code == 4008


def test_an_incarnation_without_a_start_counter_is_fenced_once_another_came() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    first, second = hello(inc="0." + "f" * 16), hello(inc="0." + "1" * 16, sid="2" * 32)
    reception.admit(first, 0.0)
    assert reception.admit(second, 0.0).refusal is None
    refusal = reception.admit(first, 0.0).refusal
    assert refusal is not None
    assert refusal.code == 4008


def test_a_fenced_session_is_over() -> None:
    pair = Pair()
    [lost] = pair.a.link_down(pair.now, 4008)
    assert lost.reason == "fenced"
    assert pair.a.is_over


def test_the_book_of_sessions_is_bounded() -> None:
    reception = Reception(Settings("b", new_incarnation()), max_nodes=8)
    for i in range(1000):
        reception.admit(hello(sid=f"{i:032x}"), 0.0)
        assert len(reception.sessions) <= SESSIONS_PER_NODE
    for i in range(100):
        reception.admit(hello(node=f"n{i}", sid=f"{i:032x}"), 0.0)
    assert len(reception.sessions) == 8


def test_a_node_may_have_several_sessions() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    first, second = hello(sid="1" * 32), hello(sid="2" * 32)
    one, other = reception.admit(first, 0.0), reception.admit(second, 0.0)
    assert list(other.ended) == []
    assert reception.sessions == [one.session, other.session]
    assert reception.admit(first, 1.0).session is one.session
    assert reception.sessions == [other.session, one.session]


def test_too_many_sessions_of_a_node_end_the_one_linked_least_recently() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    sessions = [reception.admit(hello(sid=f"{i:032x}"), 0.0).session for i in range(SESSIONS_PER_NODE)]
    assert reception.admit(hello(sid=f"{0:032x}"), 0.0).session is sessions[0]
    [(ended, events)] = reception.admit(hello(sid="f" * 32), 0.0).ended
    assert ended is sessions[1]
    assert closes(events) == [4006]
    assert events[-1] == SessionLost("flow", [], [])
    assert len(reception.sessions) == SESSIONS_PER_NODE


def test_a_session_that_is_over_takes_no_place() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    for i in range(SESSIONS_PER_NODE):
        session = reception.admit(hello(sid=f"{i:032x}"), 0.0).session
    assert session is not None
    session.lose("closed")
    assert list(reception.admit(hello(sid="f" * 32), 0.0).ended) == []


def test_a_newer_incarnation_ends_all_sessions_of_the_older_one() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    old = [reception.admit(hello(inc="5." + "a" * 16, sid=f"{i:032x}"), 0.0).session for i in range(3)]
    ended = list(reception.admit(hello(inc="6." + "b" * 16, sid="f" * 32), 0.0).ended)
    assert [session for session, _ in ended] == old
    assert [closes(events) for _, events in ended] == [[4008]] * 3
    assert {events[-1].reason for _, events in ended} == {"restarted"}
    refusal = reception.admit(hello(inc="5." + "a" * 16, sid="e" * 32), 0.0).refusal
    assert refusal is not None
    assert refusal.code == 4008


def test_a_session_the_dialer_does_not_want_is_over_at_once() -> None:
    reception = Reception(Settings("b", new_incarnation()))
    session = reception.admit(hello(key="2" * 32), 0.0).session
    assert session is not None
    assert session.link_down(0.0, 4009) == [SessionLost("forgotten", [], [])]
    assert reception.sessions == []


def test_a_node_that_was_started_again_ends_the_dialers_session() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now, tag="x")
    pair.to_b()
    pair.a.link_down(pair.now)
    pair.reception = Reception(Settings("b", new_incarnation(2)))
    events = pair.connect()
    assert events[-1] == SessionLost("restarted", [Outcome("ask", 1, id, "unknown", "x")], [])


# -- silence --


def run_until(session: Session, start: float, end: float) -> tuple[float, list[Any]]:
    """Follow the session's own timers; return when something happened, and what."""
    now = start
    while (due := session.next_timer(now)) is not None and due <= end:
        now = due
        if events := session.tick(now):
            return now, events
        session.poll(now)
    return end, []


def test_something_is_said_every_second() -> None:
    pair = Pair()
    due = pair.a.next_timer(pair.now)
    assert due == pair.now + 1.0
    pair.a.tick(due)
    assert pair.a.poll(due) == b'{"t":"hb","ts":11000}'
    assert pair.a.poll(due) is None
    pair.now = due
    pair.b.receive(b'{"t":"hb","ts":11000}', due)
    assert pair.b.poll(due + 0.5) == b'{"t":"hbr","ts":11000}'
    pair.a.receive(b'{"t":"hbr","ts":11000}', due + 0.5)
    assert pair.a.statistics().round_trip_s == pytest.approx(0.5)


def test_three_missed_heartbeats_give_the_link_up() -> None:
    pair = Pair()
    now, events = run_until(pair.a, pair.now, pair.now + 60)
    assert now == pair.now + 3.0
    assert events[0] == LinkSuspect(3.0)
    assert len(closes(events)) == 1
    assert pair.a.state is State.SUSPENDED


def test_a_node_that_stood_still_itself_does_not_suspect_the_other() -> None:
    pair = Pair()
    assert pair.a.tick(pair.now + 60) == []
    pair.now += 60
    pair.b.tell("al", 1)
    assert [type(event) for event in pair.to_a()] == [Tell]
    pair.b.tick(pair.now)
    assert pair.a.state is State.OPEN


def test_idle_sessions_that_hear_each_other_stay_open() -> None:
    pair = Pair()
    for _ in range(300):
        pair.now += 0.5
        assert pair.a.tick(pair.now) + pair.b.tick(pair.now) == []
        assert pair.to_b() + pair.to_a() == []
    assert pair.a.state is pair.b.state is State.OPEN


def test_f27_a_link_on_which_nothing_is_acknowledged_is_given_up() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    assert pair.a.poll(pair.now) is not None  # and gets nowhere, though the other side goes on talking
    events: list[Any] = []
    for _ in range(40):
        pair.now += 1
        raw(pair.a, {"t": "hb", "ts": 1}, now=pair.now)
        events += pair.a.tick(pair.now)
        pair.a.poll(pair.now)
    assert [type(event) for event in events] == [LinkSuspect, CloseLink]
    assert pair.a.state is State.SUSPENDED


def test_a_link_that_is_slow_but_gets_on_stays() -> None:
    pair = Pair()
    for _ in range(10):
        pair.a.tell("bob", 1)
        assert pair.a.poll(pair.now) is not None
        for _ in range(20):
            pair.now += 1
            raw(pair.a, {"t": "hb", "ts": 1}, now=pair.now)
            assert pair.a.tick(pair.now) == []
        raw(pair.a, {"t": "ack", "rx": pair.a.statistics().frames_sent}, now=pair.now)
    assert pair.a.state is State.OPEN


# -- the end --


def test_a_session_without_a_link_is_lost_after_its_window() -> None:
    pair = Pair()
    pair.cut()
    assert pair.a.next_timer(pair.now) == pair.now + 30.0
    assert pair.a.tick(pair.now + 29.9) == []
    pair.a.link_up(pair.now + 29.9)
    assert pair.a.tick(pair.now + 30.0) == [SessionLost("window", [], [])]
    assert pair.a.tick(pair.now + 99) == pair.a.link_down(pair.now + 99) == []
    with refused("session_over"):
        pair.a.tell("bob", 1)


def test_a_lost_session_tells_of_each_thing_what_became_of_it() -> None:
    pair = Pair()
    answered = pair.a.ask("bob", 0, pair.now, tag="answered")
    acked = pair.a.ask("bob", 1, pair.now, tag="acked")
    pair.a.tell("bob", 2, tag="delivered")
    cancelled = pair.a.ask("bob", 3, pair.now, tag="cancelled")
    watch = pair.a.watch("bob")
    pair.to_b()
    pair.b.reply(answered, "yes")
    pair.settle()
    theirs = pair.b.ask("al", 1, pair.now)
    pair.to_a()
    written = pair.a.tell("bob", 4, tag="written")
    pair.a.reply(theirs, 5, tag="reply")
    pair.a.cancel(cancelled)
    assert pair.a.poll(pair.now) is not None
    kept = pair.a.tell("bob", 6, tag="kept")
    asked = pair.a.ask("bob", 7, pair.now, tag="asked")
    [lost] = pair.a.lose("gone")
    assert lost == SessionLost(
        "gone",
        [
            Outcome("ask", 2, acked, "unknown", "acked"),
            Outcome("tell", written, 0, "unknown", "written"),
            Outcome("reply", written + 1, theirs, "unknown", "reply"),
            Outcome("tell", kept, 0, "not_delivered", "kept"),
            Outcome("ask", kept + 1, asked, "not_delivered", "asked"),
        ],
        [watch],
    )
    assert pair.a.lose("again") == pair.a.close("again") == []


def test_draining_lets_replies_through_and_refuses_new_work() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    pair.to_b()
    pair.b.drain("stopping", 10.0)
    assert pair.to_a() == [PeerDraining("stopping", 10_000)]
    assert not pair.a.can_send
    for send in (
        lambda: pair.a.tell("bob", 1),
        lambda: pair.a.ask("bob", 1, pair.now),
        lambda: pair.a.spawn("DialogAgent", "x", {}, pair.now),
    ):
        with refused("draining"):
            send()
    pair.cut()
    assert pair.connect() == [LinkUp(resumed=True)]
    assert pair.to_a() == []  # said again, and known already
    pair.b.reply(id, 2)
    assert [event.body for event in pair.to_a()] == [2]


def test_draining_said_on_a_lost_link_is_said_again() -> None:
    pair = Pair()
    pair.b.drain("stopping", 10.0)
    assert pair.b.poll(pair.now) is not None  # lost
    pair.cut()
    pair.connect()
    assert pair.to_a() == [PeerDraining("stopping", 10_000)]


def test_closing_tells_both_sides_at_once() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now, tag="x")
    pair.to_b()
    events = pair.b.close("stopped")
    assert closes(events) == [4010]
    assert events[-1] == SessionLost("stopped", [], [])
    assert pair.to_a() == [
        CloseLink(CloseCode.DRAINING, "stopped"),
        SessionLost("closed", [Outcome("ask", 1, id, "unknown", "x")], []),
    ]
    assert pair.b.poll(pair.now) is None


def test_nothing_after_a_farewell_brings_the_session_back() -> None:
    pair = Pair()
    events = raw(pair.b, {"t": "bye", "reason": "x", "drain_ms": 0}, {"t": "junk"})
    assert [type(event) for event in events] == [CloseLink, SessionLost]
    assert pair.b.is_over


def test_a_reason_the_other_side_would_refuse_changes_nothing() -> None:
    pair = Pair()
    with pytest.raises(FrameError):
        pair.a.close("shutting down")
    with pytest.raises(FrameError):
        pair.a.drain("shutting down", 1.0)
    assert pair.a.state is State.OPEN
    assert pair.to_b() == []


# -- messages of texts only, and several frames in a message --

TEXTS = ("0" * 32, "2024-01-01 00:00:00", "al", "hi", "user")


def say(n: int, /, **changes: Any) -> dict[str, Any]:
    return {"t": "ask", "n": n, "id": n, "to": "bob", "msg": list(TEXTS), **changes}


def test_asks_and_replies_that_are_only_a_message_cross_as_any() -> None:
    pair = Pair()
    ids = [pair.a.ask_message("bob", TEXTS) for _ in range(40)]
    asks = pair.to_b()
    assert [(ask.id, ask.to, ask.body, ask.op) for ask in asks] == [(id, "bob", TEXTS, "reply") for id in ids]
    for ask in asks:
        pair.b.reply(ask.id, TEXTS)
        pair.b.consumed("bob")
    assert [(each.id, each.body) for each in pair.to_a() if type(each) is Reply] == [
        (id, TEXTS) for id in ids
    ]
    assert pair.a.statistics().asks_open == pair.b.statistics().asks_to_answer == 0


def test_an_ask_that_is_only_a_message_is_refused_as_any() -> None:
    pair = Pair(credit=2)
    for _ in range(2):
        pair.a.ask_message("bob", TEXTS)
    with refused("no_credit"):
        pair.a.ask_message("bob", TEXTS)
    with pytest.raises(FrameError, match="not a name"):
        pair.a.ask_message("b b", TEXTS)
    assert len(pair.to_b()) == 2


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (say(2, n=3), 4002),
        (say(2, id=1), 4001),
        (say(2, to="b b"), None),
        (say(2, to=["bob"]), None),
        (say(2, to="_private"), None),
        (say(2, n=2.0), 4001),
        (say(2, n=True), 4001),
        (say(2, id=2.0), None),
        (say(2, id=2**53 + 1), None),
        (say(2, msg="hi"), None),
        (say(2, body=1), None),
        (say(2, ttl="soon"), None),
        (say(2, chain=["x"] * 33), None),
        ({"t": "rep", "n": 2, "id": 7, "msg": list(TEXTS)}, None),
        ({"t": "rep", "n": 2, "id": 7, "msg": list(TEXTS), "last": 1}, None),
        ({"t": "can", "n": 2, "id": 1, "msg": list(TEXTS)}, None),
        ([[say(2)]], 4001),
        ("say", 4001),
        (None, 4001),
        ({}, 4001),
    ],
)
@pytest.mark.parametrize("is_joined", [True, False])
def test_what_is_wrong_with_a_message_is_found_among_others_as_alone(
    second: Any, code: int | None, is_joined: bool
) -> None:
    pair = Pair()
    groups = [[say(1), second, say(3)]] if is_joined else [say(1), second, say(3)]
    events = [event for each in groups for event in pair.b.receive(orjson.dumps(each), pair.now)]
    assert closes(events) == ([] if code is None else [code])
    asks = [event.n for event in events if type(event) is Ask]
    assert asks == ([1, 3] if code is None else [1])


def test_a_message_that_comes_again_is_counted_and_dropped() -> None:
    pair = Pair()
    assert [event.n for event in raw(pair.b, say(1), say(1), say(2), say(1))] == [1, 2]
    assert pair.b.statistics().duplicates == 2


def test_an_answer_that_nobody_waits_for_is_not_given_out() -> None:
    pair = Pair()
    kept, cancelled = pair.a.ask_message("bob", TEXTS), pair.a.ask_message("bob", TEXTS)
    pair.a.cancel(cancelled)
    frames = [
        {"t": "rep", "n": n, "id": id, "msg": list(TEXTS)} for n, id in ((1, cancelled), (2, kept), (3, kept))
    ]
    assert [type(event) for event in raw(pair.a, *frames)] == [Reply, LateReply]


@pytest.mark.parametrize("is_joined", [True, False])
def test_messages_beyond_their_credit_end_the_session(is_joined: bool) -> None:
    pair = Pair(credit=4)
    lines = [say(n) for n in range(1, 7)]
    events = raw(pair.b, *lines) if is_joined else [event for line in lines for event in raw(pair.b, line)]
    assert [type(event) for event in events[:6]] == [Ask] * 4 + [CloseLink, SessionLost]
    assert closes(events)[0] == 4006


def answer(n: int, id: int, **changes: Any) -> dict[str, Any]:
    return {"t": "rep", "n": n, "id": id, "msg": list(TEXTS), **changes}


def test_a_message_ends_an_ask_that_may_be_answered_in_parts() -> None:
    pair = Pair(credit=4)
    id = pair.a.ask("bob", 1, pair.now, wants_parts=True)
    pair.to_b()
    for i in range(4):
        pair.b.reply(id, i, last=False)
    pair.b.reply(id, TEXTS)
    assert [(event.body, event.last) for event in pair.to_a()][3:] == [(3, False), (TEXTS, True)]
    pair.a.consumed(id, 4)
    assert b"crd" not in (pair.a.poll(pair.now) or b"")


@pytest.mark.parametrize(
    ("changes", "events"), [({"last": False}, [4006]), ({"x": 1}, []), ({"body": 1}, [])]
)
def test_an_answer_that_is_more_than_a_message_is_read_field_by_field(
    changes: dict[str, Any], events: list[int]
) -> None:
    pair = Pair()
    id = pair.a.ask_message("bob", TEXTS)
    got = raw(pair.a, answer(1, id, **changes))
    assert closes(got) == events
    replies = [(event.id, event.failure is None) for event in got if type(event) is Reply]
    assert replies == ([] if events else [(id, "body" not in changes)])


def test_a_message_in_answer_tells_that_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_OPEN_ASKS", 2)
    pair = Pair()
    ids = [pair.a.ask_message("bob", TEXTS) for _ in range(2)]
    with refused("too_many_asks"):
        pair.a.ask_message("bob", TEXTS)
    assert [type(event) for event in raw(pair.a, answer(1, ids[0]), answer(2, ids[1]))] == [
        Reply,
        RoomBack,
        Reply,
    ]


def test_a_message_between_the_parts_of_another_frame_closes_the_link() -> None:
    pair = Pair()
    part = {"t": "part", "n": 1, "id": 1, "i": 0, "of": 2, "data": ""}
    assert closes(raw(pair.b, part, say(2))) == [4001]


def test_a_frame_among_others_may_be_no_deeper_than_alone() -> None:
    deep: Any = "x"
    for _ in range(70):
        deep = [deep]
    pair = Pair()
    events = raw(pair.b, say(1), {"t": "ask", "n": 2, "id": 2, "to": "bob", "body": deep}, say(3))
    assert [type(event) for event in events] == [Ask, Refused, Ask]
    assert events[1].code == "too_deep"


def test_agents_that_were_never_written_to_are_counted_once_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiving_module, "MAX_TARGETS", 2)
    pair = Pair()
    events = raw(pair.b, say(1, to="a"), say(2, to="b"), say(3, to="c"), say(4, to="a"))
    assert [event.n for event in events if type(event) is Ask] == [1, 2]
    assert closes(events) == [4006]


def test_an_ask_of_which_not_all_parts_were_written_was_not_delivered() -> None:
    pair = Pair(max_frame=16_384, max_body=100_000)
    pair.a.ask_message("bob", (*TEXTS[:3], "x" * 40_000, "user"))
    assert pair.a.poll(pair.now) is not None
    [lost] = pair.a.lose("gone")
    assert [outcome.outcome for outcome in lost.outcomes] == ["not_delivered"]


# -- limits --


def test_an_agent_is_sent_no_more_than_its_credit() -> None:
    pair = Pair()
    for i in range(64):
        pair.a.tell("bob", i)
    assert pair.a.credit("bob") == 0
    with refused("no_credit"):
        pair.a.ask("bob", 64, pair.now)
    pair.a.tell("carol", 0)
    pair.to_b()
    pair.b.consumed("bob", 15)
    assert pair.to_a() == []
    pair.b.consumed("bob")
    assert pair.to_a() == [CreditGranted("bob")]
    assert pair.a.credit("bob") == 16


def test_consuming_more_than_was_received_grants_nothing_more() -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    pair.to_b()
    pair.b.consumed("bob", 1_000_000)
    pair.b.consumed("nobody")
    pair.b.consumed(17)
    pair.to_a()
    assert pair.a.credit("bob") <= 64


def test_more_than_the_credit_is_a_violation_and_ends_the_session() -> None:
    pair = Pair(credit=4)
    events = raw(pair.b, *(tell(n) for n in range(1, 7)))
    assert [type(event) for event in events] == [Tell] * 4 + [CloseLink, SessionLost]
    assert closes(events) == [4006]
    assert events[-1].reason == "flow"


@pytest.mark.parametrize("upto", [1, 64, 2**53])
def test_a_grant_neither_shrinks_nor_overflows(upto: int) -> None:
    pair = Pair()
    pair.a.tell("bob", 1)
    raw(pair.a, {"t": "crd", "to": "bob", "upto": upto}, {"t": "crd", "to": "nobody", "upto": upto})
    assert 63 <= pair.a.credit("bob") <= 65_536


def test_a_full_outbox_refuses_and_tells_when_there_is_room() -> None:
    pair = Pair(credit=5000, outbox_frames=1024)
    pair.cut()
    for i in range(1024):
        assert pair.a.can_send
        pair.a.tell("bob", i)
    assert not pair.a.can_send
    with refused("outbox_full"):
        pair.a.tell("bob", 1024)
    pair.connect()
    events = []
    while not any(isinstance(event, RoomBack) for event in events):
        data = pair.a.poll(pair.now)
        assert data is not None
        pair.b.receive(data, pair.now)
        events += pair.to_a()
    assert pair.a.can_send
    assert 0 < pair.a.statistics().frames_waiting <= 768
    pair.a.tell("bob", 1024)


def test_the_outbox_is_bounded_in_bytes() -> None:
    pair = Pair(outbox_bytes=100_000)
    pair.cut()
    pair.a.tell("bob", "x" * 60_000)
    with refused("outbox_full"):
        pair.a.tell("bob", "x" * 60_000)
    with refused("outbox_full"):
        pair.a.tell("bob", "a small one that would overtake it")
    assert not pair.a.can_send
    pair.connect()
    assert [type(event) for event in pair.settle()] == [Tell, RoomBack]
    pair.a.tell("bob", "x" * 300_000)
    with refused("outbox_full"):
        pair.a.tell("bob", 1)


def test_a_message_in_parts_may_fill_the_outbox() -> None:
    pair = Pair(max_frame=16_384, outbox_bytes=100_000)
    pair.a.tell("bob", "x" * 300_000)
    assert not pair.a.can_send
    assert [type(event) for event in pair.settle()] == [Tell, RoomBack]


def test_a_cancel_is_never_refused() -> None:
    pair = Pair(outbox_frames=2)
    pair.cut()
    ids = [pair.a.ask("bob", i, pair.now) for i in range(2)]
    for id in ids:
        pair.a.cancel(id)
    assert pair.a.statistics().frames_waiting == 4


def test_too_large_a_message_uses_no_number() -> None:
    pair = Pair(max_frame=20_000, max_body=100_000)
    with pytest.raises(FrameError, match=r"1,000,.* bytes and the other node takes at most 100,000"):
        pair.a.tell("bob", "x" * 1_000_000)
    for bad in (object(), "\ud800"):
        with pytest.raises(FrameError):
            pair.a.ask("bob", bad, pair.now)
    for bad_name in ("", "../x", "_supervisor"):
        with pytest.raises(FrameError):
            pair.a.tell(bad_name, 1)
        with pytest.raises(FrameError):
            pair.a.watch(bad_name)
    assert pair.a.tell("bob", 1) == 1
    assert pair.a.statistics().asks_open == 0
    assert pair.a.credit("bob") == 63


def test_open_asks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (session_module, receiving_module):
        monkeypatch.setattr(module, "MAX_OPEN_ASKS", 2)
    pair = Pair()
    ids = [pair.a.ask("bob", i, pair.now) for i in range(2)]
    with refused("too_many_asks"):
        pair.a.ask("bob", 2, pair.now)
    pair.to_b()
    pair.b.reply(ids[0], 1)
    assert [type(event) for event in pair.to_a()] == [Reply, RoomBack]
    events = raw(pair.b, *({"t": "ask", "n": n, "id": n, "to": "bob", "body": 1} for n in (3, 4)))
    assert closes(events) == [4006]


def test_targets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (session_module, receiving_module):
        monkeypatch.setattr(module, "MAX_TARGETS", 2)
    pair = Pair()
    pair.a.tell("x", 1)
    pair.a.tell("y", 1)
    with refused("too_many_targets"):
        pair.a.tell("z", 1)
    assert closes(raw(pair.b, tell(1, "x"), tell(2, "y"), tell(3, "z"))) == [4006]


@pytest.mark.parametrize(
    "line",
    [
        {"t": "hb", "ts": 1},
        {"t": "hbr", "ts": 1},
        {"t": "ack", "rx": 0},
        {"t": "crd", "to": "bob", "upto": 1},
        {"t": "prb", "id": 1, "path": []},
        {"t": "bye", "reason": "x", "drain_ms": 1},
    ],
)
def test_a_flood_of_what_changes_nothing_is_a_violation(line: dict[str, Any]) -> None:
    pair = Pair()
    codes: list[int] = []
    for _ in range(40):
        codes += closes(raw(pair.b, *[line] * 256))
    assert codes == [4006]


@pytest.mark.parametrize("bad", [{"node": "a b"}, {"inc": "1"}, {"max_frame": 1000}, {"credit": 0}])
def test_settings_the_other_side_would_refuse_are_refused_here(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        Settings(**{"node": "a", "inc": new_incarnation(), **bad})


# -- what does not belong --


@pytest.mark.parametrize(
    "bad",
    [
        {"to": "../x"},
        {"to": "_bridge"},
        {"ttl": "soon"},
        {"chain": ["x"] * 10_000},
        {"from": 1},
    ],
)
def test_a_bad_ask_is_stepped_over_and_can_be_answered(bad: dict[str, Any]) -> None:
    pair = Pair()
    ask = {"t": "ask", "n": 2, "id": 7, "to": "bob", "body": 1, **bad}
    events = raw(pair.b, tell(1), ask, tell(3))
    assert [type(event) for event in events] == [Tell, Refused, Tell]
    assert (events[1].kind, events[1].id) == ("ask", 7)
    pair.b.fail(7, Failure(events[1].code, events[1].text))
    data = pair.b.poll(pair.now)
    assert data is not None
    assert b'"a":3' in data


def test_a_bad_reply_ends_its_ask() -> None:
    pair = Pair()
    id = pair.a.ask("bob", 1, pair.now)
    [reply] = raw(pair.a, {"t": "rep", "n": 1, "id": id, "err": "no"})
    assert reply.failure.code == "bad_frame"
    assert pair.a.statistics().asks_open == 0


def test_a_bad_down_fires_its_watch() -> None:
    pair = Pair()
    id = pair.a.watch("bob")
    assert raw(pair.a, {"t": "dwn", "n": 1, "id": id, "reason": 1}) == [Down(1, id, "bad_frame")]


@pytest.mark.parametrize(
    "data",
    [
        b"junk",
        b"",
        b"\n",
        b"\n" * 100_000,
        b'{"t":"msg","n":1}',
        b'{"t":"tell","to":"bob","body":1}',
        b'{"t":"tell","n":"1","to":"bob","body":1}',
        b'{"t":"ack"}',
        b'{"t":"part","n":1,"id":1,"i":1,"of":3,"data":""}',
        b'{"t":"part","n":1,"id":2,"i":0,"of":3,"data":""}',
        b'{"t":"part","n":1,"id":1,"i":0,"of":3,"data":"%"}',
        b'{"t":"part","n":1,"id":1,"i":0,"of":2,"data":""}\n' + orjson.dumps(tell(2)),
        b'{"t":"part","n":1,"id":1,"i":0,"of":2,"data":""}\n{"t":"can","n":2}',
        hello(),
        b"x" * (2**20 + 1),
    ],
)
def test_what_cannot_be_stepped_over_closes_the_link_but_not_the_session(data: bytes) -> None:
    pair = Pair()
    pair.a.tell("bob", "kept")
    assert closes(pair.b.receive(data, pair.now)) == [4001]
    assert pair.b.state is State.SUSPENDED


def test_after_three_links_that_failed_at_the_same_place_the_session_is_lost() -> None:
    pair = Pair()
    for _ in range(2):
        assert closes(pair.b.receive(b"junk", pair.now)) == [4001]
        assert pair.a.link_down(pair.now, 4001) == []
        pair.connect()
    assert [type(event) for event in pair.b.receive(b"junk", pair.now)] == [CloseLink, SessionLost]
    assert [event.reason for event in pair.a.link_down(pair.now, 4001)] == ["bad_frame"]


def test_links_that_fail_now_and_then_do_not_end_a_session() -> None:
    pair = Pair()
    for i in range(10):
        pair.a.tell("bob", i)
        pair.to_b()
        pair.b.receive(b"junk", pair.now)
        pair.a.link_down(pair.now, 4001)
        assert pair.connect() == [LinkUp(resumed=True)]


def test_an_id_is_not_used_twice() -> None:
    pair = Pair()
    ask = {"t": "ask", "id": 7, "to": "bob", "body": 1}
    assert closes(raw(pair.b, {**ask, "n": 1}, {**ask, "n": 2})) == [4001]


def test_a_message_in_parts_beyond_the_limit_is_a_violation() -> None:
    pair = Pair(max_body=20_000)
    parts = encoding.encode_parts(1, encoding.encode_tell(1, "bob", "x" * 60_000), 16_384, 2**20)
    assert closes(pair.b.receive(b"[%b]" % b",".join(parts), pair.now)) == [4006]


def test_a_bad_message_in_parts_is_stepped_over() -> None:
    pair = Pair()
    parts = encoding.encode_parts(
        1, b'{"t":"ask","n":1,"id":3,"to":"../x","body":1}' + b" " * 60_000, 16_384, 2**20
    )
    [event] = pair.b.receive(b"[%b]" % b",".join(parts), pair.now)
    assert (event.kind, event.id, event.code) == ("ask", 3, "bad_name")
    assert [type(event) for event in raw(pair.b, tell(len(parts) + 1))] == [Tell]


def test_only_requests_and_replies_come_in_parts() -> None:
    pair = Pair()
    parts = encoding.encode_parts(1, b'{"t":"can","n":1,"id":3}' + b" " * 60_000, 16_384, 2**20)
    assert closes(pair.b.receive(b"[%b]" % b",".join(parts), pair.now)) == [4001]
