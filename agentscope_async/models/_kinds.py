"""What wrappers of one kind share, whoever the provider is: embeddings, images."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ._problem import Problem
from .provider import HttpModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._request import HttpRequest
    from .base import ModelResponse

__all__ = ["EmbeddingModel", "ImageModel"]


class TextInput(HttpModel):
    """Takes a text, not a conversation, and answers in one piece."""

    takes_messages = False
    can_stream = False

    def format(self, *msgs: Any, me: str | None = None) -> Any:
        """Refuse: there is no form to bring messages into.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"{type(self).__name__} takes texts and doesn't need to format them.")


class ImageModel(TextInput):
    """Makes images from a text."""

    input_name = "prompt"


class EmbeddingModel(TextInput):
    """Makes a vector of each text."""

    input_name = "texts"

    @abstractmethod
    def wanted_vectors(self, body: Any) -> int:
        """Return how many vectors the answer to this body must have."""

    def complete(self, response: ModelResponse, request: HttpRequest, headers: Mapping[str, str]) -> None:
        """Fill what was left out.

        Raises:
            Problem: there are not as many vectors as texts.
        """
        super().complete(response, request, headers)
        wanted, found = self.wanted_vectors(request.json), len(response.embedding or ())
        if found != wanted:
            raise Problem("bad_response", f"{found} vectors came for {wanted} texts", raw=response.raw)
