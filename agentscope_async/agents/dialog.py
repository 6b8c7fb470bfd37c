"""An agent that talks."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import AgentScopeWarning, ConfigError
from ..message import Msg
from ._taint import sources, tainted
from .base import AgentBase

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ..models.base import Messages, ModelResponse, ModelWrapperBase

__all__ = ["DialogAgent"]


class DialogAgent(AgentBase):
    """Answer with what a model makes of the system prompt and the conversation so far.

    While somebody streams the turn, the model is streamed too. With an ``output_type``
    the model is asked for that object, and ``reply.parsed`` holds it, validated.
    """

    __slots__ = ("output_type",)

    def __init__(
        self,
        name: str,
        sys_prompt: str | None = None,
        model: ModelWrapperBase | dict[str, Any] | str | None = None,
        *,
        output_type: type[BaseModel] | None = None,
        prompt_type: Any = None,
        **options: Any,
    ) -> None:
        """Make an agent; see :class:`AgentBase` for the other arguments.

        Args:
            name: the agent's name.
            sys_prompt: sent as the first message of every prompt, when given.
            model: a wrapper, a configuration of one or its name, or ``"provider:model"``.
            output_type: a pydantic model class that every answer must fit.
            prompt_type: has no effect; accepted, with a warning, as in AgentScope v0.0.2.
            **options: the remaining keywords of AgentBase.

        Raises:
            ConfigError: there is no model, or an option is not valid.
        """
        super().__init__(name, sys_prompt, model, **options)
        if self.model is None:
            raise ConfigError(
                f"{type(self).__name__} {name!r} needs a model, for example model='local:smollm2'."
            )
        if prompt_type is not None:
            warnings.warn("prompt_type has no effect any more.", AgentScopeWarning, stacklevel=2)
        if output_type is not None and not hasattr(output_type, "model_validate_json"):
            raise ConfigError(f"output_type must be a pydantic model class, got {output_type!r}")
        self.output_type = output_type

    async def reply(self, x: Any = None) -> Msg:
        """Remember ``x``, ask the model, say and remember its answer.

        Raises:
            ModelError: the model could not be asked, or gave nothing that fits ``output_type``.
        """
        self._remember(x)
        history = self._history(x)
        response = await self._respond(self._prompt(history))
        extra = tainted(sources(history))
        if self.output_type is not None:
            extra["parsed"] = response.raw
        text = response.refusal if response.text is None else response.text
        msg = Msg(self.name, text or "", "assistant", usage=response.usage, **extra)
        await self.speak(msg)
        self._remember(msg)
        return msg

    def _prompt(self, history: list[Any]) -> Messages:
        """Return the system prompt and the conversation as the model takes them."""
        system = Msg("system", self.sys_prompt, "system") if self.sys_prompt else None
        return self.model.format(system, history, me=self.name)

    def _history(self, x: Any) -> list[Any]:
        """Return what is remembered or, without a memory, just ``x``."""
        memory = self.memory
        return memory.get_memory() if memory is not None else _as_list(x)

    async def _respond(self, prompt: Messages) -> ModelResponse:
        model: ModelWrapperBase = self.model
        if self.output_type is not None:
            return await model(prompt, parse_func=self._validate, response_format=self.output_type)
        if not self.is_heard:
            return await model(prompt)
        async with model.stream(prompt) as stream:
            async for delta in stream:
                await self.speak(delta)
        return stream.response

    def _validate(self, response: ModelResponse) -> ModelResponse:
        assert self.output_type is not None
        return replace(response, raw=self.output_type.model_validate_json(response.text or ""))


def _as_list(x: Any) -> list[Any]:
    if x is None:
        return []
    return list(x) if isinstance(x, (list, tuple)) else [x]
