"""Agents: the base to write one's own from, and those of AgentScope."""

from __future__ import annotations

from .base import AgentBase, AgentLike, Operator
from .stream import AgentStream

__all__ = ["AgentBase", "AgentLike", "AgentStream", "Operator"]
