"""Where ollama is, and what goes with each call of it.

Source: github.com/ollama/ollama, api/types.go and envconfig/config.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ._schema import wanted_schema

__all__ = ["address_of", "build_options", "without_stream"]

PORT = 11434

OPTIONS = frozenset(
    {
        "num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "tfs_z", "repeat_last_n",
        "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat",
        "mirostat_tau", "mirostat_eta", "penalize_newline", "stop", "numa", "num_ctx", "num_batch",
        "num_gpu", "main_gpu", "low_vram", "f16_kv", "vocab_only", "use_mmap", "use_mlock", "num_thread",
        "draft_num_predict",
    }
)  # fmt: skip
"""Arguments that go under ``options`` (api/types.go, Options); all others stand beside it."""
OTHER_NAMES = {"max_tokens": "num_predict", "max_completion_tokens": "num_predict"}


def build_options(
    model: str, args: Mapping[str, Any], options: Mapping[str, Any], keep_alive: str | float | None
) -> dict[str, Any]:
    """Return the part of a body that does not depend on what is asked; None is left out.

    Raises:
        ConfigError: ``response_format`` has no known form.
    """
    body: dict[str, Any] = {"model": model}
    merged = dict(options)
    for name, value in args.items():
        option = OTHER_NAMES.get(name, name)
        if value is None or name == "options":
            continue
        if option in OPTIONS:
            merged[option] = [value] if option == "stop" and isinstance(value, str) else value
        elif name in ("response_format", "format"):
            if (form := _format(value)) is not None:
                body["format"] = form
        else:
            body[name] = value
    merged |= args.get("options") or {}
    if merged:
        body["options"] = merged
    if keep_alive is not None:
        body.setdefault("keep_alive", keep_alive)
    return body


def _format(wanted: Any) -> Any:
    """Return ``format``: ``"json"``, or the schema itself."""
    if isinstance(wanted, str):
        return wanted
    schema = wanted_schema(wanted)
    if schema is None:
        return None
    return "json" if schema.schema is None else schema.schema


def without_stream(args: dict[str, Any], stream: bool) -> dict[str, Any]:
    """Return the arguments without ``stream``, which the method called says.

    Raises:
        ConfigError: they ask for a stream where a whole answer is to be given.
    """
    if "stream" not in args:
        return args
    if args["stream"] and not stream:
        raise ConfigError("Streams are asked for by model.stream(...), not by stream=True.")
    return {name: value for name, value in args.items() if name != "stream"}


_ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<user>[^/]*@)?"
    r"(?P<host>\[[^\]]*\]|[^/:]*)(?::(?P<port>\d+))?(?P<path>/.*)?"
)
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}
"""Addresses a server listens on, and where it is then found."""


def address_of(host: str) -> str:
    """Return the URL that ``OLLAMA_HOST`` means: ``host``, ``host:port``, ``:port``, ``[v6]`` or a URL.

    The port is 11434, but 80 or 443 after ``http://`` and ``https://`` (envconfig/config.go, Host).

    Raises:
        ConfigError: it means none.
    """
    found = _ADDRESS.fullmatch(host.strip())
    if found is None:
        shown = host.rpartition("@")[2]  # before it a password may stand
        raise ConfigError(f"{shown!r} is no address of a server: host, host:port, [v6]:port or a URL.")
    name = _EVERYWHERE.get(found["host"], found["host"])
    port = found["port"] or ("" if found["scheme"] else PORT)
    place = f"{found['user'] or ''}{name}{f':{port}' if port else ''}"
    return f"{found['scheme'] or 'http'}://{place}{found['path'] or ''}"
