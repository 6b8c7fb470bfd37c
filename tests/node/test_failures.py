"""An error crosses to another node and stays what it was, and nothing else comes with it."""

from __future__ import annotations

import asyncio
import builtins
import copy
import math
import pickle
import subprocess
import sys
import tracemalloc
import warnings
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from agentscope_async import AgentFailure, Msg, Usage, errors
from agentscope_async._redact import remember_secret
from agentscope_async.errors import (
    AgentNotFound,
    AgentStoppedError,
    AskTimeoutError,
    BudgetExceededError,
    ConfigError,
    DeadlockError,
    ForbiddenError,
    InterruptedTurnError,
    InvalidReplyError,
    MailboxFullError,
    MessageError,
    NodeDown,
    PartialStreamError,
    QuorumError,
    RateLimited,
    RemoteError,
    ReplyExitError,
)
from agentscope_async.node.decoding import decode
from agentscope_async.node.encoding import encode_failure
from agentscope_async.node.failures import error_of, failure_of
from agentscope_async.node.frames import Failure, FrameError, Reply

MODEL = {
    "provider": "openai", "model": "m", "status": 429, "code": "slow", "request_id": "r-1", "attempts": 3,
    "retry_after_s": 1.5, "partial_text": "so far", "raw": {"error": {"text": "slow", "n": [1, None, 2.5]}},
}  # fmt: skip


class Own(Exception):
    """A class of the user's."""


class Named:
    """Stands for an agent."""

    name = "pro"


SAMPLES: dict[str, Exception] = {
    "AgentError": errors.AgentError("no", agent="bob"),
    "AgentNotFound": AgentNotFound("bob", "there"),
    "AgentScopeError": errors.AgentScopeError("no"),
    "AgentScopeWarning": errors.AgentScopeWarning("odd"),
    "AgentStoppedError": AgentStoppedError("bob"),
    "AskTimeoutError": AskTimeoutError("bob", 2.5),
    "BudgetExceededError": BudgetExceededError(
        "b", limit="usd", allowed=1.0, spent=0.5, reserved=0.25, needed=2
    ),
    "CancellationSwallowedError": errors.CancellationSwallowedError("bob"),
    "ConfigError": ConfigError("bad"),
    "ConnectFailed": errors.ConnectFailed("ws://h:1", "rejected", "it said no", status=500),
    "DeadlockError": DeadlockError("bob", ["a", "bob", "a"]),
    "ForbiddenError": ForbiddenError("not you"),
    "InterruptedTurnError": InterruptedTurnError("bob", "enough"),
    "InvalidReplyError": InvalidReplyError("bob", {"a": 1}),
    "MailboxFullError": MailboxFullError("bob", 3, "reject"),
    "MessageError": MessageError("content.items[3]", "is bad"),
    "MissingExtraError": errors.MissingExtraError("rich", "pip install it"),
    "NoRuntimeError": errors.NoRuntimeError("post()"),
    "NodeDown": NodeDown("there", "exited", outcome="unknown"),
    "PartialStreamError": PartialStreamError("ended", type="stream_error", **MODEL),
    "QuorumError": QuorumError(
        "too few",
        needed=2,
        good=[Msg("con", "yes", "assistant")],
        failures=[AgentFailure(Named, KeyError("k"))],
    ),
    "QuotaExceededError": errors.QuotaExceededError("m.calls"),
    "RemoteError": RemoteError("bob", "it broke", type="Odd", node="third"),
    "ReplyExitError": ReplyExitError("bob", SystemExit(3)),
    "ReplyExpiredError": errors.ReplyExpiredError("bob"),
    "RuntimeClosedError": errors.RuntimeClosedError("left"),
    "WrongLoopError": errors.WrongLoopError("bob"),
    **{
        name: kind("it failed", **MODEL)
        for name in errors.__all__
        if issubclass(kind := getattr(errors, name), errors.ModelError) and kind is not PartialStreamError
    },
}

WHOLE = {"status", "attempts", "capacity"}
OPTIONAL = {"reason", "status", "code", "request_id", "retry_after_s", "partial_text"}

CODES = {
    "AgentNotFound": "no_such_agent", "AgentStoppedError": "agent_stopped", "AskTimeoutError": "deadline",
    "ConfigError": "bad_config", "ConnectFailed": "connect_failed", "DeadlockError": "deadlock",
    "ForbiddenError": "forbidden", "InterruptedTurnError": "interrupted", "MailboxFullError": "mailbox_full",
    "MessageError": "bad_payload", "NoRuntimeError": "no_runtime", "NodeDown": "node_down",
    "ReplyExpiredError": "reply_expired", "RuntimeClosedError": "runtime_closed",
    "WrongLoopError": "wrong_loop",
}  # fmt: skip


def crossed(error: BaseException, **options: Any) -> Failure:
    """Return what arrives on the other side."""
    frame = decode(encode_failure(1, 1, failure_of(error, **options)))
    assert isinstance(frame, Reply)
    assert frame.failure is not None
    return frame.failure


def told(error: BaseException, **options: Any) -> Any:
    """Return the error the other side raises."""
    return error_of(crossed(error, **options), agent="asked", node="far")


def raised(error: BaseException) -> BaseException:
    """Return it with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def attributes(error: BaseException) -> dict[str, Any]:
    return {name: value for name, value in vars(error).items() if name != "__notes__"}


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


# -- our own --


def test_every_error_of_ours_has_a_sample() -> None:
    assert set(SAMPLES) == set(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_of_ours_keeps_its_type_its_text_and_all_its_attributes(name: str) -> None:
    error = SAMPLES[name]
    back = told(raised(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == (str(error),)
    mine, theirs = attributes(error), attributes(back)
    if name == "QuorumError":
        (mine_failed,), (failed,) = mine.pop("failures"), theirs.pop("failures")
        assert (failed.name, repr(failed.error)) == (mine_failed.name, repr(mine_failed.error))
    assert theirs == mine
    assert {key: type(value) for key, value in theirs.items()} == {
        key: type(value) for key, value in mine.items()
    }


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_of_ours_crosses_a_second_time_as_it_is(name: str) -> None:
    once = told(SAMPLES[name], with_traceback=False)
    twice = told(once, with_traceback=False)
    assert type(twice) is type(once)
    assert str(twice) == str(once)
    if name != "QuorumError":
        assert attributes(twice) == attributes(once)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_from_another_node_can_be_raised_copied_and_pickled(name: str) -> None:
    back = told(raised(SAMPLES[name]))
    with pytest.raises(type(back)):
        raise back
    for again in (copy.copy(back), pickle.loads(pickle.dumps(back))):
        assert type(again) is type(back)
        assert str(again) == str(back)
        assert notes(again) == notes(back)


@pytest.mark.parametrize("name", errors.__all__)
def test_attributes_that_are_missing_or_ill_typed_have_a_default(name: str) -> None:
    sample = attributes(SAMPLES[name])
    for value in (None, [1, [2]], {"a": 1}, True, "x", 2**60, 1.5, ...):
        facts = {} if value is ... else dict.fromkeys(sample, value)
        error = error_of(Failure("agent_error", "text", name, "", facts), agent="asked", node="far")
        assert type(error) is getattr(errors, name)
        assert str(error) == "text"
        found = attributes(error)
        assert set(found) == set(sample)
        for key in set(sample) - {"raw"}:
            is_number = type(sample[key]) in (int, float)
            numbers = {int, float} if is_number and key not in WHOLE else set()
            allowed = {type(sample[key]), *numbers, *({type(None)} if key in OPTIONAL else ())}
            assert type(found[key]) in allowed, (key, value, found[key])


def test_who_was_asked_stands_in_for_what_is_not_said() -> None:
    error: Any = error_of(Failure("no_such_agent", "none", "AgentNotFound"), agent="asked", node="far")
    assert (error.agent, error.node) == ("asked", "far")


def test_what_cannot_be_json_is_left_out_and_the_rest_arrives() -> None:
    error = RateLimited("slow", **{**MODEL, "raw": object(), "status": 2**70, "retry_after_s": math.inf})
    error.code = b"bytes"  # type: ignore[assignment]
    error.request_id = "r\ud800"
    error.__dict__["more"] = "unknown"
    back = told(error)
    assert (back.provider, back.raw, back.status, back.code, back.attempts) == ("openai", None, None, None, 3)
    assert back.request_id == "r?"
    assert not hasattr(back, "more")


def test_a_class_that_is_not_built_in_is_not_looked_up() -> None:
    assert told(InvalidReplyError("bob", Named())).value_type is object
    assert told(InvalidReplyError("bob", "text")).value_type is str
    assert told(ReplyExitError("bob", asyncio.CancelledError())).exit_type is asyncio.CancelledError

    class Exit(BaseException):
        pass

    assert told(ReplyExitError("bob", Exit())).exit_type is BaseException


def test_a_quorum_tells_its_answers_and_its_failures() -> None:
    good = [Msg("a", "yes", "assistant", usage=Usage(1, 2)), "a plain text"]
    failures = [AgentFailure(Named, DeadlockError("x", ["x", "y", "x"])), AgentFailure(print, Own("o"))]
    nested = QuorumError("inner", needed=1, good=[], failures=failures)
    back = told(QuorumError("few", needed=9, good=good, failures=[*failures, AgentFailure(Named, nested)]))
    assert back.needed == 9
    assert back.good == [good[0], None]
    one, two, three = back.failures
    assert (one.name, type(one.error), one.error.chain) == ("pro", DeadlockError, ("x", "y", "x"))
    assert (two.name, type(two.error), two.error.type) == ("print", RemoteError, "Own")
    assert (type(three.error), three.error.failures) == (QuorumError, [])


def test_a_quorum_that_contains_itself_still_crosses() -> None:
    error = QuorumError("few", needed=1, good=[], failures=[])
    error.failures += [AgentFailure(Named, error)] * 40
    assert type(told(error)) is QuorumError


@pytest.mark.parametrize(
    "failures", [None, 3, {}, [None], [3], [{"agent": 3, "text": None, "facts": []}], [[]]]
)
def test_failures_of_a_quorum_that_are_none_do_no_harm(failures: Any) -> None:
    facts = {"needed": 1, "good": [{"name": 3}], "failures": failures}
    error: Any = error_of(Failure("agent_error", "few", "QuorumError", "", facts), agent="a", node="n")
    assert error.good == []
    assert all(isinstance(each.error, Exception) for each in error.failures)


@pytest.mark.parametrize("name", errors.__all__)
def test_each_class_has_its_code(name: str) -> None:
    assert crossed(SAMPLES[name]).code == CODES.get(name, "agent_error")


def test_errors_of_handlers_have_one_code() -> None:
    for error in (ValueError("x"), Own("x"), ExceptionGroup("g", [ValueError()]), SystemExit(1)):
        assert crossed(error).code == "agent_error"


# -- Python's own --

BUILTIN = sorted(
    (each for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, Exception)
     and name == each.__name__),
    key=lambda each: each.__name__,
)  # fmt: skip
NOT_KEPT = {"ExceptionGroup", "StopIteration"}
NEEDS_ARGUMENTS = (ExceptionGroup, UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)


def sample_of(kind: Any) -> Exception:
    if issubclass(kind, UnicodeDecodeError):
        return UnicodeDecodeError("utf-8", b"ab\xffcd", 2, 3, "invalid start byte")
    if issubclass(kind, UnicodeEncodeError):
        return UnicodeEncodeError("ascii", "ab\xffcd", 2, 3, "not in range")
    if issubclass(kind, UnicodeTranslateError):
        return UnicodeTranslateError("ab\xffcd", 2, 3, "no")
    if issubclass(kind, ExceptionGroup):
        return kind("several", [ValueError("one"), KeyError("two")])  # type: ignore[no-any-return]
    return kind("what went wrong")  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda kind: kind.__name__)
def test_an_error_of_python_keeps_its_type_and_text(kind: type[Exception]) -> None:
    error = sample_of(kind)
    back = told(raised(error))
    if kind.__name__ in NOT_KEPT:
        assert type(back) is RemoteError
        assert back.type == kind.__name__
        return
    assert type(back) is kind
    if not isinstance(error, UnicodeError) or kind is UnicodeError:
        assert str(back) == str(error)
        assert back.args == error.args
    future: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
    future.set_exception(back)
    assert future.exception() is back
    future.get_loop().close()


@pytest.mark.parametrize(
    "kind", [each for each in BUILTIN if each not in NEEDS_ARGUMENTS], ids=lambda k: k.__name__
)
def test_an_error_of_python_without_arguments_crosses_as_well(kind: Any) -> None:
    back = told(kind())
    assert type(back) is (RemoteError if kind.__name__ in NOT_KEPT else kind)


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("value", [None, True, "text", -1, 2**52, 2.5, [1], {"a": 1}])
def test_facts_of_the_wrong_kind_do_no_harm_to_an_error_of_python(kind: Any, value: Any) -> None:
    names = ("errno", "strerror", "filename", "filename2", "key", "name", "path", "encoding", "reason",
             "start", "end", "notes", "args", "object", "__cause__")  # fmt: skip
    for facts in (dict.fromkeys(names, value), *({name: value} for name in names)):
        error = error_of(Failure("agent_error", "text", kind.__name__, "", facts), agent="a", node="n")
        assert type(error) is (RemoteError if kind.__name__ in NOT_KEPT else kind)
        assert isinstance(str(error), str)
        assert error.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "a.txt"),
        OSError(39, "not empty", "a", None, "b"),
        ConnectionRefusedError(111, "Connect call failed"),
        BlockingIOError(11, "later", 3),
        OSError("only a text"),
        OSError(5, None),
        PermissionError(13, "no", 7),
    ],
    ids=repr,
)
def test_an_error_of_the_system_keeps_its_number(error: OSError) -> None:
    back = told(error)
    assert type(back) is type(error)
    if isinstance(error.strerror, str):
        assert (back.errno, back.strerror) == (error.errno, error.strerror)
    if isinstance(error.filename, str):
        assert (back.filename, back.filename2) == (error.filename, error.filename2)
        assert str(back) == str(error)


@pytest.mark.parametrize(
    "key", ["gone", "it's", "", 3, -2.5, None, True, "x" * 5000, ("a", 1), 2**70, math.nan, b"b"]
)
def test_a_key_error_shows_its_key_as_before(key: Any) -> None:
    error = KeyError(key)
    back = told(error)
    assert type(back) is KeyError
    assert str(back) == str(error)[:4096]
    if type(key) in (int, str, float, bool, type(None)) and len(str(key)) < 15 and key == key:
        assert back.args == (key,)
    assert str(pickle.loads(pickle.dumps(back))) == str(back)


def test_key_errors_of_other_shapes_keep_their_text() -> None:
    assert str(told(KeyError("a", "b"))) == "('a', 'b')"
    assert told(KeyError()).args == ()
    lie = Failure("agent_error", "'true'", "KeyError", "", {"key": "false"})
    assert str(error_of(lie, agent="a", node="n")) == "'true'"


@pytest.mark.parametrize("size", [1, 10_000_000])
def test_an_error_about_bytes_takes_none_of_them_along(size: int) -> None:
    secret = b"s3cr3t-of-mine" * size
    error = UnicodeDecodeError("utf-8", secret[:20_000_000], 5, 6, "invalid start byte")
    failure = crossed(error)
    back: Any = error_of(failure, agent="a", node="n")
    assert type(back) is UnicodeDecodeError
    assert (back.encoding, back.start, back.end, back.reason) == ("utf-8", 5, 6, "invalid start byte")
    assert back.object == b""
    assert "s3cr3t" not in repr(failure)


def test_names_that_were_missing_are_kept() -> None:
    back = told(ModuleNotFoundError("No module named 'x.y'", name="x.y", path="/p"))
    assert (type(back), back.name, back.path) == (ModuleNotFoundError, "x.y", "/p")
    assert told(AttributeError("no", name="a", obj=3)).name == "a"
    assert told(UnboundLocalError("no", name="b")).name == "b"


# -- all others --


def test_any_other_class_becomes_a_remote_error() -> None:
    back = told(raised(Own("it broke")))
    assert type(back) is RemoteError
    assert isinstance(back, errors.AgentError)
    assert (back.agent, back.node, back.type) == ("asked", "far", "Own")
    assert str(back) == "Agent 'asked' on node 'far' raised Own: it broke"


def test_a_subclass_of_ours_or_of_pythons_is_another_class() -> None:
    class Worse(ConfigError):
        pass

    class Bad(ValueError):
        pass

    assert (type(told(Worse("w"))), told(Worse("w")).type) == (RemoteError, "Worse")
    assert (type(told(Bad("b"))), told(Bad("b")).type) == (RemoteError, "Bad")


def test_a_class_that_is_only_called_like_one_of_ours_is_another_class() -> None:
    for name in ("DeadlockError", "ValueError", "RemoteError"):
        kind = type(name, (Exception,), {"__module__": "theirs"})
        back = told(kind("no"))
        assert type(back) is RemoteError
        assert back.type == f"theirs.{name}"


def test_a_remote_error_keeps_telling_where_it_came_from() -> None:
    back = error_of(crossed(told(Own("it broke"))), agent="nearer", node="middle")
    assert isinstance(back, RemoteError)
    assert (back.agent, back.node, back.type) == ("asked", "far", "Own")


def test_exit_signals_that_get_this_far_are_told_as_errors() -> None:
    for signal in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()):
        back = told(signal)
        assert type(back) is RemoteError
        assert back.type == type(signal).__name__


def test_a_group_tells_the_texts_of_the_errors_in_it() -> None:
    deep = ExceptionGroup("deep", [KeyError("two"), ExceptionGroup("deeper", [Own("three")])])
    back = told(raised(ExceptionGroup("several", [ValueError("one"), deep, TypeError("four")])))
    assert type(back) is RemoteError
    assert back.type == "ExceptionGroup"
    text = str(back)
    places = [
        text.index(each) for each in ("several", "ValueError: one", "KeyError: 'two'", "Own: three", "four")
    ]
    assert places == sorted(places)


def test_a_group_of_very_many_is_cut() -> None:
    group = ExceptionGroup("g", [ValueError("x" * 10_000)] * 100_000)
    for _ in range(500):
        group = ExceptionGroup("g", [group])
    assert len(crossed(group).text) <= 4096


def test_what_could_not_be_sent_is_a_message_error() -> None:
    back = told(FrameError("too_large", "This takes 9 bytes."))
    assert type(back) is MessageError
    assert "This takes 9 bytes." in str(back)


# -- texts --


@pytest.mark.parametrize("kind", [ValueError, KeyError, Own, ConfigError, OSError])
def test_a_huge_text_is_cut_and_not_copied(kind: type[Exception]) -> None:
    error = raised(kind("x" * 10_000_000))
    text_itself = 20_000_000 if kind is KeyError else 0  # its str() is a new text, and Python's own doing
    failure_of(error)
    tracemalloc.start()
    try:
        failure = failure_of(error)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * text_itself + 1_000_000
    assert len(failure.text) == 4096
    assert len(failure.traceback) <= 16_384


class Faulty(Exception):
    """One that cannot even say what it is."""

    def __init__(self, fault: Any) -> None:
        super().__init__()
        self.fault = fault

    def __str__(self) -> str:
        if isinstance(self.fault, BaseException):
            raise self.fault
        return self.fault  # type: ignore[no-any-return]


class Text(str):
    """A text that is more than one."""

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "fault", [RuntimeError("no"), 3, None, b"x", RecursionError(), Text("x"), "\ud800", "\x00"]
)
def test_an_error_that_cannot_say_what_it_is_is_told_all_the_same(fault: Any) -> None:
    back = told(raised(Faulty(fault)))
    assert type(back) is RemoteError
    assert back.type == "Faulty"


@given(st.text(), st.sampled_from([ValueError, Own, ConfigError, KeyError]))
def test_any_text_crosses(text: str, kind: type[Exception]) -> None:
    error = kind(text)
    expected = str(error).encode("utf-8", "replace").decode()
    assert expected in str(told(error))


@pytest.mark.parametrize("text", ["x y ", "\u00e9 ", "\U0001f600", "\ud800", "\x00", "\r\n"])
def test_any_long_text_is_cut_at_4096_characters(text: str) -> None:
    text *= 5000
    assert told(ValueError(text)).args == (text[:4096].encode("utf-8", "replace").decode(),)


# -- tracebacks and notes --


def fail_in_a_function() -> None:
    raise ValueError("deep inside")


def test_the_traceback_over_there_is_a_note() -> None:
    try:
        fail_in_a_function()
    except ValueError as error:
        (note,) = notes(told(error))
    assert note.startswith("Traceback on node far:\n")
    assert "fail_in_a_function" in note
    assert 'raise ValueError("deep inside")' in note
    assert note.rstrip().endswith("ValueError: deep inside")


def test_without_a_traceback_there_is_no_note() -> None:
    assert notes(told(raised(ValueError("x")), with_traceback=False)) == []


def test_what_caused_an_error_is_in_its_traceback() -> None:
    try:
        try:
            fail_in_a_function()
        except ValueError as error:
            raise Own("because of that") from error
    except Own as error:
        (note,) = notes(told(error))
    assert note.index("deep inside") < note.index("direct cause") < note.index("because of that")


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    (note,) = notes(told(one))
    assert note.count("ValueError: one") == 1


def test_what_was_suppressed_is_not_told() -> None:
    try:
        try:
            fail_in_a_function()
        except ValueError:
            raise Own("instead") from None
    except Own as error:
        (note,) = notes(told(error))
    assert "deep inside" not in note


def test_a_deep_recursion_is_told_in_short_from_both_its_ends() -> None:
    def even(n: int) -> None:
        odd(n - 1)

    def odd(n: int) -> None:
        if n <= 0:
            raise ValueError("at the bottom")
        even(n - 1)

    try:
        even(600)
    except ValueError as error:
        failure = crossed(error)
    assert len(failure.traceback) <= 16_384
    assert "test_a_deep_recursion" in failure.traceback
    assert " more ..." in failure.traceback
    assert failure.traceback.rstrip().endswith("ValueError: at the bottom")


def test_the_end_of_a_long_traceback_is_kept() -> None:
    def fail(error: BaseException, depth: int) -> None:
        if depth == 0:
            raise Own("y" * 4000) from error
        if depth % 2:  # lines that repeat themselves are told once
            fail(error, depth - 1)
        fail(error, depth - 1)

    error: BaseException = ValueError("first")
    for _ in range(10):
        try:
            fail(error, 30)
        except Own as caught:
            error = caught
    error.args = ("the last word",)
    failure = crossed(error)
    assert len(failure.traceback) == 16_384
    assert failure.traceback.rstrip().endswith("Own: the last word")


def test_secrets_are_in_neither_text_nor_traceback_nor_notes_nor_facts() -> None:
    canary = "canary-5f2b9c-of-this-test"
    remember_secret(canary)
    looks_like_one = "sk-abcdefghijklmnop123456"
    errors_with_it: list[Any] = [
        ValueError(f"{canary} {looks_like_one}"),
        KeyError(canary),
        FileNotFoundError(2, canary, f"/tmp/{canary}"),
        InterruptedTurnError("bob", canary),
        DeadlockError("b", ["a", canary]),
        RateLimited("no", **{**MODEL, "raw": {"api_key": "abc-def-ghi", "x": canary}, "request_id": canary}),
        ModuleNotFoundError("no", name=canary),
        ExceptionGroup(canary, [ValueError(canary)]),
        QuorumError("q", needed=1, good=[], failures=[AgentFailure(Named, ValueError(canary))]),
        type(f"Own_{canary}", (Exception,), {})("x"),
    ]
    for error in errors_with_it:
        error.add_note(f"see {canary}")
        failure = crossed(raised(error))
        shown = repr(failure)
        assert canary not in shown
        assert looks_like_one not in shown
        assert "abc-def-ghi" not in shown


def test_notes_cross_before_the_traceback() -> None:
    error = ValueError("x")
    error.add_note("first")
    error.add_note("second")
    one, two, trace = notes(told(raised(error)))
    assert (one, two) == ("first", "second")
    assert trace.startswith("Traceback on node far")


def test_the_tracebacks_of_all_nodes_it_crossed_are_notes() -> None:
    once = error_of(crossed(raised(ValueError("x"))), agent="a", node="last")
    twice = error_of(crossed(raised(once)), agent="a", node="middle")
    assert [note.splitlines()[0] for note in notes(twice)] == [
        "Traceback on node last:",
        "Traceback on node middle:",
    ]


def test_there_is_room_for_so_many_notes_only() -> None:
    error = ValueError("x")
    for n in range(1000):
        error.add_note(f"{n} " + "x" * 1000)
    kept = notes(told(error, with_traceback=False))
    assert sum(map(len, kept)) <= 16_384
    assert kept[0].startswith("0 x")


@pytest.mark.parametrize("value", [None, 3, "text", ["ok", 3, None], ("ok",), {"a": 1}])
def test_notes_that_are_none_do_no_harm(value: Any) -> None:
    error = ValueError("x")
    error.__notes__ = value  # type: ignore[assignment]
    kept = notes(told(error, with_traceback=False))
    assert kept == (["ok"] if isinstance(value, (list, tuple)) else [])


def test_a_note_cannot_move_the_cursor() -> None:
    failure = Failure("agent_error", "x", "ValueError", "\x1b[2J\r\nline", {"notes": ["\x1b]0;title\x07"]})
    for note in notes(error_of(failure, agent="a", node="n")):
        assert "\x1b" not in note
        assert "\r" not in note


def test_a_large_fact_is_left_out_or_cut_and_the_rest_arrives() -> None:
    error = RateLimited("slow", **{**MODEL, "raw": {"x": "y" * 100_000}, "partial_text": "z" * 100_000})
    line = encode_failure(1, 1, failure_of(raised(error)))
    back = told(error)
    assert (back.raw, back.partial_text, back.attempts) == (None, "z" * 16_384, 3)
    assert len(line) < 100_000
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    assert told(RateLimited("slow", **{**MODEL, "raw": deep})).raw is None


def test_a_failing_error_costs_no_more_than_its_failure(caplog: pytest.LogCaptureFixture) -> None:
    error = InvalidReplyError("bob", 3)
    error.value_type = None  # type: ignore[assignment]
    back = told(error)
    assert type(back) is InvalidReplyError
    assert str(back) == str(error)


# -- failures from the wire that are not what they seem --

TABLES = {*errors.__all__, *(kind.__name__ for kind in BUILTIN)} - NOT_KEPT
UNKNOWN = [
    "os.system", "eval", "exec", "print", "__import__", "builtins.ValueError", "agentscope_async.ConfigError",
    "type", "object", "int", "BaseException", "SystemExit", "KeyboardInterrupt", "GeneratorExit",
    "BaseExceptionGroup", "ExceptionGroup", "StopIteration", "ModelError ", "modelerror", "ConfigError\x00",
    "\uff23onfigError", "__class__", "_OURS", "IOError", "EnvironmentError", "...", "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_type_that_is_not_in_the_tables_is_a_remote_error(name: str) -> None:
    error = error_of(Failure("agent_error", "x", name), agent="a", node="n")
    assert type(error) is RemoteError
    assert "x" in str(error)


def test_ten_thousand_names_are_remote_errors_and_import_nothing() -> None:
    before = set(sys.modules)
    names = [f"{module}.{name}" for module in sys.stdlib_module_names for name in ("Error", "system", "run")]
    names += [name for module in list(sys.modules.values()) for name in list(vars(module))[:60]]
    names += [f"Error{n}" for n in range(10_000)]
    for name in set(names) - TABLES:
        assert type(error_of(Failure("agent_error", "x", name[:200]), agent="a", node="n")) is RemoteError
    assert set(sys.modules) == before


HOSTILE = [
    "__class__", "__dict__", "__traceback__", "__cause__", "__context__", "__notes__", "__reduce__",
    "__str__", "__init__", "_private", "args", "with_traceback", "add_note", "no identifier", "",
    "self", "strerror2",
]  # fmt: skip


@pytest.mark.parametrize("name", [*errors.__all__, "ValueError", "OSError", "KeyError", "os.system", ""])
def test_no_other_attribute_is_ever_set(name: str) -> None:
    clean = error_of(Failure("agent_error", "text", name, "", {}), agent="a", node="n")
    for value in ("x", 3, None, ["y"], {"z": 1}):
        facts = dict.fromkeys(HOSTILE, value)
        error = error_of(Failure("agent_error", "text", name, "", facts), agent="a", node="n")
        assert type(error) is type(clean)
        assert set(vars(error)) == set(vars(clean))
        assert error.args == clean.args
        assert error.__traceback__ is error.__cause__ is error.__context__ is None
        assert notes(error) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((code, getattr(errors, name)) for name, code in CODES.items()),
        *((code, MessageError) for code in ("bad_frame", "bad_name", "too_large", "too_deep", "hop_limit")),
        ("cancelled", InterruptedTurnError),
        ("draining", NodeDown),
        ("agent_error", RemoteError),
        ("something_else", RemoteError),
    ],
)
def test_a_failure_that_names_no_class_is_told_by_its_code(code: str, kind: type[Exception]) -> None:
    error: Any = error_of(Failure(code, "the text"), agent="a", node="n")
    assert type(error) is kind
    assert "the text" in str(error)
    assert set(vars(error)) >= set(attributes(SAMPLES[kind.__name__]))
    if code == "draining":
        assert (error.node, error.reason, error.outcome) == ("n", "draining", "not_delivered")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FACT_NAMES = st.sampled_from(sorted({key for each in SAMPLES.values() for key in vars(each)} | set(HOSTILE)))


@given(
    code=st.sampled_from([*CODES.values(), "draining", "cancelled", "x"]),
    type_=st.sampled_from(sorted(TABLES)) | st.text(max_size=30) | st.sampled_from(UNKNOWN),
    text=st.text(max_size=200),
    trace=st.text(max_size=50),
    facts=st.none() | st.dictionaries(FACT_NAMES | st.text(max_size=10), JSON, max_size=8),
)
def test_every_failure_gives_an_error_that_can_be_raised_shown_and_sent_on(
    code: str, type_: str, text: str, trace: str, facts: Any
) -> None:
    failure = Failure(code, text, type_, trace, facts)
    error = error_of(failure, agent="a", node="n")
    with pytest.raises(type(error)):
        raise error
    assert type(error).__name__ in TABLES
    assert isinstance(str(error), str)
    assert isinstance(repr(error), str)
    assert isinstance(told(error), type(error))
    orjson.dumps(failure_of(error).facts)


def test_the_tables_are_made_without_importing_anything_more() -> None:
    code = (
        "import agentscope_async.node.frames, agentscope_async.logging, sys\n"
        "before = set(sys.modules)\n"
        "import agentscope_async.node.failures\n"
        "heavy = {'httpx', 'pydantic', 'structlog', 'websockets', 'sqlite3'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_warnings_raised_as_errors_keep_their_type() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning) as caught:
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert type(told(caught.value)) is DeprecationWarning
