"""Agents: the base to write one's own from, and those of AgentScope."""

from __future__ import annotations

from .base import AgentBase, AgentLike, Operator
from .dialog import DialogAgent
from .dict_dialog import DictDialogAgent
from .react import ReActAgent
from .stream import AgentStream
from .text_to_image import TextToImageAgent
from .user import UserAgent, UserSource

__all__ = [
    "AgentBase",
    "AgentLike",
    "AgentStream",
    "DialogAgent",
    "DictDialogAgent",
    "Operator",
    "ReActAgent",
    "TextToImageAgent",
    "UserAgent",
    "UserSource",
]
