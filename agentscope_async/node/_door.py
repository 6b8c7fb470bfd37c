"""The rules of a node's door: who may open a connection to it. Does no I/O.

Everything is checked before the first message: the host name and the origin (a browser on this
machine can be made to send requests here), the path and the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from .._redact import remember_secret
from ..errors import ConfigError
from ._grammar import is_name
from .connection import check_token

__all__ = ["Applicant", "Authenticate", "Door", "Refusal", "authenticator", "certified_name"]


@dataclass(frozen=True)
class Applicant:
    """Who asks to be let in."""

    address: str
    token: str | None = field(repr=False)
    certificate: Mapping[str, Any] | None = None
    """What ``ssl.SSLSocket.getpeercert`` tells of the certificate that the context has verified, if any."""


Authenticate = Callable[[Applicant], str | None]
"""Returns the name that the applicant has proven, ``""`` to let it in without one, or None to refuse it."""


def certified_name(applicant: Applicant) -> str | None:
    """Return the common name in the certificate of a dialer: that is to be the name of its node."""
    subject = (applicant.certificate or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 and is_name(names[0]) else None


def authenticator(
    tokens: str | Mapping[str, str] | None, authenticate: Authenticate | None, *, anonymous: bool
) -> Authenticate:
    """Return the one way to let somebody in that was chosen.

    Raises:
        ConfigError: none was chosen, or several, or a token cannot be used.
    """
    if [tokens is not None, authenticate is not None, anonymous].count(True) != 1:
        raise ConfigError(
            "Give exactly one of tokens=, authenticate= and anonymous=True to say who is let in."
        )
    if authenticate is not None:
        return authenticate
    if tokens is None:
        return lambda applicant: ""
    return _Tokens({"": tokens} if isinstance(tokens, str) else tokens)


class _Tokens:
    """Knows each node by its token. Keeps digests, so that nothing here can give a token away."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        for token in tokens.values():
            check_token(token)
            remember_secret(token)
        if len(set(tokens.values())) < len(tokens) or not tokens:
            raise ConfigError("Each node needs a token of its own: tokens= is empty, or two names share one.")
        self._digests = {name: digest_of(token) for name, token in tokens.items()}

    def __call__(self, applicant: Applicant) -> str | None:
        given = digest_of(applicant.token or "")
        found = None
        for name, digest in self._digests.items():  # all of them: the time must not tell which was near
            if hmac.compare_digest(digest, given):
                found = name
        return found


def digest_of(token: str) -> bytes:
    """Return what is kept of a token."""
    return sha256(token.encode(errors="surrogateescape")).digest()


class Refusal(Exception):
    """The request is answered with an HTTP status, and that is all."""

    def __init__(self, status: int, text: str, header: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.header = header

    @property
    def response(self) -> bytes:
        """The whole HTTP answer; says nothing about us but why."""
        body = f"{self.text}\n".encode()
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Connection: close",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
        ]
        if self.header is not None:
            lines.append(self.header)
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, kw_only=True)
class Door:
    """The rules for being let in; does no I/O."""

    path: str
    host: str
    allowed_hosts: frozenset[str] | None
    origins: frozenset[str]
    authenticate: Authenticate = field(repr=False)

    def check_request(self, path: str, headers: Any) -> None:
        """Check what needs no token: host, origin and path.

        Raises:
            Refusal: the request is not for us.
        """
        hosts = headers.get_all("Host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise Refusal(400, "one valid Host header is needed")
        if not self._goes_by(name):
            raise Refusal(421, "this node does not go by that host name")
        if any(origin not in self.origins for origin in headers.get_all("Origin")):
            raise Refusal(403, "web pages may not connect")
        if path.partition("?")[0] != self.path:
            raise Refusal(404, "nothing is here")

    def identify(self, headers: Any, address: str, certificate: Mapping[str, Any] | None) -> str:
        """Return the name that the caller has proven.

        Raises:
            Refusal: the caller is not let in.
        """
        identity = self.authenticate(Applicant(address, bearer_token(headers), certificate))
        if identity is None:
            raise Refusal(401, "a valid token is needed", "WWW-Authenticate: Bearer")
        return identity

    def _goes_by(self, name: str) -> bool:
        if self.allowed_hosts is not None:
            return name in self.allowed_hosts
        return name in ("localhost", self.host) or is_address(name)


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]\\?#]+)(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


def host_name(header: str) -> str | None:
    """Return the name in a Host header, in lower case and without port and brackets; None if malformed."""
    found = _HOST.fullmatch(header)
    return found[1].strip("[]").lower().removesuffix(".") if found else None


def is_address(name: str) -> bool:
    """Whether ``name`` is a plain IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def bearer_token(headers: Any) -> str | None:
    """Return the only bearer token of a request, if it has one."""
    given = headers.get_all("Authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else None


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches ``address``."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
