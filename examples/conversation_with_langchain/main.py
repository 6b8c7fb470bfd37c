"""Talk with a LangChain chain that is wrapped as an agent.

pip install langchain-core
python examples/conversation_with_langchain/main.py                      # the bundled small model
python examples/conversation_with_langchain/main.py --model fake:echo    # no model at all
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

try:
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
    from langchain_core.runnables import Runnable, RunnableLambda
except ImportError:
    sys.exit("This example needs LangChain: pip install langchain-core")

from agentscope_async import AgentBase, DialogAgent, Msg, Runtime, UserAgent

PERSONA = "You are a friendly assistant. Answer in one or two short sentences."


class LangChainAgent(AgentBase):
    """Answers with what a runnable makes of the text and of the talk so far, which it keeps for it."""

    def __init__(self, name: str, runnable: Runnable[dict[str, Any], str]) -> None:
        super().__init__(name, use_memory=False)
        self.runnable = runnable
        self.history: list[BaseMessage] = []  # of LangChain's kind, oldest first

    async def reply(self, x: Any = None) -> Msg:
        text = await self.runnable.ainvoke({"input": x.text, "history": self.history})
        self.history += [HumanMessage(x.text), AIMessage(text)]
        return Msg(self.name, text, "assistant")


def chain_of(model: str) -> Runnable[dict[str, Any], str]:
    """Return an ordinary chain, whose model is one of ours."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", PERSONA), MessagesPlaceholder("history"), ("human", "{input}")]
    )
    asked = DialogAgent("model", None, model).model  # finds the wrapper that the text names

    async def answer(value: Any) -> AIMessage:
        roles = {"system": "system", "human": "user", "ai": "assistant"}
        messages = [{"role": roles[each.type], "content": each.text} for each in value.to_messages()]
        return AIMessage((await asked(messages)).text or "")

    return prompt | RunnableLambda(answer) | StrOutputParser()


async def converse(
    runnable: Runnable[dict[str, Any], str], source: AsyncIterator[str] | None = None
) -> LangChainAgent:
    """Let the user and the chain speak in turns until the user says "exit"; returns the chain's agent."""
    assistant = LangChainAgent("Assistant", runnable)
    user = UserAgent("User", source=source)
    reply: Msg | None = None
    while (said := await user(reply)).text.strip() != "exit":
        reply = await assistant(said)
        print(f"{reply.name}: {reply.text}", flush=True)
    return assistant


async def main(options: argparse.Namespace) -> None:
    async with Runtime(model_configs=options.model_configs):
        with contextlib.suppress(EOFError):  # the end of the input ends the talk, too
            await converse(chain_of(options.model), source_of(options.script))


def source_of(script: Path | None) -> AsyncIterator[str] | None:
    """Return where the user's words come from; None is the terminal."""
    return None if script is None else lines_of(script.read_text().splitlines())


async def lines_of(lines: list[str]) -> AsyncIterator[str]:
    for line in lines:
        print(f"User: {line}", flush=True)
        yield line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--model-configs", metavar="FILE.json", help="what --model may name")
    parser.add_argument("--script", metavar="FILE", type=Path, help="your lines, in place of the terminal")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)
