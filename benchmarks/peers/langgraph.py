"""LangGraph: one node that calls a fake model, one thread kept by an ``InMemorySaver``."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..safety import Brain


async def converse(brain: Brain, questions: Sequence[str]) -> tuple[str, list[str]]:
    """Run the graph on one thread with all questions at once; return its name and the thread's messages."""

    async def call_model(state: Any) -> dict[str, Any]:
        answer = await brain.answer([str(each.content) for each in state["messages"]])
        return {"messages": [AIMessage(answer)]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call_model)
    builder.add_edge(START, "model")
    graph = builder.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "one"}}
    await asyncio.gather(*(graph.ainvoke({"messages": [HumanMessage(each)]}, thread) for each in questions))
    state = await graph.aget_state(thread)
    texts = [str(each.content) for each in state.values["messages"]]
    return f"LangGraph {version('langgraph')}, one thread_id", texts
