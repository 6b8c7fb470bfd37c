"""Answers from case files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

from .cases import Case, Exchange, load_cases, redact_headers, redact_query
from .faults import Fault, error_body
from .server import Recorder, Reply, Request

JSON_TYPE = {"Content-Type": "application/json"}


class ReplayServer(Recorder):
    """Serve case files.

    ``origin`` as base URL finds the case by method, path and closest body; ``url(case)`` is
    for one case, whose steps go in order.

    Attributes:
        records: one entry for each request: ``case``, ``step``, ``nth`` (from 1, for this case,
            fault and run), ``fault``, ``run``, ``method``, ``path``, ``query``, ``headers``
            (keys redacted), ``body``, ``diff``, ``t`` (seconds of the monotonic clock) and,
            when the answer has left, ``sent``.
    """

    def __init__(self, cases: dict[str, Case]) -> None:
        super().__init__(self._answer)
        self.cases = cases
        self.records: list[dict[str, Any]] = []
        self._counts: dict[tuple[str, str, str], int] = {}
        self._steps: dict[tuple[str, str], int] = {}

    @classmethod
    def from_dirs(cls, *roots: str | Path) -> Self:
        """Serve every case in these files and folders."""
        return cls(load_cases(*roots))

    def url(self, case: str, fault: str = "", run: str = "") -> str:
        """Return the base URL of one case; ``run``, any word, keeps the counts of parallel runs apart."""
        marks = (("r", run), ("f", fault), ("c", case))
        return self.origin + "".join(f"/{mark}/{value}" for mark, value in marks if value)

    def differences(self) -> dict[str, list[dict[str, Any]]]:
        """Return by case (or path, where none was found) what was sent other than recorded."""
        found: dict[str, list[dict[str, Any]]] = {}
        for record in self.records:
            if hard := [each for each in record["diff"] if not each.get("soft")]:
                found.setdefault(record["case"] or record["path"], []).extend(hard)
        return found

    async def _answer(self, request: Request) -> Reply:
        address = Address.read(request.path)
        record = {
            "t": request.received_at,
            "case": address.case,
            "run": address.run,
            "fault": address.fault,
            "method": request.method,
            "path": address.path,
            "query": redact_query(request.query),
            "headers": redact_headers(request.headers),
            "body": request.json,
        }
        self.records.append(record)
        reply = self._reply(request, address, record)
        reply.record = record
        return reply

    def _reply(self, request: Request, address: Address, record: dict[str, Any]) -> Reply:
        try:
            fault = Fault.parse(address.fault)
        except ValueError as error:
            return _refusal(501, record, "@fault", str(error))
        match = self._closest(request, address)
        if match is None:
            return _refusal(404, record, "@route", f"no case for {request.method} {address.path}")
        case, step, exchange = match.case, match.step, match.exchange
        key = (address.run, address.fault, case.name)
        nth = self._counts[key] = self._counts.get(key, 0) + 1
        record.update(case=case.name, step=step, nth=nth, diff=match.differences)
        if fault.hits_status(nth):
            kind, body = error_body(exchange.provider, fault)
            return Reply(fault.status or 0, {"Content-Type": kind, **fault.headers}, body)
        self._steps[address.run, case.name] = step + 1
        return _recorded(exchange, fault if address.fault else None, nth)

    def _closest(self, request: Request, address: Address) -> Match | None:
        """Return the next unserved step of a matching route, or else the closest body."""
        if address.case is not None:
            pool = [self.cases[address.case]] if address.case in self.cases else []
        else:
            pool = list(self.cases.values())
        candidates = (
            Match.of(case, step, exchange, request, address.path)
            for case in pool
            for step, exchange in enumerate(case.exchanges)
            if address.case is not None or exchange.matches_route(request.method, address.path)
        )
        return min(candidates, key=lambda match: self._rank(match, address), default=None)

    def _rank(self, match: Match, address: Address) -> tuple[Any, ...]:
        done = self._steps.get((address.run, match.case.name), 0)
        hard = sum(not each.get("soft") for each in match.differences)
        return (
            not match.is_on_route,
            0 if address.case is not None else hard,
            match.step < done,
            abs(match.step - done),
            hard,
            len(match.differences),
        )


class Address(NamedTuple):
    """What a path asks for: ``/r/RUN/f/FAULT/c/CASE/the/providers/path``, the marks being optional."""

    run: str
    fault: str
    case: str | None
    path: str

    @classmethod
    def read(cls, path: str) -> Address:
        """Take a path apart."""
        marked: dict[str, str] = {}
        for mark in "rfc":
            if path.startswith(f"/{mark}/"):
                marked[mark], _, rest = path[3:].partition("/")
                path = "/" + rest
        return cls(marked.get("r", ""), marked.get("f", ""), marked.get("c"), path)


class Match(NamedTuple):
    """One recorded exchange compared with a request."""

    case: Case
    step: int
    exchange: Exchange
    is_on_route: bool
    differences: list[dict[str, Any]]

    @classmethod
    def of(cls, case: Case, step: int, exchange: Exchange, request: Request, path: str) -> Match:
        """Compare."""
        is_on_route = exchange.matches_route(request.method, path)
        differences = exchange.diff(request.method, path, request.query, request.headers, request.json)
        return cls(case, step, exchange, is_on_route, differences)


def _recorded(exchange: Exchange, fault: Fault | None, nth: int) -> Reply:
    response = exchange.response
    fault = fault or Fault.parse(response.get("fault") or "")
    headers = JSON_TYPE | (response.get("headers") or {})
    return Reply(
        response["status"], headers, exchange.payload(), exchange.stream_kind(), fault.on_the_wire(nth)
    )


def _refusal(status: int, record: dict[str, Any], path: str, reason: str) -> Reply:
    record["diff"] = [{"op": "unmatched", "path": path, "got": reason}]
    return Reply(status, dict(JSON_TYPE), json.dumps({"error": reason}).encode())
