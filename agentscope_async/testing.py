"""For your own tests: fail one that leaves turns, tasks or runtimes behind.

Installed as a pytest plugin; ask for the fixture, or for a whole module::

    pytestmark = pytest.mark.usefixtures("no_leaks")
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["find_leaks", "no_leaks"]


@pytest.fixture
def no_leaks() -> None:
    """Fail the test if, when it ends, it has left behind what was not there when it began.

    What counts: an open turn, an unfinished task, an open Runtime.
    """


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Look before and after a test that asks for ``no_leaks``.

    Around the call itself: what runs the event loop cancels left tasks when it is torn down.
    """
    if "no_leaks" not in pyfuncitem.fixturenames:
        return (yield)
    before = {id(each) for each, _ in _alive()}
    outcome = yield
    leaks = find_leaks(before)
    if leaks:
        pytest.fail("The test left behind:\n" + "\n".join(f"  - {leak}" for leak in leaks), pytrace=False)
    return outcome


def find_leaks(known: set[int] | None = None) -> list[str]:
    """Return a line for each open turn, unfinished task and open runtime whose id is not ``known``."""
    gc.collect()
    return [text for each, text in _alive() if known is None or id(each) not in known]


def _alive() -> Iterator[tuple[object, str]]:
    from . import _context
    from ._turn import Turn

    for runtime in list(_context.open_runtimes):
        yield runtime, f"an open runtime: {runtime!r}; leave it, `async with` does"
    for each in gc.get_objects():
        if type(each) is asyncio.Task or isinstance(each, asyncio.Task):
            if not each.done() and not _is_current(each):
                yield each, f"an unfinished task: {each.get_name()}: {each.get_coro()!r}; await or cancel it"
        elif isinstance(each, Turn):
            task = getattr(each, "task", None)  # a turn just being made has none yet
            if task is not None and not _is_current(task):
                yield each, f"an open turn of agent {each.agent.name!r}"


def _is_current(task: asyncio.Task[object]) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        return False
