"""A server of prepared answers, for what no recorded case has. Imported as ``models.scripted``."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from recorder import Recorder, Reply, Request

HANG = object()
"""In place of an answer: none ever."""


class Scripted(Recorder):
    """Gives its ``answers`` in order, the last one again and again if it ``is_last_repeated``.

    An answer is a Reply, HANG, or what is to be sent as JSON.
    """

    def __init__(self, answers: tuple[Any, ...], *, is_last_repeated: bool = False) -> None:
        super().__init__(self._answer)
        self.answers = list(answers)
        self._is_last_repeated = is_last_repeated
        self._news = asyncio.Condition()

    async def _answer(self, request: Request) -> Reply:
        async with self._news:
            self._news.notify_all()
        is_kept = len(self.answers) == 1 and self._is_last_repeated
        answer = self.answers[0] if is_kept else self.answers.pop(0)
        if answer is HANG:
            await asyncio.Event().wait()
        return answer if isinstance(answer, Reply) else Reply(200, {}, orjson.dumps(answer))

    async def asked(self, times: int) -> None:
        """Wait until that many requests have come."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= times)


def serve(*answers: Any, is_last_repeated: bool = False) -> Scripted:
    """Return a server for ``async with``."""
    return Scripted(answers, is_last_repeated=is_last_repeated)
