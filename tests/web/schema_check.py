"""Holds a service with all routers against its own OpenAPI: ``python -m tests.web.schema_check``.

Schemathesis (``pip install schemathesis``, in whatever environment; the command ``schemathesis``
is to be found) makes requests of the schema, valid and invalid ones, and looks at each answer:
no server error, and status, content type, headers and body as the schema says. Ends with 0 if
all were so. The whole form takes some minutes, ``--short`` less than one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI

from agentscope_async import DialogAgent, EchoModel, Msg, SequentialPipeline
from agentscope_async.pipelines.batch import DebateSpec
from agentscope_async.web import Sessions, expose, lifespan
from agentscope_async.web.openai_face import openai_api
from tests.web.serving import served

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
WHOLE = ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "100")
SHORT = ("--phases", "examples,fuzzing,stateful", "--max-examples", "20")
"""Without the phase that goes through the limits of each parameter, which takes a minute alone."""


def chat(key: str) -> DialogAgent:
    """Make an agent for a conversation."""
    return DialogAgent("Ann", None, EchoModel())


def tool_user() -> DialogAgent:
    """Make an agent that takes tools."""
    model = EchoModel()
    model.tool_calling = "native"
    return DialogAgent("Bob", None, model)


def team() -> SequentialPipeline:
    """Make two agents that answer one after the other."""
    return SequentialPipeline([DialogAgent(name, None, EchoModel()) for name in ("Writer", "Editor")])


async def shout(msg: Msg) -> Msg:
    """Answer aloud."""
    return Msg("shout", msg.text.upper(), "assistant")


def make_app(directory: Path) -> FastAPI:
    """Return a service with both routers."""
    app = FastAPI(lifespan=lifespan(save_dir=directory, run_id="schema"))
    shared = DialogAgent("shared", None, EchoModel(), use_memory=False)
    spec = DebateSpec(chat_of, chat_of, topic="any", rounds=1)
    app.include_router(expose({"chat": chat}, sessions=Sessions(store=str(directory / "sessions.db"))))
    app.include_router(
        openai_api({"ann": shared, "bob": tool_user, "team": team, "shout": shout, "debate": spec})
    )
    return app


def chat_of(seed: int) -> DialogAgent:
    """Make a speaker of a debate."""
    return chat("")


async def check(program: str, extent: tuple[str, ...]) -> int:
    """Serve, let Schemathesis ask, and return its exit code."""
    with tempfile.TemporaryDirectory() as directory:
        async with served(make_app(Path(directory))) as origin:
            process = await asyncio.create_subprocess_exec(
                program, "run", f"{origin}/openapi.json",
                "--checks", ",".join(CHECKS), *extent, "--seed", "1",
                "--generation-database", "none", "--no-color",
                cwd=directory,
            )  # fmt: skip
            try:
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


def main() -> int:
    """Read the command line and check."""
    parser = argparse.ArgumentParser(description="Hold the service against its OpenAPI.")
    parser.add_argument("--short", action="store_true", help="as in CI")
    options = parser.parse_args()
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("schemathesis", path=here)
    if program is None:
        print("Needs schemathesis: pip install schemathesis", file=sys.stderr)
        return 2
    return asyncio.run(check(program, SHORT if options.short else WHOLE))


if __name__ == "__main__":
    sys.exit(main())
