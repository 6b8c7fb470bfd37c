"""agentscope_async: an asyncio-native agent runtime.

Every agent is a coroutine actor with a mailbox: await it with a message, get a message.
Importing this package loads none of its parts; each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "agents": [
        "AgentBase", "AgentLike", "AgentStream", "DialogAgent", "DictDialogAgent", "Operator",
        "TextToImageAgent", "UserAgent",
    ],
    "errors": [
        "AgentError", "AgentScopeError", "AgentScopeWarning", "AgentStoppedError", "AskTimeoutError",
        "BadResponse", "ConfigError", "DeadlockError", "InterruptedTurnError", "InvalidReplyError",
        "MailboxFullError", "MessageError", "MissingExtraError", "ModelError", "NoRuntimeError",
        "QuorumError", "ReplyExitError", "RuntimeClosedError",
    ],
    "mailbox": ["Mailbox", "MailboxStatistics", "Reply"],
    "memory": ["MemoryBase", "TemporaryMemory"],
    "message": [
        "AudioPart", "FilePart", "ImagePart", "Msg", "Speech", "TextPart", "ThinkingPart", "Tht",
        "ToolCallPart", "ToolResultPart", "Usage", "VideoPart", "deserialize", "serialize",
    ],
    "models": ["EchoModel", "FunctionModel", "ModelResponse", "ModelWrapperBase", "ScriptedModel"],
    "msghub": ["MsgHub", "msghub"],
    "pipelines": [
        "AgentFailure", "BatchProgress", "DebateResult", "DebateSpec", "ForLoopPipeline", "IfElsePipeline",
        "PipelineBase", "SequentialPipeline", "SwitchPipeline", "WhileLoopPipeline", "debate", "debates",
        "forlooppipeline", "gather", "ifelsepipeline", "placeholder", "quorum", "race",
        "sequentialpipeline", "switchpipeline", "vote", "whilelooppipeline",
    ],
    "runtime": ["DeadLetter", "Runtime", "current_runtime", "init"],
}  # fmt: skip
_MODULES = ["agents", "errors", "memory", "message", "models", "pipelines"]

__all__ = sorted([*(name for names in _HOMES.values() for name in names), *_MODULES, "__version__"])

_home_of = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The function msghub stands where its module would: importing that module sets the
    # attribute to the module, so it is set right afterwards.
    value = getattr(import_module(f".{_home_of[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from . import agents, errors, memory, message, models, pipelines
    from .agents import *
    from .errors import *
    from .mailbox import Mailbox, MailboxStatistics, Reply
    from .memory import *
    from .message import *
    from .models import EchoModel, FunctionModel, ModelResponse, ModelWrapperBase, ScriptedModel
    from .msghub import MsgHub, msghub
    from .pipelines import *
    from .runtime import DeadLetter, Runtime, current_runtime, init
