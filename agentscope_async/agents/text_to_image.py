"""An agent that draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..message import Msg
from ._taint import sources, tainted
from .base import AgentBase

if TYPE_CHECKING:
    from ..models.base import ModelWrapperBase

__all__ = ["TextToImageAgent"]


class TextToImageAgent(AgentBase):
    """Answer with pictures of what was asked for: ``reply.url`` is the list of their URLs."""

    __slots__ = ()

    def __init__(
        self, name: str, model: ModelWrapperBase | dict[str, Any] | str | None = None, **options: Any
    ) -> None:
        """Make an agent; see :class:`AgentBase` for the other arguments.

        Raises:
            ConfigError: there is no model.
        """
        super().__init__(name, None, model, **options)
        if self.model is None:
            raise ConfigError(f"TextToImageAgent {name!r} needs a model that makes images.")

    def export_config(self) -> dict[str, Any]:
        """Return the settings; there is no system prompt among them."""
        config = super().export_config()
        del config["sys_prompt"]  # AgentBase's, and set by this class: no argument of it
        return config

    async def reply(self, x: Any = None) -> Msg:
        """Draw ``x`` or, without it, what was remembered last.

        Raises:
            ValueError: there is neither.
            ModelError: the model could not be asked.
        """
        self._remember(x)
        memory = self.memory
        remembered: list[Any] = (
            memory.get_memory(recent_n=1) if x is None and memory is not None and memory.size() else []
        )
        wanted = remembered[-1] if remembered else x[-1] if isinstance(x, list) and x else x
        if not wanted:
            raise ValueError(f"Agent {self.name!r} has nothing to draw: give it a message.")
        response = await self.model(wanted.text)
        origins = tainted(sources([wanted]))
        msg = Msg(self.name, "This is the generated image ", "assistant", url=response.image_urls, **origins)
        await self.speak(msg)
        self._remember(msg)
        return msg
