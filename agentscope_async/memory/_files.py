"""Memories in JSON files: read from them, and written whole or not at all."""

from __future__ import annotations

import os
import secrets
from typing import Any

import orjson

__all__ = ["read", "write_whole"]


def read(source: str | bytes | os.PathLike[str]) -> Any:
    """Return the object or list in a file or text; also the list in what ``serialize`` makes of one."""
    text: str | bytes
    if isinstance(source, os.PathLike) or (isinstance(source, str) and os.path.isfile(source)):
        with open(source, "rb") as file:
            text = file.read()
        origin = f"The file {os.fspath(source)!r} is not JSON"
    else:
        text = source
        origin = f"{source[:80]!r} is neither an existing file nor JSON"
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{origin}: {error}") from error
    if isinstance(value, dict) and value.get("__type") == "List":
        value = value.get("__value")
    if not isinstance(value, (dict, list)):
        raise TypeError(
            f"Memories in JSON are an object or a list of objects, not {orjson.dumps(value)[:80].decode()}"
        )
    return value


def write_whole(path: str | os.PathLike[str], text: bytes) -> None:
    """Put ``text`` into the file in one step: who reads it meanwhile sees the old text or the new."""
    target = os.path.realpath(path)
    draft = f"{target}.{secrets.token_hex(8)}.tmp"
    try:
        with open(draft, "xb") as file:
            file.write(text)
        os.replace(draft, target)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise
