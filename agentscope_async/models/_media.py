"""Images, sounds and films on their way into a request: files become data."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import MessageError

__all__ = ["Media", "is_local", "load_media"]

MAX_BYTES = 50_000_000
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


@dataclass(frozen=True, slots=True)
class Media:
    """A file's bytes, base64, and what they are."""

    mime_type: str
    base64: str

    @property
    def data_uri(self) -> str:
        """The whole as ``data:mime;base64,...``."""
        return f"data:{self.mime_type};base64,{self.base64}"


def is_local(url: str) -> bool:
    """Whether this names a file here, and not a web address or data."""
    return not url.startswith(("http://", "https://", "data:", "oss://", "gs://"))


async def load_media(url: str, mime_type: str | None = None) -> Media:
    """Return what is behind a path, a ``file://`` URL, a ``data:`` URI or a web address.

    Reads files in a worker thread.

    Raises:
        MessageError: it cannot be read, is not on the public internet, is larger than 50 MB, or is
            no image, sound, film or PDF.
    """
    if url.startswith("data:"):
        return _from_data_uri(url)
    if is_local(url):
        return await asyncio.to_thread(_from_file, url, mime_type)
    from ._fetch import fetch

    try:
        content = await fetch(url, max_bytes=MAX_BYTES)
    except ConnectionError as error:
        advice = "An image of your own network: give its path, or the bytes as a data: URI."
        raise MessageError("url", f"{error}. {advice}") from error
    return _encoded(content, mime_type or mimetypes.guess_type(urlsplit(url).path)[0], url)


def _from_data_uri(url: str) -> Media:
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise MessageError("url", "a data: URI must be 'data:<mime type>;base64,<data>'")
    return Media(head[len("data:") : -len(";base64")].partition(";")[0] or "image/png", data)


def _from_file(url: str, mime_type: str | None) -> Media:
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file://") else Path(url)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MessageError("url", f"{path.name!r} is larger than {MAX_BYTES} bytes")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MessageError("url", f"the file {str(path)!r} cannot be read: {reason}") from error
    return _encoded(content, mime_type or mimetypes.guess_type(path.name)[0], path.name)


def _encoded(content: bytes, mime_type: str | None, name: str) -> Media:
    seen = next((kind for magic, kind in _MAGIC if content.startswith(magic)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        seen = "image/webp"
    kind = seen or mime_type or ""
    if not kind.startswith(("image/", "audio/", "video/")) and kind != "application/pdf":
        raise MessageError("url", f"{name!r} is no image, sound, film or PDF")
    return Media(kind, base64.b64encode(content).decode())
