"""Loading from the web reaches no private address, however it is spelled, named or redirected to."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any, Self

import pytest
import trustme
from hypothesis import given, strategies as st
from recorder import Recorder, Reply

from agentscope_async.models import _fetch, _http
from agentscope_async.models._fetch import fetch
from agentscope_async.models._media import load_media
from agentscope_async.models._web_address import is_public
from agentscope_async.service import load_web

PUBLIC = "127.0.0.2"
"""An address that stands for the public internet where a test needs something there to answer."""


class Canary:
    """Counts connections to one port of this machine, by IPv4 and IPv6."""

    def __init__(self) -> None:
        self.hits = 0
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Self:
        first = await asyncio.start_server(self._count, "127.0.0.1", 0)
        self.port = first.sockets[0].getsockname()[1]
        self._servers = [first]
        for address in ("127.127.127.127", "::1"):
            try:
                self._servers.append(await asyncio.start_server(self._count, address, self.port))
            except OSError:  # a machine without IPv6
                continue
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hits += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        writer.close()
        await writer.wait_closed()


class Names:
    """A resolver: names of ours by a table, in turn; spellings of numbers as the system reads them."""

    def __init__(self) -> None:
        self.table: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        if name in self.table:
            answers = self.table[name]
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]
        is_number = not set(name.lower()) - set("0123456789abcdefx.:%")
        if is_number or name.lower().rstrip(".") == "localhost":
            return socket.getaddrinfo(host, port, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()

    def getaddrinfo(loop: Any, *args: Any, **options: Any) -> Any:
        return names.getaddrinfo(*args, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    async with Canary() as canary:
        yield canary


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let one address of the loopback be public."""
    monkeypatch.setattr(_fetch, "is_public", lambda address: address == PUBLIC or is_public(address))
    return PUBLIC


class Site(Recorder):
    """A web server at the address that is public."""

    def __init__(self, answer: Any) -> None:
        async def handle(request: Any) -> Reply:
            return answer(request) if callable(answer) else answer

        super().__init__(handle)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, PUBLIC, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


# -- spellings --

W01 = ["127.0.0.1", "localhost", "LOCALHOST", "0", "0.0.0.0", "127.1", "127.0.1", "2130706433", "0x7f000001"]
W01 += ["0x7f.1", "017700000001", "127.127.127.127", "localhost.", "LocalHost.", "127.0.0.1.", "0x7F.0X0.0.1"]
W01 += ["00000177.0.0.1", "0x00000000007f.1", "2130706433.", "0.0", "0x0", "00", "127.65535", "127.0.257"]

_DIGITS = {"dec": str, "hex": hex, "oct": lambda part: f"0{part:o}"}
RADIXES = [
    ".".join(_DIGITS[radix](part) for radix, part in zip(radixes, (127, 0, 0, 1), strict=True))
    for radixes in itertools.product(_DIGITS, repeat=4)
]


def digits(zero: int, dot: str = ".") -> str:
    """Return the address in the digits that begin there in Unicode."""
    return dot.join("".join(chr(zero + int(each)) for each in part) for part in ("127", "0", "0", "1"))


def letters(a: int) -> str:
    """Return the name in the letters that begin there in Unicode."""
    return "".join(chr(a + ord(each) - ord("a")) for each in "localhost")


ZEROS = (0xFF10, 0x660, 0x6F0, 0x966, 0x1D7CE, 0x1D7D8, 0x1D7EC)  # full-width, Arabic, mathematical ...
CIRCLED = "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460"
SUPERSCRIPT = "\u00b9\u00b2\u2077.\u2070.\u2070.\u00b9"
W02 = [digits(ord("0"), dot) for dot in "\u3002\uff0e\uff61\u2024"]
W02 += [digits(zero, dot) for zero in ZEROS for dot in ".\u3002"]
W02 += [CIRCLED, SUPERSCRIPT, letters(0xFF41), letters(0x24D0), letters(0x1D41A), "\u2113ocalhost"]
W02 += ["\u217cocalhost", "lo\u00adcalhost", "local\u200bhost", "local\u200dhost", "\u202elocalhost"]
W02 += ["xn--" + name.encode("punycode").decode() for name in W02[:9]]
W02 += ["xn--localhost-", "xn--127.0.0.1-"]

W03 = ["[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]"]
W03 += ["[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[::7f00:1]", "[::ffff:0.0.0.0]"]
W03 += ["[::1%lo]", "[::1%25lo]", "[fe80::1%25lo]", "[fe80::1%lo]", "[::1%1]", "[::ffff:127.0.0.1%lo]"]
W03 += ["[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]"]
W03 += ["[2001:0:7f00:1::]", "[::ffff:127.127.127.127]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]"]
W03 += ["[::FFFF:7F00:0001]", "[::ffff:0:127.0.0.1]", "[ff02::1]"]

HOSTS = [*W01, *RADIXES, *W02, *W03]
URLS = [f"http://{host}:{{port}}/" for host in HOSTS]

W09 = [
    "http://user:pw@127.0.0.1:{port}/", "http://good.example@127.0.0.1:{port}/", "http://@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@good.example/", "http://good.example\\@127.0.0.1:{port}/",
    "http://good.example#@127.0.0.1:{port}/", "http://good.example?@127.0.0.1:{port}/",
    "http://good.example%40127.0.0.1:{port}/", "http://good.example:80@127.0.0.1:{port}/",
    "http://127.0.0.\t1:{port}/", "http://127.0.0.1\n:{port}/", "http://127.0\r\n.0.1:{port}/",
    "\thttp://127.0.0.1:{port}/", " http://127.0.0.1:{port}/", "http://127.0.0.1 :{port}/",
    "http://127.0.0.1:{port} @good.example/", "http://127.0.0.1:{port}\x00.good.example/",
    "http://good.example\x00@127.0.0.1:{port}/", "http://[::1]:{port}\\.good.example/",
    "http:\\\\127.0.0.1:{port}\\", "http:/127.0.0.1:{port}/", "http:127.0.0.1:{port}/",
    "///127.0.0.1:{port}/", "http:///127.0.0.1:{port}/", "http://%31%32%37.0.0.1:{port}/", "http://127%2E0%2E0%2E1:{port}/",
    "HTTP://127.0.0.1:{port}/", "hTtP://LOCALHOST:{port}/", "http://127.0.0.1:0{port}/", "http://;127.0.0.1:{port}/",
    "http://127.0.0.1,good.example:{port}/", "http://good.example&@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}:80/", "http://[127.0.0.1]:{port}/", "http://[::1]:{port}]/", "http://::1:{port}/",
    "file://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/", "gopher://127.0.0.1:{port}/_GET", "ws://127.0.0.1:{port}/",
    "dict://127.0.0.1:{port}/", "unix://127.0.0.1:{port}/", "data:text/html,x", "file:///etc/passwd", "", "http://",
    "http://" + "1" * 9000, "http://127.0.0.1:{port}/\ud800", "http://\ud800:{port}/",
]  # fmt: skip


async def test_w01_w02_w03_w09_no_spelling_of_a_private_address_is_reached(names: Names, canary: Canary):
    names.table = {"good.example": [["127.0.0.1"]]}
    urls = [url.replace("{port}", str(canary.port)) for url in (*URLS, *W09)]
    assert len(urls) >= 200
    for url in urls:
        response = await load_web(url)
        assert not response.is_success, url
        assert canary.hits == 0, url


async def test_w01_the_spellings_would_reach_it_without_the_guard(names: Names, canary: Canary):
    for url in URLS:
        await load_web(url.replace("{port}", str(canary.port)), timeout=0.2, allow_private=True)
    assert canary.hits >= 80


async def test_w09_what_two_readers_could_read_as_two_hosts_is_refused_in_any_case(
    names: Names, canary: Canary
):
    names.table = {"good.example": [["127.0.0.1"]]}
    odd = [url.replace("{port}", str(canary.port)) for url in W09 if set(url) & set("@\\%\t\r\n\0 ")]
    assert len(odd) > 20
    for url in odd:
        response = await load_web(url, allow_private=True)
        assert not response.is_success, url
        assert canary.hits == 0, url
        assert "pw" not in response.content


@pytest.mark.parametrize(
    "host", ["good.example\\x", "[fe80::1%lo]", "[fe80::1%25lo]", "a b", "%31.1", "a\u200bb"]
)
async def test_w09_a_host_of_characters_that_no_host_has_is_refused_unasked(names: Names, host: str):
    response = await load_web(f"http://{host}/", allow_private=True)
    assert "characters that no host name has" in response.content
    assert names.asked == []


@pytest.mark.parametrize("port", [22, 25, 6, 111, 445])
async def test_w01_ports_that_are_not_the_webs_are_refused(port: int):
    assert "is not one of the web's" in (await load_web(f"http://example.org:{port}/")).content


# -- addresses --

NEVER = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254 168.63.129.16
169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1
198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::ffff:8.8.8.8 ::ffff:127.0.0.1 ::8.8.8.8 64:ff9b::a00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808 100::1
2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:808:808::1 3fff::1 4000::1 5f00::1 fc00::1
fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 2606:4700:4700::1111%eth0 localhost 1 127.1
""".split()
ALWAYS = (
    "8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.0 172.32.0.1 169.253.1.1 2606:4700:4700::1111 64:ff9b::808:808"
)


@pytest.mark.parametrize("address", ["", *NEVER])
def test_w03_an_address_that_is_not_public_is_refused(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ALWAYS.split())
def test_w03_a_public_address_is_allowed(address: str):
    assert is_public(address)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str))
def test_w03_what_is_public_is_what_python_calls_global(address: str):
    parsed = ip_address(address)
    if is_public(address):
        assert parsed.is_global
        assert not parsed.is_multicast
        assert not parsed.is_link_local


# -- names and redirections --


async def test_w01_a_name_that_changes_its_address_is_connected_to_as_it_was_checked(
    names: Names, canary: Canary, public: str
):
    async with Site(Reply(200, {"Content-Type": "text/plain"}, b"hello")) as site:
        names.table["rebind.example"] = [[public], ["127.0.0.1"]]
        response = await load_web(f"http://rebind.example:{site.port}/")
        assert response.content == {"raw": b"hello", "text": "hello"}
        assert site.requests[0].headers["host"] == f"rebind.example:{site.port}"
    assert names.asked == ["rebind.example"]


async def test_w01_a_name_that_changes_its_address_between_redirections_is_not_followed(
    names: Names, canary: Canary, public: str
):
    async with Site(
        lambda request: Reply(302, {"Location": f"http://rebind.example:{canary.port}/"})
    ) as site:
        names.table["rebind.example"] = [[public], ["127.0.0.1"]]
        response = await load_web(f"http://rebind.example:{site.port}/")
    assert "not on the public internet" in response.content
    assert names.asked == ["rebind.example", "rebind.example"]
    assert canary.hits == 0


@pytest.mark.parametrize(
    "addresses", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "10.0.0.1"], []]
)
async def test_w01_a_name_with_any_private_address_is_refused(
    names: Names, public: str, addresses: list[str]
):
    async with Site(Reply(200)) as site:
        names.table["mixed.example"] = [addresses]
        assert not (await load_web(f"http://mixed.example:{site.port}/")).is_success
        assert site.total_connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_w01_redirections_to_private_addresses_are_not_followed(
    names: Names, canary: Canary, public: str, status: int
):
    targets = [
        *URLS[:24],
        *URLS[-10:],
        *W09,
        "//127.0.0.1:{port}/",
        "//localhost:{port}",
        "\\\\127.0.0.1:{port}/",
    ]
    locations = [each.replace("{port}", str(canary.port)) for each in targets]
    locations = [
        each.encode().decode("latin-1") for each in locations if each.isprintable() and len(each) < 8000
    ]
    remaining = iter(locations)
    async with Site(lambda request: Reply(status, {"Location": next(remaining)})) as site:
        for location in locations:
            assert not (await load_web(f"http://{public}:{site.port}/")).is_success, location
            assert canary.hits == 0, location


async def test_w01_a_redirection_among_public_pages_is_followed(names: Names, public: str):
    def answer(request: Any) -> Reply:
        if request.path == "/a":
            return Reply(302, {"Location": "../b?c=ü".encode().decode("latin-1")})
        return Reply(200, {"Content-Type": "text/plain"}, request.path.encode())

    async with Site(answer) as site:
        names.table["page.example"] = [[public]]
        response = await load_web(f"http://page.example:{site.port}/a")
    assert response.content["text"] == "/b"


async def test_w01_more_than_five_redirections_are_given_up(public: str):
    async with Site(Reply(302, {"Location": "/"})) as site:
        response = await load_web(f"http://{public}:{site.port}/")
    assert "more than 5 redirections" in response.content
    assert len(site.requests) == 6


async def test_w15_cookies_challenges_and_refresh_are_ignored(names: Names, canary: Canary, public: str):
    refresh = f"0; url=http://127.0.0.1:{canary.port}/"

    def answer(request: Any) -> Reply:
        headers = {"Set-Cookie": "id=1; Path=/", "Refresh": refresh, "WWW-Authenticate": 'Basic realm="x"'}
        if request.path == "/go":
            return Reply(302, {**headers, "Location": "/page"})
        return Reply(
            401 if request.path == "/locked" else 200, {**headers, "Content-Type": "text/plain"}, b"x"
        )

    async with Site(answer) as site:
        for path in ("/go", "/locked", "/page"):
            await load_web(f"http://{public}:{site.port}{path}")
    assert [each.path for each in site.requests] == ["/go", "/page", "/locked", "/page"]
    for each in site.requests:
        assert not {"cookie", "authorization", "referer"} & each.headers.keys()
    assert canary.hits == 0


async def test_w15_proxies_and_netrc_of_the_environment_have_no_part(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, canary: Canary, public: str
):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    (tmp_path / "netrc").write_text(f"machine {public} login me password secret-0123456789\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with Site(Reply(200, {"Content-Type": "text/plain"}, b"x")) as site:
        assert (await load_web(f"http://{public}:{site.port}/")).is_success
    assert "authorization" not in site.requests[0].headers
    assert canary.hits == 0


# -- TLS --


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(_http, "ssl_context", lambda verify: context)
    return authority


@pytest.mark.parametrize(("certified", "is_good"), [("page.example", True), ("other.example", False)])
async def test_w01_the_certificate_is_that_of_the_name_and_not_of_the_address(
    names: Names, public: str, authority: trustme.CA, certified: str, is_good: bool
):
    heard: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(context)
    context.sni_callback = lambda sock, name, given: heard.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi")
        await reader.read()
        writer.close()

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(serve, public, 0, ssl=context))
        port = server.sockets[0].getsockname()[1]
        names.table["page.example"] = [[public]]
        response = await load_web(f"https://page.example:{port}/")
    assert response.is_success is is_good
    assert heard == ["page.example"]
    assert is_good or "certificate" in response.content


# -- the same guard for images --


async def test_r47_an_image_in_a_message_is_not_had_from_a_private_address(canary: Canary):
    with pytest.raises(ValueError, match="not on the public internet"):
        await load_media(f"http://127.0.0.1:{canary.port}/a.png")
    with pytest.raises(ConnectionError, match="not on the public internet"):
        await fetch(f"http://localhost:{canary.port}/a.png")
    assert canary.hits == 0
