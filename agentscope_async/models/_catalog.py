"""Which wrappers this package has, so that none need be loaded to know it."""

from __future__ import annotations

__all__ = ["ALIASES", "PROVIDERS", "TYPES"]

PROVIDERS = {
    "dashscope": "dashscope",
    "fake": "fake",
    "gemini": "gemini",
    "local": "local",
    "ollama": "ollama",
    "openai": "openai",
}
"""What may stand before the colon of ``"provider:model"``, and the module that knows it by ``by_name``."""

TYPES = {
    "dashscope_chat": ("dashscope", "DashScopeChatWrapper"),
    "dashscope_image_synthesis": ("dashscope", "DashScopeImageSynthesisWrapper"),
    "dashscope_text_embedding": ("dashscope", "DashScopeTextEmbeddingWrapper"),
    "fake_echo": ("fake", "EchoModel"),
    "fake_function": ("fake", "FunctionModel"),
    "fake_scripted": ("fake", "ScriptedModel"),
    "fallback": ("fallback", "FallbackModel"),
    "gemini_chat": ("gemini", "GeminiChatWrapper"),
    "gemini_embedding": ("gemini", "GeminiEmbeddingWrapper"),
    "local": ("local", "LocalModel"),
    "ollama_chat": ("ollama", "OllamaChatWrapper"),
    "ollama_embedding": ("ollama", "OllamaEmbeddingWrapper"),
    "ollama_generate": ("ollama", "OllamaGenerationWrapper"),
    "openai_chat": ("openai", "OpenAIChatWrapper"),
    "openai_dall_e": ("openai", "OpenAIDALLEWrapper"),
    "openai_embedding": ("openai", "OpenAIEmbeddingWrapper"),
    "post_api": ("post_api", "PostAPIModelWrapperBase"),
    "post_api_chat": ("post_api", "PostAPIChatWrapper"),
    "post_api_dall_e": ("post_api", "PostAPIDALLEWrapper"),
}
"""The wrappers of this package by ``model_type``: module and class. Users' own register themselves."""

ALIASES = {
    "openai": "openai_chat",
    "post_api_dalle": "post_api_dall_e",
    "tongyi_chat": "dashscope_chat",
}
"""Old names of AgentScope for ``model_type``s; taken with a warning."""
