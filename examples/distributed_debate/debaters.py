"""Who speaks in the debate. (The processes that are started import these classes, so they have a module.)"""

from __future__ import annotations

from typing import Any

from agentscope_async import DialogAgent, Msg, UserAgent


class Debater(DialogAgent):
    """Remembers all that is said, but shows its model only what some said last, and a task.

    (In a whole debate a small model loses itself.)
    """

    def __init__(self, name: str, sys_prompt: str, model: str, *, answers: list[str], task: str) -> None:
        super().__init__(name, sys_prompt, model)
        self.answers = answers  # names
        self.task = task

    async def reply(self, x: Any = None) -> Msg:
        said = {msg.name: msg.text for msg in self.memory.get_memory()}  # by each, what it said last
        heard = [said[name] for name in self.answers if name in said]
        if len(heard) > 1:
            heard = [f"{name}: {said[name]}" for name in self.answers]
        request = Msg("Host", " ".join([*heard, self.task]), "user")
        response = await self.model(self.model.format(Msg("system", self.sys_prompt, "system"), request))
        reply = Msg(self.name, response.text or "", "assistant", usage=response.usage)
        self.memory.add(reply)
        await self.speak(reply)
        return reply


class Person(UserAgent):
    """Somebody at this terminal, who is shown what the others say."""

    async def observe(self, x: Any) -> None:
        for msg in x if isinstance(x, list) else [x]:
            print(f"{msg.name}: {msg.text}", flush=True)
        await super().observe(x)
