"""The pools of each event loop: which one takes a request, and when they are closed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .._per_loop import PerLoop
from ._http_connections import Aiohttp, Pool, Stack
from ._http_proxy import proxy_of

if TYPE_CHECKING:
    import ssl

__all__ = ["Route", "close_idle_pools", "has_aiohttp", "in_use", "is_mocked", "loop_pools"]


@dataclass(frozen=True, slots=True)
class Route:
    """How connections to an origin are made; part of the key of their pool."""

    http: str
    verify: ssl.SSLContext | bool
    proxy: str | None = field(repr=False)


class _LoopPools:
    """All pools of one event loop."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, Route], Pool] = {}

    def get(self, origin: str, route: Route) -> Pool:
        http = "httpx" if is_mocked() else route.http
        if http == "auto":
            http = "aiohttp" if has_aiohttp() else "httpx"
        key = (origin, Route(http, route.verify, route.proxy))
        pool = self._pools.get(key)
        if pool is None or pool.is_closed:
            proxy = route.proxy or proxy_of(origin)
            if proxy is not None and proxy.startswith("socks"):  # httpx-aiohttp cannot
                http = "httpx"
            pool = self._pools[key] = (
                Aiohttp(route.verify, proxy) if http == "aiohttp" else Stack(route.verify, proxy)
            )
        return pool

    def all(self) -> list[Pool]:
        return list(self._pools.values())

    async def close(self, *, only_idle: bool) -> None:
        for key, pool in list(self._pools.items()):
            if not (only_idle and pool.in_use):
                del self._pools[key]
                await pool.aclose()


_loops = PerLoop(_LoopPools, lambda pools: pools.close(only_idle=False))


def loop_pools() -> _LoopPools:
    """Return the pools of the running loop; they are closed when it shuts down."""
    return _loops.get()


async def close_idle_pools() -> None:
    """Close the running loop's connections that no call is using; later calls open new ones."""
    pools = _loops.find()
    if pools is not None:
        await pools.close(only_idle=True)


def in_use() -> int:
    """Return how many connections of the running loop belong to a call right now."""
    pools = _loops.find()
    return 0 if pools is None else sum(pool.in_use for pool in pools.all())


@lru_cache(maxsize=1)
def has_aiohttp() -> bool:
    """Whether the extra ``fast`` is installed."""
    return find_spec("httpx_aiohttp") is not None


def is_mocked() -> bool:
    """Whether a respx mock is active: it replaces what httpx uses, and so must we then."""
    respx = sys.modules.get("respx.mocks")
    return respx is not None and any(
        getattr(mocker, "routers", None) for mocker in respx.Mocker.registry.values()
    )
