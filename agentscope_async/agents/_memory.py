"""An agent's memory: made when first asked for, rolled back with a turn that fails, kept as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MessageError
from ..logging import brief
from ..message import Msg

if TYPE_CHECKING:
    from .base import AgentBase

__all__ = ["UNMADE", "restore", "roll_back", "state_of"]


class _Unmade:
    """Stands for a memory that is made when first asked for. The class itself: copies keep it what it is."""


UNMADE: Any = _Unmade


def roll_back(agent: AgentBase, memory: Any, mark: Any, reason: BaseException) -> None:
    """Undo what a failed turn did to ``memory``: back to ``mark``, or to nothing if it was unmade."""
    if agent.keeps_failed_turns:
        return
    try:
        if memory is UNMADE and agent._memory is not UNMADE:
            if agent._memory is not None:
                agent._memory.clear()
        elif mark is not None:
            memory.rollback(mark)
    except Exception as error:  # a memory of the user's own; the turn is to be passed on all the same
        reason.add_note(f"The memory of {agent.name!r} could not be rolled back: {brief(error)}")


async def state_of(agent: AgentBase) -> dict[str, Any]:
    """Return what an agent remembers as JSON values; see ``AgentBase.state``."""

    async def read(x: None) -> dict[str, Any]:
        memory = agent.memory
        if memory is None:
            return {"memory": None}
        return {"memory": [m.to_dict() if isinstance(m, Msg) else m for m in memory.get_memory()]}

    if agent._has_turn() or (agent.mailbox.is_stopped and agent.mailbox.is_idle):
        return await read(None)
    state: dict[str, Any] = await agent._take_turn(read, None)
    return state


async def restore(agent: AgentBase, state: dict[str, Any]) -> None:
    """Take over what :func:`state_of` returned; see ``AgentBase.load_state``.

    Raises:
        MessageError: a message in it is not one; nothing is changed then.
        ConfigError: there is something to remember, and the agent has no memory.
    """
    units = state.get("memory", [])
    if "memory" not in state or not (units is None or isinstance(units, list)):
        raise MessageError("memory", "must be a list of messages, or null for an agent without a memory")
    if units and agent._memory is None:
        raise ConfigError(f"Agent {agent.name!r} was made with use_memory=False and can remember nothing.")
    remembered = [Msg.from_dict(each) if _is_msg(each) else each for each in units or []]

    async def write(x: None) -> None:
        if agent.memory is not None:
            agent.memory.load(remembered, overwrite=True)

    if agent._has_turn():
        await write(None)
    else:
        await agent._take_turn(write, None)


def _is_msg(unit: Any) -> bool:
    return isinstance(unit, dict) and "__type" in unit
