"""Players, and what they may answer: a pydantic class for each kind of question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from agentscope_async import BadResponse, DialogAgent, ModelResponse, Msg


class Player(DialogAgent):
    """Answers in the form of the question, in ``reply.answer``; what does not fit it is no answer, {}."""

    async def reply(self, x: Any = None, form: type[BaseModel] | None = None) -> Msg:
        assert form is not None
        assert self.memory is not None

        def read(response: ModelResponse) -> ModelResponse:
            return replace(response, raw=form.model_validate_json(response.text or "").model_dump())

        self.memory.add(x)
        system = Msg("system", self.sys_prompt, "system")
        prompt = self.model.format(system, self.memory.get_memory(), me=self.name)
        try:
            answer = (await self.model(prompt, parse_func=read, response_format=form)).raw
        except BadResponse:
            answer = {}
        content = answer.get("speak") or ", ".join(map(str, answer.values())) or "..."
        msg = Msg(self.name, content, "assistant", answer=answer)
        self.memory.add(msg)
        return msg


class Speech(BaseModel):
    """Something said to all who are there. (The pattern keeps a small model from nonsense without an end.)"""

    speak: str = Field(pattern="^[A-Z][A-Za-z0-9 ,;:'-]{10,90}[.!?]$", description="what you say aloud")


class Proposal(Speech):
    """Said among the wolves. Strictly true or false: to Python the text "false" is true."""

    agreement: bool = Field(strict=True, description="whether you all agree on a victim")


class Healing(BaseModel):
    """The witch's first choice."""

    resurrect: bool = Field(strict=True, description="whether you heal the victim")


def vote_for(names: list[str]) -> type[BaseModel]:
    """Return the form of a vote for one of these."""
    one: Any = Literal[tuple(names)]
    return create_model("Vote", vote=(one, Field(description="the player you choose")))


def poison_for(names: list[str]) -> type[BaseModel]:
    """Return the form of the witch's second choice."""
    one: Any = Literal[("nobody", *names)]
    return create_model("Poison", eliminate=(one, Field(description="whom you poison, or nobody")))
