"""The commands and their options; what they do stands in a module each."""

# Without `from __future__ import annotations`: typer reads these at run time.

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from . import chat as _chat, debate as _debate, doctor as _doctor, node as _node, ps as _ps, serve as _serve
from ._plan import DEFAULTS
from ._run import run

__all__ = ["app"]

MODEL_HELP = "A configuration's name, or provider:model."

BaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where the provider of a provider:model is, if not at its own address."),
]

MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="At most so many tokens in each answer.",
        show_default="the model's own limit",
    ),
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Agents that talk: with you, and with each other.",
)

ModelConfigs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json", exists=True, dir_okay=False, help="Model configurations that --model may name."
    ),
]

ServedConfigs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        exists=True,
        dir_okay=False,
        help="Model configurations that agents here may name as their model.",
    ),
]

TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False, help="Holds the token that nodes show each other."
    ),
]


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"agentscope-async {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def chat(
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULTS.model,
    system: Annotated[str, typer.Option(help="What the agent is told to be.")] = _chat.PERSONA,
    name: Annotated[str, typer.Option(help="The agent's name.")] = "Assistant",
    max_tokens: MaxTokens = None,
    base_url: BaseUrl = None,
    model_configs: ModelConfigs = None,
) -> None:
    """Talk with an agent, in the terminal or through a pipe (one message a line).

    In the terminal Ctrl-C ends an answer, and at the prompt the talk; so do exit, quit and Ctrl-D.
    """
    run(
        _chat.chat(
            model=model,
            system=system,
            name=name,
            max_tokens=max_tokens,
            base_url=base_url,
            model_configs=model_configs,
        )
    )


@app.command()
def debate(
    context: typer.Context,
    topic: Annotated[str, typer.Option(help="A claim, or a question, to argue about.")] = DEFAULTS.topic,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side speaks.")] = DEFAULTS.rounds,
    debates: Annotated[int, typer.Option(min=1, help="How many to hold.")] = DEFAULTS.debates,
    limit: Annotated[int, typer.Option(min=1, help="At most so many at a time.")] = DEFAULTS.limit,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULTS.model,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31,
            help="The same seed, the same debate, where the model takes one.",
            show_default="random",
        ),
    ] = None,
    max_tokens: MaxTokens = None,
    save_dir: Annotated[Path, typer.Option(help="Where the run directory is made.")] = Path("./runs"),
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_DIR",
            exists=True,
            file_okay=False,
            help="Go on with a stopped run of several debates.",
        ),
    ] = None,
    base_url: BaseUrl = None,
    model_configs: ModelConfigs = None,
) -> None:
    """Let two agents debate a topic and a third one judge; or hold many debates at once."""
    if not topic.strip():
        raise typer.BadParameter("A debate needs a topic that is not empty.", param_hint="--topic")
    options = {
        "topic": topic,
        "rounds": rounds,
        "debates": debates,
        "limit": limit,
        "model": model,
        "seed": seed,
        "max_tokens": max_tokens,
        "base_url": base_url,
        "model_configs": model_configs and str(model_configs.resolve()),
    }
    session = _debate.Session(
        save_dir, resume, {key: options[key] for key in options if _is_given(context, key)}
    )
    run(session.hold(), session.when_interrupted)


@app.command()
def doctor() -> None:
    """Show what is installed and which models can be used."""
    run(_doctor.doctor(is_terminal=sys.stdout.isatty()))


@app.command()
def node(
    listen: Annotated[
        str, typer.Option(metavar="URL", help="Where to listen; port 0 is any free one.")
    ] = _node.LISTEN,
    name: Annotated[
        str | None, typer.Option(help="Under which other nodes know this one.", show_default="random")
    ] = None,
    token_file: TokenFile = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE.pem", exists=True, dir_okay=False, help="The certificate for wss://."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem", exists=True, dir_okay=False, help="Its key, if in a file of its own."
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS", help="Others may create its agents: DialogAgent, module:Class. Can be repeated."
        ),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=MODEL",
            help="Serve an assistant at URL/KEY; all who use it share one talk. Can be repeated.",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="Where another node is. Can be repeated."),
    ] = None,
    grace: Annotated[
        float, typer.Option(metavar="S", min=0, help="Seconds for what is under way when told to stop.")
    ] = 10.0,
    model_configs: ServedConfigs = None,
) -> None:
    """Serve agents to other processes and machines, until SIGTERM or Ctrl-C."""
    terms = _node.Terms(
        listen=listen,
        name=name,
        token_file=token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allow=allow or (),
        agents=agent or (),
        peers=peer or (),
        model_configs=model_configs,
        grace_s=grace,
    )
    run(_node.serve(terms))


@app.command()
def ps(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Of the node, for instance ws://127.0.0.1:12010.")
    ],
    token_file: TokenFile = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem", exists=True, dir_okay=False, help="Whose certificates to trust for wss://."
        ),
    ] = None,
) -> None:
    """Show what the agents of a node do, and who waits on whom."""
    run(_ps.ps(url, token_file=token_file, tls_ca=tls_ca))


@app.command()
def serve(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="What to serve: an agent, a factory, a debate or a dict of these, in a module found from "
            "the working directory.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; others than this machine need a token.")] = (
        _serve.HOST
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = _serve.PORT,
    name: Annotated[
        str | None, typer.Option(help="What clients ask for as model.", show_default="NAME")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Holds what clients show as their API key."
        ),
    ] = None,
    max_turns: Annotated[
        int, typer.Option(metavar="N", min=1, help="At most so many requests at once.")
    ] = 100,
    grace: Annotated[
        float, typer.Option(metavar="S", min=0, help="Seconds for what is under way when told to stop.")
    ] = 10.0,
    model_configs: ServedConfigs = None,
) -> None:
    """Serve an agent to any OpenAI client, until SIGTERM or Ctrl-C."""
    terms = _serve.Terms(
        target=target,
        host=host,
        port=port,
        name=name,
        token_file=token_file,
        model_configs=model_configs,
        max_turns=max_turns,
        grace_s=grace,
    )
    run(_serve.serve(terms))


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"
