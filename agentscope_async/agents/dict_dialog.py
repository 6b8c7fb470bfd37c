"""An agent whose model answers with an object."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import BadResponse
from ..message import TAKEN_FIELDS, Msg, freeze
from .dialog import DialogAgent

if TYPE_CHECKING:
    from ..models.base import Messages, ModelResponse, ModelWrapperBase, ParseFunc

__all__ = ["DictDialogAgent", "default_response", "parse_dict"]

MAX_LENIENT = 100_000
"""Characters beyond which an answer that is not JSON is not looked at any further."""

MAX_REPAIR = 4_000
"""The same for json-repair, whose time grows with the square of what it has to repair."""

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


def parse_dict(response: ModelResponse) -> ModelResponse:
    """Return the response with the object its text holds in ``raw``.

    Takes JSON, JSON in a fenced block, and an object in Python's notation (single
    quotes); with the package json-repair installed (extra ``json``) also broken JSON.

    Raises:
        BadResponse: the text holds no object.
    """
    text = (response.text or "").strip()
    fenced = _FENCED.search(text)
    for candidate in (text, fenced.group(1).strip() if fenced else None):
        value = _read_object(candidate) if candidate else None
        if value is not None:
            return replace(response, raw=value)
    raise BadResponse("The answer holds no object.", provider="", model=response.model or "", raw=text)


def default_response(response: ModelResponse) -> ModelResponse:
    """Return the response with its whole text as what is to be spoken."""
    return replace(response, raw={"speak": response.text or ""})


class DictDialogAgent(DialogAgent):
    """Ask the model for an object; its keys become fields of the reply, ``speak`` its content.

    Keys a message has for itself (``name``, ``role``, ``content`` ...) do not overwrite
    these: then the whole object is in ``reply.raw``.
    """

    __slots__ = ("parse_func", "fault_handler", "max_retries")

    def __init__(
        self,
        name: str,
        sys_prompt: str | None = None,
        model: ModelWrapperBase | dict[str, Any] | str | None = None,
        *,
        parse_func: ParseFunc = parse_dict,
        fault_handler: ParseFunc | None = default_response,
        max_retries: int = 3,
        **options: Any,
    ) -> None:
        """Make an agent; see :class:`DialogAgent` for the other arguments.

        Args:
            name: the agent's name.
            sys_prompt: should tell the model which object to answer with.
            model: a wrapper, a configuration of one or its name, or ``"provider:model"``.
            parse_func: makes a response with the object in ``raw`` from the model's, or raises.
            fault_handler: does so when ``parse_func`` failed ``max_retries`` times; None raises instead.
            max_retries: how often the model is asked at most.
            **options: the remaining keywords of DialogAgent.
        """
        super().__init__(name, sys_prompt, model, **options)
        self.parse_func = parse_func
        self.fault_handler = fault_handler
        self.max_retries = max_retries

    async def reply(self, x: Any = None) -> Msg:
        """Remember ``x``, ask the model for an object, say and remember it.

        What is remembered is the object as JSON, so that the model sees its own form again.
        """
        self._remember(x)
        response = await self._respond(self._prompt(x))
        raw = response.raw
        if isinstance(raw, dict) and "speak" in raw:
            msg = Msg(self.name, raw["speak"], "assistant", usage=response.usage, **_as_fields(raw))
        else:
            msg = Msg(self.name, raw, "assistant", usage=response.usage)
        await self.speak(msg)
        self._remember(Msg(self.name, orjson.dumps(raw).decode(), "assistant", id=msg.id))
        return msg

    async def _respond(self, prompt: Messages) -> ModelResponse:
        model: ModelWrapperBase = self.model
        return await model(
            prompt, parse_func=self.parse_func, fault_handler=self.fault_handler, max_retries=self.max_retries
        )


def _as_fields(raw: dict[str, Any]) -> dict[str, Any]:
    fields = {key: raw[key] for key in raw if key not in TAKEN_FIELDS and not key.startswith("__")}
    return fields if len(fields) == len(raw) else {**fields, "raw": raw}


def _read_object(text: str) -> dict[str, Any] | None:
    """Return the object that a text is, or None; always plain JSON values."""
    for read in (orjson.loads, _read_python, _repair):
        try:
            value = orjson.loads(orjson.dumps(read(text)))
            freeze(value, "answer")  # what no message may hold is no answer either
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _read_python(text: str) -> Any:
    return ast.literal_eval(text) if len(text) <= MAX_LENIENT else None


def _repair(text: str) -> Any:
    try:
        import json_repair
    except ImportError:
        return None
    return json_repair.loads(text) if len(text) <= MAX_REPAIR and "{" in text else None
