"""Python's own errors on their way to another node and back: some are not made from a text alone."""

from __future__ import annotations

from typing import Any

from ._facts import read_whole, text_in, told

__all__ = ["arguments_of", "built"]


def arguments_of(error: BaseException) -> dict[str, Any]:
    """Return what one of Python's errors is made from, if it is not a text, as JSON values."""
    match error:
        case OSError(errno=int(number), strerror=str(text)):
            names = {"filename": error.filename, "filename2": error.filename2}
            files = {key: told(name) for key, name in names.items() if isinstance(name, str)}
            return {"errno": number, "strerror": told(text), **files}
        case KeyError(args=(bool() | int() | float() | str() | None as key,)):
            return {"key": key} if repr(key) == told(str(error)) else {}  # else it was cut, or hides a secret
        case UnicodeDecodeError() | UnicodeEncodeError():
            return {"encoding": told(error.encoding), **_place_of(error)}
        case UnicodeTranslateError():
            return _place_of(error)
        case ImportError() | NameError() | AttributeError():
            names = {"name": error.name, "path": getattr(error, "path", None)}
            return {key: told(name) for key, name in names.items() if isinstance(name, str)}
    return {}


def _place_of(error: UnicodeDecodeError | UnicodeEncodeError | UnicodeTranslateError) -> dict[str, Any]:
    return {"reason": told(error.reason), "start": error.start, "end": error.end}


def built(kind: type[Exception], text: str, facts: dict[str, Any]) -> Exception:
    """Return one of Python's errors from its text and its facts; those that do not fit are ignored."""
    try:
        if issubclass(kind, OSError):
            strerror, *files = (text_in(facts, name) for name in ("strerror", "filename", "filename2"))
            if strerror is not None:
                return kind(read_whole(facts.get("errno")), strerror, files[0], None, files[1])
        elif issubclass(kind, KeyError):
            key = facts.get("key")
            is_key = (
                "key" in facts and isinstance(key, (bool, int, float, str, type(None))) and repr(key) == text
            )
            return kind(key if is_key else _Shown(text)) if text else kind()
        elif issubclass(kind, (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)):
            return _built_of_unicode(kind, text, facts)
        elif issubclass(kind, (ImportError, NameError, AttributeError)):
            names = ("name", "path") if issubclass(kind, ImportError) else ("name",)
            return kind(text, **{name: text_in(facts, name) for name in names})
    except ValueError:
        pass
    return kind(text)


def _built_of_unicode(kind: type[Exception], text: str, facts: dict[str, Any]) -> Exception:
    """Return an error without the text or bytes it is about: they may be large, or secret."""
    try:
        start, end = read_whole(facts.get("start")), read_whole(facts.get("end"))
    except ValueError:
        start, end = 0, 0
    reason, encoding = text_in(facts, "reason"), text_in(facts, "encoding")
    if issubclass(kind, UnicodeTranslateError):
        return kind("", start, end, reason or text)
    return kind(
        encoding or "unknown", b"" if issubclass(kind, UnicodeDecodeError) else "", start, end, reason or text
    )


class _Shown(str):
    """A key of which only its ``repr`` is known."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
