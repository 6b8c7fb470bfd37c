"""Which texts are paths: what a caller may write to name a file beneath a root."""

from __future__ import annotations

import os
import re
import unicodedata
from urllib.parse import unquote

__all__ = ["parts_of", "shown"]

MAX_PATH_CHARACTERS = 4096
SHOWN_CHARACTERS = 120

_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that make a name look like another one."""
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\s*\..*)?", re.IGNORECASE)
"""Windows takes these for devices, whatever follows the dot (learn.microsoft.com, "Naming Files")."""


def parts_of(path: str | os.PathLike[str], root: str) -> tuple[str, ...]:
    """Return the names that lead from ``root`` to ``path``; none of them leads up or out.

    Only the text is looked at, but for where ``root`` itself is. An absolute path is one
    beneath ``root``, as the program wrote it or with its links resolved. Names that mean
    something else on another system, or look like something else, are refused on all.

    Raises:
        PermissionError: the path leads out of the root.
        ValueError: it is not the text of a path, or a name in it is not allowed.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text:
        raise ValueError("A path is a text that is not empty, such as 'notes/today.txt'.")
    if len(text) > MAX_PATH_CHARACTERS:
        raise ValueError(
            f"The path has {len(text):,} characters; at most {MAX_PATH_CHARACTERS:,} are allowed."
        )
    parts = _split(text)
    if text.startswith("/"):
        parts = _beneath(parts, root, text)
    for part in parts:
        _check(part, text)
    return parts


def shown(path: object) -> str:
    """Return a path for people to read: short, and what does not print is escaped."""
    text = str(path)
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}...")


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split("/") if part not in ("", "."))


def _beneath(parts: tuple[str, ...], root: str, text: str) -> tuple[str, ...]:
    for place in (os.path.abspath(root), os.path.realpath(root)):
        above = _split(place)
        if parts[: len(above)] == above:
            return parts[len(above) :]
    raise _outside(text)


def _check(part: str, text: str) -> None:
    """Refuse one name of a path.

    Raises:
        PermissionError: it leads up, also when written so that another reader would see it do so.
        ValueError: it is not allowed.
    """
    plain = unquote(part)
    if not plain.strip(". ") or part == "~" or "/" in plain or "\0" in plain:
        raise _outside(text)
    if "\\" in plain:
        raise PermissionError(f"{shown(text)} has a backslash: separate directories by '/'.")
    if part[-1] in ". ":
        raise ValueError(f"A name in {shown(text)} ends with a dot or a space: leave that out.")
    if _DEVICE.fullmatch(part):
        raise ValueError(
            f"{shown(part)} in {shown(text)} is the name of a device on some systems: take another."
        )
    for character in part:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDIRECTIONAL:
            raise ValueError(
                f"{shown(text)} holds U+{ord(character):04X}, which no name may have: leave it out."
            )


def _outside(text: str) -> PermissionError:
    return PermissionError(
        f"{shown(text)} is not beneath the directory that is open to this tool. "
        f"Give a path relative to that directory, without '..'."
    )
