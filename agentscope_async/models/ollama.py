"""Ollama: chat, generation and embeddings by models on a machine of one's own.

Source: github.com/ollama/ollama, docs/api.md and api/types.go.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import MessageError
from ._call import Call
from ._kinds import EmbeddingModel
from ._messages import text_of, warn_of_lost_images
from ._ollama_answers import (
    OllamaCollector,
    error_in,
    explain,
    parse_chat_response,
    parse_embedding_response,
    parse_generate_response,
)
from ._ollama_messages import as_messages, bare_base64, check_prompt, wire_messages, with_images
from ._ollama_request import address_of, build_options, without_stream
from ._problem import Problem
from ._request import HttpFailure, HttpRequest
from ._sse import NDJSONReader
from .base import Messages, ModelResponse, flatten
from .provider import HttpModel, check_args

if TYPE_CHECKING:
    from ..message import Msg, Usage
    from ..monitor import Budget

__all__ = ["OllamaChatWrapper", "OllamaEmbeddingWrapper", "OllamaGenerationWrapper", "by_name"]


class OllamaModel(HttpModel):
    """What ollama's wrappers share: address, options, the models of the server."""

    provider = "ollama"
    key_variables = ("OLLAMA_API_KEY",)
    needs_key = False

    def __init__(
        self,
        config_name: str | None = None,
        model_name: str | None = None,
        options: dict[str, Any] | None = None,
        keep_alive: str | float | None = "5m",
        *,
        host: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        client_args: dict[str, Any] | None = None,
        generate_args: dict[str, Any] | None = None,
        budget: Budget | float | None = None,
    ) -> None:
        """Prepare a wrapper; nothing is opened or sent.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: ``"llama3.2"``, say; by default ``config_name``, with a warning.
            options: sampling and loading options of each call (``temperature``, ``num_ctx``, ...); a
                call's own win over them one by one.
            keep_alive: how long the model stays loaded after a call: ``"5m"`` or seconds, 0 for
                not at all, negative for ever; None leaves it to the server.
            host: the server, as ``OLLAMA_HOST`` names it: ``host``, ``host:port``, a URL.
            base_url: the same, under the name it has with other providers.
            api_key: for ollama's cloud; a server of one's own needs none.
            client_args: how to call it; see ``ClientOptions``.
            generate_args: arguments sent with each call unless the call says otherwise.
            budget: what all calls of this wrapper may use; a number means USD.

        Raises:
            ConfigError: an option is unknown or not valid.
        """
        client_args = dict(client_args or {})
        given = [base_url, host, client_args.pop("base_url", None), client_args.pop("host", None)]
        address = next((each for each in given if each), None) or os.environ.get("OLLAMA_HOST")
        generate_args = dict(generate_args or {})
        super().__init__(
            config_name,
            model_name,
            api_key,
            base_url=address_of(address or ""),
            client_args=client_args,
            generate_args=generate_args,
            budget=budget,
        )
        self.model_options = {**(options or {}), **(self.generate_args.pop("options", None) or {})}
        check_args(self.model_options)
        self.keep_alive = keep_alive

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """Return what a refusal means."""
        return explain(status, body)

    def output_limit(self, body: Any) -> int | None:
        """Return the most tokens of the answer; -1 and -2 are no limits."""
        limit = body.get("options", {}).get("num_predict")
        return limit if isinstance(limit, int) and limit >= 0 else None

    def limit_output(self, body: Any, default: int) -> int:
        """Return that limit; without one set ``default``."""
        limit = self.output_limit(body)
        if limit is None:
            limit = body.setdefault("options", {})["num_predict"] = default
        return limit

    async def list_models(self) -> list[str]:
        """Return the names of the models the server has.

        Raises:
            ModelError: it did not say.
        """
        answer = await Call(self, self._request("GET", "/api/tags", None)).body()
        try:
            return [model["name"] for model in answer.get("models") or ()]
        except (AttributeError, KeyError, TypeError) as error:
            problem = Problem("bad_response", "the answer is not a list of models", raw=answer)
            raise self._error(problem) from error

    async def pull(
        self, model: str | None = None, *, insecure: bool = False
    ) -> AsyncGenerator[dict[str, Any]]:
        """Have the server fetch a model (by default this wrapper's) and yield how far it is.

        Each item has a ``status``, and while a layer is fetched ``digest``, ``total`` and
        ``completed`` (bytes). The last one is ``{"status": "success"}``. Not tried again: a
        second pull goes on where the first ended. Closing the generator stops the server, too.

        Raises:
            ModelError: the server reports an error, or the connection ended before success.
        """
        body = {"model": model or self.model_name, "stream": True, "insecure": insecure}
        try:
            async with aclosing(self._progress(self._request("POST", "/api/pull", body))) as progresses:
                async for progress in progresses:
                    yield progress
        except HttpFailure as failure:
            problem = Problem(failure.type, str(failure))
            raise self._error(problem) from failure
        except Problem as problem:
            raise self._error(problem) from problem

    async def _progress(self, request: HttpRequest) -> AsyncGenerator[dict[str, Any]]:
        answer = await self.carrier.send(request)
        try:
            if answer.status >= 300:
                raise explain(answer.status, await answer.read())
            reader, status = NDJSONReader(), None
            async with aclosing(answer.chunks()) as chunks:
                is_over = False
                while not is_over:
                    chunk = await anext(chunks, None)
                    is_over = chunk is None
                    for event in reader.close() if chunk is None else reader.feed(chunk):
                        progress = _progress_in(event.data)
                        status = progress.get("status")
                        yield progress
            if status != "success":
                raise Problem("connection", f"the pull ended at {status!r}")
        finally:
            await answer.aclose()

    def _error(self, problem: Problem) -> Exception:
        return problem.as_error(self.provider, self.model_name, attempts=1)

    def _request(self, method: str, path: str, body: Any) -> HttpRequest:
        return HttpRequest(method, self.address(path), self.headers, body)

    def _body(self, args: dict[str, Any]) -> dict[str, Any]:
        return build_options(self.model_name, args, self.model_options, self.keep_alive)


class OllamaChatWrapper(OllamaModel):
    """Chat: ``await model(messages, temperature=0.2)``.

    Sampling arguments go under ``options`` and win over the wrapper's; what stands in a call's
    ``options=`` wins over both. Others (``think``, ``tools``, ``format``, ``logprobs``, ...) stand
    beside it. ``think`` may be None (the server decides: models that can think do), False, True
    or a level. An empty list of messages loads the model; with ``keep_alive=0`` it unloads it.
    """

    model_type = "ollama_chat"
    tool_calling = "native"

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> Messages:
        """Turn messages into ``[{"role", "content", "images"}, ...]``.

        Without ``me`` every ``url`` is taken for an image, as in AgentScope v0.0.2. With it that
        agent's own messages are the assistant's and others' the user's, with their names.

        Raises:
            MessageError: a message holds a sound or a film.
            TypeError: an item is not a message.
        """
        flat: list[Msg] = []
        flatten(msgs, flat)
        return as_messages(flat, me)

    async def prepare(self, messages: Messages) -> Messages:
        """Return ``messages`` with images read; those without any as they are."""
        return await with_images(messages)

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request for an answer, whole or streamed."""
        return self._request("POST", "/api/chat", self._chat_body(messages, args, stream))

    def _chat_body(self, messages: Messages, args: dict[str, Any], stream: bool) -> dict[str, Any]:
        args = without_stream(args, stream)
        return {**self._body(args), "messages": wire_messages(messages), "stream": stream}

    def parse_response(self, body: Any) -> ModelResponse:
        """Return what an answer says."""
        return parse_chat_response(body)

    def reader(self) -> NDJSONReader:
        """Return what takes a streamed answer apart: an object a line."""
        return NDJSONReader()

    def collector(self, request: HttpRequest) -> OllamaCollector:
        """Return what gathers a streamed answer."""
        return OllamaCollector()


class OllamaGenerationWrapper(OllamaModel):
    """Completion of a prompt: ``await model("Why is the sky blue?", system="Be brief.")``.

    Arguments are those of :class:`OllamaChatWrapper`, and ``system``, ``suffix``, ``template``, ``raw``,
    ``context`` and ``images`` (base64, or ``data:`` URIs). An empty prompt loads the model.
    """

    model_type = "ollama_generate"
    input_name = "prompt"
    takes_messages = False

    def format(self, *msgs: Msg | Sequence[Any] | None, me: str | None = None) -> str:
        """Turn messages into one text of ``name: text`` lines; with ``me``, its own name begins the last.

        Raises:
            TypeError: an item is not a message.
        """
        warn_of_lost_images(msgs, "A prompt")
        flat: list[Msg] = []
        flatten(msgs, flat)
        lines = [f"{msg.name}: {text_of(msg)}" for msg in flat]
        return "\n".join(lines if me is None else [*lines, f"{me}:"])

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request for a completion, whole or streamed."""
        body = self._body(without_stream(args, stream))
        if isinstance(body.get("images"), (list, tuple)):
            body["images"] = [bare_base64(image) for image in body["images"]]
        body |= {"prompt": check_prompt(messages), "stream": stream}
        return self._request("POST", "/api/generate", body)

    def parse_response(self, body: Any) -> ModelResponse:
        """Return what an answer says."""
        return parse_generate_response(body)

    def reader(self) -> NDJSONReader:
        """Return what takes a streamed answer apart: an object a line."""
        return NDJSONReader()

    def collector(self, request: HttpRequest) -> OllamaCollector:
        """Return what gathers a streamed answer."""
        return OllamaCollector(is_chat=False)


class OllamaEmbeddingWrapper(EmbeddingModel, OllamaModel):
    """Embeddings: ``await model("a text")``, or a list of texts.

    ``embedding`` is a list of vectors in the order of the texts, also for one. ``truncate`` and
    ``dimensions`` may be given with a call.
    """

    model_type = "ollama_embedding"
    input_name = "prompt"

    def __init__(
        self,
        config_name: str | None = None,
        model_name: str | None = None,
        options: dict[str, Any] | None = None,
        keep_alive: str | float | None = "5m",
        *,
        legacy: bool = False,
        host: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        client_args: dict[str, Any] | None = None,
        generate_args: dict[str, Any] | None = None,
        budget: Budget | float | None = None,
    ) -> None:
        """Prepare a wrapper as :class:`OllamaChatWrapper`.

        Args:
            config_name: the name agents ask for this wrapper by.
            model_name: ``"all-minilm"``, say.
            options: loading options of each call.
            keep_alive: how long the model stays loaded after a call.
            legacy: call ``/api/embeddings``, one text a call, as servers before 0.3 need it.
            host: the server.
            base_url: the same.
            api_key: for ollama's cloud.
            client_args: how to call it.
            generate_args: arguments sent with each call.
            budget: what all calls of this wrapper may use.

        Raises:
            ConfigError: an option is unknown or not valid.
        """
        super().__init__(
            config_name,
            model_name,
            options,
            keep_alive,
            host=host,
            base_url=base_url,
            api_key=api_key,
            client_args=client_args,
            generate_args=generate_args,
            budget=budget,
        )
        self.is_legacy = legacy

    def build_request(self, messages: Messages, args: dict[str, Any], *, stream: bool) -> HttpRequest:
        """Return the request for the vectors of a text or of several."""
        if not isinstance(messages, (str, list)) or not messages:
            raise MessageError("texts", "must be a text or a list of texts, not empty")
        if not self.is_legacy:
            return self._request("POST", "/api/embed", {**self._body(args), "input": messages})
        if not isinstance(messages, str):
            raise MessageError("texts", "must be one text: a legacy server takes no list")
        return self._request("POST", "/api/embeddings", {**self._body(args), "prompt": messages})

    def parse_response(self, body: Any) -> ModelResponse:
        """Return the vectors."""
        return parse_embedding_response(body)

    def wanted_vectors(self, body: Any) -> int:
        """Return how many vectors the answer must have."""
        given = body.get("input", "")
        return 1 if isinstance(given, str) else len(given)

    def metrics(self, usage: Usage, raw: Any) -> dict[str, float]:
        """Return what a call adds to the metrics: itself."""
        return {"call_counter": 1}


def by_name(name: str, **options: Any) -> OllamaChatWrapper:
    """Return the chat model meant by ``"ollama:NAME"``; ``options`` are those of the wrapper."""
    return OllamaChatWrapper(f"ollama:{name}", name, **options)


def _progress_in(line: bytes) -> dict[str, Any]:
    try:
        progress = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Problem("bad_response", f"a line of the pull is not JSON: {error}") from error
    message = error_in(progress)
    if message is not None:
        raise Problem("not_found" if "does not exist" in message else "server", message, raw=progress)
    if not isinstance(progress, dict):
        raise Problem("bad_response", f"a line of the pull is {type(progress).__name__}, not an object")
    return progress
