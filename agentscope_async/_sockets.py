"""Sockets that listen, for servers of ours that do not open them themselves."""

from __future__ import annotations

import socket

__all__ = ["listening_socket"]


def listening_socket(host: str, port: int, *, backlog: int) -> socket.socket:
    """Return a TCP socket that listens at an IP address, or at a host of IPv4's; port 0: a free one.

    Unlike that of ``socket.create_server`` it says that it is of TCP. asyncio looks for that, and
    else leaves Nagle's algorithm on: an answer sent in two pieces then takes 40 ms longer.

    Raises:
        OSError: the address is taken, or none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening
