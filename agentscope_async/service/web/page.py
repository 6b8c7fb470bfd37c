"""What a server answered: of which kind it is, and its text in the right characters."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

__all__ = ["Kind", "WebPage"]

Kind = Literal["html", "json", "pdf", "image", "text", "binary"]

HEAD_BYTES = 1024
"""Where a page must name its encoding (HTML standard, 13.2.3.2)."""


@dataclass(frozen=True)
class WebPage:
    """An answer, with the attributes that ``requests.Response`` has for what is in it.

    Attributes:
        url: where it was found, after redirections.
        headers: names in lower case.
        content: the body, unpacked.
        status_code: always 200.
    """

    url: str
    headers: Mapping[str, str]
    content: bytes
    status_code: int = 200

    @property
    def kind(self) -> Kind:
        """What it is, by its content type; where that says nothing, by how it begins."""
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type in ("", "application/octet-stream", "*/*"):
            return _kind_by_beginning(self.content)
        for part, kind in _KINDS:
            if part in media_type:
                return kind
        return "text" if media_type.startswith("text/") else _kind_by_beginning(self.content)

    @cached_property
    def encoding(self) -> str:
        """The name of Python's codec for it: by its first bytes, the header, the page itself, or a guess."""
        for mark, name in _MARKS:
            if self.content.startswith(mark):
                return name
        named = _CHARSET.search(self.headers.get("content-type", ""))
        if named is None and self.kind == "html":
            named = _CHARSET.search(self.content[:HEAD_BYTES].decode("ascii", "replace"))
        if named is not None and (codec := _CODECS.get(named[1].lower())) is not None:
            return codec
        return "utf-8" if _is_utf8(self.content) else "cp1252"

    @cached_property
    def text(self) -> str:
        """The body as text; what is no character of its encoding becomes U+FFFD."""
        text = self.content.decode(self.encoding, "replace")
        return text.removeprefix("\ufeff")

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: it is none, holds NaN, or is nested too deep.
        """
        try:
            # A JSON text is UTF-8 (RFC 8259, 8.1); `json` finds out UTF-16 and -32 by itself.
            return json.loads(self.content, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("it is nested too deep") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_KINDS: list[tuple[str, Kind]] = [
    ("html", "html"),
    ("pdf", "pdf"),
    ("json", "json"),
    ("image/svg", "text"),
    ("image/", "image"),
    ("xml", "text"),
    ("javascript", "text"),
    ("yaml", "text"),
]
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# The labels of the Encoding standard (https://encoding.spec.whatwg.org/#names-and-labels) that occur:
# not any name, since Python also has codecs that take quadratic time or read escapes.
_CODECS = {
    label: codec
    for codec, labels in {
        "utf-8": "utf-8 utf8 unicode-1-1-utf-8",
        "cp1252": "iso-8859-1 iso8859-1 latin1 l1 us-ascii ascii windows-1252 cp1252",
        "gb18030": "gb2312 gbk gb18030 x-gbk chinese",
        "big5hkscs": "big5 big5-hkscs",
        "cp932": "shift_jis shift-jis sjis x-sjis windows-31j ms_kanji",
        "euc_jp": "euc-jp",
        "iso2022_jp": "iso-2022-jp",
        "cp949": "euc-kr ks_c_5601-1987 windows-949",
        "koi8_r": "koi8-r koi8",
        "koi8_u": "koi8-u",
        "cp1250": "windows-1250",
        "cp1251": "windows-1251",
        "cp1253": "windows-1253",
        "cp1254": "windows-1254 iso-8859-9 latin5",
        "cp1255": "windows-1255",
        "cp1256": "windows-1256",
        "cp1257": "windows-1257",
        "cp1258": "windows-1258",
        "cp874": "windows-874 tis-620",
        "iso8859_2": "iso-8859-2 latin2",
        "iso8859_5": "iso-8859-5",
        "iso8859_7": "iso-8859-7",
        "iso8859_8": "iso-8859-8",
        "iso8859_15": "iso-8859-15",
        "utf-16-le": "utf-16 utf-16le",
        "utf-16-be": "utf-16be",
    }.items()
    for label in labels.split()
}


def _kind_by_beginning(content: bytes) -> Kind:
    head = content[:HEAD_BYTES].lstrip()
    if head.startswith(b"%PDF-"):
        return "pdf"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or content[8:12] == b"WEBP":
        return "image"
    if head[:14].lower() == b"<!doctype html" or head[:5].lower() == b"<html":
        return "html"
    return "text" if b"\0" not in head and _is_utf8(content) else "binary"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
