"""Tasks that are waited for to their end: several at once, or one that must not be left half-way."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable

T = TypeVar("T")


async def run_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all in tasks of their own and return their results, in order.

    The first failure, or a cancellation, cancels the rest; it is raised, as it is, when
    all have ended.
    """
    tasks = [asyncio.create_task(work) for work in works]
    if not tasks:
        return []
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await cancel_all(tasks)
    # Asking each task for its error also tells asyncio that none went unnoticed.
    failed = [task for task in tasks if not task.cancelled() and task.exception() is not None]
    for task in sorted(failed, key=lambda task: task not in done):
        raise task.exception() or AssertionError
    return [task.result() for task in tasks]


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel those still running and wait until they have ended, also while being cancelled."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while running:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
        running = [task for task in running if not task.done()]
    if cancelled is not None:
        raise cancelled


async def until_ended(task: asyncio.Future[Any]) -> None:
    """Return when the task has ended, whatever came of it; a cancellation of ours is raised only then.

    For what ends by itself, and soon.
    """
    from anyio import CancelScope  # within a scope of anyio's, a cancellation would come again each moment

    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if not task.cancelled():
        task.exception()  # tells asyncio that it did not go unnoticed
    if cancelled is not None:
        raise cancelled


async def see_through(work: Awaitable[T]) -> T:
    """Run ``work`` to its end, also when we are cancelled meanwhile, and only then let that go on.

    For what ends by itself, and soon, and must not be left half-way.
    """
    task = asyncio.ensure_future(work)
    await until_ended(task)
    return task.result()


async def finish(value: Any) -> Any:
    """Return what a plain or an async function of the user's gave."""
    return await value if inspect.isawaitable(value) else value
