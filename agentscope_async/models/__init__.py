"""Model wrappers: thin async clients, a model in this process, and fakes."""

from __future__ import annotations

from .base import ModelResponse, ModelStream, ModelWrapperBase
from .config import ModelRegistry
from .fake import EchoModel, FunctionModel, ScriptedModel

__all__ = [
    "EchoModel",
    "FunctionModel",
    "ModelRegistry",
    "ModelResponse",
    "ModelStream",
    "ModelWrapperBase",
    "ScriptedModel",
]
