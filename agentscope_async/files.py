"""The files of a run: where they are, images and records put there."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import re
import string
import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from ._invocations import write_record
from ._redact import redact_text
from .errors import ConfigError

if TYPE_CHECKING:
    from ._rundir import RunDirectory

__all__ = ["Fetch", "Files"]

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""Returns what is at an http(s) URL, or raises."""

MAX_IMAGE_BYTES = 64 * 2**20
FETCH_TIMEOUT_S = 60.0

_random = random.SystemRandom()


class Files:
    """The directory of a run and what it is divided into; each part is made when first asked for."""

    def __init__(
        self, run: RunDirectory, *, save_api_invoke: bool = False, fetch: Fetch | None = None
    ) -> None:
        """Keep files in the directory of ``run``.

        Args:
            run: whose directory it is.
            save_api_invoke: whether :meth:`save_api_invocation` writes anything.
            fetch: gets images by their URL; by default over HTTP, at most 64 MiB in a minute, and
                only from the public internet.
        """
        self._run = run
        self._save_api_invoke = save_api_invoke
        self._fetch = fetch

    @property
    def dir_root(self) -> Path:
        """The run's directory."""
        return self._run.path

    @property
    def dir_log(self) -> Path:
        """Where ``logging.log`` and ``logging.chat`` are: the run's directory."""
        return self._run.path

    @property
    def dir_file(self) -> Path:
        """Where images are."""
        return self._made("file")

    @property
    def dir_code(self) -> Path:
        """Where a copy of the program is."""
        return self._made("code")

    @property
    def dir_invoke(self) -> Path:
        """Where the records of model calls are."""
        return self._made("invoke")

    @property
    def path_db(self) -> Path:
        """The metrics, an SQLite file."""
        return self._run.path / "agentscope.db"

    async def save_image(self, image: Any, filename: str | None = None, *, maker: str | None = None) -> Path:
        """Put an image under ``file/`` and return its path.

        Images that are bytes already, a URL's for instance, are kept as they are. A file of
        the same name is replaced, at once and as a whole.

        Args:
            image: an http(s) URL, a ``data:`` URI, the bytes of an image file, or a numpy
                array of uint8: height x width (grey), or height x width x 3 (RGB) or 4 (RGBA).
            filename: its name there, ``image_{time}_{six characters}`` when not given; without
                a suffix it gets that of the image's format.
            maker: the URL of the server that made it: a URL on that host may be in a private network.

        Raises:
            ConfigError: ``filename`` is more than a name, or ``image`` is none of the above.
            ValueError: what was found is not an image.
            Exception: what getting the URL failed with.
        """
        if filename is not None:
            _check_name(filename)
        content = await self._bytes_of(image, maker)
        suffix = _suffix_of(content)
        if suffix is None:
            raise ValueError(f"{_brief(image)} is not an image: it begins with {content[:16]!r}.")
        if filename is None:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            filename = f"image_{stamp}_{_six()}"
        path = self.dir_file / (filename if Path(filename).suffix else filename + suffix)
        await asyncio.to_thread(_write, path, content)
        return path

    async def save_api_invocation(self, prefix: str, record: Any) -> str | None:
        """Write ``record``, without secrets, as ``invoke/{prefix}_{time}_{six characters}.json``.

        Returns:
            The file's name, or None when this is switched off.
        """
        if not self._save_api_invoke:
            return None
        path = await asyncio.to_thread(write_record, self.dir_invoke, prefix, record)
        return path.name

    async def _bytes_of(self, image: Any, maker: str | None) -> bytes:
        if isinstance(image, (bytes, bytearray, memoryview)):
            return bytes(image)
        if isinstance(image, str):
            if image[:5].lower() == "data:":
                return _decode_data_uri(image)
            if re.match(r"https?://", image, re.IGNORECASE):
                return await (_fetched(image, maker) if self._fetch is None else self._fetch(image))
        elif hasattr(image, "shape") and hasattr(image, "tobytes"):
            return await asyncio.to_thread(as_png, image)
        raise ConfigError(
            f"An image is a URL (http, https or data), bytes or a numpy array, not {_brief(image)}."
        )

    def _made(self, name: str) -> Path:
        path = self._run.path / name
        path.mkdir(exist_ok=True)
        return path


async def _fetched(url: str, maker: str | None) -> bytes:
    from .models._fetch import fetch

    is_makers_own = maker is not None and _host(url) == _host(maker)
    return await fetch(url, max_bytes=MAX_IMAGE_BYTES, timeout_s=FETCH_TIMEOUT_S, allow_private=is_makers_own)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # half an IPv6 address
        return None


def as_png(pixels: Any) -> bytes:
    """Return an array of uint8 as a PNG file (PNG specification, third edition, sections 5, 11.2).

    Raises:
        ConfigError: another type, or a shape that is not grey, RGB or RGBA.
    """
    height, width, *channels = (*pixels.shape, None, None)[: max(2, len(pixels.shape))]
    kind = {(): 0, (1,): 0, (3,): 2, (4,): 6}.get(tuple(channels))
    if str(pixels.dtype) != "uint8" or kind is None or not height or not width:
        raise ConfigError(
            "An image's array is uint8, of height x width or height x width x 1, 3 or 4; "
            f"this one is {pixels.dtype} of {tuple(pixels.shape)}."
        )
    data = pixels.tobytes()
    row = len(data) // height
    # Each row begins with the number of its filter; 0 is none.
    rows = b"".join(b"\0" + data[start : start + row] for start in range(0, len(data), row))
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _decode_data_uri(uri: str) -> bytes:
    head, comma, data = uri.partition(",")
    if not comma:
        raise ConfigError("A data: URI has a comma before its data; this one has none.")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode(unquote_to_bytes(data), validate=True)
    except binascii.Error as error:
        raise ValueError(f"The data: URI of an image is not base64: {error}.") from error


def _suffix_of(content: bytes) -> str | None:
    """Return the suffix by how a file begins; None if that is no image."""
    for beginning, suffix in (
        (b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF87a", ".gif"), (b"GIF89a", ".gif"),
        (b"BM", ".bmp"), (b"II*\0", ".tiff"), (b"MM\0*", ".tiff"),
    ):  # fmt: skip
        if content.startswith(beginning):
            return suffix
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    if content[4:12] in (b"ftypavif", b"ftypheic"):
        return "." + content[8:12].decode()
    return ".svg" if b"<svg" in content[:1024] and content.lstrip()[:1] == b"<" else None


def _check_name(filename: str) -> None:
    """Refuse what could lead out of the directory, on any system."""
    if not filename.strip(". ") or set(filename) & set("/\\:\0") or not filename.isprintable():
        raise ConfigError(f"{filename!r} cannot be the name of a file here: give a name without folders.")


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{_six()}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _six() -> str:
    return "".join(_random.choices(string.ascii_lowercase + string.digits, k=6))


def _brief(image: Any) -> str:
    return redact_text(image)[:200] if isinstance(image, str) else f"a value of type {type(image).__name__}"
