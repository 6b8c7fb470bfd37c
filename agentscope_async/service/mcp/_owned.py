"""Waiting for a task that ends by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

__all__ = ["until_ended"]


async def until_ended(task: asyncio.Task[Any]) -> None:
    """Return when the task has ended, whatever came of it; a cancellation is raised only then."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
