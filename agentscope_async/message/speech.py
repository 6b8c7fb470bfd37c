"""What is heard of an answer before it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Speech"]


@dataclass(frozen=True, slots=True)
class Speech:
    """A piece of an answer while it is being given.

    Attributes:
        kind: ``"text"``, ``"thinking"``, ``"tool_call"`` or ``"tool_result"``.
        text: what to append to the text of this kind heard so far.
        data: the whole ``ToolCallPart`` or ``ToolResultPart`` for the two tool kinds, else None.
    """

    kind: str
    text: str = ""
    data: Any = None
