"""Ways to let several agents work on one message: in turn, by condition, at once, in debate."""

from __future__ import annotations

from .batch import BatchProgress, DebateSpec, debates
from .classes import (
    ForLoopPipeline,
    IfElsePipeline,
    PipelineBase,
    SequentialPipeline,
    SwitchPipeline,
    WhileLoopPipeline,
)
from .debate import DebateResult, debate
from .fanout import AgentFailure, gather, quorum, race, vote
from .functional import (
    forlooppipeline,
    ifelsepipeline,
    placeholder,
    sequentialpipeline,
    switchpipeline,
    whilelooppipeline,
)

__all__ = [
    "AgentFailure",
    "BatchProgress",
    "DebateResult",
    "DebateSpec",
    "ForLoopPipeline",
    "IfElsePipeline",
    "PipelineBase",
    "SequentialPipeline",
    "SwitchPipeline",
    "WhileLoopPipeline",
    "debate",
    "debates",
    "forlooppipeline",
    "gather",
    "ifelsepipeline",
    "placeholder",
    "quorum",
    "race",
    "sequentialpipeline",
    "switchpipeline",
    "vote",
    "whilelooppipeline",
]
