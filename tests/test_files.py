"""Images and records in the directory of a run."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import re
import socket
import struct
import threading
import zlib

import pytest

from agentscope_async import ConfigError
from agentscope_async._rundir import RunDirectory
from agentscope_async.files import Files, as_png

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q"
    b"\0\0\0\0IEND\xaeB`\x82"
)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(20)
WEBP = b"RIFF\x24\0\0\0WEBPVP8 " + bytes(20)


class Pixels:
    """What of a numpy array is used."""

    def __init__(self, shape, dtype="uint8", fill=7):
        self.shape, self.dtype = shape, dtype
        size = 1
        for length in shape:
            size *= length
        self.content = bytes((fill + index) % 256 for index in range(size))

    def tobytes(self):
        return self.content


def make(tmp_path, content=PNG):
    async def fetch(url):
        if isinstance(content, Exception):
            raise content
        return content

    return Files(RunDirectory(tmp_path / "runs"), fetch=fetch)


def unpack(png):
    """Return width, height, colour type and pixels of a PNG without filters, checking its sums."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        name, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length]) == (zlib.crc32(name + content),)
        chunks[name] = content
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    rows = zlib.decompress(chunks[b"IDAT"])
    row = len(rows) // height
    lines = [rows[start : start + row] for start in range(0, len(rows), row)]
    assert all(line[0] == 0 for line in lines)
    return width, height, kind, b"".join(line[1:] for line in lines)


def test_a05_everything_has_its_place_in_the_run_directory(tmp_path):
    files = make(tmp_path)
    assert not (tmp_path / "runs").exists()
    root = files.dir_root
    assert root.parent == tmp_path / "runs"
    assert (files.dir_log, files.path_db) == (root, root / "agentscope.db")
    for folder, name in ((files.dir_file, "file"), (files.dir_code, "code"), (files.dir_invoke, "invoke")):
        assert folder == root / name
        assert folder.is_dir()
    assert sorted(path.name for path in root.iterdir()) == [".config", "code", "file", "invoke"]


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (PNG, ".png"),
        (JPEG, ".jpg"),
        (WEBP, ".webp"),
        (b"GIF89a...", ".gif"),
        (b"<?xml version='1.0'?><svg></svg>", ".svg"),
        (b"\0\0\0\x1cftypavif", ".avif"),
    ],
)
async def test_n02_an_image_of_a_url_keeps_its_bytes_and_its_suffix(tmp_path, content, suffix):
    files = make(tmp_path, content)
    path = await files.save_image("https://host/image?sig=x")
    assert path.parent == files.dir_file
    assert re.fullmatch(r"image_\d{8}-\d{6}_[0-9a-z]{6}\.[a-z]+", path.name)
    assert path.suffix == suffix
    assert path.read_bytes() == content


async def test_n02_an_image_is_had_from_a_server_as_well(tmp_path):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.png" else 404)
            self.send_header("content-length", str(len(PNG)))
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            files = Files(RunDirectory(tmp_path))
            url = f"http://127.0.0.1:{server.server_port}"
            assert (await files.save_image(f"{url}/a.png", "a", maker=url)).read_bytes() == PNG
            with pytest.raises(ConnectionError):
                await files.save_image(f"{url}/missing.png", maker=url)
            assert [path.name for path in files.dir_file.iterdir()] == ["a.png"]
        finally:
            server.shutdown()
            thread.join()


async def test_n02_an_image_in_a_private_network_is_only_had_from_the_server_that_made_it(tmp_path):
    files = Files(RunDirectory(tmp_path))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/a.png"
        for maker in (None, "https://images.example/v1", "http://[::1"):
            with pytest.raises(ConnectionError, match="not on the public internet"):
                await files.save_image(url, maker=maker)
        with pytest.raises(ConnectionError, match="attempts failed"):
            await files.save_image(url, maker="http://127.0.0.1:8000/v1")


async def test_n02_a_download_that_fails_raises_and_leaves_nothing(tmp_path):
    files = make(tmp_path, ConnectionError("no route"))
    with pytest.raises(ConnectionError, match="no route"):
        await files.save_image("https://host/a.png", "a.png")
    assert list(files.dir_file.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b'{"error": 1}', b"<p><svg"[:3]])
async def test_n02_what_is_not_an_image_is_refused(tmp_path, content):
    files = make(tmp_path, content)
    with pytest.raises(ValueError, match="is not an image"):
        await files.save_image("https://host/a.png?key=T0p5ecret")
    with pytest.raises(ValueError, match="is not an image"):
        await files.save_image(content)
    assert list(files.dir_file.iterdir()) == []


async def test_an_error_about_an_image_does_not_tell_the_key_in_its_url(tmp_path):
    with pytest.raises(ValueError) as caught:
        await make(tmp_path, b"no").save_image("https://host/a.png?key=T0p5ecret")
    assert "T0p5ecret" not in str(caught.value)


async def test_n02_images_as_data_uri_and_as_bytes(tmp_path):
    files = make(tmp_path)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert (await files.save_image(uri)).read_bytes() == PNG
    assert (await files.save_image(bytearray(JPEG), "b.jpeg")).name == "b.jpeg"
    svg = await files.save_image("data:image/svg+xml,%3Csvg%3E%3C/svg%3E", "c")
    assert (svg.name, svg.read_bytes()) == ("c.svg", b"<svg></svg>")


@pytest.mark.parametrize(
    "image",
    ["a.png", "/etc/passwd", "file:///etc/passwd", "ftp://host/a.png", "", None, 3, ["x"], "data:,,"[:5]],
)
async def test_other_things_are_refused(tmp_path, image):
    with pytest.raises(ConfigError):
        await make(tmp_path).save_image(image)


async def test_a_data_uri_that_is_broken_is_refused(tmp_path):
    with pytest.raises(ValueError, match="base64"):
        await make(tmp_path).save_image("data:image/png;base64,@@@")


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((2, 3), 0), ((2, 3, 1), 0), ((2, 3, 3), 2), ((2, 3, 4), 6), ((1, 1), 0), ((1, 700, 3), 2)],
)
async def test_n02_an_array_becomes_a_png(tmp_path, shape, kind):
    pixels = Pixels(shape)
    path = await make(tmp_path).save_image(pixels)
    assert path.suffix == ".png"
    assert unpack(path.read_bytes()) == (shape[1], shape[0], kind, pixels.content)


@pytest.mark.parametrize(
    "pixels",
    [
        Pixels((2, 3), "float32"),
        Pixels((2, 3), "int64"),
        Pixels((6,)),
        Pixels((2, 3, 2)),
        Pixels((2, 3, 5)),
        Pixels((1, 2, 3, 4)),
        Pixels((0, 3)),
        Pixels((3, 0)),
        Pixels(()),
    ],
)
def test_arrays_that_are_no_images_are_refused(pixels):
    with pytest.raises(ConfigError, match="uint8"):
        as_png(pixels)


async def test_n02_a_real_array_becomes_a_png(tmp_path):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(60, dtype=numpy.uint8).reshape(4, 5, 3)[:, ::-1]
    path = await make(tmp_path).save_image(array, "picture")
    assert path.name == "picture.png"
    assert unpack(path.read_bytes()) == (5, 4, 2, array.tobytes())


@pytest.mark.parametrize(
    "name", ["../a.png", "/a.png", "a/b.png", "..", ".", "", " ", "a\\b", "..\\a", "C:a.png", "a\0b", "a\nb"]
)
async def test_a_name_cannot_lead_out_of_the_directory(tmp_path, name):
    files = make(tmp_path)
    with pytest.raises(ConfigError):
        await files.save_image(PNG, name)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".config"] == []


async def test_a_file_of_the_same_name_is_replaced(tmp_path):
    files = make(tmp_path)
    await files.save_image(PNG, "a.png")
    assert (await files.save_image(JPEG, "a.png")).read_bytes() == JPEG
    assert [path.name for path in files.dir_file.iterdir()] == ["a.png"]


async def test_many_images_at_once_are_all_kept(tmp_path):
    files = make(tmp_path)
    paths = await asyncio.gather(*(files.save_image(PNG) for _ in range(50)))
    assert len(set(paths)) == 50


async def test_e07_a_record_is_saved_on_demand_if_records_are_kept(tmp_path):
    run = RunDirectory(tmp_path)
    assert await Files(run).save_api_invocation("model_A", {"a": 1}) is None
    files = Files(run, save_api_invoke=True)
    name = await files.save_api_invocation("model_A", {"a": 1, "api_key": "T0p5ecret"})
    assert re.fullmatch(r"model_A_\d{8}-\d{6}_[0-9a-z]{6}\.json", name)
    assert json.loads((files.dir_invoke / name).read_text()) == {"a": 1, "api_key": "<redacted>"}
