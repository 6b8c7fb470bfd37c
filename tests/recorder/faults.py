"""What can go wrong on the way, as a comma-separated list: ``429x2,ra=1`` or ``reset@50%,first=1``.

::

    status   NNNxK          answer the first K requests with status NNN (no xK: always)
             ra=S  rams=MS  put Retry-After: S / retry-after-ms: MS on those answers
             quota          those answers carry the provider's out-of-money error instead
             html           those answers are an HTML page (a proxy's error), not JSON
    cut      reset@N        TCP RST after N body bytes (N or N%)      fin@N    FIN, framing left unfinished
             trunc@N        framing ends properly after N bytes       noterm   drop the stream's last event
             drop           close (RST) without any answer, as a stale pooled connection does
    pace     bytes=N        N-byte chunks                             drip=N:S N bytes every S seconds
             hang=S         wait S before the status line             stall=S@N  pause S after N bytes
    content  badjson        spoil the JSON (one event of a stream)    ping     SSE comments between events
             crlf           LF to CRLF in a stream                    badutf8  one invalid byte
    scope    first=K        cut/pace/content only on the first K requests (default: all)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

FLAGS = {"quota", "html", "badjson", "badutf8", "ping", "crlf", "noterm", "drop"}
EVENT_ENDS = {"sse": b"\n\n", "ndjson": b"\n"}


@dataclass
class Fault:
    """One fault specification; the default is none at all. Times are seconds."""

    status: int | None = None
    times: float = 0
    headers: dict[str, str] = field(default_factory=dict)
    quota: bool = False
    html: bool = False
    cut: str | None = None
    cut_at: str = "0"
    chunk_bytes: int | None = None
    delay_s: float = 0.0
    hang_s: float = 0.0
    stall_s: float = 0.0
    stall_at: str | None = None
    badjson: bool = False
    badutf8: bool = False
    ping: bool = False
    crlf: bool = False
    noterm: bool = False
    drop: bool = False
    first: float = float("inf")

    @classmethod
    def parse(cls, spec: str) -> Fault:
        """Read a specification.

        Raises:
            ValueError: a part of it is unknown.
        """
        fault = cls()
        for token in filter(None, spec.split(",")):
            fault._take(token)
        return fault

    def _take(self, token: str) -> None:
        key, _, value = token.partition("=")
        if match := re.fullmatch(r"(\d{3})(?:x(\d+))?", token):
            self.status, self.times = int(match[1]), float(match[2] or "inf")
        elif match := re.fullmatch(r"(reset|fin|trunc)@(\d+%?)", token):
            self.cut, self.cut_at = match[1], match[2]
        elif token in FLAGS:
            setattr(self, token, True)
        else:
            self._set(key, value)

    def _set(self, key: str, value: str) -> None:
        match key:
            case "ra":
                self.headers["Retry-After"] = value
            case "rams":
                self.headers["retry-after-ms"] = value
            case "bytes":
                self.chunk_bytes = int(value)
            case "drip":
                count, pause = value.split(":")
                self.chunk_bytes, self.delay_s = int(count), float(pause)
            case "hang":
                self.hang_s = float(value)
            case "stall":
                pause, self.stall_at = value.split("@")
                self.stall_s = float(pause)
            case "first":
                self.first = float(value)
            case _:
                raise ValueError(f"Unknown fault {key!r}; faults.py lists those there are.")

    def hits_status(self, nth: int) -> bool:
        """Whether the nth request (from 1) gets the status instead of the answer."""
        return self.status is not None and nth <= self.times

    def on_the_wire(self, nth: int) -> Fault:
        """Return what of it applies to the answer to the nth request (from 1)."""
        return self if nth <= self.first else Fault()

    def spoil(self, body: bytes, stream: str | None) -> bytes:
        """Return ``body`` as the content faults leave it."""
        if stream:
            body = self._spoil_stream(body, stream)
        elif self.badjson:
            body = body[: max(1, len(body) * 2 // 3)]
        if self.badutf8:
            middle = len(body) // 2
            body = body[:middle] + b"\xff" + body[middle:]
        return body

    def _spoil_stream(self, body: bytes, stream: str) -> bytes:
        if not (self.noterm or self.badjson or self.ping or self.crlf):
            return body
        end = EVENT_ENDS[stream]
        events = [event for event in body.replace(b"\r\n", b"\n").split(end) if event]
        if self.noterm:
            del events[-1:]
        if self.badjson and events:
            middle = len(events) // 2
            events[middle] = events[middle][: max(8, len(events[middle]) * 2 // 3)]
        if self.ping and stream == "sse":
            events = [part for event in events for part in (b": keep-alive", event)]
        spoilt = b"".join(event + end for event in events)
        return spoilt.replace(b"\n", b"\r\n") if self.crlf or b"\r\n" in body else spoilt


def offset(at: str, total: int) -> int:
    """Return the byte ``at`` (``"120"`` or ``"50%"``) of a body of ``total`` bytes."""
    return total * int(at[:-1]) // 100 if at.endswith("%") else int(at)


def error_body(provider: str, fault: Fault) -> tuple[str, bytes]:
    """Return the content type and body of a status fault, in the provider's form."""
    status = fault.status or 0
    if fault.html:
        page = f"<html><head><title>{status}</title></head><body>upstream error</body></html>"
        return "text/html", page.encode()
    error = ERRORS.get(provider, openai_error)
    return "application/json", json.dumps(error(status, fault.quota)).encode()


def openai_error(status: int, quota: bool) -> Any:
    """Return OpenAI's error object."""
    if quota:
        message = "You exceeded your current quota, please check your plan and billing details."
        kind, code = "insufficient_quota", "insufficient_quota"
    elif status == 429:
        message, kind, code = "Rate limit reached for requests", "requests", "rate_limit_exceeded"
    else:
        message, kind, code = "The server had an error", "server_error", None
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def dashscope_error(status: int, quota: bool) -> Any:
    """Return DashScope's error object."""
    if quota:
        code = "Arrearage"
        message = "Access denied, please make sure your account is in good standing."
    elif status == 429:
        code, message = "Throttling.RateQuota", "Requests rate limit exceeded, please try again later."
    else:
        code, message = "InternalError", "An internal error has occured, please try again later."
    return {"code": code, "message": message, "request_id": "00000000-0000-0000-0000-000000000429"}


def gemini_error(status: int, quota: bool) -> Any:
    """Return Gemini's error object; rate and quota differ in ``quotaId`` alone."""
    if status != 429:
        word = "UNAVAILABLE" if status == 503 else "INTERNAL"
        return {"error": {"code": status, "message": "An internal error has occurred.", "status": word}}
    quota_id = f"GenerateRequestsPer{'Day' if quota else 'Minute'}PerProjectPerModel-FreeTier"
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"},
    ]
    error = {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED", "details": details}
    return {"error": error}


def ollama_error(status: int, quota: bool) -> Any:
    """Return ollama's error object; there is no quota."""
    if status == 503:
        return {"error": "server busy, please try again.  maximum pending requests exceeded"}
    return {"error": "an error was encountered while running the model"}


ERRORS = {
    "openai": openai_error,
    "dashscope": dashscope_error,
    "gemini": gemini_error,
    "ollama": ollama_error,
}
