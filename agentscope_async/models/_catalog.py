"""Which wrappers this package has, so that none need be loaded to know it."""

from __future__ import annotations

__all__ = ["ALIASES", "KEYS", "PROVIDERS", "TYPES"]

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

_ALL = ("config_name", "model_name", "generate_args")
_FAKE = (*_ALL, "delay_s")
_HTTP = (*_ALL, "api_key", "base_url", "client_args", "budget")
_OPENAI = (*_HTTP, "organization")
_OLLAMA = (*_HTTP, "options", "keep_alive", "host")
_POST = (
    *_ALL, "api_key", "client_args", "budget", "api_url", "headers", "max_length", "timeout", "json_args",
    "post_args", "max_retries", "messages_key", "retry_interval",
)  # fmt: skip

KEYS = {
    "dashscope_chat": (*_HTTP, "legacy_roles", "multimodal"),
    "dashscope_image_synthesis": _HTTP,
    "dashscope_text_embedding": _HTTP,
    "fake_echo": _FAKE,
    "fake_function": (*_FAKE, "function"),
    "fake_scripted": (*_FAKE, "answers", "loop"),
    "fallback": ("config_name", "models", "fallback_on"),
    "gemini_chat": (
        *_HTTP, "generation_config", "safety_settings", "system_instruction", "tools", "tool_config",
    ),
    "gemini_embedding": _HTTP,
    "local": (*_ALL, "model_path", "threads", "parallel", "ctx"),
    "ollama_chat": _OLLAMA,
    "ollama_embedding": (*_OLLAMA, "legacy"),
    "ollama_generate": _OLLAMA,
    "openai_chat": _OPENAI,
    "openai_dall_e": _OPENAI,
    "openai_embedding": _OPENAI,
    "post_api": _POST,
    "post_api_chat": _POST,
    "post_api_dall_e": _POST,
}  # fmt: skip
"""What a configuration of each ``model_type`` may hold besides it; a test compares with the constructors."""
