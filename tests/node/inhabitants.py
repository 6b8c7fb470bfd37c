"""Agents for child processes: these import them from here, as they would import any module of a user's."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from agentscope_async import AgentBase, EchoModel, Msg, current_runtime


class Inhabitant(AgentBase):
    """Does what the message says, and answers with what came of it."""

    def __init__(self, name: str, note: str = "", **options: Any) -> None:
        super().__init__(name, **options)
        self.note = note

    async def reply(self, x: Any = None) -> Msg:
        assert x is not None
        order, _, argument = x.text.partition(" ")
        result = getattr(self, f"do_{order}")(argument)
        if asyncio.iscoroutine(result):
            result = await result
        return Msg(self.name, result, "assistant")

    def do_pid(self, argument: str) -> int:
        return os.getpid()

    def do_note(self, argument: str) -> str:
        return self.note

    def do_remember(self, text: str) -> list[str]:
        """Remember a text; tell all that is remembered."""
        assert self.memory is not None
        self.memory.add(Msg("user", text, "user"))
        return [each.text for each in self.memory.get_memory()]

    async def do_hold(self, argument: str) -> None:
        """Keep the turn for ever; leave a file to tell of it."""
        if argument:
            touch(argument)
        await asyncio.Event().wait()

    async def do_finish(self, argument: str) -> str:
        """Tell by one file that this has begun, and wait for another."""
        touch(f"{argument}.begun")
        while not is_there(f"{argument}.go"):
            await asyncio.sleep(0.01)
        touch(f"{argument}.done")
        return "finished"

    def do_block(self, argument: str) -> None:
        """Stop the whole event loop, as a handler should not."""
        touch(argument)
        time.sleep(3600)

    def do_exit(self, code: str) -> None:
        os._exit(int(code))

    def do_say(self, text: str) -> Any:
        return self.speak(text)

    def do_facts(self, argument: str) -> dict[str, Any]:
        """Tell of this process."""
        runtime: Any = current_runtime()
        return {
            "path": sys.path,
            "argv": sys.orig_argv,
            "stdin": sys.stdin.read(),
            "pythonpath": os.environ.get("PYTHONPATH"),
            "run_id": runtime.run.run_id,
            "save_dir": str(runtime.run.save_dir),
            "node": runtime.node.name,
            "sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            "main": sys.modules["__main__"].__spec__.name,  # type: ignore[union-attr]
        }

    def do_links(self, argument: str) -> list[str]:
        """Tell the names of the nodes this one has links to."""
        runtime: Any = current_runtime()
        return sorted(bridge.peer for bridge in runtime.node._bridges)

    async def do_count(self, argument: str) -> Any:
        """Add to a metric of the run; tell what it is then."""
        runtime: Any = current_runtime()
        await runtime.monitor.add("launched", 1)
        return await runtime.monitor.get_value("launched")

    async def do_launch(self, argument: str) -> Any:
        """Have a child process of its own; tell its id."""
        self.own = Inhabitant("own").to_dist()
        return (await self.own("pid")).content

    async def do_ask(self, text: str) -> str:
        """Ask the model."""
        return str((await self.model([{"role": "user", "content": text}])).text)


class Other(Inhabitant):
    """Another class."""


class Picky(AgentBase):
    """Cannot be made anywhere but in the process that made the first one."""

    made_in = None

    def __init__(self, name: str, pid: int | None = None) -> None:
        super().__init__(name)
        self.pid = os.getpid() if pid is None else pid
        if self.pid != os.getpid():
            raise ValueError("not here")


class LoudModel(EchoModel):
    """A model wrapper of a user's own."""

    def __init__(self, config_name: str | None = None, *, ending: str = "!") -> None:
        super().__init__(config_name)
        self.ending = ending

    def _answer(self, messages: Any, args: dict[str, Any]) -> str:
        return super()._answer(messages, args).upper() + self.ending


def touch(file: str) -> None:
    Path(file).touch()


def is_there(file: str) -> bool:
    return Path(file).exists()


class Hidden(AgentBase):
    """Its module has something else under this name."""


HiddenOne = Hidden
del Hidden
