"""Model wrappers: thin async clients, a model in this process, and fakes.

The clients are loaded on first use, with what they need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._catalog import TYPES
from .base import ModelResponse, ModelStream, ModelWrapperBase
from .config import ModelRegistry
from .fake import EchoModel, FunctionModel, ScriptedModel

if TYPE_CHECKING:
    from .dashscope import (
        DashScopeChatWrapper,
        DashScopeImageSynthesisWrapper,
        DashScopeTextEmbeddingWrapper,
    )
    from .fallback import FallbackModel
    from .gemini import GeminiChatWrapper, GeminiEmbeddingWrapper
    from .local import LocalModel
    from .ollama import OllamaChatWrapper, OllamaEmbeddingWrapper, OllamaGenerationWrapper
    from .openai import OpenAIChatWrapper, OpenAIDALLEWrapper, OpenAIEmbeddingWrapper
    from .post_api import PostAPIChatWrapper, PostAPIDALLEWrapper, PostAPIModelWrapperBase

__all__ = [
    "DashScopeChatWrapper",
    "DashScopeImageSynthesisWrapper",
    "DashScopeTextEmbeddingWrapper",
    "EchoModel",
    "FallbackModel",
    "FunctionModel",
    "GeminiChatWrapper",
    "GeminiEmbeddingWrapper",
    "LocalModel",
    "ModelRegistry",
    "ModelResponse",
    "ModelStream",
    "ModelWrapperBase",
    "OllamaChatWrapper",
    "OllamaEmbeddingWrapper",
    "OllamaGenerationWrapper",
    "OpenAIChatWrapper",
    "OpenAIDALLEWrapper",
    "OpenAIEmbeddingWrapper",
    "PostAPIChatWrapper",
    "PostAPIDALLEWrapper",
    "PostAPIModelWrapperBase",
    "ScriptedModel",
]

_modules = {name: module for module, name in TYPES.values()}


def __getattr__(name: str) -> Any:
    if name not in _modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_modules[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
