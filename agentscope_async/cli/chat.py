"""``agentscope-async chat``: one person, one agent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..agents.user import read_line
from ..errors import AgentScopeError
from ..message import Msg
from ..models.config import find_model
from ..runtime import Runtime
from ._cast import Talker, is_small, limit, load, with_arguments
from ._run import complain, problem
from ._stop import ends_before_ctrl_c
from ._talk import Talk

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PERSONA", "chat"]

PERSONA = "You are a friendly assistant. Keep your answers short."
PERSON = "User"
LAST_WORDS = frozenset({"exit", "quit"})
MAX_TOKENS = 256
"""Of a local model's answer; it does not always find an end by itself."""


async def chat(
    *,
    model: str,
    system: str,
    name: str,
    max_tokens: int | None,
    base_url: str | None,
    model_configs: Path | None,
) -> int:
    """Let the person at standard input talk with an agent until the input ends, or ``exit`` at a terminal."""
    async with Runtime(model_configs=model_configs) as runtime:
        options = {} if base_url is None else {"base_url": base_url}
        wrapper = find_model(model, runtime, **options)
        if is_small(wrapper):
            wrapper = with_arguments(wrapper, {}, max_tokens=MAX_TOKENS, temperature=0.6)
        wrapper = with_arguments(wrapper, limit(wrapper, max_tokens))
        agent = Talker(name, system, wrapper)
        await load(wrapper)
        await _converse(agent, is_interactive=sys.stdin is not None and sys.stdin.isatty())
    return 0


async def _converse(agent: Talker, *, is_interactive: bool) -> None:
    talk = Talk()
    if is_interactive:
        talk.note(
            f"You are talking with {agent.name} ({agent.model.model_name}). "
            f"Ctrl-C ends an answer; exit or Ctrl-D, the talk."
        )
    while (text := await _next_line(talk, is_interactive=is_interactive)) is not None:
        if not text.strip():
            continue
        if is_interactive and text.strip().lower() in LAST_WORDS:
            return
        answering = _answer(agent, Msg(PERSON, text, "user"), talk)
        try:
            if not is_interactive:
                await answering
            elif not await ends_before_ctrl_c(answering):
                talk.note("(interrupted)")
        except AgentScopeError as error:
            talk.break_off()
            if not is_interactive:
                raise
            complain(f"error: {problem(error)}")


async def _answer(agent: Talker, msg: Msg, talk: Talk) -> None:
    talk.begin(agent.name)
    try:
        async with agent.stream(msg) as stream:
            async for speech in stream:
                talk.hear(agent.name, speech)
        talk.hear(agent.name, stream.msg)
    except BaseException:
        talk.break_off()
        raise


async def _next_line(talk: Talk, *, is_interactive: bool) -> str | None:
    """Return what the person says next; None at the end of the input."""
    if sys.stdin is None:
        return None
    if is_interactive:
        talk.label("You")
    try:
        return await read_line("")
    except EOFError:
        if is_interactive:
            talk.note("")
        return None
    except BaseException:
        if is_interactive:
            talk.note("")
        raise
