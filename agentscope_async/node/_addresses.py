"""Where a node or an agent is: URLs, read and written in one way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ..errors import ConfigError
from ._grammar import is_target

if TYPE_CHECKING:
    import ssl as tls

__all__ = ["Address", "host_and_port", "normal_url", "split_agent_url"]


class Address(NamedTuple):
    """Where a node is, and what it takes to be let in."""

    url: str
    token: str | None = None
    ssl: tls.SSLContext | None = None


def split_agent_url(url: str) -> tuple[str, str]:
    """Return the URL of the node and the key of the agent.

    Raises:
        ConfigError: the URL names no agent.
    """
    base, _, key = url.rpartition("/")
    if "://" not in base or base.endswith(":/") or not is_target(key):
        raise ConfigError(
            f"{url!r} is no URL of an agent: that is ws://host:port/key, and a key is 1 to 64 letters, "
            f"digits, '_', '.' or '-', the first not '_'."
        )
    return base, key


def normal_url(url: str) -> str:
    """Return one spelling for the same node, which is to have one link."""
    scheme, mark, rest = url.rstrip("/").partition("://")
    if rest == "localhost" or rest.startswith("localhost:"):
        rest = "127.0.0.1" + rest.removeprefix("localhost")
    return f"{scheme}{mark}{rest}"


def host_and_port(url: str, is_encrypted: bool) -> tuple[str, int]:
    """Return where a node is to listen.

    Raises:
        ConfigError: it is no URL of ``ws://``, encrypted ``wss://``, with a host and a port.
    """
    expected = "wss" if is_encrypted else "ws"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"listen={url!r} is no URL: {error}.") from None
    if parts.scheme != expected or not parts.hostname or parts.path not in ("", "/"):
        hint = " (with ssl= it is wss)" if is_encrypted else " (wss needs ssl=)"
        raise ConfigError(f"listen= is a URL like {expected}://127.0.0.1:12010{hint}, got {url!r}.")
    if port is None:
        raise ConfigError(f"listen={url!r} has no port. Give one, or 0 for any that is free.")
    return parts.hostname, port
