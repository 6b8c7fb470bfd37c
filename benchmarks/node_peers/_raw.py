"""What the raw carriers share: one JSON object a message, matched to its question by an id."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from agentscope_async.message import Msg

from . import agent_names


class Form(Protocol):
    """How a question and its answer are put into JSON."""

    @staticmethod
    def put(name: str, text: str, role: str) -> Any:
        """Return what says a text."""

    @staticmethod
    def take(said: Any) -> str:
        """Return the text that is said."""


class Messages:
    """Every text in a ``Msg``, as agents say it: with an id and a time, built by one, read by the other."""

    @staticmethod
    def put(name: str, text: str, role: str) -> Any:
        return Msg(name, text, role=role).to_dict()

    @staticmethod
    def take(said: Any) -> str:
        return str(Msg.from_dict(said).content)


class Bare:
    """Who speaks and what is said, and nothing that an agent would need besides."""

    @staticmethod
    def put(name: str, text: str, role: str) -> Any:
        return {"name": name, "role": role, "content": text}

    @staticmethod
    def take(said: Any) -> str:
        return str(said["content"])


def answerer(form: type[Form]) -> Callable[[bytes], bytes]:
    """Return what lets the agent that is asked answer."""
    put, take = form.put, form.take
    agents = {name: _echo(name, put, take) for name in agent_names()}

    def answer_to(question: bytes) -> bytes:
        asked = orjson.loads(question)
        return orjson.dumps({"id": asked["id"], "msg": agents[asked["to"]](asked["msg"])})

    return answer_to


def _echo(name: str, put: Callable[[str, str, str], Any], take: Callable[[Any], str]) -> Callable[[Any], Any]:
    return lambda said: put(name, take(said), "assistant")


class Pending:
    """The questions of one connection that wait for their answers."""

    def __init__(self, form: type[Form]) -> None:
        self._put, self._take = form.put, form.take
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[str]] = {}

    def question(self, agent: str, text: str) -> tuple[bytes, asyncio.Future[str]]:
        """Return a question as bytes, and what will be the text of its answer."""
        number = next(self._ids)
        answer = self._answers[number] = self._loop.create_future()
        return orjson.dumps({"id": number, "to": agent, "msg": self._put("user", text, "user")}), answer

    def answered(self, data: bytes) -> None:
        """Hand an answer to whoever asked."""
        answer = orjson.loads(data)
        self._answers.pop(answer["id"]).set_result(self._take(answer["msg"]))
