"""Connections to exactly the addresses that were looked at.

Whoever looks a name up, finds it harmless and hands the *name* on can be given another address the
second time (DNS rebinding). Here the name is resolved once, and what was checked is connected to; the
``Host`` header, SNI and the certificate stay those of the name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

from ._web_address import is_public

__all__ = ["PinnedNetwork"]

MAX_ADDRESSES = 4
"""How many addresses of a host are tried, in the resolver's order."""


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore, to hosts all of whose addresses are allowed.

    One address that is not allowed condemns the host: whoever answers with a public and a private
    one is trying something.

    A lookup that was cancelled ends in its thread, when the system's resolver gives up.
    """

    def __init__(self, is_allowed: Callable[[str], bool] = is_public) -> None:
        self._is_allowed = is_allowed
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that answers.

        Raises:
            ConnectionError: the host is unknown, or has an address that is not allowed.
            httpcore.ConnectError, httpcore.ConnectTimeout: none of them answered.
        """
        addresses = await self._checked(host, port)
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                return await self._inner.connect_tcp(
                    address, port, None if timeout is None else timeout / len(addresses), local_address
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise AssertionError("a host has at least one address")

    async def _checked(self, host: str, port: int) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectionError(f"no address is known of the host {host!r}") from error
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        refused = [address for address in addresses if not self._is_allowed(address)]
        if refused or not addresses:
            raise ConnectionError(f"the host {host!r} is not on the public internet; only that is allowed")
        return addresses[:MAX_ADDRESSES]

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
