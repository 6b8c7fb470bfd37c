"""Several models, asked in order until one answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import _context
from ..errors import BadRequest, ConfigError, ContentFiltered, ContextTooLong, ModelError
from ..logging import brief, get_logger
from .base import TOOL_CALLING, Messages, ModelResponse, ModelWrapperBase, flatten

if TYPE_CHECKING:
    from ..message import Msg, Speech

__all__ = ["FallbackModel"]

FallbackOn: TypeAlias = Callable[[ModelError], bool]
"""Says whether the next model is to be asked after this error."""


def is_worth_another(error: ModelError) -> bool:
    """Return whether another model may do better: always, unless the request itself is refused.

    One that is too long for this model may fit the next.
    """
    if isinstance(error, ContextTooLong):
        return True
    return not isinstance(error, (BadRequest, ContentFiltered))


class FallbackModel(ModelWrapperBase):
    """Ask the first model; when it fails for good, the next.

    Each model makes its own retries first. A stream is handed over to the next model only
    while nothing has been heard; after that its failure is raised. A budget that is used
    up ends the call: it holds for all of them.
    """

    model_type = "fallback"

    def __init__(
        self,
        models: Sequence[ModelWrapperBase | str],
        config_name: str | None = None,
        *,
        fallback_on: FallbackOn = is_worth_another,
    ) -> None:
        """Take the models, in order: wrappers, config names or ``"provider:model"`` strings.

        Raises:
            ConfigError: there is none, or one is not a model.
        """
        if isinstance(models, str) or not models:
            raise ConfigError("A FallbackModel needs a list of at least one model.")
        from .config import find_model

        self.models = [find_model(model, _context.find_runtime()) for model in models]
        super().__init__(config_name, model_name=" | ".join(model.model_name for model in self.models))
        self._fallback_on = fallback_on
        # What all of them can: the one that answers in the end is not known before.
        self.tool_calling = max((model.tool_calling for model in self.models), key=TOOL_CALLING.index)

    def export_config(self) -> dict[str, Any]:
        """Return the configuration, with the names or configurations of all models in it.

        Raises:
            ConfigError: one has none, or ``fallback_on`` was given.
        """
        from .config import setting_of

        if self._fallback_on is not is_worth_another:
            raise ConfigError("A FallbackModel with a fallback_on= of its own has no configuration.")
        models = [setting_of(model, _context.find_runtime()) for model in self.models]
        name = {} if self.config_name is None else {"config_name": self.config_name}
        return {"model_type": self.model_type, **name, "models": models}

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> Messages:
        """Keep the messages as they are: each model formats them in its own way when it is asked."""
        flat: list[Msg] = []
        flatten(msgs, flat)
        return _Unformatted(flat, me)

    async def aclose(self) -> None:
        """Give back what the models hold on to."""
        for model in self.models:
            await model.aclose()

    def __repr__(self) -> str:
        return f"FallbackModel({self.models!r})"

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        failures: list[ModelError] = []
        for model in self.models:
            try:
                return await model(_for(model, messages), **args)
            except ModelError as error:
                self._report(model, error, failures)
        raise AssertionError("the last failure is raised")

    async def _stream(
        self, messages: Messages, args: dict[str, Any]
    ) -> AsyncGenerator[Speech | ModelResponse, None]:
        failures: list[ModelError] = []
        for model in self.models:
            was_heard = False
            try:
                async with model.stream(_for(model, messages), **args) as stream:
                    async for speech in stream:
                        was_heard = True
                        yield speech
                    yield stream.response
                return
            except ModelError as error:
                if was_heard:
                    raise
                self._report(model, error, failures)

    def _report(self, model: ModelWrapperBase, error: ModelError, failures: list[ModelError]) -> None:
        """Log that the next model is asked; raise when none is to be, with what failed before as notes."""
        if len(failures) + 1 == len(self.models) or not self._fallback_on(error):
            for failure in failures:
                error.add_note(f"asked before: {brief(failure)}")
            raise error
        failures.append(error)
        get_logger().warning("model_failed", model=model.model_name, error=brief(error), next_is_asked=True)


class _Unformatted:
    """Messages whose model is not known yet."""

    def __init__(self, msgs: list[Msg], me: str | None) -> None:
        self.msgs = msgs
        self.me = me


def _for(model: ModelWrapperBase, messages: Messages) -> Messages:
    return model.format(messages.msgs, me=messages.me) if isinstance(messages, _Unformatted) else messages
