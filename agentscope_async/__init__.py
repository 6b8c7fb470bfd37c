"""agentscope_async: an asyncio-native agent runtime.

Every agent is a coroutine actor with a mailbox: await it with a message, get a message.
Importing this package loads none of its parts; each name is loaded on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "_init": ["init", "init_process", "process_settings"],
    "_trace": ["current_trace_id", "trace"],
    "agents": [
        "AgentBase", "AgentLike", "AgentStream", "DialogAgent", "DictDialogAgent", "Operator",
        "ReActAgent", "TextToImageAgent", "UserAgent", "UserSource",
    ],
    "errors": [
        "AgentError", "AgentNotFound", "AgentScopeError", "AgentScopeWarning", "AgentStoppedError",
        "AskTimeoutError", "AuthFailed", "BadRequest", "BadResponse", "BudgetExceededError",
        "CancellationSwallowedError", "ConfigError", "Conflict", "ConnectFailed", "ConnectionFailed",
        "ContentFiltered", "ContextTooLong", "DeadlockError", "ForbiddenError", "InterruptedTurnError",
        "InvalidReplyError", "MailboxFullError", "MessageError", "MissingExtraError", "ModelError",
        "ModelTimeout", "NoRuntimeError", "NodeDown", "NotFound", "Overloaded", "PartialStreamError",
        "PermissionDenied", "QuorumError", "QuotaExceededError", "QuotaExhausted", "RateLimited",
        "RemoteError", "ReplyExitError", "ReplyExpiredError", "RuntimeClosedError", "ServerError",
        "WrongLoopError",
    ],
    "mailbox": ["Mailbox", "MailboxStatistics", "Reply"],
    "memory": ["MemoryBase", "TemporaryMemory"],
    "message": [
        "AudioPart", "ContentPart", "FilePart", "ImagePart", "Msg", "Speech", "TextPart", "ThinkingPart",
        "Tht", "ToolCallPart", "ToolResultPart", "Usage", "VideoPart", "deserialize", "serialize",
    ],
    "models": [
        "DashScopeChatWrapper", "DashScopeImageSynthesisWrapper", "DashScopeTextEmbeddingWrapper",
        "EchoModel", "FallbackModel", "FunctionModel", "GeminiChatWrapper", "GeminiEmbeddingWrapper",
        "LocalModel", "ModelRegistry", "ModelResponse", "ModelStream", "ModelWrapperBase",
        "OllamaChatWrapper", "OllamaEmbeddingWrapper", "OllamaGenerationWrapper", "OpenAIChatWrapper",
        "OpenAIDALLEWrapper", "OpenAIEmbeddingWrapper", "PostAPIChatWrapper", "PostAPIDALLEWrapper",
        "PostAPIModelWrapperBase", "ScriptedModel",
    ],
    "monitor": [
        "Budget", "Metric", "Monitor", "MonitorFactory", "PriceTable", "Remaining", "Reservation",
        "Spending", "active_budgets", "cost_of", "get_full_name",
    ],
    "msghub": ["MsgHub", "msghub"],
    "pipelines": [
        "AgentFailure", "BatchProgress", "DebateResult", "DebateSpec", "ForLoopPipeline", "IfElsePipeline",
        "PipelineBase", "SequentialPipeline", "SwitchPipeline", "WhileLoopPipeline", "debate", "debates",
        "forlooppipeline", "gather", "ifelsepipeline", "placeholder", "quorum", "race",
        "sequentialpipeline", "switchpipeline", "vote", "whilelooppipeline",
    ],
    "node.exports": ["Grant"],
    "node.remote": ["RemoteAgent"],
    "node.report": ["AgentReport", "NodeReport"],
    "prompt": ["PromptEngine", "PromptType", "ShrinkPolicy"],
    "runtime": ["DeadLetter", "Runtime", "current_runtime"],
    "tokens": ["count_openai_token", "count_tokens", "get_openai_max_length"],
    "watching": ["Down", "Watch"],
}  # fmt: skip
_MODULES = ["agents", "errors", "memory", "message", "models", "monitor", "pipelines"]

__all__ = sorted([*(name for names in _HOMES.values() for name in names), *_MODULES, "__version__"])

_home_of = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_home_of[name]}", __name__), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps ``msghub`` the function, also when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "msghub" and isinstance(value, ModuleType):
            value = value.msghub
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # the same names, for type checkers; tests compare the two
    from . import (
        agents as agents,
        errors as errors,
        memory as memory,
        message as message,
        models as models,
        monitor as monitor,
        pipelines as pipelines,
    )
    from ._init import init as init, init_process as init_process, process_settings as process_settings
    from ._trace import current_trace_id as current_trace_id, trace as trace
    from .agents import *  # noqa: F403
    from .errors import *  # noqa: F403
    from .mailbox import Mailbox as Mailbox, MailboxStatistics as MailboxStatistics, Reply as Reply
    from .memory import *  # noqa: F403
    from .message import *  # noqa: F403
    from .models import *  # noqa: F403
    from .monitor import *  # noqa: F403
    from .msghub import MsgHub as MsgHub, msghub as msghub
    from .node.exports import Grant as Grant
    from .node.remote import RemoteAgent as RemoteAgent
    from .node.report import AgentReport as AgentReport, NodeReport as NodeReport
    from .pipelines import *  # noqa: F403
    from .prompt import *  # noqa: F403
    from .runtime import (
        DeadLetter as DeadLetter,
        Runtime as Runtime,
        current_runtime as current_runtime,
    )
    from .tokens import *  # noqa: F403
    from .watching import Down as Down, Watch as Watch
