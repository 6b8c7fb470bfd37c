"""Case files: loading them, and telling a request from the recorded one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET_HEADERS = {"authorization", "x-goog-api-key", "api-key", "proxy-authorization", "cookie"}
SECRET_QUERY = {"key", "api_key", "access_token"}

ANY = "<any>"
"""A recorded value of this, or with ``<redacted>`` in it, accepts anything that is present."""

FREE_FORM_KEYS = {"args", "response", "parameters", "properties", "responseSchema"}
"""Keys of Gemini's requests under which the user's own names stand."""


def redact_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return ``headers`` with keys made unreadable, their schemes kept."""
    return {name: _redacted(value) if name in SECRET_HEADERS else value for name, value in headers.items()}


def _redacted(value: str) -> str:
    scheme, _, key = value.partition(" ")
    return f"{scheme} <redacted>" if key else "<redacted>"


def redact_query(query: dict[str, str]) -> dict[str, str]:
    """Return ``query`` with keys made unreadable."""
    return {name: "<redacted>" if name.lower() in SECRET_QUERY else value for name, value in query.items()}


def diff_json(want: Any, got: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """Yield ``{"op": "missing" | "extra" | "changed", "path": "/a/0/b", "want": ..., "got": ...}``."""
    if isinstance(want, dict) and isinstance(got, dict):
        keys: list[Any] = sorted(want.keys() | got.keys())
    elif isinstance(want, list) and isinstance(got, list):
        keys = list(range(max(len(want), len(got))))
        want, got = dict(enumerate(want)), dict(enumerate(got))
    else:
        if not _is_same(want, got):
            yield {"op": "changed", "path": path or "/", "want": want, "got": got}
        return
    for key in keys:
        if key not in got:
            yield {"op": "missing", "path": f"{path}/{key}", "want": want[key]}
        elif key not in want:
            yield {"op": "extra", "path": f"{path}/{key}", "got": got[key]}
        else:
            yield from diff_json(want[key], got[key], f"{path}/{key}")


def _is_same(want: Any, got: Any) -> bool:
    if isinstance(want, str) and (want == ANY or "<redacted>" in want):
        if want.startswith("Bearer "):
            return isinstance(got, str) and got.startswith("Bearer ") and len(got) > len("Bearer ")
        return got not in (None, "")
    if isinstance(want, bool) or isinstance(got, bool):
        return want is got
    return want == got  # 1 is 1.0 here: JSON does not tell them apart


def canonical(provider: str, body: Any) -> Any:
    """Return ``body`` in one of the spellings the provider's server takes as equal.

    Gemini reads proto JSON: snake_case or camelCase keys, either base64 alphabet.
    """
    if provider != "gemini":
        return body
    if isinstance(body, list):
        return [canonical(provider, value) for value in body]
    if not isinstance(body, dict):
        return body
    return dict(_canonical_item(key, value) for key, value in body.items())


def _canonical_item(key: str, value: Any) -> tuple[str, Any]:
    head, *rest = key.split("_")
    camel = head + "".join(word[:1].upper() + word[1:] for word in rest)
    if camel not in FREE_FORM_KEYS:
        value = canonical("gemini", value)
    if camel == "data" and isinstance(value, str):
        value = value.replace("-", "+").replace("_", "/").rstrip("=")
    return camel, value


@dataclass(frozen=True)
class Exchange:
    """One recorded request and the answer to it."""

    request: dict[str, Any]
    response: dict[str, Any]
    root: Path
    provider: str

    def matches_route(self, method: str, path: str) -> bool:
        """Whether method and path are those recorded."""
        return self.request["method"] == method and self.request["path"] == path

    def diff(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any
    ) -> list[dict[str, Any]]:
        """Return all differences from the recorded request.

        Marked ``"soft": True`` are those in the paths listed as ``request.optional``, and a
        value that is absent on one side and empty on the other, which mean the same to every
        provider here.
        """
        want = self.request
        found = [
            {"op": "changed", "path": f"@{what}", "want": want[what], "got": got}
            for what, got in (("method", method), ("path", path))
            if want[what] != got
        ]
        found += [
            {**each, "path": f"@query{each['path']}"} for each in diff_json(want.get("query") or {}, query)
        ]
        found += self._header_diff(headers)
        found += diff_json(canonical(self.provider, want.get("body")), canonical(self.provider, body))
        optional = tuple(want.get("optional") or ())
        for each in found:
            if _is_absent_against_empty(each) or (optional and each["path"].startswith(optional)):
                each["soft"] = True
        return found

    def _header_diff(self, headers: dict[str, str]) -> Iterator[dict[str, Any]]:
        for name, value in (self.request.get("headers") or {}).items():
            want, got = value, headers.get(name.lower(), "")
            if name.lower() == "content-type":
                want, got = want.split(";")[0], got.split(";")[0]
            if not got:
                yield {"op": "missing", "path": f"@header/{name}", "want": want}
            elif not _is_same(want, got):
                yield {"op": "changed", "path": f"@header/{name}", "want": want, "got": "(another value)"}

    def payload(self) -> bytes:
        """Return the answer's body."""
        response = self.response
        if "stream_file" in response:
            return (self.root / response["stream_file"]).read_bytes()
        if "raw" in response:
            return response["raw"].encode()
        body = response.get("body")
        return b"" if body is None else json.dumps(body, ensure_ascii=False).encode()

    def stream_kind(self) -> str | None:
        """Return ``"sse"`` or ``"ndjson"`` where the answer is a stream."""
        suffix = self.response.get("stream_file", "").rpartition(".")[2]
        return suffix if suffix in ("sse", "ndjson") else None


def _is_absent_against_empty(difference: dict[str, Any]) -> bool:
    if difference["op"] == "changed" or difference["path"].startswith("@"):
        return False
    value = difference["want"] if difference["op"] == "missing" else difference["got"]
    return value is None or value in ("", [], {})


@dataclass(frozen=True)
class Case:
    """A case file: one exchange, or several that follow each other."""

    name: str
    data: dict[str, Any]
    exchanges: list[Exchange]

    @classmethod
    def load(cls, file: Path) -> Case:
        """Read one file."""
        data = json.loads(file.read_text("utf-8"))
        steps = [data, *data.get("then", [])]
        exchanges = [
            Exchange(step["request"], step["response"], file.parent, data["provider"]) for step in steps
        ]
        return cls(data["name"], data, exchanges)


def load_cases(*roots: str | Path) -> dict[str, Case]:
    """Read every case in these files and folders, by name."""
    cases: dict[str, Case] = {}
    for root in map(Path, roots):
        for file in [root] if root.is_file() else sorted(root.rglob("*.json")):
            case = Case.load(file)
            if case.name in cases:
                raise ValueError(f"Two cases are named {case.name!r}, one of them in {file}.")
            cases[case.name] = case
    return cases
