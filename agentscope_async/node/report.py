"""What a node tells of itself: ``rt.ps(url)``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from ..errors import MessageError
from ._grammar import is_target

if TYPE_CHECKING:
    from .exports import Exported

__all__ = ["AgentReport", "NodeReport"]


@dataclass(frozen=True, slots=True)
class AgentReport:
    """How an exported agent fares: letters waiting now, turns handled and failed so far, a turn open."""

    key: str
    name: str
    kind: str
    waiting: int
    handled: int
    failed: int
    is_busy: bool

    @classmethod
    def of(cls, exported: Exported) -> Self:
        """Look at an agent."""
        agent, mailbox = exported.agent, exported.agent.mailbox
        figures = mailbox.statistics()
        return cls(
            exported.key, agent.name, type(agent).__name__,
            figures.waiting, figures.handled, figures.failed, not mailbox.is_idle,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node's name, the agents it exports, and pairs of who waits for whom, waiting one first."""

    node: str
    agents: list[AgentReport]
    waits: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> Self:
        """Read what :meth:`to_dict` gave.

        Raises:
            MessageError: it is no report.
        """
        try:
            agents = [_agent(each) for each in fields["agents"]]
            return cls(str(fields["node"]), agents, [(str(a), str(b)) for a, b in fields["waits"]])
        except (TypeError, KeyError, ValueError) as error:
            raise MessageError("report", f"cannot be read: {error}") from None


def _agent(fields: dict[str, Any]) -> AgentReport:
    report = AgentReport(**fields)
    for field, kind in (("name", str), ("kind", str), ("waiting", int), ("handled", int), ("failed", int)):
        if not isinstance(getattr(report, field), kind):
            raise ValueError(f"{field} of an agent is no {kind.__name__}")
    if not is_target(report.key):
        raise ValueError("the key of an agent is none")
    return report
