"""Which addresses of the web may be asked: how a URL is read, and which IP addresses are public."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from ._request import is_http

__all__ = ["MAX_URL_CHARS", "any_address", "is_public", "problem_of"]

MAX_URL_CHARS: Final = 8192
"""A longer URL is refused; servers refuse them too (RFC 9110, section 4.1, asks for 8000)."""

# IANA's special-purpose registries (https://www.iana.org/assignments/iana-ipv4-special-registry and
# .../iana-ipv6-special-registry, 2026-11), written out: what ``is_global`` of ``ipaddress`` knows
# differs between patch releases of Python, and to it multicast is global.
_NEVER_IPV4 = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; 100.100.100.200 is Alibaba Cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform services, reached from its machines only (learn.microsoft.com)
        "169.254.0.0/16",  # link-local; 169.254.169.254 is most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle Cloud's metadata
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
_ONLY_IPV6 = ip_network("2000::/3")
"""What is given out to the world; ::1, v4-mapped, link-local, unique-local and multicast are outside."""

_NEVER_IPV6 = [
    ip_network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",
    )
]
_NAT64 = ip_network("64:ff9b::/96")
"""How hosts with IPv6 alone reach IPv4 (RFC 6052): the last 32 bits are the address that counts."""


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver gives it, belongs to the public internet."""
    if "%" in address:  # a zone of this machine
        return False
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed in _NAT64:
        parsed = IPv4Address(int(parsed) & 0xFFFFFFFF)
    if not parsed.is_global:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NEVER_IPV4)
    return parsed in _ONLY_IPV6 and not any(parsed in network for network in _NEVER_IPV6)


def any_address(address: str) -> bool:
    """Allow every address: for those who were given the right to this machine and its network."""
    return True


_URL = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


def problem_of(url: str, *, allow_private: bool) -> str | None:
    """Return why a URL is not asked for; None: nothing speaks against it so far.

    Where its host is, only its resolver knows: that is looked at when it is connected to. Here
    is refused what two readers could read as two hosts, and what would carry a password.
    """
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS:
        return f"a URL is a text of at most {MAX_URL_CHARS} characters"
    found = _URL.match(url)
    if found is None:
        return "only http:// and https:// addresses can be asked for"
    if any(sign < " " or sign == "\x7f" for sign in url):
        return "it holds a line break, a tab or another control character"
    authority = found.group(1)
    if "@" in authority:
        return "it holds a user or password; addresses with credentials are refused"
    if not authority.isprintable() or set(authority) & set(" \\%"):
        return "its host holds characters that no host name has"
    if not is_http(url):
        return "it is no http address with a host"
    return None if allow_private else _problem_of_port(authority)


def _problem_of_port(authority: str) -> str | None:
    port = re.search(r":([0-9]+)$", authority)
    if port and int(port[1]) < 1024 and int(port[1]) not in (80, 443):
        return f"port {int(port[1])} is not one of the web's: 80, 443 and those from 1024 on are"
    return None
