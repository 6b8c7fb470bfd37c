"""An agent whose model answers with an object."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from .._lenient import read_object
from ..errors import BadResponse
from ..message.msg import TAKEN_FIELDS, Msg
from ._taint import sources, tainted
from .dialog import DialogAgent

if TYPE_CHECKING:
    from ..models.base import Messages, ModelResponse, ModelWrapperBase, ParseFunc

__all__ = ["DictDialogAgent", "default_response", "parse_dict"]


def parse_dict(response: ModelResponse) -> ModelResponse:
    """Return the response with the object its text holds in ``raw``.

    Takes JSON, JSON in a fenced block, and an object in Python's notation (single
    quotes); with the package json-repair installed (extra ``json``) also broken JSON.

    Raises:
        BadResponse: the text holds no object.
    """
    text = (response.text or "").strip()
    value = read_object(text)
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
        history = self._history(x)
        response = await self._respond(self._prompt(history))
        raw = response.raw
        is_speech = isinstance(raw, dict) and "speak" in raw
        content, fields = (raw["speak"], _as_fields(raw)) if is_speech else (raw, {})
        fields.update(tainted(sources(history)))
        msg = Msg(self.name, content, "assistant", usage=response.usage, **fields)
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
