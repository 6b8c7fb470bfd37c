"""Paths in messages from other nodes: they would be files of this machine."""

from __future__ import annotations

from typing import Any

import pytest

from agentscope_async import (
    AgentBase,
    FilePart,
    ImagePart,
    MessageError,
    Msg,
    Runtime,
    TextPart,
    ToolResultPart,
)

PATHS = ["/etc/passwd", "file:///etc/passwd", "../secret.png", "C:\\secret.png", "FILE:///etc/passwd"]
FINE = ["https://example.org/cat.png", "data:image/png;base64,AAAA"]


class Holder(AgentBase):
    """Answers with what it was made with, and remembers what it was told."""

    def __init__(self, name: str, answer: dict[str, Any] | None = None) -> None:
        super().__init__(name)
        self.answer = answer or {"content": "fine"}

    async def reply(self, x: Msg | None = None) -> Msg:
        return Msg(self.name, role="assistant", **self.answer)


def forms(url: str) -> list[dict[str, Any]]:
    return [
        {"content": "look", "url": url},
        {"content": "look", "url": ["https://example.org/a.png", url]},
        {"content": [TextPart("look"), ImagePart(url=url)]},
        {"content": [FilePart(url=url)]},
        {"content": [ToolResultPart(id="1", name="look", content=[ImagePart(url=url)])]},
    ]


@pytest.mark.parametrize("url", PATHS)
async def test_a_message_that_names_a_file_is_refused_both_ways(url: str) -> None:
    for form in forms(url):
        asked, answering = Holder("asked"), Holder("answering", form)
        async with Runtime(listen="mem://files", exports=[asked, answering]) as host, Runtime() as guest:
            with pytest.raises(MessageError, match="no file"):
                await guest.agent(f"{host.url}/asked")(Msg("user", role="user", **form))
            with pytest.raises(MessageError, match="no file"):
                await guest.agent(f"{host.url}/answering")("show me")
            with pytest.raises(MessageError, match="no file"):
                await guest.agent(f"{host.url}/answering").submit("show me")
            await guest.agent(f"{host.url}/asked").observe("still there")
            assert asked.memory is not None
            assert len(asked.memory.get_memory()) == 1


@pytest.mark.parametrize("url", FINE)
async def test_a_message_with_an_address_or_the_data_itself_crosses(url: str) -> None:
    for form in forms(url):
        async with Runtime(listen="mem://files", exports=[Holder("a", form)]) as host, Runtime() as guest:
            reply = await guest.agent(f"{host.url}/a")(Msg("user", role="user", **form))
            assert reply.content == Msg("a", role="assistant", **form).content
