"""Replays recorded cases through a wrapper's public calls and compares both directions.

Imported as ``models.wire_driver``. A provider's tests give two functions: one makes the
wrapper for a case, the other calls it as the recorded request was made::

    def make(case, origin, client_args):
        return OpenAIChatWrapper("test", case.body["model"], "sk-1", base_url=f"{origin}/v1",
                                 client_args=client_args)

    async def call(model, case):
        args = dict(case.body)
        return await model(args.pop("messages"), **args)

    @pytest.mark.parametrize("case", cases_of("openai"), ids=str)
    async def test_case(case):
        await replay_case(case, make, call)

``call`` returns the ModelResponse; for a stream, ``await heard(model.stream(...))``; for a call
of another kind a dict of what ``expected`` names, ``{"models": [...]}`` say.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.wire_differences import DIFFERENCES
from recorder import Case, ReplayServer, load_cases

from agentscope_async.errors import ModelError
from agentscope_async.models import ModelResponse, ModelStream, ModelWrapperBase

if TYPE_CHECKING:
    from agentscope_async.message import Speech, Usage

WIRE = Path(__file__).parent.parent / "fixtures" / "wire"


@dataclass(frozen=True)
class WireCase:
    """A recorded case.

    Attributes:
        name, kind: ``"openai-chat-basic"``, ``"chat"``.
        body: of the first recorded request; a copy, to be taken apart.
        expected: what is to come of it.
    """

    case: Case

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def kind(self) -> str:
        return str(self.case.data["kind"])

    @property
    def request(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.case.data["request"]))

    @property
    def body(self) -> dict[str, Any]:
        return self.request["body"]

    @property
    def expected(self) -> dict[str, Any]:
        return self.case.data["expected"]

    @property
    def differences(self) -> set[str]:
        """What we send otherwise than the provider's own package, as ``"extra /stream_options"``."""
        by_kind = DIFFERENCES.get(f"{self.case.data['provider']} {self.kind}", {})
        return set(DIFFERENCES.get(self.name, by_kind))

    def __str__(self) -> str:
        return self.name


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        result: what ``call`` returned, or None.
        error: the ModelError it raised, or None.
        records: what was sent, a record for each request.
    """

    result: Any = None
    error: ModelError | None = None
    records: list[dict[str, Any]] = field(default_factory=list)


Make = Callable[[WireCase, str, dict[str, Any]], ModelWrapperBase]
"""Returns the wrapper for a case, whose server is at an origin, with ``client_args``."""

CallIt = Callable[[Any, WireCase], Awaitable[Any]]


def cases_of(provider: str) -> list[WireCase]:
    """Return all cases of a provider, by name."""
    cases = [WireCase(case) for case in load_cases(WIRE / provider).values()]
    return sorted(cases, key=str)


async def replay_case(
    case: WireCase, make_wrapper: Make, call: CallIt, *, informative: Collection[str] = ()
) -> Outcome:
    """Make the recorded call and check what was sent and what came of it.

    Args:
        case: what to replay.
        make_wrapper: makes the wrapper.
        call: calls it.
        informative: keys of ``expected`` that the wrapper has no place for.
    """
    # Where a failure that may pass is to be seen after one request, it is not tried again.
    retryable = case.expected.get("error", {}).get("retryable")
    client_args = {"max_retries": case.expected["requests"] - 1} if retryable else {}
    async with ReplayServer({case.name: case.case}) as server:
        model = make_wrapper(case, server.url(case.name), client_args)
        outcome = Outcome(records=server.records)
        try:
            outcome.result = await call(model, case)
        except ModelError as error:
            outcome.error = error
    check_sent(case, outcome)
    check_result(case, outcome, {"chunks", *informative})
    return outcome


def check_sent(case: WireCase, outcome: Outcome) -> None:
    """Check that every request is the recorded one but for the listed differences."""
    count = len(outcome.records)
    assert count == case.expected["requests"], f"{count} requests: {outcome.error or outcome.result}"
    for record in outcome.records:
        found = {f"{each['op']} {each['path']}" for each in record["diff"] if not each.get("soft")}
        assert found == case.differences, record["diff"]


def check_result(case: WireCase, outcome: Outcome, informative: set[str]) -> None:
    """Check everything that ``expected`` names."""
    wanted = {key: value for key, value in case.expected.items() if key not in informative | {"requests"}}
    if "error" in wanted:
        assert outcome.error is not None, f"no error but {outcome.result}"
        facts = error_facts(outcome.error, wanted["error"])
        assert facts == wanted["error"], f"{facts} instead of {wanted['error']}"
        return
    if outcome.error is not None:
        raise outcome.error
    found = outcome.result if isinstance(outcome.result, dict) else response_facts(outcome.result, wanted)
    assert found == wanted, f"{found} instead of {wanted}"


def error_facts(error: ModelError, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what of an error is asked for, in the fixtures' terms."""
    facts = {name: getattr(error, name) for name in wanted if name != "message"}
    if "message" in wanted:
        facts["message"] = wanted["message"] if wanted["message"] in str(error) else str(error)
    return facts


def response_facts(response: ModelResponse, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what of a response is asked for, in the fixtures' terms."""
    facts: dict[str, Any] = {}
    for name in wanted:
        match name:
            case "tool_calls":
                facts[name] = _calls(response, wanted[name])
            case "usage":
                facts[name] = _usage(response.usage, wanted[name])
            case "image_urls":
                facts[name] = response.image_urls or []
            case "image_b64":
                facts[name] = response.images_b64 or []
            case _:
                facts[name] = getattr(response, name)
    return facts


def _calls(response: ModelResponse, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls; their ids, which must be there, only where the provider sent one."""
    assert all(call.id for call in response.tool_calls)
    calls = [
        {"id": call.id, "name": call.name, "arguments": _plain(call.arguments)}
        for call in response.tool_calls
    ]
    if len(calls) == len(wanted):
        return [
            {key: call[key] if want[key] is not None else None for key in want}
            for call, want in zip(calls, wanted, strict=True)
        ]
    return calls


def _usage(usage: Usage | None, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    assert usage is not None
    if wanted is None:
        return None if usage.estimated else usage._asdict()
    known = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens - wanted.get("thinking_tokens", 0),
        "total_tokens": usage.total_tokens,
        "thinking_tokens": wanted.get("thinking_tokens"),
        "image_count": wanted.get("image_count"),
    }
    return {name: known[name] for name in wanted}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if hasattr(value, "items") else value


@dataclass
class Hearing:
    """A stream read to its end: its deltas and the whole answer."""

    deltas: list[Speech]
    response: ModelResponse


async def listen(stream: ModelStream) -> Hearing:
    """Read a stream to its end."""
    async with stream:
        deltas = [delta async for delta in stream]
        return Hearing(deltas, stream.response)


async def heard(stream: ModelStream) -> ModelResponse:
    """Read a stream to its end; return the whole answer, of which the deltas are the pieces."""
    hearing = await listen(stream)
    response = hearing.response
    said = "".join(delta.text for delta in hearing.deltas if delta.kind == "text")
    thought = "".join(delta.text for delta in hearing.deltas if delta.kind == "thinking")
    assert said == (response.text or "")
    assert thought == (response.thinking or "")
    assert [delta.data for delta in hearing.deltas if delta.kind == "tool_call"] == response.tool_calls
    return response
