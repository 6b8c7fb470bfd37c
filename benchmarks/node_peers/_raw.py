"""What the raw carriers share: one JSON object a message, matched to its question by an id."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import orjson

from . import agent_names


def answer_to(question: bytes) -> bytes:
    """Let the agent that is asked answer."""
    asked = orjson.loads(question)
    return orjson.dumps({"id": asked["id"], **AGENTS[asked["to"]](asked)})


def _echo(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda asked: {"name": name, "role": "assistant", "content": asked["content"]}


AGENTS = {name: _echo(name) for name in agent_names()}


class Pending:
    """The questions of one connection that wait for their answers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[str]] = {}

    def question(self, agent: str, text: str) -> tuple[bytes, asyncio.Future[str]]:
        """Return a question as bytes, and what will be the text of its answer."""
        number = next(self._ids)
        answer = self._answers[number] = self._loop.create_future()
        asked = {"id": number, "to": agent, "name": "user", "role": "user", "content": text}
        return orjson.dumps(asked), answer

    def answered(self, data: bytes) -> None:
        """Hand an answer to whoever asked."""
        answer = orjson.loads(data)
        self._answers.pop(answer["id"]).set_result(answer["content"])
