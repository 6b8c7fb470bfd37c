"""Images of DashScope's are made by tasks: started, asked after until they have ended, and read.

As dashscope 2.0.2 does it (``client/base_api.py``, ``BaseAsyncApi.wait``), but not without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..logging import get_logger
from ._call import Call
from ._dashscope_wire import Host, output_of, problem_in
from ._problem import Problem
from .base import ModelResponse

if TYPE_CHECKING:
    from ..message import Usage

__all__ = ["Creation", "Task", "pace", "parse_image_response", "parse_task"]

UNDER_WAY = ("PENDING", "RUNNING", "SUSPENDED")
CALL_OFF_S = 2.0
"""How long a cancelled call may take to cancel its task."""


class Creation(Call):
    """The call that starts a task; counted and recorded once the task has succeeded."""

    __slots__ = ()

    def account(self, usage: Usage, raw: Any) -> None:
        """Do nothing yet."""

    def conclude(self, usage: Usage, raw: Any) -> None:
        """Count and record the whole, with the task's last answer."""
        super().account(usage, raw)

    def failure(self, problem: Problem) -> ModelError:
        """Return the error for a task that failed."""
        return self._error(problem)


class Task:
    """A task that has been started.

    Attributes:
        id: its name at DashScope.
        status: what was heard of it last.
    """

    def __init__(self, creation: Creation, host: Host, body: Any) -> None:
        """Take what the answer to its creation says."""
        self.id, self.status = parse_task(body)
        self._creation = creation
        self._host = host
        self._body = body

    async def ended(self, limit_s: float | None, *, since: float) -> Any:
        """Return the last answer about the task, whatever its end.

        Gives up ``limit_s`` seconds after ``since``, a time of the event loop; None: never.

        When nobody waits for it any more, a task that has not begun is cancelled, if that
        can be done in a moment.

        Raises:
            ModelTimeout: it goes on for longer.
            ModelError: DashScope could not be asked.
        """
        try:
            async with asyncio.timeout_at(None if limit_s is None else since + limit_s):
                return await self._poll()
        except ModelError:
            raise
        except TimeoutError as error:
            await self._call_off()
            text = f"the task {self.id} was still {self.status} after {limit_s:g} s"
            raise self._creation.failure(Problem("timeout", text, retryable=False)) from error
        except asyncio.CancelledError:
            await self._call_off()
            raise

    async def _poll(self) -> Any:
        waits = pace()
        while self.status in UNDER_WAY:
            if await self._ask():
                await asyncio.sleep(next(waits))
        return self._body

    async def _ask(self) -> bool:
        """Hear how it is going; True while it goes on."""
        try:
            self._body = await Call(self._creation.model, self._host.get(f"/tasks/{self.id}")).body()
            self.status = parse_task(self._body)[1]
        except ModelError as error:
            if error.status not in (503, 504):  # the gateway's trouble, not the task's
                raise
        except Problem as problem:
            raise self._creation.failure(problem) from problem
        return self.status in UNDER_WAY

    async def _call_off(self) -> None:
        if self.status != "PENDING":  # DashScope cancels no others
            return
        from anyio import move_on_after

        request = self._host.post(f"/tasks/{self.id}/cancel", {})
        # Shielded, for a cancel scope of anyio would end every further wait at once.
        with move_on_after(CALL_OFF_S, shield=True), suppress(Exception):  # it is but a courtesy
            answer = await self._creation.model.carrier.send(request)
            await answer.aclose()


def pace() -> Iterator[float]:
    """Yield how long to wait between questions, seconds: 1, doubled at every third up to 5."""
    wait_s, asked = 1.0, 0
    while True:
        asked += 1
        if asked % 3 == 0:
            wait_s = min(wait_s * 2, 5.0)
        yield wait_s


def parse_task(body: Any) -> tuple[str, str]:
    """Return a task's id and status.

    Raises:
        Problem: it is an error in disguise, or names no task.
    """
    output = output_of(body)
    task_id, status = output.get("task_id"), output.get("task_status")
    if not isinstance(task_id, str) or not task_id or not isinstance(status, str):
        raise Problem("bad_response", "the answer names no task", raw=body)
    return task_id, status


def parse_image_response(body: Any) -> ModelResponse:
    """Return the images of a task that has ended; those that failed are left out, with a warning.

    Raises:
        Problem: it has no images.
    """
    output = output_of(body)
    match output.get("task_status"):
        case "SUCCEEDED":
            return ModelResponse(image_urls=_urls(output, body), raw=body, request_id=body.get("request_id"))
        case "FAILED":
            raise problem_in({"request_id": body.get("request_id"), **output}, 200)
        case "CANCELED":
            raise Problem("conflict", "the task was cancelled by somebody else", retryable=False, raw=body)
        case "UNKNOWN":
            raise Problem("not_found", "DashScope knows no such task, or no more", raw=body)
    raise Problem("bad_response", f"a task cannot end as {output.get('task_status')!r}", raw=body)


def _urls(output: dict[str, Any], body: Any) -> list[str]:
    rows = output.get("results") or []
    urls = [row["url"] for row in rows if row.get("url")]
    failed = [row for row in rows if not row.get("url")]
    if not urls:
        raise (
            problem_in(failed[0], 200) if failed else Problem("bad_response", "there are no images", raw=body)
        )
    if failed:
        reason = problem_in(failed[0], 200)
        get_logger().warning(
            "images_failed", failed=len(failed), made=len(urls), code=reason.code, reason=reason.message
        )
    return urls
