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
    "keyed": ["KeyedAgents"],
    "keyed_agent": ["KeyedAgent", "UnsavedStateError"],
    "keyed_unsaved": ["StoreFailingError"],
    "mailbox": ["Mailbox", "MailboxStatistics"],
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
    "reply": ["Reply"],
    "runtime": ["DeadLetter", "Runtime", "current_runtime"],
    "service": [
        "Chunk", "Hit", "IndexReport", "KnowledgeBase", "MCPClient", "MCPServerError",
        "MCPServerGone", "MCPService", "Progress", "ServiceExecStatus", "ServiceFactory", "ServiceResponse",
        "Tool", "ToolApproval", "ToolOptions", "ToolOutcome", "Toolkit", "bing_search", "brave_search",
        "close_databases", "cos_sim", "create_directory", "create_file", "ddgs_search", "delete_directory",
        "delete_file", "digest_webpage", "execute_python_code", "extract_archive", "get_current_directory",
        "get_help", "google_search", "is_valid_url", "list_directory_content", "load_web", "move_directory",
        "move_file", "parse_html_to_text", "query_mongodb", "query_mysql", "query_postgresql",
        "query_sqlite", "read_json_file", "read_text_file", "retrieve_from_list", "searxng_search",
        "serve_mcp", "summarization", "tavily_search", "write_json_file", "write_text_file",
    ],
    "tokens": ["count_openai_token", "count_tokens", "get_openai_max_length"],
    "watching": ["Down", "Watch"],
}  # fmt: skip
_RENAMED = {
    "MonitorBase": "Monitor",
    "MsgHubManager": "MsgHub",
    "PlaceholderMessage": "Reply, which agent.submit(msg) gives",
    "RpcAgent": "RemoteAgent, which rt.agent(url) and agent.to_dist() give",
    "RpcAgentServerLauncher": "Runtime(listen='ws://127.0.0.1:12010', exports=[agent])",
    "SqliteMonitor": "Monitor",
    "clear_model_configs": "rt.models.clear()",
    "load_model_by_config_name": "rt.models.load(name), or an agent's model=name",
    "num_tokens_from_content": "count_tokens",
    "read_model_configs": "init(model_configs=...) or Runtime(model_configs=...)",
    "to_dialog_str": "msg.name and msg.text",
    "to_openai_dict": "model.format(msg)",
}
"""What has another name than in AgentScope v0.0.2."""

_MODULES = ["agents", "errors", "memory", "message", "models", "monitor", "pipelines", "service"]

__all__ = sorted([*(name for names in _HOMES.values() for name in names), *_MODULES, "__version__"])

_home_of = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _home_of:
        hint = f"; use {_RENAMED[name]}" if name in _RENAMED else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
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
        service as service,
    )
    from ._init import init as init, init_process as init_process, process_settings as process_settings
    from ._trace import current_trace_id as current_trace_id, trace as trace
    from .agents import *  # noqa: F403
    from .errors import *  # noqa: F403
    from .keyed import KeyedAgents as KeyedAgents
    from .keyed_agent import KeyedAgent as KeyedAgent, UnsavedStateError as UnsavedStateError
    from .keyed_unsaved import StoreFailingError as StoreFailingError
    from .mailbox import Mailbox as Mailbox, MailboxStatistics as MailboxStatistics
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
    from .reply import Reply as Reply
    from .runtime import (
        DeadLetter as DeadLetter,
        Runtime as Runtime,
        current_runtime as current_runtime,
    )
    from .service import (
        Chunk as Chunk,
        Hit as Hit,
        IndexReport as IndexReport,
        KnowledgeBase as KnowledgeBase,
        MCPClient as MCPClient,
        MCPServerError as MCPServerError,
        MCPServerGone as MCPServerGone,
        MCPService as MCPService,
        Progress as Progress,
        ServiceExecStatus as ServiceExecStatus,
        ServiceFactory as ServiceFactory,
        ServiceResponse as ServiceResponse,
        Tool as Tool,
        ToolApproval as ToolApproval,
        Toolkit as Toolkit,
        ToolOptions as ToolOptions,
        ToolOutcome as ToolOutcome,
        bing_search as bing_search,
        brave_search as brave_search,
        close_databases as close_databases,
        cos_sim as cos_sim,
        create_directory as create_directory,
        create_file as create_file,
        ddgs_search as ddgs_search,
        delete_directory as delete_directory,
        delete_file as delete_file,
        digest_webpage as digest_webpage,
        execute_python_code as execute_python_code,
        extract_archive as extract_archive,
        get_current_directory as get_current_directory,
        get_help as get_help,
        google_search as google_search,
        is_valid_url as is_valid_url,
        list_directory_content as list_directory_content,
        load_web as load_web,
        move_directory as move_directory,
        move_file as move_file,
        parse_html_to_text as parse_html_to_text,
        query_mongodb as query_mongodb,
        query_mysql as query_mysql,
        query_postgresql as query_postgresql,
        query_sqlite as query_sqlite,
        read_json_file as read_json_file,
        read_text_file as read_text_file,
        retrieve_from_list as retrieve_from_list,
        searxng_search as searxng_search,
        serve_mcp as serve_mcp,
        summarization as summarization,
        tavily_search as tavily_search,
        write_json_file as write_json_file,
        write_text_file as write_text_file,
    )
    from .tokens import *  # noqa: F403
    from .watching import Down as Down, Watch as Watch
