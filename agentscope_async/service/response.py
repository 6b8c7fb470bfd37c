"""What a service gives back: a status and a content."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

__all__ = ["ServiceExecStatus", "ServiceResponse"]


class ServiceExecStatus(IntEnum):
    """Whether a service did what it was asked for; the numbers are AgentScope v0.0.2's."""

    SUCCESS = 1
    ERROR = -1


class ServiceResponse(dict[str, Any]):
    """The answer of a service: a dict of ``status`` and ``content``, also as attributes.

    ``content`` is what was asked for, or, with the status ERROR, what went wrong and what to do
    about it. Services return their failures, so that an agent can read them; they raise only when
    cancelled.
    """

    def __init__(self, status: ServiceExecStatus, content: Any) -> None:
        """Keep both; a plain 1 or -1 is a status too.

        Raises:
            ValueError: the status is neither.
        """
        super().__init__(status=ServiceExecStatus(status), content=content)

    @property
    def status(self) -> ServiceExecStatus:
        """SUCCESS or ERROR."""
        status: ServiceExecStatus = self["status"]
        return status

    @property
    def content(self) -> Any:
        """What was asked for, or what went wrong."""
        return self["content"]

    @property
    def is_success(self) -> bool:
        """Whether the status is SUCCESS."""
        return self["status"] is ServiceExecStatus.SUCCESS

    @classmethod
    def success(cls, content: Any) -> ServiceResponse:
        """Return a response that says: done."""
        return cls(ServiceExecStatus.SUCCESS, content)

    @classmethod
    def error(cls, problem: str | BaseException) -> ServiceResponse:
        """Return a response that says what went wrong; an exception as ``"Class: text"``."""
        if isinstance(problem, BaseException):
            try:
                text = str(problem)
            except Exception:  # of a class that cannot even say what is wrong
                text = ""
            problem = f"{type(problem).__name__}: {text}" if text else type(problem).__name__
        return cls(ServiceExecStatus.ERROR, problem)
