"""From a command's coroutine to its exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ..errors import AgentScopeError, ConfigError
from ..logging import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["complain", "problem", "run"]

MAX_PROBLEM = 1000
"""Characters of an error's text that are printed."""


def run(work: Coroutine[Any, Any, int], when_interrupted: Callable[[], str] = lambda: "") -> NoReturn:
    """Run a command to its end and exit: with the code it returns, or the one its error stands for.

    ``when_interrupted`` adds to the one line that Ctrl-C prints.
    """
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        # The rest takes a moment (a local model is freed); a second Ctrl-C would only tear it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        complain(f"interrupted{when_interrupted()}")
        code = 130
    except ConfigError as error:
        complain(f"error: {problem(error)}")
        code = 2
    except BrokenPipeError:
        raise  # nobody reads any more; typer ends quietly
    except (AgentScopeError, OSError, EOFError) as error:
        complain(f"error: {problem(error)}")
        code = 1
    raise typer.Exit(code)


def problem(error: BaseException) -> str:
    """Return an error as people should read it: our own by their text, others with their type."""
    text = visible(str(error))
    if not isinstance(error, AgentScopeError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= MAX_PROBLEM else f"{text[:MAX_PROBLEM]}..."


def complain(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr, flush=True)
