"""Every exception and warning this package raises of its own.

::

    AgentScopeError
    ├── AgentError                 .agent (a name)
    │   ├── AgentNotFound          .node; a LookupError
    │   ├── AgentStoppedError
    │   ├── CancellationSwallowedError
    │   ├── DeadlockError          .chain (names, first one again at the end); a RuntimeError
    │   ├── InterruptedTurnError   .reason
    │   ├── InvalidReplyError      .value_type; a TypeError
    │   ├── MailboxFullError       .capacity, .overflow
    │   ├── RemoteError            .type, .node
    │   ├── ReplyExitError         .exit_type
    │   ├── ReplyExpiredError      a LookupError
    │   ├── AskTimeoutError        .timeout_s; a TimeoutError
    │   └── WrongLoopError         a RuntimeError
    ├── ConfigError                a ValueError
    ├── ForbiddenError             a PermissionError
    ├── MessageError               .field; a ValueError
    ├── MissingExtraError          .package; an ImportError
    ├── ModelError                 .type, .retryable, .provider, .model, .status, ...; a RuntimeError
    │   ├── AuthFailed             auth
    │   ├── BadRequest             bad_request
    │   │   └── ContextTooLong
    │   ├── BadResponse            bad_response; a ValueError
    │   ├── Conflict               conflict
    │   ├── ConnectionFailed       connection; a ConnectionError
    │   ├── ContentFiltered        content_filter
    │   ├── ModelTimeout           timeout; a TimeoutError
    │   ├── NotFound               not_found
    │   ├── Overloaded             overloaded
    │   ├── PartialStreamError     truncated, stream_error; .partial_text
    │   ├── PermissionDenied       permission
    │   ├── QuotaExhausted         quota
    │   ├── RateLimited            rate_limit; .retry_after_s
    │   └── ServerError            server
    ├── NoRuntimeError             a RuntimeError
    ├── NodeDown                   .node, .reason, .outcome; a ConnectionError
    │   └── ConnectFailed          .url, .kind, .status
    ├── QuotaExceededError         .name (of a metric)
    │   └── BudgetExceededError    .limit, .allowed, .spent, .reserved, .needed
    ├── QuorumError                .needed, .good, .failures
    └── RuntimeClosedError         a RuntimeError
    AgentScopeWarning              a UserWarning

Two parts have errors of their own beside their code: ``keyed`` (UnsavedStateError and
StoreFailingError, AgentErrors) and ``service`` (MCPServerError with .server and .kind, and
MCPServerGone, also a ConnectionError).

What an agent's ``reply`` raises is not in this tree: it reaches the asker as it is. Between
nodes the classes of the tree and Python's own keep their type, and every other becomes a RemoteError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AgentError",
    "AgentNotFound",
    "AgentScopeError",
    "AgentScopeWarning",
    "AgentStoppedError",
    "AskTimeoutError",
    "AuthFailed",
    "BadRequest",
    "BadResponse",
    "BudgetExceededError",
    "CancellationSwallowedError",
    "ConfigError",
    "Conflict",
    "ConnectFailed",
    "ConnectionFailed",
    "ContentFiltered",
    "ContextTooLong",
    "DeadlockError",
    "ForbiddenError",
    "InterruptedTurnError",
    "InvalidReplyError",
    "MailboxFullError",
    "MessageError",
    "MissingExtraError",
    "ModelError",
    "ModelTimeout",
    "NoRuntimeError",
    "NodeDown",
    "NotFound",
    "Overloaded",
    "PartialStreamError",
    "PermissionDenied",
    "QuorumError",
    "QuotaExceededError",
    "QuotaExhausted",
    "RateLimited",
    "RemoteError",
    "ReplyExitError",
    "ReplyExpiredError",
    "RuntimeClosedError",
    "ServerError",
    "WrongLoopError",
]


class AgentScopeWarning(UserWarning):
    """Something was accepted that probably was not meant."""


class AgentScopeError(Exception):
    """Base of every error of this package.

    They can be copied and pickled, with all their attributes: process pools send them so.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self.args, vars(self))


def _made_again(
    kind: type[AgentScopeError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> AgentScopeError:
    """Return a copied error, without its ``__init__``, which takes what the text was made from."""
    make = OSError.__new__ if issubclass(kind, OSError) else kind.__new__  # two bases have one each
    error: AgentScopeError = make(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


class AgentError(AgentScopeError):
    """A turn of an agent could not be had, or ended badly.

    Attributes:
        agent: the name of the agent that was asked.
    """

    def __init__(self, message: str, *, agent: str) -> None:
        super().__init__(message)
        self.agent = agent


class AgentNotFound(AgentError, LookupError):
    """The node has no agent under this key.

    Attributes:
        node: the node's name or URL; ``""`` where it is plain which one is meant.
    """

    def __init__(self, agent: str, node: str = "") -> None:
        self.node = node
        where = f"Node {node!r}" if node else "The node"
        super().__init__(
            f"{where} has no agent {agent!r}. `await rt.ps(url)` lists those it has; "
            f"there, exports={{...}} or rt.export(key, agent) offers one more.",
            agent=agent,
        )


class AgentStoppedError(AgentError):
    """The agent was stopped before this letter's turn came."""

    def __init__(self, agent: str) -> None:
        super().__init__(f"Agent {agent!r} is stopped and takes no more messages.", agent=agent)


class CancellationSwallowedError(AgentError):
    """The caller was cancelled, and ``reply`` caught that and returned all the same.

    Its answer is thrown away, as for any cancelled turn. Under an anyio cancel scope the
    cancellation itself goes on instead of this error. Before Python 3.13 a
    ``asyncio.TaskGroup`` in ``reply`` looks the same when a child fails while its block is
    ending and ``reply`` catches that error: await the children inside the block there.
    """

    def __init__(self, agent: str) -> None:
        super().__init__(
            f"reply() of agent {agent!r} caught its cancellation and returned. "
            f"After cleaning up, let CancelledError go on: `raise`.",
            agent=agent,
        )


class DeadlockError(AgentError, RuntimeError):
    """A wait was refused because it could never end.

    Attributes:
        chain: names of the agents that wait for each other, the first one repeated at the end.
    """

    def __init__(self, agent: str, chain: Sequence[str]) -> None:
        self.chain = tuple(chain)
        super().__init__(
            f"Agent {agent!r} has no turn to give: {' -> '.join(self.chain)}. "
            f"Use post(...) if no answer is needed.",
            agent=agent,
        )


class InterruptedTurnError(AgentError):
    """``agent.interrupt(reason)`` ended the turn this asker was waiting for."""

    def __init__(self, agent: str, reason: str | None) -> None:
        self.reason = reason
        super().__init__(
            f"The turn of agent {agent!r} was interrupted: {reason or 'no reason given'}.", agent=agent
        )


class InvalidReplyError(AgentError, TypeError):
    """``reply`` returned something that is not a message."""

    def __init__(self, agent: str, value: object) -> None:
        self.value_type = type(value)
        super().__init__(
            f"reply() of agent {agent!r} returned {self.value_type.__name__}, but must return a Msg. "
            f"Wrap the value: Msg(self.name, value, role='assistant').",
            agent=agent,
        )


class MailboxFullError(AgentError):
    """The agent's mailbox was full and its overflow policy turned this letter away."""

    def __init__(self, agent: str, capacity: int, overflow: str) -> None:
        self.capacity = capacity
        self.overflow = overflow
        super().__init__(
            f"The mailbox of agent {agent!r} is full: {capacity} letters wait (overflow={overflow!r}). "
            f"Send less at once, raise capacity=, or choose overflow='wait'.",
            agent=agent,
        )


class RemoteError(AgentError):
    """A handler on another node raised something whose class is neither ours nor Python's own.

    Attributes:
        type: the name of its class over there.
        node: the node's name or URL.
    """

    def __init__(self, agent: str, text: str, *, type: str, node: str) -> None:
        self.type = type
        self.node = node
        super().__init__(f"Agent {agent!r} on node {node!r} raised {type}: {text}", agent=agent)


class ReplyExitError(AgentError):
    """``reply`` raised an exit signal of its own: nobody had cancelled it or asked the program to end.

    SystemExit, KeyboardInterrupt, GeneratorExit and CancelledError raised by a handler
    would otherwise take down the event loop or be mistaken for the caller's own
    cancellation. The original is the ``__cause__``.
    """

    def __init__(self, agent: str, exit_error: BaseException) -> None:
        self.exit_type = type(exit_error)
        super().__init__(
            f"reply() of agent {agent!r} raised {self.exit_type.__name__} by itself; "
            f"only this turn was ended. Raise an ordinary exception to report a failure.",
            agent=agent,
        )


class ReplyExpiredError(AgentError, LookupError):
    """The answer to a ``submit`` was not fetched in time, and its node keeps it no longer."""

    def __init__(self, agent: str) -> None:
        super().__init__(
            f"The answer of agent {agent!r} is no longer kept by its node. Await it sooner after submit(), "
            f"or let answers be kept longer: to_dist(max_pool_size=..., max_timeout_seconds=...).",
            agent=agent,
        )


class AskTimeoutError(AgentError, TimeoutError):
    """The runtime's ``ask_timeout_s`` ran out before the turn ended."""

    def __init__(self, agent: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(f"Agent {agent!r} did not answer within {timeout_s:g} s.", agent=agent)


class WrongLoopError(AgentError, RuntimeError):
    """The agent is busy in another event loop."""

    def __init__(self, agent: str) -> None:
        super().__init__(
            f"Agent {agent!r} is busy in another event loop. Use an agent in one loop at a time; "
            f"from another thread: asyncio.run_coroutine_threadsafe(agent(msg), its_loop).",
            agent=agent,
        )


class ConfigError(AgentScopeError, ValueError):
    """A configuration value is unknown, missing or of the wrong kind."""


class ForbiddenError(AgentScopeError, PermissionError):
    """The other node does not allow this to whoever holds our token; the text names what would."""


class MessageError(AgentScopeError, ValueError):
    """A message cannot be built, sent or read as it is.

    Attributes:
        field: path of the offending value, for example ``content.items[3]``.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"Message field {field!r}: {problem}")


class MissingExtraError(AgentScopeError, ImportError):
    """An optional package is needed here and not installed.

    Attributes:
        package: its import name.
    """

    def __init__(self, package: str, message: str) -> None:
        self.package = package
        super().__init__(message)


class ModelError(AgentScopeError, RuntimeError):
    """A call to a model failed.

    Attributes:
        type: what kind of failure, one word for programs; the tree at the top gives each class's.
        retryable: the same request may succeed later. Retries of that kind were made already.
        provider: for example ``"openai"``.
        model: the model's name as configured.
        status: the HTTP status, or None where there was no answer.
        code: the provider's own code for the failure (a text or a number), or None.
        request_id: the provider's id of the call, or None.
        attempts: how many requests were sent for this call.
        retry_after_s: seconds the server asked to wait, or None.
        partial_text: the text that had arrived before the failure, or None.
        raw: the answer as received: a parsed body, or the beginning of its text.
    """

    type: str = "model"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str,
        status: int | None = None,
        code: str | int | None = None,
        request_id: str | None = None,
        attempts: int = 1,
        retry_after_s: float | None = None,
        partial_text: str | None = None,
        raw: Any = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.status = status
        self.code = code
        self.request_id = request_id
        self.attempts = attempts
        self.retry_after_s = retry_after_s
        self.partial_text = partial_text
        self.raw = raw


class AuthFailed(ModelError):
    """The key is missing, wrong or revoked."""

    type = "auth"


class BadRequest(ModelError):
    """The provider refuses the request as it is."""

    type = "bad_request"


class ContextTooLong(BadRequest):
    """The messages do not fit the model's context."""


class BadResponse(ModelError, ValueError):
    """The model answered, but not with what was asked for."""

    type = "bad_response"


class Conflict(ModelError):
    """The provider was busy with a request that clashes with this one (409)."""

    type = "conflict"
    retryable = True


class ConnectionFailed(ModelError, ConnectionError):
    """There was no answer: refused, reset, closed early, or the host's name or certificate is wrong."""

    type = "connection"
    retryable = True


class ContentFiltered(ModelError):
    """The provider's safety rules refused the prompt or stopped the answer."""

    type = "content_filter"


class ModelTimeout(ModelError, TimeoutError):
    """The answer did not come within the time limit."""

    type = "timeout"
    retryable = True


class NotFound(ModelError):
    """The provider knows no such model or address."""

    type = "not_found"


class Overloaded(ModelError):
    """The provider has more work than it can do (503, 529)."""

    type = "overloaded"
    retryable = True


class PartialStreamError(ModelError):
    """A stream ended before the answer did; ``partial_text`` is what was heard.

    ``type`` is ``"truncated"`` when the connection or the stream just ended, and
    ``"stream_error"`` when the server reported an error in it.
    """

    type = "truncated"

    def __init__(self, message: str, *, type: str = "truncated", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.type = type


class PermissionDenied(ModelError):
    """The key is good, but not for this model, region or action."""

    type = "permission"


class QuotaExhausted(ModelError):
    """The account has no credit or daily allowance left; waiting a little does not help."""

    type = "quota"


class RateLimited(ModelError):
    """Too many requests or tokens a minute; ``retry_after_s`` says when to come back, if known."""

    type = "rate_limit"
    retryable = True


class ServerError(ModelError):
    """The provider failed (5xx)."""

    type = "server"
    retryable = True


class NodeDown(AgentScopeError, ConnectionError):
    """Another node is gone, or was silent for too long, and with it the answer waited for.

    Attributes:
        node: its name or URL.
        reason: one word for programs: ``"refused"``, ``"exited"``, ``"window"`` (silent for longer
            than the resume window), ``"restarted"``, ``"closed"``, ``"draining"``, or the ``kind``
            of a ConnectFailed.
        outcome: ``"not_delivered"``: the message was not handled and never will be, sending it
            again is safe; ``"unknown"``: it may have been handled.
    """

    def __init__(
        self,
        node: str,
        reason: str,
        *,
        outcome: Literal["not_delivered", "unknown"],
        message: str | None = None,
    ) -> None:
        self.node = node
        self.reason = reason
        self.outcome = outcome
        advice = {
            "not_delivered": "It did not handle this message: it is safe to send it again.",
            "unknown": "It may have handled this message: send it again only if twice does no harm.",
        }[outcome]
        super().__init__(message or f"Node {node!r} is gone ({reason}). {advice}")


class ConnectFailed(NodeDown):
    """A connection could not be opened; nothing was delivered.

    Attributes:
        url: where to; never holds credentials.
        kind: ``"refused"`` (nobody listens there), ``"unreachable"``, ``"timeout"``,
            ``"closed"`` (in the handshake), ``"tls"``, ``"unauthorized"``, ``"forbidden"``,
            ``"rejected"`` (any other HTTP answer; redirects are not followed) or
            ``"not_a_node"`` (something else answers there).
        status: the HTTP status, or None if there was none.
    """

    def __init__(self, url: str, kind: str, problem: str, *, status: int | None = None) -> None:
        self.url = url
        self.kind = kind
        self.status = status
        super().__init__(url, kind, outcome="not_delivered", message=f"Cannot connect to {url}: {problem}.")


class NoRuntimeError(AgentScopeError, RuntimeError):
    """Background work was asked for where no Runtime is open to own it."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs a Runtime to own the background work. "
            f"Open one around this code: `async with Runtime() as rt: ...`"
        )


class RuntimeClosedError(AgentScopeError, RuntimeError):
    """The runtime that owned this work was left before the work was done."""


class QuotaExceededError(AgentScopeError):
    """A metric would go above its quota; nothing was added.

    Attributes:
        name: the metric's full name.
    """

    def __init__(self, name: str, message: str | None = None) -> None:
        super().__init__(message or f"Metric [{name}] exceeds quota.")
        self.name = name


class BudgetExceededError(QuotaExceededError):
    """A call was refused because it could cost more than the budget has left; it was not sent.

    Attributes:
        name: the budget's name.
        limit: which of its limits: ``"usd"``, ``"tokens"``, ``"calls"`` or ``"wall_s"``.
        allowed, spent, reserved, needed: in the unit of that limit.
    """

    def __init__(
        self, name: str, *, limit: str, allowed: float, spent: float, reserved: float, needed: float
    ) -> None:
        super().__init__(
            name,
            f"Budget {name!r} allows {allowed:g} {limit}: {spent:g} spent, {reserved:g} reserved for calls "
            f"under way, {needed:g} more needed. Raise the budget or bound the call with max_tokens.",
        )
        self.limit = limit
        self.allowed = allowed
        self.spent = spent
        self.reserved = reserved
        self.needed = needed


class QuorumError(AgentScopeError):
    """Too few agents gave a good answer.

    Attributes:
        needed: how many good answers were asked for.
        good: the good answers that did arrive.
        failures: one ``AgentFailure`` for each agent that failed.
    """

    def __init__(self, message: str, *, needed: int, good: Sequence[Any], failures: Sequence[Any]) -> None:
        super().__init__(message)
        self.needed = needed
        self.good = list(good)
        self.failures = list(failures)
