"""``agentscope-async node``: a node that serves others until it is told to stop."""

from __future__ import annotations

import errno
import os
import ssl
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .. import agents
from ..agents.base import AgentBase
from ..errors import ConfigError
from ..models.config import find_model
from ..runtime import Runtime
from ._cast import Talker, is_small, with_arguments
from ._modules import import_here
from ._run import complain
from ._stop import StopOrder
from ._talk import Talk
from .chat import MAX_TOKENS, PERSONA

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LISTEN", "Terms", "check_url", "read_token_file", "serve"]

LISTEN = "ws://127.0.0.1:12010"
"""AgentScope v0.0.2's examples listen at this port."""

MAKE_TOKEN = (
    "(umask 077; python -c 'import secrets; print(secrets.token_urlsafe(32))' > node.token), "
    "then --token-file node.token here and where agents of this node are used"
)


BIND_PROBLEMS = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a call of the command asks for; see the options in ``_app``."""

    listen: str = LISTEN
    name: str | None = None
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow: Sequence[str] = ()
    agents: Sequence[str] = ()
    peers: Sequence[str] = ()
    model_configs: Path | None = None
    grace_s: float = 10.0


async def serve(terms: Terms) -> int:
    """Serve until SIGTERM (0) or Ctrl-C (130); what is under way then is finished, within the grace."""
    runtime = _runtime(terms)
    served = dict(_pair(each, "--agent", "KEY=MODEL") for each in terms.agents)
    async with StopOrder() as order:
        try:
            async with runtime:
                for key, model in served.items():
                    runtime.export(key, _assistant(key, model, runtime))
                _announce(runtime, terms, served)
                await order.wait()
                if sys.stdout.isatty():
                    complain("stopping, once what is under way is done; once more to stop now")
        except OSError as error:
            if error.errno not in BIND_PROBLEMS:
                raise
            complain(f"error: Cannot listen at {terms.listen}: {os.strerror(error.errno)}.")
            return 1
    return order.exit_code


def check_url(url: str, what: str) -> None:
    """Refuse what is no URL of a node.

    Raises:
        ConfigError: it says what is missing; ``what`` says where.
    """
    if not _has_host(url):
        is_address = ":" in url and "://" not in url and _has_host(f"ws://{url}")
        end = f"; did you mean {'ws://' + url!r}?" if is_address else "."
        raise ConfigError(f"{url!r} is not {what}, such as {LISTEN}{end}")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("ws", "wss") and bool(parts.hostname)


def _runtime(terms: Terms) -> Runtime:
    check_url(terms.listen, "a URL to --listen at")
    token = None if terms.token_file is None else read_token_file(terms.token_file)
    if token is None:
        _check_open_door(terms)
    return Runtime(
        listen=terms.listen,
        token=token,
        ssl=_tls(terms),
        node=terms.name,
        allow=[_class(each) for each in terms.allow],
        peers=dict(_pair(each, "--peer", "NAME=URL") for each in terms.peers),
        model_configs=terms.model_configs,
        grace=terms.grace_s,
    )


def read_token_file(file: Path) -> str:
    """Return the token in ``file``; a file that others can read is warned about.

    Raises:
        ConfigError: there is no token in it that could be used.
    """
    from ..node.connection import read_token

    token = read_token(file)
    if os.name == "posix" and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        complain(f"warning: other users of this machine can read {file}: chmod 600 {file}")
    return token


def _check_open_door(terms: Terms) -> None:
    """Refuse to serve everybody who connects, except programs of this machine that can create nothing."""
    if terms.allow:
        raise ConfigError(
            f"With --allow, whoever connects creates agents here, so a token is needed. "
            f"Make one: {MAKE_TOKEN}."
        )
    if not _is_loopback(terms.listen):
        raise ConfigError(
            f"Without a token anybody who reaches {terms.listen} could use its agents. "
            f"Listen at {LISTEN}, or make a token: {MAKE_TOKEN}."
        )


def _is_loopback(url: str) -> bool:
    from ..node._door import is_address, is_loopback

    host = urlsplit(url).hostname or ""
    return host == "localhost" or (is_address(host) and is_loopback(host))


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (key and separator and value):
        raise ConfigError(f"{option} is given as {form}, got {text!r}.")
    return key, value


def _tls(terms: Terms) -> ssl.SSLContext | None:
    is_wanted = urlsplit(terms.listen).scheme == "wss"
    if is_wanted != (terms.tls_cert is not None) or (terms.tls_cert is None and terms.tls_key is not None):
        raise ConfigError("--listen wss://... and --tls-cert FILE go together (and --tls-key FILE).")
    if terms.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(terms.tls_cert, terms.tls_key)
    except OSError as error:
        raise ConfigError(f"--tls-cert {terms.tls_cert}: no certificate with its key ({error}).") from error
    return context


def _class(name: str) -> type[AgentBase]:
    """Return the class that ``module:Class`` means, or the package's own of that name."""
    module, separator, attribute = name.rpartition(":")
    try:
        holder = import_here(module) if separator else agents
    except ImportError as error:
        raise ConfigError(f"--allow {name}: {error}.") from error
    kind = getattr(holder, attribute, None)
    if not (isinstance(kind, type) and issubclass(kind, AgentBase)):
        raise ConfigError(
            f"--allow {name}: {holder.__name__} has no class of agents {attribute!r}. "
            f"One of your own is given as module:Class."
        )
    return kind


def _assistant(key: str, model: str, runtime: Runtime) -> Talker:
    wrapper = find_model(model, runtime)
    if is_small(wrapper):
        wrapper = with_arguments(wrapper, {}, max_tokens=MAX_TOKENS, temperature=0.6)
    return Talker(key, PERSONA, wrapper)


def _announce(runtime: Runtime, terms: Terms, served: dict[str, str]) -> None:
    """Print a line once others can connect; the last word is the URL. People get a little more."""
    print(f"node {runtime.node.name} listens at {runtime.url}", flush=True)
    if not sys.stdout.isatty():
        return
    talk = Talk()
    for key, model in served.items():
        talk.note(f"  {runtime.url}/{key} talks by {model}")
    talk.note(f"  may be created from elsewhere: {', '.join(terms.allow) or 'nothing (--allow DialogAgent)'}")
    talk.note("  Ctrl-C stops it.")
