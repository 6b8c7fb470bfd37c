"""Keeps secrets out of what is written: logs, error messages, records of model calls.

Three nets, one behind the other: names that hold secrets (``authorization``, ``api_key``),
texts that look like one (``sk-...``, ``Bearer ...``, a URL's password), and the keys this
process was given itself (:func:`remember_secret`). What looks like a secret by mistake is
hidden too: a gap in a log is the smaller loss.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

import orjson

__all__ = ["REDACTED", "redact", "redact_text", "remember_secret", "remember_secrets", "remember_url"]

REDACTED = "<redacted>"
MIN_SECRET_LENGTH = 8
"""Shorter texts are not remembered: they would be found inside ordinary words."""
MAX_BASE64 = 1024
"""Characters of encoded data that are kept as they are."""
MAX_TEXT = 1_000_000
"""Characters of one text that are kept; searching more would hold up everybody for long."""
MAX_DEPTH = 100
"""Containers deeper than this, a cycle for instance, are left out."""


def redact(value: Any) -> Any:
    """Return a copy of ``value`` as plain JSON data, with secrets replaced by ``"<redacted>"``.

    Mappings become dicts with text keys, sequences lists. What JSON cannot hold becomes
    text; bytes become their length; dataclasses and pydantic models become dicts.
    """
    return _redact(value, 0)


def redact_text(text: str) -> str:
    """Return ``text`` with everything in it that is or looks like a secret replaced.

    Base64 data longer than 1,024 characters is replaced by its length.
    """
    for secret in _known:
        if secret in text:
            text = text.replace(secret, REDACTED)
    lowered = text.lower()
    for marks, pattern, replacement in _RULES:
        for mark in marks:
            if mark in lowered:
                text = pattern.sub(replacement, text)
                break
    return _shorten(text) if len(text) > MAX_BASE64 else text


def remember_secret(text: str | None) -> None:
    """Hide ``text`` wherever it occurs from now on, in this process; under 8 characters it is ignored."""
    global _known
    if text is None or len(text) < MIN_SECRET_LENGTH or text in _known:
        return
    in_json = orjson.dumps(text.encode(errors="replace").decode()).decode()[1:-1]
    in_url = (
        quote(text, errors="replace"),
        quote(text, "", errors="replace"),
        quote_plus(text, errors="replace"),
    )
    forms = {text, *in_url, in_json, repr(text)[1:-1], *_known}
    # Longest first, so that one that begins with another is hidden to its end.
    _known = tuple(sorted(forms, key=len, reverse=True))


def remember_secrets(named: Mapping[str, Any]) -> None:
    """Hide those of ``named``, headers or parameters, whose names say that they let somebody in."""
    for name, value in named.items():
        if isinstance(value, str) and (_is_secret_name(name) or name.lower().endswith(_KEY_ENDINGS)):
            remember_secret(value)
            if name.lower().endswith(("authorization", "cookie")):
                for word in _WORDS.findall(value):
                    remember_secret(word)
                    remember_secret(word.partition("=")[2].rstrip("="))


def remember_url(url: str) -> None:
    """Hide the password of a URL, and the keys in its query."""
    try:
        parts = urlsplit(url)
        if parts.password:
            remember_secret(parts.password)
            remember_secret(unquote(parts.password))
        remember_secrets(dict(parse_qsl(parts.query)))
    except ValueError:  # not a URL; whoever wants to use it will say so
        return


_known: tuple[str, ...] = ()

_SECRET_NAMES = frozenset({
    "auth", "authorization", "proxyauthorization", "xauthorization", "cookie", "setcookie", "credential",
    "credentials", "passwd", "passphrase", "pwd", "privatekey", "xamzsecuritytoken",
    "ocpapimsubscriptionkey", "subscriptionkey", "accesskey", "signingkey", "xapitoken",
})  # fmt: skip
_SECRET_ENDINGS = ("apikey", "token", "secret", "password", "secretkey", "accesskey", "subscriptionkey")
_KEY_ENDINGS = ("key", "auth", "jwt", "sig", "signature", "code", "pass", "session", "credential")
"""Endings of names that are secrets among headers and URL parameters, and mostly not elsewhere."""
_WORDS = re.compile(r"[^\s;,]+")
_NO_SECRET_TOKENS = frozenset({
    "eostoken", "bostoken", "padtoken", "unktoken", "septoken", "clstoken", "masktoken", "stoptoken",
    "nexttoken", "pagetoken", "nextpagetoken", "specialtoken", "pertoken", "costpertoken",
})  # fmt: skip
_SEPARATORS = str.maketrans("", "", "-_ .")


def _is_secret_name(name: str) -> bool:
    plain = name.lower().translate(_SEPARATORS)
    if plain in _SECRET_NAMES:
        return True
    return plain.endswith(_SECRET_ENDINGS) and plain not in _NO_SECRET_TOKENS


def _redact(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            return f"{redact_text(value[:MAX_TEXT])}... ({len(value)} characters)"
        return redact_text(str(value))
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if depth > MAX_DEPTH:
        return "<nested too deep>"
    if isinstance(value, Mapping):
        return _redact_mapping(value, depth)
    if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_asdict"):
        return [_redact(item, depth + 1) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return _redact_object(value, depth)


def _redact_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    # A piece of a model's answer with its probability is called "token" as well.
    is_probability = "logprob" in value
    found = {}
    for key, item in value.items():
        name = key if isinstance(key, str) else str(key)
        if _is_secret_name(name) and _may_be_secret(item) and not (is_probability and name == "token"):
            found[name] = REDACTED
        else:
            found[redact_text(name)] = _redact(item, depth + 1)
    return found


def _may_be_secret(item: Any) -> bool:
    return not (item is None or item == "" or isinstance(item, (bool, int, float)))


def _redact_object(value: Any, depth: int) -> Any:
    for method in ("to_dict", "model_dump", "_asdict"):
        convert = getattr(type(value), method, None)
        if convert is not None:
            return _redact(convert(value), depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _redact_mapping(fields, depth + 1)
    return redact_text(str(value))


def _shorten(text: str) -> str:
    if "base64," in text:
        text = _DATA_URI.sub(lambda found: f"{found[1]}<{len(found[2])} characters>", text)
    if _BASE64.fullmatch(text) and not (text.islower() or text.isupper() or text.isdigit()):
        return f"<base64, {len(text)} characters>"
    return text


_DATA_URI = re.compile(rf"(data:[\w.+/;=-]{{0,200}};base64,)([\w+/=-]{{{MAX_BASE64},}})", re.ASCII)
_BASE64 = re.compile(rf"[A-Za-z0-9+/_-]{{{MAX_BASE64 - 2},}}={{0,2}}")

_NAMES_IN_TEXT = (
    r"(?:proxy-)?authorization|[a-z0-9_-]{0,30}api[-_]?key|[a-z0-9_-]{0,30}access[-_]?token"
    r"|[a-z0-9_-]{0,30}secret|secret[-_]?(?:access[-_]?)?key|password|passwd|(?:set-)?cookie"
)

# Each rule: words of which one must occur in the lower-cased text, what to look for, what to
# write instead. The words are found many times faster than the patterns, and rarely.
_RULES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (("://",), re.compile(r"(?<=://)[^/\s?#\"'<>]{1,500}@"), f"{REDACTED}@"),
    (
        ("key=", "token=", "sig=", "signature=", "credential=", "secret=", "password="),
        re.compile(
            r"([?&#;](?:key|[\w-]{0,30}api[-_]?key|[\w-]{0,30}token|sig|[\w-]{0,30}signature|x-amz-credential"
            r"|client_secret|password)=)[^&\s\"'<>#]+",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    (
        ("bearer",),
        re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE | re.ASCII),
        rf"\1{REDACTED}",
    ),
    (
        ("authorization", "api-key", "api_key", "apikey", "token", "secret", "password", "passwd", "cookie"),
        re.compile(
            rf"\b((?:{_NAMES_IN_TEXT})\\?[\"']?\s{{0,3}}[:=]\s{{0,3}}b?\\?[\"']?(?:(?:basic|token)\s+)?)"
            r"(?!<redacted>|bearer\b)[^\s\"',;&(){}\[\]<>\\]{8,}",
            re.IGNORECASE | re.ASCII,
        ),
        rf"\1{REDACTED}",
    ),
    (("sk-",), re.compile(r"(?<![A-Za-z0-9])sk-[\w-]{8,}", re.ASCII), REDACTED),
    (
        ("aiza", "gsk_", "hf_", "xox", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-",
         "akia", "nvapi-", "xai-", "pplx-", "r8_"),
        re.compile(
            r"(?<![A-Za-z0-9])(?:AIza|gsk_|hf_|gh[oprsu]_|github_pat_|glpat-|nvapi-|xai-|pplx-|r8_)[\w-]{16,}"
            r"|(?<![A-Za-z0-9])xox[a-z]-[\w-]{8,}|(?<![A-Za-z0-9])AKIA[0-9A-Z]{12,}",
            re.ASCII,
        ),
        REDACTED,
    ),
    (("eyj",), re.compile(r"(?<![A-Za-z0-9])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+", re.ASCII), REDACTED),
)  # fmt: skip
